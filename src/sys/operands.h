/*
 * operands.h - what is known of each system call's operands in memory: for whoever sees a program's calls.
 *
 * How the agent of `linehome run` makes a call safe is its class; see service/run/agent/buffers.h.
 */
#ifndef LH_SYS_OPERANDS_H
#define LH_SYS_OPERANDS_H

#include <stdint.h>

#define LH_OPERANDS_MAX 5

enum lh_operand_kind {
	LH_OPERAND_NONE,
	LH_OPERAND_FIXED,    /* size bytes */
	LH_OPERAND_SIZED,    /* argument[other] times size bytes */
	LH_OPERAND_COUNTED,  /* the same, of argument[other] only the lower 32 bits */
	LH_OPERAND_BITS,     /* argument[other] bits, in whole words, of which as above */
	LH_OPERAND_PAGES,    /* a byte for each page of argument[other] bytes */
	LH_OPERAND_LENGTH,   /* argument[other] points to the size, of `size` bytes, read and written */
	LH_OPERAND_STRING,   /* up to a NUL */
	LH_OPERAND_STRINGS,  /* pointers to strings, up to NULL */
	LH_OPERAND_IOVEC,    /* argument[other] iovecs, and what they point to */
	LH_OPERAND_REMOTE,   /* the same, if argument[0] is this process */
	LH_OPERAND_MESSAGE,  /* a msghdr with all that it points to */
	LH_OPERAND_MESSAGES, /* argument[other] mmsghdrs */
	LH_OPERAND_POINTERS, /* argument[other] (or one, if that is this one) times size bytes of pointers */
	LH_OPERAND_IOCBS,    /* argument[other] pointers to iocbs, with their buffers */
	LH_OPERAND_SIGMASK,  /* a pointer to a mask of signals, and its size */
	LH_OPERAND_FILTER,   /* a sock_fprog */
	LH_OPERAND_PLACE,    /* argument[other] bytes from an offset on, should the file be /proc/self/mem */
	LH_OPERAND_IOCTL,    /* as large as the number in argument[1] says */
	LH_OPERAND_ANY       /* nothing is known: some memory from the address on, if it is one */
};

struct lh_operand {
	uint8_t kind, argument, other;
	uint16_t size;
};

enum lh_call_class {
	LH_CALL_NONE, /* has no operands in memory, or is somebody else's business */
	LH_CALL_LATE,
	LH_CALL_EARLY,
	LH_CALL_ONCE,
	LH_CALL_LOOSE,
	/* With code of their own: */
	LH_CALL_PARTS,
	LH_CALL_PIN,
	LH_CALL_VMSPLICE,
	LH_CALL_RING,
	LH_CALL_EXECUTE
};

struct lh_call {
	uint8_t class;
	struct lh_operand operand[LH_OPERANDS_MAX];
};

/* The row of a call; for a number beyond the table, one that knows nothing. Never NULL. */
const struct lh_call *lh__operands(long nr);

#endif
