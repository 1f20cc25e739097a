"""A guest is saved into a folder (--to-snapshot) and goes on; from there it comes back (--from-snapshot), lazily.

What is restored checks all its memory: a page that reads zero or old is found.
"""
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time

import guest
import move
import tap

SHAPE = guest.Shape(cpus=2, mib=1024)
WORDS = 'wmb=128 hot=16 wper=64 threads=2 disk=1'


def command(place, **words):
    """Starts linehome migrate."""
    log = place.path('log')
    argv = [guest.LINEHOME, 'migrate']
    for name, value in words.items():
        argv += ['--' + name.replace('_', '-'), value]
    with open(log, 'w') as file:
        process = place.run(argv, stdout=file, stderr=file)
    process.log = log
    return process


def ended(process, seconds=60):
    """Its exit status, and what it said."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise guest.Trouble('linehome migrate: not within %g s: %s' % (seconds, move.said(process)))
    return status, move.said(process)


def save(place, source, folder):
    return command(place, source=source.monitor + '.too', to_snapshot=folder)


class Restored:
    """A QEMU that waits, and the command that brings a guest there."""

    def __init__(self, place, folder, **words):
        self.place, self.folder = place, folder
        self.machine = guest.Machine(place, SHAPE)
        self.uffd = place.path('uffd')
        self.machine.await_guest(self.uffd)
        self.begin(**words)

    def begin(self, **words):
        self.stats = self.place.path('stats')
        self.process = command(self.place, from_snapshot=self.folder, destination=self.machine.monitor + '.too',
                               uffd=self.uffd, stats=self.stats, **words)
        return self

    def figures(self):
        with open(self.stats) as file:
            return json.load(file)

    def unharmed(self, what):
        self.machine.console.wait_ticks(10, 30)
        bad = self.machine.console.verify()
        wrong = self.machine.console.complaints()
        return tap.ok(bad == 0 and not wrong, what, 'bad=%d' % bad, wrong[:5], move.said(self.process))


def summed(folder):
    """The snapshot, byte by byte."""
    sums = {}
    for name in sorted(os.listdir(folder)):
        with open(folder + '/' + name, 'rb') as file:
            sums[name] = hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') \
                else hashlib.sha256(file.read()).hexdigest()
    return sums


def runs_on(source, what, *why):
    """The guest whose QEMU was to be saved runs, and nothing is wrong with it."""
    source.console.wait_ticks(5, 30)
    tap.ok(source.qmp.status() == 'running' and not source.console.complaints(), what, source.qmp.status(), *why)


def is_refused(process, words, what, seconds=30):
    status, text = ended(process, seconds)
    tap.ok(status not in (0, 2) and words in text and len(text.strip().split('\n')) == 1, what, status, text)


# ---- saving


@contextlib.contextmanager
def small_disk(place):
    path = place.path('disk')
    os.mkdir(path)
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=32m', 'tmpfs', path], capture_output=True).returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(['umount', path])


def saving_that_fails(place, source):
    folder = place.path('full')
    os.mkdir(folder)
    with open(folder + '/letter', 'w') as file:
        file.write('mine')
    is_refused(save(place, source, folder), 'not empty', 'a folder that is not empty is refused')
    tap.same(os.listdir(folder), ['letter'], 'and left as it is')
    runs_on(source, 'and the guest runs on')
    with small_disk(place) as disk:
        if not disk:
            tap.skip('a full disk', 'no file system can be mounted here')
        else:
            is_refused(save(place, source, disk + '/snapshot'), 'ENOSPC', 'a full disk is said in one line')
            tap.same(os.listdir(disk), [], 'and nothing is left there')
            runs_on(source, 'and the guest runs on')


def in_the_middle(place, source, folder):
    """A command that is stopped while it copies memory."""
    process = save(place, source, folder)
    guest.wait_for('memory is copied', 30, lambda: os.path.exists(folder + '/memory-ram0') or process.poll() is not None,
                   0.0005)
    workers = [process.pid] + guest.descendants(process.pid)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    return process, workers


def saving_that_is_ended(place, source):
    folder = place.path('cancelled')
    process, workers = in_the_middle(place, source, folder)
    for pid in workers:  # as a terminal does it
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGCONT)
    status, text = ended(process)
    tap.ok(status not in (0, 1, 2) and 'cancelled' in text, 'Ctrl-C ends the saving', status, text)
    tap.ok(not os.path.exists(folder), 'and nothing is left')
    runs_on(source, 'and the guest runs on', text)
    folder = place.path('killed')
    process, workers = in_the_middle(place, source, folder)
    for pid in workers[1:] or workers:
        guest.kill(pid)
    os.kill(workers[0], signal.SIGCONT)
    status, text = ended(process)
    tap.note(text.strip())
    tap.ok(status != 0, 'a saving that is killed has failed', text)
    tap.ok(not os.path.exists(folder + '/machine.json'), 'and has left no snapshot')
    runs_on(source, 'and the guest runs on', text)


# ---- restoring


def restore(place, folder, what, **words):
    """From the command to all memory being there, and a guest that is unharmed: what the statistics say."""
    began = time.monotonic()
    restored = Restored(place, folder, **words)
    status, text = ended(restored.process)
    tap.ok(status == 0, what + ': all memory comes', status, text)
    restored.unharmed(what + ': the guest is unharmed')
    figures = restored.figures()
    tap.note('%s: %.1f s, %s' % (what, time.monotonic() - began, json.dumps(figures)[:900]))
    restored.machine.close()
    place.closing.remove(restored.machine)
    return figures


def killed(place, folder):
    """Nobody brings pages: the guest stands still, and reads nothing that is not its own."""
    restored = Restored(place, folder, policy='none')
    restored.machine.console.wait_ticks(1, 30)
    pids = [restored.process.pid] + guest.descendants(restored.process.pid)
    for pid in pids:
        guest.kill(pid)
    restored.process.wait()
    time.sleep(0.5)
    seen = len(restored.machine.console.ticks)
    time.sleep(0.5)
    tap.same(len(restored.machine.console.ticks), seen, 'restoring is killed: the guest stands still')
    restored.begin(policy='linear')
    status, text = ended(restored.process)
    tap.ok(status == 0, 'the same command again goes on', status, text)
    tap.note(text.strip())
    restored.unharmed('and the guest is unharmed')
    restored.machine.close()
    place.closing.remove(restored.machine)


def often_killed(place, folder):
    """From before QEMU has the device state on: whoever restores is killed, again and again."""
    for delay in (0, 0.015, 0.025, 0.035):  # before, while and after QEMU takes the device state in
        restored = Restored(place, folder, policy='linear')
        guest.wait_for('a state file', 20, lambda: os.path.exists(restored.machine.file + '.linehome'), 0.0005)
        time.sleep(delay)
        for pid in guest.children(restored.process.pid):
            guest.kill(pid)
        status, text = ended(restored.process)
        tap.ok(status == 0, 'a worker is killed %g s after it has begun: another goes on' % delay, status, text)
        tap.note(text.strip())
        restored.unharmed('unharmed')
        restored.machine.close()
        place.closing.remove(restored.machine)
    restored = Restored(place, folder, policy='none')
    restored.machine.console.wait_ticks(1, 30)
    for pid in [restored.process.pid] + guest.descendants(restored.process.pid):
        guest.kill(pid)
    restored.process.wait()
    other = place.path('other')
    shutil.copytree(folder, other, copy_function=shutil.copyfile)
    restored.folder = other
    restored.begin()
    is_refused(restored.process, 'did not come from', 'another snapshot for a guest that is here already is refused')
    shutil.rmtree(other)
    restored.folder = folder
    status, text = ended(restored.begin().process)
    tap.ok(status == 0, 'and its own is not', status, text)
    restored.unharmed('unharmed')
    restored.machine.close()
    place.closing.remove(restored.machine)


def worker_killed(place, folder):
    restored = Restored(place, folder, policy='none')
    restored.machine.console.wait_ticks(1, 30)
    for pid in guest.descendants(restored.process.pid):
        guest.kill(pid)
    restored.unharmed('the worker is killed: another goes on, and the guest is unharmed')
    tap.note(move.said(restored.process).strip())
    restored.machine.close()
    place.closing.remove(restored.machine)
    status, text = ended(restored.process)
    tap.ok(status == 0, 'QEMU ends, and with it the command', status, text)


def damaged(place, folder):
    """Copies that somebody has done something to."""
    def memory(copy):
        os.truncate(copy + '/memory-ram0', os.path.getsize(copy + '/memory-ram0') - 4096)

    def text(copy):
        with open(copy + '/machine.json', 'r+') as file:
            whole = file.read()
            file.seek(0)
            file.truncate()
            file.write(whole[:len(whole) // 2])

    def none(copy):
        os.unlink(copy + '/machine.json')

    def other(copy):
        with open(copy + '/machine.json') as file:
            all_of_it = json.load(file)
        all_of_it['regions'][0]['pages'] //= 2
        os.truncate(copy + '/memory-ram0', os.path.getsize(copy + '/memory-ram0') // 2)
        with open(copy + '/machine.json', 'w') as file:
            json.dump(all_of_it, file)

    restored = None
    for harm, words, what in ((memory, 'not as long', 'a memory file that is too short'),
                              (text, 'damaged', 'a machine.json that is cut off'),
                              (none, 'no snapshot', 'a folder without machine.json'),
                              (other, 'start it with the same', 'a machine of another size')):
        copy = place.path('copy')
        os.mkdir(copy)
        subprocess.run(['cp', '--sparse=always'] + [folder + '/' + name for name in os.listdir(folder)] + [copy], check=True)
        harm(copy)
        if restored:
            restored.folder = copy
            restored.begin()
        else:
            restored = Restored(place, copy)
        is_refused(restored.process, words, what + ' is refused')
        shutil.rmtree(copy)
    tap.same(restored.machine.qmp.status(), 'inmigrate', 'the QEMU still waits')
    process = command(place, from_snapshot=folder, destination=restored.machine.monitor + '.too',
                      uffd=place.path('nobody'))
    time.sleep(0.3)
    for pid in [process.pid] + guest.descendants(process.pid):
        os.kill(pid, signal.SIGINT)
    status, text = ended(process, 10)
    tap.ok(status not in (0, 1, 2) and 'cancelled' in text, 'Ctrl-C while it waits for QEMU ends it', status, text)
    restored.folder = folder
    restored.begin()
    status, text = ended(restored.process)
    tap.ok(status == 0, 'and then takes the right one', status, text)
    restored.unharmed('unharmed')
    restored.machine.close()
    place.closing.remove(restored.machine)


def main():
    guest.can_migrate()
    with guest.Place('snapshot') as place:
        source = guest.Machine(place, SHAPE).source(WORDS)
        saving_that_fails(place, source)
        saving_that_is_ended(place, source)
        folder = place.path('snapshot')
        status, text = ended(save(place, source, folder))
        tap.ok(status == 0 and text == '', 'a guest is saved', status, text)
        runs_on(source, 'and goes on')
        tap.same(source.console.verify(), 0, 'unharmed')
        source.close()
        place.closing.remove(source)
        before = summed(folder)
        tap.same(sorted(before), ['device', 'machine.json', 'memory-ram0'], 'the snapshot is whole')
        record = place.path('record')
        linear = restore(place, folder, 'linear', policy='linear', record=record)
        recorded = restore(place, folder, 'recorded', policy='recorded', recorded=record)
        restore(place, folder, 'ptline', policy='ptline')
        faults = [one['faults']['far']['count'] for one in (linear, recorded)]
        tap.ok(faults[1] < faults[0], 'fewer faults wait where it is known what was missed', faults)
        killed(place, folder)
        worker_killed(place, folder)
        often_killed(place, folder)
        damaged(place, folder)
        tap.same(summed(folder), before, 'the snapshot is as it was')


tap.run(main)
