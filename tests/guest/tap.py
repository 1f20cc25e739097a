"""TAP for tests of virtual machines: checks, skips with the reason, and an end that does not hide a trouble."""
import sys
import traceback

from guest import Absent

count = failures = 0


def note(text):
    for line in str(text).split('\n'):
        print('# ' + line, flush=True)


def ok(passed, what, *why):
    global count, failures
    count += 1
    print('%sok %d - %s' % ('' if passed else 'not ', count, what), flush=True)
    if not passed:
        failures += 1
        for one in why:
            note(one)
    return passed


def same(got, wanted, what):
    return ok(got == wanted, what, 'got: %s' % (got,), 'wanted: %s' % (wanted,))


def skip(what, reason):
    global count
    count += 1
    print('ok %d - %s # SKIP %s' % (count, what, reason), flush=True)


def run(main):
    try:
        main()
    except Absent as reason:
        if count == 0:
            print('1..0 # SKIP %s' % reason)
            sys.exit(0)
        skip('the rest', reason)
    except Exception:  # whatever it was, the plan must not look complete
        ok(False, 'the test came to its end', traceback.format_exc())
    print('1..%d' % count)
    sys.exit(failures != 0)
