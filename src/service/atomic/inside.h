/* inside.h - what the files about brackets share. */
#ifndef LH_SERVICE_ATOMIC_INSIDE_H
#define LH_SERVICE_ATOMIC_INSIDE_H

#include "service/atomic/bracket.h"

/* ---- entry.S */
extern const char lh__bracket_entry[];

/* ---- bracket.c */
extern uint8_t lh__bracket_widths; /* of vector registers: bits that entry.S knows */
/* The bracket at an address, made where there is none; NULL: there are too many. */
struct lh_bracket *lh__bracket_of(uint64_t address, const char *name);
void lh__bracket_enter(struct lh_bracket *bracket, uint64_t stack_pointer);
/* Whether the thread is still translated. */
int lh__bracket_leave(void);

#endif
