#!/bin/bash
# timeout: 200
# python3 building and walking large dicts and lists.
. "$(dirname "$0")/lib/run.sh"
need /usr/bin/python3
begin

export PYTHONHASHSEED=0
compare python /usr/bin/python3 tests/programs/dicts.py 120000
finish
