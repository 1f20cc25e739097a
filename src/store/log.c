/* log.c - see log.h. */
#include "store/log.h"

#include <errno.h>

#include "sys/mutant.h"

#define PAGE_BITS 40
#define REPLACE_BIT (UINT64_C(1) << 62)
#define MASK_BIT (UINT64_C(1) << 63)
#define RUN_BITS (((UINT64_C(1) << 12) - 1) << PAGE_BITS)
#define UNUSED_BITS (((UINT64_C(1) << 10) - 1) << 52)

/* The word that says all of the mask, where the mask is one run of lines. */
static bool run_word(lh_mask mask, uint64_t *word)
{
	unsigned first, count;

	if (!lh__mask_next_run(&mask, &first, &count) || mask != LH_MASK_NONE)
		return false;
	*word |= (uint64_t)first << PAGE_BITS | (uint64_t)(count - 1) << (PAGE_BITS + 6);
	return true;
}

static size_t set_head(const struct lh_change *change, uint64_t words[2])
{
	words[0] = change->page | (change->replace ? REPLACE_BIT : 0);
	if (run_word(change->mask, words))
		return 8;
	words[0] |= MASK_BIT;
	words[1] = change->mask;
	return 16;
}

size_t lh__log_set_size(const struct lh_change *change)
{
	uint64_t words[2];

	return set_head(change, words) + (size_t)LH_LINE_SIZE * lh__mask_count(change->mask);
}

size_t lh__log_set_encode(unsigned char *out, const struct lh_change *change)
{
	uint64_t words[2];
	size_t head = set_head(change, words);

	memcpy(out, words, head);
	return head + lh__lines_gather(out + head, change->data, change->mask);
}

size_t lh__log_note_encode(unsigned char *out, const void *note, uint32_t size)
{
	uint64_t word = size, all = lh__log_note_size(size);

	memset(out, 0, all);
	memcpy(out, &word, sizeof word);
	if (size)
		memcpy(out + 8, note, size);
	return all;
}

/* The mask of a word that has no mask after it; none where the run leaves the page. */
static lh_mask run_mask(uint64_t word)
{
	unsigned first = (unsigned)(word >> PAGE_BITS) & 63,
		 count = ((unsigned)(word >> (PAGE_BITS + 6)) & 63) + 1;

	return first + count <= LH_PAGE_LINES ? lh__mask_range(first, count) : LH_MASK_NONE;
}

static bool set_valid(uint64_t word, lh_mask mask)
{
	if (word & UNUSED_BITS || (word & MASK_BIT && word & RUN_BITS))
		return false;
	return mask != LH_MASK_NONE || (word & MASK_BIT && word & REPLACE_BIT);
}

long lh__log_set_decode(struct lh_lineset *set, const unsigned char *in, size_t size)
{
	uint64_t word;
	lh_mask mask;
	size_t head = 8, lines;

	if (size < head)
		return -EBADMSG;
	memcpy(&word, in, 8);
	if (word & MASK_BIT) {
		head = 16;
		if (size < head)
			return -EBADMSG;
		memcpy(&mask, in + 8, 8);
	} else {
		mask = run_mask(word);
	}
	lines = (size_t)LH_LINE_SIZE * lh__mask_count(mask);
	if (!set_valid(word, mask) || size - head < lines)
		return -EBADMSG;
	*set = (struct lh_lineset){ .page = word & LH_PAGE_NUMBER_MAX,
		                    .mask = mask,
		                    .flags = word & REPLACE_BIT ? LH_LINESET_REPLACE : 0,
		                    .lines = in + head };
	return (long)(head + lines);
}

struct head {
	uint32_t magic;
	uint8_t kind, zero[3];
	uint64_t sequence, transaction, durable;
	uint32_t size, crc;
};
_Static_assert(sizeof(struct head) == LH_LOG_RECORD_HEADER, "a record's head has 40 bytes");

static uint32_t record_crc(const struct head *head, const unsigned char *sets, uint64_t salt)
{
	struct {
		uint64_t salt;
		struct head head;
	} first = { salt, *head };

	return lh__crc32c(lh__crc32c(0, &first, sizeof first), sets, head->size - LH_LOG_RECORD_HEADER);
}

void lh__log_seal(unsigned char *out, const struct lh_log_record *record, uint64_t salt)
{
	struct head head = {
		.magic = LH_LOG_MAGIC,
		.kind = (uint8_t)record->kind,
		.sequence = record->sequence,
		.transaction = record->transaction,
		.durable = record->durable,
		.size = record->size,
	};

	head.crc = record_crc(&head, out + LH_LOG_RECORD_HEADER, salt);
	memcpy(out, &head, sizeof head);
	memset(out + record->size, 0, lh__log_stride(record->size) - record->size);
}

static bool head_valid(const struct head *head, uint64_t room)
{
	return head->magic == LH_LOG_MAGIC && head->kind >= LH_LOG_RECORD_REDO &&
	       head->kind <= LH_LOG_RECORD_TOGETHER && !head->zero[0] && !head->zero[1] && !head->zero[2] &&
	       head->size >= LH_LOG_RECORD_HEADER && head->size <= room;
}

/* Where the note ends and the line sets begin. */
static int read_note(struct lh_log_record *record)
{
	uint64_t size;

	record->sets_size = record->size - LH_LOG_RECORD_HEADER;
	if (!lh__log_has_note(record->kind))
		return 0;
	if (record->sets_size < sizeof size)
		return -EBADMSG;
	memcpy(&size, record->sets, sizeof size);
	if (size > record->sets_size || lh__log_note_size((uint32_t)size) > record->sets_size)
		return -EBADMSG;
	record->note = record->sets + sizeof size;
	record->note_size = (uint32_t)size;
	record->sets += lh__log_note_size((uint32_t)size);
	record->sets_size -= (uint32_t)lh__log_note_size((uint32_t)size);
	return 0;
}

int lh__log_read(struct lh_log_record *record, const unsigned char *in, uint64_t room, uint64_t salt)
{
	struct head head;
	uint32_t crc;

	if (room < sizeof head)
		return -EBADMSG;
	memcpy(&head, in, sizeof head);
	if (!head_valid(&head, room))
		return -EBADMSG;
	crc = head.crc;
	head.crc = 0;
	if (record_crc(&head, in + sizeof head, salt) != crc && !LH_MUTANT(LOG_CRC_NOT_CHECKED))
		return -EBADMSG;
	*record = (struct lh_log_record){ .kind = (enum lh_log_kind)head.kind,
		                          .sequence = head.sequence,
		                          .transaction = head.transaction,
		                          .durable = head.durable,
		                          .size = head.size,
		                          .sets = in + sizeof head };
	return read_note(record);
}
