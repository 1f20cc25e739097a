/*
 * wire_server.c - fuzzes what a memory node does with the bytes of a client: hello, framing, messages. The
 * first byte says whether checksums and sequence numbers are put right first. Whatever is carried out must
 * have a reply that a client accepts; the memory in use must fit the limit.
 */
#include "wire.h"

#include "net/data/stream.h"
#include "service/serve/inside.h"

#define LIMIT (32 * LH_PAGE_SIZE)

static void serve_one(struct connection *connection, const uint8_t *message, size_t size, uint64_t *sequence)
{
	static uint8_t reply[LH_WIRE_MESSAGE_MAX];
	unsigned char page[LH_PAGE_SIZE];
	struct lh_wire_request request;
	struct lh_wire_answer answer;
	const char *why = NULL;
	size_t written = lh__serve_message(connection, message, size, *sequence + 1, reply, &why);

	MUST((written == 0) == (why != NULL));
	if (written == 0)
		return;
	MUST(lh__wire_request_read(message, size, ++*sequence, &request, &why) == 0);
	MUST(lh__wire_reply_read(reply, written, request.op, *sequence, request.page, request.mask, page,
	                         &answer) == 0);
	MUST(lh__memory_pool_used(connection->server->pool) <= LIMIT);
}

static void serve_all(const uint8_t *data, size_t size)
{
	static struct lh_inbox inbox;
	struct lh_server server = { .wake_fd = -1 };
	struct connection connection = { .server = &server };
	const uint8_t *message;
	uint64_t sequence = 0;
	size_t length;
	int error;

	MUST(lh__memory_pool_open(&lh__sys_default, LIMIT, &server.pool) == 0);
	MUST(lh__serve_create(&connection, &hello) == LH_WIRE_OK);
	inbox.begin = 0;
	inbox.end = size < sizeof inbox.bytes ? size : sizeof inbox.bytes;
	memcpy(inbox.bytes, data, inbox.end);
	while ((message = lh__inbox_next(&inbox, &length, &error)) != NULL)
		serve_one(&connection, message, length, &sequence);
	lh__serve_drop_all(&server);
	lh__memory_pool_close(server.pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[FUZZ_MAX];
	struct lh_wire_hello hello;

	if (size < 1 || size > FUZZ_MAX)
		return 0;
	memcpy(bytes, data + 1, size - 1);
	if (size > LH_WIRE_HELLO && lh__wire_hello_read(bytes, &hello) == 0) {
		lh__wire_hello_write(bytes, &hello);
		MUST(memcmp(bytes, data + 1, LH_WIRE_HELLO) == 0);
	}
	if (data[0] & 1)
		mend_stream(bytes, size - 1);
	serve_all(bytes, size - 1);
	return 0;
}
