/* timeout: 120 */
/* patch_refuse.c - everything that can be wrong with a patch or a process is one line and changes nothing. */
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "patch.h"
#include "service/code/patch_inside.h"

#define REPLACE(function, line)                                                                              \
	line "\nstatic int new_one(int v) { return v; }\nLH_PATCH_REPLACE(" function ", new_one);\n"

static struct target target;
static uint64_t before;

/* It fails with that code and one line that has that in it, and the program's code is what it was. */
static void refused(const char *file, int code, const char *part, const char *what)
{
	struct lh_patch_outcome outcome;
	struct lh_error error = { 0 };
	int result = lh__patch_apply(target.pid, file, &patch_plain, &outcome, &error);

	is(result, code, "%s: %s", what, error.text);
	if (!ok(strstr(error.text, part) && !strchr(error.text, '\n'), "says so"))
		printf("# wanted %s\n", part);
	if (!ok(patch_checksum(target.pid) == before, "nothing has changed"))
		before = patch_checksum(target.pid);
}

static void refused_source(const char *source, int code, const char *part, const char *what)
{
	refused(patch_make("refused", "", source), code, part, what);
}

static void test_functions(void)
{
	refused_source(REPLACE("close_by", ""), -ENOTSUP, "too short", "a function that is too short");
	refused_source(REPLACE("entered", ""), -ENOTSUP, "leads into",
	               "a function that jumps to its first bytes");
	refused_source(REPLACE("tabled", ""), -ENOTSUP, "leads into",
	               "a function with a table that leads there");
	refused_source(REPLACE("holds", ""), -ENOTSUP, "return into", "a function that is returned to there");
	refused_source(REPLACE("answerr", ""), -ENOENT, "is it answer?", "a function that is not there");
	refused_source(REPLACE("limit", ""), -ENOENT, "is a variable", "a variable");
	refused_source(REPLACE("libc!strlen", ""), -ENOTSUP, "indirect",
	               "a function that is chosen for the processor");
	refused_source(REPLACE("answer", "") "LH_PATCH_REPLACE(answer, new_one);\n", -EINVAL, "twice",
	               "the same function twice");
	refused_source(REPLACE("answer", "LH_PATCH_ORIGINAL(old, fib, int (int));"), -EINVAL, "not replaced",
	               "the original of what is not replaced");
}

static void test_objects(void)
{
	refused_source(REPLACE("answer", "extern int limid; int *const at; int *const at = &limid;"), -ENOENT,
	               "limid", "a symbol that is not there");
	refused_source(REPLACE("answer", "_Thread_local int own;"), -ENOTSUP, "thread-local",
	               "a thread-local variable");
	refused_source(REPLACE("answer", "extern _Thread_local int theirs; int get(void);"
	                                 "int get(void) { return theirs; }"),
	               -ENOTSUP, "thread-local", "another's thread-local variable");
	refused_source(REPLACE("answer",
	                       "volatile int x; __attribute__((constructor)) static void up(void) { x++; }"),
	               -ENOTSUP, "constructor", "a constructor");
	refused_source(REPLACE("answer",
	                       "int x; void f(void); void f(void) { x++; }"
	                       "void (*choose(void))(void); void (*choose(void))(void) { return f; }"
	                       "void chosen(void) __attribute__((ifunc(\"choose\")));"),
	               -ENOTSUP, "indirect function", "an indirect function of its own");
	refused_source(REPLACE("answer", "LH_PATCH_BUILD(\"0123456789abcdef\");"), -ESTALE, "build",
	               "a patch for another build");
	refused_source(REPLACE("answer", "LH_PATCH_NAME(\"a name\");"), -EINVAL, "no name", "a bad name");
	refused_source("int nothing;", -ENOEXEC, "no patch", "a shared object that is no patch");
}

/* What is right is applied: none of the above is refused for another reason. */
static void test_right(void)
{
	struct lh_patch_outcome outcome;
	struct lh_symbols *symbols;
	struct lh_error error;
	char source[512], id[129] = "";
	struct lh_symbol answer;
	uint8_t bytes[64];
	size_t n = 0;

	ok(lh__symbols_open(target.pid, &symbols, &error) == 0 &&
	           lh__patch_function(target.pid, symbols, "answer", &answer, &error) == 0,
	   "the program's symbols");
	n = lh__symbols_build(symbols, answer.address, bytes);
	for (size_t i = 0; i < n; i++)
		snprintf(id + 2 * i, 3, "%02x", bytes[i]);
	lh__symbols_close(symbols);
	snprintf(source, sizeof source,
	         REPLACE("answer", "LH_PATCH_BUILD(\"%s\"); extern int none __attribute__((weak));"
	                           "int *const no; int *const no = &none;"),
	         id);
	is(patch_apply(target.pid, patch_make("right", "-s", source)), 0, "the right build, without symbols");
	is(patch_revert(target.pid, "right", &outcome), 0, "reverted");
	ok(patch_checksum(target.pid) == before, "the code is what it was");
}

static void write_file(const char *path, const uint8_t *bytes, size_t size)
{
	FILE *file = fopen(path, "w");

	if (!file || fwrite(bytes, 1, size, file) != size)
		exit(1);
	fclose(file);
}

/* Reads and lays out; nothing of it reaches a process. */
static int lay(const char *path)
{
	struct lh_patch_item items[LH_PATCH_PLACES_MAX];
	struct lh_patch_object object;
	struct lh_error error = { 0 };
	uint8_t *to;
	int result = lh__patch_object_open(path, &object, &error);

	if (result < 0)
		return result;
	to = calloc(1, object.length + 1);
	result = lh__patch_object_lay(&object, 0, to, &error);
	if (result == 0)
		result = lh__patch_object_items(&object, 0, to, items, &error);
	free(to);
	lh__patch_object_close(&object);
	return result;
}

static void test_damage(void)
{
	const char *file = patch_make("damage", "", REPLACE("answer", "extern int limit; int *p = &limit;"));
	static uint8_t whole[65536], copy[sizeof whole];
	FILE *from = fopen(file, "r");
	size_t size = fread(whole, 1, sizeof whole, from);
	unsigned seed = 1, wrong = 0, refused_some = 0;
	Elf64_Ehdr *head = (void *)copy;
	char path[128];

	fclose(from);
	snprintf(path, sizeof path, "%s/bad.so", patch_folder);
	ok(lay(file) == 0 && size > 0, "a patch that is whole can be read");
	for (size_t cut = 0; cut < size; cut += 97) {
		write_file(path, whole, cut);
		wrong += lay(path) == 0;
	}
	is(wrong, 0, "cut at any place it is refused");
	memcpy(copy, whole, size);
	head->e_machine = EM_386;
	write_file(path, copy, size);
	refused(path, -ENOEXEC, "x86-64", "for another machine");
	memcpy(copy, whole, size);
	head->e_type = ET_EXEC;
	write_file(path, copy, size);
	refused(path, -ENOEXEC, "not a shared object", "a program");
	memcpy(copy, whole, size);
	copy[EI_CLASS] = ELFCLASS32;
	write_file(path, copy, size);
	refused(path, -ENOEXEC, "x86-64", "32-bit");
	write_file(path,
	           (const uint8_t *)"#!/bin/sh\n............................................................",
	           70);
	refused(path, -ENOEXEC, "not an ELF", "no ELF file");
	refused("/nowhere/x.so", -ENOENT, "cannot be opened", "no file");
	refused("/tmp", -ENOEXEC, "", "a folder");
	for (int i = 0; i < 1500; i++) {
		memcpy(copy, whole, size);
		for (int j = 0; j < 3; j++) {
			seed = seed * 1103515245 + 12345;
			copy[(seed >> 8) % (i % 3 ? size : 1024)] = (uint8_t)(seed >> 24);
		}
		write_file(path, copy, size);
		refused_some += lay(path) < 0;
	}
	ok(refused_some > 100, "with random bytes changed it is read or refused (%u of 1500)", refused_some);
}

static int try_as_nobody(void)
{
	struct lh_patch_outcome outcome;
	struct lh_error error;

	if (setgid(65534) != 0 || setuid(65534) != 0)
		return 1;
	return lh__patch_apply(target.pid, "/nowhere", &patch_plain, &outcome, &error) != -EPERM;
}

static void refused_process(pid_t pid, int code, const char *what)
{
	const char *file = patch_make("process", "", REPLACE("answer", ""));
	struct lh_patch_outcome outcome;
	struct lh_error error = { 0 };

	is(lh__patch_apply(pid, file, &patch_plain, &outcome, &error), code, "%s: %s", what, error.text);
	is(lh__patch_revert(pid, "process", &patch_plain, &outcome, &error), code == -EBUSY ? -ENOENT : code,
	   "nor is reverted: %s", error.text);
}

static void test_processes(void)
{
	pid_t zombie = fork(), thread = 0;
	char path[64], line[64];
	FILE *tasks;

	if (zombie == 0)
		_exit(0);
	usleep(50000);
	refused_process(zombie, -ESRCH, "a zombie");
	waitpid(zombie, NULL, 0);
	refused_process(zombie, -ESRCH, "no such process");
	refused_process(0, -ESRCH, "process 0");
	refused_process(-5, -ESRCH, "a negative number");
	snprintf(path, sizeof path, "ls /proc/%d/task | tail -n 1", target.pid);
	tasks = popen(path, "r");
	if (tasks && fgets(line, sizeof line, tasks))
		thread = atoi(line);
	pclose(tasks);
	refused_process(thread, -ESRCH, "a thread");
	if (ptrace(PTRACE_SEIZE, target.pid, NULL, NULL) == 0) {
		refused_process(target.pid, -EBUSY, "a process that is traced");
		ptrace(PTRACE_INTERRUPT, target.pid, NULL, NULL);
		waitpid(target.pid, NULL, __WALL);
		ptrace(PTRACE_DETACH, target.pid, NULL, NULL);
	}
	if (getuid() == 0)
		ok_in_child("somebody else's process", try_as_nobody);
	else
		skip("somebody else's process", "not root");
	ok(patch_checksum(target.pid) == before && target_ask(&target).answer == 4, "nothing has changed");
}

/* ---- what others write ---- */

static struct lh_patch_listed seen;
static void note(void *context, const struct lh_patch_listed *patch)
{
	seen = *patch;
	if (patch->place)
		memcpy(context, patch->place, sizeof *patch->place);
}

static void poke(uint64_t address, uint8_t byte, uint8_t *old)
{
	char path[64];
	int memory;

	snprintf(path, sizeof path, "/proc/%d/mem", target.pid);
	memory = open(path, O_RDWR | O_CLOEXEC);
	if (pread(memory, old, 1, (off_t)address) != 1 || pwrite(memory, &byte, 1, (off_t)address) != 1)
		exit(1);
	close(memory);
}

static void test_others(void)
{
	/* Not one that is called meanwhile: that would run into what is written here. */
	const char *file = patch_make("others", "", REPLACE("tiny", ""));
	struct lh_patch_outcome outcome;
	struct lh_patch_place place;
	struct lh_error error;
	uint64_t head;
	uint8_t old, ignored;

	is(patch_apply(target.pid, file), 0, "a patch");
	ok(patch_checksum(target.pid) != before, "the checksum notices it");
	ok(lh__patch_list(target.pid, note, &place, &error) == 0 && seen.intact, "it is intact");
	head = seen.memory;
	poke(place.address + 2, 0xaa, &old);
	ok(lh__patch_list(target.pid, note, &place, &error) == 0 && !seen.intact,
	   "somebody changed its place");
	is(lh__patch_revert(target.pid, "others", &patch_plain, &outcome, &error), -EILSEQ, "%s", error.text);
	poke(place.address + 2, old, &ignored);
	poke(head + 600, 0x55, &old);
	ok(lh__patch_list(target.pid, note, &place, &error) == 0 && seen.state == LH_PATCH_DAMAGED,
	   "somebody changed its head");
	is(lh__patch_revert(target.pid, "others", &patch_plain, &outcome, &error), -EILSEQ, "%s", error.text);
	poke(head + 600, old, &ignored);
	is(patch_revert(target.pid, "others", &outcome), 0, "all is there again: reverted");
	is(patch_checksum(target.pid), before, "the code is what it was");
	poke(place.address, 0xcc, &old);
	is(lh__patch_apply(target.pid, file, &patch_plain, &outcome, &error), -EILSEQ, "%s", error.text);
	ok(strstr(error.text, "breakpoint") != NULL, "says so");
	poke(place.address, old, &ignored);
	poke(place.address + 1, (uint8_t)~place.before[1], &old);
	is(lh__patch_apply(target.pid, file, &patch_plain, &outcome, &error), -EILSEQ, "%s", error.text);
	poke(place.address + 1, old, &ignored);
	is(patch_checksum(target.pid), before, "the code is what it was");
}

int main(void)
{
	if (!patch_begin())
		return 1;
	target = target_start(1, false);
	before = patch_checksum(target.pid);
	test_functions();
	test_objects();
	test_right();
	test_damage();
	test_processes();
	test_others();
	target_stop(&target);
	patch_end();
	return done();
}
