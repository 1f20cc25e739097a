/*
 * meanwhile.h - what a caller has to do anyway, and can as well do while it waits for an answer.
 *
 * Who waits for another machine or process calls it once, in its own thread, after it has asked and before it
 * waits; who is answered at once does not. A few microseconds long, async-signal-safe where the waiting is,
 * and never waits itself.
 */
#ifndef LH_MEANWHILE_H
#define LH_MEANWHILE_H

struct lh_meanwhile {
	void (*work)(void *context); /* NULL: nothing */
	void *context;
};

static inline void lh__meanwhile(const struct lh_meanwhile *meanwhile)
{
	if (meanwhile->work)
		meanwhile->work(meanwhile->context);
}

#endif
