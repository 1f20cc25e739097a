/*
 * fault.c - what a touch of the pool's memory means: a page that is not there yet, or a store that has to be
 * seen.
 *
 * Runs in the handler of SIGBUS, in the thread that touched, with all signals blocked.
 *
 * A store to a page in LH_SEE_PAGE opens it until the transaction ends. In LH_SEE_CHECKED every store is
 * looked at: the page is open for one instruction only, after which the processor traps (the trap flag),
 * unless all of it was declared.
 */
#include "service/pool/inside.h"

#include <errno.h>

static int unprotect(struct lh_pool *pool, uint64_t page)
{
	uintptr_t address = (uintptr_t)lh__pool_page(pool, page);
	int result;

	do
		result = pool->port->ops->unprotect(pool->port, address, 1);
	while (result == -EAGAIN);
	return result;
}

static struct step *step_of(struct lh_pool *pool, uintptr_t thread)
{
	for (unsigned i = 0; i < STEPS; i++)
		if (pool->steps[i].thread == thread)
			return &pool->steps[i];
	return NULL;
}

/* The page is open until this thread's next trap. */
static bool begin_step(struct lh_pool *pool, uint64_t page)
{
	struct step *step = step_of(pool, lh__pool_self());

	if (!step)
		step = step_of(pool, 0);
	if (!step || step->n == STEP_PAGES || unprotect(pool, page) < 0)
		return false;
	step->thread = lh__pool_self();
	step->pages[step->n++] = page;
	return true;
}

static void note_sighting(struct lh_pool *pool, uintptr_t address, uintptr_t code)
{
	if (pool->sighted < SIGHTINGS)
		pool->sightings[pool->sighted++] = (struct sighting){ address, code };
}

static bool see_checked(struct lh_pool *pool, struct change *change, uintptr_t address, uintptr_t code,
                        bool *step)
{
	lh_mask line = lh__mask_bytes(address % LH_PAGE_SIZE, 1);

	if (!(change->declared & line))
		note_sighting(pool, address, code);
	if (change->declared == LH_MASK_ALL) {
		change->open = unprotect(pool, change->page) == 0;
		return change->open;
	}
	*step = begin_step(pool, change->page);
	return *step;
}

/* With changing held. */
static bool see_store(struct lh_pool *pool, uintptr_t address, uintptr_t code, bool *step)
{
	uint64_t page = (address - (uintptr_t)pool->base) / LH_PAGE_SIZE;
	struct change *change;

	if (!pool->writing)
		return false;
	change = lh__changes_of(pool, page);
	if (!change || lh__changes_save(pool, change, LH_MASK_ALL) < 0)
		return false;
	if (pool->see == LH_SEE_CHECKED)
		return see_checked(pool, change, address, code, step);
	if (!change->open)
		change->open = unprotect(pool, page) == 0;
	return change->open;
}

bool lh__fault_touched(struct lh_pool *pool, uintptr_t address, bool write, uintptr_t code, bool *step)
{
	uint64_t page = (address - (uintptr_t)pool->base) / LH_PAGE_SIZE;
	bool seen;

	lh__pool_count(&pool->counts.faults, 1);
	if (page >= __atomic_load_n(&pool->size, __ATOMIC_RELAXED) / LH_PAGE_SIZE)
		return false;
	if (!lh__memory_loaded(pool, page)) {
		if (lh__memory_load(pool, page, 1) < 0)
			return false;
		if (!write || pool->see == LH_SEE_DECLARED)
			return true;
	} else if (!write) {
		return pool->lazy; /* another thread has loaded it in between */
	}
	if (pool->see == LH_SEE_DECLARED || pool->read_only)
		return false;
	lh__lock(pool->sys, &pool->changing);
	seen = see_store(pool, address, code, step);
	lh__unlock(pool->sys, &pool->changing);
	return seen;
}

/*
 * A page that has been declared as a whole meanwhile, by another instruction's trap, stays open; so does one
 * that another thread steps over at this moment, until that one's trap.
 */
static bool others_step(const struct lh_pool *pool, const struct step *own, uint64_t page)
{
	for (unsigned i = 0; i < STEPS; i++)
		for (unsigned j = 0; &pool->steps[i] != own && j < pool->steps[i].n; j++)
			if (pool->steps[i].pages[j] == page)
				return true;
	return false;
}

bool lh__fault_stepped(struct lh_pool *pool)
{
	struct step *step;

	lh__lock(pool->sys, &pool->changing);
	step = step_of(pool, lh__pool_self());
	for (unsigned i = 0; step && i < step->n; i++) {
		uintptr_t address = (uintptr_t)lh__pool_page(pool, step->pages[i]);
		int result = 0;

		if (!others_step(pool, step, step->pages[i]))
			do
				result = pool->port->ops->protect(pool->port, address, 1);
			while (result == -EAGAIN);
		(void)result; /* what is open too long is compared at the commit all the same */
	}
	if (step)
		*step = (struct step){ .thread = 0 };
	lh__unlock(pool->sys, &pool->changing);
	return step != NULL;
}
