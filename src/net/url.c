/* url.c - see url.h. */
#include "net/url.h"

#include <errno.h>
#include <string.h>

#include "sys/sys.h"

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
