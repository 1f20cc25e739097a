/* store.c - what every store has in common. */
#include "store/store.h"

#include <errno.h>

int lh__store_check(const struct lh_store *store)
{
	const struct lh_store_ops *ops = store->ops;

	if (!ops || !store->sys || !store->caps.depth)
		return -EINVAL;
	if (!ops->name || !ops->submit || !ops->poll || !ops->get_now || !ops->sync || !ops->clone ||
	    !ops->reserve || !ops->close)
		return -EINVAL;
	return 0;
}

int lh__store_reserve_none(struct lh_store *store, uint64_t pages)
{
	return 0;
}

int lh__store_do(struct lh_store *store, struct lh_request *request)
{
	struct lh_request *done;
	int result = store->ops->submit(store, &request, 1);

	if (result != 0)
		return result;
	/* Another request than this one can only be one that the caller left in flight. */
	if (store->ops->poll(store, &done, 1, -1) != 1 || done != request)
		return -EIO;
	return request->result;
}
