/*
 * pages.c - see pages.h.
 *
 * Each thread takes all asks that have come, a batch at most, reads their pages into a buffer of its own
 * (neighbours, which are asked for one after the other, in one call), and gives what is in the buffer: so
 * what was hashed is what travels, whatever the guest writes meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/migrate/pages_inside.h"

#define HASHED 131072u
#define BATCH 32u
/* Who is waited for should not wait for many others. */
#define BATCH_FAULTS 4u

#define UNREADABLE (-ENODATA) /* which no channel returns */

struct server {
	struct server *next;
	struct lh_pages *pages;
	struct lh_channel *channel;
	enum lh_move_channel_kind kind;
	pthread_t thread;
	struct {
		uint64_t page;
		bool since;
	} asked[BATCH];
	struct lh_pages_counts counts; /* not yet added to those of all */
	uint8_t *content;              /* of a batch */
};

/* ---- the files ---- */

static int open_part(struct lh_pages *pages, const struct lh_state_region *region, struct lh_error *error)
{
	struct lh_pages_part *part = &pages->part[pages->parts];
	struct stat file;

	if (region->first != pages->pages || region->offset % LH_PAGE_SIZE != 0)
		return lh__fail(error, -EINVAL, "%s: its pages do not follow those before", region->path);
	part->fd = open(region->path, O_RDONLY | O_CLOEXEC);
	if (part->fd < 0)
		return lh__fail(error, -errno, "%s: cannot be read: %s", region->path, strerror(errno));
	pages->parts++;
	if (fstat(part->fd, &file) != 0)
		return lh__fail(error, -errno, "%s: cannot be read: %s", region->path, strerror(errno));
	if ((uint64_t)file.st_size < region->offset ||
	    ((uint64_t)file.st_size - region->offset) / LH_PAGE_SIZE < region->pages)
		return lh__fail(error, -EINVAL, "%s: the file is shorter than the memory that it holds",
		                region->path);
	part->offset = region->offset;
	part->first = region->first;
	part->pages = region->pages;
	pages->pages += region->pages;
	return 0;
}

int lh__pages_open(const struct lh_pages_options *options, struct lh_pages **out, struct lh_error *error)
{
	struct lh_pages *pages;
	int result = 0;

	if (options->regions == 0 || options->regions > LH_STATE_REGIONS_MAX)
		return lh__fail(error, -EINVAL, "no memory, or in too many parts");
	pages = calloc(1, sizeof *pages);
	if (!pages)
		return lh__fail(error, -ENOMEM, "no memory");
	pthread_mutex_init(&pages->lock, NULL);
	for (size_t i = 0; i < options->regions && result == 0; i++)
		result = open_part(pages, &options->region[i], error);
	if (result == 0) {
		result = lh__given_open(options->hashed ? options->hashed : HASHED, &pages->given);
		if (result)
			result = lh__fail(error, result, "no memory for hashes");
	}
	if (result == 0) {
		pages->held.pages = pages->pages;
		pages->held.word = calloc(1, lh__pageset_bytes(pages->pages));
		if (!pages->held.word)
			result = lh__fail(error, -ENOMEM, "no memory");
	}
	if (result) {
		lh__pages_close(pages);
		return result;
	}
	*out = pages;
	return 0;
}

const struct lh_pages_part *lh__pages_part(const struct lh_pages *pages, uint64_t page)
{
	for (size_t i = 0; i < pages->parts; i++)
		if (page - pages->part[i].first < pages->part[i].pages)
			return &pages->part[i];
	return NULL;
}

/* Pages of one part. A file that has become shorter is not taken for one that ends in zeroes. */
static int read_pages(const struct lh_pages_part *part, uint64_t page, size_t count, uint8_t *content)
{
	uint64_t at = part->offset + (page - part->first) * LH_PAGE_SIZE;
	size_t size = count * LH_PAGE_SIZE, have = 0;

	while (have < size) {
		ssize_t got = pread(part->fd, content + have, size - have, (off_t)(at + have));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		have += (size_t)got;
	}
	return 0;
}

int lh__pages_read(void *context, uint64_t page, void *content)
{
	const struct lh_pages_part *part = lh__pages_part(context, page);

	return part ? read_pages(part, page, 1, content) : -EINVAL;
}

/* ---- serving ---- */

/* What was asked; waits for the first only. How many, or an error. */
static int collect(struct server *server)
{
	unsigned n = 0, most = server->kind == LH_MOVE_FAULTS ? BATCH_FAULTS : BATCH;
	struct lh_move_message message;
	int result = lh__channel_wait(server->channel, &message, -1);

	while (result == 1) {
		if (message.value >= server->pages->pages)
			return -EPROTO;
		server->asked[n].page = message.value;
		server->asked[n++].since = message.flags & LH_MOVE_SINCE;
		if (n == most || !lh__channel_has(server->channel))
			return (int)n;
		result = lh__channel_next(server->channel, &message);
	}
	return result;
}

/* Who has asked is told so by who listens to lh__pages_failed: a channel that breaks would be made anew. */
static int note_failure(struct lh_pages *pages, uint64_t page, int why)
{
	pthread_mutex_lock(&pages->lock);
	if (!pages->failed)
		pages->failed_page = page;
	if (!pages->failed)
		pages->failed = why;
	pthread_mutex_unlock(&pages->lock);
	return UNREADABLE;
}

int lh__pages_failed(struct lh_pages *pages, struct lh_error *error)
{
	uint64_t page;
	int why;

	pthread_mutex_lock(&pages->lock);
	page = pages->failed_page;
	why = pages->failed;
	pthread_mutex_unlock(&pages->lock);
	if (why == 0)
		return 0;
	return lh__fail(error, -EIO, "page %lu of the guest's memory cannot be read at the source: %s",
	                (unsigned long)page, lh__errno_name(why));
}

static int read_batch(struct server *server, unsigned n)
{
	unsigned i, count;

	for (i = 0; i < n; i += count) {
		uint64_t page = server->asked[i].page;
		const struct lh_pages_part *part = lh__pages_part(server->pages, page);
		int result;

		count = 1;
		while (i + count < n && server->asked[i + count].page == page + count &&
		       page + count < part->first + part->pages)
			count++;
		result = read_pages(part, page, count, server->content + (size_t)i * LH_PAGE_SIZE);
		if (result)
			return note_failure(server->pages, page, result);
	}
	return 0;
}

/* What is likely to be missed together with the page. */
static int hint(struct server *server, uint64_t page)
{
	struct lh_pages *pages = server->pages;
	uint64_t hints[LH_MOVE_HINTS_MAX];
	size_t n = 0;

	pthread_mutex_lock(&pages->lock);
	if (pages->tables)
		n = lh__tables_neighbours(pages->tables, page, hints, LH_MOVE_HINTS_MAX);
	pthread_mutex_unlock(&pages->lock);
	if (n == 0)
		return 0;
	server->counts.hints += n;
	server->counts.bytes[server->kind] += LH_MOVE_HEADER + n * sizeof *hints;
	return lh__channel_send(server->channel, LH_MOVE_HINT, 0, page, hints, n * sizeof *hints);
}

static int give(struct server *server, uint64_t page, bool since, const uint8_t *content)
{
	struct lh_given *given = server->pages->given;
	struct lh_pages_counts *counts = &server->counts;
	int result = 0;
	lh_mask mask;

	if (server->kind == LH_MOVE_FAULTS) {
		mask = lh__given_on_faults(given, page, content, &since);
		result = hint(server, page);
	} else {
		mask = lh__given_on_data(given, page, content, &since);
	}
	if (since || mask)
		lh__pageset_add(&server->pages->held, page);
	if (result == 0)
		result = lh__channel_give(server->channel, page, since, mask, content);
	if (result)
		return result;
	counts->given[server->kind]++;
	counts->bytes[server->kind] += LH_MOVE_HEADER + lh__lineset_size(mask);
	if (since) {
		counts->since++;
		counts->lines_since += lh__mask_count(mask);
	}
	return 0;
}

static void add_counts(struct server *server)
{
	struct lh_pages_counts *to = &server->pages->counts, *from = &server->counts;

	pthread_mutex_lock(&server->pages->lock);
	to->given[server->kind] += from->given[server->kind];
	to->bytes[server->kind] += from->bytes[server->kind];
	to->since += from->since;
	to->lines_since += from->lines_since;
	to->hints += from->hints;
	pthread_mutex_unlock(&server->pages->lock);
	memset(from, 0, sizeof *from);
}

static int serve_batch(struct server *server)
{
	int n = collect(server), result;

	if (n < 0)
		return n;
	result = read_batch(server, (unsigned)n);
	for (int i = 0; i < n && result == 0; i++)
		result = give(server, server->asked[i].page, server->asked[i].since,
		              server->content + (size_t)i * LH_PAGE_SIZE);
	/* Before it goes out, so that who has what was given finds it counted. */
	add_counts(server);
	return result ? result : lh__channel_flush(server->channel);
}

static void *serve(void *argument)
{
	struct server *server = argument;

	int result;

	while ((result = serve_batch(server)) == 0)
		;
	/* The other side is to know, but of what is told to it in words. */
	if (result != UNREADABLE)
		lh__channel_break(server->channel);
	return NULL;
}

static int start(struct server *server)
{
	sigset_t all, before;
	int result;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	result = pthread_create(&server->thread, NULL, serve, server);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -result;
}

static void free_server(struct server *server)
{
	if (server)
		free(server->content);
	free(server);
}

int lh__pages_serve(struct lh_pages *pages, struct lh_channel *channel, enum lh_move_channel_kind kind,
                    struct lh_error *error)
{
	struct server *server = calloc(1, sizeof *server);
	int result = -ENOMEM;

	if (server)
		server->content = aligned_alloc(LH_PAGE_SIZE, BATCH * LH_PAGE_SIZE);
	if (server && server->content) {
		server->pages = pages;
		server->channel = channel;
		server->kind = kind;
		result = start(server);
	}
	if (result) {
		free_server(server);
		return lh__fail(error, result, "no thread to give pages");
	}
	pthread_mutex_lock(&pages->lock);
	server->next = pages->servers;
	pages->servers = server;
	pthread_mutex_unlock(&pages->lock);
	return 0;
}

void lh__pages_disconnect(struct lh_pages *pages)
{
	struct server *server, *next;

	pthread_mutex_lock(&pages->lock);
	server = pages->servers;
	pages->servers = NULL;
	pthread_mutex_unlock(&pages->lock);
	for (next = server; next; next = next->next)
		lh__channel_break(next->channel);
	for (; server; server = next) {
		next = server->next;
		pthread_join(server->thread, NULL);
		lh__channel_close(server->channel);
		free_server(server);
	}
	lh__given_forget(pages->given);
}

/* ---- the rest ---- */

void lh__pages_tables(struct lh_pages *pages, struct lh_tables *tables)
{
	struct lh_tables *before;

	pthread_mutex_lock(&pages->lock);
	before = pages->tables;
	pages->tables = tables;
	pthread_mutex_unlock(&pages->lock);
	lh__tables_close(before);
}

void lh__pages_read_counts(struct lh_pages *pages, struct lh_pages_counts *counts)
{
	pthread_mutex_lock(&pages->lock);
	*counts = pages->counts;
	pthread_mutex_unlock(&pages->lock);
}

void lh__pages_close(struct lh_pages *pages)
{
	if (!pages)
		return;
	if (pages->given)
		lh__pages_disconnect(pages);
	lh__tables_close(pages->tables);
	lh__given_close(pages->given);
	free(pages->held.word);
	for (size_t i = 0; i < pages->parts; i++)
		close(pages->part[i].fd);
	pthread_mutex_destroy(&pages->lock);
	free(pages);
}
