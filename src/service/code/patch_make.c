/* patch_make.c - what patches of objects and those of bytes share: the head, and the way into the process. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "service/code/patch_inside.h"

#define TRIES 4 /* somebody may map something where we wanted to */

static bool is_name(const char *name)
{
	size_t length = strlen(name);

	return length > 0 && length < 64 &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-") == length;
}

int lh__patch_name_check(const struct lh_patch_set *set, const char *name, struct lh_error *error)
{
	if (!is_name(name))
		return lh__fail(error, -EINVAL,
		                "%s: is no name for a patch; letters, digits and . _ + - are, at most 63",
		                name);
	for (size_t i = 0; i < set->n; i++)
		if (set->at[i].listed.state != LH_PATCH_REVERTED && strcmp(set->at[i].listed.name, name) == 0)
			return lh__fail(error, -EEXIST,
			                "%s: a patch of that name is there; revert it, or give this one "
			                "another --name",
			                name);
	return 0;
}

uint32_t lh__patch_order(const struct lh_patch_set *set)
{
	uint32_t order = 0;

	for (size_t i = 0; i < set->n; i++)
		if (set->at[i].listed.order > order)
			order = set->at[i].listed.order;
	return order + 1;
}

void lh__patch_head(struct lh_patch_head *head, const char *name, const char *file, uint32_t order,
                    uint64_t length, size_t places)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	memcpy(head->magic, LH_PATCH_MAGIC, sizeof head->magic);
	head->version = LH_PATCH_HEAD_VERSION;
	head->size = (uint32_t)lh__patch_head_size(places);
	head->places = (uint32_t)places;
	head->order = order;
	head->state = LH_PATCH_APPLIED;
	head->applied = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	head->length = length;
	lh__format(head->name, sizeof head->name, "%s", name);
	lh__format(head->file, sizeof head->file, "%s", file);
}

static int map_somewhere(struct lh_patch_job *job, struct lh_patch_image *image,
                         const struct lh_patch_segment *segment, size_t segments, uint64_t start,
                         uint64_t end, int (*make)(void *context), void *context)
{
	int result = -EEXIST;

	for (unsigned i = 0; result == -EEXIST && i < TRIES; i++) {
		image->address = lh__mappings_gap(job->process, start, end, image->size);
		if (image->address == 0)
			return lh__fail(
				job->error, -ERANGE,
				"process %d: there is no room within 2 GiB of all that is to be changed",
				job->process);
		memset(image->bytes, 0, image->size);
		result = make(context);
		if (result == 0)
			result = lh__patch_map(job, image, ((struct lh_patch_head *)image->bytes)->name,
			                       segment, segments);
	}
	return result;
}

int lh__patch_put(struct lh_patch_job *job, struct lh_patch_image *image,
                  const struct lh_patch_segment *segment, size_t segments, uint64_t start, uint64_t end,
                  int (*make)(void *context), void *context)
{
	const struct lh_patch_head *head = (const void *)image->bytes;
	struct lh_remote *remote;
	int result = map_somewhere(job, image, segment, segments, start, end, make, context);

	if (result < 0)
		return result;
	result = lh__patch_change(job, head->place, head->places, false, &remote);
	if (result < 0) {
		lh__patch_unmap(job, image);
		return result;
	}
	lh__patch_release(job, remote);
	job->outcome->places = head->places;
	return 0;
}
