/*
 * patch_revert.c - takes a patch back.
 *
 * First its bytes: at the first safe point they are what they were, and nobody comes to the patch any more.
 * Then its memory, as soon as no thread stands in it and no stack points to it. Who has called a replacement
 * and not yet returned is still in it, for however long, so the memory may stay when all else is done.
 * To wait for that with the bytes in place would only let ever new threads in.
 */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "service/code/patch_inside.h"

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* The one that is applied, or the newest of which only the memory is left. */
static struct lh_patch_found *choose(const struct lh_patch_set *set, const char *name)
{
	struct lh_patch_found *chosen = NULL;

	for (size_t i = 0; i < set->n; i++)
		if (strcmp(set->at[i].listed.name, name) == 0 &&
		    (!chosen || chosen->listed.state == LH_PATCH_REVERTED))
			chosen = &set->at[i];
	return chosen;
}

static int check_order(const struct lh_patch_set *set, const struct lh_patch_found *found,
                       struct lh_error *error)
{
	for (size_t i = 0; i < found->head->places; i++) {
		const struct lh_patch_place *place = &found->head->place[i];
		const struct lh_patch_found *later =
			lh__patch_over(set, place->address, place->size, found->head->order, true, NULL);

		if (later)
			return lh__fail(error, -EBUSY, "%s: %s was patched later by %s%s; revert that first",
			                found->listed.name, place->symbol, later->listed.name,
			                later->listed.state == LH_PATCH_REVERTED
			                        ? ", whose memory is still mapped"
			                        : "");
	}
	return 0;
}

/* Nobody may come back to any byte of it. */
static struct lh_safe_range memory_of(const struct lh_patch_found *found)
{
	return (struct lh_safe_range){ found->listed.memory - 1,
		                       found->listed.memory + found->listed.memory_size };
}

static void note_kept(struct lh_patch_job *job, const char *why)
{
	job->outcome->kept = true;
	lh__format(job->outcome->kept_why, sizeof job->outcome->kept_why, "%s", why);
}

/* All threads are stopped, and none is in the memory. */
static void take_memory(struct lh_patch_job *job, struct lh_remote *remote,
                        const struct lh_patch_found *found)
{
	long result = lh__patch_step(job, "munmap");

	if (result == 0)
		result = lh__remote_syscall(remote, SYS_munmap,
		                            (const long[6]){ (long)found->listed.memory,
		                                             (long)found->listed.memory_size });
	if (result == 0)
		job->outcome->kept = false;
	else
		note_kept(job, "it could not be unmapped");
}

/* The bytes, and the memory if nobody is in it at that moment. */
static int take_bytes(struct lh_patch_job *job, struct lh_patch_found *found)
{
	const struct lh_safe_range memory = memory_of(found);
	struct lh_remote *remote;
	int result = lh__patch_change(job, found->head->place, found->head->places, true, &remote);

	if (result < 0)
		return result;
	note_kept(job, "");
	if (!job->options->keep && lh__safe_point(remote, &memory, 1, NULL) == 0)
		take_memory(job, remote, found);
	/* Where this fails it is listed as damaged, and reverting it again finds all bytes put back. */
	if (job->outcome->kept &&
	    lh__patch_state(job, remote, found->listed.memory, found->head, LH_PATCH_REVERTED) == 0)
		found->listed.state = LH_PATCH_REVERTED;
	lh__patch_release(job, remote);
	return 0;
}

static void wait_for_memory(struct lh_patch_job *job, const struct lh_patch_found *found,
                            unsigned milliseconds)
{
	const struct lh_safe_range memory = memory_of(found);
	struct lh_safe_tally tally = { 0 };
	struct lh_remote *remote;
	struct lh_error error;
	int result = lh__patch_step(job, "stop");

	if (result == 0)
		result =
			lh__safe_stop(job->process, &memory, 1, milliseconds, false, &remote, &tally, &error);
	else
		lh__fail(&error, result, "the process could not be stopped again");
	job->outcome->attempts += tally.attempts;
	if (tally.stopped_ns > job->outcome->stopped_ns)
		job->outcome->stopped_ns = tally.stopped_ns;
	if (result < 0) {
		note_kept(job, error.text);
		return;
	}
	take_memory(job, remote, found);
	lh__patch_release(job, remote);
}

static int revert(struct lh_patch_job *job, const char *name, char file[256])
{
	uint64_t deadline = now_ms() + job->options->wait_ms, now;
	struct lh_patch_found *found;
	struct lh_patch_set set;
	int result = lh__patch_find(job->process, job->memory, &set, job->error);

	if (result < 0)
		return result;
	found = choose(&set, name);
	if (!found)
		result = lh__fail(job->error, -ENOENT, "%s: process %d has no patch of that name", name,
		                  job->process);
	else if (!found->head)
		result = lh__fail(job->error, -EILSEQ,
		                  "%s: its head is damaged, so it is not known what stood there", name);
	else
		result = check_order(&set, found, job->error);
	if (result == 0) {
		memcpy(file, found->listed.file, 256);
		job->outcome->places = found->listed.places;
		if (found->listed.state == LH_PATCH_APPLIED)
			result = take_bytes(job, found);
		else
			note_kept(job, "");
		now = now_ms();
		if (result == 0 && job->outcome->kept && !job->options->keep)
			wait_for_memory(job, found, now < deadline ? (unsigned)(deadline - now) : 0);
	}
	lh__patch_forget(&set);
	return result;
}

int lh__patch_revert(pid_t process, const char *name, const struct lh_patch_options *options,
                     struct lh_patch_outcome *outcome, struct lh_error *error)
{
	struct lh_patch_job job = { process, -1, options, outcome, error };
	char file[256] = "", called[64];
	int audit, result;

	lh__format(called, sizeof called, "%s", name); /* it may be outcome->name */
	*outcome = (struct lh_patch_outcome){ 0 };
	memcpy(outcome->name, called, sizeof called);
	result = lh__patch_audit_open(options, &audit, error);
	if (result < 0)
		return result;
	result = lh__patch_process(process, true, &job.memory, error);
	if (result == 0) {
		result = revert(&job, called, file);
		close(job.memory);
	}
	return lh__patch_audit_close(audit, "revert", process, file, result, outcome, error);
}
