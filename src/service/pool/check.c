/*
 * check.c - looking at a pool that is not open, and changing nothing.
 *
 * The pool's memory as recovery would leave it is made here, in memory of this process: its pages as they are
 * at home, with what the log says over them.
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

static const struct lh_pool_options no_options;

static int look_store(struct lh_store *below, struct lh_journal_look *look, struct lh_pool_header *header,
                      struct lh_error *error)
{
	int result = lh__journal_look(below, look, error);

	if (result < 0)
		return result;
	memcpy(header, look->client, sizeof *header);
	return lh__pool_header_check(header, &no_options, error);
}

static int open_to_look(const struct lh_sys *sys, const char *where, const char *key_file,
                        enum lh_place_use use, struct lh_store **below, struct lh_error *error)
{
	struct lh_pool_options options = { .key_file = key_file };

	return lh__place_open(sys, where, use, &options, below, error);
}

int lh__pool_peek(const struct lh_sys *sys, const char *where, const char *key_file,
                  struct lh_pool_header *header, struct lh_journal_look *look, struct lh_error *error)
{
	struct lh_error inner = { .code = 0 };
	struct lh_store *below;
	int result = open_to_look(sys, where, key_file, LH_PLACE_PEEK, &below, &inner);

	if (result == 0) {
		result = look_store(below, look, header, &inner);
		below->ops->close(below);
	}
	return result < 0 ? lh__place_fail(error, result, where, &inner) : 0;
}

int lh__pool_visit_log(const struct lh_sys *sys, const char *where, const char *key_file,
                       int (*visit)(void *context, const struct lh_log_record *record), void *context,
                       struct lh_error *error)
{
	struct lh_error inner = { .code = 0 };
	struct lh_store *below;
	int result = open_to_look(sys, where, key_file, LH_PLACE_PEEK, &below, &inner);

	if (result == 0) {
		result = lh__journal_visit(below, visit, context, &inner);
		below->ops->close(below);
	}
	return result < 0 ? lh__place_fail(error, result, where, &inner) : result;
}

/* ---- the memory as it would be ---- */

struct image {
	struct lh_store *below;
	unsigned char *memory;
	uint64_t size, home;
	uint64_t records, open;        /* open: the transaction that has not ended */
	struct lh_log_record prepared; /* and with it what another pool decides; size 0: there is none */
	struct lh_error *error;
};

static int read_image(struct image *image)
{
	int result = 0;

	for (uint64_t i = 0; i < image->size / LH_PAGE_SIZE && result == 0; i++) {
		unsigned char page[LH_PAGE_SIZE] __attribute__((aligned(64)));
		lh_mask held;

		result = image->below->ops->get_now(image->below, image->home + i, LH_MASK_ALL, page, &held);
		/* What is zero stays memory that nobody has touched. */
		if (result == 0 && lh__page_nonzero(page))
			memcpy(image->memory + i * LH_PAGE_SIZE, page, LH_PAGE_SIZE);
	}
	return result;
}

static int overlay(struct image *image, const struct lh_log_record *record)
{
	size_t at = 0, size = record->sets_size;

	while (at < size) {
		struct lh_lineset set;
		long taken = lh__log_set_decode(&set, record->sets + at, size - at);

		if (taken < 0 || set.page >= image->size / LH_PAGE_SIZE)
			return lh__fail(image->error, -EBADMSG,
			                "log record %lu changes what is not in the pool",
			                (unsigned long)record->sequence);
		lh__lineset_scatter(&set, image->memory + set.page * LH_PAGE_SIZE);
		at += (size_t)taken;
	}
	return 0;
}

/* The log's memory stays where it is while it is visited, so a record may be looked at later. */
static int decided(struct image *image, const struct lh_log_record *record)
{
	struct lh_log_record prepared = image->prepared;

	if (record->kind == LH_LOG_RECORD_SKIP)
		return 0;
	image->prepared.size = 0;
	if ((record->kind != LH_LOG_RECORD_DECIDED && record->kind != LH_LOG_RECORD_DROPPED) ||
	    record->transaction != prepared.transaction)
		return lh__fail(image->error, -EBADMSG, "log record %lu cannot stand where it does",
		                (unsigned long)record->sequence);
	image->open = 0;
	return record->kind == LH_LOG_RECORD_DECIDED ? overlay(image, &prepared) : 0;
}

static int redo(void *context, const struct lh_log_record *record)
{
	struct image *image = context;

	image->records++;
	if (image->prepared.size)
		return decided(image, record);
	switch (record->kind) {
	case LH_LOG_RECORD_UNDO: image->open = record->transaction; return 0;
	case LH_LOG_RECORD_PREPARED: image->prepared = *record; return 0;
	case LH_LOG_RECORD_REDO: return overlay(image, record);
	case LH_LOG_RECORD_END: image->open = 0; return 0;
	case LH_LOG_RECORD_TOGETHER: image->open = 0; return overlay(image, record);
	default: return 0;
	}
}

/* While the log can be read: of whom the last transaction waits to hear. */
static int find_waiting(void *context, const struct lh_log_record *record)
{
	struct lh_pool_check *check = context;
	struct lh_pool_note note;

	if (record->kind == LH_LOG_RECORD_SKIP)
		return 0;
	check->waits = record->kind == LH_LOG_RECORD_PREPARED;
	if (!check->waits)
		return 0;
	if (lh__pool_note(record, &note) < 0)
		return -EBADMSG;
	memcpy(check->waits_for, note.decides, sizeof check->waits_for);
	memset(check->waits_place, 0, sizeof check->waits_place);
	memcpy(check->waits_place, note.place,
	       note.place_size < sizeof check->waits_place ? note.place_size : sizeof check->waits_place - 1);
	return 0;
}

/*
 * Old lines in the order in which they were logged: a transaction logs a line once, so the order is all the
 * same.
 */
static int undo(void *context, const struct lh_log_record *record)
{
	struct image *image = context;

	return record->kind == LH_LOG_RECORD_UNDO && record->transaction == image->open
	               ? overlay(image, record)
	               : 0;
}

static int make_image(struct image *image, struct lh_error *error)
{
	int result = read_image(image);

	if (result < 0)
		return lh__fail(error, result, "its memory cannot be read: %s", lh__errno_name(result));
	result = lh__journal_visit(image->below, redo, image, error);
	if (result == 0 && image->open)
		result = lh__journal_visit(image->below, undo, image, error);
	return result;
}

static bool empty(const struct image *image)
{
	for (uint64_t at = 0; at < image->size; at += LH_PAGE_SIZE)
		if (lh__page_nonzero(image->memory + at))
			return false;
	return true;
}

static int check_image(struct image *image, struct lh_pool_check *check, struct lh_error *error)
{
	struct lh_heap heap = { .base = image->memory, .size = image->size };
	int result = make_image(image, error);

	if (result < 0)
		return result;
	check->records = image->records;
	check->rolled_back = image->open && !image->prepared.size ? 1 : 0;
	if (image->prepared.size && lh__journal_visit(image->below, find_waiting, check, error) < 0)
		return lh__fail(error, -EBADMSG, "its log does not say which pool decides");
	for (unsigned i = 0; i < LH_POOL_OUTCOMES; i++)
		check->kept += check->header.outcomes[i].number != 0;
	/* Its maker ended before there was a heap: opening it makes one. */
	if (!lh__heap_is_formatted(&heap) && empty(image))
		return 0;
	return lh__heap_check(&heap, &check->usage, error);
}

int lh__pool_check_store(struct lh_store *below, struct lh_pool_check *check, struct lh_error *error)
{
	struct image image = { .below = below, .error = error };
	struct lh_journal_look look;
	int result;
	long at;

	memset(check, 0, sizeof *check);
	result = look_store(below, &look, &check->header, error);
	if (result < 0)
		return result;
	check->clean = look.clean;
	image.home = look.home;
	image.size = check->header.size;
	at = LH_SYS(below->sys, SYS_mmap, 0, image.size, PROT_READ | PROT_WRITE,
	            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at < 0 && at >= -4095)
		return lh__fail(error, (int)at, "there is no memory for looking at %lu bytes",
		                (unsigned long)image.size);
	image.memory = (unsigned char *)at;
	result = check_image(&image, check, error);
	LH_SYS(below->sys, SYS_munmap, at, image.size);
	return result;
}

int lh__pool_check(const struct lh_sys *sys, const char *where, const char *key_file,
                   struct lh_pool_check *check, struct lh_error *error)
{
	struct lh_error inner = { .code = 0 };
	struct lh_store *below;
	int result = open_to_look(sys, where, key_file, LH_PLACE_READ, &below, &inner);

	if (result == 0) {
		result = lh__pool_check_store(below, check, &inner);
		below->ops->close(below);
	}
	return result < 0 ? lh__place_fail(error, result, where, &inner) : 0;
}
