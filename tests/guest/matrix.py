"""A guest moves in every way there is, and finds none of its memory changed.

LH_TEST_LONG=1: every mode with every order, number of vCPUs, size and kind of guest; else some of them, so that each
of these comes at least twice. LH_TEST_ONLY: those whose name has this in it.
"""
import itertools
import os
import time

import guest
import move
import tap

MODES = ('precopy-then-postcopy', 'postcopy')
KINDS = {
    'idle': 'wmb=160 idle=1',
    'busy': 'wmb=160 hot=0 wper=0 disk=1',
    'hot': 'wmb=160 hot=24 wper=128 disk=1',
    'scattered': 'wmb=160 hot=24 wper=128 scatter=1',
}
MIB = 1 << 20
# mode, order, vCPUs, MiB, kind, and what is special
SHORT = [
    (0, 'linear', 1, 512, 'busy', ''),
    (1, 'linear', 1, 512, 'hot', 'record'),
    (1, 'recorded', 1, 512, 'hot', 'sandbox'),
    (0, 'ptline', 2, 1024, 'scattered', 'far'),
    (1, 'ptline', 2, 1024, 'busy', ''),
    (1, 'around', 1, 512, 'idle', 'far'),
    (0, 'around', 2, 1024, 'hot', 'balloon'),
    (1, 'ptline', 1, 512, 'scattered', 'balloon far'),
    (0, 'linear', 1, 512, 'idle', 'sandbox parallel'),
    (0, 'around', 1, 512, 'hot', 'parts'),
    (1, 'ptline', 2, 512, 'scattered', 'parts far'),
]
LONG = [(MODES.index(mode), order, cpus, mib, kind, special)
        for (mode, order, cpus, mib, kind), special in
        zip(itertools.product(MODES, ('linear', 'around', 'ptline'), (1, 2), (512, 1024), KINDS),
            itertools.cycle(('', 'far', 'balloon', 'sandbox parallel', 'balloon far')))]


def balloon(machine, mib):
    machine.qmp('balloon', value=(machine.shape.mib - mib) * MIB)


def move_one(place, mode, order, cpus, mib, kind, special, files):
    parts = guest.PARTS if 'parts' in special else ()
    words = KINDS[kind].replace('wmb=160', 'wmb=336') if parts else KINDS[kind]  # more than two of them hold
    source = guest.Machine(place, guest.Shape(cpus, mib, 'sandbox' in special, parts)).source(
        words + ' threads=%d' % cpus)
    there = move.Linehome(place, source, far='far' in special)
    slow = 60 * MIB if 'balloon' in special else None
    words = {'policy': order}
    if 'record' in special.split():
        words['record'] = files
    if order == 'recorded':
        words['recorded'] = files
    if 'parallel' in special:
        words['parallel'] = 4
    there.run(mode=MODES[mode], bandwidth=slow, **words)
    if slow:
        time.sleep(0.5)
        balloon(source if mode == 0 else there.destination, 128)
    moved = there.done(120)
    if slow:
        balloon(there.destination, 200)
        time.sleep(0.5)
        balloon(there.destination, 0)
    there.destination.console.wait_ticks(20, 30)
    return moved


def one(mode, order, cpus, mib, kind, special, files):
    what = '%s, %s, %d vCPU, %d MiB, %s guest%s' % (MODES[mode], order, cpus, mib, kind, special and ', ' + special)
    if os.environ.get('LH_TEST_ONLY', '') not in what:
        return
    began = time.monotonic()
    try:
        with guest.Place('matrix') as place:
            moved = move_one(place, mode, order, cpus, mib, kind, special, files)
            bad, wrong = moved.bad()
            random = moved.destination.console.ticks[-1].random
            numbers = random > moved.source.console.ticks[-1].random
            tap.ok(bad == 0 and moved.went_on() and numbers, what, 'bad=%d' % bad, wrong,
                   'went on: %s, random numbers came: %s' % (moved.went_on(), numbers))
            felt = guest.felt(moved.source.console.ticks, moved.destination.console.ticks)
            tap.note('%.1f s; silence %.0f ms' % (time.monotonic() - began, 1e3 * felt['silence']))
    except guest.Trouble as trouble:
        tap.ok(False, what, trouble)


def main():
    long = bool(os.environ.get('LH_TEST_LONG'))
    guest.can_migrate()
    with guest.Place('recorded') as place:
        for case in (LONG if long else []) + SHORT:
            one(*case, files=place.folder + '/misses')


tap.run(main)
