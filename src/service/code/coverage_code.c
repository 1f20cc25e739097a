/*
 * coverage_code.c - what of a module's code ran: from hits to instructions.
 *
 * A hit stands for a span: from it to the next instruction that ends a block, or all of a line (text.h). What
 * ran is the union, kept as a bitmap beside that of all instruction starts, so that whoever asks about a
 * range of addresses gets his answer from a few words.
 */
#include <Zydis/Zydis.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "port/code/text.h"
#include "service/code/coverage_model.h"

#define LONGEST_INSTRUCTION 15u
#define CODE_LINE 64u

static bool bit(const uint64_t *bitmap, uint64_t at)
{
	return bitmap[at / 64] >> at % 64 & 1;
}

/* The bits of a word that lie in [from, to), both counted from the bitmap's beginning. */
static uint64_t part(const uint64_t *bitmap, uint64_t word, uint64_t from, uint64_t to)
{
	uint64_t bits = bitmap[word];

	if (word == from / 64)
		bits &= ~UINT64_C(0) << from % 64;
	if (word == to / 64)
		bits &= ~(~UINT64_C(0) << to % 64);
	return bits;
}

static bool any(const uint64_t *bitmap, uint64_t from, uint64_t to)
{
	for (uint64_t word = from / 64; word * 64 < to; word++)
		if (part(bitmap, word, from, to))
			return true;
	return false;
}

static uint64_t count(const uint64_t *bitmap, uint64_t from, uint64_t to)
{
	uint64_t n = 0;

	for (uint64_t word = from / 64; word * 64 < to; word++)
		n += (unsigned)__builtin_popcountll(part(bitmap, word, from, to));
	return n;
}

/* The first bit that is set in [from, to), or to. */
static uint64_t next(const uint64_t *bitmap, uint64_t from, uint64_t to)
{
	for (uint64_t word = from / 64; word * 64 < to; word++) {
		uint64_t bits = part(bitmap, word, from, to);

		if (bits)
			return word * 64 + (unsigned)__builtin_ctzll(bits);
	}
	return to;
}

/* Of [low, high), what lies in a text: its range there, [*from, *to). */
static const struct lh_cover_text *clip(const struct lh_cover_code *code, uint64_t low, uint64_t high,
                                        uint64_t *from, uint64_t *to)
{
	for (unsigned i = 0; i < code->texts && low < high; i++) {
		const struct lh_cover_text *text = &code->text[i];
		uint64_t end = text->address + text->size;

		if (low >= end || high <= text->address)
			continue;
		*from = low > text->address ? low - text->address : 0;
		*to = (high < end ? high : end) - text->address;
		return text;
	}
	return NULL;
}

const struct lh_cover_text *lh__cover_at(const struct lh_cover_code *code, uint64_t address, uint64_t *at)
{
	uint64_t to;

	return clip(code, address, address + 1, at, &to);
}

bool lh__cover_starts(const struct lh_cover_code *code, uint64_t low, uint64_t high)
{
	uint64_t from, to;
	const struct lh_cover_text *text = clip(code, low, high, &from, &to);

	return text && any(text->starts, from, to);
}

bool lh__cover_ran(const struct lh_cover_code *code, uint64_t low, uint64_t high)
{
	uint64_t from, to;
	const struct lh_cover_text *text = clip(code, low, high, &from, &to);

	return text && any(text->ran, from, to);
}

/* ---- blocks ---- */

/* Blocks that begin in [from, to), and those of them in which an instruction ran. */
static void count_blocks(const struct lh_cover_text *text, uint64_t from, uint64_t to, uint32_t *blocks,
                         uint32_t *hit)
{
	uint64_t head = next(text->heads, from, to), after;

	for (; head < to; head = after) {
		after = next(text->heads, head + 1, to);
		(*blocks)++;
		*hit += any(text->ran, head, after);
	}
}

/* A cell for each 64 bytes of code that the function touches: how many of its instructions there ran. */
static void add_heat(struct lh_cover_model *model, struct lh_cover_function *function,
                     const struct lh_cover_text *text, uint64_t from, uint64_t to)
{
	uint64_t first = from / CODE_LINE, last = (to - 1) / CODE_LINE;
	uint8_t *heat = lh__cover_alloc(model, last - first + 1);

	if (!heat)
		return;
	for (uint64_t line = first; line <= last; line++) {
		uint64_t low = line * CODE_LINE > from ? line * CODE_LINE : from;
		uint64_t high = (line + 1) * CODE_LINE < to ? (line + 1) * CODE_LINE : to;
		uint64_t ran = count(text->ran, low, high), all = count(text->starts, low, high);

		if (ran)
			heat[line - first] = (uint8_t)(1 + ran * 254 / all);
	}
	function->heat = heat;
	function->code_lines = (uint32_t)(last - first + 1);
}

void lh__cover_function_code(struct lh_cover_model *model, struct lh_cover_function *function, uint64_t low,
                             uint64_t high)
{
	uint64_t from, to;
	const struct lh_cover_text *text = clip(&model->code, low, high, &from, &to);

	if (!text)
		return;
	count_blocks(text, from, to, &function->blocks, &function->blocks_hit);
	if (function->address == low && !function->heat)
		add_heat(model, function, text, from, to);
}

/* Where the instruction at `at` ends. */
static uint64_t after(const struct lh_cover_text *text, uint64_t at)
{
	uint64_t left = text->size - at;
	ZydisDecodedInstruction instruction;
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&decoder, NULL, text->original + at,
	                                              left < LONGEST_INSTRUCTION ? left : LONGEST_INSTRUCTION,
	                                              &instruction)))
		return at + 1;
	return at + instruction.length;
}

static void add_block(struct lh_cover_model *model, unsigned which, uint64_t from, uint64_t to)
{
	struct lh_coverage *coverage = &model->coverage;

	if (!lh__cover_grow(model, &coverage->block, coverage->blocks, &model->room_blocks,
	                    sizeof *coverage->block))
		return;
	coverage->block[coverage->blocks++] = (struct lh_cover_block){
		.module = model->module,
		.text = which,
		.address = model->code.text[which].address + from,
		.size = (uint32_t)(to - from),
	};
}

/* ---- hits ---- */

static void mark(struct lh_cover_text *text, uint64_t from, uint64_t to)
{
	for (uint64_t word = from / 64; word * 64 < to; word++)
		text->ran[word] |= part(text->starts, word, from, to);
}

/*
 * A hit that is no instruction start is none: a record may be damaged. A span reaches to the end of its last
 * instruction, which is also where its block in the list ends.
 */
static void add_hits(struct lh_cover_model *model, unsigned which, uint64_t *hits,
                     enum lh_granularity granularity)
{
	struct lh_cover_text *text = &model->code.text[which];
	struct lh_text of_plan;

	lh__plan_text(&model->code.plan, which, 0, hits, &of_plan);
	for (uint64_t at = next(hits, 0, text->size); at < text->size; at = next(hits, at + 1, text->size)) {
		struct lh_span span;

		if (!bit(text->starts, at))
			continue;
		span = lh__text_span(&of_plan, (uint32_t)at, granularity);
		mark(text, span.from, (uint64_t)span.to + 1);
		add_block(model, which, span.from, after(text, span.to));
	}
}

static bool same_texts(const struct lh_plan_head *plan, const struct lh_record_module *module)
{
	if (plan->id_size != module->id_size || memcmp(plan->id, module->id, sizeof plan->id) ||
	    plan->texts != module->texts)
		return false;
	for (unsigned i = 0; i < plan->texts; i++)
		if (plan->text[i].address != module->text[i].address ||
		    plan->text[i].size != module->text[i].size)
			return false;
	return true;
}

static void open_text(struct lh_cover_model *model, unsigned which)
{
	const struct lh_plan_head *plan = model->code.plan.head;
	const struct lh_plan_text *from = &plan->text[which];
	const uint8_t *base = (const uint8_t *)plan;

	model->code.text[which] = (struct lh_cover_text){
		.address = from->address,
		.size = from->size,
		.starts = (const uint64_t *)(base + from->starts),
		.heads = (const uint64_t *)(base + from->heads),
		.original = base + from->original,
		.ran = calloc(from->size / 64 + 1, sizeof(uint64_t)),
	};
	if (!model->code.text[which].ran)
		model->failed = true;
}

int lh__cover_code_open(struct lh_cover_model *model, int file, const struct lh_record_view *view,
                        enum lh_granularity granularity)
{
	struct lh_cover_module *module = &model->coverage.module[model->module];
	struct lh_cover_code *code = &model->code;
	int status;

	*code = (struct lh_cover_code){ 0 };
	status = lh__plan_open(&lh__sys_default, file, module->path, &code->plan, NULL);
	if (status < 0)
		return status;
	code->planned = true;
	if (!same_texts(code->plan.head, view->head))
		return -ESTALE;
	code->texts = code->plan.head->texts;
	for (unsigned i = 0; i < code->texts; i++)
		open_text(model, i);
	for (unsigned i = 0; i < code->texts && !model->failed; i++) {
		add_hits(model, i, view->hits[i], granularity);
		count_blocks(&code->text[i], 0, code->text[i].size, &module->blocks, &module->blocks_hit);
	}
	return 0;
}

void lh__cover_code_close(struct lh_cover_model *model)
{
	struct lh_cover_code *code = &model->code;

	for (unsigned i = 0; i < code->texts; i++)
		free(code->text[i].ran);
	if (code->planned)
		lh__plan_close(&lh__sys_default, &code->plan);
	*code = (struct lh_cover_code){ 0 };
}
