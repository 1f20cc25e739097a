/*
 * agent.h - the part of `linehome count` that lives in the program: the translator's client that counts.
 *
 * It keeps to the core's rules: of libc only what computes, and no vector registers, since it runs between a
 * program's instructions. All that is counted is in memory that the launcher shares (control.h); what is here
 * is the process's own, and a child of fork begins with it anew.
 */
#ifndef LH_SERVICE_COUNT_AGENT_AGENT_H
#define LH_SERVICE_COUNT_AGENT_AGENT_H

#include "port/translate/emit.h"
#include "port/translate/process.h"
#include "service/count/control.h"
#include "sys/sys.h"

/* An executable mapping. */
struct lh_count_range {
	uint64_t start, end;
	uint32_t module;
};
#define LH_COUNT_RANGES 1024u

struct lh_count_agent;

/* An instruction that a function counts. */
struct lh_count_slow {
	const struct lh_count_agent *agent;
	uint64_t address;
	uint32_t module;
	struct lh_accesses accesses;
};

/* One instruction's part of what a block counts. */
struct lh_count_part {
	uint16_t offset; /* bytes from the block's start */
	uint8_t loads, stores;
	uint16_t bytes_loaded, bytes_stored;
};

struct lh_count_agent {
	struct lh_sys sys;
	struct lh_count_control *control;
	struct lh_count_process *process;
	uint32_t place; /* of that */
	struct lh_translator *translator;
	char file[64];           /* the path of the shared memory */
	uint64_t loaded, stored; /* tables of the footprint; 0: none */

	/* Blocks: what is written under the translator's lock. */
	uint32_t *hash; /* numbers of blocks, 0 for none */
	struct lh_count_part *parts;
	uint32_t parts_used;
	uint8_t *slow;
	size_t slow_used;
	const struct lh_count_slow *noted; /* between before and after of one instruction */

	/* Modules: the same. */
	uint32_t stale; /* what is mapped has changed */
	uint32_t ranges;
	uint64_t own_start, own_end; /* the agent's own code: not counted */
	struct lh_count_range range[LH_COUNT_RANGES];
};

/* ---- blocks.c: what is counted, and where */

int lh__count_blocks_open(struct lh_count_agent *agent) LH_MUST_CHECK;
void lh__count_block(void *context, struct lh_emitter *emitter, uint64_t address, unsigned instructions,
                     const struct lh_translated_instruction *instruction);
void lh__count_cut(void *context, void *own, uint64_t address, unsigned instructions, unsigned executed,
                   const uint64_t *general);

/* ---- slow.c: instructions whose accesses are known only when they are executed */

int lh__count_slow_open(struct lh_count_agent *agent) LH_MUST_CHECK;
/* Whether constants say what these accesses are. */
bool lh__count_is_plain(const struct lh_accesses *accesses);
void lh__count_before(void *context, struct lh_emitter *emitter,
                      const struct lh_translated_instruction *instruction);
void lh__count_after(void *context, struct lh_emitter *emitter,
                     const struct lh_translated_instruction *instruction);
/* The instruction there has raised a signal: what was counted for it is taken back. */
void lh__count_slow_cut(struct lh_count_thread *thread, uint64_t address, const uint64_t *general);

/* ---- modules.c */

#define LH_COUNT_NONE UINT32_MAX
/* The module that code at an address belongs to; LH_COUNT_NONE: the agent's own. */
uint32_t lh__count_module(struct lh_count_agent *agent, uint64_t address);

/* ---- threads.c */

/* A place among the processes; -ENOSPC. */
int lh__count_process_begins(struct lh_count_agent *agent) LH_MUST_CHECK;
void lh__count_thread_begins(struct lh_count_agent *agent, void *own, int tid);
void lh__count_thread_ends(struct lh_count_agent *agent, void *own);
void lh__count_thread_name(struct lh_count_agent *agent, struct lh_count_thread *thread);

/* ---- exec.c */

void lh__count_executes(struct lh_count_agent *agent, struct lh_count_thread *thread,
                        struct lh_translate_call *call);
/* The thread goes on in the old program: its exec has failed. */
void lh__count_goes_on(struct lh_count_agent *agent, struct lh_count_thread *thread);
/* An agent has come to life: who executed it is done. */
void lh__count_came_to_life(struct lh_count_agent *agent);

#endif
