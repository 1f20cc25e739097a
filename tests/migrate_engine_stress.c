/*
 * migrate_engine_stress.c - a guest of several threads that touch, write, verify and discard pages at random
 * while its memory comes: from supplies that are slow, give in another order than they were asked in, break
 * and are replaced; and while the process that brings it is killed, again and again. What the guest finds is
 * held against what it must find: the source's content, or what it wrote itself, or zero.
 */
/* timeout: 120 */
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "migrate_engine.h"
#include "port/page/uapi.h"
#include "tap.h"

#define THREADS 2
#define LANES 3
#define READ_ONLY(page) ((page) % 8 == 7) /* pages that all threads read */
#define DISCARDED UINT64_MAX

enum memory { FILES, ANONYMOUS };

struct guest_thread {
	pthread_t thread;
	struct vm *vm;
	unsigned number;
	uint64_t random;
};

/* What both processes see. */
struct shared {
	uint64_t wrong, touched, discarded, running, stop;
	uint64_t wrong_page, wrong_version, wrong_word;
};

struct vm {
	enum memory memory;
	uint64_t pages;
	bool punches_first; /* as QEMU: a hole in the file, and then the mapping is discarded */
	bool lax;           /* discarded pages that it never wrote may be as the source has them */
	int file, uffd;
	pid_t pid;
	unsigned char *mapped;
	uint64_t *version; /* of its own pages: 0: the source's; DISCARDED: zero */
	struct shared *shared;
	struct guest_thread thread[THREADS];
};

/* ---- the guest ---- */

static void wrong(struct vm *vm, uint64_t page, uint64_t version)
{
	uint64_t none = 0;

	if (!__atomic_compare_exchange_n(&vm->shared->wrong, &none, 1, false, __ATOMIC_ACQ_REL,
	                                 __ATOMIC_RELAXED))
		return;
	vm->shared->wrong_page = page;
	vm->shared->wrong_version = version;
	vm->shared->wrong_word = *(uint64_t *)(void *)(vm->mapped + page * PAGE + 8);
}

static void verify(struct vm *vm, uint64_t page)
{
	const unsigned char *at = vm->mapped + page * PAGE;
	uint64_t version = vm->version[page];
	bool right = version == DISCARDED ? page_is_zero(at) : page_is(at, page, version);

	/* Once seen as what it was, it is that. */
	if (!right && version == DISCARDED && vm->lax && page_is(at, page, 0)) {
		vm->version[page] = 0;
		right = true;
	}
	if (!right)
		wrong(vm, page, version);
}

static void discard(struct vm *vm, uint64_t page)
{
	unsigned char *at = vm->mapped + page * PAGE;

	if (vm->memory == ANONYMOUS)
		madvise(at, PAGE, MADV_DONTNEED);
	else if (!vm->punches_first)
		madvise(at, PAGE, MADV_REMOVE);
	else if (fallocate(vm->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * PAGE),
	                   PAGE) == 0)
		madvise(at, PAGE, MADV_DONTNEED);
	vm->version[page] = DISCARDED;
	__atomic_add_fetch(&vm->shared->discarded, 1, __ATOMIC_RELAXED);
}

static void *guest_runs(void *context)
{
	struct guest_thread *self = context;
	struct vm *vm = self->vm;
	uint64_t version = 0;

	while (!__atomic_load_n(&vm->shared->stop, __ATOMIC_ACQUIRE)) {
		uint64_t random = random_next(&self->random), page = random % vm->pages, what = random >> 40;

		if (!READ_ONLY(page) && page % THREADS != self->number)
			continue;
		__atomic_add_fetch(&vm->shared->touched, 1, __ATOMIC_RELAXED);
		if (READ_ONLY(page)) {
			if (!page_is(vm->mapped + page * PAGE, page, 0))
				wrong(vm, page, 0);
		} else if (what % 16 == 0) {
			discard(vm, page);
		} else if (what % 2) {
			verify(vm, page);
		} else {
			if (what % 4)
				verify(vm, page);
			vm->version[page] = version = version % 60000 + 1;
			content_of((uint64_t *)(void *)(vm->mapped + page * PAGE), page, version);
		}
	}
	return NULL;
}

/* At the end: everything. */
static void guest_verifies(struct vm *vm)
{
	for (uint64_t page = 0; page < vm->pages; page++)
		verify(vm, page);
}

static void guest_lives(struct vm *vm, int socket, uint64_t seed)
{
	char byte = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(socket, &byte, 1) != 1)
		_exit(1);
	for (unsigned i = 0; i < THREADS; i++) {
		vm->thread[i] = (struct guest_thread){ .vm = vm, .number = i, .random = seed * (i + 1) | 1 };
		pthread_create(&vm->thread[i].thread, NULL, guest_runs, &vm->thread[i]);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(vm->thread[i].thread, NULL);
	guest_verifies(vm);
	_exit(0);
}

/* ---- the guest, from outside ---- */

static bool vm_memory(struct vm *vm, const char *path)
{
	uint64_t mode = UFFDIO_REGISTER_MODE_MISSING;
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	struct uffdio_register request;
	int flags = vm->memory == ANONYMOUS ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	vm->file = -1;
	if (vm->memory == FILES) {
		vm->file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (vm->file < 0 || ftruncate(vm->file, (off_t)(vm->pages * PAGE)) != 0)
			return false;
		mode |= UFFDIO_REGISTER_MODE_MINOR;
		api.features |= UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MISSING_SHMEM;
	}
	vm->mapped = mmap(NULL, vm->pages * PAGE, PROT_READ | PROT_WRITE, flags, vm->file, 0);
	vm->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	request = (struct uffdio_register){
		.range = { .start = (uintptr_t)vm->mapped, .len = vm->pages * PAGE },
		.mode = mode,
	};
	return vm->mapped != MAP_FAILED && vm->uffd >= 0 && ioctl(vm->uffd, UFFDIO_API, &api) == 0 &&
	       ioctl(vm->uffd, UFFDIO_REGISTER, &request) == 0;
}

/* Starts the guest, which waits for a byte in *go. The descriptor of its memory is ours then. */
static bool vm_start(struct vm *vm, const char *path, uint64_t seed, int *go)
{
	int pair[2], report[2], pidfd, uffd = -1;
	uint64_t said[2] = { 0, 0 };

	vm->shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	vm->version = mmap(NULL, vm->pages * 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) || pipe2(report, O_CLOEXEC))
		return false;
	fflush(stdout);
	vm->pid = fork();
	if (vm->pid == 0) {
		close(pair[1]);
		close(report[0]);
		if (vm_memory(vm, path)) {
			said[0] = (uintptr_t)vm->mapped;
			said[1] = (uint64_t)vm->uffd;
		}
		(void)!write(report[1], said, sizeof said);
		guest_lives(vm, pair[0], seed);
	}
	close(pair[0]);
	close(report[1]);
	if (read(report[0], said, sizeof said) == sizeof said && said[0]) {
		pidfd = (int)syscall(SYS_pidfd_open, vm->pid, 0);
		uffd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)said[1], 0);
		close(pidfd);
	}
	close(report[0]);
	*go = pair[1];
	vm->mapped = (unsigned char *)(uintptr_t)said[0];
	vm->uffd = uffd;
	return uffd >= 0;
}

static struct lh_guest vm_guest(const struct vm *vm)
{
	return (struct lh_guest){
		.sys = &lh__sys_default,
		.fd = dup(vm->uffd),
		.page_size = PAGE,
		.ranges = 1,
		.range = { { .address = (uintptr_t)vm->mapped, .pages = vm->pages } },
	};
}

/* Tells the guest to stop, and waits until it has looked at all of its memory. Whether all was right. */
static bool vm_end(struct vm *vm, int go)
{
	bool right;
	int status = -1;

	__atomic_store_n(&vm->shared->stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < 2000 && waitpid(vm->pid, &status, WNOHANG) == 0; i++)
		usleep(10000);
	if (status == -1) {
		printf("# the guest hangs\n");
		kill(vm->pid, SIGKILL);
		waitpid(vm->pid, &status, 0);
	}
	right = status == 0 && vm->shared->wrong == 0;
	if (vm->shared->wrong)
		printf("# page %lu should have been version %ld, its second word is %lx\n",
		       (unsigned long)vm->shared->wrong_page, (long)vm->shared->wrong_version,
		       (unsigned long)vm->shared->wrong_word);
	printf("# %lu touches, %lu discards\n", (unsigned long)vm->shared->touched,
	       (unsigned long)vm->shared->discarded);
	munmap(vm->shared, PAGE);
	munmap(vm->version, vm->pages * 8);
	close(vm->uffd);
	close(go);
	return right;
}

/* ---- the home ---- */

struct home {
	struct vm vm;
	struct source source;
	struct lh_state *state;
	struct place *place;
	struct lh_order *order;
	struct lh_measure *measure;
	struct lh_engine *engine;
	char path[64], state_path[80];
};

static void home_paths(struct home *home, const char *name)
{
	snprintf(home->path, sizeof home->path, "/dev/shm/lh-engine-%s-%d", name, (int)getpid());
	snprintf(home->state_path, sizeof home->state_path, "%s.state", home->path);
}

static struct lh_state_region home_region(const struct home *home)
{
	struct lh_state_region region = { .name = "ram", .pages = home->vm.pages };

	snprintf(region.path, sizeof region.path, "%s", home->path);
	return region;
}

/* All parts around a state. */
static void home_open(struct home *home, enum lh_order_policy policy, enum place_fault fault)
{
	struct lh_engine_options options = { .page_size = PAGE, .lanes = LANES };
	struct lh_order_options order = { .policy = policy, .pages = home->vm.pages };
	struct lh_place *real = NULL;
	struct lh_guest guest = vm_guest(&home->vm);
	struct lh_error error = { 0, "" };
	int result;

	result = home->vm.memory == FILES ? lh__place_files(home->state, false, &real, &error)
	                                  : lh__place_copy(&real);
	if (!result)
		result = lh__order_open(&order, &home->order, &error);
	if (!result)
		result = lh__measure_open(&home->measure);
	if (!result) {
		home->place = place_around(real, home->state, fault);
		options.state = home->state;
		options.place = &home->place->base;
		options.order = home->order;
		options.measure = home->measure;
		result = lh__engine_open(&options, &home->engine, &error);
	}
	if (!result)
		result = lh__engine_guest(home->engine, &guest, &error);
	if (result)
		printf("Bail out! %s\n", error.text), exit(1);
}

static uint64_t home_close(struct home *home)
{
	uint64_t breaches;

	lh__engine_close(home->engine);
	breaches = home->place->breaches;
	home->place->base.ops->close(&home->place->base);
	home->order->ops->close(home->order);
	lh__measure_close(home->measure);
	return breaches;
}

static struct supply *home_supply(struct home *home, uint64_t *random)
{
	struct supply *supply = supply_make(&home->source, LANES, random_next(random) | 1);

	supply->late_serving = true;
	supply->delay[0] = 50000 + random_next(random) % 200000;
	for (unsigned i = 1; i < LANES; i++)
		supply->delay[i] = random_next(random) % 2000000;
	return supply;
}

/* Everything twice, with changes between, so that much is asked for by what differs. */
static void home_rounds(struct home *home, uint64_t *random)
{
	struct lh_pageset set = { home->vm.pages, calloc(1, lh__pageset_bytes(home->vm.pages)) };
	uint64_t words[PAGE / 8];

	for (uint64_t page = 0; page < home->vm.pages; page += 1 + random_next(random) % 3) {
		memset(home->source.memory + page * PAGE + 64 * (random_next(random) % 64), 0x5a, 64);
		lh__pageset_add(&set, page);
	}
	(void)!lh__engine_fetch(home->engine);
	lh__engine_wait(home->engine, LH_ENGINE_FETCHED, 20000);
	for (uint64_t page = 0; page < home->vm.pages; page++) {
		content_of(words, page, 0);
		memcpy(home->source.memory + page * PAGE, words, PAGE);
	}
	(void)!lh__engine_stale(home->engine, &set, NULL);
	(void)!lh__engine_show(home->engine, NULL, NULL);
	free(set.word);
}

/* Supplies that break, one after the other, until all is there. */
static bool home_runs(struct home *home, uint64_t *random, bool breaks)
{
	unsigned so = 0, broken = 0;

	while (!(so & (LH_ENGINE_COMPLETE | LH_ENGINE_GUEST_LEFT)) && broken < 200) {
		so = lh__engine_wait(home->engine, LH_ENGINE_COMPLETE | LH_ENGINE_BROKEN, 20000);
		if (!so)
			break;
		if (so & LH_ENGINE_BROKEN) {
			struct supply *supply = home_supply(home, random);

			supply->breaks_after = breaks ? 50 + random_next(random) % 500 : 0;
			supply->wrong_after = broken++ % 4 == 3 ? 20 : 0;
			lh__engine_supply(home->engine, &supply->base);
		}
	}
	printf("# %u supplies broke\n", broken);
	return so & LH_ENGINE_COMPLETE;
}

static bool stress(enum memory memory, enum lh_order_policy policy, bool rounds, bool punches_first,
                   bool breaks, enum place_fault fault)
{
	static const uint8_t id[LH_MOVE_ID] = { 1 };
	struct home home = { .vm = { .memory = memory, .pages = 3000 } };
	struct lh_state_region region;
	uint64_t random = random_seed(), seed = random;
	struct supply *supply;
	bool complete, right;
	int go;

	home_paths(&home, "stress");
	source_make(&home.source, home.vm.pages);
	home.vm.punches_first = home.vm.lax = punches_first;
	if (!vm_start(&home.vm, home.path, random_next(&random), &go))
		return false;
	region = home_region(&home);
	if (lh__state_create(NULL, id, &region, 1, &home.state, NULL))
		return false;
	home_open(&home, policy, fault);
	supply = home_supply(&home, &random);
	lh__engine_supply(home.engine, &supply->base);
	if (rounds)
		home_rounds(&home, &random);
	if (breaks)
		supply_break(&supply->base);
	(void)!lh__engine_answer(home.engine, NULL);
	(void)!write(go, "g", 1);
	complete = home_runs(&home, &random, breaks);
	right = vm_end(&home.vm, go);
	if (home_close(&home))
		printf("# a page was written or shown when it should not have been\n"), right = false;
	lh__state_close(home.state, true);
	munmap(home.source.memory, home.vm.pages * PAGE);
	unlink(home.path);
	if (!complete || !right)
		printf("# seed %lu\n", (unsigned long)seed);
	return complete && right;
}

/* ---- killed ---- */

/* Whether the guest writes this page, and then whether it has. */
static bool is_written(const struct vm *vm, uint64_t page, bool *whole)
{
	uint64_t version = __atomic_load_n(&vm->version[page], __ATOMIC_ACQUIRE), words[PAGE / 8];

	*whole = pread(vm->file, words, PAGE, (off_t)(page * PAGE)) == PAGE && page_is(words, page, version);
	return version != 0 && version != DISCARDED;
}

/* Dies where it matters: the guest has written what was shown to it, and that is not marked as fresh. */
static void die_when_written(void *context, uint64_t page, uint64_t count)
{
	const struct vm *vm = context;
	bool whole;

	for (; count > 0; page++, count--)
		for (unsigned i = 0; i < 1000 && is_written(vm, page, &whole); i++) {
			if (whole)
				kill(getpid(), SIGKILL);
			usleep(20);
		}
}

/* One life of the process that brings memory; it ends when all is there, if it is let live. */
static void one_life(struct home *home, uint64_t seed, enum place_fault fault, bool dies)
{
	uint64_t random = seed;
	struct supply *supply;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (lh__state_open(home->state_path, &home->state, NULL))
		_exit(3);
	home_open(home, LH_ORDER_AROUND, fault);
	home->vm.file = open(home->path, O_RDONLY | O_CLOEXEC);
	home->place->late = dies ? die_when_written : NULL;
	home->place->late_context = &home->vm;
	supply = home_supply(home, &random);
	lh__engine_supply(home->engine, &supply->base);
	(void)!lh__engine_answer(home->engine, NULL);
	if (!lh__engine_wait(home->engine, LH_ENGINE_COMPLETE, 20000))
		_exit(4);
	if (home_close(home))
		_exit(5);
	lh__state_close(home->state, false);
	close(home->vm.file);
	_exit(0);
}

/*
 * How often it is killed before it comes to its end; -1: something went wrong in it. With a fault it dies by
 * itself where that does harm, else at a time that is drawn.
 */
static int lives(struct home *home, uint64_t *random, int kills, enum place_fault fault)
{
	int killed = 0, status = 0;

	for (;;) {
		uint64_t seed = random_next(random) | 1, after = random_next(random) % 12000;
		pid_t pid = fork();

		if (pid == 0)
			one_life(home, seed, fault, fault != PLACE_SOUND && killed < kills);
		if (fault == PLACE_SOUND && killed < kills) {
			usleep((useconds_t)(2000 + after));
			kill(pid, SIGKILL);
		}
		waitpid(pid, &status, 0);
		if (!WIFSIGNALED(status))
			break;
		killed++;
	}
	printf("# killed %d times\n", killed);
	return WEXITSTATUS(status) ? (printf("# it ended with %d\n", WEXITSTATUS(status)), -1) : killed;
}

/* Whether the guest found what it must find, in *right; false: something else went wrong. */
static bool kill_again_and_again(int kills, enum place_fault fault, bool *right)
{
	static const uint8_t id[LH_MOVE_ID] = { 1 };
	struct home home = { .vm = { .memory = FILES, .pages = 6000, .punches_first = true, .lax = true } };
	struct lh_state_region region;
	uint64_t random = random_seed(), seed = random;
	int killed, go;

	home_paths(&home, "kill");
	source_make(&home.source, home.vm.pages);
	if (!vm_start(&home.vm, home.path, random_next(&random), &go))
		return false;
	region = home_region(&home);
	if (lh__state_create(home.state_path, id, &region, 1, &home.state, NULL))
		return false;
	lh__state_set_phase(home.state, LH_MOVE_RUNNING);
	lh__state_close(home.state, false);
	(void)!write(go, "g", 1);
	printf("# seed %lu\n", (unsigned long)seed);
	killed = lives(&home, &random, kills, fault);
	*right = vm_end(&home.vm, go);
	munmap(home.source.memory, home.vm.pages * PAGE);
	unlink(home.path);
	unlink(home.state_path);
	return killed >= 0;
}

int main(void)
{
	struct vm probe = { .memory = FILES, .pages = 8 };
	char path[64];
	bool can, right = false;

	snprintf(path, sizeof path, "/dev/shm/lh-engine-probe-%d", (int)getpid());
	can = vm_memory(&probe, path);
	unlink(path);
	if (!can) {
		skip("guests", "userfaultfd of shared memory cannot be made here");
		return done();
	}
	ok(stress(FILES, LH_ORDER_LINEAR, false, false, false, PLACE_SOUND), "files: one supply");
	ok(stress(FILES, LH_ORDER_AROUND, true, false, true, PLACE_SOUND),
	   "files: after rounds, supplies break");
	ok(stress(FILES, LH_ORDER_AROUND, true, true, true, PLACE_SOUND),
	   "files: a guest that punches first");
	ok(stress(ANONYMOUS, LH_ORDER_AROUND, false, false, false, PLACE_SOUND), "anonymous: one supply");
	ok(stress(ANONYMOUS, LH_ORDER_LINEAR, false, false, true, PLACE_SOUND), "anonymous: supplies break");
	ok(kill_again_and_again(20, PLACE_SOUND, &right) && right, "killed again and again: nothing is lost");
	ok(kill_again_and_again(20, PLACE_FRESH_LATE, &right) && !right,
	   "this check sees pages that are marked as fresh after they were shown");
	return done();
}
