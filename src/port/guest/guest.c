/*
 * guest.c - reading a guest's userfaultfd and supplying its pages. See guest.h.
 *
 * What the kernel makes of a run of pages, and what is made of that here:
 *
 *   - It stops at the first page that it cannot supply, says how many it did, and returns EAGAIN; asked again
 *     from there on it says why. A page that is there already is passed over, and since the kernel wakes
 *     nobody for a page that it did not supply, the run is woken as a whole at the end.
 *   - A run must lie in one mapping of the guest's process, or nothing of it is done and ENOENT is returned,
 *     as for memory that is not there at all. So it is tried again with the half of it.
 *   - Who waits for one of the pages is woken when the call ends; so runs are done in pieces.
 *   - EAGAIN with nothing done: the memory is being changed and its event has not been read.
 *
 * A process that has ended is ESRCH to all that supplies, and ENOMEM to UFFDIO_UNREGISTER.
 */
#include "port/guest/guest.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "port/page/uapi.h"

#define READ_AT_ONCE 16u
#define PIECE_PAGES 512u

static long guest_ioctl(const struct lh_guest *guest, unsigned long request, void *argument)
{
	return LH_SYS(guest->sys, SYS_ioctl, guest->fd, request, argument);
}

/* ---- pages and addresses ---- */

static const struct lh_guest_range *range_of(const struct lh_guest *guest, uint64_t page)
{
	for (size_t i = 0; i < guest->ranges; i++)
		if (page - guest->range[i].first < guest->range[i].pages)
			return &guest->range[i];
	return NULL;
}

static uint64_t address_in(const struct lh_guest *guest, const struct lh_guest_range *range, uint64_t page)
{
	return range->address + (page - range->first) * guest->page_size;
}

uint64_t lh__guest_address(const struct lh_guest *guest, uint64_t page)
{
	const struct lh_guest_range *range = range_of(guest, page);

	return range ? address_in(guest, range, page) : 0;
}

uint64_t lh__guest_page(const struct lh_guest *guest, uint64_t address)
{
	for (size_t i = 0; i < guest->ranges; i++) {
		const struct lh_guest_range *range = &guest->range[i];

		if (address - range->address < range->pages * guest->page_size)
			return range->first + (address - range->address) / guest->page_size;
	}
	return UINT64_MAX;
}

uint64_t lh__guest_pages(const struct lh_guest *guest)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < guest->ranges; i++)
		pages += guest->range[i].pages;
	return pages;
}

/* ---- reading ---- */

/*
 * One message for each range that the event's addresses touch, as many as there is room for; what is left of
 * it waits in the guest for the next call.
 */
static size_t event_messages(struct lh_guest *guest, struct lh_guest_message *messages, size_t max)
{
	uint64_t from = guest->event_from, to = guest->event_to;
	size_t n = 0;

	for (; guest->event_range < guest->ranges && n < max; guest->event_range++) {
		const struct lh_guest_range *range = &guest->range[guest->event_range];
		uint64_t end = range->address + range->pages * guest->page_size;
		uint64_t low = from > range->address ? from : range->address, high = to < end ? to : end;

		if (low < high)
			messages[n++] = (struct lh_guest_message){
				.kind = guest->event_kind,
				.page = range->first + (low - range->address) / guest->page_size,
				.count = (high - low) / guest->page_size,
			};
	}
	return n;
}

static void begin_event(struct lh_guest *guest, enum lh_guest_kind kind, uint64_t from, uint64_t to)
{
	guest->event_kind = kind;
	guest->event_from = from;
	guest->event_to = to;
	guest->event_range = 0;
}

static size_t fault_message(const struct lh_guest *guest, const struct uffd_msg *got,
                            struct lh_guest_message *message)
{
	uint64_t page = lh__guest_page(guest, got->arg.pagefault.address);

	if (page == UINT64_MAX)
		return 0;
	*message = (struct lh_guest_message){
		.kind = LH_GUEST_FAULT,
		.page = page,
		.count = 1,
		.write = got->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE,
		.minor = got->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR,
		.thread = (pid_t)got->arg.pagefault.feat.ptid,
	};
	return 1;
}

static size_t translate(struct lh_guest *guest, const struct uffd_msg *got, struct lh_guest_message *messages,
                        size_t max)
{
	switch (got->event) {
	case UFFD_EVENT_PAGEFAULT: return fault_message(guest, got, messages);
	case UFFD_EVENT_REMOVE:
		begin_event(guest, LH_GUEST_GONE, got->arg.remove.start, got->arg.remove.end);
		break;
	case UFFD_EVENT_UNMAP:
		begin_event(guest, LH_GUEST_LEFT, got->arg.remove.start, got->arg.remove.end);
		break;
	case UFFD_EVENT_REMAP:
		begin_event(guest, LH_GUEST_LEFT, got->arg.remap.from,
		            got->arg.remap.from + got->arg.remap.len);
		break;
	case UFFD_EVENT_FORK:
		/* The child's own userfaultfd has become a descriptor of ours; a child is not served. */
		LH_SYS(guest->sys, SYS_close, (int)got->arg.fork.ufd);
		return 0;
	default: return 0;
	}
	return event_messages(guest, messages, max);
}

/*
 * So many that each of them can be a message for every range; but one at least, which may be done in parts.
 */
static size_t how_many(const struct lh_guest *guest, size_t max)
{
	size_t n = guest->ranges ? max / guest->ranges : max;

	return n < 1 ? 1 : n < READ_AT_ONCE ? n : READ_AT_ONCE;
}

long lh__guest_read(struct lh_guest *guest, struct lh_guest_message *messages, size_t max)
{
	size_t n = event_messages(guest, messages, max);

	while (n < max) {
		struct uffd_msg got[READ_AT_ONCE];
		size_t asked = how_many(guest, max - n);
		long size = LH_SYS(guest->sys, SYS_read, guest->fd, got, asked * sizeof *got);

		if (size == -EINTR)
			continue;
		if (size == -EAGAIN || (size < 0 && n > 0))
			break;
		if (size < 0)
			return size;
		for (size_t i = 0; i < (size_t)size / sizeof *got; i++)
			n += translate(guest, &got[i], messages + n, max - n);
		if ((size_t)size < asked * sizeof *got)
			break;
	}
	return (long)n;
}

/* ---- supplying ---- */

static long copy_once(struct lh_guest *guest, uint64_t address, const void *content)
{
	struct uffdio_copy copy = { .dst = address, .src = (uintptr_t)content, .len = guest->page_size };

	return guest_ioctl(guest, UFFDIO_COPY, &copy);
}

static long continue_once(struct lh_guest *guest, uint64_t address, uint64_t size, int64_t *done)
{
	struct uffdio_continue show = {
		.range = { .start = address, .len = size },
		.mode = UFFDIO_CONTINUE_MODE_DONTWAKE,
	};
	long result = guest_ioctl(guest, UFFDIO_CONTINUE, &show);

	*done = show.mapped;
	return result;
}

static long continue_and_wake(struct lh_guest *guest, uint64_t address, uint64_t size, int64_t *done)
{
	struct uffdio_continue show = { .range = { .start = address, .len = size } };
	long result = guest_ioctl(guest, UFFDIO_CONTINUE, &show);

	*done = show.mapped;
	return result;
}

static long zero_once(struct lh_guest *guest, uint64_t address, uint64_t size, int64_t *done)
{
	struct uffdio_zeropage zero = { .range = { .start = address, .len = size } };
	long result = guest_ioctl(guest, UFFDIO_ZEROPAGE, &zero);

	*done = zero.zeropage;
	return result;
}

/*
 * The kernel has no zero pages of other sizes: they are copied from memory that is never written to, and so
 * takes up none.
 */
static long zero_by_copy(struct lh_guest *guest, uint64_t address, uint64_t size, int64_t *done)
{
	long zeroes = LH_SYS(guest->sys, SYS_mmap, 0, guest->page_size, PROT_READ,
	                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	long result;

	*done = 0;
	if (zeroes < 0 && zeroes > -4096)
		return zeroes;
	result = copy_once(guest, address, (const void *)zeroes);
	LH_SYS(guest->sys, SYS_munmap, zeroes, guest->page_size);
	if (result < 0)
		return result;
	*done = (int64_t)guest->page_size;
	return size > guest->page_size ? -EAGAIN : 0;
}

static void wake_range(struct lh_guest *guest, uint64_t address, uint64_t size)
{
	struct uffdio_range range = { .start = address, .len = size };

	if (size > 0)
		guest_ioctl(guest, UFFDIO_WAKE, &range);
}

typedef long supply_fn(struct lh_guest *guest, uint64_t address, uint64_t size, int64_t *done);

/* A run within one range. *address gets to what was not done. */
static long supply_run(struct lh_guest *guest, supply_fn *supply, uint64_t *address, uint64_t end,
                       bool *passed)
{
	const uint64_t piece = PIECE_PAGES * LH_PAGE_SIZE;
	uint64_t most = piece > guest->page_size ? piece : guest->page_size;

	while (*address < end) {
		uint64_t size = end - *address < most ? end - *address : most;
		int64_t done = 0;
		long result = supply(guest, *address, size, &done);

		if (result >= 0) {
			*address += size;
			most = piece > guest->page_size ? piece : guest->page_size;
		} else if (result == -EAGAIN && done > 0) {
			*address += (uint64_t)done;
		} else if (result == -EEXIST) {
			*address += guest->page_size;
			*passed = true;
		} else if (result == -ENOENT && size > guest->page_size) {
			most = (size / guest->page_size + 1) / 2 * guest->page_size;
		} else {
			return result;
		}
	}
	return 0;
}

/* Takes off a run what lies in one range. */
static int next_part(const struct lh_guest *guest, uint64_t *page, uint64_t *count, uint64_t *address,
                     uint64_t *size)
{
	const struct lh_guest_range *range = range_of(guest, *page);
	uint64_t n;

	if (!range)
		return -ENOENT;
	n = range->first + range->pages - *page;
	n = n < *count ? n : *count;
	*address = address_in(guest, range, *page);
	*size = n * guest->page_size;
	*page += n;
	*count -= n;
	return 0;
}

static int supply_pages(struct lh_guest *guest, supply_fn *supply, uint64_t page, uint64_t count, bool wake)
{
	uint64_t start, address, size;
	long result = 0;

	while (result >= 0 && count > 0) {
		bool passed = false;

		result = next_part(guest, &page, &count, &start, &size);
		if (result < 0)
			break;
		address = start;
		result = supply_run(guest, supply, &address, start + size, &passed);
		if (passed && wake)
			wake_range(guest, start, address - start);
	}
	return (int)result;
}

int lh__guest_copy(struct lh_guest *guest, uint64_t page, const void *content)
{
	const struct lh_guest_range *range = range_of(guest, page);
	uint64_t address = range ? address_in(guest, range, page) : 0;
	long result = range ? copy_once(guest, address, content) : -ENOENT;

	if (result == -EEXIST)
		wake_range(guest, address, guest->page_size);
	return (int)result;
}

int lh__guest_show(struct lh_guest *guest, uint64_t page, uint64_t count, bool wake)
{
	return supply_pages(guest, wake ? continue_and_wake : continue_once, page, count, wake);
}

int lh__guest_zero(struct lh_guest *guest, uint64_t page, uint64_t count)
{
	return supply_pages(guest, guest->page_size == LH_PAGE_SIZE ? zero_once : zero_by_copy, page, count,
	                    true);
}

/* ---- the rest ---- */

/* Whether the process has ended: what changes nothing of memory without write protection says so. */
static bool has_ended(struct lh_guest *guest, uint64_t address)
{
	struct uffdio_writeprotect none = {
		.range = { .start = address, .len = guest->page_size },
		.mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE,
	};

	return guest_ioctl(guest, UFFDIO_WRITEPROTECT, &none) == -ESRCH;
}

static long unwatch_once(struct lh_guest *guest, uint64_t address, uint64_t size)
{
	struct uffdio_range range = { .start = address, .len = size };
	long result = guest_ioctl(guest, UFFDIO_UNREGISTER, &range);

	/* It wakes those that wait for absent pages, but not for those that are only not shown. */
	if (result >= 0)
		wake_range(guest, address, size);
	if (result == -ENOMEM && has_ended(guest, address))
		return -ESRCH;
	return result == -EINVAL ? -ENOENT : result;
}

static long wake_once(struct lh_guest *guest, uint64_t address, uint64_t size)
{
	struct uffdio_range range = { .start = address, .len = size };

	return guest_ioctl(guest, UFFDIO_WAKE, &range);
}

static int each_part(struct lh_guest *guest, long (*once)(struct lh_guest *, uint64_t, uint64_t),
                     uint64_t page, uint64_t count)
{
	uint64_t address, size;
	long result = 0;

	while (result >= 0 && count > 0) {
		result = next_part(guest, &page, &count, &address, &size);
		if (result >= 0)
			result = once(guest, address, size);
	}
	return (int)result;
}

int lh__guest_wake(struct lh_guest *guest, uint64_t page, uint64_t count)
{
	return each_part(guest, wake_once, page, count);
}

int lh__guest_unwatch(struct lh_guest *guest, uint64_t page, uint64_t count)
{
	return each_part(guest, unwatch_once, page, count);
}

void lh__guest_close(struct lh_guest *guest)
{
	if (guest->fd >= 0)
		LH_SYS(guest->sys, SYS_close, guest->fd);
	guest->fd = -1;
}
