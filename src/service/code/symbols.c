/*
 * symbols.c - see symbols.h. A list of the ELF files that are mapped with code; the symbols of one are read
 * when they are asked for first.
 *
 * A file is opened by its name as the process sees it (/proc/PID/root), if it is still the one that is mapped
 * there, else through /proc/PID/map_files, so that a file that was replaced by an upgrade is found too.
 *
 * A C++ or Rust name "a::b" is not compared with demangled ones: it is mangled as far as it says ("_ZN1a1bE",
 * then any arguments), which costs nothing.
 */
#include "service/code/symbols.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "service/code/remote.h"

#define NAME_MAX_LENGTH 256 /* of names that are guessed at */
#define RUST_HASH "17h"     /* then 16 hexadecimal digits: the last part of a Rust name */
#define PATH_ROOM 4352

struct entry {
	const char *name;
	uint64_t value, size; /* as the file says */
	bool is_function, is_local, is_weak, is_indirect;
};

struct module {
	uint64_t start, end;   /* where it is mapped, from its first mapping to its last */
	uint64_t first_offset; /* in the file, of the first mapping, */
	uint64_t first_end;    /* which ends here */
	uint64_t inode;
	unsigned device_major, device_minor;
	bool executable; /* some of it can be executed */
	bool read;       /* it has been tried to read it */
	char *path;
	const char *name; /* in path */
	uint64_t bias;
	int file, debug_file;
	Elf *elf, *debug;
	struct entry *entry; /* by value, then the better name first */
	size_t entries, room;
};

struct lh_symbols {
	pid_t process;
	struct module *module; /* the program's first */
	size_t modules;
};

/* ---- what is mapped ---- */

static bool continues(const struct module *module, const struct lh_mapping *mapping)
{
	return module->inode == mapping->inode && module->device_major == mapping->device_major &&
	       module->device_minor == mapping->device_minor && mapping->offset > module->first_offset;
}

static int note_mapping(void *context, const struct lh_mapping *mapping)
{
	struct lh_symbols *symbols = context;
	struct module *last = symbols->modules ? &symbols->module[symbols->modules - 1] : NULL;
	struct module *grown;

	if (!mapping->inode || mapping->path[0] != '/')
		return 0;
	if (last && continues(last, mapping)) {
		last->end = mapping->end;
		last->executable |= mapping->rights[2] == 'x';
		return 0;
	}
	grown = reallocarray(symbols->module, symbols->modules + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	symbols->module = grown;
	last = &grown[symbols->modules];
	*last = (struct module){ .start = mapping->start,
		                 .end = mapping->end,
		                 .first_offset = mapping->offset,
		                 .first_end = mapping->end,
		                 .inode = mapping->inode,
		                 .device_major = mapping->device_major,
		                 .device_minor = mapping->device_minor,
		                 .executable = mapping->rights[2] == 'x',
		                 .path = strdup(mapping->path),
		                 .file = -1,
		                 .debug_file = -1 };
	if (!last->path)
		return -ENOMEM;
	symbols->modules++;
	last->name = strrchr(last->path, '/') + 1;
	return 0;
}

static void close_module(struct module *module)
{
	if (module->elf)
		elf_end(module->elf);
	if (module->debug)
		elf_end(module->debug);
	if (module->file >= 0)
		close(module->file);
	if (module->debug_file >= 0)
		close(module->debug_file);
	free(module->entry);
	free(module->path);
}

/* Leaves out what is only data, and puts the program's own file first. */
static void order(struct lh_symbols *symbols)
{
	struct stat program = { 0 };
	char path[64];
	size_t n = 0;

	for (size_t i = 0; i < symbols->modules; i++) {
		if (symbols->module[i].executable)
			symbols->module[n++] = symbols->module[i];
		else
			close_module(&symbols->module[i]);
	}
	symbols->modules = n;
	snprintf(path, sizeof(path), "/proc/%d/exe", symbols->process);
	if (stat(path, &program))
		return;
	for (size_t i = 1; i < n; i++) {
		struct module module = symbols->module[i];

		if (module.inode != program.st_ino)
			continue;
		memmove(&symbols->module[1], symbols->module, i * sizeof(module));
		symbols->module[0] = module;
		return;
	}
}

int lh__symbols_open(pid_t process, struct lh_symbols **out, struct lh_error *error)
{
	struct lh_symbols *symbols = calloc(1, sizeof(*symbols));
	int rc;

	if (!symbols)
		return lh__fail(error, -ENOMEM, "no memory");
	elf_version(EV_CURRENT);
	symbols->process = process;
	rc = lh__mappings(process, note_mapping, symbols);
	if (!rc && !symbols->modules)
		rc = -ESRCH; /* a zombie has no mappings */
	if (rc) {
		lh__symbols_close(symbols);
		return lh__fail(error, rc, "what is mapped in process %d cannot be read: %s", process,
		                lh__errno_name(rc));
	}
	order(symbols);
	*out = symbols;
	return 0;
}

void lh__symbols_close(struct lh_symbols *symbols)
{
	if (!symbols)
		return;
	for (size_t i = 0; i < symbols->modules; i++)
		close_module(&symbols->module[i]);
	free(symbols->module);
	free(symbols);
}

/* ---- reading a file ---- */

static bool is_same(int file, const struct module *module)
{
	struct stat now;

	/* Not the device: of an overlay or of btrfs stat says another than maps does. */
	return !fstat(file, &now) && now.st_ino == module->inode;
}

static int open_module(const struct lh_symbols *symbols, const struct module *module)
{
	char path[PATH_ROOM];
	int file;

	snprintf(path, sizeof(path), "/proc/%d/root%s", symbols->process, module->path);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file >= 0 && is_same(file, module))
		return file;
	if (file >= 0)
		close(file);
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", symbols->process,
	         (unsigned long)module->start, (unsigned long)module->first_end);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static bool find_bias(struct module *module)
{
	size_t n = 0;

	if (elf_getphdrnum(module->elf, &n))
		return false;
	for (size_t i = 0; i < n; i++) {
		GElf_Phdr load;

		if (!gelf_getphdr(module->elf, (int)i, &load) || load.p_type != PT_LOAD ||
		    (load.p_offset & ~4095ull) > module->first_offset ||
		    module->first_offset >= load.p_offset + load.p_filesz)
			continue;
		module->bias = module->start - module->first_offset - (load.p_vaddr - load.p_offset);
		return true;
	}
	return false;
}

static bool in_code(const struct module *module, uint64_t value)
{
	size_t n = 0;

	if (elf_getphdrnum(module->elf, &n))
		return false;
	for (size_t i = 0; i < n; i++) {
		GElf_Phdr load;

		if (gelf_getphdr(module->elf, (int)i, &load) && load.p_type == PT_LOAD &&
		    (load.p_flags & PF_X) && value - load.p_vaddr < load.p_memsz)
			return true;
	}
	return false;
}

static Elf_Scn *section_of(Elf *elf, GElf_Word type, GElf_Shdr *header)
{
	Elf_Scn *section = NULL;

	while ((section = elf_nextscn(elf, section)))
		if (gelf_getshdr(section, header) && header->sh_type == type && header->sh_entsize)
			return section;
	return NULL;
}

static int add(struct module *module, const char *name, const GElf_Sym *symbol)
{
	unsigned type = GELF_ST_TYPE(symbol->st_info), bind = GELF_ST_BIND(symbol->st_info);
	struct entry *grown;

	if (module->entries == module->room) {
		module->room = module->room ? module->room * 2 : 1024;
		grown = reallocarray(module->entry, module->room, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		module->entry = grown;
	}
	module->entry[module->entries++] = (struct entry){
		.name = name,
		.value = symbol->st_value,
		.size = symbol->st_size,
		.is_indirect = type == STT_GNU_IFUNC,
		.is_function = type == STT_FUNC || type == STT_GNU_IFUNC ||
		               (type == STT_NOTYPE && in_code(module, symbol->st_value)),
		.is_local = bind == STB_LOCAL,
		.is_weak = bind == STB_WEAK,
	};
	return 0;
}

static bool is_wanted(const GElf_Sym *symbol, const char *name)
{
	unsigned type = GELF_ST_TYPE(symbol->st_info);

	return name && *name && symbol->st_shndx != SHN_UNDEF && symbol->st_shndx != SHN_ABS &&
	       (type == STT_FUNC || type == STT_OBJECT || type == STT_GNU_IFUNC || type == STT_NOTYPE);
}

static int read_table(struct module *module, Elf *elf, GElf_Word type)
{
	GElf_Shdr header, versions_header;
	Elf_Scn *section = section_of(elf, type, &header), *versions;
	Elf_Data *data = section ? elf_getdata(section, NULL) : NULL, *version_data = NULL;
	int rc = 0;

	if (!data)
		return 0;
	versions = type == SHT_DYNSYM ? section_of(elf, SHT_GNU_versym, &versions_header) : NULL;
	if (versions)
		version_data = elf_getdata(versions, NULL);
	for (size_t i = 1; !rc && i < header.sh_size / header.sh_entsize; i++) {
		GElf_Versym version = 0;
		GElf_Sym symbol;
		const char *name;

		if (!gelf_getsym(data, (int)i, &symbol))
			break;
		/* Hidden: the older version of a name, which nothing new is bound to. */
		if (version_data && gelf_getversym(version_data, (int)i, &version) && version & 0x8000)
			continue;
		name = elf_strptr(elf, header.sh_link, symbol.st_name);
		if (is_wanted(&symbol, name))
			rc = add(module, name, &symbol);
	}
	return rc;
}

/* The better name of one place first: that which covers more, then global, then shorter. */
static int by_value(const void *left, const void *right)
{
	const struct entry *a = left, *b = right;

	if (a->value != b->value)
		return a->value < b->value ? -1 : 1;
	if (a->size != b->size)
		return a->size > b->size ? -1 : 1;
	if (a->is_local + 2 * a->is_weak != b->is_local + 2 * b->is_weak)
		return a->is_local + 2 * a->is_weak - b->is_local - 2 * b->is_weak;
	return strcmp(a->name, b->name);
}

static size_t build_of(Elf *elf, uint8_t id[64])
{
	size_t n = 0;

	if (elf_getphdrnum(elf, &n))
		return 0;
	for (size_t i = 0; i < n; i++) {
		GElf_Phdr segment;
		GElf_Nhdr note;
		Elf_Data *data;
		size_t at = 0, name, description;

		if (!gelf_getphdr(elf, (int)i, &segment) || segment.p_type != PT_NOTE)
			continue;
		data = elf_getdata_rawchunk(elf, (int64_t)segment.p_offset, segment.p_filesz,
		                            segment.p_align == 8 ? ELF_T_NHDR8 : ELF_T_NHDR);
		while (data && (at = gelf_getnote(data, at, &note, &name, &description))) {
			if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 || note.n_descsz > 64 ||
			    memcmp((char *)data->d_buf + name, "GNU", 4))
				continue;
			memcpy(id, (char *)data->d_buf + description, note.n_descsz);
			return note.n_descsz;
		}
	}
	return 0;
}

/* The separate debug file: by build id, in the place where all distributions put it. */
static void open_debug(struct module *module)
{
	char path[256] = "/usr/lib/debug/.build-id/";
	uint8_t id[64];
	size_t size = build_of(module->elf, id), length = strlen(path);

	if (size < 2)
		return;
	for (size_t i = 0; i < size; i++)
		length += (size_t)snprintf(path + length, sizeof(path) - length, i == 1 ? "/%02x" : "%02x",
		                           id[i]);
	snprintf(path + length, sizeof(path) - length, ".debug");
	module->debug_file = open(path, O_RDONLY | O_CLOEXEC);
	if (module->debug_file >= 0)
		module->debug = elf_begin(module->debug_file, ELF_C_READ_MMAP, NULL);
}

static int read_symbols(struct module *module)
{
	int rc = read_table(module, module->elf, SHT_SYMTAB);

	if (!rc && !module->entries) {
		open_debug(module);
		if (module->debug)
			rc = read_table(module, module->debug, SHT_SYMTAB);
	}
	if (!rc && !module->entries)
		rc = read_table(module, module->elf, SHT_DYNSYM);
	if (!rc && module->entries)
		qsort(module->entry, module->entries, sizeof(*module->entry), by_value);
	return rc;
}

/* Reads a module once. One that cannot be read has no symbols: the others have. */
static int read_module(const struct lh_symbols *symbols, struct module *module)
{
	if (module->read)
		return 0;
	module->read = true;
	module->file = open_module(symbols, module);
	if (module->file < 0)
		return 0;
	module->elf = elf_begin(module->file, ELF_C_READ_MMAP, NULL);
	if (!module->elf || gelf_getclass(module->elf) != ELFCLASS64 || !find_bias(module))
		return 0;
	return read_symbols(module);
}

/* ---- names ---- */

/* "libc" and "libc.so.6" are both names of libc.so.6. */
static bool is_module(const struct module *module, const char *name, size_t length)
{
	char next;

	if (strncmp(module->name, name, length))
		return false;
	next = module->name[length];
	return !next || next == '.' || next == '-';
}

/*
 * "a::b" as the beginning of a mangled name, up to what follows its last part; false: it is not such a name.
 */
static bool mangle(const char *name, char *out, size_t size)
{
	bool nested = strstr(name, "::") != NULL;
	size_t length = (size_t)snprintf(out, size, nested ? "_ZN" : "_Z");

	while (*name) {
		const char *end = strstr(name, "::");
		size_t part = end ? (size_t)(end - name) : strlen(name);

		for (size_t i = 0; i < part; i++)
			if (!isalnum((unsigned char)name[i]) && name[i] != '_' && name[i] != '$')
				return false;
		if (!part || length + part + 24 > size)
			return false;
		length += (size_t)snprintf(out + length, size - length, "%zu%.*s", part, (int)part, name);
		name = end ? end + 2 : name + part;
	}
	return true;
}

struct wanted {
	const char *name;
	size_t length;
	bool mangled;
	bool nested;
	char mangle[2 * NAME_MAX_LENGTH];
};

/* What may follow the parts of a name: the end of nesting, a Rust hash, or the arguments. */
static bool ends_well(const struct wanted *wanted, const char *rest)
{
	if (wanted->nested)
		return *rest == 'E' || !strncmp(rest, RUST_HASH, strlen(RUST_HASH));
	return *rest && !strchr(rest, '.');
}

static bool is_name(const struct wanted *wanted, const char *name)
{
	size_t skip, length;

	if (!strncmp(name, wanted->name, wanted->length)) {
		const char *rest = name + wanted->length;

		/* In .symtab the version stands behind the name; one @ alone is of a hidden one. */
		return !*rest || (rest[0] == '@' && rest[1] == '@');
	}
	if (!wanted->mangled || strncmp(name, "_Z", 2))
		return false;
	/* A method that is const says so behind the N. */
	skip = wanted->nested && !strncmp(name, "_ZNK", 4) ? 4 : wanted->nested ? 3 : 2;
	length = strlen(wanted->mangle) - (wanted->nested ? 3 : 2);
	return !strncmp(name + skip, wanted->mangle + (wanted->nested ? 3 : 2), length) &&
	       ends_well(wanted, name + skip + length);
}

static void fill(const struct module *module, const struct entry *entry, struct lh_symbol *out)
{
	*out = (struct lh_symbol){
		.name = entry->name,
		.module = module->name,
		.address = entry->value + module->bias,
		.size = entry->size,
		.bias = module->bias,
		.is_function = entry->is_function,
		.is_local = entry->is_local,
		.is_indirect = entry->is_indirect,
	};
}

static int find_in(const struct module *module, const struct wanted *wanted,
                   int (*found)(void *context, const struct lh_symbol *symbol), void *context)
{
	uint64_t last = 0;
	bool any = false;
	int rc = 0;

	for (size_t i = 0; !rc && i < module->entries; i++) {
		const struct entry *entry = &module->entry[i];
		struct lh_symbol symbol;

		if ((any && entry->value == last) || !is_name(wanted, entry->name))
			continue;
		any = true;
		last = entry->value;
		fill(module, entry, &symbol);
		rc = found(context, &symbol);
	}
	return rc;
}

int lh__symbols_find(struct lh_symbols *symbols, const char *name,
                     int (*found)(void *context, const struct lh_symbol *symbol), void *context)
{
	const char *mark = strchr(name, '!');
	struct wanted wanted = { .name = mark ? mark + 1 : name };
	int rc = 0;

	wanted.length = strlen(wanted.name);
	wanted.nested = strstr(wanted.name, "::") != NULL;
	wanted.mangled = mangle(wanted.name, wanted.mangle, sizeof(wanted.mangle));
	if (!wanted.length)
		return 0;
	for (size_t i = 0; !rc && i < symbols->modules; i++) {
		struct module *module = &symbols->module[i];

		if (mark && !is_module(module, name, (size_t)(mark - name)))
			continue;
		rc = read_module(symbols, module);
		if (!rc)
			rc = find_in(module, &wanted, found, context);
	}
	return rc;
}

static struct module *module_at(struct lh_symbols *symbols, uint64_t address)
{
	for (size_t i = 0; i < symbols->modules; i++)
		if (address >= symbols->module[i].start && address < symbols->module[i].end)
			return &symbols->module[i];
	return NULL;
}

bool lh__symbols_at(struct lh_symbols *symbols, uint64_t address, struct lh_symbol *out)
{
	struct module *module = module_at(symbols, address);
	const struct entry *best = NULL;
	size_t low = 0, high;
	uint64_t value;

	if (!module || read_module(symbols, module))
		return false;
	value = address - module->bias;
	for (high = module->entries; low < high;) {
		size_t middle = low + (high - low) / 2;

		if (module->entry[middle].value <= value)
			low = middle + 1;
		else
			high = middle;
	}
	/* Back over names of no size that stand inside a function: labels of assembly. */
	for (size_t i = low, looked = 0; i-- > 0 && looked < 64; looked++) {
		const struct entry *entry = &module->entry[i];

		if (value - entry->value < entry->size) {
			best = entry;
			/* Of several names of one place the best comes first. */
			while (i-- > 0 && module->entry[i].value == entry->value)
				best = &module->entry[i];
			break;
		}
	}
	/* None covers it: one that says no size reaches to the next. */
	if (!best && low && !module->entry[low - 1].size && module->entry[low - 1].is_function)
		best = &module->entry[low - 1];
	if (best)
		fill(module, best, out);
	return best != NULL;
}

size_t lh__symbols_build(struct lh_symbols *symbols, uint64_t address, uint8_t id[64])
{
	struct module *module = module_at(symbols, address);

	if (!module || read_module(symbols, module) || !module->elf)
		return 0;
	return build_of(module->elf, id);
}

/* ---- the nearest name ---- */

/* How many letters differ, up to most; more than that otherwise. */
static unsigned distance(const char *a, size_t a_length, const char *b, size_t b_length, unsigned most)
{
	unsigned row[NAME_MAX_LENGTH + 1];

	for (size_t j = 0; j <= b_length; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= a_length; i++) {
		unsigned before = row[0], least = row[0] = (unsigned)i;

		for (size_t j = 1; j <= b_length; j++) {
			unsigned above = row[j], best = before + (a[i - 1] != b[j - 1]);

			best = above + 1 < best ? above + 1 : best;
			best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
			before = above;
			row[j] = best;
			least = best < least ? best : least;
		}
		if (least > most)
			return most + 1;
	}
	return row[b_length];
}

const char *lh__symbols_nearest(struct lh_symbols *symbols, const char *name)
{
	const char *mark = strchr(name, '!'), *best = NULL;
	const char *word = mark ? mark + 1 : name;
	size_t length = strlen(word);
	unsigned least;

	if (length < 2 || length > NAME_MAX_LENGTH)
		return NULL;
	least = length < 6 ? 2 : (unsigned)length / 3;
	for (size_t i = 0; i < symbols->modules; i++) {
		struct module *module = &symbols->module[i];

		if (read_module(symbols, module))
			return best;
		for (size_t j = 0; j < module->entries; j++) {
			size_t other = strlen(module->entry[j].name);
			unsigned far;

			if (other > NAME_MAX_LENGTH || other + least <= length || length + least <= other)
				continue;
			far = distance(word, length, module->entry[j].name, other, least - 1);
			if (far < least) {
				least = far;
				best = module->entry[j].name;
			}
		}
	}
	return best;
}
