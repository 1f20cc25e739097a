/*
 * signal.c - the process's SIGBUS and SIGTRAP, for all pools of the process.
 *
 * The handlers are installed with the first pool that needs them and stay: a handler that was put over them
 * since may call them, so they can never be taken away safely. What is none of a pool's business goes to
 * whoever had the signal before.
 *
 * Here is the one variable of the library that is no handle's: signals are the process's, and a handler is
 * given no more than an address.
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#define POOLS 64u

static struct {
	struct lh_lock lock;
	struct lh_pool *pools[POOLS];
	bool installed;
	struct sigaction bus, trap; /* what was there before */
} signals;

static struct lh_pool *pool_at(uintptr_t address)
{
	for (unsigned i = 0; i < POOLS; i++) {
		struct lh_pool *pool = __atomic_load_n(&signals.pools[i], __ATOMIC_ACQUIRE);

		if (pool && address - (uintptr_t)pool->base < pool->header.reach)
			return pool;
	}
	return NULL;
}

/*
 * Whoever had the signal before; where that was nobody, the default is put back, and the instruction,
 * executed again, meets it with all that belongs to it.
 */
static void pass_on(const struct sigaction *before, int number, siginfo_t *info, void *context)
{
	if (before->sa_flags & SA_SIGINFO)
		before->sa_sigaction(number, info, context);
	else if (before->sa_handler == SIG_DFL || before->sa_handler == SIG_IGN)
		signal(number, SIG_DFL);
	else
		before->sa_handler(number);
}

static void on_bus(int number, siginfo_t *info, void *context)
{
	uintptr_t address = (uintptr_t)info->si_addr;
	struct lh_pool *pool = info->si_code == BUS_ADRERR ? pool_at(address) : NULL;
	int saved = errno;
	bool ours = pool && lh__fault_touched(pool, address, context);

	errno = saved;
	if (!ours)
		pass_on(&signals.bus, number, info, context);
}

static void on_trap(int number, siginfo_t *info, void *context)
{
	mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
	bool ours = false;

	for (unsigned i = 0; i < POOLS; i++) {
		struct lh_pool *pool = __atomic_load_n(&signals.pools[i], __ATOMIC_ACQUIRE);

		if (pool && pool->see == LH_SEE_CHECKED && pool->port)
			ours |= lh__fault_stepped(pool, context);
	}
	if (ours)
		machine->gregs[REG_EFL] &= ~LH_POOL_TRAP_FLAG;
	else
		pass_on(&signals.trap, number, info, context);
}

static int install(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof action);
	/* Where the program has an alternate stack, its own may be in the pool itself, or small. */
	action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
	sigfillset(&action.sa_mask);
	action.sa_sigaction = on_bus;
	if (sigaction(SIGBUS, &action, &signals.bus) != 0)
		return -errno;
	action.sa_sigaction = on_trap;
	if (sigaction(SIGTRAP, &action, &signals.trap) != 0)
		return -errno;
	signals.installed = true;
	return 0;
}

int lh__signal_add(struct lh_pool *pool, struct lh_error *error)
{
	unsigned i = 0;
	int result;

	lh__lock(pool->sys, &signals.lock);
	result = signals.installed ? 0 : install();
	while (result == 0 && i < POOLS && signals.pools[i])
		i++;
	if (result == 0 && i == POOLS)
		result = -EMFILE;
	if (result == 0)
		__atomic_store_n(&signals.pools[i], pool, __ATOMIC_RELEASE);
	lh__unlock(pool->sys, &signals.lock);
	return result == 0 ? 0 : lh__fail(error, result, "more than %u pools cannot be open at once", POOLS);
}

void lh__signal_remove(struct lh_pool *pool)
{
	for (unsigned i = 0; i < POOLS; i++)
		if (signals.pools[i] == pool)
			__atomic_store_n(&signals.pools[i], NULL, __ATOMIC_RELEASE);
}
