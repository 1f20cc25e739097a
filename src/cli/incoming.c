/*
 * incoming.c - linehome incoming: a QEMU that waits for a guest, whose memory is handed over to whoever
 * brings the guest (service/migrate/shim.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "cli/cli.h"
#include "service/launch/launch.h"
#include "service/migrate/shim.h"

#define DEVICE "/dev/userfaultfd"
#define COMMAND "incoming"

/* ---- paths: absolute, since QEMU may change to another folder */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The folder must be there, the file need not. */
static int absolute(const char *path, char out[PATH_MAX], struct lh_error *error)
{
	const char *base = base_name(path);
	char folder[PATH_MAX];
	size_t length;

	if (*base == 0)
		return lh__fail(error, -EISDIR, "%s: is a folder; name a file", path);
	if (strlen(path) >= sizeof(folder) - 2)
		return lh__fail(error, -ENAMETOOLONG, "%s: is too long", path);
	snprintf(folder, sizeof(folder), "%.*s.", (int)(base - path), path);
	if (!realpath(folder, out))
		return lh__fail(error, -errno, "%s: its folder cannot be reached: %s", path, strerror(errno));
	length = strcmp(out, "/") == 0 ? 0 : strlen(out);
	if (length + strlen(base) + 2 > PATH_MAX)
		return lh__fail(error, -ENAMETOOLONG, "%s: is too long", path);
	snprintf(out + length, PATH_MAX - length, "/%s", base);
	return 0;
}

static int check_socket(const char *path, char out[PATH_MAX], struct lh_error *error)
{
	struct stat status;
	int result = absolute(path, out, error);

	if (result < 0)
		return result;
	if (strlen(out) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return lh__fail(error, -ENAMETOOLONG,
		                "%s: too long for a socket's path, which may have %zu bytes", out,
		                sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
	if (stat(out, &status) == 0 && !S_ISSOCK(status.st_mode))
		return lh__fail(error, -EINVAL, "--uffd %s: is no socket", path);
	return 0;
}

static int check_memory(const char *path, char out[PATH_MAX], struct lh_error *error)
{
	struct statfs system;
	struct stat status;
	char *slash;
	int result = absolute(path, out, error);

	if (result < 0)
		return result;
	if (strchr(out, ':'))
		return lh__fail(error, -EINVAL, "--memory %s: has a colon in its path; use one without", out);
	if (stat(out, &status) == 0) {
		if (!S_ISREG(status.st_mode))
			return lh__fail(error, -EINVAL,
			                "--memory %s: is no file; QEMU's mem-path must name one", path);
		if (access(out, R_OK | W_OK) != 0)
			return lh__fail(error, -errno, "--memory %s: %s", path, strerror(errno));
	}
	slash = strrchr(out, '/');
	*slash = 0;
	result = statfs(*out ? out : "/", &system) == 0 ? 0 : -errno;
	*slash = '/';
	if (result < 0)
		return lh__fail(error, result, "--memory %s: %s", path, strerror(-result));
	if (system.f_type != TMPFS_MAGIC && system.f_type != HUGETLBFS_MAGIC)
		return lh__fail(error, -EINVAL,
		                "--memory %s: is neither in a tmpfs, such as /dev/shm, nor in a hugetlbfs; "
		                "only there can memory be watched",
		                path);
	return 0;
}

/* ---- the program's arguments, as far as they are known to be QEMU's */

static int check_arguments(char *const *argv, const struct cli_list *memory, struct lh_error *error)
{
	bool incoming = false, named;
	size_t i, k;

	if (!strstr(base_name(argv[0]), "qemu"))
		return 0;
	for (k = 1; argv[k]; k++)
		incoming |= strcmp(argv[k], "-incoming") == 0 || strcmp(argv[k], "--incoming") == 0;
	if (!incoming)
		return lh__fail(
			error, -EINVAL,
			"the program would not wait for a guest: add -incoming defer to its arguments");
	for (i = 0; i < memory->n; i++) {
		for (k = 1, named = false; argv[k] && !named; k++)
			named = strstr(argv[k], base_name(memory->at[i])) != NULL;
		if (!named)
			return lh__fail(error, -EINVAL,
			                "--memory %s: no argument of the program names it; add -object "
			                "memory-backend-file,id=ram0,size=SIZE,mem-path=%s,share=on and "
			                "memory-backend=ram0 to -machine",
			                memory->at[i], memory->at[i]);
	}
	return 0;
}

/* ---- the right to watch memory */

static int has_right(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* A descriptor that is given already is passed on as it is. */
static int find_device(struct lh_error *error)
{
	const char *given = getenv(LH_SHIM_DEVICE);
	char word[16];
	int fd;

	if (given && fcntl(atoi(given), F_GETFD) >= 0)
		return 0;
	if (given)
		return lh__fail(error, -EBADF, LH_SHIM_DEVICE "=%s: is no open descriptor", given);
	fd = open(DEVICE, O_RDWR);
	if (fd < 0)
		return has_right() ? 0
		                   : lh__fail(error, -EPERM,
		                              "this user may not watch memory: " DEVICE
		                              " cannot be opened (%s), and vm.unprivileged_userfaultfd is 0; "
		                              "see linehome-incoming(1) for what to do",
		                              strerror(errno));
	snprintf(word, sizeof(word), "%d", fd);
	return setenv(LH_SHIM_DEVICE, word, 1) == 0 ? 0 : lh__fail(error, -ENOMEM, "no memory");
}

/* ---- the command */

static int set_files(const struct cli_list *memory, struct lh_error *error)
{
	char list[CLI_LIST_MAX * 256] = "", path[PATH_MAX];
	size_t used = 0;
	int result;

	for (size_t i = 0; i < memory->n; i++) {
		result = check_memory(memory->at[i], path, error);
		if (result < 0)
			return result;
		if (used + strlen(path) + 2 > sizeof(list) / 2) /* what the other side takes */
			return lh__fail(error, -ENAMETOOLONG, "--memory: the paths are too long");
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ":" : "", path);
	}
	return setenv(LH_SHIM_MEMORY, list, 1) == 0 ? 0 : lh__fail(error, -ENOMEM, "no memory");
}

static int prepare(const char *uffd, const struct cli_list *memory, struct lh_error *error)
{
	char path[PATH_MAX];
	int result = check_socket(uffd, path, error);

	if (result == 0)
		result = set_files(memory, error);
	if (result == 0)
		result = find_device(error);
	if (result == 0 && setenv(LH_SHIM_SOCKET, path, 1) != 0)
		result = lh__fail(error, -ENOMEM, "no memory");
	return result;
}

/* The program takes this process's place: nothing is left to do here. */
static int become(char **argv)
{
	struct lh_error error = { 0, "" };
	char agent[PATH_MAX];
	int code = lh__launch_check(argv[0], &error);

	if (code == 0) {
		code = lh__launch_agent(NULL, LH_SHIM_FILE, LH_UFFD_AGENT_PATH, agent, &error);
		if (code == 0)
			code = lh__launch_preload(agent, &error);
		if (code < 0)
			return cli_fail(COMMAND, CLI_FAILED, "%s", error.text);
		execvp(argv[0], argv);
		code = -errno;
		lh__fail(&error, code, "%s: %s", argv[0], strerror(-code));
	}
	return cli_fail(COMMAND, code == -ENOENT ? CLI_NOT_FOUND : CLI_NOT_EXECUTABLE, "%s", error.text);
}

int cli_incoming(int argc, char **argv)
{
	struct cli_list memory = { 0 };
	const char *uffd = NULL;
	struct cli_option options[] = {
		{ "uffd", CLI_TEXT, "SOCKET", "where who brings the guest listens for its memory", &uffd,
		  false },
		{ "memory", CLI_LIST, "FILE", "the guest's memory; several files with commas between them",
		  &memory, false },
		{ .name = NULL },
	};
	struct cli_usage usage = {
		COMMAND, "[--] QEMU [ARG...]",
		"Runs a QEMU that waits for a guest, whose memory comes when it is missed.", options,
		CLI_PROGRAM
	};
	struct lh_error error = { 0, "" };
	int status = cli_parse(&usage, &argc, &argv);

	if (status != CLI_GO_ON)
		return status;
	if (!uffd)
		return cli_fail(COMMAND, CLI_BAD_USAGE, "nobody would bring memory: give --uffd SOCKET");
	if (memory.n == 0)
		return cli_fail(COMMAND, CLI_BAD_USAGE,
		                "give --memory FILE, the mem-path of the guest's memory-backend-file");
	if (argc == 0)
		return cli_fail(
			COMMAND, CLI_BAD_USAGE,
			"no program: write for instance linehome incoming --uffd SOCKET --memory FILE "
			"-- qemu-system-x86_64 -incoming defer ...");
	if (check_arguments(argv, &memory, &error) < 0)
		return cli_fail(COMMAND, CLI_BAD_USAGE, "%s", error.text);
	if (prepare(uffd, &memory, &error) < 0)
		return cli_fail(COMMAND, CLI_FAILED, "%s", error.text);
	return become(argv);
}
