/*
 * pool_declared.c - changes that the program declares itself, and how one that was forgotten is found: with
 * LH_SEE_CHECKED the commit fails and says which line of which file stored without saying so.
 */
#include <errno.h>
#include <linehome.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct account {
	long balance[2][8]; /* each in a line of its own */
};

static void check(int result, const struct lh_error *error)
{
	if (result >= 0)
		return;
	fprintf(stderr, "pool_declared: %s\n", error->text);
	exit(1);
}

static int transfer(struct lh_pool *pool, struct account *account, long amount, bool forget,
                    struct lh_error *error)
{
	check(lh_tx_begin(pool, error), error);
	check(lh_tx_add(pool, account->balance[0], sizeof(long), error), error);
	account->balance[0][0] -= amount;
	if (!forget)
		check(lh_tx_add(pool, account->balance[1], sizeof(long), error), error);
	account->balance[1][0] += amount;
	return lh_tx_commit(pool, error);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "accounts.pool";
	struct lh_pool_options options = { .layout = "accounts", .see = LH_SEE_CHECKED, .size = 1 << 20 };
	struct account *account;
	struct lh_error error;
	struct lh_pool *pool;

	remove(path);
	check(lh_pool_create(path, &options, &pool, &error), &error);
	account = lh_pool_root(pool, sizeof *account, &error);
	check(account ? 0 : -1, &error);
	if (transfer(pool, account, 10, true, &error) != -EFAULT)
		return 1;
	printf("found: %s\n", error.text);
	check(transfer(pool, account, 10, false, &error), &error);
	check(lh_pool_close(pool, &error), &error);

	/* The program is right now; without the check it takes no page fault for a store. */
	options.see = LH_SEE_DECLARED;
	check(lh_pool_open(path, &options, &pool, &error), &error);
	account = lh_pool_root(pool, sizeof *account, &error);
	check(account ? transfer(pool, account, 5, false, &error) : -1, &error);
	printf("%ld and %ld\n", account->balance[0][0], account->balance[1][0]);
	if (account->balance[0][0] != -15 || account->balance[1][0] != 15)
		return 1;
	check(lh_pool_close(pool, &error), &error);
	return 0;
}
