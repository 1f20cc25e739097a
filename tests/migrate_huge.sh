#!/bin/bash
# timeout: 120
# Guests whose memory is huge pages: those of Firecracker are served, those of QEMU are refused in one line.
. "$(dirname "$0")/lib/guest.sh"
guest huge
