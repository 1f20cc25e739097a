/*
 * order_lift.c - whether a kind of prediction is worth more than the page that would come without it.
 *
 * Some pages that a kind predicts are held back: they come when their turn comes anyway. How many of these
 * are missed meanwhile is compared with how many misses would fall on as many pages picked at random from
 * those that are absent; the quotient is the kind's lift. A guest that touches memory at random has a lift of
 * 1 for whatever is predicted, and fares better without: predictions take the bandwidth of the sweep, which
 * may be just what the guest does. So the sweep's own lift, of the pages before and behind it, is what kinds
 * have to surpass.
 *
 * Of a kind that is not used pages are watched all the same, at no cost, so that it comes back when it is
 * right. A page that is missed sooner than it could have come speaks against its kind.
 */
#include <string.h>

#include "service/migrate/order_inside.h"

#define HELD_SURE 32u  /* of so many pages of a kind that is used one is held back */
#define HELD_UNSURE 8u /* as long as little is known */
#define HELD_UNUSED 4u
#define SURE 2.0 /* misses by chance */
#define OLD 8.0  /* from here on, what is older counts half */
#define BETTER 3.0
#define WORSE 1.5
#define LATE 16u /* proposals before which a page that is asked for now is not there */
#define LATE_CHANCE 0.3
#define SWEEP 64u /* pages */
#define SWEEP_OLD 0.25
#define SWEEP_LIFT 8.0 /* less is by chance */

void lh__order_lift_reset(struct lh_order_lift *lift)
{
	unsigned i;

	lh__pageset_clear(&lift->held);
	lh__pageset_clear(&lift->recent);
	memset(lift->last, 0xff, sizeof(lift->last));
	lift->end = 0;
	lift->proposals = 0;
	lift->sweep_hits = 0;
	lift->sweep_chance = SWEEP_OLD / 2;
	memset(lift->kind, 0, sizeof(lift->kind));
	for (i = 0; i < LH_ORDER_KINDS; i++) {
		struct lh_order_kind *kind = &lift->kind[i];

		memset(kind->page, 0xff, sizeof(kind->page));
		kind->chance = 0.5;
		kind->hits = lh__order_kind_begins(i) ? 3 : 0.5;
		kind->used = lh__order_kind_begins(i);
	}
}

static void hold(struct lh_order_lift *lift, struct lh_order_kind *kind, uint64_t page)
{
	uint64_t *place = &kind->page[kind->end];

	if (!lh__pageset_add(&lift->held, page))
		return;
	if (*place != LH_PAGESET_NONE)
		lh__pageset_remove(&lift->held, *place);
	else
		kind->held++;
	*place = page;
	kind->since[kind->end] = lift->proposals;
	kind->end = (kind->end + 1) % LH_ORDER_HELD;
}

bool lh__order_lift_take(struct lh_order_lift *lift, enum lh_order_predicts which, uint64_t page)
{
	struct lh_order_kind *kind = &lift->kind[which];
	unsigned every = !kind->used ? HELD_UNUSED : kind->chance < SURE ? HELD_UNSURE : HELD_SURE;

	if (++kind->turn < every)
		return kind->used;
	kind->turn = 0;
	hold(lift, kind, page);
	return false;
}

bool lh__order_lift_near(const struct lh_order_lift *lift, const uint64_t *pages, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (pages[i] < lift->recent.pages && lh__pageset_has(&lift->recent, pages[i]))
			return true;
	return false;
}

/* A page that may be held back no longer is; of which kind it was, since when, or NULL. Rare. */
static struct lh_order_kind *let_go(struct lh_order_lift *lift, uint64_t page, uint64_t *since)
{
	unsigned i, j;

	if (!lh__pageset_remove(&lift->held, page))
		return NULL;
	for (i = 0; i < LH_ORDER_KINDS; i++) {
		struct lh_order_kind *kind = &lift->kind[i];

		for (j = 0; j < LH_ORDER_HELD; j++) {
			if (kind->page[j] != page)
				continue;
			kind->page[j] = LH_PAGESET_NONE;
			kind->held--;
			*since = kind->since[j];
			return kind;
		}
	}
	return NULL;
}

void lh__order_lift_proposed(struct lh_order_lift *lift, uint64_t page)
{
	uint64_t since;

	lift->proposals++;
	(void)let_go(lift, page, &since);
}

static void remember(struct lh_order_lift *lift, uint64_t page)
{
	uint64_t *place = &lift->last[lift->end];

	if (!lh__pageset_add(&lift->recent, page))
		return;
	if (*place != LH_PAGESET_NONE)
		lh__pageset_remove(&lift->recent, *place);
	*place = page;
	lift->end = (lift->end + 1) % LH_ORDER_RECENT;
}

/* What a kind's lift has to be compared with: that of the sweep, if it has one, else of chance. */
static double sweep(struct lh_order_lift *lift, uint64_t page, double absent, uint64_t cursor)
{
	double found;

	lift->sweep_chance += absent > SWEEP ? SWEEP / absent : 1;
	lift->sweep_hits += page + SWEEP >= cursor && page < cursor + SWEEP;
	found = lift->sweep_hits / lift->sweep_chance;
	if (lift->sweep_chance > SWEEP_OLD) {
		lift->sweep_hits /= 2;
		lift->sweep_chance /= 2;
	}
	return found < SWEEP_LIFT ? 1 : found;
}

static void judge(struct lh_order_kind *kind, double other)
{
	if (kind->hits >= BETTER * other * kind->chance)
		kind->used = true;
	else if (kind->hits < WORSE * other * kind->chance)
		kind->used = false;
	if (kind->chance > OLD) {
		kind->hits /= 2;
		kind->chance /= 2;
	}
}

void lh__order_lift_missed(struct lh_order_lift *lift, uint64_t page, uint64_t absent, uint64_t cursor)
{
	double of = absent ? (double)absent : 1, other = sweep(lift, page, of, cursor);
	struct lh_order_kind *kind;
	uint64_t since = 0;
	unsigned i;

	for (i = 0; i < LH_ORDER_KINDS; i++)
		lift->kind[i].chance += (double)lift->kind[i].held / of;
	kind = let_go(lift, page, &since);
	if (kind && lift->proposals - since >= LATE)
		kind->hits++;
	else if (kind)
		kind->chance += LATE_CHANCE;
	remember(lift, page);
	for (i = 0; i < LH_ORDER_KINDS; i++)
		judge(&lift->kind[i], other);
}
