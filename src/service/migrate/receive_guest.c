/*
 * receive_guest.c - the destination's QEMU as the receiver meets it: its handshake, its monitor, and which
 * pages its mappings are.
 *
 * The monitor does not answer while QEMU's main thread waits for a page, and after a receiver has died that
 * may be so. So where the memory lies, and with it the state file, is found out from the handshake alone: the
 * kernel tells which file the process has mapped at an address.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "service/migrate/receive_inside.h"
#include "sys/sys.h"

#define SAY_WAITING_MS 1000

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

/* ---- mappings ---- */

struct mapping {
	uint64_t start, end, offset, inode;
	unsigned major, minor;
	char path[1024];
};

static bool read_mapping(FILE *maps, struct mapping *mapping)
{
	char line[1400];
	int at = 0;

	if (!fgets(line, sizeof(line), maps))
		return false;
	line[strcspn(line, "\n")] = '\0';
	mapping->inode = 0;
	mapping->path[0] = '\0';
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*4s %" SCNx64 " %x:%x %" SCNu64 " %n", &mapping->start,
	           &mapping->end, &mapping->offset, &mapping->major, &mapping->minor, &mapping->inode, &at) < 6)
		mapping->inode = 0;
	else if (at > 0)
		snprintf(mapping->path, sizeof(mapping->path), "%s", line + at);
	return true;
}

/* The mapping at an address of a process: 0, or a negative errno. */
static int find_mapping(pid_t process, uint64_t address, struct mapping *mapping)
{
	char path[64];
	FILE *maps;
	int result = -ENOENT;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)process);
	maps = fopen(path, "re");
	if (!maps)
		return -errno;
	while (result == -ENOENT && read_mapping(maps, mapping))
		if (mapping->start <= address && address < mapping->end && mapping->inode != 0)
			result = 0;
	fclose(maps);
	return result;
}

static int find_path(struct lh_receive_home *home, struct lh_error *error)
{
	struct mapping mapping;
	int result = find_mapping(home->handshake.process, home->handshake.range[0].address, &mapping);

	if (result < 0 || mapping.path[0] != '/')
		return lh__fail(error, result < 0 ? result : -EINVAL,
		                "what is mapped at 0x%lx of process %d, which has handed its memory over, cannot be "
		                "found out: %s",
		                (unsigned long)home->handshake.range[0].address, (int)home->handshake.process,
		                result < 0 ? lh__errno_name(result) : "no file");
	memcpy(home->path, mapping.path, sizeof(home->path));
	return 0;
}

/* The region that a mapping is of. */
static const struct lh_state_region *region_of(const struct lh_state *state, const struct mapping *mapping)
{
	for (size_t i = 0; i < state->regions; i++) {
		struct stat status;

		if (stat(state->region[i].path, &status) == 0 && status.st_ino == mapping->inode &&
		    major(status.st_dev) == mapping->major && minor(status.st_dev) == mapping->minor)
			return &state->region[i];
	}
	return NULL;
}

static int number_range(const struct lh_receive_home *home, struct lh_guest_range *range,
                        struct lh_error *error)
{
	const struct lh_state_region *region;
	struct mapping mapping = { 0 };
	uint64_t offset;
	int result = find_mapping(home->handshake.process, range->address, &mapping);

	region = result == 0 ? region_of(home->state, &mapping) : NULL;
	if (!region)
		return lh__fail(error, -EINVAL,
		                "the memory at 0x%lx that has been handed over is of no memory backend of the "
		                "destination's QEMU",
		                (unsigned long)range->address);
	offset = mapping.offset + (range->address - mapping.start);
	if (offset < region->offset || (offset - region->offset) % LH_PAGE_SIZE != 0 ||
	    (offset - region->offset) / LH_PAGE_SIZE + range->pages > region->pages)
		return lh__fail(error, -EINVAL, "the memory at 0x%lx that has been handed over does not lie in %s",
		                (unsigned long)range->address, region->name);
	range->first = region->first + (offset - region->offset) / LH_PAGE_SIZE;
	return 0;
}

int lh__receive_number(struct lh_receive_home *home, struct lh_error *error)
{
	int result = 0;

	for (size_t i = 0; result == 0 && i < home->guest.ranges; i++)
		result = number_range(home, &home->guest.range[i], error);
	if (result == 0 && lh__guest_pages(&home->guest) != home->state->pages)
		return lh__fail(error, -EINVAL,
		                "QEMU has handed over %lu pages of its %lu: name each of its memory files with "
		                "--memory of linehome incoming",
		                (unsigned long)lh__guest_pages(&home->guest), (unsigned long)home->state->pages);
	return result;
}

/* ---- the handshake ---- */

static int check_handshake(const struct lh_handshake *handshake, struct lh_error *error)
{
	if (handshake->page_size != LH_PAGE_SIZE)
		return lh__fail(error, -EINVAL, "the memory has pages of %zu bytes; only those of 4096 can be moved",
		                handshake->page_size);
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

int lh__receive_await(struct lh_receive_home *home, struct lh_error *error)
{
	struct pollfd poll_for[2] = { { .events = POLLIN },
		                      { .fd = home->options->cancel, .events = POLLIN } };
	bool said = false;
	int result = lh__handshake_listen(home->options->handover, &home->listener, error);

	if (result < 0)
		return result;
	poll_for[0].fd = home->listener;
	while (!home->has_guest) {
		struct lh_error why;
		int ready = poll(poll_for, 2, said ? -1 : SAY_WAITING_MS);

		if (ready == 0 && !said) {
			said = true;
			lh__receive_say(home->options, "waiting for QEMU to hand its memory over at %s",
			                home->options->handover);
		}
		if (ready > 0 && poll_for[1].revents)
			return lh__fail(error, -ECANCELED, "cancelled");
		if (ready > 0 && poll_for[0].revents && take_handshake(home, &why) < 0)
			lh__receive_say(home->options, "%s: %s", home->options->handover, why.text);
	}
	return 0;
}

int lh__receive_machine(struct lh_receive_home *home, struct lh_error *error)
{
	int result = lh__machine_open(home->options->monitor, &home->machine, error);

	if (result < 0)
		return result;
	home->has_machine = true;
	if (home->machine.process != home->handshake.process)
		return lh__fail(error, -EINVAL,
		                "the monitor is that of process %d, but process %d has handed its memory over",
		                (int)home->machine.process, (int)home->handshake.process);
	return 0;
}

bool lh__receive_guest_left(const struct lh_receive_home *home)
{
	struct pollfd poll_for = { .fd = home->handshake.socket, .events = POLLIN | POLLRDHUP };

	return poll(&poll_for, 1, 0) > 0 && (poll_for.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}
