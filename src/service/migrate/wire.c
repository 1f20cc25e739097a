/* wire.c - writing and checking hellos and messages; their layout is drawn in wire.h. */
#include "service/migrate/wire.h"

#include <errno.h>
#include <stddef.h>

#include "line/pageset.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they stand");

struct hello {
	uint8_t magic[8];
	uint16_t version, what;
	uint32_t crc;
	uint8_t id[LH_MOVE_ID];
	uint64_t phase;
	uint32_t incarnation;
	uint8_t zero[20];
};
_Static_assert(sizeof(struct hello) == LH_MOVE_HELLO, "as drawn");

struct header {
	uint32_t size;
	uint8_t type, flags;
	uint16_t zero;
	uint64_t sequence, value;
	uint32_t body_crc, crc;
};
_Static_assert(sizeof(struct header) == LH_MOVE_HEADER, "as drawn");

static const uint8_t magic[8] = { 'L', 'I', 'N', 'E', 'M', 'O', 'V', 'E' };
static const uint8_t zeroes[LH_MOVE_HELLO];

/* ---- hellos ---- */

static uint32_t hello_sum(struct hello hello)
{
	hello.crc = 0;
	return lh__crc32c(0, &hello, sizeof hello);
}

void lh__move_hello_write(uint8_t out[LH_MOVE_HELLO], const struct lh_move_hello *hello)
{
	struct hello wire = {
		.version = (uint16_t)hello->version,
		.what = (uint16_t)hello->what,
		.phase = hello->phase,
		.incarnation = hello->incarnation,
	};

	memcpy(wire.magic, magic, sizeof magic);
	memcpy(wire.id, hello->id, sizeof wire.id);
	wire.crc = hello_sum(wire);
	memcpy(out, &wire, sizeof wire);
}

int lh__move_hello_read(const uint8_t in[LH_MOVE_HELLO], struct lh_move_hello *hello)
{
	struct hello wire;

	memset(hello, 0, sizeof *hello);
	memcpy(&wire, in, sizeof wire);
	if (memcmp(wire.magic, magic, sizeof magic) != 0 || wire.crc != hello_sum(wire))
		return -EPROTO;
	hello->version = wire.version;
	if (wire.version != LH_MOVE_VERSION)
		return -EPROTONOSUPPORT;
	if (memcmp(wire.zero, zeroes, sizeof wire.zero) != 0)
		return -EPROTO;
	hello->what = wire.what;
	memcpy(hello->id, wire.id, sizeof wire.id);
	hello->phase = wire.phase;
	hello->incarnation = wire.incarnation;
	return 0;
}

/* ---- the rules of each type ---- */

enum { SENDER = 1, RECEIVER = 2 };
#define ON(kind) (1u << (kind))

struct rule {
	uint8_t from;         /* SENDER, RECEIVER or both; 0: no such type */
	uint8_t kinds;        /* of channels that carry it */
	uint8_t flags;        /* that it may have */
	bool value;           /* it has one; else it is zero */
	uint32_t least, most; /* bytes of body */
	uint32_t unit;        /* what lies beyond the least comes in units of so many; 0: bytes */
};

#define PAGES_KINDS (ON(LH_MOVE_FAULTS) | ON(LH_MOVE_DATA))

static const struct rule rules[] = {
	[LH_MOVE_ASK] = { RECEIVER, PAGES_KINDS, LH_MOVE_SINCE, true, 0, 0, 0 },
	[LH_MOVE_GIVE] = { SENDER, PAGES_KINDS, LH_MOVE_SINCE, true, LH_LINESET_HEADER_SIZE,
	                   LH_LINESET_SIZE_MAX, LH_LINE_SIZE },
	[LH_MOVE_HINT] = { SENDER, ON(LH_MOVE_FAULTS), 0, true, 8, 8 * LH_MOVE_HINTS_MAX, 8 },
	[LH_MOVE_PLAN] = { SENDER | RECEIVER, ON(LH_MOVE_CONTROL), 0, false, 1, LH_MOVE_BODY_MAX, 0 },
	[LH_MOVE_PAGES] = { SENDER, ON(LH_MOVE_CONTROL), LH_MOVE_STALE | LH_MOVE_ZERO, false, 0,
	                    LH_MOVE_BODY_MAX, LH_PAGESET_RUN },
	[LH_MOVE_ROUND] = { SENDER | RECEIVER, ON(LH_MOVE_CONTROL), 0, true, 0, 0, 0 },
	[LH_MOVE_STOP] = { SENDER, ON(LH_MOVE_CONTROL), 0, true, 0, 0, 0 },
	[LH_MOVE_DEVICE] = { SENDER, ON(LH_MOVE_CONTROL), 0, true, 1, LH_MOVE_BODY_MAX, 0 },
	[LH_MOVE_GO] = { SENDER | RECEIVER, ON(LH_MOVE_CONTROL), 0, false, 0, 0, 0 },
	[LH_MOVE_CANCEL] = { SENDER, ON(LH_MOVE_CONTROL), 0, false, 0, 0, 0 },
	[LH_MOVE_ALIVE] = { SENDER | RECEIVER, ON(LH_MOVE_CONTROL), 0, false, 0, 0, 0 },
	[LH_MOVE_RUNS] = { RECEIVER, ON(LH_MOVE_CONTROL), 0, true, 0, 0, 0 },
	[LH_MOVE_FAILED] = { SENDER | RECEIVER, ON(LH_MOVE_CONTROL), 0, false, 0, LH_MOVE_BODY_MAX, 0 },
	[LH_MOVE_STATUS] = { RECEIVER, ON(LH_MOVE_CONTROL), 0, false, 1, LH_MOVE_BODY_MAX, 0 },
	[LH_MOVE_DONE] = { RECEIVER, ON(LH_MOVE_CONTROL), 0, false, 1, LH_MOVE_BODY_MAX, 0 },
};

static const char *check_body(const struct rule *rule, size_t size)
{
	if (size < rule->least || size > rule->most)
		return "a body of a size that its type cannot have";
	if (rule->unit && (size - rule->least) % rule->unit != 0)
		return "a body that ends in the middle of something";
	return NULL;
}

/* What no table can say. */
static const char *check_special(const struct lh_move_message *message)
{
	uint64_t page;
	size_t at;

	switch (message->type) {
	case LH_MOVE_ASK:
	case LH_MOVE_GIVE: return message->value > LH_PAGE_NUMBER_MAX ? "an impossible page" : NULL;
	case LH_MOVE_HINT:
		for (at = 0; at < message->size; at += sizeof page) {
			memcpy(&page, message->body + at, sizeof page);
			if (page > LH_PAGE_NUMBER_MAX)
				return "an impossible page";
		}
		return message->value > LH_PAGE_NUMBER_MAX ? "an impossible page" : NULL;
	case LH_MOVE_PAGES:
		return message->flags != LH_MOVE_STALE && message->flags != LH_MOVE_ZERO
		               ? "pages of no known set"
		               : NULL;
	case LH_MOVE_DEVICE: return message->size > message->value ? "more device state than there is" : NULL;
	default: return NULL;
	}
}

static const char *check_rules(const struct lh_move_message *message, enum lh_move_channel_kind kind,
                               bool from_sender)
{
	const struct rule *rule = NULL;
	const char *why;

	if ((unsigned)message->type < sizeof rules / sizeof *rules)
		rule = &rules[message->type];
	if (!rule || !rule->from)
		return "a message of unknown type";
	if (!(rule->from & (from_sender ? SENDER : RECEIVER)))
		return "a message that only the other side sends";
	if (!(rule->kinds & ON(kind)))
		return "a message that belongs on another channel";
	if (message->flags & ~(unsigned)rule->flags)
		return "unknown flags";
	if (message->value != 0 && !rule->value)
		return "a value where there is none";
	why = check_body(rule, message->size);
	return why ? why : check_special(message);
}

/* ---- messages ---- */

static uint32_t header_sum(const struct header *header)
{
	return lh__crc32c(0, header, offsetof(struct header, crc));
}

void lh__move_header_write(uint8_t out[LH_MOVE_HEADER], const struct lh_move_message *message)
{
	struct header header = {
		.size = (uint32_t)(LH_MOVE_HEADER + message->size),
		.type = (uint8_t)message->type,
		.flags = (uint8_t)message->flags,
		.sequence = message->sequence,
		.value = message->value,
	};

	if (message->type != LH_MOVE_GIVE)
		header.body_crc = lh__crc32c(0, message->body, message->size);
	header.crc = header_sum(&header);
	memcpy(out, &header, sizeof header);
}

long lh__move_size(const uint8_t *in, size_t have)
{
	uint32_t size;

	if (have < sizeof size)
		return 0;
	memcpy(&size, in, sizeof size);
	return size >= LH_MOVE_HEADER && size <= LH_MOVE_MESSAGE_MAX ? (long)size : -EPROTO;
}

static const char *check_sums(const struct header *header, const uint8_t *in, size_t size)
{
	uint32_t sum = 0;

	if (header->size != size || header->crc != header_sum(header) || header->zero != 0)
		return "a damaged message";
	if (header->type != LH_MOVE_GIVE)
		sum = lh__crc32c(0, in + LH_MOVE_HEADER, size - LH_MOVE_HEADER);
	return header->body_crc == sum ? NULL : "a damaged message";
}

int lh__move_read(const uint8_t *in, size_t size, uint64_t sequence, enum lh_move_channel_kind kind,
                  bool from_sender, struct lh_move_message *message, const char **why)
{
	struct header header;

	if (size < LH_MOVE_HEADER) {
		*why = "a damaged message";
		return -EPROTO;
	}
	memcpy(&header, in, sizeof header);
	*why = check_sums(&header, in, size);
	if (!*why && header.sequence != sequence)
		*why = "a message out of sequence";
	if (*why)
		return -EPROTO;
	*message = (struct lh_move_message){
		.type = header.type,
		.flags = header.flags,
		.sequence = header.sequence,
		.value = header.value,
		.body = in + LH_MOVE_HEADER,
		.size = size - LH_MOVE_HEADER,
	};
	*why = check_rules(message, kind, from_sender);
	return *why ? -EPROTO : 0;
}

size_t lh__move_give_write(uint8_t *out, uint64_t sequence, uint64_t page, bool since, lh_mask mask,
                           const void *data)
{
	struct lh_move_message message = {
		.type = LH_MOVE_GIVE,
		.flags = since ? LH_MOVE_SINCE : 0,
		.sequence = sequence,
		.value = page,
		.size = lh__lineset_size(mask),
	};

	lh__move_header_write(out, &message);
	(void)lh__lineset_encode(out + LH_MOVE_HEADER, page, mask, since ? 0 : LH_LINESET_REPLACE, data);
	return LH_MOVE_HEADER + message.size;
}

int lh__move_give_read(const struct lh_move_message *message, struct lh_lineset *set)
{
	long size = lh__lineset_decode(set, message->body, message->size);
	bool since = message->flags & LH_MOVE_SINCE;

	if (size < 0 || (size_t)size != message->size || set->page != message->value ||
	    since == !!(set->flags & LH_LINESET_REPLACE))
		return -EPROTO;
	return 0;
}
