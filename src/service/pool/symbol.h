/* symbol.h - what a person calls a place in this process's code. */
#ifndef LH_POOL_SYMBOL_H
#define LH_POOL_SYMBOL_H

#include <stddef.h>
#include <stdint.h>

/*
 * Writes "function+0x12 (file.c:34)" into out, or as much of it as the program's symbols and debug
 * information tell, and where they tell nothing the object's name and the offset in it; always terminated.
 * Allocates, and reads files.
 */
void lh__symbol_describe(uintptr_t code, char *out, size_t size);

#endif
