/*
 * record.h - a record: what has been seen of a program's code, as a file that grows while it is seen.
 *
 * The file itself is the hit map: agents in any number of processes map its parts and set bits there, so what
 * was seen survives the crash of a program and of whoever watches it, and a record can be read at any moment.
 * service/code/record.h writes and reads it.
 *
 *      0  head, 4096 bytes: magic "LHCOVER\n", u32 version, u32 CRC-32C of the head (this field as zero),
 *         u32 granularity (0 block, 1 line), u32 0, u64 time of its making (ns since 1970),
 *         u32 size of the command line, then it: words that end with 0, cut where it is too long
 *   4096  control, 4096 bytes: struct lh_record_control; changes at any time, no checksum
 *   8192  modules, one after the other, each at a multiple of 4096:
 *            its head, 4096 bytes: struct lh_record_module, with a CRC-32C of its own
 *            for each text a bitmap of size / 8 bytes, filled up to a multiple of 4096
 *         A module's head is written last: a module with no magic has not come to be, and ends the file.
 *
 * A module (an ELF file, told by its id) stands in a record once, however many processes use it.
 */
#ifndef LH_PORT_CODE_RECORD_H
#define LH_PORT_CODE_RECORD_H

#include <stdint.h>

#include "port/code/plan.h"

#define LH_RECORD_MAGIC "LHCOVER\n"
#define LH_RECORD_VERSION 1u
#define LH_RECORD_MODULE_MAGIC "LHMODULE"
#define LH_RECORD_CONTROL 4096u
#define LH_RECORD_MODULES 8192u

struct lh_record_head {
	char magic[8];
	uint32_t version, crc;
	uint32_t granularity, pad;
	uint64_t created;
	uint32_t command_size;
	char command[4096 - 36];
} __attribute__((packed));

/* Counters that all agents and engines add to, atomically. Exact: each counts what its comment says. */
struct lh_record_control {
	uint32_t off; /* 1: hits are supplied and not recorded (--from and --until) */
	uint32_t pad;
	uint64_t traps;        /* traps at absent instructions */
	uint64_t spans;        /* spans that were supplied */
	uint64_t system_calls; /* calls that were seen, by their `syscall` staying absent */
	uint64_t processes;    /* in which code was watched */
	uint64_t modules;      /* texts armed, over all processes */
	uint64_t refused;      /* of mapped files with code, those that could not be watched */
	uint64_t anonymous;    /* bytes that were made executable without a file: not watched */
	uint64_t taken;        /* spans that were taken away again */
};

struct lh_record_text {
	uint64_t address, size; /* as in the plan */
	uint64_t offset;        /* in the ELF file */
	uint64_t hits;          /* of the bitmap, from the record's beginning */
};

struct lh_record_module {
	char magic[8];
	uint32_t crc; /* of the head, this field as zero */
	uint32_t id_size;
	uint8_t id[LH_PLAN_ID];
	uint64_t size; /* of all of this module, head included: where the next one begins */
	uint64_t
		mapped; /* the load bias when it was first seen: address in memory less address in the file */
	uint32_t texts, is_program;  /* 1: a program's own file, 0: a library, or the dynamic linker */
	uint64_t undecoded, outside; /* as in the plan: the share that is not homed */
	struct lh_record_text text[LH_PLAN_TEXTS];
	char path[3072]; /* as the kernel named it; ends with 0 */
};

#endif
