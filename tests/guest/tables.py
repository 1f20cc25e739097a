"""Are the page tables of a running kernel read as QEMU reads them? `info tlb` says which page lies where."""
import collections
import random
import re
import subprocess

import guest
import tap

LINE, MANY = 8, 16


def human(machine, command):
    return machine.qmp('human-monitor-command', command_line=command)


def pages_mapped(machine, pages):
    """Virtual page -> page of the guest, of entries for 4096 bytes; and how many larger ones there are."""
    found, larger = {}, 0
    for virtual, physical, flags in re.findall(r'^([0-9a-f]+): ([0-9a-f]+) ([-A-Z]+)', human(machine, 'info tlb'), re.M):
        if 'P' in flags:
            larger += 1
        elif int(physical, 16) // 4096 < pages:
            found[int(virtual, 16) // 4096] = int(physical, 16) // 4096
    return found, larger


def lines_of(mapped):
    """For each page the lines that map it: each a dictionary from its place in the line to the page."""
    lines = collections.defaultdict(dict)
    for virtual, page in sorted(mapped.items()):
        if page not in lines[virtual // LINE].values():
            lines[virtual // LINE][virtual % LINE] = page
    of = collections.defaultdict(list)
    for line in lines.values():
        for page in line.values():
            of[page].append(line)
    return of


def plain(line):
    return len(line) > 1 and len({page - place for place, page in line.items()}) == 1


def neighbours(lines, page):
    lines = [line for line in lines if not plain(line)] or lines if len(lines) <= MANY else []
    return {other for line in lines for other in line.values()} - {page}


def ask(machine, pages, numbers):
    """What our reading says: (tables read, pages mapped, ms), and each page's neighbours."""
    cr3 = re.findall(r'CR3=([0-9a-f]+)', human(machine, 'info registers -a'))
    words = [guest.BUILD + '/tests/tools/page_tables', machine.file, pages, '0:%d:0' % pages, 'cr3']
    out = subprocess.run([str(word) for word in words + ['0x' + one for one in cr3]], check=True, text=True,
                         input=''.join('%d\n' % one for one in numbers), capture_output=True).stdout.split('\n')
    told = {}
    for line in out[1:-1]:
        page, others = line.split(':')
        told[int(page)] = {int(one) for one in others.split()}
    return re.match(r'read (\d+) mapped (\d+) ms ([\d.]+)', out[0]).groups(), told


def main():
    with guest.Place('tables') as place:
        machine = guest.Machine(place, guest.Shape()).source('wmb=160 hot=24 wper=128 scatter=1')
        machine.qmp('stop')
        pages = machine.shape.mib * 256
        mapped, larger = pages_mapped(machine, pages)
        of = lines_of(mapped)
        tap.ok(len(of) > 40000, 'QEMU sees a guest that maps %d pages one by one, and %d larger ones' % (len(of), larger))
        dice = random.Random(5)
        numbers = dice.sample(range(pages), 200) + dice.sample(sorted(of), 300)
        (tables, found, ms), told = ask(machine, pages, numbers)
        tap.note('%s tables were read in %s ms' % (tables, ms))
        tap.same(int(found), len(of), 'as many pages are found to be mapped')
        wrong = [page for page in numbers if told[page] != neighbours(of[page], page)]
        tap.same(wrong, [], 'the neighbours of %d pages are those that QEMU sees' % len(numbers))
        scattered = sum(1 for page in numbers if len(told[page]) >= 7 and
                        all(abs(other - page) > 16 for other in told[page]))
        tap.ok(scattered > 150, 'most of which lie elsewhere in physical memory (%d)' % scattered)
        some = next(page for page in numbers if told[page])
        told[some].pop()
        tap.ok(any(told[page] != neighbours(of[page], page) for page in numbers), 'planted: one neighbour less is seen')


tap.run(main)
