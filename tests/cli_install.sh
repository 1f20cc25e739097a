#!/bin/bash
# timeout: 120
# What a person has after make install: it is all there, it runs from there, a program can be built against it with
# what pkg-config says, the examples of the manual work as they are printed, and make uninstall leaves nothing.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
export MAKEFLAGS=

count=0 failed=0
ok() { # ok TEXT COMMAND...: the command succeeds
	local text=$1
	shift
	count=$((count + 1))
	if "$@" >"$root/log" 2>&1; then
		echo "ok $count - $text"
	else
		echo "not ok $count - $text"
		sed 's/^/# /' "$root/log" | head -n 20
		failed=1
	fi
}

version=$(sed -n 's/^.define LH_VERSION "\(.*\)"/\1/p' include/linehome.h)
prefix=$root/prefix
build=$root/build
lib=$prefix/lib

if [ -n "${SAN:-}" ]; then
	echo '1..0 # SKIP what is installed is never sanitized'
	exit 0
fi
# A copy of what is built, since another PREFIX builds the launcher anew.
from=${LINEHOME_BUILD:-build}
mkdir "$build"
cp -a "$from"/obj "$from"/flags "$from"/liblinehome* "$from"/linehome "$build/"

ok 'make install' make -s install BUILD="$build" SAN= MODE=release PREFIX="$prefix"
for file in bin/linehome include/linehome.h include/linehome/patch.h lib/liblinehome.a "lib/liblinehome.so.$version" lib/liblinehome.so \
	lib/linehome/liblinehome-run.so lib/linehome/liblinehome-count.so lib/linehome/liblinehome-atomic.so lib/linehome/liblinehome-uffd.so include/linehome/atomic.h lib/pkgconfig/linehome.pc share/man/man1/linehome.1 \
	share/man/man1/linehome-pool.1 share/man/man1/linehome-patch.1 share/man/man3/lh_patch.3 \
	share/man/man1/linehome-run.1 share/man/man1/linehome-serve.1 share/man/man3/linehome.3 \
	share/man/man3/lh_pool.3 share/man/man3/lh_tx.3 share/man/man3/lh_pool_alloc.3 \
	share/bash-completion/completions/linehome; do
	ok "there is $file" test -s "$prefix/$file"
done
ok 'the version in numbers is the version in words' bash -c 'grep -q "define LH_VERSION_MAJOR ${1%%.*}$" "$2" &&
	minor=${1#*.} && grep -q "define LH_VERSION_MINOR ${minor%.*}$" "$2" &&
	grep -q "define LH_VERSION_PATCH ${1##*.}$" "$2"' - "$version" include/linehome.h
ok 'the changelog tells of this version' grep -q "^## $version" CHANGELOG.md
ok 'linehome --version' bash -c '[ "$("$1" --version)" = "linehome $2" ]' - "$prefix/bin/linehome" "$version"

ok 'linehome run finds the agent that was installed' bash -c '[ "$("$1" run --local 64M -- echo here)" = here ]' - \
	"$prefix/bin/linehome"

ok 'and linehome count its own' bash -c '[ "$("$1" count -o "$2" -- echo here)" = here ] && grep -q instructions "$2"' - \
	"$prefix/bin/linehome" "$root/counts"

printf 'int main(void) { return 0; }\n' | cc -x c -o "$root/main" -
ok 'and linehome atomic its own, with the library' bash -c '[ "$("$1" atomic --begin main --end main -- "$2" 2>&1)" = \
	"linehome atomic: main: runs without a transaction: no pool is open with LH_SEE_TRANSLATED" ]' - \
	"$prefix/bin/linehome" "$root/main"

export PKG_CONFIG_PATH=$lib/pkgconfig
ok 'pkg-config has the version' bash -c '[ "$(pkg-config --modversion linehome)" = "$1" ]' - "$version"
build_and_run() { # build_and_run SOURCE: with nothing but what is installed
	# shellcheck disable=SC2046 # flags are words
	cc -std=c11 -Wall -Wextra -Werror -o "$root/program" "$1" $(pkg-config --cflags --libs linehome) &&
		[ "$(LD_LIBRARY_PATH=$lib "$root/program")" = "linehome $version" ]
}
ok 'examples/version.c, built against what is installed' build_and_run examples/version.c
# From the first line of the example to the end of its function.
mandoc -T ascii docs/man/linehome.3 | sed $'s/.\b//g' | sed '1,/^EXAMPLES/d' | sed -n '/#include/,/^ *}$/p' >"$root/manual.c"
ok 'the example of linehome(3), as it is printed' build_and_run "$root/manual.c"
# shellcheck disable=SC2046 # flags are words
ok 'a program links the archive' cc -o "$root/static" examples/counter.c -I"$prefix/include" "$lib/liblinehome.a" \
	$(pkg-config --static --libs-only-l linehome | sed 's/-llinehome//')
printf '#include <linehome.h>\nint main() { return lh_version() == nullptr; }\n' >"$root/plus.cc"
if command -v c++ >/dev/null; then
	printf '#include <linehome/patch.h>\nextern "C" int f(int);\nLH_PATCH_ORIGINAL(old, f, int (int));\nint g(int v) { return old(v); }\nLH_PATCH_REPLACE(f, g);\nLH_PATCH_NAME("x");\n' >"$root/patch.cc"
	ok 'a patch in C++' c++ -Wall -Wextra -Werror -fPIC -shared -o "$root/patch.so" -I"$prefix/include" "$root/patch.cc"
	ok 'the header is C++ too' c++ -Wall -Wextra -Werror -fsyntax-only -I"$prefix/include" "$root/plus.cc"
fi

ok 'make uninstall' make -s uninstall BUILD="$build" SAN= MODE=release PREFIX="$prefix"
ok 'nothing is left' bash -c '[ -z "$(find "$1" -type f -o -type l)" ]' - "$prefix"
ok 'make install with DESTDIR' make -s install BUILD="$build" SAN= MODE=release PREFIX=/usr DESTDIR="$root/package"
ok 'pkg-config names the place without DESTDIR' grep -q '^libdir=/usr/lib$' "$root/package/usr/lib/pkgconfig/linehome.pc"
if [ ! -e /usr/lib/linehome ]; then
	ok 'the launcher looks for the agent without DESTDIR, and says where' bash -c '! "$1" run true 2>"$2" &&
		grep -q "^linehome run: /usr/lib/linehome/liblinehome-run.so: the agent is missing; " "$2"' \
		- "$root/package/usr/bin/linehome" "$root/message"
fi

echo "1..$count"
exit $failed
