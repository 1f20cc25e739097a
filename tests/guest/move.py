"""Ways in which a guest moves from one QEMU to another: QEMU's own post-copy, memory that both share, and Linehome."""
import json
import subprocess
import time

import guest


class Move:
    """What is known of one move: the machines, and figures."""

    def __init__(self, source, destination):
        self.source, self.destination = source, destination
        self.figures = {}

    def felt(self, after=4.0):
        """Lets the guest run for `after` seconds, and works out what it felt."""
        time.sleep(after)
        self.figures.update(guest.felt(list(self.source.console.ticks), list(self.destination.console.ticks)))
        return self.figures

    def bad(self, seconds=120):
        """Pages that the guest found wrong in all its life; the text says more."""
        found = self.destination.console.verify(seconds)
        wrong = self.source.console.complaints() + self.destination.console.complaints()
        return max(found, len(wrong)), wrong[:10]

    def went_on(self):
        """The guest's counters went on from where they stood: it is the same one, and none of it ran twice."""
        before, after = self.source.console.ticks[-1], self.destination.console.ticks[0]
        return after.checked >= before.checked and after.guest >= before.guest


def native(place, source, preempt=False, bandwidth=0, anonymous=True):
    """QEMU's post-copy from the start, over TCP on this machine."""
    destination = guest.Machine(place, source.shape).start('-incoming', 'defer', anonymous=anonymous)
    for machine in (source, destination):
        machine.qmp.capability(postcopy_ram=True, postcopy_preempt=preempt)
    destination.qmp('migrate-incoming', uri='tcp:127.0.0.1:0')
    port = destination.qmp('query-migrate')['socket-address'][0]['port']
    limit = bandwidth or 1 << 40
    source.qmp('migrate-set-parameters', max_bandwidth=limit, max_postcopy_bandwidth=bandwidth)
    source.qmp('migrate', uri='tcp:127.0.0.1:' + port)
    source.qmp('migrate-start-postcopy')
    got = source.wait_migrated(180)
    while not got.get('total-time'):  # for a moment it says completed and has no figures yet
        got = source.qmp('query-migrate')
    move = Move(source, destination)
    move.figures = {'downtime': got['downtime'] / 1e3, 'total': got['total-time'] / 1e3,
                    'requests': got['ram']['postcopy-requests'], 'bytes': got['ram']['transferred']}
    return move


def shared(place, source):
    """Only the device state moves; both QEMUs have the same memory file. What Linehome builds on, without it."""
    destination = guest.Machine(place, source.shape)
    own, destination.files = destination.files, source.files
    destination.start('-incoming', 'defer')
    destination.files = own
    for machine in (source, destination):
        machine.qmp.capability(x_ignore_shared=True)
    destination.qmp('migrate-incoming', uri='tcp:127.0.0.1:0')
    port = destination.qmp('query-migrate')['socket-address'][0]['port']
    source.qmp('migrate', uri='tcp:127.0.0.1:' + port)
    got = source.wait_migrated()
    move = Move(source, destination)
    move.figures = {'downtime': got['downtime'] / 1e3, 'total': got['total-time'] / 1e3}
    return move


class Linehome:
    """A destination that waits under `linehome incoming`, and the commands that move a guest there.

    far: two commands, as on two machines (sender and receiver over TCP); else one. to: where the sender goes, if that
    is not where the receiver listens; under: words before the receiver's and the sender's command.
    """

    def __init__(self, place, source, far=False, listen='tcp://127.0.0.1:0', under=((), ()), keys=(None, None)):
        self.place, self.source, self.far, self.listen, self.under, self.keys = place, source, far, listen, under, keys
        self.destination = guest.Machine(place, source.shape)
        self.uffd = place.path('uffd')
        self.destination.await_guest(self.uffd)
        self.sender = self.receiver = self.sending = self.receiving = self.url = self.stats_file = None

    def options(self, words):
        """{'mode': 'postcopy', 'bandwidth': 125} -> words; None: not given; True: without a value."""
        out = []
        for name, value in words.items():
            if value is not None:
                out += ['--' + name.replace('_', '-')] + ([] if value is True else [str(value)])
        return out

    def command(self, name, under, words):
        log = self.place.path(name + '.log')
        with open(log, 'w') as file:
            process = self.place.run(list(under) + [guest.LINEHOME, 'migrate'] + self.options(words), stdout=file,
                                     stderr=file)
        process.log = log
        return process

    def run(self, mode=None, bandwidth=None, parallel=None, downtime_limit=None, **receiver):
        """Starts the command, or both; receiver: --policy and what belongs to it."""
        sender = {'source': self.source.monitor + '.too', 'mode': mode, 'bandwidth': bandwidth, 'parallel': parallel,
                  'downtime_limit': downtime_limit}
        receiver = dict(receiver, destination=self.destination.monitor + '.too', uffd=self.uffd)
        self.stats_file = self.place.path('stats')
        if not self.far:
            self.sending = dict(sender, stats=self.stats_file, **receiver)
            self.sender = self.receiver = self.command('migrate', (), self.sending)
            return self
        self.receive(receiver)
        self.send(sender)
        return self

    def receive(self, words):
        self.receiving = words
        self.receiver = self.command('receiver', self.under[0],
                                     dict(words, accept=self.url or self.listen, key_file=self.keys[0]))

        def listens():
            text = said(self.receiver)
            found = [word for word in text.split() if word.startswith('tcp://')]
            if self.receiver.poll() is not None:
                raise guest.Trouble('the receiver ended: ' + text[-500:])
            return found and found[-1].rstrip('.,')
        self.url = guest.wait_for('the receiver listens', 20, listens)

    def send(self, words):
        self.sending = words
        self.sender = self.command('sender', self.under[1], dict(words, to=self.url, key_file=self.keys[1],
                                                                 stats=self.stats_file))

    def again(self):
        """Starts once more what has ended otherwise than with success."""
        if not self.far:
            self.sender = self.receiver = self.command('migrate', (), self.sending)
            return
        if self.receiver.poll() not in (None, 0):
            self.receive(self.receiving)
        if self.sender.poll() not in (None, 0):
            self.send(self.sending)

    def wait(self, seconds=120):
        """Until both have ended; whether with success. What they said is in text()."""
        end = time.monotonic() + seconds
        for process in (self.sender, self.receiver):
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise guest.Trouble('linehome migrate: not within %g s: %s' % (seconds, self.text()[-1000:]))
        return self.sender.returncode == 0 and self.receiver.returncode == 0

    def done(self, seconds=120):
        """Waits; a failure is a trouble."""
        if not self.wait(seconds):
            raise guest.Trouble('linehome migrate ended with %d and %d: %s' % (
                self.sender.returncode, self.receiver.returncode, self.text()[-1000:]))
        move = Move(self.source, self.destination)
        move.figures = {'stats': self.stats()}
        return move

    def stats(self):
        try:
            with open(self.stats_file) as file:
                return json.load(file)
        except (OSError, ValueError):
            return {}

    def text(self):
        return ''.join(said(process) for process in {self.sender, self.receiver} if process)


def said(process):
    with open(process.log, errors='replace') as file:
        return file.read()
