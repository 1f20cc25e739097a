/* frames.c - see frames.h. */
#include "service/pool/frames.h"

#include <dlfcn.h>
#include <signal.h>

enum { RSP = 4, RDI = 7 };

void lh__frames_clear(struct lh_frames *frames)
{
	frames->minus = 0;
	frames->start = frames->end = UINT64_MAX;
	frames->base = 0;
	frames->marks = frames->jumps = 0;
}

static void show_newest(struct lh_frames *frames)
{
	uint64_t mark = frames->marks ? frames->mark[frames->marks - 1].stack_pointer : 0;

	frames->minus = (uint64_t)0 - mark;
	frames->start = mark ? mark : UINT64_MAX;
	frames->end = UINT64_MAX;
}

bool lh__frames_mark(struct lh_frames *frames, uint64_t stack_pointer, const void *who)
{
	if (frames->marks == LH_MARKS)
		return false;
	frames->mark[frames->marks].stack_pointer = stack_pointer;
	frames->mark[frames->marks].who = who;
	frames->marks++;
	show_newest(frames);
	return true;
}

const void *lh__frames_unmark(struct lh_frames *frames)
{
	if (!frames->marks)
		return NULL;
	frames->marks--;
	show_newest(frames);
	return frames->mark[frames->marks].who;
}

/* ---- setjmp and longjmp */

static uint64_t find(void *libc, const char *name)
{
	return (uint64_t)(uintptr_t)dlsym(libc ? libc : RTLD_DEFAULT, name);
}

/*
 * All names of glibc's setjmp lead to one function, and those of its longjmp to two. Those of others that
 * stand in for them, such as sanitizers', come to these in the end.
 */
void lh__frames_find(struct lh_frames_places *places)
{
	void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);

	places->set = find(libc, "__sigsetjmp");
	places->jump = find(libc, "siglongjmp");
	places->jump_checked = find(libc, "__longjmp_chk");
	if (libc)
		dlclose(libc);
}

static void remember(void *own, uint64_t buffer, uint64_t offset)
{
	struct lh_frames *frames = (struct lh_frames *)(void *)((char *)own + offset);

	frames->jump[frames->jumps++ % LH_JUMPS] = buffer;
}

bool lh__frames_leads_out(const struct lh_frames *frames, uint64_t buffer)
{
	unsigned known = frames->jumps < LH_JUMPS ? frames->jumps : LH_JUMPS;

	if (frames->marks) /* where it leads is looked at */
		return false;
	for (unsigned i = 0; i < known; i++)
		if (frames->jump[i] == buffer)
			return false;
	return true;
}

void lh__frames_block(const struct lh_frames_places *places, struct lh_emitter *emitter, uint64_t address)
{
	int buffer, offset;

	if (address == 0 ||
	    (address != places->set && address != places->jump && address != places->jump_checked))
		return;
	buffer = lh__emit_scratch(emitter);
	lh__emit_copy(emitter, buffer, RDI);
	if (address == places->set) {
		offset = lh__emit_scratch(emitter);
		lh__emit_constant(emitter, offset, places->offset);
		lh__emit_call(emitter, remember, buffer, offset);
	} else {
		lh__emit_ask(emitter, places->jumps, buffer, address);
	}
	lh__emit_done(emitter);
}

/* ---- the stack pointer */

/* Whether an instruction may lead out of a frame: by what stands in a register or in memory. */
static bool moves_stack(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands)
{
	const ZydisDecodedOperand *from = &operands[1];

	if (operands[0].type != ZYDIS_OPERAND_TYPE_REGISTER || operands[0].reg.value != ZYDIS_REGISTER_RSP)
		return decoded->mnemonic == ZYDIS_MNEMONIC_XCHG &&
		       from->type == ZYDIS_OPERAND_TYPE_REGISTER && from->reg.value == ZYDIS_REGISTER_RSP;
	switch (decoded->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return from->type != ZYDIS_OPERAND_TYPE_REGISTER || from->reg.value != ZYDIS_REGISTER_RBP;
	case ZYDIS_MNEMONIC_LEA:
		return from->mem.base != ZYDIS_REGISTER_RBP && from->mem.base != ZYDIS_REGISTER_RSP;
	case ZYDIS_MNEMONIC_ADD: return from->type != ZYDIS_OPERAND_TYPE_IMMEDIATE;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_XCHG: return true;
	default: return false;
	}
}

/*
 * The unwinder stores the address to go on at below the stack pointer that it goes on with, and moves the
 * stack pointer there: to the mark itself. A function that has realigned its stack does so before it
 * returns, by lea.
 */
void lh__frames_after(const struct lh_frames_places *places, struct lh_emitter *emitter,
                      const struct lh_translated_instruction *instruction)
{
	const ZydisDecodedInstruction *decoded = instruction->decoded;
	int pointer, label;

	if (!moves_stack(decoded, instruction->operands))
		return;
	pointer = lh__emit_scratch(emitter);
	lh__emit_copy(emitter, pointer, RSP);
	if (decoded->mnemonic != ZYDIS_MNEMONIC_MOV)
		lh__emit_add(emitter, pointer, -8);
	label = lh__emit_unless_within_own(emitter, pointer,
	                                   places->offset + offsetof(struct lh_frames, start));
	lh__emit_ask(emitter, places->moves, pointer, instruction->address + instruction->length);
	lh__emit_here(emitter, label);
	lh__emit_done(emitter);
}

/* ---- handlers */

bool lh__frames_stale(const struct lh_frames *frames, uint64_t stack_pointer)
{
	stack_t stack;

	if (sigaltstack(NULL, &stack) == 0 && stack.ss_flags & SS_ONSTACK)
		return false;
	return stack_pointer >= frames->base;
}
