/*
 * guest_port.c - pages of another process supplied through its userfaultfd: both ways, in runs of which some
 * are there already, beside what that process does to its memory meanwhile.
 */
#include "guest_child.h"
#include "inject.h"
#include "tap.h"

#define PAGES 1200u

static const uint64_t features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
                                 UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EVENT_REMOVE |
                                 UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP;
static const uint64_t both = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;

/* Reads messages until there is one, at most 10 s. */
static long awaited(struct lh_guest *guest, struct lh_guest_message *messages, size_t max)
{
	struct pollfd ready = { .fd = guest->fd, .events = POLLIN };

	poll(&ready, 1, 10000);
	return lh__guest_read(guest, messages, max);
}

static bool started(struct child *child, struct lh_guest *guest)
{
	if (!child_start(child, CHILD_FILE, PAGES, features, both))
		return false;
	*guest = child_guest(child, &lh__sys_default);
	return true;
}

static void ended(struct child *child, struct lh_guest *guest)
{
	lh__guest_close(guest);
	child_end(child);
}

/* The first byte of each page of a run: 1, 2, ... 250, 1, 2, ... */
static unsigned value_of(uint64_t page)
{
	return (unsigned)(page % 250 + 1);
}

static void written(struct child *child, uint64_t first, uint64_t count)
{
	unsigned char content[LH_PAGE_SIZE];

	for (uint64_t i = first; i < first + count; i++) {
		memset(content, (int)value_of(i), sizeof content);
		if (pwrite(child->file, content, sizeof content, (off_t)(i * LH_PAGE_SIZE)) != sizeof content)
			abort();
	}
}

static uint64_t sum_of(uint64_t first, uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = first; i < first + count; i++)
		sum += value_of(i);
	return sum;
}

/* The child reads a run, for which nothing is missing. */
static bool reads(struct child *child, struct lh_guest *guest, uint64_t first, uint64_t count)
{
	struct lh_guest_message message;
	uint64_t sum = child_do(child, CHILD_SUM, first, count, 0);

	return sum == sum_of(first, count) && lh__guest_read(guest, &message, 1) == 0;
}

/* ---- faults ---- */

static void faults(void)
{
	struct lh_guest_message message[4];
	struct child child;
	struct lh_guest guest;

	if (!started(&child, &guest))
		return skip("faults", "no userfaultfd with MINOR_SHMEM and THREAD_ID here");
	is(lh__guest_read(&guest, message, 4), 0, "nothing has happened: no message");
	child_tell(&child, CHILD_READ, 7, 1, 0);
	is(awaited(&guest, message, 4), 1, "a touch of an absent page is a message");
	ok(message[0].kind == LH_GUEST_FAULT && message[0].page == 7 && !message[0].minor &&
	           !message[0].write,
	   "... a fault of that page, by a read");
	is(message[0].thread, child.pid, "... with the thread that waits");
	is(lh__guest_show(&guest, 7, 1, true), -EFAULT, "a page that the file does not have cannot be shown");
	written(&child, 7, 1);
	ok(!child_answers(&child, 20), "writing it to the file wakes nobody");
	is(lh__guest_show(&guest, 7, 1, true), 0, "then it is shown");
	is(child_asked(&child), value_of(7), "... and who waited goes on with it");

	written(&child, 9, 1);
	child_tell(&child, CHILD_WRITE, 9, 1, 200);
	is(awaited(&guest, message, 4), 1, "a touch of a page that only the file has is a message");
	ok(message[0].page == 9 && message[0].minor && message[0].write, "... a minor fault, by a write");
	is(lh__guest_show(&guest, 9, 1, false), 0, "shown without waking");
	ok(!child_answers(&child, 20), "... it still waits");
	is(lh__guest_show(&guest, 9, 1, true), 0, "shown again, and woken");
	is(child_asked(&child), 0, "... it goes on, though the page was there already");

	child_tell(&child, CHILD_READ, 11, 1, 0);
	is(awaited(&guest, message, 4), 1, "a request that its reader forgets");
	is(lh__guest_wake(&guest, 0, PAGES), 0, "all are woken");
	ok(awaited(&guest, message, 4) == 1 && message[0].page == 11, "... and it is made again");
	is(lh__guest_zero(&guest, 11, 1), 0, "a zero page");
	is(child_asked(&child), 0, "... is read as zero");
	ended(&child, &guest);
}

/* ---- runs ---- */

static void runs(void)
{
	struct child child;
	struct lh_guest guest;

	if (!started(&child, &guest))
		return skip("runs", "no userfaultfd here");
	written(&child, 0, PAGES);
	for (uint64_t i = 3; i < PAGES; i += 97)
		if (lh__guest_show(&guest, i, 1 + i % 3, false) != 0)
			abort();
	is(lh__guest_show(&guest, 0, PAGES, true), 0, "a run of which many pages are shown already");
	ok(reads(&child, &guest, 0, PAGES), "... is all there");
	ok(lh__guest_show(&guest, 0, PAGES, true) == 0 && lh__guest_zero(&guest, 0, PAGES) == 0 &&
	           reads(&child, &guest, 0, PAGES),
	   "once more, and zeroes: nothing is changed");
	written(&child, PAGES / 2, 1);
	child_do(&child, CHILD_WRITE, PAGES / 2, 1, value_of(PAGES / 2) + 1);
	ok(!reads(&child, &guest, 0, PAGES), "a page that differs would be noticed");
	ended(&child, &guest);
}

/* The mapping is in pieces, as it is when some of it is advised differently. */
static void pieces(void)
{
	struct child child;
	struct lh_guest guest;

	if (!started(&child, &guest))
		return skip("pieces", "no userfaultfd here");
	child_do(&child, CHILD_ADVISE, 100, 1, MADV_DONTFORK);
	child_do(&child, CHILD_ADVISE, 700, 333, MADV_DONTFORK);
	written(&child, 0, PAGES);
	is(lh__guest_show(&guest, 0, PAGES, true), 0, "a run over five mappings is shown");
	ok(reads(&child, &guest, 0, PAGES), "... all of it");
	ended(&child, &guest);
}

static void ends_of_runs(void)
{
	struct lh_guest_message message;
	struct child child;
	struct lh_guest guest;

	if (!started(&child, &guest))
		return skip("ends of runs", "no userfaultfd here");
	written(&child, 0, 600);
	is(lh__guest_show(&guest, 0, PAGES, true), -EFAULT, "of a run that the file has in part");
	ok(reads(&child, &guest, 0, 600), "... the first part is shown");
	child_tell(&child, CHILD_READ, 600, 1, 0);
	ok(awaited(&guest, &message, 1) == 1 && message.page == 600, "... and no more");
	is(lh__guest_zero(&guest, 0, PAGES), 0, "zeroes over all: where nothing is");
	is(child_asked(&child), 0, "... zero there");
	ok(reads(&child, &guest, 0, 600) && child_do(&child, CHILD_SUM, 600, PAGES - 600, 0) == 0,
	   "... and nothing changed elsewhere");
	is(lh__guest_show(&guest, PAGES - 1, 2, true), -ENOENT, "a run beyond all ranges");
	is(lh__guest_show(&guest, PAGES, 1, true), -ENOENT, "... and one that begins there");
	is(lh__guest_show(&guest, PAGES, 0, true), 0, "... an empty one");
	ended(&child, &guest);
}

/* Numbers do not follow addresses: the upper half is 0..., the lower 1000... */
static void several_ranges(void)
{
	struct lh_guest_message message[2];
	struct child child;
	struct lh_guest guest;
	uint64_t half = (uint64_t)PAGES / 2;

	if (!started(&child, &guest))
		return skip("ranges", "no userfaultfd here");
	guest.ranges = 2;
	guest.range[0] = (struct lh_guest_range){ child.address + half * LH_PAGE_SIZE, half, 0 };
	guest.range[1] = (struct lh_guest_range){ child.address, half, half };
	is(lh__guest_pages(&guest), PAGES, "all ranges together");
	ok(lh__guest_address(&guest, half) == child.address &&
	           lh__guest_page(&guest, child.address + 5) == half &&
	           lh__guest_page(&guest, child.address - 1) == UINT64_MAX &&
	           lh__guest_page(&guest, child.address + PAGES * (uint64_t)LH_PAGE_SIZE) == UINT64_MAX,
	   "addresses and pages");
	written(&child, 0, PAGES);
	is(lh__guest_show(&guest, 0, PAGES, true), 0, "a run over both");
	ok(reads(&child, &guest, 0, PAGES), "... is shown");

	child_tell(&child, CHILD_ADVISE, half - 3, 8, MADV_REMOVE);
	is(awaited(&guest, message, 1), 1, "discarded in both: the first message, as there is room for one");
	ok(message[0].kind == LH_GUEST_GONE && message[0].page == 0 && message[0].count == 5, "... 5 pages");
	is(lh__guest_read(&guest, message, 2), 1, "... and the second");
	ok(message[0].kind == LH_GUEST_GONE && message[0].page == PAGES - 3 && message[0].count == 3,
	   "... 3 pages");
	is(child_asked(&child), 0, "... and who discarded goes on");
	is(lh__guest_read(&guest, message, 2), 0, "no more");
	child_tell(&child, CHILD_READ, half, 1, 0);
	ok(awaited(&guest, message, 2) == 1 && message[0].page == 0 && !message[0].minor,
	   "a page that was discarded is missed again");
	is(lh__guest_zero(&guest, 0, 5), 0, "... as zero");
	is(child_asked(&child), 0, "... it is read");
	ended(&child, &guest);
}

/* ---- changes of the memory ---- */

static unsigned open_descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 200; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void changes(void)
{
	struct lh_guest_message message[4];
	struct pollfd ready;
	struct child child;
	struct lh_guest guest;

	if (!started(&child, &guest))
		return skip("changes", "no userfaultfd here");
	written(&child, 0, PAGES);
	child_tell(&child, CHILD_UNMAP, 100, 50, 0);
	ready = (struct pollfd){ .fd = guest.fd, .events = POLLIN };
	poll(&ready, 1, 10000);
	is(lh__guest_show(&guest, 0, 10, true), -EAGAIN, "while an event waits to be read nothing is shown");
	is(lh__guest_zero(&guest, 0, 10), -EAGAIN, "... nor zeroed");
	is(lh__guest_read(&guest, message, 4), 1, "it is read");
	ok(message[0].kind == LH_GUEST_LEFT && message[0].page == 100 && message[0].count == 50,
	   "... 50 pages are unmapped");
	is(child_asked(&child), 0, "... and who unmapped goes on");
	is(lh__guest_show(&guest, 120, 2, true), -ENOENT, "nothing can be shown there");
	ok(lh__guest_show(&guest, 0, 100, true) == 0 && reads(&child, &guest, 0, 100), "... but before it");
	is(lh__guest_unwatch(&guest, 110, 10), -ENOENT, "nothing is watched there");

	child_tell(&child, CHILD_REMAP, 200, 20, 0);
	ok(awaited(&guest, message, 4) >= 1 && message[0].kind == LH_GUEST_LEFT && message[0].page == 200 &&
	           message[0].count == 20,
	   "pages that are moved have left");
	while (!child_answers(&child, 10))
		awaited(&guest, message, 4);
	is(child_asked(&child), 0, "... and who moved them goes on");

	child_tell(&child, CHILD_READ, 300, 1, 0);
	is(awaited(&guest, message, 4), 1, "one waits");
	is(lh__guest_unwatch(&guest, 300, PAGES - 300), 0, "no longer watched");
	is(child_asked(&child), value_of(300), "... it goes on with what the file has");
	is(child_do(&child, CHILD_PUNCH, 400, 1, 0) + child_do(&child, CHILD_READ, 400, 1, 0), 0,
	   "... and what it has not is zero");
	is(lh__guest_read(&guest, message, 4), 0, "... without a word");
	ended(&child, &guest);
}

static void forked(void)
{
	struct lh_guest_message message[4];
	struct child child;
	struct lh_guest guest;
	unsigned before;

	if (!child_start(&child, CHILD_FILE, PAGES, features | UFFD_FEATURE_EVENT_FORK, both))
		return skip("fork", "no userfaultfd with EVENT_FORK here");
	guest = child_guest(&child, &lh__sys_default);
	before = open_descriptors();
	child_tell(&child, CHILD_FORK, 0, 0, 0);
	is(awaited(&guest, message, 4), 0, "a fork is no message");
	is(child_asked(&child), 0, "... it goes on");
	is(open_descriptors(), before, "... and no descriptor is left here");
	ended(&child, &guest);
}

static void process_ended(void)
{
	static unsigned char content[LH_PAGE_SIZE];
	struct child child;
	struct lh_guest guest;

	if (!started(&child, &guest))
		return skip("ended", "no userfaultfd here");
	written(&child, 0, 10);
	kill(child.pid, SIGKILL);
	waitpid(child.pid, NULL, 0);
	child.pid = 0;
	is(lh__guest_show(&guest, 0, 10, true), -ESRCH, "of a process that has ended: nothing is shown");
	is(lh__guest_zero(&guest, 0, 10), -ESRCH, "... zeroed");
	is(lh__guest_copy(&guest, 0, content), -ESRCH, "... copied");
	is(lh__guest_unwatch(&guest, 0, 10), -ESRCH, "... or let go");
	ended(&child, &guest);
}

/* ---- anonymous memory, and huge pages ---- */

static void copied(enum child_memory memory, const char *what)
{
	struct lh_guest_message message;
	struct child child;
	struct lh_guest guest;
	unsigned char *content;

	if (!child_start(&child, memory, 4, UFFD_FEATURE_EVENT_REMOVE, UFFDIO_REGISTER_MODE_MISSING))
		return skip(what, "no userfaultfd, or no huge pages are set aside");
	guest = child_guest(&child, &lh__sys_default);
	content = malloc(child.page_size);
	memset(content, 77, child.page_size);
	child_tell(&child, CHILD_READ, 2, 1, 0);
	ok(awaited(&guest, &message, 1) == 1 && message.page == 2 && !message.minor, "%s: a page is missed",
	   what);
	is(lh__guest_copy(&guest, 2, content), 0, "... copied");
	is(child_asked(&child), 77, "... read");
	is(lh__guest_copy(&guest, 2, content), -EEXIST, "... copied again: it is there");
	is(lh__guest_zero(&guest, 0, 4), 0, "zeroes, where nothing is");
	is(child_do(&child, CHILD_SUM, 0, 4, 0), 77, "... are read");
	child_tell(&child, CHILD_ADVISE, 2, 1, MADV_DONTNEED);
	poll(&(struct pollfd){ .fd = guest.fd, .events = POLLIN }, 1, 10000);
	is(lh__guest_copy(&guest, 2, content), -EAGAIN, "discarded, and not read of yet: copied not");
	ok(lh__guest_read(&guest, &message, 1) == 1 && message.kind == LH_GUEST_GONE && message.page == 2 &&
	           message.count == 1,
	   "... read of");
	is(child_asked(&child), 0, "... and discarded");
	free(content);
	ended(&child, &guest);
}

/* ---- every call fails once ---- */

static void failures(int error)
{
	struct inject in;
	unsigned wrong = 0;

	INJECT_SWEEP(&in, error, INJECT_ONCE) {
		struct lh_guest_message message;
		struct child child;
		struct lh_guest guest;
		int result;
		long n;

		if (!started(&child, &guest))
			return skip("failures", "no userfaultfd here");
		guest.sys = &in.sys;
		written(&child, 0, PAGES);
		if (lh__guest_show(&guest, 17, 1, false) != 0)
			abort();
		child_tell(&child, CHILD_READ, 17, 1, 0);
		inject_arm(&in);
		n = lh__guest_read(&guest, &message, 1);
		result = lh__guest_show(&guest, 0, PAGES, true);
		inject_disarm(&in);
		wrong += result != 0 && result != -error;
		wrong += n < 0 && n != -error;
		wrong += lh__guest_show(&guest, 0, PAGES, true) != 0 || lh__guest_wake(&guest, 0, PAGES) != 0;
		wrong += child_asked(&child) != value_of(17) || !reads(&child, &guest, 0, PAGES);
		ended(&child, &guest);
	}
	ok(inject_swept(&in) && wrong == 0, "whichever call fails with %s, what is tried again succeeds",
	   lh__errno_name(error));
}

int main(void)
{
	faults();
	runs();
	pieces();
	ends_of_runs();
	several_ranges();
	changes();
	forked();
	process_ended();
	copied(CHILD_ANONYMOUS, "anonymous memory");
	copied(CHILD_HUGE, "huge pages");
	failures(EAGAIN);
	failures(ENOMEM);
	failures(ENOENT);
	return done();
}
