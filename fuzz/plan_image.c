/*
 * plan_image.c - fuzzes what is believed of an ELF file's code: the reader of functions and the making of a
 * plan from whatever bytes. Whatever they are:
 *   - nothing crashes, hangs, or reads beyond the file;
 *   - functions are told in order, without overlaps and inside the file, and the table finds nothing else;
 *   - a plan that is made is a good one; only starts are armed; the image is the original with INT3 there.
 *
 * Input: the bytes of an ELF file. Few inputs would get by its headers, so, where the first byte is not that
 * of ELF's magic, a small good file is taken and the input says which bytes of it are others: where (2 bytes)
 * and what (1 byte).
 */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "code/functions.h"
#include "service/code/plan_inside.h"

#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

#define SIZE_MAX_FILE (UINT64_C(256) << 10)
#define ROOM_MAX (UINT64_C(16) << 20)
#define GOOD 0x2000u /* bytes of the small file: headers, .eh_frame and its table, and a page of code */
#define CODE 0x1000u

/* ---- a small good file: two functions, by a table and by .eh_frame ---- */

static void put(uint8_t *file, unsigned at, const void *bytes, size_t size)
{
	memcpy(file + at, bytes, size);
}

static void put32(uint8_t *file, unsigned at, uint32_t value)
{
	put(file, at, &value, sizeof value);
}

static void put_frames(uint8_t *file)
{
	static const uint8_t common[] = { 20, 0,    0,  0, 0,    0,    0, 0, 1,    'z', 'R', 0,
		                          1,  0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1,   0,   0 };

	put(file, 0x200, "\1\x1b\x03\x3b", 4);
	put32(file, 0x204, 0x300 - 0x204);
	put32(file, 0x208, 2);
	put(file, 0x300, common, sizeof common);
	for (unsigned i = 0; i < 2; i++) {
		unsigned at = 0x318 + i * 20, start = CODE + i * 64;

		put32(file, at, 16);
		put32(file, at + 4, at + 4 - 0x300);
		put32(file, at + 8, start - (at + 8));
		put32(file, at + 12, 48);
		put32(file, 0x20c + i * 8, start - 0x200);
		put32(file, 0x210 + i * 8, at - 0x200);
	}
}

static void put_code(uint8_t *file)
{
	static const uint8_t code[] = { 0xb8, 39,   0,    0,    0, 0x0f, 0x05, 0x74, 0x01, 0xf0, 0xff,
		                        0x07, 0xe8, 0x2f, 0,    0, 0,    0xeb, 0xf0, 0xff, 0xe0, 0xcc,
		                        0x0f, 0x0b, 0xc7, 0xf8, 0, 0,    0,    0,    0xc3 };

	for (unsigned i = 0; i < 2; i++) {
		memset(file + CODE + i * 64, 0x90, 48);
		put(file, CODE + i * 64, code, sizeof code);
	}
}

static void make_good(uint8_t *file)
{
	Elf64_Ehdr elf = { .e_ident = ELFMAG "\2\1", .e_machine = EM_X86_64, .e_type = ET_DYN };
	Elf64_Phdr header[] = {
		{ .p_type = PT_LOAD, .p_flags = PF_R, .p_filesz = CODE },
		{ .p_type = PT_LOAD,
		  .p_flags = PF_R | PF_X,
		  .p_offset = CODE,
		  .p_vaddr = CODE,
		  .p_filesz = GOOD - CODE },
		{ .p_type = PT_GNU_EH_FRAME, .p_offset = 0x200, .p_vaddr = 0x200, .p_filesz = 28 }
	};

	memset(file, 0, GOOD);
	elf.e_phoff = sizeof elf;
	elf.e_phentsize = sizeof *header;
	elf.e_phnum = 3;
	put(file, 0, &elf, sizeof elf);
	put(file, sizeof elf, header, sizeof header);
	put_frames(file);
	put_code(file);
}

/* ---- what must hold ---- */

struct told {
	size_t size; /* of the file */
	uint64_t end;
	long count;
};

static int see_function(void *context, const struct lh_function *function)
{
	struct told *told = context;

	MUST(function->size > 0 && (told->count == 0 || function->address >= told->end));
	MUST(function->offset <= told->size && function->size <= told->size - function->offset);
	told->end = function->address + function->size;
	told->count++;
	return 0;
}

static void look_up(const uint8_t *file, size_t size)
{
	struct lh_frames frames;

	if (lh__frames_open(file, size, &frames) < 0)
		return;
	for (uint64_t at = 0; at < size; at += 1 + size / 16) {
		struct lh_function function;

		if (lh__function_before(&frames, at, &function) == 0)
			MUST(function.offset <= size && function.size <= size - function.offset);
	}
}

static bool bit(const struct lh_plan_head *plan, uint64_t bitmap, uint64_t at)
{
	return ((const uint64_t *)((const uint8_t *)plan + bitmap))[at / 64] >> at % 64 & 1;
}

static void check_text(const struct lh_plan_head *plan, const struct lh_plan_text *text)
{
	const uint8_t *original = (const uint8_t *)plan + text->original;
	const uint8_t *image = (const uint8_t *)plan + text->image;

	for (uint64_t at = 0; at < text->size; at++) {
		bool armed = bit(plan, text->armed, at), start = bit(plan, text->starts, at);

		MUST(image[at] == (armed ? 0xcc : original[at]));
		MUST(!armed || (start && original[at] != 0xcc));
		MUST(start || (!bit(plan, text->ends, at) && !bit(plan, text->heads, at)));
	}
}

static void make_plan(const uint8_t *file, size_t size)
{
	struct lh_plan_head head = { .id_size = 1 }, *plan;
	struct lh_error error = { 0 };
	uint64_t room;
	int result = lh__plan_lay_out(file, size, &head, &error);

	MUST(result == 0 || (error.code == result && error.text[0]));
	if (result < 0 || head.size > ROOM_MAX)
		return;
	room = (head.size + 4095) / 4096 * 4096;
	plan = aligned_alloc(4096, room);
	MUST(plan);
	memset(plan, 0, room);
	memcpy(plan, &head, sizeof head);
	result = lh__plan_fill(&lh__sys_default, file, size, plan, &error);
	MUST(result == 0 || (error.code == result && error.text[0]));
	if (result == 0) {
		MUST(plan->size <= head.size && lh__plan_check(plan, plan->size, true, &error) == 0);
		for (uint32_t i = 0; i < plan->texts; i++)
			check_text(plan, &plan->text[i]);
	}
	free(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct told told = { 0 };
	uint8_t *file;
	long result;

	if (size == 0 || size > SIZE_MAX_FILE)
		return 0;
	if (data[0] == 0x7f) {
		file = malloc(size);
		MUST(file);
		memcpy(file, data, size);
	} else {
		file = malloc(GOOD);
		MUST(file);
		make_good(file);
		for (size_t i = 1; i + 3 <= size; i += 3)
			file[(data[i] | (unsigned)data[i + 1] << 8) % GOOD] = data[i + 2];
		size = GOOD;
	}
	told.size = size;
	result = lh__functions(&lh__sys_default, file, size, see_function, &told);
	MUST(result == told.count || told.count == 0);
	MUST(result >= 0 || result == -ENOEXEC || result == -ENODATA);
	look_up(file, size);
	make_plan(file, size);
	free(file);
	return 0;
}
