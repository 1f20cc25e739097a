/*
 * start.c - what makes transactions of a program's functions (linehome/atomic.h), and the pool that
 * `linehome atomic --pool` names.
 */
#include <errno.h>
#include <link.h>
#include <string.h>

#include "linehome/atomic.h"
#include "service/atomic/bracket.h"
#include "service/pool/note.h"
#include "sys/lock.h"

/* Of the process, which is started once. */
static char pool_path[4096];
static struct lh_pool *pool;
static struct lh_lock pool_lock;

/* ---- one library (note.h) */

static bool has_note(const struct dl_phdr_info *object)
{
	for (unsigned i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &object->dlpi_phdr[i];
		const uint8_t *at = (const uint8_t *)object->dlpi_addr + part->p_vaddr,
			      *end = at + part->p_memsz;

		if (part->p_type != PT_NOTE)
			continue;
		while (end - at >= (ptrdiff_t)sizeof(Elf64_Nhdr)) {
			const Elf64_Nhdr *head = (const void *)at;

			if (head->n_namesz == sizeof(LH_NOTE_NAME) &&
			    memcmp(head + 1, LH_NOTE_NAME, sizeof(LH_NOTE_NAME)) == 0)
				return true;
			at += sizeof(*head) + ((head->n_namesz + 3) & ~3u) + ((head->n_descsz + 3) & ~3u);
		}
	}
	return false;
}

static int look(struct dl_phdr_info *object, size_t size, void *context)
{
	unsigned *count = context;

	*count += has_note(object);
	return 0;
}

/* ---- the interface */

int lh_atomic_start(const struct lh_atomic_options *options, struct lh_error *error)
{
	const struct lh_translated_options translated = {
		.log = options->log,
		.calls = (enum lh_call_policy)options->calls,
		.say = options->say,
		.returned = lh__bracket_return,
	};
	unsigned count = 0;

	dl_iterate_phdr(look, &count);
	if (count > 1)
		return lh__fail(
			error, -EEXIST,
			"the program has the library linked in statically; link it with liblinehome.so");
	if (options->pool && strlen(options->pool) >= sizeof(pool_path))
		return lh__fail(error, -ENAMETOOLONG, "the path of the pool is too long");
	if (options->pool)
		strcpy(pool_path, options->pool);
	lh__translated_configure(&translated);
	lh__brackets_say(options->say);
	lh__brackets_tell(options->undone);
	return lh__brackets_put(options->begin, options->end, error);
}

struct lh_pool *lh_atomic_pool(struct lh_error *error)
{
	const struct lh_pool_options options = { .see = LH_SEE_TRANSLATED };
	int result = 0;

	if (!pool_path[0]) {
		lh__fail(error, -ENODEV, "no pool was named: linehome atomic --pool PATH");
		return NULL;
	}
	lh__lock(&lh__sys_default, &pool_lock);
	if (!pool)
		result = lh_pool_open(pool_path, &options, &pool, error);
	lh__unlock(&lh__sys_default, &pool_lock);
	return result == 0 ? pool : NULL;
}
