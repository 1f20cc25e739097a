/*
 * journal_header.c - the header, which stands twice and is written by turns: where writing one is torn, the
 * other still says what was true before, and what it refers to is still there, since the log is only used
 * again once a header that frees it is durable.
 */
#include "store/journal_inside.h"

#include <errno.h>

static uint32_t header_crc(const struct journal_header *header)
{
	struct journal_header copy = *header;

	copy.crc = 0;
	return lh__crc32c(0, &copy, sizeof copy);
}

static bool geometry_valid(const struct journal_header *header)
{
	uint64_t max = LH_PAGE_NUMBER_MAX;

	return header->log_page >= 2 && header->log_page <= max && header->log_pages >= LH_JOURNAL_LOG_MIN &&
	       header->log_pages <= max && header->home_page >= header->log_page + header->log_pages &&
	       header->home_page <= max && header->sequence >= 1 && header->offset % LH_LINE_SIZE == 0 &&
	       header->offset < header->log_pages * LH_PAGE_SIZE && header->state <= JOURNAL_OPEN;
}

/* What one of the two copies is worth: 0, -EBADMSG: none; -EPROTONOSUPPORT: whole, of a newer version. */
static int header_check(const struct journal_header *header)
{
	if (memcmp(header->magic, JOURNAL_MAGIC, 8) != 0)
		return -EBADMSG;
	if (header_crc(header) != header->crc && !LH_MUTANT(HEADER_CRC_NOT_CHECKED))
		return -EBADMSG;
	if (header->version > LH_JOURNAL_VERSION)
		return -EPROTONOSUPPORT;
	return header->version >= LH_JOURNAL_VERSION_ALONE && geometry_valid(header) ? 0 : -EBADMSG;
}

static int read_copy(struct lh_store *below, unsigned page, struct journal_header *header)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64)));
	lh_mask held;
	int result = below->ops->get_now(below, page, lh__mask_bytes(0, JOURNAL_HEADER_SIZE), data, &held);

	if (result == 0)
		memcpy(header, data, sizeof *header);
	return result;
}

static int fail_invalid(const struct journal_header copies[2], const int checks[2], struct lh_error *error)
{
	unsigned i;

	for (i = 0; i < 2; i++)
		if (checks[i] == -EPROTONOSUPPORT)
			return lh__fail(
				error, -EPROTONOSUPPORT,
				"format version %u, and this program knows version %u; use a newer linehome",
				copies[i].version, LH_JOURNAL_VERSION);
	for (i = 0; i < 2; i++)
		if (memcmp(copies[i].magic, JOURNAL_MAGIC, 8) == 0)
			return lh__fail(error, -EBADMSG, "both copies of its header are damaged");
	return lh__fail(error, -EBADMSG, "not a pool");
}

int lh__journal_header_read(struct lh_store *below, struct journal_header *header, struct lh_error *error)
{
	struct journal_header copies[2];
	int checks[2], result;
	unsigned newer;

	for (unsigned i = 0; i < 2; i++) {
		result = read_copy(below, i, &copies[i]);
		if (result < 0)
			return lh__fail(error, result, "its header cannot be read: %s",
			                lh__errno_name(result));
		checks[i] = header_check(&copies[i]);
	}
	if (checks[0] != 0 && checks[1] != 0)
		return fail_invalid(copies, checks, error);
	if (checks[0] == -EPROTONOSUPPORT || checks[1] == -EPROTONOSUPPORT)
		return fail_invalid(copies, checks, error);
	newer = checks[0] != 0 || (checks[1] == 0 && copies[1].generation > copies[0].generation);
	if (LH_MUTANT(HEADER_OLDER_CHOSEN) && checks[0] == 0 && checks[1] == 0)
		newer = !newer;
	*header = copies[newer];
	return 0;
}

static int write_direct(struct journal *journal, const struct journal_header *header, uint64_t page)
{
	unsigned char *to = (unsigned char *)journal->direct->base + LH_PAGE_SIZE * page;

	memcpy(to, header, sizeof *header);
	if (!LH_MUTANT(HEADER_NOT_FLUSHED))
		lh__journal_flush_lines(journal, &journal->home_counts, to, sizeof *header);
	if (!LH_MUTANT(HEADER_NOT_FENCED))
		lh__journal_fence(journal, &journal->home_counts);
	return 0;
}

static int write_request(struct journal *journal, const struct journal_header *header, uint64_t page)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64)));
	struct lh_request request = {
		.op = LH_OP_PUT,
		.flags = LH_REQUEST_UNCOUNTED | LH_REQUEST_DURABLE,
		.page = page,
		.mask = lh__mask_bytes(0, JOURNAL_HEADER_SIZE),
		.data = data,
	};
	int result;

	if (LH_MUTANT(HEADER_NOT_FLUSHED))
		request.flags &= ~(unsigned)LH_REQUEST_DURABLE;
	memcpy(data, header, sizeof *header);
	result = lh__journal_do(journal, &request, 1);
	if (result < 0 || journal->below->caps.durable_put || LH_MUTANT(HEADER_NOT_FLUSHED))
		return result;
	return lh__journal_sync_below(journal);
}

int lh__journal_header_write(struct journal *journal, struct journal_header *header)
{
	struct journal_header next = *header;
	uint64_t page;
	int result;

	if (journal->hooks) {
		bool kept = journal->hooks->keep(journal->hooks->context, next.client, next.sequence);

		next.version = kept || journal->together ? LH_JOURNAL_VERSION : LH_JOURNAL_VERSION_ALONE;
	}
	next.generation++;
	next.crc = 0;
	next.crc = header_crc(&next);
	page = LH_MUTANT(HEADER_IN_PLACE) ? 0 : next.generation % 2;
	result = journal->direct ? write_direct(journal, &next, page) : write_request(journal, &next, page);
	if (result == 0)
		*header = next;
	return result;
}

int lh__journal_header_write_both(struct journal *journal, struct journal_header *header)
{
	int result = lh__journal_header_write(journal, header);

	return result == 0 ? lh__journal_header_write(journal, header) : result;
}
