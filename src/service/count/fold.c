/* fold.c - how often a thread has entered each block becomes loads and stores (control.h). */
#include "service/count/control.h"

void lh__counts_add(struct lh_counts *to, const struct lh_counts *from)
{
	const uint64_t *more = (const uint64_t *)from;
	uint64_t *sum = (uint64_t *)to;

	for (unsigned i = 0; i < LH_COUNTS; i++)
		__atomic_fetch_add(&sum[i], more[i], __ATOMIC_RELAXED);
}

static void add_blocks(struct lh_count_record *record, const struct lh_count_process *process,
                       const struct lh_count_thread *thread)
{
	uint32_t blocks = __atomic_load_n(&process->blocks, __ATOMIC_ACQUIRE);

	for (uint32_t i = 1; i <= blocks && i < LH_COUNT_BLOCKS; i++) {
		const struct lh_count_block *block = &process->block[i];
		uint64_t times = thread->block[i];
		struct lh_counts counts = {
			.blocks = times,
			.instructions = times * block->instructions,
			.loads = times * block->loads,
			.stores = times * block->stores,
			.bytes_loaded = times * block->bytes_loaded,
			.bytes_stored = times * block->bytes_stored,
		};

		if (times)
			lh__counts_add(&record->module[block->module], &counts);
	}
}

/* The record of a thread; what it may have of an attempt that was interrupted is forgotten. */
static struct lh_count_record *record_of(struct lh_count_process *process, struct lh_count_thread *thread)
{
	uint32_t place = thread->record;
	struct lh_count_record *record;

	if (place == 0) {
		place = __atomic_add_fetch(&process->records, 1, __ATOMIC_ACQ_REL);
		thread->record = place;
	}
	if (place >= LH_COUNT_RECORDS)
		return &process->record[LH_COUNT_RECORDS - 1];
	record = &process->record[place - 1];
	for (unsigned i = 0; i < LH_COUNT_MODULES; i++)
		record->module[i] = (struct lh_counts){ 0 };
	record->slow = record->threads = 0;
	return record;
}

void lh__count_fold(struct lh_count_process *process, struct lh_count_thread *thread)
{
	struct lh_count_record *record = record_of(process, thread);

	record->tid = thread->tid;
	for (unsigned i = 0; i < sizeof(record->name); i++)
		record->name[i] = thread->name[i];
	add_blocks(record, process, thread);
	for (unsigned i = 0; i < LH_COUNT_MODULES; i++)
		lh__counts_add(&record->module[i], &thread->module[i]);
	__atomic_fetch_add(&record->slow, thread->slow, __ATOMIC_RELAXED);
	__atomic_fetch_add(&record->threads, 1, __ATOMIC_RELEASE);
}

int64_t lh__count_next_live(struct lh_count_control *control, uint32_t process, uint32_t place)
{
	for (; place < LH_COUNT_THREADS; place++) {
		uint64_t word = __atomic_load_n(&control->taken[place / 64], __ATOMIC_ACQUIRE) >> place % 64;

		if (!word) {
			place |= 63;
			continue;
		}
		place += (uint32_t)__builtin_ctzll(word);
		if (lh__count_live(control, place)->state == LH_COUNT_ALIVE &&
		    lh__count_live(control, place)->process == process)
			return place;
	}
	return -1;
}
