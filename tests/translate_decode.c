/*
 * translate_decode.c - the translator's own decoder says what Zydis says, wherever it says anything: over all
 * opcodes and random bytes, and over the code of large libraries and a compiler where they are installed, of
 * which it must know most.
 */
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "code_opcodes.h"
#include "port/translate/inside.h"
#include "translate_code.h"

struct seen {
	unsigned long all, known, wrong;
	bool planted; /* one of the parts is changed before it is compared */
};

static bool zydis(const uint8_t *code, ZydisDecodedInstruction *out)
{
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MINIMAL, ZYAN_TRUE);
	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code, 15, out));
}

static bool relative(unsigned opcode, ZydisOpcodeMap map)
{
	if (map == ZYDIS_OPCODE_MAP_0F)
		return opcode >= 0x80 && opcode <= 0x8f;
	return (opcode >= 0x70 && opcode <= 0x7f) || opcode == 0xe8 || opcode == 0xe9 || opcode == 0xeb;
}

/* All that inside.h names. */
static bool same(const ZydisDecodedInstruction *a, const ZydisDecodedInstruction *b)
{
	ZydisInstructionAttributes modrm = a->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	ZydisInstructionAttributes rex = a->attributes & ZYDIS_ATTRIB_HAS_REX;

	if (a->length != b->length || a->encoding != b->encoding || a->opcode_map != b->opcode_map ||
	    a->opcode != b->opcode || a->raw.prefix_count != b->raw.prefix_count)
		return false;
	for (unsigned i = 0; i < a->raw.prefix_count; i++)
		if (a->raw.prefixes[i].value != b->raw.prefixes[i].value)
			return false;
	if (modrm != (b->attributes & ZYDIS_ATTRIB_HAS_MODRM) ||
	    rex != (b->attributes & ZYDIS_ATTRIB_HAS_REX) || a->raw.rex.W != b->raw.rex.W ||
	    a->raw.rex.R != b->raw.rex.R || a->raw.rex.X != b->raw.rex.X || a->raw.rex.B != b->raw.rex.B ||
	    (rex && a->raw.rex.offset != b->raw.rex.offset))
		return false;
	if (modrm && (a->raw.modrm.mod != b->raw.modrm.mod || a->raw.modrm.reg != b->raw.modrm.reg ||
	              a->raw.modrm.rm != b->raw.modrm.rm || a->raw.modrm.offset != b->raw.modrm.offset ||
	              a->raw.disp.value != b->raw.disp.value ||
	              (b->raw.disp.size && a->raw.disp.offset != b->raw.disp.offset)))
		return false;
	return !relative(a->opcode, a->opcode_map) || a->raw.imm[0].value.s == b->raw.imm[0].value.s;
}

/* How long the instruction is; 0 if it is none. */
static unsigned look(struct seen *seen, const uint8_t *code)
{
	ZydisDecodedInstruction own, reference;
	bool known, valid = zydis(code, &reference);

	memset(&own, 0xa5, sizeof(own));
	known = lh__decode_quickly(code, &own);
	if (known && seen->planted)
		own.raw.disp.value ^= own.raw.disp.value == 0x12;
	seen->all += valid;
	seen->known += known;
	if (known && (!valid || !same(&own, &reference)) && seen->wrong++ == 0 && !seen->planted) {
		printf("#");
		for (unsigned i = 0; i < 15; i++)
			printf(" %02x", code[i]);
		printf(": %s, length %u, %u by Zydis\n", valid ? "valid" : "invalid", own.length,
		       valid ? reference.length : 0);
	}
	return valid ? reference.length : 0;
}

static bool one_opcode(void *context, const uint8_t code[16])
{
	look(context, code);
	return true;
}

static void check_opcodes(void)
{
	struct seen seen = { 0 };
	struct opcodes opcodes = { 30, one_opcode, &seen };
	uint8_t bytes[24];

	for (int i = 0; i < 20; i++)
		opcodes_all(&opcodes);
	ok(seen.known > 10000 && seen.wrong == 0, "all opcodes: %lu of %lu known, %lu wrong", seen.known,
	   seen.all, seen.wrong);
	seen = (struct seen){ 0 };
	for (int i = 0; i < 1000000; i++) {
		for (unsigned at = 0; at < 24; at += 8)
			memcpy(bytes + at, &(uint64_t){ draw() * 0x2545f4914f6cdd1dull }, 8);
		/* Prefixes, and the second map, more often than by chance. */
		if (below(2))
			bytes[0] = (uint8_t[]){ 0x66, 0xf2, 0xf3, 0x64, 0x48, 0x0f, 0x2e, 0xf0 }[below(8)];
		if (below(3) == 0)
			bytes[1] = (uint8_t[]){ 0x66, 0xf2, 0xf3, 0x64, 0x48, 0x0f, 0x41, 0x65 }[below(8)];
		look(&seen, bytes);
	}
	ok(seen.known > 100000 && seen.wrong == 0, "random bytes: %lu of %lu known, %lu wrong", seen.known,
	   seen.all, seen.wrong);
	seen = (struct seen){ .planted = true };
	opcodes_all(&opcodes);
	ok(seen.wrong > 0, "caught: a displacement that is another");
}

static const uint8_t *map_file(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;
	void *at = MAP_FAILED;

	if (fd >= 0 && fstat(fd, &status) == 0) {
		*size = (size_t)status.st_size;
		at = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
	}
	if (fd >= 0)
		close(fd);
	return at == MAP_FAILED ? NULL : at;
}

/* All of a file's code, from the start; of a large one a part. */
static void check_file(const char *path, size_t most)
{
	size_t size;
	const uint8_t *file = map_file(path, &size);
	struct seen seen = { 0 };

	if (!file) {
		ok(1, "%s # SKIP it is not here", path);
		return;
	}
	for (unsigned i = 0; i < ((const Elf64_Ehdr *)(const void *)file)->e_phnum; i++) {
		const Elf64_Ehdr *head = (const void *)file;
		const Elf64_Phdr *part = (const Elf64_Phdr *)(const void *)(file + head->e_phoff) + i;
		const uint8_t *at = file + part->p_offset, *end = at + part->p_filesz - 24;

		if (part->p_type != PT_LOAD || !(part->p_flags & PF_X))
			continue;
		if ((size_t)(end - at) > most)
			end = at + most;
		for (unsigned length; at < end; at += length ? length : 1)
			length = look(&seen, at);
	}
	ok(seen.wrong == 0 && seen.known * 100 > seen.all * 85,
	   "%s: %.1f %% of %lu instructions known, %lu wrong", path,
	   100.0 * (double)seen.known / (double)seen.all, seen.all, seen.wrong);
	munmap((void *)(uintptr_t)file, size);
}

int main(void)
{
	const char *most = getenv("LH_TEST_ROUNDS");

	check_opcodes();
	check_file("/lib/x86_64-linux-gnu/libc.so.6", ~0ul);
	check_file("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", most ? ~0ul : 1 << 20);
	check_file("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", ~0ul);
	check_file("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", most ? ~0ul : 4 << 20);
	return done();
}
