/*
 * coverage_names.c - the names of functions as a person writes them.
 *
 * No demangler is linked. Debug information has the names anyway, and what they stand in: the scopes of a
 * unit's functions (namespaces, classes, Rust's crates and modules) are noted before the functions are read,
 * for a function refers to its declaration, and that does not say what it stands in. Parameters are not told.
 * Symbols without debug information are read as far as they are nothing but nested names, as Rust's older
 * ones and many of C++ are.
 */
#include <dwarf.h>
#include <string.h>

#include "service/code/coverage_model.h"

#define DEEPEST 200u

static const char *own_name(Dwarf_Die *die)
{
	Dwarf_Attribute attribute;

	return dwarf_formstring(dwarf_attr(die, DW_AT_name, &attribute));
}

static bool is_scope(int tag)
{
	return tag == DW_TAG_namespace || tag == DW_TAG_module || tag == DW_TAG_structure_type ||
	       tag == DW_TAG_class_type || tag == DW_TAG_union_type || tag == DW_TAG_enumeration_type;
}

static const char *scope_text(struct lh_cover_model *model, Dwarf_Die *die, const char *outer)
{
	const char *name = own_name(die);

	if (!name)
		name = dwarf_tag(die) == DW_TAG_namespace ? "(anonymous namespace)" : "(unnamed)";
	return lh__cover_text(model, "%s%s::", outer, name);
}

/* Remembers for each function the scopes in front of its name; those outside of all have none. */
static void note_scopes(struct lh_cover_model *model, Dwarf_Die *die, const char *scope, unsigned depth)
{
	Dwarf_Die child;

	if (depth > DEEPEST || dwarf_child(die, &child))
		return;
	do {
		int tag = dwarf_tag(&child);

		if (tag == DW_TAG_subprogram && *scope)
			lh__cover_enter(model, &model->scopes, child.addr, false, (uintptr_t)scope);
		if (is_scope(tag) && dwarf_haschildren(&child) > 0)
			note_scopes(model, &child, scope_text(model, &child, scope), depth + 1);
		else if (tag == DW_TAG_subprogram || tag == DW_TAG_lexical_block)
			note_scopes(model, &child, scope, depth + 1);
	} while (!dwarf_siblingof(&child, &child));
}

void lh__cover_scopes(struct lh_cover_model *model, Dwarf_Die *unit)
{
	note_scopes(model, unit, "", 0);
}

const char *lh__cover_name(struct lh_cover_model *model, Dwarf_Die *die, const char *linkage)
{
	const uint64_t *scope = lh__cover_lookup(&model->scopes, die->addr, false);
	const char *name = own_name(die);

	if (!name)
		return linkage ? lh__cover_demangle(model, linkage) : "(unnamed)";
	return scope ? lh__cover_text(model, "%s%s", (const char *)(uintptr_t)*scope, name) : name;
}

/* ---- symbols ---- */

/* Rust's names end in a hash of 16 digits that says nothing to anybody. */
static bool is_hash(const char *name, size_t size)
{
	return size == 17 && *name == 'h' && strspn(name + 1, "0123456789abcdef") >= 16;
}

/* The characters that Rust's older mangling writes as $..$, and ".." for "::". Returns what was read. */
static size_t unescape(const char *from, size_t left, const char **to)
{
	static const struct {
		const char *code, *text;
	} codes[] = {
		{ "$LT$", "<" },  { "$GT$", ">" },  { "$RF$", "&" },  { "$BP$", "*" },  { "$C$", "," },
		{ "$LP$", "(" },  { "$RP$", ")" },  { "$SP$", "@" },  { "$u20$", " " }, { "$u27$", "'" },
		{ "$u3b$", ";" }, { "$u5b$", "[" }, { "$u5d$", "]" }, { "$u7b$", "{" }, { "$u7d$", "}" },
		{ "$u7e$", "~" }, { "..", "::" },
	};

	for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
		size_t size = strlen(codes[i].code);

		if (size <= left && !memcmp(from, codes[i].code, size)) {
			*to = codes[i].text;
			return size;
		}
	}
	*to = NULL;
	return 1;
}

static char *append_part(char *to, const char *name, size_t size)
{
	const char *text;

	/* An identifier may not begin with what an escape begins with, so "_" stands in front. */
	if (size > 1 && name[0] == '_' && name[1] == '$') {
		name++;
		size--;
	}
	for (size_t i = 0, step; i < size; i += step) {
		step = unescape(name + i, size - i, &text);
		if (text)
			to = stpcpy(to, text);
		else
			*to++ = name[i];
	}
	return to;
}

const char *lh__cover_demangle(struct lh_cover_model *model, const char *symbol)
{
	const char *at = symbol + 3;
	char *out, *to;

	if (strncmp(symbol, "_ZN", 3))
		return symbol;
	out = to = lh__cover_alloc(model, strlen(symbol) * 2 + 1);
	while (out && *at >= '1' && *at <= '9') {
		size_t size = 0;

		for (; *at >= '0' && *at <= '9' && size < 65536; at++)
			size = size * 10 + (size_t)(*at - '0');
		if (size > strlen(at))
			return symbol;
		if (!is_hash(at, size) || at[size] != 'E') {
			to = to == out ? to : stpcpy(to, "::");
			to = append_part(to, at, size);
		}
		at += size;
	}
	return out && *at == 'E' && to != out ? out : symbol;
}
