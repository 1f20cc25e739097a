/*
 * pool_group.c - many transactions, few flushes: commits that are not waited for one by one, and threads that
 * wait together.
 */
#include <linehome.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS 8
#define EACH 50

static struct lh_pool *pool;
static long *counter;

static void check(int result, const struct lh_error *error)
{
	if (result >= 0)
		return;
	fprintf(stderr, "pool_group: %s\n", error->text);
	exit(1);
}

/* lh_tx_begin waits for other threads' transactions, so the counter needs no lock. */
static void *count(void *unused)
{
	struct lh_error error;

	for (int i = 0; i < EACH; i++) {
		check(lh_tx_begin(pool, &error), &error);
		++*counter;
		/* Returns when it is durable; those who wait at the same time share a flush. */
		check(lh_tx_commit(pool, &error), &error);
	}
	return NULL;
}

static void count_without_waiting(void)
{
	struct lh_error error;
	uint64_t token = 0;

	for (int i = 0; i < EACH; i++) {
		check(lh_tx_begin(pool, &error), &error);
		++*counter;
		check(lh_tx_commit_async(pool, &token, &error), &error);
	}
	/* This one is durable, and so are all before it. */
	check(lh_tx_wait(pool, token, &error), &error);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "counter.pool";
	struct lh_pool_options options = { .layout = "counter", .size = 1 << 20 };
	pthread_t threads[THREADS];
	struct lh_pool_info info;
	struct lh_error error;

	remove(path);
	check(lh_pool_create(path, &options, &pool, &error), &error);
	counter = lh_pool_root(pool, sizeof *counter, &error);
	check(counter ? 0 : -1, &error);
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, count, NULL) != 0)
			return 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	count_without_waiting();
	lh_pool_info(pool, &info);
	printf("%ld, in %llu commits\n", *counter, (unsigned long long)info.commits);
	if (*counter != (THREADS + 1) * EACH)
		return 1;
	check(lh_pool_close(pool, &error), &error);
	return 0;
}
