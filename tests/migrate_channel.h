/*
 * migrate_channel.h - both ends of channels in one process, for tests and benchmarks.
 */
#ifndef MIGRATE_CHANNEL_H
#define MIGRATE_CHANNEL_H

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "folder.h"
#include "service/migrate/channel.h"

struct pair {
	struct lh_channel *sender, *receiver;
	struct lh_error sender_error, receiver_error;
	int sender_result, receiver_result;
	struct lh_move_hello hello, answer;
	enum lh_move_status status; /* to be answered */
};

struct pair_accept {
	struct pair *pair;
	struct lh_channel_listener *listener;
};

static void *pair_accept(void *argument)
{
	struct pair_accept *accept = argument;
	struct pair *pair = accept->pair;
	struct lh_move_hello answer = { .version = LH_MOVE_VERSION, .what = pair->status };
	struct pollfd poll_fd = { .fd = lh__channel_listener_fd(accept->listener), .events = POLLIN };

	(void)poll(&poll_fd, 1, 5000);
	pair->receiver_result =
		lh__channel_accept(accept->listener, &pair->receiver, &pair->hello, &pair->receiver_error);
	if (pair->receiver_result == 0)
		pair->receiver_result = lh__channel_answer(pair->receiver, &answer);
	return NULL;
}

/* Connects to url with the sender's key, and takes that at the listener. */
static void pair_connect(struct pair *pair, struct lh_channel_listener *listener, const char *url,
                         const char *key_file, enum lh_move_channel_kind kind)
{
	struct lh_move_hello hello = { LH_MOVE_VERSION, kind, { 1 }, LH_MOVE_COPYING, 1 };
	struct pair_accept accept = { pair, listener };
	struct lh_channel_target target;
	pthread_t thread;

	pthread_create(&thread, NULL, pair_accept, &accept);
	pair->sender_result = lh__channel_target(url, key_file, &target, &pair->sender_error);
	if (pair->sender_result == 0)
		pair->sender_result = lh__channel_connect(&target, &hello, 4000, &pair->sender, &pair->answer,
		                                          &pair->sender_error);
	pthread_join(thread, NULL);
}

static void pair_close(struct pair *pair)
{
	/* One that has failed does not linger, and one that has something to read from does. */
	if (pair->sender)
		lh__channel_break(pair->sender);
	if (pair->receiver)
		lh__channel_break(pair->receiver);
	lh__channel_close(pair->sender);
	lh__channel_close(pair->receiver);
}

/* A new pair over listen_url; false: it could not be made. */
__attribute__((unused)) static int pair_open(struct pair *pair, const char *listen_url, const char *key_file,
                                             enum lh_move_channel_kind kind)
{
	struct lh_channel_listener *listener;
	char bound[320];

	memset(pair, 0, sizeof *pair);
	if (lh__channel_listen(listen_url, key_file, &listener, bound, &pair->receiver_error))
		return 0;
	pair_connect(pair, listener, bound, key_file, kind);
	lh__channel_listener_close(listener);
	if (pair->sender_result == 0 && pair->receiver_result == 0)
		return 1;
	pair_close(pair);
	return 0;
}

#endif
