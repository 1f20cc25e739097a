/*
 * encode.h - instructions of the translator's own, written at the emitter's place: for emit.c, and for what
 * makes fragments (build.h).
 */
#ifndef LH_PORT_TRANSLATE_ENCODE_H
#define LH_PORT_TRANSLATE_ENCODE_H

#include "port/translate/inside.h"

#define LITERALS 256u
#define LABELS 64u
#define JUMPS 4u
#define LITERAL_WORDS 5u
#define STUB 20u
#define STUB_NUMBER 8u  /* where in it that stands */
#define AROUND 40u      /* bytes that a fall takes when it becomes a jump, */
#define AROUND_STUB 16u /* and where in them the stub stands */

struct lh_emitter {
	struct lh_translator *translator;
	struct cache *cache;
	uint8_t *start, *at, *end; /* in the mapping that is written */
	bool full;                 /* of the cache, or of what is here: the block is made anew */
	/* emit.c: what may be used at this place */
	uint32_t live, avoid;    /* liveness.h; registers that addresses are made of */
	uint32_t taken, spilled; /* registers handed out, and those of them whose value is in the context */
	bool flags_saved;        /* in rax */
	unsigned labels, literals, jumps;
	uint8_t *tail; /* where a jump through the table begins */
	struct {
		uint8_t *site[2]; /* distances that lead here */
		uint32_t taken, spilled;
	} label[LABELS];
	struct {
		uint8_t *site; /* a distance to constants behind the code */
		uint64_t value[LITERAL_WORDS];
		unsigned count;
	} literal[LITERALS];
	struct {
		uint8_t *site;
		uint64_t target;
		unsigned length;
		uint8_t *plain, *thread, *fork; /* of a clone: how it is made */
		uint8_t *fall;       /* its target comes next: what is here is replaced by a jump */
		uint8_t *child_site; /* the child's way, to the stub of the first */
		bool stale;
	} jump[JUMPS];
};

void lh__put(struct lh_emitter *emitter, const void *bytes, size_t size);
void lh__put_instruction(struct lh_emitter *emitter, const uint8_t bytes[LH_INSTRUCTION_ROOM],
                         unsigned length);
/* Up to 4 bytes, the lowest first. */
void lh__put_bytes(struct lh_emitter *emitter, uint32_t bytes, unsigned count);
void lh__put_word(struct lh_emitter *emitter, uint32_t value);
/* Until so many bytes that come `ahead` of here do not cross a word of 8: those are changed at once. */
void lh__put_nops(struct lh_emitter *emitter, unsigned ahead, unsigned size);
/* An operation of 8 bytes on a register and memory: base and index may be -1. */
enum { OP_LOAD = 0x8b, OP_STORE = 0x89, OP_LEA = 0x8d, OP_ADD = 0x03, OP_COMPARE = 0x3b };
void lh__put_memory(struct lh_emitter *emitter, unsigned op, int reg, int base, int index, unsigned scale,
                    int64_t displacement);
void lh__put_gs(struct lh_emitter *emitter, unsigned op, int reg, size_t offset);
void lh__put_constant(struct lh_emitter *emitter, int reg, uint64_t value);
/* After an operation that ends with a distance: it leads to constants behind the code. */
void lh__put_literal(struct lh_emitter *emitter, uint64_t first, uint64_t second, unsigned count);
/* To the translator, because of the exit of this number: STUB bytes at any place. */
void lh__put_stub(uint8_t *at, uint32_t number);
/* The same: where to put them, at most LITERAL_WORDS; NULL: there is no room. */
uint64_t *lh__put_literals(struct lh_emitter *emitter, unsigned count);
void lh__put_distance(uint8_t *site, const uint8_t *to);
static inline uint64_t lh__executes_at(const struct lh_emitter *emitter, const uint8_t *at)
{
	return (uint64_t)(uintptr_t)(emitter->cache->execute + (at - emitter->cache->write));
}

#endif
