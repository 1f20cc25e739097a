"""Virtual machines that check themselves (init.c): starting them, watching their console, moving them.

A guest is booted once for each number of vCPUs and size of memory, up to where its init waits for what to do, and
kept in build/guest: device state, and memory as a sparse file. From copies of that a source runs in a few tenths of a
second.

What is measured is seen from outside: each line of the console gets the time of this machine at which it arrived.
"""
import collections
import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.realpath(os.environ.get('LINEHOME_BUILD', ROOT + '/build'))
LINEHOME = BUILD + '/linehome'
CACHE = ROOT + '/build/guest'

Tick = collections.namedtuple('Tick', 'at guest checked written random disk bad')


class Trouble(Exception):
    """What a test waited for did not come."""


class Absent(Exception):
    """Something that the tests need is not here: skip, with the reason."""


def wait_for(what, seconds, check, every=0.01):
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise Trouble('%s: not within %g s' % (what, seconds))
        time.sleep(every)


def stamp(event):
    """When QEMU says that it was, in the time of this process."""
    then = event['timestamp']
    return time.monotonic() - (time.time() - then['seconds'] - then['microseconds'] / 1e6)


class Qmp:
    """A QEMU's monitor."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.rest = b''
        self.events = []  # (time, name, data)
        self.read()
        self('qmp_capabilities')

    def read(self):
        while b'\n' not in self.rest:
            more = self.socket.recv(65536)
            if not more:
                raise Trouble('the monitor has gone')
            self.rest += more
        line, self.rest = self.rest.split(b'\n', 1)
        return json.loads(line)

    def __call__(self, command, fd=None, **arguments):
        message = {'execute': command}
        if arguments:
            message['arguments'] = {name.replace('_', '-'): value for name, value in arguments.items()}
        text = json.dumps(message).encode() + b'\n'
        if fd is None:
            self.socket.sendall(text)
        else:
            socket.send_fds(self.socket, [text], [fd])
        while True:
            answer = self.read()
            if 'event' in answer:
                self.events.append((stamp(answer), answer['event'], answer.get('data')))
            elif 'error' in answer:
                raise Trouble('%s: %s' % (command, answer['error']['desc']))
            else:
                return answer['return']

    def capability(self, **capabilities):
        self('migrate-set-capabilities',
             capabilities=[{'capability': name.replace('_', '-'), 'state': state} for name, state in capabilities.items()])

    def status(self):
        return self('query-status')['status']

    def close(self):
        self.socket.close()


class Console(threading.Thread):
    """Reads a guest's console, and remembers when each line came."""

    line_of_tick = re.compile(r't=(\d+) n=(\d+) w=(\d+) s=[0-9a-f]{8} r=(\d+) d=(\d+) bad=(\d+)$')

    def __init__(self, path):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines, self.ticks = [], []  # (time, text); those that are ticks as such alone
        self.start()

    def run(self):
        rest = b''
        while True:
            try:
                more = self.socket.recv(4096)
            except OSError:
                return
            now = time.monotonic()
            if not more:
                return
            *lines, rest = (rest + more).split(b'\n')
            for line in lines:
                self.take(now, line.decode(errors='replace').strip())

    def take(self, now, text):
        match = self.line_of_tick.match(text)
        if match:
            self.ticks.append(Tick(now, *(int(word) for word in match.groups())))
        else:
            self.lines.append((now, text))

    def send(self, words):
        self.socket.sendall(words.encode() + b'\n')

    def wait(self, pattern, seconds, start=0):
        """The first line from number `start` on that matches."""
        def found():
            if any('Kernel panic' in text for _, text in self.lines):
                raise Trouble('the guest crashed: ' + '; '.join(self.complaints()[:5]))
            return next((m for m in (re.search(pattern, text) for _, text in self.lines[start:]) if m), None)
        return wait_for('a line "%s" on the console' % pattern, seconds, found)

    def wait_ticks(self, n, seconds):
        have = len(self.ticks)
        wait_for('%d ticks' % n, seconds, lambda: len(self.ticks) >= have + n)

    def verify(self, seconds=60):
        """Has the guest check all its pages; what it found in all its life."""
        start = len(self.lines)
        self.send('verify')
        match = self.wait(r'verified pages=(\d+) bad=(\d+)', seconds, start)
        return int(match.group(2))

    def complaints(self):
        return [text for _, text in self.lines
                if re.search(r'^wrong|Kernel panic|BUG:|Oops|general protection|segfault|Call Trace', text)]

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.join()


def files():
    """Kernel and initramfs."""
    made = subprocess.run([HERE + '/fetch', CACHE], capture_output=True, text=True, timeout=600)
    if made.returncode:
        raise Absent(made.stderr.strip().split('\n')[-1].removeprefix('guest: ') or 'no guest')
    return made.stdout.split()


def children(pid):
    """Of a process, in the order in which they were started."""
    try:
        with open('/proc/%d/task/%d/children' % (pid, pid)) as file:
            return sorted(int(word) for word in file.read().split())
    except OSError:
        return []


def descendants(pid):
    found = children(pid)
    return found + [other for one in found for other in descendants(one)]


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


DISK_BLOCKS = 2048
STEP = 0x9e3779b97f4a7c15
MASK = (1 << 64) - 1


def disk_seed(block):
    """The first word of a block, as in init.c."""
    x = block << 32 | 0xd15c
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9 & MASK
    x = (x ^ x >> 27) * 0x94d049bb133111eb & MASK
    return x ^ x >> 31


def disk():
    """A disk whose blocks hold what init.c expects of them; made now, if there is none."""
    path = CACHE + '/disk'
    if not os.path.exists(path):
        part = tempfile.NamedTemporaryFile(dir=CACHE, delete=False)
        with part:
            for block in range(DISK_BLOCKS):
                seed = disk_seed(block)
                part.write(struct.pack('<512Q', *(seed + i * STEP & MASK for i in range(512))))
        os.rename(part.name, path)
    return path


class Place:
    """A folder of sockets, a folder of memory, and what runs; all of it is gone at the end."""

    def __init__(self, name):
        self.name = name
        self.folder = tempfile.mkdtemp(prefix='linehome-%s.' % name)
        self.memory = tempfile.mkdtemp(prefix='linehome-%s.' % name, dir='/dev/shm')
        self.running, self.closing, self.number = [], [], 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.memory, ignore_errors=True)

    def path(self, name):
        self.number += 1
        return '%s/%d.%s' % (self.folder, self.number, name)

    def memory_file(self):
        self.number += 1
        return '%s/%d.ram' % (self.memory, self.number)

    def run(self, argv, **options):
        process = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, **options)
        self.running.append(process)
        return process

    def stop(self, process):
        """Ends it and what it has started."""
        for pid in [process.pid] + descendants(process.pid) if process.poll() is None else []:
            kill(pid)
        process.wait()
        if process in self.running:
            self.running.remove(process)

    def clear(self):
        """Ends everything, and gives its memory back."""
        for one in self.closing:
            one.close()
        for process in list(self.running):
            self.stop(process)
        self.closing = []
        for name in os.listdir(self.memory):
            os.unlink(self.memory + '/' + name)


PARTS = (('ram2', 192), ('ram0', 192), ('ram1', 128))


class Shape:
    """What a guest's hardware is like.

    parts: names and sizes of several memory backends, in the order of their addresses: those of NUMA nodes, and at
    last that of a memory module in a slot.
    """

    def __init__(self, cpus=1, mib=512, sandbox=False, parts=()):
        self.cpus, self.sandbox, self.parts = cpus, sandbox, parts
        self.mib = sum(size for _, size in parts) or mib

    def names(self):
        """Of all memory backends."""
        return [name for name, _ in self.parts] or ['ram0']

    def memory(self, backends):
        """Words for memory that lies in these backends."""
        objects = [word for backend in backends for word in ('-object', backend)]
        if not self.parts:
            return ['-machine', 'pc,accel=tcg,memory-backend=ram0', '-m', self.mib] + objects
        *nodes, (module, size) = self.parts
        return ['-machine', 'pc,accel=tcg', '-m', '%d,slots=1,maxmem=2G' % (self.mib - size)] + objects + \
            [word for name, _ in nodes for word in ('-numa', 'node,memdev=' + name)] + \
            ['-device', 'pc-dimm,id=module0,memdev=' + module]

    def qemu(self, backends, serial, monitor, *more):
        kernel, initramfs = files()
        words = ['qemu-system-x86_64', '-cpu', 'qemu64', '-smp', self.cpus, '-nodefaults', '-no-user-config',
                 '-no-reboot', '-display', 'none'] + self.memory(backends) + [
                 '-kernel', kernel, '-initrd', initramfs,
                 '-append', 'console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable memhp_default_state=online '
                 'wait=1 virtio=1',
                 '-object', 'rng-random,id=rng0,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng0',
                 '-device', 'virtio-balloon-pci', '-drive', 'if=none,id=disk0,format=raw,readonly=on,file=' + disk(),
                 '-device', 'virtio-blk-pci,drive=disk0',
                 '-serial', 'unix:%s,server=on,wait=off' % serial, '-qmp', 'unix:%s,server=on,wait=off' % monitor,
                 '-qmp', 'unix:%s.too,server=on,wait=off' % monitor]  # one for tests, one for whom they test
        if self.sandbox:
            words += ['-sandbox', 'on']
        return words + list(more)

    def image(self):
        """The folder with a booted guest at rest; booted now, if there is none."""
        kernel, initramfs = files()
        version = subprocess.run(['qemu-system-x86_64', '--version'], capture_output=True, text=True).stdout
        known = hashlib.sha256(version.encode() + kernel.encode() + open(initramfs, 'rb').read() +
                               json.dumps(self.qemu([''], '', '')).encode()).hexdigest()[:16]
        folder = '%s/booted-%d-%d-%s' % (CACHE, self.cpus, self.mib, known)
        if not os.path.exists(folder + '/device'):
            for old in glob.glob(CACHE + '/booted-*'):
                if os.path.getmtime(old) < time.time() - 86400:
                    shutil.rmtree(old, ignore_errors=True)
            self.boot(folder)
        return folder

    def boot(self, folder):
        with Place('boot') as place:
            machine = Machine(place, self).start()
            machine.console.wait('^ready', 120)
            time.sleep(0.5)  # for the kernel to come to rest: nothing depends on it
            part = tempfile.mkdtemp(prefix='part.', dir=CACHE)
            machine.save(part)
            with contextlib.suppress(OSError):
                os.rename(part, folder)  # another test may have been faster
            shutil.rmtree(part, ignore_errors=True)


class Machine:
    """One QEMU."""

    def __init__(self, place, shape):
        self.place, self.shape = place, shape
        self.files = {name: place.memory_file() for name in shape.names()}  # by the names of backends
        self.serial, self.monitor = place.path('serial'), place.path('qmp')
        self.console = self.qmp = self.process = None

    @property
    def file(self):
        """The memory, of a guest that has it in one file."""
        return self.files['ram0']

    def backends(self, anonymous=False):
        sizes = dict(self.shape.parts) or {'ram0': self.shape.mib}
        if anonymous:
            return ['memory-backend-ram,id=%s,size=%dM' % (name, sizes[name]) for name in self.files]
        return ['memory-backend-file,id=%s,size=%dM,mem-path=%s,share=on' % (name, sizes[name], path)
                for name, path in self.files.items()]

    def start(self, *more, before=(), anonymous=False):
        """Runs QEMU, under the words of `before`."""
        self.log = open(self.monitor + '.log', 'w+')
        argv = list(before) + self.shape.qemu(self.backends(anonymous), self.serial, self.monitor, *more)
        self.process = self.place.run(argv, stdout=self.log, stderr=self.log)
        self.place.closing.append(self)

        def listens():
            if self.process.poll() is not None:
                self.log.seek(0)
                raise Trouble('QEMU ended with %d: %s' % (self.process.returncode, self.log.read()[-500:]))
            return os.path.exists(self.monitor) and os.path.exists(self.serial)
        wait_for('QEMU', 30, listens)
        self.qmp = Qmp(self.monitor)
        self.console = Console(self.serial)
        return self

    def save(self, folder):
        """Stops it for good."""
        self.qmp('stop')
        self.qmp.capability(x_ignore_shared=True)
        self.qmp('migrate', uri='exec:cat > %s/device' % folder)
        self.wait_migrated()
        for name, path in self.files.items():
            subprocess.run(['cp', '--sparse=always', path, '%s/memory-%s' % (folder, name)], check=True)

    def load(self, folder):
        """Runs on copies of what was saved."""
        for name, path in self.files.items():
            subprocess.run(['cp', '--sparse=always', '%s/memory-%s' % (folder, name), path], check=True)
        self.start('-incoming', 'defer')
        self.qmp.capability(x_ignore_shared=True)
        self.qmp('migrate-incoming', uri='exec:cat %s/device' % folder)
        self.wait_migrated()
        self.qmp.capability(x_ignore_shared=False)
        self.qmp('cont')

    def await_guest(self, uffd):
        """Runs QEMU under linehome incoming. What has no order in QEMU has another than at the source."""
        self.files = dict(reversed(self.files.items()))
        before = [LINEHOME, 'incoming', '--uffd', uffd]
        for name in sorted(self.files):
            before += ['--memory', self.files[name]]
        self.start('-incoming', 'defer', before=before + ['--'])
        return self

    def source(self, words='', ticks=20):
        """A booted guest that does what the words say, and has run for a while."""
        self.load(self.shape.image())
        self.console.send(words + ' go')
        self.console.wait('^started', 60)
        self.console.wait_ticks(ticks, 30)
        return self

    def wait_migrated(self, seconds=60, states=('completed',)):
        def migrated():
            got = self.qmp('query-migrate')
            if got.get('status') == 'failed':
                raise Trouble('QEMU: migration failed: %s' % got.get('error-desc', ''))
            return got if got.get('status') in states else None
        return wait_for('QEMU has migrated', seconds, migrated)

    def close(self):
        for one in (self.console, self.qmp):
            if one:
                one.close()
        if self.process:
            self.place.stop(self.process)
        if self.log:
            self.log.close()
        for path in self.files.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


# ---- what is measured


def speed(ticks, begin, end):
    """Pages checked in a second, between two times."""
    inside = [tick for tick in ticks if begin <= tick.at <= end]
    if len(inside) < 2 or inside[-1].at == inside[0].at:
        return 0.0
    return (inside[-1].checked - inside[0].checked) / (inside[-1].at - inside[0].at)


def felt(before, after, seconds_before=2.0, window=0.2, part=0.9):
    """Ticks at the source and at the destination -> what the guest felt, in seconds.

    silence: from its last line there to its first line here that was followed by others: the longest gap around the
    switch. recovered: from its last line there to the begin of the first `window` here in which it was `part` as fast
    as before, and in the second that follows was so on the whole too (None: never).
    """
    if not before or not after:
        return {'silence': None, 'recovered': None, 'speed': None}
    last = before[-1].at
    usual = speed(before, last - seconds_before, last)
    around = [last] + [tick.at for tick in after if tick.at <= after[0].at + 2]
    silence = max(b - a for a, b in zip(around, around[1:]))
    recovered = None
    # What it had done when it fell silent counts from the first line here on.
    for i, tick in enumerate(after):
        if after[-1].at < tick.at + 1:
            break
        if speed(after[i:], tick.at, tick.at + window) >= part * usual and \
                speed(after[i:], tick.at, tick.at + 1) >= part * usual:
            recovered = tick.at - last
            break
    return {'silence': silence, 'recovered': recovered, 'speed': usual}


def can_migrate():
    """What `linehome migrate` needs of this machine, or Absent."""
    release = tuple(int(word) for word in re.findall(r'\d+', os.uname().release)[:2])
    if release < (6, 8):
        raise Absent('Linux 6.8 is needed, this is %s' % os.uname().release)
    if not os.access('/dev/userfaultfd', os.R_OK | os.W_OK) and os.geteuid() != 0:
        raise Absent('/dev/userfaultfd may not be opened')
    if not os.path.exists(LINEHOME):
        raise Trouble('%s is not built' % LINEHOME)
