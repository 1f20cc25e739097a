/* atomic.c - linehome atomic: a program whose functions are transactions of the pools that it has open. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "linehome/atomic.h"
#include "service/atomic/orders.h"
#include "service/launch/launch.h"

#define ORDERS_BYTES 16384u

struct orders {
	char text[ORDERS_BYTES];
	size_t length;
};

/* False: they have become too long. */
static bool add(struct orders *orders, char what, const char *rest)
{
	size_t left = sizeof(orders->text) - orders->length;
	int n = snprintf(orders->text + orders->length, left, "%s%c%s", orders->length ? "\n" : "", what,
	                 rest);

	if (n < 0 || (size_t)n >= left || strchr(rest, '\n'))
		return false;
	orders->length += (size_t)n;
	return true;
}

static bool add_all(struct orders *orders, char what, const struct cli_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		if (!add(orders, what, list->at[i]))
			return false;
	return true;
}

static bool add_digit(struct orders *orders, char what, unsigned digit)
{
	return add(orders, what, (const char[]){ (char)('0' + digit), 0 });
}

static bool add_preload(struct orders *orders, const char *preload)
{
	char whole[ORDERS_BYTES];

	snprintf(whole, sizeof(whole), "LD_PRELOAD=%s", preload);
	return add(orders, LH_ORDER_PRELOAD, whole);
}

static int failed(int code, const char *text)
{
	int status = code == -ENOENT                       ? CLI_NOT_FOUND
	             : code == -EACCES || code == -ENOEXEC ? CLI_NOT_EXECUTABLE
	                                                   : CLI_FAILED;

	return cli_fail("atomic", status, "%s", text);
}

/* The program takes this process's place: nothing is left to do here. */
static int become(const char *orders, char **argv)
{
	struct lh_error error = { 0, "" };
	char agent[PATH_MAX];
	int code = lh__launch_check(argv[0], &error);

	if (code < 0)
		return failed(code, error.text);
	code = lh__launch_agent(NULL, "liblinehome-atomic.so", LH_ATOMIC_AGENT_PATH, agent, &error);
	if (code == 0)
		code = lh__launch_preload(agent, &error);
	if (code < 0)
		return cli_fail("atomic", CLI_FAILED, "%s", error.text);
	if (setenv(LH_ORDERS_ENVIRONMENT, orders, 1) < 0)
		return cli_fail("atomic", CLI_FAILED, "no memory for the program's environment");
	execvp(argv[0], argv);
	return failed(-ENOEXEC, strerror(errno));
}

int cli_atomic(int argc, char **argv)
{
	static struct orders orders;
	struct cli_list begin = { 0 }, end = { 0 };
	unsigned log = 0, calls = LH_ATOMIC_ALLOW, undone = 0;
	const char *pool = NULL, *preload = getenv("LD_PRELOAD");
	struct cli_option options[] = {
		{ "begin", CLI_LIST, "SYMBOL", "a transaction begins where this function is entered", &begin,
		  false },
		{ "end", CLI_LIST, "SYMBOL", "it ends where this function returns", &end, false },
		{ "log", CLI_CHOICE, "redo|undo", "how the log of the program's pools works (redo)", &log,
		  false },
		{ "syscalls", CLI_CHOICE, "allow|warn|abort",
		  "what a system call does that cannot be undone (allow)", &calls, false },
		{ "on-undo", CLI_CHOICE, "continue|exit",
		  "what the program does after a transaction that was undone (continue)", &undone, false },
		{ "pool", CLI_TEXT, "PATH", "the pool that the program's lh_atomic_pool opens", &pool,
		  false },
		{ .name = NULL },
	};
	struct cli_usage usage = { "atomic", "[--] PROGRAM [ARG...]",
		                   "Runs PROGRAM with transactions from some of its functions' entry to "
		                   "their return.",
		                   options, CLI_PROGRAM };
	int status = cli_parse(&usage, &argc, &argv);

	if (status != CLI_GO_ON)
		return status;
	if (argc == 0)
		return cli_fail("atomic", CLI_BAD_USAGE,
		                "no program: write for instance linehome atomic --begin insert --end insert "
		                "-- PROGRAM");
	if ((begin.n == 0) != (end.n == 0))
		return cli_fail("atomic", CLI_BAD_USAGE, "--%s: where do its transactions %s? add --%s",
		                begin.n ? "begin" : "end", begin.n ? "end" : "begin",
		                begin.n ? "end" : "begin");
	/* Of pools that the program opens without saying how. */
	if (!add_all(&orders, LH_ORDER_BEGIN, &begin) || !add_all(&orders, LH_ORDER_END, &end) ||
	    !add_digit(&orders, LH_ORDER_LOG, log ? LH_LOG_UNDO : LH_LOG_REDO) ||
	    !add_digit(&orders, LH_ORDER_CALLS, calls) || (undone && !add(&orders, LH_ORDER_UNDONE, "")) ||
	    (pool && !add(&orders, LH_ORDER_POOL, pool)) || (preload && !add_preload(&orders, preload)))
		return cli_fail("atomic", CLI_BAD_USAGE, "there are too many names, or a name has two lines");
	return become(orders.text, argv);
}
