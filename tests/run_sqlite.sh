#!/bin/bash
# timeout: 200
# sqlite3 with a large database in memory.
. "$(dirname "$0")/lib/run.sh"
need /usr/bin/sqlite3
begin

compare sqlite /usr/bin/sqlite3 -bail :memory: ".read tests/programs/orders.sql"
finish
