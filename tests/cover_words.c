/* What reports are written with: percentages that never flatter, and text that is UTF-8 or not. */
#include <string.h>

#include "service/code/report_parts.h"
#include "tap.h"

static void tenths(void)
{
	is(lh__report_tenths(0, 0), 1000, "0 of 0 is all");
	is(lh__report_tenths(0, 7), 0, "0 of 7");
	is(lh__report_tenths(7, 7), 1000, "7 of 7");
	is(lh__report_tenths(1999, 2000), 999, "all but one of many is not all");
	is(lh__report_tenths(UINT64_MAX - 1, UINT64_MAX), 999, "of the most there can be, too");
	is(lh__report_tenths(1, 3), 333, "rounded down");
}

static void utf8(void)
{
	static const struct {
		const char *text;
		unsigned size;
	} cases[] = {
		{ "", 0 },
		{ "a", 1 },
		{ "\x7f", 1 },
		{ "\xc3\xa4", 2 },
		{ "\xe2\x82\xac", 3 },
		{ "\xed\x9f\xbf", 3 },
		{ "\xf0\x9f\x98\x80", 4 },
		{ "\xf4\x8f\xbf\xbf", 4 },
		{ "\x80", 0 },
		{ "\xc0\x80", 0 },         /* too long for what it is */
		{ "\xc1\xbf", 0 },         /* likewise */
		{ "\xe0\x9f\xbf", 0 },     /* likewise */
		{ "\xf0\x8f\xbf\xbf", 0 }, /* likewise */
		{ "\xed\xa0\x80", 0 },     /* a surrogate */
		{ "\xf4\x90\x80\x80", 0 }, /* behind the last */
		{ "\xf5\x80\x80\x80", 0 },
		{ "\xff", 0 },
		{ "\xe2\x82", 0 }, /* ends early */
		{ "\xf0\x9f\x98", 0 },
		{ "\xc3", 0 },
		{ "\xc3(", 0 },
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		is(lh__report_utf8(cases[i].text), cases[i].size, "UTF-8, case %zu", i);
}

/* Functions that are in two modules are one of the source, and ran if one of the two did. */
static void functions(void)
{
	struct lh_cover_function function[] = {
		{ .name = "one", .file = 0, .line = 3, .module = 0 },
		{ .name = "one", .file = 0, .line = 3, .module = 1, .hit = true },
		{ .name = "two", .file = 0, .line = 3, .module = 0 },
		{ .name = "two", .file = UINT32_MAX, .line = 0, .module = 0, .hit = true },
		{ .name = "two", .file = UINT32_MAX, .line = 0, .module = 1 },
	};
	struct lh_coverage coverage = { .functions = 5, .function = function };
	struct lh_report_totals totals;

	lh__report_totals(&coverage, &totals);
	is(totals.functions, 4, "a function of the source that two modules have counts once");
	is(totals.functions_hit, 2, "and ran if it ran in one; those of unknown sources are several");
	ok(lh__report_function_hit(&coverage, 0) && !lh__report_function_hit(&coverage, 2), "each by itself");
}

int main(void)
{
	const struct lh_report_format *format = lh__report_formats;

	tenths();
	utf8();
	functions();
	while (format->name && strcmp(format->name, "json"))
		format++;
	ok(format->name && format->write == lh__report_json, "formats are known by name");
	return done();
}
