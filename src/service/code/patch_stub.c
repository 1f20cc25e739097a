/*
 * patch_stub.c - code of ours that runs in the patched process, written here as assembler and copied there
 * with the addresses that it needs.
 *
 * The stub of LH_PATCH_AT is jumped to in the middle of any function, so nothing may be lost: it steps over
 * what lies below the stack pointer (128 bytes that the function may use, and 512 of which the handler may
 * take some for the function), pushes all registers as struct lh_patch_registers, saves the vector registers,
 * and calls the handler. In the end all are put back, and the last instruction goes on by a return whose
 * address lies below the 128 bytes, so that no register and no flag is lost to a jump. Of the vector
 * registers those are saved that C code changes, so not the tiles of AMX, nor the protection key.
 */
#include <cpuid.h>
#include <stdint.h>
#include <string.h>

#include "service/code/patch_inside.h"

#define VECTORS 0xe7u /* x87, SSE, AVX, and the three parts of AVX-512 */

extern const uint8_t lh__patch_at_start[], lh__patch_at_size[], lh__patch_at_handler[], lh__patch_at_resume[],
	lh__patch_at_end[];
extern const uint8_t lh__patch_register_start[], lh__patch_register_end[];

__asm__(".pushsection .rodata\n"
        "lh__patch_at_start:\n"
        "lea -640(%rsp),%rsp\n"
        "pushq $0\n" /* rip */
        "pushfq\n"
        "cld\n"
        "push %r15\n"
        "push %r14\n"
        "push %r13\n"
        "push %r12\n"
        "push %r11\n"
        "push %r10\n"
        "push %r9\n"
        "push %r8\n"
        "pushq $0\n" /* rsp, below */
        "push %rbp\n"
        "push %rdi\n"
        "push %rsi\n"
        "push %rdx\n"
        "push %rcx\n"
        "push %rbx\n"
        "push %rax\n"
        "lea 784(%rsp),%rax\n"
        "mov %rax,56(%rsp)\n"
        "mov %rsp,%rbx\n"
        ".byte 0x48, 0x81, 0xec\n" /* sub $SIZE,%rsp */
        "lh__patch_at_size:\n"
        ".long 0\n"
        "and $-64,%rsp\n"
        "lea 512(%rsp),%rdi\n"
        "mov $8,%ecx\n"
        "xor %eax,%eax\n"
        "rep stosq\n"
        "mov $0xe7,%eax\n"
        "xor %edx,%edx\n"
        "xsave64 (%rsp)\n"
        "mov %rbx,%rdi\n"
        ".byte 0x48, 0xb8\n" /* movabs $HANDLER,%rax */
        "lh__patch_at_handler:\n"
        ".quad 0\n"
        "call *%rax\n"
        "mov $0xe7,%eax\n"
        "xor %edx,%edx\n"
        "xrstor64 (%rsp)\n"
        "mov %rbx,%rsp\n"
        "mov 136(%rsp),%rax\n"
        "test %rax,%rax\n"
        "jnz 1f\n"
        ".byte 0x48, 0xb8\n" /* movabs $RESUME,%rax */
        "lh__patch_at_resume:\n"
        ".quad 0\n"
        "1: mov 56(%rsp),%rcx\n"
        "mov %rax,-136(%rcx)\n"
        "mov 128(%rsp),%rax\n"
        "mov %rax,-144(%rcx)\n"
        "mov (%rsp),%rax\n"
        "mov %rax,-152(%rcx)\n"
        "mov 16(%rsp),%rax\n"
        "mov %rax,-160(%rcx)\n"
        "lea -160(%rcx),%rcx\n"
        "mov 8(%rsp),%rbx\n"
        "mov 24(%rsp),%rdx\n"
        "mov 32(%rsp),%rsi\n"
        "mov 40(%rsp),%rdi\n"
        "mov 48(%rsp),%rbp\n"
        "mov 64(%rsp),%r8\n"
        "mov 72(%rsp),%r9\n"
        "mov 80(%rsp),%r10\n"
        "mov 88(%rsp),%r11\n"
        "mov 96(%rsp),%r12\n"
        "mov 104(%rsp),%r13\n"
        "mov 112(%rsp),%r14\n"
        "mov 120(%rsp),%r15\n"
        "mov %rcx,%rsp\n"
        "pop %rcx\n"
        "pop %rax\n"
        "popfq\n"
        "ret $128\n"
        "lh__patch_at_end:\n"
        /*
         * clone(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM) with the
         * caller's stack, which the new thread never touches: it calls
         * membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE) and ends.
         */
        "lh__patch_register_start:\n"
        "mov $56,%eax\n"
        "mov $0x50f00,%edi\n"
        "xor %esi,%esi\n"
        "xor %edx,%edx\n"
        "xor %r10d,%r10d\n"
        "xor %r8d,%r8d\n"
        "syscall\n"
        "test %eax,%eax\n"
        "jz 1f\n"
        "ret\n"
        "1: mov $324,%eax\n"
        "mov $64,%edi\n"
        "xor %esi,%esi\n"
        "xor %edx,%edx\n"
        "syscall\n"
        "mov $60,%eax\n"
        "xor %edi,%edi\n"
        "syscall\n"
        "lh__patch_register_end:\n"
        ".popsection\n");

/* Bytes that xsave needs for VECTORS. */
static uint32_t vectors_size(void)
{
	uint32_t size = 576, a, b, c, d;

	for (unsigned i = 2; i < 8; i++)
		if (VECTORS >> i & 1 && __get_cpuid_count(0xd, i, &a, &b, &c, &d) && a != 0 && b + a > size)
			size = b + a;
	return size;
}

size_t lh__patch_stub_at(uint8_t *stub, uint64_t handler, uint64_t resume)
{
	size_t size = (size_t)(lh__patch_at_end - lh__patch_at_start);
	uint32_t vectors = vectors_size();

	memcpy(stub, lh__patch_at_start, size);
	memcpy(stub + (lh__patch_at_size - lh__patch_at_start), &vectors, sizeof vectors);
	memcpy(stub + (lh__patch_at_handler - lh__patch_at_start), &handler, sizeof handler);
	memcpy(stub + (lh__patch_at_resume - lh__patch_at_start), &resume, sizeof resume);
	return size;
}

size_t lh__patch_stub_register(uint8_t *stub)
{
	size_t size = (size_t)(lh__patch_register_end - lh__patch_register_start);

	memcpy(stub, lh__patch_register_start, size);
	return size;
}
