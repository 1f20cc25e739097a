/* Names in the modules of a process: compared with what the dynamic linker says of this one. */
#include "service/code/symbols.h"

#include <dlfcn.h>
#include <errno.h>
#include <time.h>

#include "code_program.h"

/* Names as compilers of other languages make them. */
int method(int) __asm__("_ZN5space5Thing4makeEi");
int constant(int) __asm__("_ZNK5space5Thing4showEv");
int plain_cpp(int) __asm__("_Z9of_spacesi");
int rust(int) __asm__("_ZN4core3fmt5write17h0123456789abcdefE");
int alias(int) __attribute__((alias("_ZN5space5Thing4makeEi")));

__attribute__((noinline)) int method(int x)
{
	return x * 3 + 1;
}
__attribute__((noinline)) int constant(int x)
{
	return x * 5 + 2;
}
__attribute__((noinline)) int plain_cpp(int x)
{
	return x * 7 + 3;
}
__attribute__((noinline)) int rust(int x)
{
	return x * 9 + 4;
}
static __attribute__((noinline, used)) int hidden_away(int x)
{
	return x * 11 + 5;
}
int a_variable_of_this_test = 5;

static struct lh_error error;

struct seen {
	unsigned n;
	struct lh_symbol first;
};

static int note(void *context, const struct lh_symbol *symbol)
{
	struct seen *seen = context;

	if (!seen->n++)
		seen->first = *symbol;
	return 0;
}

static int stop_at_first(void *context, const struct lh_symbol *symbol)
{
	return note(context, symbol) + 7;
}

static struct seen find(struct lh_symbols *symbols, const char *name)
{
	struct seen seen = { 0 };

	if (lh__symbols_find(symbols, name, note, &seen))
		printf("# %s: failed\n", name);
	return seen;
}

static void is_at(struct lh_symbols *symbols, const char *name, const void *address)
{
	struct seen seen = find(symbols, name);

	ok(seen.n == 1 && seen.first.address == (uint64_t)(uintptr_t)address, "%s", name);
	if (seen.n != 1)
		printf("# found %u times\n", seen.n);
}

#define CODE(function) ((const void *)(uintptr_t)(function))

static void test_names(struct lh_symbols *symbols)
{
	struct seen seen;

	is_at(symbols, "hidden_away", CODE(hidden_away));
	is_at(symbols, "code_symbols!hidden_away", CODE(hidden_away));
	is_at(symbols, "a_variable_of_this_test", &a_variable_of_this_test);
	is_at(symbols, "space::Thing::make", CODE(method));
	is_at(symbols, "space::Thing::show", CODE(constant));
	is_at(symbols, "of_spaces", CODE(plain_cpp));
	is_at(symbols, "core::fmt::write", CODE(rust));
	is_at(symbols, "alias", CODE(alias));
	is_at(symbols, "libc!lfind", dlsym(RTLD_NEXT, "lfind"));
	is_at(symbols, "libc.so.6!getenv", dlsym(RTLD_NEXT, "getenv"));
	seen = find(symbols, "hidden_away");
	ok(seen.first.is_function && seen.first.is_local && seen.first.size, "what kind it is");
	seen = find(symbols, "a_variable_of_this_test");
	ok(!seen.first.is_function && seen.first.size == sizeof(int), "of a variable, too");
	seen = find(symbols, "libc!memcpy");
	ok(seen.n == 1 && seen.first.is_indirect, "an indirect function, its newest version only");
	is(find(symbols, "space::Thing").n, 0, "not a part of a name");
	is(find(symbols, "hidden_awa").n, 0, "nor its beginning");
	is(find(symbols, "lib!qsort").n, 0, "nor the beginning of a module's name");
	is(find(symbols, "").n, 0, "nor nothing");
	memset(&seen, 0, sizeof(seen));
	is(lh__symbols_find(symbols, "malloc", stop_at_first, &seen), 7, "ends when it is told to");
	is(seen.n, 1, "at once");
}

static void test_addresses(struct lh_symbols *symbols)
{
	const char *name = lh__symbols_nearest(symbols, "hiden_away");
	struct lh_symbol symbol;
	uint8_t id[64];

	ok(lh__symbols_at(symbols, (uint64_t)(uintptr_t)hidden_away + 1, &symbol) &&
	           !strcmp(symbol.name, "hidden_away"),
	   "what is at an address");
	ok(lh__symbols_at(symbols, (uint64_t)(uintptr_t)dlsym(RTLD_NEXT, "lfind"), &symbol) &&
	           !strncmp(symbol.name, "lfind", 5) && !strcmp(symbol.module, "libc.so.6"),
	   "in libc");
	ok(!lh__symbols_at(symbols, (uint64_t)(uintptr_t)&symbol, &symbol), "nothing on the stack");
	ok(name && !strcmp(name, "hidden_away"), "the nearest name");
	ok(!lh__symbols_nearest(symbols, "qqqqxxxxzzzzjjjjwwww"), "none is near");
	is(lh__symbols_build(symbols, (uint64_t)(uintptr_t)dlsym(RTLD_NEXT, "lfind"), id), 20, "a build id");
	is(lh__symbols_build(symbols, 16, id), 0, "of nothing");
}

static double ms_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) * 1e3 + (double)(now.tv_nsec - start->tv_nsec) / 1e6;
}

static void test_others(void)
{
	struct program program = program_start((const char *const[]){ "stopped", "registers", NULL }, 0);
	struct lh_symbols *symbols = NULL;
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	is(lh__symbols_open(program.id, &symbols, &error), 0, "another process");
	ok(symbols && find(symbols, "starts_threads").n == 1, "a local function of it");
	ok(symbols && find(symbols, "libc!malloc").n == 1, "one of its libraries");
	printf("# %.1f ms\n", ms_since(&start));
	lh__symbols_close(symbols);
	program_kill(&program);
	is(lh__symbols_open(0x7ffffff, &symbols, &error), -ESRCH, "no process");
	ok(*error.text, "and says so");
}

/* A program whose file was replaced while it runs, as an upgrade does. */
static void test_replaced(void)
{
	char path[PATH_MAX + 64], copy[] = "/tmp/code_symbols.XXXXXX", command[2 * PATH_MAX + 128];
	struct lh_symbols *symbols = NULL;
	int file = mkstemp(copy), ready[2];
	pid_t process;
	char byte;

	snprintf(command, sizeof(command), "cat %s >%s && chmod 755 %s", program_path(path, "stopped"), copy,
	         copy);
	close(file);
	if (system(command) || pipe(ready))
		exit(99);
	process = fork();
	if (!process) {
		dup2(ready[1], 1);
		execl(copy, copy, "registers", NULL);
		_exit(99);
	}
	(void)!read(ready[0], &byte, 1);
	unlink(copy);
	if (lh__symbols_open(process, &symbols, &error))
		exit(99);
	if (geteuid())
		skip("of a file that is gone", "needs a privilege");
	else
		is(find(symbols, "starts_threads").n, 1, "of a file that is gone");
	lh__symbols_close(symbols);
	kill(process, SIGKILL);
	waitpid(process, NULL, 0);
}

int main(void)
{
	struct lh_symbols *symbols = NULL;

	is(lh__symbols_open(getpid(), &symbols, &error), 0, "this process");
	if (symbols) {
		test_names(symbols);
		test_addresses(symbols);
	}
	lh__symbols_close(symbols);
	test_others();
	test_replaced();
	return done();
}
