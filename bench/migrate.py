"""What bench/migrate.sh says."""
import json
import os
import statistics
import sys
import tempfile
import time

import guest
import move

RUNS = int(os.environ.get('RUNS', '5'))
SCATTER = os.environ.get('SCATTER')
WORDS = os.environ.get('GUEST', 'wmb=256 hot=32 wper=256') + (' scatter=' + SCATTER if SCATTER else '')
LIMITS = [int(word) for word in os.environ.get('LIMITS', '125' if SCATTER else '0 125').split()]
CPUS = [[int(cpu) for cpu in word.split(',')] for word in os.environ.get('BENCH_CPUS', '').split()]
SETTLE = 2.5  # seconds that the guest runs before it moves, for its usual speed


def linehome(**words):
    def run(place, source, bandwidth):
        return move.Linehome(place, source, far=True).run(bandwidth=bandwidth or None, **words).done()
    return run


def qemu(preempt):
    return lambda place, source, bandwidth: move.native(place, source, preempt, bandwidth)


COMPARED = {
    'same': ('same memory, state alone', lambda place, source, _: move.shared(place, source)),
    'qemu': ('qemu post-copy', qemu(False)),
    'preempt': ('qemu post-copy, preempt', qemu(True)),
    'postcopy': ('linehome postcopy', linehome(mode='postcopy')),
    'hybrid': ('linehome precopy-then-postcopy', linehome(mode='precopy-then-postcopy')),
}
ORDERS = {policy: ('postcopy, ' + policy, linehome(mode='postcopy', policy=policy))
          for policy in ('linear', 'around', 'ptline')}
WAYS = ORDERS if SCATTER else COMPARED
KINDS = os.environ.get('KINDS', ' '.join(WAYS)).split()
RATIOS = [(ours, theirs) for ours in ('postcopy', 'hybrid') for theirs in ('qemu', 'preempt')]

COLUMNS = [  # of the table: head, figure, factor, digits
    ('reported ms', 'downtime', 1e3, 0), ('silence ms', 'silence', 1e3, 0), ('to 90 % ms', 'recovered', 1e3, 0),
    ('faults', 'requests', 1, 0), ('total s', 'total', 1, 2), ('MB', 'bytes', 1e-6, 0),
]


# ---- one run


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


def measure(way, bandwidth):
    with guest.Place('bench') as place:
        source = guest.Machine(place, guest.Shape()).source(WORDS, ticks=int(SETTLE * 100))
        began = time.monotonic()
        moved = way(place, source, bandwidth)
        moved.figures.setdefault('total', time.monotonic() - began)
        figures = from_stats(moved.felt(4.0))
        bad, why = moved.bad()
        if bad or not moved.went_on():
            raise guest.Trouble('the guest found %d wrong pages: %s' % (bad, why))
        return figures


# ---- all of them


def jobs():
    """By turns, so that what else the machine does meets all alike."""
    return [(number, limit, kind) for number in range(RUNS) for limit in LIMITS for kind in KINDS]


def work(cpus, numbers, results):
    """Does jobs whose numbers come out of a pipe that all workers read, two bytes each."""
    if cpus:
        os.sched_setaffinity(0, cpus)
    while True:
        word = os.read(numbers, 2)
        if len(word) < 2:
            return
        number, limit, kind = jobs()[int.from_bytes(word, 'little')]
        line = {'limit': limit, 'kind': kind, 'guest': WORDS, 'cpus': cpus}
        line.update(measure(WAYS[kind][1], limit * 1000000))
        text = json.dumps(line) + '\n'
        os.write(results, text.encode())
        print('run %d, %d MB/s, %s: %s' % (number + 1, limit, kind, text), end='', file=sys.stderr, flush=True)


def start(cpus, numbers, feed, results):
    pid = os.fork()
    if pid == 0:
        os.close(feed)
        code = 1
        try:
            work(cpus, numbers, results)
            code = 0
        except (guest.Trouble, OSError) as trouble:
            print('a run on %s failed: %s' % (cpus or 'all CPUs', trouble), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return pid


def run_all(path):
    """Whether all went well."""
    if not RUNS:
        return True
    guest.Shape().image()
    guest.disk()
    numbers, feed = os.pipe()
    results = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    workers = [start(cpus, numbers, feed, results) for cpus in CPUS or [None]]
    os.close(numbers)
    try:
        for number in range(len(jobs())):
            os.write(feed, number.to_bytes(2, 'little'))
    except BrokenPipeError:
        pass  # no worker is left
    os.close(feed)
    return all([os.waitpid(pid, 0)[1] == 0 for pid in workers])


# ---- what it says


def order(values):
    """For medians: a run in which it never came is worse than all others."""
    return [float('inf') if value is None else value for value in values]


def cell(values, factor, digits):
    """Median, least and most."""
    if all(value is None for value in values):
        return '-'
    shown = lambda value: '-' if value == float('inf') else '%.*f' % (digits, value * factor)
    values = order(values)
    return '%s (%s-%s)' % (shown(statistics.median_high(values)), shown(min(values)), shown(max(values)))


def ratio(ours, theirs, key):
    a, b = (statistics.median_high(order([run.get(key) for run in runs])) for runs in (ours, theirs))
    return '-' if float('inf') in (a, b) or not b else '%.3f' % (a / b)


def table(title, results):
    print('\n' + title)
    print('%-32s%5s' % ('', 'runs') + ''.join('%20s' % head for head, *_ in COLUMNS))
    for kind, runs in results.items():
        cells = [cell([run.get(key) for run in runs], factor, digits) for _, key, factor, digits in COLUMNS]
        print('%-32s%5d' % (WAYS[kind][0], len(runs)) + ''.join('%20s' % one for one in cells), flush=True)
    for ours, theirs in RATIOS:
        if ours in results and theirs in results:
            print('%s to %s: silence %s, to 90 %% %s, faults %s' % (
                (WAYS[ours][0], WAYS[theirs][0]) +
                tuple(ratio(results[ours], results[theirs], key) for key in ('silence', 'recovered', 'requests'))))


def tables(path):
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    for words, limit in sorted({(line['guest'], line['limit']) for line in lines}, key=lambda one: one[::-1]):
        here = [line for line in lines if line['guest'] == words and line['limit'] == limit]
        results = {kind: [line for line in here if line['kind'] == kind] for kind in WAYS}
        table('%s; guest: %s: median (least-most)' % ('%d MB/s' % limit if limit else 'no limit', words),
              {kind: runs for kind, runs in results.items() if runs})


try:
    with tempfile.NamedTemporaryFile(prefix='linehome-bench.') as own:
        results_file = os.environ.get('RESULTS', own.name)
        well = run_all(results_file)
        tables(results_file)
    sys.exit(not well)
except guest.Absent as reason:
    print('skipped: %s' % reason)
