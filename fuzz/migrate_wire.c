/*
 * migrate_wire.c - fuzzes what the two sides of a migration do with each other's bytes. The first byte says what
 * the rest is (hello, messages, JSON, both channels of a supply) and whether its checksums and sequence numbers
 * are put right first; the second, which channel, and who speaks. What is read must be what its writer writes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/migrate/channel_inside.h"
#include "service/migrate/plan.h"
#include "service/migrate/supply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX 65536u
#define ASKS 8u

#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

/* ---- checksums ---- */

static void put(uint8_t *at, uint32_t value)
{
	memcpy(at, &value, sizeof value);
}

static void mend_hello(uint8_t *bytes, size_t size)
{
	if (size < LH_MOVE_HELLO)
		return;
	put(bytes + 12, 0);
	put(bytes + 12, lh__crc32c(0, bytes, LH_MOVE_HELLO));
}

static void mend_message(uint8_t *bytes, size_t size, uint64_t sequence)
{
	uint8_t *body = bytes + LH_MOVE_HEADER;
	size_t length = size - LH_MOVE_HEADER;

	memcpy(bytes + 8, &sequence, sizeof sequence);
	put(bytes + 24, bytes[4] == LH_MOVE_GIVE ? 0 : lh__crc32c(0, body, length));
	if (bytes[4] == LH_MOVE_GIVE && length >= LH_LINESET_HEADER_SIZE)
		put(body + 20, lh__crc32c(lh__crc32c(0, body, 20), body + LH_LINESET_HEADER_SIZE,
		                          length - LH_LINESET_HEADER_SIZE));
	put(bytes + 28, lh__crc32c(0, bytes, 28));
}

static void mend_stream(uint8_t *bytes, size_t size)
{
	uint64_t sequence = 0;
	long length;

	while ((length = lh__move_size(bytes, size)) > 0 && (size_t)length <= size) {
		mend_message(bytes, (size_t)length, ++sequence);
		bytes += length;
		size -= (size_t)length;
	}
}

/* ---- what is read ---- */

static void read_hello(const uint8_t *bytes, size_t size)
{
	uint8_t again[LH_MOVE_HELLO];
	struct lh_move_hello hello;

	if (size < LH_MOVE_HELLO || lh__move_hello_read(bytes, &hello) != 0)
		return;
	lh__move_hello_write(again, &hello);
	MUST(memcmp(bytes, again, sizeof again) == 0);
}

static void read_give(const struct lh_move_message *message)
{
	static uint8_t page[LH_PAGE_SIZE], again[LH_MOVE_HEADER + LH_LINESET_SIZE_MAX];
	struct lh_lineset set;
	size_t size;

	if (lh__move_give_read(message, &set) != 0)
		return;
	memset(page, 0, sizeof page);
	lh__lineset_scatter(&set, page);
	size = lh__move_give_write(again, message->sequence, message->value, message->flags & LH_MOVE_SINCE,
	                           set.mask, page);
	MUST(size == LH_MOVE_HEADER + message->size);
	MUST(memcmp(again + LH_MOVE_HEADER, message->body, message->size) == 0);
}

static void check_message(const struct lh_move_message *message)
{
	uint8_t header[LH_MOVE_HEADER];

	lh__move_header_write(header, message);
	MUST(memcmp(header, message->body - LH_MOVE_HEADER, sizeof header) == 0);
	if (message->type == LH_MOVE_GIVE)
		read_give(message);
}

static void read_messages(const uint8_t *bytes, size_t size, enum lh_move_channel_kind kind, bool from_sender)
{
	struct lh_move_message message;
	uint64_t sequence = 0;
	const char *why;
	long length;

	while ((length = lh__move_size(bytes, size)) > 0 && (size_t)length <= size) {
		if (lh__move_read(bytes, (size_t)length, ++sequence, kind, from_sender, &message, &why)) {
			MUST(why);
			return;
		}
		check_message(&message);
		bytes += length;
		size -= (size_t)length;
	}
}

static void read_plan(const char *text, size_t size)
{
	static struct lh_plan plan, again;
	struct lh_error error;
	char *written;

	if (lh__plan_read(text, size, &plan, &error) != 0)
		return;
	written = lh__plan_write(&plan);
	MUST(written && lh__plan_read(written, strlen(written), &again, &error) == 0);
	MUST(memcmp(&plan, &again, sizeof plan) == 0);
	free(written);
}

static void read_json(const char *text, size_t size)
{
	struct lh_plan_status status, again;
	struct lh_error error;
	char *written;
	int result = lh__plan_answer_read(text, size, &error);

	MUST(result == 0 || result == -ECANCELED || result == -EPROTO);
	read_plan(text, size);
	if (lh__plan_status_read(text, size, &status) != 0)
		return;
	written = lh__plan_status_write(&status);
	MUST(written && lh__plan_status_read(written, strlen(written), &again) == 0);
	MUST(status.phase == again.phase && status.here == again.here && status.bytes == again.bytes);
	free(written);
}

/* ---- channels ---- */

/* A channel from which the bytes can be received, and then its end; what is sent is for *other. */
static struct lh_channel *channel_with(const uint8_t *bytes, size_t size, enum lh_move_channel_kind kind,
                                       bool sender, int *other)
{
	int pair[2], large = 1 << 20;
	struct lh_channel *channel;
	struct lh_error error;

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	MUST(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &large, sizeof large) == 0);
	MUST(size == 0 || send(pair[1], bytes, size, MSG_NOSIGNAL) == (ssize_t)size);
	shutdown(pair[1], SHUT_WR);
	*other = pair[1];
	MUST(lh__channel_make(pair[0], kind, sender, &channel, &error) == 0);
	return channel;
}

static void use_channel(const uint8_t *bytes, size_t size, enum lh_move_channel_kind kind, bool from_sender)
{
	struct lh_move_message message;
	int other, result;
	struct lh_channel *channel = channel_with(bytes, size, kind, !from_sender, &other);

	while ((result = lh__channel_next(channel, &message)) > 0)
		check_message(&message);
	MUST(result == -EPROTO || result == -ECONNRESET);
	MUST(lh__channel_next(channel, &message) == result);
	lh__channel_close(channel);
	close(other);
}

static void take_answers(struct lh_supply *supply, unsigned lane)
{
	static uint8_t page[LH_PAGE_SIZE];
	struct lh_supply_answer answer;
	uint64_t hints[LH_MOVE_HINTS_MAX];
	unsigned n = 0;

	while (supply->ops->next(supply, lane, &answer) > 0) {
		MUST(answer.page == n && (!answer.since || n % 2));
		lh__lines_copy(page, answer.data, answer.mask);
		MUST(supply->ops->hints(supply, hints, LH_MOVE_HINTS_MAX) <= LH_MOVE_HINTS_MAX);
		n++;
	}
	MUST(n <= ASKS);
}

/* The same on both channels: 8 pages were asked for, every other one with since. */
static void use_supply(const uint8_t *bytes, size_t size)
{
	struct lh_channel *channel[2];
	struct lh_supply *supply;
	int other[2];

	channel[0] = channel_with(bytes, size, LH_MOVE_FAULTS, false, &other[0]);
	channel[1] = channel_with(bytes, size, LH_MOVE_DATA, false, &other[1]);
	MUST(lh__supply_remote(channel, 2, &supply) == 0);
	for (unsigned lane = 0; lane < 2; lane++) {
		for (uint64_t page = 0; page < ASKS; page++)
			MUST(supply->ops->ask(supply, lane, page, page % 2) == 0);
		MUST(supply->ops->flush(supply, lane) == 0);
	}
	take_answers(supply, bytes[0] & 1);
	take_answers(supply, !(bytes[0] & 1));
	supply->ops->close(supply);
	close(other[0]);
	close(other[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum lh_move_channel_kind kind;
	uint8_t *bytes;

	if (size < 3 || size > INPUT_MAX)
		return 0;
	kind = LH_MOVE_CONTROL + (data[1] & 0x7f) % 3;
	bytes = malloc(size - 2);
	MUST(bytes);
	memcpy(bytes, data + 2, size - 2);
	if (data[0] & 8 && data[0] % 5 == 0)
		mend_hello(bytes, size - 2);
	else if (data[0] & 8)
		mend_stream(bytes, size - 2);
	switch (data[0] % 5) {
	case 0: read_hello(bytes, size - 2); break;
	case 1: read_messages(bytes, size - 2, kind, data[1] & 0x80); break;
	case 2: read_json((const char *)bytes, size - 2); break;
	case 3: use_channel(bytes, size - 2, kind, data[1] & 0x80); break;
	default: use_supply(bytes, size - 2); break;
	}
	free(bytes);
	return 0;
}
