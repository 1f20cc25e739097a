/*
 * migrate_record.c - recordings: what is written is read again; every flipped bit and every other length is
 * refused; a recording that cannot be written leaves the one before.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "service/migrate/record.h"
#include "tap.h"

#define PAGES 1000u
#define HEAD 40u

static char folder[] = "/dev/shm/linehome-record-XXXXXX";
static char path[64], other[64];

static long load(const char *name, unsigned char *bytes, size_t size)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	long got = fd < 0 ? -1 : read(fd, bytes, size);

	if (fd >= 0)
		close(fd);
	return got;
}

static void store(const char *name, const unsigned char *bytes, size_t size)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
		exit(1);
	close(fd);
}

/* What reading gives: the number of entries, or the error. */
static long read_as(const char *name, size_t page_size, uint64_t pages)
{
	struct lh_error error = { 0 };
	uint64_t *entries = NULL;
	size_t n = 0;
	int result = lh__record_read(name, page_size, pages, &entries, &n, &error);

	free(entries);
	return result < 0 ? result : (long)n;
}

static unsigned files_in_folder(void)
{
	char command[128];
	FILE *list;
	unsigned n = 0;
	int c;

	snprintf(command, sizeof(command), "ls -A %s", folder);
	list = popen(command, "r");
	while (list && (c = getc(list)) != EOF)
		n += c == '\n';
	if (list)
		pclose(list);
	return n;
}

static void test_round(void)
{
	static const uint64_t some[] = { 7, 3, 999, 0, 500 }, twice[] = { 5, 6, 5, 7, 6, 5 };
	uint64_t *entries = NULL, beyond = PAGES;
	size_t n = 99;
	struct lh_error error = { 0 };

	is(lh__record_write(path, 4096, PAGES, some, 5, &error), 0, "a recording is written");
	is(lh__record_read(path, 4096, PAGES, &entries, &n, &error), 0, "and read");
	ok(n == 5 && memcmp(entries, some, sizeof(some)) == 0, "with the same entries");
	free(entries);
	entries = NULL;
	is(lh__record_write(path, 4096, PAGES, twice, 6, &error), 0, "pages that repeat");
	is(lh__record_read(path, 4096, PAGES, &entries, &n, &error), 0, "are read");
	ok(n == 3 && entries[0] == 5 && entries[1] == 6 && entries[2] == 7, "once each");
	free(entries);
	is(lh__record_write(path, 4096, PAGES, &beyond, 1, &error), -EINVAL, "a page beyond the guest");
	is(read_as(path, 4096, PAGES), 3, "leaves what was there");
	is(lh__record_write(path, 4096, PAGES, NULL, 0, &error), 0, "an empty recording");
	is(read_as(path, 4096, PAGES), 0, "is one too");
	is(lh__record_write(path, 2u << 20, PAGES, some, 5, &error), 0, "large pages");
	is(read_as(path, 2u << 20, PAGES), 5, "are recorded");
	is(read_as(path, 4096, PAGES), -EINVAL, "another page size is refused");
	is(read_as(path, 2u << 20, PAGES + 1), -EINVAL, "and another number of pages");
	is(read_as("/dev/shm/linehome-record-none", 4096, PAGES), -ENOENT, "there is none");
	is(read_as("/dev/null", 4096, PAGES), -EBADMSG, "a device is none");
	is(read_as(folder, 4096, PAGES), -EISDIR, "nor is a folder");
}

static void test_damage(void)
{
	uint64_t entries[20];
	unsigned char bytes[512], damaged[512];
	long size, i, accepted = 0;

	for (i = 0; i < 20; i++)
		entries[i] = (uint64_t)(37 * i % PAGES);
	if (lh__record_write(path, 4096, PAGES, entries, 20, NULL) < 0)
		exit(1);
	size = load(path, bytes, sizeof(bytes));
	is(size, HEAD + 20 * 8, "the size that is drawn");
	ok(memcmp(bytes, "LHMISSES\1\0\0\0\0\20\0\0", 16) == 0, "the head that is drawn");
	for (i = 0; i < size * 8; i++) {
		memcpy(damaged, bytes, (size_t)size);
		damaged[i / 8] ^= (unsigned char)(1u << i % 8);
		store(other, damaged, (size_t)size);
		accepted += read_as(other, 4096, PAGES) != -EBADMSG;
	}
	is(accepted, 0, "every bit that is flipped is noticed");
	for (i = 0; i < size; i++) {
		store(other, bytes, (size_t)i);
		accepted += read_as(other, 4096, PAGES) != -EBADMSG;
	}
	is(accepted, 0, "a shorter file is refused, whatever its length");
	memcpy(damaged, bytes, (size_t)size);
	damaged[size] = 0;
	store(other, damaged, (size_t)size + 1);
	is(read_as(other, 4096, PAGES), -EBADMSG, "and a longer one");
	store(other, bytes, (size_t)size);
	is(read_as(other, 4096, PAGES), 20, "but the whole one is read (so the checks above can fail)");
	unlink(other);
}

static void test_replacement(void)
{
	static const uint64_t first[] = { 1, 2, 3 }, second[] = { 4 };
	struct stat status;
	mode_t before = umask(022);

	unlink(path);
	if (lh__record_write(path, 4096, PAGES, first, 3, NULL) < 0 || symlink(path, other) < 0)
		exit(1);
	ok(stat(path, &status) == 0 && (status.st_mode & 0777) == 0644, "its rights go by the umask");
	umask(before);
	is(lh__record_write(other, 4096, PAGES, second, 1, NULL), 0, "through a link");
	ok(lstat(other, &status) == 0 && S_ISLNK(status.st_mode), "the link stays one");
	is(read_as(path, 4096, PAGES), 1, "and what it leads to is replaced");
	unlink(other);
	is(lh__record_write("/dev/null", 4096, PAGES, first, 3, NULL), -EINVAL, "a device is not replaced");
	is(lh__record_write("/dev/shm/linehome-record-none/x", 4096, PAGES, first, 3, NULL), -ENOENT,
	   "no folder");
	is(files_in_folder(), 1, "nothing is left beside it");
}

/* A full disk, as a limit on the size of files: the process would get a signal, else an error. */
static int full(void)
{
	static const uint64_t many[64] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17 };
	struct rlimit limit = { 100, 100 };
	struct lh_error error = { 0 };

	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
		return 2;
	if (lh__record_write(path, 4096, PAGES, many, 17, &error) != -EFBIG || !*error.text)
		return 3;
	return 0;
}

static void test_full(void)
{
	ok_in_child("a file that cannot become so long is an error", full);
	is(read_as(path, 4096, PAGES), 1, "and the recording before it is whole");
	is(files_in_folder(), 1, "with nothing beside it");
}

int main(void)
{
	if (!mkdtemp(folder))
		return 1;
	snprintf(path, sizeof(path), "%s/misses", folder);
	snprintf(other, sizeof(other), "%s/other", folder);
	test_round();
	test_damage();
	test_replacement();
	test_full();
	unlink(path);
	unlink(other);
	rmdir(folder);
	return done();
}
