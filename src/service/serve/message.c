/* message.c - one message in, its reply out: the node's whole dispatch, whatever carries the message. */
#include "service/serve/inside.h"

#include <errno.h>

static enum lh_wire_status status_of(int result)
{
	return result == 0 ? LH_WIRE_OK : result == -ENOSPC ? LH_WIRE_FULL : LH_WIRE_FAILED;
}

static size_t serve_get(struct connection *connection, const struct lh_wire_request *request, uint8_t *reply)
{
	struct lh_server_counts *counts = &connection->server->counts;
	struct lh_store *store = connection->region->store;
	uint8_t *page = lh__wire_reply_page(reply);
	lh_mask held = 0;
	int result = store->ops->get_now(store, request->page, request->mask, page, &held);

	lh__serve_count(&counts->gets, 1);
	if (result == 0)
		lh__serve_count(&counts->lines_out, lh__mask_count(held));
	return lh__wire_reply_write(reply, request, status_of(result), held, page);
}

/*
 * A change that was carried out before, and is sent again since its reply was lost, changes nothing any more,
 * or undoes and repeats what came after it: what counts is what it changed at first. Under region->changes.
 */
static uint32_t changed_first(struct region *region, const struct lh_wire_request *wire, uint32_t changed)
{
	struct change *change = &region->change[wire->number % LH_WIRE_CHANGES];

	if (wire->number == 0)
		return changed;
	if (change->number == wire->number && change->page == wire->page && change->mask == wire->mask &&
	    change->op == wire->op)
		return change->changed;
	*change = (struct change){ wire->number, wire->page, wire->mask, wire->op, changed };
	return changed;
}

/* All lines packed are a page as it stands; fewer are spread out. */
static int change(struct region *region, const struct lh_wire_request *wire, uint32_t *changed)
{
	uint8_t page[LH_PAGE_SIZE] __attribute__((aligned(64)));
	struct lh_request request = {
		.op = (enum lh_op)wire->op, .page = wire->page, .mask = wire->mask, .data = page
	};
	int result;

	if (wire->lines && wire->mask == LH_MASK_ALL)
		request.data = (void *)(uintptr_t)wire->lines;
	else if (wire->lines)
		lh__lines_scatter(page, wire->lines, wire->mask);
	pthread_mutex_lock(&region->changes);
	result = lh__store_do(region->store, &request);
	if (result == 0 && wire->lines)
		*changed = changed_first(region, wire, request.changed);
	pthread_mutex_unlock(&region->changes);
	return result;
}

static size_t serve_change(struct connection *connection, const struct lh_wire_request *request,
                           uint8_t *reply)
{
	struct lh_server_counts *counts = &connection->server->counts;
	uint32_t changed = 0;
	int result = change(connection->region, request, &changed);

	lh__serve_count(request->op == LH_WIRE_PUT       ? &counts->puts
	                : request->op == LH_WIRE_REPLACE ? &counts->replaces
	                                                 : &counts->drops,
	                1);
	lh__serve_count(&counts->lines_in, lh__mask_count(request->mask));
	if (result == -ENOSPC)
		lh__serve_count(&counts->full, 1);
	return lh__wire_reply_write_change(reply, request, status_of(result), changed);
}

size_t lh__serve_message(struct connection *connection, const uint8_t *message, size_t size,
                         uint64_t sequence, uint8_t *reply, const char **why)
{
	struct lh_server_counts *counts = &connection->server->counts;
	struct lh_wire_request request;
	size_t written;

	if (lh__wire_request_read(message, size, sequence, &request, why) < 0)
		return 0;
	if (request.op == LH_WIRE_GET)
		written = serve_get(connection, &request, reply);
	else
		written = serve_change(connection, &request, reply);
	lh__serve_count(&counts->bytes_in, size);
	lh__serve_count(&counts->bytes_out, written);
	return written;
}
