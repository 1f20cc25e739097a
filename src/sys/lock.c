/* lock.c - see lock.h. The translator waits here with a program's vector registers: none is used. */
#include "sys/lock.h"

#include <limits.h>
#include <linux/futex.h>
#include <time.h>

#define SPINS 100
#define GATE_CLOSED 0x80000000u
#define GATE_SLEEPERS 0x40000000u

void lh__futex_wait(const struct lh_sys *sys, uint32_t *word, uint32_t value, int64_t nanoseconds)
{
	struct timespec limit = { .tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000 };

	LH_SYS(sys, SYS_futex, word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, value, nanoseconds < 0 ? NULL : &limit);
}

void lh__futex_wake(const struct lh_sys *sys, uint32_t *word, int count)
{
	LH_SYS(sys, SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count);
}

uint64_t lh__now(const struct lh_sys *sys)
{
	struct timespec now = { 0, 0 };

	if (sys->now)
		return sys->now(sys->context);
	LH_SYS(sys, SYS_clock_gettime, CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void lh__lock_slow(const struct lh_sys *sys, struct lh_lock *lock)
{
	for (int i = 0; i < SPINS; i++) {
		__builtin_ia32_pause();
		if (__atomic_load_n(&lock->word, __ATOMIC_RELAXED) == 0 && lh__trylock(lock))
			return;
	}
	while (__atomic_exchange_n(&lock->word, 2, __ATOMIC_ACQUIRE) != 0)
		lh__futex_wait(sys, &lock->word, 2, -1);
}

void lh__unlock_slow(const struct lh_sys *sys, struct lh_lock *lock)
{
	lh__futex_wake(sys, &lock->word, 1);
}

/* The word for which a thread may sleep until the gate is opened: with the mark that somebody does. */
static bool gate_mark(struct lh_gate *gate, uint32_t *word)
{
	if (*word & GATE_SLEEPERS)
		return true;
	if (!__atomic_compare_exchange_n(&gate->word, word, *word | GATE_SLEEPERS, false, __ATOMIC_RELAXED,
	                                 __ATOMIC_RELAXED))
		return false;
	*word |= GATE_SLEEPERS;
	return true;
}

void lh__gate_enter(const struct lh_sys *sys, struct lh_gate *gate)
{
	for (;;) {
		uint32_t word = __atomic_load_n(&gate->word, __ATOMIC_RELAXED);

		if (word & GATE_CLOSED) {
			if (gate_mark(gate, &word))
				lh__futex_wait(sys, &gate->word, word, -1);
		} else if (__atomic_compare_exchange_n(&gate->word, &word, word + 1, false, __ATOMIC_ACQUIRE,
		                                       __ATOMIC_RELAXED)) {
			return;
		}
	}
}

void lh__gate_leave(const struct lh_sys *sys, struct lh_gate *gate)
{
	uint32_t word = __atomic_sub_fetch(&gate->word, 1, __ATOMIC_RELEASE);

	if ((word & ~GATE_SLEEPERS) == GATE_CLOSED)
		lh__futex_wake(sys, &gate->word, INT_MAX);
}

void lh__gate_close(const struct lh_sys *sys, struct lh_gate *gate)
{
	uint32_t word;

	while ((word = __atomic_fetch_or(&gate->word, GATE_CLOSED, __ATOMIC_ACQUIRE)) & GATE_CLOSED)
		if (gate_mark(gate, &word))
			lh__futex_wait(sys, &gate->word, word, -1);
	while (((word = __atomic_load_n(&gate->word, __ATOMIC_ACQUIRE)) & ~GATE_SLEEPERS) != GATE_CLOSED)
		lh__futex_wait(sys, &gate->word, word, -1);
}

void lh__gate_open(const struct lh_sys *sys, struct lh_gate *gate)
{
	uint32_t word = __atomic_fetch_and(&gate->word, ~(GATE_CLOSED | GATE_SLEEPERS), __ATOMIC_RELEASE);

	if (word & GATE_SLEEPERS)
		lh__futex_wake(sys, &gate->word, INT_MAX);
}
