/* ask.c - the agent's end of the launcher's protocol. See protocol.h. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "net/data/pass.h"
#include "service/run/agent/agent.h"

#define SETTLE_NS 1000000000 /* so long the end of a process waits for what is in flight */

/* A socket whose name begins with a zero byte: it is no file, and nobody has to remove it. */
static int connect_abstract(struct lh_agent *agent, const char *name, struct lh_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = strlen(name);
	int socket, result;

	if (length >= sizeof address.sun_path)
		return lh__fail(error, -EINVAL, "%s: not a launcher's name", LH_RUN_ENVIRONMENT);
	memcpy(address.sun_path + 1, name, length);
	socket = (int)LH_SYS(&agent->sys, SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	socket = lh__descriptor_raise(agent, socket);
	if (socket < 0)
		return lh__fail(error, socket, "cannot make a socket: %s", lh__errno_name(socket));
	result = (int)LH_SYS(&agent->sys, SYS_connect, socket, &address,
	                     offsetof(struct sockaddr_un, sun_path) + 1 + length);
	if (result < 0) {
		LH_SYS(&agent->sys, SYS_close, socket);
		return lh__fail(error, result, "cannot reach the launcher: %s", lh__errno_name(result));
	}
	agent->channel = socket;
	return 0;
}

static int exchange(struct lh_agent *agent, struct lh_run_message *message, int *descriptors, size_t *n,
                    struct lh_error *error)
{
	int result;

	message->version = LH_RUN_VERSION;
	result = lh__pass_send(&agent->sys, agent->channel, message, sizeof *message, NULL, 0);
	if (result == 0)
		result = lh__pass_receive(&agent->sys, agent->channel, message, sizeof *message, descriptors,
		                          n);
	if (result < 0)
		return lh__fail(error, result, "the launcher has gone (%s)", lh__errno_name(result));
	if (message->version != LH_RUN_VERSION)
		return lh__fail(error, -EPROTO, "the launcher is of another version");
	if (message->kind == LH_RUN_ERROR)
		return lh__fail(error, message->code < 0 ? message->code : -EPROTO, "%s", message->text);
	return 0;
}

static int map_control(struct lh_agent *agent, int descriptor, struct lh_error *error)
{
	long mapped = LH_SYS(&agent->sys, SYS_mmap, 0, sizeof *agent->control, PROT_READ | PROT_WRITE,
	                     MAP_SHARED, descriptor, 0);

	LH_SYS(&agent->sys, SYS_close, descriptor);
	if (mapped < 0 && mapped > -4096)
		return lh__fail(error, (int)mapped, "cannot map the control page: %s",
		                lh__errno_name((int)mapped));
	agent->control = (struct lh_run_control *)mapped;
	if (agent->control->version != LH_RUN_VERSION || agent->control->size != sizeof *agent->control)
		return lh__fail(error, -EPROTO, "the launcher is of another version");
	return 0;
}

int lh__agent_hello(struct lh_agent *agent, const char *name, struct lh_error *error)
{
	struct lh_run_message message = { .kind = LH_RUN_HELLO };
	int descriptors[2];
	size_t n = 2;
	int result = connect_abstract(agent, name, error);

	if (result == 0)
		result = exchange(agent, &message, descriptors, &n, error);
	if (result < 0)
		return result;
	if (n < 1)
		return lh__fail(error, -EPROTO, "the launcher sent no control page");
	if (n > 1) {
		if (agent->device >= 0)
			LH_SYS(&agent->sys, SYS_close, agent->device);
		agent->device = lh__descriptor_raise(agent, descriptors[1]);
	}
	if (agent->control) { /* in a child: it is mapped already */
		LH_SYS(&agent->sys, SYS_close, descriptors[0]);
		return 0;
	}
	return map_control(agent, descriptors[0], error);
}

int lh__agent_ask(struct lh_agent *agent, enum lh_run_kind kind, int milliseconds,
                  const struct lh_node_link *about, struct lh_node_link *link, struct lh_error *error)
{
	struct lh_run_message message = { .kind = kind, .code = milliseconds };
	int descriptors[LH_NODE_LINK_FDS];
	size_t n = LH_NODE_LINK_FDS;
	int result;

	if (about)
		message.link = *about;
	lh__lock(&agent->sys, &agent->asking);
	result = exchange(agent, &message, descriptors, &n, error);
	lh__unlock(&agent->sys, &agent->asking);
	if (result < 0)
		return result;
	if (n < 2)
		return lh__fail(error, -EPROTO, "the launcher sent no link");
	*link = message.link;
	for (size_t i = 0; i < LH_NODE_LINK_FDS; i++)
		link->fd[i] = i < n ? lh__descriptor_raise(agent, descriptors[i]) : -1;
	return 0;
}

/* ---- the store ---- */

static int reconnect(void *context, struct lh_node_link *link, int milliseconds)
{
	struct lh_error error;

	struct lh_agent *agent = context;
	int result = lh__agent_ask(agent, LH_RUN_AGAIN, milliseconds, link, link, &error);

	if (result == 0)
		agent->link = *link;
	else
		lh__format(agent->lost, sizeof agent->lost, "%s", error.text);
	return result;
}

int lh__agent_attach(struct lh_agent *agent, const struct lh_node_link *link, struct lh_error *error)
{
	struct lh_node_options options = {
		.timeout_ms = agent->control->timeout_ms,
		.signals_blocked = true,
		.reconnect_in_signal = true,
		.context = agent,
		.reconnect = reconnect,
	};
	int result = lh__node_attach(&agent->sys, link, &options, &agent->store);

	memset(&agent->counted, 0, sizeof agent->counted);
	agent->link = *link;
	return result < 0 ? lh__fail(error, result, "cannot use the link to the node: %s",
	                             lh__errno_name(result))
	                  : 0;
}

void lh__agent_count(struct lh_agent *agent)
{
	struct lh_node_counts now;

	/* The balancing thread, and a thread that ends the process: each byte is added once. */
	lh__lock(&agent->sys, &agent->counting);
	lh__node_counts(agent->store, &now);
	lh__count(&agent->control->bytes_out, now.bytes_out - agent->counted.bytes_out);
	lh__count(&agent->control->bytes_in, now.bytes_in - agent->counted.bytes_in);
	lh__count(&agent->control->reconnects, now.reconnects - agent->counted.reconnects);
	agent->counted = now;
	lh__unlock(&agent->sys, &agent->counting);
}

void lh__agent_count_last(struct lh_agent *agent)
{
	if (agent->active) {
		lh__home_settle(agent->home, SETTLE_NS);
		lh__agent_note_size(agent);
	}
	lh__agent_count(agent);
}

/* ---- the end ---- */

void lh__agent_fail(struct lh_agent *agent, const char *text)
{
	struct lh_run_message message = { .version = LH_RUN_VERSION, .kind = LH_RUN_FAIL };

	lh__format(message.text, sizeof message.text, "%s", text);
	if (agent->channel < 0 ||
	    lh__pass_send(&agent->sys, agent->channel, &message, sizeof message, NULL, 0) < 0) {
		char line[300];
		size_t length = lh__format(line, sizeof line, "linehome: %s\n", text);

		LH_SYS(&agent->sys, SYS_write, 2, line, length);
	}
	for (;;)
		LH_SYS(&agent->sys, SYS_exit_group, 125);
}

static const char *cause(const struct lh_agent *agent, int result)
{
	switch (result) {
	case -ENOSPC: return "the node is full: give it more with serve --size";
	case -ENOMEM: return "no local memory became free in time: give more with --local";
	case -ESTALE: return "the node has lost this program's memory";
	default: break;
	}
	if (agent->lost[0])
		return agent->lost; /* what the launcher said when it tried to reconnect */
	return result == -ETIMEDOUT ? "the node does not answer" : lh__errno_name(result);
}

void lh__agent_fail_page(struct lh_agent *agent, uintptr_t address, int result)
{
	const char *why = cause(agent, result);
	char text[256];

	lh__format(text, sizeof text, "%s: page 0x%lx: %s; the program was stopped", agent->control->store,
	           (unsigned long)(address & ~(uintptr_t)(LH_PAGE_SIZE - 1)), why);
	lh__agent_fail(agent, text);
}
