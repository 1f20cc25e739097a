/*
 * file.c - opening a file as a store, locking it, and the slots. See file.h.
 *
 * Requests are carried out where they are submitted: the kernel's page cache, or the medium, is what would be
 * waited for anyway. Those that are complete wait in a list until poll asks for them.
 *
 * A page is read and written by several threads, and the kernel promises nothing of a read beside a write
 * (ext4 and tmpfs give parts of both). Hence the gates: many may read a page, or one may change it. While a
 * durable write is under way, reads of the pages that it changes wait for it, and of pages that share a gate.
 *
 * sync has a descriptor of its own, opened anew. The kernel reports that it has dropped what it could not
 * write once to each open file description; were there one, a sync in one thread could take the report that
 * a durable put in another has to see.
 */
#include "store/file_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <time.h>

#define DEPTH 1024
#define LOCK_PAUSE_NS 2000000

/* ---- reading ---- */

int lh__file_result(long result)
{
	if (result == -EFBIG || result == -EDQUOT)
		return -ENOSPC;
	return result < 0 ? (int)result : 0;
}

/* The lines that are read: all from the first to the last of them, and with O_DIRECT whole blocks. */
static void hull(const struct lh_file *file, lh_mask want, unsigned *from, unsigned *to)
{
	*from = (unsigned)__builtin_ctzll(want) * LH_LINE_SIZE;
	*to = (LH_PAGE_LINES - (unsigned)__builtin_clzll(want)) * LH_LINE_SIZE;
	if (file->way == LH_FILE_DIRECT) {
		*from = *from / file->block * file->block;
		*to = (*to + file->block - 1) / file->block * file->block;
	}
}

int lh__file_read(struct lh_file *file, uint64_t page, lh_mask want, void *data)
{
	unsigned char *bytes = data;
	unsigned at, to;

	if (want == LH_MASK_NONE)
		return 0;
	hull(file, want, &at, &to);
	while (at < to) {
		long got = LH_SYS(file->store.sys, SYS_pread64, file->fd, bytes + at, to - at,
		                  page * LH_PAGE_SIZE + at);

		if (got == -EINTR)
			continue;
		if (got < 0)
			return (int)got;
		at += (unsigned)got;
		/* O_DIRECT reads less than whole blocks only at the end of the file. */
		if (got == 0 || (file->way == LH_FILE_DIRECT && at % file->block != 0))
			break;
	}
	if (at < to)
		memset(bytes + at, 0, to - at);
	return 0;
}

/* One run of lines is read to where it is wanted; what lies between several must not be written there. */
static bool reads_in_place(const struct lh_file *file, lh_mask want)
{
	unsigned first, count;

	return file->way != LH_FILE_DIRECT && lh__mask_next_run(&want, &first, &count) &&
	       want == LH_MASK_NONE;
}

/* Apart, since what is read in place may be read in a signal handler, whose stack may be small. */
static __attribute__((noinline)) int read_copy(struct lh_file *file, uint64_t page, lh_mask want, void *data)
{
	unsigned char copy[LH_PAGE_SIZE] __attribute__((aligned(LH_PAGE_SIZE)));
	int result = lh__file_read(file, page, want, copy);

	if (result == 0)
		lh__lines_copy(data, copy, want);
	return result;
}

static int read_lines(struct lh_file *file, uint64_t page, lh_mask want, void *data)
{
	const void *there = file->way == LH_FILE_MAPPED ? lh__file_map_at(file, page) : NULL;

	if (!there)
		return reads_in_place(file, want) ? lh__file_read(file, page, want, data)
		                                  : read_copy(file, page, want, data);
	lh__lines_copy(data, there, want);
	return 0;
}

static int file_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct lh_file *file = lh__file_of(store);
	struct lh_gate *gate = &file->gate[page % LH_FILE_GATES];
	int result;

	if (page > LH_PAGE_NUMBER_MAX)
		return -EINVAL;
	lh__gate_enter(store->sys, gate);
	result = read_lines(file, page, want, data);
	lh__gate_leave(store->sys, gate);
	if (result == 0)
		*held = lh__lines_nonzero(data, want);
	return result;
}

/* ---- the other slots ---- */

static int carry_out(struct lh_file *file, struct lh_request *request)
{
	if (request->page > LH_PAGE_NUMBER_MAX)
		return -EINVAL;
	switch (request->op) {
	case LH_OP_GET:
		lh__file_flush(file);
		return file_get_now(&file->store, request->page, request->mask, request->data,
		                    &request->mask);
	case LH_OP_PUT:
	case LH_OP_REPLACE:
	case LH_OP_DROP:
		if (file->read_only)
			return -EROFS;
		if (__atomic_load_n(&file->broken, __ATOMIC_ACQUIRE))
			return -EIO;
		request->result = 0;
		lh__file_change(file, request);
		return request->result;
	}
	return -EINVAL;
}

/* How many requests from this one on are for whole neighbouring pages, to go to neighbouring memory. */
static size_t run_of_gets(const struct lh_file *file, struct lh_request *const *requests, size_t n)
{
	const struct lh_request *first = requests[0];
	size_t i = 0;

	if (file->way != LH_FILE_BUFFERED || first->page > LH_PAGE_NUMBER_MAX - n)
		return 1;
	while (i < n && i < LH_FILE_PARTS && requests[i]->op == LH_OP_GET &&
	       requests[i]->mask == LH_MASK_ALL && requests[i]->page == first->page + i &&
	       requests[i]->data == (unsigned char *)first->data + i * LH_PAGE_SIZE)
		i++;
	return i > 1 ? i : 1;
}

/* They are read at once. No gate is entered: whoever changes pages of this handle is this thread. */
static void read_run(struct lh_file *file, struct lh_request *const *requests, size_t n)
{
	unsigned char *data = requests[0]->data;
	uint64_t offset = requests[0]->page * LH_PAGE_SIZE, size = n * LH_PAGE_SIZE, at = 0;
	long got = 0;

	lh__file_flush(file);
	while (at < size) {
		got = LH_SYS(file->store.sys, SYS_pread64, file->fd, data + at, size - at, offset + at);
		if (got == -EINTR)
			continue;
		if (got <= 0)
			break;
		at += (uint64_t)got;
	}
	memset(data + at, 0, size - at);
	for (size_t i = 0; i < n; i++) {
		requests[i]->result = got < 0 ? (int)got : 0;
		requests[i]->mask = lh__page_nonzero(requests[i]->data);
	}
}

static int file_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct lh_file *file = lh__file_of(store);
	size_t i, run;

	for (i = 0; i < n; i += run) {
		run = run_of_gets(file, requests + i, n - i);
		if (run > 1) {
			read_run(file, requests + i, run);
			continue;
		}
		requests[i]->changed = 0;
		requests[i]->result = carry_out(file, requests[i]);
	}
	lh__file_finish(file, requests, n);
	for (i = 0; i < n; i++) {
		requests[i]->next = NULL;
		*file->done_end = requests[i];
		file->done_end = &requests[i]->next;
	}
	return 0;
}

static size_t file_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct lh_file *file = lh__file_of(store);
	size_t n;

	for (n = 0; n < max && file->done; n++) {
		done[n] = file->done;
		file->done = file->done->next;
	}
	if (!file->done)
		file->done_end = &file->done;
	return n;
}

static int file_sync(struct lh_store *store)
{
	struct lh_file *file = lh__file_of(store);

	if (__atomic_load_n(&file->broken, __ATOMIC_ACQUIRE))
		return -EIO;
	if (file->read_only)
		return 0;
	/* Requests have been fenced; this fence is for what the caller has flushed itself. */
	if (file->store.direct)
		file->store.direct->fence(file->store.direct);
	return lh__file_datasync(file, file->sync_fd >= 0 ? file->sync_fd : file->fd);
}

static void file_close(struct lh_store *store)
{
	lh__file_end(lh__file_of(store));
}

static const struct lh_store_ops file_ops = {
	.name = "file",
	.submit = file_submit,
	.poll = file_poll,
	.get_now = file_get_now,
	.sync = file_sync,
	.clone = lh__file_clone,
	.reserve = lh__file_reserve,
	.close = file_close,
};

uint64_t lh__file_pages(const struct lh_store *store)
{
	const struct lh_file *file = (const struct lh_file *)store;

	return (__atomic_load_n(&file->size, __ATOMIC_RELAXED) + LH_PAGE_SIZE - 1) / LH_PAGE_SIZE;
}

/* ---- handles ---- */

struct lh_file *lh__file_new(const struct lh_sys *sys, enum lh_file_way way)
{
	struct lh_file *file = lh__alloc(sys, sizeof *file);

	if (!file)
		return NULL;
	file->store = (struct lh_store){ .ops = &file_ops, .sys = sys };
	file->store.caps = (struct lh_store_caps){
		.get_now_in_signal = true, .durable_put = true, .sync_aside = true, .depth = DEPTH
	};
	file->fd = file->sync_fd = file->directory = -1;
	file->way = way;
	file->done_end = &file->done;
	if (way != LH_FILE_DIRECT)
		return file;
	file->stage_memory = lh__alloc(sys, (LH_FILE_STAGE + 1) * LH_PAGE_SIZE);
	if (!file->stage_memory) {
		lh__file_end(file);
		return NULL;
	}
	file->stage = file->stage_memory;
	file->stage += -(uintptr_t)file->stage % LH_PAGE_SIZE;
	return file;
}

static void close_descriptor(const struct lh_file *file, int fd)
{
	if (fd >= 0)
		LH_SYS(file->store.sys, SYS_close, fd);
}

void lh__file_end(struct lh_file *file)
{
	if (file->way == LH_FILE_MAPPED)
		lh__file_map_close(file);
	close_descriptor(file, file->sync_fd);
	close_descriptor(file, file->fd);
	close_descriptor(file, file->directory);
	lh__free(file->store.sys, file->stage_memory, (LH_FILE_STAGE + 1) * LH_PAGE_SIZE);
	lh__free(file->store.sys, file, sizeof *file);
}

/* The unit of O_DIRECT, from what the file system says of this file. */
static int find_block(struct lh_file *file, const struct statx *about, const char *name,
                      struct lh_error *error)
{
	file->block = LH_PAGE_SIZE;
	if (!(about->stx_mask & STATX_DIOALIGN))
		return 0;
	if (about->stx_dio_offset_align == 0)
		return lh__fail(error, -EINVAL, "%s: O_DIRECT is not possible with this file", name);
	file->block = about->stx_dio_offset_align;
	if (file->block < about->stx_dio_mem_align)
		file->block = about->stx_dio_mem_align;
	if (file->block < LH_LINE_SIZE)
		file->block = LH_LINE_SIZE;
	if (LH_PAGE_SIZE % file->block != 0)
		return lh__fail(error, -EINVAL,
		                "%s: O_DIRECT wants blocks of %u bytes here, more than a page", name,
		                file->block);
	file->store.caps.block = file->block;
	return 0;
}

int lh__file_take_up(struct lh_file *file, const char *name, uint64_t reach, struct lh_error *error)
{
	const struct lh_sys *sys = file->store.sys;
	struct statx about;
	struct statfs where;
	long size, result;
	bool in_memory;

	memset(&about, 0, sizeof about);
	memset(&where, 0, sizeof where);
	result = LH_SYS(sys, SYS_statx, file->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_DIOALIGN,
	                &about);
	if (result >= 0 && !S_ISREG(about.stx_mode) && !S_ISBLK(about.stx_mode))
		return lh__fail(error, -EINVAL, "%s: it is neither a plain file nor a block device", name);
	if (result >= 0)
		result = LH_SYS(sys, SYS_fstatfs, file->fd, &where);
	/* lseek also knows the size of a device. */
	size = result < 0 ? result : LH_SYS(sys, SYS_lseek, file->fd, 0, SEEK_END);
	if (size < 0)
		return lh__fail(error, (int)size, "%s: it cannot be looked at (%s)", name,
		                lh__errno_name((int)size));
	file->size = (uint64_t)size;
	file->device = S_ISBLK(about.stx_mode);
	/* The node of a device stands on a tmpfs, and says nothing of the device. */
	in_memory = !file->device && (where.f_type == TMPFS_MAGIC || where.f_type == RAMFS_MAGIC);
	file->store.caps.durable = !in_memory;
	/* There, blocks are pages and nothing else, so their number tells whether there are holes. */
	if (in_memory && about.stx_blocks * 512 >= file->size)
		file->reserved = file->size / LH_PAGE_SIZE;
	if (file->way == LH_FILE_DIRECT)
		return find_block(file, &about, name, error);
	if (file->way != LH_FILE_MAPPED)
		return 0;
	file->map.flags = in_memory ? MAP_SHARED : MAP_SHARED_VALIDATE | MAP_SYNC;
	return lh__file_map_open(file, reach, name, error);
}

/* ---- the lock ---- */

/* What the other has the file open for. */
static const char *other_has(struct lh_file *file, short type)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET };

	if (LH_SYS(file->store.sys, SYS_fcntl, file->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_RDLCK)
		return "reading";
	return "writing";
}

static void pause_for(const struct lh_sys *sys, uint64_t nanoseconds)
{
	struct timespec pause = { .tv_nsec = (long)nanoseconds };

	LH_SYS(sys, SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, NULL);
}

/* There is no wait for a lock that ends by itself: asked again and again, or without an end in the kernel. */
static long wait_for_lock(struct lh_file *file, struct flock *lock, int wait_ms)
{
	const struct lh_sys *sys = file->store.sys;
	const int command = wait_ms < 0 ? F_OFD_SETLKW : F_OFD_SETLK;
	const uint64_t end = wait_ms > 0 ? lh__now(sys) + (uint64_t)wait_ms * 1000000 : 0;

	for (;;) {
		long result = LH_SYS(sys, SYS_fcntl, file->fd, command, lock);
		uint64_t now;

		if (result == -EACCES)
			result = -EAGAIN;
		if (result == -EINTR)
			continue;
		if (result != -EAGAIN || wait_ms <= 0)
			return result;
		now = lh__now(sys);
		if (now >= end)
			return -ETIMEDOUT;
		pause_for(sys, end - now < LOCK_PAUSE_NS ? end - now : LOCK_PAUSE_NS);
	}
}

static int take_lock(struct lh_file *file, const char *path, int wait_ms, struct lh_error *error)
{
	struct flock lock = { .l_type = file->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	long result = wait_for_lock(file, &lock, wait_ms);

	if (result == -EAGAIN)
		return lh__fail(error, -EBUSY, "%s: another process has it open for %s", path,
		                other_has(file, lock.l_type));
	if (result == -ETIMEDOUT)
		return lh__fail(error, -ETIMEDOUT, "%s: another process has had it open for %s for %d ms",
		                path, other_has(file, lock.l_type), wait_ms);
	if (result < 0)
		return lh__fail(error, (int)result, "%s: it cannot be locked (%s)", path,
		                lh__errno_name((int)result));
	return 0;
}

/* ---- opening ---- */

/* Opens the folder of path, so that the file, its second descriptor and its clones are of one place. */
static int open_directory(struct lh_file *file, const char *path, const char **name)
{
	const struct lh_sys *sys = file->store.sys;
	const char *slash = strrchr(path, '/');
	const size_t length = slash ? (size_t)(slash - path) + 1 : 0, size = length + 2;
	char *folder = lh__alloc(sys, size);
	long fd;

	if (!folder)
		return -ENOMEM;
	memcpy(folder, path, length);
	memcpy(folder + length, ".", 2);
	fd = LH_SYS(sys, SYS_openat, AT_FDCWD, folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	lh__free(sys, folder, size);
	if (fd < 0)
		return (int)fd;
	file->directory = (int)fd;
	*name = path + length;
	return 0;
}

/* O_NONBLOCK: a pipe would wait for somebody at its other end, and is refused afterwards. */
static long open_name(const struct lh_file *file, const char *name, bool create)
{
	const int flags = (file->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
	                  (file->way == LH_FILE_DIRECT ? O_DIRECT : 0) | (create ? O_CREAT | O_EXCL : 0);

	return LH_SYS(file->store.sys, SYS_openat, file->directory, name, flags, 0666);
}

static int open_failed(const struct lh_file *file, const char *path, long result, struct lh_error *error)
{
	if (result == -EISDIR || result == -ENXIO)
		return lh__fail(error, -EINVAL, "%s: it is neither a plain file nor a block device", path);
	if (result == -EINVAL && file->way == LH_FILE_DIRECT)
		return lh__fail(error, -EINVAL, "%s: O_DIRECT is not possible here", path);
	if (result == -ENOENT)
		return lh__fail(error, -ENOENT, "%s: there is no such file or folder", path);
	if (result == -EEXIST)
		return lh__fail(error, -EEXIST,
		                "%s: there is something of that name already, which is left alone", path);
	if (result == -EACCES)
		return lh__fail(error, -EACCES, "%s: no permission to %s it", path,
		                file->read_only ? "read" : "write to");
	return lh__fail(error, (int)result, "%s: it cannot be opened (%s)", path,
	                lh__errno_name((int)result));
}

/* The descriptor for sync; the name must still lead to the same file. */
static int open_for_sync(struct lh_file *file, const char *path, const char *name, struct lh_error *error)
{
	const struct lh_sys *sys = file->store.sys;
	struct statx one, two;
	long fd = open_name(file, name, false), result;

	if (fd < 0)
		return open_failed(file, path, fd, error);
	file->sync_fd = (int)fd;
	memset(&one, 0, sizeof one);
	memset(&two, 0, sizeof two);
	result = LH_SYS(sys, SYS_statx, file->fd, "", AT_EMPTY_PATH, STATX_INO, &one);
	if (result == 0)
		result = LH_SYS(sys, SYS_statx, file->sync_fd, "", AT_EMPTY_PATH, STATX_INO, &two);
	if (result == 0 && (one.stx_ino != two.stx_ino || one.stx_dev_major != two.stx_dev_major ||
	                    one.stx_dev_minor != two.stx_dev_minor))
		result = -ESTALE;
	if (result < 0)
		return lh__fail(error, (int)result, "%s: it was replaced while it was being opened (%s)",
		                path, lh__errno_name((int)result));
	return 0;
}

static int open_file(struct lh_file *file, const char *path, const struct lh_file_options *options,
                     struct lh_error *error)
{
	const char *name = path;
	long fd = open_directory(file, path, &name);
	int result;

	if (fd == 0)
		fd = open_name(file, name, options->create);
	/* What refuses O_DIRECT may do so after it has created the file. */
	if (fd == -EINVAL && file->way == LH_FILE_DIRECT && options->create)
		LH_SYS(file->store.sys, SYS_unlinkat, file->directory, name, 0);
	if (fd < 0)
		return open_failed(file, path, fd, error);
	file->fd = (int)fd;
	result = options->lock ? take_lock(file, path, options->wait_ms, error) : 0;
	/* Somebody else has found the file that was created here, and keeps it. */
	if (result == -EBUSY || result == -ETIMEDOUT)
		return result;
	if (result == 0)
		result = lh__file_take_up(file, path, options->reach, error);
	if (result == 0 && !file->read_only)
		result = open_for_sync(file, path, name, error);
	if (result != 0 && options->create)
		LH_SYS(file->store.sys, SYS_unlinkat, file->directory, name, 0);
	return result;
}

int lh__file_open(const struct lh_sys *sys, const char *path, const struct lh_file_options *options,
                  struct lh_store **out, struct lh_error *error)
{
	struct lh_file *file = lh__file_new(sys, options->way);
	int result;

	if (!file)
		return lh__fail(error, -ENOMEM, "%s: there is no memory to open it", path);
	file->read_only = options->read_only;
	result = open_file(file, path, options, error);
	if (result != 0) {
		lh__file_end(file);
		return result;
	}
	*out = &file->store;
	return 0;
}

int lh__file_again(const struct lh_store *store, enum lh_file_way way, struct lh_store **out,
                   struct lh_error *error)
{
	const struct lh_file *file = (const struct lh_file *)store;
	const struct lh_file_options options = { .way = way };
	char path[64];

	lh__format(path, sizeof path, "/proc/self/fd/%d", file->fd);
	return lh__file_open(store->sys, path, &options, out, error);
}
