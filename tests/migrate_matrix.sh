#!/bin/bash
# timeout: 240
# A self-checking guest moves in every way there is, and finds none of its memory changed.
. "$(dirname "$0")/lib/guest.sh"
guest matrix
