/* pool_grow.c - a pool that is full grows where it is: no object moves. */
#include <errno.h>
#include <linehome.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 64
#define BLOCK 10000

struct root {
	char *block[BLOCKS];
};

static void check(int result, const struct lh_error *error)
{
	if (result >= 0)
		return;
	fprintf(stderr, "pool_grow: %s\n", error->text);
	exit(1);
}

/* One block in a transaction of its own. -ENOMEM: the pool is full, and nothing has changed. */
static int add_block(struct lh_pool *pool, struct root *root, int i, struct lh_error *error)
{
	char *block;

	check(lh_tx_begin(pool, error), error);
	block = lh_pool_alloc(pool, BLOCK, error);
	if (!block) {
		int code = error->code; /* aborting may set error, too */

		check(lh_tx_abort(pool, error), error);
		return code;
	}
	memset(block, i, BLOCK);
	root->block[i] = block;
	return lh_tx_commit(pool, error);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "blocks.pool";
	struct lh_pool_options options = { .size = 128 << 10, .reach = 64 << 20 };
	struct lh_pool_info info;
	struct lh_error error;
	struct lh_pool *pool;
	struct root *root;
	int grown = 0;

	remove(path);
	check(lh_pool_create(path, &options, &pool, &error), &error);
	root = lh_pool_root(pool, sizeof *root, &error);
	check(root ? 0 : -1, &error);
	for (int i = 0; i < BLOCKS; i++) {
		int result = add_block(pool, root, i, &error);

		if (result == -ENOMEM) {
			lh_pool_info(pool, &info);
			check(lh_pool_grow(pool, 2 * info.size, &error), &error);
			grown++;
			result = add_block(pool, root, i, &error);
		}
		check(result, &error);
	}
	for (int i = 0; i < BLOCKS; i++)
		if (root->block[i][0] != i || root->block[i][BLOCK - 1] != i)
			return 1;
	lh_pool_info(pool, &info);
	printf("grown %d times, to %llu KiB\n", grown, (unsigned long long)info.size >> 10);
	check(lh_pool_close(pool, &error), &error);
	return grown > 0 ? 0 : 1;
}
