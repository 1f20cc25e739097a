/*
 * report_html.c - coverage as one page of HTML: a tree of files, annotated source, heat strips.
 *
 * What page_cover.js is given, as JSON in elements of these ids:
 *
 *   index     {"title", where there is a record: "command", "created" (ms since 1970), "granularity",
 *              "totals": [lines that ran, all, functions that ran, all, blocks that ran, all],
 *              "modules": [[path, why it has no lines or null, functions that ran, all, blocks that ran, all,
 *                           code, undecoded, outside (bytes), is a program]],
 *              "files": [[path, state, lines that ran, all, functions that ran, all]],
 *              "functions": [[name, index of its file, line, ran, is inlined, index of its module]]}
 *             Functions of no file stand in files of state "none", one for each module, behind the others.
 *   f0, f1..  one for each file:
 *             {"source": text or null,
 *              "lines": differences of the numbers of executable lines, negative where the line did not run,
 *              "functions": [[index, last line, address, size, blocks that ran, all, heat: two hexadecimal
 *                             digits a cell]]}
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/code/page.h"
#include "service/code/report_parts.h"

/* More than any source that a person reads; a file that is bigger is shown without its text. */
#define LONGEST_SOURCE (32u << 20)

static const char hexadecimal[] = "0123456789abcdef";

/* Functions by the file that they are shown in: real files, and behind them one for each module. */
struct groups {
	uint32_t count;  /* real files and modules */
	uint32_t *start; /* count + 1 places in order */
	uint32_t *order; /* of functions */
};

static uint32_t group_of(const struct lh_coverage *coverage, const struct lh_cover_function *function)
{
	return function->file < coverage->files ? function->file : coverage->files + function->module;
}

static int group(const struct lh_coverage *coverage, struct groups *groups)
{
	uint32_t *start, at = 0;

	groups->count = coverage->files + coverage->modules;
	groups->start = start = calloc(groups->count + 1, sizeof(*start));
	groups->order = malloc((coverage->functions + 1) * sizeof(*groups->order));
	if (!start || !groups->order)
		return -ENOMEM;
	for (uint32_t i = 0; i < coverage->functions; i++)
		start[group_of(coverage, &coverage->function[i])]++;
	for (uint32_t i = 0; i <= groups->count; i++) {
		uint32_t count = start[i];

		start[i] = at;
		at += count;
	}
	for (uint32_t i = 0; i < coverage->functions; i++)
		groups->order[start[group_of(coverage, &coverage->function[i])]++] = i;
	/* Each start has become the next one's. */
	memmove(start + 1, start, groups->count * sizeof(*start));
	start[0] = 0;
	return 0;
}

/* ---- source */

struct source {
	const char *state; /* "ok", "stale", "gone", "big"; of a module "none" */
	char *text;        /* or NULL */
	size_t size;
};

/* The size bytes of what is open; false: it cannot be read, or is shorter by now. */
static bool read_all(int file, struct source *source, size_t size)
{
	source->text = malloc(size + 1);
	while (source->text && source->size < size) {
		ssize_t got = read(file, source->text + source->size, size - source->size);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		source->size += (size_t)got;
		if (source->size == size)
			return true;
	}
	if (source->text && size == 0)
		return true;
	free(source->text);
	source->text = NULL;
	return false;
}

/* A name that debug information gives may lead anywhere: to a pipe, a device. Only plain files are read. */
static void read_source(const struct lh_cover_file *file, struct source *source)
{
	struct stat status;
	int descriptor;

	*source = (struct source){ .state = "gone" };
	descriptor = file->found ? open(file->found, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
	if (descriptor < 0)
		return;
	if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode)) {
		if ((uint64_t)status.st_size > LONGEST_SOURCE)
			source->state = "big";
		else if (read_all(descriptor, source, (size_t)status.st_size))
			source->state = file->stale ? "stale" : "ok";
	}
	close(descriptor);
}

/* ---- one file */

static void put_lines(FILE *out, const struct lh_cover_file *file)
{
	uint32_t before = 0;
	const char *comma = "";

	fputs("\"lines\":[", out);
	for (uint32_t i = 0; i < file->lines; i++) {
		const struct lh_cover_line *line = &file->line[i];

		if (line->number <= before)
			continue;
		fprintf(out, "%s%s%" PRIu32, comma, line->hit ? "" : "-", line->number - before);
		before = line->number;
		comma = ",";
	}
	putc(']', out);
}

static void put_function(FILE *out, const struct lh_cover_function *function, uint32_t index)
{
	fprintf(out, "[%" PRIu32 ",%" PRIu32 ",%" PRIu64 ",%" PRIu64 ",%" PRIu32 ",%" PRIu32 ",\"", index,
	        function->last, function->address, function->size, function->blocks_hit, function->blocks);
	for (uint32_t i = 0; function->heat && i < function->code_lines; i++) {
		putc(hexadecimal[function->heat[i] >> 4], out);
		putc(hexadecimal[function->heat[i] & 15], out);
	}
	fputs("\"]", out);
}

/* The details of one group; returns the state of its source. */
static const char *put_group(FILE *out, const struct lh_coverage *coverage, const struct groups *groups,
                             uint32_t index)
{
	const struct lh_cover_file *file = index < coverage->files ? &coverage->file[index] : NULL;
	struct source source = { .state = "none" };
	char id[16];

	lh__format(id, sizeof(id), "f%u", index);
	lh__page_data(out, id);
	if (file)
		read_source(file, &source);
	fputs("{\"source\":", out);
	if (source.text)
		lh__page_string_sized(out, source.text, source.size);
	else
		fputs("null", out);
	putc(',', out);
	if (file)
		put_lines(out, file);
	else
		fputs("\"lines\":[]", out);
	free(source.text);
	fputs(",\"functions\":[", out);
	for (uint32_t i = groups->start[index]; i < groups->start[index + 1]; i++) {
		if (i != groups->start[index])
			putc(',', out);
		put_function(out, &coverage->function[groups->order[i]], groups->order[i]);
	}
	fputs("]}", out);
	lh__page_data_end(out);
	return source.state;
}

/* ---- the index */

static void put_modules(FILE *out, const struct lh_coverage *coverage)
{
	fputs(",\"modules\":[", out);
	for (uint32_t i = 0; i < coverage->modules; i++) {
		const struct lh_cover_module *module = &coverage->module[i];

		fputs(i ? ",[" : "[", out);
		lh__page_string(out, module->path);
		putc(',', out);
		if (module->why_not)
			lh__page_string(out, module->why_not);
		else
			fputs("null", out);
		fprintf(out,
		        ",%" PRIu32 ",%" PRIu32 ",%" PRIu32 ",%" PRIu32 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64
		        ",%d]",
		        module->functions_hit, module->functions, module->blocks_hit, module->blocks,
		        module->code, module->undecoded, module->outside, module->is_program);
	}
	putc(']', out);
}

static void put_file(FILE *out, const char *path, const char *state, const uint32_t counts[4])
{
	putc('[', out);
	lh__page_string(out, path);
	fprintf(out, ",\"%s\",%" PRIu32 ",%" PRIu32 ",%" PRIu32 ",%" PRIu32 "]", state, counts[0], counts[1],
	        counts[2], counts[3]);
}

static void put_files(FILE *out, const struct lh_coverage *coverage, const struct groups *groups,
                      const char *const *state)
{
	fputs(",\"files\":[", out);
	for (uint32_t i = 0; i < coverage->files; i++) {
		const struct lh_cover_file *file = &coverage->file[i];

		fputs(i ? ",\n" : "\n", out);
		put_file(out, file->path, state[i],
		         (const uint32_t[4]){ file->hit, file->lines, file->functions_hit, file->functions });
	}
	for (uint32_t i = coverage->files; i < groups->count; i++) {
		uint32_t hit = 0;

		for (uint32_t j = groups->start[i]; j < groups->start[i + 1]; j++)
			hit += coverage->function[groups->order[j]].hit;
		fputs(i ? ",\n" : "\n", out);
		put_file(out, coverage->module[i - coverage->files].path, state[i],
		         (const uint32_t[4]){ 0, 0, hit, groups->start[i + 1] - groups->start[i] });
	}
	putc(']', out);
}

static void put_functions(FILE *out, const struct lh_coverage *coverage)
{
	fputs(",\"functions\":[", out);
	for (uint32_t i = 0; i < coverage->functions; i++) {
		const struct lh_cover_function *function = &coverage->function[i];

		fputs(i ? ",\n[" : "\n[", out);
		lh__page_string(out, function->name ? function->name : "?");
		fprintf(out, ",%" PRIu32 ",%" PRIu32 ",%d,%d,%" PRIu32 "]", group_of(coverage, function),
		        function->line, function->hit, function->inlined, function->module);
	}
	putc(']', out);
}

static const char *title_of(const struct lh_coverage *coverage, const struct lh_report_options *options)
{
	if (options && options->title)
		return options->title;
	for (uint32_t i = 0; i < coverage->modules; i++)
		if (coverage->module[i].is_program)
			return coverage->module[i].name;
	return "Coverage";
}

/* What the record says of the run. */
static void put_run(FILE *out, const struct lh_record *record)
{
	const struct lh_record_head *head = lh__record_head(record);
	uint32_t size = head->command_size;
	char command[sizeof(head->command)];

	if (size > sizeof(head->command))
		size = sizeof(head->command);
	if (size && head->command[size - 1] == 0)
		size--;
	for (uint32_t i = 0; i < size; i++)
		command[i] = head->command[i] ? head->command[i] : ' ';
	fputs(",\"command\":", out);
	lh__page_string_sized(out, command, size);
	fprintf(out, ",\"created\":%" PRIu64 ",\"granularity\":\"%s\"", head->created / 1000000,
	        head->granularity == LH_GRANULARITY_LINE ? "line" : "block");
}

static void put_index(FILE *out, const struct lh_coverage *coverage, const struct groups *groups,
                      const char *title, const char *const *state)
{
	struct lh_report_totals totals;

	lh__report_totals(coverage, &totals);
	lh__page_data(out, "index");
	fputs("{\"title\":", out);
	lh__page_string(out, title);
	if (coverage->record)
		put_run(out, coverage->record);
	fprintf(out, ",\"totals\":[%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "]",
	        totals.lines_hit, totals.lines, totals.functions_hit, totals.functions, totals.blocks_hit,
	        totals.blocks);
	put_modules(out, coverage);
	put_files(out, coverage, groups, state);
	put_functions(out, coverage);
	putc('}', out);
	lh__page_data_end(out);
}

static void summarize(const struct lh_coverage *coverage, char *text, size_t size)
{
	struct lh_report_totals totals;

	lh__report_totals(coverage, &totals);
	lh__format(text, size, "Ran: %lu of %lu lines, %lu of %lu functions.", totals.lines_hit, totals.lines,
	           totals.functions_hit, totals.functions);
}

static int put_page(FILE *out, const struct lh_coverage *coverage, const struct groups *groups,
                    const char *title, const char **state)
{
	char summary[128];

	summarize(coverage, summary, sizeof(summary));
	lh__page_begin(out, LH_PAGE_COVER, title, summary);
	for (uint32_t i = 0; i < groups->count; i++)
		state[i] = put_group(out, coverage, groups, i);
	put_index(out, coverage, groups, title, state);
	return lh__page_end(out, LH_PAGE_COVER);
}

int lh__report_html(const struct lh_coverage *coverage, const struct lh_report_options *options, FILE *out)
{
	struct groups groups = { 0 };
	const char **state;
	int code = group(coverage, &groups);

	state = calloc(groups.count + 1, sizeof(*state));
	if (!state)
		code = -ENOMEM;
	if (code == 0)
		code = put_page(out, coverage, &groups, title_of(coverage, options), state);
	free(state);
	free(groups.start);
	free(groups.order);
	return code;
}
