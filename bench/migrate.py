"""What bench/migrate.sh says."""
import os
import statistics
import sys
import time

import guest
import move

RUNS = int(os.environ.get('RUNS', '5'))
ONLY = os.environ.get('ONLY', '')
WORDS = os.environ.get('GUEST', 'wmb=256 hot=32 wper=256')
LIMITS = [('no limit', 0), ('125 MB/s', 125000000)]
SETTLE = 2.5  # seconds that the guest runs before it moves, for its usual speed


def linehome(**words):
    def run(place, source, bandwidth):
        return move.Linehome(place, source, far=True).run(bandwidth=bandwidth or None, **words).done()
    return run


def qemu(preempt):
    return lambda place, source, bandwidth: move.native(place, source, preempt, bandwidth)


COMPARED = [
    ('same memory, state alone', lambda place, source, _: move.shared(place, source)),
    ('qemu post-copy', qemu(False)),
    ('qemu post-copy, preempt', qemu(True)),
    ('linehome postcopy', linehome(mode='postcopy')),
    ('linehome precopy-then-postcopy', linehome(mode='precopy-then-postcopy')),
]
ORDERS = [('postcopy, %s' % policy, linehome(mode='postcopy', policy=policy))
          for policy in ('linear', 'around', 'ptline')]

COLUMNS = [  # of the table: head, figure, factor, digits
    ('reported ms', 'downtime', 1e3, 0), ('silence ms', 'silence', 1e3, 0), ('to 90 % ms', 'recovered', 1e3, 0),
    ('faults', 'requests', 1, 0), ('total s', 'total', 1, 2), ('MB', 'bytes', 1e-6, 0),
]


def from_stats(figures):
    """Linehome's own figures, by the names of QEMU's. Faults: those for which a page had to come from the source."""
    stats = figures.pop('stats', None)
    if stats:
        there = stats.get('destination', {})
        figures['downtime'] = stats['downtime_ms'] / 1e3
        figures['requests'] = there['faults']['far']['count']
        figures['bytes'] = sum(stats['bytes'].values())
        figures['said'] = {name: there.get(name) for name in ('silence_ms', 'recovery_ms', 'stop_to_run_ms')}
        figures['p50'] = there['faults']['far']['p50_us']
        figures['rounds'] = [one['pages'] for one in stats['rounds']] + [stats['last_pages']]
        figures['stop'] = stats['stop_ms']
    return figures


def measure(way, bandwidth, words):
    with guest.Place('bench') as place:
        source = guest.Machine(place, guest.Shape()).source(words, ticks=int(SETTLE * 100))
        began = time.monotonic()
        moved = way(place, source, bandwidth)
        moved.figures.setdefault('total', time.monotonic() - began)
        figures = from_stats(moved.felt(4.0))
        bad, why = moved.bad()
        if bad or not moved.went_on():
            print('the guest found %d wrong pages: %s' % (bad, why))
            sys.exit(1)
        return figures


def cell(values, factor, digits):
    """Median, least and most; a run in which it never came is worse than all others."""
    known = [value for value in values if value is not None]
    if not known:
        return '-'
    shown = lambda value: '-' if value == float('inf') else '%.*f' % (digits, value * factor)
    values = [float('inf') if value is None else value for value in values]
    return '%s (%s-%s)' % (shown(statistics.median_high(values)), shown(min(values)), shown(max(values)))


def table(title, rows):
    print('\n' + title)
    print('%-32s' % '' + ''.join('%20s' % head for head, *_ in COLUMNS))
    for name, runs in rows:
        cells = [cell([run.get(key) for run in runs], factor, digits) for _, key, factor, digits in COLUMNS]
        print('%-32s' % name + ''.join('%20s' % one for one in cells), flush=True)


def compare(ways, limits, words):
    ways = [(name, way) for name, way in ways if ONLY in name]
    results = {(name, limit): [] for name, _ in ways for limit, _ in limits}
    for number in range(RUNS):
        for limit, bandwidth in limits:
            for name, way in ways:
                results[name, limit].append(measure(way, bandwidth, words))
                print('run %d, %s, %s: %s' % (number + 1, limit, name, results[name, limit][-1]), file=sys.stderr)
    for limit, _ in limits:
        table('%s; guest: %s; %d runs: median (least-most)' % (limit, words, RUNS),
              [(name, results[name, limit]) for name, _ in ways])


try:
    if os.environ.get('SCATTER'):
        compare(ORDERS, LIMITS[1:], WORDS + ' scatter=' + os.environ['SCATTER'])
    else:
        compare(COMPARED, LIMITS, WORDS)
except guest.Absent as reason:
    print('skipped: %s' % reason)
