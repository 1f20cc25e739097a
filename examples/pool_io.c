/*
 * pool_io.c - system calls on a pool's memory. The kernel takes no part in the pool's page faults: before it
 * writes there, lh_tx_add; before it reads there, lh_pool_load. Else the call may fail with EFAULT.
 */
#include <linehome.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZE 20000

static void check(bool right, const struct lh_error *error)
{
	if (right)
		return;
	fprintf(stderr, "pool_io: %s\n", error->code < 0 ? error->text : "a result is wrong");
	exit(1);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "io.pool";
	struct lh_pool_options options = { .size = 1 << 20 };
	struct lh_error error = { .code = 0 };
	struct lh_pool *pool;
	char *buffer, copy[SIZE];
	int pipes[2];

	remove(path);
	check(lh_pool_create(path, &options, &pool, &error) == 0, &error);
	check((buffer = lh_pool_root(pool, SIZE, &error)) != NULL && pipe(pipes) == 0, &error);
	memset(copy, 'x', SIZE);
	check(write(pipes[1], copy, SIZE) == SIZE, &error);

	check(lh_tx_begin(pool, &error) == 0, &error);
	check(lh_tx_add(pool, buffer, SIZE, &error) == 0, &error);
	check(read(pipes[0], buffer, SIZE) == SIZE, &error); /* the kernel writes to the pool */
	check(lh_tx_commit(pool, &error) == 0, &error);
	check(lh_pool_close(pool, &error) == 0, &error);

	check(lh_pool_open(path, &options, &pool, &error) == 0, &error);
	check((buffer = lh_pool_root(pool, SIZE, &error)) != NULL, &error);
	check(lh_pool_load(pool, buffer, SIZE, &error) == 0, &error);
	check(write(pipes[1], buffer, SIZE) == SIZE, &error); /* the kernel reads the pool */
	memset(copy, 0, SIZE);
	check(read(pipes[0], copy, SIZE) == SIZE && copy[0] == 'x' && copy[SIZE - 1] == 'x', &error);
	printf("%d bytes in, %d bytes out\n", SIZE, SIZE);
	return lh_pool_close(pool, &error) == 0 ? 0 : 1;
}
