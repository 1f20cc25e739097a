/*
 * inject_inside.h - what inject.c (in) and inject_leave.c (finding it, out) know of the agent's layout.
 */
#ifndef LH_SERVICE_CODE_INJECT_INSIDE_H
#define LH_SERVICE_CODE_INJECT_INSIDE_H

#include "sys/sys.h"

#define LH_AGENT_STACK (64u * 1024)

/* Offsets from the base. */
struct lh_agent {
	uint64_t span;                        /* of the segments; struct lh_inside_start follows */
	uint64_t filled;                      /* up to here the file says what is in it */
	uint64_t size;                        /* of the whole mapping */
	uint64_t text, text_bytes, text_file; /* the code, and where it is in the file */
	uint64_t start, stop;                 /* entries */
	uint64_t relocations, relocations_size;
};

int lh__agent_layout(struct lh_agent *agent) LH_MUST_CHECK;

#endif
