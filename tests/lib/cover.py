"""What tests of coverage compare with, each found out in another way than Linehome does.

    cover.py ran OUT OBJECT...        instructions that ran, from callgrind's output: "OBJECT 0xADDRESS" lines
    cover.py gcov NAME.gcov.json.gz   gcov's lines of the main file: "LINE 0|1"
    cover.py lcov FILE SOURCE         the lines of a tracefile of one source
    cover.py table PROGRAM RAN        "FILE LINE 0|1": the line table's rows by readelf, for the instructions by
                                      objdump, with the addresses that ran
    cover.py lcovall FILE             the same of a tracefile
    cover.py labels SOURCE            numbers of lines that hold nothing but labels of a switch
    cover.py cobertura FILE           whether it is what coverage-04.dtd says
    cover.py drcov FILE               "PATH 0xOFFSET SIZE" of each block, by drcov's published grammar
"""
import bisect
import gzip
import json
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree


def ran(out, *objects):
    names, seen, current, last = {}, set(), None, 0
    with open(out, errors="replace") as file:
        for line in file:
            match = re.match(r"ob=\((\d+)\)(?: (.*))?$", line)
            if match:
                current = names.setdefault(match[1], match[2])
            elif re.match(r"cob=\((\d+)\) ", line):
                match = re.match(r"cob=\((\d+)\) (.*)$", line)
                names.setdefault(match[1], match[2])
            else:
                match = re.match(r"(0x[0-9a-f]+|[+-]\d+|\*) ", line)
                if match:
                    word = match[1]
                    last = int(word, 16) if word[0] == "0" else last if word == "*" else last + int(word)
                    seen.add((current, last))
    for name, address in sorted((n, a) for n, a in seen if n in objects):
        print(name, hex(address))


def gcov(path):
    with gzip.open(path) as file:
        data = json.load(file)
    lines = {}
    # The main file is the one that gcov names first.
    for line in data["files"][0]["lines"]:
        number = line["line_number"]
        lines[number] = lines.get(number, 0) or int(line["count"] > 0)
    for number in sorted(lines):
        print(number, lines[number])


def tracefile(path):
    found, name = {}, None
    with open(path) as file:
        for line in file:
            if line.startswith("SF:"):
                name = line[3:].strip()
            match = re.match(r"DA:(\d+),([01])$", line)
            if match:
                found[name, int(match[1])] = int(match[2])
    return found


def lcov(path, source):
    for (name, number), hit in sorted(tracefile(path).items()):
        if name.endswith("/" + source):
            print(number, hit)


def lcovall(path):
    base = {}
    for (name, number), hit in tracefile(path).items():
        key = name.split("/")[-1], number
        base[key] = base.get(key, 0) or hit
    for name, number in sorted(base):
        print(name, number, base[name, number])


def rows(program):
    """(low, high, file, line) of the line table; of rows with one address the last."""
    text = subprocess.run(["readelf", "--debug-dump=decodedline", "-W", program], capture_output=True,
                          text=True, errors="replace").stdout
    sequence = []
    for line in text.splitlines():
        match = re.match(r"(\S+)\s+(\d+|-)\s+(0x[0-9a-f]+|0)\b", line)
        if not match:
            continue
        sequence.append((int(match[3], 16), match[1], match[2]))
        if match[2] == "-":
            for one, after in zip(sequence, sequence[1:]):
                if one[0] < after[0] and one[2] != "0":
                    yield one[0], after[0], one[1].split("/")[-1], int(one[2])
            sequence = []


def table(program, addresses):
    with open(addresses) as file:
        hits = {int(line.split()[1], 16) for line in file}
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", program], capture_output=True,
                          text=True).stdout
    starts = sorted(int(a, 16) for a in re.findall(r"^ +([0-9a-f]+):\t", text, re.M))
    lines = {}
    for low, high, name, number in rows(program):
        for i in range(bisect.bisect_left(starts, low), bisect.bisect_left(starts, high)):
            lines[name, number] = lines.get((name, number), 0) or int(starts[i] in hits)
    for name, number in sorted(lines):
        print(name, number, lines[name, number])


def labels(source):
    with open(source) as file:
        for number, line in enumerate(file, 1):
            if re.match(r"\s*(case\b[^:;]*|default\s*):\s*$", line):
                print(number)


# coverage-04.dtd: of each element the attributes that must be there, those that may, and its content: names in
# their order, each with how often.
DTD = {
    "coverage": ("line-rate branch-rate lines-covered lines-valid branches-covered branches-valid complexity "
                 "version timestamp", "", "sources? packages"),
    "sources": ("", "", "source*"),
    "source": ("", "", "#"),
    "packages": ("", "", "package*"),
    "package": ("name line-rate branch-rate complexity", "", "classes"),
    "classes": ("", "", "class*"),
    "class": ("name filename line-rate branch-rate complexity", "", "methods lines"),
    "methods": ("", "", "method*"),
    "method": ("name signature line-rate branch-rate complexity", "", "lines"),
    "lines": ("", "", "line*"),
    "line": ("number hits", "branch condition-coverage", "conditions*"),
}


def element(node):
    required, optional, content = DTD[node.tag]
    missing = set(required.split()) - set(node.attrib)
    strange = set(node.attrib) - set(required.split()) - set(optional.split())
    assert not missing and not strange, (node.tag, missing, strange)
    children = "".join(child.tag + " " for child in node)
    pattern = "".join("(?:%s )%s" % (re.sub(r"[?*]", "", word), word[-1] if word[-1] in "?*" else "")
                      for word in content.split() if word != "#")
    assert re.fullmatch(pattern, children), (node.tag, children)
    assert content == "#" or not (node.text or "").strip(), node.tag
    for name in ("line-rate", "branch-rate"):
        assert 0 <= float(node.get(name, 0)) <= 1, node.attrib
    for child in node:
        element(child)


def cobertura(path):
    root = xml.etree.ElementTree.parse(path).getroot()
    assert root.tag == "coverage"
    element(root)
    lines = root.findall("./packages/package/classes/class/lines/line")
    assert len(lines) == int(root.get("lines-valid"))
    assert sum(int(line.get("hits")) for line in lines) == int(root.get("lines-covered"))
    print("%d of %d" % (int(root.get("lines-covered")), len(lines)))


COLUMNS = {
    2: r"\s*(?P<id>\d+), 0x(?P<start>[0-9a-f]{16}), 0x(?P<end>[0-9a-f]{16}), 0x[0-9a-f]{16}, +(?P<path>.+)",
    5: r"\s*(?P<id>\d+), +(?P<containing>\d+), 0x(?P<start>[0-9a-f]{16}), 0x(?P<end>[0-9a-f]{16}), "
       r"0x[0-9a-f]{16}, (?P<offset>[0-9a-f]{16}), 0x(?P<base>[0-9a-f]{16}),  (?P<path>.+)",
}
NAMES = {
    2: "id, base, end, entry, path",
    5: "id, containing_id, start, end, entry, offset, preferred_base, path",
}


def drcov(path):
    with open(path, "rb") as file:
        def line(pattern):
            text = file.readline().decode()
            match = re.fullmatch(pattern, text.rstrip("\n"))
            assert match and text.endswith("\n"), (pattern, text)
            return match
        version = int(line(r"DRCOV VERSION: ([23])")[1])
        line(r"DRCOV FLAVOR: drcov-64")
        head = line(r"Module Table: version (\d+), count (\d+)")
        kind = int(head[1])
        assert (version, kind) in ((2, 2), (3, 5)), (version, kind)
        line("Columns: " + NAMES[kind])
        modules = [line(COLUMNS[kind]).groupdict() for _ in range(int(head[2]))]
        for index, module in enumerate(modules):
            assert int(module["id"]) == index
            first = modules[int(module.get("containing") or index)]
            module["first"] = int(first["start"], 16)
            assert module["path"] == first["path"] and int(module["start"], 16) >= module["first"]
        count = int(line(r"BB Table: (\d+) bbs")[1])
        data = file.read()
    assert len(data) == 8 * count, (len(data), count)
    for start, size, row in struct.iter_unpack("<IHH", data):
        module = modules[row]
        address = int(module["start"], 16) + start
        assert size and address + size <= int(module["end"], 16), (start, size, module)
        print(module["path"], hex(address - module["first"]), size)


globals()[sys.argv[1]](*sys.argv[2:])
