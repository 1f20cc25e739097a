/*
 * session_module.c - what is to be done with a mapping of code: which file it is of, its plan, its place in
 * the record.
 *
 * A file is told by device, inode, size and time, and looked at once. It is opened as the process sees it:
 * through /proc/PID/map_files, which leads to the very file even where its name has been given to another,
 * or, without the right to that, by its name under the process's root if it still is the same file there.
 */
#include "service/code/session_inside.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 512u /* looked at at once */

/* What /proc/PID/pagemap says of a page. */
#define PRESENT (UINT64_C(1) << 63)
#define SWAPPED (UINT64_C(1) << 62)
#define OF_FILE (UINT64_C(1) << 61)

/* ---- mappings ---- */

/* Neighbouring mappings of one file's code, as one: protection may have split it. */
struct run {
	uint64_t address; /* that is looked for */
	struct lh_mapping all;
	struct lh_mapping last; /* as the kernel names it */
	bool found;
};

static bool continues(const struct lh_mapping *all, const struct lh_mapping *mapping)
{
	return all->end == mapping->start && all->inode == mapping->inode &&
	       all->device_major == mapping->device_major && all->device_minor == mapping->device_minor &&
	       all->offset + (all->end - all->start) == mapping->offset;
}

static int look_for(void *context, const struct lh_mapping *mapping)
{
	struct run *run = context;

	if (mapping->rights[2] != 'x' || mapping->inode == 0)
		return run->found;
	if (continues(&run->all, mapping)) {
		run->all.end = mapping->end;
	} else {
		if (run->found)
			return 1;
		run->all = *mapping;
	}
	if (run->address >= mapping->start && run->address < mapping->end) {
		run->found = true;
		run->last = *mapping;
	}
	return 0;
}

static int hold(void *context, const struct lh_mapping *mapping)
{
	struct lh_session *session = context;

	if (mapping->rights[2] != 'x' || mapping->inode == 0)
		return 0;
	if (session->held_count == session->held_room) {
		size_t room = session->held_room ? session->held_room * 2 : 32;
		struct lh_mapping *more = realloc(session->held, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		session->held = more;
		session->held_room = room;
	}
	session->held[session->held_count++] = *mapping;
	return 0;
}

void lh__session_drop_mappings(struct lh_session *session)
{
	free(session->held);
	session->held = NULL;
	session->held_count = session->held_room = 0;
	session->held_of = 0;
}

void lh__session_hold_mappings(struct lh_session *session, pid_t process)
{
	lh__session_drop_mappings(session);
	if (lh__mappings(process, hold, session) == 0)
		session->held_of = process;
}

/* As lh__mappings, or from what is held. */
static int find_run(const struct lh_session *session, pid_t process, struct run *run)
{
	int result = 0;

	if (session->held_of != process)
		return lh__mappings(process, look_for, run);
	for (size_t i = 0; i < session->held_count && result == 0; i++)
		result = look_for(run, &session->held[i]);
	return result;
}

/* ---- the file ---- */

static bool is_file_of(const struct stat *status, const struct lh_mapping *mapping)
{
	return status->st_ino == mapping->inode && major(status->st_dev) == mapping->device_major &&
	       minor(status->st_dev) == mapping->device_minor;
}

/* The file of a mapping; -1: it cannot be had. */
static int open_mapped(pid_t process, const struct lh_mapping *mapping, struct stat *status)
{
	char path[PATH_MAX + 64];
	int file;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", process, mapping->start, mapping->end);
	file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file < 0) {
		snprintf(path, sizeof(path), "/proc/%d/root%s", process, mapping->path);
		file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (file >= 0 && (fstat(file, status) < 0 || !is_file_of(status, mapping))) {
			close(file);
			file = -1;
		}
	}
	if (file >= 0 && (fstat(file, status) < 0 || !S_ISREG(status->st_mode))) {
		close(file);
		file = -1;
	}
	return file;
}

static bool is_program_of(pid_t process, const struct stat *status)
{
	struct stat program;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/exe", process);
	return stat(path, &program) == 0 && program.st_dev == status->st_dev &&
	       program.st_ino == status->st_ino;
}

static uint64_t time_of(const struct stat *status)
{
	return (uint64_t)status->st_mtim.tv_sec * 1000000000u + (uint64_t)status->st_mtim.tv_nsec;
}

static struct lh_session_file *find_file(struct lh_session *session, const struct stat *status)
{
	struct lh_session_file *file = session->files;

	while (file && (file->device != status->st_dev || file->inode != status->st_ino ||
	                file->size != (uint64_t)status->st_size || file->mtime != time_of(status)))
		file = file->next;
	return file;
}

static struct lh_session_file *new_file(struct lh_session *session, const struct stat *status)
{
	struct lh_session_file *file = calloc(1, sizeof(*file));

	if (!file)
		return NULL;
	file->device = status->st_dev;
	file->inode = status->st_ino;
	file->size = (uint64_t)status->st_size;
	file->mtime = time_of(status);
	for (unsigned i = 0; i < LH_PLAN_TEXTS; i++)
		file->from[i] = file->until[i] = LH_NO_MARKER;
	file->next = session->files;
	session->files = file;
	return file;
}

void lh__session_forget_files(struct lh_session *session)
{
	while (session->files) {
		struct lh_session_file *next = session->files->next;

		if (session->files->usable)
			lh__plan_close(&lh__sys_default, &session->files->plan);
		free(session->files);
		session->files = next;
	}
}

static void count_refused(struct lh_session *session)
{
	__atomic_fetch_add(&lh__record_control(session->options.record)->refused, 1, __ATOMIC_RELAXED);
}

/* What is to be done where a file is mapped for the first time. */
static void look_at(struct lh_session *session, struct lh_session_file *file, int descriptor,
                    const char *path)
{
	struct lh_error error = { 0 };

	file->usable = lh__plan_open(&lh__sys_default, descriptor, path, &file->plan, &error) == 0;
	if (file->usable)
		return;
	count_refused(session);
	lh__session_say(session, "%s: its code is not watched: %s", path, error.text);
}

/* A file that was no program before may be one in this process. */
static void add_to_record(struct lh_session *session, struct lh_session_file *file, pid_t process,
                          bool is_program, uint64_t bias, const char *path)
{
	struct lh_error error = { 0 };

	if (file->watched && (!is_program || file->view.head->is_program))
		return;
	if (!file->watched && !is_program && !session->options.libraries)
		return;
	file->watched = lh__record_add(session->options.record, file->plan.head, path, is_program, bias,
	                               &file->view, &error) == 0;
	if (!file->watched)
		lh__session_say(session, "%s: its code is not watched: %s", path, error.text);
	else if (session->marks && !file->edited &&
	         lh__session_mark(session, file, process, is_program, bias, &error) < 0)
		lh__session_say(session, "%s: %s", path, error.text);
}

/* ---- is it as the file has it ---- */

/* The pages [first, first + n) of /proc/PID/pagemap: which of them are not the file's any more. */
static void read_private(int pagemap, uint64_t first, size_t n, bool *private)
{
	uint64_t entry[PAGES];
	ssize_t got = pread(pagemap, entry, n * sizeof(*entry), (off_t)(first * sizeof(*entry)));

	for (size_t i = 0; i < n; i++)
	private[i] = got < (ssize_t)((i + 1) * sizeof(*entry)) || entry[i] & SWAPPED ||
	             (entry[i] & PRESENT && !(entry[i] & OF_FILE));
}

static bool page_is_original(int memory, uint64_t address, const uint8_t *original)
{
	uint8_t page[PAGE];

	return pread(memory, page, PAGE, (off_t)address) == (ssize_t)PAGE &&
	       memcmp(page, original, PAGE) == 0;
}

/*
 * Where the file itself is mapped only pages that the process has made its own can be another, so only they
 * are read: who asks has stopped the process.
 */
static bool pages_are_original(int memory, int pagemap, const struct lh_session_place *place,
                               const uint8_t *original)
{
	uint64_t pages = (place->end - place->start) / PAGE;
	bool private[PAGES];

	for (uint64_t from = 0; from < pages; from += PAGES) {
		size_t n = pages - from < PAGES ? pages - from : PAGES;

		if (place->of_plan)
			memset(private, true, sizeof(private));
		else
			read_private(pagemap, place->start / PAGE + from, n, private);
		for (size_t i = 0; i < n; i++)
			if (private[i] && !page_is_original(memory, place->start + (from + i) * PAGE,
			                                    original + (from + i) * PAGE))
				return false;
	}
	return true;
}

static int open_of(pid_t process, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", process, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static bool place_is_original(pid_t process, const struct lh_session_place *place)
{
	const struct lh_plan_head *head = place->file->plan.head;
	const uint8_t *original = (const uint8_t *)head + head->text[place->text].original;
	int memory = open_of(process, "mem"), pagemap = open_of(process, "pagemap");
	bool same = memory >= 0 && pages_are_original(memory, pagemap, place, original);

	if (memory >= 0)
		close(memory);
	if (pagemap >= 0)
		close(pagemap);
	return same;
}

/* ---- all of it ---- */

/* Which text of the plan runs there as a whole. */
static bool find_text(const struct lh_session_file *file, const struct lh_mapping *all, uint64_t address,
                      struct lh_session_place *place)
{
	const struct lh_plan_head *plan = file->plan.head;

	for (unsigned i = 0; i < plan->texts; i++) {
		const struct lh_plan_text *text = &plan->text[i];
		uint64_t start = all->start + text->offset - all->offset;

		if (text->offset < all->offset || start + text->size > all->end || address < start ||
		    address >= start + text->size)
			continue;
		*place = (struct lh_session_place){ file, i, start, start + text->size, false };
		return true;
	}
	return false;
}

static void fill(struct lh_session *session, const struct lh_session_place *place,
                 struct lh_session_module *out)
{
	const struct lh_session_file *file = place->file;

	out->action = file->watched ? LH_ANSWER_WATCH : LH_ANSWER_SITES;
	out->plan = &file->plan;
	out->text = place->text;
	out->start = place->start;
	out->end = place->end;
	if (file->watched) {
		out->hits = file->view.hits[place->text];
		out->hits_at = file->view.head->text[place->text].hits;
	}
}

/* The file that is mapped there and its place in the record; false: it cannot be watched. */
static bool know(struct lh_session *session, pid_t process, const struct run *run, int descriptor,
                 const struct stat *status, struct lh_session_place *place)
{
	struct lh_session_file *file = find_file(session, status);
	const char *path = run->last.path;

	if (!file && (file = new_file(session, status)))
		look_at(session, file, descriptor, path);
	if (!file || !file->usable || !find_text(file, &run->all, run->address, place))
		return false;
	add_to_record(session, file, process, is_program_of(process, status),
	              place->start - file->plan.head->text[place->text].address, path);
	return true;
}

static void say_unopened(struct lh_session *session, const char *path)
{
	count_refused(session);
	if (!session->unopened)
		lh__session_say(session, "%s: its code is not watched: the file cannot be opened", path);
	session->unopened = true;
}

/* Not of one that is ending, though it may still be listed. */
static bool has_memory(pid_t process)
{
	char path[64], name[1];

	snprintf(path, sizeof(path), "/proc/%d/exe", process);
	return readlink(path, name, sizeof(name)) >= 0;
}

void lh__session_module(struct lh_session *session, pid_t process, uint64_t address, bool attached,
                        struct lh_session_module *out)
{
	struct run *run = calloc(1, sizeof(*run));
	struct lh_session_place place;
	struct stat status;
	int descriptor;

	*out = (struct lh_session_module){ .action = LH_ANSWER_IGNORE };
	if (!run)
		return;
	run->address = address;
	descriptor = find_run(session, process, run) >= 0 && run->found
	                     ? open_mapped(process, &run->last, &status)
	                     : -1;
	if (run->found && descriptor < 0 && has_memory(process))
		say_unopened(session, run->last.path);
	if (descriptor >= 0) {
		if (!know(session, process, run, descriptor, &status, &place))
			;
		else if (attached && !place_is_original(process, &place))
			lh__session_say(session, "%s: its code is not watched: it is not as its file has it",
			                run->last.path);
		else
			fill(session, &place, out);
		close(descriptor);
	}
	free(run);
}

/* ---- before the stop ---- */

struct preparing {
	struct lh_session *session;
	pid_t process;
	struct run run;
};

/*
 * Of neighbouring mappings of one file each is looked at with those before it: it is enough to know the file.
 * What is no ELF file may be a plan, over which an agent whose watcher was killed still is.
 */
static int prepare(void *context, const struct lh_mapping *mapping)
{
	struct preparing *preparing = context;
	struct run *run = &preparing->run;
	struct lh_session_place place;
	struct stat status;
	char magic[SELFMAG];
	int descriptor;

	if (mapping->rights[2] != 'x' || mapping->inode == 0)
		return 0;
	if (continues(&run->all, mapping))
		run->all.end = mapping->end;
	else
		run->all = *mapping;
	run->last = *mapping;
	run->address = mapping->start;
	descriptor = open_mapped(preparing->process, mapping, &status);
	if (descriptor < 0)
		return 0;
	if (pread(descriptor, magic, SELFMAG, 0) == SELFMAG && memcmp(magic, ELFMAG, SELFMAG) == 0)
		(void)know(preparing->session, preparing->process, run, descriptor, &status, &place);
	close(descriptor);
	return 0;
}

void lh__session_prepare(struct lh_session *session, pid_t process)
{
	struct preparing *preparing = calloc(1, sizeof(*preparing));

	if (!preparing)
		return;
	preparing->session = session;
	preparing->process = process;
	/* What could not be looked at now is when it is asked about. */
	(void)!lh__mappings(process, prepare, preparing);
	free(preparing);
}

/* ---- places ---- */

struct places {
	struct lh_session *session;
	int (*found)(void *context, const struct lh_session_place *place);
	void *context;
	struct lh_mapping all;
	bool any;
};

/* Whether a mapping is of a file, or of its plan, which agents map over the text. */
static int of_file(const struct lh_session_file *file, const struct lh_mapping *all,
                   struct lh_session_place *place)
{
	struct stat plan;

	if (!file->usable)
		return 0;
	if (file->inode == all->inode && major(file->device) == all->device_major &&
	    minor(file->device) == all->device_minor)
		return find_text(file, all, all->start, place);
	if (fstat(file->plan.descriptor, &plan) < 0 || !is_file_of(&plan, all))
		return 0;
	for (unsigned i = 0; i < file->plan.head->texts; i++) {
		const struct lh_plan_text *text = &file->plan.head->text[i];
		uint64_t shift;

		if (all->offset >= text->image && all->offset < text->image + text->size)
			shift = all->offset - text->image;
		else if (all->offset >= text->original && all->offset < text->original + text->size)
			shift = all->offset - text->original;
		else
			continue;
		*place = (struct lh_session_place){ file, i, all->start - shift,
			                            all->start - shift + text->size, true };
		return shift == 0;
	}
	return 0;
}

static int tell_place(struct places *places)
{
	struct lh_session_place place;

	if (!places->any)
		return 0;
	for (const struct lh_session_file *file = places->session->files; file; file = file->next)
		if (of_file(file, &places->all, &place))
			return places->found(places->context, &place);
	return 0;
}

static int next_mapping(void *context, const struct lh_mapping *mapping)
{
	struct places *places = context;
	int result;

	if (mapping->rights[2] != 'x' || mapping->inode == 0)
		return 0;
	if (places->any && continues(&places->all, mapping)) {
		places->all.end = mapping->end;
		return 0;
	}
	result = tell_place(places);
	places->all = *mapping;
	places->any = true;
	return result;
}

int lh__session_places(struct lh_session *session, pid_t process,
                       int (*found)(void *context, const struct lh_session_place *place), void *context)
{
	struct places *places = calloc(1, sizeof(*places));
	int result;

	if (!places)
		return -ENOMEM;
	places->session = session;
	places->found = found;
	places->context = context;
	result = lh__mappings(process, next_mapping, places);
	if (result == 0)
		result = tell_place(places);
	free(places);
	return result;
}

/* ---- verifying ---- */

struct verifying {
	struct lh_session *session;
	pid_t process;
};

static int verify_place(void *context, const struct lh_session_place *place)
{
	const struct verifying *verifying = context;

	if (place_is_original(verifying->process, place))
		return 0;
	verifying->session->differs = true;
	verifying->session->differs_in = verifying->process;
	return 1;
}

void lh__session_verify(struct lh_session *session, struct lh_remote *remote)
{
	struct verifying verifying = { session, lh__remote_process(remote) };

	(void)!lh__session_places(session, verifying.process, verify_place, &verifying);
}
