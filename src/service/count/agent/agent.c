/* agent.c - how the agent comes to life, and what the translator tells it of (agent.h). */
#include "service/count/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* This process's agent: its constructor is handed nothing. */
static struct lh_count_agent the_agent;

static long call(void *context, long nr, const long a[6])
{
	(void)context;
	return lh__raw_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Few and long-lived, or read maps into. */
static void *alloc(void *context, size_t size)
{
	long at = lh__raw_syscall(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE,
	                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)context;
	return at < 0 && at > -4096 ? NULL : (void *)at;
}

static void release(void *context, void *pointer, size_t size)
{
	(void)context;
	if (pointer)
		lh__raw_syscall(SYS_munmap, (long)pointer, (long)size, 0, 0, 0, 0);
}

/* ---- what the translator tells */

static void on_thread(void *context, void *own, int tid)
{
	lh__count_thread_begins(context, own, tid);
}

static void on_thread_end(void *context, void *own)
{
	lh__count_thread_ends(context, own);
}

static void note_counts(struct lh_count_agent *agent)
{
	struct lh_translate_counts counts;

	if (!agent->translator)
		return;
	lh__translate_counts(agent->translator, &counts);
	agent->process->untranslated = counts.slow;
	agent->process->translated = counts.blocks;
}

static void on_end(void *context, void *own, int status)
{
	struct lh_count_agent *agent = context;
	struct lh_count_thread *thread = own;

	(void)status;
	lh__count_thread_name(agent, thread);
	note_counts(agent);
}

static void on_exec(void *context, void *own, struct lh_translate_call *made)
{
	note_counts(context);
	lh__count_thread_name(context, own);
	lh__count_executes(context, own, made);
}

static void on_mapped(void *context, uint64_t start, uint64_t end)
{
	struct lh_count_agent *agent = context;

	(void)start;
	(void)end;
	__atomic_store_n(&agent->stale, 1, __ATOMIC_RELEASE);
}

static bool on_call(void *context, void *own, struct lh_translate_call *made)
{
	struct lh_count_thread *thread = own;

	(void)made;
	if (thread->exec)
		lh__count_goes_on(context, thread);
	return false;
}

/* ---- the beginning */

static int map(struct lh_count_agent *agent, struct lh_error *error)
{
	const struct lh_sys *sys = &agent->sys;
	long file = LH_SYS(sys, SYS_openat, AT_FDCWD, agent->file, O_RDWR | O_CLOEXEC, 0), at;
	struct lh_count_control *control;

	if (file < 0)
		return lh__fail(error, (int)file, "%s: cannot be opened: %s", agent->file,
		                lh__errno_name((int)file));
	at = LH_SYS(sys, SYS_mmap, 0, LH_COUNT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
	            file, 0);
	LH_SYS(sys, SYS_close, file);
	if (at < 0 && at > -4096)
		return lh__fail(
			error, (int)at,
			"the counters cannot be mapped: %s; is the address space limited (ulimit -v)?",
			lh__errno_name((int)at));
	control = (struct lh_count_control *)at;
	if (control->version != LH_COUNT_VERSION || control->size != sizeof(*control))
		return lh__fail(error, -EINVAL, "the agent and the launcher are of two builds");
	LH_SYS(sys, SYS_madvise, at, LH_COUNT_BYTES, MADV_DONTDUMP);
	agent->control = control;
	return 0;
}

/* The process's own tables, in place of its parent's. */
static void map_footprint(struct lh_count_agent *agent)
{
	const struct lh_sys *sys = &agent->sys;
	long file, at = 0;

	if (!agent->control->footprint)
		return;
	if (agent->loaded)
		LH_SYS(sys, SYS_munmap, agent->loaded, 2 * LH_COUNT_TABLE_BYTES);
	agent->loaded = agent->stored = 0;
	file = LH_SYS(sys, SYS_openat, AT_FDCWD, agent->file, O_RDWR | O_CLOEXEC, 0);
	if (file >= 0)
		at = LH_SYS(sys, SYS_mmap, 0, 2 * LH_COUNT_TABLE_BYTES, PROT_READ | PROT_WRITE,
		            MAP_SHARED | MAP_NORESERVE, file, lh__count_table(agent->place));
	if (file >= 0)
		LH_SYS(sys, SYS_close, file);
	if (file < 0 || (at < 0 && at > -4096)) {
		__atomic_fetch_add(&agent->control->lost_footprints, 1, __ATOMIC_RELAXED);
		return;
	}
	LH_SYS(sys, SYS_madvise, at, 2 * LH_COUNT_TABLE_BYTES, MADV_DONTDUMP);
	agent->loaded = (uint64_t)at;
	agent->stored = agent->loaded + LH_COUNT_TABLE_BYTES;
}

/* Here nothing of the thread's is to be touched before it has a place that is not its parent's. */
static void on_fork(void *context, void *own)
{
	struct lh_count_agent *agent = context;

	if (lh__count_process_begins(agent) < 0 || lh__count_blocks_open(agent) < 0) {
		__atomic_fetch_add(&agent->control->lost_processes, 1, __ATOMIC_RELAXED);
		return;
	}
	agent->slow_used = 0;
	agent->stale = 1;
	map_footprint(agent);
	lh__count_thread_begins(agent, own, (int)LH_SYS(&agent->sys, SYS_gettid));
}

static int take_over(struct lh_count_agent *agent, struct lh_error *error)
{
	struct lh_process_options options = {
		.translate = {
			.sys = &agent->sys,
			.client = {
				.context = agent,
				.thread_bytes = sizeof(struct lh_count_thread),
				.block = lh__count_block,
				.before = lh__count_before,
				.after = lh__count_after,
				.cut = lh__count_cut,
				.call = on_call,
			},
		},
		.thread_begins = on_thread,
		.thread_ends = on_thread_end,
		.process_ends = on_end,
		.forked = on_fork,
		.executes = on_exec,
		.mapped = on_mapped,
	};

	return lh__process_open(&options, &agent->translator, error);
}

static int begin(struct lh_count_agent *agent, struct lh_error *error)
{
	int result = map(agent, error);

	if (result < 0)
		return result;
	result = lh__count_process_begins(agent);
	if (result < 0)
		return lh__fail(error, result, "too many processes");
	lh__count_came_to_life(agent);
	map_footprint(agent);
	if (lh__count_blocks_open(agent) < 0 || lh__count_slow_open(agent) < 0)
		return lh__fail(error, -ENOMEM, "no memory for the tables of blocks");
	return take_over(agent, error);
}

/* The program runs, and is not counted: the launcher says so. */
static void give_up(struct lh_count_agent *agent, const struct lh_error *error)
{
	struct lh_count_control *control = agent->control;

	if (control && __atomic_fetch_add(&control->lost_processes, 1, __ATOMIC_ACQ_REL) == 0)
		memcpy(control->failure, error->text, sizeof(error->text));
}

static const char *value_of(char **environment, const char *name)
{
	size_t n = strlen(name);

	for (; environment && *environment; environment++)
		if (strncmp(*environment, name, n) == 0 && (*environment)[n] == '=')
			return *environment + n + 1;
	return NULL;
}

/* Before the constructors of all others, libc's too: it does not know its environment yet. */
__attribute__((constructor)) static void agent_begins(int count, char **arguments, char **environment)
{
	struct lh_count_agent *agent = &the_agent;
	const char *file = value_of(environment, LH_COUNT_ENVIRONMENT);
	struct lh_error error = { 0, "" };

	(void)count;
	(void)arguments;
	if (!file || strlen(file) >= sizeof(agent->file))
		return;
	memcpy(agent->file, file, strlen(file));
	agent->sys = (struct lh_sys){ .call = call, .alloc = alloc, .free = release };
	agent->stale = 1;
	if (begin(agent, &error) < 0)
		give_up(agent, &error);
}
