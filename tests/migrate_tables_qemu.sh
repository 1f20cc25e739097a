#!/bin/bash
# timeout: 120
# A guest's page tables, read as service/migrate/tables.c does, beside what QEMU says of them.
. "$(dirname "$0")/lib/guest.sh"
guest tables
