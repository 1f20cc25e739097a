/* clock.c - see clock.h. */
#include "net/data/clock.h"

#include <linux/futex.h>
#include <time.h>

void lh__sleep_ms(const struct lh_sys *sys, unsigned ms)
{
	struct timespec time = { ms / 1000, (long)(ms % 1000) * LH_MS };

	LH_SYS(sys, SYS_nanosleep, &time, 0);
}

void lh__shared_wait(const struct lh_sys *sys, uint32_t *word, uint32_t value, unsigned ms)
{
	struct timespec limit = { ms / 1000, (long)(ms % 1000) * LH_MS };

	LH_SYS(sys, SYS_futex, word, FUTEX_WAIT, value, &limit);
}

void lh__shared_wake(const struct lh_sys *sys, uint32_t *word)
{
	LH_SYS(sys, SYS_futex, word, FUTEX_WAKE, 1);
}
