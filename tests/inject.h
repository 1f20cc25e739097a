/*
 * inject.h - a system table that fails the nth call or allocation, and the sweep over n.
 *
 * A sweep runs its body again and again, failing the first thing that the body asks of the table, then the
 * second, and so on, until a run asks for less than that: then every way to fail has been taken.
 *
 *     struct inject in;
 *
 *     INJECT_SWEEP(&in, ENOMEM, INJECT_ONCE) {
 *             thing_open(&in.sys, &thing);      what is not under test: injection is off here
 *             inject_arm(&in);
 *             result = thing_use(thing);        what is under test
 *             inject_disarm(&in);
 *             ok(result == 0 || thing_is_unchanged(thing), ...);
 *             thing_close(thing);
 *     }
 *     ok(inject_swept(&in), "...");             balanced every time, and something was injected
 *
 * INJECT_ONCE fails the nth only (a transient fault), INJECT_LASTING the nth and all after it.
 * Counted are allocations and system calls that can fail for outside reasons; waiting, waking, the clock
 * and the giving back of things are let through, since they do not.
 */
#ifndef INJECT_H
#define INJECT_H

#include <errno.h>
#include <stdbool.h>

#include "sys/sys.h"

enum inject_mode { INJECT_ONCE, INJECT_LASTING };

struct inject {
	struct lh_sys sys; /* hand out its address */
	enum inject_mode mode;
	int error; /* what a failed system call gives, positive */
	bool armed;
	unsigned long seen;    /* calls and allocations while armed, in this round */
	unsigned long fail_at; /* the first that fails, counted from 1; 0: none */
	unsigned long injected;
	unsigned long rounds; /* those in which something was injected */
	unsigned long calls;  /* all system calls, ever */
	long live;            /* allocations not yet given back */
	long live_bytes;
	unsigned long unbalanced; /* rounds that ended with live allocations */
};

static bool inject_strikes(struct inject *in)
{
	unsigned long number;

	if (!__atomic_load_n(&in->armed, __ATOMIC_RELAXED))
		return false;
	number = __atomic_add_fetch(&in->seen, 1, __ATOMIC_RELAXED);
	if (in->fail_at == 0 || number < in->fail_at || (in->mode == INJECT_ONCE && number > in->fail_at))
		return false;
	__atomic_add_fetch(&in->injected, 1, __ATOMIC_RELAXED);
	return true;
}

static bool inject_may_fail(long nr)
{
	switch (nr) {
	case SYS_futex:
	case SYS_clock_gettime:
	case SYS_clock_nanosleep:
	case SYS_nanosleep:
	case SYS_sched_yield:
	case SYS_getpid:
	case SYS_gettid:
	case SYS_close:
	case SYS_munmap:
	case SYS_exit:
	case SYS_exit_group: return false;
	default: return true;
	}
}

static long inject_call(void *context, long nr, const long argument[6])
{
	struct inject *in = context;

	__atomic_add_fetch(&in->calls, 1, __ATOMIC_RELAXED);
	if (inject_may_fail(nr) && inject_strikes(in))
		return -in->error;
	return lh__sys_default.call(lh__sys_default.context, nr, argument);
}

static void *inject_alloc(void *context, size_t size)
{
	struct inject *in = context;
	void *pointer = inject_strikes(in) ? NULL : lh__sys_default.alloc(lh__sys_default.context, size);

	if (pointer) {
		__atomic_add_fetch(&in->live, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&in->live_bytes, (long)size, __ATOMIC_RELAXED);
	}
	return pointer;
}

static void inject_free(void *context, void *pointer, size_t size)
{
	struct inject *in = context;

	if (pointer) {
		__atomic_sub_fetch(&in->live, 1, __ATOMIC_RELAXED);
		__atomic_sub_fetch(&in->live_bytes, (long)size, __ATOMIC_RELAXED);
	}
	lh__sys_default.free(lh__sys_default.context, pointer, size);
}

/* A table that injects nothing until it is told to. */
__attribute__((unused)) static void inject_init(struct inject *in, int error, enum inject_mode mode)
{
	*in = (struct inject){
		.sys = { .context = in, .call = inject_call, .alloc = inject_alloc, .free = inject_free },
		.mode = mode,
		.error = error,
	};
}

__attribute__((unused)) static void inject_arm(struct inject *in)
{
	__atomic_store_n(&in->armed, true, __ATOMIC_RELAXED);
}

__attribute__((unused)) static void inject_disarm(struct inject *in)
{
	__atomic_store_n(&in->armed, false, __ATOMIC_RELAXED);
}

/* Ends the round before, if there was one, and begins the next; false when the sweep is over. */
__attribute__((unused)) static bool inject_round(struct inject *in)
{
	bool first = in->fail_at == 0;

	in->armed = false;
	in->unbalanced += in->live != 0 || in->live_bytes != 0;
	in->live = in->live_bytes = 0;
	if (!first && in->injected == 0)
		return false;
	in->rounds += !first;
	in->fail_at++;
	in->seen = in->injected = 0;
	return true;
}

/* What a sweep has to show at its end. */
__attribute__((unused)) static bool inject_swept(const struct inject *in)
{
	return in->rounds > 0 && in->unbalanced == 0;
}

#define INJECT_SWEEP(in, error, mode) for (inject_init((in), (error), (mode)); inject_round(in);)

#endif
