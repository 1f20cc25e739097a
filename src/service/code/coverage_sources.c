/*
 * coverage_sources.c - files of source: one for each path, whichever modules and units name it, and its
 * lines.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/code/coverage_model.h"

/* Where the last part of what is at out begins, or NULL: there is none that ".." could take away. */
static char *last_part(char *out, char *to)
{
	char *from = to;

	while (from > out && from[-1] != '/')
		from--;
	return from == to || (to - from == 2 && !memcmp(from, "..", 2)) ? NULL : from;
}

/* Takes "//", "/./" and "/../" out of a path, by its text alone. out has room for as much as the path. */
static void normalise(const char *path, char *out)
{
	char *to = out, *part;

	if (*path == '/')
		*to++ = '/';
	for (size_t size; *path; path += size) {
		path += strspn(path, "/");
		size = strcspn(path, "/");
		if (!size || (size == 1 && *path == '.'))
			continue;
		part = size == 2 && !memcmp(path, "..", 2) ? last_part(out, to) : NULL;
		if (part) {
			to = part > out + 1 ? part - 1 : part;
			continue;
		}
		if (to > out && to[-1] != '/')
			*to++ = '/';
		memcpy(to, path, size);
		to += size;
	}
	*to = 0;
}

uint32_t lh__cover_file(struct lh_cover_model *model, const char *path)
{
	struct lh_coverage *coverage = &model->coverage;
	const char *folder = model->folder && path && *path != '/' ? model->folder : "";
	char normal[PATH_MAX], whole[PATH_MAX];
	const uint64_t *known;
	uint32_t index = coverage->files;

	if (!path || !*path || strlen(folder) + 1 + strlen(path) >= sizeof whole)
		return LH_COVER_NONE;
	stpcpy(stpcpy(stpcpy(whole, folder), *folder ? "/" : ""), path);
	normalise(whole, normal);
	known = lh__cover_lookup(&model->paths, normal, true);
	if (known)
		return (uint32_t)*known;
	if (!lh__cover_grow(model, &coverage->file, index, &model->room_files, sizeof *coverage->file) ||
	    !lh__cover_grow(model, &model->lines, index, &model->room_lines, sizeof *model->lines))
		return LH_COVER_NONE;
	coverage->file[index].path = lh__cover_text(model, "%s", normal);
	model->lines[index].time = model->module_time;
	coverage->files++;
	lh__cover_enter(model, &model->paths, coverage->file[index].path, true, index);
	return index;
}

static bool widen(struct lh_cover_model *model, struct lh_cover_lines *lines, uint32_t words)
{
	uint32_t more = lines->words * 2 > words ? lines->words * 2 : words + 16;
	uint64_t *known = realloc(lines->known, more * sizeof *known), *ran;

	lines->known = known ? known : lines->known;
	ran = known ? realloc(lines->ran, more * sizeof *ran) : NULL;
	if (!ran) {
		model->failed = true;
		return false;
	}
	lines->ran = ran;
	memset(known + lines->words, 0, (more - lines->words) * sizeof *known);
	memset(ran + lines->words, 0, (more - lines->words) * sizeof *ran);
	lines->words = more;
	return true;
}

void lh__cover_line(struct lh_cover_model *model, uint32_t file, uint32_t line, bool hit)
{
	struct lh_cover_lines *lines = &model->lines[file];
	uint32_t word = line / 64;

	if (line >= LH_COVER_LINES || (word >= lines->words && !widen(model, lines, word + 1)))
		return;
	lines->known[word] |= UINT64_C(1) << line % 64;
	lines->ran[word] |= (uint64_t)hit << line % 64;
}

/* ---- the end ---- */

static void to_lines(struct lh_cover_model *model, struct lh_cover_file *file,
                     const struct lh_cover_lines *lines)
{
	uint32_t n = 0;

	for (uint32_t word = 0; word < lines->words; word++)
		n += (unsigned)__builtin_popcountll(lines->known[word]);
	file->line = lh__cover_alloc(model, (n + 1) * sizeof *file->line);
	if (!file->line)
		return;
	for (uint32_t word = 0; word < lines->words; word++)
		for (uint64_t bits = lines->known[word]; bits; bits &= bits - 1) {
			unsigned bit = (unsigned)__builtin_ctzll(bits);
			bool hit = lines->ran[word] >> bit & 1;

			file->line[file->lines++] = (struct lh_cover_line){ word * 64 + bit, hit };
			file->hit += hit;
		}
}

/* Where a path is here: in the folder that an option says, or as it stands. */
static const char *look_for(struct lh_cover_model *model, const char *path)
{
	for (const char *const *p = model->options->source; p && *p; p++) {
		const char *equals = strchr(*p, '=');
		size_t size = equals ? (size_t)(equals - *p) : 0;
		const char *there;

		for (; size && equals[-1] == '/' && (*p)[size - 1] == '/'; size--)
			;
		if (!equals || strncmp(path, *p, size) || (path[size] != '/' && path[size]))
			continue;
		there = lh__cover_text(model, "%s%s", equals + 1, path + size);
		if (!access(there, R_OK))
			return there;
	}
	return access(path, R_OK) ? NULL : path;
}

static void look_at(struct lh_cover_model *model, struct lh_cover_file *file, uint64_t time)
{
	struct stat status;

	file->found = look_for(model, file->path);
	if (file->found && !stat(file->found, &status))
		file->stale =
			(uint64_t)status.st_mtim.tv_sec * 1000000000 + (uint64_t)status.st_mtim.tv_nsec >
			time;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct lh_cover_file *)a)->path, ((const struct lh_cover_file *)b)->path);
}

static int by_line(const void *a, const void *b)
{
	const struct lh_cover_function *x = a, *y = b;
	int order;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	if (x->line != y->line)
		return x->line < y->line ? -1 : 1;
	order = strcmp(x->name, y->name);
	return order ? order : (x->module > y->module) - (x->module < y->module);
}

static void count_functions(struct lh_coverage *coverage)
{
	for (uint32_t i = 0; i < coverage->functions; i++) {
		const struct lh_cover_function *function = &coverage->function[i];

		coverage->module[function->module].functions++;
		coverage->module[function->module].functions_hit += function->hit;
		if (function->file == LH_COVER_NONE)
			continue;
		coverage->file[function->file].functions++;
		coverage->file[function->file].functions_hit += function->hit;
	}
}

/* Files without a line or function go: they were only named. Numbers of files change, so functions' do. */
static void put_files_in_order(struct lh_cover_model *model)
{
	struct lh_coverage *coverage = &model->coverage;
	uint32_t kept = 0;

	for (uint32_t i = 0; i < coverage->functions; i++)
		if (coverage->function[i].file != LH_COVER_NONE)
			coverage->file[coverage->function[i].file].functions = 1;
	for (uint32_t i = 0; i < coverage->files; i++)
		if (coverage->file[i].lines || coverage->file[i].functions)
			coverage->file[kept++] = coverage->file[i];
	coverage->files = kept;
	if (kept)
		qsort(coverage->file, kept, sizeof *coverage->file, by_path);
}

void lh__cover_finish(struct lh_cover_model *model)
{
	struct lh_coverage *coverage = &model->coverage;
	uint32_t all = coverage->files;
	const char **path = calloc(all + 1, sizeof *path);

	if (!path) {
		model->failed = true;
		return;
	}
	for (uint32_t i = 0; i < all; i++) {
		path[i] = coverage->file[i].path;
		to_lines(model, &coverage->file[i], &model->lines[i]);
		free(model->lines[i].known);
		free(model->lines[i].ran);
		look_at(model, &coverage->file[i], model->lines[i].time);
		model->lines[i] = (struct lh_cover_lines){ 0 };
	}
	put_files_in_order(model);
	lh__cover_empty(&model->paths);
	for (uint32_t i = 0; i < coverage->files; i++) {
		coverage->file[i].functions = 0;
		lh__cover_enter(model, &model->paths, coverage->file[i].path, true, i);
	}
	for (uint32_t i = 0; i < coverage->functions && !model->failed; i++) {
		struct lh_cover_function *function = &coverage->function[i];

		if (function->file != LH_COVER_NONE)
			function->file =
				(uint32_t)*lh__cover_lookup(&model->paths, path[function->file], true);
	}
	if (coverage->functions)
		qsort(coverage->function, coverage->functions, sizeof *coverage->function, by_line);
	count_functions(coverage);
	free(path);
}
