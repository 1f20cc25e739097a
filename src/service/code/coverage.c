/*
 * coverage.c - makes the model of a record: module by module, then puts it in order.
 */
#include "service/code/coverage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/code/coverage_model.h"

static const char *name_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

static bool add_module(struct lh_cover_model *model, const struct lh_record_module *head)
{
	struct lh_coverage *coverage = &model->coverage;
	struct lh_cover_module *module;
	const char *path =
		lh__cover_text(model, "%.*s", (int)strnlen(head->path, sizeof head->path), head->path);

	if (!lh__cover_grow(model, &coverage->module, coverage->modules, &model->room_modules,
	                    sizeof *coverage->module))
		return false;
	model->module = coverage->modules++;
	module = &coverage->module[model->module];
	*module = (struct lh_cover_module){
		.path = path,
		.name = name_of(path),
		.id = head->id,
		.id_size = head->id_size <= sizeof head->id ? head->id_size : sizeof head->id,
		.head = head,
		.is_program = head->is_program,
		.mapped = head->mapped,
		.undecoded = head->undecoded,
		.outside = head->outside,
	};
	return true;
}

static const char *reason_of(struct lh_cover_model *model, int status)
{
	switch (status) {
	case -ESTALE: return "its file has changed since it ran";
	case -ENOEXEC:
	case -ENODATA: return "its file is no longer what ran";
	default: return lh__cover_text(model, "its code cannot be read (%s)", lh__errno_name(status));
	}
}

/* Bytes of code without what fills the last page, and where the program begins. */
static void read_headers(struct lh_cover_module *module, Elf *elf)
{
	GElf_Phdr segment;
	GElf_Ehdr header;
	size_t n;

	if (!gelf_getehdr(elf, &header) || elf_getphdrnum(elf, &n))
		return;
	module->entry = header.e_entry;
	for (size_t i = 0; i < n; i++)
		if (gelf_getphdr(elf, (int)i, &segment) && segment.p_type == PT_LOAD &&
		    segment.p_flags & PF_X)
			module->code += segment.p_filesz;
}

/* The file that ran, or that took its name: which of both it is, its id tells. */
static void read_module(struct lh_cover_model *model, int file, const struct lh_record_view *view,
                        enum lh_granularity granularity)
{
	struct lh_cover_module *module = &model->coverage.module[model->module];
	struct lh_cover_debug debug = { .descriptor = -1 };
	struct stat of_file;
	int status = lh__cover_code_open(model, file, view, granularity);

	if (status < 0) {
		module->why_not = reason_of(model, status);
		lh__cover_code_close(model);
		return;
	}
	if (!fstat(file, &of_file))
		model->module_time =
			(uint64_t)of_file.st_mtim.tv_sec * 1000000000 + (uint64_t)of_file.st_mtim.tv_nsec;
	model->rows = 0;
	lh__cover_debug_open(model, file, module->path, &debug);
	read_headers(module, debug.elf);
	if (debug.dwarf && !lh__cover_units(model, debug.dwarf))
		module->why_not = "a part of its debug information is damaged";
	module->has_lines = model->rows > 0;
	if (!module->has_lines && !module->why_not)
		module->why_not =
			debug.why_not ? debug.why_not : "its debug information has no lines of this code";
	if (!debug.dwarf)
		lh__cover_symbols(model, &debug, file);
	lh__cover_empty(&model->names);
	lh__cover_debug_close(&debug);
	lh__cover_code_close(model);
}

static void take_module(struct lh_cover_model *model, const struct lh_record_view *view,
                        enum lh_granularity granularity)
{
	struct lh_cover_module *module;
	int file;

	if (!add_module(model, view->head))
		return;
	module = &model->coverage.module[model->module];
	file = open(module->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (file < 0) {
		module->why_not = errno == ENOENT ? "its file is gone" : "its file cannot be opened";
		return;
	}
	read_module(model, file, view, granularity);
	close(file);
}

int lh__coverage_make(struct lh_record *record, const struct lh_coverage_options *options,
                      struct lh_coverage **out, struct lh_error *error)
{
	struct lh_cover_model *model = calloc(1, sizeof *model);
	enum lh_granularity granularity =
		lh__record_head(record)->granularity ? LH_GRANULARITY_LINE : LH_GRANULARITY_BLOCK;
	struct lh_record_view view;

	if (!model)
		return lh__fail(error, -ENOMEM, "no memory for the report");
	model->options = options;
	model->coverage.record = record;
	for (size_t i = 0; !model->failed && lh__record_module(record, i, &view); i++)
		if (view.head->is_program || options->libraries)
			take_module(model, &view, granularity);
	if (!model->failed)
		lh__cover_finish(model);
	if (model->failed) {
		lh__cover_release(model);
		return lh__fail(error, -ENOMEM, "no memory for the report");
	}
	*out = &model->coverage;
	return 0;
}

void lh__coverage_free(struct lh_coverage *coverage)
{
	if (coverage)
		lh__cover_release((struct lh_cover_model *)coverage);
}
