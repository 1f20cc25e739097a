/*
 * access.h - which bytes of memory an instruction reads and writes, exactly.
 *
 * Known of every instruction that Zydis decodes for x86-64: operands in memory, what push, pop, call, ret,
 * enter and leave do to the stack, string instructions, elements that a mask lets through, gathers and
 * scatters, areas of state (fxsave, xsave with its components). What touches memory without being an access
 * of the program's data is not one: prefetches, nops, lea, clflush and clwb (they have their own kind).
 *
 * An access is described by registers; lh__access_bytes says with their values which bytes that is.
 */
#ifndef LH_CODE_ACCESS_H
#define LH_CODE_ACCESS_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>

#include "sys/sys.h"

#define LH_ACCESSES 4u

enum {
	LH_ACCESS_READ = 1,
	LH_ACCESS_WRITE = 2,
	LH_ACCESS_MAYBE = 4, /* the write may not take place: cmpxchg writes what it read, or the new value */
	LH_ACCESS_FLUSH = 8, /* clflush, clflushopt, clwb, cldemote: of the whole line */
	LH_ACCESS_STREAM = 16, /* non-temporal */
	LH_ACCESS_ATOMIC = 32, /* locked */
};

struct lh_access {
	uint8_t kind;
	uint8_t repeated;          /* rep: rcx times, upwards or, with DF, downwards */
	uint32_t size;             /* bytes, of one of its elements where there is a mask or index */
	ZydisRegister segment;     /* FS or GS, else NONE: base 0 */
	ZydisRegister base, index; /* RIP counts from the next instruction; index may be a vector: gather */
	uint8_t scale, index_size; /* index_size: bytes of an element of a vector index */
	uint8_t address_size;      /* 8, or 4: the sum is cut to 32 bits */
	int64_t displacement;
	ZydisRegister mask;   /* k0 to k7, or a vector whose elements' highest bits say: else NONE */
	uint16_t elements;    /* how many, with mask or vector index; else 1 */
	uint8_t mask_element; /* bytes of an element of a vector mask */
	bool state;           /* xsave and its like: size is the whole area, what is touched is in edx:eax */
};

struct lh_accesses {
	unsigned count;
	struct lh_access at[LH_ACCESSES]; /* in the order in which the processor makes them */
};

/* -ENOTSUP: this instruction may access memory in a way that is not known here. */
int lh__accesses(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operands,
                 struct lh_accesses *out) LH_MUST_CHECK;

/* What addresses are made of: before the instruction. */
struct lh_access_state {
	uint64_t general[16]; /* rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15: as they are encoded */
	uint64_t next;        /* the address of the next instruction */
	uint64_t flags;
	uint64_t fs, gs;
	const uint8_t (*vector)[64]; /* 32 registers; may be NULL where no access needs one */
	const uint64_t *mask;        /* 8 */
};
/*
 * Calls found for each run of bytes of an access, in the order in which the processor touches them (adjacent
 * elements may be joined), until it returns non-zero, which is returned; else 0.
 */
int lh__access_bytes(const struct lh_access *access, const struct lh_access_state *state,
                     int (*found)(void *context, uint64_t address, uint64_t size),
                     void *context) LH_MUST_CHECK;

#endif
