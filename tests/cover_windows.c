/*
 * cover_windows.c - windows of live code: which functions they name, and what is counted of them.
 */
#include <errno.h>
#include <fcntl.h>

#include "service/code/plan_make.h"
#include "service/code/windows.h"
#include "tap.h"

static const uint8_t program[4] = { 1, 2, 3, 4 }, library[4] = { 1, 2, 3, 5 };

static struct lh_cover_module modules[] = {
	{ .path = "/bin/program", .name = "program", .id = program, .id_size = 4 },
	{ .path = "/lib/library", .name = "library", .id = library, .id_size = 4 },
};
/* first and second share the line at 0x1040; in the library something has the program's addresses. */
static struct lh_cover_function functions[] = {
	{ .name = "second", .module = 0, .address = 0x1060, .size = 0x3000 },
	{ .name = "other", .module = 1, .address = 0x1000, .size = 0x100 },
	{ .name = "first", .module = 0, .address = 0x1010, .size = 0x50 },
	{ .name = "inlined", .module = 0 },
	{ .name = "quiet", .module = 0, .address = 0x9000, .size = 0x100 },
};
static const struct lh_coverage coverage = {
	.modules = 2, .functions = 5, .module = modules, .function = functions
};

static void see(struct lh_windows *windows, const uint8_t *id, uint64_t address, uint64_t starts)
{
	if (lh__windows_line(windows, id, 4, address, starts) != 0)
		ok(0, "a line is taken in");
}

static const struct lh_trace_function *find(const struct lh_trace_model *model, const char *name)
{
	for (uint32_t i = 0; i < model->functions; i++)
		if (strcmp(model->function[i].name, name) == 0)
			return &model->function[i];
	return NULL;
}

static void fill(struct lh_windows *windows)
{
	/* Both parts of the shared line, in two pieces; the line before, and one far away on another page. */
	see(windows, program, 0x3000, 1);
	see(windows, program, 0x1040, 1ull << 32);
	see(windows, program, 0x1000, 1ull << 16);
	see(windows, program, 0x1040, 1ull << 0);
	see(windows, program, 0x1000, 0);
	is(lh__windows_next(windows, 100), 0, "a window ends");
	/* Nothing. */
	is(lh__windows_next(windows, 250), 0, "another, in which nothing was live");
	/* What is in no function, the same address in another module, and the first function alone. */
	see(windows, program, 0x1000, 1ull << 3);
	see(windows, library, 0x1000, 1ull << 16);
	see(windows, program, 0x1040, 1ull << 31);
	is(lh__windows_next(windows, 300), 0, "and a third");
	/* One that never ends does not count. */
	see(windows, program, 0x9000, 1);
}

static void check_windows(const struct lh_trace_model *model)
{
	is(model->windows, 3, "windows that have ended");
	is(model->window[0].start, 0, "the first begins at once");
	is(model->window[2].start, 250, "the others where the one before ends");
	is(model->end, 300, "the last ends");
	is(model->window[0].lines, 3, "lines of the first");
	is(model->window[0].functions, 2, "its functions");
	is(model->window[0].pages, 2, "its pages");
	is(model->window[1].lines + model->window[1].functions + model->window[1].pages, 0, "none");
	is(model->window[2].lines, 3, "lines of the third");
	is(model->window[2].functions, 2, "its functions");
	is(model->window[2].pages, 2, "pages of two modules are two");
}

static void check_functions(const struct lh_trace_model *model)
{
	const struct lh_trace_function *first = find(model, "first"), *second = find(model, "second"),
				       *other = find(model, "other");

	is(model->functions, 3, "functions that were live");
	ok(first && second && other, "are these");
	if (!first || !second || !other)
		return;
	ok(strcmp(model->function[0].name, "first") == 0, "the hottest is first");
	is(first->total, 3, "two lines, and one");
	is(first->cells, 2, "in two windows");
	is(first->cell[0].lines, 2, "two in the first");
	is(first->cell[1].window, 2, "and in the third");
	is(first->cell[1].lines, 1, "the line that two share is its own only by its half");
	is(first->lines, 2, "it touches two lines");
	is(second->cells, 1, "the other half was live in one window");
	is(second->total, 2, "and a line far away");
	is(second->lines, 0xc1, "of as many lines as its bytes touch");
	is(other->cells, 1, "an address means another function in another module");
	ok(strcmp(other->module, "library") == 0, "which is named");
}

/* Many windows of many lines: arrays grow, order stays. */
static void check_many(void)
{
	struct lh_windows *windows;
	struct lh_trace_model *model = NULL;
	uint64_t lines = 0;

	if (lh__windows_open(&windows) != 0)
		return;
	for (uint32_t i = 0; i < 1000; i++) {
		for (uint32_t j = 0; j < 100; j++)
			see(windows, program, 0x1080 + 64 * ((j * 37) % 190), 1);
		if (lh__windows_next(windows, i) != 0)
			ok(0, "a window ends");
	}
	is(lh__windows_model(windows, &coverage, &model), 0, "a model of many windows");
	for (uint32_t i = 0; i < model->windows; i++)
		lines += model->window[i].lines;
	is(lines, 100000, "has all lines");
	is(model->function[0].cells, 1000, "and all windows");
	is(model->function[0].total, 100000, "of the function");
	lh__windows_free(model);
	lh__windows_close(windows);
}

/* ---- hits of a record, of this very program */

static const char self[] = "/proc/self/exe";

static bool bit(const struct lh_plan *plan, uint64_t bitmap, uint64_t at)
{
	return ((const uint8_t *)plan->head)[bitmap + at / 8] >> at % 8 & 1;
}

/* An armed start, a few instructions before the end of its block; UINT64_MAX: there is none. */
static uint64_t some_block(const struct lh_plan *plan, uint64_t *end)
{
	const struct lh_plan_text *text = &plan->head->text[0];

	for (uint64_t at = 0; at < text->size; at++) {
		if (!bit(plan, text->armed, at))
			continue;
		for (*end = at; *end < text->size && !bit(plan, text->ends, *end);)
			++*end;
		if (*end<text->size && * end - at> 40)
			return at;
	}
	return UINT64_MAX;
}

/* What is live by a record with that one hit, of a module at path. */
static struct lh_trace_model *live_by(const struct lh_plan *plan, const char *path, uint64_t at,
                                      enum lh_granularity granularity, const struct lh_coverage *named)
{
	struct lh_trace_model *model = NULL;
	struct lh_windows *windows;
	struct lh_record_view view;
	struct lh_record *record;
	char *command[] = { "self", NULL };

	if (lh__windows_open(&windows) != 0 ||
	    lh__record_create(NULL, granularity, command, &record, NULL) != 0)
		return NULL;
	if (lh__record_add(record, plan->head, path, true, 0, &view, NULL) == 0) {
		view.hits[0][at / 64] |= 1ull << at % 64;
		is(lh__windows_add(windows, record, 10, NULL), 0, "a record is taken in");
		is(lh__windows_add(windows, record, 20, NULL), 0, "and again");
		is(lh__windows_model(windows, named, &model), 0, "its model");
	}
	lh__record_close(record);
	lh__windows_close(windows);
	return model;
}

/* Functions of one byte each: the hit, the end of its block, and what follows it. */
static void check_record(const struct lh_plan *plan, uint64_t at, uint64_t end)
{
	const struct lh_plan_text *text = &plan->head->text[0];
	struct lh_cover_module module = { .name = "self",
		                          .id = plan->head->id,
		                          .id_size = plan->head->id_size };
	struct lh_cover_function function[] = {
		{ .name = "hit", .address = text->address + at, .size = 1 },
		{ .name = "end", .address = text->address + end, .size = 1 },
		{ .name = "behind", .address = text->address + end + 1, .size = 64 },
	};
	struct lh_coverage named = { .modules = 1, .functions = 3, .module = &module, .function = function };
	struct lh_trace_model *model = live_by(plan, self, at, LH_GRANULARITY_BLOCK, &named);

	ok(model && find(model, "hit") && find(model, "end") && !find(model, "behind"),
	   "a hit stands for its block");
	is(model ? model->windows : 0, 2, "in both windows");
	is(model ? model->window[1].lines : 0, end / 64 - at / 64 + 1, "the block's lines are live");
	lh__windows_free(model);
	model = live_by(plan, self, at, LH_GRANULARITY_LINE, &named);
	is(model ? model->window[0].lines : 0, 1, "by line, for its line");
	lh__windows_free(model);
	model = live_by(plan, "/gone", at, LH_GRANULARITY_BLOCK, &named);
	ok(model && find(model, "hit") && !find(model, "end"), "without a plan, for itself");
	lh__windows_free(model);
	model = live_by(plan, "/bin/sh", at, LH_GRANULARITY_BLOCK, &named);
	ok(model && find(model, "hit") && !find(model, "end"), "a file that is another by now has no say");
	lh__windows_free(model);
}

static void check_hits(void)
{
	struct lh_error error = { 0 };
	struct lh_plan plan;
	uint64_t at, end;
	int file = open(self, O_RDONLY | O_CLOEXEC);

	/* No cache: nothing is left behind. */
	setenv("XDG_CACHE_HOME", "/dev/null", 1);
	if (lh__plan_open(&lh__sys_default, file, self, &plan, &error) != 0) {
		ok(0, "a plan of this program: %s", error.text);
		return;
	}
	close(file);
	at = some_block(&plan, &end);
	ok(at != UINT64_MAX, "this program has a block");
	if (at != UINT64_MAX)
		check_record(&plan, at, end);
	lh__plan_close(&lh__sys_default, &plan);
}

int main(void)
{
	struct lh_windows *windows;
	struct lh_trace_model *model = NULL;
	FILE *full = fopen("/dev/full", "w");

	is(lh__windows_open(&windows), 0, "a collector");
	fill(windows);
	is(lh__windows_model(windows, &coverage, &model), 0, "its model");
	lh__windows_close(windows);
	if (model) {
		check_windows(model);
		check_functions(model);
	}
	is(lh__windows_json(model, full), -ENOSPC, "a full disk is an error");
	fclose(full);
	lh__windows_free(model);
	lh__windows_free(NULL);
	check_many();
	check_hits();
	return done();
}
