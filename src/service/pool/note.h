/*
 * note.h - by which it is known that an object has the library in it, be it stripped or not.
 *
 * A program that has it linked in statically, and is loaded together with liblinehome.so besides, has two of
 * it: two lists of the pools that are open, and two translators.
 */
#ifndef LH_POOL_NOTE_H
#define LH_POOL_NOTE_H

#include <elf.h>

#define LH_NOTE_NAME "Linehome"
#define LH_NOTE_TYPE 1u
struct lh_note {
	Elf64_Nhdr head;
	char name[12];
	uint32_t content;
};

#endif
