/* wire.c - writing and checking messages; their layout is drawn in wire.h. */
#include "net/data/wire.h"

#include <errno.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they stand");
_Static_assert(LH_WIRE_HEADER + LH_LINESET_HEADER_SIZE == 64, "the lines of a message in a slot are aligned");

struct hello {
	uint8_t magic[8];
	uint16_t version, what;
	uint32_t crc;
	uint64_t region;
	uint8_t token[LH_WIRE_TOKEN];
	uint64_t generation;
	uint16_t channel;
	uint16_t name_size;
	uint32_t name_crc;
	uint8_t zero[8];
};
_Static_assert(sizeof(struct hello) == LH_WIRE_HELLO, "as drawn");

struct header {
	uint32_t size;
	uint8_t type, zero;
	uint16_t status;
	uint64_t sequence, page;
	uint64_t extra; /* a mask, the number of a change, or a count of bytes */
	uint32_t crc, zero_too;
};
_Static_assert(sizeof(struct header) == LH_WIRE_HEADER, "as drawn");

static const uint8_t magic[8] = { 'L', 'I', 'N', 'E', 'H', 'O', 'M', 'E' };
static const uint8_t zeroes[LH_WIRE_HELLO];

static uint32_t hello_sum(struct hello hello)
{
	hello.crc = 0;
	return lh__crc32c(0, &hello, sizeof hello);
}

static uint32_t header_sum(const struct header *header)
{
	return lh__crc32c(0, header, offsetof(struct header, crc));
}

static bool is_name_byte(char byte)
{
	return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') ||
	       byte == '.' || byte == '_' || byte == '-';
}

bool lh__wire_is_name(const char *name)
{
	size_t size = 0;

	while (is_name_byte(name[size]))
		size++;
	return size != 0 && size <= LH_WIRE_NAME_MAX && name[size] == '\0' && name[0] != '.';
}

size_t lh__wire_hello_write(uint8_t *out, const struct lh_wire_hello *hello)
{
	size_t size = strnlen(hello->name, LH_WIRE_NAME_MAX);
	struct hello wire = {
		.version = (uint16_t)hello->version,
		.what = (uint16_t)hello->what,
		.region = hello->region,
		.generation = hello->generation,
		.channel = (uint16_t)hello->channel,
		.name_size = (uint16_t)size,
		.name_crc = lh__crc32c(0, hello->name, size),
	};

	memcpy(wire.magic, magic, sizeof magic);
	memcpy(wire.token, hello->token, sizeof wire.token);
	wire.crc = hello_sum(wire);
	memcpy(out, &wire, sizeof wire);
	memcpy(out + sizeof wire, hello->name, size);
	return sizeof wire + size;
}

int lh__wire_hello_read(const uint8_t in[LH_WIRE_HELLO], struct lh_wire_hello *hello)
{
	struct hello wire;

	memset(hello, 0, sizeof *hello);
	memcpy(&wire, in, sizeof wire);
	if (memcmp(wire.magic, magic, sizeof magic) != 0 || wire.crc != hello_sum(wire))
		return -EPROTO;
	hello->version = wire.version;
	hello->what = wire.what;
	if (wire.version != LH_WIRE_VERSION)
		return -EPROTONOSUPPORT;
	if (memcmp(wire.zero, zeroes, sizeof wire.zero) != 0 || wire.name_size > LH_WIRE_NAME_MAX ||
	    (wire.name_size == 0 && wire.name_crc != 0))
		return -EPROTO;
	hello->channel = wire.channel;
	hello->region = wire.region;
	hello->generation = wire.generation;
	memcpy(hello->token, wire.token, sizeof wire.token);
	return wire.name_size;
}

int lh__wire_hello_read_name(const uint8_t *in, struct lh_wire_hello *hello)
{
	struct hello wire;
	char name[LH_WIRE_NAME_MAX + 1] = "";

	memcpy(&wire, in, sizeof wire);
	memcpy(name, in + sizeof wire, wire.name_size);
	if (wire.name_crc != lh__crc32c(0, name, wire.name_size) || strlen(name) != wire.name_size ||
	    !lh__wire_is_name(name))
		return -EPROTO;
	memcpy(hello->name, name, sizeof name);
	return 0;
}

long lh__wire_size(const uint8_t *in, size_t have)
{
	uint32_t size;

	if (have < sizeof size)
		return 0;
	memcpy(&size, in, sizeof size);
	return size >= LH_WIRE_HEADER && size <= LH_WIRE_MESSAGE_MAX ? (long)size : -EPROTO;
}

/* Of lines; DROP carries none. */
static bool is_change(unsigned op)
{
	return op == LH_WIRE_PUT || op == LH_WIRE_REPLACE;
}

static size_t seal(uint8_t *out, struct header *header, size_t body)
{
	header->size = (uint32_t)(LH_WIRE_HEADER + body);
	header->crc = header_sum(header);
	memcpy(out, header, sizeof *header);
	return header->size;
}

size_t lh__wire_request_write(uint8_t *out, enum lh_wire_op op, uint64_t sequence, uint64_t page,
                              lh_mask mask, const void *data)
{
	struct header header = { .type = (uint8_t)op, .sequence = sequence, .page = page };
	size_t body = 0;

	if (op == LH_WIRE_GET)
		header.extra = mask;
	if (is_change(op))
		header.extra = sequence;
	if (is_change(op))
		body = lh__lineset_encode(out + LH_WIRE_HEADER, page, mask,
		                          op == LH_WIRE_REPLACE ? LH_LINESET_REPLACE : 0, data);
	return seal(out, &header, body);
}

void lh__wire_renumber(uint8_t *message, uint64_t sequence)
{
	struct header header;

	memcpy(&header, message, sizeof header);
	header.sequence = sequence;
	header.crc = header_sum(&header);
	memcpy(message, &header, sizeof header);
}

/* The header, and the line set that must fill the rest where there is a rest; NULL, or what is wrong. */
static const char *read_message(const uint8_t *message, size_t size, struct header *header,
                                struct lh_lineset *set)
{
	if (size < LH_WIRE_HEADER)
		return "a truncated message";
	memcpy(header, message, sizeof *header);
	if (header->size != size)
		return "a message whose size is not its length";
	if (header->crc != header_sum(header))
		return "a message with a wrong checksum";
	if (header->zero != 0 || header->zero_too != 0 || header->page > LH_PAGE_NUMBER_MAX)
		return "a malformed message";
	if (size == LH_WIRE_HEADER) {
		set->lines = NULL;
		return NULL;
	}
	if (lh__lineset_decode(set, message + LH_WIRE_HEADER, size - LH_WIRE_HEADER) !=
	    (long)(size - LH_WIRE_HEADER))
		return "a malformed line set";
	return set->page == header->page ? NULL : "a line set for another page";
}

static const char *check_request(const struct header *header, const struct lh_lineset *set)
{
	bool carries = is_change(header->type);

	if (header->type < LH_WIRE_GET || header->type > LH_WIRE_DROP)
		return "a request of unknown type";
	if (header->status != 0 || (header->type == LH_WIRE_DROP && header->extra != 0) ||
	    carries != (set->lines != NULL))
		return "a malformed request";
	if (carries && set->flags != (header->type == LH_WIRE_REPLACE ? LH_LINESET_REPLACE : 0))
		return "a line set of the wrong kind";
	return NULL;
}

int lh__wire_request_read(const uint8_t *message, size_t size, uint64_t sequence,
                          struct lh_wire_request *request, const char **why)
{
	struct header header;
	struct lh_lineset set;

	*why = read_message(message, size, &header, &set);
	if (!*why)
		*why = check_request(&header, &set);
	if (!*why && header.sequence != sequence)
		*why = header.sequence < sequence ? "a replayed message" : "a message out of sequence";
	if (*why)
		return -EPROTO;
	request->op = (enum lh_wire_op)header.type;
	request->sequence = sequence;
	request->page = header.page;
	request->number = set.lines ? header.extra : 0;
	request->mask = set.lines ? set.mask : header.extra;
	request->lines = set.lines;
	return 0;
}

size_t lh__wire_reply_write(uint8_t *out, const struct lh_wire_request *request, enum lh_wire_status status,
                            lh_mask held, const void *data)
{
	struct header header = {
		.type = (uint8_t)(request->op | LH_WIRE_REPLY),
		.status = (uint16_t)status,
		.sequence = request->sequence,
		.page = request->page,
	};
	uint8_t apart[LH_PAGE_SIZE] __attribute__((aligned(64)));
	size_t body = 0;

	if (data && data == lh__wire_reply_page(out) && held != LH_MASK_ALL) {
		lh__lines_copy(apart, data, held);
		data = apart;
	}
	if (request->op == LH_WIRE_GET && status == LH_WIRE_OK)
		body = lh__lineset_encode(out + LH_WIRE_HEADER, request->page, held, 0, data);
	return seal(out, &header, body);
}

size_t lh__wire_reply_write_change(uint8_t *out, const struct lh_wire_request *request,
                                   enum lh_wire_status status, uint32_t changed)
{
	struct header header = {
		.type = (uint8_t)(request->op | LH_WIRE_REPLY),
		.status = (uint16_t)status,
		.sequence = request->sequence,
		.page = request->page,
		.extra = status == LH_WIRE_OK ? changed : 0,
	};

	return seal(out, &header, 0);
}

static int outcome(unsigned status)
{
	return status == LH_WIRE_OK ? 0 : status == LH_WIRE_FULL ? -ENOSPC : -EIO;
}

/* The most bytes that a request with a mask of lines can change: a REPLACE may change all that was there. */
static uint64_t most_changed(enum lh_wire_op op, unsigned status, lh_mask mask)
{
	if (status != LH_WIRE_OK || !is_change(op))
		return 0;
	return op == LH_WIRE_REPLACE ? LH_PAGE_SIZE : (uint64_t)LH_LINE_SIZE * lh__mask_count(mask);
}

int lh__wire_reply_read(const uint8_t *message, size_t size, enum lh_wire_op op, uint64_t sequence,
                        uint64_t page, lh_mask want, void *data, struct lh_wire_answer *answer)
{
	struct header header;
	struct lh_lineset set;

	if (read_message(message, size, &header, &set) || header.type != (op | LH_WIRE_REPLY) ||
	    header.sequence != sequence || header.page != page || header.status > LH_WIRE_FAILED ||
	    header.extra > most_changed(op, header.status, want))
		return -EPROTO;
	if ((set.lines != NULL) != (op == LH_WIRE_GET && header.status == LH_WIRE_OK))
		return -EPROTO;
	if (set.lines && (set.flags != 0 || (set.mask & ~want) != 0))
		return -EPROTO;
	if (set.lines) {
		lh__lines_scatter(data, set.lines, set.mask);
		lh__lines_zero(data, want & ~set.mask);
	}
	*answer = (struct lh_wire_answer){ .result = outcome(header.status),
		                           .held = set.lines ? set.mask : LH_MASK_NONE,
		                           .changed = (uint32_t)header.extra };
	return 0;
}
