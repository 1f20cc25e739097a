"""What `linehome migrate --stats` says of how long a guest stood still, beside two clocks that know nothing of it.

The guest's own clock stands while QEMU does not run it: so between a line of its console at the source and one at the
destination this machine's clock goes on by as much more as it stood still. And what its console shows no line in.
"""
import contextlib
import os
import pty
import signal
import time

import guest
import move
import tap

WORDS = 'wmb=160 hot=24 wper=128'
HELD = 1.5  # seconds that we hold a process


def agrees(said, seen):
    """Milliseconds and seconds: within a quarter, for a machine that does much else."""
    return 0.75 * seen <= said / 1e3 <= 1.25 * seen


def hold(pid, seconds):
    """With what it has started."""
    everyone = [pid] + guest.descendants(pid)
    for one in everyone:
        os.kill(one, signal.SIGSTOP)
    time.sleep(seconds)
    for one in everyone:
        os.kill(one, signal.SIGCONT)


def stood_still(before, after):
    """Between the last tick there and the first one here."""
    return after.at - before.at - (after.guest - before.guest) / 1e3


def begin(place):
    source = guest.Machine(place, guest.Shape()).source(WORDS)
    there = move.Linehome(place, source, far=True)
    there.stats_file = place.path('stats')
    there.receive({'destination': there.destination.monitor + '.too', 'uffd': there.uffd})
    return source, there


def held_back(place):
    """The destination's QEMU does not begin to run it for a while."""
    source, there = begin(place)
    qemu = there.destination.process.pid
    os.kill(qemu, signal.SIGSTOP)
    there.send({'source': source.monitor + '.too'})
    guest.wait_for('the source stops', 60, lambda: source.qmp.status() != 'running')
    time.sleep(HELD)
    os.kill(qemu, signal.SIGCONT)
    moved = there.done()
    there.destination.console.wait_ticks(20, 30)
    seen = stood_still(source.console.ticks[-1], there.destination.console.ticks[0])
    said = there.stats()['destination']
    text = 'stood still for %.0f ms, said %s' % (1e3 * seen, {name: said[name] for name in said if name.endswith('_ms')})
    tap.note(text)
    tap.ok(seen >= HELD, 'a guest whose QEMU is held back stands still for that long', text)
    tap.ok(agrees(said['stop_to_run_ms'], seen), 'stop_to_run_ms is that', text)
    tap.ok(agrees(said['silence_ms'], seen), 'silence_ms too, since it did not wait for memory then', text)
    tap.ok(agrees(said['recovery_ms'], seen), 'and recovery_ms', text)
    felt = guest.felt(source.console.ticks, there.destination.console.ticks)
    tap.ok(said['silence_ms'] <= 1e3 * felt['silence'], 'its console was silent for no less', felt)
    tap.ok(not agrees(said['silence_ms'] / 2, seen), 'half of it would be noticed')
    tap.same(moved.bad()[0], 0, 'none of its memory has changed')


def held_later(place):
    """It runs, and then what it waits for does not come for a while."""
    source, there = begin(place)
    there.send({'source': source.monitor + '.too', 'mode': 'postcopy', 'bandwidth': 40000000})
    there.destination.console.wait_ticks(3, 60)
    began = time.monotonic()
    hold(there.sender.pid, HELD)
    moved = there.done()
    there.destination.console.wait_ticks(20, 30)
    ticks = [tick.at for tick in there.destination.console.ticks]
    gap = max(b - a for a, b in zip(ticks, ticks[1:]) if b > began)
    said = there.stats()['destination']
    text = 'no line for %.0f ms, said %s' % (1e3 * gap, {name: said[name] for name in said if name.endswith('_ms')})
    tap.note(text)
    tap.ok(gap >= 0.75 * HELD, 'a guest whose memory does not come stands still', text)
    tap.ok(said['stalled_ms'] >= 750 * gap, 'stalled_ms has that wait', text)
    tap.ok(said['recovery_ms'] >= 750 * gap, 'before it was over it had not recovered', text)
    tap.ok(said['silence_ms'] <= said['recovery_ms'] <= said['stop_to_run_ms'] + said['run_to_complete_ms'] + 10,
           'silence ends first, then it recovers, at the latest with the last page', text)
    tap.same(moved.bad()[0], 0, 'none of its memory has changed')


def shown(place):
    """What a person sees on the sender's terminal before anything has arrived: post-copy has no rounds."""
    source, there = begin(place)
    terminal, inside = pty.openpty()
    sender = place.run([guest.LINEHOME, 'migrate', '--source', source.monitor + '.too', '--to', there.url, '--mode',
                        'postcopy'], stderr=inside)
    os.close(inside)
    text = b''
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while more := os.read(terminal, 4096):
            text += more
    os.close(terminal)
    tap.same(sender.wait(60), 0, 'a guest is moved by a command on a terminal')
    steps = [text.find(word) for word in (b'waiting for the receiver', b'the guest is stopped', b'moved, ')]
    tap.ok(-1 < steps[0] < steps[1] and (steps[2] == -1 or steps[1] < steps[2]), 'which shows what it does', text)


def main():
    guest.can_migrate()
    for case in (held_back, held_later, shown):
        with guest.Place('felt') as place:
            case(place)


tap.run(main)
