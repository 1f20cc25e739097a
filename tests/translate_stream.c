/* timeout: 120 */
/*
 * translate_stream.c - random streams of instructions do the same natively and translated: all registers,
 * flags, vector registers and memory. LH_TEST_ROUNDS says how many streams; each has a seed that is shown
 * where it fails, and LH_TEST_SEED starts from that one.
 *
 * The same with a client that counts before and after every access, whose sums must be those of a run that
 * is taken instruction by instruction; and with clients that do wrong what the emitter does right, which must
 * be noticed.
 */
#include <signal.h>

#include "port/translate/encode.h"
#include "translate_stream.h"

enum { R9 = 9 };

struct own {
	uint64_t reads, writes, after;
};

static uint64_t first_seed = 1;
static uint64_t planted_in; /* the stream's code: nobody else's is to be spoiled */

static bool is_stream(const struct lh_translated_instruction *instruction)
{
	return instruction->address - planted_in < CODE_BYTES;
}

static unsigned rounds(unsigned fewest)
{
	const char *wanted = getenv("LH_TEST_ROUNDS");

	return wanted && (unsigned)atoi(wanted) > fewest ? (unsigned)atoi(wanted) : fewest;
}

/* ---- clients */

static void count_accesses(struct lh_emitter *emitter, const struct lh_translated_instruction *instruction,
                           size_t reads, size_t writes)
{
	for (unsigned i = 0; i < instruction->accesses->count; i++) {
		const struct lh_access *access = &instruction->accesses->at[i];
		/* What repeats nothing may name any address. */
		int address =
			lh__access_is_plain(access) ? lh__emit_address(emitter, instruction, access) : -1;
		int shifted = lh__emit_scratch(emitter), label;

		if (address >= 0) {
			lh__emit_shift_right(emitter, shifted, address, 47);
			label = lh__emit_unless_zero(emitter, shifted);
			if (access->kind & LH_ACCESS_READ)
				lh__emit_count_own(emitter, reads, 1);
			if (access->kind & LH_ACCESS_WRITE)
				lh__emit_count_own(emitter, writes, 1);
			lh__emit_here(emitter, label);
		} else {
			if (access->kind & LH_ACCESS_READ)
				lh__emit_count_own(emitter, reads, 1);
			if (access->kind & LH_ACCESS_WRITE)
				lh__emit_count_own(emitter, writes, 1);
		}
		lh__emit_done(emitter);
	}
}

static void count_before(void *context, struct lh_emitter *emitter,
                         const struct lh_translated_instruction *instruction)
{
	(void)context;
	count_accesses(emitter, instruction, offsetof(struct own, reads), offsetof(struct own, writes));
}

static void count_after(void *context, struct lh_emitter *emitter,
                        const struct lh_translated_instruction *instruction)
{
	(void)context;
	count_accesses(emitter, instruction, offsetof(struct own, after), offsetof(struct own, after));
}

static const struct lh_translate_client counting = { .thread_bytes = sizeof(struct own),
	                                             .before = count_before,
	                                             .after = count_after };

/* Planted: flags that are live are taken for dead. */
static void spoil_flags(void *context, struct lh_emitter *emitter,
                        const struct lh_translated_instruction *instruction)
{
	int scratch;

	(void)context;
	if (!is_stream(instruction))
		return;
	emitter->live &= ~LH_LIVE_FLAGS;
	scratch = lh__emit_scratch(emitter);
	lh__emit_shift_right(emitter, scratch, scratch, 3);
	lh__emit_done(emitter);
}

/* Planted: a register that is live is taken for dead. */
static void spoil_register(void *context, struct lh_emitter *emitter,
                           const struct lh_translated_instruction *instruction)
{
	(void)context;
	if (!is_stream(instruction))
		return;
	emitter->live &= ~(1u << R9);
	lh__emit_constant(emitter, R9, instruction->address);
}

/* Planted: a displacement that is one too much. */
static void spoil_displacement(void *context, struct lh_emitter *emitter,
                               const struct lh_translated_instruction *instruction)
{
	const ZydisDecodedInstruction *decoded = instruction->decoded;

	(void)context;
	if (is_stream(instruction) && decoded->mnemonic == ZYDIS_MNEMONIC_MOV &&
	    decoded->raw.disp.size == 32 && decoded->raw.imm[0].size == 0 &&
	    instruction->accesses->at[0].base == ZYDIS_REGISTER_RBX)
		emitter->at[-4]++;
}

/* ---- comparing */

static bool same(const struct outcome *native, const struct outcome *translated)
{
	return memcmp(native, translated, sizeof(*native)) == 0;
}

static void show(const struct outcome *native, const struct outcome *translated, uint64_t seed)
{
	const uint8_t *a = (const void *)native, *b = (const void *)translated;
	size_t at = 0;

	while (a[at] == b[at])
		at++;
	printf("# seed %lu: differs at byte %zu (%s): %02x natively, %02x translated\n", (unsigned long)seed,
	       at,
	       at < 128                                ? "a general register"
	       : at < 136                              ? "flags"
	       : at < offsetof(struct outcome, memory) ? "a vector register"
	                                               : "memory",
	       a[at], b[at]);
}

/* Code that may be written checks itself when it is entered; that is not all that is to be tried. */
static void allow_stream(const struct stream *stream, int protection)
{
	mprotect(stream->area, CODE_BYTES, PROT_READ | PROT_EXEC | protection);
}

/* How many of so many streams are not the same; shows the first. */
static unsigned differing(struct lh_translate_options options, unsigned count, unsigned enough)
{
	static struct outcome native, translated;
	struct lh_translator *translator = translator_with(options);
	struct stream stream = { 0 };
	unsigned wrong = 0;

	open_stream(&stream);
	planted_in = (uint64_t)(uintptr_t)stream.area;
	for (uint64_t seed = first_seed; seed < first_seed + count && wrong < enough; seed++) {
		uint64_t start = (uint64_t)(uintptr_t)stream.area;

		allow_stream(&stream, PROT_WRITE);
		make_stream(&stream, seed);
		allow_stream(&stream, seed % 2 ? 0 : PROT_WRITE);
		lh__translate_forget(translator, start, start + CODE_BYTES);
		run_stream(&stream, NULL, seed, &native);
		run_stream(&stream, translator, seed, &translated);
		if (!same(&native, &translated) && wrong++ == 0 && enough > 1)
			show(&native, &translated, seed);
	}
	munmap(stream.area, AREA_BYTES);
	lh__translate_close(translator);
	return wrong;
}

/* ---- the reference for counts: instruction by instruction */

static struct {
	uint64_t start, end, last;
	bool inside;
	struct own counted;
} steps;

static void on_step(int signal, siginfo_t *info, void *context)
{
	ucontext_t *at = context;
	uint64_t address = (uint64_t)at->uc_mcontext.gregs[REG_RIP];
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction instruction;
	struct lh_accesses accesses;
	ZydisDecoder decoder;
	bool again = address == steps.last;

	steps.last = address;
	if (address - steps.start >= steps.end - steps.start) {
		if (steps.inside)
			at->uc_mcontext.gregs[REG_EFL] &= ~0x100ll;
		return;
	}
	steps.inside = true;
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(
		    ZydisDecoderDecodeFull(&decoder, (void *)(uintptr_t)address, 15, &instruction, operands)))
		return;
	/* One that repeats stops after each time. */
	if ((again && instruction.raw.prefix_count > 0) ||
	    lh__accesses(&instruction, operands, &accesses) < 0)
		return;
	for (unsigned i = 0; i < accesses.count; i++) {
		steps.counted.reads += (accesses.at[i].kind & LH_ACCESS_READ) != 0;
		steps.counted.writes += (accesses.at[i].kind & LH_ACCESS_WRITE) != 0;
	}
}

/* What a run natively, by steps, and one that is translated count more than the other. */
static struct own excess(struct stream *stream, struct lh_translator *translator, uint64_t seed)
{
	static struct outcome outcome;
	struct own *own = lh__translate_thread_bytes(translator), before;

	steps.end = steps.start + stream->used;
	steps.inside = false;
	lh__translate_forget(translator, steps.start, steps.start + CODE_BYTES);
	memset(&steps.counted, 0, sizeof(steps.counted));
	stream->stepped = true;
	run_stream(stream, NULL, seed, &outcome);
	stream->stepped = false;
	before = *own;
	run_stream(stream, translator, seed, &outcome);
	return (struct own){ own->reads - before.reads - steps.counted.reads,
		             own->writes - before.writes - steps.counted.writes, 0 };
}

static void check_counts(unsigned count)
{
	struct lh_translator *translator =
		translator_with((struct lh_translate_options){ .client = counting });
	struct sigaction action = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	static uint8_t stack[65536];
	struct stream stream = { .counted = true };
	struct own empty, more;
	uint64_t executed = 0;
	unsigned wrong = 0;

	open_stream(&stream);
	sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof(stack) }, NULL);
	sigaction(SIGTRAP, &action, NULL);
	begin(translator);
	lh__translate_end(translator);
	steps.start = (uint64_t)(uintptr_t)stream.area;
	end_stream(&stream);
	empty = excess(&stream, translator, 1);
	for (uint64_t seed = first_seed; seed < first_seed + count; seed++) {
		allow_stream(&stream, PROT_WRITE);
		make_stream(&stream, seed);
		allow_stream(&stream, seed % 2 ? 0 : PROT_WRITE);
		more = excess(&stream, translator, seed);
		executed += steps.counted.reads + steps.counted.writes;
		if ((more.reads != empty.reads || more.writes != empty.writes) && wrong++ == 0)
			printf("# seed %lu: %ld reads too many, %ld writes\n", (unsigned long)seed,
			       (long)(more.reads - empty.reads), (long)(more.writes - empty.writes));
	}
	ok(wrong == 0 && executed > 10ull * count, "%u streams: what is counted is what is executed", count);
	munmap(stream.area, AREA_BYTES);
	lh__translate_close(translator);
}

static void check_same(const char *name, struct lh_translate_options options, unsigned count)
{
	unsigned wrong = differing(options, count, 100);

	ok(wrong == 0, "%s: %u streams leave the same behind (%u do not)", name, count, wrong);
}

static void check_planted(const char *name, struct lh_translate_client client)
{
	ok(differing((struct lh_translate_options){ .client = client }, 300, 1) == 1, "caught: %s", name);
}

int main(void)
{
	uint64_t usual = first_seed;

	if (getenv("LH_TEST_SEED"))
		first_seed = strtoull(getenv("LH_TEST_SEED"), NULL, 10);
	check_same("near", (struct lh_translate_options){ 0 }, rounds(2000));
	check_same("far", (struct lh_translate_options){ .near = FAR_AWAY }, rounds(1000));
	check_same("counted", (struct lh_translate_options){ .client = counting }, rounds(1000));
	check_same("counted, far", (struct lh_translate_options){ .near = FAR_AWAY, .client = counting },
	           rounds(500));
	check_counts(100);
	/* A loop whose count is spoiled need not end: these are planted in the same streams every time. */
	first_seed = usual;
	check_planted("flags that are not saved", (struct lh_translate_client){ .before = spoil_flags });
	check_planted("a register that is not saved",
	              (struct lh_translate_client){ .before = spoil_register });
	check_planted("a displacement that is off by one",
	              (struct lh_translate_client){ .after = spoil_displacement });
	return done();
}
