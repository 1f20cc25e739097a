/*
 * record.h - a recording: which pages were missed, in which order. docs/migrate-format.md:
 *
 *      0  8  "LHMISSES"
 *      8  4  version, 1
 *     12  4  page size in bytes
 *     16  8  pages of the guest
 *     24  8  n, entries
 *     32  4  CRC-32C of all entries
 *     36  4  CRC-32C of the 40 bytes with these four as zero
 *     40  8n entries: numbers of pages, in the order of their first miss, no page twice
 */
#ifndef LH_MIGRATE_RECORD_H
#define LH_MIGRATE_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "linehome.h"

/*
 * Writes a whole recording: to a file beside it first, which then takes its name. Of a page that stands in
 * entries more than once the first counts. On error what was there is as it was.
 */
int lh__record_write(const char *path, size_t page_size, uint64_t pages, const uint64_t *entries, size_t n,
                     struct lh_error *error) LH_MUST_CHECK;
/* Finds out beforehand whether it could be written there, and leaves nothing. */
int lh__record_writable(const char *path, struct lh_error *error) LH_MUST_CHECK;
/*
 * pages: that the guest has; 0: it is not known yet. *entries is the caller's to free. -EBADMSG: not a
 * recording, or damaged; -EINVAL: of a guest with another number or size of pages.
 */
int lh__record_read(const char *path, size_t page_size, uint64_t pages, uint64_t **entries, size_t *n,
                    struct lh_error *error) LH_MUST_CHECK;

#endif
