/*
 * place_copy.c - a guest's anonymous memory: a page is there as soon as it is shown, by UFFDIO_COPY. See
 * place.h.
 *
 * Nothing is written before it is shown, and nothing can be taken back: so there is neither write nor forget.
 */
#include <errno.h>
#include <stdlib.h>

#include "service/migrate/place.h"

/* data is of one page; a run of which nothing is said is not shown. */
static int copy_show(struct lh_place *place, uint64_t page, uint64_t count, const void *data)
{
	if (count != 1 || !data)
		return -EINVAL;
	return place->guest ? lh__guest_copy(place->guest, page, data) : -ESRCH;
}

static int copy_zero(struct lh_place *place, uint64_t page, uint64_t count)
{
	return place->guest ? lh__guest_zero(place->guest, page, count) : -ESRCH;
}

static void copy_close(struct lh_place *place)
{
	free(place);
}

static const struct lh_place_ops copy_ops = {
	.show = copy_show,
	.zero = copy_zero,
	.close = copy_close,
};

int lh__place_copy(struct lh_place **out)
{
	struct lh_place *place = calloc(1, sizeof *place);

	if (!place)
		return -ENOMEM;
	place->ops = &copy_ops;
	*out = place;
	return 0;
}
