/*
 * port_planted.c - the conformance suite sees faults: a port with one planted in it fails, and the same port
 * with none passes.
 *
 * The port hands everything on to a page port, and gets one thing wrong: in a slot, or in a system call that
 * the port below makes. A case that fails may leave threads and memory in any state, so each fault has a
 * process of its own.
 */
#include "port/page/uapi.h"
#include "port_over_page.h"

#define PATIENCE_MS 500

enum fault {
	NONE,
	EMPTY_SLOT,
	CAPS_WRITES,
	CAPS_NO_READS,
	WATCH_NOTHING,
	WATCH_ONCE,
	WATCH_OTHER,
	WATCH_HALF,
	WATCH_RIVAL_EINVAL,
	UNWATCH_NOTHING,
	UNWATCH_TOO_MUCH,
	UNWATCH_DROPS,
	SUPPLY_LOST,
	SUPPLY_CUT,
	SUPPLY_OVERWRITES,
	SUPPLY_PRESENT_OK,
	SUPPLY_QUIET,
	SUPPLY_GONE_EINVAL,
	SUPPLY_FIRST_ONLY,
	SUPPLY_SHARES_BUFFER,
	ZERO_OVERWRITES,
	ZERO_TAKES_MEMORY,
	PRESENT_QUIET,
	GONE_QUIET,
	WAKE_NOTHING,
	WAKE_SUPPLIES,
	SCAN_OFF_BY_ONE,
	SCAN_BACKWARDS,
	SCAN_GOES_ON,
	SCAN_STOP_IS_ZERO,
	SCAN_FIRST_BATCH,
	SCAN_BEYOND,
	TAKE_COPIES,
	TAKE_LEAVES,
	TAKE_EMPTIES,
	TAKE_SAYS_ALL,
	TAKE_OVER_HOLES,
	TAKE_ABSENT_ZERO,
	TAKE_ABSENT_EFAULT,
	TAKE_TOUCHES,
	TAKE_READONLY_FAILS,
	TAKE_COPIES_BUSY,
	TAKE_BUSY_EINVAL,
	TAKE_SHARED_BUSY,
	GIVE_QUIET,
	GIVE_COPIES,
	GIVE_LEAVES,
	GIVE_ZEROES,
	GIVE_BACKWARDS,
	GIVE_SAYS_ALL,
	GIVE_OVERWRITES,
	GIVE_PRESENT_LOSES,
	GIVE_GONE_LOSES,
	GIVE_GONE_OK,
	NOT_REENTRANT,
	RENEW_NOTHING,
	CLOSE_LATE,
	PROTECT_NONE, /* from here on over a port that sees writes, this one without a fault */
	PROTECT_NOTHING,
	PROTECT_FIRST_ONLY,
	PROTECT_TOO_MUCH,
	PROTECT_DROPS,
	PROTECT_FILLS,
	PROTECT_UNWATCHED_OK,
	UNPROTECT_TOO_MUCH,
	UNPROTECT_SPOILS,
	UNPROTECT_QUIET,
	SUPPLY_OPEN,
	ZERO_OPEN,
	FAULTS
};

static const char *const names[FAULTS] = {
	[NONE] = "none",
	[EMPTY_SLOT] = "a slot that is empty",
	[CAPS_WRITES] = "a port that claims to see writes",
	[CAPS_NO_READS] = "a port that denies to see reads",
	[WATCH_NOTHING] = "a watch that does nothing",
	[WATCH_ONCE] = "a range that cannot be watched again",
	[WATCH_OTHER] = "a watch of other memory that says all is well",
	[WATCH_HALF] = "a watch that fails and watches a half",
	[WATCH_RIVAL_EINVAL] = "a wrong error for memory that somebody else watches",
	[UNWATCH_NOTHING] = "an unwatch that does nothing",
	[UNWATCH_TOO_MUCH] = "an unwatch of one page too much",
	[UNWATCH_DROPS] = "an unwatch that drops what is present",
	[SUPPLY_LOST] = "a supply that does nothing",
	[SUPPLY_CUT] = "a supply without the last line",
	[SUPPLY_OVERWRITES] = "a supply over a page that is present",
	[SUPPLY_PRESENT_OK] = "a supply that says that it did what it did not",
	[SUPPLY_QUIET] = "a supply that does not wake",
	[SUPPLY_GONE_EINVAL] = "a wrong error for a page that is gone",
	[SUPPLY_FIRST_ONLY] = "a supply of the first page of a run that counts all",
	[SUPPLY_SHARES_BUFFER] = "a supply through a buffer that threads share",
	[ZERO_OVERWRITES] = "zeroes over a page that is present",
	[ZERO_TAKES_MEMORY] = "zeroes that take memory",
	[PRESENT_QUIET] = "a refusal because the page is present that does not wake",
	[GONE_QUIET] = "a refusal because the page is gone that does not wake",
	[WAKE_NOTHING] = "a wake that does nothing",
	[WAKE_SUPPLIES] = "a wake that makes the page present",
	[SCAN_OFF_BY_ONE] = "present: ranges that are a page too long",
	[SCAN_BACKWARDS] = "present: descending order",
	[SCAN_GOES_ON] = "present: goes on where it is told to stop",
	[SCAN_STOP_IS_ZERO] = "present: does not say that it was stopped",
	[SCAN_FIRST_BATCH] = "present: reports 64 ranges at most",
	[SCAN_BEYOND] = "present: looks beyond the range",
	[TAKE_COPIES] = "a take that copies and then drops",
	[TAKE_LEAVES] = "a take that leaves the page present",
	[TAKE_EMPTIES] = "a take that loses the content",
	[TAKE_SAYS_ALL] = "a take that counts more than it took",
	[TAKE_OVER_HOLES] = "a take that counts holes",
	[TAKE_ABSENT_ZERO] = "a take of an absent page that makes it zero",
	[TAKE_ABSENT_EFAULT] = "a wrong error for an absent page",
	[TAKE_TOUCHES] = "a take that touches the page",
	[TAKE_READONLY_FAILS] = "a take that cannot take what is not writable",
	[TAKE_COPIES_BUSY] = "a take that copies what cannot be moved",
	[TAKE_BUSY_EINVAL] = "a wrong error for a page that the kernel holds",
	[TAKE_SHARED_BUSY] = "a take that cannot take what a fork has shared",
	[GIVE_QUIET] = "a give that does not wake",
	[GIVE_COPIES] = "a give that copies",
	[GIVE_LEAVES] = "a give that leaves the page at staging",
	[GIVE_ZEROES] = "a give that loses the content",
	[GIVE_BACKWARDS] = "a give of a run in the wrong order",
	[GIVE_SAYS_ALL] = "a give that counts more than it gave",
	[GIVE_OVERWRITES] = "a give over a page that is present",
	[GIVE_PRESENT_LOSES] = "a give that is refused and drops the page",
	[GIVE_GONE_LOSES] = "a give to memory that is gone that drops the page",
	[GIVE_GONE_OK] = "a give to memory that is gone that says all is well",
	[NOT_REENTRANT] = "slots that cannot interrupt each other",
	[RENEW_NOTHING] = "a child that keeps its parent's port",
	[CLOSE_LATE] = "a close that keeps watching",
	[PROTECT_NONE] = "none, where writes are seen",
	[PROTECT_NOTHING] = "a protect that does nothing",
	[PROTECT_FIRST_ONLY] = "a protect of the first page of a run",
	[PROTECT_TOO_MUCH] = "a protect of one page too much",
	[PROTECT_DROPS] = "a protect that loses the content",
	[PROTECT_FILLS] = "a protect that makes absent pages present",
	[PROTECT_UNWATCHED_OK] = "a protect of what is not watched that says all is well",
	[UNPROTECT_TOO_MUCH] = "an unprotect of one page too much",
	[UNPROTECT_SPOILS] = "an unprotect that changes the content",
	[UNPROTECT_QUIET] = "an unprotect that does not wake",
	[SUPPLY_OPEN] = "a supply that lets writes through",
	[ZERO_OPEN] = "a supply of zeroes that lets writes through",
};

struct planted {
	struct lh_port port;
	struct lh_port *below;
	uintptr_t watched[32];
	unsigned watches;
};

static enum fault planted_fault;
static __thread bool quiet;       /* the system calls that follow must not wake */
static __thread bool inside;      /* of a slot, of this thread */
static __thread long last_answer; /* of the kernel to a request of the port's */

static bool is_fault(enum fault fault)
{
	return planted_fault == fault;
}

static bool has_none(enum fault fault)
{
	return fault == NONE || fault == PROTECT_NONE;
}

static struct planted *of(struct lh_port *port)
{
	return (struct planted *)port;
}

static void drop(uintptr_t address)
{
	if (madvise((void *)address, LH_PAGE_SIZE, MADV_DONTNEED) != 0)
		abort();
}

static bool is_mapped_and_present(uintptr_t address)
{
	return suite_present((const void *)address);
}

/* ---- system calls of the port below ---- */

static void hush(unsigned long request, long argument)
{
	if (request == UFFDIO_COPY)
		((struct uffdio_copy *)argument)->mode |= UFFDIO_COPY_MODE_DONTWAKE;
	if (request == UFFDIO_ZEROPAGE)
		((struct uffdio_zeropage *)argument)->mode |= UFFDIO_ZEROPAGE_MODE_DONTWAKE;
	if (request == UFFDIO_MOVE)
		((struct uffdio_move *)argument)->mode |= UFFDIO_MOVE_MODE_DONTWAKE;
	if (request == UFFDIO_WRITEPROTECT)
		((struct uffdio_writeprotect *)argument)->mode |= UFFDIO_WRITEPROTECT_MODE_DONTWAKE;
}

static bool is_hushed(void)
{
	return (is_fault(PRESENT_QUIET) && last_answer == -EEXIST) ||
	       (is_fault(GONE_QUIET) && last_answer == -ENOENT);
}

static long planted_call(void *context, long nr, const long argument[6])
{
	long result;

	if (nr == SYS_ioctl && (unsigned long)argument[1] == UFFDIO_WAKE && is_hushed())
		return 0;
	if (nr == SYS_madvise && argument[2] == 23 && is_fault(TAKE_SHARED_BUSY)) /* MADV_POPULATE_WRITE */
		return -EFAULT;
	if (nr == SYS_pread64 && is_fault(TAKE_READONLY_FAILS))
		return -EIO;
	if (nr == SYS_ioctl && quiet)
		hush((unsigned long)argument[1], argument[2]);
	result = lh__sys_default.call(context, nr, argument);
	last_answer = result;
	return result;
}

static void *planted_alloc(void *context, size_t size)
{
	return lh__sys_default.alloc(context, size);
}

static void planted_free(void *context, void *pointer, size_t size)
{
	lh__sys_default.free(context, pointer, size);
}

static const struct lh_sys planted_sys = {
	.call = planted_call,
	.alloc = planted_alloc,
	.free = planted_free,
};

/* ---- the slots ---- */

static bool is_second(struct planted *planted, uintptr_t start)
{
	for (unsigned i = 0; i < planted->watches; i++)
		if (planted->watched[i] == start)
			return true;
	planted->watched[planted->watches++ % 32] = start;
	return false;
}

static int planted_watch(struct lh_port *port, uintptr_t start, size_t size)
{
	struct lh_port *below = of(port)->below;
	int result;

	if (is_fault(WATCH_NOTHING))
		return 0;
	if (is_fault(WATCH_ONCE) && is_second(of(port), start))
		return -EBUSY;
	result = below->ops->watch(below, start, size);
	if (result == -EINVAL && is_fault(WATCH_HALF))
		(void)!below->ops->watch(below, start, size / 2);
	if (result == -EINVAL && is_fault(WATCH_OTHER))
		return 0;
	return result == -EBUSY && is_fault(WATCH_RIVAL_EINVAL) ? -EINVAL : result;
}

static int planted_unwatch(struct lh_port *port, uintptr_t start, size_t size)
{
	struct lh_port *below = of(port)->below;

	if (is_fault(UNWATCH_NOTHING))
		return 0;
	for (uintptr_t at = start; at < start + size && is_fault(UNWATCH_DROPS); at += LH_PAGE_SIZE)
		drop(at);
	return below->ops->unwatch(below, start, size + (is_fault(UNWATCH_TOO_MUCH) ? LH_PAGE_SIZE : 0));
}

/* The content that is really supplied. */
static const void *spoilt(const void *content, size_t pages, unsigned char *copy)
{
	static unsigned char shared[SUITE_BUFFER * LH_PAGE_SIZE];

	if (is_fault(SUPPLY_CUT)) {
		memcpy(copy, content, bytes(pages));
		memset(copy + bytes(pages) - LH_LINE_SIZE, 0, LH_LINE_SIZE);
		return copy;
	}
	if (is_fault(SUPPLY_SHARES_BUFFER)) {
		memcpy(shared, content, bytes(pages));
		sched_yield();
		return shared;
	}
	return content;
}

static long planted_supply(struct lh_port *port, uintptr_t address, const void *content, size_t pages)
{
	struct lh_port *below = of(port)->below;
	unsigned char copy[SUITE_BUFFER * LH_PAGE_SIZE];
	const void *given = spoilt(content, pages, copy);
	long result;

	if (is_fault(SUPPLY_LOST))
		return (long)pages;
	if (is_fault(SUPPLY_OVERWRITES) && is_mapped_and_present(address))
		drop(address);
	quiet = is_fault(SUPPLY_QUIET);
	result = below->ops->supply(below, address, given, is_fault(SUPPLY_FIRST_ONLY) ? 1 : pages);
	quiet = false;
	if (result > 0 && is_fault(SUPPLY_OPEN))
		(void)!below->ops->unprotect(below, address, (size_t)result);
	if (result == 1 && is_fault(SUPPLY_FIRST_ONLY))
		return (long)pages;
	if (result == -EEXIST && is_fault(SUPPLY_PRESENT_OK))
		return (long)pages;
	return result == -ENOENT && is_fault(SUPPLY_GONE_EINVAL) ? -EINVAL : result;
}

static long planted_zero(struct lh_port *port, uintptr_t address, size_t pages)
{
	static const unsigned char zeroes[LH_PAGE_SIZE];
	struct lh_port *below = of(port)->below;
	long result;

	if (is_fault(ZERO_OVERWRITES) && is_mapped_and_present(address))
		drop(address);
	if (is_fault(ZERO_TAKES_MEMORY))
		return below->ops->supply(below, address, zeroes, 1);
	result = below->ops->supply_zero(below, address, pages);
	if (result > 0 && is_fault(ZERO_OPEN))
		(void)!below->ops->unprotect(below, address, (size_t)result);
	return result;
}

/* What must not be done: what is written between the reading and the dropping is lost. */
static long copy_and_drop(struct lh_port *below, uintptr_t from, uintptr_t to)
{
	unsigned char content[LH_PAGE_SIZE];
	int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	long result = pread(memory, content, sizeof content, (off_t)from);

	close(memory);
	if (result != sizeof content)
		return -ENOENT;
	sched_yield();
	result = below->ops->supply(below, to, content, 1);
	if (result == 1)
		drop(from);
	return result;
}

static long take_over_holes(struct lh_port *below, uintptr_t address, uintptr_t staging, size_t pages)
{
	long first = below->ops->take(below, address, staging, 1);

	for (size_t i = 1; i < pages && first == 1; i++)
		(void)!below->ops->take(below, address + bytes(i), staging + bytes(i), 1);
	return first == 1 ? (long)pages : first;
}

static long spoil_taken(struct lh_port *below, uintptr_t address, uintptr_t staging, size_t pages,
                        long result)
{
	if (result > 0 && is_fault(TAKE_LEAVES))
		(void)!below->ops->supply(below, address, (const void *)staging, 1);
	if (result > 0 && is_fault(TAKE_EMPTIES))
		memset((void *)staging, 0, LH_PAGE_SIZE);
	if (result > 0 && is_fault(TAKE_SAYS_ALL))
		return (long)pages;
	if (result == -ENOENT && is_fault(TAKE_ABSENT_ZERO))
		return below->ops->supply_zero(below, staging, 1);
	if (result == -ENOENT && is_fault(TAKE_ABSENT_EFAULT))
		return -EFAULT;
	if (result == -EBUSY && is_fault(TAKE_COPIES_BUSY))
		return copy_and_drop(below, address, staging);
	return result == -EBUSY && is_fault(TAKE_BUSY_EINVAL) ? -EINVAL : result;
}

static long planted_take(struct lh_port *port, uintptr_t address, uintptr_t staging, size_t pages)
{
	struct lh_port *below = of(port)->below;
	bool again = inside;
	long result;

	if (again && is_fault(NOT_REENTRANT))
		return -EDEADLK;
	if (is_fault(TAKE_COPIES) && is_mapped_and_present(address))
		return copy_and_drop(below, address, staging);
	if (is_fault(TAKE_OVER_HOLES))
		return take_over_holes(below, address, staging, pages);
	if (is_fault(TAKE_TOUCHES))
		(void)*(volatile unsigned char *)address;
	inside = true;
	result = below->ops->take(below, address, staging, pages);
	inside = again;
	return spoil_taken(below, address, staging, pages, result);
}

static long give_backwards(struct lh_port *below, uintptr_t staging, uintptr_t address, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		if (below->ops->give(below, staging + bytes(i), address + bytes(pages - 1 - i), 1) != 1)
			return i == 0 ? -EIO : (long)i;
	return (long)pages;
}

static long spoil_given(struct lh_port *below, uintptr_t staging, uintptr_t address, size_t pages,
                        long result)
{
	if (result > 0 && is_fault(GIVE_LEAVES))
		(void)!below->ops->supply(below, staging, (const void *)address, 1);
	if (result > 0 && is_fault(GIVE_SAYS_ALL))
		return (long)pages;
	if ((result == -EEXIST && is_fault(GIVE_PRESENT_LOSES)) ||
	    (result == -ENOENT && is_fault(GIVE_GONE_LOSES)))
		drop(staging);
	return result == -ENOENT && is_fault(GIVE_GONE_OK) ? 1 : result;
}

static long planted_give(struct lh_port *port, uintptr_t staging, uintptr_t address, size_t pages)
{
	struct lh_port *below = of(port)->below;
	long result;

	if (is_fault(GIVE_OVERWRITES) && is_mapped_and_present(address))
		drop(address);
	if (is_fault(GIVE_COPIES))
		return copy_and_drop(below, staging, address);
	if (is_fault(GIVE_ZEROES))
		memset((void *)staging, 0, LH_PAGE_SIZE);
	if (is_fault(GIVE_BACKWARDS) && pages > 1)
		return give_backwards(below, staging, address, pages);
	quiet = is_fault(GIVE_QUIET);
	result = below->ops->give(below, staging, address, pages);
	quiet = false;
	return spoil_given(below, staging, address, pages, result);
}

static void planted_wake(struct lh_port *port, uintptr_t address)
{
	struct lh_port *below = of(port)->below;

	if (is_fault(WAKE_NOTHING))
		return;
	if (is_fault(WAKE_SUPPLIES))
		(void)!below->ops->supply_zero(below, address, 1);
	below->ops->wake(below, address);
}

struct passed {
	lh_port_present *report;
	void *context;
	unsigned n;
	struct lh_range {
		uintptr_t start, end;
	} range[SCAN_PAGES];
};

static int pass(void *context, uintptr_t start, uintptr_t end)
{
	struct passed *passed = context;

	if (passed->n < SCAN_PAGES)
		passed->range[passed->n++] = (struct lh_range){ start, end };
	return 0;
}

/* The fault is in the order, the number or the length of what is reported. */
static int report_all(struct passed *passed)
{
	for (unsigned i = 0; i < passed->n; i++) {
		struct lh_range *range = &passed->range[is_fault(SCAN_BACKWARDS) ? passed->n - 1 - i : i];
		int stop = passed->report(passed->context, range->start,
		                          range->end + (is_fault(SCAN_OFF_BY_ONE) ? LH_PAGE_SIZE : 0));

		if (stop && !is_fault(SCAN_GOES_ON))
			return is_fault(SCAN_STOP_IS_ZERO) ? 0 : stop;
		if (is_fault(SCAN_FIRST_BATCH) && i == 63)
			return 0;
	}
	return 0;
}

static int planted_present(struct lh_port *port, uintptr_t start, uintptr_t end, lh_port_present *report,
                           void *context)
{
	struct passed passed = { .report = report, .context = context };
	struct lh_port *below = of(port)->below;
	int result = below->ops->present(below, start, end + (is_fault(SCAN_BEYOND) ? LH_PAGE_SIZE : 0), pass,
	                                 &passed);

	return result < 0 ? result : report_all(&passed);
}

/* Long after the case has lost its patience; without this its threads would never end. */
static void *close_late(void *below)
{
	usleep(2 * PATIENCE_MS * 1000);
	((struct lh_port *)below)->ops->close(below);
	return NULL;
}

static void planted_close(struct lh_port *port)
{
	struct lh_port *below = of(port)->below;
	pthread_t thread;

	free(port);
	if (!is_fault(CLOSE_LATE))
		below->ops->close(below);
	else if (pthread_create(&thread, NULL, close_late, below) != 0 || pthread_detach(thread) != 0)
		abort();
}

static int planted_protect(struct lh_port *port, uintptr_t address, size_t pages)
{
	struct lh_port *below = of(port)->below;
	size_t n = is_fault(PROTECT_FIRST_ONLY) ? 1 : pages + is_fault(PROTECT_TOO_MUCH);
	int result;

	if (is_fault(PROTECT_NOTHING))
		return 0;
	if (is_fault(PROTECT_DROPS) && is_mapped_and_present(address))
		drop(address);
	if (is_fault(PROTECT_FILLS))
		(void)!below->ops->supply_zero(below, address, 1);
	result = below->ops->protect(below, address, n);
	return result == -ENOENT && is_fault(PROTECT_UNWATCHED_OK) ? 0 : result;
}

static int planted_unprotect(struct lh_port *port, uintptr_t address, size_t pages)
{
	struct lh_port *below = of(port)->below;
	int result;

	quiet = is_fault(UNPROTECT_QUIET);
	result = below->ops->unprotect(below, address, pages + is_fault(UNPROTECT_TOO_MUCH));
	quiet = false;
	if (result == 0 && is_fault(UNPROTECT_SPOILS) && is_mapped_and_present(address))
		*(volatile unsigned char *)(address + 4000) ^= 1;
	return result;
}

static const struct lh_port_ops planted_ops = {
	.name = "planted",
	.watch = planted_watch,
	.unwatch = planted_unwatch,
	.supply = planted_supply,
	.supply_zero = planted_zero,
	.take = planted_take,
	.give = planted_give,
	.protect = planted_protect,
	.unprotect = planted_unprotect,
	.wake = planted_wake,
	.present = planted_present,
	.close = planted_close,
};

static struct lh_port *planted_wrap(struct lh_port *below)
{
	static struct lh_port_ops ops;
	struct planted *planted = calloc(1, sizeof *planted);

	if (!planted)
		abort();
	ops = planted_ops;
	if (is_fault(EMPTY_SLOT))
		ops.wake = NULL;
	planted->port = (struct lh_port){ .ops = &ops, .sys = below->sys, .caps = below->caps };
	planted->port.caps.sees_writes |= is_fault(CAPS_WRITES);
	planted->port.caps.sees_reads &= !is_fault(CAPS_NO_READS);
	planted->below = below;
	return &planted->port;
}

/* ---- running the suite over them ---- */

/* What the process of a fault tells: the case that runs, and at the end the one that failed, or -1. */
struct verdict {
	volatile int running;
	volatile int seen_by;
	bool ended;
};

static void run_suite(enum fault fault, enum lh_engine engine, const struct suite_case *only,
                      struct verdict *verdict)
{
	struct over_page over = {
		.options = { .engine = engine, .device = -1, .protects = fault >= PROTECT_NONE },
		.sys = &planted_sys,
		.wrap = planted_wrap,
		.never_renew = fault == RENEW_NOTHING,
	};
	struct port_factory factory = over_page(&over, "planted");

	planted_fault = fault;
	factory.rounds = 2000;
	factory.patience_ms = has_none(fault) ? 0 : PATIENCE_MS;
	factory.stays = over.options.protects;
	if (only)
		verdict->seen_by = suite_run(&factory, only, NULL) ? (int)(only - suite_cases) : -1;
	else
		verdict->seen_by = port_conformance_catches(&factory, &verdict->running);
	verdict->ended = true;
}

/* Runs it in a process of its own. One that hangs is ended: that too has been seen. */
static int seen_by(enum fault fault, enum lh_engine engine, const struct suite_case *only)
{
	struct verdict *verdict =
		mmap(NULL, sizeof *verdict, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = 0, result;
	pid_t pid;

	if (verdict == MAP_FAILED)
		abort();
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		alarm(has_none(fault) ? 50 : 10);
		run_suite(fault, engine, only, verdict);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		abort();
	if (!verdict->ended)
		printf("# ended with status 0x%x\n", (unsigned)status);
	result = verdict->ended ? verdict->seen_by : verdict->running;
	munmap(verdict, sizeof *verdict);
	return result;
}

/* Which page of memory it is shows only to some users. */
static bool can_be_seen(enum fault fault)
{
	return (fault != ZERO_TAKES_MEMORY && fault != GIVE_COPIES) || suite_frame(&fault) != 0;
}

static void suite_sees(enum fault fault)
{
	int at = can_be_seen(fault) ? seen_by(fault, LH_ENGINE_THREAD, NULL) : -1;

	if (!can_be_seen(fault))
		skip(names[fault], "the kernel tells this user no physical addresses");
	else if (has_none(fault))
		ok(at < 0 && seen_by(fault, LH_ENGINE_INLINE, NULL) < 0,
		   "the port without a fault passes: %s", names[fault]);
	else
		ok(at >= 0, "the suite sees %s: \"%s\"", names[fault], at >= 0 ? suite_cases[at].name : "");
}

/* A case that has to find the fault by itself, where another one of the suite is quicker. */
static void case_sees(enum fault fault, enum lh_engine engine, const char *name)
{
	for (size_t i = 0; i < SUITE_CASES; i++)
		if (strcmp(suite_cases[i].name, name) == 0)
			ok(seen_by(fault, engine, &suite_cases[i]) >= 0, "\"%s\" sees %s, %s", name,
			   names[fault], engine == LH_ENGINE_INLINE ? "inline" : "thread");
}

int main(void)
{
	const struct lh_page_options options = { .engine = LH_ENGINE_THREAD, .device = -1 };
	const char *lacks = over_page_lacks(&options);

	if (lacks) {
		skip("all", lacks);
		return done();
	}
	for (unsigned i = NONE; i < FAULTS; i++)
		suite_sees((enum fault)i);
	case_sees(TAKE_COPIES, LH_ENGINE_INLINE, "take: no write is lost or torn");
	case_sees(TAKE_COPIES, LH_ENGINE_THREAD, "take: no write is lost or torn");
	case_sees(TAKE_COPIES_BUSY, LH_ENGINE_INLINE, "take: nor in memory that can only be written");
	case_sees(TAKE_COPIES_BUSY, LH_ENGINE_INLINE, "take: nor in memory that can be executed");
	return done();
}
