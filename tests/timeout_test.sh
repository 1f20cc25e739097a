#!/bin/bash
# timeout: 60
# scripts/timeout-test: of a test that fails it says on stderr what was wrong, however the test ended, and of one that
# passes nothing. Each test that it is given here is planted.
. "$(dirname "$0")/lib/run.sh"

given() { # given NAME, with the test as stdin; its standard streams go to $work/out and $work/err
	cat >"$work/$1.sh"
	SAN='' LH_TEST_LONG='' scripts/timeout-test "$work/$1.sh" >"$work/out" 2>"$work/err"
	status=$?
}
says() { # says TEXT WHAT: a line of stderr
	grep -qxF "$1" "$work/err"
	ok $? "$2" || note_file "$work/err"
}

given passes <<'T'
echo '# seed 5'; echo 'ok 1 - it'; echo 'said' >&2; echo '1..1'
T
is "$status $(cat "$work/err")" '0 said' 'a test that passes: nothing but what it said itself'

given fails <<'T'
echo '# LH_TEST_SEED=77'
for i in $(seq 30); do echo "ok $i - it"; done
for i in $(seq 9); do echo "# comment $i"; done
echo 'not ok 31 - it holds'; echo '# got 1, wanted 2'; echo 'ok 32 - it'; echo '1..32'
exit 1
T
is "$status" 1 'a test that fails: its status'
says '# fails: ended with status 1' 'and stderr tells it'
says '# fails: # LH_TEST_SEED=77' 'the seed, which stands far before'
says '# fails: not ok 31 - it holds' 'what failed'
says '# fails: # comment 2' 'the comments before it'
says '# fails: # got 1, wanted 2' 'and behind it'
is "$(grep -c 'comment 1$\|ok 32' "$work/err")" 0 'and not all'
is "$(tail -n 1 "$work/out")" 1..32 'stdout is as it was'

given ends_well <<'T'
echo 'not ok 1 - it holds'; echo '1..1'
T
says '# ends_well: not ok 1 - it holds' 'a failure of a test that ends with 0'

given dies <<'T'
echo 'ok 1 - it'; echo '# in the middle'; echo 'x.c:5: runtime error: null pointer' >&2; kill -SEGV $$
T
is "$status" 139 'a test that dies: its status'
says '# dies: died of signal 11 (SEGV)' 'by what'
says '# dies: # in the middle' 'what it said last'
says '# dies: x.c:5: runtime error: null pointer' 'and what a sanitizer did'

given stops <<'T'
echo 'ok 1 - it'; exit 0
T
says '# stops: ok 1 - it' 'a test that ends before its plan, with 0'

given hangs <<'T'
# timeout: 1
echo '# waits'; sleep 30
T
is "$status" 124 'a test that hangs: its status'
says '# hangs: # waits' 'what it said last'
grep -q '^# hangs: stopped after 1 s' "$work/err"
ok $? 'and that it was stopped'
grep -q '^not ok - hangs ended within 1 s' "$work/out"
ok $? 'which is a failure of its own'

finish
