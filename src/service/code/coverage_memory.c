/*
 * coverage_memory.c - memory of a model: an arena, growing arrays, and tables by content or by pointer.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/code/coverage_model.h"

#define CHUNK (256u << 10)

struct lh_cover_arena {
	struct lh_cover_arena *next;
	size_t size;
	_Alignas(16) char bytes[];
};

void *lh__cover_alloc(struct lh_cover_model *model, size_t size)
{
	size_t wanted = (size + 15) & ~(size_t)15;
	struct lh_cover_arena *chunk = model->arena;

	if (!chunk || chunk->size - model->arena_used < wanted) {
		size_t room = wanted > CHUNK ? wanted : CHUNK;

		chunk = calloc(1, sizeof *chunk + room);
		if (!chunk) {
			model->failed = true;
			return NULL;
		}
		chunk->size = room;
		chunk->next = model->arena;
		model->arena = chunk;
		model->arena_used = 0;
	}
	model->arena_used += wanted;
	return chunk->bytes + model->arena_used - wanted;
}

const char *lh__cover_text(struct lh_cover_model *model, const char *format, ...)
{
	va_list arguments;
	char *text;
	int size;

	va_start(arguments, format);
	size = vsnprintf(NULL, 0, format, arguments);
	va_end(arguments);
	text = size < 0 ? NULL : lh__cover_alloc(model, (size_t)size + 1);
	if (!text)
		return "";
	va_start(arguments, format);
	vsnprintf(text, (size_t)size + 1, format, arguments);
	va_end(arguments);
	return text;
}

bool lh__cover_grow(struct lh_cover_model *model, void *array, uint64_t n, uint32_t *room, size_t size)
{
	uint32_t more = *room ? *room * 2 : 64;
	void **where = array;
	void *grown;

	if (n < *room)
		return true;
	grown = more > *room ? reallocarray(*where, more, size) : NULL;
	if (!grown) {
		model->failed = true;
		return false;
	}
	memset((char *)grown + *room * size, 0, (more - *room) * size);
	*where = grown;
	*room = more;
	return true;
}

void lh__cover_release(struct lh_cover_model *model)
{
	struct lh_cover_arena *next;

	for (uint32_t i = 0; model->lines && i < model->coverage.files; i++) {
		free(model->lines[i].known);
		free(model->lines[i].ran);
	}
	free(model->lines);
	free(model->coverage.module);
	free(model->coverage.file);
	free(model->coverage.function);
	free(model->coverage.block);
	free(model->instance);
	free(model->label);
	free(model->row);
	free(model->same);
	lh__cover_empty(&model->paths);
	lh__cover_empty(&model->origins);
	lh__cover_empty(&model->names);
	lh__cover_empty(&model->scopes);
	for (; model->arena; model->arena = next) {
		next = model->arena->next;
		free(model->arena);
	}
	free(model);
}

/* FNV-1a: keys are short, and whoever wants to make them collide only makes his own report slow. */
uint64_t lh__cover_hash(const void *bytes, size_t size, uint64_t seed)
{
	uint64_t hash = seed ^ 0xcbf29ce484222325;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3;
	return hash ^ hash >> 29;
}

static uint64_t hash_of(const void *key, bool is_text)
{
	return is_text ? lh__cover_hash(key, strlen(key), 0) : lh__cover_hash(&key, sizeof key, 0);
}

static struct lh_cover_slot *slot_of(const struct lh_cover_table *table, const void *key, bool is_text,
                                     uint64_t hash)
{
	uint32_t i = (uint32_t)hash & (table->size - 1);

	for (;; i = (i + 1) & (table->size - 1)) {
		struct lh_cover_slot *slot = &table->slot[i];

		if (!slot->key ||
		    (slot->hash == hash && (is_text ? !strcmp(slot->key, key) : slot->key == key)))
			return slot;
	}
}

const uint64_t *lh__cover_lookup(const struct lh_cover_table *table, const void *key, bool is_text)
{
	struct lh_cover_slot *slot;

	if (!table->size)
		return NULL;
	slot = slot_of(table, key, is_text, hash_of(key, is_text));
	return slot->key ? &slot->value : NULL;
}

static bool table_grow(struct lh_cover_model *model, struct lh_cover_table *table, bool is_text)
{
	struct lh_cover_table more = { .size = table->size ? table->size * 2 : 256, .used = table->used };

	more.slot = calloc(more.size, sizeof *more.slot);
	if (!more.slot) {
		model->failed = true;
		return false;
	}
	for (uint32_t i = 0; i < table->size; i++)
		if (table->slot[i].key)
			*slot_of(&more, table->slot[i].key, is_text, table->slot[i].hash) = table->slot[i];
	free(table->slot);
	*table = more;
	return true;
}

void lh__cover_enter(struct lh_cover_model *model, struct lh_cover_table *table, const void *key,
                     bool is_text, uint64_t value)
{
	uint64_t hash = hash_of(key, is_text);
	struct lh_cover_slot *slot;

	if ((!table->size || table->used * 2 >= table->size) && !table_grow(model, table, is_text))
		return;
	slot = slot_of(table, key, is_text, hash);
	table->used += !slot->key;
	*slot = (struct lh_cover_slot){ key, hash, value };
}

void lh__cover_empty(struct lh_cover_table *table)
{
	free(table->slot);
	*table = (struct lh_cover_table){ 0 };
}
