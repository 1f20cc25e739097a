/*
 * fuzz_where.c - of a block: which function, which line of source. By elfutils, from the files as they lie
 * on disk, each read when it is asked for first.
 */
#include "service/code/fuzz_inside.h"

#include <elfutils/libdwfl.h>
#include <stdlib.h>
#include <string.h>

struct lh_fuzz_names {
	Dwfl *dwfl;
	struct known {
		const char *path;    /* the record's */
		Dwfl_Module *module; /* NULL: it cannot be read */
		struct known *next;
	} * known;
};

static const Dwfl_Callbacks callbacks = { .find_elf = dwfl_build_id_find_elf,
	                                  .find_debuginfo = dwfl_standard_find_debuginfo,
	                                  .section_address = dwfl_offline_section_address };

static struct lh_fuzz_names *names_of(struct lh_cover *cover)
{
	struct lh_fuzz_names *names = cover->names;

	if (names)
		return names;
	names = calloc(1, sizeof(*names));
	if (!names)
		return NULL;
	names->dwfl = dwfl_begin(&callbacks);
	if (!names->dwfl) {
		free(names);
		return NULL;
	}
	cover->names = names;
	return names;
}

static Dwfl_Module *module_of(struct lh_cover *cover, const char *path)
{
	struct lh_fuzz_names *names = names_of(cover);
	struct known *known = names ? names->known : NULL;

	while (known && known->path != path)
		known = known->next;
	if (known)
		return known->module;
	known = names ? calloc(1, sizeof(*known)) : NULL;
	if (!known)
		return NULL;
	dwfl_report_begin_add(names->dwfl);
	*known = (struct known){ path, dwfl_report_offline(names->dwfl, path, path, -1), names->known };
	dwfl_report_end(names->dwfl, NULL, NULL);
	names->known = known;
	return known->module;
}

/* Unit by unit: not all compilers write the table that says which unit an address is of. */
static void find_line(Dwfl_Module *module, uint64_t address, struct lh_cover_where *where)
{
	Dwarf_Die *unit = NULL;
	Dwarf_Addr bias;
	Dwarf_Line *line;
	int number = 0;

	while ((unit = dwfl_module_nextcu(module, unit, &bias)))
		if (dwarf_haspc(unit, address - bias) > 0) {
			line = dwarf_getsrc_die(unit, address - bias);
			where->file = line ? dwarf_linesrc(line, NULL, NULL) : NULL;
			if (line && dwarf_lineno(line, &number) == 0 && number > 0)
				where->line = (unsigned)number;
			return;
		}
}

void lh_cover_locate(struct lh_cover *cover, const struct lh_cover_place *place, struct lh_cover_where *where)
{
	Dwfl_Module *module = module_of(cover, place->module);
	GElf_Addr bias = 0;
	GElf_Sym symbol;

	*where = (struct lh_cover_where){ 0 };
	if (!module || !dwfl_module_getelf(module, &bias))
		return;
	where->function = dwfl_module_addrinfo(module, place->address + bias, &where->offset, &symbol, NULL,
	                                       NULL, NULL);
	if (!where->function)
		where->offset = 0;
	find_line(module, place->address + bias, where);
}

void lh__fuzz_forget_names(struct lh_cover *cover)
{
	struct lh_fuzz_names *names = cover->names;

	if (!names)
		return;
	while (names->known) {
		struct known *next = names->known->next;

		free(names->known);
		names->known = next;
	}
	dwfl_end(names->dwfl);
	free(names);
	cover->names = NULL;
}
