/*
 * migrate_wire.c - fuzzes what the two sides of a migration do with each other's bytes. The first byte says
 * which part they are given to, and whether checksums and sequence numbers are put right first:
 *
 *     hellos, single messages, line sets     by themselves
 *     plans, answers, statuses               as JSON
 *     a supply                               as what a sender says on the channel of faults
 *     a channel of control                   as what the other side says, at either end
 *
 * Whatever comes is an error or right: an answer that is delivered is for the page that was asked for, and
 * its lines outside the mask are zero unless it is relative.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/migrate/channel_inside.h"
#include "service/migrate/plan.h"
#include "service/migrate/supply.h"

#define FUZZ_MAX 65536u
#define ASKS 8u
#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

/* ---- mending ---- */

static void put32(uint8_t *at, uint32_t value)
{
	memcpy(at, &value, sizeof value);
}

static void mend_message(uint8_t *message, size_t size, uint64_t sequence)
{
	uint8_t *set = message + LH_MOVE_HEADER;

	memcpy(message + 8, &sequence, sizeof sequence);
	put32(message + 24, 0);
	if (message[4] != LH_MOVE_GIVE)
		put32(message + 24, lh__crc32c(0, set, size - LH_MOVE_HEADER));
	else if (size >= LH_MOVE_HEADER + LH_LINESET_HEADER_SIZE)
		put32(set + 20, lh__crc32c(lh__crc32c(0, set, 20), set + LH_LINESET_HEADER_SIZE,
		                           size - LH_MOVE_HEADER - LH_LINESET_HEADER_SIZE));
	put32(message + 28, lh__crc32c(0, message, 28));
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

/* ---- by themselves ---- */

static void hello(uint8_t *bytes, size_t size, bool mend)
{
	uint8_t in[LH_MOVE_HELLO] = { 0 }, back[LH_MOVE_HELLO];
	struct lh_move_hello read;

	memcpy(in, bytes, size < sizeof in ? size : sizeof in);
	if (mend) {
		memcpy(in, "LINEMOVE", 8);
		put32(in + 12, 0);
		put32(in + 12, lh__crc32c(0, in, sizeof in));
	}
	if (lh__move_hello_read(in, &read) == 0) {
		lh__move_hello_write(back, &read);
		MUST(memcmp(in, back, sizeof in) == 0);
	}
}

static void message(const uint8_t *bytes, size_t size)
{
	long length = lh__move_size(bytes, size);
	uint8_t page[LH_PAGE_SIZE];

	if (length <= 0 || (size_t)length > size)
		return;
	for (unsigned i = 0; i < 6; i++) {
		struct lh_move_message read;
		struct lh_lineset set;
		const char *why = NULL;
		int result =
			lh__move_read(bytes, (size_t)length, 1, LH_MOVE_CONTROL + i / 2, i % 2, &read, &why);

		MUST((result == 0) == (why == NULL));
		if (result)
			continue;
		MUST(read.body + read.size == bytes + length);
		if (read.type == LH_MOVE_GIVE && lh__move_give_read(&read, &set) == 0)
			lh__lineset_scatter(&set, page);
	}
}

static void json(const char *text, size_t size)
{
	struct lh_plan_status status;
	struct lh_error error;
	struct lh_plan plan, again;
	char *back;

	(void)!lh__plan_answer_read(text, size, &error);
	(void)!lh__plan_status_read(text, size, &status);
	if (lh__plan_read(text, size, &plan, &error) != 0)
		return;
	back = lh__plan_write(&plan);
	MUST(back && lh__plan_read(back, strlen(back), &again, &error) == 0);
	MUST(memcmp(&plan, &again, sizeof plan) == 0);
	free(back);
}

/* ---- a peer ---- */

/* A channel that receives the bytes, and then the end. */
static struct lh_channel *channel_with(const uint8_t *bytes, size_t size, enum lh_move_channel_kind kind,
                                       bool sender, int *other)
{
	struct lh_channel *channel;
	int pair[2], large = 1 << 20;

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	MUST(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &large, sizeof large) == 0);
	MUST(size == 0 || send(pair[1], bytes, size, MSG_NOSIGNAL) == (ssize_t)size);
	shutdown(pair[1], SHUT_WR);
	MUST(lh__channel_make(pair[0], kind, sender, &channel, NULL) == 0);
	*other = pair[1];
	return channel;
}

static void check_answer(const struct lh_supply_answer *answer, uint64_t page)
{
	static const uint8_t zero[LH_LINE_SIZE];
	const uint8_t *data = answer->data;
	unsigned i;

	MUST(answer->page == page && (!answer->since || page % 2));
	LH_MASK_EACH(answer->since ? LH_MASK_NONE : ~answer->mask, i)
		MUST(memcmp(data + LH_LINE_SIZE * i, zero, LH_LINE_SIZE) == 0);
}

/* Pages 1, 2... are asked for, the odd ones relative. */
static void supply(const uint8_t *bytes, size_t size)
{
	struct lh_channel *channel[2];
	struct lh_supply *supply;
	struct lh_supply_answer answer;
	uint64_t hints[LH_MOVE_HINTS_MAX], got = 0;
	int other[2], result;

	channel[0] = channel_with(bytes, size, LH_MOVE_FAULTS, false, &other[0]);
	channel[1] = channel_with(bytes, 0, LH_MOVE_DATA, false, &other[1]);
	MUST(lh__supply_remote(channel, 2, &supply) == 0);
	for (uint64_t page = 1; page <= ASKS; page++)
		MUST(supply->ops->ask(supply, 0, page, page % 2) == 0);
	while ((result = supply->ops->next(supply, 0, &answer)) == 1) {
		size_t n = supply->ops->hints(supply, hints, LH_MOVE_HINTS_MAX);

		check_answer(&answer, ++got);
		MUST(got <= ASKS && n <= LH_MOVE_HINTS_MAX);
		for (size_t i = 0; i < n; i++)
			MUST(hints[i] <= LH_PAGE_NUMBER_MAX);
	}
	MUST(result == -EPROTO || result == -ECONNRESET);
	MUST(supply->ops->next(supply, 1, &answer) == result);
	supply->ops->close(supply);
	close(other[0]);
	close(other[1]);
}

static void control(const uint8_t *bytes, size_t size, bool sender)
{
	struct lh_move_message read;
	int other, result;
	struct lh_channel *channel = channel_with(bytes, size, LH_MOVE_CONTROL, sender, &other);

	while ((result = lh__channel_wait(channel, &read, 100)) == 1)
		MUST(read.type >= LH_MOVE_PLAN && read.type <= LH_MOVE_DONE && read.type != LH_MOVE_ALIVE &&
		     read.size <= LH_MOVE_BODY_MAX);
	MUST(result == -EPROTO || result == -ECONNRESET);
	MUST(lh__channel_next(channel, &read) == result && *lh__channel_why(channel));
	lh__channel_close(channel);
	close(other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[FUZZ_MAX];
	unsigned part;
	bool mend;

	if (size < 1 || size > FUZZ_MAX)
		return 0;
	part = data[0] >> 1;
	mend = data[0] & 1;
	size--;
	memcpy(bytes, data + 1, size);
	if (mend && part % 6 != 0 && part % 6 != 2)
		mend_stream(bytes, size);
	switch (part % 6) {
	case 0: hello(bytes, size, mend); break;
	case 1: message(bytes, size); break;
	case 2: json((const char *)bytes, size); break;
	case 3: supply(bytes, size); break;
	case 4: control(bytes, size, true); break;
	case 5: control(bytes, size, false); break;
	}
	return 0;
}
