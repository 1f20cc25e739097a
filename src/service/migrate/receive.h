/*
 * receive.h - the receiver: the side of the machine where a guest goes on.
 *
 * Takes the memory of the waiting QEMU by the handshake, and one migration from a sender. The state file lies
 * beside the guest's memory (the first region's path with ".linehome" behind it): a receiver that finds one
 * of this guest whose phase is past copying goes on with it.
 */
#ifndef LH_MIGRATE_RECEIVE_H
#define LH_MIGRATE_RECEIVE_H

#include <jansson.h>

#include "service/migrate/order.h"
#include "service/migrate/send.h"

struct lh_receive_options {
	const char *monitor;  /* of the destination QEMU */
	const char *handover; /* path of the socket of the handshake */
	const char *listen;   /* URL */
	const char *key_file; /* or NULL */
	enum lh_order_policy policy;
	const char *recorded; /* policy recorded */
	const char *record;   /* or NULL */
	int cancel;           /* readable: end, if the guest does not need us; -1 */
	/* Whether nobody is left who would start a sender or receiver again; may be NULL. */
	bool (*alone)(void *context);
	/* The guest is ours: to be killed is safe from here on, another call goes on; may be NULL. */
	void (*ours)(void *context);
	/* Where we listen, once; may be NULL. */
	void (*listening)(void *context, const char *url);
	void (*progress)(void *context, const struct lh_progress *progress);
	void (*say)(void *context, const char *line);
	void *context;
};

/*
 * The whole of it. 0: all is here. -ECANCELED: given up before the guest was ours, by either side. Other
 * errors: error says where the guest is. *stats as in lh__send.
 */
int lh__receive(const struct lh_receive_options *options, json_t **stats,
                struct lh_error *error) LH_MUST_CHECK;

#endif
