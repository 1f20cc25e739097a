#!/bin/bash
# timeout: 300
# A guest moves between two hosts whose network breaks; the wrong key; Ctrl-C.
. "$(dirname "$0")/lib/guest.sh"
guest net
