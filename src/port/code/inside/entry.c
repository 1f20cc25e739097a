/*
 * entry.c - start and stop: called by whoever has put the agent into the program, while nothing else runs.
 */
#include "port/code/inside/internal.h"

#include <errno.h>
#include <sys/mman.h>

#define PAGE 4096u
#define WIPE_ON_FORK 18 /* MADV_WIPEONFORK */

/* The record's counters; nothing works without. */
static long say_hello(struct lh_error *error)
{
	struct lh_ask ask = { .kind = LH_ASK_HELLO,
		              .process = (int32_t)LH_CALL0(SYS_getpid),
		              .thread = (int32_t)LH_CALL0(SYS_gettid) };
	struct lh_answer answer;
	int record;
	long result = lh__inside_ask(&ask, &answer, &record);

	if (result < 0 || record < 0)
		return lh__fail(error, result < 0 ? (int)result : -EPROTO, "the watcher does not answer");
	result = LH_CALL6(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, record, LH_RECORD_CONTROL);
	if (LH_FAILED(result)) {
		LH_CALL1(SYS_close, record);
		return lh__fail(error, (int)result, "the record cannot be mapped");
	}
	lh__inside.record = record;
	lh__inside.control = (struct lh_record_control *)result;
	return 0;
}

/* A page that reads as zero in a fork's child. */
static long note_birth(struct lh_error *error)
{
	long page = LH_CALL6(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (LH_FAILED(page))
		return lh__fail(error, (int)page, "there is no memory for the agent");
	LH_CALL3(SYS_madvise, page, PAGE, WIPE_ON_FORK);
	lh__inside.born = (uint32_t *)page;
	*lh__inside.born = (uint32_t)LH_CALL0(SYS_getpid);
	lh__inside.own.process = (int32_t)*lh__inside.born;
	return 0;
}

static void close_record(void)
{
	LH_CALL1(SYS_close, lh__inside.record);
	lh__inside.record = -1;
}

static void unmap_all(void)
{
	uint32_t i;

	for (i = 0; i < lh__inside.plans; i++)
		LH_CALL2(SYS_munmap, lh__inside.plan[i].plan, lh__inside.plan[i].size);
	lh__inside.plans = 0;
	if (lh__inside.control)
		LH_CALL2(SYS_munmap, lh__inside.control, PAGE);
	if (lh__inside.born)
		LH_CALL2(SYS_munmap, lh__inside.born, PAGE);
	lh__inside.control = NULL;
	lh__inside.born = NULL;
}

/* All but the name and the like; a start that fails has changed nothing. */
static long begin(struct lh_inside_start *start)
{
	long result = say_hello(&start->error);

	if (result != 0)
		return result;
	result = note_birth(&start->error);
	if (result != 0) {
		close_record();
		unmap_all();
		return result;
	}
	lh__inside_install(start);
	result = lh__inside_maps(0, ~(uintptr_t)0, start->launched);
	close_record();
	if (result != 0) {
		lh__inside_uninstall();
		unmap_all();
		return lh__fail(&start->error, (int)result, "/proc/self/maps cannot be read");
	}
	__atomic_fetch_add(&lh__inside.control->processes, 1, __ATOMIC_RELAXED);
	return 0;
}

LH_EXPORTED long lh_inside_start(struct lh_inside_start *start)
{
	long result;

	__builtin_memcpy(lh__inside.name, start->name, sizeof lh__inside.name);
	lh__inside.name[sizeof lh__inside.name - 1] = 0;
	lh__inside.granularity = start->granularity;
	lh__inside.markers = start->markers;
	lh__inside.ahead.wanted = start->look_ahead;
	lh__inside.ahead.fs_known = start->fs_known;
	lh__inside.self = start->self;
	lh__inside.self_end = start->self + start->self_size;
	lh__inside.index = &lh__inside.indexes[0];
	lh__inside.alone = true;
	result = begin(start);
	lh__inside.alone = false;
	return result;
}

LH_EXPORTED long lh_inside_stop(long keep)
{
	struct lh_inside_text *text;

	while ((text = lh__inside_overlap(0, ~(uintptr_t)0, NULL)) != NULL) {
		lh__inside_disarm(text);
		if (!keep)
			lh__inside_release_text(text);
	}
	lh__inside_uninstall();
	unmap_all();
	return 0;
}
