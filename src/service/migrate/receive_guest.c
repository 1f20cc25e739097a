/*
 * receive_guest.c - the destination's QEMU as the receiver meets it: its handshake and its monitor.
 *
 * The monitor does not answer while QEMU's main thread waits for a page, and after a receiver has died that
 * may be so. So where the memory lies, and with it the state file, is found out from the handshake alone: the
 * kernel tells which file the process has mapped at an address.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "service/code/remote.h"
#include "service/migrate/receive_inside.h"
#include "sys/sys.h"

#define SAY_WAITING_MS 1000
#define SLACK_NS UINT64_C(1000000000) /* clocks are set */

static uint64_t nanoseconds(const struct timespec *time)
{
	return (uint64_t)time->tv_sec * 1000000000 + (uint64_t)time->tv_nsec;
}

void lh__receive_say(const struct lh_receive_options *options, const char *format, ...)
{
	va_list arguments;
	char line[512];

	if (!options->say)
		return;
	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	options->say(options->context, line);
}

bool lh__receive_cancelled(const struct lh_receive_options *options)
{
	struct pollfd poll_for = { .fd = options->cancel, .events = POLLIN };

	return options->cancel >= 0 && poll(&poll_for, 1, 0) > 0;
}

void lh__receive_ours(const struct lh_receive_options *options)
{
	if (options->ours)
		options->ours(options->context);
}

/* ---- which file ---- */

struct looking {
	uint64_t address;
	char *path; /* of 1024 bytes */
};

static int is_there(void *context, const struct lh_mapping *mapping)
{
	const struct looking *looking = context;

	if (looking->address < mapping->start || looking->address >= mapping->end)
		return 0;
	if (mapping->path[0] != '/' || strlen(mapping->path) >= 1024)
		return -EINVAL;
	strcpy(looking->path, mapping->path);
	return 1;
}

static int find_path(struct lh_receive_home *home, struct lh_error *error)
{
	struct looking looking = { home->handshake.range[0].address, home->path };
	int result = lh__mappings(home->handshake.process, is_there, &looking);

	if (result > 0)
		return 0;
	return lh__fail(
		error, result < 0 ? result : -ENOENT,
		"which file is mapped at 0x%lx of process %d, which hands its memory over, cannot be found "
		"out: %s",
		(unsigned long)looking.address, (int)home->handshake.process,
		result < 0 ? lh__errno_name(result) : "none");
}

/* When a process began, in nanoseconds of the clock of files; 0: not known. */
static uint64_t beginning(pid_t process)
{
	unsigned long long ticks = 0;
	struct timespec wall, boot;
	char path[64], line[1024];
	const char *at;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)process);
	file = fopen(path, "re");
	if (!file)
		return 0;
	at = fgets(line, sizeof(line), file) ? strrchr(line, ')') : NULL;
	fclose(file);
	if (!at ||
	    sscanf(at, ") %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
	           &ticks) != 1)
		return 0;
	clock_gettime(CLOCK_REALTIME, &wall);
	clock_gettime(CLOCK_BOOTTIME, &boot);
	return nanoseconds(&wall) - nanoseconds(&boot) +
	       ticks * (1000000000u / (unsigned long long)sysconf(_SC_CLK_TCK));
}

bool lh__receive_is_younger(const struct lh_receive_home *home, const char *path)
{
	struct stat status;

	return stat(path, &status) == 0 &&
	       beginning(home->handshake.process) > nanoseconds(&status.st_mtim) + SLACK_NS;
}

/* ---- the handshake ---- */

/* -ENOTSUP: QEMU will say the same again and again. */
static int check_handshake(const struct lh_handshake *handshake, struct lh_error *error)
{
	if (handshake->page_size != LH_PAGE_SIZE)
		return lh__fail(error, -ENOTSUP,
		                "the memory of process %d has pages of %zu bytes: its file has to lie in a "
		                "tmpfs, such as /dev/shm, where they have 4096",
		                (int)handshake->process, handshake->page_size);
	if (handshake->process <= 0)
		return lh__fail(error, -EINVAL, "which process hands its memory over cannot be found out");
	return 0;
}

static int take_handshake(struct lh_receive_home *home, struct lh_error *error)
{
	int result = lh__handshake_accept(home->listener, &home->handshake, error);

	if (result < 0)
		return result;
	result = check_handshake(&home->handshake, error);
	if (result == 0)
		result = find_path(home, error);
	if (result < 0)
		lh__handshake_close(&home->handshake);
	else
		home->has_guest = true;
	return result;
}

/* What is refused may come twice a second, and is said once. 0: to be waited for again. */
static int try_handshake(struct lh_receive_home *home, struct lh_error *last, struct lh_error *error)
{
	struct lh_error why = { 0, "" };
	int result = take_handshake(home, &why);

	if (result == -ENOTSUP) {
		*error = why;
		return result;
	}
	if (result < 0 && strcmp(last->text, why.text) != 0)
		lh__receive_say(home->options, "%s: %s", home->options->handover, why.text);
	if (result < 0)
		*last = why;
	return 0;
}

int lh__receive_await(struct lh_receive_home *home, struct lh_error *error)
{
	struct pollfd poll_for[2] = { { .events = POLLIN },
		                      { .fd = home->options->cancel, .events = POLLIN } };
	struct lh_error last = { 0, "" };
	bool said = false;
	int result = lh__handshake_listen(home->options->handover, &home->listener, error);

	if (result < 0)
		return result;
	poll_for[0].fd = home->listener;
	while (result == 0 && !home->has_guest) {
		int ready = poll(poll_for, 2, said ? -1 : SAY_WAITING_MS);

		if (ready == 0 && !said) {
			said = true;
			lh__receive_say(home->options, "waiting for QEMU to hand its memory over at %s",
			                home->options->handover);
		}
		if (ready > 0 && poll_for[1].revents)
			return lh__fail(error, -ECANCELED, "cancelled");
		if (ready > 0 && poll_for[0].revents)
			result = try_handshake(home, &last, error);
	}
	return result;
}

int lh__receive_machine(struct lh_receive_home *home, struct lh_error *error)
{
	int result = lh__machine_open(home->options->monitor, &home->machine, error);

	if (result < 0)
		return result;
	home->has_machine = true;
	if (home->machine.process != home->handshake.process)
		return lh__fail(
			error, -EINVAL,
			"the monitor is that of process %d, but process %d has handed its memory over",
			(int)home->machine.process, (int)home->handshake.process);
	return 0;
}

bool lh__receive_guest_left(const struct lh_receive_home *home)
{
	struct pollfd poll_for = { .fd = home->handshake.socket, .events = POLLIN | POLLRDHUP };

	return poll(&poll_for, 1, 0) > 0 && (poll_for.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}
