/*
 * fault.c - what a touch of the pool's memory means: a page that is not there yet, or a store that has to be
 * seen.
 *
 * Runs in the handler of SIGBUS, in the thread that touched, with all signals blocked.
 *
 * A plain store is made here, on behalf of the instruction that faulted (emulate.c). Where it is another kind
 * of instruction, or the page is likely to be stored to again, LH_SEE_PAGE opens the page until the
 * transaction ends. In LH_SEE_CHECKED every store is looked at: the page is open for one instruction only,
 * after which the processor traps (the trap flag), unless all of it was declared.
 */
#include "service/pool/inside.h"

#include <errno.h>

int lh__fault_unprotect(struct lh_pool *pool, uint64_t page)
{
	uintptr_t address = (uintptr_t)lh__pool_page(pool, page);
	int result;

	do
		result = pool->port->ops->unprotect(pool->port, address, 1);
	while (result == -EAGAIN);
	return result;
}

int lh__fault_protect(struct lh_pool *pool, uint64_t page, size_t pages)
{
	uintptr_t address = (uintptr_t)lh__pool_page(pool, page);
	int result;

	do
		result = pool->port->ops->protect(pool->port, address, pages);
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

/*
 * The page is open until this thread's next trap. Where too many threads are at it, this one is turned back
 * to its instruction, and faults again, until one of them is done.
 */
static bool begin_step(struct lh_pool *pool, uint64_t page, ucontext_t *context)
{
	struct step *step = step_of(pool, lh__pool_self());

	if (!step)
		step = step_of(pool, 0);
	if (!step)
		return true;
	if (step->n == STEP_PAGES || lh__fault_unprotect(pool, page) < 0)
		return false;
	step->thread = lh__pool_self();
	step->flags = lh__emulate_pushes_flags(pool->emulator, context);
	step->pages[step->n++] = page;
	context->uc_mcontext.gregs[REG_EFL] |= LH_POOL_TRAP_FLAG;
	return true;
}

static void note_sighting(struct lh_pool *pool, uintptr_t address, uintptr_t code)
{
	if (pool->sighted < SIGHTINGS)
		pool->sightings[pool->sighted++] = (struct sighting){ address, code };
}

/*
 * An instruction whose store cannot be made here is executed: with the page open from now on, or for that
 * time.
 */
static bool execute(struct lh_pool *pool, struct change *change, ucontext_t *context)
{
	if (pool->see == LH_SEE_CHECKED && change->declared != LH_MASK_ALL)
		return begin_step(pool, change->page, context);
	if (!change->open)
		change->open = lh__fault_unprotect(pool, change->page) == 0;
	return change->open;
}

/* The note of a page whose stores are seen at this moment; NULL where none are, or there is no memory. */
static struct change *note_of(struct lh_pool *pool, uintptr_t address, unsigned size)
{
	uint64_t page = (address - (uintptr_t)pool->base) / LH_PAGE_SIZE;

	if (!lh__pool_has(pool, (const void *)address, size) ||
	    address % LH_PAGE_SIZE + size > LH_PAGE_SIZE || !lh__memory_loaded(pool, page))
		return NULL;
	return lh__changes_of(pool, page);
}

/*
 * Whether the fault that code has taken is likely to be its page's only one in the transaction; then it costs
 * least to make the store here. The code's past tells: each page that took another fault speaks against it,
 * and each that did not for it. Now and then it is tried all the same.
 */
#define TRY_EVERY 64
#define GUESS_MAX 3

static uint32_t guess_of(uintptr_t code)
{
	return (uint32_t)((code * UINT64_C(0x9e3779b97f4a7c15)) >> 40) % GUESSES;
}

static bool likely_alone(struct lh_pool *pool, uintptr_t code)
{
	return pool->guesses[guess_of(code)] >= 0 || ++pool->guessed % TRY_EVERY == 0;
}

static void note_guess(struct lh_pool *pool, struct change *change, bool alone)
{
	int8_t *guess = &pool->guesses[change->guess];

	*guess += alone ? *guess < GUESS_MAX : -(*guess > -GUESS_MAX);
}

static void learn(struct lh_pool *pool)
{
	for (size_t i = 0; i < pool->changes.n; i++) {
		struct change *change = lh__changes_at(pool, i);

		if (change->stores == 1 && !change->open)
			note_guess(pool, change, true);
	}
}

/* A page's first fault. */
static bool is_worth(struct lh_pool *pool, struct change *change, uintptr_t code)
{
	if (pool->see == LH_SEE_CHECKED)
		return true;
	if (change->stores == 0) {
		change->guess = guess_of(code);
		return likely_alone(pool, code);
	}
	if (change->stores == 1)
		note_guess(pool, change, false);
	return false;
}

/*
 * Makes the store that faulted, and those that follow it directly, in the memory's other mapping. Opening the
 * page and protecting it again would take two system calls, each of which interrupts every other processor
 * that the program runs on; a page that is stored to again and again is worth that. False: the instruction
 * has to be executed.
 */
#define STORES_IN_ROW 64

/* touched: where the fault was, 0: of a store that follows. */
static bool make_store(struct lh_pool *pool, ucontext_t *context, uintptr_t touched)
{
	uintptr_t code = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
	struct change *change;
	struct store store;
	lh_mask lines;

	if (!lh__emulate_read(pool->emulator, context, &store) ||
	    (touched && store.address / LH_PAGE_SIZE != touched / LH_PAGE_SIZE))
		return false;
	change = note_of(pool, store.address, store.size);
	if (!change || change->open || (touched && !is_worth(pool, change, code)))
		return false;
	lines = lh__mask_bytes(store.address % LH_PAGE_SIZE, store.size);
	if (lh__changes_save(pool, change, pool->see == LH_SEE_CHECKED ? LH_MASK_ALL : lines) < 0)
		return false;
	if (pool->see == LH_SEE_CHECKED && lines & ~change->declared)
		note_sighting(pool, store.address, code);
	lh__emulate_do(context, &store, pool->alias + (store.address - (uintptr_t)pool->base));
	change->stores += touched != 0;
	return true;
}

/* Of those that follow, only in the same page of code: the next one may not be there to be read. */
static bool make_stores(struct lh_pool *pool, ucontext_t *context, uintptr_t touched)
{
	const greg_t *at = &context->uc_mcontext.gregs[REG_RIP];
	uintptr_t page = (uintptr_t)*at / LH_PAGE_SIZE;

	if (!make_store(pool, context, touched))
		return false;
	for (unsigned made = 1; made < STORES_IN_ROW && (uintptr_t)*at / LH_PAGE_SIZE == page; made++)
		if (!make_store(pool, context, 0))
			break;
	return true;
}

/* With changing held. */
static bool see_store(struct lh_pool *pool, uintptr_t address, ucontext_t *context)
{
	uint64_t page = (address - (uintptr_t)pool->base) / LH_PAGE_SIZE;
	lh_mask line = lh__mask_bytes(address % LH_PAGE_SIZE, 1);
	struct change *change;

	if (!pool->writing)
		return false;
	if (make_stores(pool, context, address))
		return true;
	change = lh__changes_of(pool, page);
	if (!change || lh__changes_save(pool, change, LH_MASK_ALL) < 0)
		return false;
	if (pool->see == LH_SEE_CHECKED && !(change->declared & line))
		note_sighting(pool, address, (uintptr_t)context->uc_mcontext.gregs[REG_RIP]);
	return execute(pool, change, context);
}

#define FAULT_WRITE 2 /* bit 1 of the processor's error code */

bool lh__fault_touched(struct lh_pool *pool, uintptr_t address, ucontext_t *context)
{
	uint64_t page = (address - (uintptr_t)pool->base) / LH_PAGE_SIZE;
	bool write = (context->uc_mcontext.gregs[REG_ERR] & FAULT_WRITE) != 0, seen;

	lh__pool_count(&pool->counts.faults, 1);
	if (page >= __atomic_load_n(&pool->size, __ATOMIC_RELAXED) / LH_PAGE_SIZE)
		return false;
	if (!lh__memory_loaded(pool, page)) {
		if (lh__memory_load(pool, page, 1) < 0)
			return false;
		if (!write || !lh__pool_protects(pool))
			return true;
	} else if (!write) {
		return pool->lazy; /* another thread has loaded it in between */
	}
	if (!lh__pool_protects(pool) || pool->read_only)
		return false;
	lh__lock(pool->sys, &pool->changing);
	seen = see_store(pool, address, context);
	lh__unlock(pool->sys, &pool->changing);
	return seen;
}

static void protect(struct lh_pool *pool, uint64_t page)
{
	int result = lh__fault_protect(pool, page, 1);

	(void)result; /* what is open too long is compared at the commit all the same */
}

/* A program may have gone elsewhere from an instruction that failed after it had touched a page. */
static void end_steps(struct lh_pool *pool)
{
	for (unsigned i = 0; i < STEPS; i++) {
		struct step *step = &pool->steps[i];

		for (unsigned j = 0; j < step->n; j++)
			protect(pool, step->pages[j]);
		*step = (struct step){ .thread = 0 };
	}
}

void lh__fault_end(struct lh_pool *pool)
{
	if (pool->see == LH_SEE_CHECKED)
		end_steps(pool);
	else
		learn(pool);
}

/*
 * A page that has been declared as a whole meanwhile stays open; so does one that another thread steps over
 * at this moment, until that one's trap.
 */
static bool stays_open(struct lh_pool *pool, const struct step *own, uint64_t page)
{
	const struct change *change = lh__changes_of(pool, page);

	if (change && change->open)
		return true;
	for (unsigned i = 0; i < STEPS; i++)
		for (unsigned j = 0; &pool->steps[i] != own && j < pool->steps[i].n; j++)
			if (pool->steps[i].pages[j] == page)
				return true;
	return false;
}

/* What this thread has pushed while the trap flag was set is as if it had not been. */
static void clear_pushed_flag(const ucontext_t *context)
{
	unsigned char *pushed = (unsigned char *)(uintptr_t)context->uc_mcontext.gregs[REG_RSP];

	pushed[1] &= (unsigned char)~(LH_POOL_TRAP_FLAG >> 8);
}

bool lh__fault_stepped(struct lh_pool *pool, const ucontext_t *context)
{
	struct step *step;

	lh__lock(pool->sys, &pool->changing);
	step = step_of(pool, lh__pool_self());
	if (step && step->flags)
		clear_pushed_flag(context);
	for (unsigned i = 0; step && i < step->n; i++)
		if (!stays_open(pool, step, step->pages[i]))
			protect(pool, step->pages[i]);
	if (step)
		*step = (struct step){ .thread = 0 };
	lh__unlock(pool->sys, &pool->changing);
	return step != NULL;
}
