/*
 * slow.c - instructions whose accesses are known only when they are executed: repeated ones, those with masks
 * or vector indices, areas of state. A function counts them, before they are executed; how far a comparison
 * that repeats will come is known only after it.
 *
 * An operand in memory is one access, whatever number of elements it has, and none where it touches no byte.
 * One that raises a signal has been counted when it does: that is taken back, but for what a repeated one had
 * done by then.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "code/general.h"
#include "line/line.h"
#include "service/count/agent/agent.h"

#define ROOM ((size_t)64 << 20)
#define LARGEST 64u /* bytes of an access that constants describe */

/* struct lh_count_thread's last: what was counted latest, and of what. */
struct last {
	const struct lh_count_slow *slow;
	struct lh_counts counts;
	struct lh_access_state state; /* but for what it points to */
};
_Static_assert(sizeof(struct last) <= sizeof(((struct lh_count_thread *)0)->last), "the latest one fits");

static struct last *last_of(struct lh_count_thread *thread)
{
	return (struct last *)(void *)thread->last;
}

int lh__count_slow_open(struct lh_count_agent *agent)
{
	long at = LH_SYS(&agent->sys, SYS_mmap, 0, ROOM, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	agent->slow = at < 0 && at > -4096 ? NULL : (uint8_t *)at;
	return agent->slow ? 0 : -ENOMEM;
}

bool lh__count_is_plain(const struct lh_accesses *accesses)
{
	for (unsigned i = 0; i < accesses->count; i++)
		if (accesses->at[i].kind & (LH_ACCESS_READ | LH_ACCESS_WRITE) &&
		    (!lh__access_is_plain(&accesses->at[i]) || accesses->at[i].size > LARGEST))
			return false;
	return true;
}

static bool repeats(const struct lh_accesses *accesses, unsigned how)
{
	return accesses->count > 0 && accesses->at[0].repeated == how;
}

/* ---- counting */

/* Bytes of an access, and its lines: elements may lie in one line, in any order. */
#define SEEN 64u
struct seen {
	uint8_t *loaded, *stored; /* tables that lines are marked in, or NULL */
	uint64_t bytes, lines;
	uint64_t line[SEEN]; /* the first and last line of each run */
	unsigned known;
};

static bool is_new(struct seen *seen, uint64_t line)
{
	for (unsigned i = 0; i < seen->known; i++)
		if (seen->line[i] == line)
			return false;
	if (seen->known < SEEN)
		seen->line[seen->known++] = line;
	return true;
}

static void mark_lines(uint8_t *table, uint64_t first, uint64_t last)
{
	for (uint64_t line = first; table && line <= last && line < LH_COUNT_TABLE_BYTES; line++)
		if (!table[line])
			table[line] = 1;
}

static int see(void *context, uint64_t address, uint64_t size)
{
	struct seen *seen = context;
	uint64_t first = address / LH_LINE_SIZE, last = (address + size - 1) / LH_LINE_SIZE;

	mark_lines(seen->loaded, first, last);
	mark_lines(seen->stored, first, last);
	seen->bytes += size;
	seen->lines += is_new(seen, first);
	if (last != first)
		seen->lines += is_new(seen, last) + (last - first - 1);
	return 0;
}

static uint8_t *table_for(uint64_t table, unsigned kind, unsigned which)
{
	return kind & which ? (uint8_t *)(uintptr_t)table : NULL;
}

static void count_access(const struct lh_count_slow *slow, struct lh_counts *counts,
                         const struct lh_access *access, const struct lh_access_state *state)
{
	struct seen seen;

	seen.loaded = table_for(slow->agent->loaded, access->kind, LH_ACCESS_READ);
	seen.stored = table_for(slow->agent->stored, access->kind, LH_ACCESS_WRITE);
	seen.bytes = seen.lines = seen.known = 0;
	if (lh__access_bytes(access, state, see, &seen) != 0 || seen.bytes == 0)
		return;
	if (access->kind & LH_ACCESS_READ) {
		counts->loads++;
		counts->bytes_loaded += seen.bytes;
		counts->more_loaded += seen.lines - 1;
	}
	if (access->kind & LH_ACCESS_WRITE) {
		counts->stores++;
		counts->bytes_stored += seen.bytes;
		counts->more_stored += seen.lines - 1;
	}
}

static void count_all(const struct lh_count_slow *slow, struct lh_counts *counts,
                      const struct lh_access_state *state)
{
	const struct lh_accesses *accesses = &slow->accesses;

	*counts = (struct lh_counts){ 0 };
	for (unsigned i = 0; i < accesses->count; i++)
		if (accesses->at[i].kind & (LH_ACCESS_READ | LH_ACCESS_WRITE))
			count_access(slow, counts, &accesses->at[i], state);
}

static void change(struct lh_count_thread *thread, uint32_t module, const struct lh_counts *by, uint64_t sign)
{
	const uint64_t *more = (const uint64_t *)by;
	uint64_t *sum = (uint64_t *)&thread->module[module];

	for (unsigned i = 0; i < LH_COUNTS; i++)
		sum[i] += sign * more[i];
}

static void count_now(void *own, const struct lh_access_state *state, uint64_t constant)
{
	const struct lh_count_slow *slow = (const struct lh_count_slow *)(uintptr_t)constant;
	struct lh_count_thread *thread = own;
	struct last *last = last_of(thread);

	last->slow = slow;
	last->state = *state;
	count_all(slow, &last->counts, state);
	change(thread, slow->module, &last->counts, 1);
	thread->slow++;
}

/* What a comparison begins with. */
static void note(void *own, const struct lh_access_state *state, uint64_t constant)
{
	struct lh_count_thread *thread = own;
	struct last *last = last_of(thread);

	last->slow = (const struct lh_count_slow *)(uintptr_t)constant;
	last->state = *state;
	last->counts = (struct lh_counts){ 0 };
	thread->slow++;
}

static void count_noted(void *own, const struct lh_access_state *state, uint64_t constant)
{
	const struct lh_count_slow *slow = (const struct lh_count_slow *)(uintptr_t)constant;
	struct lh_count_thread *thread = own;
	struct last *last = last_of(thread);

	if (last->slow != slow)
		return;
	last->state.left = state->general[LH_RCX];
	count_all(slow, &last->counts, &last->state);
	change(thread, slow->module, &last->counts, 1);
}

/* ---- while a block is translated */

static const struct lh_count_slow *put(struct lh_count_agent *agent,
                                       const struct lh_translated_instruction *instruction, uint32_t module)
{
	size_t size = (sizeof(struct lh_count_slow) + 7) & ~(size_t)7;
	struct lh_count_slow *slow = (struct lh_count_slow *)(void *)(agent->slow + agent->slow_used);

	if (agent->slow_used + size > ROOM) {
		agent->process->uncorrected++;
		return NULL;
	}
	agent->slow_used += size;
	slow->agent = agent;
	slow->address = instruction->address;
	slow->module = module;
	slow->accesses = *instruction->accesses;
	return slow;
}

static void mark(const struct lh_count_agent *agent, struct lh_emitter *emitter, int address, unsigned kind)
{
	if (agent->loaded && kind & LH_ACCESS_READ)
		lh__emit_mark_line(emitter, address, agent->loaded);
	if (agent->stored && kind & LH_ACCESS_WRITE)
		lh__emit_mark_line(emitter, address, agent->stored);
}

/* An access that touches two lines; that is known here only where its address is a constant. */
static void count_second(const struct lh_count_agent *agent, struct lh_emitter *emitter,
                         const struct lh_translated_instruction *instruction, const struct lh_access *access,
                         uint32_t module)
{
	size_t sum = offsetof(struct lh_count_thread, module) + module * sizeof(struct lh_counts);
	int address = lh__emit_address(emitter, instruction, access);
	int label = lh__emit_unless_across(emitter, address, access->size);

	if (access->kind & LH_ACCESS_READ)
		lh__emit_count_own(emitter, sum + offsetof(struct lh_counts, more_loaded), 1);
	if (access->kind & LH_ACCESS_WRITE)
		lh__emit_count_own(emitter, sum + offsetof(struct lh_counts, more_stored), 1);
	if (agent->loaded) {
		address = lh__emit_address(emitter, instruction, access);
		lh__emit_add(emitter, address, access->size - 1);
		mark(agent, emitter, address, access->kind);
	}
	lh__emit_here(emitter, label);
	lh__emit_done(emitter);
}

static void count_lines(const struct lh_count_agent *agent, struct lh_emitter *emitter,
                        const struct lh_translated_instruction *instruction, uint32_t module)
{
	for (unsigned i = 0; i < instruction->accesses->count; i++) {
		const struct lh_access *access = &instruction->accesses->at[i];

		if (!(access->kind & (LH_ACCESS_READ | LH_ACCESS_WRITE)))
			continue;
		if (access->size > 1)
			count_second(agent, emitter, instruction, access, module);
		if (agent->loaded) {
			mark(agent, emitter, lh__emit_address(emitter, instruction, access), access->kind);
			lh__emit_done(emitter);
		}
	}
}

void lh__count_before(void *context, struct lh_emitter *emitter,
                      const struct lh_translated_instruction *instruction)
{
	struct lh_count_agent *agent = context;
	const struct lh_count_slow *slow;
	uint32_t module;

	bool plain = lh__count_is_plain(instruction->accesses);

	agent->noted = NULL;
	if (plain && !agent->control->lines)
		return;
	module = lh__count_module(agent, instruction->address);
	if (module == LH_COUNT_NONE)
		return;
	if (plain) {
		count_lines(agent, emitter, instruction, module);
		return;
	}
	slow = put(agent, instruction, module);
	if (!slow)
		return;
	if (repeats(instruction->accesses, LH_REPEAT_UNTIL))
		agent->noted = slow;
	lh__emit_call_state(emitter, agent->noted ? note : count_now, instruction, (uint64_t)(uintptr_t)slow);
	lh__emit_done(emitter);
}

void lh__count_after(void *context, struct lh_emitter *emitter,
                     const struct lh_translated_instruction *instruction)
{
	struct lh_count_agent *agent = context;

	if (!agent->noted || !repeats(instruction->accesses, LH_REPEAT_UNTIL))
		return;
	lh__emit_call_state(emitter, count_noted, instruction, (uint64_t)(uintptr_t)agent->noted);
	lh__emit_done(emitter);
}

/* ---- signals */

static bool is_at(const struct last *last, uint64_t address)
{
	return last->slow && last->slow->address == address;
}

void lh__count_slow_cut(struct lh_count_thread *thread, uint64_t address, const uint64_t *general)
{
	struct last *last = last_of(thread);
	const struct lh_count_slow *slow = last->slow;

	if (!is_at(last, address))
		return;
	change(thread, slow->module, &last->counts, (uint64_t)-1);
	last->slow = NULL;
	if (repeats(&slow->accesses, LH_REPEAT_ALL))
		last->state.general[LH_RCX] -= general[LH_RCX];
	else if (repeats(&slow->accesses, LH_REPEAT_UNTIL))
		last->state.left = general[LH_RCX];
	else
		return;
	count_all(slow, &last->counts, &last->state);
	change(thread, slow->module, &last->counts, 1);
}
