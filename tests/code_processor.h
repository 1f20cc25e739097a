/*
 * code_processor.h - executes one instruction with registers that are given, and says what became of it.
 *
 * The machine's registers lie at a fixed address that code reaches without a register. processor_enter loads
 * all of them and jumps to the instruction, behind which a jump leads to processor_leave, which stores them.
 * Where the instruction faults a handler goes to processor_abandon instead. All vector state is loaded and
 * stored by xrstor and xsave, so the same code does on any processor.
 */
#ifndef CODE_PROCESSOR_H
#define CODE_PROCESSOR_H

#include "code/access.h"

#include <asm/prctl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define MACHINE_AT 0x10000000ul
#define MACHINE_CODE_AT 0x11000000ul
#define MACHINE_GS 0x10000ul

struct machine_registers {
	uint64_t general[16];
	uint64_t flags;
};

struct machine {
	struct machine_registers in, out;      /* 0, 136 */
	uint64_t code, host_rsp, stack_end;    /* 272, 280, 288 */
	uint64_t components;                   /* 296: that are loaded and stored */
	int signal, signal_code;               /* of the last execution; 0: none */
	uint64_t signal_address, signal_error; /* and the general registers at it are in out */
	uint8_t stack[256];
	uint8_t area_in[8192] __attribute__((aligned(64)));    /* 1024 */
	uint8_t area_out[8192] __attribute__((aligned(64)));   /* 9216 */
	uint8_t area_clean[8192] __attribute__((aligned(64))); /* 17408 */
};
_Static_assert(offsetof(struct machine, out) == 136 && offsetof(struct machine, code) == 272, "as below");
_Static_assert(offsetof(struct machine, area_in) == 640, "as below");

#define machine ((struct machine *)MACHINE_AT)

void processor_enter(void);
void processor_leave(void);
void processor_abandon(void);

/* clang-format off */
__asm__(".text\n"
	".set M, 0x10000000\n"
	".globl processor_enter, processor_leave, processor_abandon\n"
	"processor_enter:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	mov %rsp, M+280\n"
	"	mov M+296, %eax; mov M+300, %edx\n"
	"	xrstor64 M+640\n"
	"	mov M+288, %rsp; pushq M+128; popfq\n"
	"	mov M+0, %rax; mov M+8, %rcx; mov M+16, %rdx; mov M+24, %rbx; mov M+32, %rsp; mov M+40, %rbp\n"
	"	mov M+48, %rsi; mov M+56, %rdi; mov M+64, %r8; mov M+72, %r9; mov M+80, %r10; mov M+88, %r11\n"
	"	mov M+96, %r12; mov M+104, %r13; mov M+112, %r14; mov M+120, %r15\n"
	"	jmp *M+272\n"
	"processor_leave:\n"
	"	mov %rax, M+136; mov %rcx, M+144; mov %rdx, M+152; mov %rbx, M+160; mov %rsp, M+168\n"
	"	mov %rbp, M+176; mov %rsi, M+184; mov %rdi, M+192; mov %r8, M+200; mov %r9, M+208\n"
	"	mov %r10, M+216; mov %r11, M+224; mov %r12, M+232; mov %r13, M+240; mov %r14, M+248\n"
	"	mov %r15, M+256\n"
	"	mov M+288, %rsp; pushfq; popq M+264\n"
	"	mov M+296, %eax; mov M+300, %edx\n"
	"	xsave64 M+8832\n"
	"processor_abandon:\n"
	"	cld\n"
	"	mov M+296, %eax; mov M+300, %edx\n"
	"	xrstor64 M+17024\n"
	"	mov M+280, %rsp\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");
/* clang-format on */

static void machine_faulted(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	static const int order[16] = {
		REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
		REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15
	};

	machine->signal = number;
	machine->signal_code = info->si_code;
	machine->signal_address = (uint64_t)info->si_addr;
	machine->signal_error = (uint64_t)registers[REG_ERR];
	for (int i = 0; i < 16; i++)
		machine->out.general[i] = (uint64_t)registers[order[i]];
	registers[REG_EFL] &= ~0x40500l; /* AC, DF, TF */
	registers[REG_RIP] = (greg_t)(uintptr_t)processor_abandon;
}

static void *machine_map(uint64_t at, size_t size, int protection)
{
	void *got =
		mmap((void *)at, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (got != (void *)at) {
		printf("Bail out! no memory at 0x%lx\n", (unsigned long)at);
		exit(1);
	}
	return got;
}

static struct lh_access_layout machine_layout;

static void machine_open(void)
{
	static const int numbers[] = { SIGSEGV, SIGILL, SIGBUS, SIGFPE, SIGTRAP };
	struct sigaction action = { .sa_sigaction = machine_faulted,
		                    .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	static uint8_t room[128 << 10];
	stack_t stack = { .ss_sp = room, .ss_size = sizeof room };

	machine_map(MACHINE_AT, sizeof *machine, PROT_READ | PROT_WRITE);
	machine_map(MACHINE_CODE_AT, 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
	machine->stack_end = (uint64_t)(machine->stack + sizeof machine->stack);
	lh__access_layout(&machine_layout);
	machine->components = machine_layout.enabled & 0xe7;
	*(uint16_t *)machine->area_in = *(uint16_t *)machine->area_clean = 0x37f;
	*(uint32_t *)(machine->area_in + 24) = *(uint32_t *)(machine->area_clean + 24) = 0x1f80;
	sigaltstack(&stack, NULL);
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		sigaction(numbers[i], &action, NULL);
	syscall(SYS_arch_prctl, ARCH_SET_GS, MACHINE_GS);
}

/* What the processor has beside general registers. */
struct machine_vectors {
	uint8_t vector[32][64];
	uint64_t mask[8], mmx[8];
};

static void machine_set_vectors(const struct machine_vectors *from)
{
	uint8_t *area = machine->area_in;
	const uint32_t *offset = machine_layout.offset;

	*(uint64_t *)(area + 512) = machine->components;
	area[4] = 0xff; /* no x87 register is empty: they hold mmx values */
	for (int i = 0; i < 8; i++) {
		memset(area + 32 + 16 * i, 0xff, 16);
		memcpy(area + 32 + 16 * i, &from->mmx[i], 8);
	}
	for (int i = 0; i < 16; i++) {
		memcpy(area + 160 + 16 * i, from->vector[i], 16);
		if (machine->components & 4)
			memcpy(area + offset[2] + 16 * i, from->vector[i] + 16, 16);
		if (machine->components & 0x40)
			memcpy(area + offset[6] + 32 * i, from->vector[i] + 32, 32);
		if (machine->components & 0x80)
			memcpy(area + offset[7] + 64 * i, from->vector[16 + i], 64);
	}
	if (machine->components & 0x20)
		memcpy(area + offset[5], from->mask, 64);
}

/* The instruction's place: such that a displacement may be counted on before it is put there. */
static uint64_t machine_next(unsigned length)
{
	return MACHINE_CODE_AT + 64 + length;
}

/* machine->in, the vectors and the memory must have been set. */
static void machine_execute(const uint8_t *code, unsigned length)
{
	uint8_t *at = (uint8_t *)MACHINE_CODE_AT + 64;
	uint64_t leave = (uint64_t)(uintptr_t)processor_leave;

	memcpy(at, code, length);
	memcpy(at + length, "\xff\x25\x00\x00\x00\x00", 6); /* jmp *0(%rip) */
	memcpy(at + length + 6, &leave, 8);
	machine->code = (uint64_t)(uintptr_t)at;
	machine->signal = 0;
	processor_enter();
}

#endif
