/*
 * session_take.c - the snoop: lines that were supplied are taken away again, while the program runs.
 *
 * First a word of the hit map is exchanged for zero, then the bytes become INT3 again. An agent records
 * before it supplies and again after, so who supplies at the same moment is either seen now or has its bit
 * set for the next time. A byte more that is taken away costs one more trap and nothing else, so of each
 * page all from the first to the last line that was hit is written in one piece, as the plan's image has
 * it. Bytes that are neither the file's nor the image's are somebody else's (a patch, a debugger): such a
 * page is written instruction by instruction, around them.
 */
#include "service/code/session_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGE_WORDS (PAGE / 64)

/* Of each file that is watched, the hits that are being taken: a bitmap as in the record for each text. */
struct taken {
	const struct lh_session_file *file;
	uint64_t *hits[LH_PLAN_TEXTS]; /* NULL: all of the text */
	struct taken *next;
};

/* ---- the bytes of a page ---- */

struct page {
	const uint8_t *original, *image;
	const uint64_t *armed;
	uint64_t address;  /* in the process */
	uint32_t from, to; /* bytes of it, inclusive */
};

/* Whether the page holds nothing but what is the file's or the image's. */
static bool is_ours(const struct page *page, const uint8_t *now)
{
	for (uint32_t at = page->from; at <= page->to; at++)
		if (now[at] != page->original[at] && now[at] != page->image[at])
			return false;
	return true;
}

static bool write_bytes(int memory, const uint8_t *bytes, size_t size, uint64_t address)
{
	return pwrite(memory, bytes, size, (off_t)address) == (ssize_t)size;
}

static void take_page(int memory, const struct page *page)
{
	uint8_t now[PAGE];
	size_t size = page->to - page->from + 1;

	if (pread(memory, now + page->from, size, (off_t)(page->address + page->from)) != (ssize_t)size)
		return;
	if (memcmp(now + page->from, page->image + page->from, size) == 0)
		return;
	if (is_ours(page, now)) {
		(void)write_bytes(memory, page->image + page->from, size, page->address + page->from);
		return;
	}
	for (uint32_t at = page->from; at <= page->to; at++)
		if (page->armed[at / 64] >> at % 64 & 1 && now[at] == page->original[at])
			(void)write_bytes(memory, page->image + at, 1, page->address + at);
}

/* ---- the pages of a text ---- */

/* The bytes of page `number` that hits there stand for; false: none. A span may reach into the next page. */
static bool page_range(const struct lh_text *text, const uint64_t *hits, enum lh_granularity granularity,
                       uint64_t number, uint32_t *carry, struct page *page)
{
	uint64_t base = number * PAGE;
	uint32_t to = *carry;
	bool any = *carry > base;

	page->from = 0;
	if (!any) {
		page->from = PAGE - 1;
		to = 0;
	}
	for (unsigned word = 0; word < PAGE_WORDS; word++)
		for (uint64_t bits = hits[number * PAGE_WORDS + word]; bits; bits &= bits - 1) {
			uint32_t at = (uint32_t)(base + word * 64 + (unsigned)__builtin_ctzll(bits));
			struct lh_span span = lh__text_span(text, at, granularity);
			uint32_t from = span.from > base ? (uint32_t)(span.from - base) : 0;

			any = true;
			page->from = from < page->from ? from : page->from;
			to = span.to + 1 > to ? span.to + 1 : to;
		}
	if (!any)
		return false;
	*carry = to;
	page->to = to - base >= PAGE ? PAGE - 1 : (uint32_t)(to - base) - 1;
	return true;
}

/* ---- code that an agent could not arm ---- */

/* By file and address: a fork's child has it at the same place. */
struct lh_session_refusal {
	const struct lh_session_file *file;
	uint64_t start;
	struct lh_session_refusal *next;
};

static bool is_refused(const struct lh_session *session, const struct lh_session_place *place)
{
	const struct lh_session_refusal *one = session->refusals;

	while (one && (one->file != place->file || one->start != place->start))
		one = one->next;
	return one != NULL;
}

/* One of them: of the place's text, a page. */
static struct page page_of(const struct lh_session_place *place, uint64_t number)
{
	const uint8_t *plan = (const uint8_t *)place->file->plan.head;
	const struct lh_plan_text *of = &place->file->plan.head->text[place->text];

	return (struct page){ .original = plan + of->original + number * PAGE,
		              .image = plan + of->image + number * PAGE,
		              .armed = (const uint64_t *)(plan + of->armed) + number * PAGE_WORDS,
		              .address = place->start + number * PAGE,
		              .to = PAGE - 1 };
}

struct refusing {
	struct lh_session *session;
	uint64_t address;
	int memory;
};

static int refuse_place(void *context, const struct lh_session_place *place)
{
	const struct refusing *refusing = context;
	const struct lh_plan_text *of = &place->file->plan.head->text[place->text];
	struct lh_session_refusal *one;

	if (refusing->address < place->start || refusing->address >= place->end)
		return 0;
	for (uint64_t number = 0; number < of->size / PAGE; number++) {
		struct page page = page_of(place, number);
		const uint8_t *image = page.image;

		page.image = page.original;
		page.original = image;
		take_page(refusing->memory, &page);
	}
	if (is_refused(refusing->session, place))
		return 1;
	one = calloc(1, sizeof(*one));
	if (one) {
		*one = (struct lh_session_refusal){ place->file, place->start, refusing->session->refusals };
		refusing->session->refusals = one;
	}
	return 1;
}

void lh__session_refused(struct lh_session *session, pid_t process, uint64_t address)
{
	struct refusing refusing = { session, address, -1 };
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", process);
	refusing.memory = open(path, O_RDWR | O_CLOEXEC);
	if (refusing.memory < 0)
		return;
	(void)!lh__session_places(session, process, refuse_place, &refusing);
	close(refusing.memory);
}

void lh__session_forget_refusals(struct lh_session *session)
{
	while (session->refusals) {
		struct lh_session_refusal *next = session->refusals->next;

		free(session->refusals);
		session->refusals = next;
	}
}

/* ---- the places of a process ---- */

struct taking {
	struct lh_session *session;
	const struct taken *taken; /* list; NULL: everything */
	int memory;
};

static const uint64_t *hits_of(const struct taken *taken, const struct lh_session_place *place)
{
	while (taken && taken->file->view.head != place->file->view.head)
		taken = taken->next;
	return taken ? taken->hits[place->text] : NULL;
}

static int take_place(void *context, const struct lh_session_place *place)
{
	const struct taking *taking = context;
	const struct lh_plan_text *of = &place->file->plan.head->text[place->text];
	const uint64_t *hits = NULL;
	struct lh_text text;
	uint32_t carry = 0;

	if (!place->file->watched || is_refused(taking->session, place))
		return 0;
	if (taking->taken) {
		hits = hits_of(taking->taken, place);
		if (!hits)
			return 0;
	}
	lh__plan_text(&place->file->plan, place->text, place->start - of->address, NULL, &text);
	for (uint64_t number = 0; number < of->size / PAGE; number++) {
		struct page page = page_of(place, number);

		if (!hits ||
		    page_range(&text, hits, lh__session_granularity(taking->session), number, &carry, &page))
			take_page(taking->memory, &page);
	}
	return 0;
}

static void take_from(struct lh_session *session, pid_t process, int memory, void *context)
{
	struct taking taking = { session, context, memory };

	(void)!lh__session_places(session, process, take_place, &taking);
}

/* ---- all processes ---- */

struct each {
	struct lh_session *session;
	void (*change)(struct lh_session *session, pid_t process, int memory, void *context);
	void *context;
};

static int change_one(void *context, pid_t process)
{
	const struct each *each = context;
	char path[64];
	int memory;

	snprintf(path, sizeof(path), "/proc/%d/mem", process);
	memory = open(path, O_RDWR | O_CLOEXEC);
	if (memory < 0)
		return 0; /* it has ended meanwhile */
	each->change(each->session, process, memory, each->context);
	close(memory);
	return 0;
}

void lh__session_each_memory(struct lh_session *session,
                             void (*change)(struct lh_session *session, pid_t process, int memory,
                                            void *context),
                             void *context)
{
	struct each each = { session, change, context };

	(void)!session->engine->processes(session->state, change_one, &each);
}

void lh__session_take_all(struct lh_session *session)
{
	lh__session_each_memory(session, take_from, NULL);
}

/* ---- hits ---- */

static void free_taken(struct taken *taken)
{
	while (taken) {
		struct taken *next = taken->next;

		for (unsigned i = 0; i < LH_PLAN_TEXTS; i++)
			free(taken->hits[i]);
		free(taken);
		taken = next;
	}
}

static uint64_t count_bits(const uint64_t *words, uint64_t n)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < n; i++)
		count += (uint64_t)__builtin_popcountll(words[i]);
	return count;
}

/* Moves the hits of one file from the record to `to` and to seen. */
static int take_hits(struct taken *to, const struct lh_record_view *seen)
{
	const struct lh_record_view *view = &to->file->view;

	for (unsigned i = 0; i < view->head->texts; i++) {
		uint64_t words = view->head->text[i].size / 64;

		to->hits[i] = calloc(words, sizeof(uint64_t));
		if (!to->hits[i])
			return -ENOMEM;
		for (uint64_t word = 0; word < words; word++)
			if (__atomic_load_n(&view->hits[i][word], __ATOMIC_RELAXED)) {
				to->hits[i][word] =
					__atomic_exchange_n(&view->hits[i][word], 0, __ATOMIC_SEQ_CST);
				seen->hits[i][word] |= to->hits[i][word];
			}
	}
	return 0;
}

static void empty(struct lh_record *record)
{
	struct lh_record_view view;

	for (size_t i = 0; lh__record_module(record, i, &view); i++)
		for (unsigned text = 0; text < view.head->texts; text++)
			memset(view.hits[text], 0, view.head->text[text].size / 8);
}

/* Several files may have one id, and so one place in the record: one takes for all of them. */
static bool is_taken(const struct taken *taken, const struct lh_session_file *file)
{
	while (taken && taken->file->view.head != file->view.head)
		taken = taken->next;
	return taken != NULL;
}

static int take_files(struct lh_session *session, struct lh_record *seen, struct taken **taken,
                      struct lh_error *error)
{
	struct lh_record_view view;
	int result = 0;

	for (const struct lh_session_file *file = session->files; file && result == 0; file = file->next) {
		struct taken *one;

		if (!file->watched || is_taken(*taken, file))
			continue;
		result = lh__record_add_like(seen, file->view.head, &view, error);
		if (result < 0)
			return result;
		one = calloc(1, sizeof(*one));
		if (!one)
			return lh__fail(error, -ENOMEM, "no memory");
		one->file = file;
		one->next = *taken;
		*taken = one;
		if (take_hits(one, &view) < 0)
			return lh__fail(error, -ENOMEM, "no memory");
	}
	return result;
}

int lh__session_take(struct lh_session *session, struct lh_record *seen, struct lh_error *error)
{
	struct lh_record_control *control = lh__record_control(session->options.record);
	struct taken *taken = NULL;
	uint64_t spans = 0;
	int result;

	empty(seen);
	result = take_files(session, seen, &taken, error);
	/* What could be taken is, whatever has failed: it stands in the record no more. */
	lh__session_each_memory(session, take_from, taken);
	for (const struct taken *one = taken; one; one = one->next)
		for (unsigned i = 0; i < LH_PLAN_TEXTS; i++)
			if (one->hits[i])
				spans += count_bits(one->hits[i], one->file->view.head->text[i].size / 64);
	__atomic_fetch_add(&control->taken, spans, __ATOMIC_RELAXED);
	free_taken(taken);
	return result;
}
