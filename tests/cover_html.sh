#!/bin/bash
# timeout: 120
# Pages of HTML: that they are one file which loads nothing, that their data can be read whatever the names and
# sources are, and what a browser makes of them when it is clicked and typed into. Without a browser (Debian's package
# chromium; it is not among those that scripts/deps installs, for its size) the second half is skipped.
set -u
cd "$(dirname "$0")/.." || exit 1
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
sample=${LINEHOME_BUILD:-build}/tests/tools/html_sample
mkdir "$files/source"

"$sample" cover "$files/source" >"$files/cover.html" &&
	"$sample" empty >"$files/empty.html" &&
	"$sample" trace html 120 90 >"$files/trace.html" &&
	"$sample" trace html 3000 400 >"$files/long.html" &&
	"$sample" trace html 0 0 >"$files/none.html" &&
	"$sample" trace json 120 90 >"$files/trace.json" &&
	"$sample" trace json 0 0 >"$files/none.json" &&
	"$sample" trace table 120 90 >"$files/trace.txt" &&
	"$sample" trace table 0 0 >"$files/none.txt" || echo "not ok - pages are written"
"$sample" empty >/dev/full && echo "not ok - a full disk is an error"
python3 tests/lib/html_checks.py "$files"
