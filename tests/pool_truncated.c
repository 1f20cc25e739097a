/*
 * pool_truncated.c - a pool of which the end has been cut off is refused, whatever its length is now, and
 * is left as it is: closed or not, on a file system or on tmpfs.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "service/pool/pool.h"
#include "tap.h"

enum { ROOT = 9000, STEP = 512 };

static const struct lh_pool_options options = {
	.see = LH_SEE_DECLARED, .size = LH_POOL_SIZE_MIN, .log_size = LH_POOL_LOG_MIN, .reach = 1 << 20
};

static bool fill(struct lh_pool *pool)
{
	unsigned char *root = lh_pool_root(pool, ROOT, NULL);

	if (!root || lh_tx_begin(pool, NULL) != 0 || lh_tx_add(pool, root, ROOT, NULL) != 0)
		return false;
	memset(root, 7, ROOT);
	return lh_tx_commit(pool, NULL) == 0;
}

static bool make_pool(const char *path, bool closed)
{
	struct lh_pool *pool;
	bool filled;

	unlink(path);
	if (lh_pool_create(path, &options, &pool, NULL) != 0)
		return false;
	filled = fill(pool);
	if (closed)
		return lh_pool_close(pool, NULL) == 0 && filled;
	lh__pool_abandon(pool);
	return filled;
}

static off_t length_of(const char *path)
{
	struct stat status;

	return stat(path, &status) == 0 ? status.st_size : -1;
}

/* Neither opens nor checks, and is as long as it was. */
static bool is_refused(const char *path, off_t length)
{
	struct lh_pool_check check;
	struct lh_pool *pool;
	int result = lh_pool_open(path, &options, &pool, NULL);

	if (result == 0)
		lh__pool_abandon(pool);
	return result == -EBADMSG && lh__pool_check(&lh__sys_default, path, NULL, &check, NULL) == -EBADMSG &&
	       length_of(path) == length;
}

static void cut(const char *folder, bool closed)
{
	char path[100];
	struct lh_pool *pool = NULL;
	off_t length, whole;
	unsigned refused = 0, tried = 0;

	snprintf(path, sizeof path, "%s/linehome-truncated-%d", folder, (int)getpid());
	ok(make_pool(path, closed), "%s: a pool, %s", folder, closed ? "closed" : "not closed");
	whole = length_of(path);
	ok(lh_pool_open(path, &options, &pool, NULL) == 0, "whole, it opens");
	lh__pool_abandon(pool);
	for (length = whole - STEP; length >= 0; length -= STEP) {
		tried++;
		if (truncate(path, length) == 0)
			refused += is_refused(path, length);
	}
	is(refused, tried, "shorter, it is refused");
	unlink(path);
}

int main(void)
{
	cut("/var/tmp", true);
	cut("/var/tmp", false);
	cut("/dev/shm", true);
	cut("/dev/shm", false);
	return done();
}
