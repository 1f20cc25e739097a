"""Does the self-checking guest find what it is to find? Faults are planted into its memory from outside."""
import os
import struct
import time

import guest
import tap

PAGE, LINE = 4096, 64


def patterned(content):
    """Whether a page holds the guest's pattern: each word is the one before it and a step."""
    first, second = struct.unpack_from('<QQ', content)
    last, = struct.unpack_from('<Q', content, PAGE - 8)
    return first + guest.STEP & guest.MASK == second and first + 511 * guest.STEP & guest.MASK == last


def find(fd, size, n):
    """Some pages of its working set, by their place in the memory file."""
    found = []
    for at in range(16 << 20, size, PAGE):
        if patterned(os.pread(fd, PAGE, at)):
            found.append(at)
            if len(found) == n:
                return found
    raise guest.Trouble('the pattern is nowhere in the memory')


def plant(fd, machine, before):
    """A dozen pages, of which one is zero, one has an old line, one is another's, one is old as a whole."""
    places = find(fd, machine.shape.mib << 20, 400)
    zero, line, other, old = places[50], places[120], places[200], places[300]
    os.pwrite(fd, bytes(PAGE), zero)
    os.pwrite(fd, before(line)[7 * LINE:8 * LINE], line + 7 * LINE)
    os.pwrite(fd, os.pread(fd, PAGE, places[201]), other)
    os.pwrite(fd, before(old), old)


def plant_disk(fd, size):
    """Zeroes of what came from the disk one block in eight."""
    blocks = {guest.disk_seed(block) for block in range(0, guest.DISK_BLOCKS, 8)}
    planted = 0
    for at in range(16 << 20, size, PAGE):
        if struct.unpack('<Q', os.pread(fd, 8, at))[0] in blocks:
            os.pwrite(fd, bytes(PAGE), at)
            planted += 1
    return planted


def check_disk():
    with guest.Place('checker') as place:
        machine = guest.Machine(place, guest.Shape()).source('wmb=16 idle=1 disk=1', ticks=100)
        tap.same(machine.console.verify(), 0, 'what the host itself writes into the memory is as it should be')
        fd = os.open(machine.file, os.O_RDWR)
        tap.ok(plant_disk(fd, machine.shape.mib << 20) > 0, 'faults are planted into it')
        os.close(fd)
        guest.wait_for('a complaint', 20, machine.console.complaints)
        tap.ok(machine.console.complaints()[0].startswith('wrong disk'), 'and found', machine.console.complaints())


def check_memory():
    with guest.Place('checker') as place:
        machine = guest.Machine(place, guest.Shape()).source('wmb=64 hot=0 wper=0 scatter=1')
        tap.same(machine.console.verify(), 0, 'a guest that nobody touches finds nothing')
        fd = os.open(machine.file, os.O_RDWR)
        machine.qmp('stop')
        past = place.path('past')
        os.system("cp --sparse=always '%s' '%s'" % (machine.file, past))
        then = os.open(past, os.O_RDONLY)
        machine.qmp('cont')
        time.sleep(2)  # all is rewritten, most of it several times
        machine.console.send('idle=1')
        time.sleep(0.3)
        machine.qmp('stop')
        plant(fd, machine, lambda at: os.pread(then, PAGE, at))
        machine.qmp('cont')
        tap.same(machine.console.verify(), 4, 'four planted faults are four pages that are wrong')
        wrong = [dict(word.split('=') for word in text.split()[1:]) for text in machine.console.complaints()]
        kinds = sorted((one['lines'], one['is']) for one in wrong)
        tap.same(kinds, [('1', 'old'), ('64', 'old'), ('64', 'other'), ('64', 'zero')], 'and it says what is wrong')
        tap.same([one['first'] for one in wrong if one['lines'] == '1'], ['7'], 'to the line')
        machine.console.send('idle=0')
        machine.console.wait_ticks(20, 30)
        tap.same(machine.console.ticks[-1].bad, 4, 'what was wrong stays so')
        os.close(fd)
        os.close(then)


def main():
    check_disk()
    check_memory()


tap.run(main)
