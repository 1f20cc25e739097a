/*
 * server.c - a thread that came to a marker and waits there: each time it is told to, it forks, and the
 * child goes on in the program. ../inside.h has the messages.
 *
 * What was recorded in a child is supplied here, so that all later children have it. Nothing of the program
 * is executed in the server any more: signals are blocked, and the handler is never left.
 *
 * Children are no children that the program knows of: without a signal at their end, so that it does not
 * matter what the program does with SIGCHLD. What a child leaves behind when it ends becomes the server's
 * child (PR_SET_CHILD_SUBREAPER) and is ended, before it can be taken for a part of the next run.
 */
#include "port/code/inside/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define ARCH_GET_FS 0x1003
#define MUSL_THREAD 48u /* where musl keeps the number of a thread, in what fs points at */

struct server {
	int socket;
	int32_t process;
	int32_t *cleared; /* what the kernel clears at the end of the thread, as libc told it; or NULL */
	int32_t *number;  /* where libc keeps the number of the thread; NULL: not known */
	bool blocks_trap;
};

/*
 * libc sends signals to its own thread (raise, abort) by a number that it keeps. The kernel knows the place:
 * glibc has it cleared at the thread's end. musl has another word cleared, and keeps the number elsewhere.
 */
static void find_number(struct server *server)
{
	int32_t thread = (int32_t)LH_CALL0(SYS_gettid), *at;
	uint64_t base = 0;

	if (LH_CALL2(SYS_prctl, PR_GET_TID_ADDRESS, &server->cleared) != 0)
		server->cleared = NULL;
	at = server->cleared;
	if (at && lh__inside_readable((uint64_t)at & ~7ull) && *at == thread)
		server->number = at;
	if (server->number || LH_CALL2(SYS_arch_prctl, ARCH_GET_FS, &base) != 0 || !base)
		return;
	at = (int32_t *)(base + MUSL_THREAD);
	if (lh__inside_readable((uint64_t)at) && *at == thread)
		server->number = at;
}

/* ---- what is left behind ---- */

/* Whether there was one. They are our children, so that their numbers are nobody else's. */
static bool kill_children(void)
{
	long file = LH_CALL3(SYS_open, "/proc/thread-self/children", O_RDONLY | O_CLOEXEC, 0), got, i,
	     child = 0;
	bool any = false;
	char text[512];

	if (LH_FAILED(file))
		return false;
	got = LH_CALL3(SYS_read, file, text, sizeof text);
	LH_CALL1(SYS_close, file);
	for (i = 0; i < got; i++) {
		if (text[i] >= '0' && text[i] <= '9') {
			child = child * 10 + (text[i] - '0');
			continue;
		}
		if (child > 0)
			any |= LH_CALL2(SYS_kill, child, SIGKILL) == 0;
		child = 0;
	}
	return any;
}

static void end_what_is_left(void)
{
	long ended;

	while ((ended = LH_CALL4(SYS_wait4, -1, 0, WNOHANG | __WALL, 0)) >= 0)
		if (ended == 0 && (!kill_children() || LH_CALL4(SYS_wait4, -1, 0, __WALL, 0) < 0))
			return;
}

/* ---- a run ---- */

static void become_child(const struct server *server)
{
	LH_CALL1(SYS_close, server->socket);
	LH_CALL2(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
	if (LH_CALL0(SYS_getppid) != server->process) /* it was too late */
		LH_CALL1(SYS_exit_group, 0);
	if (server->number)
		*server->number = (int32_t)LH_CALL0(SYS_gettid);
	if (server->blocks_trap)
		lh__inside_set_blocks_trap(true);
}

/* true: this is the child. Its end wakes us on the processor where it ran, which a descriptor's would not. */
static bool run(const struct server *server)
{
	int flags = server->cleared ? CLONE_CHILD_CLEARTID : 0;
	long child = LH_CALL5(SYS_clone, flags, 0, 0, server->cleared, 0);
	struct lh_serve_status status = { 0 };

	if (child == 0) {
		become_child(server);
		return true;
	}
	if (LH_FAILED(child))
		status.error = (int32_t)child;
	else
		LH_CALL4(SYS_wait4, child, &status.status, __WALL, 0);
	end_what_is_left();
	LH_CALL6(SYS_sendto, server->socket, &status, sizeof status, MSG_NOSIGNAL, 0, 0);
	return false;
}

static void supply(const struct lh_serve_command *command)
{
	uint32_t i;

	for (i = 0; i < command->count && i < LH_SERVE_PLACES; i++) {
		const struct lh_inside_text *text = lh__inside_find(command->place[i]);

		if (text && text->watched)
			lh__inside_supply(text,
			                  lh__text_span(&text->text,
			                                (uint32_t)(command->place[i] - text->text.start),
			                                lh__inside.granularity));
	}
}

void lh__inside_serve(int socket)
{
	struct server server = { .socket = socket,
		                 .process = (int32_t)LH_CALL0(SYS_getpid),
		                 .blocks_trap = lh__inside_blocks_trap() };
	const struct lh_serve_status ready = { 0 };
	struct lh_serve_command command;

	find_number(&server);
	lh__inside_block();
	LH_CALL2(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
	LH_CALL2(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
	LH_CALL6(SYS_sendto, socket, &ready, sizeof ready, MSG_NOSIGNAL, 0, 0);
	while (LH_CALL3(SYS_read, socket, &command, sizeof command) == (long)sizeof command) {
		if (command.kind == LH_SERVE_SUPPLY)
			supply(&command);
		else if (command.kind == LH_SERVE_RUN && run(&server))
			return;
	}
	LH_CALL1(SYS_exit_group, 0);
}
