/*
 * liveness.c - what instructions do to general registers and status flags (liveness.h).
 *
 * Zydis knows it of most: operands, also implicit ones, with what is done to them, and masks of flags. What
 * it does not tell, or tells of the usual case only, is in correct(): shifts by a count that may be zero,
 * which leave the flags; bsf of zero, which leaves the register; string instructions with a count of zero;
 * registers that idioms like xor do not really read; rdssp, which does nothing where there is no shadow
 * stack; and all that leads out of the program, after which anybody may look at anything.
 */
#include "code/liveness.h"

#include <stdbool.h>

#include "code/general.h"

static uint32_t live_flags(uint32_t cpu)
{
	return (cpu & 1) << 16 | (cpu >> 2 & 1) << 17 | (cpu >> 4 & 1) << 18 | (cpu >> 6 & 3) << 19 |
	       (cpu >> 11 & 1) << 21;
}

static uint32_t bit_of(ZydisRegister name)
{
	int general = lh__general(name);

	return general < 0 ? 0 : 1u << general;
}

static void count_register(struct lh_effect *effect, const ZydisDecodedOperand *operand)
{
	uint32_t bit = bit_of(operand->reg.value);

	if (!bit)
		return;
	if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		effect->reads |= bit;
	if (!(operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		return;
	effect->changes |= bit;
	if (operand->actions & ZYDIS_OPERAND_ACTION_WRITE && lh__general_is_whole(operand->reg.value))
		effect->writes |= bit;
	else
		effect->reads |= bit; /* what is not written of it stays */
}

static struct lh_effect from_operands(const ZydisDecodedInstruction *instruction,
                                      const ZydisDecodedOperand *operands)
{
	struct lh_effect effect = { 0 };
	const ZydisAccessedFlags *flags = instruction->cpu_flags;

	for (unsigned i = 0; i < instruction->operand_count; i++) {
		const ZydisDecodedOperand *operand = &operands[i];

		if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER)
			count_register(&effect, operand);
		else if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY)
			effect.reads |= bit_of(operand->mem.base) | bit_of(operand->mem.index);
	}
	if (flags) {
		uint32_t written = flags->modified | flags->set_0 | flags->set_1;

		effect.reads |= live_flags(flags->tested);
		effect.writes |= live_flags(written & ~flags->undefined);
		effect.changes |= live_flags(written | flags->undefined);
	}
	return effect;
}

/* What is said to be written may also stay as it was. */
static void doubt(struct lh_effect *effect, uint32_t bits)
{
	effect->reads |= effect->writes & bits & LH_LIVE_GENERAL;
	effect->writes &= ~bits;
}

/*
 * A count is cut to five bits, or six; where nothing is left of it no flag changes. OF is defined for a count
 * of one only; CF not where all bits, and more, have left a short operand.
 */
static void correct_shift(struct lh_effect *effect, const ZydisDecodedInstruction *instruction,
                          const ZydisDecodedOperand *operands)
{
	bool two =
		instruction->mnemonic == ZYDIS_MNEMONIC_SHLD || instruction->mnemonic == ZYDIS_MNEMONIC_SHRD;
	const ZydisDecodedOperand *by = &operands[two ? 2 : 1];
	unsigned width = instruction->operand_width, count;

	if (by->type != ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		doubt(effect, LH_LIVE_FLAGS);
		return;
	}
	count = by->imm.value.u & (width == 64 ? 63u : 31u);
	if (count == 0) {
		effect->reads &= ~LH_LIVE_FLAGS;
		effect->writes &= ~LH_LIVE_FLAGS;
		effect->changes &= ~LH_LIVE_FLAGS;
	} else if (count == 1) {
		effect->writes |= LH_LIVE_OF;
	} else if (two && count > width) {
		doubt(effect, LH_LIVE_FLAGS);
	} else if (count >= width && instruction->meta.category == ZYDIS_CATEGORY_SHIFT &&
	           instruction->mnemonic != ZYDIS_MNEMONIC_SAR) {
		doubt(effect, LH_LIVE_CF);
	}
}

/* The pointers that they move Zydis does not always name. A count of zero moves and compares nothing. */
static void correct_string(struct lh_effect *effect, const ZydisDecodedInstruction *instruction,
                           const ZydisDecodedOperand *operands)
{
	for (unsigned i = 0; i < instruction->operand_count; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			effect->changes |= bit_of(operands[i].mem.base);
	effect->reads &= ~LH_LIVE_FLAGS; /* ZF ends a repetition, but it is that of a comparison */
	if (lh__is_repeated(instruction)) {
		effect->reads |= 1u << LH_RCX;
		effect->changes |= 1u << LH_RCX;
		doubt(effect, LH_LIVE_ALL);
	}
}

/* x - x and its like: whatever x is. What is shorter than 32 bits keeps the rest of the register. */
static void correct_idiom(struct lh_effect *effect, const ZydisDecodedOperand *operands)
{
	if (operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	    operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	    operands[0].reg.value == operands[1].reg.value && lh__general_is_whole(operands[0].reg.value))
		effect->reads &= ~bit_of(operands[0].reg.value);
}

/* What the kernel, a hypervisor or a handler of signals sees, or a transaction comes back to. */
static bool leads_out(const ZydisDecodedInstruction *instruction)
{
	if (instruction->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED ||
	    instruction->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX)
		return true;
	switch (instruction->meta.category) {
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_VTX:
	case ZYDIS_CATEGORY_SGX:
	case ZYDIS_CATEGORY_PADLOCK:
	case ZYDIS_CATEGORY_PCONFIG:
	case ZYDIS_CATEGORY_UINTR: return true;
	default: break;
	}
	switch (instruction->meta.isa_ext) {
	case ZYDIS_ISA_EXT_SVM:
	case ZYDIS_ISA_EXT_SMX:
	case ZYDIS_ISA_EXT_SNP:
	case ZYDIS_ISA_EXT_TDX:
	case ZYDIS_ISA_EXT_VMFUNC: return true;
	default: break;
	}
	switch (instruction->mnemonic) {
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_RSM:
	case ZYDIS_MNEMONIC_XBEGIN:
	case ZYDIS_MNEMONIC_LLWPCB:
	case ZYDIS_MNEMONIC_SLWPCB:
	case ZYDIS_MNEMONIC_LWPINS:
	case ZYDIS_MNEMONIC_LWPVAL: return true;
	default: return false;
	}
}

static void correct(struct lh_effect *effect, const ZydisDecodedInstruction *instruction,
                    const ZydisDecodedOperand *operands)
{
	switch (instruction->meta.category) {
	case ZYDIS_CATEGORY_STRINGOP: correct_string(effect, instruction, operands); return;
	default: break;
	}
	switch (instruction->mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR: correct_shift(effect, instruction, operands); break;
	case ZYDIS_MNEMONIC_SBB:
		effect->writes |= LH_LIVE_AF; /* which Zydis has undefined */
		correct_idiom(effect, operands);
		break;
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_SUB: correct_idiom(effect, operands); break;
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_RDSSPD:
	case ZYDIS_MNEMONIC_RDSSPQ:
	case ZYDIS_MNEMONIC_SLDT: /* the kernel makes up for these, and writes less than they do */
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SMSW: doubt(effect, LH_LIVE_GENERAL); break;
	case ZYDIS_MNEMONIC_VPTEST: /* the others become zero, which Zydis does not say */
	case ZYDIS_MNEMONIC_VTESTPS:
	case ZYDIS_MNEMONIC_VTESTPD:
		effect->writes |= LH_LIVE_FLAGS;
		effect->changes |= LH_LIVE_FLAGS;
		break;
	case ZYDIS_MNEMONIC_BEXTR: effect->writes |= LH_LIVE_CF | LH_LIVE_OF; break; /* become zero */
	case ZYDIS_MNEMONIC_XLAT: effect->reads |= 1u << LH_RAX; break;
	default: break;
	}
}

struct lh_effect lh__effect(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operands)
{
	struct lh_effect effect;

	if (leads_out(instruction))
		return (struct lh_effect){ .reads = LH_LIVE_ALL, .changes = LH_LIVE_ALL };
	effect = from_operands(instruction, operands);
	correct(&effect, instruction, operands);
	return effect;
}

void lh__liveness(const struct lh_effect *effect, unsigned count, uint32_t last, uint32_t *live)
{
	while (count--) {
		last = (last & ~effect[count].writes) | effect[count].reads;
		live[count] = last;
	}
}
