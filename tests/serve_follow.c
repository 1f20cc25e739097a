/*
 * serve_follow.c - where the threads of a node run: the rule with made-up looks, then real clients on
 * loopback, told by the CPUs that the kernel lets each thread of this process use.
 */
#include <dirent.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "net/socket.h"
#include "serve_node.h"
#include "service/serve/follow.h"

#define A 2u
#define B 3u

/* ---- the rule ---- */

/* Looks are letters: a and b are CPUs, A and B apart from them, '.' anywhere; what the last one returned. */
static unsigned after(struct lh_follow *follow, const char *looks)
{
	unsigned place = follow->place;

	for (; *looks; looks++)
		place = lh__follow_look(follow, *looks == 'a'   ? A
		                                : *looks == 'b' ? B
		                                : *looks == 'A' ? (A | LH_APART)
		                                : *looks == 'B' ? (B | LH_APART)
		                                                : LH_ANYWHERE);
	return place;
}

static void rule(void)
{
	static const struct {
		const char *looks, *what;
		unsigned place;
	} cases[] = {
		{ "", "at first a thread runs anywhere", LH_ANYWHERE },
		{ "aaaaaaa", "less than a window says nothing", LH_ANYWHERE },
		{ "aaaaaaaa", "a window from one CPU: there", A },
		{ "baaaaaaa", "one stray look at the beginning changes nothing", A },
		{ "aaaabaaa", "nor in the middle", A },
		{ "aaaabbbb", "a window from two CPUs says nothing", LH_ANYWHERE },
		{ "aaaaaaaaabababab", "the first doubt is overlooked", A },
		{ "aaaaaaaaababababaaaaaaaaabababab", "also after a sure window", A },
		{ "aaaaaaaaababababbabababa", "the second lets the thread go", LH_ANYWHERE },
		{ "aaaaaaaabbbbbbbb", "a client that has moved is followed", B },
		{ "aaaaaaaaaaaaabbbbbbbbbbb", "also where it moved in the middle of a window", B },
		{ "AAAAAAAA", "a client that does not wait: apart from it", A | LH_APART },
		{ "AAAAAAAABBBBBBBB", "and it may move", B | LH_APART },
		{ "aaaaaaaaAAAAAAAA", "a client that waits no longer", A | LH_APART },
		{ "aaaaaaaa........", "a place that is somebody else's now", LH_ANYWHERE },
	};
	struct lh_follow follow;
	size_t i;

	for (i = 0; i < sizeof cases / sizeof *cases; i++) {
		follow = (struct lh_follow){ .place = LH_ANYWHERE };
		is(after(&follow, cases[i].looks), cases[i].place, "%s", cases[i].what);
	}
}

static void claims(void)
{
	static struct lh_places places;

	ok(lh__follow_claim(&places, A, 1, 1000) && lh__follow_claim(&places, A, 1, 1000),
	   "a free place is had");
	ok(!lh__follow_claim(&places, A, 2, 1000) && !lh__follow_claim(&places, A, 2, 999), "not by two");
	ok(lh__follow_claim(&places, A | LH_APART, 2, 1000) && lh__follow_claim(&places, B, 3, 1000),
	   "another place is another's");
	ok(lh__follow_claim(&places, A, 1, 1090) && !lh__follow_claim(&places, A, 2, 1150),
	   "a claim is renewed");
	ok(lh__follow_claim(&places, A, 2, 1090 + LH_FOLLOW_STALE_MS), "a claim that is not becomes stale");
	ok(!lh__follow_claim(&places, A, 1, 1100 + LH_FOLLOW_STALE_MS), "and is lost");
	ok(lh__follow_claim(&places, LH_ANYWHERE, 4, 1000), "anywhere is everybody's");
	ok(lh__follow_claim(&places, A | LH_APART, 5, 1000 + LH_FOLLOW_STALE_MS) &&
	           !lh__follow_claim(&places, A + LH_FOLLOW_CPUS, 5, 1100 + LH_FOLLOW_STALE_MS),
	   "CPUs beyond the table share places");
}

static bool cpus_are(unsigned place, const cpu_set_t *allowed, uint64_t wanted)
{
	cpu_set_t cpus;
	unsigned i;

	lh__follow_cpus(place, allowed, &cpus);
	for (i = 0; i < 64; i++)
		if (!!CPU_ISSET(i, &cpus) != (wanted >> i & 1))
			return false;
	return CPU_COUNT(&cpus) == __builtin_popcountll(wanted);
}

static void places(void)
{
	cpu_set_t allowed;

	CPU_ZERO(&allowed);
	CPU_SET(A, &allowed);
	CPU_SET(5, &allowed);
	ok(cpus_are(LH_ANYWHERE, &allowed, 1 << A | 1 << 5), "anywhere is every allowed CPU");
	ok(cpus_are(A, &allowed, 1 << A), "with a client: its CPU");
	ok(cpus_are(A | LH_APART, &allowed, 1 << 5), "apart from a client: the others");
	ok(cpus_are(B, &allowed, 1 << A | 1 << 5) && cpus_are(B | LH_APART, &allowed, 1 << A | 1 << 5),
	   "a client on a CPU that is not allowed: every allowed one");
	ok(cpus_are(5000, &allowed, 1 << A | 1 << 5), "nor one beyond all counting");
	CPU_CLR(5, &allowed);
	ok(cpus_are(A | LH_APART, &allowed, 1 << A), "one CPU leaves no choice");
}

/* ---- real clients ---- */

static int cpu[2]; /* two that this process may use */

static bool find_cpus(void)
{
	cpu_set_t set;
	int i, n = 0;

	if (sched_getaffinity(0, sizeof set, &set) != 0)
		return false;
	for (i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (CPU_ISSET(i, &set))
			cpu[n++] = i;
	return n == 2;
}

static void run_on(int which)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(which, &set);
	if (sched_setaffinity(0, sizeof set, &set) != 0)
		abort();
}

/*
 * The threads of this process but the calling one that may run on `with` (-1: no matter), and on `without`
 * not.
 */
static unsigned threads(int with, int without, int most)
{
	DIR *folder = opendir("/proc/self/task");
	struct dirent *entry;
	unsigned n = 0;

	while (folder && (entry = readdir(folder)) != NULL) {
		pid_t id = atoi(entry->d_name);
		cpu_set_t set;

		if (id == 0 || id == (pid_t)syscall(SYS_gettid) ||
		    sched_getaffinity(id, sizeof set, &set) != 0)
			continue;
		n += (with < 0 || CPU_ISSET(with, &set)) && (without < 0 || !CPU_ISSET(without, &set)) &&
		     CPU_COUNT(&set) <= most;
	}
	closedir(folder);
	return n;
}
static unsigned bound_to(int which)
{
	return threads(which, -1, 1);
}

static struct lh_store *client(const struct test_node *node)
{
	struct lh_node_target target;
	struct lh_store *store;
	struct lh_error error;

	if (lh__node_target(node->url, NULL, &target, &error) < 0 ||
	    lh__node_open(&lh__sys_default, &target, 5000, &store, &error) < 0)
		return printf("# %s\n", error.text), NULL;
	return store;
}

static void get(struct lh_store *store, unsigned n)
{
	unsigned char page[LH_PAGE_SIZE];
	lh_mask held;

	while (n--)
		if (store->ops->get_now(store, n, LH_MASK_ALL, page, &held) != 0)
			abort();
}

static void put_batch(struct lh_store *store)
{
	static unsigned char page[LH_PAGE_SIZE] = { 1 };
	struct lh_request request[32], *list[32], *finished[32];
	unsigned i, n = 0;

	for (i = 0; i < 32; i++) {
		request[i] = (struct lh_request){ .op = LH_OP_PUT, .page = i, .mask = 1, .data = page };
		list[i] = &request[i];
	}
	if (store->ops->submit(store, list, 32) != 0)
		abort();
	while (n < 32)
		n += (unsigned)store->ops->poll(store, finished, 32, -1);
}

#define TWO_WINDOWS (2 * LH_FOLLOW_EVERY * LH_FOLLOW_WINDOW)

static void one_client(struct lh_store *store)
{
	unsigned i;

	run_on(cpu[0]);
	get(store, TWO_WINDOWS);
	is(bound_to(cpu[0]), 1, "a client that asks from one CPU is followed there");
	run_on(cpu[1]);
	get(store, TWO_WINDOWS);
	ok(bound_to(cpu[0]) == 0 && bound_to(cpu[1]) == 1, "and to another");
	for (i = 0; i < 3000 && bound_to(cpu[0]) + bound_to(cpu[1]) != 0; i++) {
		run_on(cpu[random() & 1]);
		get(store, 1);
	}
	ok(i < 3000, "where it asks from here and there, its thread is bound to no CPU");
}

static void batches(struct lh_store *store)
{
	unsigned i;

	run_on(cpu[1]);
	get(store, TWO_WINDOWS);
	for (i = 0; i < 2000 && threads(-1, cpu[1], CPU_SETSIZE) == 0; i++)
		put_batch(store);
	ok(i < 2000, "batches are served apart from who sends them");
	is(bound_to(cpu[1]), 1, "while what is waited for is served beside");
}

/* A machine that stands still for a while makes a claim stale: then it takes a moment longer. */
static void two_clients(struct lh_store *one, struct lh_store *other)
{
	unsigned i;

	run_on(cpu[1]);
	for (i = 0; i < 3000 && (i < 2 * TWO_WINDOWS || bound_to(cpu[1]) != 1); i++) {
		get(one, 1);
		get(other, 1);
	}
	ok(i < 3000, "two clients on one CPU: one thread is bound to it");
}

static void clients(void)
{
	struct lh_server_options options = { .grace_ms = 1000 };
	struct lh_store *one = NULL, *other = NULL;
	struct test_node node;

	if (!find_cpus()) {
		skip("real clients", "this needs two CPUs");
		return;
	}
	if (!ok(node_start(&node, "tcp://127.0.0.1:0", &options, NULL) == 0 &&
	                (one = client(&node)) != NULL && (other = client(&node)) != NULL,
	        "a node on loopback and two clients"))
		return;
	one_client(one);
	two_clients(one, other);
	batches(one);
	one->ops->close(one);
	other->ops->close(other);
	node_stop(&node);
}

static void local(void)
{
	int pair[2], lonely = socket(AF_INET, SOCK_STREAM, 0);

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
		abort();
	ok(lh__socket_is_local(pair[0]), "the peer over a Unix socket is on this machine");
	ok(!lh__socket_is_local(lonely) && !lh__socket_is_local(-1), "no peer is on no machine");
	close(pair[0]);
	close(pair[1]);
	close(lonely);
}

int main(void)
{
	rule();
	claims();
	places();
	local();
	clients();
	return done();
}
