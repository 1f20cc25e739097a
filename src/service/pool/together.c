/*
 * together.c - a transaction over several pools.
 *
 * Of those in which something has changed the one with the lowest id decides. The others log that they are
 * prepared, and by whom it will be decided; when all of that is durable, the record of the one who decides is
 * the commit of all; when that is durable, the others log that it has been decided. Before it nothing of what
 * is new is home in a redo log's pool, and all that was old is in an undo log; so each of them can go either
 * way.
 *
 * What is decided need not be durable before the commit returns: a pool that does not find it asks
 * (others.c). So with one flush for each of the others and one for who decides a commit of n pools costs what
 * n commits do.
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <string.h>

#include "sys/mutant.h"

#define PLACE_MAX 1024u

struct part {
	struct lh_pool *pool;
	size_t n; /* of its changes */
	uint64_t sequence;
	bool over; /* its transaction has ended */
};

struct joint {
	unsigned n;
	struct part part[TOGETHER_MAX];
	/* Those that have changed: part[changed[0]] decides. */
	unsigned count, changed[TOGETHER_MAX];
	uint64_t session, number;
};

static struct part *changed(struct joint *joint, unsigned i)
{
	return &joint->part[joint->changed[i]];
}

static bool is_changed(const struct joint *joint, unsigned at)
{
	for (unsigned i = 0; i < joint->count; i++)
		if (joint->changed[i] == at)
			return true;
	return false;
}

/* ---- ends ---- */

static void end_part(struct part *part)
{
	if (!part->over)
		lh__tx_end(part->pool);
	part->over = true;
}

static int break_part(struct part *part, int result, struct lh_error *error)
{
	lh__tx_break(part->pool, result, error);
	end_part(part);
	return result;
}

/*
 * Memory is as it was, in all that are not broken; what becomes of those, recovery says. Returns result.
 */
static int cancel(struct joint *joint, int result, struct lh_error *error)
{
	for (unsigned i = 0; i < joint->n; i++) {
		struct part *part = &joint->part[i];
		bool broken = __atomic_load_n(&part->pool->broken, __ATOMIC_RELAXED);
		int aborted = part->over || broken ? 0 : lh__tx_abort(part->pool, false);

		if (aborted < 0)
			result = break_part(part, aborted, error);
		end_part(part);
	}
	return result;
}

/* Where an error of this pool's log leaves it: too much for it, or broken. */
static int fail_part(struct joint *joint, struct part *part, int result, struct lh_error *error)
{
	if (result == -E2BIG)
		lh__fail(error, result,
		         "the transaction changes more than the log, of %lu bytes, has room for",
		         (unsigned long)(lh__journal_log_pages(part->pool->journal) * LH_PAGE_SIZE));
	else
		break_part(part, result, error);
	return cancel(joint, result, error);
}

static void end_all(struct joint *joint)
{
	for (unsigned i = 0; i < joint->n; i++) {
		struct part *part = &joint->part[i];
		struct lh_pool *pool = part->pool;

		if (part->over)
			continue;
		if (pool->log == LH_LOG_REDO && part->n > 0)
			pool->newest = part->sequence;
		lh__pool_count_alone(&pool->counts.commits, 1);
		end_part(part);
		lh__home_thread_nudge(pool);
	}
}

/* ---- one pool, or none ---- */

static int commit_one(struct lh_pool *pool, struct lh_error *error)
{
	uint64_t sequence = 0;
	int result = lh__tx_commit(pool, &sequence, error);

	if (result < 0 || sequence == 0)
		return result;
	lh__home_thread_nudge(pool);
	return lh_tx_wait(pool, sequence, error);
}

/* It commits as ever; the others have nothing to commit. */
static int commit_alone(struct joint *joint, struct lh_error *error)
{
	struct part *one = joint->count ? changed(joint, 0) : NULL;
	uint64_t sequence = 0;
	int result = 0;

	if (one) {
		result = lh__tx_commit(one->pool, &sequence, error);
		one->over = true;
	}
	if (result < 0 || !one)
		return cancel(joint, result, error);
	end_all(joint);
	lh__home_thread_nudge(one->pool);
	return lh_tx_wait(one->pool, sequence, error);
}

/* ---- several ---- */

static struct lh_change *list_of(const struct part *part)
{
	return part->pool->log == LH_LOG_UNDO ? NULL : lh__changes_list(part->pool);
}

static size_t count_of(const struct part *part)
{
	return part->pool->log == LH_LOG_UNDO ? 0 : part->n;
}

static int announce(struct joint *joint, struct lh_error *error)
{
	struct lh_pool *with[TOGETHER_MAX], *decides = changed(joint, 0)->pool;
	int result;

	for (unsigned i = 0; i < joint->count; i++) {
		with[i] = changed(joint, i)->pool;
		result = lh__journal_announce(with[i]->journal);
		if (result < 0)
			return fail_part(joint, changed(joint, i), result, error);
	}
	result = lh__others_room(decides, with + 1, joint->count - 1);
	if (result == -EUSERS) {
		lh__fail(error, result,
		         "%s keeps outcomes for too many pools that have not been opened since",
		         decides->place ? decides->place : "the pool that decides");
		return cancel(joint, result, error);
	}
	return result < 0 ? fail_part(joint, changed(joint, 0), result, error) : 0;
}

/* Lines of an undo log's pool are home before it is prepared. */
static void flush_home(struct part *part)
{
	if (part->pool->log == LH_LOG_UNDO)
		lh__tx_flush(part->pool, lh__changes_list(part->pool), part->n);
}

static int prepare(struct joint *joint, struct lh_error *error)
{
	const struct lh_pool *decides = changed(joint, 0)->pool;
	unsigned char note[32 + PLACE_MAX];
	uint32_t size = decides->place ? (uint32_t)strlen(decides->place) : 0;
	int result;

	memcpy(note, decides->header.id, 16);
	memcpy(note + 16, &joint->session, 8);
	memcpy(note + 24, &joint->number, 8);
	if (size >= PLACE_MAX)
		size = 0; /* it has to be found by a person */
	if (size)
		memcpy(note + 32, decides->place, size);
	for (unsigned i = 1; i < joint->count; i++) {
		struct part *part = changed(joint, i);
		uint64_t transaction = part->pool->log == LH_LOG_UNDO ? part->pool->transaction : 0;

		flush_home(part);
		result = lh__journal_prepare(part->pool->journal, &transaction, list_of(part), count_of(part),
		                             note, 32 + size, &part->sequence);
		if (result < 0)
			return fail_part(joint, part, result, error);
		part->pool->prepared = transaction;
	}
	for (unsigned i = 1; i < joint->count && !LH_MUTANT(PREPARED_NOT_FLUSHED); i++) {
		struct part *part = changed(joint, i);

		result = lh__journal_flush(part->pool->journal, part->sequence);
		if (result < 0)
			return fail_part(joint, part, result, error);
	}
	return 0;
}

/* Whether it has been committed will be known when they are opened again. */
static int break_all(struct joint *joint, int result, struct lh_error *error)
{
	for (unsigned i = joint->count; i-- > 0;)
		break_part(changed(joint, i), result, error);
	return cancel(joint, result, error);
}

static int commit_record(struct joint *joint, struct lh_error *error)
{
	struct part *part = changed(joint, 0);
	struct lh_pool *pool = part->pool;
	unsigned char note[16 + 16 * TOGETHER_MAX];
	int result;

	memcpy(note, &joint->session, 8);
	memcpy(note + 8, &joint->number, 8);
	for (unsigned i = 1; i < joint->count; i++) {
		memcpy(note + 16 * i, changed(joint, i)->pool->header.id, 16);
		lh__others_commit(pool->others, changed(joint, i)->pool, joint->session, joint->number,
		                  lh__journal_next(pool->journal));
	}
	flush_home(part);
	result =
		lh__journal_together(pool->journal, pool->log == LH_LOG_UNDO ? pool->transaction : 0,
	                             list_of(part), count_of(part), note, 16 * joint->count, &part->sequence);
	if (result == -E2BIG) {
		for (unsigned i = 1; i < joint->count; i++)
			lh__others_drop(pool->others, changed(joint, i)->pool);
		return fail_part(joint, part, result, error);
	}
	if (result == 0 && !LH_MUTANT(TOGETHER_NOT_FLUSHED))
		result = lh__journal_flush(pool->journal, part->sequence);
	return result < 0 ? break_all(joint, result, error) : 0;
}

/* It has been committed, whatever comes of telling the others. */
static int decide(struct joint *joint, struct lh_error *error)
{
	struct lh_pool *decides = changed(joint, 0)->pool;
	int first = 0;

	for (unsigned i = 1; i < joint->count; i++) {
		struct part *part = changed(joint, i);
		struct lh_pool *pool = part->pool;
		int result = lh__journal_decide(pool->journal, pool->prepared, true, &part->sequence);

		if (result < 0) {
			break_part(part, result, first == 0 ? error : NULL);
			first = first ? first : result;
			continue;
		}
		lh__others_told(decides->others, pool, pool->direct ? 0 : part->sequence);
	}
	return first;
}

static int commit_several(struct joint *joint, struct lh_error *error)
{
	struct lh_pool *decides = changed(joint, 0)->pool;
	int result;

	result = announce(joint, error);

	if (result < 0)
		return result;
	joint->session = lh__journal_session(decides->journal);
	joint->number = lh__others_number(decides->others);
	result = prepare(joint, error);
	if (result < 0)
		return result;
	if (LH_MUTANT(DECIDED_TOO_EARLY))
		result = decide(joint, error);
	if (result == 0)
		result = commit_record(joint, error);
	if (result < 0)
		return result;
	if (!LH_MUTANT(DECIDED_TOO_EARLY))
		result = decide(joint, error);
	end_all(joint);
	return result;
}

/* ---- the calls ---- */

/* Where nothing can have changed nothing is compared. */
static int find_changed(struct joint *joint, struct lh_error *error)
{
	unsigned touched = 0, last = 0;

	for (unsigned i = 0; i < joint->n; i++)
		if (joint->part[i].pool->changes.n > 0) {
			touched++;
			last = i;
		}
	if (touched == 1) {
		joint->changed[joint->count++] = last;
		return 0;
	}
	for (unsigned i = 0; i < joint->n && touched; i++) {
		struct part *part = &joint->part[i];
		int result = part->pool->changes.n > 0 ? lh__tx_find(part->pool, &part->n, error) : 0;

		if (result < 0)
			return result;
		if (part->n > 0)
			joint->changed[joint->count++] = i;
	}
	return 0;
}

/* Why it cannot be committed; 0: it can. */
static int refused(struct lh_pool *const *pools, unsigned n, struct lh_error *error)
{
	int result = 0;

	for (unsigned i = 0; i < n && result == 0; i++)
		result = lh__tx_mine(pools[i], error);
	for (unsigned i = 0; i < n && result == 0; i++)
		if (pools[i]->doomed)
			result = lh__fail(error, pools[i]->doomed, "a store could not be logged (%s)",
			                  lh__errno_name(pools[i]->doomed));
	for (unsigned i = 0; i < n && result == 0; i++)
		if (pools[i]->aborted)
			result = lh__fail(error, -ECANCELED,
			                  "an inner transaction was aborted, and so this one is too");
	return result;
}

/* With an undo log there may be old lines of what is as it was. */
static int end_unchanged(struct joint *joint, struct lh_error *error)
{
	for (unsigned i = 0; i < joint->n; i++) {
		struct part *part = &joint->part[i];
		int result;

		if (part->over || !part->pool->transaction || is_changed(joint, i))
			continue;
		result = lh__tx_abort(part->pool, false);
		if (result < 0)
			return break_part(part, result, error);
		end_part(part);
	}
	return 0;
}

static void begin(struct joint *joint, struct lh_pool *const *pools, unsigned n)
{
	joint->n = n;
	joint->count = 0;
	for (unsigned i = 0; i < n; i++)
		joint->part[i] =
			(struct part){ .pool = pools[i], .over = pools[i]->owner != lh__pool_self() };
}

int lh__together_abort(struct lh_pool *const *pools, unsigned n, struct lh_error *error)
{
	struct joint joint;

	begin(&joint, pools, n);
	return cancel(&joint, 0, error);
}

int lh__together_commit(struct lh_pool *const *pools, unsigned n, struct lh_error *error)
{
	struct joint joint;
	int result = refused(pools, n, error);

	if (result == 0 && n == 1)
		return commit_one(pools[0], error);
	begin(&joint, pools, n);
	if (result == 0)
		result = find_changed(&joint, error);
	if (result == 0)
		result = end_unchanged(&joint, error);
	if (result < 0)
		return cancel(&joint, result, error);
	return joint.count < 2 ? commit_alone(&joint, error) : commit_several(&joint, error);
}
