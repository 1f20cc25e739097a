#!/bin/bash
# A self-checking guest moves between two QEMUs on this machine: QEMU's own post-copy, without and with preempt, beside
# both modes of linehome migrate, without a limit and with 125 MB/s. All over TCP on the loopback device, the ways by
# turns. What is printed are medians, and in brackets the least and the most.
#
#   RUNS=5 bench/migrate.sh                all of it, 15 minutes
#   RUNS=1 ONLY=qemu bench/migrate.sh      ways with this in their name alone
#   SCATTER=1 bench/migrate.sh             the orders of copying compared, on a guest with scattered memory; 0: with other
#   GUEST='wmb=256 hot=32 wper=256'        what the guest does (tests/guest/init.c)
. "$(dirname "$0")/../tests/lib/guest.sh"
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests/guest
exec python3 bench/migrate.py
