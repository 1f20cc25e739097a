/*
 * coverage_functions.c - functions of a module: told by file, line and name; by its symbols where it has no
 * debug information, and by .eh_frame where there is none of these either.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "code/functions.h"
#include "service/code/coverage_model.h"

/* ---- made once ---- */

static const void *key_of(const char *name, uint32_t file, uint32_t line)
{
	uint64_t place = (uint64_t)file << 32 | line;

	return (const void *)(uintptr_t)(lh__cover_hash(name, strlen(name), place) | 1);
}

static uint32_t find(const struct lh_cover_model *model, const void *key, const char *name, uint32_t file,
                     uint32_t line)
{
	const uint64_t *first = lh__cover_lookup(&model->names, key, false);
	uint32_t index = first ? (uint32_t)*first : LH_COVER_NONE;

	for (; index != LH_COVER_NONE; index = model->same[index]) {
		const struct lh_cover_function *function = &model->coverage.function[index];

		if (function->file == file && function->line == line && !strcmp(function->name, name))
			break;
	}
	return index;
}

static uint32_t make(struct lh_cover_model *model, const void *key, const char *name, uint32_t file,
                     uint32_t line)
{
	struct lh_coverage *coverage = &model->coverage;
	const uint64_t *first;
	uint32_t index;

	if (!lh__cover_wanted(model, name, file == LH_COVER_NONE ? NULL : coverage->file[file].path))
		return LH_COVER_NONE;
	index = coverage->functions;
	if (!lh__cover_grow(model, &coverage->function, index, &model->room_functions,
	                    sizeof *coverage->function) ||
	    !lh__cover_grow(model, &model->same, index, &model->room_same, sizeof *model->same))
		return LH_COVER_NONE;
	first = lh__cover_lookup(&model->names, key, false);
	model->same[index] = first ? (uint32_t)*first : LH_COVER_NONE;
	coverage->function[index] = (struct lh_cover_function){
		.name = lh__cover_text(model, "%s", name),
		.module = model->module,
		.file = file,
		.line = line,
		.last = line,
		.inlined = true,
	};
	coverage->functions++;
	lh__cover_enter(model, &model->names, key, false, index);
	return index;
}

uint32_t lh__cover_function(struct lh_cover_model *model, const char *name, uint32_t file, uint32_t line)
{
	const void *key = key_of(name, file, line);
	uint32_t index = find(model, key, name, file, line);

	return index != LH_COVER_NONE ? index : make(model, key, name, file, line);
}

void lh__cover_add_copy(struct lh_cover_model *model, uint32_t index, uint64_t low, uint64_t high)
{
	model->coverage.function[index].hit |= lh__cover_ran(&model->code, low, high);
}

void lh__cover_add_code(struct lh_cover_model *model, uint32_t index, uint64_t low, uint64_t high)
{
	struct lh_cover_function *function = &model->coverage.function[index];

	lh__cover_add_copy(model, index, low, high);
	if (!function->size) {
		function->address = low;
		function->size = high - low;
		function->inlined = false;
	}
	lh__cover_function_code(model, function, low, high);
}

/* ---- without debug information ---- */

/* is_part: of the function of that name, where there is one. Otherwise several may have one name. */
static void add_plain(struct lh_cover_model *model, const char *name, uint64_t address, uint64_t size,
                      bool is_part)
{
	uint32_t index;

	if (!size || !lh__cover_starts(&model->code, address, address + size))
		return;
	/* What a symbol has named, .eh_frame finds again. */
	if (lh__cover_lookup(&model->origins, (const void *)(uintptr_t)address, false))
		return;
	lh__cover_enter(model, &model->origins, (const void *)(uintptr_t)address, false, 0);
	index = is_part ? lh__cover_function(model, name, LH_COVER_NONE, 0)
	                : make(model, key_of(name, LH_COVER_NONE, 0), name, LH_COVER_NONE, 0);
	if (index != LH_COVER_NONE)
		lh__cover_add_code(model, index, address, address + size);
}

struct symbol {
	const char *name;
	uint64_t address, size;
	bool global;
};

/* By address; of several names for one, the one that others may use, then the shortest. */
static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;
	size_t one, other;

	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	if (x->global != y->global)
		return x->global ? -1 : 1;
	one = strlen(x->name);
	other = strlen(y->name);
	return one != other ? (one < other ? -1 : 1) : strcmp(x->name, y->name);
}

static bool to_symbol(Elf *elf, size_t strings, const GElf_Sym *from, struct symbol *to)
{
	int type = GELF_ST_TYPE(from->st_info);

	if ((type != STT_FUNC && type != STT_GNU_IFUNC) || from->st_shndx == SHN_UNDEF || !from->st_value)
		return false;
	*to = (struct symbol){ elf_strptr(elf, strings, from->st_name), from->st_value, from->st_size,
		               GELF_ST_BIND(from->st_info) != STB_LOCAL };
	return to->name && *to->name;
}

/* The end of a function's own name, where gcc has appended what a part or copy of it is; or NULL. */
static const char *suffix_of(const char *name)
{
	static const char *const words[] = { "cold", "part.", "isra.", "constprop." };

	for (const char *dot = strchr(name + 1, '.'); dot; dot = strchr(dot + 1, '.'))
		for (size_t i = 0; i < sizeof words / sizeof *words; i++)
			if (!strncmp(dot + 1, words[i], strlen(words[i])))
				return dot;
	return NULL;
}

/* Those with names of their own first, so that parts find what they are of. */
static void add_symbols(struct lh_cover_model *model, const struct symbol *symbols, size_t n, bool parts)
{
	for (size_t i = 0; i < n; i++) {
		const struct symbol *symbol = &symbols[i];
		const char *end = suffix_of(symbol->name), *name = symbol->name;

		if ((end != NULL) != parts || (i && symbol->address == symbols[i - 1].address))
			continue;
		if (end)
			name = lh__cover_text(model, "%.*s", (int)(end - name), name);
		add_plain(model, lh__cover_demangle(model, name), symbol->address, symbol->size, parts);
	}
}

/* The functions of one symbol table; false: there is no such table, or nothing in it. */
static bool read_table(struct lh_cover_model *model, Elf *elf, unsigned type)
{
	Elf_Scn *section = NULL;
	GElf_Shdr header;
	struct symbol *symbols;
	Elf_Data *data;
	size_t n = 0, all;

	while ((section = elf_nextscn(elf, section)))
		if (gelf_getshdr(section, &header) && header.sh_type == type && header.sh_entsize)
			break;
	data = section ? elf_getdata(section, NULL) : NULL;
	if (!data)
		return false;
	all = data->d_size / sizeof(Elf64_Sym);
	symbols = calloc(all + 1, sizeof *symbols);
	if (!symbols) {
		model->failed = true;
		return false;
	}
	for (size_t i = 0; i < all; i++) {
		GElf_Sym symbol;

		n += gelf_getsym(data, (int)i, &symbol) &&
		     to_symbol(elf, header.sh_link, &symbol, &symbols[n]);
	}
	qsort(symbols, n, sizeof *symbols, by_address);
	add_symbols(model, symbols, n, false);
	add_symbols(model, symbols, n, true);
	free(symbols);
	return n > 0;
}

static int found_frame(void *context, const struct lh_function *function)
{
	struct lh_cover_model *model = context;

	add_plain(model, lh__cover_text(model, "0x%lx", function->address), function->address, function->size,
	          false);
	return model->failed ? -ENOMEM : 0;
}

static void read_frames(struct lh_cover_model *model, int file)
{
	struct stat status;
	void *bytes;
	long n;

	if (fstat(file, &status) || status.st_size <= 0)
		return;
	bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
	if (bytes == MAP_FAILED)
		return;
	/* A file without frames has no plan, so this cannot fail but for want of memory, which is noted. */
	n = lh__functions(&lh__sys_default, bytes, (size_t)status.st_size, found_frame, model);
	(void)n;
	munmap(bytes, (size_t)status.st_size);
}

void lh__cover_symbols(struct lh_cover_model *model, const struct lh_cover_debug *debug, int file)
{
	if (!(debug->separate && read_table(model, debug->separate, SHT_SYMTAB)) &&
	    !read_table(model, debug->elf, SHT_SYMTAB))
		read_table(model, debug->elf, SHT_DYNSYM);
	read_frames(model, file);
	lh__cover_empty(&model->origins);
}
