/*
 * wire.h - the messages between a client and a memory node, byte by byte.
 *
 * All numbers are little-endian. A connection begins with one hello in each direction, 64 bytes:
 *
 *      0  8  "LINEHOME"
 *      8  2  version of the protocol; the place of all up to here, and of the checksum, never changes
 *     10  2  client: action (enum lh_wire_action); node: status (enum lh_wire_status)
 *     12  4  CRC32C of the 64 bytes with these four as zero
 *     16  8  region: attach, clone: which; answer: the region that the connection now serves
 *     24 16  token: attach, clone: the region's; answer: the region's
 *     40  8  generation: attach: of the connections; answer: likewise
 *     48  2  channel (enum lh_wire_channel)
 *     50  2  client: bytes of the region's name, which follow the hello: 1 to 63 with the actions that go by
 *            name, else 0; answer: 0
 *     52  4  client: CRC32C of the name; 0 where there is none; answer: 0
 *     56  8  zero
 *
 * A name is made of A-Z a-z 0-9 . _ - and does not begin with a dot. Its size and checksum are under the
 * hello's own checksum, so a name is taken whole and for its own hello, or not at all.
 *
 * Then come requests and replies. Each is a header of 40 bytes, and for PUT, REPLACE and a GET's reply one
 * line set in the encoding of line/lineset.c:
 *
 *      0  4  size: bytes of the whole message, at most LH_WIRE_MESSAGE_MAX
 *      4  1  type: enum lh_wire_op; in replies LH_WIRE_REPLY is added
 *      5  1  zero
 *      6  2  requests: zero; replies: status
 *      8  8  sequence: 1, 2, 3... on each channel; a reply has its request's
 *     16  8  page
 *     24  8  GET: mask of the lines wanted
 *            PUT, REPLACE: number of the change: another than that of any of the 127 before it, and the same
 *            when it is sent again over a new connection; 0: it has none
 *            reply to a PUT or REPLACE that went well: bytes whose value it changed
 *            everything else: zero
 *     32  4  CRC32C of the header with these four as zero and the next four
 *     36  4  zero
 *
 * A node answers the requests of a channel in their order. Whatever breaks these rules ends the connection.
 * The same messages stand in the slots of the shared-memory ring (ring.h).
 *
 * Everything here is pure computation: no system calls, no allocation, async-signal-safe.
 */
#ifndef LH_NET_DATA_WIRE_H
#define LH_NET_DATA_WIRE_H

#include <stdbool.h>

#include "line/line.h"

#define LH_WIRE_VERSION 3u
#define LH_WIRE_HELLO 64u
#define LH_WIRE_NAME_MAX 63u /* bytes of a region's name */
#define LH_WIRE_HEADER 40u
#define LH_WIRE_MESSAGE_MAX (LH_WIRE_HEADER + LH_LINESET_SIZE_MAX)
#define LH_WIRE_REPLY 0x80u
#define LH_WIRE_TOKEN 16u
#define LH_WIRE_CHANGES 128u /* so many changes back a number may not occur twice */

enum lh_wire_action {
	LH_WIRE_CREATE = 1,
	LH_WIRE_ATTACH = 2,
	LH_WIRE_CLONE = 3,
	LH_WIRE_CREATE_NAMED = 4,
	LH_WIRE_OPEN_NAMED = 5,
	LH_WIRE_DROP_NAMED = 6,
};
/* Whether the action's hello is followed by a name. */
static inline bool lh__wire_goes_by_name(unsigned action)
{
	return action >= LH_WIRE_CREATE_NAMED && action <= LH_WIRE_DROP_NAMED;
}
/* The numbers of store/store.h, which node.c asserts. */
enum lh_wire_op { LH_WIRE_GET = 1, LH_WIRE_PUT = 2, LH_WIRE_REPLACE = 3, LH_WIRE_DROP = 4 };
enum lh_wire_channel { LH_WIRE_STREAM = 1, LH_WIRE_RING = 2 };
enum lh_wire_status {
	LH_WIRE_OK = 0,
	LH_WIRE_FULL = 1,        /* request: the node has no room for this page */
	LH_WIRE_FAILED = 2,      /* the node could not; nothing has changed */
	LH_WIRE_VERSION_IS = 3,  /* hello: the version field of the answer is what the node speaks */
	LH_WIRE_NO_REGION = 4,   /* hello: no such region, or not that token */
	LH_WIRE_OLD = 5,         /* hello: connections of a later generation exist */
	LH_WIRE_NEEDS_KEY = 6,   /* hello in the clear on a port that speaks TLS */
	LH_WIRE_NO_RING = 7,     /* hello: no ring on this connection; use a stream */
	LH_WIRE_CROWDED = 8,     /* hello: too many connections */
	LH_WIRE_NO_NAME = 9,     /* hello: no region of that name */
	LH_WIRE_NAME_TAKEN = 10, /* hello: there is a region of that name already */
	LH_WIRE_BUSY = 11,       /* hello: another client has the region of that name */
};

struct lh_wire_hello {
	unsigned version;
	unsigned what; /* action or status */
	unsigned channel;
	uint64_t region;
	uint64_t generation;
	uint8_t token[LH_WIRE_TOKEN];
	char name[LH_WIRE_NAME_MAX + 1]; /* empty: none */
};

/* Whether it is a name that a region can have. */
bool lh__wire_is_name(const char *name);
/*
 * Writes LH_WIRE_HELLO bytes and the name, where there is one, behind them: LH_WIRE_NAME_MAX more at most.
 * Returns how many.
 */
size_t lh__wire_hello_write(uint8_t *out, const struct lh_wire_hello *hello);
/*
 * Reads LH_WIRE_HELLO bytes, all but the name. Returns how many bytes of a name follow, 0 for none; -EPROTO:
 * not a hello; -EPROTONOSUPPORT: of another version (hello->version says which, the rest is zero).
 */
int lh__wire_hello_read(const uint8_t in[LH_WIRE_HELLO], struct lh_wire_hello *hello) LH_MUST_CHECK;
/*
 * Once those have come: reads the name behind the hello at `in`, of which lh__wire_hello_read has said that
 * it is one. -EPROTO: it is damaged, or none; hello->name is then empty.
 */
int lh__wire_hello_read_name(const uint8_t *in, struct lh_wire_hello *hello) LH_MUST_CHECK;

/*
 * How many bytes the message that begins at in has: 0 where fewer than four bytes are there, -EPROTO where
 * the size is impossible.
 */
long lh__wire_size(const uint8_t *in, size_t have) LH_MUST_CHECK;

/*
 * Writes a request; data is page-shaped and read for PUT and REPLACE only, whose number becomes `sequence`
 * too. Returns its size.
 */
size_t lh__wire_request_write(uint8_t *out, enum lh_wire_op op, uint64_t sequence, uint64_t page,
                              lh_mask mask, const void *data);
/* Gives a written request another sequence number; the number of a change stays. */
void lh__wire_renumber(uint8_t *message, uint64_t sequence);

/* A request as the node reads it. lines: the lines of mask one after another, within the message. */
struct lh_wire_request {
	enum lh_wire_op op;
	uint64_t sequence;
	uint64_t page;
	uint64_t number; /* of a change */
	lh_mask mask;
	const uint8_t *lines;
};
/* Checks everything; -EPROTO, with *why a static text. size is the message's own. */
int lh__wire_request_read(const uint8_t *message, size_t size, uint64_t sequence,
                          struct lh_wire_request *request, const char **why) LH_MUST_CHECK;

/*
 * Writes a reply. data is page-shaped: the lines of held follow for a GET that went well. It may be
 * lh__wire_reply_page(out). Returns the size.
 */
size_t lh__wire_reply_write(uint8_t *out, const struct lh_wire_request *request, enum lh_wire_status status,
                            lh_mask held, const void *data);
/* The same for a PUT or REPLACE, which changed so many bytes. */
size_t lh__wire_reply_write_change(uint8_t *out, const struct lh_wire_request *request,
                                   enum lh_wire_status status, uint32_t changed);
/* Where in a reply a page-shaped buffer may stand so that a whole page need not be copied to be encoded. */
static inline uint8_t *lh__wire_reply_page(uint8_t *out)
{
	return out + LH_WIRE_HEADER + LH_LINESET_HEADER_SIZE;
}

/* What came of a request: store/store.h says what each means. */
struct lh_wire_answer {
	int result; /* 0, -ENOSPC, -EIO */
	lh_mask held;
	uint32_t changed;
};

/*
 * Reads the reply to a request; want is its mask, of a PUT too. Fills data (page-shaped, only for a GET that
 * went well: every wanted line) and *answer. 0; or -EPROTO, and then both are unchanged.
 */
int lh__wire_reply_read(const uint8_t *message, size_t size, enum lh_wire_op op, uint64_t sequence,
                        uint64_t page, lh_mask want, void *data, struct lh_wire_answer *answer) LH_MUST_CHECK;

#endif
