/*
 * home.c - the thread that brings changes home in the background, so that a commit never waits for that
 * unless the log is full. It sleeps until the log is half full.
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

struct home_thread {
	pthread_t thread;
	uint32_t word; /* futex: raised to wake it */
	bool stop;
};

static bool half_full(const struct lh_pool *pool)
{
	return lh__journal_used(pool->journal) > lh__journal_log_pages(pool->journal) * LH_PAGE_SIZE / 2;
}

static void *run(void *argument)
{
	struct lh_pool *pool = argument;
	struct home_thread *self = pool->thread;

	for (;;) {
		/* Before what it is raised for is looked at: so nothing is slept through. */
		uint32_t word = __atomic_load_n(&self->word, __ATOMIC_ACQUIRE);

		if (__atomic_load_n(&self->stop, __ATOMIC_ACQUIRE))
			break;
		if (!half_full(pool)) {
			lh__futex_wait(pool->sys, &self->word, word, -1);
			continue;
		}
		if (lh__journal_checkpoint(pool->journal) < 0)
			break; /* the journal is broken, and the next commit says so */
	}
	return NULL;
}

int lh__home_thread_start(struct lh_pool *pool)
{
	struct home_thread *self;
	sigset_t all, before;
	int result;

	if (pool->quiet || pool->read_only || pool->log == LH_LOG_UNDO)
		return 0;
	self = lh__alloc(pool->sys, sizeof *self);
	if (!self)
		return -ENOMEM;
	pool->thread = self;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	result = pthread_create(&self->thread, NULL, run, pool);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (result == 0)
		return 0;
	lh__free(pool->sys, self, sizeof *self);
	pool->thread = NULL;
	return -result;
}

static void wake(struct lh_pool *pool)
{
	__atomic_fetch_add(&pool->thread->word, 1, __ATOMIC_RELEASE);
	lh__futex_wake(pool->sys, &pool->thread->word, 1);
}

void lh__home_thread_stop(struct lh_pool *pool)
{
	if (!pool->thread)
		return;
	__atomic_store_n(&pool->thread->stop, true, __ATOMIC_RELEASE);
	wake(pool);
	pthread_join(pool->thread->thread, NULL);
	lh__free(pool->sys, pool->thread, sizeof *pool->thread);
	pool->thread = NULL;
}

void lh__home_thread_nudge(struct lh_pool *pool)
{
	if (pool->thread && half_full(pool))
		wake(pool);
}
