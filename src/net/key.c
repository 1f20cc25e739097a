/* key.c - see key.h. */
#include "net/key.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "sys/sys.h"

#define DIGITS (2 * LH_NODE_KEY_SIZE)

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if ((c | 32) >= 'a' && (c | 32) <= 'f')
		return (c | 32) - 'a' + 10;
	return -1;
}

/* 64 digits and nothing else but the end of the line. */
static int decode(const char *path, const char *text, size_t size, struct lh_node_key *key,
                  struct lh_error *error)
{
	size_t i;

	if (size == DIGITS + 1 && text[DIGITS] == '\n')
		size--;
	for (i = 0; i < DIGITS && i < size && digit(text[i]) >= 0; i++)
		;
	if (i != DIGITS || size != DIGITS)
		return lh__fail(error, -EINVAL,
		                "%s: not a key: 64 hexadecimal digits on one line; make one with: openssl "
		                "rand -hex 32",
		                path);
	for (i = 0; i < LH_NODE_KEY_SIZE; i++)
		key->byte[i] = (unsigned char)(digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
	return 0;
}

static int check_file(const char *path, int fd, struct lh_error *error)
{
	struct stat file;

	if (fstat(fd, &file) != 0)
		return lh__fail(error, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(file.st_mode))
		return lh__fail(error, -EINVAL, "%s: not a file", path);
	if (file.st_mode & 077)
		return lh__fail(error, -EPERM,
		                "%s: others may use this key; make it yours alone with: chmod 600 %s", path,
		                path);
	return 0;
}

int lh__node_key_read(const char *path, struct lh_node_key *key, struct lh_error *error)
{
	char text[DIGITS + 2];
	ssize_t size;
	int result, fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0)
		return lh__fail(error, -errno, "%s: %s", path, strerror(errno));
	result = check_file(path, fd, error);
	size = result == 0 ? read(fd, text, sizeof text) : 0;
	if (size < 0)
		result = lh__fail(error, -errno, "%s: %s", path, strerror(errno));
	close(fd);
	if (result == 0)
		result = decode(path, text, (size_t)size, key, error);
	OPENSSL_cleanse(text, sizeof text);
	return result;
}
