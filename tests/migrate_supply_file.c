/*
 * migrate_supply_file.c - pages from files: several files as one memory, large pages, zeroes, holes that stay
 * holes, files that are cut short, and what is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include "line_random.h"
#include "service/migrate/supply.h"
#include "service/migrate/tables.h"
#include "tap.h"

#define PAGE 4096u

static char folder[] = "/dev/shm/linehome-supply-XXXXXX";
static char first[64], second[64];

static void store(const char *name, uint64_t offset, const void *bytes, size_t size)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || pwrite(fd, bytes, size, (off_t)offset) != (ssize_t)size)
		exit(1);
	close(fd);
}

static long blocks(const char *name)
{
	struct stat status;

	return stat(name, &status) < 0 ? -1 : (long)status.st_blocks;
}

static struct lh_supply *open_supply(const struct lh_supply_file *file, size_t files, size_t page_size,
                                     struct lh_tables *tables)
{
	struct lh_supply *supply = NULL;
	struct lh_error error = { 0 };

	if (lh__supply_files(file, files, page_size, 3, tables, &supply, &error) < 0) {
		printf("# %s\n", error.text);
		exit(1);
	}
	return supply;
}

/* Asks for one page; whether the answer is about it. */
static bool fetch(struct lh_supply *supply, unsigned lane, uint64_t page, struct lh_supply_answer *answer)
{
	memset(answer, 0xa5, sizeof(*answer));
	return supply->ops->ask(supply, lane, page, false) == 0 && supply->ops->flush(supply, lane) == 0 &&
	       supply->ops->next(supply, lane, answer) == 1 && answer->page == page && !answer->since;
}

static bool is_content(const struct lh_supply_answer *answer, const unsigned char *page, lh_mask mask)
{
	return answer->mask == mask && memcmp(answer->data, page, PAGE) == 0 &&
	       answer->bytes == LH_LINE_SIZE * lh__mask_count(mask);
}

/* The first file: page 0 is a hole, 1 has lines 3 and 63, 2 is all random. The second: from its page 1 on. */
static unsigned char content[5][PAGE];

static void make_files(void)
{
	uint64_t random = 12;

	content[1][3 * 64 + 5] = 1;
	content[1][4095] = 2;
	random_bytes(&random, content[2], PAGE);
	random_bytes(&random, content[4], PAGE);
	store(first, PAGE, content[1], 2 * PAGE);
	store(second, 2 * PAGE, content[4], PAGE);
}

static struct lh_supply_file parts[2];

static void test_pages(void)
{
	struct lh_supply *supply = open_supply(parts, 2, PAGE, NULL);
	struct lh_supply_answer answer;
	long before = blocks(first) + blocks(second);
	uint64_t hint;
	unsigned i;

	is(supply->lanes, 3, "as many lanes as were wanted");
	is(supply->ops->next(supply, 1, &answer), 0, "nothing asked, nothing answered");
	ok(fetch(supply, 0, 1, &answer) && is_content(&answer, content[1], UINT64_C(1) << 63 | 8),
	   "a page with two lines");
	ok(fetch(supply, 1, 0, &answer) && is_content(&answer, content[0], 0), "a hole");
	ok(fetch(supply, 1, 2, &answer) && is_content(&answer, content[2], LH_MASK_ALL), "a full page");
	ok(fetch(supply, 1, 3, &answer) && is_content(&answer, content[3], 0), "another file's hole");
	ok(fetch(supply, 2, 4, &answer) && is_content(&answer, content[4], LH_MASK_ALL), "its full page");
	is(blocks(first) + blocks(second), before, "holes of the files are still holes");
	is(supply->ops->descriptor(supply, 1), -1, "answers need not be waited for");
	is(supply->ops->hints(supply, &hint, 1), 0, "without tables no hints");

	for (i = 0; i < 1000; i++)
		if (supply->ops->ask(supply, 1, i % 5, i & 1) < 0)
			break;
	is(i, 1000, "many are asked for");
	is(supply->ops->ask(supply, 2, 4, false), 0, "and one on another lane");
	for (i = 0; i < 1000; i++)
		if (supply->ops->next(supply, 1, &answer) != 1 || answer.page != i % 5)
			break;
	is(i, 1000, "and answered in the same order");
	ok(supply->ops->next(supply, 2, &answer) == 1 && answer.page == 4, "lanes are apart");
	is(supply->ops->next(supply, 1, &answer), 0, "no more");
	is(supply->ops->ask(supply, 0, 5, false), -EINVAL, "a page that there is not");
	is(supply->ops->next(supply, 1, &answer), -EINVAL, "breaks the supply");
	supply->ops->close(supply);
}

static void test_large(void)
{
	static const size_t large = 2u << 20;
	static unsigned char bytes[2u << 20];
	struct lh_supply_file file = { second, 0, 3 * large };
	struct lh_supply_answer answer;
	struct lh_supply *supply;
	uint64_t random = 4;

	random_bytes(&random, bytes, large / 2);
	store(second, large + large / 2, bytes, large / 2);
	store(second, 3 * large - 1, "", 1);
	supply = open_supply(&file, 1, large, NULL);
	ok(fetch(supply, 0, 1, &answer) && answer.mask == LH_MASK_ALL && answer.bytes == large &&
	           memcmp((const char *)answer.data + large / 2, bytes, large / 2) == 0 &&
	           lh__page_nonzero(answer.data) == 0,
	   "a page of 2 MiB");
	ok(fetch(supply, 1, 2, &answer) && answer.mask == LH_MASK_NONE && answer.bytes == 0,
	   "one of 2 MiB of zeroes");
	supply->ops->close(supply);
}

static void *break_off(void *argument)
{
	struct lh_supply *supply = argument;

	supply->ops->break_off(supply);
	return NULL;
}

static void test_broken(void)
{
	struct lh_supply *supply = open_supply(parts, 2, PAGE, NULL);
	struct lh_supply_answer answer;
	pthread_t thread;

	ok(fetch(supply, 0, 2, &answer), "a file that is whole");
	if (truncate(first, 2 * PAGE + 100) < 0)
		exit(1);
	ok(fetch(supply, 0, 1, &answer), "what is still there");
	is(supply->ops->ask(supply, 1, 2, false), 0, "what is not");
	is(supply->ops->next(supply, 1, &answer), -ENODATA, "is an error, and no signal");
	is(supply->ops->ask(supply, 0, 1, false), -ENODATA, "on all lanes");
	is(supply->ops->flush(supply, 2), -ENODATA, "from then on");
	supply->ops->break_off(supply);
	is(supply->ops->flush(supply, 2), -ENODATA, "and the first error stays");
	supply->ops->close(supply);
	store(first, PAGE, content[1], 2 * PAGE);

	supply = open_supply(parts, 2, PAGE, NULL);
	if (supply->ops->ask(supply, 1, 2, false) < 0 || pthread_create(&thread, NULL, break_off, supply))
		exit(1);
	while (supply->ops->next(supply, 1, &answer) >= 0)
		sched_yield();
	pthread_join(thread, NULL);
	is(supply->ops->next(supply, 1, &answer), -ECONNRESET, "another thread breaks it off");
	supply->ops->close(supply);
}

/* ---- hints ---- */

static int read_page(void *context, uint64_t page, void *entries)
{
	uint64_t *entry = entries;

	memset(entry, 0, PAGE);
	if (page < 3)
		entry[0] = (page + 1) * PAGE | 1;
	else if (page == 3)
		entry[0] = 4 * PAGE | 1, entry[1] = 1 * PAGE | 1, entry[2] = 3 * PAGE | 1;
	return 0;
}

static void test_hints(void)
{
	struct lh_physical_range range = { 0, 5, 0 };
	uint64_t cr3 = 0, hint[8];
	struct lh_tables_options options = { &range, 1, 5, &cr3, 1, read_page, NULL };
	struct lh_supply_file large = { second, 0, 2u << 20 };
	struct lh_supply_answer answer;
	struct lh_supply *supply;
	struct lh_tables *tables;

	if (lh__tables_open(&options, &tables, NULL) < 0)
		exit(1);
	supply = open_supply(parts, 2, PAGE, tables);
	is(supply->ops->hints(supply, hint, 8), 0, "before anything was missed there are no hints");
	ok(fetch(supply, 1, 1, &answer) && supply->ops->hints(supply, hint, 8) == 0,
	   "nor for what came in the background");
	ok(fetch(supply, 0, 4, &answer) && supply->ops->hints(supply, hint, 8) == 2 && hint[0] == 1 &&
	           hint[1] == 3,
	   "a page that was missed has neighbours");
	supply->ops->close(supply);
	supply = open_supply(&large, 1, 2u << 20, tables);
	ok(fetch(supply, 0, 0, &answer) && supply->ops->hints(supply, hint, 8) == 0, "large pages have none");
	supply->ops->close(supply);
	lh__tables_close(tables);
}

static void refused(const char *path, uint64_t offset, uint64_t size, size_t page_size, unsigned lanes,
                    int wanted, const char *what)
{
	struct lh_supply_file file[2] = { parts[0], { path, offset, size } };
	struct lh_error error = { 0 };
	struct lh_supply *supply;

	is(lh__supply_files(file, 2, page_size, lanes, NULL, &supply, &error), wanted, "refused: %s", what);
	if (!*error.text)
		ok(false, "and said why");
}

static void test_refused(void)
{
	refused("/dev/shm/linehome-supply-none", 0, PAGE, PAGE, 2, -ENOENT, "no file");
	refused("/dev/zero", 0, PAGE, PAGE, 2, -EINVAL, "a device");
	refused(folder, 0, PAGE, PAGE, 2, -EINVAL, "a folder");
	refused(first, 0, 4 * PAGE, PAGE, 2, -EINVAL, "a file that is too short");
	refused(first, UINT64_MAX - PAGE + 1, PAGE, PAGE, 2, -EINVAL, "an offset beyond its end");
	refused(first, 0, PAGE + 1, PAGE, 2, -EINVAL, "no whole pages");
	refused(first, 0, 0, PAGE, 2, -EINVAL, "no pages");
	refused(first, 0, PAGE, 5000, 2, -EINVAL, "no page size");
	refused(first, 0, PAGE, PAGE, 1, -EINVAL, "one lane");
}

int main(void)
{
	if (!mkdtemp(folder))
		return 1;
	snprintf(first, sizeof(first), "%s/first", folder);
	snprintf(second, sizeof(second), "%s/second", folder);
	parts[0] = (struct lh_supply_file){ first, 0, 3 * PAGE };
	parts[1] = (struct lh_supply_file){ second, PAGE, 2 * PAGE };
	make_files();
	test_pages();
	test_broken();
	test_large();
	test_hints();
	test_refused();
	unlink(first);
	unlink(second);
	rmdir(folder);
	return done();
}
