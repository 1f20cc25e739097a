/*
 * text.c - the lines of a range of code: what a trap is answered with, and how bytes come and go. See text.h.
 *
 * Bytes are exchanged, not stored: INT3 for the original first byte when a span is supplied, the other way
 * round when it is taken away. What is neither was put there by somebody else, a patch or a debugger, and
 * stays; also when that happens between the look at it and the store.
 */
#include "port/code/text.h"

static uint32_t text_size(const struct lh_text *text)
{
	return (uint32_t)(text->end - text->start);
}

static bool bit(const uint64_t *bitmap, uint32_t at)
{
	return bitmap[at / 64] >> (at % 64) & 1;
}

/* The first bit that is set at or behind `at`, or size. */
static uint32_t next_bit(const uint64_t *bitmap, uint32_t at, uint32_t size)
{
	uint32_t word = at / 64, words = size / 64;
	uint64_t bits;

	if (at >= size)
		return size;
	bits = bitmap[word] & ~0ull << (at % 64);
	while (!bits) {
		if (++word >= words)
			return size;
		bits = bitmap[word];
	}
	return word * 64 + (uint32_t)__builtin_ctzll(bits);
}

static struct lh_span line_span(const struct lh_text *text, uint32_t at)
{
	uint64_t bits = text->armed[at / 64];
	uint32_t line = at & ~63u;

	if (!bits)
		return (struct lh_span){ at, at };
	return (struct lh_span){ line + (uint32_t)__builtin_ctzll(bits),
		                 line + 63 - (uint32_t)__builtin_clzll(bits) };
}

static struct lh_span block_span(const struct lh_text *text, uint32_t at)
{
	uint32_t end = next_bit(text->ends, at, text_size(text));

	return (struct lh_span){ at, end < text_size(text) ? end : end - 1 };
}

struct lh_span lh__text_span(const struct lh_text *text, uint32_t at, enum lh_granularity granularity)
{
	return granularity == LH_GRANULARITY_LINE ? line_span(text, at) : block_span(text, at);
}

/* Where the instruction at `at` is sure to lead: that of a direct jump or call; else the text's size. */
static uint32_t sure_target(const struct lh_text *text, uint32_t at)
{
	uint32_t size = text_size(text);
	const uint8_t *code = text->original;
	int64_t target;

	while (at < size && code[at] == 0xf2) /* bnd */
		at++;
	if (at + 5 <= size && (code[at] == 0xe8 || code[at] == 0xe9)) {
		int32_t distance;

		__builtin_memcpy(&distance, code + at + 1, sizeof distance);
		target = (int64_t)at + 5 + distance;
	} else if (at + 2 <= size && code[at] == 0xeb) {
		target = (int64_t)at + 2 + (int8_t)code[at + 1];
	} else {
		return size;
	}
	return target >= 0 && target < size ? (uint32_t)target : size;
}

static bool begins_one(const struct lh_span *spans, unsigned count, uint32_t at)
{
	while (count > 0)
		if (spans[--count].from == at)
			return true;
	return false;
}

unsigned lh__text_miss(const struct lh_text *text, uint32_t at, enum lh_granularity granularity,
                       struct lh_span spans[LH_SPANS])
{
	unsigned count = 0;

	if (!bit(text->armed, at))
		return 0;
	spans[count++] = lh__text_span(text, at, granularity);
	while (granularity == LH_GRANULARITY_BLOCK && count < LH_SPANS) {
		at = sure_target(text, spans[count - 1].to);
		if (at >= text_size(text) || !bit(text->armed, at) ||
		    __atomic_load_n(&text->hits[at / 64], __ATOMIC_RELAXED) >> (at % 64) & 1 ||
		    begins_one(spans, count, at))
			break;
		spans[count++] = block_span(text, at);
	}
	return count;
}

bool lh__text_record(const struct lh_text *text, uint32_t at)
{
	uint64_t *word = &text->hits[at / 64], mask = 1ull << (at % 64);

	/* Most are known: no need to take the cache line from other processors. */
	if (__atomic_load_n(word, __ATOMIC_RELAXED) & mask)
		return false;
	return !(__atomic_fetch_or(word, mask, __ATOMIC_SEQ_CST) & mask);
}

static void exchange(const struct lh_text *text, uint8_t *code, struct lh_span span, bool supply)
{
	uint32_t size = text_size(text), at;

	for (at = next_bit(text->armed, span.from, size); at <= span.to && at < size;
	     at = next_bit(text->armed, at + 1, size)) {
		uint8_t original = text->original[at], old = supply ? LH_INT3 : original;

		if (__atomic_load_n(&code[at], __ATOMIC_RELAXED) == old)
			(void)__atomic_compare_exchange_n(&code[at], &old, supply ? original : LH_INT3, false,
			                                  __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	}
}

void lh__text_supply(const struct lh_text *text, uint8_t *code, struct lh_span span)
{
	exchange(text, code, span, true);
}

void lh__text_take(const struct lh_text *text, uint8_t *code, struct lh_span span)
{
	exchange(text, code, span, false);
}
