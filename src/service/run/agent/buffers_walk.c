/*
 * buffers_walk.c - finds the memory that a call's operands take, by the table's row. All that it reads of the
 * program is copied with a copy that survives wrong addresses, since the kernel shall be the one to say
 * EFAULT.
 */
#include "service/run/agent/buffers_inside.h"

#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define STRING_MAX (128u << 10) /* the kernel's MAX_ARG_STRLEN */
#define STRINGS_MAX 65536u
#define VECTOR_MAX 1024u
#define IOCTL_LEAST 4096u
#define IOCTL_WORDS 64u
#define LOWEST_PLACE (UINT64_C(1) << 32)
#define PIECE 256u

static bool look(struct lh_hold *hold, void *to, uintptr_t from, size_t size)
{
	bool there =
		from >= LH_LOWEST && from < LH_HIGHEST && hold->self->copy(to, (const void *)from, size) == 0;

	hold->faulted |= !there && !hold->guess;
	return there;
}

/* A word that may be an address, or anything. */
static void any(struct lh_hold *hold, uintptr_t address)
{
	bool before = hold->guess;

	if (address < LH_LOWEST || address >= LH_HIGHEST ||
	    !lh__home_watches(hold->self->home, address, address + 1))
		return;
	hold->guess = true;
	lh__buffers_reach(hold, address, LH_WINDOW);
	hold->guess = before;
}

static void any_words(struct lh_hold *hold, uintptr_t address, size_t count)
{
	bool before = hold->guess;
	uintptr_t word;

	hold->guess = true;
	for (size_t i = 0; i < count && look(hold, &word, address + i * sizeof word, sizeof word); i++)
		any(hold, word);
	hold->guess = before;
}

static void string(struct lh_hold *hold, uintptr_t address)
{
	uintptr_t at = address;
	char piece[PIECE];
	size_t size;

	if (!address)
		return;
	do {
		size = PIECE - at % PIECE;
		if (!look(hold, piece, at, size))
			return;
		at += size;
	} while (!memchr(piece, 0, size) && at - address < STRING_MAX);
	lh__buffers_reach(hold, address, at - address);
}

static void strings(struct lh_hold *hold, uintptr_t address)
{
	uintptr_t each;

	for (unsigned i = 0; address && i < STRINGS_MAX; i++, address += sizeof each) {
		if (!look(hold, &each, address, sizeof each) || !each)
			return;
		lh__buffers_reach(hold, address, sizeof each);
		string(hold, each);
	}
}

static void vector(struct lh_hold *hold, uintptr_t address, size_t count)
{
	struct iovec each;

	if (count > VECTOR_MAX)
		return;
	lh__buffers_reach(hold, address, count * sizeof each);
	for (size_t i = 0; i < count && look(hold, &each, address + i * sizeof each, sizeof each); i++)
		lh__buffers_reach(hold, (uintptr_t)each.iov_base, each.iov_len);
}

static void message(struct lh_hold *hold, uintptr_t address)
{
	struct msghdr header;

	if (!look(hold, &header, address, sizeof header))
		return;
	lh__buffers_reach(hold, address, sizeof header);
	lh__buffers_reach(hold, (uintptr_t)header.msg_name, (uint32_t)header.msg_namelen);
	lh__buffers_reach(hold, (uintptr_t)header.msg_control, header.msg_controllen);
	vector(hold, (uintptr_t)header.msg_iov, header.msg_iovlen);
}

static void messages(struct lh_hold *hold, uintptr_t address, size_t count)
{
	for (size_t i = 0; i < count && i < VECTOR_MAX && !hold->faulted;
	     i++, address += sizeof(struct mmsghdr)) {
		message(hold, address);
		lh__buffers_reach(hold, address, sizeof(struct mmsghdr));
	}
}

static void control_block(struct lh_hold *hold, uintptr_t address)
{
	struct iocb block;

	if (!look(hold, &block, address, sizeof block))
		return;
	lh__buffers_reach(hold, address, sizeof block);
	if (block.aio_lio_opcode == IOCB_CMD_PREAD || block.aio_lio_opcode == IOCB_CMD_PWRITE)
		lh__buffers_reach(hold, block.aio_buf, block.aio_nbytes);
	else if (block.aio_lio_opcode == IOCB_CMD_PREADV || block.aio_lio_opcode == IOCB_CMD_PWRITEV)
		vector(hold, block.aio_buf, block.aio_nbytes);
}

static void control_blocks(struct lh_hold *hold, uintptr_t address, size_t count)
{
	uintptr_t each;

	for (size_t i = 0; i < count && look(hold, &each, address, sizeof each);
	     i++, address += sizeof each) {
		lh__buffers_reach(hold, address, sizeof each);
		control_block(hold, each);
	}
}

static void signal_mask(struct lh_hold *hold, uintptr_t address)
{
	uintptr_t pair[2];

	if (!address || !look(hold, pair, address, sizeof pair))
		return;
	lh__buffers_reach(hold, address, sizeof pair);
	lh__buffers_reach(hold, pair[0], sizeof(uint64_t));
}

/* Of a socket option or seccomp operation that takes something else, this is a guess. */
static void filter(struct lh_hold *hold, uintptr_t address)
{
	struct sock_fprog program;

	hold->guess = true;
	if (look(hold, &program, address, sizeof program))
		lh__buffers_reach(hold, (uintptr_t)program.filter, program.len * sizeof *program.filter);
	hold->guess = false;
}

/*
 * The number of a newer ioctl says the size of its structure; arrays may follow it, and there may be pointers
 * in it.
 */
static void io_control(struct lh_hold *hold, uintptr_t address, unsigned long number)
{
	size_t size = _IOC_SIZE(number);

	hold->guess = true;
	lh__buffers_reach(hold, address, size > IOCTL_LEAST ? size : IOCTL_LEAST);
	if (_IOC_TYPE(number) != 'T')
		any_words(hold, address, _IOC_DIR(number) && size / 8 < IOCTL_WORDS ? size / 8 : IOCTL_WORDS);
	hold->guess = false;
}

static void with_length(struct lh_hold *hold, uintptr_t address, uintptr_t length_at)
{
	uint32_t length;

	if (!length_at || !look(hold, &length, length_at, sizeof length))
		return;
	lh__buffers_reach(hold, length_at, sizeof length);
	lh__buffers_reach(hold, address, length);
}

/* Offsets that are addresses as well are rare enough to spare a look at what the descriptor is. */
static void place(struct lh_hold *hold, uintptr_t address, size_t size)
{
	if (address < LOWEST_PLACE || address >= LH_HIGHEST ||
	    !lh__home_watches(hold->self->home, address, address + 1))
		return;
	hold->guess = true;
	lh__buffers_reach(hold, address, size);
	hold->guess = false;
}

static size_t product(uint64_t count, size_t size)
{
	return count > SIZE_MAX / 65536 ? SIZE_MAX : count * size;
}

static void pointers(struct lh_hold *hold, uintptr_t address, size_t size)
{
	lh__buffers_reach(hold, address, size);
	any_words(hold, address, size / sizeof(uintptr_t) < PIECE ? size / sizeof(uintptr_t) : PIECE);
}

static void vector_kinds(struct lh_hold *hold, const struct lh_operand *operand, uintptr_t address,
                         uint64_t count)
{
	switch (operand->kind) {
	case LH_OPERAND_IOVEC: vector(hold, address, count); break;
	case LH_OPERAND_REMOTE:
		if (hold->trap->argument[0] == LH_SYS(hold->self->sys, SYS_getpid))
			vector(hold, address, count);
		break;
	case LH_OPERAND_MESSAGE: message(hold, address); break;
	case LH_OPERAND_MESSAGES: messages(hold, address, (uint32_t)count); break;
	case LH_OPERAND_IOCBS: control_blocks(hold, address, count); break;
	case LH_OPERAND_POINTERS:
		pointers(hold, address,
		         product(operand->other == operand->argument ? 1 : (uint32_t)count, operand->size));
		break;
	default: break;
	}
}

static void other_kinds(struct lh_hold *hold, const struct lh_operand *operand, uintptr_t address,
                        uint64_t count)
{
	switch (operand->kind) {
	case LH_OPERAND_STRING: string(hold, address); break;
	case LH_OPERAND_STRINGS: strings(hold, address); break;
	case LH_OPERAND_SIGMASK: signal_mask(hold, address); break;
	case LH_OPERAND_FILTER: filter(hold, address); break;
	case LH_OPERAND_IOCTL: io_control(hold, address, (unsigned long)hold->trap->argument[1]); break;
	case LH_OPERAND_PLACE: place(hold, address, count); break;
	case LH_OPERAND_ANY: any(hold, address); break;
	default: vector_kinds(hold, operand, address, count); break;
	}
}

static void operand_of(struct lh_hold *hold, const struct lh_operand *operand)
{
	uintptr_t address = (uintptr_t)hold->trap->argument[operand->argument];
	uint64_t other = (uint64_t)hold->trap->argument[operand->other];

	switch (operand->kind) {
	case LH_OPERAND_FIXED: lh__buffers_reach(hold, address, operand->size); break;
	case LH_OPERAND_SIZED: lh__buffers_reach(hold, address, product(other, operand->size)); break;
	case LH_OPERAND_COUNTED:
		lh__buffers_reach(hold, address, product((uint32_t)other, operand->size));
		break;
	case LH_OPERAND_BITS:
		lh__buffers_reach(hold, address, ((size_t)(uint32_t)other + 63) / 64 * 8);
		break;
	case LH_OPERAND_PAGES:
		lh__buffers_reach(hold, address, (other + LH_PAGE_SIZE - 1) / LH_PAGE_SIZE);
		break;
	case LH_OPERAND_LENGTH: with_length(hold, address, (uintptr_t)other); break;
	default: other_kinds(hold, operand, address, other); break;
	}
}

void lh__buffers_walk(struct lh_hold *hold, const struct lh_call *call, bool guesses)
{
	for (unsigned i = 0; i < LH_OPERANDS_MAX && call->operand[i].kind != LH_OPERAND_NONE; i++)
		operand_of(hold, &call->operand[i]);
	for (unsigned i = 0; guesses && i < 6; i++)
		any(hold, (uintptr_t)hold->trap->argument[i]);
}
