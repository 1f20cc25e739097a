#!/bin/bash
# timeout: 200
# sqlite3 with its whole database in the page cache; the database file must be the same too.
. "$(dirname "$0")/lib/run.sh"
need /usr/bin/sqlite3
begin

compare sqlite /usr/bin/sqlite3 -bail "$work/db" ".read tests/programs/orders.sql"
finish
