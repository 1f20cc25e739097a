/*
 * store_view.c - the view of a memory store: what a reader sees is what the store would have answered, or
 * nothing; in the middle of a change as well, and whatever fails while it is made.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "inject.h"
#include "store/store.h"
#include "store/view.h"
#include "tap.h"

enum { PAGES = 200 };

struct scene {
	struct lh_memory_pool *pool;
	struct lh_store *store;
	struct lh_view_reader reader;
	int fd;
};

static bool open_reader(const struct lh_sys *sys, const struct lh_store *store, struct lh_view_reader *reader,
                        int *fd)
{
	reader->fd = -1;
	*fd = lh__memory_view(store);
	return *fd >= 0 && lh__view_open(sys, *fd, reader) == 0;
}

static bool begin(struct scene *scene, uint64_t pages)
{
	return lh__memory_pool_open(&lh__sys_default, 0, &scene->pool) == 0 &&
	       lh__memory_open(scene->pool, &scene->store) == 0 &&
	       lh__memory_share(scene->store, pages) == 0 &&
	       open_reader(&lh__sys_default, scene->store, &scene->reader, &scene->fd);
}

static void end(struct scene *scene)
{
	lh__view_close(&lh__sys_default, &scene->reader);
	close(scene->fd);
	scene->store->ops->close(scene->store);
	is(lh__memory_pool_used(scene->pool), 0, "nothing is left in use");
	lh__memory_pool_close(scene->pool);
}

static int change(struct lh_store *store, enum lh_op op, uint64_t page, lh_mask mask, unsigned char value)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64)));
	struct lh_request request = { .op = op, .page = page, .mask = mask, .data = data };

	memset(data, value, sizeof data);
	return lh__store_do(store, &request);
}

/* Whether the reader sees the page as the store has it. */
static bool agrees(const struct lh_view_reader *reader, struct lh_store *store, uint64_t page)
{
	unsigned char seen[LH_PAGE_SIZE], there[LH_PAGE_SIZE];
	lh_mask seen_held = 0, held = 0;

	return lh__view_read(&lh__sys_default, reader, page, seen, &seen_held) &&
	       store->ops->get_now(store, page, LH_MASK_ALL, there, &held) == 0 && seen_held == held &&
	       memcmp(seen, there, sizeof seen) == 0;
}

static bool sees(const struct lh_view_reader *reader, uint64_t page)
{
	unsigned char data[LH_PAGE_SIZE];
	lh_mask held;

	return lh__view_read(&lh__sys_default, reader, page, data, &held);
}

/* ---- contents ---- */

static void contents(void)
{
	struct scene s;
	unsigned wrong = 0;

	if (!ok(begin(&s, PAGES), "a store with a view"))
		return;
	ok(!sees(&s.reader, 3), "a page that was never put is not in view");
	for (unsigned i = 0; i < 20; i++)
		wrong += change(s.store, LH_OP_PUT, i, LH_MASK_ALL, (unsigned char)(i + 1)) != 0 ||
		         !agrees(&s.reader, s.store, i);
	is(wrong, 0, "whole pages are seen as they were put");
	ok(change(s.store, LH_OP_PUT, 5, 0xf0f0, 77) == 0 && agrees(&s.reader, s.store, 5),
	   "lines put over it");
	ok(change(s.store, LH_OP_PUT, 5, 0x1111, 0) == 0 && agrees(&s.reader, s.store, 5),
	   "lines of zeroes, which are not held any more");
	ok(change(s.store, LH_OP_REPLACE, 5, 0x3, 9) == 0 && agrees(&s.reader, s.store, 5),
	   "two lines as the whole page");
	ok(change(s.store, LH_OP_DROP, 5, 0, 0) == 0 && !sees(&s.reader, 5),
	   "a page that was dropped is out of view");
	ok(change(s.store, LH_OP_PUT, 6, LH_MASK_ALL, 0) == 0 && !sees(&s.reader, 6),
	   "so is one put as zeroes");
	ok(change(s.store, LH_OP_PUT, 5, 0x8, 3) == 0 && agrees(&s.reader, s.store, 5), "and it comes back");
	ok(change(s.store, LH_OP_PUT, PAGES + 5, 1, 1) == 0 && !sees(&s.reader, PAGES + 5),
	   "a number beyond the index is asked for");
	end(&s);
}

static void clones(void)
{
	struct lh_view_reader reader;
	struct lh_store *clone = NULL;
	struct scene s;
	int fd = -1;

	if (!ok(begin(&s, PAGES), "a store with a view"))
		return;
	for (unsigned i = 0; i < 100; i++)
		if (change(s.store, LH_OP_PUT, i, LH_MASK_ALL, 7) != 0)
			abort();
	ok(s.store->ops->clone(s.store, &clone, NULL) == 0 &&
	           open_reader(&lh__sys_default, clone, &reader, &fd),
	   "a clone has a view");
	ok(!sees(&reader, 3), "in which there is nothing of another store's memory");
	ok(agrees(&s.reader, s.store, 3), "the original's is as before");
	ok(change(s.store, LH_OP_PUT, 3, 1, 8) == 0 && agrees(&s.reader, s.store, 3),
	   "a change of the original");
	ok(change(clone, LH_OP_PUT, 4, 2, 9) == 0 && agrees(&reader, clone, 4), "a change of the clone");
	ok(agrees(&s.reader, s.store, 4), "... which the original does not see");
	ok(change(s.store, LH_OP_PUT, 10, 3, 0) == 0 && change(clone, LH_OP_PUT, 11, 3, 0) == 0 &&
	           !sees(&s.reader, 10) && !sees(&reader, 11),
	   "zeroes in a frame that both have: asked for");
	ok(change(s.store, LH_OP_PUT, 10, 4, 5) == 0 && agrees(&s.reader, s.store, 10),
	   "until it has its own");
	clone->ops->close(clone);
	ok(change(s.store, LH_OP_PUT, 11, 8, 6) == 0 && agrees(&s.reader, s.store, 11),
	   "the clone has gone: a frame of one's own again");
	lh__view_close(&lh__sys_default, &reader);
	close(fd);
	end(&s);
}

/* A store's view lives as long as frames in it do, which may be a clone's. */
static void clone_outlives(void)
{
	struct lh_store *clone = NULL;
	unsigned wrong = 0;
	struct scene s;

	if (!ok(begin(&s, PAGES), "a store with a view"))
		return;
	for (unsigned i = 0; i < PAGES; i++)
		if (change(s.store, LH_OP_PUT, i, LH_MASK_ALL, (unsigned char)(i | 1)) != 0)
			abort();
	if (s.store->ops->clone(s.store, &clone, NULL) != 0)
		abort();
	s.store->ops->close(s.store);
	for (unsigned i = 0; i < PAGES; i++) {
		unsigned char data[LH_PAGE_SIZE];
		lh_mask held;

		wrong += clone->ops->get_now(clone, i, LH_MASK_ALL, data, &held) != 0 || data[99] != (i | 1);
	}
	is(wrong, 0, "a clone has its pages when the original has gone");
	s.store = clone;
	end(&s);
}

/* ---- room ---- */

static uint64_t memory_of(int fd)
{
	struct stat file;

	return fstat(fd, &file) == 0 ? (uint64_t)file.st_blocks * 512 : UINT64_MAX;
}

static void room(void)
{
	unsigned seen = 0, wrong = 0;
	struct scene s;
	uint64_t full;

	if (!ok(begin(&s, PAGES), "a store with a view of %d pages", PAGES))
		return;
	for (unsigned i = 0; i < 3 * PAGES; i++)
		wrong += change(s.store, LH_OP_PUT, i, 1, 1) != 0;
	for (unsigned i = 0; i < PAGES; i++)
		seen += sees(&s.reader, i);
	ok(wrong == 0 && seen == PAGES, "has room for all of them, and others elsewhere");
	full = memory_of(s.fd);
	for (unsigned i = 0; i < 3 * PAGES; i++)
		wrong += change(s.store, LH_OP_DROP, i, 0, 0) != 0;
	ok(wrong == 0 && memory_of(s.fd) < full / 2, "memory goes back: %lu of %lu bytes are left",
	   (unsigned long)memory_of(s.fd), (unsigned long)full);
	for (unsigned i = 0; i < 20; i++)
		wrong += change(s.store, LH_OP_PUT, i, 2, 2) != 0 || !agrees(&s.reader, s.store, i);
	is(wrong, 0, "and is used again");
	end(&s);
}

/* ---- in the middle of a change ---- */

static struct {
	struct lh_store *store;
	unsigned char next;
} middle;

/* The page changes after it was read, and before the reader looks whether it has. */
static long change_after_read(void *context, long nr, const long argument[6])
{
	long result = lh__sys_default.call(context, nr, argument);

	if (nr == SYS_pread64 && middle.store &&
	    change(middle.store, LH_OP_PUT, 3, LH_MASK_ALL, middle.next++) != 0)
		abort();
	return result;
}

static void changed_meanwhile(void)
{
	struct lh_sys sys = lh__sys_default;
	unsigned char data[LH_PAGE_SIZE];
	struct scene s;
	lh_mask held;

	sys.call = change_after_read;
	if (!ok(begin(&s, PAGES) && change(s.store, LH_OP_PUT, 3, LH_MASK_ALL, 1) == 0, "a page"))
		return;
	ok(lh__view_read(&sys, &s.reader, 3, data, &held) && data[0] == 1, "is read");
	middle.store = s.store;
	middle.next = 2;
	ok(!lh__view_read(&sys, &s.reader, 3, data, &held), "one that changes meanwhile is asked for");
	middle.store = NULL;
	ok(agrees(&s.reader, s.store, 3), "and is seen when it rests");
	end(&s);
}

struct writing {
	struct lh_store *store;
	bool stop;
	unsigned failed;
};

static void *write_on(void *argument)
{
	struct writing *writing = argument;

	for (unsigned i = 1; !__atomic_load_n(&writing->stop, __ATOMIC_RELAXED); i++) {
		writing->failed += change(writing->store, i % 3 ? LH_OP_PUT : LH_OP_REPLACE, i % 4,
		                          LH_MASK_ALL, (unsigned char)(i | 1)) != 0;
		if (i % 7 == 0)
			writing->failed += change(writing->store, LH_OP_DROP, i % 4, 0, 0) != 0;
	}
	return NULL;
}

static void torn(void)
{
	struct writing writing = { .stop = false };
	unsigned read = 0, wrong = 0;
	pthread_t thread;
	struct scene s;

	if (!ok(begin(&s, PAGES), "a store with a view, and a thread that changes it"))
		return;
	writing.store = s.store;
	if (pthread_create(&thread, NULL, write_on, &writing) != 0)
		abort();
	for (unsigned i = 0; i < 200000 || (read < 1000 && i < 20000000); i++) {
		unsigned char data[LH_PAGE_SIZE];
		lh_mask held;

		if (!lh__view_read(&lh__sys_default, &s.reader, i % 4, data, &held))
			continue;
		read++;
		wrong += held != LH_MASK_ALL || memcmp(data, data + 1, sizeof data - 1) != 0;
	}
	__atomic_store_n(&writing.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	ok(read > 0 && wrong == 0 && writing.failed == 0, "of %u pages that were read none was torn", read);
	end(&s);
}

/* ---- failures ---- */

static void sweep(int error, enum inject_mode mode, const char *name)
{
	unsigned wrong = 0, without = 0;
	struct inject in;

	INJECT_SWEEP(&in, error, mode) {
		struct lh_memory_pool *pool;
		struct lh_store *store;
		bool shared;

		if (lh__memory_pool_open(&in.sys, 0, &pool) != 0 || lh__memory_open(pool, &store) != 0)
			abort();
		inject_arm(&in);
		shared = lh__memory_share(store, PAGES) == 0;
		for (unsigned i = 0; i < 3; i++) {
			unsigned char data[LH_PAGE_SIZE] = { 0 };
			lh_mask held = 0;
			int put = change(store, LH_OP_PUT, i, LH_MASK_ALL, 5);

			wrong += store->ops->get_now(store, i, LH_MASK_ALL, data, &held) != 0 ||
			         data[8] != (put == 0 ? 5 : 0);
		}
		inject_disarm(&in);
		without += !shared;
		wrong += shared != (lh__memory_view(store) >= 0);
		store->ops->close(store);
		lh__memory_pool_close(pool);
	}
	ok(inject_swept(&in) && wrong == 0 && without > 0,
	   "%s: every failure leaves a store that is right (%lu)", name, in.rounds);
}

static void sweep_reader(void)
{
	unsigned failed = 0, wrong = 0;
	struct inject in;
	struct scene s;

	if (!begin(&s, PAGES) || change(s.store, LH_OP_PUT, 1, LH_MASK_ALL, 4) != 0)
		abort();
	INJECT_SWEEP(&in, EIO, INJECT_ONCE) {
		struct lh_view_reader reader = { .fd = -1 };
		unsigned char data[LH_PAGE_SIZE];
		lh_mask held = 0;

		inject_arm(&in);
		if (lh__view_open(&in.sys, s.fd, &reader) != 0)
			failed++;
		else if (!lh__view_read(&in.sys, &reader, 1, data, &held))
			failed++;
		else
			wrong += data[77] != 4 || held != LH_MASK_ALL;
		inject_disarm(&in);
		lh__view_close(&in.sys, &reader);
	}
	ok(inject_swept(&in) && failed == in.rounds && wrong == 0, "a reader sees every failure (%u)",
	   failed);
	end(&s);
}

/* ---- what is no view ---- */

static int file_of(const void *bytes, size_t size, uint64_t length, unsigned seals)
{
	int fd = memfd_create("no view", MFD_ALLOW_SEALING);

	if (fd < 0 || write(fd, bytes, size) != (ssize_t)size || ftruncate(fd, (off_t)length) != 0 ||
	    (seals && fcntl(fd, F_ADD_SEALS, seals) != 0))
		abort();
	return fd;
}

static void refuses(const struct lh_view_header *header, uint64_t length, unsigned seals, const char *what)
{
	struct lh_view_reader reader;
	int fd = file_of(header, sizeof *header, length, seals);

	is(lh__view_open(&lh__sys_default, fd, &reader), -EPROTO, "no view: %s", what);
	is(reader.fd, -1, "and there is none");
	close(fd);
}

static void impostors(void)
{
	struct lh_view_header good = { .magic = LH_VIEW_MAGIC,
		                       .version = LH_VIEW_VERSION,
		                       .pages = 64,
		                       .room = LH_VIEW_CHUNK,
		                       .size = 2 * LH_VIEW_CHUNK },
			      bad;
	unsigned seals = F_SEAL_SHRINK | F_SEAL_GROW;
	struct lh_view_reader reader;
	int fd = file_of(&good, sizeof good, good.size, seals);

	is(lh__view_open(&lh__sys_default, fd, &reader), 0,
	   "a view made by hand, byte by byte as the drawing has it");
	lh__view_close(&lh__sys_default, &reader);
	close(fd);
	refuses(&good, good.size, 0, "a file that can shrink");
	refuses(&good, good.size - LH_PAGE_SIZE, seals, "a file of another size");
	bad = good;
	bad.magic ^= 1;
	refuses(&bad, good.size, seals, "another magic");
	bad = good;
	bad.version++;
	refuses(&bad, good.size, seals, "another version");
	bad = good;
	bad.pages = UINT64_MAX / 8;
	refuses(&bad, good.size, seals, "an impossible number of pages");
	bad = good;
	bad.room = 0;
	refuses(&bad, good.size, seals, "room in the wrong place");
	is(lh__view_open(&lh__sys_default, 0, &reader), -EPROTO, "no view: standard input");
}

static void read_only(void)
{
	struct scene s;

	if (!begin(&s, PAGES) || change(s.store, LH_OP_PUT, 1, LH_MASK_ALL, 4) != 0)
		abort();
	ok(pwrite(s.fd, "x", 1, 0) < 0 &&
	           mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0) == MAP_FAILED &&
	           ftruncate(s.fd, 0) < 0,
	   "a reader's descriptor is for reading only");
	end(&s);
}

int main(void)
{
	contents();
	clones();
	clone_outlives();
	room();
	changed_meanwhile();
	torn();
	sweep(ENOMEM, INJECT_ONCE, "once");
	sweep(ENOSPC, INJECT_LASTING, "lasting");
	sweep_reader();
	impostors();
	read_only();
	return done();
}
