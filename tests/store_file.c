/*
 * store_file.c - the file store passes the conformance suite in each of its ways, and does what it promises
 * beyond it: what it asks of the kernel for a durable put, what it makes of the kernel's failures, its lock,
 * and what it refuses.
 *
 * timeout: 120
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <linux/falloc.h>
#include <linux/magic.h>

#include "inject.h"
#include "store/file.h"
#include "store_conformance.h"

#define SHM "/dev/shm"
#define DISK_PAGES (UINT64_C(1) << 28) /* a file of 1 TiB, which every file system takes */

static char disk[280];  /* a folder on the disk's file system */
static char shm[300];   /* one on tmpfs; empty where there is none */
static char small[300]; /* where a tmpfs of a few pages is mounted; empty where that may not be */
static unsigned files;

static void name_file(char *path, const char *folder)
{
	snprintf(path, 400, "%s/%u", folder, files++);
}

static struct lh_store *open_with(const struct lh_sys *sys, const char *path,
                                  const struct lh_file_options *options)
{
	struct lh_store *store = NULL;
	struct lh_error error = { .code = 0 };

	if (lh__file_open(sys, path, options, &store, &error) != 0)
		printf("# %s\n", error.text);
	return store;
}

/* ---- the suite ---- */

struct place {
	const char *folder;
	enum lh_file_way way;
	bool mounted;
};

static struct lh_store *open_new(const struct place *place, const char *folder)
{
	struct lh_file_options options = { .way = place->way, .create = true, .reach = 1 << 20 };
	char path[400];
	struct lh_store *store;

	name_file(path, folder);
	store = open_with(&lh__sys_default, path, &options);
	unlink(path);
	return store;
}

static struct lh_store *place_open(void *context)
{
	return open_new(context, ((struct place *)context)->folder);
}

/* tmpfs counts the pages of content, and nothing else against its size. */
static struct lh_store *place_open_small(void *context, unsigned pages)
{
	struct place *place = context;
	char size[40];

	snprintf(size, sizeof size, "size=%uk", pages * 4);
	if (place->mounted || mount("none", small, "tmpfs", 0, size) != 0)
		return NULL;
	place->mounted = true;
	return open_new(place, small);
}

static void place_finish(void *context)
{
	struct place *place = context;

	if (place->mounted)
		umount(small);
	place->mounted = false;
}

static bool can_open(struct place *place)
{
	struct lh_store *store = place_open(place);

	if (store)
		store->ops->close(store);
	return store || place->way != LH_FILE_DIRECT;
}

static void conforms(const char *name, const char *folder, enum lh_file_way way, uint64_t pages,
                     unsigned steps)
{
	struct place place = { .folder = folder, .way = way };
	struct store_factory factory = { .name = name,
		                         .context = &place,
		                         .open = place_open,
		                         .open_small = small[0] ? place_open_small : NULL,
		                         .finish = place_finish,
		                         .steps = steps,
		                         .pages = pages,
		                         .clone_copies = true,
		                         .reserves = true };

	if (!folder[0])
		skip(name, "there is no tmpfs at " SHM);
	else if (!can_open(&place))
		skip(name, "no O_DIRECT on this file system");
	else
		store_conformance(&factory);
}

/* ---- a table that counts and fails single calls ---- */

struct spy {
	struct lh_sys sys;
	long nr;        /* the call that is tampered with */
	unsigned skip;  /* such calls that are let through before */
	long result;    /* what it then gives instead; 0: half of what it would do is done */
	bool lasting;   /* each further one too */
	unsigned calls; /* all, since they were last set to 0 */
	unsigned writes, reads, syncs, through;
	long last_parts; /* of the last write */
	long sync_fd;    /* of the last fdatasync */
};

static long write_half(const long argument[6])
{
	struct iovec half = *(const struct iovec *)argument[1];

	half.iov_len = half.iov_len > 64 ? half.iov_len / 128 * 64 : half.iov_len;
	return lh__raw_syscall(SYS_pwritev2, argument[0], (long)&half, 1, argument[3], argument[4],
	                       argument[5]);
}

static long spy_call(void *context, long nr, const long argument[6])
{
	struct spy *spy = context;

	spy->calls++;
	spy->writes += nr == SYS_pwritev2;
	spy->reads += nr == SYS_pread64;
	spy->syncs += nr == SYS_fdatasync;
	spy->sync_fd = nr == SYS_fdatasync ? argument[0] : spy->sync_fd;
	if (nr == SYS_pwritev2) {
		spy->last_parts = argument[2];
		spy->through += (argument[5] & RWF_DSYNC) != 0;
	}
	if (nr == spy->nr && spy->nr != 0 && (spy->skip == 0 || spy->skip-- == 0)) {
		if (!spy->lasting)
			spy->nr = 0;
		return spy->result ? spy->result : write_half(argument);
	}
	return lh__sys_default.call(NULL, nr, argument);
}

static void spy_init(struct spy *spy)
{
	*spy = (struct spy){ .sys = lh__sys_default };
	spy->sys.context = spy;
	spy->sys.call = spy_call;
}

static void spy_count(struct spy *spy)
{
	spy->calls = spy->writes = spy->reads = spy->syncs = spy->through = 0;
}

/* The nth call from now on gives result. */
static void spy_tamper(struct spy *spy, long nr, unsigned skip_calls, long result)
{
	spy->nr = nr;
	spy->skip = skip_calls;
	spy->result = result;
	spy->lasting = false;
	spy_count(spy);
}

static struct lh_store *spied(struct spy *spy, enum lh_file_way way)
{
	struct lh_file_options options = { .way = way, .create = true, .reach = 1000 };
	char path[400];
	struct lh_store *store;

	spy_init(spy);
	name_file(path, way == LH_FILE_MAPPED ? shm : disk);
	store = open_with(&spy->sys, path, &options);
	unlink(path);
	return store;
}

#define BATCH 6

static unsigned char batch_data[BATCH][LH_PAGE_SIZE];
static struct lh_request batch[BATCH];

/* Lines one after the other from the middle of page 10 on: returns the number of requests that failed. */
static unsigned put_batch(struct lh_store *store, unsigned flags, uint64_t version)
{
	struct lh_request *pointer[BATCH], *done[BATCH];
	unsigned i, failed = 0;

	for (i = 0; i < BATCH; i++) {
		batch[i] =
			(struct lh_request){ .op = LH_OP_PUT, .flags = flags, .page = 10 + i, .result = 1 };
		batch[i].mask = i == 0 ? LH_MASK_ALL << 32 : i == BATCH - 1 ? 0xff : LH_MASK_ALL;
		batch[i].data = batch_data[i];
		suite_fill(batch_data[i], 10 + i, LH_MASK_ALL, version);
		pointer[i] = &batch[i];
	}
	if (store->ops->submit(store, pointer, BATCH) != 0 ||
	    store->ops->poll(store, done, BATCH, 0) != BATCH)
		return BATCH;
	for (i = 0; i < BATCH; i++)
		failed += batch[i].result != 0;
	return failed;
}

static bool has_page(struct lh_store *store, uint64_t page, lh_mask held, uint64_t version)
{
	struct suite suite = { .factory = NULL };
	const char *wrong = suite_expect_now(&suite, store, page, held, version);

	if (wrong)
		printf("# page %lu: %s\n", (unsigned long)page, wrong);
	return !wrong;
}

static bool has_batch(struct lh_store *store, uint64_t version)
{
	unsigned i;

	for (i = 0; i < BATCH; i++)
		if (!has_page(store, batch[i].page, batch[i].mask, version))
			return false;
	return true;
}

/* ---- what is asked of the kernel ---- */

static void one_call(void)
{
	const unsigned log = LH_REQUEST_DURABLE | LH_REQUEST_UNCOUNTED;
	struct spy spy;
	struct lh_store *store = spied(&spy, LH_FILE_BUFFERED);

	ok(store->caps.durable_put && store->caps.sync_aside, "durable puts, and sync beside them");
	spy_count(&spy);
	is(put_batch(store, log, 1), 0, "a log's lines over several pages");
	ok(spy.calls == 1 && spy.writes == 1 && spy.through == 1,
	   "... are one system call, which is durable");
	is(spy.last_parts, BATCH, "... of all the parts");
	ok(has_batch(store, 1), "... and are there");
	spy_count(&spy);
	is(put_batch(store, LH_REQUEST_UNCOUNTED, 2), 0, "without durability");
	ok(spy.calls == 1 && spy.through == 0, "... one write that is no flush");
	spy_count(&spy);
	is(suite_put_flags(store, LH_OP_PUT, 1, 0xf0f, 1, log), 0, "two runs of lines, durable");
	ok(spy.writes == 2 && spy.through == 0 && spy.syncs == 1 && spy.calls == 3,
	   "... two writes, one flush");
	spy_count(&spy);
	ok(suite_put(store, LH_OP_PUT, 40, 0xff, 3) == 0 && spy.reads == 1, "counting reads what was there");
	spy_count(&spy);
	ok(suite_put(store, LH_OP_PUT, 40, 0xff, 3) == 0 && spy.writes == 0,
	   "what is there already is not written");
	spy_count(&spy);
	ok(suite_put_flags(store, LH_OP_REPLACE, 41, 0xff, 3, LH_REQUEST_UNCOUNTED) == 0 && spy.reads == 0 &&
	           spy.writes == 1,
	   "REPLACE is one write");
	spy_tamper(&spy, SYS_pwritev2, 0, -EOPNOTSUPP);
	is(put_batch(store, log, 4), 0, "where RWF_DSYNC is refused");
	ok(spy.writes == 2 && spy.through == 1 && spy.syncs == 1 && has_batch(store, 4),
	   "... it is a write and a flush");
	spy_count(&spy);
	ok(put_batch(store, log, 5) == 0 && spy.through == 0 && spy.syncs == 1, "... and is not asked again");
	store->ops->close(store);
}

static void direct_calls(void)
{
	struct spy spy;
	struct lh_store *store = spied(&spy, LH_FILE_DIRECT);

	if (!store) {
		skip("direct: neighbours are one write", "no O_DIRECT on this file system");
		return;
	}
	spy_count(&spy);
	is(put_batch(store, LH_REQUEST_DURABLE | LH_REQUEST_UNCOUNTED, 1), 0, "direct: neighbouring lines");
	ok(spy.writes == 1 && spy.through == 1 && spy.syncs == 0, "... are one durable write");
	ok(spy.reads <= 2, "... and only blocks that are not whole were read (%u)", spy.reads);
	ok(has_batch(store, 1), "... and are there");
	store->ops->close(store);
}

static void mapped_calls(void)
{
	struct spy spy;
	struct lh_store *store;

	if (!shm[0]) {
		skip("mapped: no system call", "there is no tmpfs at " SHM);
		return;
	}
	store = spied(&spy, LH_FILE_MAPPED);
	ok(store && store->direct && !store->caps.durable,
	   "mapped: tmpfs is memory, and says that it forgets");
	is(store->ops->reserve(store, 100), 0, "... room is made");
	is(store->ops->sync(store), 0, "... and is durable");
	spy_count(&spy);
	ok(put_batch(store, LH_REQUEST_DURABLE, 1) == 0 && has_batch(store, 1) &&
	           store->ops->sync(store) == 0,
	   "... then durable puts, reading and sync");
	is(spy.calls, 0, "... make no system call");
	is(lh__file_pages(store), 100, "... in a file of the size that was reserved");
	is(store->ops->reserve(store, 1001), -ENOSPC, "... which cannot outgrow its reach");
	is(suite_put(store, LH_OP_PUT, 1000, 1, 1), -ENOSPC, "... by a put neither");
	ok(suite_put(store, LH_OP_PUT, 999, 1, 1) == 0 && store->direct->pages == 1000, "... but reaches it");
	store->ops->close(store);
}

/* ---- failures of the kernel ---- */

static void writes_fail(void)
{
	const unsigned flags = LH_REQUEST_UNCOUNTED;
	struct spy spy;
	struct lh_store *store = spied(&spy, LH_FILE_BUFFERED);

	spy_tamper(&spy, SYS_pwritev2, 0, -EINTR);
	ok(put_batch(store, flags, 1) == 0 && has_batch(store, 1),
	   "a write that is interrupted is made again");
	spy_tamper(&spy, SYS_pwritev2, 0, 0);
	ok(put_batch(store, flags, 2) == 0 && spy.writes == 2 && has_batch(store, 2),
	   "a short write goes on");
	spy_tamper(&spy, SYS_pwritev2, 0, 0);
	spy.lasting = true;
	ok(put_batch(store, flags, 3) == 0 && spy.writes > 6, "... however short they are");
	spy.nr = 0;
	ok(has_batch(store, 3), "... and all is there");
	spy_tamper(&spy, SYS_pwritev2, 0, -EIO);
	ok(put_batch(store, flags, 4) == BATCH && batch[0].result == -EIO,
	   "a write that fails fails all of it");
	ok(has_batch(store, 3), "... and nothing has changed");
	spy_tamper(&spy, SYS_pwritev2, 0, -EFBIG);
	ok(put_batch(store, flags, 4) == BATCH && batch[3].result == -ENOSPC, "a file at its limit is full");
	spy_tamper(&spy, SYS_pread64, 0, -EIO);
	is(suite_put(store, LH_OP_PUT, 10, 1, 9), -EIO, "what cannot be counted is not written");
	ok(has_batch(store, 3), "... and nothing has changed");
	ok(put_batch(store, flags, 5) == 0 && has_batch(store, 5), "none of this breaks the store");
	store->ops->close(store);
}

/* A limit in the middle of the batch: what was written before it is acknowledged, and nothing else. */
static void short_of_room(unsigned flags)
{
	struct rlimit before, limit;
	struct spy spy;
	struct lh_store *store = spied(&spy, LH_FILE_BUFFERED);

	getrlimit(RLIMIT_FSIZE, &before);
	limit = before;
	limit.rlim_cur = 13 * LH_PAGE_SIZE;
	setrlimit(RLIMIT_FSIZE, &limit);
	put_batch(store, flags, 1);
	setrlimit(RLIMIT_FSIZE, &before);
	ok(batch[0].result == 0 && batch[2].result == 0, "the puts before the limit are acknowledged");
	ok(batch[3].result == -ENOSPC && batch[BATCH - 1].result == -ENOSPC, "... those beyond find no room");
	ok(has_page(store, 12, LH_MASK_ALL, 1) && has_page(store, 13, LH_MASK_NONE, 1),
	   "... and are not there");
	ok(put_batch(store, flags, 2) == 0 && has_batch(store, 2), "... and the store goes on");
	store->ops->close(store);
}

static void refuses_all(struct lh_store *store, const char *name)
{
	struct lh_store *clone;

	ok(suite_put(store, LH_OP_PUT, 1, 1, 2) == -EIO && suite_put(store, LH_OP_REPLACE, 1, 1, 2) == -EIO &&
	           suite_do(store, LH_OP_DROP, 1, 0, NULL) == -EIO,
	   "%s: no change is taken any more", name);
	ok(store->ops->sync(store) == -EIO && store->ops->clone(store, &clone, NULL) == -EIO,
	   "%s: ... no sync, no clone", name);
	ok(has_page(store, 1, 1, 1), "%s: ... and what can be read is", name);
}

static void breaks(long nr, unsigned skip_calls, unsigned flags, const char *name)
{
	struct spy spy;
	struct lh_store *store = spied(&spy, LH_FILE_BUFFERED);
	int result;

	if (suite_put(store, LH_OP_PUT, 1, 1, 1) != 0)
		abort();
	spy_tamper(&spy, nr, skip_calls, -EIO);
	if (flags)
		result = suite_put_flags(store, LH_OP_PUT, 2, 0xf0f, 1, flags | LH_REQUEST_UNCOUNTED);
	else
		result = store->ops->sync(store);
	is(result, -EIO, "%s: says so", name);
	refuses_all(store, name);
	store->ops->close(store);
}

static void flushes_fail(void)
{
	struct spy spy;
	struct lh_store *store = spied(&spy, LH_FILE_BUFFERED);

	breaks(SYS_fdatasync, 0, 0, "a sync that fails");
	breaks(SYS_fdatasync, 0, LH_REQUEST_DURABLE, "a flush after a durable put that fails");
	spy_tamper(&spy, SYS_pwritev2, 0, -EIO);
	is(put_batch(store, LH_REQUEST_DURABLE | LH_REQUEST_UNCOUNTED, 1), BATCH,
	   "a durable write that fails");
	is(store->ops->sync(store), -EIO, "... breaks the store");
	store->ops->close(store);
	/* ENOSPC of a flush, though the write finds room. */
	store = spied(&spy, LH_FILE_BUFFERED);
	spy_tamper(&spy, SYS_pwritev2, 0, -ENOSPC);
	ok(put_batch(store, LH_REQUEST_DURABLE | LH_REQUEST_UNCOUNTED, 1) == BATCH && batch[0].result == -EIO,
	   "a flush that finds no room for what was written fails");
	is(store->ops->sync(store), -EIO, "... and breaks the store");
	store->ops->close(store);
}

/* The kernel tells each description once that it has dropped something: sync must not take it from a put. */
static void two_descriptions(void)
{
	struct spy spy;
	struct lh_store *store = spied(&spy, LH_FILE_BUFFERED);
	long put_fd;

	if (suite_put_flags(store, LH_OP_PUT, 1, 0xf0f, 1, LH_REQUEST_DURABLE) != 0)
		abort();
	put_fd = spy.sync_fd;
	is(store->ops->sync(store), 0, "sync");
	lseek((int)put_fd, 77, SEEK_SET);
	is(lseek((int)spy.sync_fd, 0, SEEK_CUR), 0, "... is by another file description than durable puts");
	store->ops->close(store);
}

/* A file system that cannot do all that others can. */
static void does_without(void)
{
	struct spy spy;
	struct lh_store *store = spied(&spy, LH_FILE_BUFFERED);

	if (suite_put(store, LH_OP_PUT, 1, 1, 1) != 0)
		abort();
	spy_tamper(&spy, SYS_fallocate, 0, -EOPNOTSUPP);
	spy.lasting = true;
	is(suite_do(store, LH_OP_DROP, 1, 0, NULL), 0, "where there are no holes, DROP writes zeroes");
	ok(spy.writes == 1 && has_page(store, 1, LH_MASK_NONE, 1), "... which read as such");
	is(store->ops->reserve(store, 300), 0, "where no room is given, reserve writes zeroes");
	is(lh__file_pages(store), 300, "... to the end");
	spy.result = -EINTR;
	spy.lasting = false;
	ok(store->ops->reserve(store, 310) == 0 && lh__file_pages(store) == 310, "reserve is made again");
	spy_tamper(&spy, SYS_fallocate, 0, -ENOSPC);
	is(store->ops->reserve(store, 400), -ENOSPC, "room that there is not");
	is(lh__file_pages(store), 310, "... is not in the file");
	store->ops->close(store);
}

/* ---- opening ---- */

static int open_error(const char *path, struct lh_file_options options, char *text)
{
	struct lh_store *store;
	struct lh_error error = { .code = 0 };
	int result = lh__file_open(&lh__sys_default, path, &options, &store, &error);

	if (result == 0)
		store->ops->close(store);
	else if (error.code != result || !strstr(error.text, path))
		result = -12345;
	strcpy(text, error.text);
	return result;
}

static void locks(void)
{
	struct lh_file_options options = { .create = true, .lock = true };
	struct lh_store *store, *second;
	char path[400], text[sizeof((struct lh_error *)0)->text];
	uint64_t start;
	int status;
	pid_t pid;

	name_file(path, disk);
	store = open_with(&lh__sys_default, path, &options);
	ok(store != NULL, "a file that is created and locked");
	is(open_error(path, options, text), -EEXIST, "... is not created again");
	options.create = false;
	is(open_error(path, options, text), -EBUSY, "... is not opened by another");
	ok(strstr(text, "another process has it open for writing"), "... who is told why");
	options.read_only = true;
	is(open_error(path, options, text), -EBUSY, "... nor for reading");
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		_exit(open_error(path, options, text) == -EBUSY ? 0 : 1);
	ok(waitpid(pid, &status, 0) == pid, "another process");
	/* The child has inherited the description, and with it the lock, but opens the file anew. */
	is(status, 0, "... is refused as well");
	options.wait_ms = 30;
	start = suite_now_ms();
	is(open_error(path, options, text), -ETIMEDOUT, "a wait that ends");
	ok(suite_now_ms() - start >= 30, "... not too soon");
	store->ops->close(store);
	options.wait_ms = 0;
	store = open_with(&lh__sys_default, path, &options);
	second = open_with(&lh__sys_default, path, &options);
	ok(store && second, "two read it");
	options.read_only = false;
	is(open_error(path, options, text), -EBUSY, "... and nobody writes meanwhile");
	ok(strstr(text, "another process has it open for reading"), "... who is told so");
	store->ops->close(store);
	second->ops->close(second);
	is(open_error(path, options, text), 0, "afterwards, somebody may");
	unlink(path);
}

struct waiter {
	const char *path;
	int wait_ms;
	int result;
	bool closed; /* by the other, before the waiter got the lock */
	bool early;
};

static void *wait_to_open(void *argument)
{
	struct waiter *waiter = argument;
	struct lh_file_options options = { .lock = true, .wait_ms = waiter->wait_ms };
	struct lh_store *store;

	waiter->result = lh__file_open(&lh__sys_default, waiter->path, &options, &store, NULL);
	if (waiter->result == 0) {
		waiter->early = !__atomic_load_n(&waiter->closed, __ATOMIC_ACQUIRE);
		store->ops->close(store);
	}
	return NULL;
}

static void waits_for_lock(int wait_ms)
{
	struct lh_file_options options = { .create = true, .lock = true };
	struct waiter waiter = { .wait_ms = wait_ms };
	struct lh_store *store;
	pthread_t thread;
	char path[400];

	name_file(path, disk);
	waiter.path = path;
	store = open_with(&lh__sys_default, path, &options);
	if (!store || pthread_create(&thread, NULL, wait_to_open, &waiter) != 0)
		abort();
	usleep(20000); /* so that it most likely waits; whether it does changes no result */
	__atomic_store_n(&waiter.closed, true, __ATOMIC_RELEASE);
	store->ops->close(store);
	pthread_join(thread, NULL);
	ok(waiter.result == 0 && !waiter.early, "who waits %d ms gets the lock when it is free", wait_ms);
	unlink(path);
}

static void refuses(void)
{
	struct lh_file_options options = { .way = LH_FILE_BUFFERED };
	char path[400], text[sizeof((struct lh_error *)0)->text];
	struct statfs where;

	is(open_error(disk, options, text), -EINVAL, "a folder is refused");
	options.read_only = true;
	is(open_error(disk, options, text), -EINVAL, "... for reading too");
	name_file(path, disk);
	is(open_error(path, options, text), -ENOENT, "a file that is not there");
	is(mkfifo(path, 0600), 0, "a pipe");
	is(open_error(path, options, text), -EINVAL, "... is refused, and not waited for");
	options.read_only = false;
	is(open_error(path, options, text), -EINVAL, "... for writing too");
	is(open_error("/dev/null", options, text), -EINVAL, "so is a device without blocks");
	unlink(path);
	if (statfs(disk, &where) != 0 || where.f_type == TMPFS_MAGIC) {
		skip("no mapping without DAX", "the disk is a tmpfs");
		return;
	}
	options.way = LH_FILE_MAPPED;
	options.create = true;
	is(open_error(path, options, text), -EOPNOTSUPP, "no mapping of a disk's page cache");
	is(access(path, F_OK), -1, "... and the file that was created for it is gone");
}

static void read_only(const char *folder, enum lh_file_way way)
{
	struct lh_file_options options = { .way = way, .create = true, .reach = 100 };
	struct lh_store *store;
	char path[400];

	name_file(path, folder);
	store = open_with(&lh__sys_default, path, &options);
	ok(store && suite_put(store, LH_OP_PUT, 3, 0xff, 1) == 0, "way %d: a page is put", way);
	store->ops->close(store);
	options.create = false;
	options.read_only = true;
	store = open_with(&lh__sys_default, path, &options);
	ok(store && has_page(store, 3, 0xff, 1), "... and read by who only reads");
	is(lh__file_pages(store), 4, "... in a file of four pages");
	ok(suite_put(store, LH_OP_PUT, 3, 1, 2) == -EROFS &&
	           suite_put(store, LH_OP_REPLACE, 3, 1, 2) == -EROFS &&
	           suite_do(store, LH_OP_DROP, 3, 0, NULL) == -EROFS &&
	           store->ops->reserve(store, 9) == -EROFS,
	   "... who changes nothing");
	ok(store->ops->sync(store) == 0 && has_page(store, 3, 0xff, 1),
	   "... and has nothing to make durable");
	store->ops->close(store);
	unlink(path);
}

/* A file that ends in the middle of a page, as anybody's may. */
static void odd_size(const char *folder, enum lh_file_way way)
{
	struct lh_file_options options = { .way = way, .reach = 10 };
	unsigned char data[LH_PAGE_SIZE];
	struct lh_store *store, *clone = NULL;
	char path[400];
	int fd;

	name_file(path, folder);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	suite_fill(data, 1, LH_MASK_ALL, 1);
	if (fd < 0 || pwrite(fd, data, 640, LH_PAGE_SIZE) != 640)
		abort();
	close(fd);
	store = open_with(&lh__sys_default, path, &options);
	ok(store && lh__file_pages(store) == 2 && has_page(store, 1, 0x3ff, 1), "way %d: ten lines of a page",
	   way);
	ok(store->ops->clone(store, &clone, NULL) == 0 && has_page(clone, 1, 0x3ff, 1), "... are cloned");
	ok(suite_put(store, LH_OP_PUT, 1, 0xc00, 1) == 0 && has_page(store, 1, 0xfff, 1),
	   "... and two more put");
	ok(has_page(clone, 1, 0x3ff, 1), "... which the clone does not see");
	clone->ops->close(clone);
	store->ops->close(store);
	unlink(path);
}

/* What was acknowledged is in the file that is opened again. */
static void comes_back(const char *folder, enum lh_file_way way)
{
	struct lh_file_options options = { .way = way, .create = true, .reach = 100 };
	struct lh_store *store;
	char path[400];

	name_file(path, folder);
	store = open_with(&lh__sys_default, path, &options);
	if (!store || put_batch(store, 0, 1) != 0 || store->ops->sync(store) != 0)
		abort();
	store->ops->close(store);
	options.create = false;
	store = open_with(&lh__sys_default, path, &options);
	ok(store && has_batch(store, 1), "way %d: what was put is there when it is opened again", way);
	store->ops->close(store);
	unlink(path);
}

/* ---- every call and allocation failing in turn ---- */

enum { PAGES = 4 };

struct sweep {
	struct inject in;
	uint64_t version[PAGES];
	unsigned failed, wrong;
};

static bool is_planned(const struct sweep *sweep, int result)
{
	return result == -ENOMEM || result == -sweep->in.error;
}

static void check(struct sweep *sweep, struct lh_store *store)
{
	unsigned i;

	inject_disarm(&sweep->in);
	for (i = 0; i < PAGES; i++)
		if (!has_page(store, i * 3, sweep->version[i] ? LH_MASK_ALL : 0, sweep->version[i]))
			sweep->wrong++;
	inject_arm(&sweep->in);
}

static void took(struct sweep *sweep, int result)
{
	sweep->failed += result != 0;
	sweep->wrong += result != 0 && !is_planned(sweep, result);
}

static void sweep_store(struct sweep *sweep, struct lh_store *store)
{
	struct lh_store *clone = NULL;
	unsigned i;
	int result;

	for (i = 0; i < PAGES; i++) {
		result = suite_put(store, i & 1 ? LH_OP_PUT : LH_OP_REPLACE, i * 3, LH_MASK_ALL, i + 1);
		took(sweep, result);
		sweep->version[i] = result == 0 ? i + 1 : 0;
		check(sweep, store);
	}
	result = suite_do(store, LH_OP_DROP, 3, 0, NULL);
	took(sweep, result);
	sweep->version[1] = result == 0 ? 0 : sweep->version[1];
	check(sweep, store);
	took(sweep, store->ops->reserve(store, 40));
	check(sweep, store);
	result = store->ops->clone(store, &clone, NULL);
	took(sweep, result);
	check(sweep, store);
	if (result == 0) {
		check(sweep, clone);
		clone->ops->close(clone);
	}
	took(sweep, store->ops->sync(store));
	check(sweep, store);
}

static unsigned descriptors(void)
{
	unsigned i, n = 0;

	for (i = 0; i < 256; i++)
		n += fcntl((int)i, F_GETFD) >= 0;
	return n;
}

static void sweeps(const char *folder, enum lh_file_way way, enum inject_mode mode)
{
	struct lh_file_options options = { .way = way, .create = true, .lock = true, .reach = 50 };
	const unsigned before = descriptors();
	unsigned left = 0;
	struct sweep sweep = { .failed = 0 };
	char path[400];

	name_file(path, folder);
	INJECT_SWEEP(&sweep.in, EIO, mode) {
		struct lh_store *store = NULL;
		int result;

		memset(sweep.version, 0, sizeof sweep.version);
		inject_arm(&sweep.in);
		result = lh__file_open(&sweep.in.sys, path, &options, &store, NULL);
		took(&sweep, result);
		if (result == 0) {
			sweep_store(&sweep, store);
			store->ops->close(store);
		}
		inject_disarm(&sweep.in);
		/* To remove it again is a call that may fail as well. */
		left += result != 0 && access(path, F_OK) == 0 && mode == INJECT_ONCE;
		unlink(path);
	}
	ok(inject_swept(&sweep.in), "way %d: %lu rounds with a failure, nothing leaked", way,
	   sweep.in.rounds);
	is(descriptors(), before, "... no descriptor either");
	is(left, 0, "... and no file of a store that could not be opened");
	is(sweep.wrong, 0,
	   "... each call failed as planned or not at all, and changed nothing when it failed");
	ok(sweep.failed >= sweep.in.rounds / 2, "... failures reached the caller (%u)", sweep.failed);
}

/* ---- */

static void make_folders(void)
{
	const char *build = getenv("LINEHOME_BUILD");

	signal(SIGXFSZ, SIG_IGN);
	snprintf(disk, sizeof disk, "%s/store_file.XXXXXX", build ? build : "/var/tmp");
	if (!mkdtemp(disk))
		abort();
	snprintf(shm, sizeof shm, SHM "/store_file.XXXXXX");
	if (!mkdtemp(shm))
		shm[0] = 0;
	/* A namespace of its own, so that nobody else sees what is mounted. */
	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		return;
	snprintf(small, sizeof small, "%s/small", disk);
	if (mkdir(small, 0700) != 0)
		small[0] = 0;
}

static void remove_folders(void)
{
	if (small[0])
		rmdir(small);
	ok(rmdir(disk) == 0 && (!shm[0] || rmdir(shm) == 0), "no file is left");
}

static void way_by_way(const char *folder, enum lh_file_way way)
{
	read_only(folder, way);
	odd_size(folder, way);
	comes_back(folder, way);
	sweeps(folder, way, INJECT_ONCE);
	sweeps(folder, way, INJECT_LASTING);
}

int main(void)
{
	struct place direct = { .folder = disk, .way = LH_FILE_DIRECT };

	make_folders();
	conforms("buffered, tmpfs", shm, LH_FILE_BUFFERED, 0, 4000);
	conforms("buffered, disk", disk, LH_FILE_BUFFERED, DISK_PAGES, 2000);
	conforms("direct, disk", disk, LH_FILE_DIRECT, DISK_PAGES, 500);
	conforms("mapped, tmpfs", shm, LH_FILE_MAPPED, 1 << 20, 4000);
	one_call();
	direct_calls();
	mapped_calls();
	writes_fail();
	short_of_room(LH_REQUEST_UNCOUNTED);
	short_of_room(LH_REQUEST_UNCOUNTED | LH_REQUEST_DURABLE);
	flushes_fail();
	two_descriptions();
	does_without();
	locks();
	waits_for_lock(10000);
	waits_for_lock(-1);
	refuses();
	way_by_way(disk, LH_FILE_BUFFERED);
	if (can_open(&direct))
		way_by_way(disk, LH_FILE_DIRECT);
	if (shm[0])
		way_by_way(shm, LH_FILE_MAPPED);
	remove_folders();
	return done();
}
