/*
 * symbol.c - see symbol.h. By elfutils, which reads symbol tables and debug information, also of static
 * functions.
 */
#include "service/pool/symbol.h"

#include <elfutils/libdwfl.h>
#include <string.h>
#include <unistd.h>

#include "sys/sys.h"

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static void describe(Dwfl_Module *module, Dwarf_Addr code, char *out, size_t size)
{
	GElf_Sym symbol;
	GElf_Off offset = 0;
	const char *name = dwfl_module_addrinfo(module, code, &offset, &symbol, NULL, NULL, NULL);
	Dwfl_Line *line = dwfl_module_getsrc(module, code);
	Dwarf_Addr start;
	int number = 0;
	const char *file = line ? dwfl_lineinfo(line, NULL, &number, NULL, NULL, NULL) : NULL;
	const char *object = dwfl_module_info(module, NULL, &start, NULL, NULL, NULL, NULL, NULL);

	if (name && file)
		lh__format(out, size, "%s+0x%lx (%s:%d)", name, (unsigned long)offset, base_name(file),
		           number);
	else if (name)
		lh__format(out, size, "%s+0x%lx (%s)", name, (unsigned long)offset, base_name(object));
	else
		lh__format(out, size, "%s+0x%lx", base_name(object), (unsigned long)(code - start));
}

void lh__symbol_describe(uintptr_t code, char *out, size_t size)
{
	static const Dwfl_Callbacks callbacks = {
		.find_elf = dwfl_linux_proc_find_elf,
		.find_debuginfo = dwfl_standard_find_debuginfo,
	};
	Dwfl *dwfl = dwfl_begin(&callbacks);
	Dwfl_Module *module = NULL;

	if (dwfl && dwfl_linux_proc_report(dwfl, getpid()) == 0 && dwfl_report_end(dwfl, NULL, NULL) == 0)
		module = dwfl_addrmodule(dwfl, code);
	if (module)
		describe(module, code, out, size);
	else
		lh__format(out, size, "code at 0x%lx", (unsigned long)code);
	if (dwfl)
		dwfl_end(dwfl);
}
