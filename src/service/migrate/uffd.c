/*
 * uffd.c - see uffd.h. One thread sees to the socket and to all machines; each machine has threads of its own
 * that do the work (engine.h). Somebody who connects and says nothing keeps new machines waiting for a few
 * seconds, those that are there notice nothing.
 */
#include "service/migrate/uffd.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/migrate/uffd_inside.h"

#define MACHINES_MAX 64u
#define REPORTS_MAX 1000u /* of machines, in the statistics */

struct server {
	const struct lh_uffd_options *options;
	int listener, wake;
	size_t machines;
	struct lh_uffd_machine *machine[MACHINES_MAX];
	uint64_t served, refused;
	json_t *reports;
	bool over;
};

static void say(const struct server *server, int process, const char *what, const char *text)
{
	char line[sizeof(((struct lh_error *)0)->text) + 64];

	lh__format(line, sizeof(line), "process %d: %s%s", process, what, text);
	server->options->say(server->options->context, line);
}

static void take_machine(struct server *server)
{
	struct lh_uffd_machine *machine;
	struct lh_handshake handshake;
	struct lh_error error;
	int result = lh__handshake_accept(server->listener, &handshake, &error);

	if (result == -EAGAIN)
		return;
	if (result == 0) {
		result = lh__uffd_machine_open(server->options, &handshake, &server->wake, &machine, &error);
		if (result < 0)
			lh__handshake_close(&handshake);
	}
	if (result < 0) {
		server->refused++;
		say(server, handshake.process, "refused: ", error.text);
		return;
	}
	server->machine[server->machines++] = machine;
	server->served++;
}

static void end_machine(struct server *server, size_t i)
{
	struct lh_uffd_machine *machine = server->machine[i];
	int process = machine->process;
	struct lh_error error;
	json_t *report = NULL;

	if (lh__uffd_machine_close(machine, &report, &error) < 0)
		say(server, process, "its recording was not written: ", error.text);
	if (json_array_size(server->reports) < REPORTS_MAX)
		json_array_append_new(server->reports, report);
	else
		json_decref(report);
	server->machine[i] = server->machine[--server->machines];
	server->over |= server->options->once;
}

static void look_at_machines(struct server *server)
{
	for (size_t i = server->machines; i-- > 0;)
		if (!lh__uffd_machine_look(server->machine[i]))
			end_machine(server, i);
}

/* Until somebody asks for an end, or the one machine has gone. */
static int serve(struct server *server, struct lh_error *error)
{
	struct pollfd poll_for[3 + MACHINES_MAX];
	uint64_t count;

	while (!server->over) {
		bool full = server->machines == (server->options->once ? 1 : MACHINES_MAX);

		poll_for[0] = (struct pollfd){ .fd = server->options->cancel, .events = POLLIN };
		poll_for[1] = (struct pollfd){ .fd = server->wake, .events = POLLIN };
		poll_for[2] = (struct pollfd){ .fd = full ? -1 : server->listener, .events = POLLIN };
		for (size_t i = 0; i < server->machines; i++)
			poll_for[3 + i] =
				(struct pollfd){ .fd = server->machine[i]->socket, .events = POLLIN };
		if (poll(poll_for, (nfds_t)(3 + server->machines), -1) < 0) {
			if (errno != EINTR)
				return lh__fail(error, -errno, "poll: %s", strerror(errno));
			continue;
		}
		if (poll_for[0].revents)
			return 0;
		if (poll_for[1].revents)
			(void)!read(server->wake, &count, sizeof(count));
		look_at_machines(server);
		if (poll_for[2].revents && !server->over)
			take_machine(server);
	}
	return 0;
}

/* What they miss from now on nobody will bring. */
static void leave_machines(struct server *server)
{
	while (server->machines) {
		struct lh_uffd_machine *machine = server->machine[server->machines - 1];

		if (lh__uffd_machine_look(machine) && !machine->complete)
			say(server, machine->process,
			    "is left before all of its memory was there, and stands still where it misses "
			    "some",
			    "");
		end_machine(server, server->machines - 1);
	}
}

static int check(const struct lh_uffd_options *options, struct lh_error *error)
{
	struct stat file;

	if (stat(options->memory, &file) != 0)
		return lh__fail(error, -errno, "%s: %s", options->memory, strerror(errno));
	if (!S_ISREG(file.st_mode) && !S_ISBLK(file.st_mode))
		return lh__fail(error, -EINVAL, "%s: is no file", options->memory);
	if (access(options->memory, R_OK) != 0)
		return lh__fail(error, -errno, "%s: %s", options->memory, strerror(errno));
	return 0;
}

int lh__uffd_serve(const struct lh_uffd_options *options, json_t **stats, struct lh_error *error)
{
	struct server server = { .options = options, .listener = -1, .wake = -1 };
	int result = check(options, error);

	*stats = NULL;
	if (result == 0)
		result = lh__handshake_listen(options->socket, &server.listener, error);
	if (result < 0)
		return result;
	server.reports = json_array();
	server.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (server.wake < 0 || !server.reports)
		result = lh__fail(error, -ENOMEM, "no memory for a server");
	if (result == 0) {
		if (options->listening)
			options->listening(options->context);
		result = serve(&server, error);
		leave_machines(&server);
	}
	*stats = json_pack("{s:I,s:I,s:o}", "machines", (json_int_t)server.served, "refused",
	                   (json_int_t)server.refused, "machine", server.reports);
	if (server.wake >= 0)
		close(server.wake);
	close(server.listener);
	unlink(options->socket);
	return result;
}
