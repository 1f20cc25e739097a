/*
 * emulate.c - a store, made on behalf of the instruction that faulted: what a home does with a line that is
 * written without being owned.
 *
 * Only what moves a register or a constant to memory, whole: mov and the vector moves of up to 64 bytes,
 * without masks. Everything else (locked and read-modify-write instructions, string instructions, pushes,
 * masked stores) is left to the processor.
 *
 * The vector registers stand in the signal's frame as XSAVE left them, in the standard format, whose offsets
 * the processor tells; a part that is marked as unused is all zero. Source: Intel SDM, volume 1, chapter 13.
 */
#include "service/pool/inside.h"

#include <cpuid.h>
#include <string.h>

#include <Zydis/Zydis.h>

#define XMM_OFFSET 160  /* in the legacy area */
#define XSTATE_BV 512   /* which parts are there */
#define SW_RESERVED 464 /* the kernel's own words there */
#define SW_MAGIC 0x46505853
enum part { PART_SSE = 1, PART_YMM = 2, PART_MASK = 5, PART_ZMM = 6, PART_HIGH = 7 };

/* The general registers, in the order of their numbers. */
static const uint8_t general[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	                             REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

static uint64_t general_value(const ucontext_t *context, ZydisRegister name)
{
	ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, name);

	return (uint64_t)context->uc_mcontext.gregs[general[whole - ZYDIS_REGISTER_RAX]];
}

static const unsigned char *xsave(const ucontext_t *context)
{
	return (const unsigned char *)context->uc_mcontext.fpregs;
}

/*
 * An instruction that has been decoded, which takes longer than everything else here. The bytes are compared,
 * since code may change.
 */
#define KNOWN 64u
#define OPERANDS 5u

struct known {
	uintptr_t code;
	unsigned char bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
	ZydisDecodedInstruction instruction;
	ZydisDecodedOperand operands[OPERANDS]; /* the visible ones */
};

struct emulator {
	ZydisDecoder decoder;
	uint32_t offsets[8]; /* of the parts; asked for once, since a hypervisor makes that slow */
	struct known known[KNOWN];
};

static void ask_offsets(uint32_t offsets[8])
{
	unsigned size, c, d;

	offsets[PART_SSE] = XMM_OFFSET;
	for (unsigned part = PART_YMM; part < 8; part++)
		if (!__get_cpuid_count(13, part, &size, &offsets[part], &c, &d))
			offsets[part] = 0;
}

/*
 * The instruction at code, NULL where it is none. No byte of the next page is read, which may not be there.
 */
static const struct known *decode(struct emulator *emulator, uintptr_t code)
{
	struct known *known = &emulator->known[(code ^ code >> 6) % KNOWN];
	ZydisDecodedInstruction *instruction = &known->instruction;
	size_t room = LH_PAGE_SIZE - code % LH_PAGE_SIZE;
	ZydisDecoderContext context;

	if (known->code == code && instruction->length <= room &&
	    memcmp(known->bytes, (const void *)code, instruction->length) == 0)
		return known;
	known->code = 0;
	if (room > ZYDIS_MAX_INSTRUCTION_LENGTH)
		room = ZYDIS_MAX_INSTRUCTION_LENGTH;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&emulator->decoder, &context, (const void *)code,
	                                                room, instruction)) ||
	    instruction->operand_count_visible > OPERANDS ||
	    !ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&emulator->decoder, &context, instruction,
	                                             known->operands, instruction->operand_count_visible)))
		return NULL;
	memcpy(known->bytes, (const void *)code, instruction->length);
	known->code = code;
	return known;
}

/* What an instruction is read from. */
struct source {
	const ucontext_t *context;
	const uint32_t *offsets;
};

/* Where a part begins, or NULL where all of it is zero. */
static const unsigned char *part_at(const struct source *source, enum part part)
{
	const unsigned char *state = xsave(source->context);
	uint64_t there;

	memcpy(&there, state + XSTATE_BV, sizeof there);
	return there >> part & 1 ? state + source->offsets[part] : NULL;
}

static void copy_part(unsigned char *to, const unsigned char *part, unsigned at, unsigned size)
{
	if (part)
		memcpy(to, part + at, size);
	else
		memset(to, 0, size);
}

/* The first `size` bytes of vector register `number`. */
static void vector_value(const struct source *source, unsigned number, unsigned size, unsigned char out[64])
{
	if (number >= 16) {
		copy_part(out, part_at(source, PART_HIGH), (number - 16) * 64, 64);
		return;
	}
	copy_part(out, part_at(source, PART_SSE), number * 16, 16);
	if (size > 16)
		copy_part(out + 16, part_at(source, PART_YMM), number * 16, 16);
	if (size > 32)
		copy_part(out + 32, part_at(source, PART_ZMM), number * 32, 32);
}

static bool has_vectors(const ucontext_t *context)
{
	uint32_t magic;

	memcpy(&magic, xsave(context) + SW_RESERVED, sizeof magic);
	return magic == SW_MAGIC;
}

static bool is_move(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_MOVQ:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVSS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVLPS:
	case ZYDIS_MNEMONIC_MOVLPD:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVDQA32:
	case ZYDIS_MNEMONIC_VMOVDQA64:
	case ZYDIS_MNEMONIC_VMOVDQU:
	case ZYDIS_MNEMONIC_VMOVDQU8:
	case ZYDIS_MNEMONIC_VMOVDQU16:
	case ZYDIS_MNEMONIC_VMOVDQU32:
	case ZYDIS_MNEMONIC_VMOVDQU64:
	case ZYDIS_MNEMONIC_VMOVQ:
	case ZYDIS_MNEMONIC_VMOVSD:
	case ZYDIS_MNEMONIC_VMOVSS:
	case ZYDIS_MNEMONIC_VMOVUPD:
	case ZYDIS_MNEMONIC_VMOVUPS: return true;
	default: return false;
	}
}

/* The bytes that are stored: all, or what a mask register says of each element. */
static uint64_t bytes_of(const struct source *source, const ZydisDecodedInstruction *instruction,
                         const ZydisDecodedOperand *operand)
{
	ZydisRegister name = instruction->avx.mask.reg;
	uint64_t all = operand->size == 512 ? UINT64_MAX : (UINT64_C(1) << operand->size / 8) - 1, mask,
		 bytes = 0;
	unsigned element = operand->element_size / 8;

	if (name == ZYDIS_REGISTER_NONE || name == ZYDIS_REGISTER_K0)
		return all;
	copy_part((unsigned char *)&mask, part_at(source, PART_MASK),
	          8 * (unsigned)(name - ZYDIS_REGISTER_K0), 8);
	for (unsigned i = 0; element && i < operand->size / 8u; i++)
		if (mask >> i / element & 1)
			bytes |= UINT64_C(1) << i;
	return bytes;
}

/* Leaves out what is masked at both ends: it may lie in another page, which is then not touched. */
static void trim(struct store *store)
{
	unsigned first = (unsigned)__builtin_ctzll(store->bytes);

	store->bytes >>= first;
	store->size = 64 - (unsigned)__builtin_clzll(store->bytes);
	store->address += first;
	memmove(store->value, store->value + first, store->size);
}

static bool address_of(const ucontext_t *context, const ZydisDecodedInstruction *instruction,
                       const ZydisDecodedOperand *operand, uintptr_t *address)
{
	const ZydisDecodedOperandMem *memory = &operand->mem;
	uint64_t sum = (uint64_t)(memory->disp.has_displacement ? memory->disp.value : 0);

	if (instruction->address_width != 64 || memory->segment == ZYDIS_REGISTER_FS ||
	    memory->segment == ZYDIS_REGISTER_GS || memory->type != ZYDIS_MEMOP_TYPE_MEM)
		return false;
	if (memory->base == ZYDIS_REGISTER_RIP)
		sum += (uint64_t)context->uc_mcontext.gregs[REG_RIP] + instruction->length;
	else if (memory->base != ZYDIS_REGISTER_NONE)
		sum += general_value(context, memory->base);
	if (memory->index != ZYDIS_REGISTER_NONE)
		sum += general_value(context, memory->index) * memory->scale;
	*address = sum;
	return true;
}

static bool value_of(const struct source *source, const ZydisDecodedOperand *operand, struct store *store)
{
	ZydisRegisterClass class;
	uint64_t value;

	if (operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		memcpy(store->value, &operand->imm.value.u, 8);
		return store->size <= 8;
	}
	if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	class = ZydisRegisterGetClass(operand->reg.value);
	if (class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM || class == ZYDIS_REGCLASS_ZMM) {
		vector_value(source, (unsigned)ZydisRegisterGetId(operand->reg.value), store->size,
		             store->value);
		return has_vectors(source->context);
	}
	if (class != ZYDIS_REGCLASS_GPR8 && class != ZYDIS_REGCLASS_GPR16 && class != ZYDIS_REGCLASS_GPR32 &&
	    class != ZYDIS_REGCLASS_GPR64)
		return false;
	value = general_value(source->context, operand->reg.value);
	if (operand->reg.value >= ZYDIS_REGISTER_AH && operand->reg.value <= ZYDIS_REGISTER_BH)
		value >>= 8;
	memcpy(store->value, &value, 8);
	return true;
}

static bool has_prefix(const ZydisDecodedInstruction *instruction, uint8_t prefix)
{
	for (unsigned i = 0; i < instruction->raw.prefix_count; i++)
		if (instruction->raw.prefixes[i].value == prefix)
			return true;
	return false;
}

/*
 * stos: up to 64 bytes of it, and no further than the page's end. What the direction flag turns round is left
 * to the processor, and so is REPNE, which it has no name for and which repeats all the same.
 */
#define DIRECTION 0x400
#define REPNE 0xf2

static bool read_stos(const ucontext_t *context, const ZydisDecodedInstruction *instruction,
                      struct store *store)
{
	const greg_t *registers = context->uc_mcontext.gregs;
	unsigned element = instruction->operand_width / 8, n = 1;
	bool repeated = (instruction->attributes & ZYDIS_ATTRIB_HAS_REP) != 0;
	uint64_t room = LH_PAGE_SIZE - (uint64_t)registers[REG_RDI] % LH_PAGE_SIZE, rax;

	if (instruction->address_width != 64 || registers[REG_EFL] & DIRECTION || room < element ||
	    has_prefix(instruction, REPNE))
		return false;
	if (repeated) {
		uint64_t most = (room < 64 ? room : 64) / element, left = (uint64_t)registers[REG_RCX];

		n = (unsigned)(left < most ? left : most);
	}
	if (n == 0)
		return false;
	rax = (uint64_t)registers[REG_RAX];
	for (unsigned i = 0; i < n; i++)
		memcpy(store->value + i * element, &rax, element);
	store->address = (uintptr_t)registers[REG_RDI];
	store->size = n * element;
	store->bytes = store->size == 64 ? UINT64_MAX : (UINT64_C(1) << store->size) - 1;
	store->rdi = store->address + store->size;
	store->rcx = (uint64_t)registers[REG_RCX] - (repeated ? n : 0);
	store->length = repeated && store->rcx ? 0 : instruction->length;
	return true;
}

static bool is_stos(ZydisMnemonic mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_STOSB || mnemonic == ZYDIS_MNEMONIC_STOSW ||
	       mnemonic == ZYDIS_MNEMONIC_STOSD || mnemonic == ZYDIS_MNEMONIC_STOSQ;
}

static bool read_move(const struct source *source, const ZydisDecodedInstruction *instruction,
                      const ZydisDecodedOperand *operands, struct store *store)
{
	if (!is_move(instruction->mnemonic) || instruction->operand_count_visible < 2 ||
	    operands[0].type != ZYDIS_OPERAND_TYPE_MEMORY || operands[0].size == 0 || operands[0].size > 512)
		return false;
	store->size = operands[0].size / 8;
	store->length = instruction->length;
	store->rdi = (uint64_t)source->context->uc_mcontext.gregs[REG_RDI];
	store->rcx = (uint64_t)source->context->uc_mcontext.gregs[REG_RCX];
	store->bytes = bytes_of(source, instruction, &operands[0]);
	if (!store->bytes || !address_of(source->context, instruction, &operands[0], &store->address) ||
	    !value_of(source, &operands[instruction->operand_count_visible - 1], store))
		return false;
	trim(store);
	return true;
}

bool lh__emulate_pushes_flags(struct emulator *emulator, const ucontext_t *context)
{
	const struct known *known = decode(emulator, (uintptr_t)context->uc_mcontext.gregs[REG_RIP]);

	return known && (known->instruction.mnemonic == ZYDIS_MNEMONIC_PUSHFQ ||
	                 known->instruction.mnemonic == ZYDIS_MNEMONIC_PUSHF);
}

bool lh__emulate_read(struct emulator *emulator, const ucontext_t *context, struct store *store)
{
	const struct source source = { context, emulator->offsets };
	const struct known *known = decode(emulator, (uintptr_t)context->uc_mcontext.gregs[REG_RIP]);

	if (!known)
		return false;
	return is_stos(known->instruction.mnemonic)
	               ? read_stos(context, &known->instruction, store)
	               : read_move(&source, &known->instruction, known->operands, store);
}

/* Numbers that need not be aligned, since the program's stores need not be either. */
typedef uint64_t any_word __attribute__((aligned(1), may_alias));
typedef uint32_t any_half __attribute__((aligned(1), may_alias));
typedef uint16_t any_quarter __attribute__((aligned(1), may_alias));

/*
 * As one store, as the program's own would have been; a vector in words, since compilers make one store of
 * what were two pointers, which another thread may be reading.
 */
static void store_word(unsigned char *to, const unsigned char *value, uint8_t bytes)
{
	if (bytes == 0xff)
		*(volatile any_word *)to = *(const any_word *)value;
	else if (bytes == 0xf)
		*(volatile any_half *)to = *(const any_half *)value;
	else if (bytes == 3)
		*(volatile any_quarter *)to = *(const any_quarter *)value;
	else
		for (unsigned i = 0; i < 8; i++)
			if (bytes >> i & 1)
				((volatile unsigned char *)to)[i] = value[i];
}

void lh__emulate_do(ucontext_t *context, const struct store *store, void *to)
{
	for (unsigned i = 0; i < store->size; i += 8)
		store_word((unsigned char *)to + i, store->value + i, (uint8_t)(store->bytes >> i));
	context->uc_mcontext.gregs[REG_RIP] += store->length;
	context->uc_mcontext.gregs[REG_RDI] = (greg_t)store->rdi;
	context->uc_mcontext.gregs[REG_RCX] = (greg_t)store->rcx;
}

/*
 * Functions of other libraries are looked up when they are first called, which takes locks and some KiB of
 * stack, so that is not left to the handler: a store is read here, anew and again.
 */
static void bind(struct emulator *emulator)
{
	/* mov %rax, (%rdi) */
	static const unsigned char sample[16] __attribute__((aligned(16))) = { 0x48, 0x89, 0x07 };
	ucontext_t context;
	struct store store;

	memset(&context, 0, sizeof context);
	context.uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)sample;
	for (unsigned i = 0; i < 2; i++)
		(void)lh__emulate_read(emulator, &context, &store);
}

struct emulator *lh__emulator_open(const struct lh_sys *sys)
{
	struct emulator *emulator = lh__alloc(sys, sizeof *emulator);

	if (!emulator)
		return NULL;
	ZydisDecoderInit(&emulator->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ask_offsets(emulator->offsets);
	bind(emulator);
	return emulator;
}

void lh__emulator_close(const struct lh_sys *sys, struct emulator *emulator)
{
	if (emulator)
		lh__free(sys, emulator, sizeof *emulator);
}
