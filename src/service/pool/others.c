/*
 * others.c - what a pool knows of transactions over several pools, and how it asks the others.
 *
 * The pool that decides (the coordinator) keeps, of each other pool, the newest transaction that it committed
 * together with it, until that pool is known to have it in its own log, durably: *told*. One is enough, since
 * a pool's next transaction begins only after it has been decided what has become of the last. While the
 * commit stands in the coordinator's log, that says it; when a checkpoint or recovery frees the log, the
 * header does.
 *
 * A pool whose last transaction is prepared and not decided asks: the coordinator where it is open in this
 * process, else what stands in its store. Where neither can be read nothing is guessed.
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sys/mutant.h"

#define KNOWN LH_POOL_OUTCOMES
#define ASK_TRIES 16

struct known {
	struct lh_outcome is;
	uint64_t from;    /* it stands in this pool's log, under this sequence or a later one; 0: in no log */
	uint64_t decided; /* under this sequence in the other's log; 0: not known to be there */
	bool told;
};

struct others {
	const struct lh_sys *sys;
	struct lh_pool_context context; /* while it is being opened */
	struct lh_journal_hooks hooks;
	uint8_t id[16];
	uint64_t number; /* of the last transaction that it has decided in this session */
	struct lh_lock lock;
	struct known known[KNOWN];
};

const char *lh__pool_id_text(const uint8_t id[16], char out[40])
{
	static const char digits[] = "0123456789abcdef";
	char *at = out;

	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		*at++ = digits[id[i] >> 4];
		*at++ = digits[id[i] & 15];
	}
	*at = 0;
	return out;
}

/* ---- notes ---- */

static int decode(enum lh_log_kind kind, const unsigned char *bytes, size_t size, struct lh_pool_note *note)
{
	size_t head = kind == LH_LOG_RECORD_PREPARED ? 32 : 16;

	memset(note, 0, sizeof *note);
	if (size < head || (kind == LH_LOG_RECORD_TOGETHER && size % 16))
		return -EBADMSG;
	memcpy(&note->session, bytes + head - 16, 8);
	memcpy(&note->number, bytes + head - 8, 8);
	if (kind == LH_LOG_RECORD_PREPARED) {
		memcpy(note->decides, bytes, 16);
		note->place = (const char *)bytes + head;
		note->place_size = (uint32_t)(size - head);
	} else {
		note->pools = bytes + head;
		note->n = (uint32_t)(size / 16 - 1);
	}
	return note->number ? 0 : -EBADMSG;
}

int lh__pool_note(const struct lh_log_record *record, struct lh_pool_note *note)
{
	return lh__log_has_note(record->kind) ? decode(record->kind, record->note, record->note_size, note)
	                                      : -EBADMSG;
}

/* ---- what is known ---- */

/* The place of a pool, or one that is free; or NULL. lock is held. */
static struct known *known_of(struct others *others, const uint8_t id[16])
{
	struct known *empty = NULL;

	for (unsigned i = 0; i < KNOWN; i++) {
		struct known *known = &others->known[i];

		if (known->is.number && memcmp(known->is.pool, id, 16) == 0)
			return known;
		if (!known->is.number && !empty)
			empty = known;
	}
	return empty;
}

static void know(struct others *others, const uint8_t id[16], uint64_t session, uint64_t number,
                 uint64_t from)
{
	struct known *known = known_of(others, id);

	*known = (struct known){ .is = { .session = session, .number = number }, .from = from };
	memcpy(known->is.pool, id, 16);
}

/* A hook: a header will free the records before that sequence. */
static bool keep(void *context, void *client, uint64_t sequence)
{
	struct others *others = context;
	struct lh_outcome kept[KNOWN] = { { .number = 0 } };
	unsigned n = 0;

	lh__lock(others->sys, &others->lock);
	for (unsigned i = 0; i < KNOWN; i++) {
		struct known *known = &others->known[i];

		if (!known->is.number || (known->from >= sequence && !LH_MUTANT(TOGETHER_KEPT_TOO_EARLY)))
			continue;
		if (known->told)
			known->is.number = 0;
		else if (!LH_MUTANT(COORDINATOR_FORGETS))
			kept[n++] = known->is;
	}
	lh__unlock(others->sys, &others->lock);
	memcpy((char *)client + offsetof(struct lh_pool_header, outcomes), kept, sizeof kept);
	return n > 0;
}

/* A hook: a commit that stands in the log, which recovery frees. */
static int found(void *context, const void *bytes, size_t size)
{
	struct others *others = context;
	struct lh_pool_note note;

	if (decode(LH_LOG_RECORD_TOGETHER, bytes, size, &note) < 0)
		return -EBADMSG;
	for (uint32_t i = 0; i < note.n; i++) {
		if (!known_of(others, note.pools + 16 * i))
			return -EBADMSG; /* it never knows of more */
		know(others, note.pools + 16 * i, note.session, note.number, 0);
	}
	return 0;
}

static bool is(const struct lh_outcome *outcome, const uint8_t id[16], const struct lh_pool_note *note)
{
	return outcome->number == note->number && outcome->session == note->session &&
	       memcmp(outcome->pool, id, 16) == 0;
}

/* ---- asking ---- */

/* Where the one who decides is open in this process. -ENOENT: it is not. */
static int ask_here(const struct others *others, const struct lh_pool_note *note, struct lh_error *error)
{
	int result = -ENOENT;

	for (unsigned i = 0; i < lh__here_places() && result == -ENOENT; i++) {
		struct lh_pool *pool = lh__here_hold(i);

		if (!pool)
			continue;
		if (memcmp(pool->header.id, note->decides, 16) == 0 && *pool->alive) {
			lh__lock(pool->sys, &pool->others->lock);
			result = 0;
			for (unsigned j = 0; j < KNOWN; j++)
				result |= is(&pool->others->known[j].is, others->id, note);
			lh__unlock(pool->sys, &pool->others->lock);
			/* What became of its last commit is known when it has been opened again. */
			if (__atomic_load_n(&pool->broken, __ATOMIC_RELAXED))
				result = lh__fail(error, -EBUSY, "it is open here, and its log is broken");
		}
		lh__here_let_go(i);
	}
	return result;
}

struct search {
	const struct others *others;
	const struct lh_pool_note *note;
	bool found;
};

static int search_log(void *context, const struct lh_log_record *record)
{
	struct search *search = context;
	struct lh_pool_note note;

	if (record->kind == LH_LOG_RECORD_TOGETHER && lh__pool_note(record, &note) == 0 &&
	    note.session == search->note->session && note.number == search->note->number)
		search->found = true;
	return search->found;
}

/* What stands in the log may be there, and not durable yet, where a process was killed. */
static int make_durable(struct lh_store *below, const struct lh_journal_look *look)
{
	const struct lh_direct *direct = below->direct;
	uint64_t first = look->home - look->log_pages;

	if (!direct)
		return below->ops->sync(below);
	direct->flush(direct, (const unsigned char *)direct->base + first * LH_PAGE_SIZE,
	              look->log_pages * LH_PAGE_SIZE);
	direct->fence(direct);
	return 0;
}

/*
 * What a store says. While its header is the same nothing that the log said has been freed; so a log in which
 * it does not stand says that it has not been committed.
 */
static int ask_store(const struct others *others, const struct lh_pool_note *note, struct lh_store *below,
                     struct lh_error *error)
{
	struct search search = { .others = others, .note = note };
	struct lh_journal_look look, after;
	struct lh_pool_header header;
	int result = 0;

	for (unsigned i = 0; i < ASK_TRIES; i++) {
		result = lh__journal_look(below, &look, error);
		if (result < 0)
			return result;
		memcpy(&header, look.client, sizeof header);
		if (memcmp(header.id, note->decides, 16) != 0)
			return lh__fail(error, -ENOENT, "another pool is there");
		for (unsigned j = 0; j < KNOWN; j++)
			if (is(&header.outcomes[j], others->id, note))
				return 1;
		result = lh__journal_visit(below, search_log, &search, error);
		if (search.found) {
			result = make_durable(below, &look);
			return result < 0 ? lh__fail(error, result, "its log cannot be made durable") : 1;
		}
		if (result < 0)
			return result;
		result = lh__journal_look(below, &after, error);
		if (result == 0 && after.generation == look.generation)
			return 0;
	}
	return lh__fail(error, -EAGAIN, "it is written faster than it can be read");
}

static int ask_place(const struct others *others, const struct lh_pool_note *note, const char *place,
                     struct lh_error *error)
{
	struct lh_pool_options options = { .key_file = others->context.key_file };
	struct lh_store *below;
	int result;

	if (others->context.find)
		result = others->context.find(others->context.find_context, note->decides, place, &below,
		                              error);
	else
		result = lh__place_open(others->sys, place, LH_PLACE_PEEK, &options, &below, error);
	if (result < 0)
		return result;
	result = ask_store(others, note, below, error);
	below->ops->close(below);
	return result;
}

/* The name that the place has in this pool's own folder: pools are often moved together. */
static const char *beside(const struct others *others, const char *place, char out[1024])
{
	const char *own = others->context.where, *slash = own ? strrchr(own, '/') : NULL;
	const char *name = strrchr(place, '/');
	size_t folder;

	if (!slash || !name || lh__place_is_node(own) || lh__place_is_node(place))
		return NULL;
	folder = (size_t)(slash - own);
	if (folder + strlen(name) + 1 > 1024)
		return NULL;
	memcpy(out, own, folder);
	memcpy(out + folder, name, strlen(name) + 1);
	return out;
}

static int ask(const struct others *others, const struct lh_pool_note *note, const char *place,
               struct lh_error *error)
{
	char other[1024];
	int result = others->context.find || others->context.ask ? -ENOENT : ask_here(others, note, error);

	if (result != -ENOENT)
		return result;
	result = ask_place(others, note, place, error);
	if (result == -ENOENT && !others->context.ask && beside(others, place, other)) {
		int again = ask_place(others, note, other, NULL);

		return again < 0 ? result : again;
	}
	return result;
}

/* A hook: the last transaction is prepared, and another pool knows whether it has been committed. */
static int decide(void *context, const void *bytes, size_t size, struct lh_error *error)
{
	const struct others *others = context;
	struct lh_error inner = { .text = "" };
	char place[1024] = "";
	struct lh_pool_note note;
	int result;

	if (decode(LH_LOG_RECORD_PREPARED, bytes, size, &note) < 0 || note.place_size >= sizeof place)
		return lh__fail(error, -EBADMSG, "its log does not say which pool decides");
	if (others->context.decision != LH_POOL_ASK)
		return others->context.decision == LH_POOL_COMMIT;
	memcpy(place, note.place, note.place_size);
	result = ask(others, &note, others->context.ask ? others->context.ask : place, &inner);
	if (result >= 0 || result == -ENOMEM)
		return result < 0 ? lh__fail(error, result, "there is no memory for it") : result;
	return lh__fail(error, -ENOLINK,
	                "whether its last transaction was committed only the pool %s knows, which cannot be "
	                "asked: %s",
	                others->context.ask ? others->context.ask : place, inner.text);
}

/* ---- opening ---- */

int lh__others_open(const struct lh_sys *sys, const struct lh_pool_context *context,
                    const struct lh_pool_header *client, struct others **out, struct lh_error *error)
{
	struct others *others = lh__alloc(sys, sizeof *others);

	if (!others)
		return lh__fail(error, -ENOMEM, "there is no memory for it");
	others->sys = sys;
	others->context = *context;
	others->hooks = (struct lh_journal_hooks){ decide, found, keep, others };
	if (client)
		memcpy(others->id, client->id, sizeof others->id);
	for (unsigned i = 0; client && i < KNOWN && !context->forget; i++)
		others->known[i].is = client->outcomes[i];
	*out = others;
	return 0;
}

void lh__others_close(struct others *others)
{
	if (others)
		lh__free(others->sys, others, sizeof *others);
}

const struct lh_journal_hooks *lh__others_hooks(const struct others *others)
{
	return &others->hooks;
}

int lh__pool_journal(struct lh_store *below, const struct lh_pool_context *context, struct others **others,
                     struct lh_store **journal, struct lh_error *error)
{
	struct lh_pool_header header;
	struct lh_journal_look look;
	int result = lh__journal_look(below, &look, error);

	if (result < 0)
		return result;
	memcpy(&header, look.client, sizeof header);
	result = lh__others_open(below->sys, context, &header, others, error);
	if (result < 0)
		return result;
	result = lh__journal_open_with(below, false, &(*others)->hooks, journal, error);
	if (result < 0)
		lh__others_close(*others);
	return result;
}

struct lh_store *lh__pool_journal_release(struct others *others, struct lh_store *journal)
{
	struct lh_store *below = lh__journal_release(journal);

	lh__others_close(others);
	return below;
}

/* ---- meeting others in this process ---- */

static void told_all(struct others *others, const uint8_t id[16], bool old)
{
	lh__lock(others->sys, &others->lock);
	for (unsigned i = 0; i < KNOWN; i++)
		if (others->known[i].is.number && memcmp(others->known[i].is.pool, id, 16) == 0 &&
		    (!old || others->known[i].from == 0))
			others->known[i].told = true;
	lh__unlock(others->sys, &others->lock);
}

void lh__others_met(struct lh_pool *pool)
{
	for (unsigned i = 0; i < lh__here_places(); i++) {
		struct lh_pool *other = lh__here_hold(i);

		if (!other)
			continue;
		told_all(other->others, pool->header.id, false);
		/* What it has committed with it in this session, if anything, is another matter. */
		told_all(pool->others, other->header.id, true);
		lh__here_let_go(i);
	}
}

/* Until the pool of that id, if it is open here, has that record durably. */
static bool flushed(const uint8_t id[16], uint64_t decided)
{
	bool done = false;

	for (unsigned i = 0; i < lh__here_places() && !done; i++) {
		struct lh_pool *pool = lh__here_hold(i);

		if (!pool)
			continue;
		if (memcmp(pool->header.id, id, 16) == 0)
			done = lh__journal_flush(pool->journal, decided) == 0;
		lh__here_let_go(i);
	}
	return done;
}

void lh__others_settle(struct lh_pool *pool)
{
	struct others *others = pool->others;

	for (unsigned i = 0; i < KNOWN; i++) {
		struct known known;

		lh__lock(others->sys, &others->lock);
		known = others->known[i];
		lh__unlock(others->sys, &others->lock);
		if (!known.is.number || known.told || !known.decided ||
		    !flushed(known.is.pool, known.decided))
			continue;
		lh__lock(others->sys, &others->lock);
		if (others->known[i].is.number == known.is.number)
			others->known[i].told = true;
		lh__unlock(others->sys, &others->lock);
	}
}

/* ---- of a commit ---- */

static bool has_room(struct others *others, struct lh_pool *const *with, unsigned n)
{
	unsigned empty = 0, missing = 0;

	lh__lock(others->sys, &others->lock);
	for (unsigned i = 0; i < KNOWN; i++)
		empty += others->known[i].is.number == 0;
	for (unsigned i = 0; i < n; i++) {
		const struct known *known = known_of(others, with[i]->header.id);

		missing += !known || !known->is.number;
	}
	lh__unlock(others->sys, &others->lock);
	return missing <= empty;
}

int lh__others_room(struct lh_pool *pool, struct lh_pool *const *with, unsigned n)
{
	int result;

	if (has_room(pool->others, with, n))
		return 0;
	/* Those that have been told, and have left the log, need not be kept. */
	lh__others_settle(pool);
	result = lh__journal_flush(pool->journal, UINT64_MAX);
	if (result == 0)
		result = lh__journal_checkpoint(pool->journal);
	if (result < 0)
		return result;
	return has_room(pool->others, with, n) ? 0 : -EUSERS;
}

uint64_t lh__others_number(struct others *others)
{
	return ++others->number;
}

void lh__others_commit(struct others *others, const struct lh_pool *with, uint64_t session, uint64_t number,
                       uint64_t sequence)
{
	lh__lock(others->sys, &others->lock);
	know(others, with->header.id, session, number, sequence);
	lh__unlock(others->sys, &others->lock);
}

void lh__others_drop(struct others *others, const struct lh_pool *with)
{
	struct known *known;

	lh__lock(others->sys, &others->lock);
	known = known_of(others, with->header.id);
	if (known)
		known->is.number = 0;
	lh__unlock(others->sys, &others->lock);
}

void lh__others_told(struct others *others, const struct lh_pool *with, uint64_t sequence)
{
	struct known *known;

	lh__lock(others->sys, &others->lock);
	known = known_of(others, with->header.id);
	if (known && known->is.number) {
		known->told = sequence == 0;
		known->decided = sequence;
	}
	lh__unlock(others->sys, &others->lock);
}
