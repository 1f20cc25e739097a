/* pages_given.c - see pages_given.h. */
#include "service/migrate/pages_given.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define STRIPES 64u
#define NOTHING UINT64_MAX

struct place {
	uint64_t page; /* NOTHING: none */
	lh_mask last;  /* lines that were given last */
	bool whole;    /* all others were then zero: it was not given relative to anything */
};

struct stripe {
	pthread_mutex_t lock;
} __attribute__((aligned(64)));

struct lh_given {
	struct lh_hash_key key;
	struct stripe stripe[STRIPES];
	uint64_t places;
	struct place *place;
	uint64_t (*hash)[LH_PAGE_LINES]; /* of each place; memory only where it is used */
};

int lh__given_open(uint64_t places, struct lh_given **out)
{
	struct lh_given *given = aligned_alloc(64, sizeof *given);
	int result;

	if (!given)
		return -ENOMEM;
	for (unsigned i = 0; i < STRIPES; i++)
		pthread_mutex_init(&given->stripe[i].lock, NULL);
	given->places = places;
	given->place = malloc(places * sizeof *given->place);
	given->hash = aligned_alloc(64, places * sizeof *given->hash);
	result = given->place && given->hash ? lh__hash_key_init(&lh__sys_default, &given->key) : -ENOMEM;
	if (result) {
		lh__given_close(given);
		return result;
	}
	lh__given_forget(given);
	*out = given;
	return 0;
}

void lh__given_forget(struct lh_given *given)
{
	for (uint64_t i = 0; i < given->places; i++)
		given->place[i].page = NOTHING;
}

void lh__given_close(struct lh_given *given)
{
	if (!given)
		return;
	for (unsigned i = 0; i < STRIPES; i++)
		pthread_mutex_destroy(&given->stripe[i].lock);
	free(given->place);
	free(given->hash);
	free(given);
}

static lh_mask differing(const uint64_t a[LH_PAGE_LINES], const uint64_t b[LH_PAGE_LINES])
{
	lh_mask mask = 0;

	for (unsigned i = 0; i < LH_PAGE_LINES; i++)
		mask |= (lh_mask)(a[i] != b[i]) << i;
	return mask;
}

/* Relative where that is possible and does not take more lines than the page has by itself. */
static lh_mask choose(bool possible, lh_mask relative, const void *content, bool *since)
{
	lh_mask nonzero = lh__page_nonzero(content);

	*since = possible && lh__mask_count(relative) <= lh__mask_count(nonzero);
	return *since ? relative : nonzero;
}

lh_mask lh__given_on_data(struct lh_given *given, uint64_t page, const void *content, bool *since)
{
	uint64_t at = page % given->places, hash[LH_PAGE_LINES];
	pthread_mutex_t *lock = &given->stripe[at % STRIPES].lock;
	struct place *place = &given->place[at];
	lh_mask mask;

	lh__page_hash(&given->key, content, hash);
	pthread_mutex_lock(lock);
	if (*since && place->page == page)
		mask = choose(true, differing(hash, given->hash[at]), content, since);
	else
		mask = choose(false, 0, content, since);
	*place = (struct place){ page, mask, !*since };
	memcpy(given->hash[at], hash, sizeof hash);
	pthread_mutex_unlock(lock);
	return mask;
}

lh_mask lh__given_on_faults(struct lh_given *given, uint64_t page, const void *content, bool *since)
{
	uint64_t at = page % given->places;
	pthread_mutex_t *lock = &given->stripe[at % STRIPES].lock;
	const struct place *place = &given->place[at];
	lh_mask relative = 0;
	bool possible = false;

	if (*since) {
		pthread_mutex_lock(lock);
		possible = place->page == page && !place->whole;
		if (possible)
			relative =
				place->last | lh__page_hash_diff(&given->key, content, given->hash[at], NULL);
		pthread_mutex_unlock(lock);
	}
	return choose(possible, relative, content, since);
}
