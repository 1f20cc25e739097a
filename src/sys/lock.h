/*
 * lock.h - a mutex and a gate made of futexes, for code that may not enter libc.
 *
 * Both spin briefly, since what they guard takes a microsecond, and then sleep in the kernel. Neither may be
 * taken by a thread that can be interrupted by a signal whose handler takes it again: callers block all
 * signals, or are in a handler that has them all blocked. Neither allocates; zeroed memory is an unlocked
 * one.
 */
#ifndef LH_LOCK_H
#define LH_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "sys/sys.h"

/* 0: free, 1: held, 2: held and somebody sleeps (Drepper, "Futexes Are Tricky", mutex 3). */
struct lh_lock {
	uint32_t word;
};

void lh__lock_slow(const struct lh_sys *sys, struct lh_lock *lock);
void lh__unlock_slow(const struct lh_sys *sys, struct lh_lock *lock);

static inline bool lh__trylock(struct lh_lock *lock)
{
	uint32_t free_word = 0;

	return __atomic_compare_exchange_n(&lock->word, &free_word, 1, false, __ATOMIC_ACQUIRE,
	                                   __ATOMIC_RELAXED);
}

static inline void lh__lock(const struct lh_sys *sys, struct lh_lock *lock)
{
	if (!lh__trylock(lock))
		lh__lock_slow(sys, lock);
}

static inline void lh__unlock(const struct lh_sys *sys, struct lh_lock *lock)
{
	if (__atomic_exchange_n(&lock->word, 0, __ATOMIC_RELEASE) == 2)
		lh__unlock_slow(sys, lock);
}

/*
 * A gate: any number pass at once, or one closes it and has the place to itself. Closing waits until those
 * inside have left; from the moment of closing on nobody enters. The top bit is "closed", the next says that
 * somebody sleeps until it is opened, the rest counts those inside; so who closes and opens enters the kernel
 * only where another thread is there.
 */
struct lh_gate {
	uint32_t word;
};

void lh__gate_enter(const struct lh_sys *sys, struct lh_gate *gate);
void lh__gate_leave(const struct lh_sys *sys, struct lh_gate *gate);
void lh__gate_close(const struct lh_sys *sys, struct lh_gate *gate);
void lh__gate_open(const struct lh_sys *sys, struct lh_gate *gate);

/* Sleeps while *word is value, at most for nanoseconds (negative: without a limit). May wake early. */
void lh__futex_wait(const struct lh_sys *sys, uint32_t *word, uint32_t value, int64_t nanoseconds);
void lh__futex_wake(const struct lh_sys *sys, uint32_t *word, int count);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t lh__now(const struct lh_sys *sys);

#endif
