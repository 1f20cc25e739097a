#!/bin/bash
# nginx under load by wrk, patched and reverted 100 times (ROUNDS): no failed request, a visible change each time, and
# for how long its worker was stopped. What is done stands in tests/patch_nginx.sh.
ROUNDS=${ROUNDS:-100} exec bash "$(dirname "$0")/../tests/patch_nginx.sh"
