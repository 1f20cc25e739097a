/*
 * client.c - see client.h.
 *
 * Who owns what: the store owns a keeper, which knows how to connect again, through the context of its
 * options; a clone shares it. The last of them that is closed frees it, from the callback that says so, when
 * no other can be called any more. Nobody else holds one, so a store is closed like any other and nothing
 * remains.
 */
#include "service/client/client.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "store/node.h"

/* Shared by a store and its clones. */
struct keeper {
	struct lh_node_target target;
	int timeout_ms;
	unsigned users; /* atomic */
	pthread_mutex_t lock;
	struct lh_error last;
};

static int reconnect(void *context, struct lh_node_link *link, int ms)
{
	struct keeper *keeper = context;
	struct lh_error error = { 0 };
	int result = lh__node_again(&keeper->target, ms, link, &error);

	pthread_mutex_lock(&keeper->lock);
	keeper->last = error;
	pthread_mutex_unlock(&keeper->lock);
	return result;
}

static int clone_link(void *context, const struct lh_node_link *of, struct lh_node_link *out,
                      void **clone_context, struct lh_error *error)
{
	struct keeper *keeper = context;
	int result = lh__node_clone(&keeper->target, keeper->timeout_ms, of, out, error);

	if (result == 0)
		__atomic_fetch_add(&keeper->users, 1, __ATOMIC_RELAXED);
	*clone_context = keeper;
	return result;
}

static void closed(void *context)
{
	struct keeper *keeper = context;

	if (__atomic_sub_fetch(&keeper->users, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	pthread_mutex_destroy(&keeper->lock);
	memset(keeper, 0, sizeof *keeper);
	free(keeper);
}

static struct keeper *new_keeper(const struct lh_node_target *target, unsigned timeout_ms)
{
	struct keeper *keeper = calloc(1, sizeof *keeper);

	if (!keeper)
		return NULL;
	keeper->target = *target;
	keeper->timeout_ms = (int)(timeout_ms ? timeout_ms : 30000);
	keeper->users = 1;
	pthread_mutex_init(&keeper->lock, NULL);
	return keeper;
}

static int get_link(const struct keeper *keeper, const char *name, bool create, struct lh_node_link *link,
                    struct lh_error *error)
{
	if (!name)
		return lh__node_create(&keeper->target, keeper->timeout_ms, link, error);
	if (create)
		return lh__node_create_named(&keeper->target, name, keeper->timeout_ms, link, error);
	return lh__node_open_named(&keeper->target, name, keeper->timeout_ms, link, error);
}

static int attach(const struct lh_sys *sys, struct keeper *keeper, const struct lh_node_link *link,
                  struct lh_store **out, struct lh_error *error)
{
	struct lh_node_options options = { .timeout_ms = (unsigned)keeper->timeout_ms,
		                           .context = keeper,
		                           .reconnect = reconnect,
		                           .clone = clone_link,
		                           .closed = closed };
	int result = lh__node_attach(sys, link, &options, out);

	return result == 0 ? 0
	                   : lh__fail(error, result, "%s: the link cannot be used: %s",
	                              keeper->target.url.text, lh__errno_name(result));
}

/* name: NULL: a region without one. */
static int open_store(const struct lh_sys *sys, const struct lh_node_target *target, const char *name,
                      bool create, unsigned timeout_ms, struct lh_store **out, struct lh_error *error)
{
	struct keeper *keeper = new_keeper(target, timeout_ms);
	struct lh_node_link link;
	int result;

	if (!keeper)
		return lh__fail(error, -ENOMEM, "no memory");
	result = get_link(keeper, name, create, &link, error);
	if (result == 0) {
		result = attach(sys, keeper, &link, out, error);
		if (result)
			lh__node_link_close(&link);
		if (result && name && create)
			lh__node_drop_named(target, name, &link, keeper->timeout_ms, NULL);
	}
	if (result)
		closed(keeper);
	return result;
}

int lh__node_open(const struct lh_sys *sys, const struct lh_node_target *target, unsigned timeout_ms,
                  struct lh_store **out, struct lh_error *error)
{
	return open_store(sys, target, NULL, true, timeout_ms, out, error);
}

int lh__node_store_named(const struct lh_sys *sys, const struct lh_node_target *target, const char *name,
                         bool create, unsigned timeout_ms, struct lh_store **out, struct lh_error *error)
{
	return open_store(sys, target, name, create, timeout_ms, out, error);
}

void lh__node_last_error(struct lh_store *store, struct lh_error *error)
{
	struct keeper *keeper = lh__node_context(store);

	pthread_mutex_lock(&keeper->lock);
	*error = keeper->last;
	pthread_mutex_unlock(&keeper->lock);
}
