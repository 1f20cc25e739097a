/*
 * eax.h - what an instruction does to eax: before a `syscall` it says which call that is.
 */
#ifndef LH_CODE_EAX_H
#define LH_CODE_EAX_H

#include <Zydis/Decoder.h>
#include <stdint.h>

enum lh_eax { LH_EAX_KEPT, LH_EAX_SET, LH_EAX_UNKNOWN };

/* SET: to *value, of which all 32 bits are known; UNKNOWN: to something else, or code is no instruction. */
enum lh_eax lh__effect_on_eax(const ZydisDecoder *decoder, const uint8_t *code, size_t length,
                              int32_t *value);

#endif
