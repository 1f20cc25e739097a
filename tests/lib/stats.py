"""Holds the statistics of `linehome run` against what the workload of tests/programs/phases.c must give.

    stats.py STATS.json NODE.json KEY=VALUE...
    stats.py --planted STATS.json NODE.json KEY=VALUE...

NODE.json is what the memory node counted by itself, or - where it served others too. The words say what was run: mode,
pages, ballast, times; local: bytes; peak_kib: the most memory that was seen from outside; reconnects; shared: the node
is on this machine. One line for each thing that does not hold; status 1 if there is one. With --planted every figure is
made wrong, one at a time, and those with which all still holds are named.
"""
import copy
import json
import sys

LINES, BYTES, MORE_LINES, MORE_BYTES = 5, 3, 2, 7  # as in phases.c
BLOCK = 1 << 21


def expected(mode, n, times):
    """Pages, lines and bytes that are written, and pages that are fetched."""
    changed = 0 if mode == "both" else n // 2
    lines = n * LINES + changed * MORE_LINES
    return {
        "pages": times * (n + changed),
        "lines": times * lines,
        "bytes": times * (n * LINES * BYTES + changed * MORE_LINES * MORE_BYTES),
        "fetched": times * n + (mode == "fork"),
        "clean": times * (n - changed),
    }


class Checks:
    def __init__(self, stats, node, words):
        self.s, self.node, self.words, self.broken = stats, node, words, []
        self.slack = 8 if words["mode"] == "both" else 0  # libc takes a page or two for a thread

    def holds(self, condition, text):
        if not condition:
            self.broken.append(text)

    def same(self, got, wanted, text):
        self.holds(got == wanted, f"{text}: {got}, not {wanted}")

    def near(self, got, wanted, each, text, less=0):
        self.holds(wanted - less <= got <= wanted + self.slack * each, f"{text}: {got}, not {wanted}")

    def between(self, low, got, high, text):
        self.holds(low <= got <= high, f"{text}: {got}, not {low} to {high}")


def check_faults(c, n, ballast, times, want):
    s, faults = c.s, c.s["faults"]
    zero = faults["zero"] + s["zero_pages_ahead"]
    c.near(zero, times * (n + 2 * ballast), 1, "pages that were new")
    c.holds(times * 2 <= faults["zero"] <= zero // 5 * 4, f"few touches give many new pages: {faults['zero']}")
    # A page that is read back while it is still on the way to the node, which had no time for it, comes from staging.
    fetched = want["fetched"] - faults["staging"]
    c.near(s["fetched"]["pages"], fetched, 1, "pages that were fetched")
    c.near(s["fetched"]["lines"], fetched * LINES, 64, "lines that were fetched")
    c.between(0, faults["staging"], n // 4, "most pages have left when they are read back")
    c.same(faults["store"] + s["fetched"]["prefetched_pages"], s["fetched"]["pages"], "a fetch is a fault's or a prefetch")
    if c.words["mode"] == "walk":
        c.holds(s["fetched"]["prefetched_pages"] > n // 2, "what is read in order is fetched ahead")
        c.holds(0 < faults["prefetched"] <= s["fetched"]["prefetched_pages"], "some touches wait for a prefetch")
    else:
        c.same(s["fetched"]["prefetched_pages"], 0, "nothing is fetched ahead")
        c.same(faults["prefetched"], 0, "nothing waits for a prefetch")
    # Who comes second finds the page there: in the other modes there are the agent's threads at most.
    c.between(0, faults["present"], n if c.words["mode"] == "both" else 64 * times, "touches that found it there")
    c.same(faults["staging"], s["evictions"]["refaults"], "a refault is a fault that staging answered")


def check_written(c, want):
    written, amplification = c.s["written"], c.s["amplification"]
    # One that came back before its lines were sent was written once for both changes.
    once = c.s["faults"]["staging"] - written["stayed_pages"]
    c.holds(once >= 0, "a page that was written stayed since it was touched")
    c.near(written["pages"], want["pages"], 1, "pages that were written", once)
    c.near(written["lines"], want["lines"], 64, "lines that were written", once * MORE_LINES)
    c.near(written["changed_bytes"], want["bytes"], 4096, "bytes that were changed", once * MORE_LINES * BYTES)
    c.between(want["pages"] * 4096 // BLOCK // 2, written["blocks"], want["pages"] // 8, "blocks that were written")
    c.between(0.001, written["mean_residence_ms"], c.s["wall_ms"], "mean residence")
    for size, count in (("64", written["lines"]), ("4096", written["pages"]), ("2097152", written["blocks"])):
        value = count * int(size) / written["changed_bytes"]
        c.between(value * 0.99999, amplification[size], value * 1.00001, f"amplification at {size}")


def check_evictions(c, ballast, times, want):
    s, e, frames = c.s, c.s["evictions"], c.words["local"] // 4096
    left = e["clean"] + e["zero"] + s["written"]["pages"] - s["written"]["stayed_pages"]
    c.same(e["reclaimed"], left, "a page leaves clean, zero, or written")
    c.near(e["clean"], want["clean"], 1, "pages that left unchanged")
    c.between(times * (2 * ballast - frames), e["zero"], times * 2 * ballast + c.slack, "zero pages that left")
    # What was taken away and is not gone is in staging at the end.
    c.between(e["reclaimed"], e["deactivated"] - e["refaults"], e["reclaimed"] + times * frames // 2, "pages taken away")
    c.between(0, e["busy"], 16, "pages that stayed after all")


def check_rest(c, want):
    s, words, latency = c.s, c.words, c.s["fetch_latency_ns"]
    c.same(s["local_bytes"], words["local"], "--local")
    c.same(s["exit_status"], 0, "exit status")
    c.same(s["processes"], words["times"] + (words["mode"] == "fork"), "processes")
    c.same(s["processes_paged"], words["times"], "processes that were watched")
    c.same(s["forks"], int(words["mode"] == "fork"), "forks")
    c.same(s["engine_changes"], 0, "processes that changed their engine")
    c.same(s["reconnects"], words["reconnects"], "reconnections")
    c.holds((s["stalls"] > 0) == (s["stall_ns"] > 0), "stalls take time")
    c.between(0, s["stall_ns"] / 1e6, 2 * s["wall_ms"], "stalls are within the run")
    c.between(0, s["stalls"], sum(s["faults"].values()), "stalls are of faults")
    c.holds(500 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p999"], "percentiles ascend")
    c.holds(latency["p50"] / 4 < latency["mean"] < s["wall_ms"] * 1e6 / max(s["faults"]["store"], 1) * 2, "mean latency")
    c.between(0, latency["p999"] / 1e6, s["wall_ms"], "no fetch takes longer than the run")
    if words["peak_kib"]:
        c.between(words["peak_kib"] * 0.85, s["peak_local_bytes"] / 1024, words["peak_kib"] * 1.15, "peak, from outside")
    c.between(words["local"] * 0.5, s["peak_homed_bytes"], s["peak_local_bytes"], "homed memory is part of local memory")
    c.between(0, s["peak_local_bytes"], words["local"] * 1.5 + (16 << 20), "local memory has a limit")


def check_node(c):
    """What the node counted, and the sizes of messages."""
    s, node = c.s, c.node
    changes = node["puts"] + node["replaces"]
    # On one machine pages may be read where the node keeps them, which it does not see.
    seen = c.words["shared"] and s["fetched"]["lines"] - node["lines_out"]
    c.between(0, seen, (s["fetched"]["pages"] - node["gets"]) * 64, "lines that were read in shared memory")
    c.holds(c.words["shared"] or node["gets"] == s["fetched"]["pages"], f"GETs at the node: {node['gets']}")
    c.same(node["lines_out"] + seen, s["fetched"]["lines"], "lines from the node")
    c.same(changes, s["written"]["pages"], "PUTs and REPLACEs at the node")
    c.same(node["lines_in"], s["written"]["lines"], "lines at the node")
    c.same(node["bytes_in"], s["bytes_out"], "bytes to the node")
    c.same(node["bytes_out"] + 64 * seen, s["bytes_in"], "bytes from the node")
    c.same(node["regions_cloned"], s["forks"], "regions that were cloned")
    c.same(s["bytes_out"], 40 * (node["gets"] + node["drops"] + changes) + 24 * changes + 64 * s["written"]["lines"],
           "bytes out, by the messages")
    c.same(s["bytes_in"], 40 * (node["gets"] + node["drops"] + changes) + 24 * node["gets"] + 64 * s["fetched"]["lines"],
           "bytes in, by the messages")


def broken(stats, node, words):
    c = Checks(stats, node, words)
    want = expected(words["mode"], words["pages"], words["times"])
    check_faults(c, words["pages"], words["ballast"], words["times"], want)
    check_written(c, want)
    check_evictions(c, words["ballast"], words["times"], want)
    check_rest(c, want)
    if node:
        check_node(c)
    return c.broken


def figures(value, path=()):
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from figures(inner, path + (name,))
        elif not isinstance(inner, str):
            yield path + (name,)


# Figures of time, and those that what happened to be chosen decides, have bounds only: they are made wrong by a lot.
LOOSE = {"wall_ms", "fetch_latency_ns", "mean_residence_ms", "blocks", "amplification", "deactivated", "busy", "stalls",
         "stall_ns", "present", "prefetched", "peak_local_bytes", "peak_homed_bytes"}


def doctored(stats, path):
    wrong = copy.deepcopy(stats)
    place = wrong
    for name in path[:-1]:
        place = place[name]
    if LOOSE & set(path):
        place[path[-1]] = 0 if path[-1] == "wall_ms" else place[path[-1]] * 1000000 + 1000000
    else:
        place[path[-1]] += 1
    return wrong


def unseen(stats, node, words):
    return [".".join(path) for path in figures(stats) if not broken(doctored(stats, path), node, words)]


def main():
    arguments = [word for word in sys.argv[1:] if word != "--planted"]
    words = {"times": 1, "reconnects": 0, "peak_kib": 0, "shared": 0}
    for word in arguments[2:]:
        key, value = word.split("=")
        words[key] = int(value) if value.isdigit() else value
    with open(arguments[0], encoding="utf-8") as f:
        stats = json.load(f)
    node = None
    if arguments[1] != "-":
        with open(arguments[1], encoding="utf-8") as f:
            node = json.load(f)
    lines = unseen(stats, node, words) if "--planted" in sys.argv else broken(stats, node, words)
    print("\n".join(lines), end="\n" if lines else "")
    sys.exit(bool(lines))


main()
