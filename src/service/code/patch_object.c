/*
 * patch_object.c - the shared object that a patch is: read here, laid out and bound here, not by the process.
 *
 * That needs no lock of the process, and works where it has no dynamic linker. The price is that what only
 * the linker inside can do is refused, each with a line of its own: thread-local storage, constructors,
 * indirect functions of the object's own.
 *
 * Every shared object that is linked with the usual start files has one constructor, frame_dummy, which sets
 * up nothing unless the program uses transactional memory of the compiler's. It is recognised by its code, as
 * it has no other sign in an object without symbols: a jump to
 *
 *     lea __TMC_END__(%rip),%rdi; lea __TMC_END__(%rip),%rsi; sub %rdi,%rsi
 *
 * and is not run; nor are destructors.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linehome/patch.h"
#include "service/code/patch_inside.h"

#define FILE_MOST (64ll << 20)

static uint64_t page_down(uint64_t address)
{
	return address & ~(LH_PATCH_PAGE - 1);
}

static uint64_t page_up(uint64_t address)
{
	return page_down(address + LH_PATCH_PAGE - 1);
}

/* ---- reading the file ---- */

static int read_file(const char *path, struct lh_patch_object *object, struct lh_error *error)
{
	int result = 0, file = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;

	if (file < 0)
		return lh__fail(error, -errno, "%s: cannot be opened (%s)", path, lh__errno_name(errno));
	if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size > FILE_MOST ||
	    status.st_size < (off_t)sizeof(Elf64_Ehdr))
		result = lh__fail(error, -ENOEXEC, "%s: is not a shared object of at most 64M", path);
	object->file_size = (size_t)status.st_size;
	object->file = result == 0 ? malloc(object->file_size) : NULL;
	if (result == 0 && !object->file)
		result = lh__fail(error, -ENOMEM, "%s: there is no memory to read it", path);
	if (result == 0 && lh__patch_read(file, 0, object->file, object->file_size) < 0)
		result = lh__fail(error, -EIO, "%s: cannot be read", path);
	close(file);
	return result;
}

static int check_kind(struct lh_patch_object *object, struct lh_error *error)
{
	const Elf64_Ehdr *head = (const void *)object->file;

	if (memcmp(head->e_ident, ELFMAG, SELFMAG) != 0)
		return lh__fail(error, -ENOEXEC, "%s: is not an ELF file; make it with cc -shared -fPIC",
		                object->path);
	if (head->e_ident[EI_CLASS] != ELFCLASS64 || head->e_machine != EM_X86_64)
		return lh__fail(error, -ENOEXEC, "%s: is not for x86-64", object->path);
	if (head->e_type != ET_DYN)
		return lh__fail(error, -ENOEXEC, "%s: is not a shared object; make it with cc -shared -fPIC",
		                object->path);
	(void)elf_version(EV_CURRENT);
	object->elf = elf_memory((char *)object->file, object->file_size);
	if (!object->elf)
		return lh__fail(error, -ENOEXEC, "%s: is a damaged ELF file", object->path);
	return 0;
}

static int fail_damaged(const struct lh_patch_object *object, struct lh_error *error)
{
	return lh__fail(error, -ENOEXEC, "%s: is damaged: its headers lead out of the file", object->path);
}

static int rights_of(uint32_t flags)
{
	return (flags & PF_R ? PROT_READ : 0) | (flags & PF_W ? PROT_WRITE : 0) |
	       (flags & PF_X ? PROT_EXEC : 0);
}

static int note_segment(struct lh_patch_object *object, const GElf_Phdr *phdr, struct lh_error *error)
{
	struct lh_patch_segment *segment = &object->segment[object->segments];

	if (phdr->p_type == PT_TLS)
		return lh__fail(error, -ENOTSUP, "%s: has thread-local variables, which a patch cannot have",
		                object->path);
	if (phdr->p_type != PT_LOAD || (phdr->p_memsz == 0 && phdr->p_filesz == 0))
		return 0;
	if (object->segments == sizeof object->segment / sizeof *segment || phdr->p_filesz > phdr->p_memsz ||
	    phdr->p_offset > object->file_size || phdr->p_filesz > object->file_size - phdr->p_offset ||
	    phdr->p_vaddr > (uint64_t)FILE_MOST || phdr->p_memsz > (uint64_t)FILE_MOST ||
	    phdr->p_vaddr < object->length)
		return fail_damaged(object, error);
	if ((phdr->p_flags & (PF_W | PF_X)) == (PF_W | PF_X))
		return lh__fail(error, -ENOTSUP, "%s: has memory that is written and executed", object->path);
	segment->start = page_down(phdr->p_vaddr);
	segment->end = object->length = page_up(phdr->p_vaddr + phdr->p_memsz);
	segment->rights = rights_of(phdr->p_flags);
	object->segments++;
	return 0;
}

static int read_segments(struct lh_patch_object *object, struct lh_error *error)
{
	size_t n;
	int result = 0;

	if (elf_getphdrnum(object->elf, &n) != 0 || n > 64)
		return fail_damaged(object, error);
	for (size_t i = 0; result == 0 && i < n; i++) {
		GElf_Phdr phdr;

		if (!gelf_getphdr(object->elf, (int)i, &phdr))
			return fail_damaged(object, error);
		result = note_segment(object, &phdr, error);
	}
	if (result == 0 && object->segments == 0)
		return fail_damaged(object, error);
	return result;
}

/* ---- sections ---- */

/* What the section with our string in it holds; an empty string where there is none. */
static int read_text(const struct lh_patch_object *object, Elf_Scn *section, char *to, size_t size,
                     struct lh_error *error)
{
	Elf_Data *data = elf_getdata(section, NULL);

	if (!data || !data->d_buf || data->d_size == 0 || data->d_size > size ||
	    strnlen(data->d_buf, data->d_size) != data->d_size - 1)
		return lh__fail(error, -ENOEXEC,
		                "%s: the name or build id that it gives itself is longer than %zu",
		                object->path, size - 1);
	memcpy(to, data->d_buf, data->d_size);
	return 0;
}

static int read_imports(struct lh_patch_object *object, Elf_Scn *section, const GElf_Shdr *header,
                        struct lh_error *error)
{
	Elf_Data *data = elf_getdata(section, NULL);

	if (!data || object->import || header->sh_entsize != sizeof(Elf64_Sym))
		return fail_damaged(object, error);
	object->imports = data->d_size / sizeof(Elf64_Sym);
	object->import = calloc(object->imports + 1, sizeof *object->import);
	if (!object->import)
		return lh__fail(error, -ENOMEM, "%s: there is no memory for its symbols", object->path);
	for (size_t i = 1; i < object->imports; i++) {
		struct lh_patch_import *import = &object->import[i];
		GElf_Sym symbol;

		if (!gelf_getsym(data, (int)i, &symbol))
			return fail_damaged(object, error);
		import->name = elf_strptr(object->elf, header->sh_link, symbol.st_name);
		if (!import->name)
			return fail_damaged(object, error);
		import->weak = GELF_ST_BIND(symbol.st_info) == STB_WEAK;
		import->wanted = symbol.st_shndx == SHN_UNDEF;
		import->value = symbol.st_value;
		if (!import->wanted && GELF_ST_TYPE(symbol.st_info) == STT_GNU_IFUNC)
			return lh__fail(error, -ENOTSUP,
			                "%s: %s is an indirect function, which a patch cannot have",
			                object->path, import->name);
	}
	return 0;
}

static int take_section(struct lh_patch_object *object, Elf_Scn *section, size_t names,
                        struct lh_error *error)
{
	const char *name;
	GElf_Shdr header;

	if (!gelf_getshdr(section, &header))
		return fail_damaged(object, error);
	name = elf_strptr(object->elf, names, header.sh_name);
	if (!name)
		return fail_damaged(object, error);
	if (header.sh_type == SHT_DYNSYM)
		return read_imports(object, section, &header, error);
	if (header.sh_flags & SHF_ALLOC && (header.sh_type == SHT_REL || header.sh_type == 19 /* SHT_RELR */))
		return lh__fail(error, -ENOTSUP,
		                "%s: has packed relocations; link it with -Wl,-z,nopack-relative-relocs",
		                object->path);
	if (strcmp(name, "linehome_name") == 0)
		return read_text(object, section, object->name, sizeof object->name, error);
	if (strcmp(name, "linehome_build") == 0)
		return read_text(object, section, object->build, sizeof object->build, error);
	if (strcmp(name, "linehome_patch") == 0) {
		object->entry = header.sh_addr;
		object->entries = header.sh_size / sizeof(struct lh_patch_entry);
	}
	return 0;
}

static int read_sections(struct lh_patch_object *object, struct lh_error *error)
{
	Elf_Scn *section = NULL;
	size_t names;
	int result = 0;

	if (elf_getshdrstrndx(object->elf, &names) != 0)
		return fail_damaged(object, error);
	while (result == 0 && (section = elf_nextscn(object->elf, section)) != NULL)
		result = take_section(object, section, names, error);
	if (result == 0 && object->entries == 0)
		return lh__fail(error, -ENOEXEC,
		                "%s: is no patch: nothing in it is an LH_PATCH_REPLACE or LH_PATCH_AT",
		                object->path);
	if (result == 0 && object->entries > LH_PATCH_PLACES_MAX)
		return lh__fail(error, -E2BIG, "%s: has more than %u places", object->path,
		                LH_PATCH_PLACES_MAX);
	return result;
}

static const char *file_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Without a name of its own a patch is called as its file, without what follows the last dot. */
static void name_by_file(struct lh_patch_object *object, const char *path)
{
	const char *name = file_name(path), *dot = strrchr(name, '.');
	size_t length = dot && dot != name ? (size_t)(dot - name) : strlen(name);

	if (length >= sizeof object->name)
		length = sizeof object->name - 1;
	memcpy(object->name, name, length);
	object->name[length] = '\0';
}

int lh__patch_object_open(const char *file, struct lh_patch_object *object, struct lh_error *error)
{
	int result;

	*object = (struct lh_patch_object){ 0 };
	lh__format(object->path, sizeof object->path, "%s", file);
	result = read_file(file, object, error);
	if (result == 0)
		result = check_kind(object, error);
	if (result == 0)
		result = read_segments(object, error);
	if (result == 0)
		result = read_sections(object, error);
	if (result == 0)
		lh__patch_versions(object);
	if (result == 0 && object->name[0] == '\0')
		name_by_file(object, file);
	if (result < 0)
		lh__patch_object_close(object);
	return result;
}

void lh__patch_object_close(struct lh_patch_object *object)
{
	if (object->elf)
		elf_end(object->elf);
	free(object->import);
	free(object->file);
	*object = (struct lh_patch_object){ 0 };
}

/* ---- laying out ---- */

static bool in_object(const struct lh_patch_object *object, uint64_t address, uint64_t size)
{
	return address <= object->length && size <= object->length - address;
}

static int fail_relocation(const struct lh_patch_object *object, uint32_t type, struct lh_error *error)
{
	switch (type) {
	case R_X86_64_DTPMOD64:
	case R_X86_64_DTPOFF64:
	case R_X86_64_TPOFF64:
	case R_X86_64_TLSDESC:
	case R_X86_64_GOTTPOFF:
		return lh__fail(
			error, -ENOTSUP,
			"%s: uses a thread-local variable by its name; call a function that has its address",
			object->path);
	case R_X86_64_IRELATIVE:
		return lh__fail(error, -ENOTSUP, "%s: has an indirect function, which a patch cannot have",
		                object->path);
	default:
		return lh__fail(
			error, -ENOTSUP,
			"%s: has a relocation of type %u; compile it with -fPIC and link it with -shared",
			object->path, type);
	}
}

static int relocate_one(const struct lh_patch_object *object, uint64_t base, const GElf_Rela *rela,
                        uint8_t *to, struct lh_error *error)
{
	uint32_t type = (uint32_t)GELF_R_TYPE(rela->r_info);
	size_t index = GELF_R_SYM(rela->r_info);
	bool is_short = type == R_X86_64_PC32 || type == R_X86_64_PLT32;
	const struct lh_patch_import *import;
	uint64_t value, addend = (uint64_t)rela->r_addend;

	if (type == R_X86_64_NONE)
		return 0;
	if (!in_object(object, rela->r_offset, is_short ? 4 : 8) || index >= object->imports)
		return fail_damaged(object, error);
	import = &object->import[index];
	value = import->wanted || index == 0 ? import->value : import->value + base;
	switch (type) {
	case R_X86_64_RELATIVE: value = base + addend; break;
	case R_X86_64_64: value += addend; break;
	case R_X86_64_GLOB_DAT:
	case R_X86_64_JUMP_SLOT: break;
	case R_X86_64_PC32:
	case R_X86_64_PLT32: value += addend - (base + rela->r_offset); break;
	default: return fail_relocation(object, type, error);
	}
	if (is_short && (int64_t)value != (int32_t)value && base != 0)
		return lh__fail(error, -ERANGE, "%s: %s is too far from it; compile it with -fPIC",
		                object->path, import->name);
	memcpy(to + rela->r_offset, &value, is_short ? 4 : 8);
	return 0;
}

static int relocate(const struct lh_patch_object *object, uint64_t base, Elf_Scn *section, uint8_t *to,
                    struct lh_error *error)
{
	Elf_Data *data = elf_getdata(section, NULL);
	size_t n = data ? data->d_size / sizeof(Elf64_Rela) : 0;
	int result = data ? 0 : fail_damaged(object, error);

	for (size_t i = 0; result == 0 && i < n; i++) {
		GElf_Rela rela;

		if (!gelf_getrela(data, (int)i, &rela))
			return fail_damaged(object, error);
		result = relocate_one(object, base, &rela, to, error);
	}
	return result;
}

/* ---- constructors ---- */

static uint64_t jump_target(const uint8_t *laid, uint64_t length, uint64_t at)
{
	static const uint8_t endbr[] = { 0xf3, 0x0f, 0x1e, 0xfa };
	int32_t distance;

	if (length < 32 || at > length - 32)
		return 0;
	if (memcmp(laid + at, endbr, sizeof endbr) == 0)
		at += sizeof endbr;
	memcpy(&distance, laid + at + 1, sizeof distance);
	if (laid[at] == 0xe9)
		return at + 5 + (uint64_t)(int64_t)distance;
	return laid[at] == 0xeb ? at + 2 + (uint64_t)(int64_t)(int8_t)laid[at + 1] : 0;
}

static bool is_frame_dummy(const uint8_t *laid, uint64_t length, uint64_t at)
{
	uint64_t to = jump_target(laid, length, at);

	return to != 0 && to <= length - 17 && memcmp(laid + to, "\x48\x8d\x3d", 3) == 0 &&
	       memcmp(laid + to + 7, "\x48\x8d\x35", 3) == 0 &&
	       memcmp(laid + to + 14, "\x48\x29\xfe", 3) == 0;
}

static int check_constructors(const struct lh_patch_object *object, uint64_t base, const GElf_Shdr *header,
                              const uint8_t *laid, struct lh_error *error)
{
	uint64_t first;

	if (!in_object(object, header->sh_addr, header->sh_size))
		return fail_damaged(object, error);
	if (header->sh_size == 0)
		return 0;
	memcpy(&first, laid + header->sh_addr, sizeof first);
	if (header->sh_size != sizeof first || !is_frame_dummy(laid, object->length, first - base))
		return lh__fail(
			error, -ENOTSUP,
			"%s: has a constructor, which would not be run; set up where it is first used",
			object->path);
	return 0;
}

int lh__patch_object_lay(const struct lh_patch_object *object, uint64_t base, uint8_t *to,
                         struct lh_error *error)
{
	Elf_Scn *section = NULL;
	size_t n = 0;
	int result = elf_getphdrnum(object->elf, &n) == 0 ? 0 : fail_damaged(object, error);

	for (size_t i = 0; i < n; i++) {
		GElf_Phdr phdr;

		if (gelf_getphdr(object->elf, (int)i, &phdr) && phdr.p_type == PT_LOAD && phdr.p_filesz > 0)
			memcpy(to + phdr.p_vaddr, object->file + phdr.p_offset, phdr.p_filesz);
	}
	for (int pass = 0; pass < 2; pass++)
		while (result == 0 && (section = elf_nextscn(object->elf, section)) != NULL) {
			GElf_Shdr header;

			if (!gelf_getshdr(section, &header))
				return fail_damaged(object, error);
			if (pass == 0 && header.sh_type == SHT_RELA && header.sh_flags & SHF_ALLOC)
				result = relocate(object, base, section, to, error);
			if (pass == 1 && header.sh_type == SHT_INIT_ARRAY)
				result = check_constructors(object, base, &header, to, error);
		}
	return result;
}

/* ---- what the macros wrote ---- */

static int read_item(const struct lh_patch_object *object, uint64_t base, const uint8_t *laid, size_t i,
                     struct lh_patch_item *item, struct lh_error *error)
{
	struct lh_patch_entry entry;
	uint64_t name;

	memcpy(&entry, laid + object->entry + i * sizeof entry, sizeof entry);
	name = (uint64_t)entry.symbol - base;
	if (entry.version != LH_PATCH_VERSION)
		return lh__fail(error, -ENOEXEC, "%s: was made with another version of linehome/patch.h",
		                object->path);
	if (entry.kind < LH_PATCH_KIND_REPLACE || entry.kind > LH_PATCH_KIND_ORIGINAL ||
	    name >= object->length ||
	    strnlen((const char *)laid + name, object->length - name) >= sizeof item->symbol)
		return lh__fail(error, -ENOEXEC,
		                "%s: entry %zu of linehome_patch is not as the macros write it", object->path,
		                i + 1);
	*item = (struct lh_patch_item){ .kind = entry.kind, .offset = entry.offset };
	memcpy(item->symbol, laid + name, strnlen((const char *)laid + name, object->length - name));
	item->code = (uint64_t)entry.code;
	item->original = (uint64_t)entry.original;
	if (item->original != 0 && !in_object(object, item->original - base, sizeof(void *)))
		return fail_damaged(object, error);
	return 0;
}

int lh__patch_object_items(const struct lh_patch_object *object, uint64_t base, const uint8_t *laid,
                           struct lh_patch_item *items, struct lh_error *error)
{
	int result = 0;

	if (!in_object(object, object->entry, object->entries * sizeof(struct lh_patch_entry)))
		return fail_damaged(object, error);
	for (size_t i = 0; result == 0 && i < object->entries; i++)
		result = read_item(object, base, laid, i, &items[i], error);
	return result;
}
