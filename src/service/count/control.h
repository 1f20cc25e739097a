/*
 * control.h - the memory that the launcher of `linehome count` and its agents share, and in which they count.
 *
 * It is one file in memory, mostly holes, that every process maps as a whole, so that a child of fork has it
 * without a descriptor, and that outlives whoever is killed:
 *
 *     control      one struct lh_count_control
 *     live         for each thread that lives, a struct lh_count_thread: it is mapped a second time where the
 *                  translator has the thread's own bytes, so that code counts in it as it goes
 *     processes    for each process image, a struct lh_count_process: its modules, its blocks and what is
 *                  constant in each, and the sums of its threads that have ended
 *
 *     footprints   where they are wanted, for each process image two tables with a byte for each line of the
 *                  address space: whether it was loaded, and stored. A process maps its own alone
 *
 * A thread counts how often it has entered each block; what that means in loads and stores, by module, is
 * worked out when the thread has ended (lh__count_fold). What a block's constants do not say (rep, masks,
 * gathers) is added to the sums of the thread's modules as it happens.
 *
 * Who takes a live part: the agent, in the thread in question. Who gives it back: the agent when the thread
 * ends, the launcher when the process has ended without that. A process's part is never given back.
 */
#ifndef LH_SERVICE_COUNT_CONTROL_H
#define LH_SERVICE_COUNT_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#define LH_COUNT_VERSION 0x4c430001u
#define LH_COUNT_ENVIRONMENT "LINEHOME_COUNT" /* the path of the memory, by the launcher's process */

#define LH_COUNT_PROCESSES 16384u
#define LH_COUNT_THREADS 65536u /* that live at once, in all processes */
#define LH_COUNT_RECORDS 1024u  /* threads of a process that have a record of their own */
#define LH_COUNT_MODULES 256u   /* of a process */
#define LH_COUNT_EXECS 256u     /* at once */
#define LH_COUNT_LIVE_BYTES ((uint64_t)8 << 20)
#define LH_COUNT_PROCESS_BYTES ((uint64_t)64 << 20)
#define LH_COUNT_CONTROL_BYTES ((uint64_t)1 << 20)
/* Of one table: lines of the lower 2^47 bytes. */
#define LH_COUNT_TABLE_BYTES ((uint64_t)1 << 41)
/* What everybody maps; footprints lie behind it. */
#define LH_COUNT_BYTES                                                                                       \
	(LH_COUNT_CONTROL_BYTES + LH_COUNT_THREADS * LH_COUNT_LIVE_BYTES +                                   \
	 LH_COUNT_PROCESSES * LH_COUNT_PROCESS_BYTES)

#define LH_COUNT_FILE_BYTES (LH_COUNT_BYTES + LH_COUNT_PROCESSES * 2 * LH_COUNT_TABLE_BYTES)

/* Modules that are no file. */
enum { LH_COUNT_OTHERS, LH_COUNT_GENERATED, LH_COUNT_FIRST_FILE };

/* linehome-count(1) defines the words. */
struct lh_counts {
	uint64_t blocks, instructions;
	uint64_t loads, stores;
	uint64_t bytes_loaded, bytes_stored;
	uint64_t more_loaded, more_stored; /* lines, beyond one for each access */
};
#define LH_COUNTS (sizeof(struct lh_counts) / 8)

/* What is the same whenever a block is executed. */
struct lh_count_block {
	uint64_t address;
	uint16_t instructions, loads, stores, module;
	uint32_t bytes_loaded, bytes_stored;
	uint32_t parts; /* the agent's: where its instructions are told apart */
	uint32_t next;  /* the agent's: of those with the same hash; 0: none */
};

enum { LH_COUNT_NO_THREAD, LH_COUNT_ALIVE };

#define LH_COUNT_BLOCKS ((uint32_t)((LH_COUNT_LIVE_BYTES - 65536) / 8))

struct lh_count_thread {
	uint32_t state;
	uint32_t process; /* its place among processes */
	int32_t tid;
	uint32_t place;  /* among those that live */
	uint32_t record; /* its place among its process's records, plus 1, once it is being folded */
	uint64_t exec;   /* one that may be under way: its place in the control, plus 1 */
	uint64_t slow;   /* instructions that a function has counted */
	uint64_t count;  /* rcx before an instruction that repeats */
	char name[16];
	uint64_t last[64]; /* the agent's: what it has counted of the latest such instruction */
	struct lh_counts module[LH_COUNT_MODULES];
	uint64_t block[LH_COUNT_BLOCKS]; /* entered so often; the first is not used */
};
_Static_assert(sizeof(struct lh_count_thread) <= LH_COUNT_LIVE_BYTES, "a thread fits");

struct lh_count_module {
	char path[256];
};

/* A thread that has ended. */
struct lh_count_record {
	int32_t tid;
	uint32_t threads; /* 1, or more where it stands for several */
	char name[16];
	uint64_t slow;
	struct lh_counts module[LH_COUNT_MODULES];
};

enum { LH_COUNT_NO_PROCESS, LH_COUNT_RUNS, LH_COUNT_REPLACED, LH_COUNT_FOLDED };

struct lh_footprint {
	uint64_t lines_loaded, lines_stored, pages_loaded, pages_stored, lines, pages;
};

struct lh_count_process {
	uint32_t state;
	int32_t pid, parent;
	uint32_t modules, records, blocks; /* used */
	uint64_t uncorrected;  /* times that a block was left early and its counts could not be corrected */
	uint64_t untranslated; /* instructions that the translator let run natively, one at a time */
	uint64_t translated;   /* blocks */
	struct lh_footprint footprint; /* once it has ended */
	char name[256];                /* the program's path */
	struct lh_count_module module[LH_COUNT_MODULES];
	struct lh_count_record record[LH_COUNT_RECORDS]; /* the last stands for all beyond */
	struct lh_count_block block[LH_COUNT_BLOCKS];
};
_Static_assert(sizeof(struct lh_count_process) <= LH_COUNT_PROCESS_BYTES, "a process fits");

/* A program that is being executed: none of our agents has come to life in it yet. */
struct lh_count_exec {
	int32_t pid; /* 0: free */
	char path[252];
};

struct lh_count_control {
	uint32_t version, size;
	uint32_t lines, footprint; /* whether they are wanted */
	uint32_t processes;        /* that have asked for a place; may be more than there are */
	uint32_t lost_threads;     /* that found no place */
	uint32_t lost_processes;   /* whose agent could not begin: the first one's reason is in failure */
	uint32_t lost_execs;
	uint32_t lost_footprints;
	char failure[256];
	char agent[4096];
	struct lh_count_exec exec[LH_COUNT_EXECS];
	uint64_t taken[LH_COUNT_THREADS / 64];
};
_Static_assert(sizeof(struct lh_count_control) <= LH_COUNT_CONTROL_BYTES, "the control fits");

static inline struct lh_count_thread *lh__count_live(struct lh_count_control *control, uint32_t place)
{
	return (struct lh_count_thread *)(void *)((char *)control + LH_COUNT_CONTROL_BYTES +
	                                          place * LH_COUNT_LIVE_BYTES);
}

static inline struct lh_count_process *lh__count_process(struct lh_count_control *control, uint32_t place)
{
	return (struct lh_count_process *)(void *)((char *)control + LH_COUNT_CONTROL_BYTES +
	                                           LH_COUNT_THREADS * LH_COUNT_LIVE_BYTES +
	                                           place * LH_COUNT_PROCESS_BYTES);
}

/* Of a process's first table; the second follows. */
static inline uint64_t lh__count_table(uint32_t place)
{
	return LH_COUNT_BYTES + place * 2 * LH_COUNT_TABLE_BYTES;
}

/* fold.c; touches nothing but the memory that it is given. */

void lh__counts_add(struct lh_counts *to, const struct lh_counts *from);
/*
 * What a thread has counted, by module, goes to a record of its process. May be done again where it was
 * interrupted.
 */
void lh__count_fold(struct lh_count_process *process, struct lh_count_thread *thread);
/* The first thread that lives and is of that process, from place on; -1: none. */
int64_t lh__count_next_live(struct lh_count_control *control, uint32_t process, uint32_t place);

#endif
