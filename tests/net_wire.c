/*
 * net_wire.c - messages: what is written is read back, and whatever is damaged is refused and delivers
 * nothing.
 */
#include <errno.h>

#include "net/data/wire.h"
#include "tap.h"

static uint8_t message[LH_WIRE_MESSAGE_MAX + 64];
static unsigned char page[LH_PAGE_SIZE];

static void fill(unsigned char *at, unsigned seed)
{
	for (size_t i = 0; i < LH_PAGE_SIZE; i++)
		at[i] = (unsigned char)(seed * 131 + i * 7 + i / 64);
}

static void hello_round_trip(void)
{
	struct lh_wire_hello out = { .version = LH_WIRE_VERSION,
		                     .what = LH_WIRE_ATTACH,
		                     .channel = LH_WIRE_RING,
		                     .region = UINT64_C(0x123456789abcdef0),
		                     .generation = 77,
		                     .token = "0123456789abcde" };
	uint8_t bytes[LH_WIRE_HELLO];
	struct lh_wire_hello in;
	unsigned bit, accepted = 0;

	lh__wire_hello_write(bytes, &out);
	ok(memcmp(bytes, "LINEHOME\3\0\2\0", 12) == 0,
	   "a hello begins with the magic, the version and the action");
	ok(lh__wire_hello_read(bytes, &in) == 0 && memcmp(&in, &out, sizeof in) == 0,
	   "a hello is read back as written");
	for (bit = 0; bit < 8 * sizeof bytes; bit++) {
		bytes[bit / 8] ^= 1u << bit % 8;
		accepted += lh__wire_hello_read(bytes, &in) == 0;
		bytes[bit / 8] ^= 1u << bit % 8;
	}
	is(accepted, 0, "a hello with any one bit wrong is refused");
	out.version = 4;
	lh__wire_hello_write(bytes, &out);
	ok(lh__wire_hello_read(bytes, &in) == -EPROTONOSUPPORT && in.version == 4 && in.region == 0,
	   "another version is told apart from nonsense, and nothing else of it is read");
}

static void names(void)
{
	static const char *const bad[] = { "", ".", ".a", "a/b", "a b", "a\xff", "a:b" };
	char longest[LH_WIRE_NAME_MAX + 2];
	unsigned i, refused = 0;

	memset(longest, 'n', sizeof longest);
	longest[LH_WIRE_NAME_MAX + 1] = '\0';
	ok(!lh__wire_is_name(longest), "a name of %u bytes is none", LH_WIRE_NAME_MAX + 1);
	longest[LH_WIRE_NAME_MAX] = '\0';
	ok(lh__wire_is_name(longest) && lh__wire_is_name("A.Z_a-z09"), "one of %u is, and all its letters",
	   LH_WIRE_NAME_MAX);
	for (i = 0; i < sizeof bad / sizeof bad[0]; i++)
		refused += !lh__wire_is_name(bad[i]);
	is(refused, i, "others are none");
}

/* Gives the hello and the name, size and letters of which are as they stand, right checksums. */
static void seal_hello(uint8_t *bytes)
{
	uint16_t size;
	uint32_t crc;

	memcpy(&size, bytes + 50, sizeof size);
	crc = lh__crc32c(0, bytes + LH_WIRE_HELLO, size <= LH_WIRE_NAME_MAX ? size : 0);
	memcpy(bytes + 52, &crc, sizeof crc);
	memset(bytes + 12, 0, sizeof crc);
	crc = lh__crc32c(0, bytes, LH_WIRE_HELLO);
	memcpy(bytes + 12, &crc, sizeof crc);
}

static bool reads(const uint8_t *bytes, struct lh_wire_hello *hello)
{
	int size = lh__wire_hello_read(bytes, hello);

	return size == 0 || (size > 0 && lh__wire_hello_read_name(bytes, hello) == 0);
}

static void named_hello(void)
{
	struct lh_wire_hello out = { .version = LH_WIRE_VERSION,
		                     .what = LH_WIRE_OPEN_NAMED,
		                     .channel = LH_WIRE_STREAM,
		                     .name = "cart.7" },
			     in;
	uint8_t bytes[LH_WIRE_HELLO + LH_WIRE_NAME_MAX] = { 0 };
	unsigned bit, accepted = 0;

	is(lh__wire_hello_write(bytes, &out), LH_WIRE_HELLO + 6, "a hello with a name is longer by the name");
	ok(bytes[50] == 6 && memcmp(bytes + LH_WIRE_HELLO, "cart.7", 6) == 0, "which stands behind it");
	is(lh__wire_hello_read(bytes, &in), 6, "how long it is is known from the hello");
	ok(in.name[0] == '\0' && lh__wire_hello_read_name(bytes, &in) == 0 &&
	           memcmp(&in, &out, sizeof in) == 0,
	   "both are read back as written");
	for (bit = 0; bit < 8 * (LH_WIRE_HELLO + 6); bit++) {
		bytes[bit / 8] ^= 1u << bit % 8;
		accepted += reads(bytes, &in);
		bytes[bit / 8] ^= 1u << bit % 8;
	}
	is(accepted, 0, "with any one bit wrong they are refused");
	bytes[50] = LH_WIRE_NAME_MAX + 1;
	seal_hello(bytes);
	is(lh__wire_hello_read(bytes, &in), -EPROTO, "a name that is too long is refused before it has come");
	bytes[50] = 7;
	seal_hello(bytes);
	ok(!reads(bytes, &in) && in.name[0] == '\0', "so is one with a zero in it");
	bytes[LH_WIRE_HELLO + 6] = '/';
	seal_hello(bytes);
	ok(!reads(bytes, &in) && in.name[0] == '\0', "and one with another letter");
	bytes[LH_WIRE_HELLO + 6] = 'x';
	seal_hello(bytes);
	ok(reads(bytes, &in) && strcmp(in.name, "cart.7x") == 0, "while these checksums are right");
	bytes[56] = 1;
	seal_hello(bytes);
	ok(!reads(bytes, &in), "a byte that must be zero and is not is refused");
}

static void sizes(void)
{
	uint8_t bytes[4] = { LH_WIRE_HEADER, 0, 0, 0 };

	is(lh__wire_size(bytes, 3), 0, "three bytes do not tell a size");
	is(lh__wire_size(bytes, 4), LH_WIRE_HEADER, "the smallest message is a header");
	bytes[0]--;
	is(lh__wire_size(bytes, 4), -EPROTO, "less than a header is impossible");
	memcpy(bytes, &(uint32_t){ LH_WIRE_MESSAGE_MAX }, 4);
	is(lh__wire_size(bytes, 4), LH_WIRE_MESSAGE_MAX, "the largest message has all lines");
	memcpy(bytes, &(uint32_t){ LH_WIRE_MESSAGE_MAX + 1 }, 4);
	is(lh__wire_size(bytes, 4), -EPROTO, "more is impossible");
}

static void request_round_trip(enum lh_wire_op op, lh_mask mask, const char *name)
{
	struct lh_wire_request request;
	unsigned char back[LH_PAGE_SIZE], want[LH_PAGE_SIZE];
	const char *why;
	size_t size, bit;
	unsigned accepted = 0;

	fill(page, op);
	size = lh__wire_request_write(message, op, 5, 4711, mask, page);
	ok(lh__wire_size(message, size) == (long)size &&
	           lh__wire_request_read(message, size, 5, &request, &why) == 0 && request.op == op &&
	           request.page == 4711 && request.sequence == 5 && request.number == (request.lines ? 5 : 0),
	   "%s is read back", name);
	if (request.lines) {
		memset(back, 0, sizeof back);
		memset(want, 0, sizeof want);
		lh__lines_scatter(back, request.lines, request.mask);
		lh__lines_copy(want, page, mask);
		ok(request.mask == mask && memcmp(back, want, sizeof back) == 0, "%s: with its lines", name);
	}
	for (bit = 0; bit < 8 * size; bit++) {
		message[bit / 8] ^= 1u << bit % 8;
		accepted += lh__wire_request_read(message, size, 5, &request, &why) == 0;
		message[bit / 8] ^= 1u << bit % 8;
	}
	is(accepted, 0, "%s with any one bit wrong is refused", name);
	for (bit = 0; bit < size; bit++)
		accepted += lh__wire_request_read(message, bit, 5, &request, &why) == 0;
	is(accepted, 0, "%s cut short anywhere is refused", name);
	ok(lh__wire_request_read(message, size, 6, &request, &why) == -EPROTO && strstr(why, "replayed"),
	   "%s once more is a replay", name);
	ok(lh__wire_request_read(message, size, 4, &request, &why) == -EPROTO && strstr(why, "sequence"),
	   "%s too early is out of sequence", name);
	lh__wire_renumber(message, 9);
	ok(lh__wire_request_read(message, size, 9, &request, &why) == 0 &&
	           request.number == (request.lines ? 5 : 0),
	   "%s can be renumbered, and stays the same change", name);
}

static void replies(lh_mask want, lh_mask held)
{
	struct lh_wire_request request = { .op = LH_WIRE_GET, .sequence = 8, .page = 99, .mask = want };
	unsigned char got[LH_PAGE_SIZE], expected[LH_PAGE_SIZE];
	struct lh_wire_answer answer = { 1, 0, 0 };
	size_t size, bit;
	unsigned accepted = 0;

	fill(page, 3);
	size = lh__wire_reply_write(message, &request, LH_WIRE_OK, held, page);
	memset(got, 0xee, sizeof got);
	memcpy(expected, got, sizeof got);
	for (bit = 0; bit < 8 * size; bit++) {
		message[bit / 8] ^= 1u << bit % 8;
		accepted += lh__wire_reply_read(message, size, LH_WIRE_GET, 8, 99, want, got, &answer) == 0;
		message[bit / 8] ^= 1u << bit % 8;
	}
	ok(accepted == 0 && memcmp(got, expected, sizeof got) == 0,
	   "a reply with any one bit wrong is refused and delivers nothing (%u lines)", lh__mask_count(held));
	ok(lh__wire_reply_read(message, size, LH_WIRE_GET, 9, 99, want, got, &answer) == -EPROTO &&
	           lh__wire_reply_read(message, size, LH_WIRE_GET, 8, 98, want, got, &answer) == -EPROTO &&
	           lh__wire_reply_read(message, size, LH_WIRE_PUT, 8, 99, want, got, &answer) == -EPROTO &&
	           (held == 0 || lh__wire_reply_read(message, size, LH_WIRE_GET, 8, 99, want & ~held, got,
	                                             &answer) == -EPROTO) &&
	           memcmp(got, expected, sizeof got) == 0,
	   "a reply to another request, or with lines that were not wanted, delivers nothing");
	lh__lines_zero(expected, want);
	lh__lines_copy(expected, page, held);
	ok(lh__wire_reply_read(message, size, LH_WIRE_GET, 8, 99, want, got, &answer) == 0 &&
	           answer.held == held && answer.result == 0 && memcmp(got, expected, sizeof got) == 0,
	   "a reply delivers the lines that are held, zeroes for the others wanted, and touches no more");
}

static void reply_in_place(void)
{
	struct lh_wire_request request = { .op = LH_WIRE_GET, .sequence = 1, .page = 1, .mask = LH_MASK_ALL };
	static uint8_t other[LH_WIRE_MESSAGE_MAX];
	static const lh_mask masks[] = { LH_MASK_ALL, 0, 1, UINT64_C(0xaaaaaaaaaaaaaaaa), UINT64_C(1) << 63 };
	unsigned i, same = 0;

	fill(page, 4);
	for (i = 0; i < sizeof masks / sizeof masks[0]; i++) {
		size_t size = lh__wire_reply_write(other, &request, LH_WIRE_OK, masks[i], page), in_place;

		memcpy(lh__wire_reply_page(message), page, sizeof page);
		in_place = lh__wire_reply_write(message, &request, LH_WIRE_OK, masks[i],
		                                lh__wire_reply_page(message));
		same += size == in_place && memcmp(message, other, size) == 0;
	}
	is(same, i, "a reply made where its page stands is the same");
}

static void outcomes(void)
{
	struct lh_wire_request request = { .op = LH_WIRE_PUT, .sequence = 1, .page = 1 };
	struct lh_wire_answer answer;
	size_t size;

	size = lh__wire_reply_write(message, &request, LH_WIRE_FULL, 0, NULL);
	ok(lh__wire_reply_read(message, size, LH_WIRE_PUT, 1, 1, 0, NULL, &answer) == 0 &&
	           answer.result == -ENOSPC,
	   "full is ENOSPC");
	size = lh__wire_reply_write(message, &request, LH_WIRE_FAILED, 0, NULL);
	ok(lh__wire_reply_read(message, size, LH_WIRE_PUT, 1, 1, 0, NULL, &answer) == 0 &&
	           answer.result == -EIO,
	   "failed is EIO");
	size = lh__wire_reply_write(message, &request, LH_WIRE_VERSION_IS, 0, NULL);
	is(lh__wire_reply_read(message, size, LH_WIRE_PUT, 1, 1, 0, NULL, &answer), -EPROTO,
	   "a status that no request has is refused");
}

static int read_change(enum lh_wire_op op, lh_mask mask, enum lh_wire_status status, uint32_t changed,
                       struct lh_wire_answer *answer)
{
	struct lh_wire_request request = { .op = op, .sequence = 7, .page = 2 };
	size_t size = lh__wire_reply_write_change(message, &request, status, changed);

	return lh__wire_reply_read(message, size, op, 7, 2, mask, NULL, answer);
}

static void changed_bytes(void)
{
	struct lh_wire_answer answer = { 1, 2, 3 };

	ok(read_change(LH_WIRE_PUT, 7, LH_WIRE_OK, 192, &answer) == 0 && answer.changed == 192 &&
	           answer.result == 0,
	   "the reply to a PUT says how many bytes it changed");
	ok(read_change(LH_WIRE_PUT, 7, LH_WIRE_OK, 193, &answer) == -EPROTO && answer.changed == 192,
	   "more than its lines have is refused");
	ok(read_change(LH_WIRE_REPLACE, 7, LH_WIRE_OK, 4096, &answer) == 0 && answer.changed == 4096,
	   "a REPLACE may change the whole page");
	is(read_change(LH_WIRE_REPLACE, 7, LH_WIRE_OK, 4097, &answer), -EPROTO, "and no more than that");
	is(read_change(LH_WIRE_DROP, 0, LH_WIRE_OK, 1, &answer), -EPROTO, "a DROP says nothing of it");
	ok(read_change(LH_WIRE_PUT, 7, LH_WIRE_FULL, 5, &answer) == 0 && answer.changed == 0,
	   "what failed has changed nothing");
}

int main(void)
{
	hello_round_trip();
	names();
	named_hello();
	sizes();
	request_round_trip(LH_WIRE_GET, LH_MASK_ALL, "GET");
	request_round_trip(LH_WIRE_DROP, 0, "DROP");
	request_round_trip(LH_WIRE_PUT, LH_MASK_ALL, "PUT of a page");
	request_round_trip(LH_WIRE_PUT, UINT64_C(0x8000000000000011), "PUT of three lines");
	request_round_trip(LH_WIRE_REPLACE, 0, "REPLACE by nothing");
	replies(LH_MASK_ALL, LH_MASK_ALL);
	replies(LH_MASK_ALL, UINT64_C(0xf00000000000000f));
	replies(UINT64_C(0xff), 0);
	reply_in_place();
	outcomes();
	changed_bytes();
	return done();
}
