/*
 * build.h - what the files share that make a fragment of a block of the program's code.
 *
 *     block.c       the block is decoded: where it ends, of which kind each instruction is, what is live
 *     plain.c       instructions that are copied
 *     leave.c       instructions that are written anew, since control leaves by them
 *     check.c       what is put before a block whose code may change unseen
 *     fragment.c    the parts are put together, and what is made becomes known
 *     build.c       which blocks are made, and which of them follow each other directly
 *
 * All of it under the translator's lock.
 */
#ifndef LH_PORT_TRANSLATE_BUILD_H
#define LH_PORT_TRANSLATE_BUILD_H

#include "port/translate/encode.h"

enum kind {
	PLAIN,
	JUMP,
	CONDITIONAL,
	LOOP,
	CALL,
	RETURN,
	INDIRECT_JUMP,
	INDIRECT_CALL,
	SYSCALL,
	TRANSACTION, /* xbegin: fails at once, as it may */
	READ_GS,
	ALONE,
	NATIVE,
};

/* An instruction. Zydis has been asked for its operands where they are needed, decode.c else. */
struct decoded {
	ZydisDecodedInstruction instruction;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	struct lh_accesses accesses;
	uint64_t address;
	uint32_t live;
	enum kind kind;
	uint8_t bytes[LH_INSTRUCTION_ROOM];
};

struct block {
	struct lh_translator *translator;
	struct decoded *decoded;
	struct page *page;
	uint64_t address;
	unsigned count, length;
	bool falls;        /* the next one that is executed follows directly, if nothing else does */
	struct jump *fall; /* and its record */
	bool checked;      /* it may change unseen */
	bool unknown;      /* no instruction: it may become one by what comes behind it */
	unsigned places;
	struct place place[LH_BLOCK_INSTRUCTIONS];
	uint8_t *start;
};

/* ---- block.c */

/* At most so many instructions, and at least one; what cannot be decoded is a last one that runs natively. */
void lh__block_decode(struct block *block, unsigned most);
/* Decoded anew, with operands. False: it is none. */
bool lh__block_decode_full(struct block *block, struct decoded *decoded, size_t size);
void lh__block_analyse(struct block *block);
void lh__block_source(const struct block *block, uint8_t *out);

static inline bool lh__has_client(const struct lh_translator *translator)
{
	const struct lh_translate_client *client = &translator->client;

	return client->block || client->before || client->after;
}

static inline uint64_t lh__next_of(const struct decoded *decoded)
{
	return decoded->address + decoded->instruction.length;
}

static inline uint64_t lh__branch_target(const struct decoded *decoded)
{
	return lh__next_of(decoded) + (uint64_t)decoded->instruction.raw.imm[0].value.s;
}

static inline bool lh__is_relative(const ZydisDecodedInstruction *instruction)
{
	return instruction->attributes & ZYDIS_ATTRIB_HAS_MODRM && instruction->raw.modrm.mod == 0 &&
	       instruction->raw.modrm.rm == 5;
}

static inline bool lh__has_prefix(const struct decoded *decoded, unsigned prefix)
{
	for (unsigned i = 0; i < decoded->instruction.raw.prefix_count; i++)
		if (decoded->bytes[i] == prefix)
			return true;
	return false;
}

static inline uint64_t lh__relative_target(const struct decoded *decoded)
{
	uint64_t target = decoded->address + decoded->instruction.length +
	                  (uint64_t)decoded->instruction.raw.disp.value;

	return lh__has_prefix(decoded, 0x67) ? (uint32_t)target : target;
}

/* ---- plain.c */

void lh__put_place(struct lh_emitter *emitter, struct block *block, const struct decoded *decoded,
                   uint32_t spilled);
void lh__put_plain(struct lh_emitter *emitter, struct block *block, struct decoded *decoded);

/* ---- leave.c */

void lh__put_leave(struct lh_emitter *emitter, struct block *block, struct decoded *decoded);
unsigned lh__put_jump(struct lh_emitter *emitter, unsigned condition, uint64_t target);
void lh__put_jump_on(struct lh_emitter *emitter, const struct block *block, uint64_t target);
void lh__put_native(struct lh_emitter *emitter, uint64_t address);
void lh__put_back(struct lh_emitter *emitter, const uint8_t *to);

/* ---- check.c */

void lh__put_check(struct lh_emitter *emitter, const struct block *block);

/* ---- fragment.c */

/* The emitter, at the cache's end; follows: directly behind the last one. */
struct lh_emitter *lh__fragment_begin(struct lh_translator *translator, bool follows);
/* Where the distance is that leads on to the next entry; its own start: *start. */
uint32_t lh__put_entry(struct lh_emitter *emitter, uint64_t address, uint32_t *start);
void lh__put_block(struct lh_emitter *emitter, struct block *block);
/* entry: its offset and that of the distance in it, or 0. -ENOSPC. */
int lh__fragment_finish(struct lh_emitter *emitter, struct block *block, const uint32_t entry[2],
                        struct fragment **out) LH_MUST_CHECK;

static inline uint32_t lh__offset_in(const struct lh_emitter *emitter, const uint8_t *at)
{
	return at ? (uint32_t)(at - emitter->cache->write) : 0;
}

#endif
