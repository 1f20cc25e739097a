/*
 * blocks.c - what a block counts: one addition, to the number of times that it was entered (control.h).
 *
 * A block that is translated again, because the cache was full, or by another way into it, keeps its number
 * where it is the same. When numbers run out, a block adds its constants to its module's sums instead: that
 * is as exact, and some additions more.
 */
#include <errno.h>
#include <sys/mman.h>

#include "service/count/agent/agent.h"

#define HASH 2097152u
#define PARTS 16777216u

static void *reserve(const struct lh_sys *sys, size_t size)
{
	long at = LH_SYS(sys, SYS_mmap, 0, size, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at < 0 && at > -4096 ? NULL : (void *)at;
}

/* In a child of fork what there is is given back first. */
int lh__count_blocks_open(struct lh_count_agent *agent)
{
	if (agent->hash)
		LH_SYS(&agent->sys, SYS_munmap, agent->hash, HASH * sizeof(*agent->hash));
	if (agent->parts)
		LH_SYS(&agent->sys, SYS_munmap, agent->parts, PARTS * sizeof(*agent->parts));
	agent->hash = reserve(&agent->sys, HASH * sizeof(*agent->hash));
	agent->parts = reserve(&agent->sys, PARTS * sizeof(*agent->parts));
	agent->parts_used = 0;
	return agent->hash && agent->parts ? 0 : -ENOMEM;
}

static uint32_t *bucket(const struct lh_count_agent *agent, uint64_t address)
{
	return &agent->hash[(address * 0x9e3779b97f4a7c15ull >> 32) % HASH];
}

static struct lh_count_part part_of(const struct lh_translated_instruction *instruction, uint64_t block)
{
	const struct lh_accesses *accesses = instruction->accesses;
	struct lh_count_part part = { .offset = (uint16_t)(instruction->address - block) };

	if (!lh__count_is_plain(accesses))
		return part;
	for (unsigned i = 0; i < accesses->count; i++) {
		const struct lh_access *access = &accesses->at[i];

		if (access->kind & LH_ACCESS_READ) {
			part.loads++;
			part.bytes_loaded = (uint16_t)(part.bytes_loaded + access->size);
		}
		if (access->kind & LH_ACCESS_WRITE) {
			part.stores++;
			part.bytes_stored = (uint16_t)(part.bytes_stored + access->size);
		}
	}
	return part;
}

static void add_part(struct lh_count_block *block, struct lh_count_part part)
{
	block->instructions++;
	block->loads = (uint16_t)(block->loads + part.loads);
	block->stores = (uint16_t)(block->stores + part.stores);
	block->bytes_loaded += part.bytes_loaded;
	block->bytes_stored += part.bytes_stored;
}

static bool same(const struct lh_count_block *a, const struct lh_count_block *b)
{
	return a->address == b->address && a->instructions == b->instructions && a->loads == b->loads &&
	       a->stores == b->stores && a->module == b->module && a->bytes_loaded == b->bytes_loaded &&
	       a->bytes_stored == b->bytes_stored;
}

static void put_parts(struct lh_count_agent *agent, struct lh_count_block *block,
                      const struct lh_translated_instruction *instruction)
{
	block->parts = UINT32_MAX;
	if (agent->parts_used + block->instructions > PARTS)
		return;
	block->parts = agent->parts_used;
	for (unsigned i = 0; i < block->instructions; i++)
		agent->parts[agent->parts_used++] = part_of(&instruction[i], block->address);
}

/* The block's number; 0: there is none left. */
static uint32_t number_of(struct lh_count_agent *agent, const struct lh_count_block *new,
                          const struct lh_translated_instruction *instruction)
{
	struct lh_count_process *process = agent->process;
	uint32_t *head = bucket(agent, new->address), number = process->blocks + 1;
	struct lh_count_block *block;

	for (uint32_t i = *head; i; i = process->block[i].next)
		if (same(&process->block[i], new))
			return i;
	if (number >= LH_COUNT_BLOCKS)
		return 0;
	block = &process->block[number];
	*block = *new;
	put_parts(agent, block, instruction);
	block->next = *head;
	__atomic_store_n(&process->blocks, number, __ATOMIC_RELEASE);
	__atomic_store_n(head, number, __ATOMIC_RELEASE);
	return number;
}

static void count_sum(struct lh_emitter *emitter, uint32_t module, size_t field, uint32_t by)
{
	if (by)
		lh__emit_count_own(emitter,
		                   offsetof(struct lh_count_thread, module) +
		                           module * sizeof(struct lh_counts) + field,
		                   by);
}

static void count_sums(struct lh_emitter *emitter, const struct lh_count_block *block)
{
	count_sum(emitter, block->module, offsetof(struct lh_counts, blocks), 1);
	count_sum(emitter, block->module, offsetof(struct lh_counts, instructions), block->instructions);
	count_sum(emitter, block->module, offsetof(struct lh_counts, loads), block->loads);
	count_sum(emitter, block->module, offsetof(struct lh_counts, stores), block->stores);
	count_sum(emitter, block->module, offsetof(struct lh_counts, bytes_loaded), block->bytes_loaded);
	count_sum(emitter, block->module, offsetof(struct lh_counts, bytes_stored), block->bytes_stored);
}

void lh__count_block(void *context, struct lh_emitter *emitter, uint64_t address, unsigned instructions,
                     const struct lh_translated_instruction *instruction)
{
	struct lh_count_agent *agent = context;
	uint32_t module = lh__count_module(agent, address), number;
	struct lh_count_block block = { .address = address, .module = (uint16_t)module };

	if (module == LH_COUNT_NONE)
		return;
	for (unsigned i = 0; i < instructions; i++)
		add_part(&block, part_of(&instruction[i], address));
	number = number_of(agent, &block, instruction);
	if (number)
		lh__emit_count_own(emitter, offsetof(struct lh_count_thread, block) + 8 * (size_t)number, 1);
	else
		count_sums(emitter, &block);
	lh__emit_done(emitter);
}

static const struct lh_count_block *find(const struct lh_count_agent *agent, uint64_t address,
                                         unsigned instructions)
{
	const struct lh_count_process *process = agent->process;
	uint32_t i = __atomic_load_n(bucket(agent, address), __ATOMIC_ACQUIRE);

	for (; i; i = process->block[i].next)
		if (process->block[i].address == address && process->block[i].instructions == instructions)
			return process->block[i].parts == UINT32_MAX ? NULL : &process->block[i];
	return NULL;
}

/* Of blocks that are alike at one address, one is meant that was changed since: it is not known which. */
void lh__count_cut(void *context, void *own, uint64_t address, unsigned instructions, unsigned executed,
                   const uint64_t *general)
{
	struct lh_count_agent *agent = context;
	struct lh_count_thread *thread = own;
	const struct lh_count_block *block = find(agent, address, instructions);
	const struct lh_count_part *part;
	struct lh_counts *sum;

	if (!block) {
		__atomic_fetch_add(&agent->process->uncorrected, 1, __ATOMIC_RELAXED);
		return;
	}
	part = &agent->parts[block->parts];
	sum = &thread->module[block->module];
	for (unsigned i = executed; i < instructions; i++) {
		sum->instructions--;
		sum->loads -= part[i].loads;
		sum->stores -= part[i].stores;
		sum->bytes_loaded -= part[i].bytes_loaded;
		sum->bytes_stored -= part[i].bytes_stored;
	}
	if (general && executed < instructions)
		lh__count_slow_cut(thread, address + part[executed].offset, general);
}
