/*
 * bench.h - what a system is to the benchmark of failure-atomic memory: one table of functions, one C
 * file each.
 *
 * All do the same work: RECORDS records of 64 bytes, of which a transaction changes some, each from its
 * beginning on for 8 to 64 bytes; and a map from 8-byte keys to values of 64 bytes, into which a
 * transaction puts one. When tx or insert returns, it is durable; where a system cannot promise that or
 * atomicity, it is a yardstick.
 */
#ifndef BENCH_POOL_H
#define BENCH_POOL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_SIZE 64u
#define RECORDS 1000000u
#define CHANGES_MAX 32u
#define PAYLOAD_SIZE 4096u
#define MAP_BUCKETS_BITS 20
#define POOL_SIZE (UINT64_C(1) << 30) /* what a system that wants to know beforehand is given */

struct change {
	uint32_t record;
	uint16_t length; /* 8 to 64 */
	uint16_t from;   /* where in the payload its new content begins */
};

/* Since the system was opened; 0 where it does not say. */
struct counters {
	uint64_t fences, flushes, log_bytes, changed_bytes, home_bytes, faults;
};

enum media { ON_SHM = 1, ON_DISK = 2 };

struct system {
	const char *name;
	const char *what; /* for the reader of the table */
	unsigned media;   /* where it is measured */
	bool yardstick;   /* not atomic, or not durable */
	unsigned variant; /* the file's own business */
	/* Opens what is in folder; makes it there, with records of zeros, if create. */
	void *(*open)(const struct system *system, const char *folder, bool create);
	void (*close)(void *handle);
	/* NULL, or what a thread uses instead of the handle. */
	void *(*enter)(void *handle, unsigned thread);
	void (*leave)(void *context);
	void (*tx)(void *context, const struct change *changes, unsigned count, const unsigned char *payload);
	/* NULL: it has no map. */
	void (*insert)(void *context, uint64_t key, const unsigned char *value);
	/* All records, in order; NULL where a yardstick keeps none. */
	void (*read)(void *handle, unsigned char *records);
	bool (*find)(void *handle, uint64_t key, unsigned char *value);
	/* Optional. */
	void (*counters)(void *handle, struct counters *counters);
};

/* Ends the program, with one line. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
double now(void);
/* Makes folder/name into path. */
void join(char path[256], const char *folder, const char *name);

/* The map's buckets, for the systems that have none of their own. Threads differ in the top bit. */
static inline uint64_t bucket_of(uint64_t key)
{
	return key >> (64 - MAP_BUCKETS_BITS);
}

/* count.c: a tracer single-steps what lies between two calls of count_mark. */
struct counted {
	uint64_t instructions, fences, flushes, syscalls;
	/* To what is mapped from the folder; streamed: the bytes of them that pass the caches by. */
	uint64_t stores, bytes, streamed;
};
void count_mark(void);
/* run is called in a child. Its marks enclose sections; section i is added up in counted[i]. */
void count(void (*run)(void *context), void *context, const char *folder, struct counted *counted,
           unsigned sections);

/* life.c: what only Linehome is asked: opening, recovery, growth. */
int life(const char *folder) __attribute__((weak));

/* Weak: a system whose file was not built is NULL, and said to be missing. */
#define SYSTEM(name) extern const struct system name __attribute__((weak))
SYSTEM(volatile_stores);
SYSTEM(flush_in_place);
SYSTEM(append_fence);
SYSTEM(pwrite_fdatasync);
SYSTEM(pwrite_dsync);
SYSTEM(direct_dsync);
SYSTEM(pmemobj);
SYSTEM(lmdb);
SYSTEM(lmdb_writemap);
SYSTEM(sqlite);
SYSTEM(rocksdb);
SYSTEM(lh_page);
SYSTEM(lh_declared);
SYSTEM(lh_checked);
SYSTEM(lh_translated);
SYSTEM(lh_page_undo);
SYSTEM(lh_declared_undo);
SYSTEM(lh_checked_undo);
SYSTEM(lh_translated_undo);

#endif
