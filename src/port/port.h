/*
 * port.h - the port contract: how the accesses of processors reach a home.
 *
 * A port watches ranges of addresses. A touch of a page that is absent from a watched range becomes a request
 * to the home (home/home.h: lh__home_miss); the home answers by making the page present with one of the slots
 * below, and takes pages back with `take`. How the request travels, in the faulting thread or through another
 * one, is the port's engine and the home does not know it.
 *
 * Addresses are in this process; all are multiples of the page size. Every slot but close may be called from
 * any thread at the same time, with the exception that the home never calls two slots for the same page at
 * once. No slot waits for anything but the kernel's own locks. Every slot is async-signal-safe. A slot that
 * returns an error has changed nothing.
 *
 * tests/port_conformance.h tests what is said here, for any port.
 */
#ifndef LH_PORT_H
#define LH_PORT_H

#include <stdbool.h>

#include "sys/sys.h"

struct lh_port_caps {
	const char *granularity; /* "page": what one request names */
	bool sees_reads;         /* a first read of an absent page is seen */
	bool sees_writes;        /* protect works; else writes are found by comparing */
	bool moves;              /* take and give move memory without copying it */
};

struct lh_port;

/*
 * What `present` reports: the pages from start to end (exclusive) are not absent. Returns 0, or non-zero to
 * stop.
 */
typedef int lh_port_present(void *context, uintptr_t start, uintptr_t end);

struct lh_port_ops {
	const char *name;
	/*
	 * From now on a touch of an absent page of the range is a request. -EINVAL: there is memory in it
	 * that the port cannot watch, or none at all; -EBUSY: somebody else watches it. A range that is
	 * watched already may be watched again.
	 */
	int (*watch)(struct lh_port *port, uintptr_t start, size_t size) LH_MUST_CHECK;
	/* Touches are no longer seen: an absent page reads as zero from now on, also for who waits for it. */
	int (*unwatch)(struct lh_port *port, uintptr_t start, size_t size) LH_MUST_CHECK;
	/*
	 * Makes absent pages present with this content, which stands in memory that is present itself, and
	 * wakes who waits for them. Returns how many, from the first on: at least one; or, about the first:
	 * -EEXIST: it is present; it was left alone. -ENOENT: nothing is mapped there any more, or what is
	 * not watched. In both cases who waits for it was woken, to look again.
	 * -EAGAIN: the address space is being changed; try again. -ENOMEM.
	 */
	long (*supply)(struct lh_port *port, uintptr_t address, const void *content,
	               size_t pages) LH_MUST_CHECK;
	/* The same with zeroes; the memory is taken from the kernel at the first write. */
	long (*supply_zero)(struct lh_port *port, uintptr_t address, size_t pages) LH_MUST_CHECK;
	/*
	 * Takes present pages out of the processors' sight, each atomically with respect to their writes:
	 * they stand at `staging` (absent until now, inside the port's staging range) afterwards. Returns how
	 * many it took, from the first on: at least one; or, about the first:
	 * -ENOENT: it is absent. -EBUSY: it stays; the kernel holds on to it (a device uses it, it is
	 * locked), or it may be written to in a way that the port cannot keep from being lost. -EAGAIN: try
	 * again. -ENOMEM. The mapping must not change meanwhile, its protection included. Of a page that
	 * nobody may write to it need not be seen that a device holds on to it.
	 */
	long (*take)(struct lh_port *port, uintptr_t address, uintptr_t staging, size_t pages) LH_MUST_CHECK;
	/*
	 * The reverse of take: gives pages back (or a new content that was written there) and wakes. Returns
	 * how many, or an error about the first, as for supply and take; a page that was not given stays at
	 * staging.
	 */
	long (*give)(struct lh_port *port, uintptr_t staging, uintptr_t address, size_t pages) LH_MUST_CHECK;
	/*
	 * Where caps.sees_writes: from now on a write to a present page of the range is a request too, and
	 * the content stays what it is until unprotect; reads are not seen. Such a port supplies pages
	 * protected. Pages of the range that are absent stay so. Else -EOPNOTSUPP. -EAGAIN: try again.
	 * -ENOENT: there is memory in the range that is not watched. After an error some pages may be
	 * protected.
	 */
	int (*protect)(struct lh_port *port, uintptr_t address, size_t pages) LH_MUST_CHECK;
	/* Writes are not seen any more, and who waits for that goes on. */
	int (*unprotect)(struct lh_port *port, uintptr_t address, size_t pages) LH_MUST_CHECK;
	/* Wakes who waits for the page, without making it present: they look again. */
	void (*wake)(struct lh_port *port, uintptr_t address);
	/*
	 * Reports which pages of the range are in memory, or where the kernel has put them aside: those whose
	 * touch would be no request. Ranges come in ascending order; two may adjoin. Returns 0, or what
	 * report has returned to stop, or a negative errno.
	 */
	int (*present)(struct lh_port *port, uintptr_t start, uintptr_t end, lh_port_present *report,
	               void *context) LH_MUST_CHECK;
	/* Nothing is watched any more. Who still waits for a page goes on, and finds zeroes. */
	void (*close)(struct lh_port *port);
};

/* The head of every port; the implementation embeds it as its first member. */
struct lh_port {
	const struct lh_port_ops *ops;
	const struct lh_sys *sys;
	struct lh_port_caps caps;
};

#endif
