/*
 * agent.c - see agent.h. Orders are taken out of the environment, so that what QEMU starts is not meant by
 * them, and the library out of what is preloaded.
 */
#include "service/migrate/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define FAILED 125

struct shim lh__shim = { .lock = PTHREAD_MUTEX_INITIALIZER, .device = -1, .fd = -1 };

void lh__shim_say(const char *what, const char *path, int error)
{
	char line[1024];
	int length = snprintf(line, sizeof(line), "linehome incoming: %s%s%s%s%s\n", path ? path : "",
	                      path ? ": " : "", what, error ? ": " : "", error ? strerror(error) : "");

	if (length >= (int)sizeof(line)) {
		length = (int)sizeof(line);
		line[length - 1] = '\n';
	}
	if (length > 0 && write(STDERR_FILENO, line, (size_t)length) < 0)
		return; /* nobody listens */
}

static _Noreturn void refuse(const char *what, const char *path)
{
	lh__shim_say(what, path, 0);
	_exit(FAILED);
}

/* ---- the environment: by hand, since programs have functions of their own for it */

extern char **environ;

static char **variable(const char *name)
{
	size_t length = strlen(name);
	char **at = environ;

	while (at && *at && (strncmp(*at, name, length) != 0 || (*at)[length] != '='))
		at++;
	return at && *at ? at : NULL;
}

static void remove_variable(const char *name)
{
	for (char **at = variable(name); at && *at; at++)
		at[0] = at[1];
}

/* The value of a variable, copied behind what is in words, which *used bytes are of. */
static char *take(struct shim *shim, const char *name, size_t *used)
{
	char **at = variable(name), *value, *copy = shim->words + *used;
	size_t size;

	if (!at)
		return NULL;
	value = strchr(*at, '=') + 1;
	size = strlen(value) + 1;
	if (size > sizeof(shim->words) - *used)
		refuse("is too long", name);
	memcpy(copy, value, size);
	*used += size;
	remove_variable(name);
	return copy;
}

static bool is_this(const char *word, size_t length)
{
	size_t name = strlen(LH_SHIM_FILE);

	return length >= name && memcmp(word + length - name, LH_SHIM_FILE, name) == 0 &&
	       (length == name || word[length - name - 1] == '/');
}

/* What is left of the list is written where the list stood, which is not longer. */
static void leave_preload(void)
{
	char **at = variable("LD_PRELOAD"), *in, *out, *first;
	size_t length;

	if (!at)
		return;
	in = out = first = strchr(*at, '=') + 1;
	while (*in) {
		length = strcspn(in, ": ");
		if (length && !is_this(in, length)) {
			if (out != first)
				*out++ = ':';
			memmove(out, in, length);
			out += length;
		}
		in += length + (in[length] != 0);
	}
	*out = 0;
	if (out == first)
		remove_variable("LD_PRELOAD");
}

/* ---- orders */

static void take_files(struct shim *shim, char *list)
{
	char *path;

	while ((path = strsep(&list, ":")) != NULL) {
		if (*path == 0)
			continue;
		if (shim->files == LH_GUEST_RANGES_MAX)
			refuse("names too many files", LH_SHIM_MEMORY);
		shim->file[shim->files++].path = path;
	}
	if (shim->files == 0)
		refuse("names no file", LH_SHIM_MEMORY);
}

/* What is started later shall not have it. */
static void take_device(struct shim *shim, const char *word)
{
	char *end;
	long fd = strtol(word, &end, 10);

	if (end == word || *end || fd < 0 || fd > INT32_MAX || fcntl((int)fd, F_SETFD, FD_CLOEXEC) != 0)
		refuse("is no open descriptor", LH_SHIM_DEVICE);
	shim->device = (int)fd;
}

__attribute__((constructor)) static void start(void)
{
	struct shim *shim = &lh__shim;
	size_t used = 0;
	const char *socket = take(shim, LH_SHIM_SOCKET, &used);
	char *memory = take(shim, LH_SHIM_MEMORY, &used), *device = take(shim, LH_SHIM_DEVICE, &used);

	leave_preload();
	if (!socket)
		return;
	if (*socket != '/' || strlen(socket) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		refuse("is no absolute path of a socket, or too long", LH_SHIM_SOCKET);
	if (!memory)
		refuse("is not set: which files are the guest's memory?", LH_SHIM_MEMORY);
	take_files(shim, memory);
	if (device)
		take_device(shim, device);
	shim->socket = socket;
}
