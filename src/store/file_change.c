/*
 * file_change.c - what changes a file.
 *
 * Neighbouring puts are one write: a log that is appended as lines of consecutive pages is one system call,
 * and with RWF_DSYNC the one flush of that call is all that its durability costs. Changes that are no
 * neighbours are written as they come; where some of them must be durable, one fdatasync at the end of the
 * submit is cheaper than a flush each.
 *
 * A change that fails may leave a page neither old nor new where the kernel or the medium gave up in the
 * middle: a page of several blocks when the medium is full or breaks, or a request of several runs of lines.
 * No file can promise more without a log, which is another store's work.
 */
#include "store/file_internal.h"

#include <errno.h>
#include <linux/falloc.h>

static const unsigned char zeroes[LH_PAGE_SIZE];

static bool is_durable(const struct lh_request *request)
{
	return request->flags & LH_REQUEST_DURABLE;
}

static void grow_to(struct lh_file *file, uint64_t end)
{
	if (end > file->size)
		__atomic_store_n(&file->size, end, __ATOMIC_RELAXED);
}

static void break_for_good(struct lh_file *file)
{
	__atomic_store_n(&file->broken, true, __ATOMIC_RELEASE);
}

/* ---- gates ---- */

static uint64_t gate_of(uint64_t page)
{
	return UINT64_C(1) << page % LH_FILE_GATES;
}

/* A reader is in one gate and waits for no other, so that the order does not matter. */
static void close_gates(struct lh_file *file, uint64_t gates)
{
	for (; gates; gates &= gates - 1)
		lh__gate_close(file->store.sys, &file->gate[__builtin_ctzll(gates)]);
}

static void open_gates(struct lh_file *file, uint64_t gates)
{
	for (; gates; gates &= gates - 1)
		lh__gate_open(file->store.sys, &file->gate[__builtin_ctzll(gates)]);
}

/* ---- making durable ---- */

int lh__file_datasync(struct lh_file *file, int fd)
{
	const uint64_t changes = __atomic_load_n(&file->map.changes, __ATOMIC_ACQUIRE);
	long result;

	if (__atomic_load_n(&file->broken, __ATOMIC_ACQUIRE))
		return -EIO;
	if (file->way == LH_FILE_MAPPED && __atomic_load_n(&file->map.synced, __ATOMIC_ACQUIRE) == changes)
		return 0;
	do
		result = LH_SYS(file->store.sys, SYS_fdatasync, fd);
	while (result == -EINTR);
	if (result < 0)
		break_for_good(file);
	else
		__atomic_store_n(&file->map.synced, changes, __ATOMIC_RELEASE);
	return (int)result;
}

/* ---- the write that is being put together ---- */

static void advance(struct lh_file_write *write, uint64_t bytes)
{
	write->reached += bytes;
	while (bytes > 0) {
		struct iovec *part = &write->part[write->next];
		size_t some = bytes < part->iov_len ? bytes : part->iov_len;

		part->iov_base = (char *)part->iov_base + some;
		part->iov_len -= some;
		write->next += part->iov_len == 0;
		bytes -= some;
	}
}

/* The rest of it; what was written before an error counts as written. */
static int write_rest(struct lh_file *file, int flags)
{
	struct lh_file_write *write = &file->write;

	while (write->reached < write->end) {
		long wrote = LH_SYS(file->store.sys, SYS_pwritev2, file->fd, write->part + write->next,
		                    write->parts - write->next, write->reached, 0, flags);

		if (wrote == -EINTR)
			continue;
		/* A block that was written in part is written again: O_DIRECT takes whole ones only. */
		if (wrote > 0 && file->way == LH_FILE_DIRECT)
			wrote -= wrote % file->block;
		if (wrote <= 0)
			return wrote == 0 ? -EIO : (int)wrote;
		advance(write, (uint64_t)wrote);
	}
	return 0;
}

/* The same, and on the medium. */
static int write_through(struct lh_file *file)
{
	int result = file->no_dsync ? -EOPNOTSUPP : write_rest(file, RWF_DSYNC);

	if (result == 0)
		return 0;
	if (result != -EOPNOTSUPP && lh__file_result(result) != -ENOSPC) {
		break_for_good(file);
		return result;
	}
	file->owed = true;
	if (result == -EOPNOTSUPP) {
		file->no_dsync = true;
		return write_rest(file, 0);
	}
	/* What found no room, the write or the flush? The flush, where a write by itself finds it. */
	result = write_rest(file, 0);
	if (result != 0)
		return result;
	break_for_good(file);
	return -EIO;
}

static void fail_unwritten(struct lh_file_write *write, int result)
{
	unsigned i;

	for (i = write->next; i < write->parts; i++)
		write->owner[i]->result = result;
}

static void flush(struct lh_file *file, bool through)
{
	struct lh_file_write *write = &file->write;
	int result;

	if (write->parts == 0)
		return;
	write->reached = write->offset;
	write->next = 0;
	close_gates(file, write->gates);
	result = through ? write_through(file) : write_rest(file, 0);
	open_gates(file, write->gates);
	grow_to(file, write->reached);
	if (result == -EIO && file->broken)
		write->next = 0; /* what is in the page cache may never reach the medium */
	if (result != 0)
		fail_unwritten(write, lh__file_result(result));
	file->owed |= write->durable && !through;
	write->parts = 0;
	write->gates = 0;
	write->durable = false;
}

void lh__file_flush(struct lh_file *file)
{
	flush(file, false);
}

static bool has_place(const struct lh_file *file, uint64_t offset, size_t size)
{
	const struct lh_file_write *write = &file->write;

	if (write->parts == 0)
		return true;
	if (offset != write->end || write->parts == LH_FILE_PARTS)
		return false;
	return file->way != LH_FILE_DIRECT ||
	       write->end + size - write->offset <= (uint64_t)LH_FILE_STAGE * LH_PAGE_SIZE;
}

/* Bytes of one page, for the file at offset; they stay until the submit ends, or are staged. */
static void join(struct lh_file *file, struct lh_request *request, uint64_t offset, const void *data,
                 size_t size)
{
	struct lh_file_write *write = &file->write;
	void *place = (void *)(uintptr_t)data;

	if (!has_place(file, offset, size))
		lh__file_flush(file);
	if (request->result != 0)
		return; /* an earlier part of it has failed */
	if (write->parts == 0)
		write->offset = write->end = offset;
	if (file->way == LH_FILE_DIRECT)
		place = memcpy(file->stage + (write->end - write->offset), data, size);
	write->part[write->parts] = (struct iovec){ .iov_base = place, .iov_len = size };
	write->owner[write->parts++] = request;
	write->end += size;
	write->gates |= gate_of(offset / LH_PAGE_SIZE);
	write->durable |= is_durable(request);
}

/* ---- DROP ---- */

/* Room that was promised stays, so a dropped page becomes zeroes there. */
static bool keeps_room(const struct lh_file *file, uint64_t page)
{
	return file->no_hole || page < file->reserved;
}

static long punch(struct lh_file *file, uint64_t page)
{
	long result;

	lh__file_flush(file);
	close_gates(file, gate_of(page));
	do
		result =
			LH_SYS(file->store.sys, SYS_fallocate, file->fd,
		               FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page * LH_PAGE_SIZE, LH_PAGE_SIZE);
	while (result == -EINTR);
	open_gates(file, gate_of(page));
	return result;
}

static void drop(struct lh_file *file, struct lh_request *request)
{
	const uint64_t page = request->page;
	long result = -EOPNOTSUPP;

	file->owed |= is_durable(request);
	if (page * LH_PAGE_SIZE >= file->size && page * LH_PAGE_SIZE >= file->write.end)
		return;
	if (!keeps_room(file, page))
		result = punch(file, page);
	if (result != -EOPNOTSUPP) {
		__atomic_fetch_add(&file->map.changes, 1, __ATOMIC_RELEASE);
		request->result = lh__file_result(result);
		return;
	}
	file->no_hole |= !keeps_room(file, page);
	if (file->way == LH_FILE_MAPPED)
		request->result = lh__file_map_write(file, page, LH_MASK_NONE, NULL, true);
	else
		join(file, request, page * LH_PAGE_SIZE, zeroes, LH_PAGE_SIZE);
}

/* ---- PUT and REPLACE ---- */

/* The blocks that hold the lines of touched, in bytes of the page; but for O_DIRECT a block is a line. */
static void blocks(const struct lh_file *file, lh_mask touched, unsigned *from, unsigned *to)
{
	const unsigned block = file->way == LH_FILE_DIRECT ? file->block : LH_LINE_SIZE;
	const unsigned last = LH_PAGE_LINES - 1 - (unsigned)__builtin_clzll(touched);

	*from = (unsigned)__builtin_ctzll(touched) * LH_LINE_SIZE / block * block;
	*to = last * LH_LINE_SIZE / block * block + block;
}

/* Whole blocks from the first to the last line; `was` is what stands in them and is overwritten. */
static void join_blocks(struct lh_file *file, struct lh_request *request, unsigned char *was, unsigned from,
                        unsigned to)
{
	if (request->op == LH_OP_REPLACE)
		lh__lines_zero(was, ~request->mask);
	lh__lines_copy(was, request->data, request->mask);
	join(file, request, request->page * LH_PAGE_SIZE + from, was + from, to - from);
}

/* The lines where they are, and zeroes between them where they replace the page. */
static void join_lines(struct lh_file *file, struct lh_request *request)
{
	const uint64_t offset = request->page * LH_PAGE_SIZE;
	const bool replace = request->op == LH_OP_REPLACE;
	lh_mask rest = request->mask;
	unsigned first, count, at = 0;

	while (lh__mask_next_run(&rest, &first, &count)) {
		if (replace && first > at)
			join(file, request, offset + at * LH_LINE_SIZE, zeroes, (first - at) * LH_LINE_SIZE);
		join(file, request, offset + first * LH_LINE_SIZE,
		     (const char *)request->data + first * LH_LINE_SIZE, (size_t)count * LH_LINE_SIZE);
		at = first + count;
	}
	if (replace && at < LH_PAGE_LINES)
		join(file, request, offset + at * LH_LINE_SIZE, zeroes, (LH_PAGE_LINES - at) * LH_LINE_SIZE);
}

/* What stands in the page, in `was` or where the page is mapped. */
static const void *read_before(struct lh_file *file, struct lh_request *request, lh_mask touched, void *was)
{
	const void *there = file->way == LH_FILE_MAPPED ? lh__file_map_at(file, request->page) : NULL;

	if (there)
		return there;
	request->result = lh__file_read(file, request->page, touched, was);
	return was;
}

static void put(struct lh_file *file, struct lh_request *request)
{
	unsigned char was[LH_PAGE_SIZE] __attribute__((aligned(LH_PAGE_SIZE)));
	const bool replace = request->op == LH_OP_REPLACE, counted = !(request->flags & LH_REQUEST_UNCOUNTED);
	const lh_mask touched = replace ? LH_MASK_ALL : request->mask;
	unsigned from, to;

	if (touched == LH_MASK_NONE)
		return;
	blocks(file, touched, &from, &to);
	/* What is read here must not be pending; what is pending ends before, where this is a neighbour. */
	if (!has_place(file, request->page * LH_PAGE_SIZE + from, to - from))
		lh__file_flush(file);
	if (counted) {
		const void *before = read_before(file, request, touched, was);

		if (request->result != 0)
			return;
		request->changed = lh__lines_changed(before, touched, request->data, request->mask);
		/* What it gives is there already, though perhaps not on the medium. */
		if (request->changed == 0 && !is_durable(request))
			return;
	} else if (file->way == LH_FILE_DIRECT && (to - from) / LH_LINE_SIZE != lh__mask_count(touched)) {
		request->result = lh__file_read(file, request->page, touched, was);
		if (request->result != 0)
			return;
	}
	if (replace && lh__lines_nonzero(request->data, request->mask) == LH_MASK_NONE)
		drop(file, request);
	else if (file->way == LH_FILE_DIRECT)
		join_blocks(file, request, was, from, to);
	else if (file->way == LH_FILE_BUFFERED)
		join_lines(file, request);
	else
		request->result =
			lh__file_map_write(file, request->page, request->mask, request->data, replace);
}

void lh__file_change(struct lh_file *file, struct lh_request *request)
{
	if (request->op == LH_OP_DROP)
		drop(file, request);
	else
		put(file, request);
	if (file->way == LH_FILE_MAPPED)
		file->owed |= is_durable(request);
}

void lh__file_finish(struct lh_file *file, struct lh_request *const *requests, size_t n)
{
	int result;
	size_t i;

	flush(file, file->write.durable && !file->owed);
	if (file->map.flushed)
		file->map.direct.fence(&file->map.direct);
	file->map.flushed = false;
	if (!file->owed)
		return;
	file->owed = false;
	result = lh__file_datasync(file, file->fd);
	for (i = 0; result != 0 && i < n; i++)
		if (is_durable(requests[i]) && requests[i]->op != LH_OP_GET && requests[i]->result == 0)
			requests[i]->result = lh__file_result(result);
}

/* ---- room ---- */

/* Where the file system gives no room ahead, what is beyond the end is written. */
static int write_zeroes(struct lh_file *file, uint64_t end)
{
	struct lh_request filler = { .op = LH_OP_PUT };
	uint64_t at = (file->size + LH_PAGE_SIZE - 1) / LH_PAGE_SIZE * LH_PAGE_SIZE;
	long result = 0;

	if (at != file->size)
		result = LH_SYS(file->store.sys, SYS_ftruncate, file->fd, at);
	for (; result == 0 && at < end; at += LH_PAGE_SIZE) {
		join(file, &filler, at, zeroes, LH_PAGE_SIZE);
		result = filler.result;
	}
	lh__file_flush(file);
	return result != 0 ? (int)result : filler.result;
}

int lh__file_room(struct lh_file *file, uint64_t offset, uint64_t size)
{
	const struct lh_sys *sys = file->store.sys;
	const uint64_t before = file->size, end = offset + size;
	long result;

	if (file->device) /* has all the room that it will ever have */
		return end > before ? -ENOSPC : 0;
	do
		result = LH_SYS(sys, SYS_fallocate, file->fd, 0, offset, size);
	while (result == -EINTR);
	if (result == -EOPNOTSUPP)
		result = end > before ? write_zeroes(file, end) : 0;
	if (result < 0 && end > before) {
		/* It may have become larger by a part. */
		LH_SYS(sys, SYS_ftruncate, file->fd, before);
		__atomic_store_n(&file->size, before, __ATOMIC_RELAXED);
	}
	if (result < 0)
		return lh__file_result(result);
	grow_to(file, end);
	__atomic_fetch_add(&file->map.changes, 1, __ATOMIC_RELEASE);
	return 0;
}

int lh__file_reserve(struct lh_store *store, uint64_t pages)
{
	struct lh_file *file = lh__file_of(store);
	int result;

	if (file->read_only)
		return -EROFS;
	if (pages <= file->reserved)
		return 0;
	if (pages > LH_PAGE_NUMBER_MAX + 1 || (file->way == LH_FILE_MAPPED && pages > file->map.reach))
		return -ENOSPC;
	result = lh__file_room(file, file->reserved * LH_PAGE_SIZE, (pages - file->reserved) * LH_PAGE_SIZE);
	if (result == 0 && file->way == LH_FILE_MAPPED)
		result = lh__file_map_grow(file);
	if (result == 0)
		__atomic_store_n(&file->reserved, pages, __ATOMIC_RELEASE);
	return result;
}
