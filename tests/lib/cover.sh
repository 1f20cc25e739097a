# cover.sh - what the tests of coverage's lines and reports share: a work folder with a cache of plans, TAP, and the
# tools that say the same in another way (cover.py).
# shellcheck shell=bash disable=SC2034 # who sources this uses the variables
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
root=$PWD
tools=$(realpath "${LINEHOME_BUILD:-build}/tests/tools")
cover() { python3 "$root/tests/lib/cover.py" "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache

count=0 failed=0
report() { # report STATUS TEXT: STATUS 0 passes
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		failed=1
	fi
}
skip() { # skip TEXT WHY
	count=$((count + 1))
	echo "ok $count - $1 # SKIP $2"
}
