"""What a person's terminal does to a linehome migrate: Ctrl-C at any moment, its end, and one that nobody reads.

Ctrl-C before the guest has been given away leaves it where it is (130); after that it moves on (0). So does the end of
a terminal. LH_TEST_LONG=1: twice as often.
"""
import os
import random
import signal
import subprocess
import time

import guest
import move
import tap

WORDS = 'wmb=128 hot=16 wper=128 disk=1'
BANDWIDTH = 64 << 20


class Terminal(move.Linehome):
    """As a terminal would start the one command: a group of its own, and SIGINT as usual."""

    def command(self, name, under, words):
        log = self.place.path(name + '.log')
        with open(log, 'w') as file:
            process = self.place.run([guest.LINEHOME, 'migrate'] + self.options(words), stdout=file, stderr=file,
                                     start_new_session=True,
                                     preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        process.log = log
        return process


def is_where(source, there):
    """In the end: where the guest is, and whether it runs once, and is unharmed there."""
    states = source.qmp.status(), there.destination.qmp.status()
    where = {('running', 'inmigrate'): source, ('postmigrate', 'running'): there.destination}.get(states)
    if not where:
        return None, states
    where.console.wait_ticks(5, 30)
    bad = max(where.console.verify(), len(source.console.complaints()), len(there.destination.console.complaints()))
    return where, 'bad=%d' % bad if bad else ''


def one(name, number, moment, delay, mode):
    what = '%s %.3f s after the %s, %s' % (name, delay, moment, mode)
    with guest.Place('signals') as place:
        source = guest.Machine(place, guest.Shape()).source(WORDS)
        there = Terminal(place, source).run(mode=mode, bandwidth=BANDWIDTH)
        if moment == 'stop':
            guest.wait_for('the switch', 60, lambda: source.qmp.status() != 'running', 0.0005)
        time.sleep(delay)
        os.killpg(there.sender.pid, number)
        status = there.sender.wait(60)
        where, why = is_where(source, there)
        right = {130: source, 0: there.destination}.get(status)
        lines = there.text().strip().split('\n')
        tap.ok(where is not None and where is right and not why and len(lines) <= 3, what, 'status %s' % status, why,
               there.text())
        tap.note('status %d: %s' % (status, '; '.join(lines)))


def unread():
    """Its standard error is a pipe that nobody reads any more; and one side is killed, so that there is something to say."""
    with guest.Place('signals') as place:
        source = guest.Machine(place, guest.Shape()).source(WORDS)
        there = move.Linehome(place, source)
        reader, writer = os.pipe()
        os.close(reader)
        command = place.run([guest.LINEHOME, 'migrate', '--source', source.monitor + '.too', '--destination',
                             there.destination.monitor + '.too', '--uffd', there.uffd, '--mode', 'postcopy',
                             '--bandwidth', BANDWIDTH], stderr=writer, stdout=subprocess.DEVNULL)
        os.close(writer)
        guest.wait_for('the switch', 60, lambda: there.destination.console.ticks)
        guest.kill(guest.children(command.pid)[0])
        status = command.wait(60)
        moved = move.Move(source, there.destination)
        bad, wrong = moved.bad()
        tap.ok(status == 0 and bad == 0, 'nobody reads what it says: the guest moves all the same', status, wrong)


def main():
    guest.can_migrate()
    dice = random.Random(int(os.environ.get('LH_TEST_SEED', '1')))
    for number in range(8 if os.environ.get('LH_TEST_LONG') else 4):
        name, what = (('Ctrl-C', signal.SIGINT), ('the end of a terminal', signal.SIGHUP))[number % 4 == 3]
        at_stop = number % 2 == 1
        one(name, what, 'stop' if at_stop else 'start', dice.uniform(0, 0.06) if at_stop else dice.uniform(0, 2.0),
            ('precopy-then-postcopy', 'postcopy')[number // 2 % 2])
    unread()


tap.run(main)
