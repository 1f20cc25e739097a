# guest.sh - what tests that migrate virtual machines share: what they need is here, or they are skipped.
#
#     . "$(dirname "$0")/lib/guest.sh"; guest NAME [WORD...]    runs tests/guest/NAME.py in place of this shell
#
# shellcheck shell=bash
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

guest() {
	local name=$1 program
	shift
	for program in qemu-system-x86_64 cpio python3; do
		command -v "$program" >/dev/null && continue
		echo "1..0 # SKIP $program is not installed (scripts/deps)"
		exit 0
	done
	export PYTHONDONTWRITEBYTECODE=1
	exec python3 "tests/guest/$name.py" "$@"
}
