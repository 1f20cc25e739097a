/*
 * translate_stream.h - random instructions that run anywhere: a generator, a start state, and a way to run
 * them, natively or translated.
 *
 * rbx leads to the data, r15 is a small index, rsp leads to a stack of the stream's own; nothing writes to
 * the three but push, pop, call and ret. Everything else is random, values too. What is not the same on each
 * run, or would fault, is not generated.
 */
#ifndef TRANSLATE_STREAM_H
#define TRANSLATE_STREAM_H

#include <Zydis/Zydis.h>
#include <cpuid.h>
#include <sys/mman.h>

#include "translate_code.h"
#include "translate_pieces.h"

#define CODE_BYTES 16384u
#define DATA_BYTES 4096u
#define AREA_BYTES (CODE_BYTES + 2 * DATA_BYTES) /* code, data, stack */
#define VECTOR_AREA 4096u

struct stream_state {
	uint64_t general[16], flags;
	uint64_t stack; /* of who runs it */
	uint64_t code;
	uint8_t vector[VECTOR_AREA] __attribute__((aligned(64)));
};
/* What the code below starts from, and leaves. */
struct stream_state stream_now;
extern const char stream_exit[];
void stream_enter(void);

/* 0: rax ... as in stream_state; vectors by xsave. */
__asm__(".text\n.globl stream_enter, stream_exit\n.type stream_enter, @function\nstream_enter:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "lea stream_now(%rip), %r15\nmov %rsp, 136(%r15)\n"
        "mov $0xe7, %eax\nxor %edx, %edx\nxrstor64 192(%r15)\n"
        "push 128(%r15)\npopfq\n"
        "mov 0(%r15), %rax\nmov 8(%r15), %rcx\nmov 16(%r15), %rdx\nmov 24(%r15), %rbx\n"
        "mov 32(%r15), %rsp\nmov 40(%r15), %rbp\nmov 48(%r15), %rsi\nmov 56(%r15), %rdi\n"
        "mov 64(%r15), %r8\nmov 72(%r15), %r9\nmov 80(%r15), %r10\nmov 88(%r15), %r11\n"
        "mov 96(%r15), %r12\nmov 104(%r15), %r13\nmov 112(%r15), %r14\nmov 120(%r15), %r15\n"
        "jmp *stream_now+144(%rip)\n"
        "stream_exit:\n"
        "mov %r15, stream_now+120(%rip)\nlea stream_now(%rip), %r15\n"
        "mov %rax, 0(%r15)\nmov %rcx, 8(%r15)\nmov %rdx, 16(%r15)\nmov %rbx, 24(%r15)\n"
        "mov %rsp, 32(%r15)\nmov %rbp, 40(%r15)\nmov %rsi, 48(%r15)\nmov %rdi, 56(%r15)\n"
        "mov %r8, 64(%r15)\nmov %r9, 72(%r15)\nmov %r10, 80(%r15)\nmov %r11, 88(%r15)\n"
        "mov %r12, 96(%r15)\nmov %r13, 104(%r15)\nmov %r14, 112(%r15)\n"
        "mov 136(%r15), %rsp\npushfq\npop 128(%r15)\n"
        "mov $0xe7, %eax\nxor %edx, %edx\nxsave64 192(%r15)\ncld\nemms\nldmxcsr 1f(%rip)\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
        ".p2align 2\n1: .long 0x1f80\n.size stream_enter, .-stream_enter\n");

struct stream {
	uint64_t seed;
	uint8_t *area;   /* code, data, stack: within reach of each other */
	size_t used;     /* of the code */
	bool wide;       /* AVX-512 */
	bool avx, moves; /* AVX2; movdir64b */
	bool compresses; /* AVX-512 VBMI2 */
	int pushed;
	bool stepped; /* by the trap flag */
	bool counted; /* will be stepped */
	bool called;  /* a return address is at rsp */
};

static inline uint64_t draw(struct stream *stream, uint64_t below)
{
	stream->seed ^= stream->seed << 13;
	stream->seed ^= stream->seed >> 7;
	stream->seed ^= stream->seed << 17;
	return (stream->seed * 0x2545f4914f6cdd1dull >> 20) % below;
}

/* ---- operands */

static const uint8_t free_registers[] = { 0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 };

static ZydisRegister general_register(unsigned number, unsigned width)
{
	static const ZydisRegister low[] = { ZYDIS_REGISTER_AL,   ZYDIS_REGISTER_CL,   ZYDIS_REGISTER_DL,
		                             ZYDIS_REGISTER_BL,   ZYDIS_REGISTER_SPL,  ZYDIS_REGISTER_BPL,
		                             ZYDIS_REGISTER_SIL,  ZYDIS_REGISTER_DIL,  ZYDIS_REGISTER_R8B,
		                             ZYDIS_REGISTER_R9B,  ZYDIS_REGISTER_R10B, ZYDIS_REGISTER_R11B,
		                             ZYDIS_REGISTER_R12B, ZYDIS_REGISTER_R13B, ZYDIS_REGISTER_R14B };

	if (width == 1)
		return low[number];
	return (ZydisRegister)((width == 2   ? ZYDIS_REGISTER_AX
	                        : width == 4 ? ZYDIS_REGISTER_EAX
	                                     : ZYDIS_REGISTER_RAX) +
	                       (int)number);
}

/* r: general; m: memory; i: constant; x, y, z: vectors. */
static void make_operand(struct stream *stream, ZydisEncoderOperand *operand, char kind, unsigned width)
{
	unsigned number = free_registers[draw(stream, sizeof(free_registers))];

	switch (kind) {
	case 'r':
		operand->type = ZYDIS_OPERAND_TYPE_REGISTER;
		operand->reg.value = general_register(number, width);
		break;
	case 'i':
	case 'b':
		operand->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
		operand->imm.s = kind == 'b' || width == 1 ? (int8_t)draw(stream, 128)
		                 : width == 2              ? (int16_t)draw(stream, 65536)
		                                           : (int32_t)draw(stream, 1ull << 32);
		break;
	case 'x':
	case 'y':
	case 'z':
		operand->type = ZYDIS_OPERAND_TYPE_REGISTER;
		operand->reg.value = (ZydisRegister)((kind == 'x'   ? ZYDIS_REGISTER_XMM0
		                                      : kind == 'y' ? ZYDIS_REGISTER_YMM0
		                                                    : ZYDIS_REGISTER_ZMM0) +
		                                     (int)draw(stream, kind == 'z' ? 32 : 16));
		break;
	default:
		operand->type = ZYDIS_OPERAND_TYPE_MEMORY;
		operand->mem.size = (uint16_t)width;
		operand->mem.base = ZYDIS_REGISTER_RBX;
		operand->mem.displacement = (int64_t)draw(stream, DATA_BYTES / 64) * 64;
		if (width <= 8 && draw(stream, 4) == 0)
			operand->mem.displacement = (int64_t)draw(stream, 16) * 8;
		if (width >= 16)
			break;
		switch (draw(stream, 6)) {
		case 0:
			operand->mem.index = ZYDIS_REGISTER_R15;
			operand->mem.scale = (uint8_t)(1u << draw(stream, 4));
			operand->mem.displacement = (int64_t)draw(stream, 256);
			break;
		case 1: operand->mem.base = ZYDIS_REGISTER_RIP; break;
		case 2:
			if (stream->called)
				break;
			operand->mem.base = ZYDIS_REGISTER_RSP;
			operand->mem.displacement = (int64_t)draw(stream, 64) * 8 - 256;
			break;
		default: break;
		}
	}
}

/* ---- instructions */

struct pattern {
	ZydisMnemonic mnemonic;
	const char *operands; /* of make_operand */
	const char *widths;   /* in bytes: 1248, x16, y32, z64 */
	uint64_t prefixes;
};

#define M(name) ZYDIS_MNEMONIC_##name
#define BOTH(name)                                                                                           \
	{ M(name), "rr", "1248", 0 }, { M(name), "rm", "1248", 0 }, { M(name), "mr", "1248", 0 },            \
		{ M(name), "ri", "1248", 0 },                                                                \
	{                                                                                                    \
		M(name), "mi", "1248", 0                                                                     \
	}
#define LOCKED(name)                                                                                         \
	{                                                                                                    \
		M(name), "mr", "1248", ZYDIS_ATTRIB_HAS_LOCK                                                 \
	}
#define ONE(name)                                                                                            \
	{ M(name), "r", "1248", 0 },                                                                         \
	{                                                                                                    \
		M(name), "m", "1248", 0                                                                      \
	}
#define SSE(name)                                                                                            \
	{ M(name), "xx", "x", 0 },                                                                           \
	{                                                                                                    \
		M(name), "xm", "x", 0                                                                        \
	}
#define AVX(name)                                                                                            \
	{ M(name), "yyy", "y", 0 }, { M(name), "yym", "y", 0 },                                              \
	{                                                                                                    \
		M(name), "zzm", "z", 0                                                                       \
	}
#define MOVES(name, c, w)                                                                                    \
	{ M(name), c "m", w, 0 },                                                                            \
	{                                                                                                    \
		M(name), "m" c, w, 0                                                                         \
	}

static const struct pattern patterns[] = {
	BOTH(ADD),
	BOTH(ADC),
	BOTH(SUB),
	BOTH(SBB),
	BOTH(AND),
	BOTH(OR),
	BOTH(XOR),
	BOTH(CMP),
	BOTH(MOV),
	BOTH(MOV),
	{ M(TEST), "rr", "1248", 0 },
	{ M(TEST), "mi", "1248", 0 },
	{ M(XCHG), "rr", "1248", 0 },
	{ M(XCHG), "mr", "1248", 0 },
	{ M(XADD), "mr", "1248", 0 },
	{ M(CMPXCHG), "mr", "1248", 0 },
	LOCKED(ADD),
	LOCKED(XADD),
	LOCKED(CMPXCHG),
	LOCKED(XOR),
	ONE(INC),
	ONE(DEC),
	ONE(NEG),
	ONE(NOT),
	ONE(MUL),
	ONE(IMUL),
	{ M(IMUL), "rr", "248", 0 },
	{ M(IMUL), "rmi", "248", 0 },
	{ M(SHL), "rb", "1248", 0 },
	{ M(SHR), "mb", "1248", 0 },
	{ M(SAR), "rb", "1248", 0 },
	{ M(ROL), "rb", "1248", 0 },
	{ M(RCR), "mb", "1248", 0 },
	{ M(SHLD), "rrb", "248", 0 },
	{ M(SHRD), "mrb", "248", 0 },
	{ M(BT), "rr", "248", 0 },
	{ M(BTS), "mb", "248", 0 },
	{ M(BTR), "rr", "248", 0 },
	{ M(BTC), "mb", "248", 0 },
	{ M(BSF), "rm", "248", 0 },
	{ M(BSR), "rr", "248", 0 },
	{ M(POPCNT), "rm", "248", 0 },
	{ M(TZCNT), "rr", "248", 0 },
	{ M(LEA), "rm", "48", 0 },
	{ M(BSWAP), "r", "48", 0 },
	{ M(CMOVB), "rm", "248", 0 },
	{ M(CMOVNZ), "rr", "248", 0 },
	{ M(CMOVLE), "rm", "248", 0 },
	{ M(SETO), "r", "1", 0 },
	{ M(SETNB), "m", "1", 0 },
	{ M(SETP), "r", "1", 0 },
	{ M(CDQ), "", "4", 0 },
	{ M(CWDE), "", "4", 0 },
	{ M(CLC), "", "4", 0 },
	{ M(STC), "", "4", 0 },
	{ M(CMC), "", "4", 0 },
	{ M(LAHF), "", "4", 0 },
	{ M(SAHF), "", "4", 0 },
	{ M(MOVBE), "rm", "248", 0 },
	{ M(ANDN), "rrm", "48", 0 },
	{ M(PEXT), "rrm", "48", 0 },
	{ M(SHLX), "rmr", "48", 0 },
	{ M(RORX), "rmb", "48", 0 },
	{ M(MULX), "rrm", "48", 0 },
	{ M(ADCX), "rm", "48", 0 },
	{ M(CRC32), "rm", "4", 0 },
	{ M(PUSHFQ), "", "p", 0 },
	MOVES(MOVDQU, "x", "x"),
	MOVES(MOVUPS, "x", "x"),
	MOVES(MOVQ, "x", "8"),
	MOVES(VMOVDQU, "y", "y"),
	MOVES(VMOVUPS, "y", "y"),
	MOVES(VMOVDQU64, "z", "z"),
	SSE(PADDD),
	SSE(PXOR),
	SSE(PSHUFB),
	SSE(ADDPS),
	SSE(MULPD),
	SSE(PCMPEQB),
	SSE(UNPCKLPS),
	SSE(PMULLD),
	SSE(PCMPISTRI),
	SSE(ANDPS),
	AVX(VPXORD),
	AVX(VPXOR),
	AVX(VPADDQ),
	AVX(VADDPD),
	AVX(VPSHUFB),
	AVX(VPMINUD),
	{ M(PTEST), "xm", "x", 0 },
	{ M(PMOVMSKB), "rx", "4", 0 },
	{ M(CVTSI2SD), "xr", "8", 0 },
	{ M(CVTTSD2SI), "rx", "8", 0 },
	{ M(UCOMISD), "xx", "x", 0 },
	{ M(MOVNTDQ), "mx", "x", 0 },
	{ M(MOVNTI), "mr", "48", 0 },
	{ M(AESENC), "xm", "x", 0 },
	{ M(FLD), "m", "8", 0 },
	{ M(FSTP), "m", "8", 0 },
	{ M(FADD), "m", "8", 0 },
	{ M(FLD1), "", "4", 0 },
	{ M(FCHS), "", "4", 0 },
	{ M(FILD), "m", "8", 0 },
	{ M(FNSTSW), "m", "2", 0 },
	{ M(FNSTCW), "m", "2", 0 },
	{ M(STMXCSR), "m", "4", 0 },
	{ M(CLFLUSH), "m", "1", 0 },
	{ M(PREFETCHT0), "m", "1", 0 },
	{ M(ENDBR64), "", "4", 0 },
	{ M(CMPXCHG8B), "m", "8", 0 },
	{ M(MFENCE), "", "4", 0 },
};

static bool encode(struct stream *stream, ZydisEncoderRequest *request)
{
	ZyanUSize size = ZYDIS_MAX_INSTRUCTION_LENGTH;
	uint8_t *at = stream->area + stream->used;

	request->machine_mode = ZYDIS_MACHINE_MODE_LONG_64;
	if (!ZYAN_SUCCESS(ZydisEncoderEncodeInstructionAbsolute(request, at, &size, (uint64_t)(uintptr_t)at)))
		return false;
	stream->used += size;
	return true;
}

static bool put_pattern(struct stream *stream)
{
	const struct pattern *pattern = &patterns[draw(stream, sizeof(patterns) / sizeof(*patterns))];
	ZydisEncoderRequest request = { .mnemonic = pattern->mnemonic, .prefixes = pattern->prefixes };
	char width = pattern->widths[draw(stream, strlen(pattern->widths))];
	unsigned bytes = width == 'x' ? 16 : width == 'y' ? 32 : width == 'z' ? 64 : (unsigned)(width - '0');

	if (width == 'p' || (width == 'z' && !stream->wide) || (width == 'y' && !stream->avx))
		return false;
	for (const char *kind = pattern->operands; *kind; kind++) {
		ZydisEncoderOperand *operand = &request.operands[request.operand_count++];

		make_operand(stream, operand, *kind, *kind == 'b' ? 1 : bytes);
		if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY && operand->mem.base == ZYDIS_REGISTER_RIP)
			operand->mem.displacement += (int64_t)(uintptr_t)stream->area + CODE_BYTES;
	}
	return encode(stream, &request);
}

/* ---- what needs more than one instruction */

static void put_raw(struct stream *stream, const char *bytes, size_t size)
{
	memcpy(stream->area + stream->used, bytes, size);
	stream->used += size;
}
#define RAW(stream, bytes) put_raw((stream), (bytes), sizeof(bytes) - 1)

static void put_some(struct stream *stream, unsigned most)
{
	unsigned count = (unsigned)draw(stream, most) + 1;

	for (unsigned i = 0; i < count;)
		i += put_pattern(stream);
}

static void put_string(struct stream *stream)
{
	static const char *const operation[] = { "\xf3\xa4", "\xf3\x48\xa5", "\xf3\xaa", "\xf3\xa6",
		                                 "\xf2\xae", "\xf3\x48\xab", "\xa4",     "\xa6",
		                                 "\xad",     "\x66\xab" };
	const char *chosen = operation[draw(stream, sizeof(operation) / sizeof(*operation))];
	bool down = draw(stream, 4) == 0;

	RAW(stream, "\x48\x8d\xb3\x00\x04\x00\x00"); /* lea 0x400(%rbx), %rsi */
	RAW(stream, "\x48\x8d\xbb\x00\x07\x00\x00"); /* lea 0x700(%rbx), %rdi */
	RAW(stream, "\xb9");
	put_raw(stream, (const char[]){ (char)draw(stream, 40), 0, 0, 0 }, 4);
	if (down)
		RAW(stream, "\xfd");
	put_raw(stream, chosen, strlen(chosen));
	if (down)
		RAW(stream, "\xfc");
}

static void put_divide(struct stream *stream)
{
	RAW(stream, "\x83\xc9\x01\xba\x00\x00\x00\x00\xf7\xf1"); /* or $1, %ecx; mov $0, %edx; div %ecx */
}

static void put_gather(struct stream *stream)
{
	if (!stream->avx)
		return;
	RAW(stream, "\xc5\xf5\xef\xc9\xc5\xed\x76\xd2"); /* vpxor %ymm1...; vpcmpeqd %ymm2... */
	RAW(stream, "\xc4\xe2\x6d\x90\x04\x8b");         /* vpgatherdd %ymm2, (%rbx,%ymm1,4), %ymm0 */
}

/* Rarer ones. rdi is given a place first, where it is one's operand. */
static void put_rare(struct stream *stream)
{
	static const struct {
		const char *bytes;
		unsigned size, wide, moves;
	} rare[] = {
		{ "\xf0\x48\x0f\xc7\x4b\x40", 6, 0, 0 }, /* lock cmpxchg16b 64(%rbx) */
		{ "\xc8\x10\x00\x00\xc9", 5, 0, 0 },     /* enter $16, $0; leave */
		{ "\xd7", 1, 0, 0 },                     /* xlat */
		{ "\x66\x0f\xf7\xc1", 4, 0, 0 },         /* maskmovdqu %xmm1, %xmm0 */
		{ "\x31\xc9\x0f\x01\xd0", 5, 0, 0 },     /* xgetbv */
		{ "\x66\x0f\x38\xf8\x3b", 5, 0, 1 },     /* movdir64b (%rbx), %rdi */
		{ "\xc5\xf8\x92\xc9\x62\xf1\x7e\x49\x7f\x4b\x01", 11, 1,
		  0 }, /* vmovdqu32 %zmm1, 64(%rbx){%k1} */
		{ "\xc5\xf8\x92\xd0\x62\xf1\x7e\xca\x6f\x53\x02", 11, 1,
		  0 },                                   /* vmovdqu32 128(%rbx), %zmm2{%k2}{z} */
		{ "\x62\xf2\x7d\x48\x8b\x07", 6, 1, 0 }, /* vpcompressd %zmm0, (%rdi) */
		{ "\x0f\xae\xf8", 3, 0, 0 },             /* sfence */
		{ "\x48\x0f\xc3\x47\x08", 5, 0, 0 },     /* movnti %rax, 8(%rdi) */
		{ "\x64\x48\x8b\x04\x25\x00\x00\x00\x00\x48\x31\xc0", 12, 0,
		  0 }, /* mov %fs:0, %rax; xor %rax, %rax */
	};
	unsigned i = (unsigned)draw(stream, sizeof(rare) / sizeof(*rare));

	if ((rare[i].wide && !stream->wide) || (rare[i].moves && !stream->moves))
		return;
	RAW(stream, "\x48\x8d\xbb\x00\x06\x00\x00"); /* lea 0x600(%rbx), %rdi */
	put_raw(stream, rare[i].bytes, rare[i].size);
}

/* One of translate_pieces.h. */
static void put_piece(struct stream *stream)
{
	unsigned lacks = (stream->avx ? 0 : NEEDS_AVX) | (stream->wide ? 0 : NEEDS_WIDE) |
	                 (stream->moves ? 0 : NEEDS_MOVES) | (stream->counted ? NEEDS_NO_STEPS : 0) |
	                 (stream->compresses ? 0 : NEEDS_COMPRESS);
	const uint8_t *at = stream_pieces;
	unsigned count = 0;

	for (; at < stream_pieces_end; at += 2 + at[1])
		count++;
	at = stream_pieces;
	for (uint64_t skipped = draw(stream, count); skipped > 0; skipped--)
		at += 2 + at[1];
	if (at[0] & lacks)
		return;
	RAW(stream, "\x48\x8d\xbb\x00\x06\x00\x00"); /* lea 0x600(%rbx), %rdi */
	put_raw(stream, (const char *)at + 2, at[1]);
}

static void put_stack(struct stream *stream)
{
	unsigned number = free_registers[draw(stream, 6)];

	if (stream->pushed > 0 && draw(stream, 2)) {
		put_raw(stream, (const char[]){ (char)(0x58 + number) }, 1);
		stream->pushed--;
		return;
	}
	stream->pushed++;
	switch (draw(stream, 4)) {
	case 0: RAW(stream, "\x68\x11\x22\x33\x44"); break; /* push $0x44332211 */
	case 1: RAW(stream, "\xff\x73\x28"); break;         /* push 40(%rbx) */
	case 2:
		if (!stream->counted)            /* a stepped one would see that it is */
			RAW(stream, "\x9c\x58"); /* pushfq; pop %rax */
		RAW(stream, "\x50");             /* push %rax */
		break;
	default: put_raw(stream, (const char[]){ (char)(0x50 + number) }, 1); break;
	}
}

/* A condition, forward over some. */
static void put_forward(struct stream *stream)
{
	size_t at;
	char first = (char)(0x70 + draw(stream, 17));

	if (first == (char)0x80)
		first = (char)0xe3;
	put_raw(stream, (const char[]){ first, 0 }, 2);
	at = stream->used;
	put_some(stream, 4);
	stream->area[at - 1] = (uint8_t)(stream->used - at);
}

/* Some, a few times: by loop, or by a counter in memory that only this uses. */
static void put_backward(struct stream *stream)
{
	static const ZydisMnemonic touching[] = { M(ADD), M(SUB), M(XOR), M(ADC) };
	size_t start;

	RAW(stream, "\xb9\x03\x00\x00\x00"); /* mov $3, %ecx */
	start = stream->used;
	for (int i = 0; i < 3; i++) {
		ZydisEncoderRequest request = { .mnemonic = touching[draw(stream, 4)], .operand_count = 2 };

		request.operands[0].type = ZYDIS_OPERAND_TYPE_REGISTER;
		request.operands[0].reg.value = general_register((unsigned)draw(stream, 4) + 8, 8);
		make_operand(stream, &request.operands[1], 'm', 8);
		if (request.operands[1].mem.base == ZYDIS_REGISTER_RIP)
			request.operands[1].mem.base = ZYDIS_REGISTER_RBX;
		encode(stream, &request);
	}
	if (draw(stream, 2))
		RAW(stream, "\xff\xc9\x75"); /* dec %ecx; jnz */
	else
		RAW(stream, "\xe2"); /* loop */
	put_raw(stream, (const char[]){ (char)((int)start - (int)stream->used - 1) }, 1);
}

/* A call of what stands behind it, over which a jump leads on; direct or through a register or memory. */
static void put_call(struct stream *stream)
{
	size_t call, jump;
	int32_t distance;

	switch (draw(stream, 3)) {
	case 0:
		RAW(stream, "\xe8\x02\x00\x00\x00"); /* call over the jump */
		break;
	case 1:
		RAW(stream, "\x48\x8d\x05\x04\x00\x00\x00\xff\xd0"); /* lea 4(%rip), %rax; call *%rax */
		break;
	default:
		/* lea 12(%rip), %rcx; mov %rcx, 64(%rbx); call *64(%rbx) */
		RAW(stream, "\x48\x8d\x0d\x09\x00\x00\x00\x48\x89\x4b\x40\xff\x53\x40");
		break;
	}
	call = stream->used;
	RAW(stream, "\xeb\x00");
	jump = stream->used;
	stream->called = true;
	put_some(stream, 3);
	stream->called = false;
	if (draw(stream, 2))
		RAW(stream, "\xc3");
	else
		RAW(stream, "\x6a\x01\x58\xc3"); /* push $1; pop %rax; ret */
	distance = (int32_t)(stream->used - jump);
	stream->area[call + 1] = (uint8_t)distance;
}

static void put_anything(struct stream *stream)
{
	switch (draw(stream, 28)) {
	case 0: put_string(stream); break;
	case 1: put_divide(stream); break;
	case 2:
	case 3: put_stack(stream); break;
	case 4:
	case 5:
	case 6: put_forward(stream); break;
	case 7: put_backward(stream); break;
	case 8: put_call(stream); break;
	case 9: put_gather(stream); break;
	case 10:
	case 11: put_rare(stream); break;
	case 12:
	case 13:
	case 14: put_piece(stream); break;
	default: put_some(stream, 2); break;
	}
}

static void end_stream(struct stream *stream)
{
	uint64_t target = (uint64_t)(uintptr_t)stream_exit;

	RAW(stream, "\xff\x25\x00\x00\x00\x00"); /* jmp *0(%rip) */
	put_raw(stream, (const char *)&target, 8);
}

static void make_stream(struct stream *stream, uint64_t seed)
{
	stream->seed = seed * 0x9e3779b97f4a7c15ull | 1;
	stream->used = 0;
	stream->pushed = 0;
	stream->called = false;
	for (unsigned count = 4 + (unsigned)draw(stream, 30); count > 0; count--)
		put_anything(stream);
	end_stream(stream);
}

/* ---- running */

static void open_stream(struct stream *stream)
{
	unsigned a, b, c = 0, d;

	__get_cpuid_count(7, 0, &a, &b, &c, &d);
	stream->moves = c >> 28 & 1;
	stream->compresses = __builtin_cpu_supports("avx512vbmi2");
	stream->avx = __builtin_cpu_supports("avx2");
	stream->wide = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
	stream->area = mmap(NULL, AREA_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
	                    -1, 0);
}

static void start_state(struct stream *stream, struct stream_state *state, uint64_t seed)
{
	uint8_t *data = stream->area + CODE_BYTES;

	stream->seed = seed * 0xd1342543de82ef95ull | 1;
	memset(state, 0, sizeof(*state));
	for (int i = 0; i < 16; i++)
		state->general[i] = draw(stream, ~0ull) >> draw(stream, 64);
	state->general[3] = (uint64_t)(uintptr_t)data;
	state->general[4] = (uint64_t)(uintptr_t)(data + DATA_BYTES + DATA_BYTES / 2);
	state->general[15] = draw(stream, 200);
	state->flags = 0x202 | (draw(stream, 1ull << 32) & 0x8d5);
	state->code = (uint64_t)(uintptr_t)stream->area;
	state->vector[1] = 0;
	*(uint16_t *)(void *)state->vector = 0x37f;
	*(uint32_t *)(void *)(state->vector + 24) = 0x1f80;
	for (unsigned i = 160; i < 416; i++)
		state->vector[i] = (uint8_t)draw(stream, 256);
	for (unsigned i = 576; i < 832 && stream->avx; i++)
		state->vector[i] = (uint8_t)draw(stream, 256);
	state->vector[512] = stream->avx ? 7 : 3;
	for (unsigned i = 0; i < 2 * DATA_BYTES; i++)
		data[i] = (uint8_t)draw(stream, 256);
}

/* All that a stream leaves behind. */
struct outcome {
	struct stream_state state;
	uint8_t memory[2 * DATA_BYTES];
};

static void run_stream(struct stream *stream, struct lh_translator *translator, uint64_t seed,
                       struct outcome *outcome)
{
	start_state(stream, &stream_now, seed);
	stream_now.flags |= stream->stepped ? 0x100 : 0;
	if (translator)
		begin(translator);
	stream_enter();
	if (translator)
		lh__translate_end(translator);
	outcome->state = stream_now;
	/* Where the last x87 instruction stood is where it was executed. */
	memset(outcome->state.vector + 6, 0, 18);
	memset(outcome->state.vector + 512, 0, 64);
	outcome->state.stack = 0;
	outcome->state.flags &= ~(uint64_t)0x100;
	memcpy(outcome->memory, stream->area + CODE_BYTES, sizeof(outcome->memory));
}

#endif
