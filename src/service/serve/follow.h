/*
 * follow.h - where the thread runs that serves a client on this machine.
 *
 * To wake a thread on another CPU takes longer than to answer a request, and a page needs it twice. So
 * where a client sends one GET at a time, and waits for each, its thread runs on the CPU that it sends
 * from: one of the two waits for the other in any case. Where a client sends without waiting (puts in
 * batches) its thread runs apart from it, on any other CPU: there the two have something to do at the same
 * time. Where neither can be said, it runs anywhere.
 *
 * Every so many receives (LH_FOLLOW_EVERY) there is a look at where the client is and what it does;
 * LH_FOLLOW_WINDOW looks are judged together. Where all but one are the same the thread goes there.
 * Otherwise there is doubt, and the second doubt in a row lets it go. So a client that has moved is
 * followed after two windows at most, one stray look changes nothing, and the thread of a program that
 * asks from several CPUs is bound to none.
 *
 * Where two clients ask from one CPU, that CPU has something to do while one of them waits. So a place is
 * one thread's: a thread that uses a place claims it at every look, and while it does (LH_FOLLOW_STALE_MS)
 * others run anywhere.
 */
#ifndef LH_SERVICE_SERVE_FOLLOW_H
#define LH_SERVICE_SERVE_FOLLOW_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#define LH_FOLLOW_EVERY 8u
#define LH_FOLLOW_WINDOW 8u
#define LH_FOLLOW_STALE_MS 100u
#define LH_FOLLOW_CPUS 64u

/* A place is the number of a CPU; that and LH_APART: any other CPU than this; or LH_ANYWHERE. */
#define LH_APART 0x40000000u
#define LH_ANYWHERE 0x80000000u

/*
 * Who has which place: of each a time in ms, above the number of a thread (24 bits, never 0). Zeroed at
 * first.
 */
struct lh_places {
	uint32_t threads;
	uint64_t with[LH_FOLLOW_CPUS], apart[LH_FOLLOW_CPUS]; /* by CPU; larger machines fold */
};

struct lh_follow {
	struct lh_places *places; /* NULL: nothing is followed */
	uint32_t self;
	unsigned place;    /* where the thread is to run */
	unsigned receives; /* since the last look */
	unsigned looks, doubts;
	unsigned seen[LH_FOLLOW_WINDOW];
	cpu_set_t allowed; /* to the thread when it began */
};

/*
 * The calling thread is one that clients of this machine wait for: it runs as soon as it wakes (sys/slice.h).
 */
void lh__serve_promptly(void);

/* By the thread that is to serve the connected socket. Only TCP within this machine is followed. */
void lh__follow_begin(struct lh_follow *follow, struct lh_places *places, int fd);
/* By the same thread, after each receive; single: one GET has come. Goes where the rule says. */
void lh__follow_received(struct lh_follow *follow, int fd, bool single);

/* The rule. One look: the place that fits what was seen. Returns follow->place as it is from now on. */
unsigned lh__follow_look(struct lh_follow *follow, unsigned fits);
/* Whether the place is the thread's, or becomes so. LH_ANYWHERE is everybody's. */
bool lh__follow_claim(struct lh_places *places, unsigned place, uint32_t self, uint64_t now_ms);
/* The CPUs of a place, of those that are allowed: all of these where the place leaves none. */
void lh__follow_cpus(unsigned place, const cpu_set_t *allowed, cpu_set_t *cpus);

#endif
