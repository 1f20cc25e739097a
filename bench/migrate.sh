#!/bin/bash
# A self-checking guest moves between two QEMUs on this machine: QEMU's own post-copy, without and with preempt, beside
# both modes of linehome migrate, without a limit and with 125 MB/s. All over TCP on the loopback device, the ways by
# turns. What is printed are medians, and in brackets the least and the most; below them how Linehome compares.
#
#   RUNS=5 bench/migrate.sh               all of it, 15 minutes
#   KINDS='qemu hybrid' bench/migrate.sh  these ways alone: same, qemu, preempt, postcopy, hybrid
#   LIMITS='0 125' bench/migrate.sh       MB/s; 0: no limit
#   BENCH_CPUS='0,1 2,3' bench/migrate.sh so many runs at a time, each (all of its processes) on CPUs of its own;
#                                         one set: one run at a time. Without it nothing is bound
#   RESULTS=FILE bench/migrate.sh         a line of JSON for each run is added to this file, and the table is of all
#                                         lines that it has; RUNS=0: no new ones. So the files of several can be one
#   SCATTER=1 bench/migrate.sh            the orders of copying compared, on a guest with scattered memory (0: with
#                                         other memory): KINDS are linear, around, ptline
#   GUEST='wmb=256 hot=32 wper=256'       what the guest does (tests/guest/init.c)
#
# Needed: qemu-system-x86_64 in PATH, python3, and build/guest as tests/guest/fetch makes it.
. "$(dirname "$0")/../tests/lib/guest.sh"
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests/guest
exec python3 bench/migrate.py
