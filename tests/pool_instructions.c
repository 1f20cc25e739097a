/*
 * pool_instructions.c - random bytes as instructions: whatever stores to memory does on a page of a pool,
 * where stores are seen, what it does on any other (pool_machine.h). pool_emulate.c knows which forms there
 * are; this one does not.
 */
/* timeout: 240 */
#include <Zydis/Zydis.h>

#include "pool_machine.h"

#define INSTRUCTIONS 20000u
#define BYTES 15u

static ZydisDecoder decoder;

struct instruction {
	unsigned char bytes[BYTES];
	ZydisDecodedInstruction decoded;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

/* Many random bytes begin no instruction that stores; these prefixes and opcodes often do. */
static void throw_bytes(unsigned char bytes[BYTES])
{
	static const unsigned char prefixes[] = {
		0x66, 0xf2, 0xf3, 0xf0, 0x48, 0x44, 0x41, 0x4d, 0x2e, 0x40
	};
	static const unsigned char opcodes[] = { 0x00, 0x20, 0x80, 0xa0, 0xb0, 0xc0,
		                                 0xd0, 0xf0, 0x10, 0x70, 0x50 };
	unsigned n = 0;

	for (unsigned i = 0; i < BYTES; i++)
		bytes[i] = (unsigned char)any();
	while (dice(2) && n < 3)
		bytes[n++] = prefixes[dice(sizeof prefixes)];
	switch (dice(5)) {
	case 0: bytes[n++] = 0x0f; break;
	case 1:
		bytes[n++] = 0xc4 + (unsigned char)dice(2);
		if (bytes[n - 1] == 0xc4)
			bytes[n++] = (unsigned char)(any() & 0xe0) | (unsigned char)(1 + dice(3));
		break;
	case 2:
		bytes[n++] = 0x62;
		bytes[n] = (bytes[n] & 0xf0) | (unsigned char)(1 + dice(3));
		bytes[n + 1] |= 0x7c;
		bytes[n + 2] = (unsigned char)((any() & 0x67) | 8);
		n += 3;
		break;
	default: break;
	}
	if (dice(2))
		bytes[n] = opcodes[dice(sizeof opcodes)] + (unsigned char)dice(16);
}

/* What cannot be tried here: it leaves the code, enters the kernel, or reads what differs each time. */
static bool is_excluded(const ZydisDecodedInstruction *decoded)
{
	switch (decoded->meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT:
	case ZYDIS_CATEGORY_AMX_TILE:
	case ZYDIS_CATEGORY_CET:
	case ZYDIS_CATEGORY_VTX:
	case ZYDIS_CATEGORY_ENQCMD:
	case ZYDIS_CATEGORY_MOVDIR:
	case ZYDIS_CATEGORY_PADLOCK: return true;
	default: break;
	}
	switch (decoded->mnemonic) {
	case ZYDIS_MNEMONIC_BTS: /* of a register: the bit may be anywhere */
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV: return true;
	default: return decoded->address_width != 64;
	}
}

static bool is_general(ZydisRegister name)
{
	return ZydisRegisterGetClass(name) == ZYDIS_REGCLASS_GPR64;
}

/* Whether it stores, and all its memory can be aimed at. */
static bool stores(const struct instruction *instruction)
{
	bool writes = false;

	for (unsigned i = 0; i < instruction->decoded.operand_count; i++) {
		const ZydisDecodedOperand *operand = &instruction->operands[i];
		const ZydisDecodedOperandMem *memory = &operand->mem;

		if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (memory->type != ZYDIS_MEMOP_TYPE_MEM || memory->segment == ZYDIS_REGISTER_FS ||
		    memory->segment == ZYDIS_REGISTER_GS ||
		    (memory->index != ZYDIS_REGISTER_NONE && !is_general(memory->index)) ||
		    (memory->base != ZYDIS_REGISTER_NONE && memory->base != ZYDIS_REGISTER_RIP &&
		     !is_general(memory->base)) ||
		    memory->base == memory->index)
			return false;
		writes |= (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
	}
	return writes;
}

static bool throw_instruction(struct instruction *instruction)
{
	throw_bytes(instruction->bytes);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, instruction->bytes, BYTES, &instruction->decoded,
	                                           instruction->operands)) &&
	       !is_excluded(&instruction->decoded) && stores(instruction);
}

/* The displacement of an address without a register to set is set itself. */
static void set_displacement(struct instruction *instruction, uint64_t value)
{
	const ZydisDecodedInstruction *decoded = &instruction->decoded;

	memcpy(instruction->bytes + decoded->raw.disp.offset, &value, decoded->raw.disp.size / 8);
}

static void aim(struct instruction *instruction, struct machine *before, uint64_t region)
{
	uint64_t *general = before->general;

	for (unsigned i = 0; i < instruction->decoded.operand_count; i++) {
		const ZydisDecodedOperandMem *memory = &instruction->operands[i].mem;
		uint64_t target = region + LH_PAGE_SIZE + dice(2 * LH_PAGE_SIZE - 128), sum = 0;

		if (instruction->operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (dice(4))
			target &= ~UINT64_C(63);
		if (memory->disp.has_displacement)
			sum = (uint64_t)memory->disp.value;
		if (memory->base == ZYDIS_REGISTER_RIP)
			set_displacement(instruction, target - before->code - instruction->decoded.length);
		else if (memory->base != ZYDIS_REGISTER_NONE && memory->index != ZYDIS_REGISTER_NONE)
			sum += general[memory->index - ZYDIS_REGISTER_RAX] * memory->scale;
		else if (memory->index != ZYDIS_REGISTER_NONE)
			general[memory->index - ZYDIS_REGISTER_RAX] = (target - sum) / memory->scale;
		else if (memory->base == ZYDIS_REGISTER_NONE)
			set_displacement(instruction, target);
		if (memory->base != ZYDIS_REGISTER_NONE && memory->base != ZYDIS_REGISTER_RIP)
			general[memory->base - ZYDIS_REGISTER_RAX] = target - sum;
	}
	if (instruction->decoded.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPNE) ||
	    instruction->decoded.meta.category == ZYDIS_CATEGORY_STRINGOP)
		general[RCX] = dice(100);
}

/*
 * Where code is translated, what goes through the stack pointer is not looked at, and a transaction with an
 * instruction whose accesses are not known cannot commit.
 */
static bool is_not_seen(const struct instruction *instruction)
{
	if (instruction->decoded.meta.category == ZYDIS_CATEGORY_MPX)
		return true;
	for (unsigned i = 0; i < instruction->decoded.operand_count; i++)
		if (instruction->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    instruction->operands[i].mem.base == ZYDIS_REGISTER_RSP)
			return true;
	return false;
}

static struct outcome native, seen;

static void tell(const struct instruction *instruction, const char *what)
{
	printf("# %s: %s differs; signals %d and %d:", ZydisMnemonicGetString(instruction->decoded.mnemonic),
	       what, native.signal, seen.signal);
	for (unsigned i = 0; i < instruction->decoded.length; i++)
		printf(" %02x", instruction->bytes[i]);
	printf("\n");
}

static bool same(struct machine_pool *pool, struct instruction *instruction)
{
	struct code code = { .at = (unsigned char *)CODE_ADDRESS };
	const char *what = "the abort";
	struct machine before;

	machine_randomize(&before);
	before.code = CODE_ADDRESS;
	aim(instruction, &before, (uintptr_t)pool->region);
	memcpy(code.at, instruction->bytes, instruction->decoded.length);
	code.length = instruction->decoded.length;
	put_end(&code);
	if (machine_run(pool, &before, true, &native) && machine_run(pool, &before, false, &seen))
		what = machine_differs(&native, &seen);
	/* A handler of a signal sees the registers as the translator has them at that place. */
	if (what && pool->see == LH_SEE_TRANSLATED && native.signal && native.signal == seen.signal &&
	    memcmp(native.memory, seen.memory, REGION) == 0)
		what = NULL;
	if (what)
		tell(instruction, what);
	return !what;
}

/* In a child: what random bytes do is known only afterwards. */
static int try_all(enum lh_see see, unsigned most)
{
	static bool tried[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	unsigned wrong = 0, done_well = 0, mnemonics = 0;
	struct machine_pool pool;

	machine_begin();
	if (machine_open(&pool, see) != 0)
		return 2;
	for (unsigned i = 0; i < most && wrong < 5;) {
		struct instruction instruction;

		if (!throw_instruction(&instruction) ||
		    (see == LH_SEE_TRANSLATED && is_not_seen(&instruction)))
			continue;
		i++;
		wrong += !same(&pool, &instruction);
		if (native.signal)
			continue;
		done_well++;
		mnemonics += !tried[instruction.decoded.mnemonic];
		tried[instruction.decoded.mnemonic] = true;
	}
	printf("# %u instructions were executed to their end, of %u names\n", done_well, mnemonics);
	machine_close(&pool);
	fflush(stdout);
	return wrong != 0 || done_well < most / 4 || mnemonics < 50;
}

static int try_page(void)
{
	return try_all(LH_SEE_PAGE, INSTRUCTIONS);
}

static int try_checked(void)
{
	return try_all(LH_SEE_CHECKED, INSTRUCTIONS);
}

static int try_translated(void)
{
	return try_all(LH_SEE_TRANSLATED, INSTRUCTIONS / 4); /* each of which is translated */
}

int main(void)
{
	machine_seed = random_seed();
	printf("# LH_TEST_SEED=%lu\n", (unsigned long)machine_seed);
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (mmap((void *)CODE_ADDRESS, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED) {
		skip("random instructions", "the address for code is taken, or code may not be written");
		return done();
	}
	ok_in_child("random instructions do what the processor does, page", try_page);
	ok_in_child("random instructions do what the processor does, checked", try_checked);
	ok_in_child("random instructions do what the processor does, translated", try_translated);
	return done();
}
