/*
 * pool_machine.h - one instruction at a time, with all registers chosen: executed on memory of a pool that is
 * open, and again on the same memory where its stores are seen, and all that can be told apart is compared.
 *
 * Both runs have the same addresses, so nothing has to be translated: for the first the pages are declared as
 * a whole, which opens them, and each run ends with an abort.
 */
#ifndef POOL_MACHINE_H
#define POOL_MACHINE_H

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "line_random.h"
#include "service/pool/pool.h"
#include "service/pool/translated.h"
#include "tap.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
enum { LEVEL_SSE, LEVEL_AVX, LEVEL_AVX512 };

/* What an instruction finds, and leaves. The code below knows the offsets. */
struct machine {
	uint64_t general[16];
	uint64_t flags, host_stack, code;
	uint64_t level, cpu; /* which vector registers are set; which there are */
	uint64_t mask[8];
	uint64_t rest[3];
	unsigned char vector[32][64];
};
_Static_assert(offsetof(struct machine, flags) == 128 && offsetof(struct machine, level) == 152 &&
                       offsetof(struct machine, mask) == 168 && offsetof(struct machine, vector) == 256,
               "the code below knows the offsets");

static struct machine now __asm__("machine_now") __attribute__((used, aligned(64)));
void machine_enter(void) __asm__("machine_enter"); /* executes now.code, with now's registers */
void machine_leave(void) __asm__("machine_leave"); /* where that code has to jump to */

/* clang-format off */
#define TO_15 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define TO_31 "16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"
#define MASKS "0,1,2,3,4,5,6,7"
#define EACH(list, text) ".irp i," list "\n" text "\n.endr\n"
#define VECTOR "machine_now+256+64*\\i(%rip)"
#define MASK "machine_now+168+8*\\i(%rip)"
#define GENERAL(move)                                                                                \
	move("rax", "0") move("rcx", "8") move("rdx", "16") move("rbx", "24")                        \
	move("rbp", "40") move("rsi", "48") move("rdi", "56") move("r8", "64")                       \
	move("r9", "72") move("r10", "80") move("r11", "88") move("r12", "96")                       \
	move("r13", "104") move("r14", "112") move("r15", "120") move("rsp", "32")
#define LOAD(name, at) "mov machine_now+" at "(%rip), %" name "\n"
#define SAVE(name, at) "mov %" name ", machine_now+" at "(%rip)\n"

__asm__(".text\n"
	"machine_enter:\n"
	"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
	"mov %rsp, machine_now+136(%rip)\n"
	"fninit\n"
	"cmpq $1, machine_now+160(%rip)\n"
	"jb 1f\n"
	"vzeroall\n"
	"je 1f\n" /* parts that are all zero are marked as unused */
	EACH(TO_31, "vpxord %zmm\\i, %zmm\\i, %zmm\\i")
	EACH(MASKS, "kxorq %k\\i, %k\\i, %k\\i")
	"1: cmpq $1, machine_now+152(%rip)\n"
	"je 2f\n"
	"ja 3f\n"
	EACH(TO_15, "movdqu " VECTOR ", %xmm\\i")
	"jmp 4f\n"
	"2:"
	EACH(TO_15, "vmovdqu " VECTOR ", %ymm\\i")
	"jmp 4f\n"
	"3:"
	EACH(TO_15 "," TO_31, "vmovdqu64 " VECTOR ", %zmm\\i")
	EACH(MASKS, "kmovq " MASK ", %k\\i")
	"4: push machine_now+128(%rip)\n"
	"popfq\n"
	GENERAL(LOAD)
	"jmp *machine_now+144(%rip)\n"
	"machine_leave:\n"
	GENERAL(SAVE)
	"mov machine_now+136(%rip), %rsp\n"
	"pushfq\n"
	"pop machine_now+128(%rip)\n"
	"cld\n"
	"fninit\n"
	"cmpq $1, machine_now+160(%rip)\n"
	"je 2f\n"
	"ja 3f\n"
	EACH(TO_15, "movdqu %xmm\\i, " VECTOR)
	"jmp 5f\n"
	"2:"
	EACH(TO_15, "vmovdqu %ymm\\i, " VECTOR)
	"jmp 4f\n"
	"3:"
	EACH(TO_15 "," TO_31, "vmovdqu64 %zmm\\i, " VECTOR)
	EACH(MASKS, "kmovq %k\\i, " MASK)
	"4: vzeroupper\n"
	"5: pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\n"
	"ret\n");
/* clang-format on */

static inline uint64_t machine_cpu(void)
{
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
		return LEVEL_AVX512;
	return __builtin_cpu_supports("avx") ? LEVEL_AVX : LEVEL_SSE;
}

static uint64_t machine_seed;

static inline uint64_t any(void)
{
	return random_next(&machine_seed);
}

static inline uint64_t dice(uint64_t sides)
{
	return (any() >> 11) % sides;
}

/* ---- what happens instead of an end ---- */

static volatile sig_atomic_t machine_signal;

static void on_signal(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	machine_signal = number;
	registers[REG_RIP] = (greg_t)(uintptr_t)machine_leave;
	registers[REG_EFL] &= ~0x100; /* the trap flag */
}

/* To be called before the first pool: its handlers pass on what is not theirs. */
static inline void machine_begin(void)
{
	static const int numbers[] = { SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP };
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	static unsigned char memory[256u << 10];
	stack_t stack = { .ss_sp = memory, .ss_size = sizeof memory };

	sigfillset(&action.sa_mask);
	for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++)
		sigaction(numbers[i], &action, NULL);
	sigaltstack(&stack, NULL);
}

/* ---- a pool to execute on ---- */

/*
 * Where 32 bits reach: forms with such addresses are tried too. Code stands where an offset of 32 bits leads
 * from it to the pool.
 */
#define POOL_ADDRESS UINT64_C(0x40000000)
#define CODE_ADDRESS UINT64_C(0x50000000)
#define CODE_SIZE (4u * LH_PAGE_SIZE)
#define REGION_PAGES 4u
#define REGION (REGION_PAGES * LH_PAGE_SIZE)

struct machine_pool {
	struct lh_sys sys;
	unsigned long protections; /* calls that changed one */
	struct lh_memory_pool *memory;
	struct lh_store *store;
	struct lh_pool *pool;
	enum lh_see see;
	unsigned char *region, *before; /* REGION bytes: what is executed on, and a copy */
};

struct outcome {
	struct machine after;
	int signal;
	unsigned long protections, faults;
	unsigned char memory[REGION];
};

#define IOCTL_WRITEPROTECT 0x06 /* the number in UFFDIO_WRITEPROTECT */

static inline long machine_call(void *context, long nr, const long argument[6])
{
	struct machine_pool *pool = context;

	if (nr == SYS_ioctl && (argument[1] & 0xff) == IOCTL_WRITEPROTECT)
		__atomic_fetch_add(&pool->protections, 1, __ATOMIC_RELAXED);
	return lh__sys_default.call(lh__sys_default.context, nr, argument);
}

static inline int machine_fill(struct machine_pool *pool)
{
	struct lh_error error = { 0 };
	int result = lh_tx_begin(pool->pool, &error);

	if (result < 0)
		return result;
	pool->region = lh_pool_alloc_aligned(pool->pool, LH_PAGE_SIZE, REGION, &error);
	if (!pool->region)
		return error.code;
	for (unsigned i = 0; i < REGION; i++)
		pool->region[i] = pool->before[i] = (unsigned char)(any() >> 20);
	return lh_tx_commit(pool->pool, &error);
}

static inline int machine_open(struct machine_pool *pool, enum lh_see see)
{
	struct lh_pool_options options = {
		.see = see,
		.size = 2u << 20,
		.reach = 2u << 20,
		.log_size = 1u << 20,
		.address = POOL_ADDRESS,
	};
	struct lh_error error = { 0 };
	int result;

	*pool = (struct machine_pool){ .sys = lh__sys_default, .see = see };
	pool->sys.context = pool;
	pool->sys.call = machine_call;
	pool->before = malloc(REGION);
	result = lh__memory_pool_open(&lh__sys_default, 0, &pool->memory);
	if (result == 0)
		result = lh__memory_open(pool->memory, &pool->store);
	if (result < 0)
		return result;
	pool->store->sys = &pool->sys;
	result = lh__pool_on_store(pool->store, &options, true, true, &pool->pool, &error);
	if (result == 0)
		result = machine_fill(pool);
	if (result < 0)
		printf("# %s\n", error.text);
	return result;
}

static inline void machine_close(struct machine_pool *pool)
{
	pool->store->sys = &lh__sys_default;
	lh_pool_close(pool->pool, NULL);
	lh__memory_pool_close(pool->memory);
	free(pool->before);
}

/* Where code is translated, it is executed as it is outside of transactions, and the memory put back. */
static inline bool machine_run_outside(struct machine_pool *pool, const struct machine *before,
                                       struct outcome *out)
{
	*out = (struct outcome){ .signal = 0 };
	machine_signal = 0;
	now = *before;
	machine_enter();
	out->after = now;
	out->signal = machine_signal;
	memcpy(out->memory, pool->region, REGION);
	memcpy(pool->region, pool->before, REGION);
	return true;
}

/* Executes code with the registers of before; native: on memory that is open. */
static inline bool machine_run(struct machine_pool *pool, const struct machine *before, bool native,
                               struct outcome *out)
{
	bool translated = pool->see == LH_SEE_TRANSLATED;
	struct lh_pool_info info;
	uint64_t faults;

	if (translated && native)
		return machine_run_outside(pool, before, out);
	if (translated)
		lh__translated_forget();
	if (lh_tx_begin(pool->pool, NULL) != 0)
		return false;
	if (native && lh_tx_add(pool->pool, pool->region, REGION, NULL) != 0)
		return false;
	lh_pool_info(pool->pool, &info);
	faults = info.faults;
	out->protections = pool->protections;
	machine_signal = 0;
	now = *before;
	machine_enter();
	out->after = now;
	out->signal = machine_signal;
	out->protections = pool->protections - out->protections;
	lh_pool_info(pool->pool, &info);
	out->faults = info.faults - faults;
	memcpy(out->memory, pool->region, REGION);
	return lh_tx_abort(pool->pool, NULL) == 0 && memcmp(pool->region, pool->before, REGION) == 0;
}

#define FLAGS_COMPARED 0xdd5u /* carry, parity, adjust, zero, sign, trap, direction, overflow */

/* What of the two differs: NULL where nothing does. */
static inline const char *machine_differs(const struct outcome *a, const struct outcome *b)
{
	if (a->signal != b->signal)
		return "the signal";
	if (memcmp(a->memory, b->memory, REGION) != 0)
		return "memory";
	if (memcmp(a->after.general, b->after.general, sizeof a->after.general) != 0)
		return "a general register";
	if ((a->after.flags ^ b->after.flags) & FLAGS_COMPARED || a->after.flags & 0x100)
		return "the flags";
	if (memcmp(a->after.mask, b->after.mask, sizeof a->after.mask) != 0)
		return "a mask register";
	if (memcmp(a->after.vector, b->after.vector, sizeof a->after.vector) != 0)
		return "a vector register";
	return NULL;
}

/* ---- code and registers ---- */

struct code {
	unsigned char *at;
	unsigned length;
};

static inline void put(struct code *code, uint64_t value, unsigned bytes)
{
	memcpy(code->at + code->length, &value, bytes);
	code->length += bytes;
}

/* Behind the instruction: jmp *0(%rip), and where to. */
static inline void put_end(struct code *code)
{
	put(code, 0x25ff, 2);
	put(code, 0, 4);
	put(code, (uintptr_t)machine_leave, 8);
}

static inline void machine_randomize(struct machine *machine)
{
	uint64_t cpu = machine_cpu();
	unsigned char *bytes = &machine->vector[0][0];

	memset(machine, 0, sizeof *machine);
	machine->cpu = cpu;
	machine->level = dice(cpu + 1);
	for (unsigned i = 0; i < 16; i++)
		machine->general[i] = any();
	machine->flags = 0x202 | (any() & 0x8d5) | (dice(4) == 0 ? 0x400 : 0);
	for (unsigned i = 0; i < sizeof machine->vector; i += 8) {
		uint64_t word = any();

		memcpy(bytes + i, &word, 8);
	}
	/* Full, empty, and with few bits, as well as any. */
	for (unsigned i = 0; i < 8; i++)
		switch (dice(4)) {
		case 0: machine->mask[i] = i % 2 ? UINT64_MAX : 0; break;
		case 1: machine->mask[i] = UINT64_C(1) << dice(64); break;
		default: machine->mask[i] = any();
		}
}

#endif
