/*
 * code_cache.c - plans when something fails: each system call and allocation of opening a plan in turn,
 * once and for good; and plans of which a byte is another.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "inject.h"
#include "service/code/plan_make.h"
#include "tap.h"

#define PROGRAM "/bin/true"

static char folder[] = "/tmp/linehome-cache.XXXXXX";

/* Removes the cache, so that the next plan is made. */
static void forget(void)
{
	char path[PATH_MAX];
	DIR *plans;

	snprintf(path, sizeof path, "%s/linehome/code", folder);
	plans = opendir(path);
	for (struct dirent *entry; plans && (entry = readdir(plans));) {
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(plans), entry->d_name, 0);
	}
	if (plans)
		closedir(plans);
}

static int count_files(const char *path)
{
	DIR *files = opendir(path);
	int count = 0;

	while (files && readdir(files))
		count++;
	if (files)
		closedir(files);
	return count;
}

/* Of plans, in memory or from the cache. */
static int count_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[PATH_MAX + 256];
	int count = 0;

	while (maps && fgets(line, sizeof line, maps))
		count += strstr(line, "linehome-plan") || strstr(line, ".plan");
	if (maps)
		fclose(maps);
	return count;
}

/* Nobody can write to it by its descriptor: it is read-only, or, where it cannot be opened anew, sealed. */
static bool is_frozen(int descriptor)
{
	return (fcntl(descriptor, F_GETFL) & O_ACCMODE) == O_RDONLY ||
	       (fcntl(descriptor, F_GET_SEALS) & F_SEAL_WRITE);
}

/* Whether a plan can be believed, or was refused with a reason that names the file. */
static bool is_good(int result, const struct lh_plan *plan, const struct lh_error *error)
{
	if (result < 0)
		return !plan->head && plan->descriptor < 0 && error->code == result &&
		       strstr(error->text, PROGRAM);
	return lh__plan_check(plan->head, plan->head->size, true, NULL) == 0 &&
	       plan->head->instructions > 0 && is_frozen(plan->descriptor);
}

static void sweep(const char *what, bool cached, int code, enum inject_mode mode)
{
	bool good = true, kept = true;
	int file = open(PROGRAM, O_RDONLY), files = count_files("/proc/self/fd");
	unsigned worked = 0;
	struct inject in;

	INJECT_SWEEP(&in, code, mode) {
		struct lh_error error = { 0 };
		struct lh_plan plan;
		int result;

		forget();
		if (cached) {
			result = lh__plan_open(&lh__sys_default, file, PROGRAM, &plan, NULL);
			kept &= result == 0;
			lh__plan_close(&lh__sys_default, &plan);
		}
		inject_arm(&in);
		result = lh__plan_open(&in.sys, file, PROGRAM, &plan, &error);
		inject_disarm(&in);
		good &= is_good(result, &plan, &error);
		worked += result == 0;
		lh__plan_close(&in.sys, &plan);
		kept &= count_files("/proc/self/fd") == files && count_mappings() == 0;
	}
	ok(good && inject_swept(&in) && worked > 0,
	   "%s: a plan or a reason, %lu faults, %u plans all the same", what, in.rounds, worked);
	ok(kept, "%s: nothing stays open or mapped", what);
	close(file);
}

/* ---- plans of which a byte is another ---- */

static uint8_t *copy_plan(uint64_t *size)
{
	int file = open(PROGRAM, O_RDONLY);
	struct lh_plan plan;
	uint8_t *copy;

	if (lh__plan_open(&lh__sys_default, file, PROGRAM, &plan, NULL) < 0)
		return NULL;
	*size = plan.head->size;
	copy = aligned_alloc(4096, *size / 4096 * 4096 + 4096);
	memcpy(copy, plan.head, *size);
	lh__plan_close(&lh__sys_default, &plan);
	close(file);
	return copy;
}

/* Heads that make no sense, with a checksum that does. */
static unsigned refused(uint8_t *plan, uint64_t size)
{
	static uint8_t saved[4096];
	struct lh_plan_head *head = (struct lh_plan_head *)plan;
	uint64_t *const field[] = { &head->sites_at,      &head->text[0].starts, &head->text[0].armed,
		                    &head->text[0].ends,  &head->text[0].heads,  &head->text[0].original,
		                    &head->text[0].image, &head->text[0].size,   &head->text[0].address,
		                    &head->text[0].offset };
	static const uint64_t value[] = { 1, UINT64_MAX, UINT64_MAX - 4095, UINT64_C(1) << 63 };
	unsigned count = 0;

	memcpy(saved, plan, sizeof saved);
	for (unsigned i = 0; i < sizeof field / sizeof *field; i++)
		for (unsigned k = 0; k < sizeof value / sizeof *value; k++) {
			*field[i] = value[k];
			lh__plan_seal(plan);
			count += lh__plan_check(plan, size, true, NULL) == -EBADMSG;
			memcpy(plan, saved, sizeof saved);
		}
	return count;
}

static void damaged(void)
{
	struct lh_error error = { 0 };
	uint64_t size = 0;
	uint8_t *plan = copy_plan(&size);
	bool seen = true;

	ok(plan && lh__plan_check(plan, size, true, &error) == 0, "a plan as it is");
	for (uint64_t i = 0; i < size; i += i < 4096 ? 1 : 97) {
		plan[i] ^= 0x10;
		seen &= lh__plan_check(plan, size, true, &error) < 0 && error.text[0];
		plan[i] ^= 0x10;
	}
	ok(seen, "caught: a byte that is another");
	ok(lh__plan_check(plan, size - 1, false, NULL) == -EBADMSG &&
	           lh__plan_check(plan, 100, false, NULL) == -EBADMSG,
	   "caught: a plan that is cut off");
	((struct lh_plan_head *)plan)->version++;
	is(lh__plan_check(plan, size, false, &error), -EPROTONOSUPPORT,
	   "another version is told from damage");
	((struct lh_plan_head *)plan)->version--;
	/* One large address of a text and two large offsets are none of a plan's business. */
	is(refused(plan, size), 10 * 4 - 3, "caught: heads that make no sense");
	free(plan);
}

/* ---- what is handed out ---- */

static void handed_out(void)
{
	int file = open(PROGRAM, O_RDONLY), memory;
	struct lh_plan plan;
	struct lh_text text;
	uint64_t hits[1];
	char path[64];
	void *image;

	forget();
	is(lh__plan_open(&lh__sys_default, file, PROGRAM, &plan, NULL), 0, "a plan in memory");
	lh__plan_text(&plan, 0, 0x10000, hits, &text);
	ok(text.start == plan.head->text[0].address + 0x10000 &&
	           text.end - text.start == plan.head->text[0].size && text.hits == hits,
	   "a text has its place in memory");
	image = mmap(NULL, plan.head->text[0].size, PROT_READ | PROT_EXEC, MAP_PRIVATE, plan.descriptor,
	             (off_t)plan.head->text[0].image);
	ok(image != MAP_FAILED && memcmp(image, (const uint8_t *)plan.head + plan.head->text[0].image,
	                                 plan.head->text[0].size) == 0,
	   "its image can be mapped to be executed");
	if (image != MAP_FAILED)
		munmap(image, plan.head->text[0].size);
	snprintf(path, sizeof path, "/proc/self/fd/%d", plan.descriptor);
	memory = open(path, O_RDWR);
	ok(memory < 0 || write(memory, "x", 1) < 0, "and nobody can write to it");
	if (memory >= 0)
		close(memory);
	lh__plan_close(&lh__sys_default, &plan);
	close(file);
}

static void remove_folder(void)
{
	char path[PATH_MAX];

	forget();
	snprintf(path, sizeof path, "%s/linehome/code", folder);
	rmdir(path);
	snprintf(path, sizeof path, "%s/linehome", folder);
	rmdir(path);
	rmdir(folder);
}

int main(void)
{
	if (!mkdtemp(folder))
		return 1;
	setenv("XDG_CACHE_HOME", folder, 1);
	sweep("making, once", false, EIO, INJECT_ONCE);
	sweep("making, for good", false, ENOSPC, INJECT_LASTING);
	sweep("from the cache, once", true, EIO, INJECT_ONCE);
	sweep("from the cache, for good", true, EACCES, INJECT_LASTING);
	damaged();
	handed_out();
	remove_folder();
	return done();
}
