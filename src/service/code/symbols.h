/*
 * symbols.h - names in the modules of a process: where a function or variable is, and which function is
 * where.
 *
 * By elfutils: .symtab of the file or of its separate debug file, else .dynsym. Names may be written
 * "MODULE!NAME", MODULE being the file's name without its folders ("libc.so.6"), or any beginning of it that
 * ends before a dot or dash ("libc").
 */
#ifndef LH_SERVICE_CODE_SYMBOLS_H
#define LH_SERVICE_CODE_SYMBOLS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "sys/sys.h"

struct lh_symbols;

struct lh_symbol {
	const char *name, *module;               /* hold until the handle is closed */
	uint64_t address, size;                  /* in the process */
	uint64_t bias;                           /* address less what the file says */
	bool is_function, is_local, is_indirect; /* is_indirect: an ifunc, its address is the resolver's */
};

/* Of a process, stopped or not, as its mappings are now. */
int lh__symbols_open(pid_t process, struct lh_symbols **out, struct lh_error *error) LH_MUST_CHECK;
void lh__symbols_close(struct lh_symbols *symbols);
/*
 * Calls found for each symbol of that name, the program's first, then in the order of mapping, until it
 * returns non-zero, which is returned; else 0. Two names of one address are one symbol.
 */
int lh__symbols_find(struct lh_symbols *symbols, const char *name,
                     int (*found)(void *context, const struct lh_symbol *symbol),
                     void *context) LH_MUST_CHECK;
/* The function or variable that an address lies in; false: none. */
bool lh__symbols_at(struct lh_symbols *symbols, uint64_t address, struct lh_symbol *out);
/* The build id of a module (by the address of anything in it): bytes, at most 64; 0: it has none. */
size_t lh__symbols_build(struct lh_symbols *symbols, uint64_t address, uint8_t id[64]);
/* The nearest name to one that was not found, or NULL; for messages. */
const char *lh__symbols_nearest(struct lh_symbols *symbols, const char *name);

#endif
