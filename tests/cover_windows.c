/*
 * cover_windows.c - windows of live code: which functions they name, and what is counted of them.
 */
#include <errno.h>

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
	return done();
}
