"""Huge pages: what needs some that were set aside sets some aside here, for as long as it takes.

A QEMU whose memory lies in a hugetlbfs, or in a memfd of huge pages, is refused in one line that says so, on either
side. A machine that hands over huge pages as Firecracker does is served.
"""
import contextlib
import os
import subprocess

import guest
import tap

PAGES = '/sys/kernel/mm/hugepages/hugepages-2048kB/'
WANTED = 48
MIB = 32


def read(name):
    with open(PAGES + name) as file:
        return int(file.read())


def write(name, value):
    with open(PAGES + name, 'w') as file:
        file.write(str(value))


@contextlib.contextmanager
def set_aside():
    """So many huge pages are free."""
    try:
        before = read('nr_hugepages')
        write('nr_hugepages', before + WANTED)
    except OSError as error:
        raise guest.Absent('no huge pages can be set aside: %s' % error)
    try:
        if read('free_hugepages') < WANTED:
            raise guest.Absent('no %d huge pages can be set aside: %d' % (WANTED, read('free_hugepages')))
        yield
    finally:
        write('nr_hugepages', before)


@contextlib.contextmanager
def hugetlbfs(place):
    path = place.path('huge')
    os.mkdir(path)
    done = subprocess.run(['mount', '-t', 'hugetlbfs', '-o', 'pagesize=2M', 'hugetlbfs', path], capture_output=True,
                          text=True)
    if done.returncode:
        raise guest.Absent('no hugetlbfs can be mounted: %s' % done.stderr.strip())
    try:
        yield path
    finally:
        place.clear()
        subprocess.run(['umount', path])


class Qemu:
    """One that stands still and has no guest."""

    def __init__(self, place, backend, *more, before=()):
        self.monitor, log = place.path('qmp'), place.path('log')
        words = list(before) + ['qemu-system-x86_64', '-machine', 'pc,accel=tcg,memory-backend=ram0', '-m', MIB,
                                '-nodefaults', '-display', 'none', '-S', '-object', backend,
                                '-qmp', 'unix:%s,server=on,wait=off' % self.monitor] + list(more)
        with open(log, 'w') as file:
            self.process = place.run(words, stdout=file, stderr=file)

        def listens():
            if self.process.poll() is not None:
                raise guest.Trouble('QEMU ended with %d: %s' % (self.process.returncode, open(log).read()))
            return os.path.exists(self.monitor)
        guest.wait_for('QEMU', 30, listens)


def is_refused(words, pattern, what):
    done = subprocess.run([guest.LINEHOME, 'migrate'] + words, capture_output=True, text=True, timeout=30)
    lines = done.stderr.strip().split('\n')
    tap.ok(done.returncode == 125 and len(lines) == 1 and pattern in lines[0], what, done.returncode, done.stderr)
    tap.note(lines[0])


def sources(place, folder):
    backends = {
        'memory in a hugetlbfs': ('memory-backend-file,id=ram0,size=%dM,mem-path=%s/source,share=on' % (MIB, folder),
                                  'lies in hugetlbfs'),
        'a memfd of huge pages': ('memory-backend-memfd,id=ram0,size=%dM,hugetlb=on,share=on' % MIB,
                                  'memory-backend-memfd'),
    }
    for name, (backend, pattern) in backends.items():
        qemu = Qemu(place, backend)
        is_refused(['--source', qemu.monitor, '--to', 'unix:' + place.path('nowhere')], pattern, name + ' is refused')
        is_refused(['--source', qemu.monitor, '--to-snapshot', place.path('snapshot')], pattern,
                   'and cannot be saved either')
        place.stop(qemu.process)


def destination(place, folder):
    memory, uffd = folder + '/destination', place.path('uffd')
    qemu = Qemu(place, 'memory-backend-file,id=ram0,size=%dM,mem-path=%s,share=on' % (MIB, memory), '-incoming', 'defer',
                before=[guest.LINEHOME, 'incoming', '--uffd', uffd, '--memory', memory, '--'])
    is_refused(['--accept', 'unix:' + place.path('here'), '--destination', qemu.monitor, '--uffd', uffd], '2097152',
               'nor can a guest come to where memory is huge pages')
    tap.ok(qemu.process.poll() is None, 'whose QEMU waits on')


def served(place):
    """Those tests that have something to say of huge pages."""
    for name in ('guest_port', 'migrate_place'):
        done = subprocess.run([guest.BUILD + '/tests/' + name], capture_output=True, text=True, timeout=60)
        tap.ok(done.returncode == 0 and 'no huge pages are' not in done.stdout, name + ' with huge pages', done.stdout)
    done = subprocess.run(['bash', guest.HERE + '/../migrate_uffd.sh'], capture_output=True, text=True, timeout=100)
    tap.ok(done.returncode == 0 and '- huge pages\n' in done.stdout, 'a machine like those of Firecracker is served',
           done.stdout)


def main():
    guest.can_migrate()
    if os.geteuid() != 0:
        raise guest.Absent('huge pages are set aside by root alone')
    with set_aside(), guest.Place('huge') as place:
        with hugetlbfs(place) as folder:
            sources(place, folder)
            destination(place, folder)
        served(place)


tap.run(main)
