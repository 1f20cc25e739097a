/*
 * windows_add.c - a window from the hits that a record holds.
 *
 * A hit is the first instruction of a span; the plan of the module says where the span ends. All starts that
 * spans hold are put into one bitmap of the text, whose words are lines: 64 bytes, 64 bits.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/code/windows_internal.h"

/* Asked for once: a module that has no plan now will have none in the next window. */
static void need_plan(struct lh_windows_module *module, const char *path)
{
	const struct lh_plan_head *head;
	int file;

	if (module->is_asked)
		return;
	module->is_asked = true;
	file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file < 0)
		return;
	module->has_plan = lh__plan_open(&lh__sys_default, file, path, &module->plan, NULL) == 0;
	close(file);
	if (!module->has_plan)
		return;
	head = module->plan.head;
	if (head->id_size == module->id_size && memcmp(head->id, module->id, module->id_size) == 0)
		return;
	module->has_plan = false;
	lh__plan_close(&lh__sys_default, &module->plan);
}

/* Sets in ran what the spans hold that begin at hits. */
static void spread(const struct lh_text *text, const uint64_t *hits, uint64_t words,
                   enum lh_granularity granularity, uint64_t *ran)
{
	for (uint64_t i = 0; i < words; i++) {
		for (uint64_t left = hits[i]; left; left &= left - 1) {
			uint32_t at = (uint32_t)(i * 64 + (uint64_t)__builtin_ctzll(left));
			struct lh_span span = lh__text_span(text, at, granularity);
			uint64_t first = span.from / 64, last = span.to / 64;

			for (uint64_t j = first; j <= last && j < words; j++) {
				uint64_t bits = text->armed[j];

				if (j == first)
					bits &= ~0ull << span.from % 64;
				if (j == last)
					bits &= ~0ull >> (63 - span.to % 64);
				ran[j] |= bits;
			}
			ran[i] |= 1ull << at % 64;
		}
	}
}

/* One text; ran has room for its words and is used for this alone. */
static int add_text(struct lh_windows *windows, const struct lh_windows_module *module, unsigned index,
                    const struct lh_record_text *text, uint64_t *hits, enum lh_granularity granularity)
{
	uint64_t words = text->size / 64;
	uint64_t *ran = calloc(words ? words : 1, sizeof(*ran));
	int code = 0;

	if (!ran)
		return -ENOMEM;
	if (module->has_plan && index < module->plan.head->texts &&
	    module->plan.head->text[index].size == text->size) {
		struct lh_text view;

		lh__plan_text(&module->plan, index, 0, hits, &view);
		spread(&view, hits, words, granularity, ran);
	} else {
		memcpy(ran, hits, words * sizeof(*ran));
	}
	for (uint64_t i = 0; i < words && code == 0; i++)
		if (ran[i])
			code = lh__windows_module_line(windows, module, text->address + 64 * i, ran[i]);
	free(ran);
	return code;
}

int lh__windows_add(struct lh_windows *windows, struct lh_record *seen, uint64_t ms, struct lh_error *error)
{
	enum lh_granularity granularity = lh__record_head(seen)->granularity;
	struct lh_record_view view;
	int code = 0;

	for (size_t i = 0; code == 0 && lh__record_module(seen, i, &view); i++) {
		const struct lh_record_module *head = view.head;
		struct lh_windows_module *module;

		code = lh__windows_module(windows, head->id, head->id_size, &module);
		if (code < 0)
			break;
		need_plan(module, head->path);
		for (uint32_t j = 0; code == 0 && j < head->texts && j < LH_PLAN_TEXTS; j++)
			code = add_text(windows, module, j, &head->text[j], view.hits[j], granularity);
	}
	if (code == 0)
		code = lh__windows_next(windows, ms);
	return code < 0 ? lh__fail(error, code, "no memory for another window") : 0;
}
