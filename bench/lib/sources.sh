# sources.sh - the sources of Debian's packages, for benchmarks that need a program built in several ways. Fetched and
# verified by apt, with lists of its own, so the machine's are left alone.
# shellcheck shell=bash disable=SC2154 # $build is bench.sh's
sources=$build/bench/sources

# source_of PACKAGE: $source becomes the folder of its sources, fetched where they are not there yet.
source_of() {
	local apt=$sources/apt options
	source=$(find "$sources" -mindepth 1 -maxdepth 1 -type d -name "$1-*" 2>/dev/null | head -n 1)
	[ -z "$source" ] || return 0
	mkdir -p "$apt/lists/partial"
	(. /etc/os-release && echo "deb-src http://deb.debian.org/debian $VERSION_CODENAME main") >"$apt/list"
	options=(-o "Dir::Etc::sourcelist=$apt/list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists")
	if ! { apt-get "${options[@]}" update && cd "$sources" &&
		apt-get "${options[@]}" source --download-only "$1"; } >"$apt/log" 2>&1 </dev/null; then
		echo "# the sources of $1 cannot be fetched: $(tail -n 1 "$apt/log")"
		return 1
	fi
	(cd "$sources" && tar xf "$1"_*.orig.tar.*z*) && source=$(find "$sources" -mindepth 1 -maxdepth 1 -type d -name "$1-*" | head -n 1)
}
