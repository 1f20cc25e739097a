/*
 * wire.h - the messages between the machine that a guest leaves (the sender) and the one where it goes on
 * (the receiver), byte by byte. docs/migrate-wire.md has the same drawing.
 *
 * All numbers are little-endian. The sender connects, once for each channel: one of control, one of faults,
 * one or more of data; so what a guest waits for never queues behind what is copied in the background. A
 * connection begins with one hello in each direction, 64 bytes, the sender's first:
 *
 *      0  8  "LINEMOVE"
 *      8  2  version; the place of all up to here, and of the checksum, never changes
 *     10  2  sender: channel (enum lh_move_channel_kind); receiver: status (enum lh_move_status)
 *     12  4  CRC-32C of the 64 bytes with these four as zero
 *     16 16  which migration: random, chosen by the sender when it begins
 *     32  8  sender: phase that it is in; receiver: phase that this migration is in there (enum
 *         lh_move_phase)
 *     40  4  sender: incarnation, 1, 2, 3...: channels of an earlier one have ended; receiver: the same
 *     44 20  zero
 *
 * Then come messages, each with a header of 32 bytes:
 *
 *      0  4  size of the whole message, 32 to LH_MOVE_MESSAGE_MAX
 *      4  1  type (enum lh_move_type)
 *      5  1  flags, by type
 *      6  2  zero
 *      8  8  sequence on this channel in this direction: 1, 2, 3...
 *     16  8  value, by type
 *     24  4  CRC-32C of the body; of GIVE zero, since a line set has its own
 *     28  4  CRC-32C of the header with these four as zero
 *
 * Channels of faults and data. The receiver asks, the sender gives, in the order in which it was asked:
 *
 *     ASK    value: a page. LH_MOVE_SINCE: I have this page as you last gave it, the lines that differ will
 *            do.
 *     GIVE   value: the page; body: one line set (line/lineset.c). LH_MOVE_SINCE: lines that are not in it
 *            are
 *            as they were given last; else they are zero, and the line set has LH_LINESET_REPLACE.
 *     HINT   before a GIVE of the channel of faults; value: its page; body: 8 bytes each, pages that are
 *            likely
 *            to be missed together with that one, the likeliest first; at most LH_MOVE_HINTS_MAX
 *
 * Control, sender to receiver:
 *
 *     PLAN   body: JSON, what moves and how (service/migrate/plan.h)
 *     PAGES  flags: enum lh_move_set; body: runs (line/pageset.h), part of a set of pages
 *     ROUND  value: which, 1, 2...; the sets are complete: fetch all that is stale, then answer ROUND
 *     STOP   the guest has stopped, value nanoseconds ago; the sets that follow up to GO are the last
 *     DEVICE value: bytes of device state in all; body: the next part of them
 *     GO     the guest is yours from the moment you have answered GO, and not before
 *     FAILED body: text: why pages of the guest's memory cannot be given; before GO it stays the sender's
 *     CANCEL nothing of this migration is needed any more; after FAILED and DONE: this has been taken note of
 *     ALIVE  nothing; both sides send one each LH_MOVE_ALIVE_MS where they have nothing else to say
 *
 * Control, receiver to sender:
 *
 *     PLAN   body: JSON: the receiver is ready, or {"error": text}
 *     ROUND  value: which; all of it has come
 *     GO     kept: whatever breaks now, the guest goes on here
 *     RUNS   the guest runs; value: nanoseconds from GO to there
 *     FAILED body: text: the guest could not go on here and never ran; it is the sender's again
 *     STATUS body: JSON: how far it is (service/migrate/plan.h)
 *     DONE   body: JSON, the statistics: all is there, or the guest has ended ("ended": true); the sender's
 *            memory is not needed any more
 *
 * A value of which nothing is said is zero, and so are flags. Whatever breaks these rules ends the
 * connection. All here is pure computation.
 */
#ifndef LH_MIGRATE_WIRE_H
#define LH_MIGRATE_WIRE_H

#include <stdbool.h>

#include "line/line.h"

#define LH_MOVE_VERSION 1u
#define LH_MOVE_HELLO 64u
#define LH_MOVE_HEADER 32u
#define LH_MOVE_BODY_MAX (1u << 18)
#define LH_MOVE_MESSAGE_MAX (LH_MOVE_HEADER + LH_MOVE_BODY_MAX)
#define LH_MOVE_ID 16u
#define LH_MOVE_HINTS_MAX 64u
#define LH_MOVE_ALIVE_MS 500u
#define LH_MOVE_SILENT_MS 5000u /* nothing heard for this long: the connection is taken for broken */
#define LH_MOVE_SINCE 1u
#define LH_MOVE_NO_PAGE UINT64_MAX

enum lh_move_channel_kind { LH_MOVE_CONTROL = 1, LH_MOVE_FAULTS = 2, LH_MOVE_DATA = 3 };

enum lh_move_status {
	LH_MOVE_OK = 0,
	LH_MOVE_VERSION_IS = 1, /* the version field is what the receiver speaks */
	LH_MOVE_BUSY = 2,       /* another migration is under way there */
	LH_MOVE_UNKNOWN = 3,    /* the sender goes on with a migration that the receiver does not have */
	LH_MOVE_OLD = 4,        /* channels of a later incarnation exist */
	LH_MOVE_NEEDS_KEY = 5,  /* a hello in the clear where TLS is spoken */
};

enum lh_move_phase {
	LH_MOVE_COPYING = 1, /* the guest runs at the source; all may still be given up */
	LH_MOVE_GONE = 2,    /* sender: GO has been sent; receiver: GO has been answered */
	LH_MOVE_RUNNING = 3, /* it runs at the destination */
	LH_MOVE_COMPLETE = 4,
	LH_MOVE_RETURNED = 5, /* it never ran at the destination and is the source's */
};

enum lh_move_type {
	LH_MOVE_ASK = 1,
	LH_MOVE_GIVE,
	LH_MOVE_HINT,
	LH_MOVE_PLAN = 16,
	LH_MOVE_PAGES,
	LH_MOVE_ROUND,
	LH_MOVE_STOP,
	LH_MOVE_DEVICE,
	LH_MOVE_GO,
	LH_MOVE_CANCEL,
	LH_MOVE_ALIVE,
	LH_MOVE_RUNS,
	LH_MOVE_FAILED,
	LH_MOVE_STATUS,
	LH_MOVE_DONE,
};

/* What a set of pages, which PAGES brings in parts, is. */
enum lh_move_set {
	LH_MOVE_STALE = 1, /* written since they were last given (first round: all that are not zero) */
	LH_MOVE_ZERO = 2,  /* zero at the source: they need not be asked for */
};

struct lh_move_hello {
	unsigned version;
	unsigned what; /* channel or status */
	uint8_t id[LH_MOVE_ID];
	uint64_t phase;
	uint32_t incarnation;
};

void lh__move_hello_write(uint8_t out[LH_MOVE_HELLO], const struct lh_move_hello *hello);
/*
 * -EPROTO: not a hello; -EPROTONOSUPPORT: of another version (hello->version says which, the rest is zero).
 */
int lh__move_hello_read(const uint8_t in[LH_MOVE_HELLO], struct lh_move_hello *hello) LH_MUST_CHECK;

struct lh_move_message {
	enum lh_move_type type;
	unsigned flags;
	uint64_t sequence, value;
	const uint8_t *body; /* within the message */
	size_t size;         /* of the body */
};

/*
 * Writes the header of a message whose body, of message->size bytes, lies at message->body or (GIVE) follows.
 */
void lh__move_header_write(uint8_t out[LH_MOVE_HEADER], const struct lh_move_message *message);
/* The size of the message that begins at in: 0 where fewer than four bytes are there; -EPROTO: impossible. */
long lh__move_size(const uint8_t *in, size_t have) LH_MUST_CHECK;
/*
 * Reads a whole message of `size` bytes: checksums, sequence, the rules of its type that need no state (which
 * types a channel has in which direction is looked at too: from_sender, kind). -EPROTO, with *why a static
 * text.
 */
int lh__move_read(const uint8_t *in, size_t size, uint64_t sequence, enum lh_move_channel_kind kind,
                  bool from_sender, struct lh_move_message *message, const char **why) LH_MUST_CHECK;

/* Writes a whole GIVE message: the lines of mask of page-shaped data. Returns its size. */
size_t lh__move_give_write(uint8_t *out, uint64_t sequence, uint64_t page, bool since, lh_mask mask,
                           const void *data);
/*
 * The line set of a GIVE. -EPROTO: it is damaged, is for another page, or its flags contradict the message's.
 */
int lh__move_give_read(const struct lh_move_message *message, struct lh_lineset *set) LH_MUST_CHECK;

#endif
