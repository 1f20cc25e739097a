/*
 * store.h - the store contract: where lines rest.
 *
 * A store holds pages by number. Of each page it holds a set of lines (those that were ever put since the
 * page was last replaced or dropped); a line that is not held reads as zero. The numbers are dense-ish
 * small integers chosen by the client (below 2^40; a store may take fewer, caps.last_page), not addresses.
 *
 * Requests. GET fills a page-shaped buffer; PUT overlays lines; REPLACE makes the given lines the whole
 * content of the page (every other line becomes not held); DROP forgets the page. Each request is atomic
 * with respect to others on the same page, and requests on the same page take effect in the order of
 * submission. A completed request (result 0) is *acknowledged*: from then on the store, not the caller,
 * answers for it.
 *
 * Threads. submit, poll, sync and clone: by one thread at a time on a handle. get_now: by any number of
 * threads at once, and at the same time as the others.
 */
#ifndef LH_STORE_H
#define LH_STORE_H

#include <stdbool.h>

#include "line/line.h"
#include "sys/meanwhile.h"
#include "sys/sys.h"

/*
 * One request. The caller owns it and the buffer; both must stay untouched from submit until poll has
 * returned it.
 *
 * data is page-shaped: line i stands at data + 64 * i.
 * GET: mask in: wanted; mask out: those of them that are held; every wanted line of data is written, a
 *      line not held with zeroes; lines not wanted are left alone.
 * PUT, REPLACE: the lines in mask are read from data. The store has read them when submit returns (so the
 *      caller may change data from then on, though not the request).
 * DROP: mask and data are ignored.
 * changed: of a PUT or REPLACE with result 0, the bytes of the page whose value is another than before. A
 *      line that is not held is zero, before as after; so a REPLACE counts the bytes other than zero of lines
 *      that it does not give. Exact, also where the request was carried out more than once.
 * flags: LH_REQUEST_UNCOUNTED: nobody wants `changed` of this PUT or REPLACE, and the store may leave it 0,
 *      which saves some of them reading what was there. LH_REQUEST_DURABLE: this PUT is acknowledged only
 *      when it is as durable as sync would make it; looked at only where caps.durable_put is set.
 * result: 0 or a negative errno value, valid once poll has returned the request. On error the page is as
 *      it was. -ENOSPC: the store is full; -EIO, -ETIMEDOUT: it cannot be reached any more.
 */
enum { LH_REQUEST_UNCOUNTED = 1, LH_REQUEST_DURABLE = 2 };
struct lh_request {
	enum lh_op op;
	unsigned flags; /* LH_REQUEST_ */
	int result;
	uint32_t changed;
	uint64_t page;
	lh_mask mask;
	void *data;
	void *user;              /* the caller's; never looked at */
	struct lh_request *next; /* the store's, while it has the request */
	uint64_t cookie;         /* the store's, while it has the request */
};

struct lh_store_caps {
	bool get_now_in_signal; /* get_now is async-signal-safe: raw system calls and shared memory only */
	bool durable;           /* sync makes acknowledged requests survive the loss of power */
	bool durable_put;       /* LH_REQUEST_DURABLE is honoured */
	bool sync_aside;        /* sync may be called while another thread is in submit or poll */
	uint64_t last_page;     /* the greatest page number; 0: LH_PAGE_NUMBER_MAX */
	unsigned block; /* a PUT of less than so many bytes, aligned, reads the rest first; 0: a line */
	unsigned depth; /* requests in flight beyond which submit may wait */
};

struct lh_store;

/*
 * Pages that stand in this process's memory where the store keeps them: persistent memory, or what takes its
 * place. Page p is at base + 4096 * p, for p below `pages`, and may be read and written there by any thread,
 * beside requests or instead of them; base stays where it is while the store is open. What was written is
 * durable once it has been flushed *and* a fence has followed. Before that each aligned word of 8 bytes may
 * have reached the medium or not, in any order.
 */
struct lh_direct {
	void *base;
	uint64_t pages;
	/* Sends the lines that [from, from + size) touches on their way to the medium. */
	void (*flush)(const struct lh_direct *direct, const void *from, size_t size);
	/*
	 * Copies whole lines to `to`, which is aligned to one, and sends them on their way: as a copy and a
	 * flush would, but past the cache.
	 */
	void (*write)(const struct lh_direct *direct, void *to, const void *lines, size_t size);
	/* Returns when all that this thread has flushed is on the medium. */
	void (*fence)(const struct lh_direct *direct);
	/*
	 * Maps `pages` pages from `page` on a second time, at `address`, where nothing is mapped but what the
	 * caller has reserved (it is replaced). flush takes addresses there too. Returns 0 or a negative
	 * errno; the caller unmaps.
	 */
	int (*map)(const struct lh_direct *direct, uint64_t page, size_t pages, void *address) LH_MUST_CHECK;
	/* The same, but what is stored there stays there. NULL: there is no such mapping. */
	int (*map_private)(const struct lh_direct *direct, uint64_t page, size_t pages,
	                   void *address) LH_MUST_CHECK;
};

/* Every slot is required; lh__store_check asserts it in the conformance suite. */
struct lh_store_ops {
	const char *name;
	/*
	 * Hands over n requests. May block while more than depth are in flight. Returns 0: every one will be
	 * returned by poll, with its own result; or a negative errno: none was taken.
	 */
	int (*submit)(struct lh_store *store, struct lh_request *const *requests, size_t n) LH_MUST_CHECK;
	/*
	 * Returns up to max completed requests, waiting up to timeout_ms (0: not at all; -1: until there is
	 * one) while none is complete but some are in flight. Returns their number, 0 where none is in
	 * flight or the time is over; never an error: a broken store completes its requests with an error.
	 */
	size_t (*poll)(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms);
	/*
	 * One page, synchronously; overtakes what was submitted (it sees a put that is acknowledged; whether
	 * it sees one in flight is not said). data as for GET. *held receives the held part of want.
	 */
	int (*get_now)(struct lh_store *store, uint64_t page, lh_mask want, void *data,
	               lh_mask *held) LH_MUST_CHECK;
	/* After it returns 0, acknowledged requests are as durable as caps.durable says. May block. */
	int (*sync)(struct lh_store *store) LH_MUST_CHECK;
	/*
	 * A copy-on-write snapshot of all that is acknowledged, as a new store; neither sees later changes
	 * of the other. Nothing may be in flight (-EBUSY). May block.
	 */
	int (*clone)(struct lh_store *store, struct lh_store **out, struct lh_error *error) LH_MUST_CHECK;
	/*
	 * Makes room for the pages below `pages`, so that no later request on them fails with -ENOSPC. Where
	 * the store can promise no such thing it returns 0 and does nothing. -ENOSPC: there is no such room.
	 */
	int (*reserve)(struct lh_store *store, uint64_t pages) LH_MUST_CHECK;
	/*
	 * Ends the handle; requests in flight are abandoned. Never fails. store may not be used afterwards.
	 */
	void (*close)(struct lh_store *store);
};

/* The head of every store; the implementation embeds it as its first member. */
struct lh_store {
	const struct lh_store_ops *ops;
	const struct lh_sys *sys;
	struct lh_store_caps caps;
	const struct lh_direct *direct; /* NULL: pages are reached by requests only */
	/*
	 * The caller's; may be set while nobody uses the store. A get_now that has to wait calls it each time
	 * it has asked. It must not use the store.
	 */
	struct lh_meanwhile meanwhile;
};

/* 0 where every slot of the store's table is filled and its head is complete, else -EINVAL. */
int lh__store_check(const struct lh_store *store) LH_MUST_CHECK;
/* The greatest page number that the store takes. */
static inline uint64_t lh__store_last_page(const struct lh_store *store)
{
	return store->caps.last_page ? store->caps.last_page : LH_PAGE_NUMBER_MAX;
}

/* `reserve` of a store that can promise nothing. */
int lh__store_reserve_none(struct lh_store *store, uint64_t pages) LH_MUST_CHECK;
/* Submits one request and waits for it; the handle must have nothing in flight. Returns its result. */
int lh__store_do(struct lh_store *store, struct lh_request *request) LH_MUST_CHECK;

/*
 * The memory store: this process's own memory.
 *
 * A pool is a hard limit shared by any number of stores: a put that would need a page beyond it fails with
 * -ENOSPC and changes nothing. limit in bytes, 0: none. Counted: one LH_PAGE_SIZE for each distinct page
 * content held (clones share until written).
 * The pool and its stores may be used by different threads at the same time; one store as store.h says,
 * and additionally submit on one memory store is allowed from several threads at once.
 */
struct lh_memory_pool;
int lh__memory_pool_open(const struct lh_sys *sys, uint64_t limit, struct lh_memory_pool **out) LH_MUST_CHECK;
/* All stores of the pool must be closed. */
void lh__memory_pool_close(struct lh_memory_pool *pool);
/* Bytes in use, and the limit. */
uint64_t lh__memory_pool_used(const struct lh_memory_pool *pool);
uint64_t lh__memory_pool_limit(const struct lh_memory_pool *pool);
int lh__memory_open(struct lh_memory_pool *pool, struct lh_store **out) LH_MUST_CHECK;
/*
 * Gives a store that is still empty a view (view.h) of its first `pages` page numbers, in memory of the
 * store's own; its clones have one each, which begins empty. -errno: there is none, and the store is as it
 * was.
 */
int lh__memory_share(struct lh_store *store, uint64_t pages) LH_MUST_CHECK;
/* A new descriptor for a reader of the view, which the caller closes; negative: there is none. */
int lh__memory_view(const struct lh_store *store);
/*
 * Carries out one request at once and returns its result (also left in request->result); poll never sees
 * it. From any number of threads at once: how a server answers for its clients. store is a memory store.
 */
int lh__memory_apply(struct lh_store *store, struct lh_request *request);

#endif
