/*
 * atomic.c - tx_begin, tx_end and tx_abort: transactions of a program that names no pool.
 *
 * The outermost tx_begin of a thread joins all pools that are open so (here.c), each as lh_tx_begin does, the
 * lowest id first; so threads that do this never wait for each other in a circle. Where the thread has a
 * transaction in one of them already, waiting for one that comes before it might be such a circle; then it
 * does not wait. tx_end lets together.c end it; where a transaction was open in a pool before, that one's end
 * is the end of all.
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <string.h>

#include "linehome/atomic.h"
#include "service/pool/frames.h"
#include "service/pool/translated.h"

/* What this thread has joined. */
static __thread struct joined {
	unsigned depth; /* of tx_begin */
	unsigned n;
	bool aborted; /* a pool of it is gone */
	struct lh_pool *pools[TOGETHER_MAX];
	unsigned places[TOGETHER_MAX]; /* here */
} joined;

/* Where it is: a word that is reached without a call, however the library was loaded. */
static __thread struct joined *known __attribute__((tls_model("initial-exec")));

static struct joined *joined_here(void)
{
	if (!known)
		known = &joined;
	return known;
}

static bool before(const struct lh_pool *pool, const struct lh_pool *other)
{
	return memcmp(pool->header.id, other->header.id, sizeof pool->header.id) < 0;
}

static void insert(struct joined *mine, struct lh_pool *pool, unsigned place)
{
	unsigned i = mine->n++;

	for (; i > 0 && before(pool, mine->pools[i - 1]); i--) {
		mine->pools[i] = mine->pools[i - 1];
		mine->places[i] = mine->places[i - 1];
	}
	mine->pools[i] = pool;
	mine->places[i] = place;
}

static void let_go(struct joined *mine)
{
	for (unsigned i = 0; i < mine->n; i++)
		lh__here_let_go(mine->places[i]);
	mine->n = 0;
	mine->aborted = false;
}

/* All that are open so. */
static int find(struct joined *mine)
{
	for (unsigned i = 0; i < lh__here_places(); i++) {
		struct lh_pool *pool = lh__here_hold(i);

		if (!pool)
			continue;
		if (!pool->joins || pool->read_only || !__atomic_load_n(pool->alive, __ATOMIC_RELAXED)) {
			lh__here_let_go(i);
			continue;
		}
		if (mine->n == TOGETHER_MAX) {
			lh__here_let_go(i);
			let_go(mine);
			return -EMFILE;
		}
		insert(mine, pool, i);
	}
	return mine->n ? 0 : -ENODEV;
}

static bool is_mine(const struct lh_pool *pool)
{
	return __atomic_load_n(&pool->owner, __ATOMIC_RELAXED) == lh__pool_self();
}

/* Takes one back that has been entered and in which nothing has been done. */
static void leave(struct lh_pool *pool)
{
	pool->joined = false;
	if (--pool->depth == 0)
		lh__tx_end(pool);
}

static int enter_all(struct joined *mine, struct lh_error *error)
{
	unsigned held = 0, i; /* held: pools before this one may not be waited for */
	int result = 0;

	for (i = 0; i < mine->n; i++)
		if (is_mine(mine->pools[i]))
			held = i;
	for (i = 0; i < mine->n && result == 0; i++) {
		result = lh__tx_enter(mine->pools[i], i >= held, error);
		if (result == 0)
			mine->pools[i]->joined = true;
	}
	if (result < 0)
		for (i--; i-- > 0;)
			leave(mine->pools[i]);
	return result;
}

/*
 * 0: there is one, perhaps of pools that are all gone. -ECHILD: it was the parent's, of whose memory a child
 * of fork has nothing. -EPERM: there is none.
 */
static int is_open(struct joined *mine)
{
	if (mine->n > 0 && !__atomic_load_n(mine->pools[0]->alive, __ATOMIC_RELAXED)) {
		*mine = (struct joined){ .n = 0 };
		return -ECHILD;
	}
	return mine->n > 0 || mine->depth > 0 ? 0 : -EPERM;
}

static int fail_closed(int result, struct lh_error *error)
{
	if (result == -ECHILD)
		return lh__fail(error, result,
		                "this process is a child of the one that began the transaction");
	return lh__fail(error, -EPERM, "this thread has no open transaction");
}

int lh__atomic_begin(struct lh_error *error)
{
	struct joined *mine = joined_here();
	int result;

	if (is_open(mine) == 0) {
		mine->depth++;
		return 0;
	}
	result = find(mine);
	if (result < 0)
		return lh__fail(error, result,
		                result == -ENODEV ? "no pool is open with LH_SEE_TRANSLATED"
		                                  : "too many pools are open with LH_SEE_TRANSLATED");
	result = enter_all(mine, error);
	if (result < 0) {
		let_go(mine);
		return result;
	}
	mine->depth = 1;
	return 0;
}

/* In none of them is a transaction open that began before, nor one of lh_tx_begin within. */
static bool is_last(const struct joined *mine)
{
	for (unsigned i = 0; i < mine->n; i++)
		if (is_mine(mine->pools[i]) && mine->pools[i]->depth > 1)
			return false;
	return mine->depth == 0;
}

static int finish(struct joined *mine, struct lh_error *error)
{
	int result, aborted;

	if (!mine->aborted) {
		result = lh__together_commit(mine->pools, mine->n, error);
	} else {
		result = lh__fail(error, -ECANCELED, "a pool of the transaction was closed inside it");
		aborted = lh__together_abort(mine->pools, mine->n, error);
		result = aborted < 0 ? aborted : result;
	}
	let_go(mine);
	return result;
}

int lh__atomic_last(struct lh_error *error)
{
	struct joined *mine = joined_here();

	return is_last(mine) ? finish(mine, error) : 0;
}

int lh__atomic_end(struct lh_error *error)
{
	struct joined *mine = joined_here();

	int result = is_open(mine);

	if (result < 0 || mine->depth == 0)
		return fail_closed(result, error);
	mine->depth--;
	return lh__atomic_last(error);
}

int lh__atomic_abort(struct lh_error *error)
{
	struct joined *mine = joined_here();
	int result = is_open(mine);

	if (result < 0 || mine->depth == 0)
		return fail_closed(result, error);
	mine->depth--;
	for (unsigned i = 0; i < mine->n && result == 0; i++) {
		struct lh_pool *pool = mine->pools[i];

		result = lh__tx_mine(pool, error);
		if (result == 0)
			result = lh__tx_abort(pool, true);
		pool->aborted = true;
	}
	if (!is_last(mine))
		return result;
	finish(mine, NULL);
	return result;
}

void lh__atomic_forget(struct lh_pool *pool)
{
	struct joined *mine = joined_here();
	unsigned i = 0;

	while (i < mine->n && mine->pools[i] != pool)
		i++;
	if (i == mine->n)
		return;
	pool->joined = false;
	lh__here_let_go(mine->places[i]);
	for (mine->n--; i < mine->n; i++) {
		mine->pools[i] = mine->pools[i + 1];
		mine->places[i] = mine->places[i + 1];
	}
	mine->aborted = true;
}

/* ---- the program's calls ---- */

/* What could not be translated has not begun. */
static int undo_begin(struct joined *mine, int result)
{
	for (unsigned i = mine->n; i-- > 0;)
		leave(mine->pools[i]);
	let_go(mine);
	mine->depth = 0;
	return result;
}

/*
 * From the first pool that is entered on this very function is translated; so what it does then, and what it
 * has to return to, is little.
 */
int lh__translated_begin(uint64_t stack_pointer)
{
	struct joined *mine = joined_here();
	int result = lh__atomic_begin(NULL);
	struct lh_frames *frames;

	if (result < 0 || mine->depth > 1)
		return result;
	for (unsigned i = 0; i < mine->n; i++) {
		struct lh_pool *pool = mine->pools[i];

		if (pool->see != LH_SEE_TRANSLATED || pool->translated)
			continue;
		pool->translated = true;
		result = lh__translated_enter(pool, NULL);
		if (result < 0)
			return undo_begin(mine, result);
	}
	frames = lh__translated_frames();
	if (frames && !frames->base)
		frames->base = stack_pointer;
	return 0;
}

/* With which the caller of the function goes on that this stands in. */
#define STACK_POINTER ((uint64_t)(uintptr_t)__builtin_frame_address(0) + 16)

int tx_begin(void)
{
	int result = lh__translated_settle(STACK_POINTER);

	return result < 0 ? result : lh__translated_begin(STACK_POINTER);
}

int tx_end(void)
{
	return lh__translated_settle(STACK_POINTER) < 0 ? -EPERM : lh__translated_commit();
}

int tx_abort(void)
{
	return lh__translated_settle(STACK_POINTER) < 0 ? -EPERM : lh__atomic_abort(NULL);
}
