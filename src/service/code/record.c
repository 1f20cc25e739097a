/*
 * record.c - records: files that grow by a module at a time and are mapped by everybody who sets bits.
 *
 * Who makes a record maps each part as it comes, so that what a view points to never moves. A module's room
 * is allocated, then mapped; its head is written without its magic, and the magic last: a reader meets a
 * whole module or none.
 *
 * Who reads one trusts nothing in it and maps nothing: a file that somebody cuts short under a mapping is
 * death by SIGBUS, under a read it is an error.
 */
#include "service/code/record.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "line/line.h"

/* A head that changes while it is read is read again so often. */
#define ATTEMPTS 8u
#define TEXT_MOST (UINT64_C(1) << 31)

struct module {
	uint8_t *memory; /* of the file, or a copy of it */
	uint64_t at, size;
};

struct lh_record {
	int file;
	bool made;      /* by this handle, which may add to it */
	uint8_t *front; /* head and control, LH_RECORD_MODULES bytes */
	uint64_t end;   /* where the next module begins */
	struct module *module;
	size_t modules, room;
	char name[PATH_MAX];
};

static uint64_t whole_pages(uint64_t size)
{
	return (size + LH_PAGE_SIZE - 1) / LH_PAGE_SIZE * LH_PAGE_SIZE;
}

/* The CRC of a head of 4096 bytes in which its own place counts as zero. */
static uint32_t head_crc(const void *head, size_t place)
{
	static const uint32_t zero;
	uint32_t crc = lh__crc32c(0, head, place);

	crc = lh__crc32c(crc, &zero, sizeof(zero));
	return lh__crc32c(crc, (const char *)head + place + sizeof(zero),
	                  LH_PAGE_SIZE - place - sizeof(zero));
}

static int write_all(int file, const void *data, size_t size, uint64_t at)
{
	const char *bytes = data;

	while (size > 0) {
		ssize_t wrote = pwrite(file, bytes, size, (off_t)at);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return wrote == 0 ? -EIO : -errno;
		bytes += wrote;
		at += (uint64_t)wrote;
		size -= (size_t)wrote;
	}
	return 0;
}

/* -ENODATA: the file ends before. */
static int read_all(int file, void *data, size_t size, uint64_t at)
{
	char *bytes = data;

	while (size > 0) {
		ssize_t got = pread(file, bytes, size, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got == 0 ? -ENODATA : -errno;
		bytes += got;
		at += (uint64_t)got;
		size -= (size_t)got;
	}
	return 0;
}

/* ---- what a handle holds ---- */

static struct lh_record *new_handle(const char *name)
{
	struct lh_record *record = calloc(1, sizeof(*record));

	if (!record)
		return NULL;
	record->file = -1;
	record->end = LH_RECORD_MODULES;
	snprintf(record->name, sizeof(record->name), "%s", name ? name : "the record");
	return record;
}

static void drop(const struct lh_record *record, uint8_t *memory, uint64_t size)
{
	if (!memory)
		return;
	if (record->made)
		munmap(memory, size);
	else
		free(memory);
}

void lh__record_close(struct lh_record *record)
{
	if (!record)
		return;
	for (size_t i = 0; i < record->modules; i++)
		drop(record, record->module[i].memory, record->module[i].size);
	drop(record, record->front, LH_RECORD_MODULES);
	free(record->module);
	if (record->file >= 0)
		close(record->file);
	free(record);
}

/* A place for one more module in the list; it counts when modules is raised. */
static struct module *next_place(struct lh_record *record)
{
	if (record->modules == record->room) {
		size_t room = record->room ? 2 * record->room : 16;
		struct module *grown = realloc(record->module, room * sizeof(*grown));

		if (!grown)
			return NULL;
		record->module = grown;
		record->room = room;
	}
	return &record->module[record->modules];
}

static void view_module(const struct module *module, struct lh_record_view *view)
{
	const struct lh_record_module *head = (const void *)module->memory;

	memset(view, 0, sizeof(*view));
	view->head = head;
	for (unsigned i = 0; i < head->texts; i++)
		view->hits[i] = (uint64_t *)(module->memory + (head->text[i].hits - module->at));
}

/* ---- making one ---- */

/*
 * Room on the disk for a part of the file, since what is mapped without it is SIGBUS when the disk is full.
 * A file system that cannot allocate is written to instead.
 */
static int allocate(int file, uint64_t at, uint64_t size)
{
	static const char zeroes[LH_PAGE_SIZE];
	int result;

	do
		result = fallocate(file, 0, (off_t)at, (off_t)size) < 0 ? -errno : 0;
	while (result == -EINTR);
	if (result != -EOPNOTSUPP && result != -ENOSYS)
		return result;
	result = 0;
	for (uint64_t done = 0; result == 0 && done < size; done += sizeof(zeroes))
		result = write_all(file, zeroes, sizeof(zeroes), at + done);
	return result;
}

/* Makes the file longer by size bytes and maps them; on failure it is as long as it was. */
static int grow(struct lh_record *record, uint64_t at, uint64_t size, uint8_t **memory)
{
	int result = allocate(record->file, at, size);
	void *mapped = MAP_FAILED;

	if (result == 0) {
		mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, record->file, (off_t)at);
		result = mapped == MAP_FAILED ? -errno : 0;
	}
	if (result < 0) {
		if (ftruncate(record->file, (off_t)at) < 0)
			result = -EIO;
		return result;
	}
	*memory = mapped;
	return 0;
}

/* Words that end with 0, as many as there is room for; the last may be cut. */
static uint32_t write_command(char *to, size_t room, char *const *command)
{
	size_t at = 0;

	for (; command && *command && at < room; command++) {
		size_t length = strlen(*command);

		if (length > room - at - 1)
			length = room - at - 1;
		memcpy(to + at, *command, length);
		to[at + length] = '\0';
		at += length + 1;
	}
	return (uint32_t)at;
}

static void write_head(struct lh_record_head *head, enum lh_granularity granularity, char *const *command)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	memcpy(head->magic, LH_RECORD_MAGIC, sizeof(head->magic));
	head->version = LH_RECORD_VERSION;
	head->granularity = granularity;
	head->created = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	head->command_size = write_command(head->command, sizeof(head->command), command);
	head->crc = head_crc(head, offsetof(struct lh_record_head, crc));
}

static int fail_named(const struct lh_record *record, int code, struct lh_error *error)
{
	const char *why = code == -ENOSPC || code == -EDQUOT || code == -EFBIG
	                          ? "no room left; free some, or choose another place with --record or TMPDIR"
	                          : strerror(-code);

	return lh__fail(error, code, "%s: %s", record->name, why);
}

static int open_unnamed(struct lh_record *record)
{
	const char *folder = getenv("TMPDIR");
	char path[PATH_MAX];

	if (!folder || !*folder)
		folder = "/tmp";
	snprintf(record->name, sizeof(record->name), "a record in %s", folder);
	record->file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (record->file >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR)
		return -errno;
	snprintf(path, sizeof(path), "%s/linehome-XXXXXX", folder);
	record->file = mkostemp(path, O_CLOEXEC);
	if (record->file < 0)
		return -errno;
	unlink(path);
	return 0;
}

/* Whether a file that is there may be replaced. */
static int may_replace(const char *path, struct lh_error *error)
{
	char magic[sizeof(((struct lh_record_head *)0)->magic)];
	int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), result;
	struct stat status;

	if (file < 0)
		return errno == ENOENT ? 0 : lh__fail(error, -errno, "%s: %s", path, strerror(errno));
	result = fstat(file, &status) < 0 ? -errno : 0;
	if (result == 0 && S_ISREG(status.st_mode) && status.st_size > 0)
		result = read_all(file, magic, sizeof(magic), 0) == 0 &&
		                         memcmp(magic, LH_RECORD_MAGIC, sizeof(magic)) == 0
		                 ? 0
		                 : -EEXIST;
	else if (result == 0 && !S_ISREG(status.st_mode))
		result = -EEXIST;
	close(file);
	if (result == -EEXIST)
		return lh__fail(error, result,
		                "%s: is there and is no record; choose another name, or remove it", path);
	return result < 0 ? lh__fail(error, result, "%s: %s", path, strerror(-result)) : 0;
}

/* A file beside the one that is wanted, which takes its place when it is whole. */
static int open_beside(struct lh_record *record, const char *path, char beside[PATH_MAX])
{
	uint32_t number;

	for (unsigned i = 0; i < ATTEMPTS; i++) {
		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			return -EIO;
		if (snprintf(beside, PATH_MAX, "%s.%08x", path, number) >= PATH_MAX)
			return -ENAMETOOLONG;
		record->file = open(beside, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (record->file >= 0 || errno != EEXIST)
			break;
	}
	return record->file < 0 ? -errno : 0;
}

static int create_in(struct lh_record *record, const char *path, enum lh_granularity granularity,
                     char *const *command)
{
	char beside[PATH_MAX];
	int result = path ? open_beside(record, path, beside) : open_unnamed(record);

	if (result < 0)
		return result;
	record->made = true;
	result = grow(record, 0, LH_RECORD_MODULES, &record->front);
	if (result == 0)
		write_head((struct lh_record_head *)record->front, granularity, command);
	if (result == 0 && path && rename(beside, path) < 0)
		result = -errno;
	if (result < 0 && path)
		unlink(beside);
	return result;
}

int lh__record_create(const char *path, enum lh_granularity granularity, char *const *command,
                      struct lh_record **out, struct lh_error *error)
{
	struct lh_record *record;
	int result = path ? may_replace(path, error) : 0;

	if (result < 0)
		return result;
	record = new_handle(path);
	if (!record)
		return lh__fail(error, -ENOMEM, "no memory for a record");
	result = create_in(record, path, granularity, command);
	if (result < 0) {
		fail_named(record, result, error);
		lh__record_close(record);
		return result;
	}
	*out = record;
	return 0;
}

/* ---- reading one ---- */

static int check_head(const struct lh_record_head *head, const char *name, struct lh_error *error)
{
	if (memcmp(head->magic, LH_RECORD_MAGIC, sizeof(head->magic)) != 0)
		return lh__fail(error, -EBADMSG, "%s: not a record of linehome cover", name);
	if (head->version > LH_RECORD_VERSION)
		return lh__fail(error, -EPROTONOSUPPORT,
		                "%s: a record of version %u; this linehome reads up to %u", name,
		                head->version, LH_RECORD_VERSION);
	if (head->crc != head_crc(head, offsetof(struct lh_record_head, crc)) ||
	    head->granularity > LH_GRANULARITY_LINE || head->command_size > sizeof(head->command))
		return lh__fail(error, -EBADMSG, "%s: damaged: its head is not what was written", name);
	return 0;
}

/* Whether a module's head, which is to stand at `at`, leads nowhere else. */
static bool is_sound(const struct lh_record_module *head, uint64_t at)
{
	if (head->crc != head_crc(head, offsetof(struct lh_record_module, crc)) ||
	    head->id_size > LH_PLAN_ID || head->texts > LH_PLAN_TEXTS || head->size < LH_PAGE_SIZE ||
	    head->size % LH_PAGE_SIZE != 0 || head->size > LH_PLAN_TEXTS * TEXT_MOST ||
	    !memchr(head->path, '\0', sizeof(head->path)))
		return false;
	for (unsigned i = 0; i < head->texts; i++) {
		const struct lh_record_text *text = &head->text[i];

		if (text->size % LH_PAGE_SIZE != 0 || text->size >= TEXT_MOST ||
		    text->hits < at + LH_PAGE_SIZE || text->hits % LH_PAGE_SIZE != 0 ||
		    text->hits > at + head->size ||
		    whole_pages(text->size / 8) > at + head->size - text->hits)
			return false;
	}
	return true;
}

/* The head of the module at record->end. 1: it is there; 0: none has come to be; else an error. */
static int read_head(struct lh_record *record, struct lh_record_module *head)
{
	for (unsigned i = 0; i < ATTEMPTS; i++) {
		int result = read_all(record->file, head, LH_PAGE_SIZE, record->end);
		static const char none[sizeof(head->magic)];

		if (result == -ENODATA)
			return 0;
		if (result < 0)
			return result;
		if (memcmp(head->magic, none, sizeof(none)) == 0)
			return 0;
		if (memcmp(head->magic, LH_RECORD_MODULE_MAGIC, sizeof(head->magic)) == 0 &&
		    is_sound(head, record->end))
			return 1;
		sched_yield();
	}
	return -EBADMSG;
}

/* Reads the next module, if there is one: 1, 0, or an error. */
static int read_module(struct lh_record *record)
{
	union {
		struct lh_record_module head;
		uint8_t page[LH_PAGE_SIZE];
	} front;
	struct module *module = next_place(record);
	int result = module ? read_head(record, &front.head) : -ENOMEM;

	if (result <= 0)
		return result;
	*module = (struct module){ malloc(front.head.size), record->end, front.head.size };
	if (!module->memory)
		return -ENOMEM;
	memcpy(module->memory, front.page, LH_PAGE_SIZE);
	result = read_all(record->file, module->memory + LH_PAGE_SIZE, module->size - LH_PAGE_SIZE,
	                  module->at + LH_PAGE_SIZE);
	if (result < 0) {
		free(module->memory);
		return result == -ENODATA ? -EBADMSG : result;
	}
	record->end += module->size;
	record->modules++;
	return 1;
}

static int read_front(struct lh_record *record, struct lh_error *error)
{
	int result;

	record->front = calloc(1, LH_RECORD_MODULES);
	if (!record->front)
		return lh__fail(error, -ENOMEM, "%s: no memory to read it", record->name);
	result = read_all(record->file, record->front, LH_RECORD_MODULES, 0);
	if (result == -EISDIR || result == -ENODATA)
		return lh__fail(error, -EBADMSG, "%s: not a record of linehome cover", record->name);
	if (result < 0)
		return fail_named(record, result, error);
	return check_head((const void *)record->front, record->name, error);
}

static int read_record(struct lh_record *record, const char *path, struct lh_error *error)
{
	int result;

	record->file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (record->file < 0)
		return fail_named(record, -errno, error);
	result = read_front(record, error);
	if (result < 0)
		return result;
	do
		result = read_module(record);
	while (result > 0);
	if (result == -EBADMSG)
		return lh__fail(error, result, "%s: damaged: its module %zu is not what was written",
		                record->name, record->modules + 1);
	return result < 0 ? fail_named(record, result, error) : 0;
}

int lh__record_open(const char *path, struct lh_record **out, struct lh_error *error)
{
	struct lh_record *record = new_handle(path);
	int result;

	if (!record)
		return lh__fail(error, -ENOMEM, "%s: no memory to read it", path);
	result = read_record(record, path, error);
	if (result < 0) {
		lh__record_close(record);
		return result;
	}
	*out = record;
	return 0;
}

/* ---- looking at one ---- */

int lh__record_descriptor(const struct lh_record *record)
{
	return record->file;
}

struct lh_record_control *lh__record_control(struct lh_record *record)
{
	return (struct lh_record_control *)(record->front + LH_RECORD_CONTROL);
}

const struct lh_record_head *lh__record_head(const struct lh_record *record)
{
	return (const struct lh_record_head *)record->front;
}

bool lh__record_module(struct lh_record *record, size_t index, struct lh_record_view *module)
{
	/* Of a run that goes on more may have come since. */
	while (!record->made && index >= record->modules)
		if (read_module(record) <= 0)
			return false;
	if (index >= record->modules)
		return false;
	view_module(&record->module[index], module);
	return true;
}

/* ---- adding to one ---- */

static struct module *find_module(const struct lh_record *record, const uint8_t *id, uint32_t size)
{
	for (size_t i = 0; i < record->modules; i++) {
		const struct lh_record_module *head = (const void *)record->module[i].memory;

		if (head->id_size == size && memcmp(head->id, id, size) == 0)
			return &record->module[i];
	}
	return NULL;
}

/* A library that turns out to be a program, too. Its checksum is another then; readers read again. */
static void make_program(struct module *module)
{
	struct lh_record_module *head = (void *)module->memory;

	head->is_program = 1;
	head->crc = head_crc(head, offsetof(struct lh_record_module, crc));
}

static bool same_texts(const struct lh_record_module *a, const struct lh_record_module *b)
{
	if (a->texts != b->texts)
		return false;
	for (unsigned i = 0; i < a->texts; i++)
		if (a->text[i].address != b->text[i].address || a->text[i].size != b->text[i].size ||
		    a->text[i].offset != b->text[i].offset)
			return false;
	return true;
}

/* Where each bitmap will be, and how large the module is, for one at `at`. */
static void lay_out(struct lh_record_module *head, uint64_t at)
{
	uint64_t next = at + LH_PAGE_SIZE;

	for (unsigned i = 0; i < head->texts; i++) {
		head->text[i].hits = next;
		next += whole_pages(head->text[i].size / 8);
	}
	head->size = next - at;
}

static int append(struct lh_record *record, const struct lh_record_module *like)
{
	struct module *module = next_place(record);
	struct lh_record_module *head;
	union {
		struct lh_record_module head;
		uint8_t page[LH_PAGE_SIZE];
	} laid = { .page = { 0 } };
	int result;

	if (!module)
		return -ENOMEM;
	laid.head = *like;
	lay_out(&laid.head, record->end);
	module->at = record->end;
	module->size = laid.head.size;
	result = grow(record, module->at, module->size, &module->memory);
	if (result < 0)
		return result;
	/* All but the magic; then it, as one store. */
	head = (void *)module->memory;
	memset(laid.head.magic, 0, sizeof(laid.head.magic));
	*head = laid.head;
	memcpy(laid.head.magic, LH_RECORD_MODULE_MAGIC, sizeof(laid.head.magic));
	head->crc = head_crc(laid.page, offsetof(struct lh_record_module, crc));
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memcpy(head->magic, laid.head.magic, sizeof(head->magic));
	record->end += module->size;
	record->modules++;
	return 0;
}

int lh__record_add_like(struct lh_record *record, const struct lh_record_module *like,
                        struct lh_record_view *view, struct lh_error *error)
{
	struct module *module = find_module(record, like->id, like->id_size);
	int result = 0;

	if (!record->made)
		return lh__fail(error, -EROFS, "%s: it is only read here", record->name);
	if (module && !same_texts((const void *)module->memory, like))
		return lh__fail(error, -EINVAL, "%s: has the same build id as another file, and other code",
		                like->path);
	if (!module)
		result = append(record, like);
	if (result < 0)
		return fail_named(record, result, error);
	if (!module)
		module = &record->module[record->modules - 1];
	if (like->is_program && !((const struct lh_record_module *)(void *)module->memory)->is_program)
		make_program(module);
	view_module(module, view);
	return 0;
}

int lh__record_add(struct lh_record *record, const struct lh_plan_head *plan, const char *path,
                   bool is_program, uint64_t bias, struct lh_record_view *module, struct lh_error *error)
{
	struct lh_record_module like = { .id_size = plan->id_size,
		                         .mapped = bias,
		                         .texts = plan->texts,
		                         .is_program = is_program,
		                         .undecoded = plan->undecoded,
		                         .outside = plan->outside };

	memcpy(like.id, plan->id, sizeof(like.id));
	for (unsigned i = 0; i < plan->texts; i++)
		like.text[i] = (struct lh_record_text){ .address = plan->text[i].address,
			                                .size = plan->text[i].size,
			                                .offset = plan->text[i].offset };
	snprintf(like.path, sizeof(like.path), "%s", path);
	return lh__record_add_like(record, &like, module, error);
}

/* ---- merging ---- */

static void merge_hits(const struct lh_record_view *into, const struct lh_record_view *from)
{
	for (unsigned i = 0; i < from->head->texts; i++)
		for (uint64_t word = 0; word < from->head->text[i].size / 64; word++) {
			uint64_t hits = __atomic_load_n(&from->hits[i][word], __ATOMIC_RELAXED);

			if (hits)
				__atomic_fetch_or(&into->hits[i][word], hits, __ATOMIC_RELAXED);
		}
}

static void merge_counters(struct lh_record_control *into, const struct lh_record_control *from)
{
	into->traps += from->traps;
	into->spans += from->spans;
	into->system_calls += from->system_calls;
	into->processes += from->processes;
	into->modules += from->modules;
	into->refused += from->refused;
	into->anonymous += from->anonymous;
	into->taken += from->taken;
}

int lh__record_merge(struct lh_record *into, struct lh_record *from, struct lh_error *error)
{
	struct lh_record_view source, target;
	int result = 0;

	if (lh__record_head(into)->granularity != lh__record_head(from)->granularity)
		return lh__fail(error, -EINVAL,
		                "%s: was made with another --granularity; merge those that have the same",
		                from->name);
	for (size_t i = 0; result == 0 && lh__record_module(from, i, &source); i++) {
		result = lh__record_add_like(into, source.head, &target, error);
		if (result == 0)
			merge_hits(&target, &source);
	}
	if (result == 0)
		merge_counters(lh__record_control(into), lh__record_control(from));
	return result;
}
