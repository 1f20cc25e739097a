/*
 * arm.c - texts: made absent when a module is mapped, and brought back.
 *
 * Nobody executes a text while it is armed: it has been mapped just now, or all threads are stopped. One
 * whose memory is what its plan was made from gets the plan's image mapped over it. Else, or where its file
 * is no longer there to be mapped again one day, the image is copied page by page. A page that is not as the
 * plan has it (relocations in the text, a debugger's breakpoint) is left alone. What a page holds has only to
 * be looked at if it is no longer the file's, which the kernel tells (/proc/self/pagemap).
 *
 * The plan is mapped private and writable for a moment: sites are not to be supplied with the span in which
 * they stand, so they are taken out of the bitmap of what is armed.
 */
#include "port/code/inside/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE 4096u
#define ENTRIES 64u
#define RWX (PROT_READ | PROT_WRITE | PROT_EXEC)

bool lh__inside_interesting(int nr)
{
	static const int16_t numbers[] = {
		-1,         SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigsuspend,
		SYS_ppoll,  SYS_pselect6,     SYS_epoll_pwait,    SYS_epoll_pwait2,
		SYS_mmap,   SYS_mprotect,     SYS_pkey_mprotect,  SYS_munmap,
		SYS_mremap, SYS_execve,       SYS_execveat,       SYS_clone3,
		SYS_clone,  SYS_brk,          SYS_shmdt,          SYS_prctl,
		SYS_seccomp
	};
	unsigned i;

	for (i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (numbers[i] == nr)
			return true;
	return false;
}

/* ---- bytes ---- */

/*
 * /proc/self/mem before mprotect: a mapping whose rights were changed and changed back is not merged with its
 * neighbours again.
 */
static void store_by(long memory, const struct lh_inside_text *text, uintptr_t address, uint8_t byte)
{
	uintptr_t page = address & ~(uintptr_t)(PAGE - 1);

	if (text->writable) {
		__atomic_store_n((uint8_t *)address, byte, __ATOMIC_SEQ_CST);
		return;
	}
	if ((!LH_FAILED(memory) && LH_CALL4(SYS_pwrite64, memory, &byte, 1, address) == 1) ||
	    LH_FAILED(LH_CALL3(SYS_mprotect, page, PAGE, RWX)))
		return;
	__atomic_store_n((uint8_t *)address, byte, __ATOMIC_SEQ_CST);
	LH_CALL3(SYS_mprotect, page, PAGE, PROT_READ | PROT_EXEC);
}

/* What store_by is given; an error where it needs none. */
static long open_memory(const struct lh_inside_text *text)
{
	return text->writable ? -EBADF : LH_CALL3(SYS_open, "/proc/self/mem", O_RDWR | O_CLOEXEC, 0);
}

static void close_memory(long memory)
{
	if (!LH_FAILED(memory))
		LH_CALL1(SYS_close, memory);
}

void lh__inside_store(const struct lh_inside_text *text, uintptr_t address, uint8_t byte)
{
	long memory = open_memory(text);

	store_by(memory, text, address, byte);
	close_memory(memory);
}

void lh__inside_supply(const struct lh_inside_text *text, struct lh_span span)
{
	uint32_t at, size = (uint32_t)(text->text.end - text->text.start);
	const uint8_t *code = (const uint8_t *)text->text.start;

	if (text->writable) {
		lh__text_supply(&text->text, (uint8_t *)text->text.start, span);
		return;
	}
	for (at = span.from; at <= span.to && at < size; at++)
		if (text->text.armed[at / 64] >> (at % 64) & 1 && code[at] == LH_INT3)
			lh__inside_store(text, text->text.start + at, text->text.original[at]);
}

static const uint8_t *original(const struct lh_inside_text *text)
{
	return (const uint8_t *)text->plan + text->plan->text[text->which].original;
}

/* A site that may be absent: one of an unknown number, or of a clone, needs its stub. */
static bool kept_absent(const struct lh_inside_text *text, const struct lh_plan_site *site)
{
	return lh__inside_interesting(site->nr) &&
	       (text->stubs || (site->nr != -1 && site->nr != SYS_clone3 && site->nr != SYS_clone));
}

static void site_bytes(const struct lh_inside_text *text, uintptr_t start, uintptr_t end, bool absent)
{
	uint8_t wanted = absent ? 0x0f : LH_INT3, byte = absent ? LH_INT3 : 0x0f;
	long memory = open_memory(text);
	uint32_t i;

	for (i = 0; i < text->site_count; i++) {
		uintptr_t at = text->text.start + text->sites[i].at;

		if (at >= start && at < end && at + 2 <= text->text.end &&
		    kept_absent(text, &text->sites[i]) && *(const uint8_t *)at == wanted &&
		    ((const uint8_t *)at)[1] == 0x05)
			store_by(memory, text, at, byte);
	}
	close_memory(memory);
}

void lh__inside_bring_back(const struct lh_inside_text *text, uintptr_t start, uintptr_t end)
{
	if (start < text->text.start)
		start = text->text.start;
	if (end > text->text.end)
		end = text->text.end;
	if (start >= end)
		return;
	if (text->watched)
		lh__inside_supply(text, (struct lh_span){ (uint32_t)(start - text->text.start),
		                                          (uint32_t)(end - text->text.start - 1) });
	site_bytes(text, start, end, false);
}

/* ---- pages that are no longer the file's ---- */

struct pages {
	const struct lh_inside_text *text;
	long file; /* /proc/self/pagemap; or an error: then every page is looked at */
	uint32_t first, count;
	uint64_t entry[ENTRIES];
};

static bool private_page(struct pages *pages, uint32_t page)
{
	uint64_t entry;

	if (LH_FAILED(pages->file))
		return true;
	if (page < pages->first || page >= pages->first + pages->count) {
		long got = LH_CALL4(SYS_pread64, pages->file, pages->entry, sizeof pages->entry,
		                    (pages->text->text.start / PAGE + page) * 8);

		pages->first = page;
		pages->count = got > 0 ? (uint32_t)got / 8 : 0;
		if (pages->count == 0)
			return true;
	}
	entry = pages->entry[page - pages->first];
	return entry >> 62 & 1 || (entry >> 63 & 1 && !(entry >> 61 & 1));
}

/*
 * Whether a page is neither the file's nor the image's, nor a mixture: who takes lines away may come to a
 * text before it is armed.
 */
static bool page_differs(struct pages *pages, uint32_t page)
{
	const struct lh_inside_text *text = pages->text;
	const uint8_t *now = (const uint8_t *)text->text.start + (size_t)page * PAGE;
	const uint8_t *was = original(text) + (size_t)page * PAGE;
	const uint8_t *image =
		(const uint8_t *)text->plan + text->plan->text[text->which].image + (size_t)page * PAGE;
	uint32_t i;

	if (!private_page(pages, page) || __builtin_memcmp(now, was, PAGE) == 0)
		return false;
	for (i = 0; i < PAGE; i++)
		if (now[i] != was[i] && now[i] != image[i])
			return true;
	return false;
}

static void pages_open(struct pages *pages, const struct lh_inside_text *text)
{
	pages->text = text;
	pages->first = pages->count = 0;
	pages->file = LH_CALL3(SYS_open, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC, 0);
}

static void pages_close(struct pages *pages)
{
	if (!LH_FAILED(pages->file))
		LH_CALL1(SYS_close, pages->file);
}

bool lh__inside_is_anonymous(uintptr_t address)
{
	const struct lh_inside_text nowhere = { .text = { .start = address & ~(uintptr_t)(PAGE - 1) } };
	struct pages pages;
	bool anonymous;

	pages_open(&pages, &nowhere);
	anonymous = !LH_FAILED(pages.file) && private_page(&pages, 0);
	pages_close(&pages);
	return anonymous;
}

/* ---- arming ---- */

static void forget_page(const struct lh_inside_text *text, uint32_t page)
{
	uint64_t *armed = (uint64_t *)(uintptr_t)text->text.armed + (size_t)page * (PAGE / 64);
	unsigned i;

	for (i = 0; i < PAGE / 64; i++)
		armed[i] = 0;
}

/* Sites are never supplied. */
static void keep_sites(const struct lh_inside_text *text)
{
	uint64_t *armed = (uint64_t *)(uintptr_t)text->text.armed;
	uint32_t i;

	for (i = 0; i < text->site_count; i++) {
		uint32_t at = text->sites[i].at;

		if (kept_absent(text, &text->sites[i]) && at < text->text.end - text->text.start)
			armed[at / 64] &= ~(1ull << (at % 64));
	}
}

/* Whether the file holds what the plan was made from: by its time of change, else by looking. */
static bool same_file(const struct lh_inside_text *text, long file)
{
	const struct lh_plan_head *plan = text->plan;
	size_t size = text->text.end - text->text.start;
	struct stat status;
	bool same;
	long at;

	if (LH_CALL2(SYS_fstat, file, &status) != 0 || (uint64_t)status.st_size != plan->file_size)
		return false;
	if (status.st_dev == plan->file_device && status.st_ino == plan->file_inode &&
	    (uint64_t)status.st_mtim.tv_sec * 1000000000u + (uint64_t)status.st_mtim.tv_nsec ==
	            plan->file_mtime &&
	    (uint64_t)status.st_ctim.tv_sec * 1000000000u + (uint64_t)status.st_ctim.tv_nsec ==
	            plan->file_ctime)
		return true;
	at = LH_CALL6(SYS_mmap, 0, size, PROT_READ, MAP_PRIVATE, file, plan->text[text->which].offset);
	if (LH_FAILED(at))
		return false;
	same = __builtin_memcmp((const void *)at, original(text), size) == 0;
	LH_CALL2(SYS_munmap, at, size);
	return same;
}

/* Whether the text can be mapped from its file again; else it is not to be replaced by the image. */
static bool has_file(const struct lh_inside_text *text)
{
	long file = text->path[0] ? LH_CALL3(SYS_open, text->path, O_RDONLY | O_CLOEXEC, 0) : -ENOENT;
	bool has = !LH_FAILED(file) && same_file(text, file);

	if (!LH_FAILED(file))
		LH_CALL1(SYS_close, file);
	return has;
}

static bool map_image(const struct lh_inside_text *text, int descriptor)
{
	const struct lh_plan_text *plan = &text->plan->text[text->which];

	return !LH_FAILED(LH_CALL6(SYS_mmap, text->text.start, text->text.end - text->text.start, RWX,
	                           MAP_PRIVATE | MAP_FIXED, descriptor, plan->image));
}

static void copy_page(const struct lh_inside_text *text, uint32_t page, long memory)
{
	const uint8_t *image =
		(const uint8_t *)text->plan + text->plan->text[text->which].image + (size_t)page * PAGE;
	uintptr_t to = text->text.start + (size_t)page * PAGE;

	if (text->writable)
		__builtin_memcpy((void *)to, image, PAGE);
	else
		LH_CALL4(SYS_pwrite64, memory, image, PAGE, to);
}

static bool any_armed(const struct lh_inside_text *text, uint32_t page)
{
	const uint64_t *armed = text->text.armed + (size_t)page * (PAGE / 64);
	uint64_t all = 0;
	unsigned i;

	for (i = 0; i < PAGE / 64; i++)
		all |= armed[i];
	return all != 0;
}

static long arm_pages(struct lh_inside_text *text, struct pages *pages)
{
	uint32_t page, count = (uint32_t)((text->text.end - text->text.start) / PAGE);
	long memory = -EBADF;

	text->writable =
		!LH_FAILED(LH_CALL3(SYS_mprotect, text->text.start, text->text.end - text->text.start, RWX));
	if (!text->writable) {
		memory = LH_CALL3(SYS_open, "/proc/self/mem", O_RDWR | O_CLOEXEC, 0);
		if (LH_FAILED(memory))
			return memory;
	}
	for (page = 0; page < count; page++) {
		if (!any_armed(text, page))
			continue;
		if (page_differs(pages, page))
			forget_page(text, page);
		else
			copy_page(text, page, memory);
	}
	if (!text->writable)
		LH_CALL1(SYS_close, memory);
	return 0;
}

static long arm_watched(struct lh_inside_text *text, int descriptor, bool fresh)
{
	uint32_t page, count = (uint32_t)((text->text.end - text->text.start) / PAGE);
	struct pages pages;
	long result = 0;

	pages_open(&pages, text);
	if (!fresh)
		fresh = has_file(text);
	for (page = 0; fresh && page < count; page++)
		fresh = !page_differs(&pages, page);
	text->image = fresh && map_image(text, descriptor);
	text->writable = text->image;
	if (!text->image)
		result = arm_pages(text, &pages);
	pages_close(&pages);
	return result;
}

/* What the record has as seen is not made absent again. The file's holes are skipped. */
static void supply_seen(const struct lh_inside_text *text, long record, uint64_t hits_at)
{
	uint32_t at, size = (uint32_t)(text->text.end - text->text.start);
	uint64_t bytes = size / 8, from = 0;

	while (from < bytes) {
		long data = LH_CALL3(SYS_lseek, record, hits_at + from, SEEK_DATA);
		uint64_t to;

		if (data == -ENXIO)
			return;
		if (!LH_FAILED(data))
			from = ((uint64_t)data - hits_at) & ~7ull;
		to = (from | 4095) + 1;
		for (; from < bytes && from < to; from += 8) {
			uint64_t bits = __atomic_load_n(&text->text.hits[from / 8], __ATOMIC_RELAXED);

			for (; bits; bits &= bits - 1) {
				at = (uint32_t)(from * 8) + (uint32_t)__builtin_ctzll(bits);
				lh__inside_supply(text,
				                  lh__text_span(&text->text, at, lh__inside.granularity));
			}
		}
	}
}

static size_t stubs_size(const struct lh_inside_text *text)
{
	return ((size_t)text->site_count * LH_STUB_SIZE + PAGE - 1) & ~(size_t)(PAGE - 1);
}

/* syscall; movabs $behind, %rcx; jmp *%rcx: rcx is then what the kernel leaves there at the site. */
static void make_stubs(struct lh_inside_text *text)
{
	size_t size = stubs_size(text);
	long at =
		size ? LH_CALL6(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
		     : -ENOMEM;
	uint32_t i;

	text->stubs = NULL;
	if (LH_FAILED(at))
		return;
	for (i = 0; i < text->site_count; i++) {
		uint8_t *stub = (uint8_t *)at + (size_t)i * LH_STUB_SIZE;
		uint64_t behind = text->text.start + text->sites[i].at + 2;

		if (!lh__inside_interesting(text->sites[i].nr))
			continue;
		__builtin_memcpy(stub, "\x0f\x05\x48\xb9", 4);
		__builtin_memcpy(stub + 4, &behind, sizeof behind);
		__builtin_memcpy(stub + 12, "\xff\xe1", 2);
	}
	if (LH_FAILED(LH_CALL3(SYS_mprotect, at, size, PROT_READ | PROT_EXEC)))
		LH_CALL2(SYS_munmap, at, size);
	else
		text->stubs = (uint8_t *)at;
}

/* ---- modules ---- */

/* The plan's mapping; a plan that is mapped already is used again. */
static struct lh_plan_head *map_plan(int descriptor, uint64_t size)
{
	struct lh_inside_plan *plan = lh__inside.plan, *end = plan + lh__inside.plans;
	struct stat status;
	long at;

	if (LH_CALL2(SYS_fstat, descriptor, &status) != 0)
		return NULL;
	for (; plan < end; plan++)
		if (plan->device == status.st_dev && plan->inode == status.st_ino && plan->size == size)
			return (struct lh_plan_head *)(void *)plan->plan;
	if (lh__inside.plans == LH_INSIDE_TEXTS || (uint64_t)status.st_size < size || size < PAGE)
		return NULL;
	at = LH_CALL6(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor, 0);
	if (LH_FAILED(at))
		return NULL;
	*plan = (struct lh_inside_plan){ status.st_dev, status.st_ino, size, (uint8_t *)at };
	lh__inside.plans++;
	return (struct lh_plan_head *)at;
}

/* The record's descriptor, which the caller closes by close_record. */
static long open_record(int *record)
{
	struct lh_ask ask = { .kind = LH_ASK_HELLO,
		              .process = (int32_t)LH_CALL0(SYS_getpid),
		              .thread = (int32_t)LH_CALL0(SYS_gettid) };
	struct lh_answer answer;
	long result;

	if (lh__inside.record >= 0) {
		*record = (int)lh__inside.record;
		return 0;
	}
	result = lh__inside_ask(&ask, &answer, record);
	return result < 0 ? result : *record < 0 ? -EPROTO : 0;
}

static void close_record(int record)
{
	if (record >= 0 && record != lh__inside.record)
		LH_CALL1(SYS_close, record);
}

/* The text's bitmap in the record. */
static long map_hits(uint64_t hits, uint64_t size, uint64_t **out, int *record)
{
	long result = open_record(record);

	if (result < 0)
		return result;
	result = LH_CALL6(SYS_mmap, 0, size / 8 + hits % PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, *record,
	                  hits - hits % PAGE);
	if (LH_FAILED(result))
		return result;
	*out = (uint64_t *)(uintptr_t)(result + (long)(hits % PAGE));
	return 0;
}

static void unmap_hits(struct lh_inside_text *text)
{
	uintptr_t hits = (uintptr_t)text->text.hits;

	if (hits)
		LH_CALL2(SYS_munmap, hits & ~(uintptr_t)(PAGE - 1),
		         (text->text.end - text->text.start) / 8 + hits % PAGE);
	text->text.hits = NULL;
}

void lh__inside_release_text(struct lh_inside_text *text)
{
	unmap_hits(text);
	if (text->stubs)
		LH_CALL2(SYS_munmap, text->stubs, stubs_size(text));
	text->stubs = NULL;
}

static void fill_sites(struct lh_inside_text *text)
{
	const struct lh_plan_head *plan = text->plan;
	const struct lh_plan_site *site = (const void *)((const uint8_t *)plan + plan->sites_at);
	uint32_t first = 0, last;

	while (first < plan->sites && site[first].text < text->which)
		first++;
	for (last = first; last < plan->sites && site[last].text == text->which; last++)
		;
	text->sites = site + first;
	text->site_count = last - first;
}

static void fill_text(struct lh_inside_text *text, struct lh_plan_head *plan, const struct lh_answer *answer,
                      const char *path)
{
	const struct lh_plan_text *of = &plan->text[answer->text];
	const uint8_t *base = (const uint8_t *)plan;
	size_t i;

	*text = (struct lh_inside_text){ .plan = plan,
		                         .which = answer->text,
		                         .watched = answer->action == LH_ANSWER_WATCH };
	text->text.start = answer->start;
	text->text.end = answer->end;
	text->text.armed = (const void *)(base + of->armed);
	text->text.ends = (const void *)(base + of->ends);
	text->text.original = base + of->original;
	for (i = 0; path && path[i] && i < LH_PATH_SIZE - 1; i++)
		text->path[i] = path[i];
	if (path && path[i]) /* too long to be kept */
		text->path[0] = 0;
	fill_sites(text);
	make_stubs(text);
}

/* Under the lock. text is published before the first byte of it is absent. */
static long arm(struct lh_inside_text *text, const struct lh_answer *answer, int descriptor, bool fresh)
{
	int record = -1;
	long result = 0;

	if (text->watched)
		result = map_hits(answer->hits, answer->end - answer->start, &text->text.hits, &record);
	if (result == 0 && text->watched) {
		keep_sites(text);
		if (!lh__inside_publish(text))
			result = -ENOSPC;
		else
			result = arm_watched(text, descriptor, fresh);
		if (result == 0)
			supply_seen(text, record, answer->hits);
	} else if (result == 0 && !lh__inside_publish(text)) {
		result = -ENOSPC;
	}
	if (result == 0)
		site_bytes(text, text->text.start, text->text.end, true);
	close_record(record);
	return result;
}

/* The text may be more than what was asked about: protection of a part may have split its mapping. */
static bool fits(const struct lh_answer *answer, const struct lh_plan_head *plan, uint64_t address,
                 uint64_t size)
{
	return plan && answer->text < plan->texts && plan->texts <= LH_PLAN_TEXTS &&
	       answer->start < address + size && answer->end > address && answer->start < answer->end &&
	       (answer->start | answer->end) % PAGE == 0 &&
	       answer->end - answer->start <= plan->text[answer->text].size;
}

static long module(const struct lh_ask *ask, const char *path, bool fresh)
{
	struct lh_inside_text *text = NULL;
	struct lh_plan_head *plan = NULL;
	struct lh_answer answer;
	int descriptor;
	long result = lh__inside_ask(ask, &answer, &descriptor);

	if (result == 0 && answer.action != LH_ANSWER_IGNORE) {
		plan = descriptor < 0 ? NULL : map_plan(descriptor, answer.plan_size);
		text = fits(&answer, plan, ask->address, ask->size) ? lh__inside_slot() : NULL;
		result = text ? 0 : -EINVAL;
	}
	if (text) {
		LH_CALL3(SYS_mprotect, plan, answer.plan_size, PROT_READ | PROT_WRITE);
		fill_text(text, plan, &answer, path);
		result = arm(text, &answer, descriptor, fresh);
		LH_CALL3(SYS_mprotect, plan, answer.plan_size, PROT_READ);
		if (result != 0)
			lh__inside_disarm(text);
	}
	if (descriptor >= 0)
		LH_CALL1(SYS_close, descriptor);
	if (result == 0 && text && text->watched)
		__atomic_fetch_add(&lh__inside.control->modules, 1, __ATOMIC_RELAXED);
	return result;
}

void lh__inside_module(uint64_t address, uint64_t size, uint64_t offset, const char *path, bool fresh)
{
	struct lh_ask ask = { .kind = LH_ASK_MODULE, .address = address, .size = size, .offset = offset };
	uint64_t mask = lh__inside_lock();

	ask.process = (int32_t)LH_CALL0(SYS_getpid);
	ask.thread = (int32_t)LH_CALL0(SYS_gettid);
	if (!lh__inside_overlap(address, address + size, NULL) && module(&ask, path, fresh) != 0) {
		struct lh_answer answer;
		int none;

		__atomic_fetch_add(&lh__inside.control->refused, 1, __ATOMIC_RELAXED);
		/* So that the watcher takes no line away here, whose trap nobody would answer. */
		ask.kind = LH_ASK_REFUSED;
		(void)!lh__inside_ask(&ask, &answer, &none);
	}
	lh__inside_unlock(mask);
}

/* ---- disarming ---- */

/* Whether somebody else has written to the text: then the file is not what it was. */
static bool changed_by_others(const struct lh_inside_text *text)
{
	uint32_t page, count = (uint32_t)((text->text.end - text->text.start) / PAGE);
	struct pages pages;
	bool changed = false;

	pages_open(&pages, text);
	changed = LH_FAILED(pages.file);
	for (page = 0; !changed && page < count; page++)
		if (private_page(&pages, page)) {
			uintptr_t at = text->text.start + (size_t)page * PAGE;

			lh__inside_bring_back(text, at, at + PAGE);
			changed = page_differs(&pages, page);
		}
	pages_close(&pages);
	return changed;
}

static bool map_file(const struct lh_inside_text *text)
{
	const struct lh_plan_head *plan = text->plan;
	bool mapped = false;
	long file = text->path[0] ? LH_CALL3(SYS_open, text->path, O_RDONLY | O_CLOEXEC, 0) : -ENOENT;

	if (LH_FAILED(file))
		return false;
	if (same_file(text, file))
		mapped = !LH_FAILED(LH_CALL6(SYS_mmap, text->text.start, text->text.end - text->text.start,
		                             PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file,
		                             plan->text[text->which].offset));
	LH_CALL1(SYS_close, file);
	return mapped;
}

void lh__inside_disarm(struct lh_inside_text *text)
{
	bool mapped = text->image && !changed_by_others(text) && map_file(text);

	if (!mapped) {
		lh__inside_bring_back(text, text->text.start, text->text.end);
		if (text->watched)
			LH_CALL3(SYS_mprotect, text->text.start, text->text.end - text->text.start,
			         PROT_READ | PROT_EXEC);
	}
	lh__inside_withdraw(text);
	unmap_hits(text);
}
