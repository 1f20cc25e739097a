#!/bin/bash
# timeout: 90
# The guest that tests migrate finds pages that are zero, another's or old, down to one line.
. "$(dirname "$0")/lib/guest.sh"
guest checker
