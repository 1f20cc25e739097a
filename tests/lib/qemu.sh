# qemu.sh - what tests that compare with qemu's own translator share: its plugin is built, or the test skipped.
#
#     . "$(dirname "$0")/lib/qemu.sh"; plugin NAME    $work/NAME.so, of tests/qemu/NAME.c
#
# shellcheck shell=bash disable=SC2034 # who sources this uses the variables
build=$(realpath "${LINEHOME_BUILD:-build}")
here=$(cd "$(dirname "$0")" && pwd)
if ! command -v qemu-x86_64 >/dev/null; then
	echo "1..0 # SKIP qemu-x86_64 is not here: scripts/deps --bench"
	exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
count=0 failures=0

plugin() { # plugin NAME
	"${CC:-cc}" -O2 -fPIC -shared -o "$work/$1.so" "$here/qemu/$1.c" && return
	echo "Bail out! the plugin does not compile"
	exit 1
}
result() { # result STATUS TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		failures=$((failures + 1))
		echo "not ok $count - $2"
	fi
}
