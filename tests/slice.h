/*
 * slice.h - several stores on one medium that may lose power (crash.h): each is a range of its pages. So what
 * a crash leaves of all of them together is looked at as of one.
 *
 * A slice may reach its pages by requests only, where the medium has them in memory.
 */
#ifndef SLICE_H
#define SLICE_H

#include <errno.h>
#include <stdlib.h>

#include "store/crash.h"

struct slice {
	struct lh_store store;
	struct lh_direct direct;
	struct lh_store *whole;
	uint64_t first, pages;
	bool owned; /* by whoever closes it: it is freed then */
};

static struct slice *slice_of(struct lh_store *store)
{
	return (struct slice *)store;
}

static int slice_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct slice *slice = slice_of(store);

	for (size_t i = 0; i < n; i++)
		if (requests[i]->page >= slice->pages)
			return -EINVAL;
	for (size_t i = 0; i < n; i++)
		requests[i]->page += slice->first;
	return slice->whole->ops->submit(slice->whole, requests, n);
}

static size_t slice_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct slice *slice = slice_of(store);
	size_t n = slice->whole->ops->poll(slice->whole, done, max, timeout_ms);

	for (size_t i = 0; i < n; i++)
		done[i]->page -= slice->first;
	return n;
}

static int slice_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct slice *slice = slice_of(store);

	return page < slice->pages
	               ? slice->whole->ops->get_now(slice->whole, slice->first + page, want, data, held)
	               : -EINVAL;
}

static int slice_sync(struct lh_store *store)
{
	return slice_of(store)->whole->ops->sync(slice_of(store)->whole);
}

static int slice_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	return -EOPNOTSUPP;
}

static void slice_close(struct lh_store *store)
{
	if (slice_of(store)->owned)
		free(store);
}

static const struct lh_store_ops slice_ops = {
	.name = "slice",
	.submit = slice_submit,
	.poll = slice_poll,
	.get_now = slice_get_now,
	.sync = slice_sync,
	.clone = slice_clone,
	.reserve = lh__store_reserve_none,
	.close = slice_close,
};

static const struct lh_direct *slice_below(const struct lh_direct *direct)
{
	return ((const struct slice *)((const char *)direct - offsetof(struct slice, direct)))->whole->direct;
}

static void slice_flush(const struct lh_direct *direct, const void *from, size_t size)
{
	slice_below(direct)->flush(slice_below(direct), from, size);
}

static void slice_write(const struct lh_direct *direct, void *to, const void *lines, size_t size)
{
	slice_below(direct)->write(slice_below(direct), to, lines, size);
}

static void slice_fence(const struct lh_direct *direct)
{
	slice_below(direct)->fence(slice_below(direct));
}

static int slice_map(const struct lh_direct *direct, uint64_t page, size_t pages, void *address)
{
	const struct slice *slice =
		(const struct slice *)((const char *)direct - offsetof(struct slice, direct));

	if (page > slice->pages || pages > slice->pages - page)
		return -EINVAL;
	return slice_below(direct)->map(slice_below(direct), slice->first + page, pages, address);
}

/* direct: in memory, where the medium is. */
__attribute__((unused)) static struct lh_store *slice_open(struct slice *slice, struct lh_crash *medium,
                                                           uint64_t first, uint64_t pages, bool direct)
{
	struct lh_store *whole = lh__crash_store(medium);

	*slice = (struct slice){ .store = *whole, .whole = whole, .first = first, .pages = pages };
	slice->store.ops = &slice_ops;
	slice->store.caps.last_page = pages - 1;
	slice->store.direct = NULL;
	if (!direct)
		return &slice->store;
	slice->direct = (struct lh_direct){ .base = (char *)whole->direct->base + first * LH_PAGE_SIZE,
		                            .pages = pages,
		                            .flush = slice_flush,
		                            .write = slice_write,
		                            .fence = slice_fence,
		                            .map = slice_map };
	slice->store.direct = &slice->direct;
	return &slice->store;
}

#endif
