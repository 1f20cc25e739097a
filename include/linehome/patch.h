/*
 * patch.h - what the source of a patch for a running program includes.
 *
 * A patch is a shared object with replacements for functions of a program (or of a library that it uses):
 *
 *     #include <linehome/patch.h>
 *
 *     extern int limit;                       a variable of the program, found by its name
 *     LH_PATCH_ORIGINAL(old_check, check, int (int value));
 *
 *     int new_check(int value)
 *     {
 *             return value > limit ? 0 : old_check(value);
 *     }
 *     LH_PATCH_REPLACE(check, new_check);
 *     LH_PATCH_NAME("raise-the-limit");
 *
 *     cc -shared -fPIC -O2 -o raise.so raise.c
 *     linehome patch -p PID apply raise.so
 *
 * lh_patch(3) tells all; linehome-patch(1) the command.
 */
#ifndef LINEHOME_PATCH_H
#define LINEHOME_PATCH_H

#include <stdint.h>

#define LH_PATCH_VERSION 1u

enum { LH_PATCH_KIND_REPLACE = 1, LH_PATCH_KIND_AT = 2, LH_PATCH_KIND_ORIGINAL = 3 };

/* The registers of a thread at a place that LH_PATCH_AT names. What the handler changes is what they become.
 */
struct lh_patch_registers {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, flags;
	uint64_t rip; /* where the thread goes on; 0 (as it is given): at the place itself */
	/* rsp may be made larger, and smaller by at most 256. */
};

/* One record in the section linehome_patch; made by the macros below. */
struct lh_patch_entry {
	uint32_t version, kind;
	const char *symbol; /* the program's; "MODULE!NAME" where the name alone is not unique */
	uint64_t offset;    /* AT: bytes behind the symbol, the start of an instruction */
	void *code;         /* the replacement, or the handler; ORIGINAL: NULL */
	void **original;    /* ORIGINAL: where to put the address of what does as the function did; or NULL */
};

#define LH__PATCH_JOIN(a, b) a##b
#define LH__PATCH_NAME(a, b) LH__PATCH_JOIN(a, b)
#define LH__PATCH_ENTRY(kind_, symbol_, offset_, code_, original_)                                           \
	static const struct lh_patch_entry LH__PATCH_NAME(lh__patch_entry_, __COUNTER__)                     \
		__attribute__((section("linehome_patch"), used, aligned(8))) = {                             \
			LH_PATCH_VERSION, kind_, symbol_, offset_, (void *)(code_), (void **)(original_)     \
		}

/* The program's function `function` is answered by `replacement`, of the same type. */
#define LH_PATCH_REPLACE(function, replacement)                                                              \
	LH__PATCH_ENTRY(LH_PATCH_KIND_REPLACE, #function, 0, replacement, 0)
/*
 * A pointer to what `function` was, for its replacement to call: LH_PATCH_ORIGINAL(old_check, check,
 * int (int value)) defines `int (*old_check)(int value)`. The patch must replace that function, too. Where an
 * earlier patch has replaced it already, this is the earlier replacement.
 */
#define LH_PATCH_ORIGINAL(pointer, function, type)                                                           \
	static __typeof__(type) *volatile pointer;                                                           \
	LH__PATCH_ENTRY(LH_PATCH_KIND_ORIGINAL, #function, 0, 0, &pointer)
/*
 * At the instruction `offset` bytes behind the start of `function` the handler is called before it is
 * executed: void handler(struct lh_patch_registers *registers).
 */
#define LH_PATCH_AT(function, offset, handler)                                                               \
	LH__PATCH_ENTRY(LH_PATCH_KIND_AT, #function, offset, handler, 0)
/* What the patch is called in lists; without it, the file's name. */
#define LH_PATCH_NAME(name)                                                                                  \
	static const char lh__patch_name[] __attribute__((section("linehome_name"), used)) = name
/* The patch is for this build id alone ("4fd1..", hexadecimal); without it, for any in which it can be bound.
 */
#define LH_PATCH_BUILD(id)                                                                                   \
	static const char lh__patch_build[] __attribute__((section("linehome_build"), used)) = id

#endif
