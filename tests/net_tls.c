/*
 * net_tls.c - keys: what is accepted, what is refused, what it says, and what never leaves a machine in the
 * clear.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "net/socket.h"
#include "serve_node.h"

static struct test_node node;
static const char *good, *other, *loose;

static int connect_with(const char *url, const char *key_file, struct lh_error *error)
{
	struct lh_node_link link = { .fd = { -1, -1 } };
	struct lh_node_target target;
	int result = lh__node_target(url, key_file, &target, error);

	if (result == 0)
		result = lh__node_create(&target, 1500, &link, error);
	if (result == 0)
		lh__node_link_close(&link);
	return result;
}

static void refused(const char *url, const char *key_file, int code, const char *text, const char *what)
{
	struct lh_error error = { 0 };
	int result = connect_with(url, key_file, &error);

	is(result, code, "%s: refused", what);
	ok(error.code == code && strstr(error.text, text), "%s: %s", what, error.text);
}

static unsigned regions(void)
{
	struct lh_server_counts counts;

	lh__server_read_counts(node.server, &counts);
	return (unsigned)counts.regions;
}

static void keys_at_the_node(void)
{
	unsigned lines = node.lines;
	struct lh_error error = { 0 };

	is(connect_with(node.url, good, &error), 0, "the right key is accepted %s", error.text);
	is(regions(), 1, "and a region made");
	refused(node.url, other, -EACCES, "another key", "a wrong key");
	ok(node_logged_next(&node, lines, "tcp 127.0.0.1 port ") && strstr(node.last, "another key"),
	   "the node logs the peer's address: %s", node.last);
	lines = node.lines;
	refused(node.url, NULL, -EACCES, "the node requires a key: give --key-file", "no key");
	ok(node_logged_next(&node, lines, "tcp 127.0.0.1 port ") && strstr(node.last, "it has no key"),
	   "which is logged: %s", node.last);
	is(regions(), 1, "and for none of them a region was made");
}

/* TLS records that are none, after a good start of nothing. */
static void nonsense_at_the_node(void)
{
	unsigned lines = node.lines;
	struct lh_node_url url;
	struct pollfd poll_fd = { .events = POLLIN };
	char bytes[64] = { 22, 3, 1, 0, 59, 1 };
	int fd;

	if (lh__node_url_parse(node.url, false, &url, NULL) < 0 ||
	    lh__socket_connect(&url, false, lh__net_now_ms() + 1000, &fd, NULL) < 0)
		abort();
	if (send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) < 0)
		printf("# not sent\n");
	poll_fd.fd = fd;
	ok(poll(&poll_fd, 1, 2000) == 1 && node_logged_next(&node, lines, "refused"),
	   "a hello that TLS does not know ends: %s", node.last);
	close(fd);
}

static void files(void)
{
	struct lh_node_key key = { .byte = { 9 } };
	struct lh_error error = { 0 };
	char path[128];
	FILE *file;

	ok(lh__node_key_read(good, &key, &error) == 0 && key.byte[0] == 0x5a && key.byte[31] == 0x5a,
	   "a key file is read");
	ok(lh__node_key_read(loose, &key, &error) == -EPERM && strstr(error.text, "chmod 600"), "%s",
	   error.text);
	ok(lh__node_key_read(write_key("group", 1, 0640), &key, &error) == -EPERM,
	   "so it is where only the group may read it");
	ok(lh__node_key_read("/nonexistent/key", &key, &error) == -ENOENT, "%s", error.text);
	ok(lh__node_key_read(test_folder(), &key, &error) == -EINVAL, "%s", error.text);
	snprintf(path, sizeof path, "%s/short", test_folder());
	file = fopen(path, "w");
	fputs("0123456789abcdef\n", file);
	fclose(file);
	chmod(path, 0600);
	ok(lh__node_key_read(path, &key, &error) == -EINVAL && strstr(error.text, "openssl rand -hex 32"),
	   "%s", error.text);
	file = fopen(path, "w");
	fprintf(file, "%063dg\n", 0);
	fclose(file);
	ok(lh__node_key_read(path, &key, &error) == -EINVAL, "a digit that is none is refused");
	file = fopen(path, "w");
	fprintf(file, "%064d\n\n", 0);
	fclose(file);
	ok(lh__node_key_read(path, &key, &error) == -EINVAL, "more than a key is refused");
	is(key.byte[0], 0x5a, "none of these changed the key");
}

static void in_the_clear(void)
{
	struct lh_server_options options = { 0 };
	struct lh_error error = { 0 };
	struct test_node plain;

	is(node_start(&plain, "tcp://0.0.0.0:0", &options, &error), -EPERM,
	   "without a key no node listens on a network");
	ok(strstr(error.text, "give --key-file") != NULL, "%s", error.text);
	refused("tcp://192.0.2.1:7", NULL, -EPERM, "give --key-file",
	        "without a key no client goes to a network");
	options.key_file = loose;
	is(node_start(&plain, "tcp://127.0.0.1:0", &options, &error), -EPERM,
	   "a node takes no key that others may read");
	options.key_file = good;
	is(node_start(&plain, "tcp://0.0.0.0:0", &options, &error), 0,
	   "with a key it listens on all addresses");
	node_stop(&plain);
	options.key_file = NULL;
	is(node_start(&plain, "tcp://127.0.0.1:0", &options, &error), 0,
	   "without one it listens on loopback");
	refused(plain.url, good, -EPROTO, "the node does not speak TLS: start it with --key-file",
	        "a key it has no use for");
	node_stop(&plain);
}

int main(void)
{
	struct lh_server_options options = { 0 };
	struct lh_error error;

	good = write_key("good", 0x5a, 0600);
	other = write_key("other", 0x5b, 0600);
	loose = write_key("loose", 0x5a, 0644);
	options.key_file = good;
	if (!ok(node_start(&node, "tcp://127.0.0.1:0", &options, &error) == 0, "a node with a key"))
		return done();
	keys_at_the_node();
	nonsense_at_the_node();
	node_stop(&node);
	files();
	in_the_clear();
	test_folder_remove();
	return done();
}
