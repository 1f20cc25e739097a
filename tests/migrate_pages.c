/*
 * migrate_pages.c - pages given over real channels, against a model of what the receiver has: content, what
 * differs since it was given, hashes that made room, two channels and the guest's writes at once, counts.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "line_random.h"
#include "migrate_channel.h"
#include "service/migrate/pages.h"
#include "service/migrate/supply.h"
#include "tap.h"

#define FIRST 300u /* pages of the first file, which begins with something else */
#define SECOND 52u
#define PAGES (FIRST + SECOND)
#define LANES 3u
#define OFFSET 8192u

struct memory {
	char path[2][64];
	uint8_t *map[2]; /* not read but where something was written */
	struct lh_state_region region[2];
};

/* Both sides. */
struct move {
	struct memory memory;
	struct lh_pages *pages;
	struct lh_supply *supply;
	uint8_t *copy; /* what the receiver has */
	uint64_t random;
};

static uint8_t *memory_page(struct memory *memory, uint64_t page)
{
	return page < FIRST ? memory->map[0] + OFFSET + page * LH_PAGE_SIZE
	                    : memory->map[1] + (page - FIRST) * LH_PAGE_SIZE;
}

static uint8_t *copy_page(struct move *move, uint64_t page)
{
	return move->copy + page * LH_PAGE_SIZE;
}

static void memory_file(struct memory *memory, int i, size_t offset, uint64_t first, uint64_t pages)
{
	size_t size = offset + pages * LH_PAGE_SIZE;
	int fd;

	strcpy(memory->path[i], "/dev/shm/linehome-test-pages-XXXXXX");
	fd = mkostemp(memory->path[i], O_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
		abort();
	memory->map[i] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory->map[i] == MAP_FAILED)
		abort();
	close(fd);
	memory->region[i] = (struct lh_state_region){ .offset = offset, .first = first, .pages = pages };
	strcpy(memory->region[i].path, memory->path[i]);
}

static void memory_close(struct memory *memory)
{
	for (int i = 0; i < 2; i++) {
		munmap(memory->map[i], memory->region[i].offset + memory->region[i].pages * LH_PAGE_SIZE);
		unlink(memory->path[i]);
	}
}

static void connect_lanes(struct move *move)
{
	struct lh_channel *channel[LANES];
	struct lh_error error;
	char url[320];

	snprintf(url, sizeof url, "unix:%s/pages", test_folder());
	for (unsigned i = 0; i < LANES; i++) {
		enum lh_move_channel_kind kind = i ? LH_MOVE_DATA : LH_MOVE_FAULTS;
		struct pair pair;

		if (!pair_open(&pair, i % 2 ? "tcp://127.0.0.1:0" : url, NULL, kind) ||
		    lh__pages_serve(move->pages, pair.sender, kind, &error))
			abort();
		channel[i] = pair.receiver;
	}
	if (lh__supply_remote(channel, LANES, &move->supply))
		abort();
}

static void move_open(struct move *move, uint64_t hashed)
{
	struct lh_pages_options options = { .regions = 2, .hashed = hashed };
	struct lh_error error;

	memset(move, 0, sizeof *move);
	move->random = 1;
	memory_file(&move->memory, 0, OFFSET, 0, FIRST);
	memory_file(&move->memory, 1, 0, FIRST, SECOND);
	options.region = move->memory.region;
	if (lh__pages_open(&options, &move->pages, &error)) {
		printf("# %s\n", error.text);
		abort();
	}
	connect_lanes(move);
	move->copy = calloc(PAGES, LH_PAGE_SIZE);
}

static void move_close(struct move *move)
{
	move->supply->ops->close(move->supply);
	lh__pages_close(move->pages);
	memory_close(&move->memory);
	free(move->copy);
}

/* ---- asking ---- */

static int ask(struct move *move, unsigned lane, uint64_t page, bool since)
{
	int result = move->supply->ops->ask(move->supply, lane, page, since);

	return result ? result : move->supply->ops->flush(move->supply, lane);
}

static int answer(struct move *move, unsigned lane, struct lh_supply_answer *out)
{
	struct pollfd poll_fd = { move->supply->ops->descriptor(move->supply, lane), POLLIN, 0 };
	int result;

	while ((result = move->supply->ops->next(move->supply, lane, out)) == 0)
		if (poll(&poll_fd, 1, 5000) == 0)
			return -ETIMEDOUT;
	return result;
}

/* As place_file.c does. */
static void apply(uint8_t *page, const struct lh_supply_answer *out)
{
	if (out->since)
		lh__lines_copy(page, out->data, out->mask);
	else
		memcpy(page, out->data, LH_PAGE_SIZE);
}

static bool fetch(struct move *move, unsigned lane, uint64_t page, bool since, struct lh_supply_answer *out)
{
	if (ask(move, lane, page, since) || answer(move, lane, out) != 1 || out->page != page)
		return false;
	apply(copy_page(move, page), out);
	return true;
}

static bool same(struct move *move, uint64_t page)
{
	return memcmp(copy_page(move, page), memory_page(&move->memory, page), LH_PAGE_SIZE) == 0;
}

static uint64_t below(struct move *move, uint64_t limit)
{
	return random_next(&move->random) % limit;
}

static void scribble(struct move *move, uint64_t page, unsigned lines)
{
	while (lines--) {
		uint8_t *line = memory_page(&move->memory, page) + 64 * below(move, 64);

		memset(line, (int)below(move, 3) ? (int)below(move, 256) : 0, 1 + below(move, 64));
	}
}

static void discard(struct move *move, uint64_t page)
{
	madvise(memory_page(&move->memory, page), LH_PAGE_SIZE, MADV_REMOVE);
}

/* ---- cases ---- */

static void content(void)
{
	struct lh_pageset set = { .pages = PAGES };
	struct lh_error error;
	struct move move;
	unsigned wrong = 0;
	bool written[PAGES] = { false };

	move_open(&move, 0);
	set.word = calloc(1, lh__pageset_bytes(PAGES));
	is(lh__pages_content(move.pages, &set, &error), 0, "files of holes alone");
	is(lh__pageset_count(&set), 0, "have no content");
	for (unsigned i = 0; i < 100; i++) {
		uint64_t page = below(&move, PAGES);

		memory_page(&move.memory, page)[below(&move, LH_PAGE_SIZE)] = 1;
		written[page] = true;
	}
	written[0] = written[FIRST - 1] = written[FIRST] = written[PAGES - 1] = true;
	for (unsigned i = 0; i < PAGES; i++)
		if (written[i])
			memory_page(&move.memory, i)[9] = 1;
	move.memory.map[0][0] = 1; /* before the memory */
	is(lh__pages_content(move.pages, &set, &error), 0, "files with holes");
	for (unsigned i = 0; i < PAGES; i++)
		wrong += lh__pageset_has(&set, i) != written[i];
	is(wrong, 0, "have content where something was written");
	free(set.word);
	move_close(&move);
}

static void whole(void)
{
	struct lh_pages_counts counts;
	struct lh_supply_answer out;
	uint64_t bytes = 0, lines = 0;
	unsigned wrong = 0, asked = 0, got = 0;
	struct move move;

	move_open(&move, 0);
	for (unsigned i = 0; i < PAGES; i++)
		scribble(&move, i, i % 4 ? i % 64 : 0);
	memset(move.copy, 0xee, PAGES * LH_PAGE_SIZE);
	while (got < PAGES) {
		for (; asked < PAGES && asked < got + 100; asked++)
			if (move.supply->ops->ask(move.supply, 1, asked, false))
				abort();
		if (move.supply->ops->flush(move.supply, 1) || answer(&move, 1, &out) != 1)
			break;
		apply(copy_page(&move, out.page), &out);
		wrong += out.page != got++ || out.since ||
		         out.mask != lh__page_nonzero(memory_page(&move.memory, out.page));
		bytes += out.bytes;
		lines += lh__mask_count(out.mask);
	}
	is(got, PAGES, "all pages come, in order");
	is(wrong, 0, "whole, and of their lines those that are not zero");
	for (unsigned i = 0; i < PAGES; i++)
		wrong += !same(&move, i);
	is(wrong, 0, "with the content that the files have");
	copy_page(&move, 7)[4095] ^= 1;
	ok(!same(&move, 7), "planted: a bit that is not as it should be is noticed");
	lh__pages_read_counts(move.pages, &counts);
	ok(counts.given[LH_MOVE_DATA] == PAGES && counts.given[LH_MOVE_FAULTS] == 0 && counts.since == 0,
	   "all are counted");
	ok(counts.bytes[LH_MOVE_DATA] == bytes && bytes == PAGES * 56 + lines * 64, "so are the bytes");
	move_close(&move);
}

/* What comes is what differs from what came last, whatever was written in between, and no line more. */
static void since(void)
{
	struct lh_supply_answer out;
	struct lh_pages_counts counts;
	uint64_t relative = 0, lines = 0;
	unsigned wrong = 0, inexact = 0;
	struct move move;

	move_open(&move, 0);
	for (unsigned i = 0; i < 6000; i++) {
		uint64_t page = below(&move, PAGES);
		lh_mask differ, nonzero;

		for (unsigned writes = (unsigned)below(&move, 3); writes; writes--)
			scribble(&move, below(&move, PAGES), 1 + (unsigned)below(&move, 5));
		if (i % 500 == 0)
			memset(memory_page(&move.memory, page), 0, LH_PAGE_SIZE);
		differ = lh__page_diff(memory_page(&move.memory, page), copy_page(&move, page));
		nonzero = lh__page_nonzero(memory_page(&move.memory, page));
		if (!fetch(&move, 1 + i % 2, page, true, &out))
			break;
		wrong += !same(&move, page);
		inexact += out.mask != (out.since ? differ : nonzero) ||
		           (out.since && lh__mask_count(differ) > lh__mask_count(nonzero));
		relative += out.since;
		lines += out.since ? lh__mask_count(out.mask) : 0;
	}
	is(wrong, 0, "pages that were asked for again are as they are");
	is(inexact, 0, "and what came is what differs, or less");
	ok(relative > 4000, "%d were relative", (int)relative);
	lh__pages_read_counts(move.pages, &counts);
	is(counts.given[LH_MOVE_DATA], 6000, "counted: pages");
	ok(counts.since == relative && counts.lines_since == lines, "of them relative, and their lines");
	/* What the receiver lost it does not claim to have. */
	memset(copy_page(&move, 3), 0xee, LH_PAGE_SIZE);
	scribble(&move, 3, 3);
	ok(fetch(&move, 1, 3, false, &out) && !out.since && same(&move, 3), "who has nothing gets all");
	move_close(&move);
}

static void eviction(void)
{
	struct lh_supply_answer out;
	unsigned wrong = 0, relative = 0;
	struct move move;

	move_open(&move, 16);
	for (unsigned i = 0; i < PAGES; i++)
		scribble(&move, i, 64);
	for (unsigned i = 0; i < 32; i++)
		wrong += !fetch(&move, 1, i, true, &out) || !same(&move, i) || out.since;
	is(wrong, 0, "pages that were never given are given whole");
	for (unsigned i = 16; i < 32; i++) {
		wrong += !fetch(&move, 1, i, true, &out) || !same(&move, i);
		relative += out.since && out.mask == 0;
	}
	is(relative, 16, "of those whose hashes are kept nothing travels");
	for (unsigned i = 0; i < 16; i++)
		wrong += !fetch(&move, 1, i, true, &out) || !same(&move, i) || out.since;
	is(wrong, 0, "those whose hashes had to make room travel whole");
	/* A new connection: nobody knows what the other side has. */
	move.supply->ops->close(move.supply);
	lh__pages_disconnect(move.pages);
	connect_lanes(&move);
	ok(fetch(&move, 1, 3, true, &out) && !out.since, "on a new connection hashes are forgotten");
	move_close(&move);
}

static void await_given(struct move *move, enum lh_move_channel_kind kind, uint64_t n)
{
	struct lh_pages_counts counts;

	do {
		usleep(200);
		lh__pages_read_counts(move->pages, &counts);
	} while (counts.given[kind] < n);
}

/* A miss of what is on its way: whichever of the two answers comes first, the page is right. */
static void on_its_way(void)
{
	struct lh_supply_answer out;
	struct lh_pages_counts counts;
	uint8_t base[LH_PAGE_SIZE], *page;
	unsigned wrong = 0, relative = 0;
	struct move move;

	move_open(&move, 0);
	for (unsigned i = 0; i < 200; i++) {
		uint64_t number = below(&move, PAGES);
		bool data_first = i % 2, known = i % 5;

		page = copy_page(&move, number);
		scribble(&move, number, 40);
		wrong += !fetch(&move, 1, number, known, &out);
		scribble(&move, number, 3);
		memcpy(base, page, LH_PAGE_SIZE);
		lh__pages_read_counts(move.pages, &counts);
		if (ask(&move, data_first ? 1 : 0, number, true))
			break;
		await_given(&move, data_first ? LH_MOVE_DATA : LH_MOVE_FAULTS,
		            counts.given[data_first ? LH_MOVE_DATA : LH_MOVE_FAULTS] + 1);
		if (ask(&move, data_first ? 0 : 1, number, true))
			break;
		/* Each on the base, and each on what the other has made of it. */
		wrong += answer(&move, 0, &out) != 1;
		relative += out.since;
		apply(page, &out);
		wrong += !same(&move, number);
		apply(page, &out);
		wrong += !same(&move, number);
		memcpy(page, base, LH_PAGE_SIZE);
		wrong += answer(&move, 1, &out) != 1;
		apply(page, &out);
		wrong += !same(&move, number);
	}
	is(wrong, 0, "a page asked for on two channels is right from either");
	ok(relative > 100, "though of %d only what differs travelled", (int)relative);
	move_close(&move);
}

/* ---- threads ---- */

struct lane_thread {
	struct move *move;
	unsigned lane, rounds;
	bool once; /* each page, one after the other */
	unsigned failed;
	uint64_t random;
};

/* Lane 1 asks for even pages, lane 2 for odd ones, so a page is on its way once. */
static void *lane_thread(void *argument)
{
	struct lane_thread *thread = argument;

	for (unsigned i = 0; i < thread->rounds; i++) {
		uint64_t half = thread->once ? i : random_next(&thread->random) % (PAGES / 2);
		uint64_t page = 2 * half + thread->lane - 1;
		struct lh_supply_answer out;

		thread->failed += !fetch(thread->move, thread->lane, page, true, &out);
	}
	return NULL;
}

struct guest {
	struct move *move;
	bool stop;
};

static void *guest_thread(void *argument)
{
	struct guest *guest = argument;
	uint64_t random = 99;
	uint8_t line[64];
	int fd = open(guest->move->memory.path[0], O_WRONLY | O_CLOEXEC);

	while (!__atomic_load_n(&guest->stop, __ATOMIC_ACQUIRE)) {
		uint64_t at = OFFSET + 64 * (random_next(&random) % (FIRST * 64));

		memset(line, (int)(random >> 20), sizeof line);
		if (pwrite(fd, line, sizeof line, (off_t)at) != sizeof line)
			break;
	}
	close(fd);
	return NULL;
}

static void guest_runs(void)
{
	struct lane_thread lane[2];
	struct guest guest = { 0 };
	struct lh_supply_answer out;
	pthread_t thread[3];
	unsigned wrong = 0;
	struct move move;

	move_open(&move, 0);
	guest.move = &move;
	pthread_create(&thread[2], NULL, guest_thread, &guest);
	for (unsigned i = 0; i < 2; i++) {
		lane[i] = (struct lane_thread){ &move, i + 1, 4000, false, 0, i + 7 };
		pthread_create(&thread[i], NULL, lane_thread, &lane[i]);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	__atomic_store_n(&guest.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread[2], NULL);
	is(lane[0].failed + lane[1].failed, 0, "pages are given while the guest writes to them");
	for (unsigned i = 0; i < PAGES; i++)
		wrong += !fetch(&move, 1 + i % 2, i, true, &out) || !same(&move, i);
	is(wrong, 0, "and when it has stopped what differs makes them right");
	move_close(&move);
}

/* After the guest has stopped: both background lanes and misses, of the same pages. */
static void *miss_thread(void *argument)
{
	struct lane_thread *thread = argument;
	static uint8_t page[LH_PAGE_SIZE];

	for (unsigned i = 0; i < thread->rounds; i++) {
		uint64_t number = random_next(&thread->random) % PAGES;
		struct lh_supply_answer out;

		/* What the receiver had when it was all given for the first time. */
		memset(page, (int)number + 1, sizeof page);
		thread->failed += ask(thread->move, 0, number, true) || answer(thread->move, 0, &out) != 1;
		apply(page, &out);
		thread->failed += memcmp(page, memory_page(&thread->move->memory, number), sizeof page) != 0;
	}
	return NULL;
}

static void misses_and_background(void)
{
	struct lane_thread lane[3];
	struct lh_supply_answer out;
	pthread_t thread[3];
	unsigned wrong = 0;
	struct move move;

	move_open(&move, 0);
	for (unsigned i = 0; i < PAGES; i++) {
		memset(memory_page(&move.memory, i), (int)i + 1, LH_PAGE_SIZE);
		wrong += !fetch(&move, 1, i, false, &out);
		wrong += !fetch(&move, 1, i, true, &out); /* so the last was relative */
	}
	for (unsigned i = 0; i < PAGES; i++)
		scribble(&move, i, 3);
	for (unsigned i = 0; i < 3; i++) {
		lane[i] = (struct lane_thread){ &move, i, i ? PAGES / 2 : 2000, true, 0, i + 7 };
		pthread_create(&thread[i], NULL, i ? lane_thread : miss_thread, &lane[i]);
	}
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(thread[i], NULL);
		wrong += lane[i].failed;
	}
	is(wrong, 0, "misses are right while the background brings the same pages");
	move_close(&move);
}

/* ---- hints ---- */

static void entry(struct move *move, uint64_t table, unsigned index, uint64_t page)
{
	uint64_t value = page << 12 | 7;

	memcpy(memory_page(&move->memory, table) + 8 * index, &value, sizeof value);
}

static void hints(void)
{
	struct lh_physical_range range = { 0, PAGES, 0 };
	uint64_t cr3 = 1 << 12, page[LH_MOVE_HINTS_MAX];
	struct lh_tables_options options = { &range, 1, PAGES, &cr3, 1, lh__pages_read, NULL };
	struct lh_supply_answer out;
	struct lh_pages_counts counts;
	struct lh_tables *tables;
	struct lh_error error;
	unsigned found = 0;
	struct move move;
	size_t n;

	move_open(&move, 0);
	options.context = move.pages;
	for (unsigned table = 1; table < 4; table++)
		entry(&move, table, 0, table + 1);
	for (unsigned i = 0; i < 8; i++)
		entry(&move, 4, 8 + i, 100 + 17 * i);
	ok(fetch(&move, 0, 117, false, &out) && move.supply->ops->hints(move.supply, page, 64) == 0,
	   "without tables there are no hints");
	if (!ok(lh__tables_open(&options, &tables, &error) == 0, "tables, read by lh__pages_read"))
		return;
	lh__pages_tables(move.pages, tables);
	ok(fetch(&move, 0, 117, false, &out), "a miss");
	n = move.supply->ops->hints(move.supply, page, LH_MOVE_HINTS_MAX);
	for (size_t i = 0; i < n; i++)
		found += page[i] != 117 && page[i] >= 100 && (page[i] - 100) % 17 == 0;
	ok(n >= 7 && found >= 7, "brings the pages that share its line of a table: %d", (int)n);
	is(out.bytes, LH_MOVE_HEADER + 8 * n + LH_MOVE_HEADER + lh__lineset_size(out.mask),
	   "their bytes are counted with it");
	is(move.supply->ops->hints(move.supply, page, 2), 2, "no more than is wanted");
	ok(fetch(&move, 0, 5, false, &out) && move.supply->ops->hints(move.supply, page, 64) == 0,
	   "a page that no table has brings none");
	ok(fetch(&move, 1, 117, false, &out), "nor does the background");
	lh__pages_read_counts(move.pages, &counts);
	is(counts.hints, n, "hints are counted");
	lh__pages_tables(move.pages, NULL);
	ok(fetch(&move, 0, 117, false, &out) && move.supply->ops->hints(move.supply, page, 64) == 0,
	   "tables that were taken back give none");
	move_close(&move);
}

/* ---- ends ---- */

static void ends(void)
{
	struct lh_pages_options options = { .regions = 1 };
	struct lh_supply_answer out;
	struct lh_error error;
	struct lh_pages *pages;
	struct lh_state_region region;
	uint8_t page[LH_PAGE_SIZE];
	struct move move;

	move_open(&move, 0);
	ok(ask(&move, 1, PAGES, false) || answer(&move, 1, &out) == -ECONNRESET,
	   "a page too many ends the channel");
	is(move.supply->ops->ask(move.supply, 2, 0, false), -ECONNRESET, "and all that belong to it");
	move.supply->ops->close(move.supply);
	lh__pages_disconnect(move.pages);
	connect_lanes(&move);
	ok(fetch(&move, 2, 0, false, &out), "others may be made");
	region = move.memory.region[1];
	if (truncate(region.path, SECOND / 2 * LH_PAGE_SIZE) != 0)
		abort();
	ok(fetch(&move, 1, FIRST, false, &out), "a file that has become shorter");
	is(lh__pages_failed(move.pages, &error), 0, "can be read as far as it goes");
	ok(ask(&move, 1, PAGES - 1, false) == 0, "what is asked for behind its end");
	while (lh__pages_failed(move.pages, &error) == 0)
		usleep(1000);
	ok(strstr(error.text, "page 351 ") && move.supply->ops->next(move.supply, 1, &out) == 0,
	   "is not given as zero, nor a reason to connect again: %s", error.text);
	is(lh__pages_read(move.pages, PAGES - 1, page), -EIO, "nor for who reads it");
	is(lh__pages_read(move.pages, PAGES, page), -EINVAL, "or reads too far");
	region.first = 0;
	options.region = &region;
	is(lh__pages_open(&options, &pages, &error), -EINVAL, "%s", error.text);
	region.pages = SECOND / 2;
	region.first = 1;
	is(lh__pages_open(&options, &pages, &error), -EINVAL, "%s", error.text);
	strcpy(region.path, "/dev/shm/linehome-nothing");
	region.first = 0;
	is(lh__pages_open(&options, &pages, &error), -ENOENT, "%s", error.text);
	move.supply->ops->break_off(move.supply);
	is(move.supply->ops->next(move.supply, 0, &out), -ECONNRESET, "what is broken off is broken");
	move_close(&move);
}

/* A sender that breaks the rules, on each of which the supply must break. */
static void lies(void)
{
	static const struct {
		const char *what;
		uint64_t page, hint[2];
		bool asked_since, since;
	} lie[] = {
		{ "another page", 6, { 0 }, false, false },
		{ "relative, to who has nothing", 5, { 0 }, false, true },
		{ "a hint about another page", 5, { 6 }, false, false },
		{ "two hints", 5, { 5, 5 }, false, false },
		{ "twice", 5, { 0 }, true, true },
	};

	for (unsigned i = 0; i < sizeof lie / sizeof *lie; i++) {
		struct lh_channel *channel[2];
		struct lh_supply *supply;
		struct lh_supply_answer out;
		struct pair pair[2];
		uint8_t page[LH_PAGE_SIZE] = { 1 };
		int result = 0;

		for (unsigned j = 0; j < 2; j++) {
			if (!pair_open(&pair[j], "tcp://127.0.0.1:0", NULL, LH_MOVE_FAULTS + j))
				abort();
			channel[j] = pair[j].receiver;
		}
		is(lh__supply_remote(channel, 1, &supply), -EINVAL, "one lane is no supply");
		if (lh__supply_remote(channel, 2, &supply) ||
		    supply->ops->ask(supply, 0, 5, lie[i].asked_since) || supply->ops->flush(supply, 0))
			abort();
		for (unsigned j = 0; j < 2 && lie[i].hint[j] && result == 0; j++)
			result = lh__channel_send(pair[0].sender, LH_MOVE_HINT, 0, lie[i].hint[j],
			                          &lie[i].hint[j], 8);
		for (unsigned j = 0; j < 2 && result == 0; j++)
			result = lh__channel_give(pair[0].sender, lie[i].page, lie[i].since, 1, page);
		if (result == 0)
			result = lh__channel_flush(pair[0].sender);
		while (result == 0 || result == 1) {
			struct pollfd poll_fd = { supply->ops->descriptor(supply, 0), POLLIN, 0 };

			(void)poll(&poll_fd, 1, 100);
			result = supply->ops->next(supply, 0, &out);
		}
		is(result, -EPROTO, "given %s: the supply breaks", lie[i].what);
		is(supply->ops->next(supply, 1, &out), -EPROTO, "for all lanes");
		supply->ops->close(supply);
		lh__channel_close(pair[0].sender);
		lh__channel_close(pair[1].sender);
	}
}

/* Which pages that were given have become holes, against what a page by page look at the file tells. */
static void gone(void)
{
	struct lh_pageset absent = { .pages = PAGES }, set = absent, all = absent;
	bool held[PAGES] = { false };
	struct lh_supply_answer out;
	unsigned wrong = 0, found = 0;
	struct lh_error error;
	struct move move;

	move_open(&move, 0);
	absent.word = calloc(1, lh__pageset_bytes(PAGES));
	set.word = calloc(1, lh__pageset_bytes(PAGES));
	for (unsigned turn = 0; turn < 200; turn++) {
		lh__pageset_clear(&absent);
		lh__pageset_clear(&set);
		for (uint64_t i = 0; i < PAGES; i++) {
			if (below(&move, 2))
				scribble(&move, i, 1);
			if (below(&move, 4) == 0)
				discard(&move, i);
			if (below(&move, 8) == 0 && fetch(&move, 1 + i % 2, i, held[i], &out))
				held[i] |= out.mask != 0;
			if (below(&move, 3) == 0)
				discard(&move, i);
			if (below(&move, 4))
				lh__pageset_add(&absent, i);
		}
		lh__pageset_clear(&set);
		all.word = calloc(1, lh__pageset_bytes(PAGES));
		wrong += lh__pages_content(move.pages, &all, &error) != 0 ||
		         lh__pages_gone(move.pages, &absent, &set, &error) != 0;
		for (uint64_t i = 0; i < PAGES; i++) {
			bool is = held[i] && lh__pageset_has(&absent, i) && !lh__pageset_has(&all, i);

			wrong += lh__pageset_has(&set, i) != is;
			held[i] &= !is;
			found += is;
		}
		free(all.word);
	}
	ok(wrong == 0 && found > 1000, "of what was given, what was discarded since is known, and once (%u)",
	   found);
	free(absent.word);
	free(set.word);
	move_close(&move);
}

int main(void)
{
	content();
	gone();
	whole();
	since();
	eviction();
	on_its_way();
	guest_runs();
	misses_and_background();
	hints();
	ends();
	lies();
	test_folder_remove();
	return done();
}
