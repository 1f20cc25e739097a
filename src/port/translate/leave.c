/*
 * leave.c - how control leaves a block (build.h).
 *
 *     jmp, jcc              jumps with distances that are patched, each with a stub aside; where the target
 *                           follows directly, nothing, or the conditional one alone: a fall
 *     loop, jrcxz           the same, around a jump
 *     call                  push of the program's return address, then as jmp
 *     ret, indirect ones    the target to rax, then through the table. Where a client has marked the stack
 *                           pointer, a return goes to it instead
 *     syscall               executed in place; rcx becomes what it would have been. A clone leaves first:
 *                           whoever it makes must not go on with this thread's context. Of a program that
 *                           is translated whole, each leaves (process.c)
 *     xbegin                fails at once
 *     rdgsbase              answered
 *     far ones, gs set      the program's own instruction: the thread is native from there on
 *     int3, hlt, others     alone in a fragment, so that its map says where it traps
 *
 * No flag is touched.
 */
#include "port/translate/build.h"

#include <string.h>

/* A jump that will be patched; condition: 0x80 to 0x8f, or 0. */
static unsigned new_jump(struct lh_emitter *emitter, uint64_t target)
{
	unsigned number = emitter->jumps++;

	memset(&emitter->jump[number], 0, sizeof(emitter->jump[number]));
	emitter->jump[number].target = target;
	return number;
}

unsigned lh__put_jump(struct lh_emitter *emitter, unsigned condition, uint64_t target)
{
	unsigned number = new_jump(emitter, target);

	lh__put_nops(emitter, condition ? 2 : 1, 4);
	if (condition)
		lh__put_bytes(emitter, 0x0f | condition << 8, 2);
	else
		lh__put_bytes(emitter, 0xe9, 1);
	emitter->jump[number].site = emitter->at;
	lh__put_word(emitter, 0);
	return number;
}

/* A jump to the block that may follow directly: then there is only room for one. */
void lh__put_jump_on(struct lh_emitter *emitter, const struct block *block, uint64_t target)
{
	unsigned number;

	if (!block->falls) {
		lh__put_jump(emitter, 0, target);
		return;
	}
	number = new_jump(emitter, target);
	lh__put_nops(emitter, 0, 5);
	emitter->jump[number].fall = emitter->at;
	lh__put_bytes(emitter, 0x00441f0f, 4);
	lh__put_bytes(emitter, 0, 1);
}

static void put_conditional(struct lh_emitter *emitter, const struct block *block, unsigned condition,
                            uint64_t target, uint64_t next)
{
	unsigned number;

	if (block->falls)
		lh__put_nops(emitter, 0, 6);
	lh__put_jump(emitter, condition, target);
	if (!block->falls) {
		lh__put_jump(emitter, 0, next);
		return;
	}
	number = new_jump(emitter, next);
	emitter->jump[number].fall = emitter->at - 6;
}

static void put_push(struct lh_emitter *emitter, uint64_t value)
{
	if (value == (uint64_t)(int32_t)value) {
		lh__put_bytes(emitter, 0x68, 1);
		lh__put_word(emitter, (uint32_t)value);
		return;
	}
	lh__put_bytes(emitter, 0x35ff, 2); /* push literal(%rip) */
	lh__put_literal(emitter, value, 0, 1);
}

static void put_spills(struct lh_emitter *emitter)
{
	lh__put_gs(emitter, OP_STORE, RAX, LH_T_SPILL);
	lh__put_gs(emitter, OP_STORE, RCX, LH_T_SPILL + 8);
}

/* rax is the target. */
static void put_table_jump(struct lh_emitter *emitter)
{
	emitter->tail = emitter->at;
	lh__put_gs(emitter, OP_LOAD, RCX, LH_T_TABLE);
	lh__put_bytes(emitter, 0xc18966, 3); /* mov %ax, %cx */
	lh__put_bytes(emitter, 0xcd24ff, 3); /* jmp *(,%rcx,8) */
	lh__put_word(emitter, 0);
}

static void land(struct lh_emitter *emitter, uint8_t *from)
{
	if (!emitter->full)
		from[-1] = (uint8_t)(emitter->at - from);
}

/* The thread goes on natively, at an address of the program's, or at a function of the translator's own. */
void lh__put_native(struct lh_emitter *emitter, uint64_t address)
{
	lh__put_bytes(emitter, 0x25ff, 2); /* jmp *literal(%rip) */
	lh__put_literal(emitter, address, 0, 1);
}

/* Where a client wants to know of this return: a jump, with rcx spilled, from behind which this returns. */
static uint8_t *put_if_marked(struct lh_emitter *emitter, const struct lh_translate_client *client)
{
	lh__put_gs(emitter, OP_LOAD, RCX, LH_T_OWN + client->returned_offset);
	lh__put_bytes(emitter, 0x0c0c8d48, 4); /* lea (%rsp,%rcx), %rcx */
	lh__put_bytes(emitter, 0x00e3, 2);     /* jrcxz */
	return emitter->at;
}

static void put_return(struct lh_emitter *emitter, const struct decoded *decoded)
{
	const struct lh_translate_client *client = &emitter->translator->client;
	uint8_t *marked = NULL;

	put_spills(emitter);
	if (client->returned)
		marked = put_if_marked(emitter, client);
	lh__put_bytes(emitter, 0x58, 1); /* pop %rax */
	if (decoded->instruction.opcode == 0xc2)
		lh__put_memory(emitter, OP_LEA, RSP, RSP, -1, 1,
		               (uint16_t)decoded->instruction.raw.imm[0].value.u);
	put_table_jump(emitter);
	if (!marked)
		return;
	land(emitter, marked);
	lh__put_gs(emitter, OP_LOAD, RCX, LH_T_SPILL + 8);
	lh__put_native(emitter, (uint64_t)(uintptr_t)client->returned);
}

/* The operand of an indirect jump or call to rax. */
static void put_target(struct lh_emitter *emitter, const struct decoded *decoded)
{
	const ZydisDecodedInstruction *instruction = &decoded->instruction;
	unsigned modrm = instruction->raw.modrm.offset, rest = instruction->length - modrm - 1u;
	uint64_t target = lh__relative_target(decoded);
	int64_t distance;

	if (lh__is_relative(instruction) && !lh__has_prefix(decoded, 0x64)) {
		distance = (int64_t)(target - lh__executes_at(emitter, emitter->at) - 7);
		if (distance == (int32_t)distance) {
			lh__put_bytes(emitter, 0x058b48, 3); /* mov distance(%rip), %rax */
			lh__put_word(emitter, (uint32_t)distance);
		} else {
			lh__put_bytes(emitter, 0xa148, 2); /* movabs target, %rax */
			lh__put(emitter, &target, 8);
		}
		return;
	}
	if (lh__has_prefix(decoded, 0x64))
		lh__put_bytes(emitter, 0x64, 1);
	if (lh__has_prefix(decoded, 0x67))
		lh__put_bytes(emitter, 0x67, 1);
	lh__put_bytes(emitter,
	              0x48u | (instruction->raw.rex.X ? 2u : 0) | (instruction->raw.rex.B ? 1u : 0) |
	                      OP_LOAD << 8 | (unsigned)(decoded->bytes[modrm] & 0xc7) << 16,
	              3);
	lh__put(emitter, decoded->bytes + modrm + 1, rest);
}

static void put_indirect(struct lh_emitter *emitter, const struct decoded *decoded)
{
	put_spills(emitter);
	put_target(emitter, decoded);
	if (decoded->kind == INDIRECT_CALL)
		put_push(emitter, lh__next_of(decoded));
	put_table_jump(emitter);
}

/* loop and jrcxz have no long form: they jump over a jump. */
static void put_loop(struct lh_emitter *emitter, const struct decoded *decoded)
{
	uint8_t *over;

	for (unsigned i = 0; i < decoded->instruction.raw.prefix_count; i++)
		if (decoded->bytes[i] == 0x67)
			lh__put_bytes(emitter, 0x67, 1);
	lh__put_bytes(emitter, decoded->instruction.opcode, 2);
	over = emitter->at;
	lh__put_jump(emitter, 0, lh__next_of(decoded));
	if (!emitter->full)
		over[-1] = (uint8_t)(emitter->at - over);
	lh__put_jump(emitter, 0, lh__branch_target(decoded));
}

/* jrcxz to a place that is not known yet: rcx is what rax differs by. */
static uint8_t *put_unless_call(struct lh_emitter *emitter, int32_t number)
{
	lh__put_bytes(emitter, 0x888d, 2); /* lea -number(%rax), %ecx */
	lh__put_word(emitter, (uint32_t)-number);
	lh__put_bytes(emitter, 0x00e3, 2);
	return emitter->at;
}

/* A jump within the fragment to the start of a jump that is patched. */
void lh__put_back(struct lh_emitter *emitter, const uint8_t *to)
{
	lh__put_bytes(emitter, 0xe9, 1);
	lh__put_word(emitter, 0);
	if (!emitter->full)
		lh__put_distance(emitter->at - 4, to);
}

/* syscall; where it returns 0, on behind what is put next but one: the place to land from. */
static uint8_t *put_making_call(struct lh_emitter *emitter, uint64_t next, const uint8_t *parent)
{
	uint8_t *child;

	lh__put_bytes(emitter, 0x8948050f, 4); /* syscall; mov %rax, %rcx; jrcxz */
	lh__put_bytes(emitter, 0x00e3c1, 3);
	child = emitter->at;
	lh__put_constant(emitter, RCX, next);
	lh__put_back(emitter, parent);
	land(emitter, child);
	lh__put_constant(emitter, RCX, next);
	return child;
}

/* The client is asked first: with all registers true, and the address and the way back in a literal. */
static void put_see_call(struct lh_emitter *emitter, const struct decoded *decoded)
{
	uint8_t *literal;

	lh__put_gs(emitter, OP_STORE, RAX, LH_T_SPILL);
	lh__put_bytes(emitter, 0x058d48, 3); /* lea literal(%rip), %rax */
	literal = emitter->at;
	lh__put_literal(emitter, decoded->address, 0, 2);
	lh__put_gs(emitter, OP_STORE, RAX, LH_T_CALL);
	lh__put_gs(emitter, OP_LOAD, RAX, LH_T_SPILL);
	lh__put_native(emitter, (uint64_t)(uintptr_t)lh__translate_leave_syscall);
	if (!emitter->full && emitter->literals >= 2 &&
	    emitter->literal[emitter->literals - 2].site == literal)
		emitter->literal[emitter->literals - 2].value[1] = lh__executes_at(emitter, emitter->at);
}

/* All go to the translator first, which makes them on the way back; then on here. */
static void put_process_call(struct lh_emitter *emitter, const struct decoded *decoded)
{
	unsigned call = lh__put_jump(emitter, 0, lh__next_of(decoded));

	emitter->jump[call].length = decoded->instruction.length;
	emitter->jump[call].plain = emitter->at;
	lh__put_constant(emitter, RCX, lh__next_of(decoded));
	lh__put_jump(emitter, 0, lh__next_of(decoded));
}

/*
 * In place, but for what makes a process or thread: fork, clone and clone3 leave, and go on as the
 * translator says. A new thread is native. A child of fork must come to the translator before it executes
 * another fragment, by a stub that its parent knew.
 */
static void put_syscall(struct lh_emitter *emitter, const struct decoded *decoded)
{
	static const int32_t makers[3] = { SYS_clone, SYS_fork, SYS_clone3 };
	uint64_t next = lh__next_of(decoded);
	uint8_t *leave[3], *plain;
	const uint8_t *parent;
	unsigned on, clone;

	if (emitter->translator->process) {
		put_process_call(emitter, decoded);
		return;
	}
	if (emitter->translator->client.call)
		put_see_call(emitter, decoded);
	for (int i = 0; i < 3; i++)
		leave[i] = put_unless_call(emitter, makers[i]);
	plain = emitter->at;
	lh__put_bytes(emitter, 0x050f, 2);
	lh__put_constant(emitter, RCX, next);
	on = lh__put_jump(emitter, 0, next);
	parent = emitter->jump[on].site - 1;
	for (int i = 0; i < 3; i++)
		land(emitter, leave[i]);
	clone = lh__put_jump(emitter, 0, next);
	emitter->jump[clone].plain = plain;
	emitter->jump[clone].thread = emitter->at;
	put_making_call(emitter, next, parent);
	lh__put_bytes(emitter, 0xe1ff, 2); /* jmp *%rcx */
	emitter->jump[clone].fork = emitter->at;
	put_making_call(emitter, next, parent);
	lh__put_bytes(emitter, 0xe9, 1);
	emitter->jump[clone].child_site = emitter->at;
	lh__put_word(emitter, 0);
}

static void put_read_gs(struct lh_emitter *emitter, const struct decoded *decoded)
{
	int reg = decoded->instruction.raw.modrm.rm | (decoded->instruction.raw.rex.B ? 8 : 0);

	lh__put_gs(emitter, OP_LOAD, reg, LH_T_GS);
	if (decoded->instruction.raw.rex.W)
		return;
	/* mov: the upper half becomes zero */
	lh__put_bytes(emitter, reg >= 8 ? 0x45u : 0x40u, 1);
	lh__put_bytes(emitter, 0x89u | (0xc0u | (unsigned)(reg & 7) * 9) << 8, 2);
}

static unsigned condition_of(const struct decoded *decoded)
{
	return 0x80 | (decoded->instruction.opcode & 0xf);
}

static bool is_indirect(enum kind kind)
{
	return kind == RETURN || kind == INDIRECT_JUMP || kind == INDIRECT_CALL;
}

void lh__put_leave(struct lh_emitter *emitter, struct block *block, struct decoded *decoded)
{
	lh__put_place(emitter, block, decoded, is_indirect(decoded->kind) ? 1u << RAX | 1u << RCX : 0);
	switch (decoded->kind) {
	case JUMP: lh__put_jump_on(emitter, block, lh__branch_target(decoded)); break;
	case CONDITIONAL:
		put_conditional(emitter, block, condition_of(decoded), lh__branch_target(decoded),
		                lh__next_of(decoded));
		break;
	case LOOP: put_loop(emitter, decoded); break;
	case CALL:
		put_push(emitter, lh__next_of(decoded));
		lh__put_jump_on(emitter, block, lh__branch_target(decoded));
		break;
	case RETURN: put_return(emitter, decoded); break;
	case INDIRECT_JUMP:
	case INDIRECT_CALL: put_indirect(emitter, decoded); break;
	case SYSCALL: put_syscall(emitter, decoded); break;
	case TRANSACTION:
		lh__put_constant(emitter, RAX, 0);
		lh__put_jump(emitter, 0, lh__branch_target(decoded));
		break;
	case READ_GS: put_read_gs(emitter, decoded); break;
	case ALONE:
		lh__put_instruction(emitter, decoded->bytes, decoded->instruction.length);
		lh__put_jump(emitter, 0, lh__next_of(decoded));
		break;
	default: lh__put_native(emitter, decoded->address); break;
	}
}
