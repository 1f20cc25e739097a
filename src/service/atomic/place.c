/*
 * place.c - finds functions, and puts jumps over their first instructions (bracket.h).
 *
 * No other thread runs yet, and this one stands in none of them. A window is what the jump covers: whole
 * instructions, which go on doing the same in the stub. Nobody may jump into its midst: direct jumps of the
 * function are all seen; a switch, whose labels are not, is believed not to lead into a prologue.
 */
#include "service/atomic/bracket.h"

#include <Zydis/Zydis.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "code/move.h"
#include "service/atomic/inside.h"
#include "service/code/remote.h"
#include "service/code/symbols.h"

#define STUB_BYTES 256u
#define STUBS (LH_PAGE_SIZE / STUB_BYTES) /* in a page */
#define WINDOW_READ 64u

/*
 *     push bracket(%rip); call *entry(%rip); lea 8(%rsp), %rsp     the bracket and the entry stand at the end
 *     the window's instructions, and a jump to what follows
 */
#define HEAD_BYTES 17u
#define BRACKET_AT (STUB_BYTES - 16u)
#define ENTRY_AT (STUB_BYTES - 8u)

struct placing {
	struct lh_symbols *symbols;
	const char *name;
	bool begins, ends;
	struct lh_error *error;
	unsigned found;
};

static uint64_t stub_page, stubs_used; /* the last page of stubs: near the functions of one module */

/* ---- whether there is a place for a jump */

static void decoder_for(ZydisDecoder *decoder)
{
	ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

/* Whether a direct jump of the function leads to an instruction inside (0, end). */
static bool jumped_into(const uint8_t *code, size_t size, size_t end)
{
	ZydisDecodedInstruction instruction;
	ZydisDecoder decoder;

	decoder_for(&decoder);
	for (size_t at = 0; at < size; at += instruction.length) {
		int64_t target;

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code + at, size - at,
		                                                &instruction)))
			return true;
		target = (int64_t)(at + instruction.length) + instruction.raw.imm[0].value.s;
		if (instruction.raw.imm[0].is_relative && target > 0 && target < (int64_t)end)
			return true;
	}
	return false;
}

/* What lies between a short function and the next one: nops, int3. */
static size_t with_padding(struct placing *placing, const struct lh_symbol *symbol)
{
	const uint8_t *code = (const uint8_t *)(uintptr_t)symbol->address;
	uint64_t end = symbol->address + symbol->size, limit = (end + 15) & ~UINT64_C(15);
	ZydisDecodedInstruction instruction;
	struct lh_symbol other;
	ZydisDecoder decoder;
	size_t size = symbol->size;

	decoder_for(&decoder);
	while (symbol->address + size < limit) {
		if (lh__symbols_at(placing->symbols, symbol->address + size, &other) &&
		    other.address != symbol->address)
			break;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code + size,
		                                                limit - symbol->address - size,
		                                                &instruction)) ||
		    (instruction.mnemonic != ZYDIS_MNEMONIC_NOP &&
		     instruction.mnemonic != ZYDIS_MNEMONIC_INT3))
			break;
		size += instruction.length;
	}
	return size;
}

/* A call that is not the window's last instruction returns into the jump. */
static bool calls_within(const uint8_t *code, const struct lh_moved_code *moved)
{
	ZydisDecodedInstruction instruction;
	ZydisDecoder decoder;

	decoder_for(&decoder);
	for (size_t at = 0; at < moved->window; at += instruction.length) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code + at, WINDOW_READ - at,
		                                                &instruction)))
			return true;
		if (instruction.meta.category == ZYDIS_CATEGORY_CALL &&
		    at + instruction.length < moved->window)
			return true;
	}
	return false;
}

/* ---- the stub */

static void put_distance(uint8_t *stub, unsigned at, unsigned to)
{
	int32_t distance = (int32_t)(to - (at + 4));

	memcpy(stub + at, &distance, 4);
}

static int make_stub(uint8_t *stub, const struct lh_bracket *bracket, const uint8_t *code, size_t size,
                     struct lh_moved_code *moved)
{
	static const uint8_t head[HEAD_BYTES] = { 0xff, 0x35, 0, 0,    0,    0,    0xff, 0x15, 0,
		                                  0,    0,    0, 0x48, 0x8d, 0x64, 0x24, 8 };
	uint64_t entry = (uint64_t)(uintptr_t)lh__bracket_entry, which = (uint64_t)(uintptr_t)bracket;
	unsigned least = size < LH_MOVE_JUMP ? (unsigned)size : LH_MOVE_JUMP;

	memset(stub, 0xcc, STUB_BYTES);
	memcpy(stub, head, HEAD_BYTES);
	put_distance(stub, 2, BRACKET_AT);
	put_distance(stub, 8, ENTRY_AT);
	memcpy(stub + BRACKET_AT, &which, 8);
	memcpy(stub + ENTRY_AT, &entry, 8);
	return lh__move(code, size, bracket->address, least, stub + HEAD_BYTES, BRACKET_AT - HEAD_BYTES,
	                (uint64_t)(uintptr_t)stub + HEAD_BYTES, moved);
}

static bool within_reach(uint64_t from, uint64_t to)
{
	int64_t distance = (int64_t)(from - to);

	return distance == (int32_t)distance;
}

/* Room for a stub near an address, writable until the stub is closed. */
static uint8_t *room_near(uint64_t address)
{
	uint64_t page;

	if (stub_page && stubs_used < STUBS && within_reach(stub_page, address) &&
	    mprotect((void *)(uintptr_t)stub_page, LH_PAGE_SIZE, PROT_READ | PROT_WRITE) == 0)
		return (uint8_t *)(uintptr_t)(stub_page + stubs_used * STUB_BYTES);
	page = lh__mappings_gap(getpid(), address, address + 1, LH_PAGE_SIZE);
	if (!page || mmap((void *)(uintptr_t)page, LH_PAGE_SIZE, PROT_READ | PROT_WRITE,
	                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		return NULL;
	stub_page = page;
	stubs_used = 0;
	return (uint8_t *)(uintptr_t)page;
}

static int close_stub(void)
{
	return mprotect((void *)(uintptr_t)stub_page, LH_PAGE_SIZE, PROT_READ | PROT_EXEC) == 0 ? 0 : -errno;
}

/* ---- the jump */

/* Through the file of the process's memory, which asks for no right to write; else by taking that right. */
static int write_code(uint64_t address, const uint8_t *bytes, size_t size)
{
	uint64_t start = address & ~(uint64_t)(LH_PAGE_SIZE - 1);
	size_t pages = (address + size - start + LH_PAGE_SIZE - 1) & ~(size_t)(LH_PAGE_SIZE - 1);
	int file = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	ssize_t written = -1;

	if (file >= 0) {
		written = pwrite(file, bytes, size, (off_t)address);
		close(file);
	}
	if (written == (ssize_t)size)
		return 0;
	if (mprotect((void *)(uintptr_t)start, pages, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
		return -errno;
	memcpy((void *)(uintptr_t)address, bytes, size);
	return mprotect((void *)(uintptr_t)start, pages, PROT_READ | PROT_EXEC) == 0 ? 0 : -errno;
}

static int cannot(struct lh_error *error, const struct lh_bracket *bracket, const char *why)
{
	return lh__fail(error, -ENOTSUP, "%s: no transaction can begin or end there: %s", bracket->name, why);
}

static int put_jump(struct placing *placing, struct lh_bracket *bracket, const struct lh_symbol *symbol)
{
	const uint8_t *code = (const uint8_t *)(uintptr_t)bracket->address;
	size_t size = with_padding(placing, symbol);
	struct lh_moved_code moved;
	uint8_t jump[LH_MOVE_JUMP];
	uint8_t *stub;
	int result;

	if (symbol->is_indirect)
		return cannot(placing->error, bracket, "it is chosen when the program is loaded (an ifunc)");
	if (size < LH_MOVE_JUMP)
		return cannot(placing->error, bracket, "it is too short");
	if (jumped_into(code, symbol->size, LH_MOVE_JUMP))
		return cannot(placing->error, bracket, "a jump leads into its first instructions");
	stub = room_near(bracket->address);
	if (!stub)
		return cannot(placing->error, bracket, "there is no room near it");
	result = make_stub(stub, bracket, code, symbol->size, &moved);
	if (result < 0 || calls_within(code, &moved))
		return cannot(placing->error, bracket, "its first instructions cannot be moved");
	result = close_stub();
	if (result == 0)
		result = lh__move_jump(jump, bracket->address, (uint64_t)(uintptr_t)stub);
	if (result == 0)
		result = write_code(bracket->address, jump, sizeof(jump));
	if (result < 0)
		return lh__fail(placing->error, result, "%s: its code cannot be changed: %s", bracket->name,
		                lh__errno_name(result));
	stubs_used++;
	return 0;
}

/* ---- names */

static int place(void *context, const struct lh_symbol *symbol)
{
	struct placing *placing = context;
	struct lh_bracket *bracket;
	int result;

	if (!symbol->is_function)
		return 0;
	placing->found++;
	bracket = lh__bracket_of(symbol->address, symbol->name);
	if (!bracket)
		return lh__fail(placing->error, -ENOSPC, "%s: there are too many functions at once",
		                placing->name);
	bracket->begins |= placing->begins;
	bracket->ends |= placing->ends;
	if (bracket->placed)
		return 0;
	result = put_jump(placing, bracket, symbol);
	bracket->placed = result == 0;
	return result;
}

static int place_all(struct placing *placing, const char *const *names)
{
	for (; names && *names; names++) {
		const char *nearest;
		int result;

		placing->name = *names;
		placing->found = 0;
		result = lh__symbols_find(placing->symbols, *names, place, placing);
		if (result < 0)
			return result;
		if (placing->found)
			continue;
		nearest = lh__symbols_nearest(placing->symbols, *names);
		return lh__fail(placing->error, -ENOENT,
		                "%s: the program and the libraries that it is loaded with have no such "
		                "function%s%s%s",
		                *names, nearest ? "; did you mean " : "", nearest ? nearest : "",
		                nearest ? "?" : "");
	}
	return 0;
}

static unsigned threads(void)
{
	DIR *folder = opendir("/proc/self/task");
	struct dirent *entry;
	unsigned count = 0;

	if (!folder)
		return 1;
	while ((entry = readdir(folder)))
		count += entry->d_name[0] != '.';
	closedir(folder);
	return count;
}

int lh__brackets_put(const char *const *begin, const char *const *end, struct lh_error *error)
{
	struct placing placing = { .error = error };
	int result;

	if ((!begin || !*begin) && (!end || !*end))
		return 0;
	if (threads() != 1)
		return lh__fail(error, -EBUSY, "the program has more than one thread already");
	result = lh__symbols_open(getpid(), &placing.symbols, error);
	if (result < 0)
		return result;
	placing.begins = true;
	result = place_all(&placing, begin);
	placing.begins = false;
	placing.ends = true;
	if (result == 0)
		result = place_all(&placing, end);
	lh__symbols_close(placing.symbols);
	return result;
}
