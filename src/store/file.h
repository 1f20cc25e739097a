/*
 * file.h - the file store: page p is the bytes from 4096 * p on of a plain file, or of a device.
 *
 * A file knows zeroes from no zeroes, and not lines that were put as zero from lines that never were: a line
 * of zeroes is reported as not held. DROP makes a hole, but for pages that were reserved, whose room stays:
 * there it writes zeroes.
 *
 *   LH_FILE_BUFFERED  pwrite and pread through the page cache; sync is fdatasync, and a durable put is
 *                     pwritev2 with RWF_DSYNC, which flushes what it wrote and not the rest of the file.
 *   LH_FILE_DIRECT    O_DIRECT: past the page cache, in blocks, so a put of less than a block reads it first.
 *   LH_FILE_MAPPED    the file's own memory: a DAX mapping with MAP_SYNC, flushed by clwb and sfence. On
 *                     tmpfs, whose pages are the medium itself, the same without MAP_SYNC. Who writes through
 *                     `direct` reserves first: where the file has a hole and its file system no room, the
 *                     kernel sends SIGBUS. Requests are quickest there too.
 *
 * caps.durable is false on tmpfs. msync is never used: with large folios in the page cache it writes up to a
 * megabyte for one byte.
 *
 * Puts of one submit that are neighbours in the file, each beginning where the one before ends, are one
 * write; where they are all that is durable in that submit, one system call in all. Otherwise what is durable
 * in a submit shares one fdatasync. A put that would change nothing is not written, if it need not be
 * durable.
 *
 * A put that failed may have written a part of its lines where the file system's blocks are smaller than a
 * page, where its lines are no single run, or where the medium failed: a file cannot promise more by itself.
 *
 * A failed fdatasync may have dropped what it could not write, and the next would then say that all is well;
 * so after one the store is broken: every later PUT, REPLACE, DROP, sync and clone fails with -EIO.
 *
 * While it is open nobody else may change the file, above all not its size: hence the lock. A file that is
 * at a limit of the process (RLIMIT_FSIZE) gives -ENOSPC, if SIGXFSZ is ignored.
 */
#ifndef LH_STORE_FILE_H
#define LH_STORE_FILE_H

#include "store/store.h"

enum lh_file_way { LH_FILE_BUFFERED, LH_FILE_DIRECT, LH_FILE_MAPPED };

struct lh_file_options {
	enum lh_file_way way;
	bool create;    /* a file that is not there yet; -EEXIST where it is */
	bool read_only; /* PUT, REPLACE, DROP and reserve fail with -EROFS */
	/*
	 * A lock of the open file description on the whole file (exclusive; shared where read_only), which
	 * excludes any other opener on this kernel, in whatever container. wait_ms: 0: -EBUSY at once where
	 * somebody else has it; above: -ETIMEDOUT after so long; -1: waits for ever.
	 */
	bool lock;
	int wait_ms;
	/*
	 * LH_FILE_MAPPED: the address space kept for growing, in pages; the file may not outgrow it while
	 * open. 0: what the file has. A put beyond it fails with -ENOSPC.
	 */
	uint64_t reach;
};

/*
 * Opens or creates the file at path. -EINVAL: not a regular file or block device, or (LH_FILE_DIRECT)
 * O_DIRECT is not taken here; -EOPNOTSUPP: (LH_FILE_MAPPED) neither DAX nor tmpfs. A file that was created is
 * removed again where opening fails, unless somebody else has locked it in between. A clone is an unnamed
 * file in the same folder, which may be written also where its original may not; a device has none.
 */
int lh__file_open(const struct lh_sys *sys, const char *path, const struct lh_file_options *options,
                  struct lh_store **out, struct lh_error *error) LH_MUST_CHECK;

/* Pages that the file has room for now: its size, the last page counted whole. */
uint64_t lh__file_pages(const struct lh_store *store);

#endif
