/*
 * fuzz_news.c - what a run has reached: bits of the record that were not set before.
 *
 * A bit is set by a trap, or at a system call's site, which stays absent for good. So where neither was
 * counted there is nothing to look for, and most runs cost no look at all. A site within a block is no
 * block of its own: it is told only where something leads right to it.
 */
#include "service/code/fuzz_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- files ---- */

static struct lh_fuzz_file *find(const struct lh_cover *cover, const struct lh_session_file *file)
{
	struct lh_fuzz_file *at = cover->files;

	/* Several files may have one id, and so one place in the record. */
	while (at && at->file->view.head != file->view.head)
		at = at->next;
	return at;
}

static void free_file(struct lh_fuzz_file *file)
{
	for (unsigned i = 0; i < LH_PLAN_TEXTS; i++)
		free(file->seen[i]);
	free(file);
}

static int add(struct lh_cover *cover, const struct lh_session_file *file)
{
	struct lh_fuzz_file *made = calloc(1, sizeof(*made));

	if (!made)
		return -ENOMEM;
	made->file = file;
	for (unsigned i = 0; i < file->plan.head->texts; i++) {
		made->seen[i] = calloc(file->plan.head->text[i].size / 64, sizeof(uint64_t));
		if (!made->seen[i]) {
			free_file(made);
			return -ENOMEM;
		}
	}
	made->next = cover->files;
	cover->files = made;
	return 0;
}

/* Those that have come since the last time. */
static int add_new(struct lh_cover *cover)
{
	int result = 0;

	for (const struct lh_session_file *file = cover->session->files; file && result == 0;
	     file = file->next)
		if (file->watched && !find(cover, file))
			result = add(cover, file);
	return result;
}

static int note_place(void *context, const struct lh_session_place *place)
{
	struct lh_fuzz_file *file = place->file->watched ? find(context, place->file) : NULL;

	if (file)
		file->start[place->text] = place->start;
	return 0;
}

int lh__fuzz_places(struct lh_cover *cover)
{
	int result = add_new(cover);

	return result < 0 ? result
	                  : lh__session_places(cover->session, cover->session->process, note_place, cover);
}

void lh__fuzz_forget(struct lh_cover *cover)
{
	while (cover->files) {
		struct lh_fuzz_file *next = cover->files->next;

		free_file(cover->files);
		cover->files = next;
	}
	free(cover->news);
	cover->news = NULL;
}

/* ---- supplying ---- */

int lh__fuzz_supply(const struct lh_cover *cover, const uint64_t *address, size_t n)
{
	struct lh_serve_command command = { .kind = LH_SERVE_SUPPLY };

	while (n > 0) {
		command.count = n < LH_SERVE_PLACES ? (uint32_t)n : LH_SERVE_PLACES;
		memcpy(command.place, address, command.count * sizeof(*address));
		if (send(cover->socket, &command, sizeof(command), MSG_NOSIGNAL) < 0)
			return -errno;
		address += command.count;
		n -= command.count;
	}
	return 0;
}

/* A few places on their way. */
struct batch {
	struct lh_cover *cover;
	uint64_t address[LH_SERVE_PLACES];
	size_t n;
};

static int flush(struct batch *batch)
{
	int result = lh__fuzz_supply(batch->cover, batch->address, batch->n);

	batch->n = 0;
	return result;
}

/* ---- bits ---- */

/* A system call that nothing leads to but what stands before it. */
static bool is_inner_site(const uint8_t *plan, const struct lh_plan_text *of, uint32_t at)
{
	const uint64_t *heads = (const void *)(plan + of->heads);
	const uint8_t *code = plan + of->original;

	return at + 1 < of->size && code[at] == 0x0f && code[at + 1] == 0x05 &&
	       !(heads[at / 64] >> at % 64 & 1);
}

static int tell(struct lh_cover *cover, const struct lh_fuzz_file *file, const struct lh_plan_text *of,
                struct lh_span span)
{
	if (cover->count == cover->room) {
		size_t room = cover->room ? 2 * cover->room : 256;
		void *grown = reallocarray(cover->news, room, sizeof(*cover->news));

		if (!grown)
			return -ENOMEM;
		cover->news = grown;
		cover->room = room;
	}
	cover->news[cover->count++] = (struct lh_cover_place){ .module = file->file->view.head->path,
		                                               .address = of->address + span.from,
		                                               .last = of->address + span.to };
	cover->blocks++;
	return 0;
}

static int look_at_bit(struct batch *batch, const struct lh_fuzz_file *file, unsigned which, uint32_t at)
{
	const struct lh_plan_head *head = file->file->plan.head;
	const struct lh_plan_text *of = &head->text[which];
	struct lh_cover *cover = batch->cover;
	struct lh_text text;
	int result;

	if (is_inner_site((const uint8_t *)head, of, at))
		return 0;
	lh__plan_text(&file->file->plan, which, 0, NULL, &text);
	result = tell(cover, file, of, lh__text_span(&text, at, LH_GRANULARITY_BLOCK));
	if (result < 0 || cover->each || !file->start[which])
		return result;
	batch->address[batch->n++] = file->start[which] + at;
	return batch->n == LH_SERVE_PLACES ? flush(batch) : 0;
}

/* What is told stays seen, unless each run is to tell its own. */
static int look_at_text(struct batch *batch, struct lh_fuzz_file *file, unsigned which)
{
	uint64_t words = file->file->plan.head->text[which].size / 64;
	uint64_t *hits = file->file->view.hits[which], *seen = file->seen[which];
	int result = 0;

	for (uint64_t word = 0; word < words && result == 0; word++) {
		uint64_t bits = __atomic_load_n(&hits[word], __ATOMIC_RELAXED) & ~seen[word];

		if (!bits)
			continue;
		if (batch->cover->each)
			__atomic_store_n(&hits[word], 0, __ATOMIC_RELAXED);
		else
			seen[word] |= bits;
		for (; bits && result == 0; bits &= bits - 1)
			result = look_at_bit(batch, file, which,
			                     (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(bits));
	}
	return result;
}

/* Whether something may have been recorded since the last look. */
static bool is_counted(struct lh_cover *cover)
{
	const struct lh_record_control *control = lh__record_control(cover->record);
	uint64_t traps = __atomic_load_n(&control->traps, __ATOMIC_RELAXED);
	uint64_t calls = __atomic_load_n(&control->system_calls, __ATOMIC_RELAXED);
	bool counted = traps != cover->traps || calls != cover->calls || cover->blocks == 0 || cover->each;

	cover->traps = traps;
	cover->calls = calls;
	return counted;
}

int lh__fuzz_look(struct lh_cover *cover)
{
	struct batch batch = { .cover = cover };
	int result;

	cover->count = 0;
	if (!is_counted(cover))
		return 0;
	if (cover->each)
		cover->blocks = 0;
	result = add_new(cover);
	for (struct lh_fuzz_file *file = cover->files; file && result == 0; file = file->next)
		for (unsigned i = 0; i < file->file->plan.head->texts && result == 0; i++)
			result = look_at_text(&batch, file, i);
	return result < 0 ? result : flush(&batch);
}
