/* agent.c - how the agent comes into a program, and where its calls and faults arrive. See agent.h. */
#include "service/run/agent/agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One call keeps at most this part of local memory present, but always enough for a datagram. */
#define HOLD_SHARE 8
/* Frames beyond the limit, for what a program takes into use while watching begins. */
#define SPARE_FRAMES 1024
#define HOLD_LEAST ((size_t)256 << 10)

/* This process' agent: the constructor, the stubs and the kernel bring no argument. */
static struct lh_agent the_agent = { .channel = -1, .device = -1, .statm = -1 };

/* ---- faults ---- */

static int on_sigbus(void *context, int signal, siginfo_t *info, void *frame)
{
	struct lh_agent *agent = context;
	uintptr_t address = (uintptr_t)info->si_addr;
	int result = lh__home_miss(agent->home, address);

	(void)signal;
	(void)frame;
	if (result < 0)
		lh__agent_fail_page(agent, address, result);
	return result != LH_MISS_NOT_MINE;
}

static int on_sigsegv(void *context, int signal, siginfo_t *info, void *frame)
{
	(void)signal;
	(void)frame;
	return lh__engine_hid(context, info);
}

/* ---- calls ---- */

static bool is_exec(long nr)
{
	return nr == SYS_execve || nr == SYS_execveat;
}

/* A child of vfork leaves its parent's memory, and its parent goes on counting. */
static void before_exec(struct lh_agent *agent)
{
	if (LH_SYS(&agent->sys, SYS_getpid) == agent->process)
		lh__agent_count_last(agent);
}

static long on_call(void *context, struct lh_trap *trap)
{
	struct lh_agent *agent = context;

	if (is_exec(trap->nr))
		before_exec(agent);
	if (lh__space_wanted(trap->nr))
		return lh__space_call(agent, trap);
	if (lh__descriptors_wanted(trap->nr))
		return lh__descriptors_call(agent, trap);
	if (__atomic_load_n(&agent->engine, __ATOMIC_ACQUIRE) == LH_ENGINE_THREAD)
		return lh__buffers_call_of_thread(&agent->buffers, trap);
	return lh__buffers_call(&agent->buffers, trap);
}

static int on_later_use(void *context)
{
	return lh__engine_thread(context);
}

static void on_owned(void *context, void *address, size_t size)
{
	uintptr_t start = (uintptr_t)address;

	if (lh__exclude(context, start, start + size) < 0)
		lh__agent_fail(context, "too many ranges of memory are the agent's");
}

static void on_start(void *context, enum lh_intercept_start how)
{
	if (how == LH_START_FORK)
		lh__agent_in_child(context);
}

static void on_thread_exit(void *context)
{
	struct lh_agent *agent = context;

	lh__buffers_thread_ends(&agent->buffers);
}

static void on_process_exit(void *context, int status)
{
	(void)status;
	on_thread_exit(context);
	lh__agent_count_last(context);
}

static void before_fork(void *context)
{
	lh__agent_before_fork(context);
}

static void after_fork(void *context, long child)
{
	lh__agent_after_fork(context, child);
}

static int intercept(struct lh_agent *agent, struct lh_error *error)
{
	bool in_line = agent->engine == LH_ENGINE_INLINE;
	struct lh_intercept_config config = {
		.sys = &agent->sys,
		.context = agent,
		.hook = on_call,
		.owns = on_owned,
		.on_start = on_start,
		.on_thread_exit = on_thread_exit,
		.on_process_exit = on_process_exit,
		.before_fork = before_fork,
		.after_fork = after_fork,
	};
	int result;

	lh__space_want(config.bitmap);
	lh__descriptors_want(config.bitmap);
	config.bitmap[SYS_execve / 64] |= UINT64_C(1) << SYS_execve % 64;
	config.bitmap[SYS_execveat / 64] |= UINT64_C(1) << SYS_execveat % 64;
	lh__buffers_want(config.bitmap, in_line);
	result = lh__intercept_open(&config, error);
	if (result == 0 && in_line &&
	    (lh__intercept_signal(SIGBUS, on_sigbus, agent) < 0 ||
	     lh__intercept_signal(SIGSEGV, on_sigsegv, agent) < 0))
		result = lh__fail(error, -EINVAL, "SIGBUS and SIGSEGV cannot be taken over");
	return result;
}

/* ---- the beginning ---- */

static int open_home(struct lh_agent *agent, struct lh_error *error)
{
	struct lh_run_control *control = agent->control;
	uint64_t local = control->local / LH_PAGE_SIZE;
	struct lh_home_options options = {
		.port = agent->port,
		.store = agent->store,
		.policy = lh__policy_find(control->policy[0] ? control->policy : NULL),
		.frames = (uint32_t)(local + local / 4 + SPARE_FRAMES),
		.limit = (uint32_t)local,
		.prefetch = (enum lh_prefetch)control->prefetch,
		.stats = &control->stats,
		.stall_limit_ns = (uint64_t)control->timeout_ms * 1000000,
	};
	int result = lh__home_open(&agent->sys, &options, &agent->home);

	return result < 0 ? lh__fail(error, result, "the agent finds no memory for its tables") : 0;
}

static int open_port(struct lh_agent *agent, struct lh_error *error)
{
	struct lh_page_options options = {
		.engine = (enum lh_engine)agent->engine,
		.device = agent->device,
		.descriptor_floor = agent->descriptor_floor,
	};

	return lh__page_open(&agent->sys, &options, &agent->port, error);
}

static int open_store(struct lh_agent *agent, struct lh_error *error)
{
	struct lh_node_link link;
	int result = lh__agent_ask(agent, LH_RUN_CREATE, (int)agent->control->timeout_ms, NULL, &link, error);

	return result < 0 ? result : lh__agent_attach(agent, &link, error);
}

static int begin(struct lh_agent *agent, struct lh_error *error)
{
	int result = lh__agent_hello(agent, agent->name, error);

	if (result < 0 || agent->control->local == 0)
		return result;
	agent->engine = agent->control->engine;
	agent->process = LH_SYS(&agent->sys, SYS_getpid);
	result = lh__space_begin(agent, error);
	/* Before the home reserves its tables: trampolines need room near the libraries. */
	if (result == 0)
		result = intercept(agent, error);
	if (result == 0)
		result = open_port(agent, error);
	if (result == 0)
		result = open_store(agent, error);
	if (result == 0)
		result = open_home(agent, error);
	agent->buffers = (struct lh_buffers){
		.sys = &agent->sys,
		.home = agent->home,
		.hold_limit = agent->control->local / HOLD_SHARE > HOLD_LEAST
		                      ? agent->control->local / HOLD_SHARE
		                      : HOLD_LEAST,
		.proceed = lh__intercept_proceed,
		.copy = lh__intercept_copy,
		.swap = lh__intercept_swap,
		.later_use = on_later_use,
		.context = agent,
	};
	if (result == 0)
		result = lh__agent_threads(agent, error);
	return result;
}

__attribute__((constructor)) static void agent_begin(void)
{
	struct lh_agent *agent = &the_agent;
	const char *name = getenv(LH_RUN_ENVIRONMENT);
	struct lh_error error = { 0, "" };

	if (!name || strlen(name) >= sizeof agent->name)
		return;
	memcpy(agent->name, name, strlen(name));
	lh__agent_memory(agent);
	if (begin(agent, &error) < 0)
		lh__agent_fail(agent, error.text);
	lh__count(&agent->control->processes, 1);
}
