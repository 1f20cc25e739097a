/*
 * plan_cache.c - plans as files, and what of an ELF file tells whether a plan is of it.
 *
 * A plan is made in a memory file, and then written to the cache under another name which is renamed when
 * all of it is there. That name is the same for all who make this plan: who finds it taken keeps what is in
 * memory, and leaves the writing to the other. A name that has been there for too long was left by one who
 * was killed.
 *
 * Times tell two contents of a file apart only if some time has passed between them. A plan made of a file
 * that has just been changed remembers no time of change (ctime, which nobody can set), so that its code is
 * compared.
 */
#include "service/code/plan_make.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "port/code/text.h"
#include "service/code/plan_inside.h"

#define PAGE 4096u
#define NOTES 65536u /* bytes of notes that are looked through for an id */
#define SHA_ID 16u   /* bytes of a hash that serve as an id */
#define NOT_SETTLED UINT64_MAX
#define SETTLED 2      /* seconds after which a file's time of change is its own */
#define LEFT_BEHIND 60 /* seconds after which nobody writes to a new plan any more */
#define FILE_MAX (UINT64_C(1) << 40)

/* An ELF file, and a copy of its content if it has been asked for: the file may be cut off at any time. */
struct source {
	const struct lh_sys *sys;
	int file;
	const char *path;
	struct lh_error *error;
	struct stat status;
	uint8_t *content;
	uint32_t id_size;
	uint8_t id[LH_PLAN_ID];
};

static uint64_t time_of(const struct timespec *time)
{
	return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_nsec;
}

static long read_at(const struct source *source, void *to, size_t size, uint64_t at)
{
	size_t have = 0;

	while (have < size) {
		long n = LH_SYS(source->sys, SYS_pread64, source->file, (uint8_t *)to + have, size - have,
		                at + have);

		if (n == -EINTR)
			continue;
		if (n < 0)
			return n;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (long)have;
}

static void *map_anonymous(const struct lh_sys *sys, size_t size)
{
	long mapped =
		LH_SYS(sys, SYS_mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return mapped < 0 ? NULL : (void *)mapped;
}

static int cannot_read(const struct source *source, long result)
{
	return lh__fail(source->error, (int)result, "%s: cannot be read: %s", source->path,
	                lh__errno_name((int)result));
}

static int load(struct source *source)
{
	size_t size = (size_t)source->status.st_size;
	long n;

	if (source->content)
		return 0;
	source->content = map_anonymous(source->sys, size);
	if (!source->content)
		return lh__fail(source->error, -ENOMEM, "%s: no memory to read it", source->path);
	n = read_at(source, source->content, size, 0);
	if (n < 0)
		return cannot_read(source, n);
	if ((size_t)n < size)
		return lh__fail(source->error, -ENOEXEC, "%s: it was cut off while it was read",
		                source->path);
	return 0;
}

static void unload(struct source *source)
{
	if (source->content)
		LH_SYS(source->sys, SYS_munmap, source->content, source->status.st_size);
	source->content = NULL;
}

/* ---- the id ---- */

/* The build id among notes; 0: there is none. */
static uint32_t find_note(const uint8_t *notes, size_t size, uint8_t id[LH_PLAN_ID])
{
	while (size >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t name, content;

		memcpy(&note, notes, sizeof note);
		notes += sizeof note;
		size -= sizeof note;
		name = (note.n_namesz + UINT64_C(3)) & ~UINT64_C(3);
		content = (note.n_descsz + UINT64_C(3)) & ~UINT64_C(3);
		if (name > size || content > size - name)
			return 0;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(notes, "GNU", 4) == 0 &&
		    note.n_descsz > 0) {
			uint32_t id_size = note.n_descsz < LH_PLAN_ID ? note.n_descsz : LH_PLAN_ID;

			memcpy(id, notes + name, id_size);
			return id_size;
		}
		notes += name + content;
		size -= name + content;
	}
	return 0;
}

/* The build id of one segment, if it has it; or a negative errno. */
static long find_in_segment(struct source *source, const Elf64_Ehdr *elf, unsigned index, uint8_t *notes)
{
	Elf64_Phdr segment = { 0 };
	long n = read_at(source, &segment, sizeof segment, elf->e_phoff + index * sizeof segment);

	if (n < 0 || segment.p_type != PT_NOTE)
		return n < 0 ? n : 0;
	n = read_at(source, notes, segment.p_filesz < NOTES ? segment.p_filesz : NOTES, segment.p_offset);
	return n < 0 ? n : find_note(notes, (size_t)n, source->id);
}

static int find_build_id(struct source *source, const Elf64_Ehdr *elf)
{
	uint8_t *notes = lh__alloc(source->sys, NOTES);
	long n = 0;

	if (!notes)
		return lh__fail(source->error, -ENOMEM, "%s: no memory to read it", source->path);
	for (unsigned i = 0; i < elf->e_phnum && n == 0; i++)
		n = find_in_segment(source, elf, i, notes);
	lh__free(source->sys, notes, NOTES);
	if (n < 0)
		return cannot_read(source, n);
	source->id_size = (uint32_t)n;
	return 0;
}

static int hash_content(struct source *source)
{
	uint8_t hash[EVP_MAX_MD_SIZE];
	int result = load(source);

	if (result < 0)
		return result;
	if (!EVP_Digest(source->content, (size_t)source->status.st_size, hash, NULL, EVP_sha256(), NULL))
		return lh__fail(source->error, -ENOMEM, "%s: its hash cannot be computed", source->path);
	memcpy(source->id, hash, SHA_ID);
	source->id_size = SHA_ID;
	return 0;
}

static int identify(struct source *source)
{
	Elf64_Ehdr elf;
	long n = LH_SYS(source->sys, SYS_fstat, source->file, &source->status);

	if (n < 0)
		return lh__fail(source->error, (int)n, "%s: %s", source->path, lh__errno_name((int)n));
	if (!S_ISREG(source->status.st_mode) || (uint64_t)source->status.st_size > FILE_MAX)
		return lh__fail(source->error, -ENOEXEC, "%s: it is no file with code", source->path);
	n = read_at(source, &elf, sizeof elf, 0);
	if (n < 0)
		return cannot_read(source, n);
	if (n != sizeof elf || memcmp(elf.e_ident, ELFMAG "\2\1", 6) != 0 || elf.e_machine != EM_X86_64 ||
	    elf.e_phentsize != sizeof(Elf64_Phdr))
		return lh__fail(source->error, -ENOEXEC, "%s: it is no ELF file for x86-64", source->path);
	n = find_build_id(source, &elf);
	return n < 0 || source->id_size ? (int)n : hash_content(source);
}

/* ---- whether a plan is of it ---- */

static bool has_same_code(const struct source *source, const struct lh_plan_head *plan)
{
	static const struct lh_plan_head none;
	struct lh_plan_head head = none;

	if (lh__plan_lay_out(source->content, (size_t)source->status.st_size, &head, NULL) < 0 ||
	    head.texts != plan->texts)
		return false;
	for (uint32_t i = 0; i < head.texts; i++) {
		const struct lh_plan_text *a = &head.text[i], *b = &plan->text[i];
		uint64_t size = (uint64_t)source->status.st_size - a->offset;

		if (a->address != b->address || a->offset != b->offset || a->size != b->size ||
		    memcmp(source->content + a->offset, (const uint8_t *)plan + b->original,
		           size < a->size ? size : a->size) != 0)
			return false;
	}
	return true;
}

/* The file's time of change if it tells this content from another, else NOT_SETTLED. */
static uint64_t settled_time(const struct source *source)
{
	struct timespec now = { 0 };

	LH_SYS(source->sys, SYS_clock_gettime, CLOCK_REALTIME, &now);
	return now.tv_sec - source->status.st_ctim.tv_sec > SETTLED ? time_of(&source->status.st_ctim)
	                                                            : NOT_SETTLED;
}

/* RENEWED: the plan is of this code, and from now on the file's times will tell that. */
enum verdict { OTHER, SAME, RENEWED };

/* A verdict, or a negative errno. */
static int is_of(struct source *source, const struct lh_plan_head *plan)
{
	const struct stat *status = &source->status;
	bool same_file = plan->file_device == status->st_dev && plan->file_inode == status->st_ino;
	int result;

	if (plan->id_size != source->id_size || memcmp(plan->id, source->id, source->id_size) != 0)
		return OTHER;
	if (same_file && plan->file_size == (uint64_t)status->st_size &&
	    plan->file_mtime == time_of(&status->st_mtim) && plan->file_ctime == time_of(&status->st_ctim))
		return SAME;
	result = load(source);
	if (result < 0 || !has_same_code(source, plan))
		return result < 0 ? result : OTHER;
	/* Copies of one file would renew it in turns. */
	return same_file && settled_time(source) != NOT_SETTLED ? RENEWED : SAME;
}

/* ---- the folder ---- */

struct cache {
	const struct lh_sys *sys;
	int folder;
	char name[2 * LH_PLAN_ID + 16], fresh[2 * LH_PLAN_ID + 16];
};

static void name_plan(struct cache *cache, const struct source *source)
{
	static const char digit[] = "0123456789abcdef";
	char hex[2 * LH_PLAN_ID + 1] = "";

	for (uint32_t i = 0; i < source->id_size; i++) {
		hex[2 * i] = digit[source->id[i] >> 4];
		hex[2 * i + 1] = digit[source->id[i] & 15];
	}
	lh__format(cache->name, sizeof cache->name, "%s.plan", hex);
	lh__format(cache->fresh, sizeof cache->fresh, "%s.new", hex);
}

/* Makes a folder if it is not there. */
static bool make_folder(const struct lh_sys *sys, const char *path)
{
	long result = LH_SYS(sys, SYS_mkdir, path, 0700);

	return result == 0 || result == -EEXIST;
}

/* A descriptor of the folder, or -1: there is no cache. */
static int open_folder(const struct lh_sys *sys)
{
	const char *base = secure_getenv("XDG_CACHE_HOME"), *home = secure_getenv("HOME");
	static const char *const below[] = { "", "/linehome", "/linehome/code" };
	char path[4096];
	bool by_home = !base || base[0] != '/';

	if (by_home && (!home || home[0] != '/'))
		return -1;
	if (strlen(by_home ? home : base) > sizeof path - 64)
		return -1;
	for (unsigned i = 0; i < 3; i++) {
		lh__format(path, sizeof path, "%s%s%s", by_home ? home : base, by_home ? "/.cache" : "",
		           below[i]);
		if (!make_folder(sys, path))
			break;
	}
	return (int)LH_SYS(sys, SYS_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
}

/* ---- plans in it ---- */

static void *map_plan(const struct lh_sys *sys, int file, uint64_t size)
{
	long mapped = LH_SYS(sys, SYS_mmap, NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);

	return mapped < 0 ? NULL : (void *)mapped;
}

/* Maps a plan and looks whether it is whole and of this file: a verdict or a negative errno. */
static int believe(struct source *source, int file, struct lh_plan *out)
{
	const struct lh_sys *sys = source->sys;
	struct stat status;
	void *mapped;
	int result = 0;

	if (LH_SYS(sys, SYS_fstat, file, &status) < 0 || !S_ISREG(status.st_mode) || status.st_size < PAGE ||
	    (status.st_uid != 0 && status.st_uid != (uid_t)LH_SYS(sys, SYS_geteuid)))
		return 0;
	mapped = map_plan(sys, file, (uint64_t)status.st_size);
	if (!mapped)
		return 0;
	if (lh__plan_check(mapped, (uint64_t)status.st_size, true, NULL) == 0)
		result = is_of(source, mapped);
	if (result <= OTHER)
		LH_SYS(sys, SYS_munmap, mapped, status.st_size);
	else
		*out = (struct lh_plan){ .head = mapped, .descriptor = file, .cached = true };
	return result;
}

static int look_up(struct source *source, const struct cache *cache, struct lh_plan *out)
{
	long file = LH_SYS(cache->sys, SYS_openat, cache->folder, cache->name,
	                   O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
	int result;

	if (file < 0)
		return 0;
	result = believe(source, (int)file, out);
	if (result <= OTHER)
		LH_SYS(cache->sys, SYS_close, file);
	return result;
}

/* The new plan's own name, for this process alone; negative: somebody else has it, or it cannot be had. */
static long open_fresh(const struct cache *cache)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
	long file = LH_SYS(cache->sys, SYS_openat, cache->folder, cache->fresh, flags, 0600);
	struct timespec now = { 0 };
	struct stat status;

	if (file != -EEXIST ||
	    LH_SYS(cache->sys, SYS_newfstatat, cache->folder, cache->fresh, &status, AT_SYMLINK_NOFOLLOW) <
	            0 ||
	    LH_SYS(cache->sys, SYS_clock_gettime, CLOCK_REALTIME, &now) < 0 ||
	    now.tv_sec < status.st_mtim.tv_sec + LEFT_BEHIND)
		return file;
	LH_SYS(cache->sys, SYS_unlinkat, cache->folder, cache->fresh, 0);
	return LH_SYS(cache->sys, SYS_openat, cache->folder, cache->fresh, flags, 0600);
}

/* Writes all of it; false: there is no room, or it cannot be. */
static bool write_all(const struct cache *cache, long file, const void *from, uint64_t size)
{
	uint64_t at = 0;
	long n = 1;

	while (at < size && (n > 0 || n == -EINTR)) {
		n = LH_SYS(cache->sys, SYS_write, file, (const uint8_t *)from + at, size - at);
		at += n > 0 ? (uint64_t)n : 0;
	}
	return at == size;
}

/* Puts a plan into the cache with this head, a page. */
static void keep(const struct cache *cache, const void *head, const struct lh_plan_head *plan)
{
	long file = open_fresh(cache);
	bool whole;

	if (file < 0)
		return;
	whole = write_all(cache, file, head, PAGE) &&
	        write_all(cache, file, (const uint8_t *)plan + PAGE, plan->size - PAGE);
	if (LH_SYS(cache->sys, SYS_close, file) < 0 || !whole ||
	    LH_SYS(cache->sys, SYS_renameat2, cache->folder, cache->fresh, cache->folder, cache->name, 0) < 0)
		LH_SYS(cache->sys, SYS_unlinkat, cache->folder, cache->fresh, 0);
}

/* ---- making one ---- */

static void describe_file(const struct source *source, struct lh_plan_head *head)
{
	const struct stat *status = &source->status;

	head->file_size = (uint64_t)status->st_size;
	head->file_device = status->st_dev;
	head->file_inode = status->st_ino;
	head->file_mtime = time_of(&status->st_mtim);
	head->file_ctime = settled_time(source);
	head->id_size = source->id_size;
	memcpy(head->id, source->id, sizeof head->id);
}

static void renew(const struct source *source, const struct cache *cache, const struct lh_plan_head *plan)
{
	_Alignas(struct lh_plan_head) uint8_t page[PAGE];

	memcpy(page, plan, PAGE);
	describe_file(source, (struct lh_plan_head *)page);
	lh__plan_seal_head(page);
	keep(cache, page, plan);
}

/* From here on nobody can write to it, not even who opens it anew by its descriptor. */
static int freeze(const struct lh_sys *sys, int memory, uint64_t size, struct lh_plan *out)
{
	char path[32];
	void *mapped;
	long file;

	if (LH_SYS(sys, SYS_ftruncate, memory, size) < 0 ||
	    LH_SYS(sys, SYS_fcntl, memory, F_ADD_SEALS,
	           F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		return -EIO;
	lh__format(path, sizeof path, "/proc/self/fd/%d", memory);
	file = LH_SYS(sys, SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	mapped = map_plan(sys, file < 0 ? memory : (int)file, size);
	if (file >= 0)
		LH_SYS(sys, SYS_close, mapped ? memory : (int)file);
	if (mapped)
		*out = (struct lh_plan){ .head = mapped, .descriptor = file < 0 ? memory : (int)file };
	return mapped ? 0 : -ENOMEM;
}

/* In memory that is mapped to be written; the plan that comes of it is mapped again, to be read. */
static int fill_memory(struct source *source, int memory, const struct lh_plan_head *layout,
                       struct lh_plan *out)
{
	const struct lh_sys *sys = source->sys;
	uint64_t room = layout->size, size;
	struct lh_error reason = { .text = "" };
	long mapped = LH_SYS(sys, SYS_ftruncate, memory, room);
	int result;

	if (mapped == 0)
		mapped = LH_SYS(sys, SYS_mmap, NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (mapped < 0)
		return lh__fail(source->error, -ENOMEM, "%s: no memory to make a plan of its code",
		                source->path);
	memcpy((void *)mapped, layout, sizeof *layout);
	result = lh__plan_fill(sys, source->content, (size_t)source->status.st_size, (void *)mapped, &reason);
	size = ((struct lh_plan_head *)mapped)->size;
	LH_SYS(sys, SYS_munmap, mapped, room);
	if (result < 0)
		return lh__fail(source->error, result, "%s: %s", source->path, reason.text);
	result = freeze(sys, memory, size, out);
	return result < 0 ? lh__fail(source->error, result,
	                             "%s: the plan of its code cannot be kept in memory", source->path)
	                  : 0;
}

static int make_plan(struct source *source, struct lh_plan *out)
{
	struct lh_plan_head head = { .version = LH_PLAN_VERSION };
	struct lh_error reason = { .text = "" };
	long memory;
	int result = load(source);

	if (result < 0)
		return result;
	result = lh__plan_lay_out(source->content, (size_t)source->status.st_size, &head, &reason);
	if (result < 0)
		return lh__fail(source->error, result, "%s: %s", source->path, reason.text);
	describe_file(source, &head);
	memory = LH_SYS(source->sys, SYS_memfd_create, "linehome-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memory < 0)
		return lh__fail(source->error, (int)memory, "%s: no memory file for the plan of its code: %s",
		                source->path, lh__errno_name((int)memory));
	result = fill_memory(source, (int)memory, &head, out);
	if (result < 0)
		LH_SYS(source->sys, SYS_close, memory);
	return result;
}

int lh__plan_open(const struct lh_sys *sys, int file, const char *path, struct lh_plan *out,
                  struct lh_error *error)
{
	struct source source = { .sys = sys, .file = file, .path = path, .error = error };
	struct cache cache = { .sys = sys, .folder = -1 };
	int result = identify(&source), found = 0;

	*out = (struct lh_plan){ .descriptor = -1 };
	if (result == 0) {
		name_plan(&cache, &source);
		cache.folder = open_folder(sys);
		found = cache.folder >= 0 ? look_up(&source, &cache, out) : 0;
		result = found < 0 ? found : 0;
	}
	if (found == RENEWED)
		renew(&source, &cache, out->head);
	if (result == 0 && found == OTHER) {
		result = make_plan(&source, out);
		if (result == 0 && cache.folder >= 0)
			keep(&cache, out->head, out->head);
	}
	if (cache.folder >= 0)
		LH_SYS(sys, SYS_close, cache.folder);
	unload(&source);
	return result;
}

void lh__plan_close(const struct lh_sys *sys, struct lh_plan *plan)
{
	if (plan->head)
		LH_SYS(sys, SYS_munmap, plan->head, plan->head->size);
	if (plan->descriptor >= 0)
		LH_SYS(sys, SYS_close, plan->descriptor);
	*plan = (struct lh_plan){ .descriptor = -1 };
}

void lh__plan_text(const struct lh_plan *plan, unsigned which, uint64_t bias, uint64_t *hits,
                   struct lh_text *out)
{
	const struct lh_plan_text *text = &plan->head->text[which];
	const uint8_t *base = (const uint8_t *)plan->head;

	*out = (struct lh_text){ .start = (uintptr_t)(text->address + bias),
		                 .end = (uintptr_t)(text->address + text->size + bias),
		                 .armed = (const uint64_t *)(base + text->armed),
		                 .ends = (const uint64_t *)(base + text->ends),
		                 .original = base + text->original,
		                 .hits = hits };
}
