/*
 * The processor as judge of lh__effect. Instructions of all opcodes are executed, with registers or with
 * operands in memory, twice: the second time every general register and flag that they are said not to read
 * holds something else. What they are said to write must come out the same, what they are said not to change
 * as it was put in, and so must vector registers and memory. Then golden cases, for what this processor may
 * lack, and so that nothing is said to be read that is not.
 */
/* timeout: 120 */
#include "code/liveness.h"
#include "code_opcodes.h"
#include "code_processor.h"
#include "tap.h"

#include <Zydis/Zydis.h>

static ZydisDecoder decoder;
static unsigned planted; /* which lie is told */

#define MEMORY_AT 0x20000000ul
#define MEMORY_SIZE 0x10000u

struct trial {
	uint8_t code[16];
	ZydisDecodedInstruction is;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	struct lh_effect effect;
	struct machine_registers in;
	struct machine_vectors vectors;
};

struct tally {
	unsigned executed, unread, dead, wrong;
};

static bool decode(struct trial *trial)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, trial->code, sizeof trial->code, &trial->is,
	                                           trial->operand));
}

/* What is not the same twice, leads away, or changes what all depends on. */
static bool excluded(const struct trial *trial)
{
	if (trial->effect.reads == LH_LIVE_ALL)
		return true;
	switch (trial->is.meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_PKU:
	case ZYDIS_CATEGORY_RDWRFSGS:
	case ZYDIS_CATEGORY_RDRAND:
	case ZYDIS_CATEGORY_RDSEED:
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT: return true;
	default: break;
	}
	switch (trial->is.mnemonic) {
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_RDPID:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR: return true;
	default: break;
	}
	if (trial->is.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS))
		return true;
	for (int i = 0; i < trial->is.operand_count; i++)
		if (trial->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    trial->operand[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
		    trial->operand[i].reg.value >= ZYDIS_REGISTER_ES &&
		    trial->operand[i].reg.value <= ZYDIS_REGISTER_GS)
			return true;
	return false;
}

static bool has_memory(const struct trial *trial)
{
	for (int i = 0; i < trial->is.operand_count; i++)
		if (trial->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    trial->operand[i].mem.type != ZYDIS_MEMOP_TYPE_AGEN)
			return true;
	return false;
}

static unsigned vector_number(ZydisRegister name)
{
	return name >= ZYDIS_REGISTER_ZMM0   ? name - ZYDIS_REGISTER_ZMM0
	       : name >= ZYDIS_REGISTER_YMM0 ? name - ZYDIS_REGISTER_YMM0
	                                     : name - ZYDIS_REGISTER_XMM0;
}

/* Bit strings and scattered elements must not reach what else lies in memory. */
static void spare_memory(struct trial *trial)
{
	for (int i = 0; i < trial->is.operand_count; i++) {
		const ZydisDecodedOperand *operand = &trial->operand[i];

		if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (operand->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			memset(trial->vectors.vector[vector_number(operand->mem.index)], 0, 64);
		if (trial->is.meta.category == ZYDIS_CATEGORY_BITBYTE)
			for (int n = 0; n < 16; n++)
				if (trial->in.general[n] - MEMORY_AT > MEMORY_SIZE)
					trial->in.general[n] = below(4096);
	}
}

static void draw_registers(struct trial *trial)
{
	for (unsigned i = 0; i < sizeof trial->vectors / 8; i++)
		((uint64_t *)&trial->vectors)[i] = below(4) ? draw() : 0;
	for (int i = 0; i < 16; i++)
		trial->in.general[i] = below(4) ? draw() : below(4); /* zero, and counts of it, are special */
	for (int i = 0; i < trial->is.operand_count; i++) {
		const ZydisDecodedOperandMem *memory = &trial->operand[i].mem;
		static const uint64_t middle = MEMORY_AT + MEMORY_SIZE / 2;

		if (trial->operand[i].type != ZYDIS_OPERAND_TYPE_MEMORY || !has_memory(trial))
			continue;
		if (memory->index >= ZYDIS_REGISTER_EAX && memory->index <= ZYDIS_REGISTER_R15)
			trial->in.general[(memory->index - ZYDIS_REGISTER_EAX) % 16] = below(64);
		if (memory->base >= ZYDIS_REGISTER_EAX && memory->base <= ZYDIS_REGISTER_R15)
			trial->in.general[(memory->base - ZYDIS_REGISTER_EAX) % 16] = middle + below(64);
	}
	if (trial->is.meta.category == ZYDIS_CATEGORY_STRINGOP)
		trial->in.general[1] = below(20);
	spare_memory(trial);
	trial->in.flags = 0x202 | (draw() & 0x8d5);
}

static uint32_t status(uint64_t flags)
{
	return (uint32_t)((flags & 1) << 16 | (flags >> 2 & 1) << 17 | (flags >> 4 & 1) << 18 |
	                  (flags >> 6 & 3) << 19 | (flags >> 11 & 1) << 21);
}

static uint64_t status_of(uint32_t live)
{
	return (live >> 16 & 1) | (live >> 17 & 1) << 2 | (live >> 18 & 1) << 4 |
	       (uint64_t)(live >> 19 & 3) << 6 | (uint64_t)(live >> 21 & 1) << 11;
}

static bool execute(const struct trial *trial, const struct machine_registers *in)
{
	memset((void *)MEMORY_AT, 0x5a, MEMORY_SIZE);
	memset(machine->area_out, 0, sizeof machine->area_out);
	machine->in = *in;
	machine_set_vectors(&trial->vectors);
	machine_execute(trial->code, trial->is.length);
	return machine->signal == 0;
}

static void complain(struct tally *tally, const struct trial *trial, const char *what, uint32_t bits)
{
	ZydisFormatter formatter;
	char text[200];

	if (tally->wrong++ > 20 || planted)
		return;
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	ZydisFormatterFormatInstruction(&formatter, &trial->is, trial->operand,
	                                trial->is.operand_count_visible, text, sizeof text, 0, NULL);
	printf("# %s: %s", text, what);
	for (unsigned i = 0; i < trial->is.length; i++)
		printf("%s%02x", i ? "" : " [", trial->code[i]);
	printf("] %06x; reads %06x writes %06x changes %06x\n", bits, trial->effect.reads,
	       trial->effect.writes, trial->effect.changes);
}

/* Bits of what is not as it was put in. */
static uint32_t changed(const struct machine_registers *in, const struct machine_registers *out)
{
	uint32_t bits = status(in->flags) ^ status(out->flags);

	for (unsigned i = 0; i < 16; i++)
		bits |= (uint32_t)(in->general[i] != out->general[i]) << i;
	return bits;
}

static void judge(struct trial *trial, struct tally *tally)
{
	static uint8_t area[sizeof machine->area_out], memory[MEMORY_SIZE];
	const struct lh_effect *effect = &trial->effect;
	struct machine_registers other = trial->in, out;
	uint32_t unread = ~effect->reads & LH_LIVE_ALL, bits;
	bool same;

	if (!execute(trial, &trial->in))
		return;
	tally->executed++;
	tally->unread += (unsigned)__builtin_popcount(unread);
	tally->dead += (unsigned)__builtin_popcount(unread & effect->writes);
	out = machine->out;
	memcpy(area, machine->area_out, sizeof area);
	memcpy(memory, (void *)MEMORY_AT, MEMORY_SIZE);
	bits = changed(&trial->in, &out) & ~effect->changes;
	if (bits)
		complain(tally, trial, "changes", bits);
	for (unsigned i = 0; i < 16; i++)
		if (unread >> i & 1)
			other.general[i] = draw();
	other.flags ^= status_of(unread & (uint32_t)(draw() | draw()) & LH_LIVE_FLAGS);
	if (!execute(trial, &other)) {
		complain(tally, trial, "faults, with other registers", 0);
		return;
	}
	/* Undefined flags, and what may stay as it was, prove nothing. */
	bits = changed(&out, &machine->out) & effect->writes;
	bits |= changed(&out, &machine->out) & effect->reads & ~LH_LIVE_FLAGS;
	bits |= changed(&other, &machine->out) & ~effect->changes;
	if (bits)
		complain(tally, trial, "depends on what it does not read", bits);
	same = memcmp(area, machine->area_out, sizeof area) == 0 &&
	       memcmp(memory, (void *)MEMORY_AT, MEMORY_SIZE) == 0;
	if (!same)
		complain(tally, trial, "stores what it does not read", 0);
}

static void lie(struct lh_effect *effect)
{
	switch (planted) {
	case 1: effect->reads &= ~LH_LIVE_GENERAL; break;
	case 2: effect->reads &= ~LH_LIVE_CF; break;
	case 3: effect->reads &= ~LH_LIVE_FLAGS | LH_LIVE_CF; break;
	case 4: effect->reads &= ~(effect->changes & ~effect->writes); break;
	case 5: effect->writes |= LH_LIVE_FLAGS & effect->changes; break;
	case 6: effect->changes &= ~LH_LIVE_GENERAL; break;
	case 7: effect->changes &= ~LH_LIVE_FLAGS; break;
	case 8: effect->writes |= effect->changes, effect->reads &= ~effect->writes; break;
	default: break;
	}
}

static bool found(void *context, const uint8_t code[16])
{
	struct tally *tally = context;
	struct trial trial = { 0 };

	memcpy(trial.code, code, sizeof trial.code);
	if (!decode(&trial))
		return true;
	if (trial.is.attributes & ZYDIS_ATTRIB_IS_RELATIVE && trial.is.raw.disp.size == 32) {
		int32_t distance = (int32_t)(MEMORY_AT + MEMORY_SIZE / 2 - machine_next(trial.is.length));

		memcpy(trial.code + trial.is.raw.disp.offset, &distance, 4);
	}
	if (trial.is.raw.imm[0].is_relative) { /* to what follows, taken or not */
		memset(trial.code + trial.is.raw.imm[0].offset, 0, trial.is.raw.imm[0].size / 8);
	}
	if (!decode(&trial))
		return true;
	trial.effect = lh__effect(&trial.is, trial.operand);
	if (excluded(&trial))
		return true;
	if (planted)
		lie(&trial.effect);
	for (int i = 0; i < 3; i++) {
		draw_registers(&trial);
		judge(&trial, tally);
	}
	return !planted || !tally->wrong;
}

static void try_lies(void)
{
	static const char *const what[] = { "",
		                            "no general register is read",
		                            "the carry is never read",
		                            "no other flag is read",
		                            "what is written in part, or perhaps, does not stay",
		                            "undefined flags are defined",
		                            "no general register is changed",
		                            "no flag is changed",
		                            "what is changed was not read" };

	for (planted = 1; planted < sizeof what / sizeof what[0]; planted++) {
		struct tally tally = { 0 };

		for (int i = 0; i < 20 && !tally.wrong; i++)
			opcodes_all(&(struct opcodes){ 60, found, &tally });
		ok(tally.wrong > 0, "found out: %s", what[planted]);
	}
	planted = 0;
}

/* ---- golden cases ---- */

#define A (1u << 0)
#define C (1u << 1)
#define D (1u << 2)
#define B (1u << 3)
#define SP (1u << 4)
#define BP (1u << 5)
#define SI (1u << 6)
#define DI (1u << 7)
#define R8 (1u << 8)
#define CF LH_LIVE_CF
#define PF LH_LIVE_PF
#define AF LH_LIVE_AF
#define ZF LH_LIVE_ZF
#define SF LH_LIVE_SF
#define OF LH_LIVE_OF
#define FLAGS LH_LIVE_FLAGS
#define ALL LH_LIVE_ALL

static const struct {
	const char *text, *code;
	uint32_t reads, writes, changes;
} golden[] = {
	{ "mov ecx, eax", "89c1", A, C, C },
	{ "mov cl, al", "88c1", A | C, 0, C },
	{ "mov ch, al", "88c5", A | C, 0, C },
	{ "mov cx, ax", "6689c1", A | C, 0, C },
	{ "mov [rbx+rsi*2], r8", "4c890473", B | SI | R8, 0, 0 },
	{ "lea eax, [rbx+rsi]", "8d0433", B | SI, A, A },
	{ "xor eax, eax", "31c0", 0, A | (FLAGS & ~AF), A | FLAGS },
	{ "xor al, al", "30c0", A, FLAGS & ~AF, A | FLAGS },
	{ "sub rax, rax", "4829c0", 0, A | FLAGS, A | FLAGS },
	{ "sbb eax, eax", "19c0", CF, A | FLAGS, A | FLAGS },
	{ "xor eax, ecx", "31c8", A | C, A | (FLAGS & ~AF), A | FLAGS },
	{ "add eax, ecx", "01c8", A | C, A | FLAGS, A | FLAGS },
	{ "adc eax, ecx", "11c8", A | C | CF, A | FLAGS, A | FLAGS },
	{ "inc eax", "ffc0", A, A | (FLAGS & ~CF), A | (FLAGS & ~CF) },
	{ "cmp eax, ecx", "39c8", A | C, FLAGS, FLAGS },
	{ "test eax, eax", "85c0", A, FLAGS & ~AF, FLAGS },
	{ "not eax", "f7d0", A, A, A },
	{ "bswap eax", "0fc8", A, A, A },
	{ "imul eax, ecx", "0fafc1", A | C, A | CF | OF, A | FLAGS },
	{ "mul ecx", "f7e1", A | C, A | D | CF | OF, A | D | FLAGS },
	{ "div ecx", "f7f1", A | C | D, A | D, A | D | FLAGS },
	{ "cqo", "4899", A, D, D },
	{ "shl eax, cl", "d3e0", A | C, A, A | FLAGS },
	{ "shl eax, 0", "c1e000", A, A, A },
	{ "shl eax, 32", "c1e020", A, A, A },
	{ "shl eax, 1", "d1e0", A, A | (FLAGS & ~AF), A | FLAGS },
	{ "shl eax, 3", "c1e003", A, A | (FLAGS & ~(AF | OF)), A | FLAGS },
	{ "shl al, 9", "c0e009", A, PF | ZF | SF, A | FLAGS },
	{ "rol eax, 3", "c1c003", A, A | CF, A | CF | OF },
	{ "rcl eax, 1", "d1d0", A | CF, A | CF | OF, A | CF | OF },
	{ "shld eax, ecx, 3", "0fa4c803", A | C, FLAGS & ~(AF | OF), A | FLAGS },
	{ "bt eax, ecx", "0fa3c8", A | C, CF, CF | PF | AF | SF | OF },
	{ "bsf eax, ecx", "0fbcc1", A | C, ZF, A | FLAGS },
	{ "tzcnt eax, ecx", "f30fbcc1", C, A | CF | ZF, A | FLAGS },
	{ "popcnt eax, ecx", "f30fb8c1", C, A | FLAGS, A | FLAGS },
	{ "andn eax, ecx, edx", "c4e270f2c2", C | D, A | CF | ZF | SF | OF, A | FLAGS },
	{ "bextr eax, ecx, edx", "c4e268f7c1", C | D, A | CF | ZF | OF, A | FLAGS },
	{ "mulx eax, ecx, ebx", "c4e273f6c3", B | D, A | C, A | C },
	{ "shlx eax, ecx, edx", "c4e269f7c1", C | D, A, A },
	{ "adcx eax, ecx", "660f38f6c1", A | C | CF, A | CF, A | CF },
	{ "adox eax, ecx", "f30f38f6c1", A | C | OF, A | OF, A | OF },
	{ "cmovz eax, ecx", "0f44c1", A | C | ZF, 0, A },
	{ "setc al", "0f92c0", A | CF, 0, A },
	{ "setnbe [rax]", "0f9700", A | CF | ZF, 0, 0 },
	{ "jl", "7c00", SF | OF, 0, 0 },
	{ "jrcxz", "e300", C, 0, 0 },
	{ "loop", "e200", C, C, C },
	{ "loopne", "e000", C | ZF, C, C },
	{ "lahf", "9f", A | (FLAGS & ~OF), 0, A },
	{ "sahf", "9e", A, FLAGS & ~OF, FLAGS & ~OF },
	{ "pushfq", "9c", SP | FLAGS, SP, SP },
	{ "popfq", "9d", SP, SP | FLAGS, SP | FLAGS },
	{ "cmc", "f5", CF, CF, CF },
	{ "clc", "f8", 0, CF, CF },
	{ "cld", "fc", 0, 0, 0 },
	{ "push rax", "50", A | SP, SP, SP },
	{ "pop rax", "58", SP, A | SP, A | SP },
	{ "call rax", "ffd0", A | SP, SP, SP },
	{ "ret", "c3", SP, SP, SP },
	{ "leave", "c9", SP | BP, SP | BP, SP | BP },
	{ "movsb", "a4", SI | DI, SI | DI, SI | DI },
	{ "rep movsb", "f3a4", C | SI | DI, 0, C | SI | DI },
	{ "rep stosd", "f3ab", A | C | DI, 0, C | DI },
	{ "lodsd", "ad", SI, A, A | SI },
	{ "rep lodsd", "f3ad", A | C | SI, 0, A | C | SI },
	{ "cmpsb", "a6", SI | DI, FLAGS, SI | DI | FLAGS },
	{ "repe cmpsb", "f3a6", C | SI | DI, 0, C | SI | DI | FLAGS },
	{ "repne scasb", "f2ae", A | C | DI, 0, C | DI | FLAGS },
	{ "xlat", "d7", A | B, 0, A },
	{ "xchg rax, rcx", "4891", A | C, A | C, A | C },
	{ "xadd rax, rcx", "480fc1c8", A | C, A | C | FLAGS, A | C | FLAGS },
	{ "cmpxchg rcx, rbx", "480fb1d9", A | B | C, FLAGS, A | C | FLAGS },
	{ "cmpxchg16b [rsi]", "480fc70e", A | B | C | D | SI, ZF, A | D | ZF },
	{ "cpuid", "0fa2", A | C, A | B | C | D, A | B | C | D },
	{ "rdtsc", "0f31", 0, A | D, A | D },
	{ "xgetbv", "0f01d0", C, A | D, A | D },
	{ "pmovmskb eax, xmm1", "660fd7c1", 0, A, A },
	{ "comiss xmm1, xmm2", "0f2fca", 0, FLAGS, FLAGS },
	{ "vptest xmm1, xmm2", "c4e27917ca", 0, FLAGS, FLAGS },
	{ "pcmpestri xmm1, xmm2, 0", "660f3a61ca00", A | D, C | FLAGS, C | FLAGS },
	{ "maskmovdqu xmm1, xmm2", "660ff7ca", DI, 0, 0 },
	{ "vpgatherdd xmm1, [rax+xmm3*4], xmm2", "c4e269900c98", A, 0, 0 },
	{ "fnstsw ax", "dfe0", A, 0, A },
	{ "fcmovb st, st1", "dac1", CF, 0, 0 },
	{ "rdsspq rax", "f3480f1ec8", A, 0, A },
	{ "movdir64b rbx, [rax]", "660f38f818", A | B, 0, 0 },
	{ "xsave64 [rsi]", "480fae26", A | D | SI, 0, 0 },
	{ "syscall", "0f05", ALL, 0, ALL },
	{ "int3", "cc", ALL, 0, ALL },
	{ "ud2", "0f0b", ALL, 0, ALL },
	{ "hlt", "f4", ALL, 0, ALL },
	{ "xbegin", "c7f800000000", ALL, 0, ALL },
	{ "nop", "90", 0, 0, 0 },
};

static bool from_text(struct trial *trial, const char *text)
{
	unsigned value;

	memset(trial, 0, sizeof *trial);
	for (unsigned i = 0; i < 15 && sscanf(text + 2 * i, "%2x", &value) == 1; i++)
		trial->code[i] = (uint8_t)value;
	return decode(trial);
}

static void check_golden(void)
{
	unsigned wrong = 0, count = sizeof golden / sizeof golden[0];
	struct trial trial;

	for (unsigned i = 0; i < count; i++) {
		struct lh_effect effect;

		if (!from_text(&trial, golden[i].code))
			break;
		effect = lh__effect(&trial.is, trial.operand);
		if (effect.reads == golden[i].reads && effect.writes == golden[i].writes &&
		    effect.changes == golden[i].changes)
			continue;
		wrong++;
		printf("# %s: reads %06x (%06x) writes %06x (%06x) changes %06x (%06x)\n", golden[i].text,
		       effect.reads, golden[i].reads, effect.writes, golden[i].writes, effect.changes,
		       golden[i].changes);
	}
	ok(wrong == 0, "%u instructions as they are known", count);
}

/* What is written again, and not read before, is dead; what may leave a flag does not kill it. */
static void check_lines(void)
{
	static const char *const codes[] = { "4889c1", "d3e0", "31c9", "4801d1", "c3" };
	struct lh_effect effect[5];
	uint32_t live[5];
	struct trial trial;

	for (unsigned i = 0; i < 5; i++)
		if (from_text(&trial, codes[i]))
			effect[i] = lh__effect(&trial.is, trial.operand);
	lh__liveness(effect, 5, LH_LIVE_ALL, live);
	is(live[4], LH_LIVE_ALL, "all is live where nobody knows what follows");
	is(live[3], LH_LIVE_ALL & ~FLAGS, "add: flags are dead before it");
	is(live[2], LH_LIVE_ALL & ~FLAGS & ~C, "xor: so is what it clears");
	is(live[1], LH_LIVE_ALL & ~FLAGS, "shl: it reads cl");
	is(live[0], LH_LIVE_ALL & ~FLAGS & ~C, "mov: it writes rcx");
	lh__liveness(effect, 2, CF | A, live);
	is(live[1], CF | A | C, "a shift by cl may leave the carry");
}

int main(int count, char **words)
{
	struct tally tally = { 0 };
	unsigned rounds = count > 1 ? (unsigned)atoi(words[1]) : 1;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	machine_open();
	machine_map(MEMORY_AT, MEMORY_SIZE, PROT_READ | PROT_WRITE);
	if (count > 2)
		opcodes_seed ^= (uint64_t)atoll(words[2]) * 0x9e3779b97f4a7c15ull;
	while (rounds--)
		opcodes_all(&(struct opcodes){ 60, found, &tally });
	printf("# %u executed twice; of 22 bits %.1f not read, %.1f of them written\n", tally.executed,
	       (double)tally.unread / tally.executed, (double)tally.dead / tally.executed);
	ok(tally.executed > 3000 && tally.wrong == 0, "instructions do to registers what they are said to");
	try_lies();
	check_golden();
	check_lines();
	return done();
}
