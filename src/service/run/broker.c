/* broker.c - see broker.h. */
#include "service/run/broker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/data/pass.h"

struct lh_broker {
	struct lh_node_target target;
	int control_fd, device, listener;
	char name[64];
	pthread_t acceptor;
	atomic_bool failed;
	pthread_mutex_t lock;
	pthread_cond_t gone;
	unsigned agents; /* threads that serve one; under lock */
};

struct visit {
	struct lh_broker *broker;
	int socket;
};

/* ---- answers ---- */

static void answer_link(struct lh_run_message *message, struct lh_node_link *link, int result,
                        int descriptors[LH_NODE_LINK_FDS], size_t *n, const struct lh_error *error)
{
	if (result < 0) {
		message->kind = LH_RUN_ERROR;
		message->code = result;
		snprintf(message->text, sizeof message->text, "%s", error->text);
		return;
	}
	message->kind = LH_RUN_LINK;
	message->link = *link;
	for (*n = 0; *n < LH_NODE_LINK_FDS && link->fd[*n] >= 0; ++*n)
		descriptors[*n] = link->fd[*n];
}

static void answer(struct lh_broker *broker, struct lh_run_message *message,
                   int descriptors[LH_NODE_LINK_FDS], size_t *n)
{
	struct lh_node_link link = message->link;
	struct lh_error error = { 0, "" };
	int milliseconds = message->code > 0 ? message->code : 1, result;

	switch (message->kind) {
	case LH_RUN_HELLO:
		message->kind = LH_RUN_WELCOME;
		descriptors[(*n)++] = broker->control_fd;
		if (broker->device >= 0)
			descriptors[(*n)++] = broker->device;
		return;
	case LH_RUN_CREATE: result = lh__node_create(&broker->target, milliseconds, &link, &error); break;
	case LH_RUN_AGAIN: result = lh__node_again(&broker->target, milliseconds, &link, &error); break;
	case LH_RUN_CLONE:
		result = lh__node_clone(&broker->target, milliseconds, &message->link, &link, &error);
		break;
	default: result = lh__fail(&error, -EPROTO, "the launcher does not know this question"); break;
	}
	answer_link(message, &link, result, descriptors, n, &error);
}

/* Answers one question; false when the agent has gone. */
static bool serve_one(struct visit *visit)
{
	struct lh_run_message message;
	int descriptors[LH_NODE_LINK_FDS] = { -1, -1, -1 };
	size_t n = 0, none = 0;

	if (lh__pass_receive(&lh__sys_default, visit->socket, &message, sizeof message, NULL, &none) < 0 ||
	    message.version != LH_RUN_VERSION)
		return false;
	message.text[sizeof message.text - 1] = 0;
	if (message.kind == LH_RUN_FAIL) {
		/* The first says it; what others meet afterwards has the same cause. */
		if (!atomic_exchange(&visit->broker->failed, true))
			fprintf(stderr, "linehome run: %s\n", message.text);
		return true;
	}
	answer(visit->broker, &message, descriptors, &n);
	if (lh__pass_send(&lh__sys_default, visit->socket, &message, sizeof message, descriptors, n) < 0)
		n = n ? n : 0;
	if (message.kind == LH_RUN_LINK)
		for (size_t i = 0; i < n; i++)
			close(descriptors[i]);
	return true;
}

static void *serve_agent(void *argument)
{
	struct visit visit = *(struct visit *)argument;
	struct lh_broker *broker = visit.broker;

	free(argument);
	while (serve_one(&visit))
		;
	close(visit.socket);
	pthread_mutex_lock(&broker->lock);
	broker->agents--;
	pthread_cond_signal(&broker->gone);
	pthread_mutex_unlock(&broker->lock);
	return NULL;
}

/* ---- connections ---- */

/* Only this user's processes, and root's, may ask. */
static bool is_welcome(int socket)
{
	struct ucred peer = { 0, (uid_t)-1, (gid_t)-1 };
	socklen_t size = sizeof peer;

	return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
	       (peer.uid == geteuid() || peer.uid == 0 || geteuid() == 0);
}

static void receive(struct lh_broker *broker, int socket)
{
	struct visit *visit = is_welcome(socket) ? malloc(sizeof *visit) : NULL;
	pthread_t thread;

	if (!visit) {
		close(socket);
		return;
	}
	*visit = (struct visit){ broker, socket };
	pthread_mutex_lock(&broker->lock);
	broker->agents++;
	pthread_mutex_unlock(&broker->lock);
	if (pthread_create(&thread, NULL, serve_agent, visit) == 0) {
		pthread_detach(thread);
		return;
	}
	pthread_mutex_lock(&broker->lock);
	broker->agents--;
	pthread_mutex_unlock(&broker->lock);
	free(visit);
	close(socket);
}

static void *accept_agents(void *argument)
{
	struct lh_broker *broker = argument;

	for (;;) {
		int socket = accept4(broker->listener, NULL, NULL, SOCK_CLOEXEC);

		if (socket >= 0)
			receive(broker, socket);
		else if (errno == EINVAL)
			return NULL; /* shut down: lh__broker_close */
	}
}

static int listen_abstract(struct lh_broker *broker, struct lh_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	uint64_t number = 0;
	size_t length;

	if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
		return lh__fail(error, -EIO, "no random numbers");
	length = (size_t)snprintf(broker->name, sizeof broker->name, "linehome-%d-%016lx", (int)getpid(),
	                          (unsigned long)number);
	memcpy(address.sun_path + 1, broker->name, length);
	broker->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (broker->listener < 0 ||
	    bind(broker->listener, (struct sockaddr *)&address,
	         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) < 0 ||
	    listen(broker->listener, 128) < 0)
		return lh__fail(error, -errno, "cannot listen for agents: %s", lh__errno_name(errno));
	return 0;
}

int lh__broker_open(const struct lh_node_target *target, int control_fd, struct lh_broker **out,
                    struct lh_error *error)
{
	struct lh_broker *broker = calloc(1, sizeof *broker);
	int result;

	if (!broker)
		return lh__fail(error, -ENOMEM, "no memory");
	broker->target = *target;
	broker->control_fd = control_fd;
	broker->listener = -1;
	broker->device =
		open("/dev/userfaultfd", O_RDWR | O_CLOEXEC); /* an agent without it asks the kernel itself */
	pthread_mutex_init(&broker->lock, NULL);
	pthread_cond_init(&broker->gone, NULL);
	result = listen_abstract(broker, error);
	if (result == 0 && pthread_create(&broker->acceptor, NULL, accept_agents, broker) != 0)
		result = lh__fail(error, -EAGAIN, "cannot start a thread");
	if (result < 0) {
		close(broker->listener);
		close(broker->device);
		free(broker);
		return result;
	}
	*out = broker;
	return 0;
}

const char *lh__broker_name(const struct lh_broker *broker)
{
	return broker->name;
}

bool lh__broker_failed(const struct lh_broker *broker)
{
	return atomic_load(&broker->failed);
}

void lh__broker_close(struct lh_broker *broker)
{
	shutdown(broker->listener, SHUT_RDWR);
	pthread_join(broker->acceptor, NULL);
	pthread_mutex_lock(&broker->lock);
	while (broker->agents)
		pthread_cond_wait(&broker->gone, &broker->lock);
	pthread_mutex_unlock(&broker->lock);
	close(broker->listener);
	if (broker->device >= 0)
		close(broker->device);
	pthread_mutex_destroy(&broker->lock);
	pthread_cond_destroy(&broker->gone);
	free(broker);
}
