/*
 * Moments at which code can be changed: a thread whose instruction pointer is inside, one that returns
 * inside, a system call that would be repeated inside, and what is at the very edge.
 */
#include "service/code/safe.h"
#include "service/code/symbols.h"

#include <errno.h>

#include "code_program.h"

static int keep(void *context, const struct lh_symbol *symbol)
{
	*(struct lh_symbol *)context = *symbol;
	return 1;
}

static struct lh_safe_range range_of(struct lh_symbols *symbols, const char *name)
{
	struct lh_symbol symbol = { 0 };

	ok(lh__symbols_find(symbols, name, keep, &symbol) == 1 && symbol.size > 0, "%s is found", name);
	return (struct lh_safe_range){ symbol.address, symbol.address + symbol.size };
}

/* Looks once, the threads being stopped. */
static int look(pid_t process, struct lh_safe_range range, struct lh_safe_obstacle *obstacle)
{
	struct lh_safe_range two[2] = { { 3ull << 60, (3ull << 60) + 16 }, range };
	struct lh_remote *remote;
	struct lh_error error;
	int result = lh__remote_stop(process, 1000, &remote, &error);

	if (result < 0)
		return result;
	*obstacle = (struct lh_safe_obstacle){ 0 };
	result = lh__safe_point(remote, two, 2, obstacle);
	lh__remote_release(remote);
	return result;
}

/* Until the thread waits in its system call. */
static void wait_until_inside(pid_t process, struct lh_safe_range range)
{
	struct lh_safe_obstacle obstacle = { 0 };

	for (int i = 0; i < 2000 && look(process, range, &obstacle) == 0; i++)
		usleep(1000);
}

int main(void)
{
	struct program program = program_start((const char *[]){ "probe_target", NULL }, 0);
	struct lh_safe_obstacle obstacle, other;
	struct lh_safe_range blocks, block, leaf;
	struct lh_safe_tally tally = { 0 };
	struct lh_symbols *symbols;
	struct lh_remote *remote;
	struct lh_error error = { 0 };
	char said[512];

	if (lh__symbols_open(program.id, &symbols, &error) < 0)
		exit(99);
	blocks = range_of(symbols, "blocks");
	block = range_of(symbols, "block");
	leaf = range_of(symbols, "leaf");
	ok(look(program.id, blocks, &obstacle) == 0 && look(program.id, block, &obstacle) == 0,
	   "nobody is in the way");
	if (write(program.in, "block\n", 6) != 6)
		exit(99);
	wait_until_inside(program.id, blocks);
	is(look(program.id, blocks, &obstacle), 1, "a thread that waits inside");
	ok(!obstacle.on_stack && obstacle.thread > program.id && obstacle.address > blocks.start &&
	           obstacle.address < blocks.end,
	   "is found by its instruction pointer");
	/* It stands behind the system call, which would be begun again. */
	is(look(program.id, (struct lh_safe_range){ obstacle.address - 3, obstacle.address }, &other), 1,
	   "a system call that would be repeated inside");
	is(other.address, obstacle.address - 2, "is found there");
	is(look(program.id, (struct lh_safe_range){ obstacle.address, obstacle.address + 5 }, &other), 0,
	   "who stands at the start is not in the way");
	is(look(program.id, block, &obstacle), 1, "a thread that returns inside");
	ok(obstacle.on_stack && obstacle.address > block.start && obstacle.address < block.end,
	   "is found by its stack");
	is(look(program.id, (struct lh_safe_range){ obstacle.address, obstacle.address + 5 }, &other), 0,
	   "who returns to the start is not in the way");
	is(look(program.id, (struct lh_safe_range){ obstacle.address - 1, obstacle.address + 1 }, &other), 1,
	   "who returns behind it is");
	is(look(program.id, leaf, &obstacle), 0, "of another function nobody is in the way");
	is(lh__safe_stop(program.id, &block, 1, 30, true, &remote, &tally, &error), -EBUSY,
	   "the wait comes to its end");
	ok(strstr(error.text, "returns to 0x") && tally.attempts > 1 && tally.threads == 2 &&
	           tally.stopped_ns,
	   "it is told: %s", error.text);
	is(lh__safe_stop(program.id, &leaf, 1, 1000, true, &remote, &tally, &error), 0,
	   "a moment that is found");
	lh__remote_release(remote);
	lh__symbols_close(symbols);
	if (write(program.in, "stop\n", 5) != 5)
		exit(99);
	ok(program_end(&program, said, sizeof said) == 0, "the program found nothing wrong");
	is(lh__safe_stop(program.id, &leaf, 1, 10, true, &remote, &tally, &error), -ESRCH,
	   "a process that is gone");
	return done();
}
