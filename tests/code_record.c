/* Records: made, read, merged; cut short, damaged, of a newer version; a full disk; read as they grow. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "line/line.h"
#include "service/code/record.h"
#include "tap.h"

#define TEXT_SIZE (5u * 4096)
#define MODULE_SIZE (2u * 4096) /* a head, and 2560 bytes of bitmap filled up to 4096 */

static char folder[] = "/tmp/linehome-record-XXXXXX";

static const char *in_folder(const char *name)
{
	static char path[4][256];
	static unsigned turn;

	turn = (turn + 1) % 4;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", folder, name);
	return path[turn];
}

static struct lh_plan_head plan_of(uint8_t id, unsigned texts)
{
	struct lh_plan_head plan = { .id_size = 20, .texts = texts, .undecoded = 7, .outside = 9 };

	memset(plan.id, id, 20);
	for (unsigned i = 0; i < texts; i++)
		plan.text[i] = (struct lh_plan_text){ .address = 0x1000 + i * 0x100000,
			                              .offset = 0x1000 + i * 0x100000,
			                              .size = TEXT_SIZE };
	return plan;
}

static struct lh_record *make(const char *name, enum lh_granularity granularity)
{
	char *const command[] = { (char *)"prog", (char *)"an argument", NULL };
	struct lh_record *record = NULL;
	struct lh_error error = { 0 };

	ok(lh__record_create(name ? in_folder(name) : NULL, granularity, command, &record, &error) == 0,
	   "a record is made: %s", name ? name : "without a name");
	return record;
}

static struct lh_record_view add(struct lh_record *record, uint8_t id, unsigned texts)
{
	struct lh_plan_head plan = plan_of(id, texts);
	struct lh_record_view view = { 0 };
	struct lh_error error = { 0 };

	is(lh__record_add(record, &plan, "/usr/bin/prog", id == 1, 0x555500000000, &view, &error), 0,
	   "module %u is added", id);
	return view;
}

static int open_it(const char *name, struct lh_record **out)
{
	struct lh_error error = { 0 };
	int result = lh__record_open(in_folder(name), out, &error);

	if (result < 0)
		printf("# %s\n", error.text);
	return result;
}

static void test_round_trip(void)
{
	struct lh_record *record = make("a", LH_GRANULARITY_LINE), *read = NULL;
	struct lh_record_view view = add(record, 1, 1), again, other;

	view.hits[0][3] = 0x80;
	add(record, 2, 3);
	again = add(record, 1, 1);
	ok(again.head == view.head && again.hits[0] == view.hits[0], "a module stands in a record once");
	lh__record_control(record)->traps = 5;
	is(open_it("a", &read), 0, "it is read while it is open");
	ok(lh__record_module(read, 0, &other) && other.hits[0][3] == 0x80 && other.head->is_program == 1 &&
	           other.head->outside == 9 && other.head->mapped == 0x555500000000 &&
	           strcmp(other.head->path, "/usr/bin/prog") == 0,
	   "the first module is as it was written");
	ok(lh__record_module(read, 1, &other) && other.head->texts == 3 && other.head->is_program == 0 &&
	           other.head->text[2].address == 0x201000,
	   "and the second");
	ok(!lh__record_module(read, 2, &other), "and there is no third");
	ok(memcmp(lh__record_head(read)->command, "prog\0an argument", 17) == 0 &&
	           lh__record_head(read)->command_size == 17 &&
	           lh__record_head(read)->granularity == LH_GRANULARITY_LINE,
	   "command and granularity");
	is(lh__record_control(read)->traps, 5, "counters");
	add(record, 3, 1);
	ok(lh__record_module(read, 2, &other) && other.head->id[0] == 3, "a module that came later is found");
	lh__record_close(read);
	lh__record_close(record);
	is(open_it("a", &read), 0, "it is read when it is closed");
	lh__record_close(read);
}

static void test_program(void)
{
	struct lh_record *record = make("p", LH_GRANULARITY_BLOCK), *read = NULL;
	struct lh_record_view view;
	struct lh_plan_head plan = plan_of(2, 1);
	struct lh_error error = { 0 };

	add(record, 2, 1);
	is(lh__record_add(record, &plan, "/usr/bin/prog", true, 0, &view, &error), 0,
	   "a library is executed as a program");
	is(view.head->is_program, 1, "and counts as one");
	is(open_it("p", &read), 0, "its head is whole again");
	lh__record_close(read);
	plan.text[0].size += 4096;
	is(lh__record_add(record, &plan, "/usr/bin/prog", true, 0, &view, &error), -EINVAL,
	   "other code with the same id is refused");
	lh__record_close(record);
}

static void test_no_name(void)
{
	struct lh_record *record = make(NULL, LH_GRANULARITY_BLOCK);
	struct lh_record_view view = add(record, 1, 1);
	struct stat status;

	view.hits[0][0] = 1;
	ok(fstat(lh__record_descriptor(record), &status) == 0 && status.st_nlink == 0 &&
	           status.st_size == 8192 + MODULE_SIZE,
	   "it has no name, and the size that the format says");
	lh__record_close(record);
}

static void write_file(const char *name, const char *text)
{
	FILE *file = fopen(in_folder(name), "w");

	if (file) {
		fputs(text, file);
		fclose(file);
	}
}

static void test_existing(void)
{
	char *const command[] = { NULL };
	struct lh_record *record = NULL, *old = make("there", LH_GRANULARITY_BLOCK);
	struct lh_record_view view = add(old, 1, 1);
	struct lh_error error = { 0 };
	char byte = 0;
	FILE *file;

	write_file("text", "precious");
	is(lh__record_create(in_folder("text"), LH_GRANULARITY_BLOCK, command, &record, &error), -EEXIST,
	   "a file that is no record is refused");
	file = fopen(in_folder("text"), "r");
	ok(file && fread(&byte, 1, 1, file) == 1 && byte == 'p', "and is as it was");
	fclose(file);
	is(lh__record_create("/dev/null", LH_GRANULARITY_BLOCK, command, &record, &error), -EEXIST,
	   "and so is a device");
	is(lh__record_create(in_folder("none/x"), LH_GRANULARITY_BLOCK, command, &record, &error), -ENOENT,
	   "a folder that is not there is an error");
	write_file("empty", "");
	lh__record_close(make("empty", LH_GRANULARITY_BLOCK));
	lh__record_close(make("there", LH_GRANULARITY_LINE));
	view.hits[0][1] = 1;
	is(view.head->id[0], 1, "who has a record open that is replaced keeps it");
	lh__record_close(old);
	is(open_it("none", &record), -ENOENT, "what is not there cannot be read");
	is(open_it("text", &record), -EBADMSG, "nor what is no record");
	is(open_it(".", &record), -EBADMSG, "nor a folder");
}

/* ---- damage ---- */

static void poke(const char *name, off_t at, const void *data, size_t size)
{
	int file = open(in_folder(name), O_RDWR);

	if (file < 0 || pwrite(file, data, size, at) != (ssize_t)size)
		ok(0, "%s can be written to", name);
	close(file);
}

static void make_damaged(const char *name)
{
	struct lh_record *record;

	/* One whose magic is damaged would not be replaced. */
	unlink(in_folder(name));
	record = make(name, LH_GRANULARITY_BLOCK);
	add(record, 1, 1);
	add(record, 2, 2);
	lh__record_close(record);
}

static void test_damage(void)
{
	static const off_t places[] = { 0, 9, 16, 36, 8192, 8200, 8300, 8192 + MODULE_SIZE + 100 };
	struct lh_record *read = NULL;
	uint32_t version = LH_RECORD_VERSION + 1;
	off_t whole;

	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		uint8_t byte = 0xa5;

		make_damaged("d");
		poke("d", places[i], &byte, 1);
		is(open_it("d", &read), places[i] == 9 ? -EPROTONOSUPPORT : -EBADMSG,
		   "a byte at %ld is another", (long)places[i]);
	}
	make_damaged("d");
	poke("d", offsetof(struct lh_record_head, version), &version, sizeof(version));
	is(open_it("d", &read), -EPROTONOSUPPORT, "a newer version");
	make_damaged("d");
	whole = 8192 + MODULE_SIZE + 3 * 4096;
	for (off_t size = 0; size < whole; size += 1024 + 512) {
		struct lh_record_view view;
		int result;

		make_damaged("d");
		if (truncate(in_folder("d"), size) < 0)
			ok(0, "it can be cut");
		result = open_it("d", &read);
		/* At the end of a module's head at the latest it is known that more is to follow. */
		if (result == 0) {
			ok(size >= 8192 && !lh__record_module(read, 2, &view), "cut after %ld: whole modules",
			   (long)size);
			lh__record_close(read);
		} else {
			is(result, -EBADMSG, "cut after %ld: an error", (long)size);
		}
	}
}

/* A head with a right checksum that leads elsewhere. */
static void test_lies(void)
{
	static const uint64_t hits[] = { 0, 8192, 8193 + 4096, 1u << 30, UINT64_MAX - 4095 };
	struct lh_record *read = NULL;

	for (size_t i = 0; i < sizeof(hits) / sizeof(*hits); i++) {
		union {
			struct lh_record_module head;
			uint8_t page[4096];
		} front = { .page = { 0 } };
		int file;

		make_damaged("l");
		file = open(in_folder("l"), O_RDWR);
		if (pread(file, front.page, 4096, 8192) != 4096)
			ok(0, "its head can be read");
		front.head.text[0].hits = hits[i];
		front.head.crc = 0;
		front.head.crc = lh__crc32c(0, front.page, 4096);
		close(file);
		poke("l", 8192, front.page, 4096);
		is(open_it("l", &read), -EBADMSG, "a bitmap at %llx", (unsigned long long)hits[i]);
	}
}

/* ---- merging ---- */

static void test_merge(void)
{
	struct lh_record *a = make("m1", LH_GRANULARITY_BLOCK), *b = make("m2", LH_GRANULARITY_BLOCK);
	struct lh_record *line = make("m3", LH_GRANULARITY_LINE), *read = NULL;
	struct lh_record_view first = add(a, 1, 1), second = add(b, 1, 1), third = add(b, 2, 1), view;
	struct lh_error error = { 0 };

	first.hits[0][0] = 1;
	second.hits[0][0] = 2;
	third.hits[0][4] = 4;
	lh__record_control(a)->traps = 1;
	lh__record_control(b)->traps = 2;
	is(open_it("m2", &read), 0, "the second is read");
	is(lh__record_merge(a, read, &error), 0, "and merged into the first");
	is(first.hits[0][0], 3, "what either has seen is seen");
	ok(lh__record_module(a, 1, &view) && view.hits[0][4] == 4 && view.head->id[0] == 2,
	   "a module of the second only is there");
	is(lh__record_control(a)->traps, 3, "counters are added");
	is(lh__record_merge(line, read, &error), -EINVAL, "another granularity is refused");
	ok(strstr(error.text, "--granularity") != NULL, "and named");
	is(lh__record_merge(read, a, &error), -EROFS, "nothing is added to what is only read");
	lh__record_close(read);
	lh__record_close(a);
	lh__record_close(b);
	lh__record_close(line);
}

/* ---- a disk that is full ---- */

static int fill_disk(void)
{
	struct lh_record *record = NULL;
	struct lh_record_view view[64];
	struct lh_error error = { 0 };
	char *const command[] = { NULL };
	unsigned n = 0;
	int result = 0;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", folder, "tmpfs", 0, "size=64k") < 0)
		return 77;
	if (lh__record_create(in_folder("r"), LH_GRANULARITY_BLOCK, command, &record, &error) < 0)
		return 2;
	for (; result == 0 && n < 64; n++) {
		struct lh_plan_head plan = plan_of((uint8_t)(n + 1), 1);

		result = lh__record_add(record, &plan, "/x", true, 0, &view[n], &error);
	}
	printf("# %u modules, then: %s\n", n - 1, error.text);
	if (result != -ENOSPC || n < 3)
		return 3;
	/* All that was given can be written to, to its last byte. */
	for (unsigned i = 0; i + 1 < n; i++)
		memset(view[i].hits[0], 0xff, TEXT_SIZE / 8);
	lh__record_close(record);
	if (lh__record_open(in_folder("r"), &record, &error) < 0)
		return 4;
	for (unsigned i = 0; i + 1 < n; i++)
		if (!lh__record_module(record, i, &view[i]) || view[i].hits[0][0] != UINT64_MAX)
			return 5;
	if (lh__record_module(record, n - 1, &view[0]))
		return 6;
	lh__record_close(record);
	return 0;
}

static void test_full(void)
{
	int status = 0;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		status = fill_disk();
		fflush(stdout);
		_exit(status);
	}
	waitpid(child, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip("a full disk", "cannot mount a file system");
	else
		is(status, 0, "a full disk is an error, and what was there before is whole");
}

/* ---- a reader while it grows ---- */

static int read_on(const char *path, int modules)
{
	struct lh_record_view view;
	int seen = 0;

	while (seen < modules) {
		struct lh_record *record = NULL;
		struct lh_error error = { 0 };

		if (lh__record_open(path, &record, &error) < 0) {
			printf("# %s\n", error.text);
			return 1;
		}
		for (seen = 0; lh__record_module(record, (size_t)seen, &view); seen++)
			if (view.head->id[0] != seen + 1 || view.hits[0][1] > 1)
				return 2;
		lh__record_close(record);
	}
	return 0;
}

static void test_growing(void)
{
	enum { MODULES = 200 };
	struct lh_record *record = make("g", LH_GRANULARITY_BLOCK);
	struct lh_error error = { 0 };
	int status = -1, failed = 0;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		status = read_on(in_folder("g"), MODULES);
		fflush(stdout);
		_exit(status);
	}
	for (unsigned i = 0; i < MODULES; i++) {
		struct lh_plan_head plan = plan_of((uint8_t)(i + 1), 1);
		struct lh_record_view view;

		failed |= lh__record_add(record, &plan, "/x", false, 0, &view, &error);
		view.hits[0][1] = 1;
		/* A head that changes. */
		failed |= lh__record_add(record, &plan, "/x", true, 0, &view, &error);
	}
	is(failed, 0, "it grows");
	waitpid(child, &status, 0);
	is(status, 0, "and a reader meets whole modules at any moment");
	lh__record_close(record);
}

int main(void)
{
	char command[300];

	if (!mkdtemp(folder))
		return 1;
	test_round_trip();
	test_program();
	test_no_name();
	test_existing();
	test_damage();
	test_lies();
	test_merge();
	test_growing();
	test_full();
	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	if (system(command) != 0)
		ok(0, "all can be removed");
	return done();
}
