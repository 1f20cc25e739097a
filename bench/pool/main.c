/*
 * main.c - the benchmark of failure-atomic memory: Linehome and its peers, one system and one repetition
 * a call.
 *
 *     pool list MEDIUM               the systems that are built in, one a line: name, class, what it is
 *     pool missing                   the names of those that it was built without
 *     pool fill SYSTEM FOLDER        makes what the other calls need
 *     pool run SYSTEM FOLDER [--seconds S] [--threads 1|2|1,2] [--repetition R] [--works 1,4,...] [--fifo 1]
 *     pool count SYSTEM FOLDER [--transactions N] [--works ...]
 *     pool life FOLDER               what only Linehome is asked: opening, recovery, growth
 *
 * Transactions are drawn before time is taken. run: each work runs for a quarter of S to warm up and then
 * for S, and prints one line of WORD=VALUE. Afterwards the system is closed and opened again, and all it
 * holds compared with a model that replayed the same transactions. Threads have their halves of the
 * records and of the keys, and CPUs of their own, the last first; threads that a system starts for itself
 * run where the kernel puts them, and their time is in cpu_us.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define THREADS_MAX 2
#define LAPS 64u        /* each time round, what is written is another */
#define RING (1u << 20) /* changes drawn for each thread, used in turn */
#define INSERT 0u       /* as a work: else the number of changes */
#define WORKS_MAX 8

/* What there is, and of which package; the system is NULL where the package was not there to build with. */
static const struct {
	const char *package;
	const struct system *system;
} known[] = {
	{ "", &volatile_stores },
	{ "", &flush_in_place },
	{ "", &append_fence },
	{ "", &pwrite_fdatasync },
	{ "", &pwrite_dsync },
	{ "", &direct_dsync },
	{ "libpmemobj", &pmemobj },
	{ "LMDB", &lmdb },
	{ "LMDB", &lmdb_writemap },
	{ "SQLite", &sqlite },
	{ "RocksDB", &rocksdb },
	{ "Linehome", &lh_page },
	{ "Linehome", &lh_declared },
	{ "Linehome", &lh_checked },
	{ "Linehome", &lh_translated },
	{ "Linehome", &lh_page_undo },
	{ "Linehome", &lh_declared_undo },
	{ "Linehome", &lh_checked_undo },
	{ "Linehome", &lh_translated_undo },
};
#define KNOWN (sizeof(known) / sizeof(known[0]))

struct bench {
	const struct system *system;
	const char *folder;
	double seconds;
	unsigned threads; /* now; measure says with how many */
	bool measure[THREADS_MAX];
	unsigned repetition, transactions;
	bool fifo;
	unsigned works[WORKS_MAX], work_count;
	unsigned char payload[PAYLOAD_SIZE + LAPS + RECORD_SIZE];
	struct change *ring[THREADS_MAX];
	unsigned char *model;
	void *handle;
	pthread_barrier_t barrier;
};

struct worker {
	struct bench *bench;
	pthread_t thread;
	unsigned index, threads, work;
	void *context;
	uint64_t changes, inserts; /* how far it has come in what was drawn */
	uint64_t done;             /* transactions while time was taken */
	double elapsed;
};

void fail(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	fputs("pool: ", stderr);
	vfprintf(stderr, format, list);
	fputc('\n', stderr);
	va_end(list);
	_exit(1);
}

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void join(char path[256], const char *folder, const char *name)
{
	if (snprintf(path, 256, "%s/%s", folder, name) >= 256)
		fail("%s: too long", folder);
}

/* ---- what is drawn ---- */

/* A bijection that spreads (the finalizer of SplitMix64). */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* Records of each aligned group of 32 are distinct, hence those of a transaction of 1, 4 or 32. */
static void draw(struct bench *b, unsigned thread)
{
	const uint32_t share = RECORDS / b->threads;
	uint64_t seed = mix(b->repetition * 7919u + b->threads * 31u + thread);

	for (uint32_t i = 0; i < RING; i++) {
		struct change *change = &b->ring[thread][i], *other;
		uint64_t random = mix(seed++);

		change->record = thread * share + (uint32_t)(random >> 32) % share;
		change->length = 8 + random % 57;
		change->from = (random >> 8) % PAYLOAD_SIZE;
		for (other = &b->ring[thread][i / CHANGES_MAX * CHANGES_MAX]; other < change; other++)
			if (other->record == change->record)
				break;
		if (other < change)
			i--;
	}
}

static void draw_payload(struct bench *b)
{
	for (uint32_t i = 0; i < sizeof(b->payload); i++)
		b->payload[i] = (unsigned char)mix(i + b->repetition * 1000003u);
}

static uint64_t key_of(const struct worker *w, uint64_t number)
{
	uint64_t batch =
		((uint64_t)w->bench->repetition * THREADS_MAX + w->threads - 1) * THREADS_MAX + w->index;

	return mix(batch << 40 | number) >> 1 | (uint64_t)w->index << 63;
}

static const unsigned char *value_of(const struct bench *b, uint64_t key)
{
	return b->payload + key % PAYLOAD_SIZE;
}

static const struct change *changes_at(const struct worker *w, uint64_t number)
{
	return &w->bench->ring[w->index][number % RING];
}

static const unsigned char *payload_at(const struct bench *b, uint64_t number)
{
	return b->payload + number / RING % LAPS;
}

/* ---- the work ---- */

static void one(struct worker *w)
{
	const struct bench *b = w->bench;

	if (w->work == INSERT) {
		uint64_t key = key_of(w, w->inserts++);

		b->system->insert(w->context, key, value_of(b, key));
	} else {
		w->changes = (w->changes + w->work - 1) / w->work * w->work;
		b->system->tx(w->context, changes_at(w, w->changes), w->work, payload_at(b, w->changes));
		w->changes += w->work;
	}
}

/* Looks at the clock as rarely as a tenth of a per cent of the time allows, at most every 64 transactions. */
static void until(struct worker *w, double seconds)
{
	double start = now(), last = start, at;
	unsigned batch = 1;

	for (w->done = 0;; last = at) {
		for (unsigned i = 0; i < batch; i++)
			one(w);
		w->done += batch;
		at = now();
		if (at - start >= seconds)
			break;
		if (at - last < seconds / 1000 / 2 && batch < 64)
			batch *= 2;
	}
	w->elapsed = at - start;
}

static void pin(unsigned index, bool fifo)
{
	const struct sched_param first = { .sched_priority = 1 };
	unsigned cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((cpus - 1 - index % cpus) % CPU_SETSIZE, &set);
	sched_setaffinity(0, sizeof(set), &set);
	if (fifo && sched_setscheduler(0, SCHED_FIFO, &first) != 0)
		fail("--fifo: %s", strerror(errno));
}

static void *worker_main(void *argument)
{
	struct worker *w = argument;
	struct bench *b = w->bench;

	pin(w->index, b->fifo);
	until(w, b->seconds / 4);
	pthread_barrier_wait(&b->barrier);
	pthread_barrier_wait(&b->barrier); /* between the two the meters are read */
	until(w, b->seconds);
	pthread_barrier_wait(&b->barrier);
	return NULL;
}

/* ---- meters ---- */

struct meters {
	double cpu;
	uint64_t device_bytes;
	struct counters counters;
};

/* What the device below the folder was given, by anybody; 0 where there is none. */
static uint64_t device_bytes(const char *folder)
{
	unsigned long long sectors = 0;
	char path[64];
	struct stat s;
	FILE *f;

	if (stat(folder, &s) != 0)
		return 0;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/stat", major(s.st_dev), minor(s.st_dev));
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%*u %*u %*u %*u %*u %*u %llu", &sectors) != 1)
		sectors = 0;
	fclose(f);
	return sectors * 512;
}

static void read_meters(struct bench *b, struct meters *m)
{
	struct rusage usage;

	memset(m, 0, sizeof(*m));
	getrusage(RUSAGE_SELF, &usage);
	m->cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
	m->device_bytes = device_bytes(b->folder);
	if (b->system->counters)
		b->system->counters(b->handle, &m->counters);
}

static const char *work_name(unsigned work)
{
	static char name[16];

	snprintf(name, sizeof(name), work == INSERT ? "insert" : "%u", work);
	return name;
}

static void print_work(const struct bench *b, const struct worker *w, const struct meters *from,
                       const struct meters *to)
{
	double rate = 0, n = 0;

	for (unsigned i = 0; i < b->threads; i++) {
		rate += (double)w[i].done / w[i].elapsed;
		n += (double)w[i].done;
	}
	printf("system=%s threads=%u work=%s rate=%.1f cpu_us=%.3f device=%.1f", b->system->name, b->threads,
	       work_name(w[0].work), rate, (to->cpu - from->cpu) * 1e6 / n,
	       (double)(to->device_bytes - from->device_bytes) / n);
	if (b->system->counters) {
		const uint64_t *x = &from->counters.fences, *y = &to->counters.fences;
		static const char *const word[] = { "fences", "flushes", "log", "changed", "home", "faults" };

		for (unsigned i = 0; i < 6; i++)
			printf(" %s=%.2f", word[i], (double)(y[i] - x[i]) / n);
	}
	putchar('\n');
}

/* ---- checking ---- */

static void replay(const struct worker *w, uint64_t from)
{
	const struct bench *b = w->bench;

	/* A ring's earlier rounds are overwritten by the last one. */
	if (w->changes - from > 2 * RING)
		from = (w->changes - 2 * RING) / CHANGES_MAX * CHANGES_MAX;
	for (uint64_t i = from; i < w->changes; i++) {
		const struct change *change = changes_at(w, i);

		memcpy(b->model + (size_t)change->record * RECORD_SIZE, payload_at(b, i) + change->from,
		       change->length);
	}
}

static void verify_records(struct bench *b)
{
	unsigned char *records = malloc((size_t)RECORDS * RECORD_SIZE);

	b->system->read(b->handle, records);
	for (size_t i = 0; i < RECORDS; i++)
		if (memcmp(records + i * RECORD_SIZE, b->model + i * RECORD_SIZE, RECORD_SIZE) != 0)
			fail("%s: record %zu is not as it was left", b->system->name, i);
	free(records);
}

static void verify_map(struct bench *b, const struct worker *w)
{
	unsigned char value[RECORD_SIZE];

	for (uint64_t i = 0; i < w->inserts; i++) {
		uint64_t key = key_of(w, i);

		if (!b->system->find(b->handle, key, value) ||
		    memcmp(value, value_of(b, key), RECORD_SIZE) != 0)
			fail("%s: key %llx is not as it was put", b->system->name, (unsigned long long)key);
	}
}

/* ---- commands ---- */

static void run_work(struct bench *b, struct worker *w, unsigned work)
{
	struct meters from, to;
	uint64_t begun[THREADS_MAX];

	pthread_barrier_init(&b->barrier, NULL, b->threads + 1);
	for (unsigned i = 0; i < b->threads; i++) {
		w[i].work = work;
		/* A transaction's changes are aligned to their number. */
		w[i].changes = (w[i].changes + CHANGES_MAX - 1) / CHANGES_MAX * CHANGES_MAX;
		begun[i] = w[i].changes;
		if (pthread_create(&w[i].thread, NULL, worker_main, &w[i]) != 0)
			fail("pthread_create");
	}
	pthread_barrier_wait(&b->barrier);
	read_meters(b, &from);
	pthread_barrier_wait(&b->barrier);
	pthread_barrier_wait(&b->barrier);
	read_meters(b, &to);
	for (unsigned i = 0; i < b->threads; i++) {
		pthread_join(w[i].thread, NULL);
		replay(&w[i], begun[i]);
	}
	pthread_barrier_destroy(&b->barrier);
	print_work(b, w, &from, &to);
}

static void enter(struct bench *b, struct worker *w, unsigned index)
{
	w->bench = b;
	w->index = index;
	w->threads = b->threads;
	w->context = b->system->enter ? b->system->enter(b->handle, index) : b->handle;
	draw(b, index);
}

static void leave(struct bench *b, struct worker *w)
{
	if (b->system->leave)
		b->system->leave(w->context);
}

static void run_threads(struct bench *b, struct worker *w, unsigned threads)
{
	b->threads = threads;
	for (unsigned i = 0; i < threads; i++)
		enter(b, &w[i], i);
	for (unsigned i = 0; i < b->work_count; i++)
		if (b->works[i] != INSERT || b->system->insert)
			run_work(b, w, b->works[i]);
	for (unsigned i = 0; i < threads; i++)
		leave(b, &w[i]);
}

static void open_system(struct bench *b)
{
	b->handle = b->system->open(b->system, b->folder, false);
}

static void command_run(struct bench *b)
{
	struct worker workers[THREADS_MAX][THREADS_MAX] = { 0 };

	open_system(b);
	if (b->system->read)
		b->system->read(b->handle, b->model);
	for (unsigned i = 0; i < THREADS_MAX; i++)
		if (b->measure[i])
			run_threads(b, workers[i], i + 1);
	b->system->close(b->handle);
	open_system(b);
	if (b->system->read)
		verify_records(b);
	for (unsigned i = 0; i < THREADS_MAX * THREADS_MAX; i++)
		verify_map(b, &workers[i / THREADS_MAX][i % THREADS_MAX]);
	b->system->close(b->handle);
}

/* An instruction takes microseconds then, so fewer of the large ones; at least four. */
static unsigned counted_transactions(const struct bench *b, unsigned work)
{
	unsigned n = b->transactions * 4 / (work > 4 ? work : 4);

	return n < 4 ? 4 : n;
}

static void counted_child(void *context)
{
	struct bench *b = context;
	struct worker w = { 0 };

	open_system(b);
	if (b->system->read)
		b->system->read(b->handle, b->model);
	enter(b, &w, 0);
	for (unsigned i = 0; i < b->work_count; i++) {
		w.work = b->works[i];
		w.changes = (w.changes + CHANGES_MAX - 1) / CHANGES_MAX * CHANGES_MAX;
		for (unsigned j = 0; j < 1000; j++)
			one(&w);
		count_mark();
		for (unsigned j = counted_transactions(b, w.work); j > 0; j--)
			one(&w);
		count_mark();
	}
	leave(b, &w);
	b->system->close(b->handle);
}

static void command_count(struct bench *b)
{
	struct counted counted[WORKS_MAX] = { 0 };
	unsigned n = 0;

	for (unsigned i = 0; i < b->work_count; i++)
		if (b->works[i] != INSERT || b->system->insert)
			b->works[n++] = b->works[i];
	b->work_count = n;
	count(counted_child, b, b->folder, counted, n);
	for (unsigned i = 0; i < n; i++) {
		const struct counted *c = &counted[i];
		double per = counted_transactions(b, b->works[i]);

		printf("system=%s count=%s instructions=%.0f fences=%.2f flushes=%.2f stores=%.1f bytes=%.1f "
		       "streamed=%.1f syscalls=%.2f\n",
		       b->system->name, work_name(b->works[i]), (double)c->instructions / per,
		       (double)c->fences / per, (double)c->flushes / per, (double)c->stores / per,
		       (double)c->bytes / per, (double)c->streamed / per, (double)c->syscalls / per);
	}
}

static int command_list(const char *medium)
{
	unsigned media = strcmp(medium, "shm") == 0 ? ON_SHM : ON_DISK;

	for (unsigned i = 0; i < KNOWN; i++) {
		const struct system *system = known[i].system;

		if (system && (system->media & media))
			printf("%s\t%s\t%s\n", system->name, system->yardstick ? "yardstick" : "system",
			       system->what);
	}
	return 0;
}

static int command_missing(void)
{
	for (unsigned i = 0; i < KNOWN; i++)
		if (!known[i].system && strcmp(known[i].package, known[i - 1].package) != 0)
			printf("%s\n", known[i].package);
	return 0;
}

static void command_fill(struct bench *b)
{
	if (mkdir(b->folder, 0700) != 0 && errno != EEXIST)
		fail("%s: %s", b->folder, strerror(errno));
	b->system->close(b->system->open(b->system, b->folder, true));
}

/* ---- options ---- */

static const struct system *system_of(const char *name)
{
	for (unsigned i = 0; i < KNOWN; i++)
		if (known[i].system && strcmp(known[i].system->name, name) == 0)
			return known[i].system;
	fail("%s: no such system here; see: pool list shm, pool list disk", name);
}

static void set_works(struct bench *b, const char *text)
{
	b->work_count = 0;
	for (; *text && b->work_count < WORKS_MAX; text += *text == ',') {
		size_t length = strcspn(text, ",");
		unsigned long work = strtoul(text, NULL, 10);

		/* Powers of two alone, so that groups of 32 hold whole transactions. */
		if (strncmp(text, "insert", length) != 0 &&
		    (!work || work > CHANGES_MAX || work & (work - 1)))
			fail("--works %s: a work is 1, 2, 4, 8, 16, 32 or insert", text);
		b->works[b->work_count++] = (unsigned)work;
		text += length;
	}
}

static void set_option(struct bench *b, const char *option, const char *value)
{
	static const char *const threads[] = { "1", "2", "1,2" };
	unsigned i;

	if (strcmp(option, "--seconds") == 0)
		b->seconds = strtod(value, NULL);
	else if (strcmp(option, "--threads") == 0) {
		for (i = 0; i < 3 && strcmp(value, threads[i]) != 0; i++)
			;
		b->measure[0] = i != 1;
		b->measure[1] = i == 1 || i == 2;
	} else if (strcmp(option, "--repetition") == 0)
		b->repetition = (unsigned)strtoul(value, NULL, 10);
	else if (strcmp(option, "--fifo") == 0)
		b->fifo = strcmp(value, "0") != 0;
	else if (strcmp(option, "--transactions") == 0)
		b->transactions = (unsigned)strtoul(value, NULL, 10);
	else if (strcmp(option, "--works") == 0)
		set_works(b, value);
	else
		fail("%s: no such option", option);
	if (!(b->seconds > 0) || !b->transactions)
		fail("%s %s: out of range", option, value);
}

int main(int argc, char **argv)
{
	static struct bench b = { .seconds = 0.2, .threads = 1, .measure = { true }, .transactions = 20 };
	const char *command = argc > 1 ? argv[1] : "";

	set_works(&b, "1,4,32,insert");
	if (strcmp(command, "list") == 0 && argc == 3)
		return command_list(argv[2]);
	if (strcmp(command, "missing") == 0)
		return command_missing();
	if (strcmp(command, "life") == 0 && argc == 3)
		return life ? life(argv[2]) : 0;
	if (argc < 4 || argc % 2)
		fail("write: pool list|missing|fill|run|count|life, see the head of bench/pool/main.c");
	b.system = system_of(argv[2]);
	b.folder = argv[3];
	for (int i = 4; i < argc; i += 2)
		set_option(&b, argv[i], argv[i + 1]);
	draw_payload(&b);
	b.model = calloc(RECORDS, RECORD_SIZE);
	for (unsigned i = 0; i < THREADS_MAX; i++)
		b.ring[i] = malloc(RING * sizeof(struct change));
	if (strcmp(command, "fill") == 0)
		command_fill(&b);
	else if (strcmp(command, "run") == 0)
		command_run(&b);
	else if (strcmp(command, "count") == 0)
		command_count(&b);
	else
		fail("%s: no such command", command);
	return 0;
}
