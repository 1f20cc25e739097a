/*
 * store_planted.c - the conformance suite sees faults: a store with one planted in it fails, and the same
 * store with none passes.
 *
 * The store works one request at a time on a memory store, and gets one thing wrong.
 *
 * timeout: 120
 */
#include "store_over_memory.h"

enum fault {
	NONE,
	LOST_PUT,
	MASK_OFF_BY_ONE,
	CLONE_SHARES_WRITES,
	CLONE_IS_EMPTY,
	STALE_GET,
	STALE_GET_NOW,
	REPLACE_AS_PUT,
	DROP_DOES_NOTHING,
	GET_WRITES_UNWANTED,
	GET_SAYS_ALL_HELD,
	UNHELD_NOT_ZEROED,
	PAGE_NUMBER_CUT,
	BACKWARDS,
	LATE_READ,
	LOST_COMPLETION,
	COMPLETED_TWICE,
	NOSPC_IGNORED,
	NOSPC_WRITES,
	CLONE_WHILE_BUSY,
	CLONE_COPIES_ALL,
	TORN_GET_NOW,
	ZERO_PAGES_STORED,
	POLL_SLEEPS,
	CHANGED_BY_LINES,
	CHANGED_BUT_ZEROED,
	UNCOUNTED_AS_PAGE,
	DURABLE_REFUSED,
	DURABLE_LAST,
	RESERVE_CLEARS,
	RESERVE_GIVES_UP,
	RESERVE_MAKES_NO_ROOM,
	DIRECT_APART,
	FAULTS
};

static const char *const names[FAULTS] = {
	[NONE] = "none",
	[LOST_PUT] = "a put that is acknowledged and lost",
	[MASK_OFF_BY_ONE] = "a put's mask that is off by one line",
	[CLONE_SHARES_WRITES] = "a clone that sees its original's writes",
	[CLONE_IS_EMPTY] = "a clone without content",
	[STALE_GET] = "a GET that gives the content before the last put",
	[STALE_GET_NOW] = "a get_now that gives the content before the last put",
	[REPLACE_AS_PUT] = "a REPLACE that leaves other lines",
	[DROP_DOES_NOTHING] = "a DROP that does nothing",
	[GET_WRITES_UNWANTED] = "a GET that writes lines that were not wanted",
	[GET_SAYS_ALL_HELD] = "a GET that says that all lines are held",
	[UNHELD_NOT_ZEROED] = "a GET that leaves lines that are not held as they were",
	[PAGE_NUMBER_CUT] = "page numbers cut to 32 bits",
	[BACKWARDS] = "a batch carried out backwards",
	[LATE_READ] = "a put that reads its data when polled",
	[LOST_COMPLETION] = "a completion that is lost",
	[COMPLETED_TWICE] = "a completion that is given twice",
	[NOSPC_IGNORED] = "a full store that says all is well",
	[NOSPC_WRITES] = "a put that fails and changes the page",
	[CLONE_WHILE_BUSY] = "a clone with requests in flight",
	[CLONE_COPIES_ALL] = "a clone that copies all",
	[TORN_GET_NOW] = "a get_now that gives parts of two puts",
	[ZERO_PAGES_STORED] = "zero pages that take room",
	[POLL_SLEEPS] = "a poll that waits for nothing",
	[CHANGED_BY_LINES] = "changed bytes that are counted as whole lines",
	[CHANGED_BUT_ZEROED] = "changed bytes that leave out what a REPLACE makes zero",
	[UNCOUNTED_AS_PAGE] = "an uncounted put that makes the rest of the page zero",
	[DURABLE_REFUSED] = "a durable put that is refused",
	[DURABLE_LAST] = "durable puts that are carried out after the rest of a submit",
	[RESERVE_CLEARS] = "a reserve that clears pages",
	[RESERVE_GIVES_UP] = "a reserve that fails where nothing can be promised",
	[RESERVE_MAKES_NO_ROOM] = "a reserve that says that it made room, and did not",
	[DIRECT_APART] = "pages in memory that are not those of the requests",
};

struct planted {
	struct lh_store store;
	struct lh_store *below;
	struct lh_store *aside; /* below as it was one put ago, for what is stale; or room that is wasted */
	unsigned *handles;      /* on below, for the clone that shares */
	struct lh_request *done;
	struct lh_request **done_end;
	unsigned seen;
	struct lh_direct direct;
	unsigned char memory[64 * LH_PAGE_SIZE];
};

static enum fault planted_fault;

static int planted_wrap(struct lh_store *below, struct lh_store **out);

static struct planted *of(struct lh_store *store)
{
	return (struct planted *)store;
}

static bool is_fault(enum fault fault)
{
	return planted_fault == fault;
}

static void remember(struct planted *planted)
{
	struct lh_store *now;

	if (!is_fault(STALE_GET) && !is_fault(STALE_GET_NOW))
		return;
	if (planted->below->ops->clone(planted->below, &now, NULL) != 0)
		abort();
	if (planted->aside)
		planted->aside->ops->close(planted->aside);
	planted->aside = now;
}

/* Takes up room that nobody sees. */
static void waste(struct planted *planted, uint64_t page)
{
	unsigned char data[LH_PAGE_SIZE] = { 1 };
	struct lh_request request = { .op = LH_OP_PUT, .page = page, .mask = 1, .data = data };

	if (!planted->aside && planted->below->ops->clone(planted->below, &planted->aside, NULL) != 0)
		abort();
	(void)lh__memory_apply(planted->aside, &request);
}

static int get(struct planted *planted, struct lh_request *request, bool stale)
{
	lh_mask want = request->mask;
	unsigned char copy[LH_PAGE_SIZE];
	int result;

	memcpy(copy, request->data, LH_PAGE_SIZE);
	result = lh__memory_apply(stale && planted->aside ? planted->aside : planted->below, request);
	if (result == 0 && is_fault(UNHELD_NOT_ZEROED))
		lh__lines_copy(request->data, copy, want & ~request->mask);
	if (result == 0 && is_fault(GET_WRITES_UNWANTED))
		lh__lines_zero(request->data, ~want);
	if (result == 0 && is_fault(GET_SAYS_ALL_HELD))
		request->mask = want;
	return result;
}

static uint32_t count(const struct lh_request *changed)
{
	uint32_t most = lh__mask_count(changed->mask) * LH_LINE_SIZE;

	if (is_fault(CHANGED_BY_LINES) && changed->changed)
		return most;
	if (is_fault(CHANGED_BUT_ZEROED) && changed->changed > most)
		return most;
	return changed->changed;
}

static int put(struct planted *planted, struct lh_request *request)
{
	struct lh_request changed = *request;
	unsigned char zero[LH_PAGE_SIZE] = { 0 };
	int result;

	if (is_fault(LOST_PUT) && ++planted->seen % 50 == 0) {
		request->changed = 0;
		return 0;
	}
	if (is_fault(MASK_OFF_BY_ONE))
		changed.mask &= ~lh__mask_line(63);
	if (is_fault(REPLACE_AS_PUT))
		changed.op = LH_OP_PUT;
	if (is_fault(UNCOUNTED_AS_PAGE) && request->flags & LH_REQUEST_UNCOUNTED)
		changed.op = LH_OP_REPLACE;
	if (is_fault(DURABLE_REFUSED) && request->flags & LH_REQUEST_DURABLE)
		return -EINVAL;
	if (is_fault(ZERO_PAGES_STORED) && lh__lines_nonzero(request->data, request->mask) == 0)
		waste(planted, request->page);
	remember(planted);
	result = lh__memory_apply(planted->below, &changed);
	request->changed = count(&changed);
	if (result == -ENOSPC && is_fault(NOSPC_IGNORED))
		return 0;
	if (result == -ENOSPC && is_fault(NOSPC_WRITES)) {
		changed.op = LH_OP_REPLACE;
		changed.data = zero;
		(void)lh__memory_apply(planted->below, &changed);
	}
	return result;
}

static int apply(struct planted *planted, struct lh_request *request)
{
	struct lh_request cut = *request;

	if (is_fault(PAGE_NUMBER_CUT)) {
		cut.page = (uint32_t)cut.page;
		cut.result = lh__memory_apply(planted->below, &cut);
		request->mask = cut.mask;
		return cut.result;
	}
	if (request->op == LH_OP_GET)
		return get(planted, request, is_fault(STALE_GET));
	if (request->op == LH_OP_DROP && is_fault(DROP_DOES_NOTHING))
		return 0;
	if (request->op == LH_OP_PUT || request->op == LH_OP_REPLACE)
		return put(planted, request);
	return lh__memory_apply(planted->below, request);
}

static void complete(struct planted *planted, struct lh_request *request)
{
	planted->seen++;
	if (is_fault(LOST_COMPLETION) && planted->seen % 1000 == 0)
		return;
	request->next = NULL;
	*planted->done_end = request;
	planted->done_end = &request->next;
}

static bool is_late(const struct lh_request *request)
{
	return is_fault(DURABLE_LAST) && request->flags & LH_REQUEST_DURABLE;
}

static int planted_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct planted *planted = of(store);
	size_t i;

	for (i = 0; i < n; i++) {
		struct lh_request *request = requests[is_fault(BACKWARDS) ? n - 1 - i : i];

		if (!is_fault(LATE_READ) && !is_late(request))
			request->result = apply(planted, request);
		complete(planted, request);
	}
	for (i = 0; i < n; i++)
		if (is_late(requests[i]))
			requests[i]->result = apply(planted, requests[i]);
	return 0;
}

static size_t planted_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct planted *planted = of(store);
	size_t n;

	for (n = 0; n < max && planted->done; n++) {
		struct lh_request *request = planted->done;

		planted->done = request->next;
		if (is_fault(LATE_READ))
			request->result = apply(planted, request);
		done[n] = request;
		if (is_fault(COMPLETED_TWICE) && planted->seen % 1000 == 0)
			planted->done = request;
	}
	if (!planted->done)
		planted->done_end = &planted->done;
	if (n == 0 && timeout_ms > 0 && is_fault(POLL_SLEEPS))
		usleep((unsigned)timeout_ms * 1000);
	return n;
}

static int planted_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct planted *planted = of(store);
	struct lh_request request = {
		.op = LH_OP_GET, .page = page, .mask = want & 0xffffffff, .data = data
	};
	struct lh_request rest = { .op = LH_OP_GET, .page = page, .mask = want >> 32 << 32, .data = data };
	int result;

	if (!is_fault(TORN_GET_NOW)) {
		request.mask = want;
		result = page > LH_PAGE_NUMBER_MAX && !is_fault(PAGE_NUMBER_CUT)
		                 ? -EINVAL
		                 : get(planted, &request, is_fault(STALE_GET_NOW));
		if (result == 0)
			*held = request.mask;
		return result;
	}
	result = get(planted, &request, false);
	usleep(1);
	if (result == 0)
		result = get(planted, &rest, false);
	if (result == 0)
		*held = request.mask | rest.mask;
	return result;
}

static int planted_sync(struct lh_store *store)
{
	return 0;
}

static void drop_all(struct lh_store *below)
{
	uint64_t page;

	for (page = 0; page < 400; page++) {
		struct lh_request drop = { .op = LH_OP_DROP, .page = page };

		(void)lh__memory_apply(below, &drop);
	}
}

/* Writes every page that a case may have put once more, so that nothing is shared. */
static void write_all_again(struct lh_store *below)
{
	unsigned char data[LH_PAGE_SIZE];
	lh_mask held;
	uint64_t page;

	for (page = 0; page < 400; page++) {
		struct lh_request again = { .op = LH_OP_PUT, .page = page, .data = data };

		if (below->ops->get_now(below, page, LH_MASK_ALL, data, &held) == 0 &&
		    (again.mask = held) != 0)
			(void)lh__memory_apply(below, &again);
	}
}

static int planted_reserve(struct lh_store *store, uint64_t pages)
{
	if (is_fault(RESERVE_CLEARS))
		drop_all(of(store)->below);
	return is_fault(RESERVE_GIVES_UP) ? -EOPNOTSUPP : 0;
}

/* Memory of the store's own, mapped wherever it is asked for; what is in it nobody else sees. */
static void no_flush(const struct lh_direct *direct, const void *from, size_t size)
{
}

static void no_write(const struct lh_direct *direct, void *to, const void *lines, size_t size)
{
	memcpy(to, lines, size);
}

static void no_fence(const struct lh_direct *direct)
{
}

static int map_other(const struct lh_direct *direct, uint64_t page, size_t pages, void *address)
{
	if (page + pages > direct->pages)
		return -EINVAL;
	return mprotect(address, pages * LH_PAGE_SIZE, PROT_READ | PROT_WRITE);
}

static int planted_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	struct planted *planted = of(store);
	struct lh_store *below;
	int result;

	if (planted->done && !is_fault(CLONE_WHILE_BUSY))
		return lh__fail(error, -EBUSY, "planted store: requests are in flight");
	if (is_fault(CLONE_SHARES_WRITES)) {
		result = planted_wrap(planted->below, out);
		free(of(*out)->handles);
		of(*out)->handles = planted->handles;
		++*planted->handles;
		return result;
	}
	if ((result = planted->below->ops->clone(planted->below, &below, error)) != 0)
		return result;
	if (is_fault(CLONE_COPIES_ALL))
		write_all_again(below);
	if (is_fault(CLONE_IS_EMPTY))
		drop_all(below);
	return planted_wrap(below, out);
}

static void planted_close(struct lh_store *store)
{
	struct planted *planted = of(store);

	if (planted->aside)
		planted->aside->ops->close(planted->aside);
	if (--*planted->handles == 0) {
		planted->below->ops->close(planted->below);
		free(planted->handles);
	}
	free(planted);
}

static const struct lh_store_ops planted_ops = {
	.name = "planted",
	.submit = planted_submit,
	.poll = planted_poll,
	.get_now = planted_get_now,
	.sync = planted_sync,
	.clone = planted_clone,
	.reserve = planted_reserve,
	.close = planted_close,
};

static int planted_wrap(struct lh_store *below, struct lh_store **out)
{
	struct planted *planted = calloc(1, sizeof *planted);
	unsigned *handles = malloc(sizeof *handles);

	if (!planted || !handles)
		abort();
	*handles = 1;
	planted->store = (struct lh_store){ .ops = &planted_ops, .sys = below->sys, .caps = below->caps };
	planted->below = below;
	planted->handles = handles;
	planted->done_end = &planted->done;
	planted->direct = (struct lh_direct){ .base = planted->memory,
		                              .pages = 64,
		                              .flush = no_flush,
		                              .write = no_write,
		                              .fence = no_fence,
		                              .map = map_other };
	if (is_fault(DIRECT_APART))
		planted->store.direct = &planted->direct;
	*out = &planted->store;
	return 0;
}

static void suite_sees(enum fault fault)
{
	struct over_memory over = { .wrap = planted_wrap };
	struct store_factory factory = over_memory(&over, "planted");
	const char *seen_by;

	factory.steps = 2000;
	/* The store below can promise no room, and says so; here it is said to have promised some. */
	factory.reserves = fault == RESERVE_MAKES_NO_ROOM;
	planted_fault = fault;
	seen_by = store_conformance_catches(&factory);
	if (fault == NONE)
		ok(!seen_by, "the store without a fault passes");
	else
		ok(seen_by != NULL, "the suite sees %s: \"%s\"", names[fault], seen_by ? seen_by : "");
}

/* The randomised case has to find such faults by itself, since nobody wrote a case for the next one. */
static void random_case_sees(enum fault fault)
{
	struct over_memory over = { .wrap = planted_wrap };
	struct store_factory factory = over_memory(&over, "planted");
	const size_t last = sizeof suite_cases / sizeof *suite_cases - 1;

	planted_fault = fault;
	ok(suite_run(&factory, &suite_cases[last]) != NULL, "random requests see %s", names[fault]);
}

int main(void)
{
	static const enum fault for_random[] = { LOST_PUT,           MASK_OFF_BY_ONE,     CLONE_SHARES_WRITES,
		                                 STALE_GET,          STALE_GET_NOW,       REPLACE_AS_PUT,
		                                 DROP_DOES_NOTHING,  BACKWARDS,           LATE_READ,
		                                 UNHELD_NOT_ZEROED,  GET_WRITES_UNWANTED, CHANGED_BY_LINES,
		                                 CHANGED_BUT_ZEROED, UNCOUNTED_AS_PAGE,   DURABLE_LAST };
	unsigned i;

	for (i = NONE; i < FAULTS; i++)
		suite_sees((enum fault)i);
	for (i = 0; i < sizeof for_random / sizeof *for_random; i++)
		random_case_sees(for_random[i]);
	return done();
}
