#!/bin/bash
# timeout: 120
# A guest is saved into a folder while it runs, and comes back from there, lazily, any number of times.
. "$(dirname "$0")/lib/guest.sh"
guest snapshot
