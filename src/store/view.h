/*
 * view.h - a view: one memory store's pages, laid open to one reader on the same machine, who reads them
 * without asking.
 *
 * A memfd of the store's process holds an index and the pages. The store says in the index where each page
 * stands; a reader looks there and reads the page with one pread. The page is not mapped, so it counts
 * nowhere in the reader's memory, and the store's threads need not run at all. What a coherent device would
 * do, one process does to another here.
 *
 *   offset    0  magic "LINEVIEW", version (4), 0 (4), pages in the index (8), offset of the room for pages
 *                (8), size of the file (8); the rest of the first 4096 bytes is zero
 *          4096  the index: one word of 8 bytes for each page number from 0 on
 *          room  places of 4096 bytes
 *
 *   index word   bits 0-39   1 + the place where the page stands; 0: ask the store
 *                bits 40-63  a count that every change of the word raises
 *
 * A reader takes the word, reads the place, and takes the word again: where it is the same, what was read is
 * the page as it was at one moment. The store takes a page out of the index before it changes it, or gives
 * its place to another page. A line that is not held is zero in its place; a line that is held never is
 * (memory.c), so the place says both.
 *
 * The file is sealed against shrinking and growing, and the reader's descriptor is open for reading only.
 * Numbers beyond the index, and pages for which there was no room, are asked for. A view that cannot be made,
 * or mapped, is done without.
 */
#ifndef LH_STORE_VIEW_H
#define LH_STORE_VIEW_H

#include <stdbool.h>

#include "line/line.h"
#include "sys/lock.h"

#define LH_VIEW_MAGIC UINT64_C(0x57454956454e494c) /* "LINEVIEW" */
#define LH_VIEW_VERSION 1u
#define LH_VIEW_HEADER 4096u
#define LH_VIEW_CHUNK ((size_t)256 << 10) /* room is taken and given back in pieces of this size */

struct lh_view_header {
	uint64_t magic;
	uint32_t version, zero;
	uint64_t pages, room, size;
};

/* ---- the store's side ---- */

struct lh_view;

/* A view of up to `pages` pages. -errno: there can be none here. */
int lh__view_make(const struct lh_sys *sys, uint64_t pages, struct lh_view **out) LH_MUST_CHECK;
void lh__view_unmake(struct lh_view *view);
uint64_t lh__view_pages(const struct lh_view *view);
/* A new descriptor for a reader, which the caller closes; or a negative errno. */
int lh__view_fd(const struct lh_view *view);

/* LH_VIEW_CHUNK bytes of room with memory behind them; NULL where there are none. From any thread. */
void *lh__view_take_room(struct lh_view *view);
void lh__view_give_room(struct lh_view *view, void *room);

/*
 * From now on readers ask for the page; before anything of it changes. view may be NULL. By one thread for
 * each page.
 */
void lh__view_hide(struct lh_view *view, uint64_t page);
/* The page stands at place, which lies in the view's room, as it will stay until it is hidden. */
void lh__view_show(struct lh_view *view, uint64_t page, const void *place);

/* ---- a reader's side: async-signal-safe, from any number of threads ---- */

struct lh_view_reader {
	int fd; /* the caller's; -1: there is no view */
	const uint64_t *index;
	uint64_t pages, places, room;
};

/* Maps the index. -EPROTO: no view of this version, or one that could shrink. Takes nothing over. */
int lh__view_open(const struct lh_sys *sys, int fd, struct lh_view_reader *reader) LH_MUST_CHECK;
void lh__view_close(const struct lh_sys *sys, struct lh_view_reader *reader);
/*
 * Reads one whole page, and says which lines are held. False: the store must be asked; data may have been
 * written to.
 */
bool lh__view_read(const struct lh_sys *sys, const struct lh_view_reader *reader, uint64_t page, void *data,
                   lh_mask *held);

#endif
