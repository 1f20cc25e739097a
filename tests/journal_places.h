/*
 * journal_places.h - what the tests of the journal share: fresh stores for it to stand on, and what a page of
 * it must hold.
 */
#ifndef JOURNAL_PLACES_H
#define JOURNAL_PLACES_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>

#include "store/file.h"
#include "store/journal.h"
#include "tap.h"

#define UNUSED __attribute__((unused))

enum place { PLACE_MEMORY, PLACE_DISK, PLACE_MAPPED, PLACES };
static const char *const place_names[PLACES] = { "memory", "a file", "a file's memory" };

struct below {
	struct lh_store *store;
	struct lh_memory_pool *pool; /* NULL: it is a file */
	char path[300];
};

static bool open_memory(const struct lh_sys *sys, struct below *below)
{
	if (lh__memory_pool_open(sys, 0, &below->pool) != 0)
		return false;
	if (lh__memory_open(below->pool, &below->store) == 0)
		return true;
	lh__memory_pool_close(below->pool);
	return false;
}

static int open_file_at(const struct lh_sys *sys, const char *path, bool mapped, struct lh_store **store)
{
	struct lh_file_options options = { .way = mapped ? LH_FILE_MAPPED : LH_FILE_BUFFERED, .reach = 4096 };

	return lh__file_open(sys, path, &options, store, NULL);
}

/* A fresh store; false where this system has none, or where sys fails. */
UNUSED static bool below_open(const struct lh_sys *sys, enum place place, struct below *below)
{
	const char *build = getenv("LINEHOME_BUILD");
	const char *folder = place == PLACE_MAPPED ? "/dev/shm" : build ? build : "/var/tmp";
	int fd;

	*below = (struct below){ .store = NULL };
	if (place == PLACE_MEMORY)
		return open_memory(sys, below);
	snprintf(below->path, sizeof below->path, "%s/journal.XXXXXX", folder);
	fd = mkstemp(below->path);
	if (fd < 0)
		return false;
	close(fd);
	if (open_file_at(sys, below->path, place == PLACE_MAPPED, &below->store) == 0)
		return true;
	unlink(below->path);
	return false;
}

#define MUST(call)                                                                                           \
	do {                                                                                                 \
		long long must = (long long)(call);                                                          \
		if (must != 0) {                                                                             \
			printf("Bail out! %s:%d: %s: %lld\n", __FILE__, __LINE__, #call, must);              \
			fflush(stdout);                                                                      \
			_exit(99);                                                                           \
		}                                                                                            \
	} while (0)

/* Closes it and opens it again, where it outlives its handle. */
UNUSED static void below_again(const struct lh_sys *sys, enum place place, struct below *below)
{
	if (place == PLACE_MEMORY)
		return;
	below->store->ops->close(below->store);
	MUST(open_file_at(sys, below->path, place == PLACE_MAPPED, &below->store));
}

/* After the store itself has been closed. */
UNUSED static void below_end(struct below *below)
{
	if (below->pool)
		lh__memory_pool_close(below->pool);
	else
		unlink(below->path);
}

UNUSED static void below_close(struct below *below)
{
	below->store->ops->close(below->store);
	below_end(below);
}

/* ---- steps that have to succeed ---- */

UNUSED static struct lh_store *open_journal(struct lh_store *below)
{
	struct lh_store *journal;
	struct lh_error error;
	int result = lh__journal_open(below, false, &journal, &error);

	if (result < 0)
		printf("# %s\n", error.text);
	MUST(result);
	return journal;
}

UNUSED static struct lh_store *new_journal(struct lh_store *below, uint64_t log_pages, uint64_t home_pages)
{
	struct lh_journal_format format = { .log_pages = log_pages, .home_pages = home_pages };

	MUST(lh__journal_format(below, &format, NULL));
	return open_journal(below);
}

/* As a process ends that is killed, and the next one begins. */
UNUSED static struct lh_store *reopen(struct lh_store *journal)
{
	return open_journal(lh__journal_release(journal));
}

/* ---- content: all bytes of a page are of one value, which tells page and version ---- */

static unsigned char value_of(uint64_t page, uint64_t version)
{
	return (unsigned char)(version ? (page * 31 + version * 7) % 255 + 1 : 0);
}

/* A page of such lines, to be used until the next 16 calls. */
UNUSED static void *page_of(uint64_t page, uint64_t version)
{
	static _Thread_local unsigned char data[16][LH_PAGE_SIZE] __attribute__((aligned(64)));
	static _Thread_local unsigned next;

	return memset(data[next++ % 16], value_of(page, version), LH_PAGE_SIZE);
}

/* That the lines of mask are of that version, and all others zero. */
UNUSED static bool holds(struct lh_store *store, uint64_t page, lh_mask mask, uint64_t version)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64)));
	lh_mask held;

	if (store->ops->get_now(store, page, LH_MASK_ALL, data, &held) != 0)
		return false;
	for (unsigned i = 0; i < LH_PAGE_SIZE; i++)
		if (data[i] != (mask >> i / LH_LINE_SIZE & 1 ? value_of(page, version) : 0))
			return false;
	return true;
}

#endif
