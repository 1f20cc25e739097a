"""Two hosts with addresses of their own (network namespaces, joined by a cable): the network breaks and comes back.

Before the switch a broken network leaves the guest at its source, unharmed; after it the guest stands still until the
network is there again. Who has another key is refused; Ctrl-C before the switch is as if nothing had been.
LH_TEST_LONG=1: more ways to break it.
"""
import os
import signal
import subprocess
import time

import guest
import move
import tap

WORDS = 'wmb=128 hot=16 wper=128 disk=1'
SLOW = 24 << 20


class Cable:
    """Two network namespaces with a pair of virtual network cards between them."""

    def __init__(self):
        self.here, self.there = ('lhm%d%s' % (os.getpid(), side) for side in 'ab')
        self.address = '10.77.0.2'

    def ip(self, *words, check=True):
        done = subprocess.run(['ip', *words], capture_output=True, text=True)
        if check and done.returncode:
            raise guest.Absent('no network namespaces here: ip %s: %s' % (' '.join(words), done.stderr.strip()))

    def __enter__(self):
        try:
            self.lay()
        except BaseException:
            self.__exit__()
            raise
        return self

    def lay(self):
        for name in (self.here, self.there):
            self.ip('netns', 'add', name)
        self.ip('link', 'add', 'a' + self.here, 'netns', self.here, 'type', 'veth', 'peer', 'name', 'b' + self.here, 'netns',
                self.there)
        for name, card, address in ((self.here, 'a' + self.here, '10.77.0.1'), (self.there, 'b' + self.here, self.address)):
            self.ip('-n', name, 'addr', 'add', address + '/24', 'dev', card)
            self.ip('-n', name, 'link', 'set', card, 'up')
            self.ip('-n', name, 'link', 'set', 'lo', 'up')

    def cut(self):
        self.ip('-n', self.there, 'link', 'set', 'b' + self.here, 'down')

    def mend(self):
        self.ip('-n', self.there, 'link', 'set', 'b' + self.here, 'up')

    def mute(self, so=True):
        """What the receiver sends is lost, what the sender sends arrives."""
        self.ip('-n', self.there, 'route', 'add' if so else 'del', 'blackhole', '10.77.0.1/32')

    def reset(self):
        """All connections end as if somebody between the two had wanted it; whether this kernel can do so."""
        done = subprocess.run(['ip', 'netns', 'exec', self.here, 'ss', '-K', 'dst', self.address], capture_output=True,
                              text=True)
        return done.returncode == 0 and self.address in done.stdout

    def under(self):
        """Words before the receiver's and the sender's commands."""
        return [['ip', 'netns', 'exec', name] for name in (self.there, self.here)]

    def __exit__(self, *_):
        for name in (self.here, self.there):
            self.ip('netns', 'del', name, check=False)


def keys(place):
    """Two files with keys, of which either will do."""
    made = []
    for name in ('key', 'other'):
        path = place.path(name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), 'w') as file:
            file.write(os.urandom(32).hex() + '\n')
        made.append(path)
    return made


def begin(place, cable, wrong=False, mode='precopy-then-postcopy', bandwidth=SLOW):
    key, other = keys(place)
    source = guest.Machine(place, guest.Shape()).source(WORDS)
    there = move.Linehome(place, source, far=True, listen='tcp://%s:0' % cable.address, under=cable.under(),
                          keys=(key, other if wrong else key))
    there.run(mode=mode, bandwidth=bandwidth)
    return source, there


def unharmed(source, there, what):
    """The guest is still at its source and runs there."""
    source.console.wait_ticks(10, 20)
    bad = source.console.verify()
    tap.ok(bad == 0 and source.qmp.status() == 'running', what, 'bad=%d' % bad, source.qmp.status(), there.text())


def there_unharmed(source, there, what):
    there.destination.console.wait_ticks(10, 20)
    moved = move.Move(source, there.destination)
    bad, wrong = moved.bad()
    tap.ok(bad == 0 and moved.went_on(), what, 'bad=%d' % bad, wrong, there.text())


def wrong_key(cable):
    with guest.Place('net') as place:
        source, there = begin(place, cable, wrong=True)
        status = there.sender.wait(30)
        tap.ok(status != 0, 'a sender with another key is refused', there.text())
        tap.note(move.said(there.sender).strip())
        tap.ok(there.receiver.poll() is None, 'and the receiver waits on', there.text())
        unharmed(source, there, 'the guest does not notice')
        there.keys = (there.keys[0],) * 2
        there.send(dict(there.sending, bandwidth=None))
        there.done(60)
        there_unharmed(source, there, 'with the right key it moves')


def interrupted(cable):
    with guest.Place('net') as place:
        source, there = begin(place, cable)
        time.sleep(1.0)
        there.sender.send_signal(signal.SIGINT)
        status = there.sender.wait(20)
        tap.ok(status != 0, 'Ctrl-C before the switch ends the sender', there.text())
        tap.note(move.said(there.sender).strip())
        unharmed(source, there, 'and leaves the guest running where it is')
        usual = guest.speed(source.console.ticks, time.monotonic() - 0.5, time.monotonic())
        tap.ok(usual > 0, 'at full speed', usual)
        again_from_the_start(source, there, 'and it can still move')


def again_from_the_start(source, there, what, patience=2):
    """A receiver that has given up too, which may take it a while, is started again."""
    end = time.monotonic() + patience
    while there.receiver.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    if there.receiver.poll() is not None:
        there.receive(there.receiving)
    there.send(dict(there.sending, bandwidth=None))
    if there.sender.wait(90) and 'another migration is under way' in move.said(there.sender):
        there.receiver.wait(5)  # which knows now that its sender has given up
        there.receive(there.receiving)
        there.send(there.sending)
    there.done(90)
    there_unharmed(source, there, what)


def cut_before(cable, break_off, mend, what):
    with guest.Place('net') as place:
        source, there = begin(place, cable)
        time.sleep(1.0)
        if break_off() is False:
            return tap.skip(what, 'this kernel cannot end connections')
        unharmed(source, there, what + ' before the switch: the guest runs on')
        there.sender.wait(30)
        unharmed(source, there, 'also when both sides have noticed')
        mend()
        tap.note(there.text())
        again_from_the_start(source, there, 'and it moves when the network is back', 10)


def cut_after(cable, seconds, break_off, mend, what):
    """seconds: 0: the connections end, but the network does not."""
    with guest.Place('net') as place:
        source, there = begin(place, cable, mode='postcopy')
        guest.wait_for('the switch', 30, lambda: there.destination.console.ticks)
        time.sleep(0.3)
        if break_off() is False:
            return tap.skip(what, 'this kernel cannot end connections')
        time.sleep(seconds / 2)
        before = len(there.destination.console.ticks)
        time.sleep(seconds / 2)
        after = len(there.destination.console.ticks)
        mend()
        if seconds:
            tap.ok(after <= before + 1 and source.qmp.status() == 'postmigrate', what + ': the guest stands still',
                   '%d ticks' % (after - before), source.qmp.status(), there.text())
        there.done(90)
        there_unharmed(source, there, what + ': the guest goes on')


def cut_at_switch(cable, delay):
    """Who has the guest may not be known for as long as the network is away; but never do both."""
    with guest.Place('net') as place:
        source, there = begin(place, cable, bandwidth=None)
        guest.wait_for('the switch', 60, lambda: source.qmp.status() != 'running', 0.0005)
        time.sleep(delay)
        cable.cut()
        # Who runs is seen by the consoles: a monitor may be silent while its QEMU waits for memory.
        time.sleep(5)
        consoles = source.console, there.destination.console
        before = [len(console.ticks) for console in consoles]
        time.sleep(1)
        run = [len(console.ticks) > n for console, n in zip(consoles, before)]
        what = 'the network breaks %d ms after the stop' % (1000 * delay)
        tap.ok(sum(run) <= 1, what + ': the guest runs but once', run, there.text())
        tap.note('runs at the source: %s, at the destination: %s' % tuple(run))
        cable.mend()
        if there.sender.wait(60) == 0:
            there.done(90)
            there_unharmed(source, there, 'and has moved when it is back')
        else:
            unharmed(source, there, 'and has stayed where it was when it is back')
            again_from_the_start(source, there, 'from where it can still move')


def main():
    if os.geteuid() != 0:
        raise guest.Absent('network namespaces need root')
    guest.can_migrate()
    with Cable() as cable:
        wrong_key(cable)
        interrupted(cable)
        cut_before(cable, cable.cut, cable.mend, 'the network breaks')
        cut_before(cable, cable.reset, lambda: None, 'the connections end')
        cut_at_switch(cable, 0)
        cut_after(cable, 8, cable.cut, cable.mend, 'the network breaks for 8 s')
        cut_after(cable, 0, cable.reset, lambda: None, 'the connections end')
        if os.environ.get('LH_TEST_LONG'):
            cut_before(cable, cable.mute, lambda: cable.mute(False), 'it breaks in one direction')
            cut_at_switch(cable, 0.02)
            cut_after(cable, 2, cable.cut, cable.mend, 'the network breaks for 2 s')
            cut_after(cable, 8, cable.mute, lambda: cable.mute(False), 'it breaks in one direction for 8 s')


tap.run(main)
