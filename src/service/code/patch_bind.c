/*
 * patch_bind.c - names of a patch, found in the process.
 *
 * The program's own come first, also those that no dynamic linker could see; then those of its libraries in
 * the order in which they were mapped. A local name counts where it is the only one of its module.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "service/code/patch_inside.h"

#define FOUND_MAX 32

struct candidates {
	char program[256]; /* the name of its file */
	bool functions;    /* only these */
	struct lh_symbol at[FOUND_MAX];
	size_t n;
};

static void note_program(pid_t process, struct candidates *candidates)
{
	char path[64], target[PATH_MAX];
	const char *name;
	ssize_t n;

	snprintf(path, sizeof path, "/proc/%d/exe", process);
	n = readlink(path, target, sizeof target - 1);
	target[n > 0 ? n : 0] = '\0';
	name = strrchr(target, '/');
	lh__format(candidates->program, sizeof candidates->program, "%s", name ? name + 1 : target);
}

static int note_candidate(void *context, const struct lh_symbol *symbol)
{
	struct candidates *candidates = context;

	if (candidates->functions && !symbol->is_function)
		return 0;
	if (candidates->n < FOUND_MAX)
		candidates->at[candidates->n++] = *symbol;
	return 0;
}

static int find_all(struct lh_symbols *symbols, const char *name, struct candidates *candidates,
                    struct lh_error *error)
{
	int result = lh__symbols_find(symbols, name, note_candidate, candidates);

	if (result < 0)
		return lh__fail(error, result, "%s: cannot be looked up (%s)", name, lh__errno_name(result));
	return 0;
}

static int fail_unknown(struct lh_symbols *symbols, const char *name, const char *what,
                        struct lh_error *error)
{
	const char *nearest = lh__symbols_nearest(symbols, name);

	if (nearest && strcmp(nearest, name) == 0)
		return lh__fail(error, -ENOENT, "%s: is a variable, not a %s", name, what);
	if (nearest)
		return lh__fail(error, -ENOENT, "%s: the process has no such %s; is it %s?", name, what,
		                nearest);
	return lh__fail(error, -ENOENT, "%s: the process has no such %s", name, what);
}

/* Keeps those of one module: the program's, or else the first that is there. */
static void keep_one_module(struct candidates *candidates)
{
	const char *module = candidates->n > 0 ? candidates->at[0].module : "";
	size_t kept = 0;

	for (size_t i = 0; i < candidates->n; i++)
		if (strcmp(candidates->at[i].module, candidates->program) == 0)
			module = candidates->at[i].module;
	for (size_t i = 0; i < candidates->n; i++)
		if (strcmp(candidates->at[i].module, module) == 0)
			candidates->at[kept++] = candidates->at[i];
	candidates->n = kept;
}

/* The one that is meant: the only global one, or the only one at all; NULL: several could be. */
static const struct lh_symbol *only(const struct candidates *candidates)
{
	const struct lh_symbol *global = NULL;
	size_t globals = 0;

	for (size_t i = 0; i < candidates->n; i++)
		if (!candidates->at[i].is_local) {
			global = &candidates->at[i];
			globals++;
		}
	if (globals > 0)
		return globals == 1 ? global : NULL;
	return candidates->n == 1 ? &candidates->at[0] : NULL;
}

static int fail_several(const struct candidates *candidates, const char *name, struct lh_error *error)
{
	return lh__fail(error, -EEXIST, "%s: there are %zu of that name in %s, at 0x%lx and 0x%lx", name,
	                candidates->n, candidates->at[0].module, (unsigned long)candidates->at[0].address,
	                (unsigned long)candidates->at[1].address);
}

int lh__patch_function(pid_t process, struct lh_symbols *symbols, const char *name, struct lh_symbol *out,
                       struct lh_error *error)
{
	struct candidates candidates = { .functions = true };
	const struct lh_symbol *found;
	const char *other = NULL;
	int result;

	note_program(process, &candidates);
	result = find_all(symbols, name, &candidates, error);
	if (result < 0)
		return result;
	if (candidates.n == 0)
		return fail_unknown(symbols, name, "function", error);
	for (size_t i = 1; i < candidates.n; i++)
		if (strcmp(candidates.at[i].module, candidates.at[0].module) != 0)
			other = candidates.at[i].module;
	if (other && strcmp(candidates.at[0].module, candidates.program) != 0)
		return lh__fail(error, -EEXIST, "%s: is in %s and in %s; write for instance %s!%s", name,
		                candidates.at[0].module, other, other, name);
	keep_one_module(&candidates);
	found = only(&candidates);
	if (!found)
		return fail_several(&candidates, name, error);
	if (found->is_indirect)
		return lh__fail(error, -ENOTSUP,
		                "%s: is an indirect function; name the one that this processor's choice is",
		                name);
	*out = *found;
	return 0;
}

/* What the start files want, and do without. */
static bool is_optional(const char *name)
{
	return strcmp(name, "__cxa_finalize") == 0 || strcmp(name, "__gmon_start__") == 0 ||
	       strncmp(name, "_ITM_", 5) == 0;
}

/* A library's variable that lies in the program: there its name has a version. */
static int find_copied(struct lh_symbols *symbols, const struct lh_patch_import *import,
                       struct candidates *candidates, struct lh_error *error)
{
	char name[512];
	int result;

	if (!import->version)
		return 0;
	lh__format(name, sizeof name, "%s@%s", import->name, import->version);
	result = find_all(symbols, name, candidates, error);
	keep_one_module(candidates);
	if (candidates->n > 0 && strcmp(candidates->at[0].module, candidates->program) != 0)
		candidates->n = 0;
	return result;
}

static int bind_one(pid_t process, struct lh_symbols *symbols, struct lh_patch_import *import,
                    struct lh_error *error)
{
	struct candidates candidates = { 0 };
	const struct lh_symbol *found;
	int result;

	import->value = 0;
	if (import->weak && is_optional(import->name))
		return 0;
	note_program(process, &candidates);
	result = find_copied(symbols, import, &candidates, error);
	if (result == 0 && candidates.n == 0)
		result = find_all(symbols, import->name, &candidates, error);
	if (result < 0)
		return result;
	if (candidates.n == 0)
		return import->weak ? 0 : fail_unknown(symbols, import->name, "symbol", error);
	keep_one_module(&candidates);
	found = only(&candidates);
	if (!found)
		return fail_several(&candidates, import->name, error);
	import->value = found->address;
	import->indirect = found->is_indirect;
	return 0;
}

int lh__patch_bind(struct lh_patch_object *object, pid_t process, struct lh_symbols *symbols,
                   struct lh_error *error)
{
	int result = 0;

	for (size_t i = 1; result == 0 && i < object->imports; i++)
		if (object->import[i].wanted)
			result = bind_one(process, symbols, &object->import[i], error);
	return result;
}
