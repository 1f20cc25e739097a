/*
 * uffd_inside.h - what the files of linehome serve-uffd's handler share.
 *
 *     uffd.c          the socket, and machines that come and go
 *     uffd_machine.c  one machine: the home of its memory, with the file for a supply
 */
#ifndef LH_MIGRATE_UFFD_INSIDE_H
#define LH_MIGRATE_UFFD_INSIDE_H

#include "service/migrate/engine.h"
#include "service/migrate/handshake.h"
#include "service/migrate/uffd.h"

struct lh_uffd_machine {
	const struct lh_uffd_options *options;
	int socket;
	pid_t process;
	size_t page_size;
	uint64_t pages;
	struct lh_state *state;
	struct lh_place *place;
	struct lh_order *order;
	struct lh_measure *measure;
	struct lh_engine *engine;
	bool complete, broken; /* and that has been noticed */
};

/* Takes over the handshake on success. wake: an eventfd, written to when there may be something to notice. */
int lh__uffd_machine_open(const struct lh_uffd_options *options, struct lh_handshake *handshake, int *wake,
                          struct lh_uffd_machine **out, struct lh_error *error) LH_MUST_CHECK;
/* Notices what has become of it; false: its process has ended. */
bool lh__uffd_machine_look(struct lh_uffd_machine *machine);
/* Ends it, writes its recording if one is wanted (error says why it could not: a negative result). */
int lh__uffd_machine_close(struct lh_uffd_machine *machine, json_t **stats, struct lh_error *error);

#endif
