/*
 * buffers.c - system calls that write to memory, where pages of code are write-protected (changed.c).
 *
 * The kernel would answer EFAULT, or do half of what it was asked for. So before a call its operands in
 * memory are looked at (sys/operands.h), which costs a load where there is no guarded page. A page that the
 * kernel writes to is checked from then on: a buffer may be filled long after the call was made.
 */
#include "port/translate/inside.h"
#include "sys/operands.h"

#include <sys/socket.h>
#include <sys/uio.h>

#define AT_ONCE 16u  /* structures that are looked at together */
#define MOST 1024u   /* that a call takes */
#define SOME PAGE    /* bytes, where nothing is known */
#define OPTIONS 256u /* bytes of what an operand of unknown size may have */

struct walk {
	struct lh_translator *translator;
	const struct lh_translate_call *call;
};

/* Calls that only read their operands: code may be written to a file. */
static bool only_reads(long number)
{
	switch (number) {
	case SYS_write:
	case SYS_pwrite64:
	case SYS_writev:
	case SYS_pwritev:
	case SYS_pwritev2:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg: return true;
	default: return false;
	}
}

static void vector(const struct walk *walk, uint64_t at, uint64_t count)
{
	struct iovec piece[AT_ONCE];
	uint64_t some;

	for (uint64_t i = 0; i < count && i < MOST; i += some) {
		some = count - i < AT_ONCE ? count - i : AT_ONCE;
		if (lh__peek(walk->translator->sys, at + i * sizeof(*piece), piece, some * sizeof(*piece)) <
		    0)
			return;
		for (uint64_t j = 0; j < some; j++)
			lh__changed_written(walk->translator, (uint64_t)(uintptr_t)piece[j].iov_base,
			                    piece[j].iov_len);
	}
}

static void message(const struct walk *walk, uint64_t at)
{
	struct msghdr head;

	lh__changed_written(walk->translator, at, sizeof(struct mmsghdr));
	if (lh__peek(walk->translator->sys, at, &head, sizeof(head)) < 0)
		return;
	lh__changed_written(walk->translator, (uint64_t)(uintptr_t)head.msg_name, head.msg_namelen);
	lh__changed_written(walk->translator, (uint64_t)(uintptr_t)head.msg_control, head.msg_controllen);
	vector(walk, (uint64_t)(uintptr_t)head.msg_iov, head.msg_iovlen);
}

/* What the operand's size is counted by: another argument, or what that points to. */
static uint64_t size_of(const struct walk *walk, const struct lh_operand *operand)
{
	uint64_t count = (uint64_t)walk->call->argument[operand->other];

	switch (operand->kind) {
	case LH_OPERAND_FIXED: return operand->size;
	case LH_OPERAND_SIZED: return count > UINT64_MAX / 65536 ? 0 : count * operand->size;
	case LH_OPERAND_COUNTED: return (uint64_t)(uint32_t)count * operand->size;
	case LH_OPERAND_BITS: return (uint32_t)count / 8 + 8;
	case LH_OPERAND_PAGES: return count / PAGE + 1;
	case LH_OPERAND_LENGTH: lh__changed_written(walk->translator, count, operand->size); return SOME;
	case LH_OPERAND_IOCTL: return ((uint64_t)walk->call->argument[1] >> 16 & 0x3fff) + OPTIONS;
	case LH_OPERAND_ANY:
	case LH_OPERAND_POINTERS: return SOME;
	default: return 0; /* only read, or not where the argument leads to */
	}
}

static void look_at(const struct walk *walk, const struct lh_operand *operand)
{
	uint64_t at = (uint64_t)walk->call->argument[operand->argument];
	uint64_t count = (uint64_t)walk->call->argument[operand->other];

	switch (operand->kind) {
	case LH_OPERAND_REMOTE:
		if (walk->call->number == SYS_process_vm_writev &&
		    walk->call->argument[0] == LH_SYS(walk->translator->sys, SYS_getpid))
			vector(walk, at, count);
		break;
	case LH_OPERAND_IOVEC:
		if (walk->call->number != SYS_process_vm_writev)
			vector(walk, at, count);
		break;
	case LH_OPERAND_MESSAGE: message(walk, at); break;
	case LH_OPERAND_MESSAGES:
		for (uint64_t i = 0; i < count && i < MOST; i++)
			message(walk, at + i * sizeof(struct mmsghdr));
		break;
	default: lh__changed_written(walk->translator, at, size_of(walk, operand)); break;
	}
}

void lh__changed_buffers(struct lh_translator *translator, const struct lh_translate_call *call)
{
	const struct lh_operand *operand = lh__operands(call->number)->operand;
	const struct walk walk = { translator, call };

	if (only_reads(call->number))
		return;
	for (unsigned i = 0; i < LH_OPERANDS_MAX && operand[i].kind != LH_OPERAND_NONE; i++)
		look_at(&walk, &operand[i]);
}
