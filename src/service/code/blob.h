/*
 * blob.h - the inside agent (port/code/inside.h) as it is put into programs: an ELF shared object for x86-64
 * that needs nothing. Its relocations are all R_X86_64_RELATIVE, its dynamic symbols lh_inside_start and
 * lh_inside_stop; its segments begin at multiples of 4096. blob.S holds it.
 */
#ifndef LH_SERVICE_CODE_BLOB_H
#define LH_SERVICE_CODE_BLOB_H

#include <stdint.h>

extern const uint8_t lh__inside_blob[], lh__inside_blob_end[];

#endif
