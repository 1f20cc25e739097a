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
	LH_ACCESS_WRITE = 2, /* with READ: one access that reads and then writes the same bytes */
	LH_ACCESS_MAYBE = 4, /* the write may not take place: cmpxchg writes what it read, or the new value */
	LH_ACCESS_FLUSH = 8, /* clflush, clflushopt, clwb, cldemote: of the whole line */
	LH_ACCESS_STREAM = 16, /* non-temporal, or past the caches */
	LH_ACCESS_ATOMIC = 32, /* locked */
};

/* How often: rcx times (ecx with addresses of 32 bits), upwards or, with DF, downwards. */
enum {
	LH_REPEAT_NOT,
	LH_REPEAT_ALL,   /* movs, stos, lods, ins, outs */
	LH_REPEAT_UNTIL, /* cmps, scas: rcx times or fewer, as the data will have it */
};

/* What of an area of processor state is touched. */
enum {
	LH_AREA_NOT,
	LH_AREA_XSAVE,    /* the components of edx:eax, at their fixed offsets */
	LH_AREA_XSAVEOPT, /* those of them that are in use and have changed */
	LH_AREA_XSAVEC,   /* those of them that are in use, in the compacted form */
	LH_AREA_XRSTOR,   /* those of them that the area's header names, in the form that it names */
};

/*
 * The address is segment + (displacement + base + index * scale), what is in brackets being cut to the size
 * of an address; the fields from `bit` on are zero, or NONE, in most accesses (lh__access_is_plain).
 */
struct lh_access {
	uint8_t kind;
	uint8_t repeated;          /* LH_REPEAT_ */
	uint8_t scale;             /* of the index */
	uint8_t address_size;      /* 8, or 4: the sum is cut to 32 bits */
	uint32_t size;             /* bytes, of one of its elements where there is a mask or index */
	ZydisRegister segment;     /* FS or GS, else NONE: base 0 */
	ZydisRegister base, index; /* RIP counts from the next instruction; index may be a vector: gather, or
	                              AL: xlat */
	int64_t displacement;

	ZydisRegister bit;    /* bt and its like: its upper bits, as a signed number of operands, are added */
	ZydisRegister mask;   /* k0 to k7, or a vector whose elements' highest bits say: else NONE */
	ZydisRegister rows;   /* tileloadd: a tile; its rows lie index * scale apart; size is a row at most */
	uint16_t elements;    /* how many, with mask or vector index; rows of a tile; else 1 */
	uint16_t mask_bits;   /* over elements where those are broadcast: n goes to n, n + elements, ... */
	uint8_t mask_element; /* bytes of an element of a vector mask */
	uint8_t index_size;   /* bytes of an element of a vector index */
	uint8_t area;         /* LH_AREA_ */
	bool packed;          /* as many elements as the mask lets through, one after the other */
	bool line;            /* the address is rounded down to size */
	bool state;           /* area is set: size is the whole area, what is touched is in edx:eax */
};

struct lh_accesses {
	unsigned count;
	struct lh_access at[LH_ACCESSES]; /* in the order in which the processor makes them */
};

/* -ENOTSUP: this instruction may access memory in a way that is not known here. */
int lh__accesses(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operands,
                 struct lh_accesses *out) LH_MUST_CHECK;

/* Whether it is size bytes at an address that general registers give, and nothing else. */
static inline bool lh__access_is_plain(const struct lh_access *access)
{
	return access->repeated == LH_REPEAT_NOT && access->mask == ZYDIS_REGISTER_NONE &&
	       access->index_size == 0 && access->index != ZYDIS_REGISTER_AL &&
	       access->bit == ZYDIS_REGISTER_NONE && access->rows == ZYDIS_REGISTER_NONE && !access->line &&
	       !access->state;
}

/* How the processor lays out what xsave saves: lh__access_layout finds it out (some microseconds). */
struct lh_access_layout {
	uint64_t enabled; /* components: xcr0 */
	uint64_t aligned; /* those that start at a multiple of 64 in the compacted form */
	uint32_t offset[64], size[64];
};
void lh__access_layout(struct lh_access_layout *out);

/* What addresses are made of: before the instruction. */
struct lh_access_state {
	uint64_t general[16]; /* rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15: as they are encoded */
	uint64_t next;        /* the address of the next instruction */
	uint64_t flags;
	uint64_t fs, gs;
	uint64_t left; /* rcx after it, for LH_REPEAT_UNTIL; zero before: all that may be read */
	const uint8_t (*vector)[64];           /* 32 registers; may be NULL where no access needs one */
	const uint64_t *mask;                  /* 8; as above */
	const uint64_t *mmx;                   /* 8, for maskmovq; as above */
	const uint8_t *tiles;                  /* the 64 bytes that sttilecfg stores, for tiles; as above */
	const struct lh_access_layout *layout; /* for areas; NULL: found out anew */
	uint64_t unused; /* components that are as after a reset: what xgetbv(1) does not have, if known */
	const uint64_t *header; /* the area's 64 bytes from 512 on, for xrstor; NULL: all that may be read */
};
/*
 * Calls found for each run of bytes of an access, in the order in which the processor touches them (adjacent
 * elements may be joined), until it returns non-zero, which is returned; else 0. -EINVAL: state lacks what
 * the access needs.
 */
int lh__access_bytes(const struct lh_access *access, const struct lh_access_state *state,
                     int (*found)(void *context, uint64_t address, uint64_t size),
                     void *context) LH_MUST_CHECK;

#endif
