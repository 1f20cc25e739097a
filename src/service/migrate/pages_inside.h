/*
 * pages_inside.h - what the files of pages.h share: pages.c (threads that give), pages_holes.c (which pages
 * have content).
 */
#ifndef LH_MIGRATE_PAGES_INSIDE_H
#define LH_MIGRATE_PAGES_INSIDE_H

#include <pthread.h>

#include "service/migrate/pages.h"
#include "service/migrate/pages_given.h"

struct lh_pages_part {
	int fd;
	uint64_t offset, first, pages;
};

struct server;

struct lh_pages {
	uint64_t pages;
	size_t parts;
	struct lh_pages_part part[LH_STATE_REGIONS_MAX];
	struct lh_given *given;
	struct lh_pageset
		held; /* given, and not zero: what the receiver may have of them is to be kept right */
	pthread_mutex_t lock; /* of what follows */
	struct server *servers;
	struct lh_tables *tables;
	struct lh_pages_counts counts;
	uint64_t failed_page; /* that could not be read */
	int failed;           /* why; 0: all could */
};

/* NULL: there is no such page. */
const struct lh_pages_part *lh__pages_part(const struct lh_pages *pages, uint64_t page);

#endif
