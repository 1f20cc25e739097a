/* url.c - see url.h. */
#include "net/url.h"

#include <errno.h>
#include <string.h>

#include "net/data/wire.h"
#include "sys/sys.h"

_Static_assert(LH_NODE_NAME_SIZE == LH_WIRE_NAME_MAX + 1, "what a hello has room for");

static int bad(struct lh_error *error, const char *word, const char *why)
{
	return lh__fail(error, -EINVAL, "%s: %s; write unix:PATH or tcp://HOST:PORT", word, why);
}

static int parse_unix(const char *word, const char *path, struct lh_node_url *url, struct lh_error *error)
{
	if (*path == '\0')
		return bad(error, word, "no path");
	if (strlen(path) >= sizeof url->path)
		return lh__fail(error, -EINVAL, "the path of a Unix socket has at most %zu bytes: %s",
		                sizeof url->path - 1, path);
	strcpy(url->path, path);
	return 0;
}

static bool parse_port(const char *digits, bool listen, struct lh_node_url *url)
{
	unsigned long port = 0;
	size_t i;

	for (i = 0; digits[i] != '\0'; i++) {
		if (i == 5 || digits[i] < '0' || digits[i] > '9')
			return false;
		port = port * 10 + (unsigned long)(digits[i] - '0');
	}
	if (i == 0 || port > 65535 || (port == 0 && !listen))
		return false;
	strcpy(url->port, digits);
	return true;
}

static int parse_tcp(const char *word, const char *rest, bool listen, struct lh_node_url *url,
                     struct lh_error *error)
{
	const char *host = rest, *end, *port;

	if (*host == '[') {
		host++;
		end = strchr(host, ']');
		port = end ? end + 1 : NULL;
	} else {
		end = strrchr(host, ':');
		port = end;
		if (end && memchr(host, ':', (size_t)(end - host)))
			return bad(error, word, "an IPv6 address stands in brackets, tcp://[::1]:PORT");
	}
	if (!end || end == host || *port != ':' || (size_t)(end - host) >= sizeof url->host)
		return bad(error, word, "not a host and a port");
	if (!parse_port(port + 1, listen, url))
		return bad(error, word, "not a port");
	memcpy(url->host, host, (size_t)(end - host));
	url->host[end - host] = '\0';
	return 0;
}

int lh__node_url_parse(const char *word, bool listen, struct lh_node_url *out, struct lh_error *error)
{
	struct lh_node_url url = { 0 };
	int result;

	if (strlen(word) >= sizeof url.text)
		return lh__fail(error, -EINVAL, "a URL has at most %zu bytes", sizeof url.text - 1);
	strcpy(url.text, word);
	if (strncmp(word, "unix:", 5) == 0) {
		result = parse_unix(word, word + 5, &url, error);
	} else if (strncmp(word, "tcp://", 6) == 0) {
		url.tcp = true;
		result = parse_tcp(word, word + 6, listen, &url, error);
	} else {
		result = bad(error, word, "not the URL of a memory node");
	}
	if (result == 0)
		*out = url;
	return result;
}

int lh__node_name_check(const char *name, struct lh_error *error)
{
	if (lh__wire_is_name(name))
		return 0;
	return lh__fail(
		error, -EINVAL,
		"a name has 1 to %u letters of A-Z a-z 0-9 . _ - and does not begin with a dot: \"%s\"",
		LH_WIRE_NAME_MAX, name);
}

static int no_place(const char *word, const char *why, struct lh_error *error)
{
	return lh__fail(error, -EINVAL, "%s: %s; write unix:PATH/NAME or tcp://HOST:PORT/NAME", word, why);
}

int lh__node_place_parse(const char *word, struct lh_node_url *out, char name[LH_NODE_NAME_SIZE],
                         struct lh_error *error)
{
	bool tcp = strncmp(word, "tcp://", 6) == 0;
	const char *rest = tcp ? word + 6 : word + 5, *slash;
	struct lh_node_url url;
	char node[sizeof url.text];
	int result;

	if (!tcp && strncmp(word, "unix:", 5) != 0)
		return no_place(word, "not on a memory node", error);
	slash = strrchr(rest, '/');
	if (!slash || slash == rest || slash[1] == '\0')
		return no_place(word, !slash || slash[1] == '\0' ? "no name" : "no node", error);
	if ((size_t)(slash - word) >= sizeof node)
		return lh__fail(error, -EINVAL, "a URL has at most %zu bytes", sizeof node - 1);
	memcpy(node, word, (size_t)(slash - word));
	node[slash - word] = '\0';
	result = lh__node_name_check(slash + 1, error);
	if (result == 0)
		result = lh__node_url_parse(node, false, &url, error);
	if (result)
		return result;
	*out = url;
	strcpy(name, slash + 1);
	return 0;
}
