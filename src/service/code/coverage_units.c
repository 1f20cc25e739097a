/*
 * coverage_units.c - the functions of debug information: what is where, by itself or inlined.
 *
 * A function of the source may be in the code several times: on its own, with cold parts elsewhere, as a
 * clone, inlined here and there, in each unit that includes a header. All of these are one function, told
 * by file, line and name; it ran if an instruction of any of them did.
 */
#include <dwarf.h>
#include <stdlib.h>
#include <string.h>

#include "service/code/coverage_model.h"

/* Debug information nests; what nests deeper than this is damaged. */
#define DEEPEST 200u

struct walk {
	struct lh_cover_model *model;
	bool optimised;
};

static uint64_t unsigned_of(Dwarf_Die *die, unsigned name)
{
	Dwarf_Attribute attribute;
	Dwarf_Word value;

	return dwarf_formudata(dwarf_attr_integrate(die, name, &attribute), &value) ? 0 : value;
}

static const char *text_of(Dwarf_Die *die, unsigned name)
{
	Dwarf_Attribute attribute;

	return dwarf_formstring(dwarf_attr_integrate(die, name, &attribute));
}

/* The DIE that *die refers to as its origin in the end, or itself: the same for all copies in a unit. */
static void to_origin(Dwarf_Die *die)
{
	static const unsigned links[] = { DW_AT_abstract_origin, DW_AT_specification };

	for (unsigned i = 0; i < 8; i++) {
		Dwarf_Attribute attribute;
		Dwarf_Die other;

		if (!dwarf_formref_die(dwarf_attr(die, links[i % 2], &attribute), &other))
			continue;
		*die = other;
		i |= 1; /* begin again */
	}
}

static const char *linkage_of(Dwarf_Die *die)
{
	const char *name = text_of(die, DW_AT_linkage_name);

	return name ? name : text_of(die, DW_AT_MIPS_linkage_name);
}

/*
 * The file that a DIE is declared in. By hand, since dwarf_decl_file knows no file 0, which DWARF 5 has and
 * clang uses.
 */
static uint32_t file_of(struct lh_cover_model *model, Dwarf_Die *die)
{
	Dwarf_Attribute attribute;
	Dwarf_Die unit;
	Dwarf_Files *files;
	Dwarf_Word index;
	size_t n;

	if (!dwarf_attr_integrate(die, DW_AT_decl_file, &attribute) || dwarf_formudata(&attribute, &index) ||
	    !dwarf_cu_die(attribute.cu, &unit, NULL, NULL, NULL, NULL, NULL, NULL) ||
	    dwarf_getsrcfiles(&unit, &files, &n) || index >= n)
		return LH_COVER_NONE;
	return lh__cover_file(model, dwarf_filesrc(files, index, NULL, NULL));
}

static uint32_t function_of(struct walk *walk, Dwarf_Die *die)
{
	struct lh_cover_model *model = walk->model;
	Dwarf_Die origin = *die;
	const uint64_t *known;
	uint32_t index, file;
	const char *name;
	int line = 0;

	to_origin(&origin);
	known = lh__cover_lookup(&model->origins, origin.addr, false);
	if (known)
		return (uint32_t)*known;
	name = lh__cover_name(model, &origin, linkage_of(die));
	file = file_of(model, die);
	if (dwarf_decl_line(die, &line) || line < 0)
		line = 0;
	index = lh__cover_function(model, name, file, (uint32_t)line);
	lh__cover_enter(model, &model->origins, origin.addr, false, index);
	return index;
}

static void add_instance(struct lh_cover_model *model, const struct lh_cover_instance *instance)
{
	if (lh__cover_grow(model, &model->instance, model->instances, &model->room_instances,
	                   sizeof *model->instance))
		model->instance[model->instances++] = *instance;
}

/*
 * What of a function is in the code now; returns its index. Code that the linker has thrown away is at 0 or
 * at the end of all addresses; no instruction is known there, and the function is not made.
 */
static uint32_t add_ranges(struct walk *walk, Dwarf_Die *die, uint32_t depth)
{
	struct lh_cover_instance instance = { .function = LH_COVER_NONE,
		                              .depth = depth,
		                              .inlined = dwarf_tag(die) == DW_TAG_inlined_subroutine };
	Dwarf_Addr base, low, high;
	ptrdiff_t at = 0;
	bool known = false;

	while ((at = dwarf_ranges(die, at, &base, &low, &high)) > 0) {
		if (!low || low >= high || !lh__cover_starts(&walk->model->code, low, high))
			continue;
		if (!known)
			instance.function = function_of(walk, die);
		known = true;
		instance.low = low;
		instance.high = high;
		add_instance(walk->model, &instance);
		if (instance.function == LH_COVER_NONE)
			continue;
		if (instance.inlined)
			lh__cover_add_copy(walk->model, instance.function, low, high);
		else
			lh__cover_add_code(walk->model, instance.function, low, high);
	}
	return instance.function;
}

static void add_label(struct walk *walk, Dwarf_Die *die, uint32_t function)
{
	struct lh_cover_model *model = walk->model;
	Dwarf_Addr address;
	uint32_t file;
	int line;

	if (dwarf_lowpc(die, &address) || dwarf_decl_line(die, &line) || line <= 0)
		return;
	file = file_of(model, die);
	if (file != LH_COVER_NONE &&
	    lh__cover_grow(model, &model->label, model->labels, &model->room_labels, sizeof *model->label))
		model->label[model->labels++] =
			(struct lh_cover_label){ address, file, (uint32_t)line, function };
}

/* Whether there may be a function in it. */
static bool holds_functions(int tag)
{
	switch (tag) {
	case DW_TAG_compile_unit:
	case DW_TAG_partial_unit:
	case DW_TAG_skeleton_unit:
	case DW_TAG_subprogram:
	case DW_TAG_inlined_subroutine:
	case DW_TAG_lexical_block:
	case DW_TAG_try_block:
	case DW_TAG_catch_block:
	case DW_TAG_namespace:
	case DW_TAG_module:
	case DW_TAG_structure_type:
	case DW_TAG_class_type:
	case DW_TAG_union_type:
	case DW_TAG_enumeration_type: return true;
	default: return false;
	}
}

/* Returns the function that what is in the DIE belongs to. */
static uint32_t visit(struct walk *walk, Dwarf_Die *die, uint32_t function, uint32_t depth)
{
	int tag = dwarf_tag(die);

	if (tag == DW_TAG_label && !walk->optimised && function != LH_COVER_NONE)
		add_label(walk, die, function);
	if ((tag == DW_TAG_subprogram || tag == DW_TAG_inlined_subroutine) &&
	    (dwarf_hasattr(die, DW_AT_ranges) || dwarf_hasattr(die, DW_AT_low_pc)))
		return add_ranges(walk, die, depth);
	return function;
}

static void walk_children(struct walk *walk, Dwarf_Die *die, uint32_t function, uint32_t depth)
{
	Dwarf_Die child;

	if (depth > DEEPEST || dwarf_child(die, &child))
		return;
	do {
		uint32_t inner = visit(walk, &child, function, depth);

		if (holds_functions(dwarf_tag(&child)))
			walk_children(walk, &child, inner, depth + 1);
	} while (!dwarf_siblingof(&child, &child));
}

/*
 * Whether the compiler has optimised: of gcc, which notes its options in the name that it gives itself, this
 * is known. Others may have.
 */
static bool is_optimised(Dwarf_Die *unit)
{
	const char *producer = text_of(unit, DW_AT_producer), *option;
	bool optimised = false;

	if (!producer || strncmp(producer, "GNU ", 4))
		return true;
	for (option = producer; (option = strstr(option, " -O")); option += 3)
		optimised = option[3] != '0';
	return optimised;
}

static bool is_c(Dwarf_Die *unit)
{
	switch (unsigned_of(unit, DW_AT_language)) {
	case DW_LANG_C:
	case DW_LANG_C89:
	case DW_LANG_C99:
	case DW_LANG_C11:
	case DW_LANG_Mips_Assembler: return true;
	default: return false;
	}
}

static bool read_unit(struct lh_cover_model *model, Dwarf_Die *unit, Dwarf_Die *split)
{
	Dwarf_Die *tree = dwarf_tag(split) == DW_TAG_compile_unit ? split : unit;
	struct walk walk = { .model = model, .optimised = is_optimised(tree) };

	model->instances = model->labels = 0;
	model->folder = text_of(unit, DW_AT_comp_dir);
	walk_children(&walk, tree, LH_COVER_NONE, 0);
	return lh__cover_rows(model, unit, walk.optimised);
}

/* Of all units beforehand: what dwz has moved may be referred to from units that come before it. */
static void read_scopes(struct lh_cover_model *model, Dwarf *dwarf)
{
	Dwarf_CU *unit = NULL;
	Dwarf_Die die, split;

	while (!dwarf_get_units(dwarf, unit, &unit, NULL, NULL, &die, &split)) {
		Dwarf_Die *tree = dwarf_tag(&split) == DW_TAG_compile_unit ? &split : &die;

		if (!is_c(tree))
			lh__cover_scopes(model, tree);
	}
}

/* A section by its name, decompressed as libdw has left it; NULL: there is none. */
static Elf_Data *section_of(Elf *elf, const char *wanted, const char *compressed)
{
	Elf_Scn *section = NULL;
	GElf_Shdr header;
	size_t names;

	if (elf_getshdrstrndx(elf, &names))
		return NULL;
	while ((section = elf_nextscn(elf, section))) {
		const char *name =
			gelf_getshdr(section, &header) ? elf_strptr(elf, names, header.sh_name) : NULL;

		if (name && (!strcmp(name, wanted) || !strcmp(name, compressed)))
			return elf_getdata(section, NULL);
	}
	return NULL;
}

/*
 * Whether the units fill all of .debug_info. One whose length leads out of it is, to libdw, the end, and
 * what is in it and behind it would be missing without a word.
 */
static bool is_whole(Dwarf *dwarf)
{
	Elf_Data *info = section_of(dwarf_getelf(dwarf), ".debug_info", ".zdebug_info");
	Dwarf_Off at = 0, next;
	size_t header;

	while (!dwarf_next_unit(dwarf, at, &next, &header, NULL, NULL, NULL, NULL, NULL, NULL)) {
		if (next <= at)
			return false;
		at = next;
	}
	return !info || at == info->d_size;
}

bool lh__cover_units(struct lh_cover_model *model, Dwarf *dwarf)
{
	Dwarf *common = dwarf_getalt(dwarf);
	Dwarf_CU *unit = NULL;
	Elf_Data *lines = section_of(dwarf_getelf(dwarf), ".debug_line", ".zdebug_line");
	Dwarf_Die die, split;
	bool whole = true;
	int status = 0;

	model->line_section = lines ? lines->d_buf : NULL;
	model->line_size = lines && lines->d_buf ? lines->d_size : 0;
	if (common)
		read_scopes(model, common);
	read_scopes(model, dwarf);
	while (!model->failed && !(status = dwarf_get_units(dwarf, unit, &unit, NULL, NULL, &die, &split)))
		whole &= read_unit(model, &die, &split);
	lh__cover_empty(&model->origins);
	lh__cover_empty(&model->scopes);
	return status >= 0 && whole && is_whole(dwarf);
}
