/*
 * calls.h - system calls of a transaction whose code is translated.
 *
 * What the kernel writes into a pool's memory on behalf of a call is saved before, like any store. A call
 * that changes something outside of the process's memory cannot be undone: it is let pass, told of, or
 * refused (enum lh_call_policy). What changes the process alone (descriptors, mappings, signals, threads)
 * and what waits or asks passes, and is not undone either.
 */
#ifndef LH_POOL_CALLS_H
#define LH_POOL_CALLS_H

#include "port/translate/translate.h"
#include "service/pool/translated.h"

enum lh_call_fate {
	LH_CALL_PASSES,
	LH_CALL_IS_REFUSED,  /* its result is set */
	LH_CALL_ENDS_THREAD, /* passes; the transaction has to end before */
};

struct lh_calls {
	enum lh_call_policy policy;
	void (*say)(const char *line);
	/* Part of the program's memory is about to be written to by the kernel, or read. */
	void (*reach)(uint64_t address, uint64_t size, bool written);
	uint64_t told[64]; /* addresses of calls that were told of */
};

enum lh_call_fate lh__calls_see(struct lh_calls *calls, struct lh_translate_call *call);

#endif
