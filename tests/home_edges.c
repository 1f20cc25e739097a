/*
 * home_edges.c - a home whose port says "try again" for as long as it likes, and whose tables of ranges are
 * full, or hold pieces with gaps between them. The program is its own agent here.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>

#include "home/internal.h"
#include "port/page/page.h"
#include "tap.h"

#define PAGES 512u
#define LOCAL_PAGES 128u
#define PAGE ((size_t)LH_PAGE_SIZE)

static struct lh_home *home;
static struct lh_port *port, busy; /* busy: port, but for what is said below */
static struct lh_port_ops busy_ops;
static struct lh_store *store;
static struct lh_stats stats;
static uint64_t *region;
static unsigned refusals, woken, asked;

/* ---- a port that is busy for a while ---- */

static bool refuses(void)
{
	asked++;
	return refusals > 0 && refusals-- > 0;
}

static int busy_watch(struct lh_port *self, uintptr_t start, size_t size)
{
	(void)self;
	return port->ops->watch(port, start, size);
}
static int busy_unwatch(struct lh_port *self, uintptr_t start, size_t size)
{
	(void)self;
	return port->ops->unwatch(port, start, size);
}
static long busy_supply(struct lh_port *self, uintptr_t address, const void *content, size_t pages)
{
	(void)self;
	return refuses() ? -EAGAIN : port->ops->supply(port, address, content, pages);
}
static long busy_supply_zero(struct lh_port *self, uintptr_t address, size_t pages)
{
	(void)self;
	return refuses() ? -EAGAIN : port->ops->supply_zero(port, address, pages);
}
static long busy_take(struct lh_port *self, uintptr_t address, uintptr_t staging, size_t pages)
{
	(void)self;
	return port->ops->take(port, address, staging, pages);
}
static long busy_give(struct lh_port *self, uintptr_t staging, uintptr_t address, size_t pages)
{
	(void)self;
	return refuses() ? -EAGAIN : port->ops->give(port, staging, address, pages);
}
static void busy_wake(struct lh_port *self, uintptr_t address)
{
	(void)self;
	woken++;
	port->ops->wake(port, address);
}
static int busy_present(struct lh_port *self, uintptr_t start, uintptr_t end, lh_port_present *report,
                        void *context)
{
	(void)self;
	return port->ops->present(port, start, end, report, context);
}

/* ---- the program's own agent ---- */

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	if (lh__home_miss(home, (uintptr_t)info->si_addr) != 0)
		_exit(98);
}

static bool open_all(void)
{
	struct lh_page_options page_options = { .engine = LH_ENGINE_INLINE, .device = -1 };
	struct lh_home_options options = { .policy = lh__policy_find(NULL),
		                           .frames = LOCAL_PAGES + 64,
		                           .limit = LOCAL_PAGES,
		                           .stats = &stats,
		                           .stall_limit_ns = 10000000000u };
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	struct lh_memory_pool *pool;
	struct lh_error error = { 0 };

	sigfillset(&action.sa_mask);
	sigaction(SIGBUS, &action, NULL);
	if (lh__page_open(&lh__sys_default, &page_options, &port, &error) < 0) {
		skip("all", error.text);
		return false;
	}
	busy_ops = (struct lh_port_ops){
		.name = "busy",
		.watch = busy_watch,
		.unwatch = busy_unwatch,
		.supply = busy_supply,
		.supply_zero = busy_supply_zero,
		.take = busy_take,
		.give = busy_give,
		.wake = busy_wake,
		.present = busy_present,
	};
	busy = *port;
	busy.ops = &busy_ops;
	if (lh__memory_pool_open(&lh__sys_default, 0, &pool) < 0 || lh__memory_open(pool, &store) < 0)
		return ok(0, "opens the store");
	options.port = &busy;
	options.store = store;
	return lh__home_open(&lh__sys_default, &options, &home) == 0 || ok(0, "opens the home");
}

static void watch(size_t from, size_t to)
{
	lh__home_change_begin(home);
	is(lh__home_watch(home, (uintptr_t)region + from * PAGE, (uintptr_t)region + to * PAGE), 0,
	   "pages %zu to %zu are watched", from, to);
	lh__home_change_end(home);
}

static void evict(void)
{
	lh__home_set_limit(home, 8);
	while (lh__home_balance(home, &(uint64_t){ 0 }) > 0)
		;
	lh__home_set_limit(home, LOCAL_PAGES);
}

/* ---- a port that says "try again" ---- */

static enum lh_page_state state_of(size_t page)
{
	lh_entry *entry = lh__directory_find(&home->directory, (uintptr_t)region / PAGE + page);

	return entry ? lh__entry_state(*entry) : LH_PAGE_UNKNOWN;
}

static void test_again(size_t page, uint64_t wanted, const char *what)
{
	refusals = 3;
	woken = 0;
	is(region[page * 512], wanted, "%s: a port that is busy for a moment delays the page", what);
	is(woken, 0, "and nobody has to look again");
	refusals = 1000000;
	asked = 0;
	is(lh__home_miss(home, (uintptr_t)region + (page + 1) * PAGE), 0,
	   "%s: one that stays busy is not waited for", what);
	ok(asked > 1 && asked < 1000 && woken > 0, "after %u tries who waits is told to look again", asked);
	refusals = 0;
	is(region[(page + 1) * 512], wanted, "when it is ready, the page is there");
}

static void test_busy(void)
{
	watch(0, PAGES / 2);
	test_again(0, 0, "zeroes");
	for (size_t i = 0; i < PAGES / 2; i++)
		region[i * 512] = 7;
	evict();
	for (size_t i = 0; i + 1 < PAGES / 2; i++)
		if (state_of(i) == LH_PAGE_STORED && state_of(i + 1) == LH_PAGE_STORED) {
			test_again(i, 7, "stored");
			break;
		}
	evict();
	is(lh__home_check(home), 0, "the invariants hold");
}

/* ---- tables ---- */

static bool watches(size_t page)
{
	return lh__home_watches(home, (uintptr_t)region + page * PAGE, (uintptr_t)region + (page + 1) * PAGE);
}

static int count_piece(void *context, uintptr_t start, uintptr_t end)
{
	*(size_t *)context += (end - start) / PAGE;
	return start < end ? 0 : -EINVAL;
}

/* Pages 256 to 264 and 268 to 280, of which 260 to 272 leave. */
static void test_pieces(void)
{
	uintptr_t from = (uintptr_t)region + 260 * PAGE, to = (uintptr_t)region + 272 * PAGE;
	size_t left = 0;

	watch(257, 264);
	watch(268, 280);
	lh__home_change_begin(home);
	lh__home_leave(home, from, to);
	ok(watches(259) && !watches(260) && !watches(263) && !watches(268) && watches(272),
	   "what leaves is not watched");
	is(lh__home_each_left(home, from, to, count_piece, &left), 0, "its pieces are remembered");
	is(left, 8, "and these alone");
	/* Another change, of what lies beside it. */
	lh__home_leave(home, to, to + 4 * PAGE);
	left = 0;
	is(lh__home_each_left(home, from, to, count_piece, &left) + (int)left, 8,
	   "also where what is beside it leaves as well");
	lh__home_left(home, to, to + 4 * PAGE, false);
	lh__home_left(home, from, to, false);
	ok(watches(260) && watches(263) && !watches(264) && !watches(267) && watches(268) && watches(271),
	   "a change that failed leaves what was watched, and no more");
	lh__home_leave(home, from, to);
	lh__home_left(home, from, to, true);
	ok(watches(259) && !watches(260) && !watches(268) && watches(272),
	   "one that did not leaves the rest");
	left = 0;
	is(lh__home_each_left(home, from, to, count_piece, &left) + (int)left, 0,
	   "nothing is remembered of it");
	lh__home_change_end(home);
}

static void test_full(void)
{
	size_t capacity = home->regions.capacity;
	uint64_t *beyond = region + 400 * 512;

	home->regions.capacity = home->regions.count;
	lh__home_change_begin(home);
	is(lh__home_room(home), 0, "a full table has no room");
	is(lh__home_watch(home, (uintptr_t)beyond, (uintptr_t)beyond + PAGE), -ENOMEM,
	   "what finds no place in it is not watched");
	lh__home_change_end(home);
	ok(!watches(400), "and not believed to be");
	beyond[3] = 5;
	evict();
	is(beyond[3], 5, "its content stays");
	home->regions.capacity = capacity;
	is(lh__home_check(home), 0, "the invariants hold");
}

int main(void)
{
	if (!open_all())
		return done();
	region = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	test_busy();
	test_pieces();
	test_full();
	return done();
}
