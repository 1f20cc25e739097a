/*
 * count.c - counts fences, flushes and stores of a transaction, exactly and alike for every system.
 *
 * A child does the work and is single-stepped (ptrace); each instruction is decoded (Zydis) where it
 * stands, before it runs. So what is counted is what the processor was given, whatever library it came
 * from: no hook has to be found, nothing is estimated from a call's documentation. Only the thread that
 * does the work is stepped; what a system leaves to threads of its own is not seen here. Counted:
 *
 *     fences    sfence, mfence (locked instructions, which order as well, are not)
 *     flushes   clwb, clflushopt, clflush: one line each
 *     stores    instructions that write to memory mapped from the system's folder, and how many bytes; of
 *               these streamed: non-temporal ones, which need no flush
 *     syscalls
 */
#include <Zydis/Zydis.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define CACHE_SIZE (1u << 18)
#define RANGES_MAX 64

/* Of one instruction, all that does not depend on registers. */
struct kind {
	uint64_t at;
	bool fence, flush, syscall, streams;
	uint8_t length, writes; /* how many of its operands are memory that it writes to */
	ZydisDecodedInstruction decoded;
	ZydisDecodedOperand operand[2];
};

struct tracer {
	pid_t pid;
	const char *folder;
	ZydisDecoder decoder;
	struct kind **cache;
	uint64_t range[RANGES_MAX][2];
	unsigned ranges;
};

void count_mark(void)
{
	kill(getpid(), SIGSTOP);
}

static void find_ranges(struct tracer *t)
{
	char path[64], line[512];
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)t->pid);
	maps = fopen(path, "re");
	t->ranges = 0;
	while (maps && fgets(line, sizeof(line), maps) && t->ranges < RANGES_MAX) {
		unsigned long low, high;

		if (strstr(line, t->folder) && sscanf(line, "%lx-%lx", &low, &high) == 2) {
			t->range[t->ranges][0] = low;
			t->range[t->ranges++][1] = high;
		}
	}
	if (maps)
		fclose(maps);
}

static bool streaming(ZydisMnemonic name)
{
	switch (name) {
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_MOVNTQ:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD: return true;
	default: return false;
	}
}

static void classify(struct kind *kind, const ZydisDecodedOperand *operand)
{
	const ZydisMnemonic name = kind->decoded.mnemonic;

	kind->fence = name == ZYDIS_MNEMONIC_SFENCE || name == ZYDIS_MNEMONIC_MFENCE;
	kind->flush = name == ZYDIS_MNEMONIC_CLWB || name == ZYDIS_MNEMONIC_CLFLUSHOPT ||
	              name == ZYDIS_MNEMONIC_CLFLUSH;
	kind->syscall = name == ZYDIS_MNEMONIC_SYSCALL;
	kind->streams = streaming(name);
	if (kind->flush)
		return;
	for (unsigned i = 0; i < kind->decoded.operand_count && kind->writes < 2; i++) {
		if (operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    operand[i].mem.type == ZYDIS_MEMOP_TYPE_MEM &&
		    (operand[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			kind->operand[kind->writes++] = operand[i];
	}
}

static struct kind *decode(struct tracer *t, uint64_t at)
{
	struct kind **slot = &t->cache[at % CACHE_SIZE];
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	unsigned char code[16] = { 0 };
	struct iovec to = { code, sizeof(code) }, from = { (void *)at, sizeof(code) };

	if (*slot && (*slot)->at == at)
		return *slot;
	if (!*slot)
		*slot = malloc(sizeof(**slot));
	memset(*slot, 0, sizeof(**slot));
	(*slot)->at = at;
	/* The last instruction of a mapping may have less than that behind it. */
	if (process_vm_readv(t->pid, &to, 1, &from, 1, 0) < 0) {
		from.iov_len = 4096 - at % 4096;
		if (from.iov_len < sizeof(code))
			process_vm_readv(t->pid, &to, 1, &from, 1, 0);
	}
	if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->decoder, code, sizeof(code), &(*slot)->decoded, operand)))
		classify(*slot, operand);
	return *slot;
}

/* Zydis numbers the registers RAX to R15 as the processor does. */
static void registers(ZydisRegisterContext *context, const struct user_regs_struct *r)
{
	const uint64_t general[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
		                       r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

	for (unsigned i = 0; i < 16; i++)
		context->values[ZYDIS_REGISTER_RAX + i] = general[i];
	context->values[ZYDIS_REGISTER_RIP] = r->rip;
}

static bool in_ranges(const struct tracer *t, uint64_t address)
{
	for (unsigned i = 0; i < t->ranges; i++)
		if (address >= t->range[i][0] && address < t->range[i][1])
			return true;
	return false;
}

static void add_stores(struct tracer *t, const struct kind *kind, const struct user_regs_struct *r,
                       struct counted *counted)
{
	ZydisRegisterContext context;
	ZyanU64 address;

	if (!kind->writes)
		return;
	registers(&context, r);
	for (unsigned i = 0; i < kind->writes; i++) {
		uint64_t bytes = kind->operand[i].size / 8;

		if (!ZYAN_SUCCESS(ZydisCalcAbsoluteAddressEx(&kind->decoded, &kind->operand[i], r->rip,
		                                             &context, &address)))
			continue;
		if (kind->operand[i].mem.segment == ZYDIS_REGISTER_FS)
			address += r->fs_base;
		if (!in_ranges(t, address))
			continue;
		counted->stores++;
		counted->bytes += bytes;
		counted->streamed += kind->streams ? bytes : 0;
	}
}

static int wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		fail("waitpid: %s", strerror(errno));
	if (!WIFSTOPPED(status))
		fail("counting: the child has ended");
	return WSTOPSIG(status);
}

/* Goes on until the child marks. What else it is sent is handed on. */
static void run_to_mark(pid_t pid, int signal)
{
	do {
		if (ptrace(PTRACE_CONT, pid, 0, signal) != 0)
			fail("ptrace: %s", strerror(errno));
		signal = wait_for(pid);
	} while (signal != SIGSTOP);
}

static void step_to_mark(struct tracer *t, struct counted *counted)
{
	struct user_regs_struct r;
	struct counted before;
	int signal = 0;

	find_ranges(t);
	for (;;) {
		if (ptrace(PTRACE_GETREGS, t->pid, 0, &r) != 0)
			fail("ptrace: %s", strerror(errno));
		before = *counted;
		if (signal == 0) {
			const struct kind *kind = decode(t, r.rip);

			counted->instructions++;
			counted->fences += kind->fence;
			counted->flushes += kind->flush;
			counted->syscalls += kind->syscall;
			add_stores(t, kind, &r, counted);
		}
		if (ptrace(PTRACE_SINGLESTEP, t->pid, 0, signal) != 0)
			fail("ptrace: %s", strerror(errno));
		signal = wait_for(t->pid);
		if (signal == SIGSTOP)
			return;
		if (signal == SIGTRAP)
			signal = 0;
		else
			*counted = before; /* it faulted, and will run again */
	}
}

void count(void (*run)(void *context), void *context, const char *folder, struct counted *counted,
           unsigned sections)
{
	struct tracer t = { .folder = folder, .cache = calloc(CACHE_SIZE, sizeof(struct kind *)) };
	cpu_set_t set;

	ZydisDecoderInit(&t.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	fflush(stdout);
	/* On one CPU, where a switch between the two is cheapest. */
	CPU_ZERO(&set);
	CPU_SET((size_t)sched_getcpu() % CPU_SETSIZE, &set);
	sched_setaffinity(0, sizeof(set), &set);
	t.pid = fork();
	if (t.pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		count_mark();
		run(context);
		_exit(0);
	}
	if (wait_for(t.pid) != SIGSTOP)
		fail("counting: the child did not begin");
	for (unsigned i = 0; i < sections; i++) {
		run_to_mark(t.pid, 0);
		step_to_mark(&t, &counted[i]);
	}
	ptrace(PTRACE_CONT, t.pid, 0, 0);
	waitpid(t.pid, NULL, 0);
	free(t.cache);
}
