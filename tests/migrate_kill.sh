#!/bin/bash
# timeout: 170
# The processes of linehome migrate are killed while a guest moves: it is unharmed, and one of it.
. "$(dirname "$0")/lib/guest.sh"
guest kill
