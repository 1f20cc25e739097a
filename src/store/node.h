/*
 * node.h - the node store: pages on a memory node, through a link that somebody else has made (net/connect.h,
 * or a launcher that passes descriptors).
 *
 * Nothing here resolves names, shakes hands or encrypts; that is why it can live in another process' signal
 * handlers. When a channel breaks or the node does not answer, `reconnect` is asked for a new link to the
 * same region, and what was in flight is sent again: every request is idempotent, and the node has ended the
 * connections of the old link before the new one is served. Calls wait meanwhile, poll and submit too, but
 * never longer than timeout_ms; then the store is broken: what is in flight fails, and every later call at
 * once.
 */
#ifndef LH_STORE_NODE_H
#define LH_STORE_NODE_H

#include "net/data/link.h"
#include "store/store.h"

struct lh_node_options {
	unsigned timeout_ms; /* how long calls wait for a node that does not answer; 0: 30000 */
	/*
	 * The caller of every function has blocked all signals, or has no handler that calls get_now.
	 * Otherwise the store blocks them itself around get_now, at the price of two system calls.
	 */
	bool signals_blocked;
	/* reconnect may be called in a signal handler, so that get_now may be. */
	bool reconnect_in_signal;
	void *context; /* for the callbacks; they are called by one thread at a time */
	/*
	 * A new link to link->region with a generation greater than link->generation, within ms. The old
	 * descriptors are closed already. 0 and *link filled in, or a negative errno value: the store is then
	 * broken for good. NULL: it breaks at once.
	 */
	int (*reconnect)(void *context, struct lh_node_link *link, int ms);
	/*
	 * A link to a new region that is a copy of `of`, and the context of the store that will stand for it
	 * (it has the same options otherwise). NULL: clone fails with -ENOTSUP.
	 */
	int (*clone)(void *context, const struct lh_node_link *of, struct lh_node_link *out,
	             void **clone_context, struct lh_error *error);
	/* The store has been closed, and its descriptors: context is not used any more. May be NULL. */
	void (*closed)(void *context);
};

/* What a store has done so far. */
struct lh_node_counts {
	uint64_t bytes_out,
		bytes_in; /* messages: headers and line sets, without the transport's own framing */
	uint64_t reconnects;
};

/*
 * Takes over the link's descriptors, on success only. options are copied. -EINVAL: not a usable link;
 * -EPROTO: the ring is not one.
 */
int lh__node_attach(const struct lh_sys *sys, const struct lh_node_link *link,
                    const struct lh_node_options *options, struct lh_store **out) LH_MUST_CHECK;

void lh__node_counts(const struct lh_store *store, struct lh_node_counts *counts);
/* The region that the store stands for. */
uint64_t lh__node_region(const struct lh_store *store);
/* The context of the options. */
void *lh__node_context(const struct lh_store *store);
/*
 * For the child of a fork: forgets an inherited handle without a word to the node, closing its descriptors
 * and giving its memory back. The parent's handle goes on.
 */
void lh__node_forget(struct lh_store *store);

#endif
