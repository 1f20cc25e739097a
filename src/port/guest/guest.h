/*
 * guest.h - the port of a guest: memory of another process, a virtual machine's, whose absent pages that
 * process's own userfaultfd reports to us.
 *
 * It has a contract of its own, since nothing is ever taken back: pages are supplied once, and when all are
 * there the memory is no longer watched. The descriptor comes from the other process (service/migrate has the
 * handshake) and the addresses are that process's. Pages have numbers, dense over all ranges.
 *
 * Two ways to supply a page. Memory that is a file mapped shared (QEMU): the content is written to the file,
 * and lh__guest_show puts it into the guest's page tables, where the fault is "minor". Anonymous memory
 * (Firecracker): lh__guest_copy. Both wake who waits.
 *
 * Errors of all that changes pages:
 *   -EEXIST  the page, or the first of several, is there already; who waits for it has been woken
 *   -EAGAIN  an event has to be read first (lh__guest_read), since the memory is being changed; nothing done
 *   -ENOENT  the memory is not there or not watched any more: unmapped, or the descriptor's owner has gone
 *   -ESRCH   the process has ended
 * Calls may be made from any thread; lh__guest_read from one at a time.
 */
#ifndef LH_PORT_GUEST_H
#define LH_PORT_GUEST_H

#include <stdbool.h>
#include <sys/types.h>

#include "sys/sys.h"

#define LH_GUEST_RANGES_MAX 64u

struct lh_guest_range {
	uint64_t address; /* in the guest's process */
	uint64_t pages;
	uint64_t first; /* number of its first page */
};

enum lh_guest_kind {
	LH_GUEST_FAULT, /* somebody waits for `page` */
	LH_GUEST_GONE, /* the guest's process has discarded `count` pages from `page` on: they are zero now */
	LH_GUEST_LEFT, /* the same, and has unmapped or moved them: nobody will touch them there */
};

/* Zeroed, and then filled in up to the ranges, by whoever took the descriptor over. */
struct lh_guest {
	const struct lh_sys *sys;
	int fd;           /* the userfaultfd, non-blocking; lh__guest_close closes it */
	size_t page_size; /* 4096, or that of hugetlbfs */
	size_t ranges;
	struct lh_guest_range range[LH_GUEST_RANGES_MAX];

	/* Of lh__guest_read: an event that is about several ranges, and the next of them. */
	enum lh_guest_kind event_kind;
	uint64_t event_from, event_to;
	size_t event_range;
};

struct lh_guest_message {
	enum lh_guest_kind kind;
	uint64_t page, count;
	bool write;   /* fault: somebody writes */
	bool minor;   /* fault: the file has the page, only the guest's page table has not */
	pid_t thread; /* fault: who waits; 0 where the descriptor does not tell */
};

/*
 * Reads what has happened, at most max. Returns how many messages (0: none is there now), or a negative
 * errno. Addresses outside the ranges are left out. Whoever discarded memory waits until this has been read.
 */
long lh__guest_read(struct lh_guest *guest, struct lh_guest_message *messages, size_t max) LH_MUST_CHECK;

/* From content (page_size bytes a page), anonymous memory. All or, from the first that fails on, none. */
int lh__guest_copy(struct lh_guest *guest, uint64_t page, const void *content) LH_MUST_CHECK;
/*
 * Pages that the file has get into the guest's page tables; wake: who waits for them is woken. Those that are
 * there already are passed over, so -EEXIST is not returned; -EFAULT: the file does not have a page, those
 * before it are shown.
 */
int lh__guest_show(struct lh_guest *guest, uint64_t page, uint64_t count, bool wake) LH_MUST_CHECK;
/* Zero pages, where nothing is. Those that are there already are passed over. */
int lh__guest_zero(struct lh_guest *guest, uint64_t page, uint64_t count) LH_MUST_CHECK;
/* Who waits for one of the pages looks again, and what is then still absent is reported again. */
int lh__guest_wake(struct lh_guest *guest, uint64_t page, uint64_t count) LH_MUST_CHECK;
/* The pages are no longer watched: what is absent is zero from now on. Wakes. */
int lh__guest_unwatch(struct lh_guest *guest, uint64_t page, uint64_t count) LH_MUST_CHECK;

/* The page's address in the guest's process, and the page of an address (UINT64_MAX: in no range). */
uint64_t lh__guest_address(const struct lh_guest *guest, uint64_t page);
uint64_t lh__guest_page(const struct lh_guest *guest, uint64_t address);
/* How many pages all ranges have. */
uint64_t lh__guest_pages(const struct lh_guest *guest);
void lh__guest_close(struct lh_guest *guest);

#endif
