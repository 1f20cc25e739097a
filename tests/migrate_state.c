/*
 * migrate_state.c - the file of what a receiver knows: what was stored is there for the next process,
 * whatever became of the last one at whichever moment; and nothing that is damaged is taken for a state.
 */
#include "line_random.h"
#include "service/migrate/state.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/stat.h>

static const uint8_t id[LH_MOVE_ID] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };
static char path[64], memory[80];
static uint64_t seed;

static void describe(struct lh_state_region region[2], uint64_t pages)
{
	memset(region, 0, 2 * sizeof *region);
	strcpy(region[0].name, "ram0");
	strcpy(region[0].path, memory);
	region[0].pages = pages - 3;
	strcpy(region[1].name, "ram1");
	strcpy(region[1].path, "/somewhere/else");
	region[1].offset = 4096;
	region[1].pages = 3;
	region[1].first = pages - 3;
}

static struct lh_state *created(uint64_t pages)
{
	struct lh_state_region region[2];
	struct lh_error error;
	struct lh_state *state = NULL;

	describe(region, pages);
	if (lh__state_create(path, id, region, 2, &state, &error) != 0)
		printf("# %s\n", error.text);
	return state;
}

static void comes_back(void)
{
	struct lh_state_region region[2];
	struct lh_state *state = created(1000);
	struct lh_error error;

	ok(state && lh__state_phase(state) == LH_MOVE_COPYING, "a new state is in the phase of copying");
	is(lh__pageset_count(&state->fresh) + lh__pageset_count(&state->zero), 0, "... and nothing is known");
	is(lh__state_device(state, &error), -ENODATA, "... and has no device state");
	lh__pageset_add_run(&state->fresh, 3, 500);
	lh__pageset_add(&state->zero, 999);
	lh__pageset_add(&state->based, 1);
	lh__pageset_add(&state->shown, 2);
	lh__pageset_add(&state->asked, 3);
	lh__pageset_add(&state->busy, 4);
	is(lh__state_put_device(state, "device", 6, NULL), 0, "device state is put there");
	lh__state_set_phase(state, LH_MOVE_GONE);
	lh__state_close(state, false);

	is(lh__state_open(path, &state, &error), 0, "opened again");
	describe(region, 1000);
	ok(state->pages == 1000 && state->regions == 2 && memcmp(state->id, id, sizeof id) == 0 &&
	           memcmp(state->region, region, sizeof region) == 0,
	   "... with its regions");
	ok(lh__state_phase(state) == LH_MOVE_GONE && lh__pageset_count(&state->fresh) == 500 &&
	           lh__pageset_next(&state->fresh, 0) == 3 && lh__pageset_count(&state->zero) == 1 &&
	           lh__pageset_has(&state->zero, 999),
	   "... its phase and the two sets that last");
	ok(lh__pageset_count(&state->based) + lh__pageset_count(&state->shown) +
	                   lh__pageset_count(&state->asked) + lh__pageset_count(&state->busy) ==
	           0,
	   "... and the others are empty");
	lh__state_close(state, true);
	is(lh__state_open(path, &state, &error), -ENOENT, "removed: there is none");
}

static bool device_is(struct lh_state *state, const unsigned char *bytes, size_t size)
{
	unsigned char *got = malloc(size + 1);
	int fd = lh__state_device(state, NULL);
	bool same = fd >= 0 && read(fd, got, size + 1) == (ssize_t)size && memcmp(got, bytes, size) == 0;

	if (fd >= 0)
		close(fd);
	free(got);
	return same;
}

static void devices(void)
{
	static unsigned char bytes[300001];
	struct lh_state *state = created(100);

	random_bytes(&seed, bytes, sizeof bytes);
	ok(lh__state_put_device(state, bytes, sizeof bytes, NULL) == 0 &&
	           device_is(state, bytes, sizeof bytes),
	   "300001 bytes of device state");
	ok(lh__state_put_device(state, bytes + 7, 77, NULL) == 0 && device_is(state, bytes + 7, 77),
	   "... and fewer in their place");
	is(lh__state_put_device(state, bytes, 0, NULL), -EINVAL, "... none are refused");
	lh__state_close(state, false);
	is(lh__state_open(path, &state, NULL), 0, "opened again");
	ok(device_is(state, bytes + 7, 77) && device_is(state, bytes + 7, 77),
	   "... each time it is asked for");
	lh__state_close(state, true);

	if (lh__state_create(NULL, id, NULL, 0, &state, NULL) != 0)
		abort();
	ok(state->pages == 0 && lh__state_put_device(state, bytes, 500, NULL) == 0 &&
	           device_is(state, bytes, 500),
	   "a state in memory alone, of no pages");
	lh__state_close(state, true);
}

static void refused_regions(void)
{
	struct lh_state_region region[2];
	struct lh_error error;
	struct lh_state *state;

	describe(region, 100);
	region[1].first++;
	is(lh__state_create(path, id, region, 2, &state, &error), -EINVAL, "a gap between regions");
	describe(region, 100);
	region[0].pages = region[1].first = UINT64_MAX / 2;
	is(lh__state_create(path, id, region, 2, &state, &error), -EINVAL,
	   "more pages than there are numbers");
	describe(region, 100);
	memset(region[0].name, 'x', sizeof region[0].name);
	is(lh__state_create(path, id, region, 2, &state, &error), -EINVAL, "a name without an end");
	is(lh__state_create("/nowhere/at/all", id, region, 0, &state, &error), -ENOENT, "no such folder");
	printf("# %s\n", error.text);
}

/* ---- damage ---- */

static void flip(int fd, off_t at)
{
	unsigned char byte;

	if (pread(fd, &byte, 1, at) != 1)
		abort();
	byte ^= (unsigned char)(1u << random_next(&seed) % 8);
	if (pwrite(fd, &byte, 1, at) != 1)
		abort();
}

static bool refused(void)
{
	struct lh_state *state = NULL;
	struct lh_error error = { 0 };
	int result = lh__state_open(path, &state, &error);

	lh__state_close(state, false);
	return result == -EBADMSG && error.code == -EBADMSG && strstr(error.text, path) != NULL;
}

static void damage(void)
{
	static const char garbage[5000] = "LINESTAT";
	static unsigned char whole[65536];
	struct lh_state *state = created(1000);
	size_t header = 128 + 2 * 1112, wrong = 0, size;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (lh__state_put_device(state, "device", 6, NULL) != 0)
		abort();
	lh__state_close(state, false);
	ok(!refused(), "as it is it is accepted");
	size = (size_t)lseek(fd, 0, SEEK_END);
	for (size_t at = 0; at < header + 6; at++) {
		off_t where = (off_t)(at < header ? at : size - 6 + (at - header));

		if (pread(fd, whole, 1, where) != 1)
			abort();
		flip(fd, where);
		wrong += !refused();
		if (pwrite(fd, whole, 1, where) != 1)
			abort();
	}
	is(wrong, 0, "any bit of its header, regions and device state that is wrong is noticed");
	ok(!refused(), "... and none remained");
	if (size > sizeof whole || pread(fd, whole, size, 0) != (ssize_t)size)
		abort();
	for (size_t less = size; less-- > 0;) {
		if (less < size - 7 && less % 101 != 0)
			continue;
		wrong += ftruncate(fd, (off_t)less) != 0 || !refused();
	}
	is(wrong, 0, "... and any end that is missing");
	if (pwrite(fd, garbage, sizeof garbage, 0) != sizeof garbage)
		abort();
	ok(refused(), "... and what only begins like it");
	close(fd);
	unlink(path);
	if (mkdir(path, 0700) != 0)
		abort();
	ok(lh__state_open(path, &state, NULL) < 0, "... and a folder");
	rmdir(path);
}

/* ---- another process has it ---- */

static void locked(void)
{
	struct lh_state *state;
	int ready[2], status;
	pid_t pid;
	char byte;

	if (pipe(ready) != 0)
		abort();
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		state = created(100);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	if (read(ready[0], &byte, 1) != 1)
		abort();
	is(lh__state_open(path, &state, NULL), -EBUSY, "another process has it: not opened");
	ok(lh__state_create(path, id, NULL, 0, &state, NULL) == -EBUSY, "... nor replaced");
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	is(lh__state_open(path, &state, NULL), 0, "... but when that has been killed");
	lh__state_close(state, true);
	close(ready[0]);
	close(ready[1]);
}

/* ---- a writer that is killed ---- */

#define PAGES 3000u

struct writer {
	uint64_t die_at; /* which step; 0: never */
	uint64_t step;
	bool planted; /* the bit before the content */
};

/* Between any two things that last. */
static void step(struct writer *self)
{
	if (++self->step == self->die_at)
		kill(getpid(), SIGKILL);
}

static void put_content(int fd, uint64_t page)
{
	uint64_t word[512];

	for (unsigned i = 0; i < 512; i++)
		word[i] = page * 1000 + i;
	if (pwrite(fd, word, sizeof word, (off_t)(page * sizeof word)) != sizeof word)
		_exit(1);
}

static void put_page(struct writer *self, struct lh_state *state, int fd, uint64_t page)
{
	if (lh__pageset_has(&state->fresh, page))
		return;
	for (unsigned i = 0; i < 2; i++) {
		if ((i == 0) != self->planted)
			put_content(fd, page);
		else
			lh__pageset_add(&state->fresh, page);
		step(self);
	}
}

static void writes(struct writer self, uint64_t random, const char *device)
{
	struct lh_state *state = created(PAGES);
	int fd = open(memory, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (!state || fd < 0)
		_exit(1);
	step(&self);
	for (unsigned i = 0; i < 20; i++)
		put_page(&self, state, fd, random_next(&random) % PAGES);
	if (lh__state_put_device(state, device, strlen(device), NULL) != 0)
		_exit(1);
	step(&self);
	lh__state_set_phase(state, LH_MOVE_GONE);
	step(&self);
	for (;;)
		put_page(&self, state, fd, random_next(&random) % PAGES);
}

/* How many of the pages that are said to be fresh are not right; UINT64_MAX: it cannot be opened. */
static uint64_t not_right(const char *device, uint64_t *fresh)
{
	struct lh_state *state;
	struct lh_error error;
	uint64_t word[512], wrong = 0;
	int fd = open(memory, O_RDONLY | O_CLOEXEC);

	if (lh__state_open(path, &state, &error) != 0) {
		printf("# %s\n", error.text);
		close(fd);
		return UINT64_MAX;
	}
	for (uint64_t page = lh__pageset_next(&state->fresh, 0); page != LH_PAGESET_NONE;
	     page = lh__pageset_next(&state->fresh, page + 1)) {
		bool right = pread(fd, word, sizeof word, (off_t)(page * sizeof word)) == sizeof word;

		for (unsigned i = 0; i < 512; i++)
			right &= word[i] == page * 1000 + i;
		wrong += !right;
	}
	if (lh__state_phase(state) == LH_MOVE_GONE)
		wrong += !device_is(state, (const unsigned char *)device, strlen(device));
	*fresh += lh__pageset_count(&state->fresh);
	lh__state_close(state, true);
	close(fd);
	return wrong;
}

static void killed_at_each_step(bool planted)
{
	uint64_t wrong = 0, fresh = 0;

	for (uint64_t at = 1; at <= 60; at++) {
		fflush(stdout);
		pid_t pid = fork();

		if (pid == 0)
			writes((struct writer){ .die_at = at, .planted = planted }, seed, "device state");
		waitpid(pid, NULL, 0);
		wrong += not_right("device state", &fresh);
	}
	if (planted)
		ok(wrong > 0 && wrong < 60, "... and a bit that is set before the content would be noticed");
	else
		ok(wrong == 0 && fresh > 100,
		   "a writer killed at each of its first 60 steps: all that is fresh is "
		   "right");
}

static void killed_at_random(void)
{
	uint64_t wrong = 0, fresh = 0;

	for (unsigned i = 0; i < 60; i++) {
		int ready[2];
		char byte;
		pid_t pid;

		if (pipe(ready) != 0)
			abort();
		fflush(stdout);
		pid = fork();
		if (pid == 0) {
			struct lh_state *state = created(PAGES);

			lh__state_close(state, false);
			if (write(ready[1], "x", 1) != 1)
				_exit(1);
			writes((struct writer){ 0 }, random_next(&seed), "other device state");
		}
		if (read(ready[0], &byte, 1) != 1)
			abort();
		usleep((useconds_t)(random_next(&seed) % 6000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		wrong += not_right("other device state", &fresh);
		random_next(&seed);
		close(ready[0]);
		close(ready[1]);
	}
	printf("# %llu pages were fresh\n", (unsigned long long)fresh);
	is(wrong, 0, "a writer killed 60 times at random moments: all that is fresh is right");
}

int main(void)
{
	seed = random_seed();
	printf("# seed %llu\n", (unsigned long long)seed);
	snprintf(path, sizeof path, "/dev/shm/lh-migrate-state-%d", (int)getpid());
	snprintf(memory, sizeof memory, "%s.memory", path);
	comes_back();
	devices();
	refused_regions();
	damage();
	locked();
	killed_at_each_step(false);
	killed_at_each_step(true);
	killed_at_random();
	unlink(path);
	unlink(memory);
	return done();
}
