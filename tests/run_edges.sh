#!/bin/bash
# timeout: 200
# Calls about memory that fail, advice about forks, children of a child of vfork, and threads that die with robust mutexes.
engines="thread inline"
. "$(dirname "$0")/lib/run.sh"
begin
limit_seconds=60
compare edges "$programs/edges" --size 24
finish
