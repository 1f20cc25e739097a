/* client.c - see client.h. */
#include "service/serve/client.h"

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

int lh__node_open(const struct lh_sys *sys, const struct lh_node_target *target, unsigned timeout_ms,
                  struct lh_store **out, struct lh_error *error)
{
	struct keeper *keeper = calloc(1, sizeof *keeper);
	struct lh_node_options options = { .timeout_ms = timeout_ms,
		                           .context = keeper,
		                           .reconnect = reconnect,
		                           .clone = clone_link,
		                           .closed = closed };
	struct lh_node_link link;
	int result;

	if (!keeper)
		return lh__fail(error, -ENOMEM, "no memory");
	keeper->target = *target;
	keeper->timeout_ms = (int)(timeout_ms ? timeout_ms : 30000);
	keeper->users = 1;
	pthread_mutex_init(&keeper->lock, NULL);
	result = lh__node_create(target, keeper->timeout_ms, &link, error);
	if (result == 0) {
		result = lh__node_attach(sys, &link, &options, out);
		if (result) {
			lh__node_link_close(&link);
			(void)lh__fail(error, result, "%s: the link cannot be used: %s", target->url.text,
			               lh__errno_name(result));
		}
	}
	if (result)
		closed(keeper);
	return result;
}

void lh__node_last_error(struct lh_store *store, struct lh_error *error)
{
	struct keeper *keeper = lh__node_context(store);

	pthread_mutex_lock(&keeper->lock);
	*error = keeper->last;
	pthread_mutex_unlock(&keeper->lock);
}
