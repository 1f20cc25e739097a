/*
 * exec.c - another program takes the process's place, and is to be counted too.
 *
 * Its environment has our two variables even where the program has made another one. Whether our agent came
 * to life in it only the agent can say: until it does, the exec stands in the control; what stands there in
 * the end was not counted. An exec that fails is taken out when its thread makes another system call.
 */
#include <sys/mman.h>

#include "service/count/agent/agent.h"

#define PRELOAD "LD_PRELOAD="
#define VARIABLE LH_COUNT_ENVIRONMENT "="

static size_t length_of(const char *text)
{
	size_t n = 0;

	while (text[n])
		n++;
	return n;
}

static bool begins(const char *text, const char *with)
{
	while (*with)
		if (*text++ != *with++)
			return false;
	return true;
}

/* Whether a list that colons or blanks separate has the word. */
static bool has_word(const char *list, const char *word)
{
	for (size_t n = length_of(word); *list; list++) {
		if (begins(list, word) && (!list[n] || list[n] == ':' || list[n] == ' '))
			return true;
		while (*list && *list != ':' && *list != ' ')
			list++;
		if (!*list)
			return false;
	}
	return false;
}

static char *put(char *at, const char *text)
{
	while (*text)
		*at++ = *text++;
	*at = 0;
	return at;
}

/* A copy of the environment with our two variables; it goes with the process, or stays where exec fails. */
static char **complete(struct lh_count_agent *agent, char **old, size_t count, const char *preload)
{
	const char *file = agent->control->agent;
	size_t words = (count + 3) * sizeof(char *);
	size_t size = words + sizeof(PRELOAD) + length_of(file) + 1 + (preload ? length_of(preload) : 0) +
	              sizeof(VARIABLE) + sizeof(agent->file);
	long at = LH_SYS(&agent->sys, SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	                 -1, 0);
	char **new = (char **)at, *text = (char *)at + words, *end;
	size_t n = 2;

	if (at < 0 && at > -4096)
		return NULL;
	new[0] = text;
	end = put(put(text, PRELOAD), file);
	if (preload && *preload)
		end = put(put(end, ":"), preload);
	new[1] = ++end;
	put(put(end, VARIABLE), agent->file);
	for (size_t i = 0; i < count; i++)
		if (!begins(old[i], PRELOAD) && !begins(old[i], VARIABLE))
			new[n++] = old[i];
	new[n] = NULL;
	return new;
}

static void follow(struct lh_count_agent *agent, long *environment)
{
	char **old = (char **)*environment, **new;
	const char *preload = NULL, *variable = NULL;
	size_t count = 0;

	for (; old && old[count]; count++) {
		if (begins(old[count], PRELOAD))
			preload = old[count] + sizeof(PRELOAD) - 1;
		if (begins(old[count], VARIABLE))
			variable = old[count] + sizeof(VARIABLE) - 1;
	}
	if (preload && has_word(preload, agent->control->agent) && variable && begins(variable, agent->file))
		return;
	new = complete(agent, old, count, preload);
	if (new)
		*environment = (long)new;
}

static void write_down(struct lh_count_agent *agent, struct lh_count_thread *thread, const char *path)
{
	int32_t pid = (int32_t)LH_SYS(&agent->sys, SYS_getpid);

	for (uint32_t i = 0; i < LH_COUNT_EXECS; i++) {
		struct lh_count_exec *exec = &agent->control->exec[i];
		int32_t free = 0;
		size_t n = 0;

		if (!__atomic_compare_exchange_n(&exec->pid, &free, pid, false, __ATOMIC_ACQ_REL,
		                                 __ATOMIC_RELAXED))
			continue;
		for (; path && path[n] && n < sizeof(exec->path) - 1; n++)
			exec->path[n] = path[n];
		exec->path[n] = 0;
		thread->exec = i + 1;
		return;
	}
	__atomic_fetch_add(&agent->control->lost_execs, 1, __ATOMIC_RELAXED);
}

void lh__count_executes(struct lh_count_agent *agent, struct lh_count_thread *thread,
                        struct lh_translate_call *call)
{
	bool at = call->number == SYS_execveat;

	lh__count_goes_on(agent, thread);
	write_down(agent, thread, (const char *)call->argument[at ? 1 : 0]);
	follow(agent, &call->argument[at ? 3 : 2]);
}

static void strike_out(struct lh_count_exec *exec, int32_t pid)
{
	__atomic_compare_exchange_n(&exec->pid, &pid, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* A child of vfork may have done it with its parent's thread: the place is its own then. */
void lh__count_goes_on(struct lh_count_agent *agent, struct lh_count_thread *thread)
{
	if (thread->exec)
		strike_out(&agent->control->exec[thread->exec - 1], (int32_t)LH_SYS(&agent->sys, SYS_getpid));
	thread->exec = 0;
}

void lh__count_came_to_life(struct lh_count_agent *agent)
{
	struct lh_count_control *control = agent->control;
	uint32_t processes =
		control->processes < LH_COUNT_PROCESSES ? control->processes : LH_COUNT_PROCESSES;

	for (uint32_t i = 0; i < LH_COUNT_EXECS; i++)
		strike_out(&control->exec[i], agent->process->pid);
	for (uint32_t i = 0; i < processes; i++) {
		struct lh_count_process *other = lh__count_process(control, i);

		if (other != agent->process && other->pid == agent->process->pid &&
		    other->state == LH_COUNT_RUNS)
			other->state = LH_COUNT_REPLACED;
	}
}
