/*
 * record_blocks.c - makes a record from a list of instructions that ran, which anybody may have found out.
 *
 *     record_blocks RECORD [--line] [COMMAND...] <LIST
 *
 * Each line of the list is a path and an address as the file has it: "/usr/bin/xz 0x4010". The file that
 * comes first is the program, the others are libraries. A line without an address names a module of which
 * nothing ran. Addresses outside of its code are counted and told.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/code/plan_make.h"
#include "service/code/record.h"

#define MODULES 64u

struct module {
	char path[5000];
	struct lh_plan plan;
	struct lh_record_view view;
};

static void die(const char *what, const struct lh_error *error)
{
	fprintf(stderr, "record_blocks: %s: %s\n", what, error->text);
	exit(2);
}

static struct module *add(struct lh_record *record, struct module *module, const char *path, bool first)
{
	struct lh_error error = { 0 };
	int file = open(path, O_RDONLY | O_CLOEXEC);

	snprintf(module->path, sizeof module->path, "%s", path);
	if (file < 0) {
		snprintf(error.text, sizeof error.text, "%s", strerror(errno));
		die(path, &error);
	}
	if (lh__plan_open(&lh__sys_default, file, path, &module->plan, &error) < 0 ||
	    lh__record_add(record, module->plan.head, path, first, first ? 0x555555554000 : 0x7ffff7c00000,
	                   &module->view, &error) < 0)
		die(path, &error);
	close(file);
	return module;
}

static bool set(const struct module *module, unsigned long address)
{
	const struct lh_plan_head *plan = module->plan.head;

	for (unsigned i = 0; i < plan->texts; i++) {
		unsigned long at = address - plan->text[i].address;
		const uint64_t *starts = (const uint64_t *)((const char *)plan + plan->text[i].starts);

		if (at >= plan->text[i].size)
			continue;
		if (!(starts[at / 64] >> at % 64 & 1))
			return false;
		module->view.hits[i][at / 64] |= UINT64_C(1) << at % 64;
		return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	static struct module modules[MODULES];
	bool by_line = argc > 2 && !strcmp(argv[2], "--line");
	struct lh_error error = { 0 };
	struct lh_record *record;
	unsigned long strange = 0;
	unsigned n = 0;
	char line[5000];

	if (argc < 2)
		return 2;
	if (lh__record_create(argv[1], by_line ? LH_GRANULARITY_LINE : LH_GRANULARITY_BLOCK,
	                      argv + 2 + by_line, &record, &error) < 0)
		die(argv[1], &error);
	while (fgets(line, sizeof line, stdin)) {
		char *blank = line + strcspn(line, " \n");
		bool has_address = *blank == ' ';
		struct module *module = NULL;

		*blank = 0;
		for (unsigned i = 0; i < n && !module; i++)
			if (!strcmp(modules[i].path, line))
				module = &modules[i];
		if (!module && n < MODULES) {
			module = add(record, &modules[n], line, !n);
			n++;
		}
		if (module && has_address)
			strange += !set(module, strtoul(blank + 1, NULL, 16));
	}
	if (strange)
		fprintf(stderr, "record_blocks: %lu addresses are no instructions\n", strange);
	lh__record_close(record);
	return 0;
}
