/*
 * tx.c - transactions.
 *
 * A commit, of a redo log: pages are protected again, compared with their twins, and the lines that differ
 * are one record; then the next transaction may begin, while this one waits for its record to be durable,
 * with all others who wait. Of an undo log: the lines that differ are flushed, and the log says that the
 * transaction is over.
 *
 * Pages are protected before they are compared, so a store that comes too late (the program's mistake) is
 * seen as what it is, and not lost.
 */
#include "service/pool/inside.h"

#include <errno.h>

#include "service/pool/frames.h"
#include "service/pool/symbol.h"
#include "service/pool/translated.h"
#include "sys/mutant.h"

int lh__pool_refuse(const struct lh_pool *pool, struct lh_error *error)
{
	if (!__atomic_load_n(pool->alive, __ATOMIC_RELAXED))
		return lh__fail(error, -ECHILD, "this process is a child of the one that opened the pool");
	return lh__fail(error, -ENOTRECOVERABLE,
	                "the pool's log could not be written (%s); close it and open it again",
	                lh__errno_name(__atomic_load_n(&pool->broken, __ATOMIC_RELAXED)));
}

static int enter_to_write(const struct lh_pool *pool, struct lh_error *error)
{
	int result = lh__pool_enter(pool, error);

	if (result == 0 && pool->read_only)
		return lh__fail(error, -EROFS, "the pool is open read-only");
	return result;
}

int lh__tx_mine(const struct lh_pool *pool, struct lh_error *error)
{
	int result = enter_to_write(pool, error);

	if (result == 0 && __atomic_load_n(&pool->owner, __ATOMIC_RELAXED) != lh__pool_self())
		return lh__fail(error, -EPERM, "this thread has no open transaction in the pool");
	return result;
}

/* What became of the transaction is not known: nothing more is done until the pool is opened again. */
int lh__tx_break(struct lh_pool *pool, int result, struct lh_error *error)
{
	__atomic_store_n(&pool->broken, result, __ATOMIC_RELAXED);
	return lh__fail(error, result, "the log could not be written (%s); close the pool and open it again",
	                lh__errno_name(result));
}

/*
 * Only faults take part in the changes beside the transaction's own thread, and where pages are not protected
 * there are none.
 */
static void lock_changes(struct lh_pool *pool)
{
	if (lh__pool_protects(pool))
		lh__lock(pool->sys, &pool->changing);
}

static void unlock_changes(struct lh_pool *pool)
{
	if (lh__pool_protects(pool))
		lh__unlock(pool->sys, &pool->changing);
}

int lh__tx_enter(struct lh_pool *pool, bool wait, struct lh_error *error)
{
	uintptr_t self = lh__pool_self();
	int result = enter_to_write(pool, error);

	if (result < 0)
		return result;
	if (__atomic_load_n(&pool->owner, __ATOMIC_RELAXED) == self) {
		pool->depth++;
		return 0;
	}
	if (wait)
		lh__lock(pool->sys, &pool->turn);
	else if (!lh__trylock(&pool->turn))
		return lh__fail(error, -EDEADLK,
		                "another thread has a transaction in a pool that comes before");
	result = lh__pool_enter(pool, error); /* it may have broken while this thread waited */
	if (result < 0) {
		lh__unlock(pool->sys, &pool->turn);
		return result;
	}
	__atomic_store_n(&pool->owner, self, __ATOMIC_RELAXED);
	pool->depth = 1;
	pool->aborted = false;
	pool->transaction = 0;
	pool->prepared = 0;
	pool->doomed = 0;
	__atomic_store_n(&pool->writing, true, __ATOMIC_RELEASE);
	return 0;
}

/* With which the caller of the function goes on that this stands in. */
#define STACK_POINTER ((uint64_t)(uintptr_t)__builtin_frame_address(0) + 16)

/*
 * Asked by code that is translated with the thread: one that has left its translation, by siglongjmp out of
 * a handler, has left the transaction with it, which is aborted here; or it is in it, where nobody sees it.
 */
static int settle_thread(const struct lh_pool *pool, uint64_t stack_pointer, struct lh_error *error)
{
	int result = pool->see == LH_SEE_TRANSLATED ? lh__translated_settle(stack_pointer) : 0;

	if (result >= 0)
		return 0;
	return lh__fail(error, result, "a handler of a signal has interrupted the thread's transaction");
}

int lh__tx_begin_at(struct lh_pool *pool, uint64_t stack_pointer, struct lh_error *error)
{
	int result = lh__tx_begin(pool, error);
	struct lh_frames *frames;

	if (result < 0 || pool->see != LH_SEE_TRANSLATED || pool->translated)
		return result;
	/* Set before, since what follows enter is code that is translated. */
	pool->translated = true;
	result = lh__translated_enter(pool, error);
	if (result < 0) {
		lh__tx_drop(pool);
		return result;
	}
	frames = lh__translated_frames();
	if (!frames->base)
		frames->base = stack_pointer;
	return 0;
}

int lh_tx_begin(struct lh_pool *pool, struct lh_error *error)
{
	int result = settle_thread(pool, STACK_POINTER, error);

	return result < 0 ? result : lh__tx_begin_at(pool, STACK_POINTER, error);
}

void lh__tx_end(struct lh_pool *pool)
{
	bool leaves = pool->translated && pool->owner == lh__pool_self();

	pool->translated = false;
	lock_changes(pool);
	pool->writing = false;
	lh__changes_forget(pool);
	unlock_changes(pool);
	pool->sighted = 0;
	pool->depth = 0;
	pool->joined = false;
	__atomic_store_n(&pool->owner, 0, __ATOMIC_RELAXED);
	lh__unlock(pool->sys, &pool->turn);
	if (leaves)
		lh__translated_leave(pool);
}

/* ---- declaring ---- */

/* The lines are saved; of a page that is watched as a whole, all of it. */
static int note_page(struct lh_pool *pool, uint64_t page, lh_mask mask, bool whole, struct change **out)
{
	struct change *change = lh__changes_of(pool, page);
	int result = change ? lh__changes_save(pool, change, whole ? LH_MASK_ALL : mask) : -ENOMEM;

	if (result < 0)
		return result;
	change->declared |= mask;
	*out = change;
	return 0;
}

/* The lines may be stored to without a fault from now on. */
static int declare_page(struct lh_pool *pool, uint64_t page, lh_mask mask)
{
	struct change *change;
	int result = note_page(pool, page, mask, lh__pool_protects(pool), &change);

	if (result < 0 || change->open || !lh__pool_protects(pool) ||
	    (pool->see == LH_SEE_CHECKED && change->declared != LH_MASK_ALL))
		return result;
	result = lh__fault_unprotect(pool, page);
	change->open = result == 0;
	return result;
}

/* The lines are about to be stored to by the library, in the memory's other mapping where there is one. */
static int save_page(struct lh_pool *pool, uint64_t page, lh_mask mask)
{
	struct change *change;

	return note_page(pool, page, mask, pool->see == LH_SEE_CHECKED, &change);
}

static int each_page(struct lh_pool *pool, const void *pointer, uint64_t size,
                     int (*step)(struct lh_pool *pool, uint64_t page, lh_mask mask))
{
	uint64_t offset = (uint64_t)((uintptr_t)pointer - (uintptr_t)pool->base), end_offset = offset + size;
	int result = 0;

	while (offset < end_offset && result == 0) {
		uint64_t page = offset / LH_PAGE_SIZE, in_page = offset % LH_PAGE_SIZE;
		uint64_t part = LH_PAGE_SIZE - in_page;

		if (part > end_offset - offset)
			part = end_offset - offset;
		result = lh__memory_load(pool, page, 1);
		if (result < 0)
			break;
		lock_changes(pool);
		result = step(pool, page, lh__mask_bytes(in_page, part));
		unlock_changes(pool);
		offset += part;
	}
	return result;
}

int lh__tx_declare(struct lh_pool *pool, const void *pointer, uint64_t size)
{
	return each_page(pool, pointer, size, declare_page);
}

int lh__tx_save(struct lh_pool *pool, const void *pointer, uint64_t size)
{
	return each_page(pool, pointer, size, save_page);
}

int lh_tx_add(struct lh_pool *pool, const void *pointer, size_t size, struct lh_error *error)
{
	int result = lh__tx_mine(pool, error);

	/* Often it is in no cache, and then comes while the rest is looked up. */
	__builtin_prefetch(pointer, 1);
	if (result < 0)
		return result;
	if (!lh__pool_has(pool, pointer, size))
		return lh__fail(error, -EINVAL, "0x%lx and %zu bytes from there are not in the pool",
		                (unsigned long)(uintptr_t)pointer, size);
	result = lh__tx_declare(pool, pointer, size);
	if (result == -E2BIG)
		return lh__fail(error, result, "the transaction changes more than the log has room for");
	return result == 0
	               ? 0
	               : lh__fail(error, result, "what is there cannot be saved: %s", lh__errno_name(result));
}

/* ---- ending ---- */

/* Stores to what this transaction has opened are seen again; neighbours together. changing is held. */
static int protect_all(struct lh_pool *pool)
{
	size_t n = pool->changes.n;
	int result = 0;

	if (!pool->port || !lh__pool_protects(pool))
		return 0;
	lh__fault_end(pool);
	for (size_t i = 0, j; i < n && result == 0; i = j) {
		struct change *first = lh__changes_at(pool, i);

		for (j = i + 1; j < n && first->open && lh__changes_at(pool, j)->open &&
		                lh__changes_at(pool, j)->page == first->page + (j - i);
		     j++)
			;
		if (!first->open)
			continue;
		result = lh__fault_protect(pool, first->page, j - i);
	}
	return result;
}

/*
 * Which lines of which pages have changed, as the journal wants it. *undeclared: the first that should not
 * have.
 */
static size_t find_changes(struct lh_pool *pool, struct lh_change *list, uintptr_t *undeclared)
{
	size_t n = 0;

	for (size_t i = 0; i < pool->changes.n; i++) {
		struct change *change = lh__changes_at(pool, i);
		unsigned char *page = lh__pool_page(pool, change->page);
		lh_mask found = lh__changes_found(pool, change), wrong = found & ~change->declared;

		if (pool->see == LH_SEE_CHECKED && wrong && !*undeclared)
			*undeclared = (uintptr_t)page + LH_LINE_SIZE * (unsigned)__builtin_ctzll(wrong);
		if (found)
			list[n++] = (struct lh_change){ .page = change->page, .mask = found, .data = page };
	}
	return n;
}

void lh__tx_flush(struct lh_pool *pool, const struct lh_change *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		lh_mask mask = list[i].mask;
		unsigned first, count;

		while (lh__mask_next_run(&mask, &first, &count)) {
			if (!LH_MUTANT(UNDO_HOME_NOT_FLUSHED))
				pool->direct->flush(pool->direct,
				                    (const unsigned char *)list[i].data +
				                            LH_LINE_SIZE * first,
				                    LH_LINE_SIZE * count);
			lh__pool_count_alone(&pool->counts.flushes, count);
			lh__pool_count_alone(&pool->counts.home_bytes, (uint64_t)LH_LINE_SIZE * count);
		}
	}
	pool->direct->fence(pool->direct);
	lh__pool_count_alone(&pool->counts.fences, 1);
}

/*
 * The lines are as they have to be, in memory: makes them so on the medium, and ends the transaction in the
 * log.
 */
static int settle(struct lh_pool *pool, const struct lh_change *list, size_t n)
{
	uint64_t sequence;
	int result;

	if (pool->prepared && pool->log == LH_LOG_REDO)
		return lh__journal_decide(pool->journal, pool->prepared, false, &sequence);
	if (!pool->transaction)
		return 0;
	if (LH_MUTANT(UNDO_END_BEFORE_HOME)) {
		result = lh__journal_end(pool->journal, pool->transaction);
		lh__tx_flush(pool, list, n);
		return result;
	}
	lh__tx_flush(pool, list, n);
	if (pool->prepared)
		return lh__journal_decide(pool->journal, pool->prepared, false, &sequence);
	return lh__journal_end(pool->journal, pool->transaction);
}

/*
 * Puts every saved line that has changed back. changing is held. Where the transaction goes on (inner), its
 * old lines stay in the log.
 */
static int put_back(struct lh_pool *pool, bool inner)
{
	struct lh_change *list = (struct lh_change *)pool->changes.log.base;
	unsigned char *own = pool->alias ? pool->alias : pool->base;
	uintptr_t ignored = 0;
	size_t n = find_changes(pool, list, &ignored);

	for (size_t i = 0; i < n; i++) {
		uint64_t page = list[i].page;

		lh__lines_copy(own + page * LH_PAGE_SIZE, lh__changes_twin(pool, lh__changes_of(pool, page)),
		               list[i].mask);
	}
	if (!inner)
		return settle(pool, list, n);
	if (pool->transaction)
		lh__tx_flush(pool, list, n);
	for (size_t i = 0; i < pool->changes.n; i++)
		lh__changes_at(pool, i)->open = false;
	return 0;
}

void lh__tx_doom(struct lh_pool *pool, int result)
{
	if (pool->doomed)
		return;
	pool->doomed = result;
	if (pool->log == LH_LOG_UNDO)
		lh__memory_part(pool);
}

/*
 * Stores that were not saved are forgotten. With a redo log nobody has what was there before: the pool has to
 * be opened again.
 */
static int undoom(struct lh_pool *pool)
{
	int result = pool->doomed;

	if (result == 0)
		return 0;
	pool->doomed = 0;
	if (pool->log != LH_LOG_UNDO)
		return result;
	lh__translated_renew();
	return lh__memory_join(pool);
}

/* Memory is as it was at the outermost begin. What has been declared still is, where it goes on. */
int lh__tx_abort(struct lh_pool *pool, bool inner)
{
	int result;

	lock_changes(pool);
	result = protect_all(pool);
	if (result == 0)
		result = undoom(pool);
	if (result == 0)
		result = put_back(pool, inner);
	if (!inner)
		pool->transaction = pool->prepared = 0;
	unlock_changes(pool);
	lh__pool_count_alone(&pool->counts.aborts, !inner);
	return result;
}

static int fail_undeclared(const struct lh_pool *pool, uintptr_t address, struct lh_error *error)
{
	char code[160] = "code that was not seen";

	for (unsigned i = 0; i < pool->sighted; i++)
		if (pool->sightings[i].address / LH_LINE_SIZE == address / LH_LINE_SIZE) {
			address = pool->sightings[i].address;
			lh__symbol_describe(pool->sightings[i].code, code, sizeof code);
			break;
		}
	return lh__fail(error, -EFAULT,
	                "transaction %lu: 0x%lx (offset 0x%lx) was changed by %s without lh_tx_add",
	                (unsigned long)pool->counts.commits + 1, (unsigned long)address,
	                (unsigned long)(address - (uintptr_t)pool->base), code);
}

/*
 * The changes are in the log (and, undo, durable at home). *sequence: what lh_tx_wait has to wait for, or 0.
 * changing is held.
 */
static int log_changes(struct lh_pool *pool, uint64_t *sequence, struct lh_error *error)
{
	struct lh_change *list = (struct lh_change *)pool->changes.log.base;
	uintptr_t undeclared = 0;
	int result = protect_all(pool);
	size_t n;

	if (result < 0)
		return result;
	n = find_changes(pool, list, &undeclared);
	if (undeclared)
		return fail_undeclared(pool, undeclared, error);
	if (pool->log == LH_LOG_UNDO)
		return settle(pool, list, n);
	if (n > 0)
		result = lh__journal_append(pool->journal, list, n, &pool->newest);
	/* Where nothing has changed, who waits for it still waits for all before it. */
	*sequence = pool->newest;
	return result;
}

int lh__tx_find(struct lh_pool *pool, size_t *n, struct lh_error *error)
{
	uintptr_t undeclared = 0;
	int result;

	lock_changes(pool);
	result = protect_all(pool);
	if (result == 0) {
		*n = find_changes(pool, lh__changes_list(pool), &undeclared);
		if (undeclared)
			result = fail_undeclared(pool, undeclared, error);
	}
	/* A store that comes too late finds no transaction. */
	if (result == 0)
		pool->writing = false;
	unlock_changes(pool);
	return result;
}

static int fail_and_abort(struct lh_pool *pool, int result, struct lh_error *error)
{
	int aborted = lh__tx_abort(pool, false);

	lh__tx_end(pool);
	if (aborted < 0)
		return lh__tx_break(pool, aborted, error);
	return result;
}

/* The outermost commit, up to its being in the log. */
int lh__tx_commit(struct lh_pool *pool, uint64_t *sequence, struct lh_error *error)
{
	int result;

	if (pool->aborted) {
		lh__fail(error, -ECANCELED, "an inner transaction was aborted, and so this one is too");
		return fail_and_abort(pool, -ECANCELED, error);
	}
	if (pool->doomed && pool->doomed != -E2BIG) {
		lh__fail(error, pool->doomed, "a store could not be logged (%s)",
		         lh__errno_name(pool->doomed));
		return fail_and_abort(pool, pool->doomed, error);
	}
	lock_changes(pool);
	result = pool->doomed ? pool->doomed : log_changes(pool, sequence, error);
	/* A store that comes too late finds no transaction. */
	if (result == 0)
		pool->writing = false;
	unlock_changes(pool);
	if (result == -E2BIG) {
		lh__fail(error, result,
		         "the transaction changes more than the log, of %lu bytes, has room for",
		         (unsigned long)(lh__journal_log_pages(pool->journal) * LH_PAGE_SIZE));
		return fail_and_abort(pool, result, error);
	}
	if (result == -EFAULT)
		return fail_and_abort(pool, result, error);
	if (result == 0)
		lh__pool_count_alone(&pool->counts.commits, 1);
	lh__tx_end(pool);
	return result == 0 ? 0 : lh__tx_break(pool, result, error);
}

/*
 * What a commit or an abort begins with. In a pool that has broken meanwhile the transaction ends here, so
 * that who waits for his turn learns of it.
 */
static int mine_to_end(struct lh_pool *pool, struct lh_error *error)
{
	int result = lh__tx_mine(pool, error);

	if (result == -ENOTRECOVERABLE && pool->owner == lh__pool_self())
		lh__tx_end(pool);
	if (result == 0 && pool->joined && pool->depth == 1)
		return lh__fail(error, -EPERM, "the transaction was begun by tx_begin, and ends by tx_end");
	return result;
}

int lh__tx_commit_here(struct lh_pool *pool, uint64_t *token, struct lh_error *error)
{
	int result = mine_to_end(pool, error);

	if (result < 0)
		return result;
	*token = 0;
	if (pool->depth > 1) {
		pool->depth--;
		return pool->joined && pool->depth == 1 ? lh__atomic_last(error) : 0;
	}
	result = lh__tx_commit(pool, token, error);
	if (result == 0)
		lh__home_thread_nudge(pool);
	return result;
}

int lh_tx_commit_async(struct lh_pool *pool, uint64_t *token, struct lh_error *error)
{
	int result = settle_thread(pool, STACK_POINTER, error);

	return result < 0 ? result : lh__tx_commit_here(pool, token, error);
}

int lh_tx_wait(struct lh_pool *pool, uint64_t token, struct lh_error *error)
{
	int result = lh__pool_enter(pool, error);

	if (result < 0 || token == 0)
		return result;
	result = lh__journal_flush(pool->journal, token);
	return result == 0 ? 0 : lh__tx_break(pool, result, error);
}

int lh__tx_commit_durably(struct lh_pool *pool, struct lh_error *error)
{
	uint64_t token;
	int result = lh__tx_commit_here(pool, &token, error);

	return result < 0 ? result : lh_tx_wait(pool, token, error);
}

int lh_tx_commit(struct lh_pool *pool, struct lh_error *error)
{
	int result = settle_thread(pool, STACK_POINTER, error);

	return result < 0 ? result : lh__tx_commit_durably(pool, error);
}

int lh_tx_abort(struct lh_pool *pool, struct lh_error *error)
{
	int result = mine_to_end(pool, error);

	if (result < 0)
		return result;
	result = lh__tx_abort(pool, pool->depth > 1);
	if (pool->depth > 1 && result == 0) {
		pool->depth--;
		pool->aborted = true;
		result = pool->joined && pool->depth == 1 ? lh__atomic_last(error) : 0;
		return result == -ECANCELED ? 0 : result;
	}
	lh__tx_end(pool);
	return result == 0 ? 0 : lh__tx_break(pool, result, error);
}

void lh__tx_drop(struct lh_pool *pool)
{
	int ignored;

	if (pool->joined && pool->owner == lh__pool_self())
		lh__atomic_forget(pool);
	if (!pool->owner)
		return;
	ignored = lh__tx_abort(pool, false);
	(void)ignored; /* what could not be put back here is put back by recovery */
	lh__tx_end(pool);
}
