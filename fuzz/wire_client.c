/*
 * wire_client.c - fuzzes what a node store does with the bytes of a node: they are given to it as the replies
 * on both of its channels. The first byte says whether checksums and sequence numbers are put right first. A
 * call that fails has delivered nothing; one that succeeds has touched the wanted lines only; requests end,
 * each once.
 */
#include "wire.h"

#include <sys/socket.h>
#include <unistd.h>

#include "store/node.h"

#define WANT UINT64_C(0x00ff00ff00ff00ff)
#define REQUESTS 6u

/* A socket from which bytes can be received, and then its end. */
static int channel_with(const uint8_t *bytes, size_t size, int *other)
{
	int pair[2], large = 1 << 20;

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	MUST(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &large, sizeof large) == 0);
	MUST(size == 0 || send(pair[1], bytes, size, MSG_NOSIGNAL) == (ssize_t)size);
	shutdown(pair[1], SHUT_WR);
	*other = pair[1];
	return pair[0];
}

static void check_page(const unsigned char *page, lh_mask touched)
{
	unsigned i;

	LH_MASK_EACH(~touched, i)
		MUST(page[64 * i] == 0xee && page[64 * i + 63] == 0xee);
}

static void fetch(struct lh_store *store)
{
	unsigned char page[LH_PAGE_SIZE];
	lh_mask held = 0;
	int result;

	memset(page, 0xee, sizeof page);
	result = store->ops->get_now(store, 3, WANT, page, &held);
	check_page(page, result == 0 ? WANT : 0);
	MUST((held & ~WANT) == 0);
}

static void ask(struct lh_store *store)
{
	static const enum lh_op ops[REQUESTS] = { LH_OP_PUT,  LH_OP_GET, LH_OP_REPLACE,
		                                  LH_OP_DROP, LH_OP_GET, LH_OP_PUT };
	static unsigned char page[REQUESTS][LH_PAGE_SIZE];
	struct lh_request request[REQUESTS], *list[REQUESTS], *done[REQUESTS];
	size_t i, n = 0, more;

	memset(page, 0xee, sizeof page);
	for (i = 0; i < REQUESTS; i++) {
		request[i] = (struct lh_request){
			.op = ops[i], .page = 3, .mask = WANT, .data = page[i], .result = 1
		};
		list[i] = &request[i];
	}
	if (store->ops->submit(store, list, REQUESTS) != 0)
		return;
	while (n < REQUESTS && (more = store->ops->poll(store, done + n, REQUESTS - n, -1)) > 0)
		n += more;
	MUST(n == REQUESTS);
	for (i = 0; i < REQUESTS; i++) {
		MUST(done[i] == list[i] && request[i].result <= 0);
		check_page(page[i], ops[i] == LH_OP_GET && request[i].result == 0 ? WANT : 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[FUZZ_MAX];
	struct lh_node_options options = { .timeout_ms = 1000, .signals_blocked = true };
	struct lh_node_link link = { .kind = LH_NODE_STREAM };
	struct lh_store *store;
	int other[2];

	if (size < 1 || size > FUZZ_MAX)
		return 0;
	memcpy(bytes, data + 1, size - 1);
	if (data[0] & 1)
		mend_stream(bytes, size - 1);
	link.fd[0] = channel_with(bytes, size - 1, &other[0]);
	link.fd[1] = channel_with(bytes, size - 1, &other[1]);
	MUST(lh__node_attach(&lh__sys_default, &link, &options, &store) == 0);
	if (data[0] & 2) {
		fetch(store);
		fetch(store);
	}
	ask(store);
	store->ops->close(store);
	close(other[0]);
	close(other[1]);
	return 0;
}
