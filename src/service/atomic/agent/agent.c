/*
 * agent.c - liblinehome-atomic.so: what `linehome atomic` loads into a program. It takes its orders from the
 * environment, takes them out of it, so that what the program starts is not meant, and leaves the rest to the
 * library.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "linehome/atomic.h"
#include "service/atomic/orders.h"

#define FAILED 125

static void say(const char *line)
{
	char text[512];
	int length = snprintf(text, sizeof(text), "linehome atomic: %s\n", line);

	if (length > 0 && write(STDERR_FILENO, text, (size_t)length) < 0)
		return; /* nobody listens */
}

static void fail(const char *line)
{
	say(line);
	_exit(FAILED);
}

/* At once, as by a crash: all else in the program believes that the function has succeeded. */
static void end(const char *function, int error)
{
	_exit(FAILED);
}

struct orders {
	struct lh_atomic_options options;
	const char *begin[LH_ORDERS_MAX + 1], *end[LH_ORDERS_MAX + 1];
	unsigned begins, ends;
	const char *preload; /* the variable as it was; NULL: it was not there */
};

/* ---- the environment: by hand, since a shell has functions for its own that are called so */

extern char **environ;

static char **variable(const char *name)
{
	size_t length = strlen(name);
	char **at = environ;

	while (at && *at && (strncmp(*at, name, length) != 0 || (*at)[length] != '='))
		at++;
	return at && *at ? at : NULL;
}

static void remove_variable(const char *name)
{
	for (char **at = variable(name); at && *at; at++)
		at[0] = at[1];
}

/* ---- orders */

/* One is a letter (orders.h) and what it is about. */
static void take(struct orders *orders, const char *order)
{
	switch (order[0]) {
	case LH_ORDER_BEGIN:
		if (orders->begins < LH_ORDERS_MAX)
			orders->begin[orders->begins++] = order + 1;
		break;
	case LH_ORDER_END:
		if (orders->ends < LH_ORDERS_MAX)
			orders->end[orders->ends++] = order + 1;
		break;
	case LH_ORDER_LOG: orders->options.log = (enum lh_log)(order[1] - '0'); break;
	case LH_ORDER_CALLS: orders->options.calls = (enum lh_atomic_calls)(order[1] - '0'); break;
	case LH_ORDER_UNDONE: orders->options.undone = end; break;
	case LH_ORDER_POOL: orders->options.pool = order + 1; break;
	case LH_ORDER_PRELOAD: orders->preload = order + 1; break;
	default: break;
	}
}

__attribute__((constructor)) static void start(void)
{
	char **given = variable(LH_ORDERS_ENVIRONMENT), **preload = variable("LD_PRELOAD"), *rest;
	struct orders orders = { .preload = NULL };
	struct lh_error error;

	if (!given)
		return;
	rest = strchr(*given, '=') + 1; /* it stays where it is */
	orders.options.begin = orders.begin;
	orders.options.end = orders.end;
	orders.options.say = say;
	while (rest)
		take(&orders, strsep(&rest, "\n"));
	if (preload && orders.preload)
		*preload = (char *)orders.preload;
	else
		remove_variable("LD_PRELOAD");
	remove_variable(LH_ORDERS_ENVIRONMENT);
	if (lh_atomic_start(&orders.options, &error) < 0)
		fail(error.text);
}
