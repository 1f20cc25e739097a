/*
 * pool_fault.c - faults on a pool's memory, beyond the single instruction (pool_emulate.c): how many a
 * transaction takes, which page it is about, several threads at once, what is left to the program's own
 * handlers, and what the library's handler needs of the stack.
 */
#include "pool_machine.h"

#include <pthread.h>
#include <setjmp.h>

static struct machine_pool pool;
static struct lh_error error;

static uint64_t faults(void)
{
	struct lh_pool_info info;

	lh_pool_info(pool.pool, &info);
	return info.faults;
}

/* Anywhere, aligned or not. */
static __attribute__((noinline)) void store_word(void *word, uint64_t value)
{
	__asm__ volatile("movq %1, %0" : "=m"(*(char(*)[8])word) : "r"(value));
}

static __attribute__((noinline)) void fill_words(volatile uint64_t *words, unsigned n, uint64_t value)
{
	for (unsigned i = 0; i < n; i++)
		words[(i * 61) % n] = value + i;
}

static void add_byte(volatile unsigned char *byte)
{
	__asm__ volatile("lock incb %0" : "+m"(*byte));
}

/* ---- how many faults ---- */

#define PAGES 100u

static unsigned char *many_pages(unsigned pages)
{
	unsigned char *at;

	if (lh_tx_begin(pool.pool, &error) != 0)
		return NULL;
	at = lh_pool_alloc_aligned(pool.pool, LH_PAGE_SIZE, pages * LH_PAGE_SIZE, &error);
	if (at)
		memset(at, 1, pages * LH_PAGE_SIZE);
	return lh_tx_commit(pool.pool, &error) == 0 ? at : NULL;
}

static void few_faults_for_one_page(void)
{
	uint64_t before;

	for (unsigned i = 0; i < 3; i++) {
		if (lh_tx_begin(pool.pool, &error) != 0)
			break;
		before = faults();
		fill_words((uint64_t *)pool.region, 512, i);
		before = faults() - before;
		ok(before <= (i == 0 ? 2 : 1), "512 stores of one loop to a page: %lu faults, transaction %u",
		   (unsigned long)before, i + 1);
		ok(lh_tx_commit(pool.pool, &error) == 0 && ((uint64_t *)pool.region)[61] == i + 1,
		   "and they are committed");
	}
}

static void one_fault_for_each_of_many_pages(void)
{
	unsigned char *at = many_pages(PAGES);
	unsigned long protections;
	uint64_t before;

	if (!ok(at != NULL, "memory for many pages"))
		return;
	for (unsigned round = 0; round < 2; round++) {
		if (lh_tx_begin(pool.pool, &error) != 0)
			return;
		before = faults();
		protections = pool.protections;
		for (unsigned i = 0; i < PAGES; i++)
			store_word(at + i * LH_PAGE_SIZE + 8 * (i % 512), i + round);
		is(faults() - before, PAGES, "a store each to %u pages: a fault each", PAGES);
		ok(lh_tx_commit(pool.pool, &error) == 0, "and they are committed");
		is(pool.protections - protections, 0, "no page was opened or protected for them");
	}
}

/* ---- which page ---- */

static void straddling_store_of_which_one_page_is_open(unsigned open)
{
	unsigned char *edge = pool.region + 2 * LH_PAGE_SIZE, expected[8], old[8];
	uint64_t value = UINT64_C(0x1122334455667788), before;

	memcpy(old, edge - 4, 8);
	memcpy(expected, &value, 8);
	for (unsigned end = 0; end < 2; end++) {
		if (lh_tx_begin(pool.pool, &error) != 0 ||
		    lh_tx_add(pool.pool, edge - (open ? 0 : LH_PAGE_SIZE), LH_PAGE_SIZE, &error) != 0)
			return;
		before = faults();
		store_word(edge - 4, value);
		is(faults() - before, 1, "a store across two pages, the %s of them open: one fault",
		   open ? "second" : "first");
		ok(memcmp(edge - 4, expected, 8) == 0, "it is whole");
		if (end == 0)
			ok(lh_tx_abort(pool.pool, &error) == 0 && memcmp(edge - 4, old, 8) == 0,
			   "an abort takes both parts back");
		else if (pool.see == LH_SEE_PAGE)
			ok(lh_tx_commit(pool.pool, &error) == 0, "a commit has both parts");
		else
			ok(lh_tx_commit(pool.pool, &error) == -EFAULT && memcmp(edge - 4, old, 8) == 0,
			   "a commit misses the declaration of the other");
	}
}

/* ---- threads ---- */

#define THREADS 100u
#define ADDS 20u

static void *store_beside_others(void *argument)
{
	unsigned own = (unsigned)(uintptr_t)argument;
	volatile uint64_t *words = (volatile uint64_t *)pool.region;

	for (unsigned i = 0; i < ADDS; i++) {
		store_word((void *)&words[own + 512 * (i % 2)], own * ADDS + i);
		__asm__ volatile("lock incq %0" : "+m"(words[500]));
	}
	return NULL;
}

/* More at a time than can be stepped at once. */
static void threads_store_to_the_same_page(void)
{
	const uint64_t *words = (const uint64_t *)pool.region;
	pthread_t threads[THREADS];
	unsigned n = 0, right = 0;
	int result;

	if (lh_tx_begin(pool.pool, &error) != 0)
		return;
	if (lh_tx_add(pool.pool, pool.region, 64 * LH_LINE_SIZE - 8, &error) != 0)
		return;
	store_word((void *)&words[500], 0);
	while (n < THREADS &&
	       pthread_create(&threads[n], NULL, store_beside_others, (void *)(uintptr_t)n) == 0)
		n++;
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	is(words[500], n * ADDS, "%u threads have each added to one word", n);
	for (unsigned i = 0; i < n; i++)
		right += words[i] == i * ADDS + ADDS - 2 && words[512 + i] == i * ADDS + ADDS - 1;
	is(right, n, "and stored to words of their own, in the same two pages");
	result = pool.see == LH_SEE_PAGE ? lh_tx_commit(pool.pool, &error) : lh_tx_abort(pool.pool, &error);
	is(result, 0, "the transaction ends");
}

/* ---- one instruction, many pages ---- */

static __attribute__((target("avx512f"))) void scatter(unsigned char *at, const uint32_t offsets[16])
{
	__asm__ volatile("vmovdqu32 (%1), %%zmm1\n\t"
	                 "vpternlogd $0xff, %%zmm2, %%zmm2, %%zmm2\n\t"
	                 "kxnorw %%k1, %%k1, %%k1\n\t"
	                 "vpscatterdd %%zmm2, (%0,%%zmm1,1)%{%%k1%}\n\t"
	                 "vzeroupper" ::"r"(at),
	                 "r"(offsets)
	                 : "xmm1", "xmm2", "memory");
}

static void an_instruction_that_stores_to_many_pages(void)
{
	unsigned char *at = many_pages(34), expected[4] = { 0xff, 0xff, 0xff, 0xff };
	uint32_t offsets[16];
	unsigned right = 0;

	if (!__builtin_cpu_supports("avx512f")) {
		skip("one store to 32 pages", "this processor has no scatter");
		return;
	}
	for (unsigned i = 0; i < 16; i++)
		offsets[i] = (2 * i + 1) * LH_PAGE_SIZE - 2;
	if (!ok(at && lh_tx_begin(pool.pool, &error) == 0, "memory for many pages"))
		return;
	scatter(at, offsets);
	for (unsigned i = 0; i < 16; i++)
		right += memcmp(at + offsets[i], expected, 4) == 0;
	is(right, 16, "one store to 32 pages has been made");
	is(lh_tx_abort(pool.pool, &error), 0, "and is taken back");
	for (unsigned i = 0; i < 16; i++)
		right -= at[offsets[i]] == 1 && at[offsets[i] + 3] == 1;
	is(right, 0, "everywhere");
}

/* ---- what is the program's ---- */

static void errno_is_kept(void)
{
	if (lh_tx_begin(pool.pool, &error) != 0)
		return;
	errno = 77;
	store_word(pool.region, 1);
	add_byte(pool.region + LH_PAGE_SIZE);
	is(errno, 77, "errno is as it was");
	is(lh_tx_abort(pool.pool, &error), 0, "the transaction ends");
}

/*
 * A store at the end of a page of code, and behind it a page that comes when it is executed: the library may
 * not look there before.
 */
static unsigned char *late_code;
static int late_asked;

static void on_late_code(int number, siginfo_t *info, void *context)
{
	late_asked++;
	if (info->si_addr != late_code || mprotect(late_code, LH_PAGE_SIZE, PROT_READ | PROT_EXEC) != 0)
		_exit(1);
}

static void code_that_is_not_there_yet(void)
{
	static const unsigned char store[] = { 0x48, 0x89, 0x37 },
				   back[] = { 0xc3 }; /* mov %rsi, (%rdi); ret */
	struct sigaction action = { .sa_sigaction = on_late_code, .sa_flags = SA_SIGINFO }, before;
	unsigned char *code =
		mmap(NULL, 2 * LH_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void (*call)(void *, uint64_t) = (void (*)(void *, uint64_t))(code + LH_PAGE_SIZE - sizeof store);

	if (code == MAP_FAILED || lh_tx_begin(pool.pool, &error) != 0)
		return;
	late_code = code + LH_PAGE_SIZE;
	late_asked = 0;
	memcpy(late_code - sizeof store, store, sizeof store);
	memcpy(late_code, back, sizeof back);
	if (mprotect(code, LH_PAGE_SIZE, PROT_READ | PROT_EXEC) == 0 &&
	    mprotect(late_code, LH_PAGE_SIZE, PROT_NONE) == 0 && sigaction(SIGSEGV, &action, &before) == 0) {
		call(pool.region, 5);
		sigaction(SIGSEGV, &before, NULL);
	}
	is(late_asked, 1, "code behind a store is not looked at before it is executed");
	is(*(uint64_t *)pool.region, 5, "the store has been made");
	is(lh_tx_abort(pool.pool, &error), 0, "the transaction ends");
	munmap(code, 2 * LH_PAGE_SIZE);
}

/* A store across the end of the pool: its last page has been opened for it, and then it does not happen. */
static sigjmp_buf back;

static void on_end(int number)
{
	siglongjmp(back, 1);
}

static void store_that_fails_halfway(void)
{
	struct sigaction action = { .sa_handler = on_end }, before;
	struct lh_pool_info info;
	unsigned char *end, old;

	lh_pool_info(pool.pool, &info);
	end = (unsigned char *)info.base + info.size;
	sigaction(SIGSEGV, &action, &before);
	if (lh_tx_begin(pool.pool, &error) != 0)
		return;
	if (sigsetjmp(back, 1) == 0) {
		store_word(end - 4, 1);
		ok(false, "a store beyond the pool is SIGSEGV");
	}
	sigaction(SIGSEGV, &before, NULL);
	is(lh_tx_commit(pool.pool, &error), 0, "a store that failed halfway has changed nothing");
	if (lh_tx_begin(pool.pool, &error) != 0)
		return;
	old = end[-4];
	*(volatile unsigned char *)(end - 4) = (unsigned char)~old;
	is(lh_tx_commit(pool.pool, &error), pool.see == LH_SEE_CHECKED ? -EFAULT : 0,
	   "the page is watched in the next transaction");
	if (lh_tx_begin(pool.pool, &error) != 0)
		return;
	ok((end[-4] == old) == (pool.see == LH_SEE_CHECKED), "what was committed is there");
	is(lh_tx_abort(pool.pool, &error), 0, "the transaction ends");
}

/*
 * The same store, and the program brings about what is missing: a page behind the pool, and the declaration
 * of the pool's last page, which is open for the store at this moment and has to stay so.
 */
static void on_end_help(int number, siginfo_t *info, void *context)
{
	unsigned char *page = (unsigned char *)info->si_addr;

	if (mmap(page, LH_PAGE_SIZE, PROT_READ | PROT_WRITE,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != page ||
	    lh_tx_add(pool.pool, page - LH_PAGE_SIZE, LH_PAGE_SIZE, &error) != 0)
		_exit(1);
}

static void declared_in_the_middle_of_a_store(void)
{
	struct sigaction action = { .sa_sigaction = on_end_help, .sa_flags = SA_SIGINFO }, before;
	struct lh_pool_info info;
	unsigned char *end;
	uint64_t seen;

	lh_pool_info(pool.pool, &info);
	end = (unsigned char *)info.base + info.size;
	sigaction(SIGSEGV, &action, &before);
	if (lh_tx_begin(pool.pool, &error) != 0)
		return;
	store_word(end - 4, UINT64_C(0x0101010101010101));
	sigaction(SIGSEGV, &before, NULL);
	munmap(end, LH_PAGE_SIZE);
	seen = faults();
	add_byte(end - 4);
	is(faults() - seen, 0, "a page that was declared in the middle of a store stays open");
	ok(end[-4] == 2 && end[-1] == 1, "the store has been made");
	is(lh_tx_commit(pool.pool, &error), 0, "the transaction ends");
}

static void with(enum lh_see see, const char *way)
{
	printf("# %s\n", way);
	if (!ok(machine_open(&pool, see) == 0, "a pool, %s", way))
		return;
	if (see == LH_SEE_PAGE) {
		few_faults_for_one_page();
		one_fault_for_each_of_many_pages();
	}
	straddling_store_of_which_one_page_is_open(0);
	straddling_store_of_which_one_page_is_open(1);
	threads_store_to_the_same_page();
	an_instruction_that_stores_to_many_pages();
	store_that_fails_halfway();
	declared_in_the_middle_of_a_store();
	errno_is_kept();
	code_that_is_not_there_yet();
	machine_close(&pool);
}

/* ---- the program's own handlers, each in a process of its own, before any pool ---- */

static volatile uintptr_t told_address;
static volatile int told, told_code, told_result;

static void on_foreign(int number, siginfo_t *info, void *context)
{
	told++;
	told_code = info->si_code;
	told_address = (uintptr_t)info->si_addr;
	if (number == SIGBUS &&
	    mmap((void *)(told_address & ~(uintptr_t)4095), LH_PAGE_SIZE, PROT_READ | PROT_WRITE,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		told_result = 1;
}

static void on_plain(int number)
{
	_exit(number == SIGBUS ? 42 : 1);
}

/* Memory of a file behind its end: a touch is SIGBUS. */
static volatile uint64_t *beyond_end(void)
{
	int fd = memfd_create("empty", 0);
	void *at = mmap(NULL, LH_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return at == MAP_FAILED ? NULL : at;
}

static int own_handler_is_called(void)
{
	struct sigaction action = { .sa_sigaction = on_foreign, .sa_flags = SA_SIGINFO };
	volatile uint64_t *foreign = beyond_end();

	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGTRAP, &action, NULL);
	if (!foreign || machine_open(&pool, LH_SEE_CHECKED) != 0)
		return 2;
	foreign[3] = 9;
	if (told != 1 || told_result || told_code != BUS_ADRERR || told_address != (uintptr_t)&foreign[3] ||
	    foreign[3] != 9)
		return 3;
	__asm__ volatile("int3");
	if (told != 2)
		return 4;
	/* Inside a transaction, too, and the pool's own still works. */
	if (lh_tx_begin(pool.pool, NULL) != 0)
		return 5;
	add_byte(pool.region);
	__asm__ volatile("int3");
	return told == 3 && lh_tx_abort(pool.pool, NULL) == 0 ? 0 : 6;
}

static int store_outside_a_transaction_is_told(void)
{
	signal(SIGBUS, on_plain);
	if (machine_open(&pool, LH_SEE_PAGE) == 0)
		store_word(pool.region, 1);
	return 0;
}

static int foreign_touch_is_told_without_information(void)
{
	signal(SIGBUS, on_plain);
	if (machine_open(&pool, LH_SEE_PAGE) == 0)
		*beyond_end() = 1;
	return 0;
}

static int foreign_touch_ends_the_process(void)
{
	signal(SIGBUS, SIG_DFL);
	if (machine_open(&pool, LH_SEE_PAGE) == 0)
		*beyond_end() = 1;
	return 0;
}

static int status_of(int (*body)(void))
{
	int status = -1;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0)
		_exit(body());
	return pid > 0 && waitpid(pid, &status, 0) == pid ? status : -1;
}

static void own_handlers(void)
{
	int status;

	ok_in_child("what is not the pool's goes to the program's handler", own_handler_is_called);
	status = status_of(store_outside_a_transaction_is_told);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 42, "so does a store outside a transaction");
	status = status_of(foreign_touch_is_told_without_information);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 42, "also to one that is told the number only");
	status = status_of(foreign_touch_ends_the_process);
	ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "without one it ends the process, by SIGBUS");
}

/* ---- the handler's stack ---- */

#define PAINT 0x5a
#define STACK_SIZE (64u << 10)
#define STACK_MAX 4096u /* beside what the kernel puts there */

static unsigned char stack_memory[STACK_SIZE] __attribute__((aligned(64)));

static unsigned stack_used(void)
{
	unsigned i = 0;

	while (i < STACK_SIZE && stack_memory[i] == PAINT)
		i++;
	return STACK_SIZE - i;
}

static void on_nothing(int number)
{
}

/* What a handler that does nothing uses: the kernel's frame. */
static unsigned frame_used(void)
{
	struct sigaction action = { .sa_handler = on_nothing, .sa_flags = SA_ONSTACK };

	sigaction(SIGUSR1, &action, NULL);
	memset(stack_memory, PAINT, STACK_SIZE);
	raise(SIGUSR1);
	return stack_used();
}

/* First touches, which load pages, and all that may follow. */
static void touch_all_ways(unsigned char *at, unsigned pages)
{
	for (unsigned i = 0; i + 1 < pages; i++) {
		volatile unsigned char *page = at + i * LH_PAGE_SIZE;

		if (i % 4 == 0)
			(void)page[7];
		else if (i % 4 == 1)
			store_word(at + i * LH_PAGE_SIZE + 64, i);
		else if (i % 4 == 2)
			add_byte(page);
		else
			store_word(at + (i + 1) * LH_PAGE_SIZE - 4, i);
	}
}

/*
 * Bytes beside the frame; 0 on failure. The first half of the pages is touched before, so that this program's
 * functions are bound; those of the shared library are from the beginning.
 */
static unsigned stack_of(struct lh_pool *opened, unsigned char *at, unsigned pages)
{
	stack_t stack = { .ss_sp = stack_memory, .ss_size = STACK_SIZE };
	unsigned frame;

	if (lh_tx_begin(opened, &error) != 0)
		return 0;
	touch_all_ways(at, pages / 2);
	sigaltstack(&stack, NULL);
	frame = frame_used();
	memset(stack_memory, PAINT, STACK_SIZE);
	touch_all_ways(at + pages / 2 * LH_PAGE_SIZE, pages / 2);
	return lh_tx_abort(opened, &error) == 0 ? stack_used() - frame : 0;
}

static const char *stack_path;
static enum lh_log stack_log;
static enum lh_see stack_see;

/* Exits with the stack's use in lines, or 255. */
static int measure(void)
{
	struct lh_pool_options options = {
		.size = 1u << 20, .reach = 4u << 20, .see = stack_see, .log = stack_log
	};
	unsigned used;
	struct lh_pool *opened;
	unsigned char *at = NULL;

	unlink(stack_path);
	if (lh_pool_create(stack_path, &options, &opened, &error) != 0)
		return 255;
	if (lh_tx_begin(opened, &error) == 0)
		at = lh_pool_alloc_aligned(opened, LH_PAGE_SIZE, 64 * LH_PAGE_SIZE, &error);
	if (!at || lh_tx_commit(opened, &error) != 0 || lh_pool_close(opened, &error) != 0 ||
	    lh_pool_open(stack_path, &options, &opened, &error) != 0)
		return 255;
	used = stack_of(opened, at, 64);
	lh_pool_close(opened, NULL);
	unlink(stack_path);
	return used == 0 || used > 64 * 250 ? 254 : (int)((used + 63) / 64);
}

static void stack_is_small(const char *path, enum lh_see see, enum lh_log log, const char *way)
{
	int status;

	stack_path = path;
	stack_see = see;
	stack_log = log;
	status = status_of(measure);
	if (!WIFEXITED(status) || WEXITSTATUS(status) >= 254) {
		printf("# wait status 0x%x\n", (unsigned)status);
		ok(WIFEXITED(status) && WEXITSTATUS(status) == 255 && log == LH_LOG_UNDO,
		   "%s: measured, where there is such a pool", way);
		return;
	}
	printf("# %s: %d bytes beside the kernel's\n", way, WEXITSTATUS(status) * 64);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	skip("the handler needs at most 4 KiB of stack", "sanitizers need more");
#else
	ok(WEXITSTATUS(status) * 64 <= (int)STACK_MAX, "%s: the handler needs at most %u bytes of stack", way,
	   STACK_MAX);
#endif
}

static void stacks(void)
{
	const char *build = getenv("LINEHOME_BUILD");
	char disk[300], memory[100];

	snprintf(disk, sizeof disk, "%s/pool_fault.%d", build ? build : "/var/tmp", (int)getpid());
	snprintf(memory, sizeof memory, "/dev/shm/pool_fault.%d", (int)getpid());
	stack_is_small(disk, LH_SEE_PAGE, LH_LOG_REDO, "page, redo, disk");
	stack_is_small(disk, LH_SEE_CHECKED, LH_LOG_REDO, "checked, redo, disk");
	stack_is_small(memory, LH_SEE_PAGE, LH_LOG_REDO, "page, redo, tmpfs");
	stack_is_small(memory, LH_SEE_PAGE, LH_LOG_UNDO, "page, undo, tmpfs");
	stack_is_small(memory, LH_SEE_CHECKED, LH_LOG_UNDO, "checked, undo, tmpfs");
}

int main(void)
{
	machine_seed = random_seed();
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	own_handlers();
	stacks();
	with(LH_SEE_PAGE, "page");
	with(LH_SEE_CHECKED, "checked");
	return done();
}
