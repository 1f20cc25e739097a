/*
 * place.c - where a pool is: a path, file:PATH, or a name on a memory node; and the store that is there.
 *
 * A file is used as its file system lets it: mapped, where it is persistent memory or tmpfs; else through the
 * page cache, with writes that are flushed alone (pwritev2 with RWF_DSYNC).
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "store/file.h"

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

static int open_file(const struct lh_sys *sys, const char *path, enum lh_place_use use,
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

/*
 * A file that was cut reads as zeroes behind its end, and mapped there is SIGBUS: neither may be taken for
 * the pool. What has no valid header is refused by whoever opens it.
 */
static int check_length(struct lh_store *below, struct lh_error *error)
{
	uint64_t pages = lh__file_size(below) / LH_PAGE_SIZE;
	struct lh_pool_header header;
	struct lh_journal_look look;

	if (lh__journal_look(below, &look, NULL) < 0)
		return 0;
	memcpy(&header, look.client, sizeof header);
	if (look.home <= pages && header.size / LH_PAGE_SIZE <= pages - look.home)
		return 0;
	return lh__fail(error, -EBADMSG, "truncated: %lu bytes of memory from byte %lu on do not fit in %lu",
	                (unsigned long)header.size, (unsigned long)look.home * LH_PAGE_SIZE,
	                (unsigned long)lh__file_size(below));
}

int lh__place_open(const struct lh_sys *sys, const char *where, enum lh_place_use use,
                   const struct lh_pool_options *options, struct lh_store **out, struct lh_error *error)
{
	struct lh_store *below;
	int result = open_file(sys, path_of(where), use, options, &below, error);

	if (result == 0 && use != LH_PLACE_CREATE) {
		result = check_length(below, error);
		if (result < 0)
			below->ops->close(below);
	}
	if (result == 0)
		*out = below;
	return result;
}

void lh__place_remove(const struct lh_sys *sys, const char *where, const struct lh_pool_options *options)
{
	LH_SYS(sys, SYS_unlinkat, AT_FDCWD, path_of(where), 0);
}
