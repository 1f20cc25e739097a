/*
 * guest_written.c - the watch over what another process writes: that it sees writes, that discards are found
 * with it in the file, and that of a process that never stops writing and discarding nothing is lost where
 * pages are scanned first and copied second.
 */
#include "guest_child.h"
#include "inject.h"
#include "port/guest/written.h"
#include "tap.h"

#define PAGES 4096u

static uint64_t words[4][PAGES / 64];
static struct lh_pageset set = { .pages = PAGES, .word = words[0] };
static struct lh_pageset absent = { .pages = PAGES, .word = words[1] };
static struct lh_pageset held = { .pages = PAGES, .word = words[2] }; /* copied, and not zero */
static struct lh_pageset asked = { .pages = PAGES, .word = words[3] };
static uint64_t seed;

static bool opened(struct child *child, struct lh_written *written, const struct lh_sys *sys)
{
	struct lh_guest_range range;
	struct lh_error error;

	if (!child_start(child, CHILD_FILE, PAGES, 0, 0) || child_do(child, CHILD_LET_GO, 0, 0, 0) != 0)
		return false;
	range = (struct lh_guest_range){ .address = child->address, .pages = PAGES };
	if (lh__written_open(sys, child->pid, child->uffd, &range, 1, written, &error) == 0)
		return true;
	printf("# %s\n", error.text);
	close(child->uffd);
	child_end(child);
	return false;
}

static void closed(struct child *child, struct lh_written *written)
{
	lh__written_close(written);
	child_end(child);
}

static uint64_t scanned(struct lh_written *written, bool again)
{
	lh__pageset_clear(&set);
	lh__pageset_clear(&absent);
	return lh__written_scan(written, again, &set, &absent) == 0 ? lh__pageset_count(&set) : UINT64_MAX;
}

/* Exactly one run is found. */
static bool finds(struct lh_written *written, uint64_t first, uint64_t count)
{
	return scanned(written, true) == count && lh__pageset_next(&set, 0) == first &&
	       lh__pageset_next_not(&set, first) == first + count;
}

static void sees_writes(void)
{
	struct child child;
	struct lh_written written;

	if (!opened(&child, &written, &lh__sys_default))
		return skip("writes", "no asynchronous write protection here");
	is(scanned(&written, true), 0, "nothing is written at first");
	child_do(&child, CHILD_WRITE, 5, 1, 1);
	is(scanned(&written, false), 1, "a write is seen");
	ok(finds(&written, 5, 1), "... and again, where it was not protected");
	is(scanned(&written, true), 0, "... but not once it was");
	child_do(&child, CHILD_FILL, 1000, 700, 9);
	ok(finds(&written, 1000, 700), "many at once");
	child_do(&child, CHILD_SUM, 0, PAGES, 0);
	is(scanned(&written, true), 0, "reads of all pages are none");
	for (unsigned i = 0; i < PAGES; i += 2)
		child_do(&child, CHILD_WRITE, i, 1, 3);
	is(scanned(&written, true), PAGES / 2, "every second page");
	child_do(&child, CHILD_WRITE, PAGES - 1, 1, 3);
	ok(finds(&written, PAGES - 1, 1), "the last one");
	closed(&child, &written);
}

/* Nothing is found to be written, and exactly one run of pages is absent. */
static bool lacks(struct lh_written *written, uint64_t first, uint64_t count)
{
	return scanned(written, true) == 0 && lh__pageset_next(&absent, 0) == first &&
	       lh__pageset_next_not(&absent, first) == first + count && lh__pageset_count(&absent) == count;
}

static void sees_absence(void)
{
	struct child child;
	struct lh_written written;

	if (!opened(&child, &written, &lh__sys_default))
		return skip("absence", "no asynchronous write protection here");
	ok(scanned(&written, true) == 0 && lh__pageset_count(&absent) == PAGES, "at first no page is there");
	child_do(&child, CHILD_FILL, 0, PAGES - 9, 9);
	is(scanned(&written, true), PAGES - 9, "many are written");
	ok(lacks(&written, PAGES - 9, 9), "... and the others are absent");
	child_do(&child, CHILD_SUM, 0, PAGES, 0);
	child_do(&child, CHILD_PUNCH, 20, 1, 0);
	ok(lacks(&written, 20, 1) && lacks(&written, 20, 1), "what was discarded is absent, and stays so");
	child_do(&child, CHILD_READ, 20, 0, 0);
	child_do(&child, CHILD_ADVISE, 30, 2, MADV_REMOVE);
	ok(lacks(&written, 30, 2), "the same by MADV_REMOVE");
	child_do(&child, CHILD_READ, 30, 0, 0);
	child_do(&child, CHILD_READ, 31, 0, 0);
	child_do(&child, CHILD_ADVISE, 40, 1, MADV_DONTNEED);
	ok(lacks(&written, 40, 1), "by MADV_DONTNEED the page is absent, though it has its content");
	child_do(&child, CHILD_READ, 40, 0, 0);
	child_do(&child, CHILD_WRITE, 50, 1, 1);
	child_do(&child, CHILD_ADVISE, 50, 1, MADV_DONTNEED);
	ok(finds(&written, 50, 1), "what is written and then absent was written");
	ok(lacks(&written, 50, 1), "... once");
	child_do(&child, CHILD_READ, 50, 0, 0);
	child_do(&child, CHILD_PUNCH, 512, 1024, 0);
	child_do(&child, CHILD_ADVISE, 512, 1024, MADV_DONTNEED);
	ok(lacks(&written, 512, 1024), "whole page tables are emptied");
	child_do(&child, CHILD_FILL, 0, PAGES, 7);
	is(scanned(&written, true), PAGES, "they are written to again");
	child_do(&child, CHILD_FILL, 512, 1024, 8);
	child_do(&child, CHILD_ADVISE, 512, 1024, MADV_DONTNEED);
	ok(finds(&written, 512, 1024), "the same, of pages that were written to");
	ok(lacks(&written, 512, 1024), "... once");
	child_do(&child, CHILD_WRITE, 600, 1, 1);
	ok(finds(&written, 600, 1), "a write into what was absent");
	child_do(&child, CHILD_PUNCH, 600, 1, 0);
	child_do(&child, CHILD_WRITE, 600, 1, 2);
	ok(finds(&written, 600, 1), "a write behind a discard");
	closed(&child, &written);
}

/* Two ranges whose pages are numbered the other way round. */
static void ranges(void)
{
	struct lh_guest_range range[2];
	struct lh_written written;
	struct child child;

	if (!child_start(&child, CHILD_FILE, PAGES, 0, 0))
		return skip("ranges", "no userfaultfd here");
	range[0] =
		(struct lh_guest_range){ child.address + PAGES / 2 * (uint64_t)LH_PAGE_SIZE, PAGES / 2, 0 };
	range[1] = (struct lh_guest_range){ child.address, PAGES / 2, PAGES / 2 };
	if (lh__written_open(&lh__sys_default, child.pid, child.uffd, range, 2, &written, NULL) != 0) {
		close(child.uffd);
		child_end(&child);
		return skip("ranges", "no asynchronous write protection here");
	}
	child_do(&child, CHILD_FILL, PAGES / 2 - 3, 5, 1);
	is(scanned(&written, true), 5, "writes over two ranges");
	ok(lh__pageset_has(&set, PAGES - 3) && lh__pageset_has(&set, 1), "... by their numbers");
	closed(&child, &written);
}

static bool is_watched(pid_t process)
{
	char path[64], line[512];
	bool watched = false;
	FILE *maps;

	snprintf(path, sizeof path, "/proc/%d/smaps", (int)process);
	maps = fopen(path, "r");
	while (maps && fgets(line, sizeof line, maps))
		watched |= strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " uw") != NULL;
	if (maps)
		fclose(maps);
	return watched;
}

static void edges(void)
{
	struct lh_guest_range range;
	struct child child, other;
	struct lh_written written;
	struct lh_error error;

	if (!opened(&child, &written, &lh__sys_default))
		return skip("edges", "no asynchronous write protection here");
	ok(is_watched(child.pid), "it is seen in smaps that memory is watched");
	lh__written_close(&written);
	ok(!is_watched(child.pid), "... and no longer when the watch has ended");
	is(child_do(&child, CHILD_FILL, 0, PAGES, 1), 0, "... and the process writes on");
	child_end(&child);

	if (!child_start(&other, CHILD_FILE, PAGES, UFFD_FEATURE_MISSING_SHMEM, UFFDIO_REGISTER_MODE_MISSING))
		return skip("busy", "no userfaultfd here");
	range = (struct lh_guest_range){ .address = other.address, .pages = PAGES };
	ok(lh__written_open(&lh__sys_default, other.pid, other.uffd, &range, 1, &written, &error) < 0,
	   "a descriptor that is in use already is refused");
	printf("# %s\n", error.text);
	close(other.uffd);
	child_end(&other);

	if (!opened(&child, &written, &lh__sys_default))
		return skip("unmapped", "no asynchronous write protection here");
	kill(child.pid, SIGKILL);
	waitpid(child.pid, NULL, 0);
	child.pid = 0;
	is(lh__written_scan(&written, true, &set, &absent), -ESRCH, "a process that has ended");
	closed(&child, &written);
}

/* ---- nothing is lost ---- */

struct shadow {
	struct child *child;
	struct lh_written *written;
	unsigned char *page;
	uint64_t copied;
};

static bool is_zero(const unsigned char *page)
{
	return page[0] == 0 && memcmp(page, page + 1, LH_PAGE_SIZE - 1) == 0;
}

static void copy_set(struct shadow *shadow)
{
	for (uint64_t i = lh__pageset_next(&set, 0); i != LH_PAGESET_NONE;
	     i = lh__pageset_next(&set, i + 1)) {
		if (pread(shadow->child->file, shadow->page + i * LH_PAGE_SIZE, LH_PAGE_SIZE,
		          (off_t)(i * LH_PAGE_SIZE)) != LH_PAGE_SIZE)
			abort();
		if (!is_zero(shadow->page + i * LH_PAGE_SIZE))
			lh__pageset_add(&held, i);
		shadow->copied++;
	}
}

static bool is_hole(const struct child *child, uint64_t page)
{
	off_t at = (off_t)(page * LH_PAGE_SIZE);

	return lseek(child->file, at, SEEK_DATA) != at;
}

/* Of pages that are absent and of which there is a copy. */
static void forget_holes(struct shadow *shadow)
{
	for (uint64_t i = lh__pageset_next(&held, 0); i != LH_PAGESET_NONE;
	     i = lh__pageset_next(&held, i + 1)) {
		if (!lh__pageset_has(&absent, i) || !is_hole(shadow->child, i))
			continue;
		memset(shadow->page + i * LH_PAGE_SIZE, 0, LH_PAGE_SIZE);
		lh__pageset_remove(&held, i);
	}
}

static void scan(struct shadow *shadow, bool again)
{
	if (scanned(shadow->written, again) == UINT64_MAX)
		abort();
}

static void scan_then_copy(struct shadow *shadow)
{
	scan(shadow, true);
	forget_holes(shadow);
	copy_set(shadow);
}

/* The planted fault: what is written between the copy and the scan that protects is lost. */
static void copy_then_scan(struct shadow *shadow)
{
	scan(shadow, false);
	copy_set(shadow);
	scan(shadow, true);
	forget_holes(shadow);
}

/* Another: what was discarded is asked of the file once, and not as long as there is a copy. */
static void ask_once(struct shadow *shadow)
{
	scan(shadow, true);
	lh__pageset_subtract(&absent, &asked);
	forget_holes(shadow);
	lh__pageset_join(&asked, &absent);
	copy_set(shadow);
}

static uint64_t differing(const struct shadow *shadow)
{
	unsigned char content[LH_PAGE_SIZE];
	uint64_t n = 0;

	for (uint64_t i = 0; i < PAGES; i++) {
		if (pread(shadow->child->file, content, sizeof content, (off_t)(i * LH_PAGE_SIZE)) !=
		    sizeof content)
			abort();
		n += memcmp(content, shadow->page + i * LH_PAGE_SIZE, sizeof content) != 0;
	}
	return n;
}

/* Pages that differ at the end, UINT64_MAX where it could not be tried. */
static uint64_t lost(void (*round)(struct shadow *), unsigned rounds)
{
	struct child child;
	struct lh_written written;
	struct shadow shadow = { .child = &child, .written = &written };
	uint64_t n;

	if (!opened(&child, &written, &lh__sys_default))
		return UINT64_MAX;
	shadow.page = calloc(PAGES, LH_PAGE_SIZE);
	lh__pageset_clear(&held);
	child_tell(&child, CHILD_CHURN, 0, PAGES, random_next(&seed));
	for (unsigned i = 0; i < rounds; i++)
		round(&shadow);
	__atomic_store_n(child.stop, 1, __ATOMIC_RELEASE);
	n = child_asked(&child);
	round(&shadow);
	printf("# %llu changes, %llu pages copied in %u rounds\n", (unsigned long long)n,
	       (unsigned long long)shadow.copied, rounds);
	n = differing(&shadow);
	free(shadow.page);
	closed(&child, &written);
	return n;
}

static void nothing_is_lost(void)
{
	uint64_t n = lost(scan_then_copy, 400);

	if (n == UINT64_MAX)
		return skip("nothing is lost", "no asynchronous write protection here");
	is(n, 0, "of a process that never stops writing and discarding nothing is lost");
	n = 0;
	for (unsigned i = 0; i < 10 && n == 0; i++)
		n = lost(copy_then_scan, 20);
	ok(n > 0 && n != UINT64_MAX, "copied first and scanned second, it would be noticed");
}

/*
 * One page that is written and discarded between the steps. `round` is a scan and a copy.
 */
static void discards(void (*round)(struct shadow *), uint64_t lost[4])
{
	struct child child;
	struct lh_written written;
	struct shadow shadow = { .child = &child, .written = &written };

	lost[0] = UINT64_MAX;
	if (!opened(&child, &written, &lh__sys_default))
		return;
	shadow.page = calloc(PAGES, LH_PAGE_SIZE);
	lh__pageset_clear(&held);
	lh__pageset_clear(&asked);
	/* Nothing of the file was ever in the page table: it was there before. */
	if (pwrite(child.file, "old", 3, 9 * LH_PAGE_SIZE) != 3)
		abort();
	lh__pageset_add(&set, 9);
	copy_set(&shadow);
	round(&shadow);
	child_do(&child, CHILD_PUNCH, 9, 1, 0);
	round(&shadow);
	lost[0] = differing(&shadow);

	/* Found to be absent; written before it is copied; and discarded again. */
	child_do(&child, CHILD_FILL, 5, 1, 1);
	round(&shadow);
	child_do(&child, CHILD_PUNCH, 5, 1, 0);
	scan(&shadow, true);
	forget_holes(&shadow);
	child_do(&child, CHILD_FILL, 5, 1, 2);
	lh__pageset_add(&set, 5);
	copy_set(&shadow);
	child_do(&child, CHILD_PUNCH, 5, 1, 0);
	round(&shadow);
	lost[1] = differing(&shadow);

	/* Half discarded: out of the page table when it is found, out of the file only when it was copied. */
	child_do(&child, CHILD_FILL, 6, 2, 3);
	round(&shadow);
	child_do(&child, CHILD_ADVISE, 6, 1, MADV_DONTNEED);
	child_do(&child, CHILD_WRITE, 7, 1, 4);
	child_do(&child, CHILD_ADVISE, 7, 1, MADV_DONTNEED);
	round(&shadow);
	child_do(&child, CHILD_PUNCH, 6, 2, 0);
	round(&shadow);
	lost[2] = differing(&shadow);
	lost[3] = lh__pageset_count(&held);
	free(shadow.page);
	closed(&child, &written);
}

static void discards_between(void)
{
	uint64_t lost[4];

	discards(scan_then_copy, lost);
	if (lost[0] == UINT64_MAX)
		return skip("discards", "no asynchronous write protection here");
	is(lost[0], 0, "what was never in the page table is discarded: it is zero in the copy");
	is(lost[1], 0, "discarded, written, copied and discarded");
	is(lost[2], 0, "copied while it is being discarded");
	is(lost[3], 0, "nothing is taken for copied that is zero");
	discards(ask_once, lost);
	ok(lost[0] != 0 && lost[2] > lost[0], "asked only when it is first absent, it would be noticed");
}

/* ---- every call fails once ---- */

static void failures(int error)
{
	struct inject in;
	unsigned wrong = 0;

	INJECT_SWEEP(&in, error, INJECT_ONCE) {
		struct lh_guest_range range;
		struct lh_written written;
		struct child child;
		struct lh_error why = { 0 };
		int result;

		if (!child_start(&child, CHILD_FILE, PAGES, 0, 0))
			return skip("failures", "no userfaultfd here");
		range = (struct lh_guest_range){ .address = child.address, .pages = PAGES };
		inject_arm(&in);
		result = lh__written_open(&in.sys, child.pid, child.uffd, &range, 1, &written, &why);
		inject_disarm(&in);
		if (result == 0) {
			child_do(&child, CHILD_FILL, 3, 5, 1);
			inject_arm(&in);
			result = lh__written_scan(&written, true, &set, &absent);
			inject_disarm(&in);
			wrong += result != 0 && result != -error;
			lh__written_close(&written);
		} else {
			wrong += why.code != result || why.text[0] == '\0' || is_watched(child.pid);
			close(child.uffd);
		}
		wrong += child_do(&child, CHILD_FILL, 0, PAGES, 2) != 0;
		child_end(&child);
	}
	ok(inject_swept(&in) && wrong == 0, "whichever call fails with %s, the process is as before",
	   lh__errno_name(error));
}

int main(void)
{
	seed = random_seed();
	printf("# seed %llu\n", (unsigned long long)seed);
	sees_writes();
	sees_absence();
	ranges();
	edges();
	discards_between();
	nothing_is_lost();
	failures(EPERM);
	failures(ENOMEM);
	return done();
}
