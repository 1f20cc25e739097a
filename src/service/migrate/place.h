/*
 * place.h - how pages get under a guest: the contract.
 *
 *     place_file.c  memory that is files mapped shared (QEMU): write, later show
 *     place_copy.c  anonymous memory (Firecracker): both in one, by UFFDIO_COPY
 *
 * The engine claims a page before it calls (state.h: busy), so no two calls are about the same page. Errors
 * as in port/guest/guest.h. Any thread.
 */
#ifndef LH_MIGRATE_PLACE_H
#define LH_MIGRATE_PLACE_H

#include "port/guest/guest.h"
#include "service/migrate/state.h"

struct lh_place;

struct lh_place_ops {
	/*
	 * The page's content where the guest cannot see it yet; since: only the lines of mask. NULL: show
	 * does it.
	 */
	int (*write)(struct lh_place *place, uint64_t page, lh_mask mask, bool since, const void *data);
	/*
	 * Shows pages that are written; data: the content of the one page, for a place that does not write.
	 */
	int (*show)(struct lh_place *place, uint64_t page, uint64_t count, const void *data);
	/* Pages that are zero, and nowhere. */
	int (*zero)(struct lh_place *place, uint64_t page, uint64_t count);
	/*
	 * Takes pages out of the guest's sight and out of memory. NULL: nothing was written before it is
	 * shown.
	 */
	int (*forget)(struct lh_place *place, uint64_t page, uint64_t count);
	void (*close)(struct lh_place *place);
};

struct lh_place {
	const struct lh_place_ops *ops;
	/*
	 * The guest's memory; NULL before its process has said where it is. The engine changes it, standing
	 * still.
	 */
	struct lh_guest *guest;
};

/* Files of the state's regions, opened here. fresh: nothing of what they hold is kept. */
int lh__place_files(const struct lh_state *state, bool fresh, struct lh_place **out,
                    struct lh_error *error) LH_MUST_CHECK;
int lh__place_copy(struct lh_place **out) LH_MUST_CHECK;

#endif
