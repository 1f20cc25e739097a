/*
 * clock.h - milliseconds, and futexes that two processes share (sys/lock.h has those of one process).
 */
#ifndef LH_NET_DATA_CLOCK_H
#define LH_NET_DATA_CLOCK_H

#include "sys/lock.h"

#define LH_MS INT64_C(1000000)

static inline uint64_t lh__clock_ms(const struct lh_sys *sys)
{
	return lh__now(sys) / LH_MS;
}

/* Sleeps ms milliseconds; may return early. */
void lh__sleep_ms(const struct lh_sys *sys, unsigned ms);

/* Sleeps while *word == value, at most ms milliseconds. Returns for any reason: look again. */
void lh__shared_wait(const struct lh_sys *sys, uint32_t *word, uint32_t value, unsigned ms);
/* Wakes a sleeper, in any process that maps the word. */
void lh__shared_wake(const struct lh_sys *sys, uint32_t *word);

#endif
