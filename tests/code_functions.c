/*
 * code_functions.c - the reader of .eh_frame against readelf's, with and without section headers, and on
 * files that are cut off or of which a byte is another: it never leaves the file, and what it tells is in
 * order.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "code/functions.h"
#include "tap.h"

#define FUNCTIONS 65536u

struct file {
	uint8_t *bytes; /* they end where memory ends */
	size_t size, mapped;
	void *map;
};

struct list {
	size_t count, pads, signals;
	uint64_t start[FUNCTIONS], end[FUNCTIONS], last;
	bool in_order, inside;
	size_t size; /* of the file */
};

static struct list ours, theirs, again;

static struct file load(const char *path)
{
	struct file file = { 0 };
	struct stat status;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || fstat(fd, &status) < 0)
		return file;
	file.size = (size_t)status.st_size;
	file.mapped = (file.size + 4095) / 4096 * 4096 + 4096;
	file.map = mmap(NULL, file.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	file.bytes = (uint8_t *)file.map + file.mapped - 4096 - file.size;
	mprotect((uint8_t *)file.map + file.mapped - 4096, 4096, PROT_NONE);
	if (read(fd, file.bytes, file.size) != (ssize_t)file.size)
		file.size = 0;
	close(fd);
	return file;
}

static int note(void *context, const struct lh_function *function)
{
	struct list *list = context;

	list->in_order &= function->size > 0 && (list->count == 0 || function->address >= list->last);
	list->inside &= function->offset <= list->size && function->size <= list->size - function->offset;
	list->last = function->address + function->size;
	if (list->count < FUNCTIONS) {
		list->start[list->count] = function->address;
		list->end[list->count] = function->address + function->size;
	}
	list->count++;
	list->pads += function->has_pads;
	list->signals += function->is_signal_frame;
	return 0;
}

static long read_all(const uint8_t *bytes, size_t size, struct list *list)
{
	list->count = list->pads = list->signals = 0;
	list->in_order = list->inside = true;
	list->size = size;
	return lh__functions(&lh__sys_default, bytes, size, note, list);
}

static int by_number(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* readelf's list: starts, and ends, each in ascending order. */
static void read_theirs(const char *path)
{
	char command[512], line[512];
	FILE *pipe;

	snprintf(command, sizeof command, "LC_ALL=C readelf -wf -W %s 2>/dev/null", path);
	pipe = popen(command, "r");
	theirs.count = theirs.signals = theirs.pads = 0;
	while (pipe && fgets(line, sizeof line, pipe)) {
		unsigned long start, end;
		const char *range = strstr(line, " FDE ") ? strstr(line, "pc=") : NULL;

		if (range && sscanf(range, "pc=%lx..%lx", &start, &end) == 2 && end > start &&
		    theirs.count < FUNCTIONS) {
			theirs.start[theirs.count] = start;
			theirs.end[theirs.count++] = end;
		}
	}
	if (pipe)
		pclose(pipe);
	qsort(theirs.start, theirs.count, sizeof *theirs.start, by_number);
	qsort(theirs.end, theirs.count, sizeof *theirs.end, by_number);
}

static bool same(const struct list *a, const struct list *b)
{
	return a->count > 0 && a->count == b->count &&
	       memcmp(a->start, b->start, a->count * sizeof *a->start) == 0 &&
	       memcmp(a->end, b->end, a->count * sizeof *a->end) == 0;
}

static void hide_sections(struct file *file)
{
	Elf64_Ehdr *elf = (Elf64_Ehdr *)file->bytes;

	elf->e_shoff = 0;
	elf->e_shnum = elf->e_shstrndx = 0;
}

/* Looks up each function by its first, last and middle byte. */
static bool are_found(const struct file *file, const struct list *list)
{
	struct lh_frames frames;

	if (lh__frames_open(file->bytes, file->size, &frames) < 0)
		return false;
	for (size_t i = 0; i < list->count; i++) {
		uint64_t size = list->end[i] - list->start[i], offset = 0;
		struct lh_function function;

		for (unsigned k = 0; k < frames.header_count; k++) {
			Elf64_Phdr header;

			memcpy(&header, file->bytes + frames.headers + k * sizeof header, sizeof header);
			if (header.p_type == PT_LOAD && list->start[i] - header.p_vaddr < header.p_filesz)
				offset = list->start[i] - header.p_vaddr + header.p_offset;
		}
		for (unsigned k = 0; k < 3; k++)
			if (lh__function_before(&frames, offset + (size - 1) * k / 2, &function) < 0 ||
			    function.address != list->start[i] || function.size != size ||
			    function.offset != offset)
				return false;
	}
	return true;
}

static void compare(const char *path)
{
	struct file file = load(path);

	if (file.size == 0) {
		skip(path, "it is not here");
		return;
	}
	read_theirs(path);
	read_all(file.bytes, file.size, &ours);
	ok(same(&ours, &theirs) && ours.in_order && ours.inside, "%s: %zu functions, the same as readelf's",
	   path, ours.count);
	ok(are_found(&file, &ours), "%s: each is found by the table", path);
	hide_sections(&file);
	read_all(file.bytes, file.size, &again);
	ok(same(&ours, &again) && ours.pads == again.pads, "%s: the same without section headers", path);
	munmap(file.map, file.mapped);
}

/* The C library's own file, as the dynamic linker has it. */
static int find_library(struct dl_phdr_info *info, size_t size, void *context)
{
	if (!strstr(info->dlpi_name, "libc.so"))
		return 0;
	snprintf(context, 512, "%s", info->dlpi_name);
	return 1;
}

static void marks(const char *library)
{
	struct file file = load(library);

	read_all(file.bytes, file.size, &ours);
	ok(ours.signals == 1, "the C library has one return trampoline of signals");
	munmap(file.map, file.mapped);
	file = load("/usr/lib/x86_64-linux-gnu/libstdc++.so.6");
	if (file.size == 0) {
		skip("landing pads are seen", "libstdc++ is not here");
		return;
	}
	read_all(file.bytes, file.size, &ours);
	ok(ours.pads > 0 && ours.pads < ours.count,
	   "landing pads are seen: %zu of %zu functions of libstdc++", ours.pads, ours.count);
	munmap(file.map, file.mapped);
}

static void nothing_there(void)
{
	static uint8_t zero[4096];
	Elf64_Ehdr elf = { .e_ident = ELFMAG "\2\1", .e_machine = EM_X86_64, .e_type = ET_DYN };

	elf.e_phentsize = sizeof(Elf64_Phdr);
	is(read_all(zero, sizeof zero, &ours), -ENOEXEC, "zeroes");
	is(read_all(zero, 0, &ours), -ENOEXEC, "nothing at all");
	is(read_all((uint8_t *)&elf, sizeof elf, &ours), -ENODATA, "a header and no more");
	elf.e_machine = EM_AARCH64;
	is(read_all((uint8_t *)&elf, sizeof elf, &ours), -ENOEXEC, "another processor's");
	elf.e_machine = EM_X86_64;
	elf.e_phnum = 1;
	elf.e_phoff = sizeof elf;
	is(read_all((uint8_t *)&elf, sizeof elf, &ours), -ENOEXEC, "headers of segments beyond the end");
	elf.e_phnum = 0;
	elf.e_phoff = 0;
	elf.e_type = ET_REL;
	is(read_all((uint8_t *)&elf, sizeof elf, &ours), -ENOEXEC, "an object");
}

static int stop_at_third(void *context, const struct lh_function *function)
{
	return ++*(int *)context == 3 ? 77 : 0;
}

/* Files of which something is wrong; what is told must be in order and inside, or it is an error. */
static bool damage(const struct file *small, unsigned with)
{
	bool good = true;

	for (size_t i = 0; i < small->size; i++) {
		long result;

		small->bytes[i] ^= (uint8_t)with;
		result = read_all(small->bytes, small->size, &ours);
		good &= (result >= 0 || result == -ENOEXEC || result == -ENODATA) && ours.in_order &&
		        ours.inside;
		small->bytes[i] ^= (uint8_t)with;
	}
	return good;
}

static bool cut(const struct file *small)
{
	bool good = true;

	for (size_t size = 0; size < small->size; size += 1 + size / 64) {
		uint8_t *end = small->bytes + small->size - size;
		long result;

		memmove(end, small->bytes, size);
		result = read_all(end, size, &ours);
		good &= (result >= 0 || result == -ENOEXEC || result == -ENODATA) && ours.in_order &&
		        ours.inside;
		memmove(small->bytes, end, size);
	}
	return good;
}

static void broken(void)
{
	struct file small = load("/bin/true");
	int calls = 0;

	ok(lh__functions(&lh__sys_default, small.bytes, small.size, stop_at_third, &calls) == 77 &&
	           calls == 3,
	   "who is told may stop it");
	ok(damage(&small, 0xff), "each byte inverted: nothing is read or told that is not there");
	ok(damage(&small, 0x80), "each byte's highest bit");
	hide_sections(&small);
	ok(damage(&small, 0x7f), "without section headers, each byte's other bits");
	munmap(small.map, small.mapped);
	small = load("/bin/true");
	ok(cut(&small), "cut off at many places");
	munmap(small.map, small.mapped);
}

static void planted(void)
{
	read_all((const uint8_t *)"", 0, &ours);
	note(&ours, &(struct lh_function){ .address = 16, .size = 16, .offset = 0 });
	ok(!ours.inside, "caught: a function outside of the file");
	note(&ours, &(struct lh_function){ .address = 20, .size = 16, .offset = 0 });
	ok(!ours.in_order, "caught: functions that overlap");
	theirs = ours;
	theirs.end[1]++;
	ok(!same(&ours, &theirs), "caught: a function of another size");
}

int main(void)
{
	char library[512] = "";

	dl_iterate_phdr(find_library, library);
	compare("/usr/bin/sqlite3");
	compare("/usr/bin/redis-server");
	compare(library);
	marks(library);
	nothing_there();
	broken();
	planted();
	return done();
}
