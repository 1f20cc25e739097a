/*
 * wire_server.c - fuzzes what a memory node does with the bytes of a client: hello and name, framing,
 * messages. The first byte says whether checksums and sequence numbers of messages (1), or of a hello (2),
 * are put right first. Whatever is carried out must have a reply that a client accepts; the memory in use
 * must fit the limit; what has a name behaves as wire.md says.
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

/* What an accepted name leads to: the region is there once, for one at a time, until it is dropped. */
static void serve_name(struct lh_server *server, const struct lh_wire_hello *hello)
{
	struct connection first = { .server = server }, second = first;
	struct lh_wire_hello open = { .what = LH_WIRE_OPEN_NAMED };

	memcpy(open.name, hello->name, sizeof open.name);
	MUST(lh__serve_open(&first, &open) == LH_WIRE_NO_NAME);
	MUST(lh__serve_create(&first, &open) == LH_WIRE_OK && first.generation == 1);
	MUST(lh__serve_create(&second, &open) == LH_WIRE_NAME_TAKEN && !second.region);
	lh__serve_detach(&first);
	MUST(lh__serve_reap(server, UINT64_MAX) == -1);
	MUST(lh__serve_open(&second, &open) == LH_WIRE_OK && second.generation == 3);
	lh__serve_detach(&second);
	/* Whatever region and generation it names: it is another, or any. */
	MUST(lh__serve_drop(&first, hello) == (hello->region == 0 ? LH_WIRE_OK : LH_WIRE_OLD));
}

static void serve_all(const uint8_t *data, size_t size, const struct lh_wire_hello *hello)
{
	static const struct lh_wire_hello nameless;
	static struct lh_inbox inbox;
	struct lh_server server = { .wake_fd = -1 };
	struct connection connection = { .server = &server };
	const uint8_t *message;
	uint64_t sequence = 0;
	size_t length;
	int error;

	MUST(lh__memory_pool_open(&lh__sys_default, LIMIT, &server.pool) == 0);
	if (hello->name[0])
		serve_name(&server, hello);
	MUST(lh__serve_create(&connection, &nameless) == LH_WIRE_OK);
	inbox.begin = 0;
	inbox.end = size < sizeof inbox.bytes ? size : sizeof inbox.bytes;
	memcpy(inbox.bytes, data, inbox.end);
	while ((message = lh__inbox_next(&inbox, &length, &error)) != NULL)
		serve_one(&connection, message, length, &sequence);
	lh__serve_drop_all(&server);
	lh__memory_pool_close(server.pool);
}

/* The hello at the beginning, if there is one; what was read is what was written. */
static void read_hello(const uint8_t *bytes, size_t size, struct lh_wire_hello *hello)
{
	uint8_t again[LH_WIRE_HELLO + LH_WIRE_NAME_MAX];
	int name = size >= LH_WIRE_HELLO ? lh__wire_hello_read(bytes, hello) : -1;

	if (name < 0 || size - LH_WIRE_HELLO < (size_t)name ||
	    (name != 0 && lh__wire_hello_read_name(bytes, hello) < 0)) {
		memset(hello, 0, sizeof *hello);
		return;
	}
	MUST(lh__wire_hello_write(again, hello) == LH_WIRE_HELLO + (size_t)name);
	MUST(memcmp(bytes, again, LH_WIRE_HELLO + (size_t)name) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[FUZZ_MAX];
	struct lh_wire_hello hello = { 0 };

	if (size < 1 || size > FUZZ_MAX)
		return 0;
	memcpy(bytes, data + 1, size - 1);
	if (data[0] & 2)
		mend_hello(bytes, size - 1);
	read_hello(bytes, size - 1, &hello);
	if (data[0] & 1)
		mend_stream(bytes, size - 1);
	serve_all(bytes, size - 1, &hello);
	return 0;
}
