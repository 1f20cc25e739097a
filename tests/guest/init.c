/*
 * init.c - a guest that checks itself: the only program of a virtual machine that tests migrate.
 *
 * Its working set is pages with a pattern that is derived from the page's number and a generation; the
 * generation is kept elsewhere, twice. So a page that is zero, old, another's or a mixture is found, down to
 * one line of 64 bytes. Each thread checks and rewrites its pages: most of them out of a hot set, the rest
 * from a sweep or from anywhere; where several threads run, some pages are shared by lines.
 *
 * Prints, on the serial console, a line each tick (10 ms):
 *
 *     t=MS n=CHECKED w=WRITTEN s=CHECKSUM r=RANDOM d=DISK bad=BAD
 *
 * t is the guest's own clock, all others are sums since the start. What was found wrong is said once for each
 * page ("wrong page=... lines=... first=... is=zero|old|other"), and counts as bad for ever.
 *
 * Words, on the kernel's command line or, at any time, as a line sent to the console:
 *
 *     wmb=256     working set in MiB (until it has started)
 *     hot=32      hot set in MiB; 0: none
 *     wper=64     pages that a thread checks and rewrites in a tick; 0: as many as it can
 *     cold=32     of 256 pages so many come from outside the hot set
 *     tick=10     milliseconds
 *     idle=0      1: nothing is rewritten, one page a tick is checked
 *     scatter=0   1: what is neighbours in virtual memory is not so in physical memory
 *     threads=1
 *     virtio=0    1: modules are loaded, and the random number device is read from
 *     disk=0      1: the disk too (with virtio=1); the host writes what it reads into the guest's memory
 *     wait=0      1: starts when a line with the word "go" comes
 *     verify      all pages are checked now; prints "verified pages=N bad=BAD"
 *     quiet=0     1: no lines at ticks
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define LINES 64u
#define WORDS 8u /* in a line */
#define STEP UINT64_C(0x9e3779b97f4a7c15)
#define THREADS_MAX 8u
#define SHARED 256u /* pages, the last ones of the working set, whose lines belong to different threads */

static struct {
	const char *name;
	unsigned long value;
} settings[] = {
	{ "wmb", 256 }, { "hot", 32 },    { "wper", 64 },   { "cold", 32 },  { "tick", 10 }, { "idle", 0 },
	{ "wait", 0 },  { "scatter", 0 }, { "threads", 1 }, { "virtio", 0 }, { "quiet", 0 }, { "disk", 0 },
};
enum { WMB, HOT, WPER, COLD, TICK, IDLE, WAIT, SCATTER, NTHREADS, VIRTIO, QUIET, DISK, SETTINGS };

/* Read by workers while the console thread changes it. */
static unsigned long setting(unsigned which)
{
	return __atomic_load_n(&settings[which].value, __ATOMIC_RELAXED);
}

static uint64_t (*memory)[PAGE / 8];
static uint64_t pages, owned; /* owned: by one thread each, page % threads */
static unsigned threads;
/* Of each page, and of the shared ones for each thread; the mirror is its complement. */
static uint32_t *generation, *mirror;
static struct worker {
	unsigned id;
	uint64_t random, sweep;
	uint64_t checked, written, sum;
	pthread_mutex_t lock; /* held while it works */
	char apart[64];       /* from the next one */
} worker[THREADS_MAX];
static uint64_t bad, numbers, disk_reads;
static uint8_t *known_bad; /* by page: was said already */
static int console = 1;

static void say(const char *format, ...)
{
	char line[256];
	va_list list;
	int size;

	va_start(list, format);
	size = vsnprintf(line, sizeof(line), format, list);
	va_end(list);
	/* In one piece, so that lines of several threads do not mix. */
	if (write(console, line, (size_t)size) < 0)
		_exit(1);
}

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t draw(struct worker *me)
{
	me->random += STEP;
	return mix(me->random);
}

/* ---- one page ---- */

static uint64_t seed(uint64_t page, uint32_t of)
{
	return mix(page << 32 | of);
}

static bool line_is(const uint64_t *word, uint64_t expected)
{
	uint64_t difference = 0;

	for (unsigned i = 0; i < WORDS; i++)
		difference |= word[i] ^ (expected + i * STEP);
	return difference == 0;
}

/* What a wrong line holds instead. */
static const char *what_is(uint64_t page, uint32_t now, unsigned line)
{
	const uint64_t *word = &memory[page][line * WORDS];
	uint64_t any = 0;

	for (unsigned i = 0; i < WORDS; i++)
		any |= word[i];
	if (!any)
		return "zero";
	for (uint32_t back = 1; back <= now && back < 10000; back++)
		if (line_is(word, seed(page, now - back) + (uint64_t)line * WORDS * STEP))
			return "old";
	return "other";
}

static void wrong(uint64_t page, uint32_t now, unsigned first, unsigned step)
{
	unsigned lines = 0, where = LINES;
	uint64_t x = seed(page, now);

	for (unsigned line = first; line < LINES; line += step)
		if (!line_is(&memory[page][line * WORDS], x + (uint64_t)line * WORDS * STEP)) {
			lines++;
			where = where < LINES ? where : line;
		}
	if (__atomic_exchange_n(&known_bad[page], 1, __ATOMIC_RELAXED))
		return;
	__atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED);
	say("wrong page=%llu lines=%u first=%u is=%s generation=%u\n", (unsigned long long)page, lines, where,
	    where < LINES ? what_is(page, now, where) : "generation", now);
}

/* Checks lines first, first + step... of a page; index: where its generation stands. */
static void check(struct worker *me, uint64_t page, uint64_t index, unsigned first, unsigned step)
{
	uint32_t now = generation[index];
	uint64_t x = seed(page, now), difference = (uint32_t)~mirror[index] ^ now;

	me->sum ^= x + now;
	for (unsigned line = first; line < LINES; line += step) {
		const uint64_t *word = &memory[page][line * WORDS];
		uint64_t expected = x + (uint64_t)line * WORDS * STEP;

		for (unsigned i = 0; i < WORDS; i++, expected += STEP)
			difference |= word[i] ^ expected;
	}
	me->checked++;
	if (difference)
		wrong(page, now, first, step);
}

static void fill(struct worker *me, uint64_t page, uint64_t index, unsigned first, unsigned step)
{
	uint32_t now = generation[index] + 1;
	uint64_t x = seed(page, now);

	for (unsigned line = first; line < LINES; line += step) {
		uint64_t *word = &memory[page][line * WORDS], value = x + (uint64_t)line * WORDS * STEP;

		for (unsigned i = 0; i < WORDS; i++, value += STEP)
			word[i] = value;
	}
	generation[index] = now;
	mirror[index] = ~now;
	me->written++;
}

static void visit(struct worker *me, uint64_t page, bool write)
{
	bool shared = page >= owned;
	uint64_t index = shared ? owned + (page - owned) * threads + me->id : page;
	unsigned first = shared ? me->id : 0, step = shared ? threads : 1;

	check(me, page, index, first, step);
	if (write)
		fill(me, page, index, first, step);
}

/* ---- workers ---- */

/* The next page of this thread: hot, shared, swept or any. */
static uint64_t next_page(struct worker *me)
{
	uint64_t mine = owned / threads, hot = setting(HOT) * 256 / threads, choice = draw(me), page;

	if (hot > mine)
		hot = mine;
	if (hot && choice % 256 >= setting(COLD))
		page = mine / 2 - hot / 2 + (choice >> 16) % hot;
	else if (choice >> 8 & 1)
		page = me->sweep++ % mine;
	else if ((choice >> 9) % 16 == 0)
		return owned + (choice >> 16) % SHARED;
	else
		page = (choice >> 16) % mine;
	return page * threads + me->id;
}

static void turn(struct worker *me, uint64_t until)
{
	unsigned long n = setting(WPER);

	pthread_mutex_lock(&me->lock);
	if (setting(IDLE))
		visit(me, me->sweep++ % (owned / threads) * threads + me->id, false);
	else
		for (unsigned long i = 0; n ? i < n : now_us() < until; i++)
			visit(me, next_page(me), true);
	pthread_mutex_unlock(&me->lock);
}

static void tick_line(uint64_t began)
{
	uint64_t checked = 0, written = 0, sum = 0;

	if (setting(QUIET))
		return;
	for (unsigned i = 0; i < threads; i++) {
		checked += __atomic_load_n(&worker[i].checked, __ATOMIC_RELAXED);
		written += __atomic_load_n(&worker[i].written, __ATOMIC_RELAXED);
		sum ^= __atomic_load_n(&worker[i].sum, __ATOMIC_RELAXED);
	}
	say("t=%llu n=%llu w=%llu s=%08x r=%llu d=%llu bad=%llu\n",
	    (unsigned long long)(now_us() - began) / 1000, (unsigned long long)checked,
	    (unsigned long long)written, (unsigned)(sum ^ sum >> 32),
	    (unsigned long long)__atomic_load_n(&numbers, __ATOMIC_RELAXED),
	    (unsigned long long)__atomic_load_n(&disk_reads, __ATOMIC_RELAXED),
	    (unsigned long long)__atomic_load_n(&bad, __ATOMIC_RELAXED));
}

static void *work(void *context)
{
	struct worker *me = context;
	uint64_t began = now_us(), next = began;

	for (;;) {
		uint64_t tick = setting(TICK) * 1000, now;
		struct timespec at;

		next += tick;
		turn(me, next);
		if (me->id == 0)
			tick_line(began);
		now = now_us();
		if (next < now)
			next = now; /* what was missed is not made up for */
		at = (struct timespec){ (time_t)(next / 1000000), (long)(next % 1000000) * 1000 };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
	}
	return NULL;
}

static void verify(void)
{
	for (unsigned i = 0; i < threads; i++)
		pthread_mutex_lock(&worker[i].lock);
	for (uint64_t page = 0; page < owned; page++)
		visit(&worker[page % threads], page, false);
	for (uint64_t page = owned; page < pages; page++)
		for (unsigned i = 0; i < threads; i++)
			visit(&worker[i], page, false);
	say("verified pages=%llu bad=%llu\n", (unsigned long long)pages, (unsigned long long)bad);
	for (unsigned i = 0; i < threads; i++)
		pthread_mutex_unlock(&worker[i].lock);
}

/* Reads from the random number device, whose answers the host writes into the guest's memory. */
static void *numbers_come(void *context)
{
	int fd = *(int *)context;
	uint64_t word[8];

	for (;;) {
		uint64_t any = 0;
		ssize_t got = read(fd, word, sizeof(word));

		for (unsigned i = 0; i < 8; i++)
			any |= word[i];
		if (got != sizeof(word) || !any) {
			__atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED);
			say("wrong random numbers: %zd %d\n", got, errno);
			return NULL;
		}
		memset(word, 0, sizeof(word));
		__atomic_fetch_add(&numbers, 1, __ATOMIC_RELAXED);
		usleep(20000);
	}
}

static void *need(size_t size);

#define DISK_BLOCKS 2048u /* of a page, as guest.py has written them */
#define DISK_RUN 8u       /* read at once */
#define DISK_SLOTS 1024u

/* Whether DISK_RUN pages hold the disk's blocks from `block` on. */
static bool disk_is(const uint64_t *word, uint64_t block)
{
	for (unsigned i = 0; i < DISK_RUN; i++)
		for (unsigned line = 0; line < LINES; line++)
			if (!line_is(word + (i * LINES + line) * WORDS,
			             seed(block + i, 0xd15c) + (uint64_t)line * WORDS * STEP))
				return false;
	return true;
}

/*
 * Reads from the disk past the kernel's cache, so that the host itself writes into the pages that are
 * checked: at once, and again when their turn comes next.
 */
static void *disk_comes(void *context)
{
	int fd = open("/dev/vda", O_RDONLY | O_DIRECT);
	uint64_t(*slot)[DISK_RUN * PAGE / 8] = need(sizeof(*slot) * DISK_SLOTS);
	uint64_t *holds = need(sizeof(*holds) * DISK_SLOTS);
	struct worker dice = { .random = 77 };

	while (setting(DISK)) {
		uint64_t i = draw(&dice) % DISK_SLOTS, block = draw(&dice) % (DISK_BLOCKS - DISK_RUN);
		bool fine = !holds[i] || disk_is(slot[i], holds[i] - 1);
		ssize_t got = pread(fd, slot[i], sizeof(*slot), (off_t)(block * PAGE));

		if (!fine || got != (ssize_t)sizeof(*slot) || !disk_is(slot[i], block)) {
			__atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED);
			say("wrong disk: slot=%llu before=%d read=%zd errno=%d\n", (unsigned long long)i,
			    !fine, got, errno);
			return NULL;
		}
		holds[i] = block + 1;
		__atomic_fetch_add(&disk_reads, 1, __ATOMIC_RELAXED);
		usleep(5000);
	}
	return NULL;
}

/* ---- setting up ---- */

static void *need(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		say("no memory: %zu bytes\n", size);
		_exit(1);
	}
	return at;
}

/*
 * Pages get their physical memory when they are first touched, one after another as the kernel has it:
 * touched in a random order, neighbours lie anywhere. Half of them are then given back and touched again in
 * another.
 */
static void scatter(void)
{
	uint32_t *order = need(pages * sizeof(*order));
	struct worker dice = { .random = 1 };

	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < pages; i++)
		order[i] = (uint32_t)i;
	for (unsigned round = 0; round < 2; round++) {
		uint64_t some = round ? pages / 2 : pages;

		for (uint64_t i = pages - 1; i > 0; i--) {
			uint64_t other = draw(&dice) % (i + 1);
			uint32_t was = order[i];

			order[i] = order[other];
			order[other] = was;
		}
		for (uint64_t i = 0; round && i < some; i++)
			madvise(memory[order[i]], PAGE, MADV_DONTNEED);
		for (uint64_t i = some; i > 0; i--)
			memory[order[i - 1]][0] = 1;
	}
	munmap(order, pages * sizeof(*order));
}

static void set_up(void)
{
	threads = (unsigned)setting(NTHREADS);
	threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads;
	pages = setting(WMB) * 256;
	owned = (pages - SHARED) / threads * threads;
	pages = owned + SHARED;
	memory = need(pages * PAGE);
	known_bad = need(pages);
	generation = need((pages + (uint64_t)SHARED * threads) * sizeof(*generation));
	mirror = need((pages + (uint64_t)SHARED * threads) * sizeof(*mirror));
	if (setting(SCATTER))
		scatter();
	for (unsigned i = 0; i < threads; i++) {
		worker[i] = (struct worker){ .id = i, .random = i + 1, .lock = PTHREAD_MUTEX_INITIALIZER };
		for (uint64_t page = i; page < owned; page += threads)
			fill(&worker[i], page, page, 0, 1);
		for (uint64_t page = owned; page < pages; page++)
			fill(&worker[i], page, owned + (page - owned) * threads + i, i, threads);
	}
	say("started pages=%llu threads=%u\n", (unsigned long long)pages, threads);
}

/* Words of a line; those that are not ours are the kernel's. Whether "go" was among them. */
static bool obey(char *line, bool running)
{
	bool go = false;

	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
		char *equals = strchr(word, '=');

		if (!strcmp(word, "verify") && running)
			verify();
		go |= !strcmp(word, "go");
		for (unsigned i = 0; equals && i < SETTINGS; i++)
			if (strlen(settings[i].name) == (size_t)(equals - word) &&
			    !strncmp(settings[i].name, word, (size_t)(equals - word)))
				__atomic_store_n(&settings[i].value, strtoul(equals + 1, NULL, 10),
				                 __ATOMIC_RELAXED);
	}
	return go;
}

static void load_modules(void)
{
	for (unsigned i = 0; i < 32; i++) {
		char path[32];
		int fd;

		snprintf(path, sizeof(path), "/modules/%02u.ko", i);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			return;
		if (syscall(SYS_finit_module, fd, "", 0))
			say("%s: %s\n", path, strerror(errno));
		close(fd);
	}
}

static void hear(bool running)
{
	char line[256];

	while (fgets(line, sizeof(line), stdin))
		if (obey(line, running) && !running)
			return;
}

static void mounts(void)
{
	char line[1024] = "";
	struct termios raw;
	FILE *file;
	int fd;

	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	fd = open("/dev/console", O_RDWR); /* nothing is open where the initramfs has no such device */
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (!tcgetattr(console, &raw)) { /* what comes is not sent back */
		raw.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
		tcsetattr(console, TCSANOW, &raw);
	}
	file = fopen("/proc/cmdline", "r");
	if (file && fgets(line, sizeof(line), file))
		obey(line, false);
	if (file)
		fclose(file);
}

int main(void)
{
	static int random_fd;
	pthread_t thread;

	mounts();
	if (setting(VIRTIO))
		load_modules();
	say("ready\n");
	if (setting(WAIT))
		hear(false);
	set_up();
	for (unsigned i = 0; i < threads; i++)
		if (pthread_create(&thread, NULL, work, &worker[i]))
			say("no thread\n");
	random_fd = setting(VIRTIO) ? open("/dev/hwrng", O_RDONLY) : -1;
	if (setting(VIRTIO) && random_fd < 0)
		say("no random number device\n");
	if (random_fd >= 0 && pthread_create(&thread, NULL, numbers_come, &random_fd))
		say("no thread\n");
	if (setting(DISK) && pthread_create(&thread, NULL, disk_comes, NULL))
		say("no thread\n");
	hear(true);
	for (;;)
		pause();
}
