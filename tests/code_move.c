/*
 * Instructions at another address: windows out of real libraries are moved and decoded again, and windows
 * that are made up are run at both places. Every checker is shown to see what is wrong.
 */
#include "code/move.h"
#include "tap.h"

#include <Zydis/Zydis.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>

static ZydisDecoder decoder;
static uint64_t seed = 88172645463325252ull;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint64_t below(uint64_t n)
{
	return draw() % n;
}

/* ---- what was moved, decoded again ---- */

struct instruction {
	ZydisDecodedInstruction is;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	const uint8_t *code;
	uint64_t address;
};

static int decode(const uint8_t *code, size_t size, uint64_t address, struct instruction *out)
{
	out->code = code;
	out->address = address;
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, size, &out->is, out->operand));
}

/* The absolute address that an operand speaks of relative to the instruction, or 0. */
static uint64_t absolute(const struct instruction *instruction)
{
	for (int i = 0; i < instruction->is.operand_count; i++) {
		ZyanU64 address;
		const ZydisDecodedOperand *operand = &instruction->operand[i];
		int relative = (operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && operand->imm.is_relative) ||
		               (operand->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		                operand->mem.base == ZYDIS_REGISTER_RIP);

		if (relative && ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&instruction->is, operand,
		                                                      instruction->address, &address)))
			return address;
	}
	return 0;
}

struct checked {
	const uint8_t *out;
	uint64_t out_address;
	size_t at, size;
};

static int next(struct checked *checked, struct instruction *out)
{
	if (!decode(checked->out + checked->at, checked->size - checked->at,
	            checked->out_address + checked->at, out))
		return 0;
	checked->at += out->is.length;
	return 1;
}

/* push $low; movl $high, 4(%rsp) */
static int leaves(struct checked *checked, uint64_t wanted)
{
	struct instruction push, store;
	uint64_t value;

	if (!next(checked, &push) || push.is.mnemonic != ZYDIS_MNEMONIC_PUSH || push.is.length != 5 ||
	    !next(checked, &store) || memcmp(store.code, "\xc7\x44\x24\x04", 4) != 0)
		return 0;
	value = (uint32_t)push.is.raw.imm[0].value.u | store.is.raw.imm[0].value.u << 32;
	return value == wanted;
}

static int same_memory(const struct instruction *call, const struct instruction *jump)
{
	const ZydisDecodedOperand *a = &call->operand[0], *b = &jump->operand[0];
	int64_t further;

	if (a->type != b->type)
		return 0;
	if (a->type == ZYDIS_OPERAND_TYPE_REGISTER)
		return a->reg.value == b->reg.value;
	if (a->mem.base == ZYDIS_REGISTER_RIP)
		return absolute(call) == absolute(jump);
	further = a->mem.base == ZYDIS_REGISTER_RSP ? 8 : 0;
	return a->mem.base == b->mem.base && a->mem.index == b->mem.index && a->mem.scale == b->mem.scale &&
	       a->mem.segment == b->mem.segment && a->mem.disp.value + further == b->mem.disp.value;
}

static int same_bytes(const struct instruction *old, const struct instruction *new)
{
	unsigned hole = old->is.raw.disp.offset;

	if (old->is.length != new->is.length || absolute(old) != absolute(new))
		return 0;
	if (!absolute(old))
		return memcmp(old->code, new->code, old->is.length) == 0;
	return memcmp(old->code, new->code, hole) == 0 &&
	       memcmp(old->code + hole + 4, new->code + hole + 4, old->is.length - hole - 4) == 0;
}

static int same_one(const struct instruction *old, struct checked *checked)
{
	struct instruction new, over, far;
	int relative = old->is.raw.imm[0].is_relative;

	if (old->is.meta.category == ZYDIS_CATEGORY_CALL) {
		if (!leaves(checked, old->address + old->is.length) || !next(checked, &new) ||
		    new.is.mnemonic != ZYDIS_MNEMONIC_JMP)
			return 0;
		return relative ? absolute(&new) == absolute(old) : same_memory(old, &new);
	}
	if (!next(checked, &new) || new.is.mnemonic != old->is.mnemonic)
		return 0;
	if (!relative)
		return same_bytes(old, &new);
	if (old->is.opcode >= 0xe0 && old->is.opcode <= 0xe3)
		return next(checked, &over) && next(checked, &far) &&
		       over.is.mnemonic == ZYDIS_MNEMONIC_JMP && far.is.mnemonic == ZYDIS_MNEMONIC_JMP &&
		       absolute(&new) == far.address && absolute(&over) == far.address + far.is.length &&
		       absolute(&far) == absolute(old) && new.is.address_width == old->is.address_width;
	return absolute(&new) == absolute(old) && new.is.length == (new.code[0] == 0xe9 ? 5 : 6);
}

/* Whether out does what code does, as far as decoding tells. */
static int same_window(const uint8_t *code, uint64_t address, const uint8_t *out, uint64_t out_address,
                       const struct lh_moved_code *moved)
{
	struct checked checked = { out, out_address, 0, moved->size };
	struct instruction old, last;
	size_t at = 0;

	for (unsigned i = 0; i < moved->count; i++) {
		if (moved->from[i] != at || moved->to[i] != checked.at ||
		    !decode(code + at, 15, address + at, &old) || !same_one(&old, &checked))
			return 0;
		at += old.is.length;
	}
	if (at != moved->window)
		return 0;
	if (!moved->ends && (!next(&checked, &last) || last.is.mnemonic != ZYDIS_MNEMONIC_JMP ||
	                     absolute(&last) != address + at))
		return 0;
	return checked.at == checked.size;
}

/* Whether a refusal to move what stands here is right: something in it cannot be moved. */
static int may_refuse(const uint8_t *code, size_t size, uint64_t address, unsigned least)
{
	struct instruction one;
	size_t window = 0;

	while (window < least) {
		if (!decode(code + window, size - window, address, &one))
			return 1;
		window += one.is.length;
	}
	for (size_t at = 0; at < window; at += one.is.length) {
		decode(code + at, size - at, address + at, &one);
		if (one.is.raw.imm[0].is_relative && absolute(&one) - address < window)
			return 1;
		if (one.is.mnemonic == ZYDIS_MNEMONIC_XBEGIN ||
		    one.is.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE || one.is.address_width == 32)
			return 1;
	}
	return 0;
}

struct tally {
	long windows, refused, wrong, short_of, calls, relative, planted, unseen;
};

/* Every byte of what was written is changed in turn: it must be seen. */
static void plant(const uint8_t *code, uint64_t address, uint8_t *out, uint64_t out_address,
                  const struct lh_moved_code *moved, struct tally *tally)
{
	for (unsigned i = 0; i < moved->size; i++) {
		out[i] ^= 1;
		tally->planted++;
		tally->unseen += same_window(code, address, out, out_address, moved);
		out[i] ^= 1;
	}
}

static void try_window(const uint8_t *code, size_t size, uint64_t address, struct tally *tally)
{
	uint64_t out_address = address + 0x10000000 + below(0x40000000);
	unsigned least = 1 + (unsigned)below(12);
	struct lh_moved_code moved;
	uint8_t out[512];
	int result = lh__move(code, size, address, least, out, sizeof out, out_address, &moved);

	if (result == -ENOSPC) {
		tally->short_of++;
	} else if (result < 0) {
		tally->refused++;
		if (result != -EILSEQ || !may_refuse(code, size, address, least))
			tally->wrong++;
	} else {
		tally->windows++;
		tally->calls += moved.has_call;
		if (moved.window < least || !same_window(code, address, out, out_address, &moved))
			tally->wrong++;
		if (tally->windows % 100 == 0)
			plant(code, address, out, out_address, &moved, tally);
	}
}

static void try_function(const uint8_t *code, size_t size, uint64_t address, struct tally *tally)
{
	struct instruction one;

	for (size_t at = 0; at < size && decode(code + at, size - at, address + at, &one);
	     at += one.is.length) {
		tally->relative += absolute(&one) != 0;
		if (at == 0 || below(4) == 0)
			try_window(code + at, size - at, address + at, tally);
	}
}

static void try_symbols(const uint8_t *file, const Elf64_Shdr *section, struct tally *tally)
{
	const Elf64_Ehdr *elf = (const void *)file;
	const Elf64_Shdr *all = (const void *)(file + elf->e_shoff);
	const Elf64_Sym *symbol = (const void *)(file + section->sh_offset);

	for (size_t i = 0; i < section->sh_size / sizeof *symbol; i++) {
		const Elf64_Shdr *text = &all[symbol[i].st_shndx < elf->e_shnum ? symbol[i].st_shndx : 0];

		if (ELF64_ST_TYPE(symbol[i].st_info) == STT_FUNC && text->sh_flags & SHF_EXECINSTR &&
		    symbol[i].st_size)
			try_function(file + text->sh_offset + symbol[i].st_value - text->sh_addr,
			             symbol[i].st_size, symbol[i].st_value, tally);
	}
}

static void try_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct tally tally = { 0 };
	struct stat status;
	const uint8_t *file;
	const Elf64_Ehdr *elf;

	if (fd < 0 || fstat(fd, &status) < 0) {
		skip(path, "it is not here");
		return;
	}
	file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	elf = (const void *)file;
	for (unsigned i = 0; i < elf->e_shnum; i++) {
		const Elf64_Shdr *section = (const Elf64_Shdr *)(const void *)(file + elf->e_shoff) + i;

		if (section->sh_type == SHT_DYNSYM)
			try_symbols(file, section, &tally);
	}
	printf("# %s: %ld windows, of them %ld with a call; %ld refused, %ld at an end; %ld bytes changed\n",
	       path, tally.windows, tally.calls, tally.refused, tally.short_of, tally.planted);
	ok(tally.windows > 10000 && tally.wrong == 0, "%s: moved windows do the same, refusals are right",
	   path);
	ok(tally.planted > 1000 && tally.unseen == 0, "%s: each byte that is wrong is seen", path);
	munmap((void *)file, (size_t)status.st_size);
	close(fd);
}

/* ---- what was moved, run ---- */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R11 = 11, REGISTERS = 16 };

struct state {
	uint64_t in[REGISTERS], in_flags, code;
	uint64_t out[REGISTERS], out_flags, saved;
	uint64_t scratch[4], exit;
};
extern struct state move_state;
struct state move_state;
void move_run(void);
void move_finish(void);

/* Offsets: in 0, in_flags 128, code 136, out 144, out_flags 272, saved 280, scratch 288. */
__asm__(".text\n.globl move_run\n.type move_run, @function\nmove_run:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, move_state+280(%rip)\nmov move_state+32(%rip), %rsp\n"
        "pushq move_state+128(%rip)\npopfq\n"
        "mov move_state+0(%rip), %rax\nmov move_state+8(%rip), %rcx\nmov move_state+16(%rip), %rdx\n"
        "mov move_state+24(%rip), %rbx\nmov move_state+40(%rip), %rbp\nmov move_state+48(%rip), %rsi\n"
        "mov move_state+56(%rip), %rdi\nmov move_state+64(%rip), %r8\nmov move_state+72(%rip), %r9\n"
        "mov move_state+80(%rip), %r10\nmov move_state+88(%rip), %r11\nmov move_state+96(%rip), %r12\n"
        "mov move_state+104(%rip), %r13\nmov move_state+112(%rip), %r14\nmov move_state+120(%rip), %r15\n"
        "jmp *move_state+136(%rip)\n"
        ".globl move_finish\n.type move_finish, @function\nmove_finish:\n"
        "mov %rsp, move_state+176(%rip)\nlea move_state+320(%rip), %rsp\npushfq\n"
        "popq move_state+272(%rip)\n"
        "mov %rax, move_state+144(%rip)\nmov %rcx, move_state+152(%rip)\nmov %rdx, move_state+160(%rip)\n"
        "mov %rbx, move_state+168(%rip)\nmov %rbp, move_state+184(%rip)\nmov %rsi, move_state+192(%rip)\n"
        "mov %rdi, move_state+200(%rip)\nmov %r8, move_state+208(%rip)\nmov %r9, move_state+216(%rip)\n"
        "mov %r10, move_state+224(%rip)\nmov %r11, move_state+232(%rip)\nmov %r12, move_state+240(%rip)\n"
        "mov %r13, move_state+248(%rip)\nmov %r14, move_state+256(%rip)\nmov %r15, move_state+264(%rip)\n"
        "mov move_state+280(%rip), %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");

/*
 * One mapping: the old window and its exits, a callee, data, a stack; further on the place for new windows.
 */
#define OLD 0x100
#define EXITS 0x400 /* 8 of them, 32 bytes each; what follows a window jumps to the first */
#define CALLEE 0x800
#define DATA 0x1000
#define STACK 0x2000
#define SIZE 0x4000
#define NEW 0x100000
static uint8_t *area;

static void put_far(uint8_t *at, uint64_t target)
{
	memcpy(at, "\xff\x25\0\0\0\0", 6);
	memcpy(at + 6, &target, 8);
}

/* movl $i, exit: only through a register would a 64-bit address do, so the number goes to the data below. */
static void put_exits(void)
{
	for (unsigned i = 0; i < 8; i++) {
		uint8_t *at = area + EXITS + i * 32;
		int32_t distance = (int32_t)(area + DATA + 0xff8 - (at + 10));

		memcpy(at, "\xc7\x05", 2);
		memcpy(at + 2, &distance, 4);
		memcpy(at + 6, &(uint32_t){ i + 1 }, 4);
		put_far(at + 10, (uint64_t)move_finish);
	}
	/* mov (%rsp), %rax; lea 5(%rax, %rbx), %rbx; ret: what it was called from shows */
	memcpy(area + CALLEE, "\x48\x8b\x04\x24\x48\x8d\x5c\x18\x05\xc3", 10);
}

struct made {
	uint8_t *at; /* grows in area + OLD */
	int first, relative, loads;
};

static void put(struct made *made, const void *bytes, size_t size)
{
	if (size)
		memcpy(made->at, bytes, size);
	made->at += size;
}

static void put_to(struct made *made, const void *opcode, size_t size, const uint8_t *target,
                   const void *after, size_t after_size)
{
	int32_t distance;

	put(made, opcode, size);
	distance = (int32_t)(target - (made->at + 4 + after_size));
	put(made, &distance, 4);
	put(made, after, after_size);
	made->relative++;
}

static unsigned some_register(void)
{
	unsigned which = (unsigned)below(15);

	return which >= RSP ? which + 1 : which;
}

static void make_arithmetic(struct made *made)
{
	static const uint8_t opcode[] = { 0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x85, 0x89 };
	unsigned reg = some_register(), rm = some_register();
	uint8_t code[8] = { (uint8_t)(0x48 | (reg >= 8) << 2 | (rm >= 8)), opcode[below(sizeof opcode)],
		            (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)) };
	int32_t value = (int32_t)draw();

	if (below(2)) {
		put(made, code, 3);
		return;
	}
	code[0] = (uint8_t)(0x48 | (rm >= 8));
	code[1] = 0x81;
	put(made, code, 3);
	put(made, &value, 4);
}

static void make_memory(struct made *made)
{
	const uint8_t *target = area + DATA + below(0x100) * 8;
	unsigned reg = some_register();
	uint8_t code[] = { (uint8_t)(0x48 | (reg >= 8) << 2), "\x8b\x89\x03\x8d"[below(4)],
		           (uint8_t)((reg & 7) << 3 | 5) };
	int32_t value = (int32_t)draw();

	made->loads++;
	switch (below(4)) {
	case 0: put_to(made, "\x48\x81\x05", 3, target, &value, 4); break; /* add $value, target */
	case 1: put_to(made, "\x83\x3d", 2, target, &(int8_t){ (int8_t)value }, 1); break; /* cmp */
	default: put_to(made, code, 3, target, NULL, 0);
	}
}

static void make_stack(struct made *made)
{
	unsigned reg = some_register() & 7;

	put(made, &(uint8_t){ (uint8_t)((below(2) ? 0x50 : 0x58) | (reg == RSP ? 0 : reg)) }, 1);
}

/* A jump to one of the exits: short where that reaches. */
static void make_jump(struct made *made)
{
	const uint8_t *target = area + EXITS + (1 + below(7)) * 32;
	unsigned condition = (unsigned)below(16);
	uint8_t near[2] = { 0x0f, (uint8_t)(0x80 | condition) };
	ptrdiff_t distance = target - (made->at + 2);
	uint8_t code[2] = { (uint8_t)(0x70 | condition), (uint8_t)distance };

	if (below(4) == 0) {
		put_to(made, near, 2, target, NULL, 0);
		return;
	}
	if (below(3) == 0)
		code[0] = (uint8_t)(0xe0 | below(4));
	if (distance < 128)
		put(made, code, 2);
	made->relative++;
}

static void make_call(struct made *made)
{
	int32_t far = (int32_t)(8 * (2 + below(60)));

	switch (below(made->first ? 5 : 3)) {
	case 0: put_to(made, "\xe8", 1, area + CALLEE, NULL, 0); break;
	case 1: put_to(made, "\xff\x15", 2, area + DATA + 0xff0, NULL, 0); break; /* call *pointer */
	case 2:
		put(made, "\x49\xbb", 2); /* mov $callee, %r11 */
		put(made, &(uint64_t){ (uint64_t)(area + CALLEE) }, 8);
		put(made, "\x41\xff\xd3", 3);
		break;
	case 3: put(made, "\xff\x14\x24", 3); break; /* call *(%rsp) */
	default:
		put(made, far < 128 ? "\xff\x54\x24" : "\xff\x94\x24", 3);
		put(made, &far, far < 128 ? 1 : 4);
	}
}

/* Some instructions that end in a jump to the first exit; the code is where a jump out of it is short. */
static struct made make_window(int calls)
{
	struct made made = { .at = area + OLD, .first = 1 };
	unsigned count = 1 + (unsigned)below(5);

	if (below(2))
		made.at = area + EXITS - 72;
	memset(area + OLD, 0xcc, EXITS - OLD);
	for (unsigned i = 0; i < count; i++, made.first = 0)
		switch (below(6)) {
		case 0: make_memory(&made); break;
		case 1: make_stack(&made); break;
		case 2: make_jump(&made); break;
		case 3:
			if (calls && made.at - (area + OLD) < 0x100) {
				make_call(&made);
				break;
			} /* fall through */
		default: make_arithmetic(&made);
		}
	return made;
}

static void set_up(uint64_t random)
{
	seed = random;
	for (unsigned i = 0; i < (SIZE - DATA) / 8; i++)
		((uint64_t *)(area + DATA))[i] = draw();
	for (unsigned i = 0; i < 0x100; i++) /* above the stack pointer: what call *8(%rsp) finds */
		((uint64_t *)(area + STACK + 0x1000))[i] = (uint64_t)(area + CALLEE);
	*(uint64_t *)(area + DATA + 0xff0) = (uint64_t)(area + CALLEE);
	for (unsigned i = 0; i < REGISTERS; i++)
		move_state.in[i] = below(4) ? draw() : below(3);
	move_state.in[RSP] = (uint64_t)(area + STACK + 0x1000);
	move_state.in_flags = 0x202 | (draw() & 0x8d5); /* the arithmetic ones */
}

struct outcome {
	uint64_t registers[REGISTERS], flags;
	uint8_t memory[SIZE - DATA];
};

/* What is below the stack pointer is dead. */
static void run_at(const uint8_t *code, uint64_t random, struct outcome *outcome)
{
	set_up(random);
	move_state.code = (uint64_t)code;
	move_run();
	memcpy(outcome->registers, move_state.out, sizeof outcome->registers);
	outcome->flags = move_state.out_flags;
	memset(area + STACK, 0, move_state.out[RSP] - (uint64_t)(area + STACK));
	memcpy(outcome->memory, area + DATA, sizeof outcome->memory);
}

enum fault { NONE, DISPLACEMENT, RETURN };

/* Something wrong in what was moved: a load from elsewhere, an address to return to that is cut. */
static int spoil(uint8_t *out, const struct lh_moved_code *moved, enum fault fault)
{
	for (unsigned i = 0; i < moved->count; i++) {
		uint8_t *at = out + moved->to[i];

		if (fault == DISPLACEMENT && (at[0] & 0xf8) == 0x48 && at[1] == 0x03 && (at[2] & 0xc7) == 5) {
			at[3] ^= 8;
			return 1;
		}
		if (fault == RETURN && at[0] == 0x68 && at[5] == 0xc7) {
			at[1]++;
			return 1;
		}
	}
	return 0;
}

/* Runs one window at both places: 1 the same, 0 not, -1 it was refused or is no case for this fault. */
static int both_ways(int calls, enum fault fault)
{
	static struct outcome here, there;
	struct made made = make_window(calls && fault != RETURN ? calls : fault == RETURN);
	uint8_t *start = made.at > area + EXITS - 72 ? area + EXITS - 72 : area + OLD;
	size_t size = (size_t)(made.at - start);
	uint64_t random = draw() | 1;
	struct lh_moved_code moved;

	put_to(&made, "\xe9", 1, area + EXITS, NULL, 0);
	if (made.at > area + EXITS || size > 60 || size == 0)
		return -1;
	if (lh__move(start, size, (uint64_t)start, (unsigned)size, area + NEW, 512, (uint64_t)(area + NEW),
	             &moved) < 0)
		return -1;
	if (fault != NONE && !spoil(area + NEW, &moved, fault))
		return -1;
	run_at(start, random, &here);
	/* Where nothing returns into it, the window gives way to a jump, as it will in earnest. */
	if (!moved.has_call && size >= LH_MOVE_JUMP) {
		memset(start, 0xcc, size);
		if (lh__move_jump(start, (uint64_t)start, (uint64_t)(area + NEW)) < 0)
			return 0;
		run_at(start, random, &there);
	} else {
		run_at(area + NEW, random, &there);
	}
	return memcmp(&here, &there, sizeof here) == 0;
}

static void test_running(void)
{
	long same = 0, different = 0, refused = 0, seen = 0, planted = 0;

	for (int i = 0; i < 40000; i++) {
		int result = both_ways(i & 1, NONE);

		seed ^= (uint64_t)i * 0x9e3779b97f4a7c15ull;
		same += result == 1;
		different += result == 0;
		refused += result < 0;
	}
	printf("# %ld windows run at both places, %ld not\n", same, refused);
	ok(same > 20000 && different == 0,
	   "run at another place, windows leave the same in registers, flags, memory");
	for (int i = 0; i < 20000; i++) {
		int result = both_ways(0, DISPLACEMENT);

		seed ^= (uint64_t)i * 0x9e3779b97f4a7c15ull;
		planted += result >= 0;
		seen += result == 0;
	}
	printf("# %ld loads of a neighbour, %ld seen\n", planted, seen);
	ok(planted > 200 && seen > planted * 3 / 5,
	   "planted: a load of the neighbour is seen, where it is reached");
}

/* What a callee finds as the address that it returns to decides about rbx; one that is cut crashes. */
static int cut_return(void)
{
	for (int i = 0; i < 20000; i++) {
		int result = both_ways(1, RETURN);

		seed ^= (uint64_t)i * 0x9e3779b97f4a7c15ull;
		if (result == 0)
			return 1;
	}
	return 0;
}

static void test_cut_return(void)
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0)
		_exit(cut_return());
	ok(waitpid(pid, &status, 0) == pid && status != 0, "planted: a return to the byte behind is seen");
}

/* ---- edges ---- */

static int move(const char *code, size_t size, unsigned least, uint64_t out_address, size_t room,
                uint8_t *out, struct lh_moved_code *moved)
{
	return lh__move((const uint8_t *)code, size, 0x500000, least, out, room, out_address, moved);
}

static void test_errors(void)
{
	struct lh_moved_code moved = { .count = 77 };
	uint8_t out[256], full[256];
	int wrong = 0;

	is(move("\x06\x90\x90\x90\x90", 5, 5, 0x600000, 256, out, &moved), -EILSEQ, "no instruction");
	is(move("\xeb\x01\x90\x90\x90", 5, 5, 0x600000, 256, out, &moved), -EILSEQ, "a jump inside");
	is(move("\xeb\xfe\x90\x90\x90", 5, 5, 0x600000, 256, out, &moved), -EILSEQ, "a jump to its start");
	is(move("\xc7\xf8\0\0\0\0", 6, 5, 0x600000, 256, out, &moved), -EILSEQ, "xbegin");
	is(move("\x66\xe9\0\0\x90\x90", 6, 5, 0x600000, 256, out, &moved), -EILSEQ, "a jump to 16 bits");
	is(move("\xff\xd4\x90\x90\x90", 5, 5, 0x600000, 256, out, &moved), -EILSEQ, "call *%%rsp");
	is(move("\xff\x54\x24\xf8\x90", 5, 5, 0x600000, 256, out, &moved), -EILSEQ, "call *-8(%%rsp)");
	is(move("\x67\x8b\x05\0\0\0\0", 7, 5, 0x600000, 256, out, &moved), -EILSEQ, "a load by eip");
	is(move("\x90\x90\x90\x90", 4, 5, 0x600000, 256, out, &moved), -ENOSPC, "too few bytes");
	is(move("\x90\x90\x48\xb8\0\0", 6, 5, 0x600000, 256, out, &moved), -ENOSPC, "half an instruction");
	is(move("\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90", 18, 17, 0x600000,
	        256, out, &moved),
	   -ENOSPC, "too many instructions");
	is(move("\xe8\0\0\0\0", 5, 5, 0x500000 + 0x80001000ull, 256, out, &moved), -ERANGE, "a call too far");
	is(move("\x90\x90\x90\x90\x90", 5, 5, 0x500000 + 0x80001000ull, 256, out, &moved), -ERANGE,
	   "a jump back too far");
	is(move("\x48\x8b\x05\0\0\0\0", 7, 5, 0x500000 + 0x80001000ull, 256, out, &moved), -ERANGE,
	   "a load too far");
	is(moved.count, 77, "a refusal leaves the description alone");
	is(lh__move_jump(out, 0x500000, 0x500000 + 0x80001000ull), -ERANGE, "a jump too far");
	is(move("\x75\x10\xe8\0\0\0\0", 7, 7, 0x600000, 256, full, &moved), 0, "a jump and a call");
	for (size_t room = 0; room < moved.size; room++) {
		struct lh_moved_code other;

		memset(out, 0xaa, sizeof out);
		wrong += move("\x75\x10\xe8\0\0\0\0", 7, 7, 0x600000, room, out, &other) != -ENOSPC;
		for (size_t i = room; i < sizeof out; i++)
			wrong += out[i] != 0xaa;
	}
	is(wrong, 0, "with each room that is too small it says so, and writes no further");
	ok(moved.has_call && !moved.ends && moved.count == 2 && moved.window == 7, "it is described");
	is(move("\x90\xf2\xc3", 3, 3, 0x600000, 256, out, &moved), 0, "bnd ret");
	ok(moved.ends && moved.size == 3, "what ends is not followed by a jump");
	is(move("\x66\x66\x48\xe8\0\0\0\0", 8, 5, 0x600000, 256, out, &moved), 0,
	   "a padded call, as for TLS");
}

static int entered(const char *code, size_t size, unsigned from, unsigned to)
{
	return lh__move_entered((const uint8_t *)code, size, 0x1000, 0x1000 + from, 0x1000 + to);
}

static void test_entered(void)
{
	is(entered("\x90\x90\x90\x90\x90\xeb\xfb\xc3", 8, 0, 5), 1, "a jump into the middle");
	is(entered("\x90\x90\x90\x90\x90\xeb\xf9\xc3", 8, 0, 5), 0, "a jump to the start is none");
	is(entered("\x90\x90\x90\x90\x90\x75\xfe\xc3", 8, 0, 5), 0, "nor one behind it");
	is(entered("\x90\x90\x90\x90\x90\xff\xe0", 7, 0, 5), 1, "a jump through a register: not known");
	is(entered("\x90\x90\x90\x90\x5b\xff\xe0", 7, 0, 5), 0, "a tail call through a register");
	is(entered("\x90\x90\x90\x90\x90\xff\x25\0\0\0\0", 11, 0, 5), 0,
	   "a tail call through a table of addresses");
	is(entered("\x90\x90\x90\x90\x90\x06\xc3", 7, 0, 5), 1, "bytes that are no instruction");
	is(entered("\x90\x90\x90\x90\x90\x48\x8d\x05\xf5\xff\xff\xff\xc3", 13, 0, 5), 1,
	   "an address inside that is taken");
	is(entered("\x90\x90\x90\x90\x90\xe2\xfc\xc3", 8, 0, 5), 1, "loop");
}

int main(void)
{
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	test_errors();
	test_entered();
	try_file("/lib/x86_64-linux-gnu/libc.so.6");
	try_file("/usr/lib/x86_64-linux-gnu/libcrypto.so.3");
	try_file("/usr/bin/python3.11");
	area = mmap(NULL, NEW + 0x1000, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	            0);
	put_exits();
	test_running();
	test_cut_return();
	return done();
}
