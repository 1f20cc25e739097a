/*
 * safe.c - finds a moment at which code can be changed (safe.h).
 *
 * A thread that is in the handler of a signal may be on another stack than what was interrupted. The frame
 * that the kernel made for the signal tells both: it says which stack for signals the thread has, and lies on
 * it, and has the stack pointer of before. So such a frame leads to one more stack that is looked at.
 */
#include "service/code/safe.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

/* Of a stack no more than this is looked at: where it is larger it is a heap with a stack in it. */
#define STACK_LONGEST (64ull << 20)
#define SYSCALL_LENGTH 2
#define CHUNK 8192u /* words that are read at once */
#define PAUSE_LONGEST 16000000l

/* Words of a signal's frame, from its return address on: siginfo follows behind. */
enum { FRAME_FLAGS = 1, FRAME_LINK, FRAME_STACK, FRAME_STACK_SIZE = 5, FRAME_RSP = 21, FRAME_WORDS = 23 };
#define FRAME_FLAGS_MOST 0xffu

struct stack {
	size_t thread;
	uint64_t start;
	uint64_t end; /* of the mapping that it is in, or 0 */
};

struct search {
	struct lh_remote *remote;
	const struct lh_safe_range *range;
	size_t n;
	uint64_t lowest, highest; /* of all ranges: nearly all words lie outside */
	struct lh_safe_obstacle *obstacle;
	struct lh_remote_thread *thread;
	size_t threads;
	struct stack *stack; /* one of each thread, then those of before signals: twice as many at most */
	size_t stacks;
	uint64_t *word; /* CHUNK of them */
};

static bool is_inside(const struct search *search, uint64_t address)
{
	if (address <= search->lowest || address >= search->highest)
		return false;
	for (size_t i = 0; i < search->n; i++)
		if (address > search->range[i].start && address < search->range[i].end)
			return true;
	return false;
}

static int in_the_way(const struct search *search, size_t thread, uint64_t address, bool on_stack)
{
	if (search->obstacle)
		*search->obstacle = (struct lh_safe_obstacle){ search->thread[thread].id, address, on_stack };
	return 1;
}

static int note_end(void *context, const struct lh_mapping *mapping)
{
	struct search *search = context;

	for (size_t i = 0; i < search->stacks; i++)
		if (search->stack[i].start >= mapping->start && search->stack[i].start < mapping->end)
			search->stack[i].end = mapping->end;
	return 0;
}

/* Signals' frames among the words, which stand at address. */
static void look_for_frames(struct search *search, size_t thread, uint64_t address, size_t words)
{
	for (size_t i = 0; i + FRAME_WORDS <= words; i++) {
		const uint64_t *frame = search->word + i;
		uint64_t offset = address + i * 8 - frame[FRAME_STACK];

		if (frame[FRAME_FLAGS] > FRAME_FLAGS_MOST || frame[FRAME_LINK] != 0 ||
		    frame[FRAME_STACK_SIZE] > STACK_LONGEST || offset >= frame[FRAME_STACK_SIZE] ||
		    search->stacks >= 2 * search->threads ||
		    frame[FRAME_RSP] - frame[FRAME_STACK] < frame[FRAME_STACK_SIZE])
			continue;
		search->stack[search->stacks++] = (struct stack){ thread, frame[FRAME_RSP], 0 };
	}
}

static int look_at_stack(struct search *search, const struct stack *stack)
{
	uint64_t at = stack->start & ~7ull, end = stack->end;
	size_t thread = stack->thread; /* the stack is one of an array that grows */

	if (end > at + STACK_LONGEST)
		end = at + STACK_LONGEST;
	while (at < end) {
		size_t words = end - at < CHUNK * 8 ? (size_t)(end - at) / 8 : CHUNK;
		int result;

		/* A page of a mapping that cannot be read (a file that was cut) holds no address. */
		result = lh__remote_read(search->remote, at, search->word, words * 8);
		if (result == -EFAULT)
			return 0;
		if (result < 0)
			return result;
		for (size_t i = 0; i < words; i++)
			if (is_inside(search, search->word[i]))
				return in_the_way(search, thread, search->word[i], true);
		look_for_frames(search, thread, at, words);
		at += words * 8;
	}
	return 0;
}

/* All stacks, and those that they lead to. */
static int look_at_stacks(struct search *search)
{
	int result = 0;

	for (size_t i = 0, known = 0; result == 0 && i < search->stacks; i++) {
		if (i >= known) {
			known = search->stacks;
			result = lh__mappings(lh__remote_process(search->remote), note_end, search);
		}
		if (result == 0)
			result = look_at_stack(search, &search->stack[i]);
	}
	return result;
}

static int look(struct search *search)
{
	for (size_t i = 0; i < search->threads; i++) {
		const struct user_regs_struct *registers = &search->thread[i].registers;

		if (is_inside(search, registers->rip))
			return in_the_way(search, i, registers->rip, false);
		/* A system call that has been interrupted is begun again. */
		if ((int64_t)registers->orig_rax >= 0 && is_inside(search, registers->rip - SYSCALL_LENGTH))
			return in_the_way(search, i, registers->rip - SYSCALL_LENGTH, false);
		search->stack[search->stacks++] = (struct stack){ i, registers->rsp, 0 };
	}
	return look_at_stacks(search);
}

int lh__safe_point(struct lh_remote *remote, const struct lh_safe_range *range, size_t n,
                   struct lh_safe_obstacle *obstacle)
{
	struct search search = { .remote = remote, .range = range, .n = n, .lowest = UINT64_MAX };
	int result = -ENOMEM;

	search.obstacle = obstacle;
	search.threads = lh__remote_threads(remote, &search.thread);
	for (size_t i = 0; i < n; i++) {
		search.lowest = range[i].start < search.lowest ? range[i].start : search.lowest;
		search.highest = range[i].end > search.highest ? range[i].end : search.highest;
	}
	search.stack = calloc(2 * search.threads + 1, sizeof *search.stack);
	search.word = malloc(CHUNK * sizeof *search.word);
	if (search.stack && search.word)
		result = look(&search);
	free(search.stack);
	free(search.word);
	return result;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int refuse(const struct lh_safe_obstacle *obstacle, unsigned wait_ms, struct lh_error *error)
{
	return lh__fail(error, -EBUSY, "in %u ms there was no moment to change the code: thread %d %s 0x%lx",
	                wait_ms, obstacle->thread, obstacle->on_stack ? "returns to" : "was at",
	                (unsigned long)obstacle->address);
}

/* Were it not blocked it had ended us. */
static bool is_to_end(void)
{
	sigset_t pending;

	return sigpending(&pending) == 0 &&
	       (sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) ||
	        sigismember(&pending, SIGHUP) || sigismember(&pending, SIGQUIT));
}

int lh__safe_stop(pid_t process, const struct lh_safe_range *range, size_t n, unsigned wait_ms, bool go_on,
                  struct lh_remote **out, struct lh_safe_tally *tally, struct lh_error *error)
{
	uint64_t deadline = now() + (uint64_t)wait_ms * 1000000u;
	struct timespec pause = { .tv_nsec = 250000 };

	for (;;) {
		struct lh_safe_obstacle obstacle = { 0 };
		struct lh_remote_thread *thread;
		struct lh_remote *remote;
		uint64_t stopped;
		int result = lh__remote_stop(process, wait_ms < 1000 ? 1000 : wait_ms, &remote, error);

		if (result < 0)
			return result;
		tally->attempts++;
		tally->threads = (unsigned)lh__remote_threads(remote, &thread);
		result = lh__safe_point(remote, range, n, &obstacle);
		if (result == 0) {
			*out = remote;
			return 0;
		}
		stopped = lh__remote_release(remote);
		tally->stopped_ns = stopped > tally->stopped_ns ? stopped : tally->stopped_ns;
		if (result < 0)
			return lh__fail(error, result, "process %d: its stacks cannot be read (%s)", process,
			                lh__errno_name(result));
		if (now() >= deadline)
			return refuse(&obstacle, wait_ms, error);
		if (!go_on && is_to_end())
			return lh__fail(error, -EINTR,
			                "a signal has come, and there was no moment yet to change the code");
		nanosleep(&pause, NULL);
		pause.tv_nsec = pause.tv_nsec < PAUSE_LONGEST ? pause.tv_nsec * 2 : PAUSE_LONGEST;
	}
}
