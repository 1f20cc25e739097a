"""Ways in which a guest moves from one QEMU to another: QEMU's own post-copy, memory that both share, and Linehome."""
import json
import os
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
    own, destination.file = destination.file, source.file
    destination.start('-incoming', 'defer')
    destination.file = own
    for machine in (source, destination):
        machine.qmp.capability(x_ignore_shared=True)
    destination.qmp('migrate-incoming', uri='tcp:127.0.0.1:0')
    port = destination.qmp('query-migrate')['socket-address'][0]['port']
    source.qmp('migrate', uri='tcp:127.0.0.1:' + port)
    got = source.wait_migrated()
    move = Move(source, destination)
    move.figures = {'downtime': got['downtime'] / 1e3, 'total': got['total-time'] / 1e3}
    return move
