/*
 * pages_given.h - what is known of the pages that were given: hashes of their lines, and how they were given.
 *
 * A page is at the receiver as it was given last, or, while that is still on its way, as it was given before.
 * The first is all that matters on the channels of data: there a page is on its way once at most, and is not
 * asked for again before it has come. But on the channel of faults a page is asked for that may be on its way
 * on another, and which of the two arrives first nobody knows. So what is given there leaves the hashes as
 * they are (the other answer stays right, whichever version it meets), and brings beside the lines that
 * differ from what was given last those that were given last.
 *
 *     base -> given on data: lines A differ -> asked on faults: lines B differ from that
 *     given on faults: A and B, right for who has the base, and for who has what was given on data
 *
 * Direct-mapped by page number: a page takes the place of another. One lock for a stripe of places.
 */
#ifndef LH_MIGRATE_PAGES_GIVEN_H
#define LH_MIGRATE_PAGES_GIVEN_H

#include <stdbool.h>

#include "line/line.h"

struct lh_given;

/* -ENOMEM, or as lh__hash_key_init. places: pages of which hashes are kept at most. */
int lh__given_open(uint64_t places, struct lh_given **out) LH_MUST_CHECK;
/* All are forgotten; nobody uses it meanwhile. */
void lh__given_forget(struct lh_given *given);
void lh__given_close(struct lh_given *given);

/*
 * Which lines of the page, whose content is in a buffer that nobody changes, are to be given. *since: the
 * receiver has an earlier version; on return whether the mask is relative to that. Of several ways the one
 * with fewer lines.
 */
lh_mask lh__given_on_data(struct lh_given *given, uint64_t page, const void *content, bool *since);
lh_mask lh__given_on_faults(struct lh_given *given, uint64_t page, const void *content, bool *since);

#endif
