/*
 * eax.c - finds constants in the ways in which compilers and libraries write them: mov and xor.
 */
#include "code/eax.h"

#include <string.h>

enum lh_eax lh__effect_on_eax(const ZydisDecoder *decoder, const uint8_t *code, size_t length, int32_t *value)
{
	ZydisDecodedInstruction decoded;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];

	if (length == 5 && code[0] == 0xb8) {
		memcpy(value, code + 1, 4);
		return LH_EAX_SET;
	}
	if (length == 7 && code[0] == 0x48 && code[1] == 0xc7 && code[2] == 0xc0) {
		memcpy(value, code + 3, 4);
		return LH_EAX_SET;
	}
	if (length == 2 && (code[0] == 0x31 || code[0] == 0x33) && code[1] == 0xc0) {
		*value = 0;
		return LH_EAX_SET;
	}
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, code, length, &decoded, operand)))
		return LH_EAX_UNKNOWN;
	/* The kernel leaves its result there. */
	if (decoded.meta.category == ZYDIS_CATEGORY_SYSCALL ||
	    decoded.meta.category == ZYDIS_CATEGORY_INTERRUPT)
		return LH_EAX_UNKNOWN;
	for (int i = 0; i < decoded.operand_count; i++)
		if (operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    operand[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operand[i].reg.value) ==
		            ZYDIS_REGISTER_RAX)
			return LH_EAX_UNKNOWN;
	return LH_EAX_KEPT;
}
