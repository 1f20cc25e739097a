/*
 * report_json.c - all of the model as JSON; docs/coverage.md describes it.
 *
 * Written by hand: it is regular, and the library needs no other library for it. Text that is not UTF-8 has
 * U+FFFD for each byte that does not fit.
 */
#include <string.h>

#include "service/code/page.h"
#include "service/code/report_parts.h"

static void put_text_or_null(const char *text, FILE *out)
{
	if (text)
		lh__page_string(out, text);
	else
		fputs("null", out);
}

static const char *word(bool value)
{
	return value ? "true" : "false";
}

static void put_share(const char *name, uint64_t all, uint64_t hit, FILE *out)
{
	fprintf(out, "\"%s\": {\"all\": %lu, \"hit\": %lu}", name, all, hit);
}

static void put_head(const struct lh_coverage *coverage, FILE *out)
{
	const struct lh_record_head *head = lh__record_head(coverage->record);
	const struct lh_record_control *control = lh__record_control(coverage->record);
	uint32_t size = head->command_size, at = 0;
	struct lh_report_totals totals;

	lh__report_totals(coverage, &totals);
	fprintf(out,
	        "{\n\"format\": \"linehome coverage\",\n\"version\": 1,\n\"created\": %lu,\n\"command\": [",
	        head->created);
	if (size > sizeof head->command)
		size = sizeof head->command;
	while (at < size) {
		char one[sizeof head->command + 1];
		size_t length = strnlen(head->command + at, size - at);

		memcpy(one, head->command + at, length);
		one[length] = 0;
		fputs(at ? ", " : "", out);
		lh__page_string(out, one);
		at += (uint32_t)length + 1;
	}
	fprintf(out, "],\n\"granularity\": \"%s\",\n\"totals\": {", head->granularity ? "line" : "block");
	put_share("lines", totals.lines, totals.lines_hit, out);
	fputs(", ", out);
	put_share("functions", totals.functions, totals.functions_hit, out);
	fputs(", ", out);
	put_share("blocks", totals.blocks, totals.blocks_hit, out);
	fprintf(out,
	        "},\n\"seen\": {\"traps\": %lu, \"spans\": %lu, \"system_calls\": %lu, \"processes\": %lu, "
	        "\"taken\": %lu},\n",
	        control->traps, control->spans, control->system_calls, control->processes, control->taken);
	fprintf(out,
	        "\"not_watched\": {\"code\": %lu, \"undecoded\": %lu, \"outside\": %lu, \"anonymous\": %lu, "
	        "\"refused\": %lu}",
	        totals.code, totals.undecoded, totals.outside, control->anonymous, control->refused);
}

static void put_module(const struct lh_cover_module *module, FILE *out)
{
	fputs("{\"path\": ", out);
	lh__page_string(out, module->path);
	fputs(", \"id\": \"", out);
	for (uint32_t i = 0; i < module->id_size; i++)
		fprintf(out, "%02x", module->id[i]);
	fprintf(out, "\", \"program\": %s, \"lines\": %s, \"why_not\": ", word(module->is_program),
	        word(module->has_lines));
	put_text_or_null(module->why_not, out);
	fputs(", ", out);
	put_share("functions", module->functions, module->functions_hit, out);
	fputs(", ", out);
	put_share("blocks", module->blocks, module->blocks_hit, out);
	fprintf(out, ", \"mapped\": \"0x%lx\", \"code\": %lu, \"undecoded\": %lu, \"outside\": %lu}",
	        module->mapped, module->code, module->undecoded, module->outside);
}

static void put_numbers(const char *name, const struct lh_cover_file *file, bool hit, FILE *out)
{
	const char *between = "";

	fprintf(out, ", \"%s\": [", name);
	for (uint32_t i = 0; i < file->lines; i++) {
		if (file->line[i].hit != hit)
			continue;
		fprintf(out, "%s%u", between, file->line[i].number);
		between = ", ";
	}
	putc(']', out);
}

static void put_file(const struct lh_cover_file *file, FILE *out)
{
	fputs("{\"path\": ", out);
	lh__page_string(out, file->path);
	fputs(", \"found\": ", out);
	put_text_or_null(file->found, out);
	fprintf(out, ", \"stale\": %s, ", word(file->stale));
	put_share("lines", file->lines, file->hit, out);
	fputs(", ", out);
	put_share("functions", file->functions, file->functions_hit, out);
	put_numbers("hit", file, true, out);
	put_numbers("missed", file, false, out);
	putc('}', out);
}

static void put_function(const struct lh_cover_function *function, FILE *out)
{
	fputs("{\"name\": ", out);
	lh__page_string(out, function->name);
	fprintf(out, ", \"module\": %u, ", function->module);
	if (function->file != UINT32_MAX)
		fprintf(out, "\"file\": %u, \"line\": %u, \"last\": %u, ", function->file, function->line,
		        function->last);
	else
		fputs("\"file\": null, \"line\": 0, \"last\": 0, ", out);
	fprintf(out, "\"hit\": %s, \"inlined\": %s, \"address\": \"0x%lx\", \"size\": %lu, ",
	        word(function->hit), word(function->inlined), function->address, function->size);
	put_share("blocks", function->blocks, function->blocks_hit, out);
	putc('}', out);
}

int lh__report_json(const struct lh_coverage *coverage, const struct lh_report_options *options, FILE *out)
{
	put_head(coverage, out);
	fputs(",\n\"modules\": [", out);
	for (uint32_t i = 0; i < coverage->modules; i++) {
		fputs(i ? ",\n  " : "\n  ", out);
		put_module(&coverage->module[i], out);
	}
	fputs("\n],\n\"files\": [", out);
	for (uint32_t i = 0; i < coverage->files; i++) {
		fputs(i ? ",\n  " : "\n  ", out);
		put_file(&coverage->file[i], out);
	}
	fputs("\n],\n\"functions\": [", out);
	for (uint32_t i = 0; i < coverage->functions; i++) {
		fputs(i ? ",\n  " : "\n  ", out);
		put_function(&coverage->function[i], out);
	}
	fputs("\n]\n}\n", out);
	return lh__report_end(out);
}
