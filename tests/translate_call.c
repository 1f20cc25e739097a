/* Calls that a client of the translator puts between instructions, and functions that run natively. */
#include "translate_code.h"

#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>

/* ---- plain calls: before each write */

struct own {
	uint64_t first, end; /* what is looked at */
	volatile uint64_t calls;
	uint64_t constant, address;
	struct lh_access_state state;
	uint8_t vector[32][64];
	uint64_t mask[8];
};

#define PLAIN __attribute__((target("general-regs-only"), noinline))

/* At two words, from now on. */
static void look_at(struct own *own, uint64_t *memory)
{
	own->first = (uint64_t)(uintptr_t)memory;
	own->end = own->first + 16;
}

PLAIN static void note(void *own, uint64_t address, uint64_t constant)
{
	struct own *mine = own;

	if (address < mine->first || address >= mine->end)
		return;
	/* The direction flag is clear, whatever the program's is. */
	mine->address = 0;
	__asm__ volatile("rep stosb"
	                 : "+D"((uint64_t[]){ (uint64_t)(uintptr_t)&mine->constant }[0])
	                 : "c"(1ul), "a"((unsigned char)constant)
	                 : "memory");
	mine->calls++;
	mine->address = address;
}

static void call_plain(void *context, struct lh_emitter *emitter,
                       const struct lh_translated_instruction *instruction)
{
	for (unsigned i = 0; i < instruction->accesses->count; i++) {
		const struct lh_access *access = &instruction->accesses->at[i];
		int address, constant;

		if (!(access->kind & LH_ACCESS_WRITE) || access->base == ZYDIS_REGISTER_RSP)
			continue;
		address = lh__emit_address(emitter, instruction, access);
		constant = lh__emit_scratch(emitter);
		if (address < 0)
			continue;
		lh__emit_constant(emitter, constant, 77);
		lh__emit_call_plain(emitter, note, address, constant);
		lh__emit_done(emitter);
	}
}

/* A sum that depends on registers of all kinds and on flags over each store; 2 stores a round. */
uint64_t stores_work(uint64_t *memory, uint64_t rounds);
__asm__(".text\nstores_work: push %rbx\npush %r12\npush %r13\npush %r14\nmov $1, %eax\nmov $2, %ecx\n"
        "mov $3, %edx\nmov $4, %ebx\nmov $5, %r8d\nmov $6, %r9d\nmov $7, %r10d\nmov $8, %r11d\nmov $9, "
        "%r12d\n"
        "mov $10, %r13d\nmov $11, %r14d\nmovq %rsi, %xmm3\npcmpeqd %xmm9, %xmm9\nstd\n"
        "1: cmp %rcx, %rax\nmov %rax, (%rdi)\nadc %rdx, %rax\ncmp $-1, %rsi\nmov %rax, -40(%rsp)\n"
        "mov %r9, 8(%rdi)\nadc $0, %r9\nadd %r8, %rax\nrol $3, %rax\nadd %r9, %rax\nxor %r10, %rax\n"
        "add %r11, %rax\nadd %r12, %rax\nadd %r13, %rcx\nadd %r14, %rdx\nadd -40(%rsp), %rax\nmovq %xmm3, "
        "%rbx\n"
        "add %rbx, %rax\ndec %rsi\njnz 1b\n"
        "cld\nmovq %xmm9, %rbx\nadd %rbx, %rax\npop %r14\npop %r13\npop %r12\npop %rbx\nret\n");

static void check_plain(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){
		.client = { .thread_bytes = sizeof(struct own), .before = call_plain } });
	uint64_t memory[2], wanted = stores_work(memory, 9), got;
	struct own *own;

	begin(translator);
	own = lh__translate_thread_bytes(translator);
	look_at(own, memory);
	got = stores_work(memory, 9);
	lh__translate_end(translator);
	is(got, wanted, "registers, flags, vectors and the red zone are the program's over plain calls");
	ok(own->calls == 18 && own->constant == 77 && own->address == (uint64_t)(uintptr_t)&memory[1],
	   "each of which was made, with its two values: %lu", (unsigned long)own->calls);
	lh__translate_close(translator);
}

/* ---- calls that see the state */

extern const char state_next[], wide_next[];

static void keep(void *own, const struct lh_access_state *state, uint64_t constant)
{
	struct own *mine = own;
	volatile double vector = (double)constant;

	if (state->next != (uint64_t)(uintptr_t)state_next && state->next != (uint64_t)(uintptr_t)wide_next)
		return;
	mine->calls++;
	mine->constant = constant + (vector < 0);
	mine->state = *state;
	memcpy(mine->vector, state->vector, sizeof(mine->vector));
	memcpy(mine->mask, state->mask, sizeof(mine->mask));
	mine->address = state->mmx[2];
}

static void call_state(void *context, struct lh_emitter *emitter,
                       const struct lh_translated_instruction *instruction)
{
	int address, label;

	if (instruction->accesses->count == 0 || !(instruction->accesses->at[0].kind & LH_ACCESS_WRITE) ||
	    instruction->accesses->at[0].base == ZYDIS_REGISTER_RSP)
		return;
	if (context) {
		address = lh__emit_address(emitter, instruction, &instruction->accesses->at[0]);
		label = lh__emit_unless_within(emitter, address, 1, UINT64_MAX);
		lh__emit_call_state(emitter, keep, instruction, 5);
		lh__emit_here(emitter, label);
	} else {
		lh__emit_call_state(emitter, keep, instruction, 5);
	}
	lh__emit_done(emitter);
}

/* One store, with known values in registers. */
uint64_t state_work(uint64_t *memory, const void *vector);
__asm__(".text\nstate_work: mov $0x1111, %eax\nmov $0x2222, %ecx\nmov $0x3333, %r11d\nmovdqu (%rsi), %xmm5\n"
        "movdqu (%rsi), %xmm15\nmovq (%rsi), %mm2\nstc\nmov %rax, (%rdi)\nstate_next: adc %rcx, %rax\nemms\n"
        "movq %xmm15, %rcx\nadd %rcx, %rax\nadd %r11, %rax\nret\n");
uint64_t wide_work(uint64_t *memory, const void *vector);
__asm__(".text\nwide_work: vmovdqu64 (%rsi), %zmm4\nvmovdqu64 (%rsi), %zmm20\nmov $0x5a, %eax\nkmovq %rax, "
        "%k3\n"
        "vmovdqu64 %zmm4, (%rdi)\nwide_next: vmovq %xmm20, %rax\nkmovq %k3, %rcx\nadd %rcx, "
        "%rax\nvzeroupper\nret\n");

static void check_state(bool filtered)
{
	struct lh_translator *translator = translator_with(
		(struct lh_translate_options){ .client = { .context = filtered ? &filtered : NULL,
	                                                   .thread_bytes = sizeof(struct own),
	                                                   .before = call_state } });
	uint64_t memory[8], vector[8] = { 0x0102030405060708, 2, 3, 4, 5, 6, 7, 8 };
	uint64_t wanted = state_work(memory, vector), got;
	struct own *own;

	begin(translator);
	own = lh__translate_thread_bytes(translator);
	look_at(own, memory);
	got = state_work(memory, vector);
	lh__translate_end(translator);
	is(got, wanted, "the program goes on as it would");
	ok(own->calls == 1 && own->constant == 5, "the function was called once");
	ok(own->state.general[0] == 0x1111 && own->state.general[1] == 0x2222 &&
	           own->state.general[7] == (uint64_t)(uintptr_t)memory && own->state.general[11] == 0x3333,
	   "general registers as the program has them");
	ok(own->state.flags & 1 && own->state.next == (uint64_t)(uintptr_t)state_next,
	   "flags, and where it is");
	ok(memcmp(own->vector[5], vector, 16) == 0 && memcmp(own->vector[15], vector, 16) == 0 &&
	           own->address == vector[0],
	   "vector registers");
	is(own->state.fs, (uint64_t)(uintptr_t)pthread_self(), "the base of fs");
	if (!__builtin_cpu_supports("avx512bw")) {
		skip("wide vectors", "no AVX-512");
	} else {
		wanted = wide_work(memory, vector);
		begin(translator);
		got = wide_work(memory, vector);
		lh__translate_end(translator);
		is(got, wanted, "and with wide vectors");
		ok(memcmp(own->vector[4], vector, 64) == 0 && memcmp(own->vector[20], vector, 64) == 0 &&
		           own->mask[3] == 0x5a,
		   "all of them, and masks");
	}
	lh__translate_close(translator);
}

/* ---- functions that run natively */

static struct lh_translator *natives;
static bool was_on;

__attribute__((noinline)) static uint64_t six(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                                              uint64_t f)
{
	struct own *own = lh__translate_thread_bytes(natives);

	((volatile uint64_t *)(uintptr_t)own->first)[0] = a; /* a write that is not counted */
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f;
}

__attribute__((noinline)) static void ends(void)
{
	lh__translate_end(natives);
}

/* Ends it, and begins it again: the function's rest is translated then. */
__attribute__((noinline)) static void begins_again(void)
{
	lh__translate_end(natives);
	begin(natives);
}

__attribute__((noinline)) static void begins(void)
{
	begin(natives);
}

static void check_natives(void)
{
	uint64_t got, memory[2] = { 0 }, calls;
	struct own *own;
	int result = 0;

	natives = translator_with((struct lh_translate_options){
		.client = { .thread_bytes = sizeof(struct own), .before = call_plain } });
	begin(natives);
	own = lh__translate_thread_bytes(natives);
	look_at(own, memory);
	got = six(1, 2, 3, 4, 5, 6); /* known before it becomes a native */
	result |= lh__translate_native(natives, (uint64_t)(uintptr_t)six);
	result |= lh__translate_native(natives, (uint64_t)(uintptr_t)ends);
	result |= lh__translate_native(natives, (uint64_t)(uintptr_t)begins);
	result |= lh__translate_native(natives, (uint64_t)(uintptr_t)begins_again);
	calls = own->calls;
	got += six(1, 2, 3, 4, 5, 6);
	calls = own->calls - calls;
	was_on = lh__translate_is_on(natives);
	lh__translate_end(natives);
	is(result, 0, "natives are noted, by translated code too");
	is(got, 2 * (1 + 4 + 9 + 16 + 25 + 36), "a native has its six arguments");
	is(calls, 0, "what it stores is not seen");
	ok(was_on && !lh__translate_is_on(natives), "and its caller goes on translated");
	begin(natives);
	ends();
	ok(!lh__translate_is_on(natives), "after one that ends it the thread is native");
	begin(natives);
	begins();
	lh__translate_end(natives);
	was_on = lh__translate_is_on(natives);
	lh__translate_end(natives);
	ok(was_on && !lh__translate_is_on(natives), "one that begins it again counts");
	begin(natives);
	begins_again();
	((volatile uint64_t *)memory)[1] = 1;
	calls = own->calls;
	((volatile uint64_t *)memory)[0] = 1;
	calls = own->calls - calls;
	was_on = lh__translate_is_on(natives);
	lh__translate_end(natives);
	ok(was_on && !lh__translate_is_on(natives) && calls > 0,
	   "one that ends and begins it goes on translated");
	for (unsigned i = 0; i < 300 && result == 0; i++)
		result = lh__translate_native(natives, 4096 + i);
	is(result, -ENOSPC, "there may be too many");
	lh__translate_close(natives);
}

/* ---- vector registers, where what a client calls saves them once more */

static void clobber(void *own, uint64_t a, uint64_t b)
{
	(void)own, (void)a, (void)b;
	__asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\tpcmpeqd %%xmm7, %%xmm7" : : : "xmm0", "xmm7");
}

static bool clobber_twice(void *context, void *own, struct lh_translate_call *call)
{
	(void)context, (void)call;
	clobber(own, 0, 0);
	lh__translate_with_vectors(clobber, own, 0, 0);
	clobber(own, 0, 0);
	return false;
}

static void check_vectors(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){
		.client = { .thread_bytes = sizeof(struct own), .call = clobber_twice } });
	uint64_t first = 0x1122334455667788, last = 0x99aabbccddeeff00, got[2] = { 0 };

	begin(translator);
	for (int i = 0; i < 3; i++) {
		long number = SYS_getppid;

		__asm__ volatile("movq %3, %%xmm0\n\tmovq %4, %%xmm7\n\tsyscall\n\t"
		                 "movq %%xmm0, %1\n\tmovq %%xmm7, %2"
		                 : "+a"(number), "=&r"(got[0]), "=&r"(got[1])
		                 : "r"(first), "r"(last)
		                 : "rcx", "r11", "xmm0", "xmm7", "memory");
	}
	lh__translate_end(translator);
	ok(got[0] == first && got[1] == last,
	   "vector registers are the program's, however often they were saved");
	lh__translate_close(translator);
}

int main(void)
{
	check_plain();
	check_vectors();
	check_state(false);
	check_state(true);
	check_natives();
	return done();
}
