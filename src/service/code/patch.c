/* patch.c - applies patches: shared objects, and bytes. The order of things stands in patch.h. */
#include "service/code/patch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "linehome/patch.h"
#include "service/code/patch_inside.h"

struct apply {
	struct lh_patch_job job;
	struct lh_patch_object object;
	struct lh_symbols *symbols;
	struct lh_patch_set set;
	const char *name;
	struct lh_patch_item *item;     /* all entries of the object */
	struct lh_patch_target *target; /* for each item; of ORIGINAL only the number is used */
	size_t *target_of;              /* for each item: itself, or what it is the original of */
	size_t targets;                 /* items that are a place */
	struct lh_patch_image image;
	struct lh_patch_segment segment[9]; /* the stubs and those of the object, in the image */
	uint64_t object_at;                 /* in the image */
	uint64_t start, end;                /* of all places */
};

static int no_memory(const struct apply *apply)
{
	return lh__fail(apply->job.error, -ENOMEM, "process %d: there is no memory for the patch",
	                apply->job.process);
}

/* ---- what the object wants ---- */

/* "SYMBOL+OFFSET", the offset in decimal or with 0x; without "+", 0. */
static int split_place(const char *word, char symbol[128], uint64_t *offset, struct lh_error *error)
{
	const char *plus = strrchr(word, '+');
	size_t length = plus ? (size_t)(plus - word) : strlen(word);
	char *rest = NULL;

	*offset = plus ? strtoull(plus + 1, &rest, 0) : 0;
	if (length == 0 || length > 127 || (plus && (rest == plus + 1 || *rest != '\0')))
		return lh__fail(error, -EINVAL, "%s: is no place; write for instance main_loop+0x2a", word);
	memcpy(symbol, word, length);
	symbol[length] = '\0';
	return 0;
}

static int move_handler(struct apply *apply)
{
	const char *at = apply->job.options->at;
	struct lh_patch_item *handler = NULL;

	if (!at)
		return 0;
	for (size_t i = 0; i < apply->object.entries; i++)
		if (apply->item[i].kind == LH_PATCH_KIND_AT && !handler)
			handler = &apply->item[i];
		else
			return lh__fail(apply->job.error, -EINVAL,
			                "%s: --at needs a patch that is one LH_PATCH_AT and nothing else",
			                apply->object.path);
	return split_place(at, handler->symbol, &handler->offset, apply->job.error);
}

static int match_originals(struct apply *apply)
{
	for (size_t i = 0; i < apply->object.entries; i++) {
		size_t j = i;

		if (apply->item[i].kind == LH_PATCH_KIND_ORIGINAL)
			for (j = 0; j < apply->object.entries; j++)
				if (apply->item[j].kind == LH_PATCH_KIND_REPLACE &&
				    strcmp(apply->item[j].symbol, apply->item[i].symbol) == 0)
					break;
		if (j == apply->object.entries)
			return lh__fail(apply->job.error, -EINVAL,
			                "%s: is not replaced by %s, so it has no LH_PATCH_ORIGINAL; declare "
			                "it extern",
			                apply->item[i].symbol, apply->object.path);
		apply->target_of[i] = j;
		apply->targets += i == j;
	}
	return 0;
}

static int read_object(struct apply *apply, const char *file)
{
	struct lh_patch_object *object = &apply->object;
	uint8_t *laid;
	int result = lh__patch_object_open(file, object, apply->job.error);

	if (result < 0)
		return result;
	laid = calloc(1, object->length + LH_PATCH_PAGE);
	apply->item = calloc(object->entries, sizeof *apply->item);
	apply->target = calloc(object->entries, sizeof *apply->target);
	apply->target_of = calloc(object->entries, sizeof *apply->target_of);
	if (!laid || !apply->item || !apply->target || !apply->target_of)
		result = no_memory(apply);
	if (result == 0)
		result = lh__patch_object_lay(object, 0, laid, apply->job.error);
	if (result == 0)
		result = lh__patch_object_items(object, 0, laid, apply->item, apply->job.error);
	free(laid);
	if (result == 0)
		result = move_handler(apply);
	if (result == 0)
		result = match_originals(apply);
	return result;
}

/* ---- where it goes ---- */

static int check_build(struct apply *apply, const struct lh_symbol *symbol)
{
	const char *wanted = apply->object.build;
	char text[129] = "";
	uint8_t id[64];
	size_t n;

	if (wanted[0] == '\0')
		return 0;
	n = lh__symbols_build(apply->symbols, symbol->address, id);
	for (size_t i = 0; i < n; i++)
		snprintf(text + 2 * i, 3, "%02x", id[i]);
	if (strcasecmp(text, wanted) == 0)
		return 0;
	return lh__fail(apply->job.error, -ESTALE, "%s: is for the build %s, and %s is the build %s",
	                apply->object.path, wanted, symbol->module, n > 0 ? text : "without an id");
}

static int check_overlap(const struct apply *apply, size_t i)
{
	const struct lh_patch_place *place = &apply->target[i].place;

	for (size_t j = 0; j < i; j++) {
		const struct lh_patch_place *other = &apply->target[j].place;

		if (apply->target_of[j] == j && place->address < other->address + other->size &&
		    other->address < place->address + place->size)
			return lh__fail(apply->job.error, -EINVAL, "%s: the patch itself changes it twice",
			                place->symbol);
	}
	return 0;
}

static int find_target(struct apply *apply, size_t i)
{
	struct lh_patch_target *target = &apply->target[i];
	struct lh_patch_view view = { apply->job.process, apply->job.memory, apply->symbols, &apply->set };
	int result;

	target->item = apply->item[i];
	result = lh__patch_function(apply->job.process, apply->symbols, target->item.symbol, &target->symbol,
	                            apply->job.error);
	if (result == 0)
		result = check_build(apply, &target->symbol);
	if (result == 0)
		result = lh__patch_target(&view, target, apply->job.error);
	if (result == 0)
		result = check_overlap(apply, i);
	if (result < 0)
		return result;
	if (apply->end == 0 || target->place.address < apply->start)
		apply->start = target->place.address;
	if (target->place.address + target->place.size > apply->end)
		apply->end = target->place.address + target->place.size;
	return 0;
}

static int find_targets(struct apply *apply)
{
	int result = lh__symbols_open(apply->job.process, &apply->symbols, apply->job.error);

	for (size_t i = 0; result == 0 && i < apply->object.entries; i++)
		if (apply->target_of[i] == i)
			result = find_target(apply, i);
	if (result == 0)
		result = lh__patch_bind(&apply->object, apply->job.process, apply->symbols, apply->job.error);
	return result;
}

/* ---- the image ---- */

static size_t plan_image(struct apply *apply)
{
	struct lh_patch_object *object = &apply->object;
	uint64_t head = lh__patch_head_size(apply->targets);
	uint64_t stubs = (apply->targets + 1) * LH_PATCH_STUB;

	stubs = (stubs + LH_PATCH_PAGE - 1) / LH_PATCH_PAGE * LH_PATCH_PAGE;
	apply->segment[0] = (struct lh_patch_segment){ head, head + stubs, PROT_READ | PROT_EXEC };
	apply->object_at = head + stubs;
	for (size_t i = 0; i < object->segments; i++)
		apply->segment[i + 1] =
			(struct lh_patch_segment){ apply->object_at + object->segment[i].start,
			                           apply->object_at + object->segment[i].end,
			                           object->segment[i].rights };
	apply->image.size = apply->object_at + object->length;
	return object->segments + 1;
}

static int make_stubs(struct apply *apply, struct lh_patch_head *head, uint64_t original[])
{
	uint64_t at = head->size + LH_PATCH_STUB;
	size_t n = 0;
	int result = 0;

	for (size_t i = 0; result == 0 && i < apply->object.entries; i++) {
		struct lh_patch_target *target = &apply->target[i];

		if (apply->target_of[i] != i)
			continue;
		target->item.code = apply->item[i].code;
		result = lh__patch_stub(target, apply->image.bytes + at, apply->image.address + at,
		                        &original[i], apply->job.error);
		head->place[n++] = target->place;
		at += LH_PATCH_STUB;
	}
	return result;
}

static int make_image(void *context)
{
	struct apply *apply = context;
	struct lh_patch_object *object = &apply->object;
	struct lh_patch_head *head = (void *)apply->image.bytes;
	uint64_t base = apply->image.address + apply->object_at, original[LH_PATCH_PLACES_MAX];
	uint8_t *laid = apply->image.bytes + apply->object_at;
	int result = lh__patch_object_lay(object, base, laid, apply->job.error);

	lh__patch_head(head, apply->name, object->path, lh__patch_order(&apply->set), apply->image.size,
	               apply->targets);
	(void)lh__patch_stub_register(apply->image.bytes + head->size);
	if (result == 0)
		result = lh__patch_object_items(object, base, laid, apply->item, apply->job.error);
	if (result == 0)
		result = make_stubs(apply, head, original);
	for (size_t i = 0; result == 0 && i < object->entries; i++)
		if (apply->target_of[i] != i && apply->item[i].original != 0)
			memcpy(laid + (apply->item[i].original - base), &original[apply->target_of[i]], 8);
	head->build_size = (uint32_t)lh__symbols_build(apply->symbols, apply->start, head->build);
	head->crc = lh__patch_crc(head);
	return result;
}

static int put_object(struct apply *apply, const char *file)
{
	size_t segments;
	int result = read_object(apply, file);

	if (result < 0)
		return result;
	apply->name = apply->job.options->name ? apply->job.options->name : apply->object.name;
	lh__format(apply->job.outcome->name, sizeof apply->job.outcome->name, "%s", apply->name);
	result = lh__patch_name_check(&apply->set, apply->name, apply->job.error);
	if (result == 0)
		result = find_targets(apply);
	if (result == 0)
		result = lh__patch_resolve(&apply->job, &apply->object);
	if (result < 0)
		return result;
	segments = plan_image(apply);
	apply->image.bytes = malloc(apply->image.size);
	if (!apply->image.bytes)
		return no_memory(apply);
	return lh__patch_put(&apply->job, &apply->image, apply->segment, segments, apply->start, apply->end,
	                     make_image, apply);
}

static int begin(struct apply *apply)
{
	int result = lh__patch_process(apply->job.process, true, &apply->job.memory, apply->job.error);

	if (result < 0) {
		apply->job.memory = -1;
		return result;
	}
	return lh__patch_find(apply->job.process, apply->job.memory, &apply->set, apply->job.error);
}

static void end(struct apply *apply)
{
	if (apply->symbols)
		lh__symbols_close(apply->symbols);
	lh__patch_forget(&apply->set);
	lh__patch_object_close(&apply->object);
	free(apply->item);
	free(apply->target);
	free(apply->target_of);
	free(apply->image.bytes);
	if (apply->job.memory >= 0)
		close(apply->job.memory);
}

int lh__patch_apply(pid_t process, const char *file, const struct lh_patch_options *options,
                    struct lh_patch_outcome *outcome, struct lh_error *error)
{
	struct apply apply = { .job = { process, -1, options, outcome, error } };
	int audit, result;

	*outcome = (struct lh_patch_outcome){ 0 };
	result = lh__patch_audit_open(options, &audit, error);
	if (result < 0)
		return result;
	result = begin(&apply);
	if (result == 0)
		result = put_object(&apply, file);
	end(&apply);
	return lh__patch_audit_close(audit, "apply", process, file, result, outcome, error);
}

/* ---- bytes ---- */

static int make_bytes(void *context)
{
	struct apply *apply = context;
	struct lh_patch_head *head = (void *)apply->image.bytes;

	lh__patch_head(head, apply->name, "", lh__patch_order(&apply->set), apply->image.size, 1);
	head->place[0] = apply->target[0].place;
	(void)lh__patch_stub_register(apply->image.bytes + head->size);
	head->build_size = (uint32_t)lh__symbols_build(apply->symbols, apply->start, head->build);
	head->crc = lh__patch_crc(head);
	return 0;
}

static int check_bytes(struct apply *apply, const struct lh_symbol *symbol, uint64_t offset)
{
	struct lh_patch_place *place = &apply->target[0].place;
	const struct lh_patch_found *other;
	char text[129];
	uint8_t now[64];

	if (offset > symbol->size || place->size > symbol->size - offset)
		return lh__fail(apply->job.error, -EINVAL,
		                "%s: is behind the end of the function, which has %lu bytes", place->symbol,
		                (unsigned long)symbol->size);
	other = lh__patch_over(&apply->set, place->address, place->size, 0, false, NULL);
	if (other)
		return lh__fail(apply->job.error, -EBUSY,
		                "%s: the patch %s has changed a part of it; revert it first", place->symbol,
		                other->listed.name);
	if (lh__patch_read(apply->job.memory, place->address, now, place->size) < 0)
		return lh__fail(apply->job.error, -EFAULT, "%s: its code cannot be read", place->symbol);
	for (size_t i = 0; i < place->size; i++)
		snprintf(text + 2 * i, 3, "%02x", now[i]);
	if (memcmp(now, place->before, place->size) != 0)
		return lh__fail(apply->job.error, -EILSEQ,
		                "%s: other bytes are expected than stand there, %s", place->symbol, text);
	return 0;
}

static int put_bytes(struct apply *apply, const char *symbol, uint64_t offset)
{
	struct lh_patch_place *place = &apply->target[0].place;
	uint64_t head = lh__patch_head_size(1);
	struct lh_symbol found;
	int result = lh__patch_name_check(&apply->set, apply->name, apply->job.error);

	if (result == 0)
		result = lh__symbols_open(apply->job.process, &apply->symbols, apply->job.error);
	if (result == 0)
		result = lh__patch_function(apply->job.process, apply->symbols, symbol, &found,
		                            apply->job.error);
	if (result < 0)
		return result;
	lh__format(place->symbol, sizeof place->symbol, offset ? "%s+%lu" : "%s", symbol,
	           (unsigned long)offset);
	place->address = apply->start = found.address + offset;
	apply->end = place->address + place->size;
	result = check_bytes(apply, &found, offset);
	if (result < 0)
		return result;
	apply->segment[0] = (struct lh_patch_segment){ head, head + LH_PATCH_PAGE, PROT_READ | PROT_EXEC };
	apply->image.size = head + LH_PATCH_PAGE;
	apply->image.bytes = malloc(apply->image.size);
	if (!apply->image.bytes)
		return no_memory(apply);
	return lh__patch_put(&apply->job, &apply->image, apply->segment, 1, apply->start, apply->end,
	                     make_bytes, apply);
}

int lh__patch_bytes(pid_t process, const char *name, const char *symbol, uint64_t offset,
                    const uint8_t *expected, const uint8_t *bytes, size_t size,
                    const struct lh_patch_options *options, struct lh_patch_outcome *outcome,
                    struct lh_error *error)
{
	struct apply apply = { .job = { process, -1, options, outcome, error }, .name = name };
	int audit, result;

	*outcome = (struct lh_patch_outcome){ 0 };
	lh__format(outcome->name, sizeof outcome->name, "%s", name);
	if (size == 0 || size > sizeof apply.target->place.before)
		return lh__fail(error, -EINVAL, "%s: 1 to 64 bytes can be replaced", symbol);
	result = lh__patch_audit_open(options, &audit, error);
	if (result < 0)
		return result;
	apply.target = calloc(1, sizeof *apply.target);
	result = apply.target ? begin(&apply) : no_memory(&apply);
	if (result == 0) {
		apply.target->place.size = size;
		memcpy(apply.target->place.before, expected, size);
		memcpy(apply.target->place.after, bytes, size);
		result = put_bytes(&apply, symbol, offset);
	}
	end(&apply);
	return lh__patch_audit_close(audit, "apply", process, "", result, outcome, error);
}
