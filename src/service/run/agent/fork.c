/*
 * fork.c - a child gets a copy of its parent's memory, and so does its home.
 *
 * Before the fork the parent's home stands still and the launcher makes a copy of the region on the node,
 * which is the child's. At the fork the kernel copies what is in local memory (staging and tables included)
 * and drops every watch in the child, where a page that is absent would read as zero; so the child watches
 * everything again before it runs any code of the program's. A child of a program that was never activated
 * gets a new region.
 */
#include "service/run/agent/agent.h"

void lh__agent_before_fork(struct lh_agent *agent)
{
	struct lh_error error;

	if (lh__home_pause(agent->home) < 0)
		lh__agent_fail(agent, "the node failed before a fork");
	/* Only now: until the home stands still it may be on the way to being activated. */
	agent->cloned = agent->active;
	if (agent->cloned && lh__agent_ask(agent, LH_RUN_CLONE, (int)agent->control->timeout_ms, &agent->link,
	                                   &agent->clone, &error) < 0)
		lh__agent_fail(agent, error.text);
}

void lh__agent_after_fork(struct lh_agent *agent, long child)
{
	for (int i = 0; i < LH_NODE_LINK_FDS && agent->cloned; i++)
		LH_SYS(&agent->sys, SYS_close, agent->clone.fd[i]);
	if (child > 0 && agent->cloned)
		lh__count(&agent->control->stats.forks, 1);
	lh__home_resume(agent->home);
}

/* What the child inherited and must not use: the parent's channel, its link, its view of its own size. */
static void forget_parent(struct lh_agent *agent)
{
	LH_SYS(&agent->sys, SYS_close, agent->channel);
	LH_SYS(&agent->sys, SYS_close, agent->statm);
	agent->channel = agent->statm = -1;
	agent->asking.word = 0;
	agent->counting.word = 0;
	agent->activating.word = 0;
	agent->excluded_lock.word = 0;
	agent->engine_lock.word = 0;
	agent->process = LH_SYS(&agent->sys, SYS_getpid);
	lh__agent_memory_in_child();
	lh__node_forget(agent->store);
}

static int begin_child(struct lh_agent *agent, struct lh_error *error)
{
	struct lh_node_link link = agent->clone;
	int result = lh__space_in_child(agent, error);

	if (result == 0)
		result = lh__agent_hello(agent, agent->name, error);
	if (result == 0 && !agent->cloned)
		result = lh__agent_ask(agent, LH_RUN_CREATE, (int)agent->control->timeout_ms, NULL, &link,
		                       error);
	if (result == 0)
		result = lh__agent_attach(agent, &link, error);
	if (result == 0)
		result = lh__page_after_fork(agent->port, error);
	if (result == 0 && (result = lh__home_fork_child(agent->home, agent->store)) < 0)
		lh__fail(error, result, "a child's memory cannot be watched: %s", lh__errno_name(result));
	if (result < 0)
		return result;
	lh__buffers_fork_child(&agent->buffers);
	return lh__agent_threads(agent, error);
}

void lh__agent_in_child(struct lh_agent *agent)
{
	struct lh_error error;

	forget_parent(agent);
	if (begin_child(agent, &error) < 0)
		lh__agent_fail(agent, error.text);
	lh__count(&agent->control->processes, 1);
}
