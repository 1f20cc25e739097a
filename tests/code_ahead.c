/* timeout: 120 */
/*
 * Looking ahead against the processor: instructions made at random run in both, from the same registers,
 * flags and memory, of which the interpreter is told only a part. What it says that it knows must be what
 * came out; lengths must be what the decoder of the plans says. A flag that is wrong must be noticed.
 */
#include <Zydis/Zydis.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "port/code/inside/ahead.h"
#include "tap.h"

#define ROUNDS 500000u
#define DATA 512u
#define MIDDLE (DATA / 2)
#define PAD 64u /* where jumps of the instruction lead, in the page of code; it falls through to a pad too */
#define SHOWN 10u

/* What the stub below loads and saves. */
struct machine {
	uint64_t reg[16], flags;
	uint64_t pad;
	uint64_t vector[16][2];
};

struct sides {
	struct lh_ahead ahead;
	struct machine before, after;
	uint8_t memory[DATA]; /* as it is when the instruction begins */
	uint8_t expected[DATA];
	bool byte_known[DATA];
};

static uint8_t *code;                                        /* one page, executable */
static uint8_t data[DATA + 64] __attribute__((aligned(64))); /* what rbx points into the middle of */
static sigjmp_buf faulted;
static uint64_t state_of_random = 88172645463325252u;
static unsigned executed[4][256];

uint64_t ahead_saved_rsp, ahead_saved_rdi, ahead_code, ahead_machine, ahead_landed;
void ahead_execute(struct machine *machine);
extern const char ahead_back[], ahead_back_jumped[];

__asm__(".text\n"
        ".globl ahead_execute, ahead_back, ahead_back_jumped\n"
        "ahead_execute:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, ahead_saved_rsp(%rip)\n"
        "mov %rdi, ahead_machine(%rip)\n"
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
        "movups 144 + \\n * 16(%rdi), %xmm\\n\n"
        ".endr\n"
        "push 128(%rdi); popfq\n"
        "mov 0(%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx\n"
        "mov 32(%rdi), %rsp; mov 40(%rdi), %rbp; mov 48(%rdi), %rsi\n"
        "mov 64(%rdi), %r8; mov 72(%rdi), %r9; mov 80(%rdi), %r10; mov 88(%rdi), %r11\n"
        "mov 96(%rdi), %r12; mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15\n"
        "mov 56(%rdi), %rdi\n"
        "jmp *ahead_code(%rip)\n"
        "ahead_back_jumped:\n"
        "movq $1, ahead_landed(%rip)\n"
        "jmp 1f\n"
        "ahead_back:\n"
        "movq $0, ahead_landed(%rip)\n"
        "1: mov %rdi, ahead_saved_rdi(%rip)\n"
        "mov ahead_machine(%rip), %rdi\n"
        "mov %rax, 0(%rdi); mov %rcx, 8(%rdi); mov %rdx, 16(%rdi); mov %rbx, 24(%rdi)\n"
        "mov %rsp, 32(%rdi); mov %rbp, 40(%rdi); mov %rsi, 48(%rdi)\n"
        "mov %r8, 64(%rdi); mov %r9, 72(%rdi); mov %r10, 80(%rdi); mov %r11, 88(%rdi)\n"
        "mov %r12, 96(%rdi); mov %r13, 104(%rdi); mov %r14, 112(%rdi); mov %r15, 120(%rdi)\n"
        "mov ahead_saved_rdi(%rip), %rax; mov %rax, 56(%rdi)\n"
        "mov ahead_saved_rsp(%rip), %rsp\n"
        "pushfq; pop 128(%rdi); cld\n"
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
        "movups %xmm\\n, 144 + \\n * 16(%rdi)\n"
        ".endr\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "ret\n");

/* ---- what the agent has elsewhere: there by pages, so here with room for the longest access ---- */

bool lh__ahead_may(struct lh_ahead *ahead, uint64_t address, bool write)
{
	(void)ahead;
	(void)write;
	return address >= (uint64_t)data && address < (uint64_t)data + DATA - 8;
}

/* ---- chance ---- */

static uint64_t random_bits(void)
{
	state_of_random ^= state_of_random << 13;
	state_of_random ^= state_of_random >> 7;
	state_of_random ^= state_of_random << 17;
	return state_of_random;
}

static bool chance(unsigned percent)
{
	return random_bits() % 100 < percent;
}

static uint64_t random_value(void)
{
	static const uint64_t edges[] = { 0,          1,          2,         0x7f,       0x80,
		                          0xff,       0x7fff,     0x8000,    0xffff,     0x7fffffff,
		                          0x80000000, 0xffffffff, INT64_MAX, 1ull << 63, ~0ull };

	switch (random_bits() % 4) {
	case 0: return edges[random_bits() % (sizeof(edges) / sizeof(*edges))];
	case 1: return random_bits() % 64;
	case 2: return (uint64_t)(int64_t)(int32_t)random_bits();
	default: return random_bits();
	}
}

/* Prefixes, an opcode, a ModRM that means a register or something near rbx, and any immediate. */
static void random_instruction(uint8_t *at)
{
	static const uint8_t repeats[] = { 0xf2, 0xf3 };
	bool memory = chance(40), sib = memory && chance(30);
	unsigned i;

	if (chance(15))
		*at++ = 0x66;
	if (chance(15))
		*at++ = repeats[random_bits() & 1];
	if (chance(50)) /* for memory, rbx has to stay rbx, and the index rcx */
		*at++ = (uint8_t)(0x40 | (random_bits() & (memory ? 12 : 15)));
	if (chance(45)) {
		*at++ = 0x0f;
		if (chance(10))
			*at++ = chance(50) ? 0x38 : 0x3a;
	}
	*at++ = (uint8_t)random_bits();
	for (i = 0; i < 12; i++)
		at[i] = (uint8_t)random_bits();
	if (!memory) {
		*at |= 0xc0;
		return;
	}
	*at = (uint8_t)(0x40 | (*at & 0x38) | (sib ? 4 : 3));
	if (sib)
		*++at = (uint8_t)(0x0b | (random_bits() & 0xc0));
	at[1] &= chance(50) ? 0x70 : 0x7f;
}

static void lead_back(unsigned at, const char *to)
{
	uint64_t address = (uint64_t)to;

	memcpy(code + at, "\xff\x25\0\0\0\0", 6);
	memcpy(code + at + 6, &address, sizeof(address));
}

static void random_machine(struct machine *machine)
{
	for (unsigned i = 0; i < 16; i++) {
		machine->reg[i] = random_value();
		machine->vector[i][0] = random_bits();
		machine->vector[i][1] = random_bits();
	}
	machine->reg[LH_RBX] = (uint64_t)data + MIDDLE;
	machine->reg[LH_RSP] = (uint64_t)data + 8 * (random_bits() % (DATA / 8));
	machine->reg[LH_RCX] = chance(50) ? random_bits() % 16 : machine->reg[LH_RCX];
	for (unsigned i = LH_RBP; i <= LH_RDI; i++)
		if (chance(50))
			machine->reg[i] = (uint64_t)data + random_bits() % DATA;
	if (chance(30)) /* for jumps and calls by registers */
		machine->reg[random_bits() & 1 ? LH_RAX : 12] = (uint64_t)code + PAD;
	machine->flags = 0x202 | (random_bits() & LH_STATUS);
}

/* The interpreter's side: the same, but what it is not told is something else. */
static void tell(struct lh_ahead *ahead, const struct machine *machine, bool all)
{
	memset(ahead, 0, sizeof(*ahead));
	ahead->pc = (uint64_t)code;
	ahead->known = all ? 0xffff : (uint32_t)(random_bits() | 1u << LH_RBX | 1u << LH_RSP) & 0xffff;
	ahead->vectors_known = all ? 0xffff : (uint32_t)random_bits() & 0xffff;
	ahead->flags_known = all ? LH_STATUS | LH_DF : (uint32_t)random_bits() & (LH_STATUS | LH_DF);
	ahead->flags =
		(machine->flags & ahead->flags_known) | (random_bits() & LH_STATUS & ~ahead->flags_known);
	for (unsigned i = 0; i < 16; i++) {
		bool known = ahead->known >> i & 1, vector = ahead->vectors_known >> i & 1;

		ahead->reg[i] = known ? machine->reg[i] : random_value();
		ahead->vector[i][0] = vector ? machine->vector[i][0] : random_bits();
		ahead->vector[i][1] = vector ? machine->vector[i][1] : random_bits();
	}
}

/* Stores that have come before: in the interpreter's queue, and in the memory that the processor sees. */
static void store_some(struct sides *sides, bool all)
{
	unsigned stores = (unsigned)(random_bits() % 6);

	memcpy(sides->memory, data, DATA);
	for (unsigned i = 0; i < stores; i++) {
		unsigned size = 1u << random_bits() % 4, at = (unsigned)(random_bits() % (DATA - 16));
		struct lh_ahead_value value = { chance(20) ? (uint64_t)code + PAD : random_bits(),
			                        all || chance(70) };

		if (chance(60))
			at = MIDDLE + (unsigned)(random_bits() % 128) - 64;
		memcpy(sides->memory + at, &value.bits, size);
		if (!value.known)
			value.bits = random_bits();
		if (!lh__ahead_store(&sides->ahead, (uint64_t)data + at, size, value))
			abort();
	}
}

/* ---- one instruction on both sides ---- */

static void on_fault(int number)
{
	siglongjmp(faulted, number);
}

static void expect_memory(struct sides *sides)
{
	for (unsigned i = 0; i < DATA - 8; i++) {
		struct lh_ahead_value value = { 0, false };

		sides->byte_known[i] =
			lh__ahead_load(&sides->ahead, (uint64_t)data + i, 1, &value) && value.known;
		sides->expected[i] = (uint8_t)value.bits;
	}
}

/* The signal with which the processor has refused it, or 0. */
static int run_natively(struct sides *sides)
{
	int number;

	memcpy(data, sides->memory, DATA);
	sides->after = sides->before;
	number = sigsetjmp(faulted, 1);
	if (number == 0)
		ahead_execute(&sides->after);
	return number;
}

/* What the interpreter knew, and knew wrong; NULL: nothing. */
static const char *wrong(const struct sides *sides, uint64_t behind)
{
	const struct lh_ahead *ahead = &sides->ahead;
	const struct machine *after = &sides->after;

	for (unsigned i = 0; i < 16; i++) {
		if (ahead->known >> i & 1 && ahead->reg[i] != after->reg[i])
			return "a register";
		if (ahead->vectors_known >> i & 1 && (ahead->vector[i][0] != after->vector[i][0] ||
		                                      ahead->vector[i][1] != after->vector[i][1]))
			return "a vector";
	}
	if ((ahead->flags ^ after->flags) & ahead->flags_known)
		return "a flag";
	for (unsigned i = 0; i < DATA; i++)
		if (sides->byte_known[i] && sides->expected[i] != data[i])
			return "memory";
	if (ahead->pc != (ahead_landed ? (uint64_t)code + PAD : behind))
		return "where it goes on";
	return NULL;
}

static void show(const char *what, const struct sides *sides, unsigned length)
{
	char bytes[64] = "";

	for (unsigned i = 0; i < length; i++)
		snprintf(bytes + 3 * i, 4, " %02x", code[i]);
	printf("# %s:%s\n", what, bytes);
	for (unsigned i = 0; i < 16; i++)
		if (sides->ahead.known >> i & 1 && sides->ahead.reg[i] != sides->after.reg[i])
			printf("#   register %u: %lx, and is %lx (was %lx)\n", i, sides->ahead.reg[i],
			       sides->after.reg[i], sides->before.reg[i]);
	printf("#   flags %lx of %x, and are %lx (were %lx)\n", sides->ahead.flags & sides->ahead.flags_known,
	       sides->ahead.flags_known, sides->after.flags, sides->before.flags);
}

/* Decoders agree, where both know it. */
static bool length_agrees(const struct lh_ahead_instruction *in)
{
	static ZydisDecoder decoder;
	ZydisDecodedInstruction decoded;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_FAILED(ZydisDecoderDecodeInstruction(&decoder, NULL, code, 15, &decoded)) ||
	       decoded.length == in->length;
}

/* An undefined one, or one that wants its memory aligned: a program dies of it, whatever was foreseen. */
static bool may_be_refused(int number, const struct lh_ahead_instruction *in)
{
	return number == SIGILL ? in->map != 0 : number == SIGSEGV && in->memory && in->map != 0;
}

/* -1: not modelled, 0: right; 1: wrong. */
static int try_one(struct sides *sides)
{
	struct lh_ahead_instruction in;
	bool all = chance(60);
	const char *what;
	int refused;

	memset(code, 0x90, PAD);
	random_instruction(code);
	if (!lh__ahead_decode(code, code[0], &in))
		return -1;
	lead_back(in.length, ahead_back);
	lead_back(PAD, ahead_back_jumped);
	/* Jumps lead to the pad; of the others the immediates stay. */
	if (in.map == 0 && ((in.op & 0xf0) == 0x70 || in.op == 0xeb))
		code[in.length - 1] = (uint8_t)(PAD - in.length);
	else if ((in.map == 1 && (in.op & 0xf0) == 0x80) || (in.map == 0 && (in.op & 0xfe) == 0xe8))
		memcpy(code + in.length - 4, &(int32_t){ (int32_t)PAD - in.length }, 4);
	if (!length_agrees(&in)) {
		show("a length", sides, in.length);
		return 1;
	}
	for (unsigned i = 0; i < DATA; i++)
		data[i] = (uint8_t)random_bits();
	random_machine(&sides->before);
	tell(&sides->ahead, &sides->before, all);
	store_some(sides, all);
	if (!lh__ahead_decode(code, code[0], &in) || !lh__ahead_run(&sides->ahead, &in))
		return -1;
	if (sides->ahead.pc != (uint64_t)code + in.length && sides->ahead.pc != (uint64_t)code + PAD)
		return -1; /* somewhere, by a register or from memory */
	expect_memory(sides);
	refused = run_natively(sides);
	if (refused && may_be_refused(refused, &in))
		return -1;
	executed[in.map][in.op]++;
	what = refused ? "a fault" : wrong(sides, (uint64_t)code + in.length);
	if (what)
		show(what, sides, in.length);
	return what != NULL;
}

static void check_random(void)
{
	static struct sides sides;
	unsigned wrongs = 0, ran = 0, kinds = 0;

	for (unsigned i = 0; i < ROUNDS && wrongs < SHOWN; i++) {
		int result = try_one(&sides);

		ran += result >= 0;
		wrongs += result > 0;
	}
	for (unsigned map = 0; map < 4; map++)
		for (unsigned op = 0; op < 256; op++)
			kinds += executed[map][op] != 0;
	printf("# %u instructions, of %u opcodes\n", ran, kinds);
	ok(wrongs == 0, "what is known of registers, flags and memory is what the processor makes of them");
	ok(ran > ROUNDS / 20 && kinds > 250, "many have run, of most opcodes");
}

/* ---- planted ---- */

static void check_planted(void)
{
	static struct sides sides;
	const uint8_t add[] = { 0x48, 0x01, 0xd0 }; /* rax += rdx */
	struct lh_ahead_instruction in;

	memset(code, 0x90, PAD);
	memcpy(code, add, sizeof(add));
	lead_back(sizeof(add), ahead_back);
	random_machine(&sides.before);
	tell(&sides.ahead, &sides.before, true);
	memcpy(sides.memory, data, DATA);
	if (!lh__ahead_decode(code, code[0], &in) || !lh__ahead_run(&sides.ahead, &in))
		abort();
	expect_memory(&sides);
	if (run_natively(&sides) != 0)
		abort();
	ok(wrong(&sides, (uint64_t)code + 3) == NULL, "an addition is right");
	sides.ahead.flags ^= LH_AF;
	ok(wrong(&sides, (uint64_t)code + 3) != NULL, "planted: a wrong flag is noticed");
	sides.ahead.flags_known &= ~(uint32_t)LH_AF;
	ok(wrong(&sides, (uint64_t)code + 3) == NULL, "and is none where it is not said to be known");
	sides.ahead.reg[LH_RAX] ^= 1ull << 40;
	ok(wrong(&sides, (uint64_t)code + 3) != NULL, "planted: a wrong register is noticed");
}

static void take_faults(void)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
	static uint8_t stack[65536];
	stack_t other = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_handler = on_fault, .sa_flags = SA_ONSTACK | SA_NODEFER };

	sigaltstack(&other, NULL);
	for (unsigned i = 0; i < sizeof(faults) / sizeof(*faults); i++)
		sigaction(faults[i], &action, NULL);
}

int main(void)
{
	code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED)
		abort();
	ahead_code = (uint64_t)code;
	take_faults();
	check_planted();
	check_random();
	return done();
}
