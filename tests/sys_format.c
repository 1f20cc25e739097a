/* sys_format.c - messages without stdio: the same as snprintf where both know a conversion. */
#include "sys/sys.h"
#include "tap.h"

#include <errno.h>
#include <limits.h>

/* Formats with both and compares, with room and with hardly any. */
#define SAME(...)                                                                                            \
	do {                                                                                                 \
		char mine[100], theirs[100], small[8];                                                       \
		size_t length = lh__format(mine, sizeof mine, __VA_ARGS__);                                  \
		int wanted = snprintf(theirs, sizeof theirs, __VA_ARGS__);                                   \
		ok(length == (size_t)wanted && strcmp(mine, theirs) == 0, "\"%s\"", mine);                   \
		length = lh__format(small, sizeof small, __VA_ARGS__);                                       \
		ok(length == (wanted < 7 ? (size_t)wanted : 7) && strlen(small) == length &&                 \
		           memcmp(small, theirs, length) == 0,                                               \
		   "... cut to \"%s\"", small);                                                              \
	} while (0)

static void unknown_conversions(void)
{
	/* Not a literal, since the compiler would rightly object. */
	const char *volatile wide = "%d then %ls and %d", *volatile odd = "%d %5d", *volatile last = "%d0%";
	char text[100];

	(void)lh__format(text, sizeof text, wide, 1, L"x", 2);
	ok(strcmp(text, "1 then %ls and %d") == 0, "an unknown conversion ends the formatting: \"%s\"", text);
	(void)lh__format(text, sizeof text, odd, 1, 2);
	ok(strcmp(text, "1 %5d") == 0, "a width is unknown: \"%s\"", text);
	(void)lh__format(text, sizeof text, last, 5);
	ok(strcmp(text, "50%") == 0, "a lone %% at the end");
}

static void failing(void)
{
	struct lh_error error;
	char one[1] = { 'x' };

	memset(&error, 'x', sizeof error);
	is(lh__fail(&error, -EINVAL, "%s: not a size", "12Q"), -EINVAL, "lh__fail returns the code");
	ok(error.code == -EINVAL && strcmp(error.text, "12Q: not a size") == 0,
	   "... and leaves code and text");
	is(lh__fail(NULL, -EIO, "%s", "nobody listens"), -EIO, "without an error to fill");
	is(lh__format(one, 1, "abc"), 0, "room for the terminator alone");
	is(one[0], 0, "... which is there");
	one[0] = 'x';
	is(lh__format(one, 0, "abc"), 0, "no room at all");
	is(one[0], 'x', "... nothing is written");
}

static void long_text(void)
{
	static char word[1000];
	struct lh_error error;

	memset(word, 'w', sizeof word - 1);
	(void)lh__fail(&error, -EIO, "%s", word);
	is(strlen(error.text), sizeof error.text - 1, "a text that is too long is cut");
}

static void names(void)
{
	ok(strcmp(lh__errno_name(-ENOSPC), "ENOSPC") == 0, "ENOSPC");
	ok(strcmp(lh__errno_name(ENOSPC), "ENOSPC") == 0, "ENOSPC without the sign");
	ok(strcmp(lh__errno_name(EAGAIN), "EAGAIN") == 0, "EAGAIN");
	ok(strcmp(lh__errno_name(-ETIMEDOUT), "ETIMEDOUT") == 0, "ETIMEDOUT");
	ok(strcmp(lh__errno_name(0), "no error") == 0, "0");
	ok(strcmp(lh__errno_name(-99999), "an unknown error") == 0, "a number that is none");
	ok(strcmp(lh__errno_name(INT_MIN), "an unknown error") == 0, "the smallest number");
}

int main(void)
{
	SAME("plain text");
	SAME("%s", "");
	SAME("%s and %s", "one", "two");
	SAME("%d %d %d", 0, INT_MAX, INT_MIN);
	SAME("%u %x", UINT_MAX, 0xdeadbeefu);
	SAME("%ld %ld", LONG_MAX, LONG_MIN);
	SAME("%lu %lx", ULONG_MAX, 0x123456789abcdefUL);
	SAME("%zu %zx", (size_t)0, (size_t)4096);
	SAME("%c%c%%", 'a', 'b');
	unknown_conversions();
	failing();
	long_text();
	names();
	return done();
}
