/*
 * Whether two records have seen the same instructions:
 *
 *     record_equal ONE OTHER      exits with 1, and names some, where one has what the other has not
 *     record_equal --plant FILE   adds a hit to a record that did not have it
 *
 * A hit stands for a span, and the same instructions may be told by other spans, so what is compared is the
 * union: all starts of instructions in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/code/plan_make.h"
#include "service/code/record.h"

#define SHOWN 8u

static int failed(const char *what, const char *why)
{
	fprintf(stderr, "record_equal: %s: %s\n", what, why);
	exit(2);
}

static struct lh_record *open_record(const char *path)
{
	struct lh_record *record;
	struct lh_error error = { 0 };

	if (lh__record_open(path, &record, &error) < 0)
		failed(path, error.text);
	return record;
}

static void open_plan(const struct lh_record_module *module, struct lh_plan *plan)
{
	struct lh_error error = { 0 };
	int file = open(module->path, O_RDONLY | O_CLOEXEC);

	if (file < 0)
		failed(module->path, strerror(errno));
	if (lh__plan_open(&lh__sys_default, file, module->path, plan, &error) < 0)
		failed(module->path, error.text);
	close(file);
}

static bool bit(const uint64_t *bitmap, uint64_t at)
{
	return bitmap[at / 64] >> at % 64 & 1;
}

/* All starts that the hits stand for. */
static uint64_t *starts_of(const struct lh_plan *plan, unsigned which, uint64_t *hits,
                           enum lh_granularity granularity)
{
	const struct lh_plan_text *in_plan = &plan->head->text[which];
	const uint64_t *starts = (const void *)((const uint8_t *)plan->head + in_plan->starts);
	uint64_t *seen = calloc(in_plan->size / 64, sizeof(*seen));
	struct lh_text text;

	if (!seen)
		failed("starts", "no memory");
	lh__plan_text(plan, which, 0, hits, &text);
	for (uint64_t at = 0; hits && at < in_plan->size; at++) {
		struct lh_span span;

		if (!bit(hits, at))
			continue;
		span = lh__text_span(&text, (uint32_t)at, granularity);
		for (uint64_t start = span.from; start <= span.to; start++)
			if (bit(starts, start))
				seen[start / 64] |= UINT64_C(1) << start % 64;
	}
	return seen;
}

static bool find(struct lh_record *record, const struct lh_record_module *like, struct lh_record_view *out)
{
	for (size_t i = 0; lh__record_module(record, i, out); i++)
		if (memcmp(out->head->id, like->id, sizeof(like->id)) == 0)
			return true;
	return false;
}

/* The number of starts that one has and the other has not. */
static unsigned long lacking(struct lh_record *one, struct lh_record *other, const char *name)
{
	enum lh_granularity granularity = lh__record_head(one)->granularity;
	unsigned long lacks = 0, all = 0;
	struct lh_record_view a, b;

	for (size_t i = 0; lh__record_module(one, i, &a); i++) {
		bool there = find(other, a.head, &b);
		struct lh_plan plan;

		open_plan(a.head, &plan);
		for (unsigned t = 0; t < a.head->texts; t++) {
			uint64_t *have = starts_of(&plan, t, a.hits[t], granularity);
			uint64_t *has = starts_of(&plan, t, there ? b.hits[t] : NULL, granularity);

			for (uint64_t at = 0; at < a.head->text[t].size; at++) {
				all += bit(have, at);
				if (bit(have, at) && !bit(has, at) && lacks++ < SHOWN)
					printf("%s alone: %s 0x%lx\n", name, a.head->path,
					       a.head->text[t].address + at);
			}
			free(have);
			free(has);
		}
		lh__plan_close(&lh__sys_default, &plan);
	}
	printf("%s: %lu instructions, %lu of them alone\n", name, all, lacks);
	return lacks;
}

static int plant(const char *path)
{
	struct lh_record *record = open_record(path);
	enum lh_granularity granularity = lh__record_head(record)->granularity;
	struct lh_record_view module;
	struct lh_plan plan;
	const uint64_t *starts;
	uint64_t *seen, at = 0;
	uint8_t byte;
	int file = open(path, O_RDWR | O_CLOEXEC);
	off_t place;

	if (file < 0 || !lh__record_module(record, 0, &module))
		return failed(path, "it has no module");
	open_plan(module.head, &plan);
	seen = starts_of(&plan, 0, module.hits[0], granularity);
	starts = (const void *)((const uint8_t *)plan.head + plan.head->text[0].starts);
	while (at < plan.head->text[0].size && (bit(seen, at) || !bit(starts, at)))
		at++;
	place = (off_t)(module.head->text[0].hits + at / 8);
	if (pread(file, &byte, 1, place) != 1)
		return failed(path, strerror(errno));
	byte |= (uint8_t)(1u << at % 8);
	if (pwrite(file, &byte, 1, place) != 1)
		return failed(path, strerror(errno));
	close(file);
	free(seen);
	lh__record_close(record);
	return 0;
}

int main(int argc, char **argv)
{
	struct lh_record *one, *other;
	bool same;

	if (argc == 3 && strcmp(argv[1], "--plant") == 0)
		return plant(argv[2]);
	if (argc != 3)
		return failed("usage", "record_equal ONE OTHER");
	one = open_record(argv[1]);
	other = open_record(argv[2]);
	same = (lacking(one, other, argv[1]) | lacking(other, one, argv[2])) == 0;
	lh__record_close(one);
	lh__record_close(other);
	return same ? 0 : 1;
}
