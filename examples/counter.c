/* counter.c - the smallest program with a pool: it counts how often it was run. */
#include <linehome.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "runs.pool";
	struct lh_error error;
	struct lh_pool *pool;
	long *runs;

	if (lh_pool_open(path, NULL, &pool, &error) < 0 && lh_pool_create(path, NULL, &pool, &error) < 0)
		return puts(error.text), 1;
	runs = lh_pool_root(pool, sizeof *runs, &error); /* zeroed, the first time */
	if (!runs || lh_tx_begin(pool, &error) < 0)
		return puts(error.text), 1;
	++*runs; /* a plain store */
	if (lh_tx_commit(pool, &error) < 0)
		return puts(error.text), 1;
	printf("run %ld\n", *runs); /* a crash from here on does not undo it */
	return lh_pool_close(pool, &error) < 0;
}
