/*
 * file_internal.h - what the parts of the file store share.
 *
 *   file.c         opening, locking, the slots
 *   file_change.c  what changes a file: writes, holes, room, and how durable they are
 *   file_mapped.c  the file's own memory
 *   file_clone.c   a copy of a file
 */
#ifndef LH_FILE_INTERNAL_H
#define LH_FILE_INTERNAL_H

#include <sys/uio.h>

#include "store/file.h"
#include "sys/lock.h"

#define LH_FILE_GATES 64
#define LH_FILE_PARTS 1024 /* of one write: what the kernel takes (UIO_MAXIOV) */
#define LH_FILE_STAGE 64   /* pages of one direct write */

/*
 * A write that is being put together: neighbouring bytes of the file, from many buffers. With O_DIRECT the
 * bytes are staged, so there is one buffer.
 */
struct lh_file_write {
	uint64_t offset, end; /* in bytes; nothing is pending where they are equal */
	uint64_t gates;       /* of the pages that it changes */
	bool durable;         /* one of its requests is */
	uint64_t reached;     /* bytes before are written */
	unsigned parts, next; /* the first part that is not */
	struct iovec part[LH_FILE_PARTS];
	struct lh_request *owner[LH_FILE_PARTS]; /* whose part it is */
};

/* The file in memory. */
struct lh_file_map {
	struct lh_direct direct; /* of the pages that are mapped */
	void (*flush)(const char *line, const char *end);
	int flags;      /* of mmap: MAP_SYNC or not */
	int protection; /* of mmap */
	uint64_t reach; /* pages of address space */
	bool flushed;   /* since the last fence */
	/* How often room was given or taken, and how many of these an fdatasync has made durable. */
	uint64_t changes, synced;
};

struct lh_file {
	struct lh_store store;
	int fd;
	int sync_fd;   /* the file opened again, for sync alone; see file.c */
	int directory; /* where clones are made */
	enum lh_file_way way;
	bool read_only;
	bool device;   /* a block device */
	bool no_dsync; /* RWF_DSYNC is refused here */
	bool no_hole;  /* FALLOC_FL_PUNCH_HOLE is */
	bool owed;     /* this submit has changes that must be durable, and are so only after fdatasync */
	bool broken;   /* see file.h */
	uint64_t size; /* bytes of the file */
	/* Pages below have room in the file, as long as nobody makes holes there. */
	uint64_t reserved;
	struct lh_request *done; /* oldest first */
	struct lh_request **done_end;
	/* Readers of page p enter gate p % 64, who changes it closes it: the kernel's reads may be torn. */
	struct lh_gate gate[LH_FILE_GATES];
	struct lh_file_write write;
	unsigned block;       /* of O_DIRECT */
	unsigned char *stage; /* with O_DIRECT, LH_FILE_STAGE pages aligned to one */
	void *stage_memory;
	struct lh_file_map map;
};

static inline struct lh_file *lh__file_of(struct lh_store *store)
{
	return (struct lh_file *)store;
}

/* What the kernel calls a full or too small place is -ENOSPC to who uses a store. */
int lh__file_result(long result);
/*
 * Reads the lines of want into a page-shaped buffer, and zero where the file has none; also lines between
 * them, and with O_DIRECT those of whole blocks. Then the buffer must be aligned to a page.
 */
int lh__file_read(struct lh_file *file, uint64_t page, lh_mask want, void *data) LH_MUST_CHECK;

/* ---- file_change.c ---- */

/* Carries out a PUT, REPLACE or DROP, or joins it to the write that is being put together. */
void lh__file_change(struct lh_file *file, struct lh_request *request);
/* Writes what has been put together. Failures are in the requests. */
void lh__file_flush(struct lh_file *file);
/* Ends a submit: what is pending is written, and what must be durable is. */
void lh__file_finish(struct lh_file *file, struct lh_request *const *requests, size_t n);
/* fdatasync; a failure breaks the store. With a map, only where room has changed since the last. */
int lh__file_datasync(struct lh_file *file, int fd) LH_MUST_CHECK;
int lh__file_reserve(struct lh_store *store, uint64_t pages) LH_MUST_CHECK;
/* Gives the bytes [offset, offset + size) room, and makes the file so large. */
int lh__file_room(struct lh_file *file, uint64_t offset, uint64_t size) LH_MUST_CHECK;

/* ---- file_mapped.c ---- */

int lh__file_map_open(struct lh_file *file, uint64_t reach, const char *name,
                      struct lh_error *error) LH_MUST_CHECK;
void lh__file_map_close(struct lh_file *file);
/* Maps what the file has grown by. */
int lh__file_map_grow(struct lh_file *file) LH_MUST_CHECK;
/* Where a page stands, or NULL: it may be a hole, and then a touch of it might find no room. */
void *lh__file_map_at(struct lh_file *file, uint64_t page);
/* Makes sure that there is room, then writes lines (data NULL: zeroes; replace: zeroes elsewhere). */
int lh__file_map_write(struct lh_file *file, uint64_t page, lh_mask mask, const void *data,
                       bool replace) LH_MUST_CHECK;

/* ---- file_clone.c ---- */

int lh__file_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error) LH_MUST_CHECK;
/* A handle without a file yet. NULL: there is no memory. */
struct lh_file *lh__file_new(const struct lh_sys *sys, enum lh_file_way way);
/* Looks at the open file: kind, size, what the way needs. */
int lh__file_take_up(struct lh_file *file, const char *name, uint64_t reach,
                     struct lh_error *error) LH_MUST_CHECK;
/* Ends a handle, whatever it has already. */
void lh__file_end(struct lh_file *file);

#endif
