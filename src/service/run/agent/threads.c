/*
 * threads.c - the agent's threads: one that watches the size of the program and takes pages back, and with
 * the thread engine one that answers faults, the pager.
 *
 * They are made with clone and not with pthread_create: libc neither counts them (a main thread that leaves
 * with pthread_exit must not wait for them) nor signals them (setuid in all threads), and no signal of the
 * program reaches them. They have no thread-local storage of their own, so nothing they call may use errno.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "service/run/agent/agent.h"
#include "sys/slice.h"

#define STACK ((size_t)256 << 10)
#define TICK_NS 5000000
#define ACKNOWLEDGE_NS 50000 /* a node on this machine has answered by then */
#define ROOM (UINT64_C(64) << 20)
#define FASTEST_GROWTH 8 /* bytes a nanosecond at which a program can take memory into use */
#define RESCAN_NS 500000000u
#define FAULTS 64

/* In the section from which the kernel lets system calls through: see lh__raw_syscall. */
__attribute__((section("lh_syscall"), noinline)) static int start_thread(struct lh_agent *agent,
                                                                         void (*body)(struct lh_agent *))
{
	unsigned char *stack = lh__alloc(&agent->sys, STACK);
	long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	register void (*r12)(struct lh_agent *) __asm__("r12") = body;
	register struct lh_agent *r13 __asm__("r13") = agent;
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;
	long result;

	if (!stack)
		return -ENOMEM;
	/* The child comes out of the system call on its new stack, with body and agent in registers. */
	__asm__ volatile("syscall\n\t"
	                 "test %%rax, %%rax\n\t"
	                 "jnz 1f\n\t"
	                 "xor %%ebp, %%ebp\n\t"
	                 "mov %%r13, %%rdi\n\t"
	                 "call *%%r12\n\t"
	                 "xor %%edi, %%edi\n\t"
	                 "mov $60, %%eax\n\t"
	                 "syscall\n\t"
	                 "ud2\n"
	                 "1:"
	                 : "=a"(result)
	                 : "a"(SYS_clone), "D"(flags), "S"(stack + STACK), "d"(0), "r"(r10), "r"(r8),
	                   "r"(r12), "r"(r13)
	                 : "rcx", "r11", "memory");
	return result < 0 ? (int)result : 0;
}

/* ---- the size of the program ---- */

/*
 * The words of statm: pages mapped, in memory, of these shared or of files, text, 0, private writable or
 * stack, 0.
 */
static void read_statm(struct lh_agent *agent, uint64_t word[7])
{
	char text[160];
	long n = LH_SYS(&agent->sys, SYS_pread64, agent->statm, text, sizeof text, 0);
	int i = 0;

	memset(word, 0, 7 * sizeof word[0]);
	for (long at = 0; at < n && i < 7; at++) {
		if (text[at] >= '0' && text[at] <= '9')
			word[i] = word[i] * 10 + (uint64_t)(text[at] - '0');
		else
			i++;
	}
}

static uint64_t anonymous_pages(struct lh_agent *agent)
{
	uint64_t word[7];

	read_statm(agent, word);
	return word[1] > word[2] ? word[1] - word[2] : 0;
}

uint64_t lh__agent_granted(struct lh_agent *agent)
{
	uint64_t word[7], stacks = __atomic_load_n(&agent->stack_bytes, __ATOMIC_RELAXED) / LH_PAGE_SIZE;

	read_statm(agent, word);
	return word[5] > agent->own_pages + stacks ? word[5] - agent->own_pages - stacks : 0;
}

static void note_peak(uint64_t *peak, uint64_t value)
{
	uint64_t old = __atomic_load_n(peak, __ATOMIC_RELAXED);

	while (value > old &&
	       !__atomic_compare_exchange_n(peak, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/*
 * The size at which watching must begin. There must be room for what the program takes into use while this
 * thread waits for a processor: 8 ms at the fastest growth, where local memory is large enough for that.
 */
static uint64_t threshold_pages(const struct lh_agent *agent)
{
	uint64_t local = agent->control->local / LH_PAGE_SIZE, room = ROOM / LH_PAGE_SIZE;

	return local - (room < local / 2 ? room : local / 2);
}

/* Sleeps as long as the program cannot have reached its limit. */
static void watch_size(struct lh_agent *agent)
{
	uint64_t limit = threshold_pages(agent);

	while (!__atomic_load_n(&agent->active, __ATOMIC_ACQUIRE)) {
		uint64_t size = anonymous_pages(agent);
		uint64_t sleep = size < limit ? (limit - size) * LH_PAGE_SIZE / FASTEST_GROWTH : 0;

		note_peak(&agent->control->peak_local, size * LH_PAGE_SIZE);
		if (size >= limit)
			return;
		sleep = sleep < 200000 ? 200000 : sleep > 100000000 ? 100000000 : sleep;
		lh__home_wait(agent->home, (int64_t)sleep);
	}
}

static void note_size(struct lh_agent *agent, uint64_t size, uint64_t backed)
{
	note_peak(&agent->control->peak_local, size * LH_PAGE_SIZE);
	note_peak(&agent->control->peak_homed, backed * LH_PAGE_SIZE);
}

void lh__agent_note_size(struct lh_agent *agent)
{
	note_size(agent, anonymous_pages(agent), lh__home_backed(agent->home));
}

/*
 * Local memory is for the homed pages, and for all else that is anonymous in the program: the agent's tables
 * and hashes, and what is not homed. The latter is measured, and the frames get the rest.
 */
static void adjust_limit(struct lh_agent *agent, uint64_t local, uint64_t *other_before)
{
	uint64_t size = anonymous_pages(agent), backed = lh__home_backed(agent->home);
	uint64_t other = size > backed ? size - backed : 0;
	uint64_t limit = local > other + local / 8 ? local - other : local / 8;

	note_size(agent, size, backed);
	if (limit != lh__home_limit(agent->home))
		lh__home_set_limit(agent->home, (uint32_t)limit);
	*other_before = other;
}

/*
 * Where all faults come from one CPU this thread runs there too, between them: taking a page away interrupts
 * every other CPU that the program runs on, and waking a thread on another CPU costs more than the page.
 * Otherwise it runs anywhere.
 */
static void follow_faults(struct lh_agent *agent, uint64_t *placed)
{
	uint64_t cpus = lh__home_fault_cpus(agent->home), mask[16];
	bool one = cpus && !(cpus & (cpus - 1));

	if (cpus == 0 || (cpus = one ? cpus : 0) == *placed)
		return;
	*placed = cpus;
	memset(mask, one ? 0 : 0xff, sizeof mask);
	if (one)
		mask[0] = cpus;
	/*
	 * -EINVAL on a machine with more than 64 CPUs where the number was folded: then it stays where it is.
	 */
	LH_SYS(&agent->sys, SYS_sched_setaffinity, 0, sizeof mask, mask);
}

static void keep_balance(struct lh_agent *agent, uint64_t local)
{
	uint64_t placed = 0, adjusted = 0, scanned = 0, other = 0, first_other = 0;

	for (;;) {
		uint64_t page = 0, now = lh__now(&agent->sys);
		int result;

		if (now - adjusted >= TICK_NS) {
			adjust_limit(agent, local, &other);
			follow_faults(agent, &placed);
			lh__agent_count(agent);
			adjusted = now;
		}
		if (other > first_other + 256 && now - scanned >= RESCAN_NS) {
			lh__space_rescan(agent);
			scanned = now;
			first_other = other;
		}
		result = lh__home_balance(agent->home, &page);
		if (result < 0)
			lh__agent_fail_page(agent, page * LH_PAGE_SIZE, result);
		if (result != LH_ROUND_MORE)
			lh__home_wait(agent->home, result == LH_ROUND_AWAITS ? ACKNOWLEDGE_NS : TICK_NS);
	}
}

static void be_ordinary(struct lh_agent *agent)
{
	struct lh_sched attributes = { .size = sizeof attributes,
		                       .policy = SCHED_OTHER,
		                       .runtime = LH_SLICE_NS };

	LH_SYS(&agent->sys, SYS_sched_setattr, 0, &attributes, 0);
}

/*
 * Until the address space is watched a program can take 10 MB into use in a millisecond, so this thread must
 * run when it wakes. Who has no right to real time does with a short slice.
 */
static void be_prompt(struct lh_agent *agent)
{
	struct lh_sched attributes = { .size = sizeof attributes, .policy = SCHED_FIFO, .priority = 1 };

	if (LH_SYS(&agent->sys, SYS_sched_setattr, 0, &attributes, 0) < 0)
		be_ordinary(agent);
}

static void balance_thread(struct lh_agent *agent)
{
	uint64_t local = agent->control->local / LH_PAGE_SIZE;

	if (!agent->active) {
		be_prompt(agent);
		watch_size(agent);
		lh__space_activate(agent);
	}
	be_ordinary(agent);
	keep_balance(agent, local);
}

/* ---- the thread engine ---- */

static void answer(struct lh_agent *agent, uintptr_t address)
{
	long result = lh__home_miss(agent->home, address);

	if (result == LH_MISS_NOT_MINE)
		result = agent->port->ops->supply_zero(agent->port, address, 1);
	if (result < 0 && result != -EEXIST && result != -ENOENT && result != -EAGAIN)
		lh__agent_fail_page(agent, address, (int)result);
}

static enum lh_pager what_next(struct lh_agent *agent)
{
	uint32_t next;

	while ((next = __atomic_load_n(&agent->pager, __ATOMIC_ACQUIRE)) == LH_PAGER_WAITS)
		lh__futex_wait(&agent->sys, &agent->pager, LH_PAGER_WAITS, -1);
	return (enum lh_pager)next;
}

static void fault_thread(struct lh_agent *agent)
{
	uintptr_t addresses[FAULTS];

	while (what_next(agent) == LH_PAGER_WORKS) {
		int n = lh__page_wait(agent->port, addresses, FAULTS, -1);

		for (int i = 0; i < n; i++)
			answer(agent, addresses[i]);
	}
}

/* With all signals blocked, which a thread has from who starts it. */
static int start_deaf(struct lh_agent *agent, void (*body)(struct lh_agent *))
{
	uint64_t all = ~UINT64_C(0), old;
	int result;

	LH_SYS(&agent->sys, SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof all);
	result = start_thread(agent, body);
	LH_SYS(&agent->sys, SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof all);
	return result;
}

int lh__agent_pager(struct lh_agent *agent, enum lh_pager first)
{
	__atomic_store_n(&agent->pager, first, __ATOMIC_RELEASE);
	return start_deaf(agent, fault_thread);
}

void lh__agent_pager_told(struct lh_agent *agent, enum lh_pager next)
{
	__atomic_store_n(&agent->pager, next, __ATOMIC_RELEASE);
	lh__futex_wake(&agent->sys, &agent->pager, 1);
}

int lh__agent_threads(struct lh_agent *agent, struct lh_error *error)
{
	int result;

	if (agent->control->local == 0)
		return 0;
	agent->statm =
		(int)LH_SYS(&agent->sys, SYS_openat, AT_FDCWD, "/proc/self/statm", O_RDONLY | O_CLOEXEC);
	agent->statm = lh__descriptor_raise(agent, agent->statm);
	if (agent->statm < 0)
		return lh__fail(error, agent->statm, "/proc/self/statm: %s", lh__errno_name(agent->statm));
	/*
	 * What is mapped at first is the agent's tables, the libraries' data, and little else; a child has
	 * its parent's.
	 */
	if (agent->own_pages == 0)
		agent->own_pages = lh__agent_granted(agent);
	result = start_deaf(agent, balance_thread);
	if (result == 0 && agent->engine == LH_ENGINE_THREAD)
		result = lh__agent_pager(agent, LH_PAGER_WORKS);
	return result < 0 ? lh__fail(error, result, "cannot start the agent's threads: %s",
	                             lh__errno_name(result))
	                  : 0;
}
