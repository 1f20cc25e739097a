/*
 * page_tables.c - what service/migrate/tables.c finds in a guest's memory file, for
 * tests/migrate_tables_qemu.sh.
 *
 *     page_tables MEMORY PAGES RANGE... cr3 CR3... < numbers of pages
 *
 * RANGE is ADDRESS:PAGES:FIRST. Prints how many tables were read and how many pages they map and, for each
 * number on the standard input, the page's neighbours as if nothing else had been missed.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "service/migrate/tables.h"

#define MOST 64

static int read_page(void *context, uint64_t page, void *content)
{
	return pread(*(int *)context, content, LH_PAGE_SIZE, (off_t)(page * LH_PAGE_SIZE)) == LH_PAGE_SIZE
	               ? 0
	               : -1;
}

static struct lh_tables *open_tables(const struct lh_tables_options *options)
{
	struct lh_error error = { 0 };
	struct lh_tables *tables;

	if (lh__tables_open(options, &tables, &error) < 0) {
		fprintf(stderr, "page_tables: %s\n", error.text);
		exit(1);
	}
	return tables;
}

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec * 1e3 + (double)at.tv_nsec / 1e6;
}

static void print_neighbours(const struct lh_tables_options *options, uint64_t page)
{
	struct lh_tables *tables = open_tables(options);
	uint64_t neighbours[MOST];
	size_t n = lh__tables_neighbours(tables, page, neighbours, MOST), i;

	printf("%" PRIu64 ":", page);
	for (i = 0; i < n; i++)
		printf(" %" PRIu64, neighbours[i]);
	printf("\n");
	lh__tables_close(tables);
}

static int usage(void)
{
	fprintf(stderr, "usage: page_tables MEMORY PAGES ADDRESS:PAGES:FIRST... cr3 CR3...\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct lh_physical_range range[MOST];
	uint64_t cr3[MOST], read, mapped, page;
	struct lh_tables_options options = { .physical = range, .cr3 = cr3, .read = read_page };
	struct lh_tables *tables;
	double began;
	int fd, i;

	if (argc < 5 || argc > MOST)
		return usage();
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	options.context = &fd;
	options.pages = strtoull(argv[2], NULL, 0);
	for (i = 3; i < argc && strcmp(argv[i], "cr3") != 0; i++)
		if (sscanf(argv[i], "%" SCNu64 ":%" SCNu64 ":%" SCNu64,
		           &range[options.physical_count].address, &range[options.physical_count].pages,
		           &range[options.physical_count].first) == 3)
			options.physical_count++;
	for (i++; i < argc; i++)
		cr3[options.cr3_count++] = strtoull(argv[i], NULL, 0);
	if (fd < 0 || !options.physical_count || !options.cr3_count)
		return usage();
	began = now();
	tables = open_tables(&options);
	began = now() - began;
	lh__tables_counts(tables, &read, &mapped);
	printf("read %" PRIu64 " mapped %" PRIu64 " ms %.1f\n", read, mapped, began);
	lh__tables_close(tables);
	while (scanf("%" SCNu64, &page) == 1)
		print_neighbours(&options, page);
	return 0;
}
