/*
 * translate_written.c - what a translated stream of random instructions has changed in memory lies in the
 * writes that lh__access_bytes tells of before each instruction, with the registers that
 * lh__emit_call_state gives; and none of those lies elsewhere. LH_TEST_ROUNDS, LH_TEST_SEED: as in
 * translate_stream.c.
 *
 * A client that leaves out a class of writes, or is off by one, must be noticed.
 */
#include "port/translate/inside.h"
#include "translate_stream.h"

enum { NOTHING, NO_MASKS, NO_BITS, NO_STACK, OFF_BY_ONE, FAULTS };

/* Kept for each instruction that writes; streams are short. */
static struct lh_accesses kept[4096];
static unsigned used;

static uint64_t code, data;
static uint8_t told[2 * DATA_BYTES];
static uint64_t elsewhere; /* bytes */
static unsigned planted, refused;

static int found(void *context, uint64_t address, uint64_t size)
{
	(void)context;
	address += planted == OFF_BY_ONE;
	for (uint64_t i = 0; i < size; i++) {
		if (address + i - data < sizeof(told))
			told[address + i - data] = 1;
		else
			elsewhere++;
	}
	return 0;
}

static bool left_out(const struct lh_access *access)
{
	return (planted == NO_MASKS && access->mask != ZYDIS_REGISTER_NONE) ||
	       (planted == NO_BITS && access->bit != ZYDIS_REGISTER_NONE) ||
	       (planted == NO_STACK && access->base == ZYDIS_REGISTER_RSP);
}

static void note(void *own, const struct lh_access_state *state, uint64_t constant)
{
	const struct lh_accesses *accesses = (const void *)(uintptr_t)constant;

	(void)own;
	for (unsigned i = 0; i < accesses->count; i++)
		if (accesses->at[i].kind & LH_ACCESS_WRITE && !left_out(&accesses->at[i]) &&
		    lh__access_bytes(&accesses->at[i], state, found, NULL) != 0)
			refused++;
}

static void before(void *context, struct lh_emitter *emitter,
                   const struct lh_translated_instruction *instruction)
{
	bool writes = false;

	(void)context;
	for (unsigned i = 0; i < instruction->accesses->count; i++)
		writes = writes || instruction->accesses->at[i].kind & LH_ACCESS_WRITE;
	if (!writes || instruction->address - code >= CODE_BYTES)
		return;
	if (used == sizeof(kept) / sizeof(*kept)) {
		printf("Bail out! too many instructions\n");
		exit(1);
	}
	kept[used] = *instruction->accesses;
	lh__emit_call_state(emitter, note, instruction, (uint64_t)(uintptr_t)&kept[used++]);
	lh__emit_done(emitter);
}

/* Bytes that one stream changes and nobody tells of. */
static unsigned untold(struct stream *stream, struct lh_translator *translator, uint64_t seed)
{
	static struct outcome outcome, native;
	static struct stream_state state;
	static uint8_t first[2 * DATA_BYTES];
	unsigned wrong = 0;

	make_stream(stream, seed);
	lh__translate_forget(translator, code, code + CODE_BYTES);
	used = 0;
	start_state(stream, &state, seed);
	memcpy(first, stream->area + CODE_BYTES, sizeof(first));
	memset(told, 0, sizeof(told));
	run_stream(stream, NULL, seed, &native);
	run_stream(stream, translator, seed, &outcome);
	for (size_t i = 0; i < sizeof(told); i++)
		if (first[i] != outcome.memory[i] && !told[i] && wrong++ == 0 && planted == NOTHING)
			printf("# seed %lu: byte %zu of memory\n", (unsigned long)seed, i);
	if (planted == NOTHING && memcmp(&native, &outcome, sizeof(outcome)) != 0) {
		printf("# seed %lu: is not the same natively\n", (unsigned long)seed);
		wrong++;
	}
	return wrong;
}

/* How many streams have such bytes. */
static unsigned wrong_streams(unsigned fault, uint64_t seed, unsigned count, unsigned enough)
{
	struct lh_translator *translator =
		translator_with((struct lh_translate_options){ .client = { .before = before } });
	struct stream stream = { 0 };
	unsigned wrong = 0;

	open_stream(&stream);
	planted = fault;
	code = (uint64_t)(uintptr_t)stream.area;
	data = code + CODE_BYTES;
	elsewhere = refused = 0;
	for (uint64_t end = seed + count; seed < end && wrong < enough; seed++)
		wrong += untold(&stream, translator, seed) > 0;
	munmap(stream.area, AREA_BYTES);
	lh__translate_close(translator);
	return wrong;
}

int main(void)
{
	static const char *const fault[FAULTS] = { "", "masked writes are left out",
		                                   "writes by a bit's number are left out",
		                                   "pushes are left out", "every write is off by one" };
	const char *rounds = getenv("LH_TEST_ROUNDS"), *seed = getenv("LH_TEST_SEED");
	unsigned count = rounds && atoi(rounds) > 1000 ? (unsigned)atoi(rounds) : 1000, wrong;

	wrong = wrong_streams(NOTHING, seed ? strtoull(seed, NULL, 10) : 1, count, 10);
	ok(wrong == 0, "%u streams: what has changed has been told of (not so in %u)", count, wrong);
	is(elsewhere, 0, "no write is told of that lies elsewhere");
	is(refused, 0, "all writes are told of");
	for (unsigned i = 1; i < FAULTS; i++)
		ok(wrong_streams(i, 1, 1000, 1) == 1, "caught: %s", fault[i]);
	return done();
}
