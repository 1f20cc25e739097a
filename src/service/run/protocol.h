/*
 * protocol.h - what the launcher and the agents in its programs say to each other.
 *
 * `linehome run` listens on an abstract Unix socket (sequenced packets) whose name each program finds in its
 * environment. Every process that an agent lives in has one connection. The agent asks, the launcher answers:
 *
 *     HELLO        -> WELCOME   descriptors: the control page; /dev/userfaultfd if the launcher could open it
 *     CREATE       -> LINK      a new region on the node, with its link's descriptors
 *     AGAIN (link) -> LINK      a new link to the same region, after one broke
 *     CLONE (link) -> LINK      a link to a new region that is a copy
 *     FAIL (text)               no answer: the launcher shows the text, and will end with status 125
 *
 * An answer that failed has kind ERROR, a negative errno in code, and a text. Both sides are one build: the
 * version word is there for an agent that was left over from another one.
 */
#ifndef LH_SERVICE_RUN_PROTOCOL_H
#define LH_SERVICE_RUN_PROTOCOL_H

#include "home/stats.h"
#include "linehome.h"
#include "net/data/link.h"

#define LH_RUN_VERSION 0x4c480002u
#define LH_RUN_ENVIRONMENT "LINEHOME_LAUNCHER"

enum lh_run_kind {
	LH_RUN_HELLO = 1,
	LH_RUN_WELCOME,
	LH_RUN_CREATE,
	LH_RUN_AGAIN,
	LH_RUN_CLONE,
	LH_RUN_LINK,
	LH_RUN_FAIL,
	LH_RUN_ERROR,
};

struct lh_run_message {
	uint32_t version;
	uint32_t kind;
	int32_t code;         /* ERROR: a negative errno; AGAIN: milliseconds that may be taken */
	uint32_t descriptors; /* how many come with it */
	struct lh_node_link link;
	char text[256];
};

/* Shared by the launcher and all agents. The launcher writes the first part before any agent sees it. */
struct lh_run_control {
	uint32_t version;
	uint32_t size;     /* of this structure */
	uint64_t local;    /* bytes of local memory for each process; 0: no limit */
	uint32_t engine;   /* enum lh_engine: the one that each program begins with */
	uint32_t prefetch; /* enum lh_prefetch */
	uint32_t timeout_ms;
	char policy[16]; /* the eviction policy's name; empty: the default */
	char store[320]; /* the store's URL, for messages */

	/* Counted by the agents, with atomic additions. */
	struct lh_stats stats;
	uint64_t bytes_out, bytes_in; /* on the wire */
	uint64_t reconnects;
	uint64_t processes;       /* that an agent has lived in */
	uint64_t processes_paged; /* of these, how many outgrew local memory */
	uint64_t engine_changes;  /* processes that went over to the thread engine */
	uint64_t peak_local;      /* the most anonymous memory that one of them had, in bytes */
	uint64_t peak_homed;      /* the most frames with memory, in bytes */
};

#endif
