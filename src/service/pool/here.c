/*
 * here.c - the pools that this process has open.
 *
 * tx_begin takes no pool, and a pool that is opened may have to ask another one: both find them here,
 * whatever other threads open and close meanwhile. Who looks counts himself in at a place before he reads
 * what is there; who closes a pool empties its place first, and then waits until nobody is counted in. So
 * looking takes no lock, and a place is never freed.
 *
 * That is a variable that is no handle's, as in signal.c: what it lists are the process's handles.
 */
#include "service/pool/inside.h"
#include "service/pool/note.h"

#include <errno.h>
#include <limits.h>

#define PLACES 1024u

static const struct lh_note note
	__attribute__((section(".note.linehome"), used,
                       aligned(4))) = { { sizeof(LH_NOTE_NAME), 4, LH_NOTE_TYPE }, LH_NOTE_NAME, 1 };

static struct {
	struct lh_lock lock; /* of who changes it */
	unsigned places;     /* those from here on were never used */
	struct {
		struct lh_pool *pool;
		uint32_t users; /* a futex */
		bool taken, closing;
	} at[PLACES];
} here;

int lh__here_add(struct lh_pool *pool, struct lh_error *error)
{
	unsigned i = 0;

	lh__lock(pool->sys, &here.lock);
	while (i < PLACES && here.at[i].taken)
		i++;
	if (i < PLACES) {
		here.at[i].taken = true;
		pool->here = i + 1;
		__atomic_store_n(&here.at[i].closing, false, __ATOMIC_RELAXED);
		__atomic_store_n(&here.at[i].pool, pool, __ATOMIC_SEQ_CST);
		if (i >= here.places)
			__atomic_store_n(&here.places, i + 1, __ATOMIC_RELEASE);
	}
	lh__unlock(pool->sys, &here.lock);
	return i < PLACES ? 0 : lh__fail(error, -EMFILE, "more than %u pools cannot be open at once", PLACES);
}

/* Those who are counted in in a child of fork are threads of its parent. */
static void wait_for_users(struct lh_pool *pool, unsigned i)
{
	uint32_t users;

	if (!*pool->alive)
		__atomic_store_n(&here.at[i].users, 0, __ATOMIC_RELAXED);
	while ((users = __atomic_load_n(&here.at[i].users, __ATOMIC_SEQ_CST)) > 0)
		lh__futex_wait(pool->sys, &here.at[i].users, users, -1);
}

void lh__here_hide(struct lh_pool *pool)
{
	if (!pool->here)
		return;
	__atomic_store_n(&here.at[pool->here - 1].closing, true, __ATOMIC_RELAXED);
	__atomic_store_n(&here.at[pool->here - 1].pool, NULL, __ATOMIC_SEQ_CST);
}

void lh__here_remove(struct lh_pool *pool)
{
	if (!pool->here)
		return;
	lh__here_hide(pool);
	wait_for_users(pool, pool->here - 1);
	lh__lock(pool->sys, &here.lock);
	here.at[pool->here - 1].taken = false;
	lh__unlock(pool->sys, &here.lock);
	pool->here = 0;
}

unsigned lh__here_places(void)
{
	return __atomic_load_n(&here.places, __ATOMIC_ACQUIRE);
}

struct lh_pool *lh__here_hold(unsigned place)
{
	struct lh_pool *pool;

	if (!__atomic_load_n(&here.at[place].pool, __ATOMIC_RELAXED))
		return NULL;
	__atomic_fetch_add(&here.at[place].users, 1, __ATOMIC_SEQ_CST);
	pool = __atomic_load_n(&here.at[place].pool, __ATOMIC_SEQ_CST);
	if (!pool)
		lh__here_let_go(place);
	return pool;
}

void lh__here_let_go(unsigned place)
{
	if (__atomic_sub_fetch(&here.at[place].users, 1, __ATOMIC_SEQ_CST) == 0 &&
	    __atomic_load_n(&here.at[place].closing, __ATOMIC_SEQ_CST))
		lh__futex_wake(&lh__sys_default, &here.at[place].users, INT_MAX);
}
