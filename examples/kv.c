/*
 * kv.c - a small key-value shell: a B+tree that knows of no pool (btree.h), kept in one.
 *
 *     kv FILE
 *
 * Kill it wherever you like and start it again: what a command had answered is there, and of a command, or a
 * transaction, that had not ended, nothing is. There is no code for that here.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree.h"
#include "pool_memory.h"

struct root {
	struct btree tree; /* its values are strings, objects of their own */
	uint64_t bulk;     /* pairs that bulk has put so far */
};

struct kv {
	struct lh_pool *pool;
	struct root *root;
	struct pool_memory in;
	bool began; /* by the command begin */
	struct lh_error error;
};

/* What a step that changes the pool comes to. */
enum outcome { DONE, REFUSED, FAILED }; /* FAILED: for want of memory; the transaction has to be aborted */

/* ---- steps, within a transaction ---- */

static enum outcome put_pair(struct kv *kv, const char *key, const char *value)
{
	struct memory memory = pool_memory(&kv->in);
	size_t size = strlen(value) + 1;
	char *copy = memory_alloc(&memory, size);
	void **place = copy ? btree_put(&kv->root->tree, &memory, key) : NULL;

	if (!place)
		return FAILED;
	memcpy(copy, value, size);
	memory_release(&memory, *place);
	*place = copy;
	return DONE;
}

static enum outcome put(struct kv *kv, const char *key, const char *value)
{
	if (strlen(key) < BTREE_KEY)
		return put_pair(kv, key, value);
	printf("a key has at most %d characters\n", BTREE_KEY - 1);
	return REFUSED;
}

static enum outcome del(struct kv *kv, const char *key, const char *unused)
{
	struct memory memory = pool_memory(&kv->in);
	void *value;

	if (!btree_delete(&kv->root->tree, &memory, key, &value)) {
		printf("there is no %s\n", key);
		return REFUSED;
	}
	memory_release(&memory, value);
	return DONE;
}

static enum outcome bulk(struct kv *kv, const char *number, const char *unused)
{
	char *end, key[BTREE_KEY], value[64];
	unsigned long n = strtoul(number, &end, 10);
	enum outcome outcome = DONE;

	if (*end || number[0] == '-') {
		printf("%s is not a number\n", number);
		return REFUSED;
	}
	for (unsigned long i = 0; i < n && outcome == DONE; i++) {
		snprintf(key, sizeof key, "bulk-%08llu", (unsigned long long)++kv->root->bulk);
		snprintf(value, sizeof value, "the value of %s", key);
		outcome = put_pair(kv, key, value);
	}
	return outcome;
}

/* ---- transactions ---- */

static void tell_count(const struct kv *kv)
{
	unsigned long long count = kv->root->tree.count;

	printf("%llu pair%s%s\n", count, count == 1 ? "" : "s", kv->began ? ", not committed" : "");
}

static bool failed(const struct kv *kv)
{
	printf("failed: %s\n", kv->error.text);
	return false;
}

/* The pool is full. Outside a transaction it can grow, and the command be repeated. */
static bool make_room(struct kv *kv)
{
	struct lh_pool_info info;

	if (kv->in.error.code != -ENOMEM || kv->began) {
		printf("failed: %s%s\n", kv->in.error.text, kv->began ? "; the transaction is aborted" : "");
		return false;
	}
	lh_pool_info(kv->pool, &info);
	return lh_pool_grow(kv->pool, 2 * info.size, &kv->error) == 0 || failed(kv);
}

/* One step, and all of it or nothing. After `begin` it is part of that transaction, which it joins. */
static void change(struct kv *kv, enum outcome (*step)(struct kv *, const char *, const char *),
                   const char *key, const char *value)
{
	enum outcome outcome = FAILED;

	while (outcome == FAILED) {
		kv->in = (struct pool_memory){ .pool = kv->pool };
		if (lh_tx_begin(kv->pool, &kv->error) < 0) {
			failed(kv);
			return;
		}
		outcome = step(kv, key, value);
		if (outcome != FAILED) {
			if (lh_tx_commit(kv->pool, &kv->error) < 0)
				failed(kv);
			else if (outcome == DONE)
				tell_count(kv);
			return;
		}
		if (lh_tx_abort(kv->pool, &kv->error) < 0)
			failed(kv);
		if (!make_room(kv))
			break;
	}
	if (kv->began && lh_tx_abort(kv->pool, &kv->error) < 0)
		failed(kv);
	kv->began = false;
}

static void begin(struct kv *kv)
{
	if (kv->began)
		printf("there is a transaction\n");
	else if (lh_tx_begin(kv->pool, &kv->error) < 0)
		failed(kv);
	else
		kv->began = true;
}

static void end(struct kv *kv, int (*how)(struct lh_pool *, struct lh_error *))
{
	if (!kv->began) {
		printf("there is no transaction\n");
		return;
	}
	kv->began = false;
	if (how(kv->pool, &kv->error) < 0)
		failed(kv);
	else
		tell_count(kv);
}

static int commit(struct lh_pool *pool, struct lh_error *error)
{
	return lh_tx_commit(pool, error);
}

/* ---- commands ---- */

static void get(const struct kv *kv, const char *key)
{
	void **value = btree_find(&kv->root->tree, key);

	if (value)
		printf("%s\n", (const char *)*value);
	else
		printf("there is no %s\n", key);
}

/* The pairs whose key is at least `from`, and less than `to` if that is given. */
static void list(const struct kv *kv, const char *from, const char *to)
{
	struct btree_cursor cursor = btree_seek(&kv->root->tree, from);
	const char *key;
	void *value;

	while (btree_next(&cursor, &key, &value) && (!*to || strcmp(key, to) < 0))
		printf("%s %s\n", key, (const char *)value);
}

static void help(void)
{
	printf("put KEY VALUE   get KEY   del KEY   list [FROM [TO]]   count   bulk NUMBER\n"
	       "begin   commit   abort   quit\n");
}

/* Cuts the next word off. */
static char *word(char **rest)
{
	char *start = *rest + strspn(*rest, " ");

	*rest = start + strcspn(start, " ");
	if (**rest)
		*(*rest)++ = 0;
	return start;
}

/* False: it was the last. */
static bool obey(struct kv *kv, char *line)
{
	const char *command = word(&line), *first = word(&line);

	line += strspn(line, " ");
	if (strcmp(command, "quit") == 0)
		return false;
	if (strcmp(command, "put") == 0 && *line)
		change(kv, put, first, line);
	else if (strcmp(command, "get") == 0 && *first)
		get(kv, first);
	else if (strcmp(command, "del") == 0 && *first)
		change(kv, del, first, NULL);
	else if (strcmp(command, "list") == 0)
		list(kv, first, line);
	else if (strcmp(command, "count") == 0)
		tell_count(kv);
	else if (strcmp(command, "bulk") == 0 && *first)
		change(kv, bulk, first, NULL);
	else if (strcmp(command, "begin") == 0)
		begin(kv);
	else if (strcmp(command, "commit") == 0)
		end(kv, commit);
	else if (strcmp(command, "abort") == 0)
		end(kv, lh_tx_abort);
	else if (*command)
		help();
	return true;
}

static bool open_pool(struct kv *kv, const char *path)
{
	struct lh_pool_options options = { .layout = "kv", .size = 4 << 20, .log_size = 16 << 20 };
	int result = lh_pool_open(path, &options, &kv->pool, &kv->error);

	if (result == -ENOENT)
		result = lh_pool_create(path, &options, &kv->pool, &kv->error);
	if (result == 0)
		kv->root = lh_pool_root(kv->pool, sizeof *kv->root, &kv->error);
	return result == 0 && kv->root;
}

int main(int argc, char **argv)
{
	struct kv kv = { .pool = NULL };
	bool person = isatty(STDIN_FILENO);
	char line[4096];

	if (argc != 2) {
		fprintf(stderr, "usage: kv FILE\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!open_pool(&kv, argv[1])) {
		fprintf(stderr, "kv: %s\n", kv.error.text);
		return 1;
	}
	tell_count(&kv);
	do {
		if (person)
			fputs("> ", stdout), fflush(stdout);
		if (!fgets(line, sizeof line, stdin))
			break;
		line[strcspn(line, "\n")] = 0;
	} while (obey(&kv, line));
	if (lh_pool_close(kv.pool, &kv.error) == 0)
		return 0;
	fprintf(stderr, "kv: %s\n", kv.error.text);
	return 1;
}
