/* uffd_machine.c - see uffd_inside.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/migrate/record.h"
#include "service/migrate/supply.h"
#include "service/migrate/uffd_inside.h"

#define LANES 2u

/* ---- its parts ---- */

static int count_pages(struct lh_uffd_machine *machine, struct lh_error *error)
{
	const char *path = machine->options->memory;
	struct stat file;

	if (stat(path, &file) != 0)
		return lh__fail(error, -errno, "%s: %s", path, strerror(errno));
	machine->pages = (uint64_t)file.st_size / machine->page_size;
	if (machine->pages == 0)
		return lh__fail(error, -EINVAL, "%s: has not one page of %zu bytes", path,
		                machine->page_size);
	return 0;
}

static int make_order(struct lh_uffd_machine *machine, struct lh_error *error)
{
	const struct lh_uffd_options *options = machine->options;
	struct lh_order_options order = { .policy = options->policy, .pages = machine->pages };
	uint64_t *entries = NULL;
	int result = 0;

	if (options->recorded)
		result = lh__record_read(options->recorded, machine->page_size, machine->pages, &entries,
		                         &order.recorded_count, error);
	order.recorded = entries;
	if (result == 0)
		result = lh__order_open(&order, &machine->order, error);
	free(entries);
	return result;
}

static int make_parts(struct lh_uffd_machine *machine, struct lh_error *error)
{
	static const uint8_t id[LH_MOVE_ID];
	struct lh_state_region region = { .name = "memory", .pages = machine->pages };
	int result = make_order(machine, error);

	if (result == 0)
		result = lh__state_create(NULL, id, &region, 1, &machine->state, error);
	if (result < 0)
		return result;
	result = lh__place_copy(&machine->place);
	if (result == 0)
		result = lh__measure_open(&machine->measure);
	return result < 0 ? lh__fail(error, result, "no memory for a machine") : 0;
}

static void wake_up(void *context)
{
	uint64_t one = 1;

	(void)!write(*(int *)context, &one, sizeof(one));
}

static int start(struct lh_uffd_machine *machine, int *wake, struct lh_error *error)
{
	const struct lh_supply_file file = { machine->options->memory, 0,
		                             machine->pages * machine->page_size };
	struct lh_engine_options options = {
		.state = machine->state,
		.place = machine->place,
		.order = machine->order,
		.measure = machine->measure,
		.page_size = machine->page_size,
		.lanes = LANES,
		.record = machine->options->record != NULL,
		.changed = wake_up,
		.context = wake,
	};
	struct lh_supply *supply;
	int result = lh__engine_open(&options, &machine->engine, error);

	if (result == 0)
		result = lh__supply_files(&file, 1, machine->page_size, LANES, NULL, &supply, error);
	if (result == 0)
		lh__engine_supply(machine->engine, supply);
	return result;
}

static void free_parts(struct lh_uffd_machine *machine)
{
	lh__engine_close(machine->engine);
	if (machine->order)
		machine->order->ops->close(machine->order);
	if (machine->place)
		machine->place->ops->close(machine->place);
	if (machine->state)
		lh__state_close(machine->state, true);
	if (machine->measure)
		lh__measure_close(machine->measure);
	free(machine);
}

/* ---- a machine's life ---- */

static int take_over(struct lh_uffd_machine *machine, struct lh_handshake *handshake, struct lh_error *error)
{
	struct lh_guest guest;
	int result = lh__handshake_guest(handshake, machine->pages, &guest, error);

	if (result < 0)
		return result;
	result = lh__engine_guest(machine->engine, &guest, error);
	if (result < 0) {
		lh__guest_close(&guest);
		return result;
	}
	machine->socket = handshake->socket;
	handshake->socket = -1;
	lh__measure_runs(machine->measure, lh__clock(NULL));
	result = lh__engine_answer(machine->engine, NULL);
	return result < 0 ? lh__fail(error, result, "the machine's memory cannot be served") : 0;
}

int lh__uffd_machine_open(const struct lh_uffd_options *options, struct lh_handshake *handshake, int *wake,
                          struct lh_uffd_machine **out, struct lh_error *error)
{
	struct lh_uffd_machine *machine = calloc(1, sizeof(*machine));
	int result;

	if (!machine)
		return lh__fail(error, -ENOMEM, "no memory for a machine");
	machine->options = options;
	machine->socket = -1;
	machine->process = handshake->process;
	machine->page_size = handshake->page_size;
	result = count_pages(machine, error);
	if (result == 0 && handshake->range[0].inode)
		result = lh__fail(error, -EINVAL,
		                  "it is a QEMU under linehome incoming, whose memory alone is not enough: "
		                  "linehome migrate --from-snapshot brings all of a machine");
	if (result == 0)
		result = make_parts(machine, error);
	if (result == 0)
		result = start(machine, wake, error);
	if (result == 0)
		result = take_over(machine, handshake, error);
	if (result == 0) {
		*out = machine;
		return 0;
	}
	if (machine->socket >= 0)
		close(machine->socket);
	free_parts(machine);
	return result;
}

/* What is said on the socket is of no concern; that it ends is. */
static bool has_hung_up(int socket)
{
	char bytes[64];
	ssize_t n = recv(socket, bytes, sizeof(bytes), MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

bool lh__uffd_machine_look(struct lh_uffd_machine *machine)
{
	const struct lh_uffd_options *options = machine->options;
	unsigned is = lh__engine_wait(machine->engine,
	                              LH_ENGINE_COMPLETE | LH_ENGINE_BROKEN | LH_ENGINE_GUEST_LEFT, 0);
	char line[160];

	if (is & LH_ENGINE_COMPLETE && !machine->complete) {
		machine->complete = true;
		lh__measure_complete(machine->measure, lh__clock(NULL));
	}
	if (is & LH_ENGINE_BROKEN && !machine->broken) {
		machine->broken = true;
		lh__format(line, sizeof(line),
		           "process %d: its memory file cannot be read any more; it stands still",
		           (int)machine->process);
		options->say(options->context, line);
	}
	return !(is & LH_ENGINE_GUEST_LEFT) && !has_hung_up(machine->socket);
}

/* ---- what was done ---- */

static json_t *integer(uint64_t value)
{
	return json_integer((json_int_t)value);
}

static json_t *faults(const struct lh_measured *measured)
{
	static const char *const name[] = {
		[LH_FAULT_FAR] = "far", [LH_FAULT_HERE] = "here", [LH_FAULT_ZERO] = "zero"
	};
	json_t *object = json_object();
	uint64_t total = 0;

	for (unsigned i = 0; i < LH_FAULT_CAUSES; i++) {
		total += measured->faults[i];
		json_object_set_new(object, name[i],
		                    json_pack("{s:o,s:f,s:f,s:f,s:f}", "count", integer(measured->faults[i]),
		                              "p50_us", (double)measured->p50[i] / 1e3, "p90_us",
		                              (double)measured->p90[i] / 1e3, "p99_us",
		                              (double)measured->p99[i] / 1e3, "max_us",
		                              (double)measured->max[i] / 1e3));
	}
	json_object_set_new(object, "total", integer(total));
	return object;
}

static json_t *statistics(struct lh_uffd_machine *machine)
{
	struct lh_engine_counts counts;
	struct lh_measured measured;

	lh__engine_counts(machine->engine, &counts);
	lh__measure_read(machine->measure, lh__clock(NULL), &measured);
	return json_pack("{s:i,s:s,s:I,s:o,s:o,s:o,s:o,s:f}", "process", (int)machine->process, "result",
	                 machine->complete ? "complete" : "left", "page_size", (json_int_t)machine->page_size,
	                 "pages",
	                 json_pack("{s:o,s:o,s:o,s:o}", "all", integer(counts.pages), "here",
	                           integer(counts.fresh), "discarded", integer(counts.discarded), "hinted",
	                           integer(counts.hinted)),
	                 "bytes",
	                 json_pack("{s:o,s:o}", "faults", integer(counts.bytes_faults), "background",
	                           integer(counts.bytes_background)),
	                 "faults", faults(&measured), "run_to_complete_ms",
	                 measured.run_to_complete == UINT64_MAX
	                         ? json_null()
	                         : json_real((double)measured.run_to_complete / 1e6),
	                 "stalled_ms", (double)measured.stalled / 1e6);
}

static int write_recording(struct lh_uffd_machine *machine, struct lh_error *error)
{
	uint64_t *pages = NULL;
	size_t n;
	int result;

	if (!machine->options->record)
		return 0;
	result = lh__engine_misses(machine->engine, &pages, &n);
	if (result < 0)
		return lh__fail(error, result, "no memory for a recording");
	result = lh__record_write(machine->options->record, machine->page_size, machine->pages, pages, n,
	                          error);
	free(pages);
	return result;
}

int lh__uffd_machine_close(struct lh_uffd_machine *machine, json_t **stats, struct lh_error *error)
{
	int result;

	lh__engine_halt(machine->engine);
	result = write_recording(machine, error);
	*stats = statistics(machine);
	close(machine->socket);
	free_parts(machine);
	return result;
}
