/*
 * pool_emulate.c - stores that a pool makes on behalf of the program do what the processor does: each form of
 * store, with all addressing modes and random registers, against the processor itself (pool_machine.h). Forms
 * that the pool leaves to the processor are among them: what is said to be one store must be.
 */
/* timeout: 240 */
#include "pool_machine.h"

#define ROUNDS 250u

/* ---- forms of instructions ---- */

enum encoding { LEGACY, VEX, EVEX };
enum {
	MADE = 1,      /* a store that the pool makes itself */
	WIDE = 2,      /* REX.W, VEX.W, EVEX.W is 1 */
	ANY_WIDTH = 4, /* 16, 32 and 64 bits, by prefix */
	BYTE = 8,      /* of a register of a byte: AH to BH without REX, SPL to DIL with */
	ALIGNED = 16,
	SHORT = 32,  /* one length of vectors only */
	FEW = 64,    /* registers 0 to 5 only */
	LOCKED = 128 /* may have the prefix LOCK */
};

struct form {
	const char *name;
	enum encoding encoding;
	uint8_t prefix, map, opcode;
	int8_t extension;  /* of the opcode, in the place of a register; -1: a register */
	uint8_t immediate; /* its bytes; ANY_WIDTH: as many as the operand has, at most 4 */
	uint8_t size;      /* bytes stored; 0: the vector's, or the operand's */
	unsigned flags;
};

static const struct form forms[] = {
	{ "mov m8, r8", LEGACY, 0, 0, 0x88, -1, 0, 1, MADE | BYTE },
	{ "mov m, r", LEGACY, 0, 0, 0x89, -1, 0, 0, MADE | ANY_WIDTH },
	{ "mov m8, i8", LEGACY, 0, 0, 0xc6, 0, 1, 1, MADE },
	{ "mov m, i", LEGACY, 0, 0, 0xc7, 0, 4, 0, MADE | ANY_WIDTH },
	{ "mov m16, segment", LEGACY, 0, 0, 0x8c, -1, 0, 2, FEW },
	{ "movnti m32, r32", LEGACY, 0, 1, 0xc3, -1, 0, 4, 0 },
	{ "movnti m64, r64", LEGACY, 0, 1, 0xc3, -1, 0, 8, WIDE },
	{ "movups", LEGACY, 0, 1, 0x11, -1, 0, 16, MADE },
	{ "movupd", LEGACY, 0x66, 1, 0x11, -1, 0, 16, MADE },
	{ "movss", LEGACY, 0xf3, 1, 0x11, -1, 0, 4, MADE },
	{ "movsd", LEGACY, 0xf2, 1, 0x11, -1, 0, 8, MADE },
	{ "movaps", LEGACY, 0, 1, 0x29, -1, 0, 16, MADE | ALIGNED },
	{ "movapd", LEGACY, 0x66, 1, 0x29, -1, 0, 16, MADE | ALIGNED },
	{ "movlps", LEGACY, 0, 1, 0x13, -1, 0, 8, MADE },
	{ "movlpd", LEGACY, 0x66, 1, 0x13, -1, 0, 8, MADE },
	{ "movhps", LEGACY, 0, 1, 0x17, -1, 0, 8, 0 },
	{ "movhpd", LEGACY, 0x66, 1, 0x17, -1, 0, 8, 0 },
	{ "movntps", LEGACY, 0, 1, 0x2b, -1, 0, 16, ALIGNED },
	{ "movntpd", LEGACY, 0x66, 1, 0x2b, -1, 0, 16, ALIGNED },
	{ "movntdq", LEGACY, 0x66, 1, 0xe7, -1, 0, 16, ALIGNED },
	{ "movdqa", LEGACY, 0x66, 1, 0x7f, -1, 0, 16, MADE | ALIGNED },
	{ "movdqu", LEGACY, 0xf3, 1, 0x7f, -1, 0, 16, MADE },
	{ "movd m32, xmm", LEGACY, 0x66, 1, 0x7e, -1, 0, 4, MADE },
	{ "movq m64, xmm (7e)", LEGACY, 0x66, 1, 0x7e, -1, 0, 8, MADE | WIDE },
	{ "movq m64, xmm (d6)", LEGACY, 0x66, 1, 0xd6, -1, 0, 8, MADE },
	{ "movd m32, mm", LEGACY, 0, 1, 0x7e, -1, 0, 4, FEW },
	{ "movq m64, mm", LEGACY, 0, 1, 0x7f, -1, 0, 8, FEW },
	{ "movntq", LEGACY, 0, 1, 0xe7, -1, 0, 8, FEW },
	{ "movbe", LEGACY, 0, 2, 0xf1, -1, 0, 0, ANY_WIDTH },
	{ "movdiri", LEGACY, 0, 2, 0xf9, -1, 0, 4, 0 },
	{ "pextrb", LEGACY, 0x66, 3, 0x14, -1, 1, 1, 0 },
	{ "pextrw", LEGACY, 0x66, 3, 0x15, -1, 1, 2, 0 },
	{ "pextrd", LEGACY, 0x66, 3, 0x16, -1, 1, 4, 0 },
	{ "pextrq", LEGACY, 0x66, 3, 0x16, -1, 1, 8, WIDE },
	{ "extractps", LEGACY, 0x66, 3, 0x17, -1, 1, 4, 0 },
	{ "add m8, r8", LEGACY, 0, 0, 0x00, -1, 0, 1, BYTE | LOCKED },
	{ "add m, r", LEGACY, 0, 0, 0x01, -1, 0, 0, ANY_WIDTH | LOCKED },
	{ "adc m, r", LEGACY, 0, 0, 0x11, -1, 0, 0, ANY_WIDTH | LOCKED },
	{ "xor m, r", LEGACY, 0, 0, 0x31, -1, 0, 0, ANY_WIDTH | LOCKED },
	{ "or m8, i8", LEGACY, 0, 0, 0x80, 1, 1, 1, LOCKED },
	{ "sub m, i", LEGACY, 0, 0, 0x81, 5, 4, 0, ANY_WIDTH | LOCKED },
	{ "and m32, i8", LEGACY, 0, 0, 0x83, 4, 1, 4, LOCKED },
	{ "inc m", LEGACY, 0, 0, 0xff, 0, 0, 0, ANY_WIDTH | LOCKED },
	{ "dec m8", LEGACY, 0, 0, 0xfe, 1, 0, 1, LOCKED },
	{ "not m", LEGACY, 0, 0, 0xf7, 2, 0, 0, ANY_WIDTH | LOCKED },
	{ "neg m", LEGACY, 0, 0, 0xf7, 3, 0, 0, ANY_WIDTH | LOCKED },
	{ "shl m, 1", LEGACY, 0, 0, 0xd1, 4, 0, 0, ANY_WIDTH },
	{ "rcr m, 1", LEGACY, 0, 0, 0xd1, 3, 0, 0, ANY_WIDTH },
	{ "sar m64, 3", LEGACY, 0, 0, 0xc1, 7, 1, 8, WIDE },
	{ "bts m, i8", LEGACY, 0, 1, 0xba, 5, 1, 8, WIDE | LOCKED },
	{ "setc m8", LEGACY, 0, 1, 0x92, 0, 0, 1, 0 },
	{ "xchg m8, r8", LEGACY, 0, 0, 0x86, -1, 0, 1, BYTE | LOCKED },
	{ "xchg m, r", LEGACY, 0, 0, 0x87, -1, 0, 0, ANY_WIDTH | LOCKED },
	{ "cmpxchg m8, r8", LEGACY, 0, 1, 0xb0, -1, 0, 1, BYTE | LOCKED },
	{ "cmpxchg m, r", LEGACY, 0, 1, 0xb1, -1, 0, 0, ANY_WIDTH | LOCKED },
	{ "cmpxchg8b", LEGACY, 0, 1, 0xc7, 1, 0, 8, LOCKED },
	{ "cmpxchg16b", LEGACY, 0, 1, 0xc7, 1, 0, 16, WIDE | LOCKED | ALIGNED },
	{ "xadd m, r", LEGACY, 0, 1, 0xc1, -1, 0, 0, ANY_WIDTH | LOCKED },
	{ "stmxcsr", LEGACY, 0, 1, 0xae, 3, 0, 4, 0 },
	{ "fnstcw", LEGACY, 0, 0, 0xd9, 7, 0, 2, 0 },
	{ "fistp m64", LEGACY, 0, 0, 0xdf, 7, 0, 8, 0 },
	{ "vmovups", VEX, 0, 1, 0x11, -1, 0, 0, MADE },
	{ "vmovupd", VEX, 0x66, 1, 0x11, -1, 0, 0, MADE },
	{ "vmovss", VEX, 0xf3, 1, 0x11, -1, 0, 4, MADE | SHORT },
	{ "vmovsd", VEX, 0xf2, 1, 0x11, -1, 0, 8, MADE | SHORT },
	{ "vmovaps", VEX, 0, 1, 0x29, -1, 0, 0, MADE | ALIGNED },
	{ "vmovapd", VEX, 0x66, 1, 0x29, -1, 0, 0, MADE | ALIGNED },
	{ "vmovlps", VEX, 0, 1, 0x13, -1, 0, 8, SHORT },
	{ "vmovhps", VEX, 0, 1, 0x17, -1, 0, 8, SHORT },
	{ "vmovntps", VEX, 0, 1, 0x2b, -1, 0, 0, ALIGNED },
	{ "vmovntdq", VEX, 0x66, 1, 0xe7, -1, 0, 0, ALIGNED },
	{ "vmovdqa", VEX, 0x66, 1, 0x7f, -1, 0, 0, MADE | ALIGNED },
	{ "vmovdqu", VEX, 0xf3, 1, 0x7f, -1, 0, 0, MADE },
	{ "vmovd", VEX, 0x66, 1, 0x7e, -1, 0, 4, MADE | SHORT },
	{ "vmovq (7e)", VEX, 0x66, 1, 0x7e, -1, 0, 8, MADE | SHORT | WIDE },
	{ "vmovq (d6)", VEX, 0x66, 1, 0xd6, -1, 0, 8, MADE | SHORT },
	{ "vextractf128", VEX, 0x66, 3, 0x19, -1, 1, 16, 0 },
	{ "kmovw", VEX, 0, 1, 0x91, -1, 0, 2, SHORT | FEW },
	{ "kmovq", VEX, 0, 1, 0x91, -1, 0, 8, SHORT | FEW | WIDE },
	{ "vmovups (evex)", EVEX, 0, 1, 0x11, -1, 0, 0, MADE },
	{ "vmovupd (evex)", EVEX, 0x66, 1, 0x11, -1, 0, 0, MADE | WIDE },
	{ "vmovss (evex)", EVEX, 0xf3, 1, 0x11, -1, 0, 4, MADE | SHORT },
	{ "vmovsd (evex)", EVEX, 0xf2, 1, 0x11, -1, 0, 8, MADE | SHORT | WIDE },
	{ "vmovaps (evex)", EVEX, 0, 1, 0x29, -1, 0, 0, MADE | ALIGNED },
	{ "vmovapd (evex)", EVEX, 0x66, 1, 0x29, -1, 0, 0, MADE | ALIGNED | WIDE },
	{ "vmovdqa32", EVEX, 0x66, 1, 0x7f, -1, 0, 0, MADE | ALIGNED },
	{ "vmovdqa64", EVEX, 0x66, 1, 0x7f, -1, 0, 0, MADE | ALIGNED | WIDE },
	{ "vmovdqu8", EVEX, 0xf2, 1, 0x7f, -1, 0, 0, MADE },
	{ "vmovdqu16", EVEX, 0xf2, 1, 0x7f, -1, 0, 0, MADE | WIDE },
	{ "vmovdqu32", EVEX, 0xf3, 1, 0x7f, -1, 0, 0, MADE },
	{ "vmovdqu64", EVEX, 0xf3, 1, 0x7f, -1, 0, 0, MADE | WIDE },
	{ "vmovntdq (evex)", EVEX, 0x66, 1, 0xe7, -1, 0, 0, ALIGNED },
	{ "vcompressps", EVEX, 0x66, 2, 0x8a, -1, 0, 4, 0 },
	{ "vpcompressq", EVEX, 0x66, 2, 0x8b, -1, 0, 8, WIDE },
	{ "vpmovqb", EVEX, 0xf3, 2, 0x32, -1, 0, 8, 0 },
	{ "vpmovdw", EVEX, 0xf3, 2, 0x33, -1, 0, 32, 0 },
	{ "vextractf64x4", EVEX, 0x66, 3, 0x1b, -1, 1, 32, WIDE },
};
#define FORMS (sizeof forms / sizeof *forms)

/* One instruction of a form, as it has been thrown. */
struct thrown {
	const struct form *form;
	unsigned segment; /* prefix, or 0 */
	bool narrow;      /* addresses of 32 bits */
	bool rex, wide, word, locked;
	unsigned number; /* of the register, or the opcode's extension */
	unsigned length, mask;
	unsigned size;
	enum { BASE, BASE_INDEX, INDEX, ABSOLUTE, RELATIVE } mode;
	unsigned base, index, scale; /* scale: 0 to 3 */
	int32_t displacement;
	unsigned bytes; /* of it: 0, 1, 4 */
	uint64_t target;
};

#define IS_FS_GS(segment) ((segment) == 0x64 || (segment) == 0x65)

static void throw_prefixes(struct thrown *t)
{
	static const unsigned segments[] = { 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65 };
	const struct form *form = t->form;

	t->segment = dice(12) == 0 ? segments[dice(6)] : 0;
	t->narrow = dice(12) == 0 && !IS_FS_GS(t->segment);
	t->wide = form->flags & WIDE || (form->flags & ANY_WIDTH && dice(3) == 0);
	t->word = form->flags & ANY_WIDTH && !t->wide && dice(3) == 0;
	t->locked = form->flags & LOCKED && dice(3) == 0;
}

static void throw_operand(struct thrown *t)
{
	const struct form *form = t->form;
	unsigned registers = form->flags & FEW ? 6 : form->encoding == EVEX ? 32 : 16;

	t->number = form->extension >= 0 ? (unsigned)form->extension : (unsigned)dice(registers);
	t->length = form->encoding == LEGACY || form->flags & SHORT ? 0 : (unsigned)dice(form->encoding + 1);
	if (form->map == 3 && form->encoding != LEGACY)
		t->length = form->encoding; /* what extracts */
	t->mask = form->encoding == EVEX && form->opcode != 0xe7 ? (unsigned)dice(8) : 0;
	t->size = form->size ? form->size : 16u << t->length;
	if (form->flags & ANY_WIDTH)
		t->size = t->wide ? 8 : t->word ? 2 : 4;
	t->rex = form->flags & BYTE ? dice(2) : false;
}

static void throw_address(struct thrown *t)
{
	bool any_mode = !IS_FS_GS(t->segment);

	t->mode = any_mode ? dice(5) : dice(2);
	t->base = (unsigned)dice(16);
	do
		t->index = (unsigned)dice(16);
	while (t->index == RSP || t->index == t->base);
	t->scale = (unsigned)dice(4);
	t->displacement = (int32_t)any();
	t->bytes = 4;
	if (t->mode <= BASE_INDEX) {
		t->bytes = dice(3) == 0 && (t->base & 7) != RBP ? 0 : dice(2) ? 1 : 4;
		if (t->form->encoding == EVEX && t->bytes == 1)
			t->bytes = 4; /* there the byte is scaled */
		t->displacement = t->bytes == 0 ? 0 : t->bytes == 1 ? (int8_t)any() : (int32_t)any();
	}
}

static void throw_target(struct thrown *t, uint64_t region)
{
	unsigned edge = dice(2) ? LH_PAGE_SIZE : LH_LINE_SIZE, size = t->size;
	uint64_t at = region + LH_PAGE_SIZE + dice(LH_PAGE_SIZE);

	if (dice(2) == 0)
		at = region + LH_PAGE_SIZE + edge * (1 + dice(LH_PAGE_SIZE / edge)) - 1 - dice(size);
	if (t->form->flags & ALIGNED && dice(16))
		at &= ~(uint64_t)((t->form->size ? t->form->size : 16u << t->length) - 1);
	/* A locked access across lines stops the whole machine for a while; some kernels add a pause. */
	if (t->form->flags & LOCKED && dice(64))
		at &= ~(uint64_t)(size - 1);
	t->target = at;
}

static void put_modrm(struct code *code, const struct thrown *t, unsigned after)
{
	unsigned number = (t->number & 7) << 3, mod = t->bytes == 0 ? 0 : t->bytes == 1 ? 0x40 : 0x80;
	unsigned sib = t->scale << 6 | (t->index & 7) << 3;

	if (t->mode == BASE && (t->base & 7) != RSP) {
		put(code, mod | number | (t->base & 7), 1);
	} else if (t->mode == BASE) {
		put(code, mod | number | 4, 1);
		put(code, 0x20 | (t->base & 7), 1);
	} else if (t->mode == BASE_INDEX) {
		put(code, mod | number | 4, 1);
		put(code, sib | (t->base & 7), 1);
	} else if (t->mode == INDEX || t->mode == ABSOLUTE) {
		put(code, number | 4, 1);
		put(code, t->mode == INDEX ? sib | 5 : 0x25, 1);
	} else {
		put(code, number | 5, 1);
		put(code, t->target - ((uintptr_t)code->at + code->length + 4 + after), 4);
		return;
	}
	put(code, t->mode == ABSOLUTE ? t->target : (uint64_t)(int64_t)t->displacement, t->bytes);
}

static unsigned base_bit(const struct thrown *t)
{
	return t->mode <= BASE_INDEX ? t->base >> 3 : 0;
}
static unsigned index_bit(const struct thrown *t)
{
	return t->mode == BASE_INDEX || t->mode == INDEX ? t->index >> 3 : 0;
}

static void put_legacy(struct code *code, const struct thrown *t)
{
	unsigned rex = (unsigned)t->wide << 3 | (t->number >> 3 & 1) << 2 | index_bit(t) << 1 | base_bit(t);

	if (t->locked)
		put(code, 0xf0, 1);
	if (t->word)
		put(code, 0x66, 1);
	if (t->form->prefix)
		put(code, t->form->prefix, 1);
	if (rex || t->rex)
		put(code, 0x40 | rex, 1);
	if (t->form->map)
		put(code, 0x0f, 1);
	if (t->form->map >= 2)
		put(code, t->form->map == 2 ? 0x38 : 0x3a, 1);
}

static unsigned prefix_number(const struct form *form)
{
	return form->prefix == 0x66 ? 1 : form->prefix == 0xf3 ? 2 : form->prefix == 0xf2 ? 3 : 0;
}

static void put_vex(struct code *code, const struct thrown *t)
{
	unsigned bits = (t->number >> 3 & 1) << 7 | index_bit(t) << 6 | base_bit(t) << 5;

	put(code, 0xc4, 1);
	put(code, (bits ^ 0xe0) | t->form->map, 1);
	put(code, (unsigned)t->wide << 7 | 0x78 | (t->length & 1) << 2 | prefix_number(t->form), 1);
}

static void put_evex(struct code *code, const struct thrown *t)
{
	unsigned bits =
		(t->number >> 3 & 1) << 7 | index_bit(t) << 6 | base_bit(t) << 5 | (t->number >> 4 & 1) << 4;

	put(code, 0x62, 1);
	put(code, (bits ^ 0xf0) | t->form->map, 1);
	put(code, (unsigned)t->wide << 7 | 0x7c | prefix_number(t->form), 1);
	put(code, t->length << 5 | 8 | t->mask, 1);
}

static void put_instruction(struct code *code, const struct thrown *t)
{
	unsigned immediate = t->form->immediate == 4 && t->word ? 2 : t->form->immediate;

	if (t->segment)
		put(code, t->segment, 1);
	if (t->narrow)
		put(code, 0x67, 1);
	if (t->form->encoding == LEGACY)
		put_legacy(code, t);
	else if (t->form->encoding == VEX)
		put_vex(code, t);
	else
		put_evex(code, t);
	put(code, t->form->opcode, 1);
	put_modrm(code, t, immediate);
	put(code, any(), immediate);
}

static uint64_t segment_base(unsigned segment)
{
	uint64_t base = 0;

	if (segment == 0x64)
		__asm__("mov %%fs:0, %0" : "=r"(base));
	return base;
}

/* Registers with which the address is the target. */
static void aim(const struct thrown *t, struct machine *machine)
{
	uint64_t *general = machine->general, sum = (uint64_t)(int64_t)t->displacement;

	if (t->mode == INDEX) {
		general[t->index] = (t->target - sum) >> t->scale;
		return;
	}
	if (t->mode == BASE_INDEX)
		sum += general[t->index] << t->scale;
	if (t->mode <= BASE_INDEX) {
		general[t->base] = t->target - sum - segment_base(t->segment);
		if (t->narrow)
			general[t->base] ^= any() << 32;
	}
}

static void make(struct thrown *t, const struct form *form, uint64_t region)
{
	*t = (struct thrown){ .form = form };
	throw_prefixes(t);
	throw_operand(t);
	throw_address(t);
	throw_target(t, region);
	/* Without a base the displacement has to leave what the scale can reach. */
	if (t->mode == INDEX)
		t->displacement = (int32_t)((t->displacement & ~7) | (int32_t)(t->target & 7));
}

/* Whether the pool has to make it itself, when it is asked. */
static bool is_made(const struct thrown *t)
{
	return t->form->flags & MADE && !t->narrow && !IS_FS_GS(t->segment) &&
	       t->target % LH_PAGE_SIZE + t->size <= LH_PAGE_SIZE;
}

/* ---- running them ---- */

static struct outcome native, seen;

static void tell(const char *what, const struct code *code, const struct machine *before)
{
	printf("# %s differs:", what);
	for (unsigned i = 0; i < code->length - 14; i++)
		printf(" %02x", code->at[i]);
	printf("; signals %d and %d, flags %lx: %lx and %lx, level %lu\n", native.signal, seen.signal,
	       before->flags, native.after.flags, seen.after.flags, before->level);
	for (unsigned i = 0; i < REGION; i++)
		if (native.memory[i] != seen.memory[i]) {
			printf("# byte %u: %02x and %02x\n", i, native.memory[i], seen.memory[i]);
			break;
		}
	for (unsigned i = 0; i < 16; i++)
		if (native.after.general[i] != seen.after.general[i])
			printf("# register %u: %lx, then %lx and %lx\n", i, before->general[i],
			       native.after.general[i], seen.after.general[i]);
}

/* Both runs; false, with the reason told, where they differ. */
static bool same(struct machine_pool *pool, const struct code *code, const struct machine *before)
{
	const char *what;

	if (!machine_run(pool, before, true, &native) || !machine_run(pool, before, false, &seen)) {
		printf("# a run was not undone\n");
		tell("the abort", code, before);
		return false;
	}
	what = machine_differs(&native, &seen);
	if (what)
		tell(what, code, before);
	if (native.faults != 0)
		printf("# faults on memory that is open\n");
	return !what && native.faults == 0;
}

/* Somewhere in the page, or where it ends in or just before the next one. */
static struct code new_code(struct machine *before)
{
	unsigned offset = dice(2) ? (unsigned)dice(2048) : LH_PAGE_SIZE - (unsigned)dice(16);
	struct code code = { .at = (unsigned char *)CODE_ADDRESS + offset };

	before->code = (uintptr_t)code.at;
	return code;
}

static bool crosses_page(const struct code *code, unsigned length)
{
	return (uintptr_t)code->at % LH_PAGE_SIZE + length > LH_PAGE_SIZE;
}

static void form_is_right(struct machine_pool *pool, const struct form *form, const char *way)
{
	unsigned wrong = 0, illegal = 0, not_made = 0;

	for (unsigned i = 0; i < ROUNDS && wrong < 3; i++) {
		struct machine before;
		struct code code;
		struct thrown t;
		unsigned length;

		machine_randomize(&before);
		make(&t, form, (uintptr_t)pool->region);
		aim(&t, &before);
		code = new_code(&before);
		put_instruction(&code, &t);
		length = code.length;
		put_end(&code);
		wrong += !same(pool, &code, &before);
		illegal += native.signal == SIGILL;
		not_made += is_made(&t) && seen.protections && !crosses_page(&code, length);
	}
	if (illegal == ROUNDS && wrong == 0) {
		skip(form->name, "this processor does not know it");
		return;
	}
	ok(wrong == 0, "%s, %s: what the processor does", form->name, way);
	if (form->flags & MADE && way[0] == 'c')
		is(not_made, 0, "%s, %s: made by the pool, without a page being opened", form->name, way);
}

/* ---- what has its operands elsewhere: strings, the stack, absolute addresses ---- */

enum raw_kind { STRING_DI, STRING_BOTH, STACK, STACK_AND_MEMORY, OFFSET };
struct raw {
	const char *name;
	enum raw_kind kind;
	bool made;
	bool repeats; /* may have prefixes that repeat */
	unsigned char bytes[4];
	unsigned char length, immediate;
};

static const struct raw raws[] = {
	{ "stos, bytes", STRING_DI, true, true, { 0xaa }, 1, 0 },
	{ "stos", STRING_DI, true, true, { 0xab }, 1, 0 },
	{ "movs, bytes", STRING_BOTH, false, true, { 0xa4 }, 1, 0 },
	{ "movs", STRING_BOTH, false, true, { 0xa5 }, 1, 0 },
	{ "push r", STACK, false, false, { 0x53 }, 1, 0 },
	{ "push rsp", STACK, false, false, { 0x54 }, 1, 0 },
	{ "push i8", STACK, false, false, { 0x6a }, 1, 1 },
	{ "push i32", STACK, false, false, { 0x68 }, 1, 4 },
	{ "push fs", STACK, false, false, { 0x0f, 0xa0 }, 2, 0 },
	{ "push flags", STACK, false, false, { 0x9c }, 1, 0 },
	{ "push m", STACK_AND_MEMORY, false, false, { 0xff, 0x36 }, 2, 0 },
	{ "pop m", STACK_AND_MEMORY, false, false, { 0x8f, 0x06 }, 2, 0 },
	{ "call", STACK, false, false, { 0xe8, 0, 0, 0 }, 4, 1 },
	{ "enter", STACK, false, false, { 0xc8, 0x20, 0, 0 }, 4, 0 },
	{ "mov offset, al", OFFSET, true, false, { 0xa2 }, 1, 0 },
	{ "mov offset, a", OFFSET, true, false, { 0xa3 }, 1, 0 },
	{ "maskmovdqu", STRING_DI, false, false, { 0x66, 0x0f, 0xf7, 0xca }, 4, 0 },
};
#define RAWS (sizeof raws / sizeof *raws)

static void raw_registers(const struct raw *raw, uint64_t region, struct machine *before)
{
	uint64_t target = region + LH_PAGE_SIZE + dice(2 * LH_PAGE_SIZE - 64);

	if (dice(3) == 0)
		target = region + 2 * LH_PAGE_SIZE - dice(40);
	before->general[RCX] = dice(4) == 0 ? dice(3) : dice(300);
	if (raw->kind == STRING_DI || raw->kind == STRING_BOTH)
		before->general[RDI] = target;
	if (raw->kind == STRING_BOTH || raw->kind == STACK_AND_MEMORY)
		before->general[RSI] = region + LH_PAGE_SIZE + dice(2 * LH_PAGE_SIZE - 64);
	if (raw->kind == STACK || raw->kind == STACK_AND_MEMORY)
		before->general[RSP] = target + 8;
}

static void put_raw(struct code *code, const struct raw *raw, uint64_t region, bool *plain)
{
	unsigned repeat = raw->repeats && dice(2) ? (dice(4) ? 0xf3 : 0xf2) : 0;
	bool narrow = dice(8) == 0 && raw->kind != STACK && raw->kind != OFFSET;
	uint32_t bytes;

	*plain = repeat != 0xf2 && !narrow;
	if (repeat)
		put(code, repeat, 1);
	if (narrow)
		put(code, 0x67, 1);
	if (dice(4) == 0 && raw->kind != STACK && raw->bytes[0] != 0x66)
		put(code, 0x66, 1);
	if (dice(4) == 0 && (raw->repeats || raw->kind == OFFSET))
		put(code, 0x48, 1);
	memcpy(&bytes, raw->bytes, sizeof bytes);
	put(code, bytes, raw->length);
	put(code, raw->bytes[0] == 0xe8 ? 0 : any(), raw->immediate);
	if (raw->kind == OFFSET)
		put(code, region + LH_PAGE_SIZE + dice(LH_PAGE_SIZE - 8), 8);
}

static void raw_is_right(struct machine_pool *pool, const struct raw *raw, const char *way)
{
	unsigned wrong = 0, not_made = 0;

	for (unsigned i = 0; i < ROUNDS && wrong < 3; i++) {
		struct machine before;
		struct code code;
		unsigned length;
		bool plain;

		machine_randomize(&before);
		raw_registers(raw, (uintptr_t)pool->region, &before);
		code = new_code(&before);
		put_raw(&code, raw, (uintptr_t)pool->region, &plain);
		length = code.length;
		put_end(&code);
		wrong += !same(pool, &code, &before);
		not_made += raw->kind == OFFSET && seen.protections && !crosses_page(&code, length);
		/* Elements of 8 bytes may cross the page's end; bytes never do. */
		not_made += raw->bytes[0] == 0xaa && plain && !(before.flags & 0x400) && seen.protections &&
		            !crosses_page(&code, length);
	}
	ok(wrong == 0, "%s, %s: what the processor does", raw->name, way);
	if (raw->made && way[0] == 'c')
		is(not_made, 0, "%s, %s: made by the pool, without a page being opened", raw->name, way);
}

/* ---- that a difference is seen ---- */

/* Two instructions in the place of one: what differs of what they leave. */
static const char *difference(struct machine_pool *pool, const char *one, const char *other)
{
	struct machine before;

	machine_randomize(&before);
	before.level = before.cpu;
	before.mask[1] = 5;
	before.general[RDI] = (uintptr_t)pool->region;
	before.code = CODE_ADDRESS;
	for (unsigned i = 0; i < 2; i++) {
		const char *text = i == 0 ? one : other;
		struct code code = { .at = (unsigned char *)CODE_ADDRESS };

		memcpy(code.at, text, strlen(text));
		code.length = (unsigned)strlen(text);
		put_end(&code);
		if (!machine_run(pool, &before, i == 0, i == 0 ? &native : &seen))
			return "the abort";
	}
	return machine_differs(&native, &seen);
}

static void differences_are_seen(struct machine_pool *pool)
{
	static const struct {
		const char *one, *other, *what;
		unsigned cpu;
	} cases[] = {
		{ "\xc6\x07\x01", "\xc6\x07\x01", NULL, 0 },
		{ "\xc6\x07\x01", "\xc6\x07\x02", "memory", 0 },
		{ "\xc6\x07\x01\xf8", "\xc6\x07\x01\xf9", "the flags", 0 },
		{ "\xc6\x07\x01\x90", "\xc6\x07\x01\xff\xc7", "a general register", 0 },
		{ "\xc6\x07\x01\x90", "\xc6\x07\x01\x0f\x57\xff", "a vector register", 0 },
		{ "\xc6\x07\x01\x90", "\xc6\x07\x01\x0f\x0b", "the signal", 0 },
		{ "\xc6\x07\x01\x90", "\xc6\x07\x01\xc5\xf4\x47\xc9", "a mask register", LEVEL_AVX512 },
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		const char *what = cases[i].what ? cases[i].what : "nothing";
		const char *found = NULL;

		if (machine_cpu() < cases[i].cpu) {
			skip(what, "this processor has none");
			continue;
		}
		found = difference(pool, cases[i].one, cases[i].other);
		ok(strcmp(found ? found : "nothing", what) == 0, "%s differs: seen (%s)", what,
		   found ? found : "nothing");
	}
}

static void all_forms(enum lh_see see, const char *way)
{
	struct machine_pool pool;

	if (!ok(machine_open(&pool, see) == 0, "a pool, %s", way))
		return;
	differences_are_seen(&pool);
	for (unsigned i = 0; i < FORMS; i++)
		form_is_right(&pool, &forms[i], way);
	for (unsigned i = 0; i < RAWS; i++)
		raw_is_right(&pool, &raws[i], way);
	machine_close(&pool);
}

int main(void)
{
	machine_seed = random_seed();
	printf("# LH_TEST_SEED=%lu\n", (unsigned long)machine_seed);
	machine_begin();
	if (mmap((void *)CODE_ADDRESS, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED) {
		skip("stores against the processor",
		     "the address for code is taken, or code may not be written");
		return done();
	}
	all_forms(LH_SEE_CHECKED, "checked");
	all_forms(LH_SEE_PAGE, "page");
	return done();
}
