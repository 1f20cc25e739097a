/*
 * receive_gate.c - who connects to a receiver, and what is answered.
 *
 * Threads of their own take connections, several, so that some that say nothing (for two seconds, then they
 * are refused) hold up nobody else. What they decide, and what the receiver's own thread does to the phase,
 * is under one lock: a sender that is told that a guest
 * never left it may let it run, so from then on it must not be taken over here, whatever still arrives on
 * earlier connections.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "service/migrate/receive_inside.h"
#include "sys/sys.h"

#define DOORS 8u /* connections that may be on their way to a hello at a time */

struct lh_receive_gate {
	struct lh_channel_listener *listener;
	char url[320];
	pthread_t thread[DOORS];
	unsigned threads;
	int stop; /* readable: the threads end */

	pthread_mutex_t lock;
	pthread_cond_t arrived;
	/* Under the lock. */
	struct known {
		bool taken;    /* by the migration `id` */
		bool replaced; /* its end is known, another may take its place */
		uint8_t id[LH_MOVE_ID];
		enum lh_move_phase phase;
		uint32_t incarnation;
	} known;
	struct lh_channel *control; /* that nobody has fetched yet */
	struct lh_move_hello hello;
	struct lh_channel *lane[LH_RECEIVE_LANES_MAX];
	unsigned lanes;
	bool wanted; /* by another migration, since this one's guest never ran here */
	char refused[252];
};

static void close_waiting(struct lh_receive_gate *gate)
{
	if (gate->control)
		lh__channel_close(gate->control);
	gate->control = NULL;
	while (gate->lanes > 0)
		lh__channel_close(gate->lane[--gate->lanes]);
}

static void begin(struct lh_receive_gate *gate, const struct lh_move_hello *hello)
{
	memcpy(gate->known.id, hello->id, LH_MOVE_ID);
	gate->known.taken = true;
	gate->known.replaced = false;
	gate->known.phase = LH_MOVE_COPYING;
	gate->known.incarnation = hello->incarnation;
}

static enum lh_move_status judge_control(struct lh_receive_gate *gate, const struct lh_move_hello *hello)
{
	bool same = gate->known.taken && memcmp(gate->known.id, hello->id, LH_MOVE_ID) == 0;

	if (same) {
		if (hello->incarnation <= gate->known.incarnation)
			return LH_MOVE_OLD;
		gate->known.incarnation = hello->incarnation;
		if (gate->known.phase == LH_MOVE_COPYING)
			gate->known.phase = LH_MOVE_RETURNED;
		return LH_MOVE_OK;
	}
	if (hello->phase != LH_MOVE_COPYING)
		return gate->known.taken && !gate->known.replaced ? LH_MOVE_BUSY : LH_MOVE_UNKNOWN;
	if (gate->known.taken && !gate->known.replaced)
		return LH_MOVE_BUSY;
	begin(gate, hello);
	return LH_MOVE_OK;
}

static enum lh_move_status judge_lane(const struct lh_receive_gate *gate, const struct lh_move_hello *hello)
{
	if (!gate->known.taken || memcmp(gate->known.id, hello->id, LH_MOVE_ID) != 0)
		return LH_MOVE_UNKNOWN;
	if (hello->incarnation != gate->known.incarnation)
		return LH_MOVE_OLD;
	return gate->lanes < LH_RECEIVE_LANES_MAX ? LH_MOVE_OK : LH_MOVE_BUSY;
}

/* Under the lock. */
static enum lh_move_status judge(struct lh_receive_gate *gate, const struct lh_move_hello *hello)
{
	if (hello->what == LH_MOVE_CONTROL)
		return judge_control(gate, hello);
	return judge_lane(gate, hello);
}

static void keep(struct lh_receive_gate *gate, struct lh_channel *channel, const struct lh_move_hello *hello)
{
	if (hello->what == LH_MOVE_CONTROL) {
		close_waiting(gate);
		gate->control = channel;
		gate->hello = *hello;
	} else {
		gate->lane[gate->lanes++] = channel;
		if (hello->what == LH_MOVE_FAULTS) { /* the first of all */
			gate->lane[gate->lanes - 1] = gate->lane[0];
			gate->lane[0] = channel;
		}
	}
	pthread_cond_signal(&gate->arrived);
}

static void refuse(struct lh_receive_gate *gate, enum lh_move_status status)
{
	static const char *const why[] = {
		[LH_MOVE_BUSY] = "another migration is under way here",
		[LH_MOVE_UNKNOWN] = "it goes on with a migration that is not known here",
		[LH_MOVE_OLD] = "it is of a sender that another has taken over from",
	};

	snprintf(gate->refused, sizeof(gate->refused), "refused a sender: %s", why[status]);
}

static void answer(struct lh_receive_gate *gate, struct lh_channel *channel,
                   const struct lh_move_hello *hello)
{
	struct lh_move_hello ours = { .version = LH_MOVE_VERSION };
	struct known before;

	pthread_mutex_lock(&gate->lock);
	before = gate->known;
	ours.what = judge(gate, hello);
	ours.phase = gate->known.taken ? gate->known.phase : LH_MOVE_COPYING;
	ours.incarnation = gate->known.incarnation;
	memcpy(ours.id, hello->id, LH_MOVE_ID);
	if (lh__channel_answer(channel, &ours) == 0 && ours.what == LH_MOVE_OK) {
		keep(gate, channel, hello);
		channel = NULL;
	} else if (ours.what != LH_MOVE_OK) {
		refuse(gate, ours.what);
		gate->wanted |= ours.what == LH_MOVE_BUSY && gate->known.phase == LH_MOVE_RETURNED;
	} else if (memcmp(before.id, gate->known.id, LH_MOVE_ID) != 0) {
		gate->known = before; /* one that begins, and has gone already */
	}
	pthread_mutex_unlock(&gate->lock);
	if (channel)
		lh__channel_close(channel);
}

static void *accept_all(void *context)
{
	struct lh_receive_gate *gate = context;
	struct pollfd poll_for[] = { { .fd = lh__channel_listener_fd(gate->listener), .events = POLLIN },
		                     { .fd = gate->stop, .events = POLLIN } };

	for (;;) {
		struct lh_channel *channel;
		struct lh_move_hello hello;
		struct lh_error error = { 0, "" };
		int result;

		if (poll(poll_for, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (poll_for[1].revents)
			return NULL;
		if (!poll_for[0].revents)
			continue;
		result = lh__channel_accept(gate->listener, &channel, &hello, &error);
		if (result == 0)
			answer(gate, channel, &hello);
		if (result == 0 || result == -EAGAIN) /* another thread has it */
			continue;
		pthread_mutex_lock(&gate->lock);
		snprintf(gate->refused, sizeof(gate->refused), "refused a connection: %.220s", error.text);
		pthread_mutex_unlock(&gate->lock);
	}
}

static void know(struct lh_receive_gate *gate, const struct lh_state *state)
{
	if (!state)
		return;
	gate->known.taken = true;
	memcpy(gate->known.id, state->id, LH_MOVE_ID);
	gate->known.phase = lh__state_phase(state);
	gate->known.replaced = gate->known.phase == LH_MOVE_RETURNED;
}

static int open_lock(struct lh_receive_gate *gate)
{
	pthread_condattr_t attributes;
	int result = -pthread_mutex_init(&gate->lock, NULL);

	if (result != 0)
		return result;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	result = -pthread_cond_init(&gate->arrived, &attributes);
	pthread_condattr_destroy(&attributes);
	return result;
}

static void end_threads(struct lh_receive_gate *gate)
{
	(void)!eventfd_write(gate->stop, 1);
	while (gate->threads > 0)
		pthread_join(gate->thread[--gate->threads], NULL);
}

static int start(struct lh_receive_gate *gate, struct lh_error *error)
{
	int listener = lh__channel_listener_fd(gate->listener);
	int result = open_lock(gate);

	gate->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* All see that somebody is there, one takes him. */
	if (result == 0 && (gate->stop < 0 || fcntl(listener, F_SETFL, O_NONBLOCK) < 0))
		result = -errno;
	while (result == 0 && gate->threads < DOORS) {
		result = -pthread_create(&gate->thread[gate->threads], NULL, accept_all, gate);
		gate->threads += result == 0;
	}
	if (result == 0)
		return 0;
	if (gate->stop >= 0) {
		end_threads(gate);
		close(gate->stop);
	}
	return lh__fail(error, result, "no thread to take connections: %s", lh__errno_name(result));
}

int lh__receive_gate_open(const struct lh_receive_options *options, const struct lh_state *state,
                          struct lh_receive_gate **out, struct lh_error *error)
{
	struct lh_receive_gate *gate = calloc(1, sizeof(*gate));
	int result;

	if (!gate)
		return lh__fail(error, -ENOMEM, "no memory");
	know(gate, state);
	result = lh__channel_listen(options->listen, options->key_file, &gate->listener, gate->url, error);
	if (result == 0) {
		result = start(gate, error);
		if (result < 0)
			lh__channel_listener_close(gate->listener);
	}
	if (result < 0)
		free(gate);
	else
		*out = gate;
	return result;
}

const char *lh__receive_gate_url(const struct lh_receive_gate *gate)
{
	return gate->url;
}

struct lh_channel *lh__receive_gate_control(struct lh_receive_gate *gate, int timeout_ms,
                                            struct lh_move_hello *hello)
{
	struct lh_channel *channel;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)timeout_ms % 1000 * 1000000;
	until.tv_sec += timeout_ms / 1000 + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&gate->lock);
	while (!gate->control && timeout_ms > 0 &&
	       pthread_cond_timedwait(&gate->arrived, &gate->lock, &until) == 0)
		;
	channel = gate->control;
	*hello = gate->hello;
	gate->control = NULL;
	pthread_mutex_unlock(&gate->lock);
	return channel;
}

bool lh__receive_gate_lanes(struct lh_receive_gate *gate, unsigned lanes, struct lh_channel **channel)
{
	bool all;

	pthread_mutex_lock(&gate->lock);
	all = gate->lanes == lanes && !gate->control;
	if (all) {
		memcpy(channel, gate->lane, lanes * sizeof(*channel));
		gate->lanes = 0;
	}
	pthread_mutex_unlock(&gate->lock);
	return all;
}

void lh__receive_gate_phase(struct lh_receive_gate *gate, enum lh_move_phase phase)
{
	pthread_mutex_lock(&gate->lock);
	gate->known.phase = phase;
	pthread_mutex_unlock(&gate->lock);
}

bool lh__receive_gate_go(struct lh_receive_gate *gate, struct lh_state *state)
{
	bool may;

	pthread_mutex_lock(&gate->lock);
	may = gate->known.phase == LH_MOVE_COPYING;
	if (may) {
		lh__state_set_phase(state, LH_MOVE_GONE);
		gate->known.phase = LH_MOVE_GONE;
	}
	pthread_mutex_unlock(&gate->lock);
	return may;
}

void lh__receive_gate_reset(struct lh_receive_gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	gate->known.taken = false;
	close_waiting(gate);
	pthread_mutex_unlock(&gate->lock);
}

bool lh__receive_gate_refused(struct lh_receive_gate *gate, char line[252])
{
	bool refused;

	pthread_mutex_lock(&gate->lock);
	refused = gate->refused[0] != '\0';
	memcpy(line, gate->refused, sizeof(gate->refused));
	gate->refused[0] = '\0';
	pthread_mutex_unlock(&gate->lock);
	return refused;
}

bool lh__receive_gate_wanted(struct lh_receive_gate *gate)
{
	bool wanted;

	pthread_mutex_lock(&gate->lock);
	wanted = gate->wanted;
	pthread_mutex_unlock(&gate->lock);
	return wanted;
}

void lh__receive_gate_close(struct lh_receive_gate *gate)
{
	end_threads(gate);
	close_waiting(gate);
	lh__channel_listener_close(gate->listener);
	close(gate->stop);
	pthread_cond_destroy(&gate->arrived);
	pthread_mutex_destroy(&gate->lock);
	free(gate);
}
