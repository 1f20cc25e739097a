/*
 * fuzz_inside.h - what the parts of lh_cover_* know of each other (include/linehome.h says what they are).
 *
 *     fuzz.c        opens and closes: a session whose program stays as a fork server
 *     fuzz_run.c    runs
 *     fuzz_news.c   what a run has reached that none had before
 *     fuzz_where.c  functions and lines of source
 */
#ifndef LH_SERVICE_CODE_FUZZ_INSIDE_H
#define LH_SERVICE_CODE_FUZZ_INSIDE_H

#include "service/code/session_inside.h"

/* A file that is watched: what of it has run so far, and where it is in the server. */
struct lh_fuzz_file {
	const struct lh_session_file *file;
	uint64_t *seen[LH_PLAN_TEXTS];
	uint64_t start[LH_PLAN_TEXTS]; /* 0: it is not mapped there */
	struct lh_fuzz_file *next;
};

struct lh_fuzz_names; /* fuzz_where.c */

struct lh_cover {
	struct lh_session *session;
	struct lh_record *record;
	const char *program;
	int input;    /* the file, */
	int standard; /* and the same as runs have it, with an offset of its own */
	int nothing;  /* /dev/null */
	int socket;   /* to the server */
	int theirs;   /* the server's end, until it has it */
	unsigned timeout_ms;
	bool each;
	bool ended; /* the server, with this status */
	int status;
	void (*say)(void *context, const char *text);
	void *context;
	char said[252]; /* the last thing that could not be watched */

	struct lh_fuzz_file *files;
	uint64_t *at_word, at_bit; /* where the record has the block with which runs begin */
	uint64_t traps, calls;     /* counters as they were at the last look */
	struct lh_cover_place *news;
	size_t count, room, blocks;
	struct lh_fuzz_names *names;
};

/* ---- fuzz_run.c ---- */
/* The server's next message, served meanwhile what the program asks. -ECHILD: it has ended; -ETIMEDOUT. */
int lh__fuzz_await(struct lh_cover *cover, unsigned milliseconds, struct lh_serve_status *status,
                   struct lh_error *error) LH_MUST_CHECK;

/* ---- fuzz_news.c ---- */
/* Where the watched files are in the server. */
int lh__fuzz_places(struct lh_cover *cover) LH_MUST_CHECK;
/* Fills in the news, and has them supplied in the server. */
int lh__fuzz_look(struct lh_cover *cover) LH_MUST_CHECK;
/* Has the server supply what begins there; address: as the server has it. */
int lh__fuzz_supply(const struct lh_cover *cover, const uint64_t *address, size_t n) LH_MUST_CHECK;
void lh__fuzz_forget(struct lh_cover *cover);

/* ---- fuzz_where.c ---- */
void lh__fuzz_forget_names(struct lh_cover *cover);

#endif
