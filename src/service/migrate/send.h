/*
 * send.h - the sender: the side of the machine that a guest leaves.
 *
 *     connect          hello, PLAN; the receiver is ready
 *     rounds           the watch finds what was written, the receiver fetches it, until little is left or it
 *                      does
 *                      not get less; the guest runs all the time        (mode postcopy: none)
 *     switch-over      QEMU saves its device state (the guest stands still); STOP, DEVICE; last scan; sets,
 *                      GO
 *     after            pages are given until the receiver says DONE
 *
 * Until GO has been sent every failure, and cancelling, leaves the guest running here as if nothing had been.
 * After it the guest is the receiver's, and this side keeps the memory and gives pages, connecting again and
 * again, until all is there. Whether GO has arrived where the connection broke meanwhile the receiver says
 * when it is reached again; until then the guest stands still on both sides, and the message says so.
 *
 * What has been decided stands in a small file beside the guest's memory (state.h with no pages' sets to
 * speak of, only id and phase), so that a sender that was killed is taken over by another.
 */
#ifndef LH_MIGRATE_SEND_H
#define LH_MIGRATE_SEND_H

#include <jansson.h>

#include "service/migrate/channel.h"
#include "service/migrate/plan.h"

/* What a sender does before pages come, and after the last round. */
enum lh_progress_step { LH_PROGRESS_PAGES, LH_PROGRESS_CONNECTS, LH_PROGRESS_SWITCHES };

struct lh_progress {
	enum lh_progress_step step;
	enum lh_move_phase phase;
	unsigned round;
	bool connected; /* to the other side */
	uint64_t pages, here;
	uint64_t stale; /* pages of this round that are still to come */
	uint64_t faults_a_second, bytes_a_second;
	uint64_t left_ms; /* estimate until all is there; UINT64_MAX: not known */
};

struct lh_send_options {
	const char *monitor; /* of the source QEMU */
	const struct lh_channel_target *target;
	bool postcopy;
	unsigned parallel;    /* channels of data */
	uint64_t bandwidth;   /* bytes a second; 0: none */
	unsigned downtime_ms; /* rounds end where what is left can be fetched in so long */
	int cancel;           /* readable: give up, if it is not too late; -1 */
	/*
	 * Whether nobody is left who would start a sender or receiver again; may be NULL. Once the guest has
	 * been given away we then end with -EOWNERDEAD, and leave it to another call to go on.
	 */
	bool (*alone)(void *context);
	/* At each step, and about each 100 ms, from the calling thread; may be NULL. */
	void (*progress)(void *context, const struct lh_progress *progress);
	/* One line for a person: something happened that he will want to know; from the calling thread. */
	void (*say)(void *context, const char *line);
	void *context;
};

/*
 * The whole of it. 0: all is at the destination; *stats gets what was done (an object; the caller's).
 * -ECANCELED: cancelled, the guest runs here. Other errors: error says where the guest is.
 */
int lh__send(const struct lh_send_options *options, json_t **stats, struct lh_error *error) LH_MUST_CHECK;
/*
 * For whoever watches over a sender that has died: where the guest stands still through it and has not been
 * given away, it runs again. 0: it is right now; 1: it has been given away: lh__send again goes on.
 */
int lh__send_recover(const char *monitor, struct lh_error *error) LH_MUST_CHECK;
/*
 * Whether the guest of the first monitor has been moved, with all of its memory, and that of the second runs:
 * then there is nothing left to do, and what a sender that was killed has left is removed.
 */
bool lh__send_is_over(const char *source, const char *destination);

#endif
