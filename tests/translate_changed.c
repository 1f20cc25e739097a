/* timeout: 120 */
/*
 * translate_changed.c - code that comes, changes and goes, in a thread that switches itself over
 * (translate_changed.h). In two ways: with pages that check themselves, and with pages that are
 * write-protected, whose faults and system calls are handed on as a whole program's would be.
 */
#include <signal.h>
#include <ucontext.h>

#include "port/translate/inside.h"
#include "translate_changed.h"
#include "translate_code.h"

static struct lh_translator *translator;
static bool guarded; /* with pages that are write-protected */
static bool deaf;    /* the planted fault: nobody sees what changes */
static uint64_t faults;

/* What a whole program's handler does: the first claim is the translator's. */
static void on_fault(int signal, siginfo_t *info, void *context)
{
	ucontext_t *at = context;
	uint64_t code = (uint64_t)at->uc_mcontext.gregs[REG_RIP];

	faults++;
	if (!deaf && lh__changed_fault(translator, info, context))
		return;
	if (deaf && mprotect((void *)((uintptr_t)info->si_addr & ~4095ul), 4096, RWX) == 0)
		return;
	(void)signal;
	dead_address = (uint64_t)(uintptr_t)info->si_addr;
	dead_code = lh__translate_address(translator, code);
	if (!dead_code)
		dead_code = code;
	siglongjmp(dead_end, 1);
}

static void start(bool guards, uint64_t near, struct lh_translate_client client)
{
	static uint8_t stack[65536] __attribute__((aligned(64)));
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };

	guarded = guards;
	deaf = false;
	translator = translator_with((struct lh_translate_options){ .near = near, .client = client });
	if (guards && lh__changed_guard(translator) < 0)
		abort();
	sigfillset(&action.sa_mask);
	sigaltstack(&alternate, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

static void stop(void)
{
	lh__translate_close(translator);
}

/* A system call of the program, which is seen first. */
static long made_call(long number, long a, long b, long c, long d, long e, long f)
{
	struct lh_translate_call call = { .number = number, .argument = { a, b, c, d, e, f } };
	struct lh_translated_thread *thread = lh__thread_here(translator);
	uint64_t mask;
	bool answered;

	if (deaf)
		return lh__raw_syscall(number, a, b, c, d, e, f);
	mask = lh__hold(translator);
	lh__unlock(&lh__sys_default, &translator->lock);
	answered = lh__changed_call(thread, &call);
	lh__lock(&lh__sys_default, &translator->lock);
	lh__release(translator, mask);
	return answered ? call.result : lh__raw_syscall(number, a, b, c, d, e, f);
}

static void on(void)
{
	begin(translator);
}

static void off(void)
{
	lh__translate_end(translator);
}

/* In a thread that is translated: natively. */
static long call_of(long number, long a, long b, long c, long d, long e, long f)
{
	long result;

	lh__translate_end(translator);
	result = made_call(number, a, b, c, d, e, f);
	begin(translator);
	return result;
}

/* The same in a thread that is native. */
static void gone(uint8_t *memory, size_t size)
{
	made_call(SYS_munmap, (long)(uintptr_t)memory, (long)size, 0, 0, 0, 0);
}

static void allow(uint8_t *memory, long protection)
{
	made_call(SYS_mprotect, (long)(uintptr_t)memory, PAGE_BYTES, protection, 0, 0, 0);
}

/* Its calls are not seen here, so it is said. */
static void closes(void *object, int (*function)(int))
{
	dlclose(object);
	if (!deaf)
		lh__translate_forget(translator, (uint64_t)(uintptr_t)function & ~4095ull,
		                     ((uint64_t)(uintptr_t)function & ~4095ull) + PAGE_BYTES);
}

/* ---- handlers that forget */

static uint8_t *forgotten;
static volatile uint32_t handled;

static void on_timer(int signal)
{
	(void)signal;
	make_constant(forgotten, ++handled);
	lh__translate_forget(translator, (uint64_t)(uintptr_t)forgotten, (uint64_t)(uintptr_t)forgotten + 6);
}

/* The dispatcher is where most of the time goes: all is forgotten again and again. */
static void check_handler(const char *how)
{
	struct sigaction action = { .sa_handler = on_timer, .sa_flags = SA_RESTART };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	struct itimerspec often = { .it_interval.tv_nsec = 100000, .it_value.tv_nsec = 100000 };
	uint8_t *made = memory_with(PAGE_BYTES, RWX);
	unsigned wrong = 0;
	timer_t timer;

	forgotten = memory_with(PAGE_BYTES, RWX);
	handled = 0;
	make_constant(forgotten, 0);
	sigaction(SIGRTMIN, &action, NULL);
	timer_create(CLOCK_MONOTONIC, &event, &timer);
	timer_settime(timer, 0, &often, NULL);
	on();
	for (uint32_t i = 0; i < 1000000 && handled < 500; i++) {
		uint32_t before = handled, got;

		make_constant(made, i);
		lh__translate_forget(translator, (uint64_t)(uintptr_t)made, (uint64_t)(uintptr_t)made + 6);
		wrong += run(made) != i;
		got = run(forgotten);
		wrong += got < before || got > handled;
	}
	off();
	timer_delete(timer);
	ok(wrong == 0 && handled >= 500, "%s: handlers that forget, whatever they interrupt: %u wrong of %u",
	   how, wrong, handled);
	gone(made, PAGE_BYTES);
	gone(forgotten, PAGE_BYTES);
}

/* Code that changes often is checked; when it has stopped to, its page is guarded again, and yet right. */
static void check_calm(void)
{
	uint8_t *made = memory_with(PAGE_BYTES, RWX);
	unsigned wrong = 0, checked;
	uint64_t before;
	double start;

	on();
	for (uint32_t i = 0; i < 100; i++) {
		make_constant(made, i);
		wrong += run(made) != i;
	}
	checked = translator->checked_count;
	for (start = seconds(); translator->checked_count > 0 && seconds() - start < 20.0;) {
		wrong += run(made) != 99;
		CALL(SYS_getppid, 0, 0, 0, 0, 0, 0);
	}
	before = faults;
	wrong += run(made) != 99;
	make_constant(made, 5);
	wrong += run(made) != 5;
	off();
	ok(wrong == 0 && checked > 0 && translator->checked_count == 0 && faults == before + 1,
	   "a page that has stopped changing: %u wrong, %u pages checked, then %u", wrong, checked,
	   translator->checked_count);
	gone(made, PAGE_BYTES);
}

/* What is forgotten with its neighbour comes back as it was. */
static void check_kept(void)
{
	uint8_t *made = memory_with(PAGE_BYTES, RWX);
	unsigned wrong = 0, blocks;

	for (uint32_t i = 0; i < 100; i++)
		make_constant(made + 16 * i, i);
	on();
	for (uint32_t i = 0; i < 100; i++)
		wrong += run(made + 16 * i) != i;
	blocks = (unsigned)counts_of(translator).blocks;
	for (uint32_t turn = 0; turn < 20; turn++) {
		if (turn % 2) {
			CALL(SYS_mprotect, made, PAGE_BYTES, PROT_READ | PROT_WRITE, 0, 0, 0);
			make_constant(made, turn);
			CALL(SYS_mprotect, made, PAGE_BYTES, RX, 0, 0, 0);
		} else {
			CALL(SYS_mprotect, made, PAGE_BYTES, RWX, 0, 0, 0);
			make_constant(made, turn);
		}
		for (uint32_t i = 0; i < 100; i++)
			wrong += run(made + 16 * i) != (i ? i : turn);
	}
	blocks = (unsigned)counts_of(translator).blocks - blocks;
	off();
	ok(wrong == 0 && blocks < 400,
	   "100 functions, one of which changes 20 times: %u blocks anew, %u wrong", blocks, wrong);
	gone(made, PAGE_BYTES);
}

/* The program dies of what it would die of. */
static void check_beyond(void)
{
	int fd = memfd_create("short", 0);
	uint8_t *made;
	char code[6];

	make_constant((uint8_t *)code, 1);
	if (fd < 0 || write(fd, code, sizeof(code)) != (ssize_t)sizeof(code))
		abort();
	made = mmap(NULL, 2 * PAGE_BYTES, RX, MAP_PRIVATE, fd, 0);
	close(fd);
	dies("guarded", "code behind the end of its file", made + PAGE_BYTES,
	     (uint64_t)(uintptr_t)made + PAGE_BYTES, (uint64_t)(uintptr_t)made + PAGE_BYTES);
	gone(made, 2 * PAGE_BYTES);
}

/* ---- a client that counts */

static uint64_t counted_from, counted_to;

static void count_block(void *context, struct lh_emitter *emitter, uint64_t address, unsigned instructions,
                        const struct lh_translated_instruction *instruction)
{
	(void)context;
	(void)instruction;
	if (address >= counted_from && address < counted_to) {
		lh__emit_count_own(emitter, 0, instructions);
		lh__emit_done(emitter);
	}
}

static void count_store(void *context, struct lh_emitter *emitter,
                        const struct lh_translated_instruction *instruction)
{
	(void)context;
	if (instruction->address < counted_from || instruction->address >= counted_to)
		return;
	for (unsigned i = 0; i < instruction->accesses->count; i++)
		if (instruction->accesses->at[i].kind & LH_ACCESS_WRITE)
			lh__emit_count_own(emitter, 8, 1);
	lh__emit_done(emitter);
}

static void count_cut(void *context, void *own, uint64_t address, unsigned instructions, unsigned executed,
                      const uint64_t *general)
{
	(void)context;
	(void)general;
	if (address >= counted_from && address < counted_to)
		*(uint64_t *)own -= instructions - executed;
}

/* Whoever counts blocks counts what was executed of those that changed themselves. */
static void check_counted(const char *how, bool guards, uint64_t near)
{
	const struct lh_translate_client client = {
		.thread_bytes = 16, .block = count_block, .before = count_store, .cut = count_cut
	};
	uint8_t *made = memory_with(PAGE_BYTES, RWX);
	unsigned wrong = 0;
	uint64_t *count;

	memcpy(made, changes_next, sizeof(changes_next));
	memcpy(made + 64, changes_loop, sizeof(changes_loop));
	counted_from = (uint64_t)(uintptr_t)made;
	counted_to = counted_from + PAGE_BYTES;
	start(guards, near, client);
	on();
	for (unsigned i = 0; i < 20; i++) {
		wrong += run_with(made, i, 3 * i) != 4 * i;
		made[64 + 19] = 0;
		wrong += run(made + 64) != 55;
	}
	count = lh__translate_thread_bytes(translator);
	off();
	/* 6 instructions, 2 stores; 4 and 10 turns of 4, of which one stores. */
	ok(wrong == 0 && count[0] == 20 * (6 + 4 + 10 * 4) && count[1] == 20 * (2 + 10),
	   "%s: counted: %lu instructions, %lu stores, %u wrong", how, (unsigned long)count[0],
	   (unsigned long)count[1], wrong);
	gone(made, PAGE_BYTES);
	stop();
}

/* ---- a whole program */

static void beside(char *out, size_t size, const char *name)
{
	ssize_t length = readlink("/proc/self/exe", out, size - 100);
	char *slash;

	if (length < 0)
		abort();
	out[length] = 0;
	slash = strrchr(out, '/');
	snprintf(slash, 100, "/%s", name);
	if (access(out, R_OK) != 0)
		snprintf(slash, 100, "/../../tests/%s", name); /* a build with a sanitizer */
}

static void check_program(const char *words)
{
	char agent[4096], program[4096], command[9000], line[256];
	unsigned good = 0, bad = 0;
	bool taken = false;
	FILE *output;

	beside(agent, sizeof(agent), "agents/whole.so");
	beside(program, sizeof(program), "programs/changing");
	snprintf(command, sizeof(command), "LD_PRELOAD=%s LH_WHOLE=%s,tell timeout 60 %s 2>&1", agent, words,
	         program);
	output = popen(command, "r");
	while (output && fgets(line, sizeof(line), output)) {
		good += strncmp(line, "ok ", 3) == 0;
		bad += strncmp(line, "not ok ", 7) == 0;
		taken |= strcmp(line, "whole: begins 1 0\n") == 0;
		if (line[0] == '#' || strncmp(line, "not", 3) == 0)
			printf("# %s", line);
	}
	ok(output && pclose(output) == 0 && taken && bad == 0 && good == 19,
	   "a whole program (%s): %u well, %u not", words, good, bad);
}

/* The planted fault: stores are let through, and calls made, without anybody hearing of it. */
static void check_deaf(void)
{
	uint8_t *made = memory_with(PAGE_BYTES, RWX);
	uint32_t got[2];

	on();
	make_constant(made, 1);
	run(made);
	deaf = true;
	make_constant(made, 2);
	got[0] = run(made);
	CALL(SYS_mmap, made, PAGE_BYTES, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	make_constant(made, 3);
	got[1] = run(made);
	off();
	is(got[0], 1, "caught: a store that is not seen");
	is(got[1], 1, "caught: a call that is not seen");
	gone(made, PAGE_BYTES);
}

int main(void)
{
	const struct lh_translate_client nobody = { 0 };

	start(false, 0, nobody);
	check_all("checked");
	check_handler("checked");
	stop();
	start(true, 0, nobody);
	check_all("guarded");
	check_handler("guarded");
	ok(faults > 0, "%lu faults", (unsigned long)faults);
	check_calm();
	check_kept();
	check_beyond();
	check_deaf();
	stop();
	check_program("bare");
	check_program("scratch");
	check_counted("checked", false, 0);
	check_counted("guarded", true, 0);
	check_counted("guarded, far away", true, FAR_AWAY);
	return done();
}
