/* patch_list.c - which patches a process has: each is a mapping whose name says so, and whose head tells. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "line/line.h"
#include "service/code/patch_inside.h"

_Static_assert(sizeof(struct lh_patch_head) == 512, "the format of the head");
_Static_assert(sizeof(struct lh_patch_place) == 272, "the format of a place");

size_t lh__patch_head_size(size_t places)
{
	size_t size = sizeof(struct lh_patch_head) + places * sizeof(struct lh_patch_place);

	return (size + LH_PATCH_PAGE - 1) / LH_PATCH_PAGE * LH_PATCH_PAGE;
}

uint32_t lh__patch_crc(const struct lh_patch_head *head)
{
	struct lh_patch_head copy = *head;
	uint32_t crc;

	copy.crc = 0;
	crc = lh__crc32c(0, &copy, sizeof copy);
	return lh__crc32c(crc, head->place, head->places * sizeof head->place[0]);
}

/* ---- mappings ---- */

struct collect {
	struct lh_patch_set *set;
	uint64_t inode; /* of the last one; a patch is several mappings in a row */
	int result;
};

static bool is_patch(const struct lh_mapping *mapping, char name[64])
{
	const char *deleted = " (deleted)";
	size_t prefix = strlen(LH_PATCH_MAPPING), length = strlen(mapping->path);

	if (strncmp(mapping->path, LH_PATCH_MAPPING, prefix) != 0 || length < prefix + strlen(deleted))
		return false;
	length -= prefix + strlen(deleted);
	if (strcmp(mapping->path + prefix + length, deleted) != 0 || length > 63)
		return false;
	memcpy(name, mapping->path + prefix, length);
	name[length] = '\0';
	return true;
}

static int note_mapping(void *context, const struct lh_mapping *mapping)
{
	struct collect *collect = context;
	struct lh_patch_set *set = collect->set;
	struct lh_patch_found *grown, *last = set->n > 0 ? &set->at[set->n - 1] : NULL;
	char name[64];

	if (!is_patch(mapping, name))
		return 0;
	if (last && collect->inode == mapping->inode &&
	    last->listed.memory + last->listed.memory_size == mapping->start) {
		last->listed.memory_size += mapping->end - mapping->start;
		return 0;
	}
	grown = realloc(set->at, (set->n + 1) * sizeof *grown);
	if (!grown)
		return -ENOMEM;
	set->at = grown;
	memset(&grown[set->n], 0, sizeof *grown);
	memcpy(grown[set->n].listed.name, name, sizeof name);
	grown[set->n].listed.memory = mapping->start;
	grown[set->n].listed.memory_size = mapping->end - mapping->start;
	grown[set->n].listed.state = LH_PATCH_DAMAGED;
	collect->inode = mapping->inode;
	set->n++;
	return 0;
}

/* ---- heads ---- */

static bool ends_inside(const char *text, size_t size)
{
	return memchr(text, '\0', size) != NULL;
}

/* Nothing that a process has in its memory is trusted. */
static bool is_sound(const struct lh_patch_head *head, uint64_t mapped)
{
	if (memcmp(head->magic, LH_PATCH_MAGIC, sizeof head->magic) != 0 ||
	    head->version != LH_PATCH_HEAD_VERSION || head->places == 0 ||
	    head->places > LH_PATCH_PLACES_MAX || head->size != lh__patch_head_size(head->places) ||
	    head->size > head->length || head->length != mapped || head->state < LH_PATCH_APPLIED ||
	    head->state > LH_PATCH_REVERTED || head->build_size > sizeof head->build ||
	    !ends_inside(head->name, sizeof head->name) || !ends_inside(head->file, sizeof head->file) ||
	    head->crc != lh__patch_crc(head))
		return false;
	for (size_t i = 0; i < head->places; i++)
		if (head->place[i].size == 0 || head->place[i].size > sizeof head->place[i].before ||
		    !ends_inside(head->place[i].symbol, sizeof head->place[i].symbol))
			return false;
	return true;
}

static int read_head(int memory, struct lh_patch_found *found)
{
	size_t most = lh__patch_head_size(LH_PATCH_PLACES_MAX);
	size_t size = found->listed.memory_size < most ? found->listed.memory_size : most;
	struct lh_patch_head *head = calloc(1, most);

	if (!head)
		return -ENOMEM;
	if (lh__patch_read(memory, found->listed.memory, head, size) < 0 ||
	    !is_sound(head, found->listed.memory_size) || strcmp(head->name, found->listed.name) != 0) {
		free(head);
		return 0;
	}
	found->head = head;
	found->listed.state = head->state;
	memcpy(found->listed.file, head->file, sizeof head->file);
	found->listed.applied = head->applied;
	found->listed.order = head->order;
	found->listed.places = head->places;
	found->listed.place = head->place;
	return 0;
}

const struct lh_patch_found *lh__patch_over(const struct lh_patch_set *set, uint64_t address, uint64_t size,
                                            uint32_t order, bool reverted,
                                            const struct lh_patch_place **place)
{
	for (size_t i = set->n; i-- > 0;) {
		const struct lh_patch_found *found = &set->at[i];

		if (!found->head || found->head->order <= order ||
		    (found->head->state == LH_PATCH_REVERTED && !reverted))
			continue;
		for (size_t j = 0; j < found->head->places; j++) {
			const struct lh_patch_place *at = &found->head->place[j];

			if (at->address >= address + size || address >= at->address + at->size)
				continue;
			if (place)
				*place = at;
			return found;
		}
	}
	return NULL;
}

/* What should stand in a place is what this patch wrote, or what a later one wrote over it. */
static void look_at_places(int memory, const struct lh_patch_set *set, struct lh_patch_found *found)
{
	found->listed.intact = found->head != NULL;
	for (size_t i = 0; found->listed.intact && i < found->head->places; i++) {
		const struct lh_patch_place *place = &found->head->place[i];
		uint8_t now[sizeof place->after];

		if (found->head->state == LH_PATCH_REVERTED ||
		    lh__patch_over(set, place->address, place->size, found->head->order, false, NULL))
			continue;
		found->listed.intact = lh__patch_read(memory, place->address, now, place->size) == 0 &&
		                       memcmp(now, place->after, place->size) == 0;
	}
}

static int by_order(const void *a, const void *b)
{
	const struct lh_patch_found *left = a, *right = b;

	return (left->listed.order > right->listed.order) - (left->listed.order < right->listed.order);
}

int lh__patch_find(pid_t process, int memory, struct lh_patch_set *out, struct lh_error *error)
{
	struct collect collect = { .set = out };
	int result;

	*out = (struct lh_patch_set){ 0 };
	result = lh__mappings(process, note_mapping, &collect);
	for (size_t i = 0; result == 0 && i < out->n; i++)
		result = read_head(memory, &out->at[i]);
	if (result < 0) {
		lh__patch_forget(out);
		return lh__fail(error, result, "process %d: its mappings cannot be read (%s)", process,
		                lh__errno_name(result));
	}
	if (out->n > 0)
		qsort(out->at, out->n, sizeof out->at[0], by_order);
	for (size_t i = 0; i < out->n; i++)
		look_at_places(memory, out, &out->at[i]);
	return 0;
}

void lh__patch_forget(struct lh_patch_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		free(set->at[i].head);
	free(set->at);
	*set = (struct lh_patch_set){ 0 };
}

int lh__patch_list(pid_t process, void (*found)(void *context, const struct lh_patch_listed *patch),
                   void *context, struct lh_error *error)
{
	struct lh_patch_set set;
	int memory, result = lh__patch_process(process, false, &memory, error);

	if (result < 0)
		return result;
	result = lh__patch_find(process, memory, &set, error);
	close(memory);
	if (result < 0)
		return result;
	for (size_t i = 0; i < set.n; i++)
		found(context, &set.at[i].listed);
	lh__patch_forget(&set);
	return 0;
}
