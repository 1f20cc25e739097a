#!/bin/bash
# timeout: 120
# What the statistics say of a guest's silence is what it felt, by its own clock and its console.
. "$(dirname "$0")/lib/guest.sh"
guest felt
