/*
 * uffd.h - the handler of linehome serve-uffd: a file's content, page by page, for a virtual machine that
 * hands its memory over as Firecracker does. Machines may come one after another or, up to 64, at once, each
 * with a home of its own for its memory; all begin with the same file, which is only read. Ends when told to.
 */
#ifndef LH_MIGRATE_UFFD_H
#define LH_MIGRATE_UFFD_H

#include <jansson.h>

#include "service/migrate/order.h"

struct lh_uffd_options {
	const char *socket;
	const char *memory; /* the file; the machine's offsets are in it */
	enum lh_order_policy policy;
	const char *recorded, *record;    /* or NULL */
	bool once;                        /* end when the first machine has gone */
	int cancel;                       /* readable: end */
	void (*listening)(void *context); /* once, when machines may come; may be NULL */
	void (*say)(void *context, const char *line);
	void *context;
};

/*
 * *stats gets what was done: machines, refused, and in `machine` an object for each (linehome-serve-uffd(1));
 * the caller's.
 */
int lh__uffd_serve(const struct lh_uffd_options *options, json_t **stats,
                   struct lh_error *error) LH_MUST_CHECK;

#endif
