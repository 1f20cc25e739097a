/*
 * guest_written.c - the watch over what another process writes: that it sees writes and discards, and that of
 * a process that never stops writing nothing is lost where pages are scanned first and copied second.
 */
#include "guest_child.h"
#include "inject.h"
#include "port/guest/written.h"
#include "tap.h"

#define PAGES 4096u

static uint64_t words[PAGES / 64];
static struct lh_pageset set = { .pages = PAGES, .word = words };
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
	uint64_t found = 0;

	lh__pageset_clear(&set);
	return lh__written_scan(written, &set, again, &found) == 0 && found == lh__pageset_count(&set)
	               ? found
	               : UINT64_MAX;
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

static void sees_discards(void)
{
	struct child child;
	struct lh_written written;

	if (!opened(&child, &written, &lh__sys_default))
		return skip("discards", "no asynchronous write protection here");
	child_do(&child, CHILD_FILL, 0, PAGES, 9);
	is(scanned(&written, true), PAGES, "all is written");
	child_do(&child, CHILD_PUNCH, 20, 1, 0);
	is(scanned(&written, false), 1, "a hole in the file is seen");
	ok(finds(&written, 20, 1), "... and again, until it is taken note of");
	is(scanned(&written, true), 0, "... once");
	child_do(&child, CHILD_ADVISE, 30, 2, MADV_REMOVE);
	ok(finds(&written, 30, 2), "MADV_REMOVE is seen");
	child_do(&child, CHILD_ADVISE, 40, 1, MADV_DONTNEED);
	ok(finds(&written, 40, 1), "MADV_DONTNEED is reported, though the content stays");
	child_do(&child, CHILD_PUNCH, 512, 1024, 0);
	child_do(&child, CHILD_ADVISE, 512, 1024, MADV_DONTNEED);
	ok(finds(&written, 512, 1024), "whole page tables are emptied");
	child_do(&child, CHILD_WRITE, 600, 1, 1);
	ok(finds(&written, 600, 1), "a write into what was discarded");
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
	is(lh__written_scan(&written, &set, true, NULL), -ESRCH, "a process that has ended");
	closed(&child, &written);
}

/* ---- nothing is lost ---- */

struct shadow {
	struct child *child;
	struct lh_written *written;
	unsigned char *page;
	uint64_t copied;
};

static void copy_set(struct shadow *shadow)
{
	for (uint64_t i = lh__pageset_next(&set, 0); i != LH_PAGESET_NONE;
	     i = lh__pageset_next(&set, i + 1)) {
		if (pread(shadow->child->file, shadow->page + i * LH_PAGE_SIZE, LH_PAGE_SIZE,
		          (off_t)(i * LH_PAGE_SIZE)) != LH_PAGE_SIZE)
			abort();
		shadow->copied++;
	}
}

static void scan_then_copy(struct shadow *shadow)
{
	lh__pageset_clear(&set);
	if (lh__written_scan(shadow->written, &set, true, NULL) != 0)
		abort();
	copy_set(shadow);
}

/* The planted fault: what is written between the copy and the scan that protects is lost. */
static void copy_then_scan(struct shadow *shadow)
{
	lh__pageset_clear(&set);
	if (lh__written_scan(shadow->written, &set, false, NULL) != 0)
		abort();
	copy_set(shadow);
	if (lh__written_scan(shadow->written, &set, true, NULL) != 0)
		abort();
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
			result = lh__written_scan(&written, &set, true, NULL);
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
	sees_discards();
	ranges();
	edges();
	nothing_is_lost();
	failures(EPERM);
	failures(ENOMEM);
	return done();
}
