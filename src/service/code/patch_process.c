/* patch_process.c - a process as it runs: whether it can be patched, its memory, the files of its code. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/code/patch_inside.h"

/* The number behind a word of /proc/PID/status, or -1; the first letter of what stands there in *letter. */
static long status_of(pid_t process, const char *word, char *letter)
{
	char path[64], line[256];
	long value = -1;
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/status", process);
	file = fopen(path, "re");
	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof line, file)) {
		size_t length = strlen(word);

		if (strncmp(line, word, length) != 0 || line[length] != ':')
			continue;
		*letter = line[length + 2];
		value = atol(line + length + 1);
	}
	fclose(file);
	return value;
}

static int check_file(pid_t process, struct lh_error *error)
{
	Elf64_Ehdr head;
	char path[64];
	ssize_t n;
	int file;

	snprintf(path, sizeof path, "/proc/%d/exe", process);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 && (errno == EACCES || errno == EPERM))
		return lh__fail(error, -EPERM, "process %d: is not yours; be its user, or root", process);
	if (file < 0)
		return lh__fail(error, -ESRCH, "process %d: runs no program that can be read", process);
	n = pread(file, &head, sizeof head, 0);
	close(file);
	if (n != sizeof head || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
	    head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_machine != EM_X86_64)
		return lh__fail(error, -ENOEXEC, "process %d: is not a 64-bit program for x86-64", process);
	return 0;
}

int lh__patch_process(pid_t process, bool write, int *memory, struct lh_error *error)
{
	char path[64], letter = 0;
	long group = process > 0 ? status_of(process, "Tgid", &letter) : -1;
	int result;

	if (group < 0)
		return lh__fail(error, -ESRCH, "process %d: there is no such process", process);
	if (group != process)
		return lh__fail(error, -ESRCH, "process %d: is a thread of process %ld; write that", process,
		                group);
	if (status_of(process, "State", &letter) < 0 || letter == 'Z' || letter == 'X')
		return lh__fail(error, -ESRCH, "process %d: has ended", process);
	result = check_file(process, error);
	if (result < 0)
		return result;
	snprintf(path, sizeof path, "/proc/%d/mem", process);
	*memory = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (*memory < 0)
		return lh__fail(error, errno == ENOENT ? -ESRCH : -EPERM,
		                "process %d: its memory cannot be opened; be its user, or root", process);
	return 0;
}

int lh__patch_read(int memory, uint64_t address, void *to, size_t size)
{
	uint8_t *at = to;

	while (size > 0) {
		ssize_t n = pread(memory, at, size, (off_t)address);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -EFAULT;
		at += n;
		address += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}

struct file_search {
	uint64_t address;
	struct lh_mapping found;
};

static int has_address(void *context, const struct lh_mapping *mapping)
{
	struct file_search *search = context;

	if (search->address < mapping->start || search->address >= mapping->end)
		return 0;
	search->found = *mapping;
	return 1;
}

bool lh__patch_file_code(pid_t process, uint64_t address, void *to, size_t size)
{
	struct file_search search = { .address = address };
	const struct lh_mapping *found = &search.found;
	char path[PATH_MAX + 64];
	ssize_t n;
	int file;

	if (lh__mappings(process, has_address, &search) != 1 || found->inode == 0 ||
	    address + size > found->end)
		return false;
	snprintf(path, sizeof path, "/proc/%d/map_files/%lx-%lx", process, (unsigned long)found->start,
	         (unsigned long)found->end);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0) {
		snprintf(path, sizeof path, "/proc/%d/root%s", process, found->path);
		file = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (file < 0)
		return false;
	n = pread(file, to, size, (off_t)(found->offset + (address - found->start)));
	close(file);
	return n == (ssize_t)size;
}
