/* migrate_wire.c - the messages of a migration: byte by byte as they are drawn, and nothing else is taken. */
#include "service/migrate/wire.h"

#include <errno.h>

#include "tap.h"

static const uint8_t id[LH_MOVE_ID] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

/* ---- hellos ---- */

static void hello_golden(void)
{
	static const uint8_t golden[LH_MOVE_HELLO] = {
		'L',  'I', 'N', 'E', 'M', 'O', 'V', 'E', 1, 0, 2,  0,  0x5e, 0x58, 0x8f,
		0x63, 1,   2,   3,   4,   5,   6,   7,   8, 9, 10, 11, 12,   13,   14,
		15,   16,  3,   0,   0,   0,   0,   0,   0, 0, 7,  0,  0,    0,
	};
	struct lh_move_hello hello = { LH_MOVE_VERSION, LH_MOVE_FAULTS, { 0 }, LH_MOVE_RUNNING, 7 }, back;
	uint8_t bytes[LH_MOVE_HELLO];

	memcpy(hello.id, id, sizeof id);
	lh__move_hello_write(bytes, &hello);
	if (!ok(memcmp(bytes, golden, sizeof bytes) == 0, "a hello is as drawn"))
		printf("# checksum %02x %02x %02x %02x\n", bytes[12], bytes[13], bytes[14], bytes[15]);
	is(lh__move_hello_read(bytes, &back), 0, "and is read");
	ok(back.version == 1 && back.what == LH_MOVE_FAULTS && back.phase == LH_MOVE_RUNNING &&
	           back.incarnation == 7 && memcmp(back.id, id, sizeof id) == 0,
	   "as it was written");
}

static void hello_flips(void)
{
	struct lh_move_hello hello = { LH_MOVE_VERSION, LH_MOVE_DATA, { 9 }, LH_MOVE_COPYING, 1 }, back;
	uint8_t bytes[LH_MOVE_HELLO];
	unsigned bit, taken = 0;

	lh__move_hello_write(bytes, &hello);
	for (bit = 0; bit < 8 * sizeof bytes; bit++) {
		bytes[bit / 8] ^= 1u << bit % 8;
		taken += lh__move_hello_read(bytes, &back) != -EPROTO;
		bytes[bit / 8] ^= 1u << bit % 8;
	}
	is(taken, 0, "no flipped bit of a hello goes unseen");
	hello.version = 2;
	lh__move_hello_write(bytes, &hello);
	is(lh__move_hello_read(bytes, &back), -EPROTONOSUPPORT, "another version is told from damage");
	ok(back.version == 2 && back.what == 0, "and which it is");
}

/* ---- messages ---- */

struct sample {
	struct lh_move_message message;
	enum lh_move_channel_kind kind;
	bool sender, receiver;
	const char *name;
};

static const uint8_t body[24] = "{\"body\": \"of 24 bytes.\"}";
static const uint8_t pages[16] = { 5, 0, 0, 0, 0, 0, 0, 0, 9, 1 };

static const struct sample samples[] = {
	{ { LH_MOVE_ASK, LH_MOVE_SINCE, 1, 77, NULL, 0 }, LH_MOVE_DATA, false, true, "ASK" },
	{ { LH_MOVE_ASK, 0, 1, 77, NULL, 0 }, LH_MOVE_FAULTS, false, true, "ASK on faults" },
	{ { LH_MOVE_HINT, 0, 1, 77, pages, 16 }, LH_MOVE_FAULTS, true, false, "HINT" },
	{ { LH_MOVE_PLAN, 0, 1, 0, body, 24 }, LH_MOVE_CONTROL, true, true, "PLAN" },
	{ { LH_MOVE_PAGES, LH_MOVE_ZERO, 1, 0, body, 24 }, LH_MOVE_CONTROL, true, false, "PAGES" },
	{ { LH_MOVE_ROUND, 0, 1, 3, NULL, 0 }, LH_MOVE_CONTROL, true, true, "ROUND" },
	{ { LH_MOVE_STOP, 0, 1, 0, NULL, 0 }, LH_MOVE_CONTROL, true, false, "STOP" },
	{ { LH_MOVE_DEVICE, 0, 1, 100, body, 24 }, LH_MOVE_CONTROL, true, false, "DEVICE" },
	{ { LH_MOVE_GO, 0, 1, 0, NULL, 0 }, LH_MOVE_CONTROL, true, true, "GO" },
	{ { LH_MOVE_CANCEL, 0, 1, 0, NULL, 0 }, LH_MOVE_CONTROL, true, false, "CANCEL" },
	{ { LH_MOVE_ALIVE, 0, 1, 0, NULL, 0 }, LH_MOVE_CONTROL, true, true, "ALIVE" },
	{ { LH_MOVE_RUNS, 0, 1, 12345, NULL, 0 }, LH_MOVE_CONTROL, false, true, "RUNS" },
	{ { LH_MOVE_FAILED, 0, 1, 0, body, 24 }, LH_MOVE_CONTROL, true, true, "FAILED" },
	{ { LH_MOVE_STATUS, 0, 1, 0, body, 24 }, LH_MOVE_CONTROL, false, true, "STATUS" },
	{ { LH_MOVE_DONE, 0, 1, 0, body, 24 }, LH_MOVE_CONTROL, false, true, "DONE" },
};

static size_t write_message(uint8_t *out, const struct lh_move_message *message)
{
	lh__move_header_write(out, message);
	if (message->size)
		memcpy(out + LH_MOVE_HEADER, message->body, message->size);
	return LH_MOVE_HEADER + message->size;
}

/* How it is read; GIVE is read to the end. */
static int read_message(const uint8_t *in, size_t size, uint64_t sequence, enum lh_move_channel_kind kind,
                        bool from_sender)
{
	struct lh_move_message message;
	struct lh_lineset set;
	const char *why = NULL;
	int result = lh__move_read(in, size, sequence, kind, from_sender, &message, &why);

	if (result == 0 && message.type == LH_MOVE_GIVE)
		return lh__move_give_read(&message, &set);
	if ((result != 0) != (why != NULL))
		return -EIO;
	return result;
}

static unsigned count_taken_flips(uint8_t *bytes, size_t size, enum lh_move_channel_kind kind,
                                  bool from_sender)
{
	unsigned bit, taken = 0;

	for (bit = 0; bit < 8 * size; bit++) {
		bytes[bit / 8] ^= 1u << bit % 8;
		taken += read_message(bytes, size, 1, kind, from_sender) != -EPROTO;
		bytes[bit / 8] ^= 1u << bit % 8;
	}
	return taken;
}

static void message_golden(void)
{
	static const uint8_t golden[] = {
		48, 0, 0, 0, 3, 0, 0, 0, 2,    0,    0,    0,    0,    0,    0,    0,
		77, 0, 0, 0, 0, 0, 0, 0, 0xca, 0x6e, 0x7c, 0x15, 0xf3, 0xd1, 0xa9, 0x74,
		5,  0, 0, 0, 0, 0, 0, 0, 9,    1,    0,    0,    0,    0,    0,    0,
	};
	struct lh_move_message message = { LH_MOVE_HINT, 0, 2, 77, pages, sizeof pages };
	uint8_t bytes[64];

	is(write_message(bytes, &message), sizeof golden, "a message has its size");
	if (!ok(memcmp(bytes, golden, sizeof golden) == 0, "and is as drawn"))
		for (unsigned i = 24; i < 32; i++)
			printf("# %02x\n", bytes[i]);
	is(lh__move_size(bytes, 3), 0, "three bytes do not tell the size");
	is(lh__move_size(bytes, 4), sizeof golden, "four do");
	bytes[0] = 31;
	is(lh__move_size(bytes, 4), -EPROTO, "a size below the header's is impossible");
	memcpy(bytes, "\x21\x00\x04\x00", 4);
	is(lh__move_size(bytes, 4), -EPROTO, "and one above the longest");
	memcpy(bytes, "\x20\x00\x04\x00", 4);
	is(lh__move_size(bytes, 4), LH_MOVE_MESSAGE_MAX, "the longest is not");
}

static void message_types(void)
{
	for (unsigned i = 0; i < sizeof samples / sizeof *samples; i++) {
		const struct sample *sample = &samples[i];
		uint8_t bytes[128];
		size_t size = write_message(bytes, &sample->message);
		bool sides = true, kinds = true;

		sides = (read_message(bytes, size, 1, sample->kind, true) == 0) == sample->sender &&
		        (read_message(bytes, size, 1, sample->kind, false) == 0) == sample->receiver;
		ok(sides, "%s comes from the side that may send it", sample->name);
		for (unsigned kind = LH_MOVE_CONTROL; kind <= LH_MOVE_DATA; kind++)
			if ((kind == LH_MOVE_CONTROL) != (sample->kind == LH_MOVE_CONTROL))
				kinds &= read_message(bytes, size, 1, kind, sample->sender) == -EPROTO;
		ok(kinds, "%s stays on its channel", sample->name);
		is(read_message(bytes, size, 2, sample->kind, sample->sender), -EPROTO,
		   "%s out of sequence is refused", sample->name);
		is(count_taken_flips(bytes, size, sample->kind, sample->sender), 0,
		   "no flipped bit of %s goes unseen", sample->name);
	}
}

/* Well-formed, with right checksums, and wrong. */
static void message_rules(void)
{
	static const struct sample wrong[] = {
		{ { 0, 0, 1, 0, NULL, 0 }, LH_MOVE_CONTROL, true, true, "type 0" },
		{ { 4, 0, 1, 0, NULL, 0 }, LH_MOVE_DATA, true, true, "type 4" },
		{ { 255, 0, 1, 0, NULL, 0 }, LH_MOVE_CONTROL, true, true, "type 255" },
		{ { LH_MOVE_DONE + 1, 0, 1, 0, NULL, 0 }, LH_MOVE_CONTROL, true, true, "a type too many" },
		{ { LH_MOVE_ASK, 2, 1, 0, NULL, 0 }, LH_MOVE_DATA, true, true, "ASK with unknown flags" },
		{ { LH_MOVE_ASK, 0, 1, LH_PAGE_NUMBER_MAX + 1, NULL, 0 },
		  LH_MOVE_DATA,
		  true,
		  true,
		  "ASK for too much" },
		{ { LH_MOVE_ASK, 0, 1, 0, body, 8 }, LH_MOVE_DATA, true, true, "ASK with a body" },
		{ { LH_MOVE_HINT, 0, 1, 0, NULL, 0 }, LH_MOVE_FAULTS, true, true, "an empty HINT" },
		{ { LH_MOVE_HINT, 0, 1, 0, body, 12 }, LH_MOVE_FAULTS, true, true, "half a HINT" },
		{ { LH_MOVE_HINT, 0, 1, 0, body, 24 }, LH_MOVE_FAULTS, true, true, "HINT of no page" },
		{ { LH_MOVE_HINT, 0, 1, 0, pages, 16 }, LH_MOVE_DATA, true, true, "HINT on data" },
		{ { LH_MOVE_PLAN, 0, 1, 0, NULL, 0 }, LH_MOVE_CONTROL, true, true, "an empty PLAN" },
		{ { LH_MOVE_PLAN, 0, 1, 1, body, 24 }, LH_MOVE_CONTROL, true, true, "PLAN with a value" },
		{ { LH_MOVE_PAGES, 0, 1, 0, body, 24 }, LH_MOVE_CONTROL, true, true, "PAGES of no set" },
		{ { LH_MOVE_PAGES, 3, 1, 0, body, 24 }, LH_MOVE_CONTROL, true, true, "PAGES of two sets" },
		{ { LH_MOVE_PAGES, 1, 1, 0, body, 23 }, LH_MOVE_CONTROL, true, true, "half a run" },
		{ { LH_MOVE_DEVICE, 0, 1, 23, body, 24 }, LH_MOVE_CONTROL, true, true, "too much DEVICE" },
		{ { LH_MOVE_DEVICE, 0, 1, 23, NULL, 0 }, LH_MOVE_CONTROL, true, true, "an empty DEVICE" },
		{ { LH_MOVE_GO, 0, 1, 0, body, 1 }, LH_MOVE_CONTROL, true, true, "GO with a body" },
		{ { LH_MOVE_ALIVE, 1, 1, 0, NULL, 0 }, LH_MOVE_CONTROL, true, true, "ALIVE with flags" },
	};

	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		uint8_t bytes[128];
		size_t size = write_message(bytes, &wrong[i].message);

		ok(read_message(bytes, size, 1, wrong[i].kind, true) == -EPROTO &&
		           read_message(bytes, size, 1, wrong[i].kind, false) == -EPROTO,
		   "refused: %s", wrong[i].name);
	}
}

/* ---- GIVE ---- */

static void give(void)
{
	static const lh_mask masks[] = { 0, 1, LH_MASK_ALL, 0x8000000000000001, 0xff00 };
	static uint8_t bytes[LH_MOVE_HEADER + LH_LINESET_SIZE_MAX];
	uint8_t page[LH_PAGE_SIZE], back[LH_PAGE_SIZE];

	for (unsigned i = 0; i < sizeof page; i++)
		page[i] = (uint8_t)(i * 7 + i / 64 + 1);
	for (unsigned i = 0; i < 2 * sizeof masks / sizeof *masks; i++) {
		bool since = i % 2;
		lh_mask mask = masks[i / 2];
		size_t size = lh__move_give_write(bytes, 1, 99, since, mask, page);
		struct lh_move_message message;
		struct lh_lineset set = { 0 };
		const char *why;

		ok(lh__move_read(bytes, size, 1, LH_MOVE_DATA, true, &message, &why) == 0 &&
		           lh__move_give_read(&message, &set) == 0 && set.page == 99 && set.mask == mask &&
		           size == LH_MOVE_HEADER + lh__lineset_size(mask),
		   "a GIVE of mask %llx is read", (unsigned long long)mask);
		memset(back, 0xee, sizeof back);
		lh__lineset_scatter(&set, back);
		ok((lh__page_diff(back, page) & mask) == 0, "with its lines");
		if (i < 8)
			is(count_taken_flips(bytes, size, LH_MOVE_DATA, true), 0,
			   "no flipped bit of it goes unseen");
	}
}

/* A GIVE whose parts are sound, and contradict each other. */
static void give_contradicts(void)
{
	uint8_t bytes[512], page[LH_PAGE_SIZE] = { 1 };
	struct lh_move_message message = { LH_MOVE_GIVE, 0, 1, 99, NULL, lh__lineset_size(1) };

	lh__move_header_write(bytes, &message);
	lh__lineset_encode(bytes + LH_MOVE_HEADER, 99, 1, LH_LINESET_REPLACE, page);
	is(read_message(bytes, LH_MOVE_HEADER + message.size, 1, LH_MOVE_DATA, true), 0, "one made by hand");
	lh__lineset_encode(bytes + LH_MOVE_HEADER, 98, 1, LH_LINESET_REPLACE, page);
	is(read_message(bytes, LH_MOVE_HEADER + message.size, 1, LH_MOVE_DATA, true), -EPROTO,
	   "refused: for another page");
	lh__lineset_encode(bytes + LH_MOVE_HEADER, 99, 1, 0, page);
	is(read_message(bytes, LH_MOVE_HEADER + message.size, 1, LH_MOVE_DATA, true), -EPROTO,
	   "refused: whole, and the line set is not");
	message.flags = LH_MOVE_SINCE;
	lh__move_header_write(bytes, &message);
	lh__lineset_encode(bytes + LH_MOVE_HEADER, 99, 1, LH_LINESET_REPLACE, page);
	is(read_message(bytes, LH_MOVE_HEADER + message.size, 1, LH_MOVE_DATA, true), -EPROTO,
	   "refused: since, and the line set replaces");
	message.size += LH_LINE_SIZE;
	lh__move_header_write(bytes, &message);
	lh__lineset_encode(bytes + LH_MOVE_HEADER, 99, 1, 0, page);
	is(read_message(bytes, LH_MOVE_HEADER + message.size, 1, LH_MOVE_DATA, true), -EPROTO,
	   "refused: more than the line set");
}

int main(void)
{
	hello_golden();
	hello_flips();
	message_golden();
	message_types();
	message_rules();
	give();
	give_contradicts();
	return done();
}
