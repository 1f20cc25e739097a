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

static void draw_registers(struct trial *trial)
{
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
	trial->in.flags = 0x202 | (draw() & 0x8d5);
	for (unsigned i = 0; i < sizeof trial->vectors / 8; i++)
		((uint64_t *)&trial->vectors)[i] = below(4) ? draw() : 0;
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

		opcodes_all(&(struct opcodes){ 60, found, &tally });
		ok(tally.wrong > 0, "found out: %s", what[planted]);
	}
	planted = 0;
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
	return done();
}
