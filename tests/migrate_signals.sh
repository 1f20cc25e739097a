#!/bin/bash
# timeout: 240
# Ctrl-C at any moment of a move, a terminal that goes, a reader that goes: the guest is unharmed, and where it is said to be.
. "$(dirname "$0")/lib/guest.sh"
guest signals
