/*
 * yardstick.c - what the medium costs by itself: stores, flushes and fences; one log write made durable.
 *
 * None of them is failure-atomic memory. In memory, a file on tmpfs: plain stores; the same with a
 * write-back of each line and one fence, durable on persistent memory but not atomic; and those stores
 * with a log entry appended and fenced before, which is the least that a redo log can do (the log is
 * never truncated and the records are not written back). On disk: the transaction's new content with
 * eight bytes a change, written at the next place of a preallocated file.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bench.h"

#define LOG_SIZE (UINT64_C(64) << 20)
#define BLOCK 4096u
#define RECORDS_SIZE ((size_t)RECORDS * RECORD_SIZE)

enum { PLAIN, IN_PLACE, APPEND };
enum { FDATASYNC, DSYNC, DIRECT };

static void check(bool good, const char *what)
{
	if (!good)
		fail("%s: %s", what, strerror(errno));
}

/* ---- memory ---- */

struct memory {
	unsigned variant;
	unsigned char *records, *log;
	unsigned thread;
	uint64_t used;
};

static unsigned char *map(const char *folder, const char *name, size_t size)
{
	unsigned char *memory;
	char path[256];
	int fd;

	join(path, folder, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	check(fd >= 0 && ftruncate(fd, (off_t)size) == 0, path);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	check(memory != MAP_FAILED, "mmap");
	close(fd);
	return memory;
}

static bool has_clwb(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_CLWB);
}

static void *open_memory(const struct system *system, const char *folder, bool create)
{
	struct memory *m = calloc(1, sizeof(*m));

	m->variant = system->variant;
	if (m->variant != PLAIN && !has_clwb())
		fail("this processor has no clwb");
	m->records = map(folder, "records", RECORDS_SIZE);
	m->log = map(folder, "log", LOG_SIZE);
	return m;
}

static void close_memory(void *handle)
{
	struct memory *m = handle;

	munmap(m->records, RECORDS_SIZE);
	munmap(m->log, LOG_SIZE);
	free(m);
}

static void *enter_memory(void *handle, unsigned thread)
{
	struct memory *m = malloc(sizeof(*m));

	*m = *(struct memory *)handle;
	m->log += thread * (LOG_SIZE / 2);
	return m;
}

__attribute__((target("clwb"))) static void flush(const unsigned char *from, size_t size)
{
	uintptr_t end = (uintptr_t)from + size;

	for (uintptr_t line = (uintptr_t)from & ~(uintptr_t)63; line < end; line += 64)
		_mm_clwb((void *)line);
}

static size_t encode(unsigned char *to, const struct change *changes, unsigned n,
                     const unsigned char *payload)
{
	unsigned char *start = to;

	for (unsigned i = 0; i < n; i++) {
		memcpy(to, &changes[i], 8);
		memcpy(to + 8, payload + changes[i].from, changes[i].length);
		to += 8 + ((changes[i].length + 7u) & ~7u);
	}
	return (size_t)(to - start);
}

static void append(struct memory *m, const struct change *changes, unsigned n, const unsigned char *payload)
{
	size_t size;

	if (m->used + CHANGES_MAX * 72 > LOG_SIZE / 2)
		m->used = 0;
	size = encode(m->log + m->used, changes, n, payload);
	flush(m->log + m->used, size);
	_mm_sfence();
	m->used += (size + 63) & ~(size_t)63;
}

static void tx_memory(void *context, const struct change *changes, unsigned n, const unsigned char *payload)
{
	struct memory *m = context;

	if (m->variant == APPEND)
		append(m, changes, n, payload);
	for (unsigned i = 0; i < n; i++) {
		unsigned char *record = m->records + (size_t)changes[i].record * RECORD_SIZE;

		memcpy(record, payload + changes[i].from, changes[i].length);
		if (m->variant == IN_PLACE)
			flush(record, changes[i].length);
	}
	if (m->variant == IN_PLACE)
		_mm_sfence();
}

static void read_memory(void *handle, unsigned char *records)
{
	memcpy(records, ((struct memory *)handle)->records, RECORDS_SIZE);
}

/* ---- a log on disk ---- */

struct log {
	unsigned variant;
	int fd;
	unsigned char *block; /* aligned, for O_DIRECT */
	uint64_t start, used;
};

static void preallocate(int fd)
{
	static const unsigned char zeros[1 << 20];

	for (uint64_t at = 0; at < LOG_SIZE; at += sizeof(zeros))
		check(pwrite(fd, zeros, sizeof(zeros), (off_t)at) == sizeof(zeros), "pwrite");
	check(fsync(fd) == 0, "fsync");
}

static void *open_log(const struct system *system, const char *folder, bool create)
{
	struct log *log = calloc(1, sizeof(*log));
	char path[256];

	join(path, folder, "log");
	log->variant = system->variant;
	log->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	check(log->fd >= 0, path);
	if (create)
		preallocate(log->fd);
	if (log->variant == DIRECT) {
		close(log->fd);
		log->fd = open(path, O_RDWR | O_CLOEXEC | O_DIRECT | O_DSYNC);
		check(log->fd >= 0, path);
	}
	return log;
}

static void close_log(void *handle)
{
	struct log *log = handle;

	close(log->fd);
	free(log);
}

static void *enter_log(void *handle, unsigned thread)
{
	struct log *log = malloc(sizeof(*log));

	*log = *(struct log *)handle;
	log->start = thread * (LOG_SIZE / 2);
	log->block = aligned_alloc(BLOCK, BLOCK);
	return log;
}

static void leave_log(void *context)
{
	struct log *log = context;

	free(log->block);
	free(log);
}

static void tx_log(void *context, const struct change *changes, unsigned n, const unsigned char *payload)
{
	struct log *log = context;
	size_t size = encode(log->block, changes, n, payload);
	struct iovec part = { log->block, log->variant == DIRECT ? BLOCK : size };
	off_t at;

	if (log->used + BLOCK > LOG_SIZE / 2)
		log->used = 0;
	at = (off_t)(log->start + log->used);
	check(pwritev2(log->fd, &part, 1, at, log->variant == DSYNC ? RWF_DSYNC : 0) == (ssize_t)part.iov_len,
	      "pwritev2");
	if (log->variant == FDATASYNC)
		check(fdatasync(log->fd) == 0, "fdatasync");
	log->used += part.iov_len;
}

/* clang-format off */
#define MEMORY(id, text, how, kind) \
	const struct system id = { \
		.name = text, .what = how, .media = ON_SHM, .yardstick = true, .variant = kind, \
		.open = open_memory, .close = close_memory, .enter = enter_memory, .leave = free, \
		.tx = tx_memory, .read = read_memory, \
	}
#define LOG(id, text, how, kind) \
	const struct system id = { \
		.name = text, .what = how, .media = ON_DISK, .yardstick = true, .variant = kind, \
		.open = open_log, .close = close_log, .enter = enter_log, .leave = leave_log, .tx = tx_log, \
	}
/* clang-format on */
MEMORY(volatile_stores, "stores", "plain stores", PLAIN);
MEMORY(flush_in_place, "clwb+sfence", "stores, clwb, one sfence; not atomic", IN_PLACE);
MEMORY(append_fence, "append+sfence",
       "an entry appended with clwb and one sfence, then stores; no write-back", APPEND);
LOG(pwrite_fdatasync, "pwrite+fdatasync", "one log write, preallocated", FDATASYNC);
LOG(pwrite_dsync, "RWF_DSYNC", "one pwritev2 with RWF_DSYNC, preallocated", DSYNC);
LOG(direct_dsync, "O_DIRECT+O_DSYNC", "one write of 4 KiB, preallocated", DIRECT);
