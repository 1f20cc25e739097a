#!/bin/bash
# timeout: 400
# Programs with their own handlers for SIGSEGV and SIGBUS, alternate stacks, timers, blocked signals.
engines="inline thread"
. "$(dirname "$0")/lib/run.sh"
begin

compare signals "$programs/signals" --size 48
finish
