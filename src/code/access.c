/*
 * access.c - from a decoded instruction to what it accesses (access.h); what bytes that is, with the values
 * of registers, is in access_bytes.c.
 *
 * Zydis names operands in memory, also implicit ones, with their sizes and elements. What it leaves out is
 * added here: where a push stores (it says rsp), what masks let through, bit strings, what enter does, pops
 * into memory (whose address counts from the new rsp), and instructions that name memory that they do not
 * access (nops, prefetches), or access memory that they do not name (enqcmd, clzero, uiret).
 *
 * Masks. An element of memory that no bit of the mask asks for is not accessed: it may lie on a page that is
 * not there. Not so of instructions of the exception classes that end in NF, which shuffle elements: they
 * read all. (Those of them that store ask for the right to write all, and write what the mask lets through.)
 * Where fewer elements are in memory than in the register (embedded broadcast), each is read if any
 * of its copies is asked for.
 */
#include "code/access.h"

#include <cpuid.h>
#include <errno.h>

#include "code/general.h"

enum what { USUAL, NONE, UNKNOWN };

/* Instructions whose operand is not accessed, and those that act on what is beyond this file. */
static enum what what_mnemonic(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2: return NONE;
	case ZYDIS_MNEMONIC_LLWPCB:
	case ZYDIS_MNEMONIC_SLWPCB:
	case ZYDIS_MNEMONIC_LWPINS:
	case ZYDIS_MNEMONIC_LWPVAL:
	case ZYDIS_MNEMONIC_INCSSPD:
	case ZYDIS_MNEMONIC_INCSSPQ:
	case ZYDIS_MNEMONIC_SAVEPREVSSP:
	case ZYDIS_MNEMONIC_SETSSBSY:
	case ZYDIS_MNEMONIC_SENDUIPI:
	case ZYDIS_MNEMONIC_VMLAUNCH:
	case ZYDIS_MNEMONIC_VMRESUME:
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMFUNC:
	case ZYDIS_MNEMONIC_RSM: return UNKNOWN;
	default: return USUAL;
	}
}

static enum what what_of(const ZydisDecodedInstruction *instruction)
{
	if (instruction->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX)
		return UNKNOWN;
	switch (instruction->meta.category) {
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_WIDENOP:
	case ZYDIS_CATEGORY_PREFETCH:
	case ZYDIS_CATEGORY_PREFETCHWT1:
	case ZYDIS_CATEGORY_MPX: return NONE; /* no kernel of today lets it be more than a nop */
	case ZYDIS_CATEGORY_GATHER:
	case ZYDIS_CATEGORY_SCATTER: /* prefetches among them */
		return instruction->opcode == 0xc6 || instruction->opcode == 0xc7 ? NONE : USUAL;
	case ZYDIS_CATEGORY_PADLOCK:
	case ZYDIS_CATEGORY_SGX:
	case ZYDIS_CATEGORY_PCONFIG: return UNKNOWN;
	case ZYDIS_CATEGORY_DATAXFER:
	case ZYDIS_CATEGORY_BINARY:
	case ZYDIS_CATEGORY_LOGICAL: return USUAL;
	default: break;
	}
	switch (instruction->meta.isa_ext) {
	case ZYDIS_ISA_EXT_SVM:
	case ZYDIS_ISA_EXT_SMX:
	case ZYDIS_ISA_EXT_SNP:
	case ZYDIS_ISA_EXT_TDX: return UNKNOWN;
	default: return what_mnemonic(instruction->mnemonic);
	}
}

/* What a push, a pop or leave names. Where movdir64b writes to is implicit too, and may be at rsp. */
static bool is_stack(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operand)
{
	return operand->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
	       operand->mem.segment == ZYDIS_REGISTER_SS &&
	       instruction->meta.category != ZYDIS_CATEGORY_MOVDIR;
}

/*
 * Without a base, for what would name it says so (mod 0, base 5). With addresses of 32 bits and REX.B Zydis
 * 4.0 takes it for r13d, and forgets the displacement.
 */
static bool is_without_base(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operand)
{
	return instruction->address_width == 32 && instruction->attributes & ZYDIS_ATTRIB_HAS_SIB &&
	       operand->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN && instruction->raw.modrm.mod == 0 &&
	       instruction->raw.sib.base == 5;
}

static void from_operand(struct lh_access *access, const ZydisDecodedInstruction *instruction,
                         const ZydisDecodedOperand *operand)
{
	const ZydisDecodedOperandMem *memory = &operand->mem;
	bool stack = is_stack(instruction, operand);

	*access = (struct lh_access){
		.scale = memory->scale,
		.address_size = instruction->address_width == 32 && !stack ? 4 : 8,
		.size = operand->size / 8u,
		.base = memory->base,
		.index = memory->index,
		.displacement = memory->disp.value,
		.elements = 1,
	};
	if (is_without_base(instruction, operand)) {
		access->base = ZYDIS_REGISTER_NONE;
		access->displacement = instruction->raw.disp.value;
	}
	if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		access->kind = LH_ACCESS_READ;
	if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		access->kind |= LH_ACCESS_WRITE;
	if (memory->segment == ZYDIS_REGISTER_FS || memory->segment == ZYDIS_REGISTER_GS)
		access->segment = memory->segment;
	if (stack && access->kind == LH_ACCESS_WRITE)
		access->displacement -= access->size;
}

/* ---- masks and vector indices ---- */

static unsigned broadcast_to(ZydisBroadcastMode mode)
{
	switch (mode) {
	case ZYDIS_BROADCAST_MODE_1_TO_2: return 2;
	case ZYDIS_BROADCAST_MODE_1_TO_4:
	case ZYDIS_BROADCAST_MODE_2_TO_4: return 4;
	case ZYDIS_BROADCAST_MODE_1_TO_8:
	case ZYDIS_BROADCAST_MODE_2_TO_8:
	case ZYDIS_BROADCAST_MODE_4_TO_8: return 8;
	case ZYDIS_BROADCAST_MODE_1_TO_16:
	case ZYDIS_BROADCAST_MODE_2_TO_16:
	case ZYDIS_BROADCAST_MODE_4_TO_16:
	case ZYDIS_BROADCAST_MODE_8_TO_16: return 16;
	case ZYDIS_BROADCAST_MODE_1_TO_32: return 32;
	case ZYDIS_BROADCAST_MODE_1_TO_64: return 64;
	default: return 0;
	}
}

/* By their class, or though Zydis has another for them. */
static bool reads_despite_mask(const ZydisDecodedInstruction *instruction)
{
	switch (instruction->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_E10NF: return true;
	default: break;
	}
	switch (instruction->mnemonic) {
	case ZYDIS_MNEMONIC_VDBPSADBW:
	case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB: return true;
	default: return false;
	}
}

static void set_mask(struct lh_access *access, const ZydisDecodedInstruction *instruction,
                     const ZydisDecodedOperand *operand)
{
	const ZydisDecodedInstructionAvx *avx = &instruction->avx;
	unsigned copies = broadcast_to(avx->broadcast.mode);

	if (avx->mask.mode <= ZYDIS_MASK_MODE_DISABLED || avx->mask.reg == ZYDIS_REGISTER_K0 ||
	    (!(access->kind & LH_ACCESS_WRITE) && reads_despite_mask(instruction)))
		return;
	access->mask = avx->mask.reg;
	access->elements = operand->element_count;
	access->mask_bits = (uint16_t)(copies ? copies : access->elements);
	access->size = operand->element_size / 8u;
	access->packed = instruction->meta.category == ZYDIS_CATEGORY_COMPRESS ||
	                 instruction->meta.category == ZYDIS_CATEGORY_EXPAND;
	if (instruction->meta.category == ZYDIS_CATEGORY_AVX512_4FMAPS ||
	    instruction->meta.category == ZYDIS_CATEGORY_AVX512_4VNNIW) {
		/* Four numbers, and all of them go to each element of the result. */
		access->size = operand->size / 8u;
		access->elements = 1;
		access->mask_bits = avx->vector_length == 512 ? 16 : 1;
	}
}

static unsigned vector_bits(ZydisRegister name)
{
	return name >= ZYDIS_REGISTER_ZMM0 ? 512 : name >= ZYDIS_REGISTER_YMM0 ? 256 : 128;
}

/* Whichever there are fewer of: elements of the register, or of the index. */
static void set_vector_index(struct lh_access *access, const ZydisDecodedInstruction *instruction,
                             const ZydisDecodedOperand *operands)
{
	bool scatter = operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
	const ZydisDecodedOperand *data = &operands[scatter ? 2 : 0];
	unsigned of_data = vector_bits(data->reg.value) / 8 / access->size, of_index;

	access->index_size = instruction->opcode & 1 ? 8 : 4;
	of_index = vector_bits(access->index) / 8 / access->index_size;
	access->elements = (uint16_t)(of_data < of_index ? of_data : of_index);
	if (instruction->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		access->mask = instruction->avx.mask.reg;
	} else {
		access->mask = operands[2].reg.value;
		access->mask_element = (uint8_t)access->size;
	}
	access->mask_bits = access->elements;
}

/* The elements of a vector register say which of memory are meant. */
static void set_vector_mask(struct lh_access *access, ZydisRegister mask, unsigned element)
{
	access->mask = mask;
	access->mask_element = (uint8_t)element;
	access->elements = (uint16_t)(access->size / element);
	access->mask_bits = access->elements;
	access->size = element;
}

/* ---- instructions that are more than their operands ---- */

static void set_line(struct lh_access *access, unsigned kind)
{
	access->kind = (uint8_t)kind;
	access->size = 64;
	access->line = true;
}

static void add(struct lh_accesses *out, const ZydisDecodedInstruction *instruction, ZydisRegister base,
                unsigned kind, unsigned size)
{
	out->at[out->count++] = (struct lh_access){
		.kind = (uint8_t)kind,
		.size = size,
		.base = base,
		.address_size = base != ZYDIS_REGISTER_RSP && instruction->address_width == 32 ? 4 : 8,
		.elements = 1,
	};
}

/*
 * enter pushes rbp; then, for a nesting level above zero, level - 1 quadwords that it finds below rbp, and
 * the frame's address. It takes the level modulo 32.
 */
static void enter(struct lh_accesses *out, const ZydisDecodedInstruction *instruction,
                  const ZydisDecodedOperand *operands)
{
	unsigned level = operands[1].imm.value.u & 31u, size = instruction->operand_width / 8u;

	out->count = 0;
	if (level > 1) {
		add(out, instruction, ZYDIS_REGISTER_RBP, LH_ACCESS_READ, (level - 1) * size);
		out->at[0].address_size = 8;
		out->at[0].displacement = -(int64_t)(level - 1) * size;
	}
	add(out, instruction, ZYDIS_REGISTER_RSP, LH_ACCESS_WRITE, (level + 1) * size);
	out->at[out->count - 1].displacement = -(int64_t)(level + 1) * size;
}

/* Of the header's first word, a bit for each component, xsave keeps those that it is not asked for. */
static void set_area(struct lh_accesses *out, unsigned area)
{
	struct lh_access *access = &out->at[0];
	unsigned eax, ebx, ecx, edx;

	if (area == LH_AREA_XSAVE || area == LH_AREA_XSAVEOPT) {
		out->at[1] = out->at[0];
		out->count = 2;
		access->kind = LH_ACCESS_READ;
		access->displacement += 512;
		access->size = 8;
		access++;
		access->kind = LH_ACCESS_WRITE;
	}
	access->state = true;
	access->area = (uint8_t)area;
	if (area == LH_AREA_XSAVEOPT || area == LH_AREA_XSAVEC)
		access->kind |= LH_ACCESS_MAYBE;
	if (__get_cpuid_count(0xd, 0, &eax, &ebx, &ecx, &edx) && ecx > access->size)
		access->size = ecx;
}

static unsigned area_of(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64: return LH_AREA_XSAVE;
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64: return LH_AREA_XSAVEOPT;
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVES:
	case ZYDIS_MNEMONIC_XSAVES64: return LH_AREA_XSAVEC;
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_XRSTORS:
	case ZYDIS_MNEMONIC_XRSTORS64: return LH_AREA_XRSTOR;
	default: return LH_AREA_NOT;
	}
}

static bool is_stream(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTQ:
	case ZYDIS_MNEMONIC_MOVNTSD:
	case ZYDIS_MNEMONIC_MOVNTSS:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_MOVDIRI: return true;
	default: return false;
	}
}

/* What follows for the accesses that the operands gave. */
static void refine(struct lh_accesses *out, const ZydisDecodedInstruction *instruction,
                   const ZydisDecodedOperand *operands)
{
	struct lh_access *first = &out->at[0];

	switch (instruction->mnemonic) {
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS:
		if (operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
			first->bit = operands[1].reg.value;
		break;
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B: first->kind |= LH_ACCESS_MAYBE; break;
	case ZYDIS_MNEMONIC_XCHG: first->kind |= LH_ACCESS_ATOMIC; break;
	case ZYDIS_MNEMONIC_MOVSXD:
		if (instruction->operand_width == 16)
			first->size = 2; /* Zydis has 4 */
		break;
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		first->size = 416; /* of 512; but processors ask for the right to all of them */
		break;
	case ZYDIS_MNEMONIC_POP:
		/* The address of an operand counts from rsp as it is after the pop. */
		if (out->count == 2 &&
		    (first->base == ZYDIS_REGISTER_RSP || first->base == ZYDIS_REGISTER_ESP))
			first->displacement += first->size;
		break;
	case ZYDIS_MNEMONIC_XLAT:
		first->index = ZYDIS_REGISTER_AL;
		first->scale = 1;
		break;
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU: set_vector_mask(first, operands[1].reg.value, 1); break;
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD: set_vector_mask(first, operands[1].reg.value, 4); break;
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ: set_vector_mask(first, operands[1].reg.value, 8); break;
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB:
	case ZYDIS_MNEMONIC_CLDEMOTE: set_line(first, LH_ACCESS_FLUSH); break;
	case ZYDIS_MNEMONIC_MOVDIR64B:
		out->at[1].kind |= LH_ACCESS_STREAM;
		out->at[1].segment = ZYDIS_REGISTER_NONE; /* es, whatever the prefix */
		break;
	case ZYDIS_MNEMONIC_TILELOADD:
	case ZYDIS_MNEMONIC_TILELOADDT1: first->rows = operands[0].reg.value; break;
	case ZYDIS_MNEMONIC_TILESTORED: first->rows = operands[1].reg.value; break;
	default: break;
	}
	if (is_stream(instruction->mnemonic))
		first->kind |= LH_ACCESS_STREAM;
	if (area_of(instruction->mnemonic) != LH_AREA_NOT)
		set_area(out, area_of(instruction->mnemonic));
	if (first->rows != ZYDIS_REGISTER_NONE) {
		first->size = 64;
		first->elements = 16;
	}
}

/* Memory that the operands do not name. */
static void add_unnamed(struct lh_accesses *out, const ZydisDecodedInstruction *instruction,
                        const ZydisDecodedOperand *operands)
{
	switch (instruction->mnemonic) {
	case ZYDIS_MNEMONIC_ENTER: enter(out, instruction, operands); break;
	case ZYDIS_MNEMONIC_ENQCMD:
	case ZYDIS_MNEMONIC_ENQCMDS:
		add(out, instruction, operands[0].reg.value, LH_ACCESS_WRITE | LH_ACCESS_STREAM, 64);
		break;
	case ZYDIS_MNEMONIC_CLZERO:
		add(out, instruction, operands[0].reg.value, LH_ACCESS_WRITE, 64);
		set_line(&out->at[0], LH_ACCESS_WRITE);
		break;
	case ZYDIS_MNEMONIC_UIRET: add(out, instruction, ZYDIS_REGISTER_RSP, LH_ACCESS_READ, 24); break;
	default: break;
	}
}

/* What is only written is written last. */
static void put_in_order(struct lh_accesses *out)
{
	for (unsigned i = 1; i < out->count; i++)
		for (unsigned at = i; at > 0; at--) {
			struct lh_access held = out->at[at - 1];

			if (held.kind & LH_ACCESS_READ || !(out->at[at].kind & LH_ACCESS_READ))
				break;
			out->at[at - 1] = out->at[at];
			out->at[at] = held;
		}
}

static void set_repeated(struct lh_accesses *out, const ZydisDecodedInstruction *instruction)
{
	bool compares = instruction->cpu_flags && instruction->cpu_flags->modified;

	for (unsigned i = 0; i < out->count; i++)
		out->at[i].repeated = compares ? LH_REPEAT_UNTIL : LH_REPEAT_ALL;
}

int lh__accesses(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operands,
                 struct lh_accesses *out)
{
	enum what what = what_of(instruction);

	out->count = 0;
	if (what == UNKNOWN)
		return -ENOTSUP;
	if (what == NONE)
		return 0;
	for (unsigned i = 0; i < instruction->operand_count && out->count < LH_ACCESSES; i++) {
		struct lh_access *access = &out->at[out->count];

		if (operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY ||
		    operands[i].mem.type == ZYDIS_MEMOP_TYPE_AGEN)
			continue;
		from_operand(access, instruction, &operands[i]);
		if (instruction->attributes & ZYDIS_ATTRIB_HAS_LOCK)
			access->kind |= LH_ACCESS_ATOMIC;
		if (operands[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			set_vector_index(access, instruction, operands);
		else
			set_mask(access, instruction, &operands[i]);
		out->count++;
	}
	add_unnamed(out, instruction, operands);
	if (out->count == 0)
		return 0;
	refine(out, instruction, operands);
	if (instruction->meta.category == ZYDIS_CATEGORY_STRINGOP ||
	    instruction->meta.category == ZYDIS_CATEGORY_IOSTRINGOP)
		if (lh__is_repeated(instruction))
			set_repeated(out, instruction);
	put_in_order(out);
	return 0;
}
