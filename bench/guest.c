/*
 * guest.c - what it costs to supply the pages of another process, and to find which it has written to.
 *
 * A child has 512 MiB of memory. One line a figure; best and median of several rounds.
 */
#include "../tests/guest_child.h"

#include <stdio.h>

#include "port/guest/written.h"

#define PAGES 131072u
#define ROUNDS 5u

static const uint64_t features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM;
static const uint64_t both = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;

static struct child child;
static struct lh_guest guest;
static unsigned char content[LH_PAGE_SIZE];

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* What `work` takes, divided into `parts`; `before` is not counted. */
static void measure(const char *what, const char *unit, double scale, unsigned parts, void (*before)(void),
                    void (*work)(void))
{
	double took[ROUNDS];

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t began;

		before();
		began = lh__clock(NULL);
		work();
		took[i] = (double)(lh__clock(NULL) - began) / parts / scale;
	}
	qsort(took, ROUNDS, sizeof *took, by_value);
	printf("%-52s %9.3f %9.3f %s\n", what, took[0], took[ROUNDS / 2], unit);
}

static void check(bool right)
{
	if (!right) {
		fprintf(stderr, "guest: a call failed\n");
		exit(1);
	}
}

static void put(uint64_t page)
{
	check(pwrite(child.file, content, sizeof content, (off_t)(page * LH_PAGE_SIZE)) == sizeof content);
}

static void nothing(void)
{
}

/* The file has all pages, and the child's page table none. */
static void unshown(void)
{
	for (uint64_t i = 0; i < PAGES; i++)
		put(i);
	check(child_do(&child, CHILD_ADVISE, 0, PAGES, MADV_DONTNEED) == 0);
}

static void emptied(void)
{
	check(fallocate(child.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
	                (off_t)PAGES * LH_PAGE_SIZE) == 0);
}

static void show_all(void)
{
	check(lh__guest_show(&guest, 0, PAGES, true) == 0);
}

static void show_each(void)
{
	for (uint64_t i = 0; i < PAGES; i++)
		check(lh__guest_show(&guest, i, 1, true) == 0);
}

static void put_and_show_each(void)
{
	for (uint64_t i = 0; i < PAGES; i++) {
		put(i);
		check(lh__guest_show(&guest, i, 1, true) == 0);
	}
}

static void put_all(void)
{
	for (uint64_t i = 0; i < PAGES; i++)
		put(i);
}

static void half_shown(void)
{
	unshown();
	for (uint64_t i = 0; i < PAGES; i += 2)
		check(lh__guest_show(&guest, i, 1, false) == 0);
}

static void copy_each(void)
{
	for (uint64_t i = 0; i < PAGES; i++)
		check(lh__guest_copy(&guest, i, content) == 0);
}

static void zero_all(void)
{
	check(lh__guest_zero(&guest, 0, PAGES) == 0);
}

static void discarded(void)
{
	check(child_do(&child, CHILD_ADVISE, 0, PAGES, MADV_DONTNEED) == 0);
}

static void supplying(void)
{
	if (!child_start(&child, CHILD_FILE, PAGES, features, both)) {
		printf("guest: no userfaultfd with MINOR_SHMEM here\n");
		exit(0);
	}
	guest = child_guest(&child, &lh__sys_default);
	measure("shown, a run of all pages", "us a page", 1e3, PAGES, unshown, show_all);
	measure("shown, a run, every second one there already", "us a page", 1e3, PAGES, half_shown,
	        show_all);
	measure("shown, one by one", "us a page", 1e3, PAGES, unshown, show_each);
	measure("written to the file, one by one", "us a page", 1e3, PAGES, emptied, put_all);
	measure("written and shown, one by one", "us a page", 1e3, PAGES, emptied, put_and_show_each);
	measure("zeroed, a run of all pages", "us a page", 1e3, PAGES, emptied, zero_all);
	lh__guest_close(&guest);
	child_end(&child);
	check(child_start(&child, CHILD_ANONYMOUS, PAGES, 0, UFFDIO_REGISTER_MODE_MISSING));
	guest = child_guest(&child, &lh__sys_default);
	measure("copied (UFFDIO_COPY), one by one", "us a page", 1e3, PAGES, discarded, copy_each);
	lh__guest_close(&guest);
	child_end(&child);
}

static struct lh_written written;
static struct lh_pageset set, absent;

static void scan(void)
{
	check(lh__written_scan(&written, true, &set, &absent) == 0);
}

static void write_some(void)
{
	for (uint64_t i = 0; i < PAGES; i += 128)
		check(child_do(&child, CHILD_WRITE, i, 1, 1) == 0);
}

static void write_all(void)
{
	check(child_do(&child, CHILD_FILL, 0, PAGES, 1) == 0);
}

static void write_second(void)
{
	for (uint64_t i = 0; i < PAGES; i += 2)
		check(child_do(&child, CHILD_WRITE, i, 1, 1) == 0);
}

static void watching(void)
{
	struct lh_guest_range range;
	struct lh_error error;

	check(child_start(&child, CHILD_FILE, PAGES, 0, 0));
	write_all();
	range = (struct lh_guest_range){ .address = child.address, .pages = PAGES };
	if (lh__written_open(&lh__sys_default, child.pid, child.uffd, &range, 1, &written, &error) != 0) {
		printf("guest: %s\n", error.text);
		exit(0);
	}
	set = (struct lh_pageset){ .pages = PAGES, .word = calloc(1, lh__pageset_bytes(PAGES)) };
	absent = (struct lh_pageset){ .pages = PAGES, .word = calloc(1, lh__pageset_bytes(PAGES)) };
	check(set.word != NULL && absent.word != NULL);
	measure("scan of 512 MiB, nothing written", "ms", 1e6, 1, nothing, scan);
	measure("scan of 512 MiB, 1024 pages written", "ms", 1e6, 1, write_some, scan);
	measure("scan of 512 MiB, every second page written", "ms", 1e6, 1, write_second, scan);
	measure("scan of 512 MiB, all written", "ms", 1e6, 1, write_all, scan);
	lh__written_close(&written);
	child_end(&child);
	free(set.word);
	free(absent.word);
}

int main(void)
{
	memset(content, 1, sizeof content);
	printf("%-52s %9s %9s\n", "", "best", "median");
	supplying();
	watching();
	return 0;
}
