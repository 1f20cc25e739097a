/*
 * coverage_filter.c - what of a program a report is about.
 *
 * A pattern is tried on the module's path and name, the file's path and name, and the function's name. Kept
 * is what one of the patterns without "!" matches, or, where there are only such with "!", everything; less
 * what one with "!" matches.
 */
#include <fnmatch.h>
#include <string.h>

#include "service/code/coverage_model.h"

static bool matches_path(const char *pattern, const char *path)
{
	const char *name;

	if (!path)
		return false;
	name = strrchr(path, '/');
	return !fnmatch(pattern, path, 0) || (name && !fnmatch(pattern, name + 1, 0));
}

bool lh__cover_wanted(const struct lh_cover_model *model, const char *function, const char *file)
{
	const char *module = model->coverage.module[model->module].path;
	bool asked = false, found = false;

	for (const char *const *p = model->options->filter; p && *p; p++) {
		bool without = **p == '!';
		const char *pattern = *p + without;
		bool match = matches_path(pattern, module) || matches_path(pattern, file) ||
		             (function && !fnmatch(pattern, function, 0));

		if (without && match)
			return false;
		asked |= !without;
		found |= match && !without;
	}
	return found || !asked;
}
