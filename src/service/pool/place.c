/*
 * place.c - where a pool is: a path, file:PATH, or a name on a memory node; and the store that is there.
 *
 * A file is used as its file system lets it: mapped, where it is persistent memory or tmpfs; else its
 * pages go through the page cache, and its log past it (lh__place_log).
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "service/client/client.h"
#include "store/file.h"
#include "store/node.h"

#define CONNECT_MS 10000
#define RETRY_MS 20

bool lh__place_is_node(const char *where)
{
	return strncmp(where, "unix:", 5) == 0 || strncmp(where, "tcp:", 4) == 0;
}

static const char *path_of(const char *where)
{
	return strncmp(where, "file:", 5) == 0 ? where + 5 : where;
}

/*
 * Addresses for the header, the log and all that the pool may grow to; a log is at most an eighth of them, or
 * chosen.
 */
static uint64_t file_reach(const struct lh_pool_options *options)
{
	uint64_t reach = options->reach ? options->reach : UINT64_C(64) << 30;

	if (reach < 16 * options->size)
		reach = 16 * options->size;
	return (reach + options->log_size + (UINT64_C(1) << 30)) / LH_PAGE_SIZE;
}

/*
 * What a file lacks at its end reads as zeroes, and once it is written to it has its length again; so whether
 * something has been cut off has to be asked first. A file has room for the whole pool before its header
 * says so.
 */
static int check_length(const struct lh_sys *sys, const char *path, struct lh_store *store,
                        struct lh_error *error)
{
	static const struct lh_pool_options any;
	struct lh_pool_header header;
	struct lh_journal_look look;
	struct stat status;
	uint64_t needed;
	long result = LH_SYS(sys, SYS_newfstatat, AT_FDCWD, path, &status, 0);

	if (result < 0)
		return lh__fail(error, (int)result, "its length cannot be read: %s",
		                lh__errno_name((int)result));
	if (!S_ISREG(status.st_mode) || lh__journal_look(store, &look, NULL) < 0)
		return 0; /* what is wrong with its header is said by who opens it */
	memcpy(&header, look.client, sizeof header);
	if (lh__pool_header_check(&header, &any, NULL) < 0)
		return 0;
	needed = look.home * LH_PAGE_SIZE + header.size;
	if ((uint64_t)status.st_size >= needed)
		return 0;
	return lh__fail(error, -EBADMSG, "truncated: it has %lu bytes of at least %lu",
	                (unsigned long)status.st_size, (unsigned long)needed);
}

static int open_way(const struct lh_sys *sys, const char *path, enum lh_place_use use,
                    const struct lh_pool_options *options, struct lh_store **out, struct lh_error *error)
{
	struct lh_file_options file = {
		.way = LH_FILE_MAPPED,
		.create = use == LH_PLACE_CREATE,
		.read_only = use >= LH_PLACE_READ,
		.lock = use != LH_PLACE_PEEK,
		.wait_ms = options->wait_ms,
		.reach = file_reach(options),
	};
	int result = lh__file_open(sys, path, &file, out, error);

	if (result != -EOPNOTSUPP)
		return result;
	file.way = LH_FILE_BUFFERED;
	return lh__file_open(sys, path, &file, out, error);
}

static int open_file(const struct lh_sys *sys, const char *path, enum lh_place_use use,
                     const struct lh_pool_options *options, struct lh_store **out, struct lh_error *error)
{
	struct lh_store *store;
	int result = open_way(sys, path, use, options, &store, error);

	if (result == 0 && use != LH_PLACE_CREATE) {
		result = check_length(sys, path, store, error);
		if (result < 0)
			store->ops->close(store);
	}
	if (result == 0)
		*out = store;
	return result;
}

char *lh__place_whole(const char *where)
{
	bool unix_socket = strncmp(where, "unix:", 5) == 0;
	const char *path = unix_socket ? where + 5 : path_of(where);
	char folder[PATH_MAX], *whole = NULL;

	if (lh__place_is_node(where) && (!unix_socket || path[0] == '/'))
		return strdup(where);
	if (!unix_socket)
		return realpath(path, NULL);
	if (getcwd(folder, sizeof folder) && asprintf(&whole, "unix:%s/%s", folder, path) < 0)
		whole = NULL;
	return whole;
}

/*
 * Past the page cache where the file system lets it: a block is on the disk a fifth sooner then.
 * docs/performance.md.
 */
int lh__place_log(const char *where, struct lh_store *store, struct lh_store **log, struct lh_error *error)
{
	*log = NULL;
	if (lh__place_is_node(where) || store->direct)
		return 0;
	if (lh__file_again(store, LH_FILE_DIRECT, log, NULL) == 0)
		return 0;
	return lh__file_again(store, LH_FILE_BUFFERED, log, error);
}

/* ---- nodes ---- */

static int node_target(const char *where, const struct lh_pool_options *options,
                       struct lh_node_target *target, char name[LH_NODE_NAME_SIZE], struct lh_error *error)
{
	struct lh_node_url url;
	int result = lh__node_place_parse(where, &url, name, error);

	return result == 0 ? lh__node_target(url.text, options->key_file, target, error) : result;
}

static void sleep_ms(const struct lh_sys *sys, long ms)
{
	struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	LH_SYS(sys, SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &time, NULL);
}

/* A node does not tell when a region becomes free, so a client that waits asks again and again. */
static int open_node(const struct lh_sys *sys, const char *where, enum lh_place_use use,
                     const struct lh_pool_options *options, struct lh_store **out, struct lh_error *error)
{
	uint64_t start = lh__now(sys), limit = (uint64_t)options->wait_ms * 1000000;
	char name[LH_NODE_NAME_SIZE];
	struct lh_node_target target;
	int result = node_target(where, options, &target, name, error);

	if (result < 0)
		return result;
	for (;;) {
		result = lh__node_store_named(sys, &target, name, use == LH_PLACE_CREATE, CONNECT_MS, out,
		                              error);
		if (result != -EBUSY || options->wait_ms == 0)
			return result;
		if (options->wait_ms > 0 && lh__now(sys) - start >= limit)
			return lh__fail(error, -ETIMEDOUT, "another client has it still");
		sleep_ms(sys, RETRY_MS);
	}
}

int lh__place_open(const struct lh_sys *sys, const char *where, enum lh_place_use use,
                   const struct lh_pool_options *options, struct lh_store **out, struct lh_error *error)
{
	if (lh__place_is_node(where))
		return open_node(sys, where, use, options, out, error);
	return open_file(sys, path_of(where), use, options, out, error);
}

void lh__place_remove(const struct lh_sys *sys, const char *where, const struct lh_pool_options *options)
{
	char name[LH_NODE_NAME_SIZE];
	struct lh_node_target target;

	if (!lh__place_is_node(where))
		LH_SYS(sys, SYS_unlinkat, AT_FDCWD, path_of(where), 0);
	else if (node_target(where, options, &target, name, NULL) == 0)
		lh__node_drop_named(&target, name, NULL, CONNECT_MS, NULL);
}

/* What the layers below say begins with where they were, which is where, or the node of it. */
int lh__place_fail(struct lh_error *error, int result, const char *where, const struct lh_error *inner)
{
	const char *text = inner->text, *colon = strstr(text, ": ");

	if (colon && strncmp(text, path_of(where), (size_t)(colon - text)) == 0)
		text = colon + 2;
	return lh__fail(error, result, "%s: %s", where, text);
}

void lh__place_forget(bool node, struct lh_store *store)
{
	if (node)
		lh__node_forget(store);
	else
		store->ops->close(store);
}
