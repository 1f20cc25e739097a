/*
 * line_pageset.c - sets of pages: against a model of one byte a page, at all edges of words; threads that
 * change neighbouring pages; the encoding, and that nothing malformed is taken in.
 */
#include "line/pageset.h"
#include "line_random.h"
#include "tap.h"

#include <errno.h>
#include <pthread.h>

#define PAGES_MAX 700u

static uint64_t seed;

/* A set whose memory ends where what may be read ends, with rubbish behind its last page. */
static struct lh_pageset set_of(uint64_t pages, unsigned char *room)
{
	size_t bytes = lh__pageset_bytes(pages);
	struct lh_pageset set = { .pages = pages, .word = (uint64_t *)(void *)(room + LH_PAGE_SIZE - bytes) };

	memset(set.word, 0, bytes);
	if (pages % 64)
		set.word[pages / 64] = UINT64_MAX << pages % 64;
	return set;
}

static unsigned compare(const struct lh_pageset *set, const unsigned char *model)
{
	unsigned wrong = 0, count = 0;
	uint64_t next = LH_PAGESET_NONE, next_not = set->pages;

	for (uint64_t i = set->pages; i-- > 0;) {
		if (model[i])
			next = i;
		else
			next_not = i;
		count += model[i];
		wrong += lh__pageset_has(set, i) != model[i];
		wrong += lh__pageset_next(set, i) != next;
		wrong += lh__pageset_next_not(set, i) != next_not;
	}
	wrong += lh__pageset_count(set) != count;
	wrong += lh__pageset_next(set, set->pages) != LH_PAGESET_NONE;
	wrong += lh__pageset_next_not(set, set->pages + 70) != set->pages;
	return wrong;
}

/* In parts of a few runs each; what is decoded is what was encoded. */
static unsigned through_encoding(const struct lh_pageset *set, const unsigned char *model)
{
	static unsigned char *room;
	unsigned char out[5 * LH_PAGESET_RUN];
	struct lh_pageset copy;
	uint64_t from = 0;
	unsigned wrong = 0;

	room = room ? room : guarded_pages(1);
	copy = set_of(set->pages, room);
	while (from != LH_PAGESET_NONE) {
		size_t size = lh__pageset_encode(set, &from, out, sizeof out - random_next(&seed) % 40);

		wrong += size % LH_PAGESET_RUN != 0 || lh__pageset_decode(&copy, out, size) != 0;
	}
	return wrong + compare(&copy, model);
}

static void changed_at_random(struct lh_pageset *set, unsigned char *model, unsigned *wrong)
{
	uint64_t first = random_next(&seed) % set->pages, r = random_next(&seed);
	uint64_t count = random_next(&seed) % (set->pages - first + 1);

	switch (r % 4) {
	case 0:
		*wrong += lh__pageset_add(set, first) == model[first];
		model[first] = 1;
		break;
	case 1:
		*wrong += lh__pageset_remove(set, first) != model[first];
		model[first] = 0;
		break;
	case 2:
		lh__pageset_add_run(set, first, count);
		memset(model + first, 1, count);
		break;
	default: lh__pageset_remove_run(set, first, count); memset(model + first, 0, count);
	}
}

static void against_a_model(void)
{
	static const unsigned sizes[] = { 1, 63, 64, 65, 127, 128, 300, PAGES_MAX };
	unsigned char *room = guarded_pages(1), *other_room = guarded_pages(1);
	unsigned char model[PAGES_MAX], other_model[PAGES_MAX];
	unsigned wrong = 0;

	for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
		struct lh_pageset set = set_of(sizes[s], room), other = set_of(sizes[s], other_room);

		memset(model, 0, sizeof model);
		memset(other_model, 0, sizeof other_model);
		for (unsigned i = 0; i < 300; i++) {
			changed_at_random(&set, model, &wrong);
			changed_at_random(&other, other_model, &wrong);
			if (i % 16 == 7) {
				lh__pageset_join(&set, &other);
				for (unsigned p = 0; p < sizes[s]; p++)
					model[p] |= other_model[p];
			} else if (i % 16 == 15) {
				lh__pageset_subtract(&set, &other);
				for (unsigned p = 0; p < sizes[s]; p++)
					model[p] &= !other_model[p];
			}
			wrong += compare(&set, model) + through_encoding(&set, model);
		}
		lh__pageset_clear(&set);
		memset(model, 0, sizeof model);
		wrong += compare(&set, model);
	}
	is(wrong, 0, "sets of 1 to %u pages are as a model of bytes, whatever stands behind their last page",
	   PAGES_MAX);
}

static void a_planted_difference(void)
{
	unsigned char *room = guarded_pages(1), model[PAGES_MAX] = { [64] = 1 };
	struct lh_pageset set = set_of(65, room);

	lh__pageset_add(&set, 63);
	ok(compare(&set, model) != 0, "... and a page beside the right one would be noticed");
}

static void put_run(unsigned char *out, uint64_t first, uint32_t count)
{
	memcpy(out, &first, 8);
	memcpy(out + 8, &count, 4);
}

static void malformed(void)
{
	static const struct {
		const char *what;
		uint64_t first[2];
		uint32_t count[2];
	} bad[] = {
		{ "an empty run", { 5, 9 }, { 0, 1 } },
		{ "runs that touch", { 5, 7 }, { 2, 1 } },
		{ "runs that overlap", { 5, 6 }, { 2, 1 } },
		{ "runs that descend", { 50, 7 }, { 2, 1 } },
		{ "a run beyond the end", { 5, 90 }, { 2, 11 } },
		{ "a page beyond the end", { 5, 100 }, { 2, 1 } },
		{ "a page whose run wraps", { 5, UINT64_MAX }, { 2, 2 } },
	};
	unsigned char *room = guarded_pages(1), in[2 * LH_PAGESET_RUN];
	struct lh_pageset set = set_of(100, room);

	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		put_run(in, bad[i].first[0], bad[i].count[0]);
		put_run(in + LH_PAGESET_RUN, bad[i].first[1], bad[i].count[1]);
		ok(lh__pageset_decode(&set, in, sizeof in) == -EPROTO && lh__pageset_count(&set) == 0,
		   "refused, and nothing added: %s", bad[i].what);
	}
	put_run(in, 5, 95);
	is(lh__pageset_decode(&set, in, LH_PAGESET_RUN - 1), -EPROTO, "refused: half a run");
	is(lh__pageset_decode(&set, in, LH_PAGESET_RUN), 0, "taken: a run up to the end");
	is(lh__pageset_count(&set), 95, "... all of it");
	is(lh__pageset_decode(&set, in, 0), 0, "taken: nothing");
}

/* ---- threads: each adds and removes the pages of its own residue, all in the same words ---- */

#define THREADS 3u

struct changer {
	struct lh_pageset *set;
	uint64_t own, won;
	struct lh_pageset *race;
};

static void *change(void *context)
{
	struct changer *self = context;

	for (unsigned round = 0; round < 40; round++)
		for (uint64_t page = self->own; page < self->set->pages; page += THREADS) {
			lh__pageset_add(self->set, page);
			if (round % 2 == 0 && page % 5 == 0)
				lh__pageset_remove(self->set, page);
		}
	for (uint64_t page = 0; page < self->race->pages; page++)
		self->won += lh__pageset_add(self->race, page);
	return NULL;
}

static void threads(void)
{
	static uint64_t words[2][200];
	struct lh_pageset set = { .pages = 12800, .word = words[0] },
			  race = { .pages = 12800, .word = words[1] };
	struct changer changer[THREADS];
	pthread_t thread[THREADS];
	uint64_t won = 0;

	for (unsigned i = 0; i < THREADS; i++) {
		changer[i] = (struct changer){ .set = &set, .own = i, .race = &race };
		if (pthread_create(&thread[i], NULL, change, &changer[i]) != 0)
			abort();
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(thread[i], NULL);
		won += changer[i].won;
	}
	is(lh__pageset_count(&set), 12800, "threads that change neighbouring pages lose nothing");
	is(won, 12800, "of several threads that add a page one is told so");
}

int main(void)
{
	seed = random_seed();
	printf("# seed %llu\n", (unsigned long long)seed);
	against_a_model();
	a_planted_difference();
	malformed();
	threads();
	return done();
}
