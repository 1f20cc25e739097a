/*
 * program.c - looks at a program before it is run: an agent is loaded by the dynamic linker, which ignores
 * the request for programs that have none, or that run with more rights than their caller.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "service/launch/launch.h"
#include "sys/sys.h"

#define SCRIPTS_MAX 4

/* Finds a program as execvp does; 0 with its path, or -ENOENT or -EACCES. */
static int resolve(const char *name, char path[PATH_MAX])
{
	const char *list = getenv("PATH");
	int result = -ENOENT;

	if (strchr(name, '/')) {
		if (snprintf(path, PATH_MAX, "%s", name) >= PATH_MAX)
			return -ENAMETOOLONG;
		return access(path, F_OK) ? -errno : access(path, X_OK) ? -EACCES : 0;
	}
	for (list = list ? list : "/usr/local/bin:/usr/bin:/bin"; list;
	     list = strchr(list, ':') ? strchr(list, ':') + 1 : NULL) {
		int length = (int)strcspn(list, ":");

		if (snprintf(path, PATH_MAX, "%.*s/%s", length, length ? list : ".", name) >= PATH_MAX ||
		    access(path, F_OK))
			continue;
		if (access(path, X_OK) == 0)
			return 0;
		result = -EACCES;
	}
	return result;
}

static int check_rights(const char *path, const struct stat *status, struct lh_error *error)
{
	if ((status->st_mode & S_ISUID && status->st_uid != geteuid()) ||
	    (status->st_mode & S_ISGID && status->st_gid != getegid()) ||
	    (geteuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0))
		return lh__fail(error, -EINVAL,
		                "%s: runs with more rights than you have (setuid, setgid or capabilities); "
		                "nothing can be "
		                "loaded into it: run it from an account that has the rights",
		                path);
	return 0;
}

static int check_headers(const char *path, int file, const Elf64_Ehdr *head, struct lh_error *error)
{
	Elf64_Phdr part;

	if (head->e_ident[EI_CLASS] != ELFCLASS64 || head->e_machine != EM_X86_64)
		return lh__fail(error, -EINVAL, "%s: not a program for x86-64", path);
	for (unsigned i = 0; i < head->e_phnum; i++) {
		off_t at = (off_t)(head->e_phoff + (uint64_t)i * head->e_phentsize);

		if (pread(file, &part, sizeof part, at) == (ssize_t)sizeof part && part.p_type == PT_INTERP)
			return 0;
	}
	return lh__fail(error, -EINVAL,
	                "%s: statically linked, so that nothing can be loaded into it: run a dynamically "
	                "linked build",
	                path);
}

/* The interpreter of a script goes to path; 1: it is one. */
static int is_script(char path[PATH_MAX], const char *text, size_t size)
{
	char line[256];
	size_t start = 2, end;

	if (size < 3 || text[0] != '#' || text[1] != '!')
		return 0;
	memcpy(line, text, size < sizeof line ? size : sizeof line - 1);
	line[size < sizeof line ? size : sizeof line - 1] = 0;
	while (line[start] == ' ' || line[start] == '\t')
		start++;
	end = start + strcspn(line + start, " \t\n");
	snprintf(path, PATH_MAX, "%.*s", (int)(end - start), line + start);
	return 1;
}

static int check_file(char path[PATH_MAX], struct lh_error *error)
{
	union {
		Elf64_Ehdr elf;
		char text[256];
	} head = { .text = { 0 } };
	struct stat status;
	int file = open(path, O_RDONLY | O_CLOEXEC), result;
	ssize_t n;

	if (file < 0)
		return errno == EACCES ? 0
		                       : -errno; /* it can be executed and not read: it has to be believed */
	n = fstat(file, &status) == 0 ? pread(file, &head, sizeof head, 0) : -1;
	if (n < 0 || S_ISDIR(status.st_mode))
		result = lh__fail(error, -EACCES, "%s: not a program", path);
	else if (is_script(path, head.text, (size_t)n))
		result = 1;
	else if ((size_t)n < sizeof head.elf || memcmp(head.elf.e_ident, ELFMAG, SELFMAG) != 0)
		result = 0; /* the kernel says what it thinks of it */
	else if ((result = check_rights(path, &status, error)) == 0)
		result = check_headers(path, file, &head.elf, error);
	close(file);
	return result;
}

int lh__launch_check(const char *name, struct lh_error *error)
{
	char path[PATH_MAX];
	int result = resolve(name, path);

	if (result == -EACCES)
		return lh__fail(error, result, "%s: found, but it cannot be executed", name);
	if (result < 0)
		return lh__fail(error, result == -ENOTDIR ? -ENOENT : result, "%s: not found", name);
	for (int i = 0; i < SCRIPTS_MAX; i++) {
		result = check_file(path, error);
		if (result <= 0)
			return result;
	}
	return 0;
}
