/* receive_home.c - puts together the home of a guest's memory: state, place, order, measure, engine. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/migrate/receive_inside.h"
#include "service/migrate/record.h"
#include "sys/sys.h"

#define PROGRESS_NS UINT64_C(100000000)

static int open_order(struct lh_receive_home *home, struct lh_error *error)
{
	struct lh_order_options options = { .policy = home->options->policy, .pages = home->state->pages };
	uint64_t *entries = NULL;
	int result = 0;

	if (home->options->recorded)
		result = lh__record_read(home->options->recorded, LH_PAGE_SIZE, options.pages, &entries,
		                         &options.recorded_count, error);
	options.recorded = entries;
	if (result == 0)
		result = lh__order_open(&options, &home->order, error);
	free(entries);
	return result;
}

static int open_engine(struct lh_receive_home *home, struct lh_error *error)
{
	struct lh_engine_options options = { .state = home->state,
		                             .place = home->place,
		                             .order = home->order,
		                             .measure = home->measure,
		                             .page_size = LH_PAGE_SIZE,
		                             .lanes = home->lanes,
		                             .bandwidth = home->bandwidth,
		                             .record = home->options->record != NULL };
	struct lh_guest guest = home->guest;
	int result = lh__engine_open(&options, &home->engine, error);

	if (result < 0)
		return result;
	guest.fd =
		fcntl(home->guest.fd, F_DUPFD_CLOEXEC, 0); /* the engine's own: another engine may follow */
	if (guest.fd < 0)
		return lh__fail(error, -errno, "no descriptor is free: %s", lh__errno_name(errno));
	return lh__engine_guest(home->engine, &guest, error);
}

/* With a descriptor of its own: the handshake's may be used once more. */
static int open_guest(struct lh_receive_home *home, struct lh_error *error)
{
	struct lh_handshake handshake = home->handshake;
	int result = lh__handshake_arrange(&handshake, home->state->region, home->state->regions, error);

	if (result < 0)
		return result;
	handshake.fd = fcntl(home->handshake.fd, F_DUPFD_CLOEXEC, 0);
	if (handshake.fd < 0)
		return lh__fail(error, -errno, "no descriptor is free: %s", lh__errno_name(errno));
	result = lh__handshake_guest(&handshake, home->state->pages, &home->guest, error);
	if (result < 0)
		close(handshake.fd);
	return result;
}

int lh__receive_home_open(struct lh_receive_home *home, bool fresh, unsigned lanes, uint64_t bandwidth,
                          struct lh_error *error)
{
	int result;

	home->lanes = lanes;
	home->bandwidth = bandwidth;
	result = open_guest(home, error);
	if (result == 0)
		result = lh__place_files(home->state, fresh, &home->place, error);
	if (result == 0)
		result = open_order(home, error);
	if (result == 0 && lh__measure_open(&home->measure) < 0)
		result = lh__fail(error, -ENOMEM, "no memory");
	return result < 0 ? result : open_engine(home, error);
}

int lh__receive_home_lanes(struct lh_receive_home *home, unsigned lanes, struct lh_error *error)
{
	int result;

	lh__engine_close(home->engine);
	home->engine = NULL;
	home->lanes = lanes;
	result = open_engine(home, error);
	if (result == 0 && lh__engine_answer(home->engine, NULL) < 0)
		return lh__fail(error, -ENOMEM, "no thread to answer faults");
	return result;
}

int lh__receive_record(struct lh_receive_home *home, struct lh_error *error)
{
	uint64_t *misses;
	size_t n;
	int result;

	if (!home->options->record || !home->engine || home->recorded)
		return 0;
	home->recorded = true;
	result = lh__engine_misses(home->engine, &misses, &n);
	if (result < 0)
		return lh__fail(error, result, "what was missed cannot be recorded: %s",
		                lh__errno_name(result));
	result = lh__record_write(home->options->record, LH_PAGE_SIZE, home->state->pages, misses, n, error);
	free(misses);
	return result;
}

void lh__receive_home_forget(struct lh_receive_home *home)
{
	if (home->engine)
		lh__engine_close(home->engine);
	if (home->order)
		home->order->ops->close(home->order);
	if (home->place)
		home->place->ops->close(home->place);
	if (home->measure)
		lh__measure_close(home->measure);
	if (home->guest.ranges > 0)
		lh__guest_close(&home->guest);
	home->engine = NULL;
	home->order = NULL;
	home->place = NULL;
	home->measure = NULL;
	home->guest.ranges = 0;
}

void lh__receive_home_end(struct lh_receive_home *home, bool remove)
{
	lh__receive_home_forget(home);
	lh__state_close(home->state, remove);
	home->state = NULL;
}

void lh__receive_home_close(struct lh_receive_home *home)
{
	lh__receive_home_forget(home);
	if (home->has_guest)
		lh__handshake_close(&home->handshake);
	if (home->has_machine)
		lh__machine_close(&home->machine);
	if (home->listener >= 0) {
		close(home->listener);
		unlink(home->options->handover);
	}
}

void lh__receive_progress(struct lh_receive_home *home, enum lh_move_phase phase, unsigned round,
                          bool connected, uint64_t *progressed)
{
	uint64_t now = lh__clock(NULL);
	struct lh_engine_counts counts;
	struct lh_measured measured;
	struct lh_progress progress = { .phase = phase, .round = round, .connected = connected };

	if (!home->options->progress || !home->engine || now - *progressed < PROGRESS_NS)
		return;
	*progressed = now;
	lh__engine_counts(home->engine, &counts);
	lh__measure_read(home->measure, now, &measured);
	progress.pages = counts.pages;
	progress.here = counts.fresh + counts.zero;
	progress.stale = counts.pages - progress.here;
	progress.faults_a_second = measured.faults_a_second;
	progress.bytes_a_second = counts.bytes_a_second;
	progress.left_ms = counts.bytes_a_second
	                           ? progress.stale * LH_PAGE_SIZE * 1000 / counts.bytes_a_second
	                           : UINT64_MAX;
	home->options->progress(home->options->context, &progress);
}
