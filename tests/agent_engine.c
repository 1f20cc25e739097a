/*
 * agent_engine.c - a process changes its engine: what other threads and system calls meet in the very moment
 * in which a range is watched by nobody, and what is left when any call that the change makes fails.
 *
 * The program is its own agent here. All calls of the change go through a table, which looks around after
 * each that unwatches, makes single ones fail, or lets other threads run then.
 */
/* timeout: 120 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "home/internal.h"
#include "port/page/uapi.h"
#include "service/run/agent/agent.h"
#include "tap.h"

#define PAGE ((size_t)LH_PAGE_SIZE)
#define WORDS (PAGE / 8)
#define PAGES 1024u
#define LOCAL_PAGES 256u
#define LOCKED_FROM 300u /* pages that are read-only, and then some that may not be touched */
#define CLOSED_FROM 400u
#define OPEN_FROM 450u
#define HAMMERS 3u

static struct lh_agent *agent;
static struct lh_run_control control;
static struct lh_memory_pool *pool;
static struct lh_sys table;
static uint64_t *region, *second; /* two ranges that are watched */
static __thread sigjmp_buf *volatile probing;
static __thread int probed;                 /* the si_code that a probe met */
static bool looks, stretches;               /* what the table does after a range was unwatched */
static bool hides = true;                   /* false: planted */
static bool late;                           /* SIGSEGV is answered when the change has ended */
static unsigned fails_at, seen;             /* the nth call of the change fails */
static unsigned met_hidden, hidden_touches; /* SIGSEGVs that came, and that were answered */
static bool begun;
static pthread_t pager;
static bool has_pager;

/* ---- what the agent has besides ---- */

void lh__space_want(uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64])
{
	bitmap[0] |= 2;
}
void lh__descriptors_want(uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64])
{
	bitmap[0] |= 4;
}
void lh__buffers_want(uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64], bool in_line)
{
	bitmap[0] |= in_line ? 16 : 8;
}
static uint64_t wanted;
void lh__intercept_want(const uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64])
{
	wanted = bitmap[0];
}
void lh__agent_fail(struct lh_agent *self, const char *text)
{
	static const char line[] = "# the agent stopped the program\n";

	(void)self;
	(void)text;
	if (write(1, line, sizeof line - 1) < 0)
		_exit(124);
	_exit(125);
}

static void *page_thread(void *unused)
{
	uintptr_t address[8];
	uint32_t next;

	while ((next = __atomic_load_n(&agent->pager, __ATOMIC_ACQUIRE)) == LH_PAGER_WAITS)
		lh__futex_wait(&lh__sys_default, &agent->pager, LH_PAGER_WAITS, -1);
	while (__atomic_load_n(&agent->pager, __ATOMIC_ACQUIRE) == LH_PAGER_WORKS) {
		int n = lh__page_wait(agent->port, address, 8, 20);

		for (int i = 0; i < n; i++)
			if (lh__home_miss(agent->home, address[i]) < 0)
				_exit(97);
	}
	return unused;
}

int lh__agent_pager(struct lh_agent *self, enum lh_pager first)
{
	if (fails_at && ++seen == fails_at)
		return -EAGAIN;
	self->pager = first;
	has_pager = pthread_create(&pager, NULL, page_thread, NULL) == 0;
	return has_pager ? 0 : -EAGAIN;
}

void lh__agent_pager_told(struct lh_agent *self, enum lh_pager next)
{
	__atomic_store_n(&self->pager, next, __ATOMIC_RELEASE);
	lh__futex_wake(&lh__sys_default, &self->pager, 1);
	if (next == LH_PAGER_ENDS && has_pager)
		pthread_join(pager, NULL);
	has_pager = next == LH_PAGER_WORKS;
}

/* ---- faults ---- */

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if (probing) {
		probed = info->si_code;
		siglongjmp(*probing, signal);
	}
	if (signal == SIGSEGV)
		__atomic_add_fetch(&met_hidden, 1, __ATOMIC_RELAXED);
	while (signal == SIGSEGV && late && __atomic_load_n(&agent->changing, __ATOMIC_SEQ_CST))
		sched_yield();
	if (signal == SIGSEGV && lh__engine_hid(agent, info)) {
		__atomic_add_fetch(&hidden_touches, 1, __ATOMIC_RELAXED);
		return;
	}
	if (signal == SIGSEGV || lh__home_miss(agent->home, (uintptr_t)info->si_addr) != 0)
		_exit(98);
}

/* What a touch of the address meets: 0 and the word, or the signal. */
static int probe(const uint64_t *address, uint64_t *word)
{
	sigjmp_buf out;
	int signal = sigsetjmp(out, 1);

	if (signal == 0) {
		probing = &out;
		*word = *(const volatile uint64_t *)address;
	}
	probing = NULL;
	return signal;
}

/* ---- content ---- */

static uint64_t word_of(const uint64_t *address)
{
	return (uintptr_t)address * 0x9e3779b97f4a7c15u | 1;
}

static bool is_closed(const uint64_t *page)
{
	return page >= region + CLOSED_FROM * WORDS && page < region + OPEN_FROM * WORDS;
}

static void fill(uint64_t *start)
{
	for (size_t i = 0; i < PAGES * WORDS; i += 64)
		start[i] = word_of(&start[i]);
}

static unsigned wrong_words(void)
{
	uint64_t *start[] = { region, second };
	unsigned wrong = 0;

	for (int s = 0; s < 2; s++)
		for (size_t i = 0; i < PAGES * WORDS; i += 64)
			if (!is_closed(&start[s][i]))
				wrong += start[s][i] != word_of(&start[s][i]);
	return wrong;
}

static void evict(void)
{
	uint64_t page;

	lh__home_set_limit(agent->home, LOCAL_PAGES / 2);
	while (lh__home_balance(agent->home, &page) > 0)
		;
	lh__home_set_limit(agent->home, LOCAL_PAGES);
}

/* Most are away, and some come back, so that what is away is in many pieces. */
static void scatter(void)
{
	evict();
	for (size_t i = 0; i < LOCKED_FROM; i += 13)
		*(volatile uint64_t *)(region + i * WORDS) = word_of(region + i * WORDS);
}

static bool is_away(const uint64_t *address)
{
	lh_entry *entry = lh__directory_find(&agent->home->directory, (uintptr_t)address / PAGE);

	return entry && lh__entry_state(*entry) >= LH_PAGE_STAGED;
}

/* ---- the table ---- */

static unsigned looked_away, looked_here, bad_looks;

/*
 * In the range that nobody watches now: pages that are away are out of everybody's reach, others are as
 * always.
 */
static void look_at(uint64_t *page, int memory, const int *ends)
{
	uint64_t word = 0, through = 0;
	bool away = is_away(page), closed = is_closed(page);
	int signal = probe(page, &word);
	long piped = write(ends[1], page, 8), read_back = pread(memory, &through, 8, (off_t)(uintptr_t)page);

	if (piped == 8 && read(ends[0], &word, 8) != 8)
		bad_looks++;
	if (away) {
		bad_looks += signal != SIGSEGV || probed != (closed ? SEGV_ACCERR : SEGV_MAPERR) ||
		             piped > 0 || read_back > 0;
		looked_away++;
	} else {
		bad_looks += !closed && (signal || word != word_of(page) || through != word);
		looked_here++;
	}
}

static void look_around(uintptr_t start, uintptr_t end)
{
	int memory = open("/proc/self/mem", O_RDONLY), ends[2];

	if (memory < 0 || pipe(ends) < 0)
		bad_looks++;
	for (uintptr_t at = start; at < end && (uint64_t *)start != (uint64_t *)agent->home->staging;
	     at += PAGE)
		look_at((uint64_t *)at, memory, ends);
	close(memory), close(ends[0]), close(ends[1]);
}

static bool is_of_change(long nr, const long a[6])
{
	return nr == SYS_userfaultfd ||
	       (nr == SYS_ioctl && (a[1] == (long)UFFDIO_API || a[1] == (long)UFFDIO_REGISTER ||
	                            a[1] == (long)UFFDIO_UNREGISTER)) ||
	       (nr == SYS_madvise && a[2] == MADV_GUARD_INSTALL);
}

/*
 * Until another thread has touched what is hidden; they begin only now, else all of them would wait for the
 * change.
 */
static void let_touch(void)
{
	__atomic_store_n(&begun, true, __ATOMIC_RELEASE);
	for (int i = 0; i < 1000000 && __atomic_load_n(&met_hidden, __ATOMIC_RELAXED) == 0; i++)
		sched_yield();
}

static long call(void *context, long nr, const long a[6])
{
	bool unwatches = nr == SYS_ioctl && a[1] == (long)UFFDIO_UNREGISTER;
	const struct uffdio_range *range = (const void *)a[2];
	long result;

	if (!hides && nr == SYS_madvise && a[2] == MADV_GUARD_INSTALL)
		return 0;
	if (fails_at && is_of_change(nr, a) && ++seen == fails_at)
		return -ENOMEM;
	result = lh__sys_default.call(context, nr, a);
	if (unwatches && looks)
		look_around(range->start, range->start + range->len);
	if (unwatches && stretches && range->start == (uintptr_t)region)
		let_touch();
	return result;
}

/* ---- the beginning ---- */

static bool open_home(void)
{
	struct lh_page_options page_options = { .engine = LH_ENGINE_INLINE, .device = -1 };
	struct lh_home_options options = { .policy = lh__policy_find(NULL),
		                           .frames = LOCAL_PAGES + 64,
		                           .limit = LOCAL_PAGES,
		                           .stats = &control.stats,
		                           .stall_limit_ns = 10000000000u };
	struct lh_error error = { 0 };

	agent->sys = table;
	if (lh__page_open(&table, &page_options, &agent->port, &error) < 0) {
		skip("all", error.text);
		return false;
	}
	if (lh__memory_pool_open(&lh__sys_default, 0, &pool) < 0 || lh__memory_open(pool, &agent->store) < 0)
		return ok(0, "opens the store");
	options.port = agent->port;
	options.store = agent->store;
	return lh__home_open(&table, &options, &agent->home) == 0 || ok(0, "opens the home");
}

static uint64_t *watched(void)
{
	uint64_t *start = mmap(NULL, (PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	start += WORDS;
	mprotect(start, PAGES * PAGE, PROT_READ | PROT_WRITE);
	lh__home_change_begin(agent->home);
	if (lh__home_watch(agent->home, (uintptr_t)start, (uintptr_t)start + PAGES * PAGE) < 0)
		ok(0, "watches");
	lh__home_change_end(agent->home);
	return start;
}

static bool open_all(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	table = lh__sys_default;
	table.call = call;
	agent = calloc(1, sizeof *agent);
	agent->control = &control;
	agent->engine = LH_ENGINE_INLINE;
	agent->process = getpid();
	if (!open_home())
		return false;
	region = watched();
	second = watched();
	fill(region);
	fill(second);
	scatter();
	mprotect(region + LOCKED_FROM * WORDS, (CLOSED_FROM - LOCKED_FROM) * PAGE, PROT_READ);
	mprotect(region + CLOSED_FROM * WORDS, (OPEN_FROM - CLOSED_FROM) * PAGE, PROT_NONE);
	return true;
}

/* A page that is away, in the first range and open, so that others can be told by it. */
static uint64_t *some_away(void)
{
	for (unsigned i = 0; i < LOCKED_FROM; i++)
		if (is_away(region + i * WORDS))
			return region + i * WORDS;
	return NULL;
}

static bool has_guards(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool result = madvise(page, PAGE, MADV_GUARD_INSTALL) == 0;

	munmap(page, PAGE);
	return result;
}

/* ---- the tests ---- */

static bool fails_in_kernel(const uint64_t *away)
{
	int ends[2], failed;

	if (pipe(ends) < 0)
		return false;
	failed = write(ends[1], away, 8) < 0 && errno == EFAULT;
	close(ends[0]), close(ends[1]);
	return failed;
}

static void test_guest(void)
{
	agent->process++;
	is(lh__engine_thread(agent), -ENOSYS, "a child of vfork changes nothing");
	agent->process--;
	is(agent->stays_inline, false, "and the process may do so still");
}

/* Each call that the change makes fails once. */
static void test_failures(void)
{
	unsigned n, wrong = 0, changed = 0, closed = 0;

	for (n = 1; n < 10000; n++) {
		int descriptor;

		fails_at = n;
		seen = 0;
		agent->stays_inline = false;
		if (lh__engine_thread(agent) == 0 || seen < n)
			break;
		fails_at = 0;
		changed += agent->engine != LH_ENGINE_INLINE || agent->changing || !agent->stays_inline ||
		           lh__page_engine(agent->port) != LH_ENGINE_INLINE || !fails_in_kernel(some_away());
		descriptor = dup(0);
		closed = closed ? closed : (unsigned)descriptor;
		changed += (unsigned)descriptor != closed;
		close(descriptor);
		if (n < 8 || n % 37 == 0)
			wrong += wrong_words();
		scatter();
	}
	fails_at = 0;
	ok(n > 30 && n < 10000, "a change makes %u calls that can fail", n - 1);
	is(changed, 0, "when one does, the engine is as it was, and no descriptor is left");
	is(wrong, 0, "and so is all content");
	ok(agent->engine == LH_ENGINE_THREAD, "when none does, the engine is another");
}

static void test_refused(void)
{
	fails_at = 1;
	seen = 0;
	ok(lh__engine_thread(agent) < 0, "a change that fails");
	fails_at = 0;
	is(lh__engine_thread(agent), -ENOSYS, "is not tried again");
	agent->stays_inline = false;
}

static void test_looks(void)
{
	looks = true;
	is(lh__engine_thread(agent), 0, "the engine changes");
	looks = false;
	ok(looked_away > PAGES && looked_here > 16,
	   "while a range is not watched, %u pages that are away and %u that are here are looked at",
	   looked_away, looked_here);
	is(bad_looks, 0, "no page that is away can be read; every one that is here can");
	is(wanted, 14, "calls that only buffers want are not seen any more");
	is(control.engine_changes, 1, "the change is counted");
	ok(!fails_in_kernel(some_away()), "a system call may touch what is away");
	is(lh__engine_thread(agent), 0, "a second change is none");
	is(wrong_words(), 0, "every word is right");
}

static bool stop;

static void *hammer(void *argument)
{
	uint64_t state = (uintptr_t)argument + 1, wrong = 0;

	while (!__atomic_load_n(&begun, __ATOMIC_ACQUIRE))
		sched_yield();
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		uint64_t *start =
			(state = state * 6364136223846793005u + 1442695040888963407u) >> 63 ? region : second;
		uint64_t *at = start + (state >> 33) % (LOCKED_FROM * WORDS / 64) * 64;

		wrong += *(volatile uint64_t *)at != word_of(at);
	}
	return (void *)(uintptr_t)wrong;
}

/*
 * Others touch all the time, the moment without a watch lasts, and some find the change over when they are
 * answered.
 */
static void test_touches(bool answered_late)
{
	pthread_t threads[HAMMERS];
	uintptr_t wrong = 0;

	late = answered_late;
	stretches = true;
	stop = false;
	for (uintptr_t i = 0; i < HAMMERS; i++)
		pthread_create(&threads[i], NULL, hammer, (void *)i);
	is(lh__engine_thread(agent), 0, "the engine changes while %u threads touch", HAMMERS);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < HAMMERS; i++) {
		void *result;

		pthread_join(threads[i], &result);
		wrong += (uintptr_t)result;
	}
	stretches = late = false;
	is(wrong, 0, "they see the right words");
	ok(hidden_touches > 0, "%u touches met what was hidden%s", hidden_touches,
	   answered_late ? ", and were answered late" : "");
	is(wrong_words(), 0, "every word is right");
}

/* A guard of the program's own in a watched range is the program's business, at the second try. */
static void test_own_guard(void)
{
	siginfo_t info = { .si_signo = SIGSEGV, .si_code = SEGV_MAPERR, .si_addr = region };

	memset(agent->looked_again, 0, sizeof agent->looked_again);
	is(lh__engine_hid(agent, &info), 1, "after a change a touch is repeated once");
	is(lh__engine_hid(agent, &info), 0, "and the second time it is the program's");
	info.si_code = SEGV_ACCERR;
	memset(agent->looked_again, 0, sizeof agent->looked_again);
	is(lh__engine_hid(agent, &info), 0, "a page that is protected is the program's at once");
	info = (siginfo_t){ .si_signo = SIGSEGV, .si_code = SEGV_MAPERR, .si_addr = &info };
	is(lh__engine_hid(agent, &info), 0, "so is what is not watched");
}

static void test_planted(void)
{
	hides = false;
	looks = true;
	looked_away = bad_looks = 0;
	if (lh__engine_thread(agent) < 0)
		ok(0, "changes");
	ok(bad_looks > 0, "planted: without hiding, pages that are away are read as zero");
	hides = true;
	looks = false;
}

/* Each in a process of its own, since the change has no way back. */
static int body(void (*test)(void))
{
	int before = tap__failed;

	if (open_all()) {
		test();
		if (test != test_planted) {
			lh__agent_pager_told(agent, LH_PAGER_ENDS);
			evict();
			is(lh__home_check(agent->home), 0, "the home's invariants hold");
		}
	}
	return tap__failed != before;
}

static void touches_answered(void)
{
	test_touches(false);
	test_own_guard();
}
static void touches_answered_late(void)
{
	test_touches(true);
}
static void failures(void)
{
	test_guest();
	test_refused();
	test_failures();
}

static void in_child(void (*test)(void))
{
	int report[2], status = -1;
	pid_t pid;

	fflush(stdout);
	if (pipe(report) < 0)
		return;
	pid = fork();
	if (pid == 0) {
		status = body(test);
		if (write(report[1], &tap__count, sizeof tap__count) != sizeof tap__count)
			_exit(99);
		fflush(stdout);
		_exit(status);
	}
	close(report[1]);
	if (waitpid(pid, &status, 0) != pid || read(report[0], &tap__count, sizeof tap__count) < 0)
		status = -1;
	close(report[0]);
	tap__failed += status != 0;
	if (status)
		ok(0, "ended with 0x%x", (unsigned)status);
}

int main(void)
{
	if (!has_guards()) {
		skip("all", "this kernel has no MADV_GUARD_INSTALL (Linux 6.13)");
		return done();
	}
	in_child(failures);
	in_child(test_looks);
	in_child(touches_answered);
	in_child(touches_answered_late);
	in_child(test_planted);
	return done();
}
