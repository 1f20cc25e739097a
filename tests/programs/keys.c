/*
 * keys.c - a client of redis-server that knows what every key must hold.
 *
 * The value of key n at version v is a function of both: 40 to 160 bytes. The versions of all keys are in a
 * state file (a header, then four bytes a key), so that one run can check what another one wrote.
 *
 *     keys SOCKET load  STATE --keys 1000000             sets all keys to version 1
 *     keys SOCKET mix   STATE --ops 200000 --seed 3      random GETs, verified, and SETs of new versions
 *     keys SOCKET save  STATE --snapshot FILE --ops N    BGSAVE, and go on as `mix` until it is done and N
 *                                                        operations were made; FILE gets the versions as
 *                                                        they were when the server forked
 *     keys SOCKET verify STATE                           every key is there with its version, and no other
 *     keys SOCKET compare OTHER                          the keys of two servers are the same, byte for byte
 *
 * A connection is in order and redis-server runs commands one by one, so the state of the data at BGSAVE is
 * exactly that after the commands sent before it: what the saved file must hold is known to the byte.
 */
#include "program.h"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <sys/stat.h>

#define MAGIC UINT64_C(0x31535945484c)
#define DEPTH 64u
#define VALUE_MAX 160u

struct state {
	uint64_t magic, keys, reserved[6];
	uint32_t version[];
};

static struct {
	uint64_t keys, ops, seed, rate;
	const char *snapshot;
	bool plant;
} g = { .keys = 100000, .ops = 100000, .seed = 1 };

static redisContext *server;
static struct state *state;

static redisContext *connect_to(const char *path)
{
	redisContext *c = redisConnectUnix(path);

	if (!c || c->err) {
		fprintf(stderr, "cannot connect to %s: %s\n", path, c ? c->errstr : "no memory");
		exit(3);
	}
	return c;
}

static redisReply *reply_from(redisContext *c)
{
	void *reply;

	if (redisGetReply(c, &reply) != REDIS_OK) {
		fprintf(stderr, "the server went away: %s\n", c->errstr);
		exit(3);
	}
	if (((redisReply *)reply)->type == REDIS_REPLY_ERROR)
		wrong("the server says: %s", ((redisReply *)reply)->str);
	return reply;
}

static size_t bytes_of_state(uint64_t keys)
{
	return sizeof(struct state) + keys * sizeof(uint32_t);
}

static struct state *open_state(const char *path, uint64_t create_keys)
{
	int fd = open(path, O_RDWR | (create_keys ? O_CREAT | O_TRUNC : 0), 0600);
	struct stat st;
	struct state *s;

	if (fd < 0 || (create_keys && ftruncate(fd, (off_t)bytes_of_state(create_keys))) || fstat(fd, &st))
		cannot("open %s", path);
	s = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, g.plant ? MAP_PRIVATE : MAP_SHARED, fd, 0);
	if (s == MAP_FAILED)
		cannot("map %s", path);
	close(fd);
	if (create_keys)
		*s = (struct state){ .magic = MAGIC, .keys = create_keys };
	if (s->magic != MAGIC || bytes_of_state(s->keys) != (size_t)st.st_size)
		wrong("%s is not a state file", path);
	return s;
}

static size_t value_of(uint64_t key, uint32_t version, char *out)
{
	uint64_t r = mix(key << 32 | version);
	size_t n = 40 + r % (VALUE_MAX - 40);

	for (size_t i = 0; i < n; i++) {
		if (i % 8 == 0)
			r = mix(r);
		out[i] = (char)('a' + (r >> (i % 8 * 8)) % 26);
	}
	return n;
}

static void send_get(uint64_t key)
{
	redisAppendCommand(server, "GET k:%010lu", key);
}

static void send_set(uint64_t key)
{
	char value[VALUE_MAX];
	size_t n = value_of(key, state->version[key], value);

	redisAppendCommand(server, "SET k:%010lu %b", key, value, n);
}

static void check_value(uint64_t key, uint32_t version, const redisReply *r)
{
	char value[VALUE_MAX];
	size_t n = value_of(key, version, value);

	if (r->type != REDIS_REPLY_STRING)
		wrong("key %lu is missing", key);
	if (r->len != n || memcmp(r->str, value, n))
		wrong("key %lu is not at version %u", key, version);
}

static void load(void)
{
	for (uint64_t key = 0; key < g.keys;) {
		uint64_t n = 0;

		for (; n < DEPTH && key < g.keys; n++, key++) {
			state->version[key] = 1;
			send_set(key);
		}
		while (n--)
			freeReplyObject(reply_from(server));
	}
}

/* A batch of random operations; three in ten are SETs. Each reply is checked. */
static void mix_batch(uint64_t *random)
{
	struct {
		uint64_t key;
		uint32_t version; /* 0: a SET */
	} sent[DEPTH];

	for (unsigned i = 0; i < DEPTH; i++) {
		uint64_t r = next_random(random), key = r % state->keys;

		sent[i].key = key;
		sent[i].version = state->version[key];
		if ((r >> 40) % 10 < 3) {
			sent[i].version = 0;
			state->version[key]++;
			send_set(key);
		} else {
			send_get(key);
		}
	}
	for (unsigned i = 0; i < DEPTH; i++) {
		redisReply *r = reply_from(server);

		if (sent[i].version)
			check_value(sent[i].key, sent[i].version, r);
		freeReplyObject(r);
	}
}

static void mix_operations(uint64_t ops)
{
	uint64_t random = mix(g.seed), started = now_ns();

	for (uint64_t done = 0; done < ops; done += DEPTH) {
		mix_batch(&random);
		while (g.rate && (done + DEPTH) * UINT64_C(1000000000) / g.rate > now_ns() - started)
			usleep(200);
	}
}

static bool saving(void)
{
	redisReply *r;
	bool busy;

	redisAppendCommand(server, "INFO persistence");
	r = reply_from(server);
	busy = strstr(r->str, "rdb_bgsave_in_progress:1") != NULL;
	if (!busy && !strstr(r->str, "rdb_last_bgsave_status:ok"))
		wrong("BGSAVE failed");
	freeReplyObject(r);
	return busy;
}

static void save(void)
{
	struct state *snapshot = open_state(g.snapshot, state->keys);
	uint64_t random = mix(g.seed), done = 0;

	redisAppendCommand(server, "BGSAVE");
	freeReplyObject(reply_from(server));
	memcpy(snapshot->version, state->version, state->keys * sizeof *state->version);
	while (saving() || done < g.ops)
		for (unsigned i = 0; i < 16; i++, done += DEPTH)
			mix_batch(&random);
	printf("%lu operations went on while the server saved\n", done);
}

static long long size_of(redisContext *c)
{
	redisReply *r;
	long long n;

	redisAppendCommand(c, "DBSIZE");
	r = reply_from(c);
	n = r->integer;
	freeReplyObject(r);
	return n;
}

static void verify(void)
{
	if (size_of(server) != (long long)state->keys)
		wrong("%lld keys instead of %lu", size_of(server), state->keys);
	for (uint64_t key = 0; key < state->keys;) {
		uint64_t first = key;

		for (; key < state->keys && key < first + DEPTH; key++)
			send_get(key);
		for (; first < key; first++) {
			redisReply *r = reply_from(server);

			check_value(first, state->version[first], r);
			freeReplyObject(r);
		}
	}
	printf("%lu keys verified\n", state->keys);
}

static void compare_page(redisContext *other, const redisReply *names)
{
	for (size_t i = 0; i < names->elements; i++) {
		redisAppendCommand(server, "GET %b", names->element[i]->str, names->element[i]->len);
		redisAppendCommand(other, "GET %b", names->element[i]->str, names->element[i]->len);
	}
	for (size_t i = 0; i < names->elements; i++) {
		redisReply *a = reply_from(server), *b = reply_from(other);

		if (a->type != REDIS_REPLY_STRING || b->type != a->type || a->len != b->len ||
		    memcmp(a->str, b->str, a->len))
			wrong("key %s differs", names->element[i]->str);
		freeReplyObject(a);
		freeReplyObject(b);
	}
}

/* All that the first has, the second has too, and they have equally many. */
static void compare(redisContext *other)
{
	char cursor[32] = "0";
	uint64_t seen = 0;

	if (size_of(server) != size_of(other))
		wrong("%lld keys here, %lld there", size_of(server), size_of(other));
	do {
		redisReply *r;

		redisAppendCommand(server, "SCAN %s COUNT 256", cursor);
		r = reply_from(server);
		snprintf(cursor, sizeof cursor, "%s", r->element[0]->str);
		compare_page(other, r->element[1]);
		seen += r->element[1]->elements;
		freeReplyObject(r);
	} while (strcmp(cursor, "0"));
	if (seen < (uint64_t)size_of(server))
		wrong("only %lu keys were seen", seen);
	printf("%lld keys compared\n", size_of(server));
}

static void options(int argc, char **argv)
{
	for (int i = 4; i < argc; i++)
		if (!strcmp(argv[i], "--plant"))
			g.plant = true;
		else if (i + 1 < argc && !strcmp(argv[i], "--keys"))
			g.keys = number(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--ops"))
			g.ops = number(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
			g.seed = number(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--rate"))
			g.rate = number(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--snapshot"))
			g.snapshot = argv[++i];
		else
			exit(2);
}

int main(int argc, char **argv)
{
	const char *what;

	if (argc < 4)
		return 2;
	what = argv[2];
	options(argc, argv);
	server = connect_to(argv[1]);
	if (!strcmp(what, "compare")) {
		compare(connect_to(argv[3]));
		return 0;
	}
	state = open_state(argv[3], strcmp(what, "load") ? 0 : g.keys);
	if (g.plant) /* one key is claimed to be newer than it is: a check that passes now is no check */
		state->version[state->keys / 2]++;
	if (!strcmp(what, "load"))
		load();
	else if (!strcmp(what, "mix"))
		mix_operations(g.ops);
	else if (!strcmp(what, "save") && g.snapshot)
		save();
	else if (!strcmp(what, "verify"))
		verify();
	else
		return 2;
	return 0;
}
