/* timeout: 120 */
/*
 * translate_code.c - code of many kinds, translated: the C library, exceptions, long jumps, threads, children
 * of fork, code that is made while it runs; a cache that is full, code that is forgotten; and clients.
 */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <asm/prctl.h>

#include "translate_code.h"

extern char **environ;

__attribute__((noinline)) static int fib(int n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static int compare_ints(const void *a, const void *b)
{
	return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

/* ---- plain code and the C library */

static uint64_t library_work(unsigned seed)
{
	static _Thread_local int value[2000];
	char text[400], copy[400];
	uint64_t sum = 0;

	for (int i = 0; i < 2000; i++)
		value[i] = (int)((seed = seed * 1103515245u + 12345u) >> 8);
	qsort(value, 2000, sizeof(*value), compare_ints);
	for (int i = 0; i < 2000; i++)
		sum = sum * 31 + (unsigned)value[i];
	for (int i = 1; i < 300; i++) {
		char *memory = malloc((size_t)i * 7);

		memset(memory, i, (size_t)i * 7);
		memcpy(text, memory, (size_t)i);
		memmove(text + 3, text, (size_t)i);
		text[i] = 0;
		sum = sum * 31 + strlen(text) + (uint64_t)(unsigned char)text[i / 2];
		free(memory);
	}
	snprintf(text, sizeof(text), "%d %s %.17g %-20s|%p %Lf", value[7], "words", seed / 7.0, "x",
	         (void *)0x1234, 3.5L);
	strcpy(copy, text);
	strcat(copy, "!");
	for (const char *at = copy; *at; at++)
		sum = sum * 31 + (unsigned char)*at;
	return sum + (uint64_t)strtod("12.75e3", NULL) + (uint64_t)fib(15);
}

static void check_library(const char *name, struct lh_translate_options options)
{
	struct lh_translator *translator = translator_with(options);
	uint64_t wanted = library_work(3), got;
	bool on;

	begin(translator);
	on = lh__translate_is_on(translator);
	got = library_work(3);
	lh__translate_end(translator);
	ok(on && !lh__translate_is_on(translator) && got == wanted, "%s: the C library's functions", name);
	ok(counts_of(translator).blocks > 300 && counts_of(translator).slow == 0, "%s: translated, all of it",
	   name);
	lh__translate_close(translator);
}

static void check_nested(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){ 0 });
	bool inner, after;
	uint64_t dispatches;

	begin(translator);
	begin(translator);
	inner = lh__translate_is_on(translator) && fib(10) == 55;
	lh__translate_end(translator);
	after = lh__translate_is_on(translator) && fib(11) == 89;
	lh__translate_end(translator);
	ok(inner && after && !lh__translate_is_on(translator), "begin within begin: the outer end ends it");
	dispatches = counts_of(translator).dispatches;
	for (int i = 0; i < 100; i++) {
		begin(translator);
		fib(5);
		lh__translate_end(translator);
	}
	ok(counts_of(translator).dispatches - dispatches < 60,
	   "what is known is entered without the translator");
	lh__translate_close(translator);
}

static void check_busy(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){ 0 });
	struct lh_error error;
	uint64_t word[2] = { 0, 0 };

	lh__raw_syscall(SYS_arch_prctl, ARCH_SET_GS, (long)word, 0, 0, 0, 0);
	is(lh__translate_begin(translator, &error), -EBUSY, "a thread that uses gs itself is refused");
	ok(!lh__translate_is_on(translator) && !lh__translate_thread_bytes(translator), "and stays native");
	lh__raw_syscall(SYS_arch_prctl, ARCH_SET_GS, 0, 0, 0, 0, 0);
	lh__translate_close(translator);
	is(lh__translate_open(&(struct lh_translate_options){ .sys = &lh__sys_default, .cache = 5 },
	                      &translator, &error),
	   -EINVAL, "a cache of 5 bytes is refused");
}

/* ---- ways through the stack */

static jmp_buf back;

__attribute__((noinline)) static void jump_from(int depth)
{
	if (depth == 0)
		longjmp(back, 7);
	if (fib(depth) >= 0)
		jump_from(depth - 1);
	fib(2);
}

__attribute__((noinline)) static int frames(void **at)
{
	return backtrace(at, 10);
}

/* What is built beside this program. */
static void *open_object(const char *name)
{
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 100);

	if (length < 0)
		return NULL;
	path[length] = 0;
	snprintf(strrchr(path, '/'), 100, "/objects/%s", name);
	return dlopen(path, RTLD_NOW);
}

static void check_stack(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){ 0 });
	void *object = open_object("throws.so"), *there[10], *here[10];
	int (*throws)(int, int) = object ? (int (*)(int, int))dlsym(object, "throws") : NULL;
	int jumped, caught = 0, count[2];

	frames(here);
	begin(translator);
	jumped = setjmp(back);
	if (jumped == 0)
		jump_from(5);
	if (throws)
		caught = throws(50, 4);
	count[0] = frames(here);
	lh__translate_end(translator);
	count[1] = frames(there);
	is(jumped, 7, "longjmp");
	is(caught, 50 * 5 + 50 * 1000, "exceptions are thrown, and caught, with all destructors");
	ok(count[0] == count[1] && memcmp(here + 2, there + 2, sizeof(void *) * (size_t)(count[0] - 2)) == 0,
	   "a backtrace shows the program's own addresses");
	is(counts_of(translator).slow, 0, "all of that was translated");
	lh__translate_close(translator);
}

/* ---- code that is made while it runs */

#define MADE_BYTES ((size_t)8 << 20)

/* mov $value, %eax; ret */
static void make_constant(uint8_t *at, uint32_t value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static uint32_t call_made(const uint8_t *at)
{
	return ((uint32_t(*)(void))(uintptr_t)at)();
}

static uint8_t *made_memory(void)
{
	uint8_t *made = mmap(NULL, MADE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
	                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return made == MAP_FAILED ? NULL : made;
}

static void check_made(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){ 0 });
	uint8_t *made = made_memory();
	unsigned wrong = 0;

	begin(translator);
	for (uint32_t i = 0; i < 1000; i++) {
		uint8_t *at = made + i % 7 * 65536 +
		              i % 3 * 4093; /* some across two pages, many of the same 16 bits */

		make_constant(at, i);
		lh__translate_forget(translator, (uint64_t)(uintptr_t)at, (uint64_t)(uintptr_t)at + 6);
		for (int again = 0; again < 3; again++)
			wrong += call_made(at) != i;
	}
	lh__translate_end(translator);
	is(wrong, 0, "code that is written anew, and forgotten, runs anew");
	begin(translator);
	make_constant(made, 1);
	call_made(made);
	lh__translate_forget(translator, 0, ~0ull);
	make_constant(made, 2);
	wrong = call_made(made) != 2;
	lh__translate_end(translator);
	ok(!wrong, "forgetting all");
	munmap(made, MADE_BYTES);
	lh__translate_close(translator);
}

/* The planted fault: without forgetting, the old translation is what runs, where code is not writable. */
static void check_not_forgotten(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){ 0 });
	uint8_t *made = made_memory();
	uint32_t got;

	make_constant(made, 1);
	mprotect(made, MADE_BYTES, PROT_READ | PROT_EXEC);
	begin(translator);
	call_made(made);
	mprotect(made, MADE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC);
	make_constant(made, 2);
	got = call_made(made);
	lh__translate_end(translator);
	is(got, 1, "caught: code that was not forgotten is old");
	munmap(made, MADE_BYTES);
	lh__translate_close(translator);
}

/* ---- threads */

#define WORKERS 4

struct shared {
	struct lh_translator *translator;
	uint8_t *made;
	uint64_t wanted;
	unsigned wrong, running;
	pthread_barrier_t barrier;
};

static void *library_thread(void *argument)
{
	struct shared *shared = argument;

	pthread_barrier_wait(&shared->barrier);
	for (int i = 0; i < 10; i++) {
		uint64_t got;

		begin(shared->translator);
		got = library_work(3);
		lh__translate_end(shared->translator);
		if (got != shared->wanted)
			__atomic_add_fetch(&shared->wrong, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Thousands of functions: more than fit in the cache. */
static void *made_thread(void *argument)
{
	struct shared *shared = argument;
	unsigned wrong = 0;

	pthread_barrier_wait(&shared->barrier);
	begin(shared->translator);
	for (int round = 0; round < 3; round++)
		for (uint32_t i = 0; i < 30000; i++)
			wrong += call_made(shared->made + (size_t)i * 48) != i;
	lh__translate_end(shared->translator);
	__atomic_add_fetch(&shared->wrong, wrong, __ATOMIC_RELAXED);
	__atomic_sub_fetch(&shared->running, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void run_threads(struct shared *shared, void *(*body)(void *), void (*meanwhile)(struct shared *))
{
	pthread_t thread[WORKERS];

	shared->running = WORKERS;
	pthread_barrier_init(&shared->barrier, NULL, WORKERS);
	for (int i = 0; i < WORKERS; i++)
		pthread_create(&thread[i], NULL, body, shared);
	if (meanwhile)
		meanwhile(shared);
	for (int i = 0; i < WORKERS; i++)
		pthread_join(thread[i], NULL);
	pthread_barrier_destroy(&shared->barrier);
}

/* The same code is forgotten again and again under those who execute it. */
static void forget_meanwhile(struct shared *shared)
{
	uint64_t start = (uint64_t)(uintptr_t)shared->made;

	for (unsigned i = 0; i < 3000 && __atomic_load_n(&shared->running, __ATOMIC_ACQUIRE) > 0; i++)
		lh__translate_forget(shared->translator, start + i % 300 * 4096,
		                     start + i % 300 * 4096 + 3000);
}

static void check_threads(void)
{
	struct shared shared = { .translator = translator_with((struct lh_translate_options){ 0 }) };

	shared.wanted = library_work(3);
	run_threads(&shared, library_thread, NULL);
	is(shared.wrong, 0, "threads that share a cache");
	lh__translate_close(shared.translator);

	shared.translator = translator_with((struct lh_translate_options){ .cache = 1 << 20 });
	shared.made = made_memory();
	for (uint32_t i = 0; i < 30000; i++)
		make_constant(shared.made + (size_t)i * 48, i);
	run_threads(&shared, made_thread, NULL);
	is(shared.wrong, 0, "threads in a cache that is full again and again");
	ok(counts_of(shared.translator).flushes > 3, "%lu times all was forgotten",
	   (unsigned long)counts_of(shared.translator).flushes);
	run_threads(&shared, made_thread, forget_meanwhile);
	is(shared.wrong, 0, "threads whose code is forgotten while they execute it");
	lh__translate_close(shared.translator);
	munmap(shared.made, MADE_BYTES);
}

/* ---- what a translated thread makes */

static void *native_thread(void *argument)
{
	struct lh_translator *translator = argument;
	bool inherited = lh__translate_is_on(translator), on;
	uint64_t sum;

	begin(translator);
	on = lh__translate_is_on(translator);
	sum = library_work(5);
	lh__translate_end(translator);
	return (void *)(uintptr_t)(!inherited && on && sum == library_work(5));
}

static int translated_child(struct lh_translator *translator)
{
	int before = lh__translate_is_on(translator), sum = fib(17);

	lh__translate_end(translator);
	return before && !lh__translate_is_on(translator) && sum == 1597 ? 0 : 1;
}

static void check_children(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){ 0 });
	int status[3] = { -1, -1, -1 };
	void *result = NULL;
	pthread_t thread;
	pid_t pid;

	fflush(stdout);
	begin(translator);
	pthread_create(&thread, NULL, native_thread, translator);
	pthread_join(thread, &result);
	pid = fork();
	if (pid == 0)
		_exit(translated_child(translator));
	waitpid(pid, &status[0], 0);
	status[1] = posix_spawn(&pid, "/bin/true", NULL, NULL, (char *[]){ "true", NULL }, environ);
	waitpid(pid, &status[1], 0);
	lh__translate_end(translator);
	ok(result != NULL, "a thread that a translated one makes is native, and may be translated");
	is(status[0], 0, "a child of fork goes on translated, with a cache of its own");
	is(status[1], 0, "posix_spawn");
	pid = fork();
	if (pid == 0)
		_exit(native_thread(translator) ? 0 : 1);
	waitpid(pid, &status[2], 0);
	is(status[2], 0, "a child of a native thread may be translated");
	ok(library_work(5) != 0 && counts_of(translator).slow == 0, "nothing of that was slow");
	lh__translate_close(translator);
}

/* ---- flags */

/* How a processor is found out: with traps where an access is not aligned, in blocks not yet known. */
static uint64_t unaligned(void)
{
	uint64_t flags;

	__asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torl $0x40000, (%%rsp)\n\tpopfq\n\t"
	                 "jmp 1f\n1:\tjmp 2f\n2:\tcall 3f\n\tjmp 4f\n3:\tret\n4:\tpushfq\n\tpop %0\n\t"
	                 "push %0\n\tandl $0xfffbffff, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp"
	                 : "=&r"(flags)
	                 :
	                 : "memory", "cc");
	return flags;
}

static void check_flags(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){ 0 });
	uint64_t flags;

	begin(translator);
	flags = unaligned();
	lh__translate_end(translator);
	ok(flags & 0x40000, "the translator is entered with alignment checks on");
	lh__translate_close(translator);
}

/* ---- traps */

static struct lh_translator *trapped;
static uint64_t trap_address;

static void on_trap(int signal, siginfo_t *info, void *context)
{
	ucontext_t *at = context;

	trap_address = lh__translate_address(trapped, (uint64_t)at->uc_mcontext.gregs[REG_RIP]);
	at->uc_mcontext.gregs[REG_RIP] += signal == SIGILL ? 2 : 3;
}

extern const char trap_here[], fault_here[];
__attribute__((noinline)) static uint64_t trapping(void)
{
	uint64_t result = 1;

	__asm__ volatile("trap_here: ud2\n\tadd $5, %0" : "+r"(result));
	return result;
}
__attribute__((noinline)) static uint64_t faulting(void)
{
	uint64_t result = 1;

	__asm__ volatile("fault_here: mov (%1), %1\n\tadd $6, %0" : "+r"(result) : "r"((uint64_t)0));
	return result;
}

static void check_traps(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO }, before[2];
	uint64_t result, where;

	trapped = translator_with((struct lh_translate_options){ 0 });
	sigaction(SIGILL, &action, &before[0]);
	sigaction(SIGSEGV, &action, &before[1]);
	begin(trapped);
	result = trapping();
	where = trap_address;
	result += faulting();
	lh__translate_end(trapped);
	sigaction(SIGILL, &before[0], NULL);
	sigaction(SIGSEGV, &before[1], NULL);
	is(result, 13, "instructions that trap, and go on");
	ok(where == (uint64_t)(uintptr_t)trap_here && trap_address == (uint64_t)(uintptr_t)fault_here,
	   "where they trapped is known by the program's addresses");
	is(counts_of(trapped).slow, 1, "the one that always traps stands alone, and is counted");
	lh__translate_close(trapped);
}

/* ---- instructions that are written anew */

uint64_t odd_rets(uint64_t a), odd_gs(const uint64_t *a), odd_jumps(uint64_t a), odd_far(uint64_t a);
uint64_t odd_operands(uint64_t a);
__asm__(".text\n"
        "odd_rets: push $7\npush %rdi\ncall 1f\nadd %rdi, %rax\npop %rcx\nadd %rcx, %rax\nret\n"
        "1: mov 8(%rsp), %rax\nret $8\n"
        "odd_gs: mov %gs:(%rdi), %rax\nmov $5, %ecx\nrdgsbase %rcx\nadd %rcx, %rax\n"
        "rdgsbase %r9d\nadd %r9, %rax\nret\n"
        "odd_jumps: xor %eax, %eax\nmov $3, %ecx\n2: inc %rax\nloop 2b\nmov $9, %ecx\n"
        "3: inc %rax\ncmp $6, %rax\nloopne 3b\nmovabs $0x100000000, %rcx\njecxz 4f\nud2\n4: jrcxz 5f\n"
        "lea 6f(%rip), %rdx\n.byte 0xf2\njmp *%rdx\n5: ud2\n6: lea (%rax,%rdi), %r8\njmp *7f(%rip)\n"
        "ud2\n.pushsection .data\n7: .quad 8f\n.popsection\n8: xbegin 9f\nud2\n9: lea 1(%rax,%r8), "
        "%rax\nret\n"
        "odd_far: lea 1f(%rip), %rax\npush $0x33\npush %rax\nlretq\nud2\n1: lea 5(%rdi), %rax\nret\n"
        "odd_operands: mov %rdi, 1f(%rip)\nxor %eax, %eax\nmov %edi, %ecx\n"
        "lea 1f(%rip), %r8\nmov 1f(%rip), %r11w\nmov 1f(%rip), %r9\nlea 1f(%rip), %r10w\n"
        "xor %r8, %r10\nmovzwl %r10w, %r10d\nadd %r10, %rax\nadd %r9, %rax\npush 1f(%rip)\npop 2f(%rip)\n"
        "add 2f(%rip), %rax\nlock xadd %rcx, 2f(%rip)\nadd %rcx, %rax\naddr32 nop\n"
        "lea 3f(%rip), %rcx\nmov %rcx, -16(%rsp)\ncall *-16(%rsp)\nret\n3: inc %rax\nret\n"
        ".data\n.p2align 3\n1: .quad 0\n2: .quad 0\n.text\n");

static void check_odd(const char *name, struct lh_translate_options options)
{
	struct lh_translator *translator = translator_with(options);
	uint64_t word = 77, got[4];
	bool still;

	begin(translator);
	got[0] = odd_rets(3);
	got[1] = odd_gs(&word);
	got[2] = odd_jumps(4);
	got[3] = odd_operands(6);
	still = lh__translate_is_on(translator);
	lh__translate_end(translator);
	is(got[0], 13, "%s: ret that takes its arguments", name);
	is(got[1], 77, "%s: gs is 0 to the program", name);
	is(got[2], 11, "%s: loop, jecxz, jumps by registers and memory, a transaction that fails", name);
	is(got[3], 6 + 6 + 6 + 1, "%s: operands relative to the instruction pointer", name);
	is(counts_of(translator).slow, 0, "%s: all of them translated", name);
	begin(translator);
	got[0] = odd_far(8);
	lh__translate_end(translator);
	ok(still && got[0] == 13 && !lh__translate_is_on(translator),
	   "%s: a far return leaves the translator", name);
	lh__translate_close(translator);
}

/* ---- clients */

struct own {
	uint64_t reads, writes, blocks, start, end, inside, called, sum;
};

static void count_accesses(void *context, struct lh_emitter *emitter,
                           const struct lh_translated_instruction *instruction)
{
	(void)context;
	for (unsigned i = 0; i < instruction->accesses->count; i++) {
		unsigned kind = instruction->accesses->at[i].kind;

		if (kind & LH_ACCESS_READ)
			lh__emit_count_own(emitter, offsetof(struct own, reads), 1);
		if (kind & LH_ACCESS_WRITE)
			lh__emit_count_own(emitter, offsetof(struct own, writes), 1);
	}
	lh__emit_done(emitter);
}

static void count_block(void *context, struct lh_emitter *emitter, uint64_t address, unsigned instructions,
                        const struct lh_translated_instruction *instruction)
{
	(void)context;
	(void)address;
	(void)instruction;
	lh__emit_count_own(emitter, offsetof(struct own, blocks), instructions);
	lh__emit_done(emitter);
}

/* Calls with a[0..n-1]: 2 reads and a write of each, and a fixed rest. */
__attribute__((noinline)) static void known_accesses(uint64_t *a, uint64_t n)
{
	uint64_t value;

	__asm__ volatile("1: mov (%1), %0\n\tadd %0, 8(%1)\n\tadc $0, %0\n\tdec %2\n\tjnz 1b"
	                 : "=&r"(value), "+r"(a), "+r"(n)
	                 :
	                 : "memory", "cc");
}

static struct own counted(struct lh_translator *translator, uint64_t n)
{
	uint64_t memory[2] = { 1, 2 };
	struct own *own = lh__translate_thread_bytes(translator), before = { 0 }, result;

	if (own)
		before = *own;
	begin(translator);
	known_accesses(memory, n);
	lh__translate_end(translator);
	own = lh__translate_thread_bytes(translator);
	result = *own;
	result.reads -= before.reads;
	result.writes -= before.writes;
	result.blocks -= before.blocks;
	return result;
}

static void check_counts(void)
{
	struct lh_translator *translator =
		translator_with((struct lh_translate_options){ .client = { .thread_bytes = sizeof(struct own),
	                                                                   .block = count_block,
	                                                                   .before = count_accesses } });
	struct own one, two;
	uint64_t wanted = library_work(9), got;

	one = counted(translator, 1);
	two = counted(translator, 1001);
	is(two.reads - one.reads, 2000, "reads are counted, each of them");
	is(two.writes - one.writes, 1000, "and writes");
	is(two.blocks - one.blocks, 5000, "and instructions, by blocks");
	begin(translator);
	got = library_work(9);
	lh__translate_end(translator);
	ok(got == wanted, "the library's functions do the same while they are counted");
	lh__translate_close(translator);
}

static void note(void *own, uint64_t address, uint64_t constant)
{
	struct own *mine = own;
	volatile double vector = (double)address;

	mine->called++;
	mine->sum += constant + (vector < 0);
}

/* Writes to a range that stands in the thread's own words are counted, and told to a function. */
static void filter_writes(void *context, struct lh_emitter *emitter,
                          const struct lh_translated_instruction *instruction)
{
	bool constant = context != NULL;

	for (unsigned i = 0; i < instruction->accesses->count; i++) {
		const struct lh_access *access = &instruction->accesses->at[i];
		int address, label, value;

		if (!(access->kind & LH_ACCESS_WRITE))
			continue;
		address = lh__emit_address(emitter, instruction, access);
		if (address < 0)
			continue;
		if (constant)
			label = lh__emit_unless_within(emitter, address, ((uint64_t *)context)[0],
			                               ((uint64_t *)context)[1]);
		else
			label = lh__emit_unless_within_own(emitter, address, offsetof(struct own, start));
		value = lh__emit_scratch(emitter);
		lh__emit_constant(emitter, value, 3);
		lh__emit_call(emitter, note, address, value);
		lh__emit_count_own(emitter, offsetof(struct own, inside), 1);
		lh__emit_here(emitter, label);
		lh__emit_done(emitter);
	}
}

/* Each write's address is appended where a pointer of the thread's own says, and read back from there. */
static void append_writes(void *context, struct lh_emitter *emitter,
                          const struct lh_translated_instruction *instruction)
{
	(void)context;
	for (unsigned i = 0; i < instruction->accesses->count; i++) {
		const struct lh_access *access = &instruction->accesses->at[i];
		int address, label, cursor, value;

		if (!(access->kind & LH_ACCESS_WRITE))
			continue;
		address = lh__emit_address(emitter, instruction, access);
		if (address < 0)
			continue;
		label = lh__emit_unless_within_own(emitter, address, offsetof(struct own, start));
		cursor = lh__emit_scratch(emitter);
		lh__emit_load_own(emitter, cursor, offsetof(struct own, called));
		lh__emit_store(emitter, cursor, 0, address);
		lh__emit_add(emitter, cursor, 8);
		lh__emit_store_own(emitter, offsetof(struct own, called), cursor);
		value = lh__emit_scratch(emitter);
		lh__emit_copy(emitter, value, cursor);
		lh__emit_load(emitter, value, value, -8);
		lh__emit_store_own(emitter, offsetof(struct own, sum), value);
		lh__emit_here(emitter, label);
		lh__emit_done(emitter);
	}
}

__attribute__((noinline)) static void write_words(volatile uint32_t *at, size_t count)
{
	for (size_t i = 0; i < count; i++)
		at[i] = (uint32_t)i;
}

static void check_filter(bool constant)
{
	static uint32_t words[300];
	uint64_t range[2] = { (uint64_t)(uintptr_t)(words + 100), (uint64_t)(uintptr_t)(words + 150) };
	struct lh_translator *translator =
		translator_with((struct lh_translate_options){ .client = { .context = constant ? range : NULL,
	                                                                   .thread_bytes = sizeof(struct own),
	                                                                   .before = filter_writes } });
	uint64_t wanted = library_work(11), got;
	struct own *own;

	begin(translator);
	own = lh__translate_thread_bytes(translator);
	own->start = range[0];
	own->end = range[1];
	write_words(words, 300);
	got = library_work(11);
	lh__translate_end(translator);
	ok(own->inside == 50 && own->called == 50 && own->sum == 150, "%s: a filter of writes: %lu, %lu",
	   constant ? "a constant range" : "a thread's own range", (unsigned long)own->inside,
	   (unsigned long)own->called);
	ok(got == wanted && words[299] == 299, "and nothing else is changed");
	lh__translate_close(translator);
}

static void check_append(void)
{
	static uint32_t words[300];
	static uint64_t log[300];
	struct lh_translator *translator = translator_with((struct lh_translate_options){
		.client = { .thread_bytes = sizeof(struct own), .before = append_writes } });
	unsigned wrong = 0;
	struct own *own;

	begin(translator);
	own = lh__translate_thread_bytes(translator);
	own->start = (uint64_t)(uintptr_t)(words + 100);
	own->end = (uint64_t)(uintptr_t)(words + 150);
	own->called = (uint64_t)(uintptr_t)log;
	write_words(words, 300);
	lh__translate_end(translator);
	for (unsigned i = 0; i < 50; i++)
		wrong += log[i] != (uint64_t)(uintptr_t)(words + 100 + i);
	ok(own->called == (uint64_t)(uintptr_t)(log + 50) && wrong == 0 && log[50] == 0,
	   "addresses are appended to memory, in order: %u wrong", wrong);
	ok(own->sum == log[49], "and read back");
	lh__translate_close(translator);
}

int main(void)
{
	check_library("near", (struct lh_translate_options){ 0 });
	check_library("far", (struct lh_translate_options){ .near = FAR_AWAY });
	check_nested();
	check_busy();
	check_stack();
	check_made();
	check_not_forgotten();
	check_threads();
	check_children();
	check_flags();
	check_traps();
	check_odd("near", (struct lh_translate_options){ 0 });
	check_odd("far", (struct lh_translate_options){ .near = FAR_AWAY });
	check_counts();
	check_filter(false);
	check_filter(true);
	check_append();
	return done();
}
