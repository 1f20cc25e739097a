/*
 * general.h - Zydis' names of the general registers, as the numbers that instructions have for them.
 */
#ifndef LH_CODE_GENERAL_H
#define LH_CODE_GENERAL_H

#include <Zydis/Zydis.h>
#include <stdbool.h>

enum { LH_RAX, LH_RCX, LH_RDX, LH_RBX, LH_RSP, LH_RBP, LH_RSI, LH_RDI };

/* The number of the register that name is, or is a part of; -1: not a general register. */
static inline int lh__general(ZydisRegister name)
{
	unsigned part;

	if (name >= ZYDIS_REGISTER_RAX && name <= ZYDIS_REGISTER_R15)
		return (int)(name - ZYDIS_REGISTER_RAX);
	if (name >= ZYDIS_REGISTER_EAX && name <= ZYDIS_REGISTER_R15D)
		return (int)(name - ZYDIS_REGISTER_EAX);
	if (name >= ZYDIS_REGISTER_AX && name <= ZYDIS_REGISTER_R15W)
		return (int)(name - ZYDIS_REGISTER_AX);
	if (name < ZYDIS_REGISTER_AL || name > ZYDIS_REGISTER_R15B)
		return -1;
	part = name - ZYDIS_REGISTER_AL; /* al, cl, dl, bl, ah, ch, dh, bh, spl and on */
	return (int)(part < 4 ? part : part - 4);
}

/* Whether writing it leaves nothing of the register's old value: 64 bits, or 32, which clear the others. */
static inline bool lh__general_is_whole(ZydisRegister name)
{
	return name >= ZYDIS_REGISTER_EAX && name <= ZYDIS_REGISTER_R15;
}

/*
 * Whether a string instruction is repeated. Zydis does not take repne for a repetition of instructions that
 * do not compare; processors do.
 */
static inline bool lh__is_repeated(const ZydisDecodedInstruction *instruction)
{
	if (instruction->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
		return true;
	for (unsigned i = 0; i < instruction->raw.prefix_count; i++)
		if (instruction->raw.prefixes[i].value == 0xf2)
			return true;
	return false;
}

#endif
