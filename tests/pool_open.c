/*
 * pool_open.c - creating, opening and closing pools: options, what is refused and left alone, damaged files,
 * locks, addresses, and what lh_pool_info says.
 */
#include "pool_ways.h"

#include <sys/mman.h>

#include "store/journal_inside.h"

/* The result of opening, which is undone where it succeeds; the reason in *error. */
static int try_open(const char *path, const struct lh_pool_options *options, struct lh_error *error)
{
	struct lh_pool *pool;
	int result;

	*error = (struct lh_error){ .code = 0 };
	result = lh_pool_open(path, options, &pool, error);
	if (result == 0)
		way_close(pool);
	return result;
}

static int try_create(const char *path, const struct lh_pool_options *options, struct lh_error *error)
{
	struct lh_pool *pool;
	int result;

	*error = (struct lh_error){ .code = 0 };
	result = lh_pool_create(path, options, &pool, error);
	if (result == 0)
		way_close(pool);
	return result;
}

/* ---- it comes back ---- */

static void comes_back(const struct way *way)
{
	char path[400], url[420];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	volatile uint64_t *root = way_root(pool), **kept;
	void *base = way_info(pool).base;
	unsigned same = 0, right = 0;

	kept = (volatile uint64_t **)(uintptr_t)&root[1];
	way_set(pool, (volatile uint64_t *)kept, (uint64_t)(uintptr_t)&root[4000]);
	way_set(pool, &root[4000], 77);
	way_close(pool);
	snprintf(url, sizeof url, "file:%s", path);
	for (unsigned i = 0; i < 5; i++) {
		pool = way_open(way, i % 2 ? path : url);
		same += way_info(pool).base == base && way_root(pool) == root;
		right += *kept == &root[4000] && **kept == 77 + i;
		way_set(pool, *kept, 78 + i);
		way_close(pool);
	}
	is(same, 5, "%s: memory and root stand where they stood", way->name);
	is(right, 5, "%s: ... and a pointer in it leads to what was stored last", way->name);
	is(lh_pool_close(NULL, NULL), 0, "%s: closing nothing is no error", way->name);
	unlink(path);
}

static void closes_open_transaction(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	volatile uint64_t *root = way_root(pool);

	way_set(pool, &root[3], 5);
	MUST(lh_tx_begin(pool, &why));
	MUST(lh_tx_begin(pool, &why));
	way_store(pool, &root[3], 6);
	is(lh_pool_close(pool, NULL), 0, "%s: a pool with an open transaction can be closed", way->name);
	pool = way_open(way, path);
	ok(lh__pool_report(pool)->clean, "%s: ... and was closed cleanly", way->name);
	is(way_root(pool)[3], 5, "%s: ... the transaction was aborted", way->name);
	way_close(pool);
	unlink(path);
}

/* ---- options ---- */

static void sizes(const struct way *way)
{
	static const struct {
		uint64_t size, reach, log, size_is, reach_is, log_is;
	} table[] = {
		{ 0, 0, 0, 64 << 20, UINT64_C(64) << 30, 8 << 20 },
		{ LH_POOL_SIZE_MIN, 0, LH_POOL_LOG_MIN, LH_POOL_SIZE_MIN, UINT64_C(64) << 30,
		  LH_POOL_LOG_MIN },
		{ LH_POOL_SIZE_MIN + 1, 1 << 20, LH_POOL_LOG_MIN + 1, LH_POOL_SIZE_MIN + 4096, 1 << 20,
		  LH_POOL_LOG_MIN + 4096 },
		{ 1 << 20, 1 << 20, 0, 1 << 20, 1 << 20, 1 << 20 },
		{ 1 << 20, (1 << 20) + 5, 0, 1 << 20, (1 << 20) + 4096, 1 << 20 },
	};

	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		struct lh_pool_options options = way_options(way);
		struct lh_pool_info info;
		struct lh_pool *pool;
		char path[400];

		options.size = table[i].size;
		options.reach = table[i].reach;
		options.log_size = table[i].log;
		MUST(lh_pool_create(way_path(way, path), &options, &pool, &why));
		info = way_info(pool);
		ok(info.size == table[i].size_is && info.reach == table[i].reach_is &&
		           info.log_size == table[i].log_is,
		   "%s: sizes %zu are as documented", way->name, i);
		way_close(pool);
		unlink(path);
	}
}

static void sizes_refused(const struct way *way)
{
	static const struct {
		const char *what;
		struct lh_pool_options options;
		int result;
	} table[] = {
		{ "too small", { .size = LH_POOL_SIZE_MIN - 4096 }, -EINVAL },
		{ "a log too small", { .log_size = LH_POOL_LOG_MIN - 1 }, -EINVAL },
		{ "a reach below the size", { .size = 2 << 20, .reach = 1 << 20 }, -EINVAL },
		{ "a reach of 64 TiB", { .reach = UINT64_C(64) << 40 }, -EINVAL },
		{ "a size that wraps around", { .size = UINT64_MAX }, -EINVAL },
		{ "a log that wraps around", { .log_size = UINT64_MAX }, -EINVAL },
		{ "an address inside a page", { .address = (UINT64_C(1) << 45) + 8 }, -EINVAL },
		{ "an address of the kernel's", { .address = UINT64_C(1) << 47 }, -EINVAL },
		{ "no such way to see", { .see = (enum lh_see)4 }, -EINVAL },
		{ "no such log", { .log = (enum lh_log)3 }, -EINVAL },
		{ "a new pool that is read-only", { .read_only = true }, -EINVAL },
		{ "a layout of 64 bytes",
		  { .layout = "0123456789012345678901234567890123456789012345678901234567890123" },
		  -EINVAL },
	};

	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		struct lh_error error;
		char path[400];
		int result = try_create(way_path(way, path), &table[i].options, &error);

		ok(result == table[i].result && error.text[0] && access(path, F_OK) != 0,
		   "%s: refused, and no file is left: %s", way->name, table[i].what);
		if (result != table[i].result)
			printf("# %d: %s\n", result, error.text);
		unlink(path);
	}
}

static void undo_on_disk(void)
{
	static const struct way disk = { "page, undo, disk", LH_SEE_PAGE, LH_LOG_UNDO, true };
	struct lh_pool_options options = way_options(&disk);
	struct lh_error error;
	char path[400];

	if (!ways_folder[1][0]) {
		skip(disk.name, "there is no folder that is not on tmpfs");
		return;
	}
	for (options.see = LH_SEE_PAGE; options.see <= LH_SEE_TRANSLATED; options.see++) {
		is(try_create(way_path(&disk, path), &options, &error), -EOPNOTSUPP,
		   "an undo log is refused on a disk");
		ok(strstr(error.text, "tmpfs") && strstr(error.text, path) && access(path, F_OK) != 0,
		   "... the reason is said, and no file is left");
	}
	way_close(way_create(&ways[1], path));
	options.see = LH_SEE_DECLARED;
	is(try_open(path, &options, &error), -EOPNOTSUPP, "... also for a pool that is there already");
	options.log = LH_LOG_AUTO;
	is(try_open(path, &options, &error), 0, "... which is left as it was");
	unlink(path);
}

static void exists(const struct way *way)
{
	struct lh_pool_options options = way_options(way);
	struct lh_error error;
	char path[400], text[8] = "";
	int file = open(way_path(way, path), O_CREAT | O_RDWR, 0600);

	MUST(write(file, "a text", 6) == 6 ? 0 : -EIO);
	is(try_create(path, &options, &error), -EEXIST, "%s: a file that is there is not made", way->name);
	ok(strstr(error.text, path) && pread(file, text, 8, 0) == 6 && memcmp(text, "a text", 6) == 0,
	   "%s: ... it is named, and left alone", way->name);
	close(file);
	unlink(path);
	way_close(way_create(way, path));
	is(try_create(path, &options, &error), -EEXIST, "%s: nor a pool", way->name);
	is(try_open(path, &options, &error), 0, "%s: ... which can be opened as before", way->name);
	unlink(path);
	is(try_open(path, &options, &error), -ENOENT, "%s: no such file", way->name);
	is(try_open(ways_folder[way->disk], &options, &error), -EINVAL, "%s: a folder", way->name);
}

static void layouts(const struct way *way)
{
	struct lh_pool_options options = way_options(way);
	struct lh_error error;
	char path[400];

	options.layout = "things-1";
	is(try_create(way_path(way, path), &options, &error), 0, "%s: a pool with a layout", way->name);
	is(try_open(path, &options, &error), 0, "%s: ... opens with it", way->name);
	options.layout = NULL;
	is(try_open(path, &options, &error), 0, "%s: ... and where any is taken", way->name);
	options.layout = "things-2";
	is(try_open(path, &options, &error), -EMEDIUMTYPE, "%s: ... and not with another", way->name);
	ok(strstr(error.text, "things-1") && strstr(error.text, "things-2"), "%s: ... both are named",
	   way->name);
	options.layout = "";
	is(try_open(path, &options, &error), -EMEDIUMTYPE, "%s: ... nor with the empty one", way->name);
	unlink(path);
	options.layout = NULL;
	is(try_create(path, &options, &error), 0, "%s: a pool without", way->name);
	options.layout = "";
	is(try_open(path, &options, &error), 0, "%s: ... has the empty one", way->name);
	options.layout = "things-1";
	is(try_open(path, &options, &error), -EMEDIUMTYPE, "%s: ... and no other", way->name);
	unlink(path);
	options.layout = "012345678901234567890123456789012345678901234567890123456789012";
	is(try_create(path, &options, &error), 0, "%s: one of 63 bytes", way->name);
	is(try_open(path, &options, &error), 0, "%s: ... comes back", way->name);
	unlink(path);
}

/* ---- files that are no pools, or are damaged ---- */

static uint64_t checksum(const char *path)
{
	static unsigned char data[65536];
	uint64_t sum = 0;
	int file = open(path, O_RDONLY);
	ssize_t got;

	while ((got = read(file, data, sizeof data)) > 0)
		sum = sum * 31 + lh__crc32c(0, data, (size_t)got) + (uint64_t)got;
	close(file);
	return sum;
}

/* Refused with this error, by each kind of opening, and not a byte is changed. */
static void refused(const struct way *way, const char *path, int wanted, const char *what)
{
	struct lh_pool_options options = way_options(way);
	uint64_t before = checksum(path);
	struct lh_error error;
	int result = try_open(path, &options, &error), read_only;

	ok(result == wanted && strstr(error.text, path), "%s: %s is refused", way->name, what);
	printf("# %d: %s\n", result, error.text);
	options.read_only = true;
	read_only = try_open(path, &options, &error);
	ok(read_only == wanted, "%s: ... read-only as well", way->name);
	if (read_only != wanted)
		printf("# %d: %s\n", read_only, error.text);
	ok(checksum(path) == before, "%s: ... and left as it is", way->name);
}

static void foreign(const struct way *way)
{
	char path[400];
	int file = open(way_path(way, path), O_CREAT | O_RDWR, 0600);

	refused(way, path, -EBADMSG, "an empty file");
	for (unsigned i = 0; i < 5000; i++)
		MUST(write(file, "no pool at all\n", 15) == 15 ? 0 : -EIO);
	refused(way, path, -EBADMSG, "a text");
	MUST(ftruncate(file, 100));
	refused(way, path, -EBADMSG, "a short text");
	MUST(ftruncate(file, 0));
	MUST(ftruncate(file, 2 << 20));
	refused(way, path, -EBADMSG, "a file of zeroes");
	close(file);
	unlink(path);
}

static void truncated(const struct way *way)
{
	const struct {
		const char *what;
		off_t size;
	} table[] = {
		{ "a pool without its last page", 8192 + WAY_LOG + WAY_SIZE - 4096 },
		{ "a pool without a part of its last page", 8192 + WAY_LOG + WAY_SIZE - 100 },
		{ "a pool cut in its memory", 8192 + WAY_LOG + WAY_SIZE / 2 },
		{ "a pool without memory", 8192 + WAY_LOG },
		{ "a pool cut in its log", 8192 + WAY_LOG / 2 },
		{ "a pool with nothing but its header", 8192 },
		{ "a pool with one copy of its header", 4096 },
		{ "a pool cut in its header", 1000 },
	};
	char path[400];

	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		struct lh_pool *pool = way_create(way, way_path(way, path));
		volatile uint64_t *root = way_root(pool);

		for (unsigned j = 0; j < 20; j++)
			way_set(pool, &root[j * 100], j);
		way_close(pool);
		MUST(truncate(path, table[i].size));
		refused(way, path, -EBADMSG, table[i].what);
		unlink(path);
	}
}

/* Both copies of the header with a change made to them, and a checksum that is right again. */
static void patch(const char *path, void (*change)(struct journal_header *header))
{
	int file = open(path, O_RDWR);

	for (unsigned i = 0; i < 2; i++) {
		struct journal_header header;

		MUST(pread(file, &header, sizeof header, (off_t)i * 4096) == sizeof header ? 0 : -EIO);
		change(&header);
		header.crc = 0;
		header.crc = lh__crc32c(0, &header, sizeof header);
		MUST(pwrite(file, &header, sizeof header, (off_t)i * 4096) == sizeof header ? 0 : -EIO);
	}
	close(file);
}

static struct lh_pool_header *client(struct journal_header *header)
{
	return (struct lh_pool_header *)header->client;
}

static void newer_journal(struct journal_header *header)
{
	header->version = LH_JOURNAL_VERSION + 1;
}

static void newer_pool(struct journal_header *header)
{
	client(header)->version = LH_POOL_VERSION + 1;
}

static void no_pool(struct journal_header *header)
{
	client(header)->magic[0] ^= 1;
}

static void too_small(struct journal_header *header)
{
	client(header)->size = 4096;
}

static void beyond_reach(struct journal_header *header)
{
	client(header)->size = client(header)->reach + 4096;
}

static void reach_too_far(struct journal_header *header)
{
	client(header)->reach = UINT64_C(1) << 60;
}

static void address_odd(struct journal_header *header)
{
	client(header)->address += 8;
}

static void address_none(struct journal_header *header)
{
	client(header)->address = 0;
}

static void address_high(struct journal_header *header)
{
	client(header)->address = UINT64_C(0xffff800000000000);
}

static void layout_endless(struct journal_header *header)
{
	memset(client(header)->layout, 'x', LH_LAYOUT_SIZE);
}

static void log_too_large(struct journal_header *header)
{
	header->log_pages = UINT64_C(1) << 50;
}

static void home_in_log(struct journal_header *header)
{
	header->home_page = 3;
}

static void headers(const struct way *way)
{
	static const struct {
		const char *what;
		void (*change)(struct journal_header *header);
		int result;
	} table[] = {
		{ "a newer journal", newer_journal, -EPROTONOSUPPORT },
		{ "a newer pool", newer_pool, -EPROTONOSUPPORT },
		{ "a journal that is no pool", no_pool, -EBADMSG },
		{ "a size that cannot be", too_small, -EBADMSG },
		{ "a size beyond its reach", beyond_reach, -EBADMSG },
		{ "a reach that cannot be", reach_too_far, -EBADMSG },
		{ "an address inside a page", address_odd, -EBADMSG },
		{ "no address", address_none, -EBADMSG },
		{ "an address of the kernel's", address_high, -EBADMSG },
		{ "a layout without an end", layout_endless, -EBADMSG },
		{ "a log larger than anything", log_too_large, -EBADMSG },
		{ "memory inside the log", home_in_log, -EBADMSG },
	};

	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		char path[400];

		way_close(way_create(way, way_path(way, path)));
		patch(path, table[i].change);
		refused(way, path, table[i].result, table[i].what);
		unlink(path);
	}
}

static void damaged_header(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	volatile uint64_t *root = way_root(pool);
	int file = open(path, O_RDWR);

	way_set(pool, root, 1);
	way_close(pool);
	/* The newer one may be either; the other may be lost. */
	for (unsigned i = 0; i < 2; i++) {
		struct journal_header copy[2];

		MUST(pread(file, &copy[0], sizeof copy[0], 0) == sizeof copy[0] ? 0 : -EIO);
		MUST(pread(file, &copy[1], sizeof copy[1], 4096) == sizeof copy[1] ? 0 : -EIO);
		if (copy[i].generation > copy[!i].generation)
			continue;
		MUST(pwrite(file, "XXXX", 4, (off_t)i * 4096 + 500) == 4 ? 0 : -EIO);
		pool = way_open(way, path);
		is(way_root(pool)[0], 1, "%s: a pool with a damaged older header opens", way->name);
		way_close(pool);
		break;
	}
	for (unsigned i = 0; i < 2; i++)
		MUST(pwrite(file, "XXXX", 4, (off_t)i * 4096 + 500) == 4 ? 0 : -EIO);
	close(file);
	refused(way, path, -EBADMSG, "a pool with two damaged headers");
	unlink(path);
}

/* ---- read-only ---- */

struct toucher {
	const struct way *way;
	const char *path;
};

static int store_read_only(void *context)
{
	struct toucher *toucher = context;
	struct lh_pool_options options = way_options(toucher->way);
	struct lh_pool *pool;
	volatile uint64_t *root;

	options.read_only = true;
	MUST(lh_pool_open(toucher->path, &options, &pool, &why));
	root = way_root(pool);
	if (root[5] != 55)
		return 1;
	root[5] = 56;
	return 2;
}

static void read_only_calls(const struct way *way, struct lh_pool *pool)
{
	volatile uint64_t *root = way_root(pool);
	uint64_t token;

	is(root[5], 55, "%s: a pool that is open read-only can be read", way->name);
	is(lh_tx_begin(pool, NULL), -EROFS, "%s: ... no transaction", way->name);
	is(lh_tx_commit_async(pool, &token, NULL), -EROFS, "%s: ... no commit", way->name);
	is(lh_tx_abort(pool, NULL), -EROFS, "%s: ... no abort", way->name);
	is(lh_tx_add(pool, (void *)root, 8, NULL), -EROFS, "%s: ... nothing can be declared", way->name);
	is(lh_pool_grow(pool, 2 * WAY_SIZE, NULL), -EROFS, "%s: ... nor grown", way->name);
	ok(lh_pool_alloc(pool, 8, NULL) == NULL && lh_pool_free(pool, (void *)root, NULL) == -EROFS,
	   "%s: ... nor allocated or freed", way->name);
	is(lh_pool_load(pool, (void *)root, 65536, NULL), 0, "%s: ... it can be loaded", way->name);
	ok(lh_pool_usable_size(pool, (void *)root) >= ROOT_WORDS * 8, "%s: ... objects have their size",
	   way->name);
}

static void read_only(const struct way *way)
{
	struct lh_pool_options options = way_options(way);
	char path[400];
	struct toucher toucher = { way, path };
	struct lh_pool *pool = way_create(way, way_path(way, path)), *second;
	uint64_t before;
	int status;

	options.read_only = true;
	way_set(pool, &way_root(pool)[5], 55);
	way_close(pool);
	before = checksum(path);
	chmod(path, 0400);
	MUST(lh_pool_open(path, &options, &pool, &why));
	read_only_calls(way, pool);
	is(lh_pool_close(pool, NULL), 0, "%s: ... and closed", way->name);
	status = in_child(store_read_only, &toucher);
	ok(ended_by(status, SIGBUS) || ended_by(status, SIGSEGV), "%s: a store there faults (0x%x)",
	   way->name, (unsigned)status);
	MUST(lh_pool_open(path, &options, &pool, &why));
	second = NULL;
	is(lh_pool_open(path, &options, &second, NULL), -EADDRINUSE,
	   "%s: a second reader in this process finds the addresses taken", way->name);
	way_close(pool);
	ok(checksum(path) == before, "%s: not a byte of the file has changed", way->name);
	unlink(path);
}

static void read_only_unclean(const struct way *way)
{
	struct lh_pool_options options = way_options(way);
	struct lh_error error;
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	volatile uint64_t *root = way_root(pool);
	uint64_t before;

	way_set(pool, root, 1);
	MUST(lh_tx_begin(pool, &why));
	way_store(pool, root, 2);
	lh__pool_abandon(pool);
	before = checksum(path);
	options.read_only = true;
	is(try_open(path, &options, &error), -EROFS,
	   "%s: a pool that was not closed is not opened to be read", way->name);
	ok(strstr(error.text, "recovered") && checksum(path) == before,
	   "%s: ... that is said, and nothing changed", way->name);
	pool = way_open(way, path);
	ok(!lh__pool_report(pool)->clean && way_root(pool)[0] == 1,
	   "%s: opened to be written it is recovered", way->name);
	way_close(pool);
	is(try_open(path, &options, &error), 0, "%s: ... and after that to be read", way->name);
	unlink(path);
}

/* ---- locks ---- */

/* Opens the pool, says so, and keeps it until it is told to let go. */
struct holder {
	const struct way *way;
	const char *path;
	bool read_only;
	int says[2], told[2];
	pid_t pid;
};

static int hold(struct holder *holder)
{
	struct lh_pool_options options = way_options(holder->way);
	struct lh_pool *pool;
	char byte;

	options.read_only = holder->read_only;
	MUST(lh_pool_open(holder->path, &options, &pool, &why));
	if (write(holder->says[1], "o", 1) != 1 || read(holder->told[0], &byte, 1) != 1)
		return 1;
	if (byte == 'l')
		usleep(50000); /* whoever waits has begun to, or finds the pool free: both are right */
	return lh_pool_close(pool, NULL) != 0;
}

static void holder_start(struct holder *holder)
{
	char byte;

	MUST(pipe(holder->says) | pipe(holder->told));
	fflush(stdout);
	holder->pid = fork();
	if (holder->pid == 0) {
		alarm(30);
		_exit(hold(holder));
	}
	MUST(read(holder->says[0], &byte, 1) == 1 ? 0 : -EIO);
}

static void holder_end(struct holder *holder, char how)
{
	int status = -1;

	if (how)
		MUST(write(holder->told[1], &how, 1) == 1 ? 0 : -EIO);
	waitpid(holder->pid, &status, 0);
	MUST(status == 0 ? 0 : -EIO);
	for (unsigned i = 0; i < 2; i++) {
		close(holder->says[i]);
		close(holder->told[i]);
	}
}

static void locks(const struct way *way)
{
	struct lh_pool_options options = way_options(way);
	char path[400];
	struct holder holder = { .way = way, .path = way_path(way, path) };
	struct lh_pool *pool = way_create(way, path);
	struct lh_error error;

	is(try_open(path, &options, &error), -EBUSY,
	   "%s: a pool that this process has cannot be opened again", way->name);
	options.read_only = true;
	is(try_open(path, &options, &error), -EBUSY, "%s: ... nor to be read", way->name);
	way_close(pool);
	options.read_only = false;
	holder_start(&holder);
	is(try_open(path, &options, &error), -EBUSY, "%s: nor one that another process has", way->name);
	ok(strstr(error.text, "for writing"), "%s: ... %s", way->name, error.text);
	options.wait_ms = 30;
	is(try_open(path, &options, &error), -ETIMEDOUT, "%s: waiting for it has an end", way->name);
	options.wait_ms = 20000;
	MUST(write(holder.told[1], "l", 1) == 1 ? 0 : -EIO);
	is(try_open(path, &options, &error), 0, "%s: ... or gets it", way->name);
	holder_end(&holder, 0);
	unlink(path);
}

static void locks_readers(const struct way *way)
{
	struct lh_pool_options options = way_options(way);
	char path[400];
	struct holder holder = { .way = way, .path = way_path(way, path), .read_only = true };
	struct lh_error error;

	way_close(way_create(way, path));
	holder_start(&holder);
	is(try_open(path, &options, &error), -EBUSY, "%s: a reader keeps a writer out", way->name);
	ok(strstr(error.text, "for reading"), "%s: ... %s", way->name, error.text);
	options.read_only = true;
	is(try_open(path, &options, &error), 0, "%s: ... and lets a reader in", way->name);
	options.read_only = false;
	options.wait_ms = -1;
	MUST(write(holder.told[1], "l", 1) == 1 ? 0 : -EIO);
	is(try_open(path, &options, &error), 0, "%s: a writer that waits for ever gets it", way->name);
	holder_end(&holder, 0);
	unlink(path);
}

/* ---- addresses ---- */

static void addresses(const struct way *way)
{
	const uint64_t asked = UINT64_C(0x2a5000000000);
	struct lh_pool_options options = way_options(way);
	struct lh_error error;
	struct lh_pool *pool;
	char path[400];
	void *memory;
	int file;

	options.address = asked;
	MUST(lh_pool_create(way_path(way, path), &options, &pool, &why));
	ok(way_info(pool).base == (void *)asked, "%s: a pool stands where it is asked for", way->name);
	way_close(pool);
	options.address = 0;
	memory =
		mmap((void *)(asked + WAY_REACH - 4096), 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	is(try_open(path, &options, &error), -EADDRINUSE, "%s: its addresses are taken", way->name);
	ok(memory == (void *)(asked + WAY_REACH - 4096) &&
	           strstr(error.text, "unnamed memory at 0x2a50003ff000"),
	   "%s: ... %s", way->name, error.text);
	munmap(memory, 4096);
	file = open("/proc/self/exe", O_RDONLY);
	memory = mmap((void *)(asked + 8192), 4096, PROT_READ, MAP_PRIVATE, file, 0);
	is(try_open(path, &options, &error), -EADDRINUSE, "%s: ... by a file", way->name);
	ok(strstr(error.text, "tests/pool_open at 0x2a5000002000"), "%s: ... which is named", way->name);
	munmap(memory, 4096);
	close(file);
	is(try_open(path, &options, &error), 0, "%s: ... and free again", way->name);
	memory = mmap((void *)asked, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	options.address = asked;
	unlink(path);
	is(try_create(path, &options, &error), -EADDRINUSE, "%s: nor is a pool made there", way->name);
	ok(access(path, F_OK) != 0, "%s: ... and no file is left", way->name);
	munmap(memory, 4096);
}

#define SEVERAL 5u
static void several(const struct way *way)
{
	struct lh_pool *pool[SEVERAL];
	volatile uint64_t *root[SEVERAL];
	char path[SEVERAL][400];
	unsigned right = 0;

	for (unsigned i = 0; i < SEVERAL; i++) {
		pool[i] = way_create(way, way_path(way, path[i]));
		root[i] = way_root(pool[i]);
	}
	for (unsigned i = 0; i < SEVERAL; i++)
		MUST(lh_tx_begin(pool[i], &why));
	for (unsigned i = 0; i < 10 * SEVERAL; i++)
		way_store(pool[i % SEVERAL], &root[i % SEVERAL][i], i + 1);
	for (unsigned i = 0; i < SEVERAL; i++)
		MUST(i % 2 ? lh_tx_abort(pool[i], &why) : lh_tx_commit(pool[i], &why));
	for (unsigned i = 0; i < 10 * SEVERAL; i++)
		right += root[i % SEVERAL][i] == (i % SEVERAL % 2 ? 0 : i + 1);
	is(right, 10 * SEVERAL, "%s: transactions in several pools do not know each other", way->name);
	for (unsigned i = 0; i < SEVERAL; i++) {
		way_close(pool[i]);
		unlink(path[i]);
	}
}

#define MANY 64u
static void many(const struct way *way)
{
	struct lh_pool_options options = way_options(way);
	struct lh_pool *pool[MANY];
	char path[MANY + 1][400];
	struct lh_error error;
	unsigned right = 0;

	options.size = LH_POOL_SIZE_MIN;
	options.log_size = LH_POOL_LOG_MIN;
	for (unsigned i = 0; i < MANY; i++)
		MUST(lh_pool_create(way_path(way, path[i]), &options, &pool[i], &why));
	is(try_create(way_path(way, path[MANY]), &options, &error), -EMFILE, "%s: 64 pools, and no more",
	   way->name);
	ok(strstr(error.text, "64") && access(path[MANY], F_OK) != 0,
	   "%s: ... that is said, and no file is left", way->name);
	for (unsigned i = 0; i < MANY; i++) {
		uint64_t *root = lh_pool_root(pool[i], 64, NULL);

		way_set(pool[i], root, i);
		right += *root == i;
	}
	is(right, MANY, "%s: ... each works", way->name);
	way_close(pool[7]);
	is(try_create(path[MANY], &options, &error), 0, "%s: ... where one is closed there is room again",
	   way->name);
	for (unsigned i = 0; i <= MANY; i++) {
		if (i < MANY && i != 7)
			way_close(pool[i]);
		unlink(path[i]);
	}
}

/* ---- figures ---- */

/* What one transaction that stores one word costs, with a page that is there already. */
struct cost {
	uint64_t flushes, fences, log, changed, home, faults;
};

static struct cost cost_of(const struct way *way)
{
	/* A store that is its page's only one is made by the library, which saves its line. */
	bool faults = see_by_faults(way->see);
	uint64_t lines = way->see == LH_SEE_CHECKED ? 64 : 1, undo = (40 + 8 + 64 * lines + 63) / 64;

	/* A record of 40 bytes and a line set of 8 and a line: two lines. */
	if (way->log == LH_LOG_REDO)
		return (struct cost){ way->disk ? 1 : 2, way->disk ? 0 : 1, 128, 64, 0, faults };
	/* The old lines, the line itself, and the record of the end. */
	return (struct cost){ undo + 1 + 1, 3, 64 * undo + 64, 64 * lines, 64, faults };
}

static void figures(const struct way *way)
{
	enum { N = 12 };
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	volatile uint64_t *root = way_root(pool);
	struct cost cost = cost_of(way);
	struct lh_pool_info before, after;

	way_set(pool, root, 1);
	before = way_info(pool);
	for (unsigned i = 0; i < N; i++)
		way_set(pool, root, 2 + i);
	after = way_info(pool);
	is(after.commits - before.commits, N, "%s: commits", way->name);
	is(after.flushes - before.flushes, N * cost.flushes, "%s: flushes", way->name);
	is(after.fences - before.fences, N * cost.fences, "%s: fences", way->name);
	is(after.log_bytes - before.log_bytes, N * cost.log, "%s: bytes of the log", way->name);
	is(after.changed_bytes - before.changed_bytes, N * cost.changed, "%s: changed bytes", way->name);
	is(after.home_bytes - before.home_bytes, N * cost.home, "%s: bytes written home", way->name);
	is(after.faults - before.faults, N * cost.faults, "%s: faults", way->name);
	MUST(lh_tx_begin(pool, &why));
	MUST(lh_tx_abort(pool, &why));
	is(way_info(pool).aborts - before.aborts, 1, "%s: aborts", way->name);
	ok(after.see == way->see && after.log == way->log && after.layout[0] == 0, "%s: the way", way->name);
	ok(after.durable == way->disk, "%s: durable on a disk, and not on tmpfs", way->name);
	way_close(pool);
	unlink(path);
}

static void offsets(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	char *base = way_info(pool).base;

	ok(lh_ptr_off(pool, base + 100) == 100 && lh_off_ptr(pool, 100) == base + 100,
	   "%s: offsets are from the base", way->name);
	ok(lh_ptr_off(pool, NULL) == 0 && lh_off_ptr(pool, 0) == NULL, "%s: ... nothing is 0", way->name);
	ok(lh_ptr_off(pool, base + WAY_SIZE - 1) == WAY_SIZE - 1 && lh_ptr_off(pool, base + WAY_SIZE) == 0 &&
	           lh_ptr_off(pool, base - 1) == 0,
	   "%s: ... and so is what is not in the pool", way->name);
	ok(lh_off_ptr(pool, WAY_SIZE - 1) == base + WAY_SIZE - 1 && lh_off_ptr(pool, WAY_SIZE) == NULL &&
	           lh_off_ptr(pool, UINT64_MAX) == NULL,
	   "%s: ... and NULL the other way", way->name);
	is(lh_pool_load(pool, base, WAY_SIZE, NULL), 0, "%s: all of it can be loaded", way->name);
	is(lh_pool_load(pool, base + WAY_SIZE, 0, NULL), 0, "%s: ... or nothing", way->name);
	is(lh_pool_load(pool, base + 1, WAY_SIZE, NULL), -EINVAL, "%s: ... and not beyond", way->name);
	is(lh_pool_load(pool, base - 1, 1, NULL), -EINVAL, "%s: ... nor before", way->name);
	way_close(pool);
	unlink(path);
}

int main(void)
{
	ways_begin("pool_open");
	ways_each(comes_back);
	ways_each(closes_open_transaction);
	ways_each_place(sizes);
	ways_each_place(sizes_refused);
	undo_on_disk();
	ways_each_place(exists);
	ways_each_place(layouts);
	ways_each(foreign);
	ways_each(truncated);
	ways_each_place(headers);
	ways_each_place(damaged_header);
	ways_each(read_only);
	ways_each(read_only_unclean);
	ways_each_place(locks);
	ways_each_place(locks_readers);
	ways_each(addresses);
	ways_each(several);
	ways_each_place(many);
	ways_each(figures);
	ways_each(offsets);
	return ways_end();
}
