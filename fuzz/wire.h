/*
 * wire.h - what the two wire fuzzers share: input that is made to pass checksums, so that what lies behind is
 * reached.
 */
#ifndef FUZZ_WIRE_H
#define FUZZ_WIRE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/data/wire.h"

#define FUZZ_MAX 65536u

#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

/* Gives one message right checksums, and, unless its sequence is to stay, the number sequence. */
static inline void mend_message(uint8_t *message, size_t size, uint64_t sequence)
{
	uint8_t *set = message + LH_WIRE_HEADER;
	uint32_t crc;

	if (size >= LH_WIRE_HEADER + LH_LINESET_HEADER_SIZE) {
		crc = lh__crc32c(lh__crc32c(0, set, 20), set + LH_LINESET_HEADER_SIZE,
		                 size - LH_WIRE_HEADER - LH_LINESET_HEADER_SIZE);
		memcpy(set + 20, &crc, sizeof crc);
	}
	lh__wire_renumber(message, sequence);
}

/* Gives a hello, and the name behind it as far as there is one, right checksums. */
static inline void mend_hello(uint8_t *bytes, size_t size)
{
	uint16_t name;
	uint32_t crc;

	if (size < LH_WIRE_HELLO)
		return;
	memcpy(&name, bytes + 50, sizeof name);
	if (name > size - LH_WIRE_HELLO)
		name = (uint16_t)(size - LH_WIRE_HELLO);
	crc = lh__crc32c(0, bytes + LH_WIRE_HELLO, name);
	memcpy(bytes + 52, &crc, sizeof crc);
	memset(bytes + 12, 0, sizeof crc);
	crc = lh__crc32c(0, bytes, LH_WIRE_HELLO);
	memcpy(bytes + 12, &crc, sizeof crc);
}

/* Mends all whole messages of a stream, numbering them 1, 2, 3... */
static inline void mend_stream(uint8_t *bytes, size_t size)
{
	uint64_t sequence = 0;
	long length;

	while ((length = lh__wire_size(bytes, size)) > 0 && (size_t)length <= size) {
		mend_message(bytes, (size_t)length, ++sequence);
		bytes += length;
		size -= (size_t)length;
	}
}

#endif
