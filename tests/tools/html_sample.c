/*
 * html_sample.c - pages of HTML about programs that never were, for tests of what a browser makes of them.
 *
 *     html_sample cover FOLDER         names and sources that are hard to show; 3,000 files; 50,000 lines
 *     html_sample files FOLDER FILE..  these sources, each with some lines that ran
 *     html_sample empty                nothing at all
 *     html_sample trace html|table|json WINDOWS FUNCTIONS    windows of a trace
 *
 * Writes sources into FOLDER and the page to standard output. What ran is the same each time.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/code/report_parts.h"
#include "service/code/windows.h"

#define MANY 3000u
#define LONG 50000u

static struct lh_coverage coverage;
static uint32_t room_files, room_functions;

static void *need(void *pointer)
{
	if (!pointer) {
		fputs("html_sample: no memory\n", stderr);
		exit(1);
	}
	return pointer;
}

/* A sequence that looks random and is the same each time. */
static uint32_t mix(uint32_t value)
{
	value = (value ^ 61) ^ (value >> 16);
	value *= 9;
	value ^= value >> 4;
	value *= 0x27d4eb2d;
	return value ^ (value >> 15);
}

static struct lh_cover_file *add_file(const char *path, const char *found)
{
	struct lh_cover_file *file;

	if (coverage.files == room_files) {
		room_files = room_files ? 2 * room_files : 64;
		coverage.file = need(realloc(coverage.file, room_files * sizeof(*coverage.file)));
	}
	file = &coverage.file[coverage.files++];
	*file = (struct lh_cover_file){ .path = need(strdup(path)), .found = found };
	return file;
}

/* count executable lines, every step-th; those of which (line / 7) is mixed to a third did not run. */
static void add_lines(struct lh_cover_file *file, uint32_t first, uint32_t count, uint32_t step)
{
	file->line = need(calloc(count + 1, sizeof(*file->line)));
	for (uint32_t i = 0; i < count; i++) {
		struct lh_cover_line *line = &file->line[file->lines++];

		line->number = first + i * step;
		line->hit = mix(line->number / 7) % 3 != 0;
		file->hit += line->hit;
	}
}

static void add_function(const char *name, uint32_t file, uint32_t line, uint32_t last, uint32_t cells)
{
	struct lh_cover_function *function;
	uint8_t *heat = need(calloc(cells + 1, 1));
	uint32_t seed = mix(coverage.functions + 1);

	if (coverage.functions == room_functions) {
		room_functions = room_functions ? 2 * room_functions : 64;
		coverage.function =
			need(realloc(coverage.function, room_functions * sizeof(*coverage.function)));
	}
	function = &coverage.function[coverage.functions++];
	*function = (struct lh_cover_function){
		.name = need(strdup(name)),
		.file = file,
		.line = line,
		.last = last,
		.address = cells ? 0x401000 + coverage.functions * 0x100000ull : 0,
		.size = cells * 64 - (cells ? 20 : 0),
		.inlined = cells == 0,
		.hit = seed % 4 != 0,
		.code_lines = cells,
		.blocks = cells * 4,
		.heat = heat,
	};
	for (uint32_t i = 0; i < cells && function->hit; i++) {
		heat[i] = mix(seed + i / 5) % 3 ? (uint8_t)(mix(seed + i) | 1) : 0;
		function->blocks_hit += 4u * heat[i] / 255u;
	}
	if (file < coverage.files) {
		coverage.file[file].functions++;
		coverage.file[file].functions_hit += function->hit;
	}
}

static char *write_source(const char *folder, const char *name, const char *text, size_t size)
{
	char *path;
	FILE *out;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		need(NULL);
	out = need(fopen(path, "w"));
	fwrite(text, 1, size, out);
	fclose(out);
	return path;
}

/* What may stand in a source and must never be taken for markup, or break the text around it. */
static const char hard[] = "// </script><script>document.title = 'broken'</script>\r\n"
			   "/* <!-- <b>bold</b> &amp; \"quotes\" 'and' \\backslash */\n"
			   "\tint tab;\x01\x7f\n"
			   "\xc3\xa9t\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8f\xa0 \xe2\x80\xa8 end\n"
			   "bad: \xff \xc0\xaf \xed\xa0\x80 \xf8 \xe2\x82\n"
			   "\0nul\n"
			   "last without a newline \xc3";

static void add_hard(const char *folder)
{
	struct lh_cover_file *file;
	uint32_t at = coverage.files;

	file = add_file("/src/hard/<script>alert(1)</script> \"q\" 'a' & \xff\xc3\xa9.c",
	                write_source(folder, "hard.c", hard, sizeof(hard) - 1));
	add_lines(file, 1, 7, 1);
	add_function("operator<< <char, \"x\">(</script>)", at, 2, 4, 9);
	add_function("n\xc3\xa4me \xfe", at, 5, 7, 0);
	file = add_file("/src/hard/gone.c", NULL);
	add_lines(file, 3, 30, 2);
	add_function("in_gone", at + 1, 3, 61, 3);
	file = add_file("/src/hard/stale.c", write_source(folder, "stale.c", "int x;\n", 7));
	file->stale = true;
	add_lines(file, 1, 1, 1);
	add_file("/src/hard/nothing.c", write_source(folder, "nothing.c", "", 0));
	file = add_file("/src/hard/device.c", "/dev/zero");
	add_lines(file, 1, 3, 1);
}

static void add_long(const char *folder)
{
	char *text = need(malloc(LONG * 48)), *end = text;
	uint32_t at = coverage.files;
	struct lh_cover_file *file;
	char name[32];

	for (uint32_t i = 1; i <= LONG; i++)
		end += sprintf(end, "%s/* line %u */ x[%u] = y;\n", i % 25 ? "\t" : "", i, i);
	file = add_file("/src/long/long.c", write_source(folder, "long.c", text, (size_t)(end - text)));
	free(text);
	add_lines(file, 2, LONG / 2 - 1, 2);
	for (uint32_t i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "long_%u", i);
		add_function(name, at, i * 25 + 1, i * 25 + 25, i == 1000 ? 600 : 1 + i % 40);
	}
}

static void add_many(const char *folder)
{
	static const char text[] = "int f(void)\n{\n\treturn 1;\n}\n";
	char *found = write_source(folder, "many.c", text, sizeof(text) - 1);
	char path[64], name[32];

	for (uint32_t i = 0; i < MANY; i++) {
		snprintf(path, sizeof(path), "/src/many/part%02u/deep/file%u.c", i % 50, i);
		add_lines(add_file(path, found), 1, 4, 1);
		snprintf(name, sizeof(name), "many_%u", i);
		add_function(name, coverage.files - 1, 1, 4, 1 + i % 5);
	}
}

static void add_modules(void)
{
	static struct lh_cover_module modules[] = {
		{ .path = "/usr/bin/a <program>",
		  .name = "a <program>",
		  .is_program = true,
		  .has_lines = true,
		  .blocks = 20000,
		  .blocks_hit = 12345,
		  .code = 999999 },
		{ .path = "/usr/lib/libstripped.so",
		  .name = "libstripped.so",
		  .why_not = "it is stripped & has no <debug> file",
		  .functions = 2,
		  .functions_hit = 1,
		  .blocks = 12,
		  .blocks_hit = 3,
		  .code = 4096 },
	};

	coverage.modules = 2;
	coverage.module = modules;
	modules[0].functions = coverage.functions;
	for (uint32_t i = 0; i < coverage.functions; i++)
		modules[0].functions_hit += coverage.function[i].hit;
	add_function("stripped_one", UINT32_MAX, 0, 0, 4);
	add_function("0x1180", UINT32_MAX, 0, 0, 2);
	coverage.function[coverage.functions - 2].module = 1;
	coverage.function[coverage.functions - 1].module = 1;
}

static const char *last_word(const char *text)
{
	const char *space = strrchr(text, ' ');

	return space ? space + 1 : text;
}

/* Functions of C as this tree writes it: a brace in the first column begins and ends one. */
static void add_real(const char *path)
{
	FILE *in = need(fopen(path, "r"));
	uint32_t at = coverage.files, number = 0, begin = 0;
	char line[4096], before[4096] = "", name[64];
	struct lh_cover_file *file = add_file(path, need(strdup(path)));

	file->line = need(calloc(100000, sizeof(*file->line)));
	while (number++ < 99999 && fgets(line, sizeof(line), in)) {
		if (line[0] == '{')
			begin = number;
		if (begin && line[0] == '\t' && strpbrk(line, ";()=")) {
			struct lh_cover_line *one = &file->line[file->lines++];

			one->number = number;
			one->hit = mix(mix(begin) + number / 6) % 4 != 0 && mix(begin) % 5 != 0;
			file->hit += one->hit;
		}
		if (line[0] == '}' && begin) {
			before[strcspn(before, "(\n")] = 0;
			snprintf(name, sizeof(name), "%.60s",
			         last_word(before) + (last_word(before)[0] == '*'));
			add_function(name, at, begin - 1, number, (number - begin) / 2 + 1);
			begin = 0;
		}
		if (!begin && line[0] != '\t' && line[0] != ' ' && strchr(line, '('))
			strcpy(before, line);
	}
	fclose(in);
}

static int hotter(const void *one, const void *other)
{
	const struct lh_trace_function *a = one, *b = other;

	return (a->total < b->total) - (a->total > b->total);
}

/* A function that is live for some windows, then not, then again. */
static void add_trace(struct lh_trace_model *model, uint32_t index)
{
	struct lh_trace_function *function = &model->function[index];
	char name[64];

	snprintf(name, sizeof(name), index == 1 ? "</script><b>%u \xff" : "function_%u", index);
	function->name = need(strdup(name));
	function->module = need(strdup(index % 3 ? "program" : "libc.so.6"));
	function->address = 0x1000 + 256 * index;
	function->lines = 4 + mix(index) % 60;
	function->cell = need(calloc(model->windows + 1, sizeof(*function->cell)));
	for (uint32_t i = 0; i < model->windows; i++) {
		uint32_t phase = mix(index * 31 + i / (3 + index % 9));
		uint32_t lines = 1 + mix(phase + i % 3) % function->lines;

		if (phase % (2 + index / 4) != 0)
			continue;
		function->cell[function->cells++] = (struct lh_trace_cell){ .window = i, .lines = lines };
		function->total += lines;
		model->window[i].lines += lines;
		model->window[i].functions++;
		model->window[i].pages = 1 + model->window[i].functions / 3;
	}
}

static int trace(const char *format, uint32_t windows, uint32_t functions)
{
	struct lh_trace_model *model = need(calloc(1, sizeof(*model)));
	int code;

	model->windows = windows;
	model->functions = functions;
	model->end = windows * 100ull;
	model->window = need(calloc(windows + 1, sizeof(*model->window)));
	model->function = need(calloc(functions + 1, sizeof(*model->function)));
	for (uint32_t i = 0; i < functions; i++)
		add_trace(model, i);
	for (uint32_t i = 0; i < windows; i++)
		model->window[i].start = 100 * i;
	qsort(model->function, functions, sizeof(*model->function), hotter);
	if (strcmp(format, "html") == 0)
		code = lh__windows_html(model, "a <trace> & more", stdout);
	else if (strcmp(format, "json") == 0)
		code = lh__windows_json(model, stdout);
	else
		code = lh__windows_table(model, 100, stdout);
	lh__windows_free(model);
	return code;
}

int main(int argc, char **argv)
{
	struct lh_report_options options = { .title = "An <awkward> & \"quoted\" program" };
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "trace") == 0 && argc == 5)
		return trace(argv[2], (uint32_t)atoi(argv[3]), (uint32_t)atoi(argv[4])) != 0;
	if (strcmp(what, "cover") == 0 && argc == 3) {
		add_hard(argv[2]);
		add_long(argv[2]);
		add_many(argv[2]);
		add_modules();
	} else if (strcmp(what, "files") == 0 && argc > 3) {
		options.title = "some_program";
		for (int i = 3; i < argc; i++)
			add_real(argv[i]);
		add_modules();
	} else if (strcmp(what, "empty") != 0) {
		fputs("usage: html_sample cover FOLDER | files FOLDER FILE.. | empty\n", stderr);
		return 2;
	}
	return lh__report_html(&coverage, &options, stdout) != 0;
}
