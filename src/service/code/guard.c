/*
 * guard.c - see outside.h. The guard's loop: what threads stop for, and what the session wants.
 *
 * Threads, forks and executions are followed by PTRACE_O_TRACE*. A child may stop before its parent's stop
 * has told of it; it waits until then. Everything that is not ours is passed on: signals as they came, stops
 * by job control with PTRACE_LISTEN, so that only SIGCONT ends them.
 *
 * The guard runs where the thread runs that stopped last: a wake-up on another processor takes ten times as
 * long.
 *
 * SIGTRAP of an INT3 cannot be blocked: the kernel then unblocks it. A mask in which everything else is
 * blocked is taken for one that had it blocked, and gets it back.
 */
#include "service/code/guard_inside.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "service/code/remote_inside.h"

#define OPTIONS                                                                                              \
	(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |            \
	 PTRACE_O_TRACEEXEC)
#define STOP_MS 5000
#define HALT_NS 2000000000ull
#define SPINS 32
#define TRAP_BIT (1ull << (SIGTRAP - 1))
/* All signals but those that cannot be blocked, libc's own two, and SIGTRAP. */
#define ALL_OTHERS (~(TRAP_BIT | 1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1) | 3ull << 31))
#define LISTEN (-1) /* instead of a signal to go on with */

/* ---- tables ---- */

static struct guard_thread **slot_of(struct guard *guard, pid_t id)
{
	struct guard_thread **slot = &guard->threads[(unsigned)id % LH_GUARD_THREADS];

	while (*slot && (*slot)->id != id)
		slot = &(*slot)->next;
	return slot;
}

static struct guard_process *process_of(struct guard *guard, pid_t id)
{
	struct guard_process *process = guard->processes;

	while (process && process->id != id)
		process = process->next;
	return process;
}

static struct guard_process *add_process(struct guard *guard, pid_t id)
{
	struct guard_process *process = calloc(1, sizeof(*process));

	if (!process)
		return NULL;
	process->id = id;
	process->memory = -1;
	process->next = guard->processes;
	guard->processes = process;
	__atomic_fetch_add(&guard->control->processes, 1, __ATOMIC_RELAXED);
	return process;
}

static void drop_process(struct guard *guard, struct guard_process *process)
{
	struct guard_process **at = &guard->processes;

	while (*at != process)
		at = &(*at)->next;
	*at = process->next;
	lh__guard_forget_places(process);
	free(process);
}

static struct guard_thread *add_thread(struct guard *guard, struct guard_process *process, pid_t id)
{
	struct guard_thread **slot = slot_of(guard, id);

	if (*slot)
		return *slot;
	*slot = calloc(1, sizeof(**slot));
	if (*slot) {
		(*slot)->id = id;
		(*slot)->process = process;
		process->threads++;
	}
	return *slot;
}

static void drop_thread(struct guard *guard, pid_t id)
{
	struct guard_thread **slot = slot_of(guard, id), *thread = *slot;

	if (!thread)
		return;
	*slot = thread->next;
	if (--thread->process->threads == 0)
		drop_process(guard, thread->process);
	free(thread);
}

/* The first thread of a process for which found is true, or NULL. */
static struct guard_thread *next_thread(struct guard *guard, const struct guard_process *process,
                                        bool (*found)(const struct guard_thread *thread))
{
	for (unsigned i = 0; i < LH_GUARD_THREADS; i++)
		for (struct guard_thread *thread = guard->threads[i]; thread; thread = thread->next)
			if (thread->process == process && found(thread))
				return thread;
	return NULL;
}

/* ---- what /proc tells ---- */

static bool status_of(pid_t id, const char *format, unsigned long *value)
{
	char path[64], line[256];
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", id);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file))
		found = sscanf(line, format, value) == 1;
	fclose(file);
	return found;
}

static pid_t group_of(pid_t thread)
{
	unsigned long group;

	return status_of(thread, "Tgid: %lu", &group) ? (pid_t)group : 0;
}

static bool has_trap(pid_t process, const char *format)
{
	unsigned long set = 0;

	return status_of(process, format, &set) && set & TRAP_BIT;
}

static char state_of(pid_t id)
{
	char path[64], line[512];
	const char *at = NULL;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", id);
	file = fopen(path, "re");
	if (file) {
		at = fgets(line, sizeof(line), file) ? strrchr(line, ')') : NULL;
		fclose(file);
	}
	return at && at[1] ? at[2] : 'X';
}

/* ---- messages ---- */

static void enqueue(struct guard *guard, const struct lh_guard_message *message)
{
	struct lh_guard_message *grown = reallocarray(guard->queue, guard->queued + 1, sizeof(*guard->queue));

	if (!grown)
		return;
	guard->queue = grown;
	grown[guard->queued++] = *message;
}

bool lh__guard_ask(struct guard *guard, struct lh_guard_message *message, int *descriptor)
{
	*descriptor = -1;
	if (!guard->alone && lh__guard_send(guard->socket, message, -1))
		guard->alone = true;
	while (!guard->alone) {
		if (lh__guard_receive(guard->socket, 0, message, descriptor))
			guard->alone = true;
		else if (message->kind == LH_GUARD_DONE)
			return true;
		else
			enqueue(guard, message);
	}
	return false;
}

/* ---- waiting and going on ---- */

static bool rest(unsigned turn, uint64_t deadline)
{
	const struct timespec nap = { 0, 50000 };

	if (turn < SPINS) {
		sched_yield();
		return true;
	}
	if (deadline && lh__remote_now() > deadline)
		return false;
	nanosleep(&nap, NULL);
	return true;
}

int lh__guard_wait(struct guard *guard, struct guard_thread *thread, uint64_t deadline, int *status)
{
	(void)guard;
	for (unsigned turn = 0;; turn++) {
		int all;
		pid_t id = waitpid(thread->id, &all, __WALL | WNOHANG);

		if (id == thread->id && WIFSTOPPED(all)) {
			*status = all >> 8;
			return 0;
		}
		/* The first thread's end is told last. */
		if (id || (turn > SPINS && strchr("ZX", state_of(thread->id))))
			return -ECHILD;
		if (!rest(turn, deadline))
			return -ETIMEDOUT;
	}
}

static void go_on(struct guard_thread *thread)
{
	if (thread->listening)
		ptrace(PTRACE_LISTEN, thread->id, NULL, NULL);
	else
		ptrace(PTRACE_CONT, thread->id, NULL, (long)thread->signal);
	thread->stopped = false;
	thread->signal = 0;
}

/* On the processor where the thread has run, which libc's rseq area tells; else we stay where we are. */
static void go_beside(struct guard *guard, const struct guard_thread *thread)
{
	struct __ptrace_rseq_configuration rseq = { 0 };
	uint32_t processor;
	cpu_set_t one;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread->id, sizeof(rseq), &rseq) < 0 ||
	    !rseq.rseq_abi_pointer || thread->process->memory < 0 ||
	    pread(thread->process->memory, &processor, sizeof(processor),
	          (off_t)rseq.rseq_abi_pointer + (off_t)sizeof(uint32_t)) != sizeof(processor) ||
	    (int)processor == guard->processor || processor >= CPU_SETSIZE)
		return;
	CPU_ZERO(&one);
	CPU_SET(processor, &one);
	if (!sched_setaffinity(0, sizeof(one), &one))
		guard->processor = (int)processor;
}

/* ---- what a stop means ---- */

static void restart_call(struct guard_thread *thread)
{
	struct user_regs_struct registers;

	if (!ptrace(PTRACE_GETREGS, thread->id, NULL, &registers) && lh__remote_restart(&registers))
		ptrace(PTRACE_SETREGS, thread->id, NULL, &registers);
}

static void block_trap_again(const struct guard_thread *thread)
{
	uint64_t blocked;

	if (ptrace(PTRACE_GETSIGMASK, thread->id, sizeof(blocked), &blocked) || blocked & TRAP_BIT ||
	    (blocked & ALL_OTHERS) != ALL_OTHERS)
		return;
	blocked |= TRAP_BIT;
	ptrace(PTRACE_SETSIGMASK, thread->id, sizeof(blocked), &blocked);
}

/*
 * A SIGTRAP that is not ours; one that the program ignores may come to us only. Before a handler gets it the
 * action is read: the first trap in the handler, which has SIGTRAP blocked, makes the kernel forget it.
 * Reading takes the thread past the signal, so it is sent once more.
 */
static int foreign_trap(struct guard *guard, struct guard_thread *thread)
{
	const struct guard_process *process = thread->process;
	bool caught = has_trap(process->id, "SigCgt: %lx");
	struct user_regs_struct registers;

	if (!caught)
		return process->ignored_trap ? 0 : SIGTRAP;
	if (ptrace(PTRACE_GETSIGINFO, thread->id, NULL, &thread->info) ||
	    ptrace(PTRACE_GETREGS, thread->id, NULL, &registers))
		return SIGTRAP;
	thread->passed = true;
	thread->in_handler = lh__guard_action(guard, thread, false) && !(thread->action[1] & SA_RESETHAND);
	thread->handler_below = registers.rsp;
	return SIGTRAP;
}

/* What the trap itself has changed of the program's signals is made as it was, as far as it can be known. */
static void mend_signals(struct guard *guard, struct guard_thread *thread, uint64_t stack)
{
	uint64_t blocked;

	if (thread->in_handler && stack >= thread->handler_below)
		thread->in_handler = false;
	if (!thread->in_handler || has_trap(thread->process->id, "SigCgt: %lx")) {
		block_trap_again(thread);
		return;
	}
	lh__guard_action(guard, thread, true);
	if (ptrace(PTRACE_GETSIGMASK, thread->id, sizeof(blocked), &blocked))
		return;
	blocked |= thread->action[1] & SA_NODEFER ? 0 : TRAP_BIT;
	ptrace(PTRACE_SETSIGMASK, thread->id, sizeof(blocked), &blocked);
}

/* The signal that the thread is to go on with. */
static int on_trap(struct guard *guard, struct guard_thread *thread)
{
	struct user_regs_struct registers;
	enum guard_trap what;
	siginfo_t info;

	if (thread->passed) {
		thread->passed = false;
		ptrace(PTRACE_SETSIGINFO, thread->id, NULL, &thread->info);
		return SIGTRAP;
	}
	if (ptrace(PTRACE_GETSIGINFO, thread->id, NULL, &info) || info.si_code != SI_KERNEL ||
	    ptrace(PTRACE_GETREGS, thread->id, NULL, &registers))
		return foreign_trap(guard, thread);
	go_beside(guard, thread);
	what = lh__guard_trap(guard, thread->process, registers.rip - 1);
	if (what == GUARD_FOREIGN)
		return foreign_trap(guard, thread);
	registers.rip--;
	if (what == GUARD_CALL)
		lh__guard_call(guard, thread, &registers);
	else
		ptrace(PTRACE_SETREGS, thread->id, NULL, &registers);
	mend_signals(guard, thread, registers.rsp);
	return 0;
}

static void remember_early(struct guard *guard, pid_t id)
{
	pid_t *grown = reallocarray(guard->early, guard->earlies + 1, sizeof(*grown));

	if (!grown)
		return;
	guard->early = grown;
	grown[guard->earlies++] = id;
}

static bool was_early(struct guard *guard, pid_t id)
{
	for (size_t i = 0; i < guard->earlies; i++)
		if (guard->early[i] == id) {
			guard->early[i] = guard->early[--guard->earlies];
			return true;
		}
	return false;
}

/* A thread has made another, or a process. */
static void on_child(struct guard *guard, struct guard_thread *parent)
{
	struct guard_process *process = parent->process;
	struct guard_thread *thread;
	unsigned long id = 0;
	pid_t group;

	ptrace(PTRACE_GETEVENTMSG, parent->id, NULL, &id);
	group = group_of((pid_t)id);
	if (group && group != process->id) {
		process = process_of(guard, group);
		if (!process) {
			process = add_process(guard, group);
			if (!process || lh__guard_copy_places(process, parent->process))
				return;
		}
	}
	thread = add_thread(guard, process, (pid_t)id);
	if (thread && was_early(guard, (pid_t)id)) {
		thread->stopped = true;
		go_on(thread);
	}
}

/* The threads that a process had before it has executed are gone, however their end is told. */
static void on_exec(struct guard *guard, struct guard_thread *thread)
{
	struct guard_process *process = thread->process;

	for (unsigned i = 0; i < LH_GUARD_THREADS; i++)
		for (struct guard_thread **at = &guard->threads[i]; *at;) {
			struct guard_thread *other = *at;

			if (other->process != process || other == thread) {
				at = &other->next;
				continue;
			}
			*at = other->next;
			process->threads--;
			free(other);
		}
	lh__guard_forget_places(process);
	process->leaving = false;
	lh__guard_arm_all(guard, process, true);
}

/* What a thread is to go on with: a signal, or LISTEN. */
static int absorb(struct guard *guard, struct guard_thread *thread, int status)
{
	int signal = status & 0x7f;

	switch (status >> 8) {
	case 0: break;
	case PTRACE_EVENT_CLONE:
	case PTRACE_EVENT_FORK:
	case PTRACE_EVENT_VFORK: on_child(guard, thread); return 0;
	case PTRACE_EVENT_EXEC: on_exec(guard, thread); return 0;
	case PTRACE_EVENT_STOP: restart_call(thread); return signal == SIGTRAP ? 0 : LISTEN;
	default: return 0;
	}
	if (signal == SIGTRAP)
		return on_trap(guard, thread);
	if (signal == SIGCONT && thread->process->swallow_continue) {
		thread->process->swallow_continue = false;
		return 0;
	}
	restart_call(thread);
	return signal;
}

static void detach(struct guard *guard, struct guard_thread *thread)
{
	ptrace(PTRACE_DETACH, thread->id, NULL, (long)thread->signal);
	drop_thread(guard, thread->id);
}

static void note_stop(struct guard *guard, struct guard_thread *thread, int status)
{
	int how = absorb(guard, thread, status);

	thread->stopped = true;
	thread->listening = how == LISTEN;
	thread->signal = how == LISTEN ? 0 : how;
}

/*
 * Whether a stopped thread has run into an INT3 of which it has not told yet: an interruption is told of
 * first. Let go of now, it would take the SIGTRAP itself and die.
 */
static bool has_trap_due(const struct guard_thread *thread)
{
	struct __ptrace_peeksiginfo_args which = { .nr = 1 };
	siginfo_t info;

	for (; ptrace(PTRACE_PEEKSIGINFO, thread->id, &which, &info) == 1; which.off++)
		if (info.si_signo == SIGTRAP && info.si_code == SI_KERNEL)
			return true;
	return false;
}

static void on_stop(struct guard *guard, pid_t id, int status)
{
	struct guard_thread *thread = *slot_of(guard, id);
	struct guard_process *process;

	if (!WIFSTOPPED(status)) {
		was_early(guard, id);
		drop_thread(guard, id);
		return;
	}
	if (!thread) {
		process = process_of(guard, group_of(id));
		if (process)
			thread = add_thread(guard, process, id);
	}
	if (!thread) {
		remember_early(guard, id);
		return;
	}
	note_stop(guard, thread, status >> 8);
	if (thread->process->leaving && !has_trap_due(thread))
		detach(guard, thread);
	else
		go_on(thread);
}

/* ---- commands ---- */

static int begin(struct guard *guard, struct lh_guard_message *message)
{
	bool was_stopped = !message->launched && state_of(message->process) == 'T';
	struct guard_process *process;
	struct lh_remote_thread *threads;
	struct lh_remote *remote;
	size_t n;
	int rc = lh__remote_stop(message->process, STOP_MS, &remote, &message->error);

	if (rc)
		return rc;
	process = add_process(guard, message->process);
	if (!process) {
		lh__remote_release(remote);
		return lh__fail(&message->error, -ENOMEM, "no memory");
	}
	process->ignored_trap = has_trap(process->id, "SigIgn: %lx");
	n = lh__remote_threads(remote, &threads);
	for (size_t i = 0; i < n; i++) {
		struct guard_thread *thread = add_thread(guard, process, threads[i].id);

		ptrace(PTRACE_SETOPTIONS, threads[i].id, NULL, OPTIONS);
		if (thread)
			thread->stopped = true;
		if (thread)
			thread->listening = was_stopped;
	}
	lh__guard_arm_all(guard, process, message->launched);
	lh__remote_abandon(remote);
	return 0;
}

static bool is_stopped(const struct guard_thread *thread)
{
	return thread->stopped;
}

static bool is_running(const struct guard_thread *thread)
{
	return !thread->stopped;
}

static bool is_due(const struct guard_thread *thread)
{
	return thread->stopped && has_trap_due(thread);
}

static int watch(struct guard *guard, struct lh_guard_message *message)
{
	struct guard_process *process;
	struct guard_thread *thread;
	int rc = begin(guard, message);

	if (rc)
		return rc;
	process = process_of(guard, message->process);
	guard->expected = 0;
	process->swallow_continue = message->launched;
	if (message->launched)
		kill(process->id, SIGCONT);
	while ((thread = next_thread(guard, process, is_stopped)))
		go_on(thread);
	return 0;
}

/* A thread whose stop is to be waited for; one with a trap due goes on, no further than to that. */
static struct guard_thread *next_to_stop(struct guard *guard, const struct guard_process *process)
{
	struct guard_thread *thread = next_thread(guard, process, is_running);

	if (thread)
		return thread;
	thread = next_thread(guard, process, is_due);
	if (thread) {
		thread->listening = false;
		go_on(thread);
	}
	return thread;
}

/* Stops all threads of a process that can be stopped in time. False: it has ended. */
static bool halt(struct guard *guard, struct guard_process *process)
{
	uint64_t deadline = lh__remote_now() + HALT_NS;
	pid_t id = process->id;
	struct guard_thread *thread;
	int status, rc = 0;

	for (unsigned i = 0; i < LH_GUARD_THREADS; i++)
		for (thread = guard->threads[i]; thread; thread = thread->next)
			if (thread->process == process && !thread->stopped)
				ptrace(PTRACE_INTERRUPT, thread->id, NULL, NULL);
	while (!rc && (thread = next_to_stop(guard, process))) {
		rc = lh__guard_wait(guard, thread, deadline, &status);
		if (!rc) {
			note_stop(guard, thread, status);
		} else if (rc == -ECHILD) {
			drop_thread(guard, thread->id);
			process = process_of(guard, id);
			if (!process)
				return false;
			rc = 0;
		}
	}
	return true;
}

static int leave(struct guard *guard, pid_t id, struct lh_error *error)
{
	struct lh_guard_message message = { .kind = LH_GUARD_VERIFY, .process = id };
	struct guard_process *process = process_of(guard, id);
	struct guard_thread *thread;
	int descriptor;

	if (!process || process->leaving || !halt(guard, process))
		return lh__fail(error, -ESRCH, "process %d has ended", id);
	process->leaving = true;
	lh__guard_bring_back(process);
	lh__guard_ask(guard, &message, &descriptor);
	while (process_of(guard, id) && (thread = next_thread(guard, process, is_stopped))) {
		if (has_trap_due(thread))
			go_on(thread);
		else
			detach(guard, thread);
	}
	return 0;
}

static void list(const struct guard *guard, struct lh_guard_message *message)
{
	uint64_t skip = message->address;

	message->number = message->more = 0;
	for (const struct guard_process *process = guard->processes; process; process = process->next) {
		if (process->leaving || (skip && skip--))
			continue;
		if (message->number == LH_GUARD_LIST) {
			message->more = 1;
			return;
		}
		message->processes[message->number++] = process->id;
	}
}

static void obey(struct guard *guard, struct lh_guard_message *message)
{
	message->result = 0;
	switch (message->kind) {
	case LH_GUARD_EXPECT: guard->expected = message->process; break;
	case LH_GUARD_WATCH: message->result = watch(guard, message); break;
	case LH_GUARD_LEAVE: message->result = leave(guard, message->process, &message->error); break;
	case LH_GUARD_LIST_ALL: list(guard, message); break;
	default: message->result = -EINVAL; break;
	}
	message->kind = LH_GUARD_DONE;
	if (lh__guard_send(guard->socket, message, -1))
		guard->alone = true;
}

/* Everything that the session wants now. */
static void obey_all(struct guard *guard)
{
	struct lh_guard_message message;
	int descriptor, rc;

	while (!guard->alone) {
		if (guard->queued) {
			message = guard->queue[0];
			memmove(guard->queue, guard->queue + 1, --guard->queued * sizeof(*guard->queue));
		} else {
			rc = lh__guard_receive(guard->socket, MSG_DONTWAIT, &message, &descriptor);
			if (rc == -EAGAIN)
				return;
			if (rc) {
				guard->alone = true;
				return;
			}
		}
		obey(guard, &message);
	}
}

static void leave_all(struct guard *guard)
{
	struct guard_process *process;

	do {
		for (process = guard->processes; process && process->leaving; process = process->next)
			;
		if (process)
			(void)!leave(guard, process->id, NULL);
	} while (process);
}

/* ---- the loop ---- */

static void drain(int signals)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
		;
}

static void loop(struct guard *guard)
{
	struct pollfd wait[2] = { { .fd = guard->signals, .events = POLLIN },
		                  { .fd = guard->socket, .events = POLLIN } };
	int status;
	pid_t id;

	while (!guard->alone || guard->processes) {
		while ((id = waitpid(-1, &status, __WALL | WNOHANG)) > 0) {
			on_stop(guard, id, status);
			/* On the same processor: it runs, and has often stopped again when we are back. */
			sched_yield();
		}
		if (guard->alone)
			leave_all(guard);
		else
			obey_all(guard);
		if (guard->alone && !guard->processes)
			break;
		poll(wait, guard->alone ? 1 : 2, guard->alone ? 100 : -1);
		drain(guard->signals);
	}
}

void lh__guard_run(int socket, int record, enum lh_granularity granularity)
{
	struct guard guard = {
		.socket = socket, .record = record, .granularity = granularity, .processor = -1
	};
	sigset_t all, child;

	prctl(PR_SET_NAME, LH_GUARD_NAME);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	guard.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	guard.control =
		mmap(NULL, LH_RECORD_CONTROL, PROT_READ | PROT_WRITE, MAP_SHARED, record, LH_RECORD_CONTROL);
	if (guard.signals < 0 || guard.control == MAP_FAILED)
		return;
	loop(&guard);
	if (guard.expected)
		kill(guard.expected, SIGCONT);
}
