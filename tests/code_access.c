/*
 * Golden cases of lh__accesses: what an instruction accesses, with registers that are given below. They are
 * of every kind, those among them that no test can execute; code_access_oracle.c has the processor judge the
 * others. And how long it takes.
 */
#include "code/access.h"
#include "tap.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <time.h>

struct golden {
	const char *text, *code;
	/* r, w: reads, writes; ? perhaps; f flushes; n non-temporal; l locked. Address + size, hexadecimal */
	const char *wanted;
};

static const struct golden golden[] = {
#include "code_access_golden.def"
};

static ZydisDecoder decoder;
static uint8_t vectors[32][64];
static uint64_t masks[8], mmx[8];
static uint8_t tiles[64];
static struct lh_access_layout layout;
static const uint64_t header[8] = { 3 };

static struct lh_access_state state = {
	.general = { 0x100012, 3, 0xffffffffffffff80, 0x40, 0x500000, 0x600000, 0x700000, 0x800000, 0x900000,
	             0xa00000 },
	.next = 0x400000,
	.fs = 0x70000000,
	.gs = 0x50000000,
	.flags = 0x202,
	.vector = (const uint8_t (*)[64])vectors,
	.mask = masks,
	.mmx = mmx,
	.tiles = tiles,
	.layout = &layout,
	.header = header,
};

/* Element n of register 3 is n, taken as dwords; as qwords they are n and n + 1 above it. */
static void set_vectors(void)
{
	static const uint32_t asked[4] = { 0x80000000, 0, 0x80000080, 0x80 };

	for (uint32_t i = 0; i < 16; i++)
		memcpy(&vectors[3][4 * i], &i, 4);
	for (unsigned i = 0; i < 64; i += 16)
		memcpy(&vectors[2][i], asked, 16);
	memcpy(&mmx[2], asked, 8);
	masks[1] = 0x8012;
	tiles[18] = 8;
	tiles[49] = 2;
	layout = (struct lh_access_layout){ .enabled = 7, .offset[2] = 576, .size[2] = 256 };
}

struct described {
	char text[2000];
	size_t used;
	const struct lh_access *access;
};

static int describe(void *context, uint64_t address, uint64_t size)
{
	struct described *described = context;
	unsigned kind = described->access->kind;

	described->used +=
		(size_t)snprintf(described->text + described->used, sizeof described->text - described->used,
	                         "%s%s%s%s%s%s%s%lx+%lx", described->used ? " " : "",
	                         kind & LH_ACCESS_READ ? "r" : "", kind & LH_ACCESS_WRITE ? "w" : "",
	                         kind & LH_ACCESS_MAYBE ? "?" : "", kind & LH_ACCESS_FLUSH ? "f" : "",
	                         kind & LH_ACCESS_STREAM ? "n" : "", kind & LH_ACCESS_ATOMIC ? "l" : "",
	                         (long)address, (long)size);
	return described->used >= sizeof described->text - 1;
}

static unsigned unhex(const char *text, uint8_t code[16])
{
	unsigned size = 0, value;

	for (; sscanf(text + 2 * size, "%2x", &value) == 1 && size < 15; size++)
		code[size] = (uint8_t)value;
	return size;
}

static int decode(const char *text, ZydisDecodedInstruction *is, ZydisDecodedOperand *operands)
{
	uint8_t code[16] = { 0 };
	unsigned size = unhex(text, code);

	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, size, is, operands)) && is->length == size;
}

static const char *answer(const char *code, struct described *described)
{
	ZydisDecodedInstruction is;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	struct lh_accesses accesses;

	memset(described, 0, sizeof *described);
	if (!decode(code, &is, operands))
		return "not decoded";
	if (lh__accesses(&is, operands, &accesses) == -ENOTSUP)
		return "unknown";
	for (unsigned i = 0; i < accesses.count; i++) {
		described->access = &accesses.at[i];
		if (lh__access_bytes(&accesses.at[i], &state, describe, described) != 0)
			return "error";
	}
	return described->text;
}

static void check_golden(void)
{
	unsigned wrong = 0, count = sizeof golden / sizeof golden[0];
	struct described described;

	for (unsigned i = 0; i < count; i++) {
		const char *got = answer(golden[i].code, &described);

		if (strcmp(got, golden[i].wanted) == 0)
			continue;
		wrong++;
		printf("# %s [%s]: %s, wanted %s\n", golden[i].text, golden[i].code, got, golden[i].wanted);
	}
	ok(wrong == 0, "%u instructions", count);
}

static void check_strings(void)
{
	static const struct {
		uint64_t rcx, rdi, flags;
		const char *code, *wanted;
	} cases[] = {
		{ 3, 0x800000, 0x602, "f3a4", "r6ffffe+3 w7ffffe+3" },
		{ 3, 0x800000, 0x602, "f348ab", "w7ffff0+18" },
		{ 0, 0x800000, 0x202, "f348ab", "" },
		{ 0, 0x800000, 0x602, "f3a6", "" },
		{ 0x100000003, 0x800000, 0x202, "67f3aa", "w800000+3" },
		{ 5, 0xfffffffffffffffe, 0x202, "67f3aa", "wfffffffe+2 w0+3" },
		{ 3, 0xfffffffffffffffe, 0x202, "67f366ab", "wfffffffe+2 w0+4" },
		{ 3, 0xffffffff, 0x202, "67f366ab", "wffffffff+2 w1+4" },
		{ 3, 2, 0x602, "67f366ab", "w0+4 wfffffffe+2" },
		{ 3, 1, 0x602, "67f366ab", "w1+2 wfffffffd+4" },
		{ UINT64_MAX, 0x800000, 0x202, "f348ab", "w800000+fffffffffffffff8" },
		{ 1, 0xffffffff, 0x202, "67668b07", "rffffffff+2" },
		{ 3, 0x800000, 0x202, "f2a4", "r700000+3 w800000+3" }, /* repne */
	};
	struct lh_access_state kept = state;
	struct described described;

	for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		const char *got;

		state.general[1] = cases[i].rcx;
		state.general[7] = cases[i].rdi;
		state.flags = cases[i].flags;
		got = answer(cases[i].code, &described);
		ok(strcmp(got, cases[i].wanted) == 0, "%s: %s", cases[i].code, got);
	}
	state = kept;
	state.left = 1;
	ok(strcmp(answer("f3a6", &described), "r700000+2 r800000+2") == 0, "a comparison that ends early");
	state = kept;
}

/* The golden table does see a wrong answer. */
static void check_checker(void)
{
	struct described described;

	state.general[0]++;
	ok(strcmp(answer(golden[0].code, &described), golden[0].wanted) != 0, "found out: another address");
	state.general[0]--;
	state.mask = NULL;
	ok(strcmp(answer("62f17c491008", &described), "error") == 0, "a mask that is needed and not given");
	state.mask = masks;
}

static double nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* Of usual ones; the best of several rounds, for what runs beside this. */
static void show_time(void)
{
	static const char *const usual[] = {
		"8b08",       "884cd810", "4883c001",     "50",       "58",
		"e8fbffffff", "c3",       "8b0500010000", "f30f6f00", "c5fe6f00"
	};
	enum { COUNT = sizeof usual / sizeof usual[0], TIMES = 20000 };
	ZydisDecodedInstruction is[COUNT];
	ZydisDecodedOperand operands[COUNT][ZYDIS_MAX_OPERAND_COUNT];
	struct lh_accesses accesses;
	double best = 1e9;
	unsigned found = 0;

	for (unsigned i = 0; i < COUNT; i++)
		if (!decode(usual[i], &is[i], operands[i]))
			return;
	for (int round = 0; round < 10; round++) {
		double start = nanoseconds(), each;

		for (unsigned i = 0; i < TIMES * COUNT; i++)
			found += lh__accesses(&is[i % COUNT], operands[i % COUNT], &accesses) == 0;
		each = (nanoseconds() - start) / (TIMES * COUNT);
		best = each < best ? each : best;
	}
	ok(found == 10 * TIMES * COUNT, "%.0f ns an instruction", best);
}

int main(int count, char **words)
{
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	set_vectors();
	check_golden();
	check_strings();
	check_checker();
	show_time();
	return done();
}
