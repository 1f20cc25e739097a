/*
 * pool_image.c - fuzzes what is believed of a pool's file. The input names one of some whole pools and
 * changes bytes of it; then the pool is checked, its log is read, and it is opened, used and closed. Whatever
 * the bytes:
 *   - nothing crashes, hangs, or reads or writes beyond the image;
 *   - what only looks changes nothing, and neither does what fails to open because the pool is damaged;
 *   - an error comes with its reason; a log that cannot be read to its end is no pool that opens;
 *   - what has been opened and closed is whole: it opens again, with an empty log.
 *
 * Input: a byte of ways (FUZZ_), then changes: where (a byte, and 2 of an offset there), how many bytes (1),
 * and these. Hardly any change would get by the checksums, so they are put right on demand.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/pool/pool.h"
#include "store/journal_inside.h"

enum {
	FUZZ_BASE = 7,     /* which pool; see bases */
	FUZZ_HEADERS = 8,  /* checksums of headers are put right */
	FUZZ_RECORDS = 16, /* and those of records */
	FUZZ_DIRECT = 32,  /* pages are in memory, with an undo log; else by requests, with a redo log */
	FUZZ_READ_ONLY = 64,
	FUZZ_SEEN = 128, /* stores are seen by faults; else declared */
};

#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

#define PAGES 40u /* of an image: two headers, 16 of log, 16 of the pool, and room to grow */
#define SIZE (PAGES * LH_PAGE_SIZE)
#define ADDRESS UINT64_C(0x300000000000)
#define ALLOC_MAX (UINT64_C(64) << 20)

/* ---- a store that is an image, and the table of calls ---- */

struct image {
	struct lh_store store;
	struct lh_direct direct;
	int fd;
	unsigned char *bytes; /* with nothing behind them */
	bool may_change, changed;
	struct lh_request *done, **done_end;
};

/* The same in each run, and another each time: a session's salt must not be that of the one before. */
static uint64_t random_state;

static long call(void *context, long nr, const long argument[6])
{
	if (nr == SYS_getrandom) {
		for (long i = 0; i < argument[1]; i++)
			((uint8_t *)argument[0])[i] =
				(uint8_t)(++random_state * UINT64_C(0x9e3779b97f4a7c15) >> 56);
		return argument[1];
	}
	return lh__sys_default.call(lh__sys_default.context, nr, argument);
}

static void *alloc(void *context, size_t size)
{
	return size > ALLOC_MAX ? NULL : lh__sys_default.alloc(NULL, size);
}

static void release(void *context, void *pointer, size_t size)
{
	lh__sys_default.free(NULL, pointer, size);
}

static const struct lh_sys sys = { .call = call, .alloc = alloc, .free = release };

static int get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct image *image = (struct image *)store;

	if (page >= PAGES)
		return -EIO;
	lh__lines_copy(data, image->bytes + page * LH_PAGE_SIZE, want);
	*held = want;
	return 0;
}

static int carry_out(struct image *image, struct lh_request *request)
{
	unsigned char *page = image->bytes + request->page * LH_PAGE_SIZE;

	if (request->op == LH_OP_GET)
		return get_now(&image->store, request->page, request->mask, request->data, &request->mask);
	MUST(image->may_change);
	if (request->page >= PAGES)
		return -ENOSPC;
	image->changed = true;
	if (request->op != LH_OP_PUT)
		memset(page, 0, LH_PAGE_SIZE);
	if (request->op != LH_OP_DROP)
		lh__lines_copy(page, request->data, request->mask);
	return 0;
}

static int submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct image *image = (struct image *)store;

	for (size_t i = 0; i < n; i++) {
		requests[i]->result = carry_out(image, requests[i]);
		requests[i]->next = NULL;
		*image->done_end = requests[i];
		image->done_end = &requests[i]->next;
	}
	return 0;
}

static size_t poll_done(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct image *image = (struct image *)store;
	size_t n = 0;

	while (n < max && image->done) {
		done[n] = image->done;
		image->done = done[n++]->next;
	}
	if (!image->done)
		image->done_end = &image->done;
	return n;
}

static int sync_nothing(struct lh_store *store)
{
	return 0;
}

static int clone_nothing(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	return lh__fail(error, -EOPNOTSUPP, "an image has no clones");
}

static int reserve(struct lh_store *store, uint64_t pages)
{
	return pages > PAGES ? -ENOSPC : 0;
}

static void close_nothing(struct lh_store *store)
{
}

static const struct lh_store_ops image_ops = { "image",      submit,        poll_done, get_now,
	                                       sync_nothing, clone_nothing, reserve,   close_nothing };

static void flush(const struct lh_direct *direct, const void *from, size_t size)
{
}

static void write_lines(const struct lh_direct *direct, void *to, const void *lines, size_t size)
{
	memcpy(to, lines, size);
}

static void fence(const struct lh_direct *direct)
{
}

static struct image image;

static int map(const struct lh_direct *direct, uint64_t page, size_t pages, void *address)
{
	if (page > PAGES || pages > PAGES - page)
		return -ENOSPC;
	return mmap(address, pages * LH_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, image.fd,
	            (off_t)(page * LH_PAGE_SIZE)) == MAP_FAILED
	               ? -ENOMEM
	               : 0;
}

static void open_image(bool direct)
{
	image.store = (struct lh_store){ .ops = &image_ops, .sys = &sys, .caps = { .depth = 64 } };
	image.store.direct = direct ? &image.direct : NULL;
	image.done = NULL;
	image.done_end = &image.done;
}

static void make_image(void)
{
	unsigned char *room = mmap(NULL, SIZE + LH_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	image.fd = memfd_create("image", MFD_CLOEXEC);
	MUST(room != MAP_FAILED && image.fd >= 0 && ftruncate(image.fd, SIZE) == 0);
	image.bytes = mmap(room, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, image.fd, 0);
	MUST(image.bytes == room);
	image.direct = (struct lh_direct){ image.bytes, PAGES, flush, write_lines, fence, map, NULL };
}

/* ---- whole pools ---- */

enum base { CLOSED, USED, IN_THE_MIDDLE, EMPTY, BASES };
static unsigned char bases[2][BASES][SIZE]; /* [1]: with an undo log */

static void use(struct lh_pool *pool, unsigned transactions)
{
	for (unsigned i = 0; i < transactions; i++) {
		uint64_t *object;

		MUST(lh_tx_begin(pool, NULL) == 0);
		object = lh_pool_alloc(pool, 24 << i, NULL);
		if (object)
			memset(object, (int)i + 1, 24 << i);
		MUST(lh_tx_commit(pool, NULL) == 0 && object);
		if (i % 2 == 0)
			continue;
		MUST(lh_tx_begin(pool, NULL) == 0 && lh_pool_free(pool, object, NULL) == 0 &&
		     lh_tx_commit(pool, NULL) == 0);
	}
}

static void make_base(enum base base, bool direct)
{
	struct lh_pool_options options = { .layout = "fuzz",
		                           .see = LH_SEE_DECLARED,
		                           .log = direct ? LH_LOG_UNDO : LH_LOG_REDO,
		                           .size = LH_POOL_SIZE_MIN,
		                           .reach = SIZE,
		                           .log_size = LH_POOL_LOG_MIN,
		                           .address = ADDRESS };
	struct lh_pool *pool;

	open_image(direct);
	memset(image.bytes, 0, SIZE);
	image.may_change = true;
	if (base != EMPTY) {
		MUST(lh__pool_on_store(&image.store, &options, true, true, &pool, NULL) == 0);
		MUST(lh_pool_root(pool, 100, NULL));
		use(pool, 6);
		if (base == IN_THE_MIDDLE)
			MUST(lh_tx_begin(pool, NULL) == 0 && lh_pool_alloc_zero(pool, 5000, NULL));
		if (base == CLOSED)
			MUST(lh_pool_close(pool, NULL) == 0);
		else
			lh__pool_abandon(pool);
	}
	memcpy(bases[direct][base], image.bytes, SIZE);
}

static void make_all(void)
{
	make_image();
	for (unsigned direct = 0; direct < 2; direct++)
		for (unsigned base = 0; base < BASES; base++)
			make_base((enum base)base, direct);
}

/* ---- changing them ---- */

#define LOG_AT (2u * LH_PAGE_SIZE)
#define LOG_SIZE LH_POOL_LOG_MIN
#define RECORD_HEADER LH_LOG_RECORD_HEADER

/* Record n of the log, from its beginning on, as far as it can be followed. */
static unsigned record_at(unsigned n)
{
	unsigned at = 0;

	while (n-- > 0) {
		uint32_t size;

		memcpy(&size, image.bytes + LOG_AT + at + 32, sizeof size);
		if (size < RECORD_HEADER || size > LOG_SIZE - at - LH_LINE_SIZE)
			break;
		at += (unsigned)lh__log_stride(size);
		if (at > LOG_SIZE - LH_LINE_SIZE)
			return 0;
	}
	return LOG_AT + at;
}

static void change_bytes(const uint8_t *data, size_t size)
{
	while (size > 4) {
		unsigned offset = data[1] | (unsigned)data[2] << 8, at, n = data[3];

		switch (data[0] % 4) {
		case 0: at = (offset >> 15) * LH_PAGE_SIZE + offset % JOURNAL_HEADER_SIZE; break;
		case 1: at = LOG_AT + offset; break;
		case 2: at = LOG_AT + LOG_SIZE + offset; break;
		default: at = record_at(offset >> 8) + (offset & 255);
		}
		data += 4;
		size -= 4;
		if (n > size)
			n = (unsigned)size;
		memcpy(image.bytes + at, data, n);
		data += n;
		size -= n;
	}
}

static void mend_headers(void)
{
	for (unsigned i = 0; i < 2; i++) {
		struct journal_header *header = (struct journal_header *)(image.bytes + i * LH_PAGE_SIZE);

		header->crc = 0;
		header->crc = lh__crc32c(0, header, sizeof *header);
	}
}

static void mend_record(unsigned char *record, uint64_t salt, uint32_t size)
{
	uint32_t crc;

	memset(record + 36, 0, 4);
	crc = lh__crc32c(lh__crc32c(0, &salt, sizeof salt), record, size);
	memcpy(record + 36, &crc, sizeof crc);
}

/* Whatever looks like one, for the salt of the header that counts. */
static void mend_records(void)
{
	struct journal_header header;

	if (lh__journal_header_read(&image.store, &header, NULL) < 0)
		return;
	for (unsigned at = 0; at < LOG_SIZE; at += LH_LINE_SIZE) {
		unsigned char *record = image.bytes + LOG_AT + at;
		uint32_t magic, size;

		memcpy(&magic, record, sizeof magic);
		memcpy(&size, record + 32, sizeof size);
		if (magic == LH_LOG_MAGIC && size >= RECORD_HEADER && size <= LOG_SIZE - at)
			mend_record(record, header.salt, size);
	}
}

/* ---- what is done with them ---- */

static void must_tell(int result, const struct lh_error *error)
{
	MUST(result >= 0 || (error->code == result && error->text[0]));
}

static int see_record(void *context, const struct lh_log_record *record)
{
	size_t at = 0, size = record->size - RECORD_HEADER;

	(void)lh__crc32c(0, record->sets, size); /* all of it may be read */
	while (at < size) {
		struct lh_lineset set;
		long taken = lh__log_set_decode(&set, record->sets + at, size - at);

		if (taken < 0)
			break;
		MUST((size_t)taken <= size - at && taken > 0);
		at += (size_t)taken;
	}
	++*(unsigned *)context;
	return 0;
}

static int visit_one(void *context, void *object, size_t usable)
{
	++*(unsigned *)context;
	return 0;
}

/* healthy: the check has found nothing, so its heap is one. */
static void work(struct lh_pool *pool, bool healthy)
{
	struct lh_pool_info info;
	struct lh_error error = { 0 };
	unsigned n = 0;
	uint64_t *word;
	int result;

	lh_pool_info(pool, &info);
	word = (uint64_t *)((unsigned char *)info.base + info.size - 256);
	result = lh_tx_begin(pool, &error);
	must_tell(result, &error);
	if (result == 0) {
		result = lh_tx_add(pool, word, 8, &error);
		must_tell(result, &error);
		if (result == 0)
			++*word;
		result = lh_tx_abort(pool, &error);
		must_tell(result, &error);
	}
	if (!healthy)
		return;
	MUST(lh_pool_objects(pool, visit_one, &n) == 0);
	if (lh_tx_begin(pool, &error) != 0)
		return;
	word = lh_pool_alloc(pool, 200, &error);
	if (word)
		memset(word, 7, 200);
	if (n % 2 == 0 && word)
		MUST(lh_pool_free(pool, word, &error) == 0);
	result = lh_tx_commit(pool, &error);
	must_tell(result, &error);
	result = lh_pool_grow(pool, info.size + 2 * LH_PAGE_SIZE, &error);
	must_tell(result, &error);
}

static void open_again(const struct lh_pool_options *options)
{
	struct lh_journal_look look;
	struct lh_pool *pool;
	unsigned records = 0;

	open_image(options->log == LH_LOG_UNDO);
	MUST(lh__journal_look(&image.store, &look, NULL) == 0 && look.clean);
	MUST(lh__journal_visit(&image.store, see_record, &records, NULL) == 0 && records == 0);
	MUST(lh__pool_on_store(&image.store, options, false, true, &pool, NULL) == 0);
	MUST(lh_pool_close(pool, NULL) == 0);
}

static void open_and_work(const struct lh_pool_options *options, bool healthy, bool readable)
{
	static unsigned char before[SIZE];
	struct lh_error error = { 0 };
	struct lh_pool *pool = NULL;
	int result;

	memcpy(before, image.bytes, SIZE);
	image.may_change = !options->read_only;
	result = lh__pool_on_store(&image.store, options, false, true, &pool, &error);
	must_tell(result, &error);
	MUST((result == 0) == (pool != NULL));
	/* A heap that is damaged is found only when the log has been brought home. */
	MUST(result == 0 || (readable && !strstr(error.text, "its header") && result != -EPROTONOSUPPORT) ||
	     memcmp(before, image.bytes, SIZE) == 0);
	if (result < 0)
		return;
	MUST(readable);
	if (!options->read_only)
		work(pool, healthy);
	result = lh_pool_close(pool, &error);
	must_tell(result, &error);
	if (options->read_only)
		MUST(memcmp(before, image.bytes, SIZE) == 0);
	else if (result == 0)
		open_again(options);
}

static void try_image(uint8_t ways)
{
	static unsigned char before[SIZE];
	bool direct = ways & FUZZ_DIRECT;
	struct lh_pool_options options = { .see = ways & FUZZ_SEEN ? LH_SEE_PAGE : LH_SEE_DECLARED,
		                           .log = direct ? LH_LOG_UNDO : LH_LOG_REDO,
		                           .read_only = ways & FUZZ_READ_ONLY };
	struct lh_error error = { 0 };
	struct lh_pool_check check;
	unsigned records = 0;
	int healthy, readable;

	memcpy(before, image.bytes, SIZE);
	image.may_change = false;
	healthy = lh__pool_check_store(&image.store, &check, &error);
	must_tell(healthy, &error);
	readable = lh__journal_visit(&image.store, see_record, &records, &error);
	must_tell(readable, &error);
	MUST(healthy < 0 || (readable == 0 && check.records == records));
	MUST(memcmp(before, image.bytes, SIZE) == 0);
	open_and_work(&options, healthy == 0, readable == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool made;
	bool direct;

	if (size < 1)
		return 0;
	if (!made)
		make_all();
	made = true;
	random_state = UINT64_C(1) << 32;
	direct = data[0] & FUZZ_DIRECT;
	open_image(direct);
	memcpy(image.bytes, bases[direct][(data[0] & FUZZ_BASE) % BASES], SIZE);
	change_bytes(data + 1, size - 1);
	if (data[0] & FUZZ_HEADERS)
		mend_headers();
	if (data[0] & FUZZ_RECORDS)
		mend_records();
	try_image(data[0]);
	return 0;
}
