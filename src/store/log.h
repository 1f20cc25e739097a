/*
 * log.h - the one format of a log: records of line sets. Drawn in docs/pool-format.md.
 *
 * A record, aligned to a line, followed by zeroes up to the next line:
 *
 *      0   4  "LHLR"
 *      4   1  kind: 1 redo, 2 undo, 3 end, 4 skip, 5 prepared, 6 decided, 7 dropped, 8 together
 *      5   3  0
 *      8   8  sequence: one more than that of the record before
 *     16   8  transaction: redo: the record's own sequence; else that of the transaction's first record
 *     24   8  durable: the newest sequence that was known to be durable when this record was written
 *     32   4  size of the record, without the zeroes after it
 *     36   4  CRC-32C of the session's salt (8 bytes) and of the record with this field as zero
 *     40      of kinds 5 and 8: the size of a note (8), the note, and zeroes up to a multiple of 8
 *             line sets
 *
 * A line set is a word, perhaps a mask, and the lines:
 *
 *      bits 0 to 39   page
 *      bits 40 to 45  first line   } where bit 63 is not set: one run of lines
 *      bits 46 to 51  lines less 1 }
 *      bit 62         the lines are the whole content of the page: all others become zero
 *      bit 63         a mask of 8 bytes follows, and says which lines
 *
 * The line sets of the wire have 24 bytes before the lines. One changed line is the usual case in a log, and
 * there 8 do: the checksum is the record's.
 *
 * `durable` tells a torn tail from a hole. Where a record is not valid, and one after it knew it to be
 * durable, it was once whole and acknowledged, and something has been lost; where none did, nobody was ever
 * told of it.
 */
#ifndef LH_STORE_LOG_H
#define LH_STORE_LOG_H

#include "line/line.h"

enum lh_log_kind {
	LH_LOG_RECORD_REDO = 1,
	LH_LOG_RECORD_UNDO,
	LH_LOG_RECORD_END,
	LH_LOG_RECORD_SKIP,
	/* Of transactions over several journals: see journal.h. From version 2 on. */
	LH_LOG_RECORD_PREPARED,
	LH_LOG_RECORD_DECIDED,
	LH_LOG_RECORD_DROPPED,
	LH_LOG_RECORD_TOGETHER
};

#define LH_LOG_RECORD_HEADER 40u
#define LH_LOG_MAGIC UINT32_C(0x524c484c)

struct lh_log_record {
	enum lh_log_kind kind;
	uint64_t sequence, transaction, durable;
	uint32_t size;
	uint32_t note_size, sets_size;
	const unsigned char *note; /* the journal's client's */
	const unsigned char *sets;
};

/* What is to be changed of a page, or what was there before. data is page-shaped. */
struct lh_change {
	uint64_t page;
	lh_mask mask;
	bool replace; /* all other lines become zero */
	const void *data;
};

/* Bytes that the record takes up in the log. */
static inline uint64_t lh__log_stride(uint64_t size)
{
	return (size + LH_LINE_SIZE - 1) & ~(uint64_t)(LH_LINE_SIZE - 1);
}

/* Bytes that a note takes up in its record, with its size before it. */
static inline uint64_t lh__log_note_size(uint32_t size)
{
	return 8 + (((uint64_t)size + 7) & ~UINT64_C(7));
}
static inline bool lh__log_has_note(enum lh_log_kind kind)
{
	return kind == LH_LOG_RECORD_PREPARED || kind == LH_LOG_RECORD_TOGETHER;
}
/* Writes it; returns that number. */
size_t lh__log_note_encode(unsigned char *out, const void *note, uint32_t size);
/* The size of a change's line set. */
size_t lh__log_set_size(const struct lh_change *change);
/* Encodes it; returns that size. */
size_t lh__log_set_encode(unsigned char *out, const struct lh_change *change);
/*
 * Reads one line set: returns the bytes that it takes up; set->flags is LH_LINESET_REPLACE or 0. -EBADMSG: it
 * is none.
 */
long lh__log_set_decode(struct lh_lineset *set, const unsigned char *in, size_t size) LH_MUST_CHECK;

/*
 * Makes a record of size bytes at out, whose sets stand there already, valid; writes the zeroes up to the
 * next line. record->sets and ->note are ignored: they stand there already.
 */
void lh__log_seal(unsigned char *out, const struct lh_log_record *record, uint64_t salt);
/*
 * Reads a record at in, of which `room` bytes may be read. -EBADMSG: there is none, or not one of this salt.
 */
int lh__log_read(struct lh_log_record *record, const unsigned char *in, uint64_t room,
                 uint64_t salt) LH_MUST_CHECK;

#endif
