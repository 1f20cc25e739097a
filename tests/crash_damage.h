/*
 * crash_damage.h - journals that are damaged otherwise than by a crash: any byte of the header's copies and
 * of the log may be another.
 *
 * What was acknowledged must be found, or the opening must fail and leave everything as it is. A record
 * that a later one knew to be durable is named in the error. One loss cannot be told from a crash: that of
 * the last record, which nobody knew yet to be durable; what it says may be missing: a change, or the old
 * lines of a transaction that had not ended.
 */
#ifndef CRASH_DAMAGE_H
#define CRASH_DAMAGE_H

#include "crash_journal.h"
#include "store/journal_inside.h"

enum damage_at {
	DAMAGE_FRESH,      /* a second session with some records */
	DAMAGE_CHECKPOINT, /* after a checkpoint, with some records */
	DAMAGE_WRAPPED,    /* after some rounds of the ring */
	DAMAGE_CLIENT,     /* the client's part was changed last */
	DAMAGE_CLOSED,
	DAMAGE_RECOVERED, /* a session that began with a recovery */
	DAMAGE_UNDO,      /* an open transaction */
	DAMAGE_REWOUND,   /* an open transaction, the first in a log that has just been rewound */
	DAMAGE_KINDS
};

static const char *const damage_name[DAMAGE_KINDS] = {
	"a second session",
	"after a checkpoint",
	"after rounds of the ring",
	"the client's part",
	"closed",
	"after a recovery",
	"an open transaction",
	"an open transaction in a rewound log",
};

/* A damaged medium, and what may be found on it. */
struct damage {
	struct journal_run *run;
	enum damage_at kind;
	unsigned char *whole, *image;
	struct journal_header newest;
	uint64_t record_offset[600], record_sequence[600], record_stride[600];
	size_t records;
	uint64_t tried, refused;
};

static const struct journal_way damage_ways[DAMAGE_KINDS] = {
	[DAMAGE_FRESH] = { "", false, false, false, LH_JOURNAL_LOG_MIN, 0 },
	[DAMAGE_CHECKPOINT] = { "", false, false, false, LH_JOURNAL_LOG_MIN, 0 },
	[DAMAGE_WRAPPED] = { "", false, false, false, LH_JOURNAL_LOG_MIN, 0 },
	[DAMAGE_CLIENT] = { "", true, false, false, LH_JOURNAL_LOG_MIN, 0 },
	[DAMAGE_CLOSED] = { "", false, false, false, LH_JOURNAL_LOG_MIN, 0 },
	[DAMAGE_RECOVERED] = { "", true, false, false, LH_JOURNAL_LOG_MIN, 0 },
	[DAMAGE_UNDO] = { "", true, true, false, LH_JOURNAL_LOG_MIN, 0 },
	[DAMAGE_REWOUND] = { "", true, true, false, 72, 0 },
};

static void append_some(struct journal_run *run, unsigned n, bool big)
{
	while (n-- > 0 && !run->states.failed) {
		struct journal_record *record = random_record(&run->random, big);
		struct journal_content *content = next_content(run);

		apply_record(content, record);
		if (must(run, lh__journal_append(run->journal, record->change, record->n, &content->sequence),
		         "append"))
			flush_newest(run);
	}
}

static void reopen(struct journal_run *run, bool dies)
{
	if (dies)
		let_go(run->journal);
	else
		run->journal->ops->close(run->journal);
	open_again(run);
}

/* A transaction that ends, or one that does not. */
static void undo_transaction(struct journal_run *run, bool big, bool ends)
{
	struct undo_step step = { .transaction = 0 };
	struct journal_content *content = next_content(run);

	undo_once(run, &step, content, big);
	if (ends)
		end_undo(run, &step, content);
	else
		drop_content(run);
	for (size_t i = 0; i < step.n; i++)
		free(step.old[i]);
}

static uint64_t header_generation(struct lh_store *below)
{
	struct journal_header header = { .generation = 0 };

	return lh__journal_header_read(below, &header, NULL) == 0 ? header.generation : 0;
}

/* An open transaction: the first in a log that begins anew, while the other header refers to its middle. */
static void leave_rewound(struct journal_run *run)
{
	struct lh_store *below = lh__journal_below(run->journal);
	uint64_t generation;

	undo_transaction(run, true, true);
	must(run, lh__journal_checkpoint(run->journal), "checkpoint");
	generation = header_generation(below);
	while (!run->states.failed && header_generation(below) == generation)
		undo_transaction(run, true, true);
	undo_transaction(run, false, false);
}

static void leave(struct journal_run *run, enum damage_at kind)
{
	append_some(run, 5, false);
	if (kind != DAMAGE_CHECKPOINT && kind != DAMAGE_RECOVERED)
		reopen(run, false);
	if (kind == DAMAGE_WRAPPED)
		append_some(run, 9, true);
	append_some(run, kind == DAMAGE_REWOUND ? 0 : 4, false);
	if (kind == DAMAGE_CHECKPOINT || kind == DAMAGE_CLIENT || kind == DAMAGE_UNDO)
		must(run, lh__journal_checkpoint(run->journal), "checkpoint");
	if (kind == DAMAGE_RECOVERED)
		reopen(run, true);
	if (kind == DAMAGE_CHECKPOINT || kind == DAMAGE_RECOVERED)
		append_some(run, 3, false);
	if (kind == DAMAGE_CLIENT)
		step_client(run);
	if (kind == DAMAGE_UNDO)
		undo_transaction(run, false, false);
	if (kind == DAMAGE_REWOUND)
		leave_rewound(run);
	if (kind == DAMAGE_CLOSED)
		run->journal->ops->close(run->journal);
	else
		let_go(run->journal);
	run->journal = NULL;
}

static int note_record(void *context, const struct lh_log_record *record)
{
	struct damage *damage = context;
	uint64_t size = damage->run->way->log_pages * LH_PAGE_SIZE, offset = damage->newest.offset;
	size_t n = damage->records++;

	if (n > 0)
		offset = (damage->record_offset[n - 1] + damage->record_stride[n - 1]) % size;
	if (n == sizeof damage->record_offset / sizeof *damage->record_offset)
		abort();
	damage->record_offset[n] = offset;
	damage->record_sequence[n] = record->sequence;
	damage->record_stride[n] =
		record->kind == LH_LOG_RECORD_SKIP ? size - offset : lh__log_stride(record->size);
	return 0;
}

/* The record that a byte of the medium belongs to; SIZE_MAX: none. */
static size_t record_at(const struct damage *damage, size_t at)
{
	size_t i;

	for (i = 0; i < damage->records; i++) {
		size_t begin = damage->newest.log_page * LH_PAGE_SIZE + damage->record_offset[i];

		if (at >= begin && at < begin + damage->record_stride[i])
			return i;
	}
	return SIZE_MAX;
}

static bool names(const char *text, uint64_t sequence)
{
	char word[40];

	snprintf(word, sizeof word, "record %llu,", (unsigned long long)sequence);
	return strstr(text, word) != NULL;
}

static bool damage_fails(struct damage *damage, size_t at, const char *why, const char *text)
{
	char reason[CRASH_REASON];

	crash_says(reason, "byte %zu damaged (of page %zu, byte %zu): %s: %s", at, at / LH_PAGE_SIZE,
	           at % LH_PAGE_SIZE, why, text);
	crash_fail(&damage->run->states, damage_name[damage->kind], reason);
	return false;
}

/* Opens the damaged medium; whether that is as it should be. `missing`: the last record may be. */
static bool try_damage(struct damage *damage, size_t at, bool missing)
{
	struct journal_run *run = damage->run;
	struct lh_crash *medium = run->states.scratch;
	struct lh_store *journal;
	struct lh_error error = { .code = 0 };
	long found;
	int result;

	damage->tried++;
	lh__crash_reset(medium, damage->image);
	result = lh__journal_open(lh__crash_store(medium), false, &journal, &error);
	if (result == 0) {
		found = find_content(run, journal, home_on(medium, journal));
		let_go(journal);
		if (found == run->n || (missing && (run->way->undo || found == run->n - 1)))
			return true;
		return damage_fails(damage, at, "it opens, and the content is wrong", "");
	}
	damage->refused++;
	if (memcmp(lh__crash_seen(medium), damage->image, run->states.size) != 0)
		return damage_fails(damage, at, "it does not open, and was changed", error.text);
	if (result != -EBADMSG && result != -EPROTONOSUPPORT)
		return damage_fails(damage, at, "another error than expected", lh__errno_name(result));
	return true;
}

/* A byte of a record in the middle: it has to be named. Bytes after its end have no meaning. */
static bool try_middle(struct damage *damage, size_t at, size_t record)
{
	struct lh_store *journal;
	struct lh_error error = { .text = "" };
	int result;

	lh__crash_reset(damage->run->states.scratch, damage->image);
	result = lh__journal_open(lh__crash_store(damage->run->states.scratch), false, &journal, &error);
	if (result == 0) {
		let_go(journal);
		return try_damage(damage, at, false);
	}
	if (result != -EBADMSG || !names(error.text, damage->record_sequence[record]))
		return damage_fails(damage, at, "the record is not named", error.text);
	return try_damage(damage, at, false);
}

static bool damage_byte(struct damage *damage, size_t at, unsigned char by)
{
	size_t record = record_at(damage, at);
	bool good, last = damage->records && record == damage->records - 1;

	damage->image[at] ^= by;
	good = record == SIZE_MAX || last ? try_damage(damage, at, last) : try_middle(damage, at, record);
	damage->image[at] ^= by;
	return good;
}

/* All bits of the headers' fields, one of some of each client byte's; some bits of each byte of the log. */
static void damage_all(struct damage *damage)
{
	struct journal_run *run = damage->run;
	size_t at, fields = JOURNAL_HEADER_SIZE - LH_JOURNAL_CLIENT_SIZE;
	size_t end = (2 + run->way->log_pages) * LH_PAGE_SIZE;

	for (at = 0; at < 2 * LH_PAGE_SIZE && !run->states.failed; at++) {
		if (at % LH_PAGE_SIZE < fields)
			for (unsigned bit = 0; bit < 8 && !run->states.failed; bit++)
				damage_byte(damage, at, (unsigned char)(1 << bit));
		else if (at % LH_PAGE_SIZE < JOURNAL_HEADER_SIZE && at % 8 == 0)
			damage_byte(damage, at, (unsigned char)(1 + random_next(&run->random) % 255));
	}
	for (; at < end && !run->states.failed; at++) {
		/* Of a large record not each byte of its lines. */
		size_t record = record_at(damage, at);
		bool head = record != SIZE_MAX &&
		            at - 2 * LH_PAGE_SIZE - damage->record_offset[record] < 2 * LH_LINE_SIZE;

		if (head || at % 64 == 7)
			damage_byte(damage, at, (unsigned char)(1 << random_next(&run->random) % 8));
	}
}

/* Both copies, and more: nothing of it may open. */
static void damage_both(struct damage *damage)
{
	size_t at;

	for (at = 0; at < JOURNAL_HEADER_SIZE && !damage->run->states.failed; at += 3) {
		damage->image[at] ^= 1;
		damage->image[at + LH_PAGE_SIZE] ^= 0x80;
		try_damage(damage, at, false);
		damage->image[at] ^= 1;
		damage->image[at + LH_PAGE_SIZE] ^= 0x80;
	}
}

static bool take_image(struct damage *damage)
{
	struct journal_run *run = damage->run;
	struct lh_store *store = lh__crash_store(run->states.scratch);
	struct lh_error error;

	memcpy(damage->whole, lh__crash_seen(run->states.medium), run->states.size);
	memcpy(damage->image, damage->whole, run->states.size);
	lh__crash_reset(run->states.scratch, damage->image);
	if (lh__journal_header_read(store, &damage->newest, &error) != 0 ||
	    lh__journal_visit(store, note_record, damage, &error) != 0) {
		crash_fail(&run->states, damage_name[damage->kind], error.text);
		return false;
	}
	return try_damage(damage, 0, false);
}

/* All damages of one kind of medium; run->states says whether it failed. */
__attribute__((unused)) static void journal_damage(struct journal_run *run, enum damage_at kind,
                                                   uint64_t seed, uint64_t *tried, uint64_t *refused)
{
	struct damage *damage = calloc(1, sizeof *damage);

	if (!damage)
		abort();
	journal_begin(run, &damage_ways[kind], seed, 0);
	run->states.resting = true;
	damage->run = run;
	damage->kind = kind;
	damage->whole = malloc(run->states.size);
	damage->image = malloc(run->states.size);
	if (!damage->whole || !damage->image)
		abort();
	if (open_again(run)) {
		leave(run, kind);
		if (!run->states.failed && take_image(damage)) {
			damage_all(damage);
			damage_both(damage);
		}
	}
	*tried += damage->tried;
	*refused += damage->refused;
	free(damage->whole);
	free(damage->image);
	free(damage);
	close_run(run);
}

#endif
