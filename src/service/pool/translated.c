/*
 * translated.c - the process's one translator, and threads that enter and leave it (translated.h).
 *
 * A thread's code is looked at while it has a transaction in at least one pool that is open so, and for the
 * addresses of those pools alone. What the library does runs natively, also when it is called from such a
 * transaction: it says itself what it is about to change.
 *
 * What is the process's, and no handle's, is here: a thread is translated by one translator, whatever pools
 * it uses; it is made with the first of them, and stays.
 */
#include "service/pool/translated.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "linehome/atomic.h"
#include "service/pool/translated_inside.h"

static struct {
	struct lh_lock lock;
	struct lh_translator *translator;
	pthread_key_t ends; /* a thread that has been inside */
	struct lh_pool *pools[LH_TRANSLATED_POOLS];
	struct lh_translated_options options;
} process;

void lh__translated_configure(const struct lh_translated_options *options)
{
	process.options = *options;
}

const struct lh_translated_options *lh__translated_options(void)
{
	return &process.options;
}

/* ---- a thread's pools ---- */

static void set_range(struct lh_translated_own *own)
{
	uint64_t low = own->pools ? UINT64_MAX : 0, high = 0;

	for (unsigned i = 0; i < own->pools; i++) {
		low = own->known[i].base < low ? own->known[i].base : low;
		high = own->known[i].end > high ? own->known[i].end : high;
	}
	own->low = own->pools ? low - (LH_LINE_SIZE - 1) : 0;
	own->high = high;
}

/* No line is known to be saved. */
static void renew(struct lh_translated_own *own)
{
	own->tag += UINT64_C(1) << LH_TRANSLATED_TAG_SHIFT;
	if (own->tag)
		return;
	memset(own->lines, 0, sizeof own->lines);
	own->tag = UINT64_C(1) << LH_TRANSLATED_TAG_SHIFT;
}

static bool take_out(struct lh_translated_own *own, const struct lh_pool *pool)
{
	for (unsigned i = 0; i < own->pools; i++)
		if (own->pool[i] == pool) {
			own->pool[i] = own->pool[--own->pools];
			own->known[i] = own->known[own->pools];
			set_range(own);
			return true;
		}
	return false;
}

static int put_in(struct lh_translated_own *own, struct lh_pool *pool)
{
	if (own->pools == LH_TRANSLATED_POOLS)
		return -EMFILE;
	if (own->pools == 0) {
		renew(own);
		lh__frames_clear(&own->frames);
	}
	if (!own->frames.thread)
		own->frames.thread = lh__raw_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0);
	own->pool[own->pools] = pool;
	own->known[own->pools].base = (uintptr_t)pool->base;
	own->known[own->pools].end = (uintptr_t)pool->base + pool->header.reach;
	own->known[own->pools].here = pool->here;
	own->pools++;
	set_range(own);
	return 0;
}

struct lh_pool *lh__translated_hold(struct lh_translated_own *own, unsigned i)
{
	struct lh_pool *pool;

	/* It is being opened: its own thread alone knows of it. */
	if (own->known[i].here == 0)
		return own->pool[i];
	pool = lh__here_hold(own->known[i].here - 1);
	if (!pool ||
	    (pool == own->pool[i] && __atomic_load_n(&pool->owner, __ATOMIC_RELAXED) == lh__pool_self()))
		return pool;
	lh__here_let_go(own->known[i].here - 1);
	return NULL;
}

void lh__translated_let_go(struct lh_translated_own *own, unsigned i)
{
	if (own->known[i].here != 0)
		lh__here_let_go(own->known[i].here - 1);
}

/* Of a thread that has been inside before; else NULL. */
static struct lh_translated_own *own_here(void)
{
	return pthread_getspecific(process.ends);
}

/* A thread that is inside for the first time, and so translated by now. */
static int put_in_first(struct lh_translated_own *own, struct lh_pool *pool)
{
	int result = -pthread_setspecific(process.ends, own);

	if (result == 0)
		result = put_in(own, pool);
	if (result < 0)
		lh__translate_end(process.translator);
	return result;
}

static bool is_open(const struct lh_pool *pool)
{
	for (unsigned i = 0; i < LH_TRANSLATED_POOLS; i++)
		if (__atomic_load_n(&process.pools[i], __ATOMIC_ACQUIRE) == pool)
			return true;
	return false;
}

/* Another thread may have closed a pool that this one was inside of. */
static void leave_closed(struct lh_translated_own *own)
{
	for (unsigned i = own->pools; i-- > 0;)
		if (!is_open(own->pool[i]) ||
		    __atomic_load_n(&own->pool[i]->owner, __ATOMIC_RELAXED) != lh__pool_self()) {
			take_out(own, own->pool[i]);
			lh__translate_end(process.translator);
		}
}

int lh__translated_enter(struct lh_pool *pool, struct lh_error *error)
{
	struct lh_translated_own *own = own_here();
	bool known = own != NULL;
	int result = 0;

	if (known) {
		leave_closed(own);
		/* The same handle's address again, after such a closing. */
		if (take_out(own, pool))
			lh__translate_end(process.translator);
		result = put_in(own, pool);
	}
	if (result == 0)
		result = lh__translate_begin(process.translator, error);
	else
		lh__fail(error, result, "there is no room to note that a thread is inside");
	if (result == 0 && !known) {
		own = lh__translate_thread_bytes(process.translator);
		result = put_in_first(own, pool);
	}
	if (result < 0 && own)
		take_out(own, pool);
	return result;
}

struct lh_translated_own *lh__translated_own(void)
{
	return process.translator ? own_here() : NULL;
}

void lh__translated_leave(struct lh_pool *pool)
{
	struct lh_translated_own *own = own_here();

	if (own && take_out(own, pool))
		lh__translate_end(process.translator);
}

void lh__translated_renew(void)
{
	struct lh_translated_own *own = process.translator ? own_here() : NULL;

	if (own)
		renew(own);
}

bool lh__translated_is_on(void)
{
	return process.translator && lh__translate_is_on(process.translator);
}

int lh__translated_native(uint64_t function)
{
	return process.translator ? lh__translate_native(process.translator, function) : -ENODEV;
}

void lh__translated_forget(void)
{
	if (process.translator)
		lh__translate_forget(process.translator, 0, UINT64_MAX);
}

/* ---- threads that end, and children ---- */

void lh__translated_thread_ends(void *context)
{
	struct lh_translated_own *own = context;

	while (own->pools > 0) {
		struct lh_pool *pool = own->pool[own->pools - 1];

		if (is_open(pool) && __atomic_load_n(&pool->owner, __ATOMIC_RELAXED) == lh__pool_self())
			lh__tx_drop(pool);
		if (take_out(own, pool))
			lh__translate_end(process.translator);
	}
}

/* In a child of fork, which has no pool: it goes on natively. */
static void forked(void)
{
	struct lh_translated_own *own = own_here();

	if (!own)
		return;
	own->pools = 0;
	set_range(own);
	lh__frames_clear(&own->frames);
	own->frames.thread = 0;
	while (lh__translate_is_on(process.translator))
		lh__translate_end(process.translator);
}

/* ---- the translator ---- */

static int note_natives(struct lh_translator *translator)
{
	const uint64_t functions[] = {
#define NATIVE(name) (uint64_t)(uintptr_t) name
		NATIVE(lh_pool_create),
		NATIVE(lh_pool_open),
		NATIVE(lh_pool_close),
		NATIVE(lh_pool_grow),
		NATIVE(lh_pool_info),
		NATIVE(lh_ptr_off),
		NATIVE(lh_off_ptr),
		NATIVE(lh_pool_load),
		NATIVE(lh__tx_begin_at),
		NATIVE(lh__tx_commit_here),
		NATIVE(lh__tx_commit_durably),
		NATIVE(lh_tx_wait),
		NATIVE(lh_tx_abort),
		NATIVE(lh_tx_add),
		NATIVE(lh_pool_alloc),
		NATIVE(lh_pool_alloc_zero),
		NATIVE(lh_pool_realloc),
		NATIVE(lh_pool_alloc_aligned),
		NATIVE(lh_pool_free),
		NATIVE(lh_pool_usable_size),
		NATIVE(lh_pool_root),
		NATIVE(lh__translated_begin),
		NATIVE(lh__translated_commit),
		NATIVE(lh__atomic_abort),
		NATIVE(lh__translated_enter),
		NATIVE(lh__pool_on_store),
		NATIVE(lh__pool_create),
		NATIVE(lh__pool_open),
		NATIVE(lh__pool_abandon),
		NATIVE(lh__pool_checkpoint),
		NATIVE(lh__translated_forget),
		NATIVE(lh__translated_drop),
		NATIVE(lh__translated_thread_ends),
		NATIVE(forked),
#undef NATIVE
	};
	int result = 0;

	for (unsigned i = 0; i < sizeof functions / sizeof *functions && result == 0; i++)
		result = lh__translate_native(translator, functions[i]);
	return result;
}

static int make(struct lh_error *error)
{
	struct lh_translate_options options = {
		.sys = &lh__sys_default,
		.client = { .thread_bytes = sizeof(struct lh_translated_own),
		            .before = lh__translated_before },
	};
	struct lh_translated_seen *seen;
	struct lh_translator *translator;
	int result = lh__translated_seen_open(&seen);

	if (result < 0)
		return lh__fail(error, result, "no memory to translate with");
	options.client.context = seen;
	lh__leaving_prepare(&options.client);
	result = lh__translate_open(&options, &translator, error);
	if (result < 0)
		return result;
	result = note_natives(translator);
	if (result == 0)
		result = -pthread_key_create(&process.ends, lh__translated_thread_ends);
	if (result == 0)
		result = -pthread_atfork(NULL, NULL, forked);
	if (result < 0) {
		lh__translate_close(translator);
		return lh__fail(error, result, "no translator can be made: %s", lh__errno_name(result));
	}
	__atomic_store_n(&process.translator, translator, __ATOMIC_RELEASE);
	return 0;
}

static int add(struct lh_pool *pool, struct lh_error *error)
{
	for (unsigned i = 0; i < LH_TRANSLATED_POOLS; i++)
		if (!process.pools[i]) {
			__atomic_store_n(&process.pools[i], pool, __ATOMIC_RELEASE);
			return 0;
		}
	return lh__fail(error, -EMFILE, "more than %u pools cannot be open at once", LH_TRANSLATED_POOLS);
}

int lh__translated_open(struct lh_pool *pool, struct lh_error *error)
{
	int result = 0;

	lh__lock(&lh__sys_default, &process.lock);
	if (!process.translator)
		result = make(error);
	if (result == 0)
		result = add(pool, error);
	lh__unlock(&lh__sys_default, &process.lock);
	return result;
}

void lh__translated_close(struct lh_pool *pool)
{
	for (unsigned i = 0; i < LH_TRANSLATED_POOLS; i++)
		if (__atomic_load_n(&process.pools[i], __ATOMIC_RELAXED) == pool)
			__atomic_store_n(&process.pools[i], NULL, __ATOMIC_RELEASE);
}
