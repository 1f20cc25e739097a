/*
 * plan.h - what is known of the code of one ELF file, made once and kept as a file: where instructions start,
 * where blocks begin and end, what the code was and what it looks like when all of it is absent.
 *
 * Why a file: an agent in a program maps it and needs no decoder; arming is one mmap of the *image* over the
 * program's text, 0.2 ms for 20 MB, where writing would take 50; and a second run decodes nothing.
 * service/code/plan_make.h makes plans and keeps them.
 *
 *      0  magic "LHPLAN\r\n"
 *      8  u32 version, u32 CRC-32C of the head (4096 bytes, this field as zero)
 *     16  u32 CRC-32C of all that follows the head, u32 flags (0)
 *     24  u64 size of the plan
 *     32  u64 size of the ELF file, u64 its device, u64 inode, u64 mtime in ns   what it was made from
 *     64  u32 size of the id, u32 0, 32 bytes: build id, or where there is none the first 16 bytes of the
 *         SHA-256 of the file
 *    104  u32 number of texts, u32 number of sites, u64 offset of the sites
 *    120  u64 functions, u64 instructions, u64 blocks, u64 bytes in functions that could not be decoded,
 *         u64 bytes of text in no function
 *    160  texts, 96 bytes each (struct lh_plan_text), at most 8
 *    928  u64 ctime of the ELF file in ns, or all ones: it had changed just before
 *   4096  for each text, each beginning at a multiple of 4096 and in the order of the offsets: bitmaps of one
 *         bit for each byte of the text (bit n % 64 of the little-endian word n / 64; size / 8 bytes):
 *         starts, armed, ends, heads; then, at multiples of 4096, the original text and the image,
 *         `size` bytes each
 *         sites: u32 place in its text, u16 text, i16 system call's number or -1; by text and place
 *
 * Integers are little-endian. All offsets count from the plan's beginning.
 */
#ifndef LH_PORT_CODE_PLAN_H
#define LH_PORT_CODE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "sys/sys.h"

#define LH_PLAN_MAGIC "LHPLAN\r\n"
#define LH_PLAN_VERSION 2u /* another whenever the same file gives another plan */
#define LH_PLAN_TEXTS 8u
#define LH_PLAN_ID 32u

/* An executable segment, widened to whole pages; what is not of the segment is in no function. */
struct lh_plan_text {
	uint64_t address; /* as the ELF file has it; a multiple of 4096 */
	uint64_t offset;  /* in the ELF file; likewise */
	uint64_t size;    /* a multiple of 4096, below 2 GiB */
	/* Offsets in the plan. */
	uint64_t starts; /* instruction starts, as far as decoding may be trusted */
	uint64_t armed;  /* of these, those that are INT3 in an absent line */
	uint64_t ends;   /* starts of instructions that end a block: jumps, calls, returns, ud2, hlt, int3 */
	uint64_t heads;  /* starts of blocks: functions, targets of direct jumps, what follows an end */
	uint64_t original; /* the bytes as they are in the file */
	uint64_t image;    /* the same with INT3 at each armed start */
	uint64_t reserved[3];
};

struct lh_plan_site {
	uint32_t at;   /* of a `syscall` instruction, in its text */
	uint16_t text; /* which */
	int16_t nr;    /* the call's number, where the block before it says so; else -1 */
};

struct lh_plan_head {
	char magic[8];
	uint32_t version, crc;
	uint32_t body_crc, flags;
	uint64_t size;
	uint64_t file_size, file_device, file_inode, file_mtime;
	uint32_t id_size, pad;
	uint8_t id[LH_PLAN_ID];
	uint32_t texts, sites;
	uint64_t sites_at;
	uint64_t functions, instructions, blocks, undecoded, outside;
	struct lh_plan_text text[LH_PLAN_TEXTS];
	uint64_t file_ctime; /* in ns, or UINT64_MAX: the file was too young to tell */
};

/*
 * Whether what lies at plan (at least 4096 bytes, size bytes) is a plan: magic, version, the head's CRC, and
 * that all offsets lie inside; with body, the CRC of the rest too. -EBADMSG, -EPROTONOSUPPORT (another
 * version); the reason is in error.
 */
int lh__plan_check(const void *plan, uint64_t size, bool body, struct lh_error *error) LH_MUST_CHECK;
/* Writes the two CRCs of a plan whose head says all else. */
void lh__plan_seal(void *plan);
/* The same where only the head, 4096 bytes, is another. */
void lh__plan_seal_head(void *head);

#endif
