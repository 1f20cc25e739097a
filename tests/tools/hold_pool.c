/*
 * hold_pool.c - a program that has a pool open until it is killed, for tests of the command.
 *
 *     hold_pool WHERE redo|undo COMMITS [busy]
 *
 * Makes or opens the pool at WHERE, commits so many transactions, begins another one, changes some lines in
 * it, and says "ready". Then it waits, or with "busy" goes on committing.
 */
#include <linehome.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZE 32768u

static void check(int code, const struct lh_error *error)
{
	if (code >= 0)
		return;
	fprintf(stderr, "hold_pool: %s\n", error->text);
	exit(1);
}

/* The first changes every other line of a page. */
static void stripes(struct lh_pool *pool, char *page)
{
	struct lh_error error;

	for (unsigned i = 0; i < 64; i += 2) {
		check(lh_tx_add(pool, page + 64 * i, 1, &error), &error);
		page[64 * i] = 1;
	}
}

static void commit(struct lh_pool *pool, char *text, unsigned number)
{
	struct lh_error error;

	check(lh_tx_begin(pool, &error), &error);
	check(lh_tx_add(pool, text, 200, &error), &error);
	check(lh_tx_add(pool, text + 4096, 1, &error), &error);
	snprintf(text, 200, "transaction %u", number);
	text[199] = 'x';
	text[4096] = (char)number;
	if (number == 0)
		stripes(pool, text + 8192);
	check(lh_tx_commit(pool, &error), &error);
}

int main(int argc, char **argv)
{
	struct lh_pool_options options = { .see = LH_SEE_DECLARED, .layout = "held", .size = 1u << 20 };
	struct lh_error error;
	struct lh_pool *pool;
	char *text;
	int code;

	if (argc < 4)
		return 2;
	options.log = strcmp(argv[2], "undo") == 0 ? LH_LOG_UNDO : LH_LOG_REDO;
	code = lh_pool_open(argv[1], &options, &pool, &error);
	if (code == -ENOENT)
		code = lh_pool_create(argv[1], &options, &pool, &error);
	check(code, &error);
	text = lh_pool_root(pool, SIZE, &error);
	check(text ? 0 : -1, &error);
	for (unsigned i = 0; i < (unsigned)atoi(argv[3]); i++)
		commit(pool, text, i);
	if (argc == 4) {
		check(lh_tx_begin(pool, &error), &error);
		check(lh_tx_add(pool, text, 64, &error), &error);
		strcpy(text, "never committed");
	}
	puts("ready");
	fflush(stdout);
	if (argc > 4)
		for (unsigned i = 0;; i++)
			commit(pool, text, i);
	for (;;)
		pause();
}
