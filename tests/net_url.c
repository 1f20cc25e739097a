/* Where a memory node is: which URLs are understood, what is refused, and that a refusal changes nothing. */
#include <errno.h>

#include "net/url.h"
#include "tap.h"

static void tcp_is(const char *word, bool listen, const char *host, const char *port)
{
	struct lh_node_url url;

	ok(lh__node_url_parse(word, listen, &url, NULL) == 0 && url.tcp && strcmp(url.host, host) == 0 &&
	           strcmp(url.port, port) == 0 && strcmp(url.text, word) == 0,
	   "%s", word);
}

static void fails(const char *word, bool listen, const char *reason)
{
	struct lh_error error = { 0 };
	struct lh_node_url url = { .text = "as it was" };

	ok(lh__node_url_parse(word, listen, &url, &error) == -EINVAL && error.code == -EINVAL &&
	           strcmp(url.text, "as it was") == 0 && strstr(error.text, reason),
	   "\"%.40s\": %s", word, error.text);
}

static void unix_sockets(void)
{
	struct lh_node_url url;
	char path[200] = "unix:";

	ok(lh__node_url_parse("unix:/run/a b,c", false, &url, NULL) == 0 && !url.tcp &&
	           strcmp(url.path, "/run/a b,c") == 0,
	   "unix:PATH, whatever stands in it");
	memset(path + 5, 'x', 107);
	ok(lh__node_url_parse(path, false, &url, NULL) == 0 && strlen(url.path) == 107,
	   "the longest path of a socket");
	path[112] = 'x';
	fails(path, false, "at most 107 bytes");
	fails("unix:", false, "write unix:PATH");
}

static void place_is(const char *word, const char *node, const char *name)
{
	char got[LH_NODE_NAME_SIZE];
	struct lh_node_url url;

	ok(lh__node_place_parse(word, &url, got, NULL) == 0 && strcmp(url.text, node) == 0 &&
	           strcmp(got, name) == 0 && url.tcp == (node[0] == 't'),
	   "%s: a name on a node", word);
}

static void place_fails(const char *word, const char *reason)
{
	struct lh_error error = { 0 };
	struct lh_node_url url = { .text = "as it was" };
	char name[LH_NODE_NAME_SIZE] = "so too";

	ok(lh__node_place_parse(word, &url, name, &error) == -EINVAL && error.code == -EINVAL &&
	           strcmp(url.text, "as it was") == 0 && strcmp(name, "so too") == 0 &&
	           strstr(error.text, reason),
	   "\"%.40s\": %s", word, error.text);
}

static void places(void)
{
	char text[400];

	place_is("unix:/run/node/cart", "unix:/run/node", "cart");
	place_is("unix:node/a", "unix:node", "a");
	place_is("unix:./x/..a/b", "unix:./x/..a", "b");
	place_is("tcp://node7:7040/A-z_0.9", "tcp://node7:7040", "A-z_0.9");
	place_is("tcp://[::1]:1/-", "tcp://[::1]:1", "-");
	snprintf(text, sizeof text, "tcp://h:1/%063d", 0);
	place_is(text, "tcp://h:1", text + 10);
	snprintf(text, sizeof text, "tcp://h:1/%064d", 0);
	place_fails(text, "1 to 63 letters");
	for (const char *const *word =
	             (const char *[]){ "tcp://h:1/.a", "unix:/s/..", "unix:/s/.", "unix:/s/a b",
	                               "unix:/s/\xc3\xa9", "unix:/s/a\n", "tcp://h:1/a?b", NULL };
	     *word; word++)
		place_fails(*word, "1 to 63 letters");
	for (const char *const *word =
	             (const char *[]){ "unix:cart", "unix:", "unix:/s/", "tcp://h:1", "tcp://h:1/",
	                               "tcp:///a", "unix:/a", "/s/a", "file:/s/a", "", NULL };
	     *word; word++)
		place_fails(*word, "write unix:PATH/NAME or tcp://HOST:PORT/NAME");
	place_fails("tcp://h/a", "not a host and a port");
	place_fails("tcp://h:0/a", "not a port");
	place_fails("tcp://h:1/b/a", "not a port");
	memset(text, 'x', sizeof text);
	memcpy(text, "unix:", 5);
	strcpy(text + 350, "/a");
	place_fails(text, "a URL has at most");
	strcpy(text + 120, "/a");
	place_fails(text, "at most 107 bytes");
}

int main(void)
{
	char text[400];

	unix_sockets();
	places();
	tcp_is("tcp://node7:7040", false, "node7", "7040");
	tcp_is("tcp://[::1]:1", false, "::1", "1");
	tcp_is("tcp://127.0.0.1:65535", true, "127.0.0.1", "65535");
	tcp_is("tcp://127.0.0.1:0", true, "127.0.0.1", "0");
	fails("tcp://127.0.0.1:0", false, "not a port");
	for (const char *const *word =
	             (const char *[]){ "tcp://", "tcp://a", "tcp://a:", "tcp://:1", "tcp://a:1x",
	                               "tcp://[]:1", "tcp://[::1:1", "tcp://[::1]1", "tcp://::1:1",
	                               "tcp://a:-1", "tcp://a:65536", "tcp://a:999999999999", "http://x",
	                               "tcp:a:1", "", "mem:", NULL };
	     *word; word++)
		fails(*word, true, "write unix:PATH or tcp://HOST:PORT");
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	fails(text, false, "a URL has at most");
	return done();
}
