/* pool.c - a pool from one run to the next: what is committed is there again, at the same address. */
#include <errno.h>
#include <linehome.h>
#include <stdio.h>
#include <string.h>

struct visit {
	struct visit *before; /* a plain pointer into the pool */
	int number;
};

struct book {
	struct visit *last;
};

static struct lh_pool *create_or_open(const char *path, struct lh_error *error)
{
	struct lh_pool_options options = { .layout = "visits", .size = 1 << 20 };
	struct lh_pool *pool;

	if (lh_pool_open(path, &options, &pool, error) == 0)
		return pool;
	return error->code == -ENOENT && lh_pool_create(path, &options, &pool, error) == 0 ? pool : NULL;
}

static int failed(const char *what, const struct lh_error *error)
{
	fprintf(stderr, "pool: %s: %s\n", what, error->text);
	return 1;
}

int main(int argc, char **argv)
{
	struct lh_error error;
	struct lh_pool *pool = create_or_open(argc > 1 ? argv[1] : "visits.pool", &error);
	struct book *book = pool ? lh_pool_root(pool, sizeof *book, &error) : NULL;
	struct visit *visit;

	if (!book || lh_tx_begin(pool, &error) < 0)
		return failed("opening", &error);
	visit = lh_pool_alloc(pool, sizeof *visit, &error);
	if (!visit)
		return failed("a visit", &error);
	visit->before = book->last; /* plain stores */
	visit->number = book->last ? book->last->number + 1 : 1;
	book->last = visit;
	if (lh_tx_commit(pool, &error) < 0)
		return failed("committing", &error);

	if (lh_tx_begin(pool, &error) < 0)
		return failed("beginning", &error);
	book->last = NULL; /* a mistake, taken back */
	if (lh_tx_abort(pool, &error) < 0 || book->last != visit)
		return failed("aborting", &error);

	printf("visit %d\n", book->last->number);
	return lh_pool_close(pool, &error) < 0 ? failed("closing", &error) : 0;
}
