/*
 * guard_text.c - see outside.h. Code of watched processes, all of it written through /proc/PID/mem.
 *
 * What is written to a process is what stood there with first bytes of armed instructions changed, so
 * patches, markers and whatever else stands between stay. Threads that execute the code meanwhile see of each
 * instruction the one first byte or the other: its tail is the same.
 *
 * The `syscall` of each mmap stays absent for good: code that a program maps is made absent before it can
 * run. That of each rt_sigaction too: what the kernel forgets of SIGTRAP at a trap is kept here.
 */
#include "service/code/guard_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/code/remote.h"

#define PAGE 4096u
#define WINDOW 4096u /* of a span that is written in one piece */

static const struct lh_plan_text *plan_text(const struct guard_place *place)
{
	return &place->plan->text[place->which];
}

static const uint8_t *bytes(const struct guard_place *place, uint64_t offset)
{
	return (const uint8_t *)place->plan + offset;
}

/* ---- places ---- */

void lh__guard_forget_places(struct guard_process *process)
{
	free(process->place);
	process->place = NULL;
	process->places = 0;
	if (process->memory >= 0)
		close(process->memory);
	process->memory = -1;
	process->gadget = 0;
}

int lh__guard_copy_places(struct guard_process *to, const struct guard_process *from)
{
	to->ignored_trap = from->ignored_trap;
	to->gadget = from->gadget;
	if (!from->places)
		return 0;
	to->place = calloc(from->places, sizeof(*to->place));
	if (!to->place)
		return -ENOMEM;
	memcpy(to->place, from->place, from->places * sizeof(*to->place));
	to->places = from->places;
	return 0;
}

static struct guard_place *find(struct guard_process *process, uint64_t address)
{
	for (size_t i = process->places; i-- > 0;)
		if (address >= process->place[i].text.start && address < process->place[i].text.end)
			return &process->place[i];
	return NULL;
}

int lh__guard_memory(struct guard_process *process)
{
	char path[64];

	if (process->memory < 0) {
		snprintf(path, sizeof(path), "/proc/%d/mem", process->id);
		process->memory = open(path, O_RDWR | O_CLOEXEC);
	}
	return process->memory;
}

static bool put(struct guard_process *process, uint64_t address, const void *from, size_t size)
{
	return pwrite(lh__guard_memory(process), from, size, (off_t)address) == (ssize_t)size;
}

static bool get(struct guard_process *process, uint64_t address, void *to, size_t size)
{
	return pread(lh__guard_memory(process), to, size, (off_t)address) == (ssize_t)size;
}

/* ---- sites of system calls ---- */

/* The index of the first site at or behind a place. */
static uint32_t first_site(const struct guard_place *place, uint32_t from)
{
	const struct lh_plan_site *site = (const void *)bytes(place, place->plan->sites_at);
	uint32_t low = 0, high = place->plan->sites;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		bool before = site[middle].text != place->which ? site[middle].text < place->which
		                                                : site[middle].at < from;

		if (before)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The next of the `syscall`s that stay absent in [from, to], or UINT32_MAX. */
static uint32_t next_seen(const struct guard_place *place, uint32_t from, uint32_t to)
{
	const struct lh_plan_site *site = (const void *)bytes(place, place->plan->sites_at);

	for (uint32_t i = first_site(place, from);
	     i < place->plan->sites && site[i].text == place->which && site[i].at <= to; i++)
		if (site[i].nr == SYS_mmap || site[i].nr == SYS_rt_sigaction)
			return site[i].at;
	return UINT32_MAX;
}

/* ---- making absent ---- */

static void arm_sites(struct guard_process *process, const struct guard_place *place)
{
	const uint32_t last = (uint32_t)plan_text(place)->size - 1;
	const uint8_t byte = LH_INT3;

	for (uint32_t at = next_seen(place, 0, last); at != UINT32_MAX; at = next_seen(place, at + 1, last))
		(void)!put(process, place->text.start + at, &byte, 1);
}

/* Pages in which something is absent, neighbours in one piece. */
static void arm_image(struct guard_process *process, const struct guard_place *place)
{
	const struct lh_plan_text *text = plan_text(place);
	const uint8_t *original = bytes(place, text->original), *image = bytes(place, text->image);
	uint64_t from = 0;

	for (uint64_t at = 0; at <= text->size; at += PAGE) {
		if (at < text->size && memcmp(original + at, image + at, PAGE))
			continue;
		if (at > from)
			(void)!put(process, place->text.start + from, image + from, at - from);
		from = at + PAGE;
	}
	arm_sites(process, place);
}

static const struct lh_plan_head *map_plan(struct guard *guard, int descriptor, uint64_t size)
{
	struct guard_plan *plan;
	struct stat status;
	void *head;

	if (fstat(descriptor, &status))
		return NULL;
	for (plan = guard->plans; plan; plan = plan->next)
		if (plan->device == status.st_dev && plan->inode == status.st_ino)
			return plan->head;
	plan = calloc(1, sizeof(*plan));
	head = plan ? mmap(NULL, size, PROT_READ, MAP_SHARED, descriptor, 0) : MAP_FAILED;
	if (head == MAP_FAILED) {
		free(plan);
		return NULL;
	}
	*plan = (struct guard_plan){ status.st_dev, status.st_ino, head, guard->plans };
	guard->plans = plan;
	return head;
}

static struct guard_place *add_place(struct guard_process *process)
{
	struct guard_place *grown = reallocarray(process->place, process->places + 1, sizeof(*grown));

	if (!grown)
		return NULL;
	process->place = grown;
	return memset(&grown[process->places], 0, sizeof(*grown));
}

static bool fill(struct guard *guard, const struct lh_answer *answer, const struct lh_plan_head *plan,
                 struct guard_place *place)
{
	const struct lh_plan_text *text = &plan->text[answer->text];
	void *hits = NULL;

	place->plan = plan;
	place->which = answer->text;
	place->watch = answer->action == LH_ANSWER_WATCH;
	if (place->watch)
		hits = mmap(NULL, (text->size / 8 + PAGE - 1) & ~(PAGE - 1ull), PROT_READ | PROT_WRITE,
		            MAP_SHARED, guard->record, (off_t)answer->hits);
	place->text = (struct lh_text){ .start = answer->start,
		                        .end = answer->end,
		                        .armed = (const void *)bytes(place, text->armed),
		                        .ends = (const void *)bytes(place, text->ends),
		                        .original = bytes(place, text->original),
		                        .hits = hits };
	return hits != MAP_FAILED;
}

struct covering {
	uint64_t address, inode;
};

static int find_inode(void *context, const struct lh_mapping *mapping)
{
	struct covering *covering = context;

	if (covering->address >= mapping->start && covering->address < mapping->end)
		covering->inode = mapping->inode;
	return mapping->start > covering->address;
}

/* What another thing is mapped over is no place any more. */
static void drop_covered(struct guard_process *process, uint64_t start, uint64_t end)
{
	size_t n = 0;

	for (size_t i = 0; i < process->places; i++)
		if (process->place[i].text.end <= start || process->place[i].text.start >= end)
			process->place[n++] = process->place[i];
	process->places = n;
}

void lh__guard_arm(struct guard *guard, struct guard_process *process, uint64_t address, bool launched)
{
	struct lh_guard_message message = {
		.kind = LH_GUARD_MODULE, .process = process->id, .address = address, .launched = launched
	};
	struct covering covering = { .address = address };
	const struct lh_plan_head *plan;
	struct guard_place *place;
	int descriptor;

	if (!lh__guard_ask(guard, &message, &descriptor) || descriptor < 0)
		return;
	plan = map_plan(guard, descriptor, message.answer.plan_size);
	close(descriptor);
	if (!plan || message.answer.action == LH_ANSWER_IGNORE)
		return;
	drop_covered(process, message.answer.start, message.answer.end);
	place = add_place(process);
	if (!place || !fill(guard, &message.answer, plan, place))
		return;
	(void)!lh__mappings(process->id, find_inode, &covering);
	place->inode = covering.inode;
	process->places++;
	if (place->watch) {
		arm_image(process, place);
		__atomic_fetch_add(&guard->control->modules, 1, __ATOMIC_RELAXED);
	} else {
		arm_sites(process, place);
	}
	message = (struct lh_guard_message){ .kind = LH_GUARD_ARMED, .process = process->id };
	lh__guard_ask(guard, &message, &descriptor);
}

struct list {
	uint64_t *address;
	size_t count;
	uint64_t end, inode;
};

static int list_code(void *context, const struct lh_mapping *mapping)
{
	struct list *list = context;
	bool same = mapping->start == list->end && mapping->inode == list->inode;
	uint64_t *grown;

	if (mapping->rights[2] != 'x' || !mapping->inode)
		return 0;
	list->end = mapping->end;
	list->inode = mapping->inode;
	if (same)
		return 0;
	grown = reallocarray(list->address, list->count + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	list->address = grown;
	grown[list->count++] = mapping->start;
	return 0;
}

void lh__guard_arm_all(struct guard *guard, struct guard_process *process, bool launched)
{
	struct list list = { 0 };

	if (!lh__mappings(process->id, list_code, &list))
		for (size_t i = 0; i < list.count; i++)
			lh__guard_arm(guard, process, list.address[i], launched);
	free(list.address);
}

/* ---- traps ---- */

/* Writes a piece of a span, at most a window, as it stands there with its lines supplied. */
static void supply_piece(struct guard_process *process, const struct guard_place *place, uint32_t from,
                         uint32_t to)
{
	uint8_t window[WINDOW];
	uint32_t at;

	if (!get(process, place->text.start + from, window, to - from + 1))
		return;
	lh__text_supply(&place->text, (uint8_t *)((uintptr_t)window - from), (struct lh_span){ from, to });
	for (at = next_seen(place, from, to); at != UINT32_MAX; at = next_seen(place, at + 1, to))
		window[at - from] = LH_INT3;
	(void)!put(process, place->text.start + from, window, to - from + 1);
}

static void supply(struct guard_process *process, const struct guard_place *place, struct lh_span span)
{
	for (uint64_t from = span.from; from <= span.to; from += WINDOW)
		supply_piece(process, place, (uint32_t)from,
		             span.to - from < WINDOW ? span.to : (uint32_t)from + WINDOW - 1);
}

static void miss(struct guard *guard, struct guard_process *process, const struct guard_place *place,
                 const struct lh_span *spans, unsigned count)
{
	bool records = !__atomic_load_n(&guard->control->off, __ATOMIC_SEQ_CST);

	for (unsigned i = 0; i < count; i++) {
		if (records)
			lh__text_record(&place->text, spans[i].from);
		supply(process, place, spans[i]);
		if (records)
			lh__text_record(&place->text, spans[i].from);
	}
	__atomic_fetch_add(&guard->control->traps, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&guard->control->spans, count, __ATOMIC_RELAXED);
}

static bool is_marker(struct guard *guard, const struct guard_process *process, uint64_t address)
{
	struct lh_guard_message message = { .kind = LH_GUARD_MARKER,
		                            .process = process->id,
		                            .address = address };
	int descriptor;

	return lh__guard_ask(guard, &message, &descriptor) && message.result == 1;
}

static bool is_hit(const struct guard_place *place, uint32_t at)
{
	return __atomic_load_n(&place->text.hits[at / 64], __ATOMIC_RELAXED) >> at % 64 & 1;
}

enum guard_trap lh__guard_trap(struct guard *guard, struct guard_process *process, uint64_t address)
{
	const struct guard_place *place = find(process, address);
	struct lh_span spans[LH_SPANS];
	unsigned count;
	uint32_t at;
	bool maps;

	if (!place)
		return GUARD_FOREIGN;
	at = (uint32_t)(address - place->text.start);
	maps = next_seen(place, at, at) == at;
	if (!place->watch)
		return maps ? GUARD_CALL : GUARD_FOREIGN;
	if (maps && is_hit(place, at))
		return GUARD_CALL;
	count = lh__text_miss(&place->text, at, guard->granularity, spans);
	if (!count)
		return is_marker(guard, process, address) ? GUARD_SUPPLIED
		       : maps                             ? GUARD_CALL
		                                          : GUARD_FOREIGN;
	miss(guard, process, place, spans, count);
	if (place->text.original[at] == LH_INT3)
		return GUARD_FOREIGN; /* the program's own, which has been seen to run now */
	return maps ? GUARD_CALL : GUARD_SUPPLIED;
}

/* ---- bringing back ---- */

static int mark_present(void *context, const struct lh_mapping *mapping)
{
	struct guard_process *process = context;

	for (size_t i = 0; i < process->places; i++) {
		struct guard_place *place = &process->place[i];

		place->present |= place->text.start >= mapping->start && place->text.start < mapping->end &&
		                  place->inode == mapping->inode;
	}
	return 0;
}

static void bring_back_page(struct guard_process *process, const struct guard_place *place, uint32_t page)
{
	uint8_t now[PAGE];
	bool changed = false;

	if (!get(process, place->text.start + page, now, PAGE))
		return;
	for (uint32_t i = 0; i < PAGE; i++) {
		uint32_t at = page + i;

		if (now[i] != LH_INT3 || place->text.original[at] == LH_INT3)
			continue;
		if (place->text.armed[at / 64] >> at % 64 & 1 || next_seen(place, at, at) == at) {
			now[i] = place->text.original[at];
			changed = true;
		}
	}
	if (changed)
		(void)!put(process, place->text.start + page, now, PAGE);
}

void lh__guard_bring_back(struct guard_process *process)
{
	for (size_t i = 0; i < process->places; i++)
		process->place[i].present = false;
	(void)!lh__mappings(process->id, mark_present, process);
	for (size_t i = 0; i < process->places; i++) {
		const struct guard_place *place = &process->place[i];

		for (uint32_t page = 0; place->present && page < plan_text(place)->size; page += PAGE)
			bring_back_page(process, place, page);
	}
}
