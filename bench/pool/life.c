/*
 * life.c - what only Linehome is asked: how long it takes to open a pool of 10 GiB that was closed; at
 * what rate a full log is replayed after kill -9, beside the rate at which the disk reads in sequence;
 * and what growth costs those who use the pool meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "linehome.h"

#include "bench.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)
#define BUFFER MIB
#define READ_SIZE (256 * MIB)

static void check(int rc, const struct lh_error *error, const char *what)
{
	if (rc != 0)
		fail("life: %s: %s", what, error->text);
}

static struct lh_pool *create_pool(const char *path, uint64_t size, uint64_t log_size)
{
	const struct lh_pool_options options = { .see = LH_SEE_DECLARED, .size = size, .log_size = log_size };
	struct lh_error error;
	struct lh_pool *pool;

	unlink(path);
	check(lh_pool_create(path, &options, &pool, &error), &error, "create");
	return pool;
}

static struct lh_pool *open_pool(const char *path)
{
	const struct lh_pool_options options = { .see = LH_SEE_DECLARED };
	struct lh_error error;
	struct lh_pool *pool;

	check(lh_pool_open(path, &options, &pool, &error), &error, "open");
	return pool;
}

static void close_pool(struct lh_pool *pool)
{
	struct lh_error error;

	check(lh_pool_close(pool, &error), &error, "close");
}

static void *allocate(struct lh_pool *pool, size_t size)
{
	struct lh_error error;
	void *object;

	check(lh_tx_begin(pool, &error), &error, "begin");
	object = lh_pool_alloc(pool, size, &error);
	check(object ? 0 : -1, &error, "alloc");
	check(lh_tx_commit(pool, &error), &error, "commit");
	return object;
}

static void store(struct lh_pool *pool, unsigned char *at, size_t size, int byte)
{
	struct lh_error error;

	check(lh_tx_begin(pool, &error), &error, "begin");
	check(lh_tx_add(pool, at, size, &error), &error, "add");
	memset(at, byte, size);
	check(lh_tx_commit(pool, &error), &error, "commit");
}

/* What is not in the page cache has to come from the disk. */
static void forget(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
		fail("%s: %s", path, strerror(errno));
	close(fd);
}

static void opening(const char *path)
{
	struct lh_pool *pool = create_pool(path, 10 * GIB, 0);
	double at;

	for (unsigned i = 0; i < 64; i++)
		store(pool, allocate(pool, MIB), MIB, (int)i);
	close_pool(pool);
	forget(path);
	at = now();
	pool = open_pool(path);
	printf("life=open what=10-GiB-pool-closed ms=%.2f\n", (now() - at) * 1e3);
	close_pool(pool);
}

/* Keeps committing until it is killed, so that the log is full of what is not at home yet. */
static void filler(const char *path, int ready, uint64_t log_size)
{
	struct lh_pool *pool = open_pool(path);
	unsigned char *object = allocate(pool, 32 * MIB);
	struct lh_pool_info info;

	for (unsigned i = 0;; i++) {
		store(pool, object + (uint64_t)i % 32 * MIB, MIB / 2, (int)i);
		lh_pool_info(pool, &info);
		if (info.log_bytes > 2 * log_size && ready >= 0 && write(ready, "", 1) == 1)
			ready = -1;
	}
}

static double read_rate(const char *folder)
{
	unsigned char *buffer = aligned_alloc(4096, BUFFER);
	char path[256];
	double at;
	int fd;

	join(path, folder, "sequence");
	memset(buffer, 0x5a, BUFFER);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0600);
	for (uint64_t done = 0; fd >= 0 && done < READ_SIZE; done += BUFFER)
		if (pwrite(fd, buffer, BUFFER, (off_t)done) != (ssize_t)BUFFER)
			fail("%s: %s", path, strerror(errno));
	at = now();
	for (uint64_t done = 0; fd >= 0 && done < READ_SIZE; done += BUFFER)
		if (pread(fd, buffer, BUFFER, (off_t)done) != (ssize_t)BUFFER)
			fail("%s: %s", path, strerror(errno));
	at = now() - at;
	close(fd);
	unlink(path);
	free(buffer);
	return fd >= 0 ? (double)READ_SIZE / at : 0;
}

static void recovery(const char *folder, const char *path)
{
	const uint64_t log_size = 64 * MIB;
	struct lh_pool_info info;
	struct lh_pool *pool;
	double seconds;
	int ends[2];
	char byte;
	pid_t pid;

	close_pool(create_pool(path, GIB, log_size));
	fflush(stdout);
	if (pipe(ends) != 0)
		fail("pipe: %s", strerror(errno));
	pid = fork();
	if (pid == 0) {
		close(ends[0]);
		filler(path, ends[1], log_size);
	}
	close(ends[1]);
	if (read(ends[0], &byte, 1) != 1)
		fail("life: the child did not fill the log");
	close(ends[0]);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	forget(path);
	seconds = now();
	pool = open_pool(path);
	seconds = now() - seconds;
	lh_pool_info(pool, &info);
	close_pool(pool);
	printf("life=recover what=%.1f-MiB-brought-home ms=%.2f mib_per_s=%.1f disk_reads_mib_per_s=%.1f\n",
	       (double)info.home_bytes / (double)MIB, seconds * 1e3,
	       (double)info.home_bytes / (double)MIB / seconds, read_rate(folder) / (double)MIB);
}

/* ---- growth ---- */

struct user {
	struct lh_pool *pool;
	unsigned char *object;
	bool stop;
	double longest;
};

static void *use(void *argument)
{
	struct user *u = argument;

	for (unsigned i = 0; !__atomic_load_n(&u->stop, __ATOMIC_ACQUIRE); i++) {
		double at = now();

		store(u->pool, u->object + i % 1024 * 64, 64, (int)i);
		at = now() - at;
		u->longest = at > u->longest ? at : u->longest;
	}
	return NULL;
}

static double longest_of(struct lh_pool *pool, unsigned char *object, uint64_t size, double *growing)
{
	struct user user = { .pool = pool, .object = object };
	struct lh_error error;
	pthread_t thread;

	if (pthread_create(&thread, NULL, use, &user) != 0)
		fail("pthread_create");
	usleep(100000);
	*growing = now();
	if (size)
		check(lh_pool_grow(pool, size, &error), &error, "grow");
	*growing = now() - *growing;
	usleep(100000);
	__atomic_store_n(&user.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	return user.longest;
}

static void growth(const char *path)
{
	struct lh_pool *pool = create_pool(path, 64 * MIB, 0);
	unsigned char *object = allocate(pool, 64 * 1024);
	double growing, quiet, during;

	quiet = longest_of(pool, object, 0, &growing);
	during = longest_of(pool, object, 4 * GIB, &growing);
	printf("life=grow what=64-MiB-to-4-GiB ms=%.2f longest_tx_ms=%.2f without_ms=%.2f\n", growing * 1e3,
	       during * 1e3, quiet * 1e3);
	close_pool(pool);
}

int life(const char *folder)
{
	char path[256];

	if (mkdir(folder, 0700) != 0 && errno != EEXIST)
		fail("%s: %s", folder, strerror(errno));
	join(path, folder, "pool");
	opening(path);
	recovery(folder, path);
	growth(path);
	unlink(path);
	return 0;
}
