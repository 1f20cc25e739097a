/*
 * patch_change.c - what is done to the process while its threads are stopped.
 *
 * In the first two stops the patch's memory is made: nothing refers to it yet. Two, since many short ones are
 * wanted rather than a long one. In the last, at a safe point, the places are written, all of them or none.
 * Each thing that is asked of the process is a step that tests can let fail; what takes back is not, since it
 * is what must not depend on luck.
 *
 * Processors may run on with what they have fetched of code that another overwrites, until they execute an
 * instruction that serializes. For threads that are stopped the kernel promises that with
 * MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, which a process has to register for. With several threads that
 * takes the kernel some 10 to 25 ms, far longer than we want to stop anybody, so there a thread of its own
 * registers while all others go on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "service/code/patch_inside.h"

#define STOP_MS 1000u
#define REGISTER_MS 2000u
#define RESOLVER_STACK 65536u
#define MEMFD_EXEC 0x10u /* MFD_EXEC, which kernels before 6.3 do not know */

#define CALL(job, remote, step, nr, ...) lh__patch_call(job, remote, step, nr, (const long[6]){ __VA_ARGS__ })

int lh__patch_step(const struct lh_patch_job *job, const char *step)
{
	return job->options->fault ? job->options->fault(job->options->fault_context, step) : 0;
}

static int fail_step(const struct lh_patch_job *job, const char *step, long result)
{
	return lh__fail(job->error, (int)result, "process %d: %s failed (%s); nothing was changed",
	                job->process, step, lh__errno_name((int)result));
}

int lh__patch_stop(struct lh_patch_job *job, struct lh_remote **remote)
{
	int result = lh__patch_step(job, "stop");

	if (result < 0)
		return fail_step(job, "stop", result);
	return lh__remote_stop(job->process, STOP_MS, remote, job->error);
}

void lh__patch_release(struct lh_patch_job *job, struct lh_remote *remote)
{
	struct lh_patch_outcome *outcome = job->outcome;
	struct lh_remote_thread *thread;
	uint64_t stopped;

	outcome->threads = (unsigned)lh__remote_threads(remote, &thread);
	stopped = lh__remote_release(remote);
	outcome->stopped_ns = stopped > outcome->stopped_ns ? stopped : outcome->stopped_ns;
}

long lh__patch_call(struct lh_patch_job *job, struct lh_remote *remote, const char *step, long nr,
                    const long argument[6])
{
	long result = lh__patch_step(job, step);

	if (result == 0)
		result = lh__remote_syscall(remote, nr, argument);
	if (result < 0)
		return fail_step(job, step, result);
	return result;
}

/* For what takes back: where it fails there is nothing else to be done. */
static void call_anyway(struct lh_remote *remote, long nr, uint64_t first, uint64_t second)
{
	long result = lh__remote_syscall(remote, nr, (const long[6]){ (long)first, (long)second });

	(void)result;
}

/* ---- the memory ---- */

static int fill(const struct lh_patch_job *job, long file, const struct lh_patch_image *image)
{
	char path[64];
	int copy, result = lh__patch_step(job, "fill");

	if (result < 0)
		return result;
	snprintf(path, sizeof path, "/proc/%d/fd/%ld", job->process, file);
	copy = open(path, O_RDWR | O_CLOEXEC);
	if (copy < 0)
		return -errno;
	if (ftruncate(copy, (off_t)image->size) != 0)
		result = -errno;
	for (uint64_t at = 0; result == 0 && at < image->size;) {
		ssize_t n = pwrite(copy, image->bytes + at, image->size - at, (off_t)at);

		if (n <= 0)
			result = n < 0 ? -errno : -EIO;
		else
			at += (uint64_t)n;
	}
	close(copy);
	return result;
}

/* The name of the memory file is read from what has just been mapped, and overwritten by the mapping. */
static long make_file(struct lh_patch_job *job, struct lh_remote *remote, const struct lh_patch_image *image,
                      const char *name)
{
	char whole[96];
	long file;
	int result = lh__patch_step(job, "write");

	snprintf(whole, sizeof whole, "linehome-patch:%s", name);
	if (result == 0)
		result = lh__remote_write(remote, image->address, whole, strlen(whole) + 1);
	if (result < 0)
		return fail_step(job, "write", result);
	file = lh__remote_syscall(remote, SYS_memfd_create,
	                          (const long[6]){ (long)image->address, MFD_CLOEXEC | MEMFD_EXEC });
	if (file == -EINVAL)
		file = lh__remote_syscall(remote, SYS_memfd_create,
		                          (const long[6]){ (long)image->address, MFD_CLOEXEC });
	if (file < 0)
		return fail_step(job, "memfd_create", file);
	result = fill(job, file, image);
	if (result < 0) {
		call_anyway(remote, SYS_close, (uint64_t)file, 0);
		return fail_step(job, "fill", result);
	}
	return file;
}

/* The first stop: memory that can be read, in which all is what it will be. */
static int map_file(struct lh_patch_job *job, const struct lh_patch_image *image, const char *name)
{
	struct lh_remote *remote;
	long mapped, file;
	int result = lh__patch_stop(job, &remote);

	if (result < 0)
		return result;
	mapped = CALL(job, remote, "mmap", SYS_mmap, (long)image->address, (long)image->size,
	              PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (mapped < 0) {
		lh__patch_release(job, remote);
		return (int)mapped;
	}
	file = make_file(job, remote, image, name);
	if (file >= 0) {
		mapped = CALL(job, remote, "mmap", SYS_mmap, (long)image->address, (long)image->size,
		              PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0);
		call_anyway(remote, SYS_close, (uint64_t)file, 0);
		result = mapped < 0 ? (int)mapped : 0;
	} else {
		result = (int)file;
	}
	if (result < 0)
		call_anyway(remote, SYS_munmap, image->address, image->size);
	lh__patch_release(job, remote);
	return result;
}

/* ---- registering ---- */

/* The stub of that thread is the first. On the stack only the return address is needed. */
static long start_registering(struct lh_patch_job *job, struct lh_remote *remote, uint64_t stub)
{
	struct lh_remote_thread *thread;
	long made = 0;
	int result = lh__patch_step(job, "register");

	(void)lh__remote_threads(remote, &thread);
	if (result == 0)
		result = lh__remote_call(remote, stub, (const long[3]){ 0 },
		                         (thread[0].registers.rsp - 512) & ~15ull, STOP_MS, -1, NULL, NULL,
		                         &made);
	if (result < 0 || made < 0)
		return fail_step(job, "register", result < 0 ? result : made);
	return made;
}

/* 0: it is registered; a thread's number: it is, as soon as that has ended. */
static long begin_registering(struct lh_patch_job *job, struct lh_remote *remote, uint64_t stub)
{
	struct lh_remote_thread *thread;
	long result = lh__patch_step(job, "membarrier");

	if (result == 0)
		result = lh__remote_syscall(remote, SYS_membarrier,
		                            (const long[6]){ MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE });
	if (result != -EPERM)
		return result < 0 ? fail_step(job, "membarrier", result) : 0;
	if (lh__remote_threads(remote, &thread) > 1)
		return start_registering(job, remote, stub);
	return CALL(job, remote, "register", SYS_membarrier,
	            MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE);
}

static int await_registering(struct lh_patch_job *job, long thread)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/task/%ld", job->process, thread);
	for (unsigned ms = 0; access(path, F_OK) == 0; ms++) {
		if (ms == REGISTER_MS)
			return fail_step(job, "register", -ETIMEDOUT);
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* The second stop: the rights of all parts, and what serializing needs. */
static int set_rights(struct lh_patch_job *job, const struct lh_patch_image *image,
                      const struct lh_patch_segment *segment, size_t segments)
{
	struct lh_remote *remote;
	long result = lh__patch_stop(job, &remote);

	if (result < 0)
		return (int)result;
	for (size_t i = 0; result >= 0 && i < segments; i++)
		if (segment[i].rights != PROT_READ)
			result = CALL(job, remote, "mprotect", SYS_mprotect,
			              (long)(image->address + segment[i].start),
			              (long)(segment[i].end - segment[i].start), segment[i].rights);
	if (result >= 0)
		result = begin_registering(job, remote, image->address + segment[0].start);
	lh__patch_release(job, remote);
	return result > 0 ? await_registering(job, result) : (int)result;
}

int lh__patch_map(struct lh_patch_job *job, const struct lh_patch_image *image, const char *name,
                  const struct lh_patch_segment *segment, size_t segments)
{
	int result = map_file(job, image, name);

	if (result < 0)
		return result;
	result = set_rights(job, image, segment, segments);
	if (result < 0)
		lh__patch_unmap(job, image);
	return result;
}

void lh__patch_unmap(struct lh_patch_job *job, const struct lh_patch_image *image)
{
	struct lh_remote *remote;

	if (lh__remote_stop(job->process, STOP_MS, &remote, NULL) < 0)
		return;
	call_anyway(remote, SYS_munmap, image->address, image->size);
	lh__patch_release(job, remote);
}

/* ---- indirect functions ---- */

static int call_resolvers(struct lh_patch_job *job, struct lh_remote *remote, struct lh_patch_object *object,
                          uint64_t stack)
{
	for (size_t i = 0; i < object->imports; i++) {
		struct lh_patch_import *import = &object->import[i];
		long value = 0;
		int result;

		if (!import->indirect)
			continue;
		result = lh__patch_step(job, "resolve");
		if (result == 0)
			result = lh__remote_call(remote, import->value, (const long[3]){ 0 }, stack, STOP_MS,
			                         -1, NULL, NULL, &value);
		if (result < 0)
			return fail_step(job, "resolve", result);
		import->value = (uint64_t)value;
		import->indirect = false;
	}
	return 0;
}

int lh__patch_resolve(struct lh_patch_job *job, struct lh_patch_object *object)
{
	struct lh_remote *remote;
	bool any = false;
	long stack;
	int result;

	for (size_t i = 0; i < object->imports; i++)
		any |= object->import[i].indirect;
	if (!any)
		return 0;
	result = lh__patch_stop(job, &remote);
	if (result < 0)
		return result;
	stack = CALL(job, remote, "mmap", SYS_mmap, 0, RESOLVER_STACK, PROT_READ | PROT_WRITE,
	             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	result = stack < 0 ? (int)stack
	                   : call_resolvers(job, remote, object, (uint64_t)stack + RESOLVER_STACK);
	if (stack > 0)
		call_anyway(remote, SYS_munmap, (uint64_t)stack, RESOLVER_STACK);
	lh__patch_release(job, remote);
	return result;
}

/* ---- the places ---- */

/* Whether each place is as it is to be found; when going back, one that was never written is right, too. */
static int check_places(struct lh_patch_job *job, struct lh_remote *remote,
                        const struct lh_patch_place *place, size_t places, bool back)
{
	for (size_t i = 0; i < places; i++) {
		uint8_t now[sizeof place->before];
		int result = lh__patch_step(job, "read");

		if (result == 0)
			result = lh__remote_read(remote, place[i].address, now, place[i].size);
		if (result < 0)
			return fail_step(job, "read", result);
		if (memcmp(now, back ? place[i].after : place[i].before, place[i].size) != 0 &&
		    !(back && memcmp(now, place[i].before, place[i].size) == 0))
			return lh__fail(job->error, -EILSEQ,
			                "%s: what stands there is not what is expected; nothing was changed",
			                place[i].symbol);
	}
	return 0;
}

static int write_places(struct lh_patch_job *job, struct lh_remote *remote,
                        const struct lh_patch_place *place, size_t places, bool back)
{
	int result = 0;
	size_t done = 0;

	while (result == 0 && done < places) {
		result = lh__patch_step(job, "write");
		if (result == 0)
			result = lh__remote_write(remote, place[done].address,
			                          back ? place[done].before : place[done].after,
			                          place[done].size);
		done += result == 0;
	}
	if (result == 0) {
		result = lh__patch_step(job, "membarrier");
		if (result == 0)
			result =
				(int)lh__remote_syscall(remote, SYS_membarrier,
			                                (const long[6]){
								MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE });
	}
	if (result >= 0)
		return 0;
	while (done-- > 0)
		if (lh__remote_write(remote, place[done].address,
		                     back ? place[done].after : place[done].before, place[done].size) < 0)
			return fail_step(job, "write", result);
	return fail_step(job, "write", result);
}

int lh__patch_change(struct lh_patch_job *job, const struct lh_patch_place *place, size_t places, bool back,
                     struct lh_remote **remote)
{
	struct lh_safe_range range[LH_PATCH_PLACES_MAX];
	struct lh_safe_tally tally = { 0 };
	int result = lh__patch_step(job, "stop");

	for (size_t i = 0; i < places; i++)
		range[i] = (struct lh_safe_range){ place[i].address, place[i].address + place[i].size };
	if (result < 0)
		return fail_step(job, "stop", result);
	result = lh__safe_stop(job->process, range, places, job->options->wait_ms, false, remote, &tally,
	                       job->error);
	job->outcome->attempts += tally.attempts;
	if (tally.stopped_ns > job->outcome->stopped_ns)
		job->outcome->stopped_ns = tally.stopped_ns;
	if (result < 0)
		return result;
	result = check_places(job, *remote, place, places, back);
	if (result == 0)
		result = write_places(job, *remote, place, places, back);
	if (result < 0)
		lh__patch_release(job, *remote);
	return result;
}

int lh__patch_state(struct lh_patch_job *job, struct lh_remote *remote, uint64_t address,
                    struct lh_patch_head *head, enum lh_patch_state state)
{
	enum lh_patch_state before = head->state;
	int result = lh__patch_step(job, "write");

	head->state = state;
	head->crc = lh__patch_crc(head);
	if (result == 0)
		result = lh__remote_write(remote, address, head, sizeof *head);
	if (result == 0)
		return 0;
	head->state = before;
	head->crc = lh__patch_crc(head);
	return fail_step(job, "write", result);
}
