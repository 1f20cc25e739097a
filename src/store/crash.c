/*
 * crash.c - see crash.h. Each unit has a chain of the contents that it was given and that are not certain
 * yet: by requests, or by flushes. What a program stored in memory since the last flush is in no chain; it
 * is found by comparing.
 */
#include "store/crash.h"

#include <errno.h>
#include <sys/mman.h>

#include "sys/lock.h"

#define SECTOR 512u
#define ALIASES 4u

struct content {
	struct content *next; /* newer */
	long thread;          /* that flushed it; 0: it was put */
	unsigned char data[SECTOR];
};

struct chain {
	struct content *oldest, *newest;
};

struct alias {
	const unsigned char *base;
	uint64_t offset, size;
};

struct lh_crash {
	struct lh_store store; /* the one on it */
	struct lh_direct direct;
	struct lh_crash_options options;
	struct lh_lock lock;
	int file;
	size_t size, unit, units;
	unsigned char *seen, *certain;
	struct chain *chains;
	struct alias alias[ALIASES]; /* second mappings, the oldest replaced first */
	unsigned aliases;
	struct lh_request *done, **done_end;
};

static struct lh_crash *of(const struct lh_store *store)
{
	return (struct lh_crash *)store;
}

static struct lh_crash *of_direct(const struct lh_direct *direct)
{
	return (struct lh_crash *)((char *)direct - offsetof(struct lh_crash, direct));
}

static void point(struct lh_crash *crash, enum lh_crash_point kind)
{
	if (crash->options.point && !crash->options.calm)
		crash->options.point(crash->options.context, crash, kind);
}

/* ---- what is in flight ---- */

static const unsigned char *newest_of(const struct lh_crash *crash, size_t unit)
{
	const struct chain *chain = &crash->chains[unit];

	return chain->newest ? chain->newest->data : crash->certain + unit * crash->unit;
}

/*
 * The unit was given what is seen of it now. Where there is no memory for that, what becomes of it is not
 * known to the medium: it stays in flight, and a test would find it missing.
 */
static void give(struct lh_crash *crash, size_t unit, long thread)
{
	struct chain *chain = &crash->chains[unit];
	const unsigned char *seen = crash->seen + unit * crash->unit;
	struct content *content;

	if (memcmp(newest_of(crash, unit), seen, crash->unit) == 0 && (!chain->newest || !thread))
		return;
	content = lh__alloc(crash->store.sys, sizeof *content);
	if (!content)
		return;
	content->thread = thread;
	memcpy(content->data, seen, crash->unit);
	*(chain->newest ? &chain->newest->next : &chain->oldest) = content;
	chain->newest = content;
}

/* The oldest contents of a chain, up to and with `last`, are superseded by what is certain. */
static void drop_until(struct lh_crash *crash, struct chain *chain, const struct content *last)
{
	struct content *content;
	bool more = last != NULL;

	while (more) {
		content = chain->oldest;
		chain->oldest = content->next;
		more = content != last;
		lh__free(crash->store.sys, content, sizeof *content);
	}
	if (!chain->oldest)
		chain->newest = NULL;
}

/* What this thread flushed of the unit (0: what was put there) is certain now. */
static void settle(struct lh_crash *crash, size_t unit, long thread)
{
	struct chain *chain = &crash->chains[unit];
	const struct content *content, *last = NULL;

	for (content = chain->oldest; content; content = content->next)
		if (content->thread == thread)
			last = content;
	if (!last)
		return;
	memcpy(crash->certain + unit * crash->unit, last->data, crash->unit);
	drop_until(crash, chain, last);
}

static void settle_all(struct lh_crash *crash, long thread)
{
	size_t unit;

	for (unit = 0; unit < crash->units; unit++)
		settle(crash, unit, thread);
}

static void add_choice(const struct lh_crash *crash, struct lh_crash_unit *unit, const void *data)
{
	if (memcmp(unit->choice[unit->choices - 1], data, crash->unit) == 0)
		return;
	/* Too many: the one before the newest is left out. */
	if (unit->choices == LH_CRASH_CHOICES)
		unit->choices--;
	unit->choice[unit->choices++] = data;
}

static struct lh_crash_unit choices_of(const struct lh_crash *crash, size_t unit)
{
	struct lh_crash_unit found = { .at = unit * crash->unit, .choices = 1 };
	const struct content *content;

	found.choice[0] = crash->certain + found.at;
	for (content = crash->chains[unit].oldest; content; content = content->next)
		add_choice(crash, &found, content->data);
	add_choice(crash, &found, crash->seen + found.at);
	return found;
}

size_t lh__crash_in_flight(const struct lh_crash *crash, struct lh_crash_unit *units, size_t max)
{
	struct lh_crash_unit unit;
	size_t i, n = 0;

	for (i = 0; i < crash->units && n < max; i++) {
		if (!crash->chains[i].oldest &&
		    memcmp(crash->seen + i * crash->unit, crash->certain + i * crash->unit, crash->unit) == 0)
			continue;
		unit = choices_of(crash, i);
		if (unit.choices > 1)
			units[n++] = unit;
	}
	return n;
}

size_t lh__crash_unit_size(const struct lh_crash *crash)
{
	return crash->unit;
}

const void *lh__crash_seen(const struct lh_crash *crash)
{
	return crash->seen;
}

const void *lh__crash_certain(const struct lh_crash *crash)
{
	return crash->certain;
}

/* ---- requests ---- */

static void get(const struct lh_crash *crash, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	lh__lines_zero(data, want);
	*held = 0;
	if (page >= crash->options.pages)
		return;
	*held = lh__lines_nonzero(crash->seen + page * LH_PAGE_SIZE, want);
	lh__lines_copy(data, crash->seen + page * LH_PAGE_SIZE, *held);
}

/* The units that the lines of a page stand in. */
static void each_unit(struct lh_crash *crash, const struct lh_request *request,
                      void (*visit)(struct lh_crash *crash, size_t unit, long thread))
{
	lh_mask mask = request->op == LH_OP_PUT ? request->mask : LH_MASK_ALL;
	size_t per_page = LH_PAGE_SIZE / crash->unit, lines = crash->unit / LH_LINE_SIZE, i;

	for (i = 0; i < per_page; i++)
		if (mask & lh__mask_range((unsigned)(i * lines), (unsigned)lines))
			visit(crash, request->page * per_page + i, 0);
}

static int change(struct lh_crash *crash, struct lh_request *request)
{
	unsigned char *page = crash->seen + request->page * LH_PAGE_SIZE;
	lh_mask given = request->op == LH_OP_DROP ? LH_MASK_NONE : request->mask;
	lh_mask touched = request->op == LH_OP_PUT ? given : LH_MASK_ALL;

	if (request->page >= crash->options.pages)
		return request->op == LH_OP_DROP ? 0 : -ENOSPC;
	request->changed = lh__lines_changed(page, touched, request->data, given);
	lh__lines_zero(page, touched & ~given);
	if (given)
		lh__lines_copy(page, request->data, given);
	if (crash->options.calm)
		return 0;
	each_unit(crash, request, give);
	point(crash, LH_CRASH_REQUEST);
	return 0;
}

static int crash_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct lh_crash *crash = of(store);
	size_t i;

	lh__lock(store->sys, &crash->lock);
	for (i = 0; i < n; i++) {
		struct lh_request *request = requests[i];

		request->result = 0;
		if (request->op == LH_OP_GET)
			get(crash, request->page, request->mask, request->data, &request->mask);
		else
			request->result = change(crash, request);
		request->next = NULL;
		*crash->done_end = request;
		crash->done_end = &request->next;
	}
	lh__unlock(store->sys, &crash->lock);
	return 0;
}

static bool is_durable(const struct lh_crash *crash, const struct lh_request *request)
{
	return request->op != LH_OP_GET && request->flags & LH_REQUEST_DURABLE && request->result == 0 &&
	       !crash->options.no_durable_put && !crash->options.calm;
}

/* What has been submitted together is in flight together: a durable put is certain when poll returns it. */
static size_t crash_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct lh_crash *crash = of(store);
	bool durable = false;
	size_t n;

	lh__lock(store->sys, &crash->lock);
	for (n = 0; n < max && crash->done; n++) {
		done[n] = crash->done;
		crash->done = crash->done->next;
		durable |= is_durable(crash, done[n]);
	}
	if (!crash->done)
		crash->done_end = &crash->done;
	if (durable)
		point(crash, LH_CRASH_SYNC);
	for (size_t i = 0; i < n; i++)
		if (is_durable(crash, done[i]))
			each_unit(crash, done[i], settle);
	lh__unlock(store->sys, &crash->lock);
	return n;
}

static int crash_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct lh_crash *crash = of(store);

	lh__lock(store->sys, &crash->lock);
	get(crash, page, want, data, held);
	lh__unlock(store->sys, &crash->lock);
	return 0;
}

static int crash_sync(struct lh_store *store)
{
	struct lh_crash *crash = of(store);

	if (crash->options.calm)
		return 0;
	lh__lock(store->sys, &crash->lock);
	point(crash, LH_CRASH_SYNC);
	settle_all(crash, 0);
	lh__unlock(store->sys, &crash->lock);
	return 0;
}

static int crash_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	return lh__fail(error, -EOPNOTSUPP, "crash store: it has no snapshots");
}

static void crash_close(struct lh_store *store)
{
	struct lh_crash *crash = of(store);

	crash->done = NULL;
	crash->done_end = &crash->done;
	crash->aliases = 0;
	memset(crash->alias, 0, sizeof crash->alias);
}

static const struct lh_store_ops crash_ops = {
	.name = "crash",
	.submit = crash_submit,
	.poll = crash_poll,
	.get_now = crash_get_now,
	.sync = crash_sync,
	.clone = crash_clone,
	.reserve = lh__store_reserve_none,
	.close = crash_close,
};

/* ---- memory ---- */

/* Where an address of one of the mappings stands in the medium. */
static uint64_t offset_of(const struct lh_crash *crash, const unsigned char *from)
{
	unsigned i;

	for (i = 0; i < ALIASES; i++)
		if (from >= crash->alias[i].base && from < crash->alias[i].base + crash->alias[i].size)
			return crash->alias[i].offset + (uint64_t)(from - crash->alias[i].base);
	return (uint64_t)(from - crash->seen);
}

static void direct_flush(const struct lh_direct *direct, const void *from, size_t size)
{
	struct lh_crash *crash = of_direct(direct);
	long thread = LH_SYS(crash->store.sys, SYS_gettid);
	uint64_t offset, unit;

	if (crash->options.calm || size == 0)
		return;
	lh__lock(crash->store.sys, &crash->lock);
	offset = offset_of(crash, from);
	point(crash, LH_CRASH_FLUSH);
	for (unit = offset / crash->unit; unit < crash->units && unit * crash->unit < offset + size; unit++)
		give(crash, unit, thread);
	lh__unlock(crash->store.sys, &crash->lock);
}

static void direct_write(const struct lh_direct *direct, void *to, const void *lines, size_t size)
{
	memcpy(to, lines, size);
	direct_flush(direct, to, size);
}

static void direct_fence(const struct lh_direct *direct)
{
	struct lh_crash *crash = of_direct(direct);

	if (crash->options.calm)
		return;
	lh__lock(crash->store.sys, &crash->lock);
	point(crash, LH_CRASH_FENCE);
	settle_all(crash, LH_SYS(crash->store.sys, SYS_gettid));
	lh__unlock(crash->store.sys, &crash->lock);
}

static int direct_map_private(const struct lh_direct *direct, uint64_t page, size_t pages, void *address)
{
	struct lh_crash *crash = of_direct(direct);
	long result;

	if (page > crash->options.pages || pages > crash->options.pages - page)
		return -EINVAL;
	result = LH_SYS(crash->store.sys, SYS_mmap, address, pages * LH_PAGE_SIZE, PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_FIXED, crash->file, page * LH_PAGE_SIZE);
	return result < 0 && result > -LH_PAGE_SIZE ? (int)result : 0;
}

static int direct_map(const struct lh_direct *direct, uint64_t page, size_t pages, void *address)
{
	struct lh_crash *crash = of_direct(direct);
	long result;

	if (page > crash->options.pages || pages > crash->options.pages - page)
		return -EINVAL;
	result = LH_SYS(crash->store.sys, SYS_mmap, address, pages * LH_PAGE_SIZE, PROT_READ | PROT_WRITE,
	                MAP_SHARED | MAP_FIXED, crash->file, page * LH_PAGE_SIZE);
	if (result < 0 && result > -LH_PAGE_SIZE)
		return (int)result;
	crash->alias[crash->aliases++ % ALIASES] = (struct alias){ .base = address,
		                                                   .offset = page * LH_PAGE_SIZE,
		                                                   .size = pages * LH_PAGE_SIZE };
	return 0;
}

/* ---- the medium ---- */

static int map_seen(struct lh_crash *crash)
{
	const struct lh_sys *sys = crash->store.sys;
	long result = LH_SYS(sys, SYS_memfd_create, "linehome-crash", MFD_CLOEXEC);

	if (result < 0)
		return (int)result;
	crash->file = (int)result;
	result = LH_SYS(sys, SYS_ftruncate, crash->file, crash->size);
	if (result == 0)
		result = LH_SYS(sys, SYS_mmap, 0, crash->size, PROT_READ | PROT_WRITE, MAP_SHARED,
		                crash->file, 0);
	if (result < 0 && result > -LH_PAGE_SIZE)
		return (int)result;
	crash->seen = (unsigned char *)result;
	return 0;
}

static void set_up(struct lh_crash *crash, const struct lh_sys *sys, const struct lh_crash_options *options)
{
	crash->options = *options;
	crash->store = (struct lh_store){
		.ops = &crash_ops,
		.sys = sys,
		.caps = { .durable = true,
		          .durable_put = !options->no_durable_put,
		          .sync_aside = true,
		          .depth = 64 },
	};
	crash->file = -1;
	crash->size = options->pages * LH_PAGE_SIZE;
	crash->unit = options->direct ? LH_LINE_SIZE : SECTOR;
	crash->units = crash->size / crash->unit;
	crash->done_end = &crash->done;
}

int lh__crash_open(const struct lh_sys *sys, const struct lh_crash_options *options, struct lh_crash **out)
{
	struct lh_crash *crash = lh__alloc(sys, sizeof *crash);
	int result;

	if (!crash)
		return -ENOMEM;
	set_up(crash, sys, options);
	result = map_seen(crash);
	if (result == 0 && !options->calm) {
		crash->certain = lh__alloc(sys, crash->size);
		crash->chains = lh__alloc(sys, crash->units * sizeof *crash->chains);
		if (!crash->certain || !crash->chains)
			result = -ENOMEM;
	}
	if (result != 0) {
		lh__crash_close(crash);
		return result;
	}
	if (options->direct) {
		crash->direct = (struct lh_direct){ .base = crash->seen,
			                            .pages = options->pages,
			                            .flush = direct_flush,
			                            .write = direct_write,
			                            .fence = direct_fence,
			                            .map = direct_map,
			                            .map_private = direct_map_private };
		crash->store.direct = &crash->direct;
	}
	*out = crash;
	return 0;
}

static void forget_all(struct lh_crash *crash)
{
	size_t unit;

	for (unit = 0; unit < crash->units && crash->chains; unit++)
		drop_until(crash, &crash->chains[unit], crash->chains[unit].newest);
}

void lh__crash_close(struct lh_crash *crash)
{
	const struct lh_sys *sys = crash->store.sys;

	forget_all(crash);
	if (crash->chains)
		lh__free(sys, crash->chains, crash->units * sizeof *crash->chains);
	if (crash->certain)
		lh__free(sys, crash->certain, crash->size);
	if (crash->seen)
		LH_SYS(sys, SYS_munmap, crash->seen, crash->size);
	if (crash->file >= 0)
		LH_SYS(sys, SYS_close, crash->file);
	lh__free(sys, crash, sizeof *crash);
}

struct lh_store *lh__crash_store(struct lh_crash *crash)
{
	return &crash->store;
}

void lh__crash_reset(struct lh_crash *crash, const void *image)
{
	forget_all(crash);
	if (image)
		memcpy(crash->seen, image, crash->size);
	else
		memset(crash->seen, 0, crash->size);
	if (crash->certain)
		memcpy(crash->certain, crash->seen, crash->size);
}
