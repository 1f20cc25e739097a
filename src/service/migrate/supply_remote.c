/*
 * supply_remote.c - pages from the sender of a migration: a channel for each lane.
 *
 * The sender gives what it was asked for in the order of the asks, so each lane keeps a queue of them, and an
 * answer that is not the oldest's is a breach of the rules. Whatever is wrong with one lane breaks all: the
 * channels belong together, and are made again together.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/channel.h"
#include "service/migrate/supply.h"

#define ASKED_FIRST 1024u /* asks on their way for which there is room at first */
#define ASKED_MOST (1u << 24)

struct asked {
	uint64_t page;
	bool since;
};

struct lane {
	struct lh_channel *channel;
	struct asked *asked; /* a ring; size is a power of two */
	size_t size, first, count;
	uint8_t *page; /* page-shaped: lines that do not make a page by themselves */
	uint64_t hint
		[LH_MOVE_HINTS_MAX]; /* lane 0: what came with the last answer, or comes before the next */
	size_t hints;
	uint64_t hint_page;
} __attribute__((aligned(64)));

struct remote {
	struct lh_supply base;
	int broken; /* a negative errno, for all lanes; changed from any thread */
	struct lane lane[];
};

static struct remote *remote_of(struct lh_supply *supply)
{
	return (struct remote *)supply;
}

static int broken(const struct remote *remote)
{
	return __atomic_load_n(&remote->broken, __ATOMIC_ACQUIRE);
}

/* The first error stays; the threads of the other lanes get it soon. */
static int break_with(struct remote *remote, int code)
{
	int none = 0;

	if (!__atomic_compare_exchange_n(&remote->broken, &none, code, false, __ATOMIC_ACQ_REL,
	                                 __ATOMIC_ACQUIRE))
		return none;
	for (unsigned i = 0; i < remote->base.lanes; i++)
		lh__channel_break(remote->lane[i].channel);
	return code;
}

/* ---- asking ---- */

static int make_room(struct lane *lane)
{
	struct asked *asked;
	size_t i;

	if (lane->count < lane->size)
		return 0;
	if (lane->size >= ASKED_MOST)
		return -ENOBUFS;
	asked = malloc(2 * lane->size * sizeof *asked);
	if (!asked)
		return -ENOMEM;
	for (i = 0; i < lane->count; i++)
		asked[i] = lane->asked[(lane->first + i) & (lane->size - 1)];
	free(lane->asked);
	lane->asked = asked;
	lane->size *= 2;
	lane->first = 0;
	return 0;
}

static int remote_ask(struct lh_supply *supply, unsigned number, uint64_t page, bool since)
{
	struct remote *remote = remote_of(supply);
	struct lane *lane = &remote->lane[number];
	int result = broken(remote);

	if (result)
		return result;
	result = make_room(lane);
	if (result == 0)
		result = lh__channel_send(lane->channel, LH_MOVE_ASK, since ? LH_MOVE_SINCE : 0, page, NULL,
		                          0);
	if (result)
		return break_with(remote, result);
	lane->asked[(lane->first + lane->count++) & (lane->size - 1)] = (struct asked){ page, since };
	return 0;
}

static int remote_flush(struct lh_supply *supply, unsigned number)
{
	struct remote *remote = remote_of(supply);
	int result = broken(remote);

	if (result)
		return result;
	result = lh__channel_flush(remote->lane[number].channel);
	return result ? break_with(remote, result) : 0;
}

/* ---- answers ---- */

/* Lines of a page that travelled, as a page. What a whole page does not name is zero. */
static const void *shape(struct lane *lane, const struct lh_lineset *set)
{
	if (set->mask == LH_MASK_ALL)
		return set->lines;
	lh__lineset_scatter(set, lane->page);
	return lane->page;
}

static int take_give(struct lane *lane, const struct lh_move_message *message,
                     struct lh_supply_answer *answer)
{
	const struct asked *asked = &lane->asked[lane->first];
	bool since = message->flags & LH_MOVE_SINCE;
	struct lh_lineset set;
	size_t hint_bytes = 0;

	if (lane->count == 0 || message->value != asked->page || (since && !asked->since))
		return -EPROTO;
	if (lane->hint_page != LH_MOVE_NO_PAGE && lane->hint_page != message->value)
		return -EPROTO;
	if (lh__move_give_read(message, &set))
		return -EPROTO;
	if (lane->hints)
		hint_bytes = LH_MOVE_HEADER + lane->hints * sizeof *lane->hint;
	lane->first = (lane->first + 1) & (lane->size - 1);
	lane->count--;
	*answer = (struct lh_supply_answer){
		.page = message->value,
		.since = since,
		.mask = set.mask,
		.data = shape(lane, &set),
		.bytes = LH_MOVE_HEADER + message->size + hint_bytes,
	};
	return 1;
}

/* One for each answer at most, directly before it. */
static int take_hint(struct lane *lane, const struct lh_move_message *message)
{
	if (lane->hint_page != LH_MOVE_NO_PAGE)
		return -EPROTO;
	lane->hints = message->size / sizeof *lane->hint;
	lane->hint_page = message->value;
	memcpy(lane->hint, message->body, message->size);
	return 0;
}

static int next_of(struct lane *lane, struct lh_supply_answer *answer)
{
	struct lh_move_message message;
	int result;

	if (lane->hint_page == LH_MOVE_NO_PAGE)
		lane->hints = 0;
	while ((result = lh__channel_next(lane->channel, &message)) > 0) {
		if (message.type == LH_MOVE_GIVE) {
			result = take_give(lane, &message, answer);
			lane->hint_page = LH_MOVE_NO_PAGE;
			return result;
		}
		result = take_hint(lane, &message);
		if (result)
			return result;
	}
	return result;
}

static int remote_next(struct lh_supply *supply, unsigned number, struct lh_supply_answer *answer)
{
	struct remote *remote = remote_of(supply);
	int result = broken(remote);

	if (result)
		return result;
	result = next_of(&remote->lane[number], answer);
	return result < 0 ? break_with(remote, result) : result;
}

static int remote_descriptor(struct lh_supply *supply, unsigned number)
{
	return lh__channel_fd(remote_of(supply)->lane[number].channel);
}

static size_t remote_hints(struct lh_supply *supply, uint64_t *pages, size_t max)
{
	const struct lane *lane = &remote_of(supply)->lane[0];
	size_t n = lane->hints < max ? lane->hints : max;

	memcpy(pages, lane->hint, n * sizeof *pages);
	return n;
}

/* ---- beginning and end ---- */

static void remote_break(struct lh_supply *supply)
{
	(void)break_with(remote_of(supply), -ECONNRESET);
}

static void free_lanes(struct remote *remote)
{
	for (unsigned i = 0; i < remote->base.lanes; i++) {
		free(remote->lane[i].asked);
		free(remote->lane[i].page);
	}
	free(remote);
}

static void remote_close(struct lh_supply *supply)
{
	struct remote *remote = remote_of(supply);

	for (unsigned i = 0; i < remote->base.lanes; i++)
		lh__channel_close(remote->lane[i].channel);
	free_lanes(remote);
}

static const struct lh_supply_ops remote_ops = {
	.ask = remote_ask,
	.flush = remote_flush,
	.next = remote_next,
	.descriptor = remote_descriptor,
	.hints = remote_hints,
	.break_off = remote_break,
	.close = remote_close,
};

static int make_lane(struct lane *lane, struct lh_channel *channel)
{
	lane->channel = channel;
	lane->size = ASKED_FIRST;
	lane->hint_page = LH_MOVE_NO_PAGE;
	lane->asked = malloc(ASKED_FIRST * sizeof *lane->asked);
	lane->page = aligned_alloc(64, LH_PAGE_SIZE);
	if (!lane->asked || !lane->page)
		return -ENOMEM;
	memset(lane->page, 0, LH_PAGE_SIZE);
	return 0;
}

int lh__supply_remote(struct lh_channel *const *channel, unsigned channels, struct lh_supply **out)
{
	size_t size = sizeof(struct remote) + channels * sizeof(struct lane);
	struct remote *remote;
	int result = 0;

	if (channels < 2)
		return -EINVAL;
	remote = aligned_alloc(64, (size + 63) / 64 * 64);
	if (!remote)
		return -ENOMEM;
	memset(remote, 0, size);
	remote->base = (struct lh_supply){ &remote_ops, channels, LH_PAGE_SIZE };
	for (unsigned i = 0; i < channels && result == 0; i++)
		result = make_lane(&remote->lane[i], channel[i]);
	if (result) {
		free_lanes(remote);
		return result;
	}
	*out = &remote->base;
	return 0;
}
