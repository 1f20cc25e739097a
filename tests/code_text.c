/*
 * code_text.c - the lines of a text: what a trap is answered with, and that a processor which executes code
 * that comes and goes meanwhile never sees a mixture.
 */
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "port/code/text.h"
#include "tap.h"

#define SIZE 4096u
#define WORDS (SIZE / 64)

/* A text by hand: instructions are put where a case wants them. */
struct bench {
	uint64_t armed[WORDS], ends[WORDS], hits[WORDS];
	uint8_t original[SIZE];
	uint8_t *code;
	struct lh_text text;
};

static void bench_reset(struct bench *bench)
{
	uint8_t *code = bench->code;

	memset(bench, 0, sizeof *bench);
	memset(bench->original, 0x90, SIZE);
	bench->code = code;
	bench->text = (struct lh_text){ .start = (uintptr_t)code,
		                        .end = (uintptr_t)code + SIZE,
		                        .armed = bench->armed,
		                        .ends = bench->ends,
		                        .original = bench->original,
		                        .hits = bench->hits };
}

static void mark(uint64_t *bitmap, uint32_t at)
{
	bitmap[at / 64] |= 1ull << at % 64;
}

/* An instruction that starts here; length bytes of code. */
static void put(struct bench *bench, uint32_t at, const char *code, uint32_t length)
{
	memcpy(bench->original + at, code, length);
	mark(bench->armed, at);
}

static void put_end(struct bench *bench, uint32_t at, const char *code, uint32_t length)
{
	put(bench, at, code, length);
	mark(bench->ends, at);
}

/* jmp or call (0xe9, 0xe8) with 32 bits. */
static void put_jump(struct bench *bench, uint32_t at, uint8_t code, int32_t to)
{
	char bytes[5] = { (char)code };
	int32_t distance = to - (int32_t)(at + 5);

	memcpy(bytes + 1, &distance, 4);
	put_end(bench, at, bytes, 5);
}

static struct lh_span span(uint32_t from, uint32_t to)
{
	return (struct lh_span){ from, to };
}

static unsigned miss(struct bench *bench, uint32_t at, struct lh_span *spans)
{
	return lh__text_miss(&bench->text, at, LH_GRANULARITY_BLOCK, spans);
}

static int same(struct lh_span a, struct lh_span b)
{
	return a.from == b.from && a.to == b.to;
}

static void blocks(struct bench *bench)
{
	struct lh_span spans[LH_SPANS];

	bench_reset(bench);
	put(bench, 100, "\x55", 1);
	put(bench, 101, "\x48\x89\xe5", 3);
	put(bench, 200, "\x31\xc0", 2); /* in other words, with nothing between */
	put_end(bench, 202, "\xc3", 1);
	put(bench, 203, "\x55", 1);
	is(miss(bench, 99, spans), 0, "what is not armed is not the home's");
	is(miss(bench, 102, spans), 0, "the tail of an instruction is not armed");
	ok(miss(bench, 100, spans) == 1 && same(spans[0], span(100, 202)),
	   "from the trap to the block's end");
	ok(miss(bench, 101, spans) == 1 && same(spans[0], span(101, 202)), "from the middle of a block");
	ok(miss(bench, 202, spans) == 1 && same(spans[0], span(202, 202)), "the end itself");
	ok(miss(bench, 203, spans) == 1 && same(spans[0], span(203, SIZE - 1)),
	   "what has no end ends with the text");
	ok(same(lh__text_span(&bench->text, 101, LH_GRANULARITY_BLOCK), span(101, 202)),
	   "what a hit stands for");
}

static void following(struct bench *bench)
{
	struct lh_span spans[LH_SPANS];
	uint32_t i;

	bench_reset(bench);
	put(bench, 10, "\x55", 1);
	put_jump(bench, 11, 0xe8, 300);
	put(bench, 300, "\x55", 1);
	put_end(bench, 301, "\xeb\x10", 2); /* -> 319 */
	put(bench, 319, "\x55", 1);
	put_end(bench, 320, "\xf2\xe9\x1a\0\0\0", 6); /* bnd jmp -> 352 */
	put_end(bench, 352, "\x74\x10", 2);
	put(bench, 370, "\x55", 1);
	is(miss(bench, 10, spans), 4,
	   "a call, a short jump and one with a prefix are followed, a conditional one is not");
	ok(same(spans[0], span(10, 11)) && same(spans[1], span(300, 301)) && same(spans[2], span(319, 320)) &&
	           same(spans[3], span(352, 352)),
	   "by their targets");
	mark(bench->hits, 319);
	is(miss(bench, 10, spans), 2, "until one that was hit");
	bench_reset(bench);
	put_end(bench, 5, "\xff\xe0", 2);
	is(miss(bench, 5, spans), 1, "an indirect jump leads nowhere for sure");
	put_end(bench, 20, "\xeb\xfe", 2);
	is(miss(bench, 20, spans), 1, "a jump to itself");
	put_end(bench, 40, "\xeb\x02", 2);
	put_end(bench, 44, "\xeb\xfa", 2);
	is(miss(bench, 40, spans), 2, "two jumps in a circle");
	put_jump(bench, 60, 0xe9, 1000);
	is(miss(bench, 60, spans), 1, "to what is not armed");
	put_jump(bench, 70, 0xe9, -1);
	put_jump(bench, 80, 0xe9, SIZE);
	put_jump(bench, 90, 0xe9, INT32_MAX);
	put_jump(bench, 100, 0xe8, INT32_MIN + 200);
	ok(miss(bench, 70, spans) == 1 && miss(bench, 80, spans) == 1 && miss(bench, 90, spans) == 1 &&
	           miss(bench, 100, spans) == 1,
	   "out of the text");
	put_end(bench, SIZE - 4, "\xe9\0\0\0", 4);
	put_end(bench, SIZE - 1, "\xeb", 1);
	ok(miss(bench, SIZE - 4, spans) == 1 && miss(bench, SIZE - 1, spans) == 1, "cut by the text's end");
	for (i = 0; i < 12; i++)
		put_jump(bench, 2000 + i * 16, 0xe9, (int32_t)(2016 + i * 16));
	is(miss(bench, 2000, spans), LH_SPANS, "so many and no more");
}

static void lines(struct bench *bench)
{
	struct lh_span spans[LH_SPANS];

	bench_reset(bench);
	put(bench, 60, "\x55", 1);
	put(bench, 62, "\xb8\1\2\3\4", 5); /* straddles */
	put_jump(bench, 67, 0xe8, 300);
	put(bench, 120, "\x55", 1);
	put(bench, 300, "\x55", 1);
	is(lh__text_miss(&bench->text, 67, LH_GRANULARITY_LINE, spans), 1, "a line follows nothing");
	ok(same(spans[0], span(67, 120)), "all that starts in the line");
	ok(lh__text_miss(&bench->text, 62, LH_GRANULARITY_LINE, spans) == 1 && same(spans[0], span(60, 62)),
	   "a straddler belongs to the line in which it starts");
	ok(same(lh__text_span(&bench->text, 120, LH_GRANULARITY_LINE), span(67, 120)),
	   "what a hit stands for");
	ok(lh__text_record(&bench->text, 67) && !lh__text_record(&bench->text, 67) &&
	           bench->hits[1] == 1ull << 3,
	   "a hit is news once");
}

/* What may be said of the bytes without looking at a processor. Deterministic. */
static int tails_touched(const struct bench *bench)
{
	uint32_t at;
	int touched = 0;

	for (at = 0; at < SIZE; at++)
		if (!(bench->armed[at / 64] >> at % 64 & 1))
			touched += bench->code[at] != bench->original[at];
	return touched;
}

static void bytes(struct bench *bench)
{
	bench_reset(bench);
	put(bench, 60, "\x55", 1);
	put(bench, 62, "\xb8\xcc\2\3\4", 5);
	put(bench, 67, "\xb8\1\2\3\4", 5);
	put(bench, 72, "\x31\xc0", 2);
	put_end(bench, 74, "\xc3", 1);
	memcpy(bench->code, bench->original, SIZE);
	lh__text_take(&bench->text, bench->code, span(62, 74));
	ok(bench->code[60] == 0x55 && bench->code[62] == LH_INT3 && bench->code[67] == LH_INT3 &&
	           bench->code[72] == LH_INT3 && bench->code[74] == LH_INT3,
	   "a span is taken away");
	is(tails_touched(bench), 0, "tails are not touched");
	bench->code[67] = 0xe9; /* somebody's patch */
	lh__text_supply(&bench->text, bench->code, span(60, 72));
	ok(bench->code[62] == 0xb8 && bench->code[67] == 0xe9 && bench->code[72] == 0x31 &&
	           bench->code[74] == LH_INT3,
	   "and supplied, up to its end, without what somebody else has put there");
	lh__text_take(&bench->text, bench->code, span(60, 74));
	ok(bench->code[60] == LH_INT3 && bench->code[67] == 0xe9, "nor is that taken away");
	memset(bench->code + 60, LH_INT3, 15); /* the writer that must not be */
	ok(tails_touched(bench) > 0, "caught: a writer of tails");
}

/* ---- a processor that executes meanwhile ---- */

#define ADDS 96u
#define BEGIN 37u /* 61 % of the lines' borders are straddled */

static struct bench *running;

static void supply_trap(int signal, siginfo_t *info, void *raw)
{
	greg_t *rip = &((ucontext_t *)raw)->uc_mcontext.gregs[REG_RIP];
	uint32_t at = (uint32_t)((uintptr_t)*rip - 1 - running->text.start), i, count;
	struct lh_span spans[LH_SPANS];

	count = lh__text_miss(&running->text, at, LH_GRANULARITY_BLOCK, spans);
	for (i = 0; i < count; i++)
		lh__text_supply(&running->text, running->code, spans[i]);
	*rip -= 1;
}

/* Another writer's trap: it brings the bytes by itself. */
static void wait_trap(int signal, siginfo_t *info, void *raw)
{
	((ucontext_t *)raw)->uc_mcontext.gregs[REG_RIP] -= 1;
}

static unsigned make_adder(struct bench *bench)
{
	uint32_t i, at = BEGIN, sum = 0;

	bench_reset(bench);
	put(bench, at, "\x31\xc0", 2);
	for (at += 2, i = 0; i < ADDS; i++, at += 5) {
		uint32_t value = 0x01234567u * (i + 1);
		char code[5] = { 0x05 };

		memcpy(code + 1, &value, 4);
		put(bench, at, code, 5);
		sum += value;
	}
	put_end(bench, at, "\xc3", 1);
	memcpy(bench->code, bench->original, SIZE);
	return sum;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void by_starts(struct bench *bench, bool absent)
{
	struct lh_span whole = { BEGIN, BEGIN + 2 + ADDS * 5 };

	if (absent)
		lh__text_take(&bench->text, bench->code, whole);
	else
		lh__text_supply(&bench->text, bench->code, whole);
}

/* All bytes of the span, tails too, one after the other. */
static void by_bytes(struct bench *bench, bool absent)
{
	uint32_t at;

	for (at = BEGIN; at <= BEGIN + 2 + ADDS * 5; at++)
		__atomic_store_n(&bench->code[at], absent ? LH_INT3 : bench->original[at], __ATOMIC_RELAXED);
}

/* Whether a child that executes the code of shared memory, while this process writes it, never errs. */
static bool survives(struct bench *bench, void (*write)(struct bench *, bool),
                     void (*trap)(int, siginfo_t *, void *), unsigned rounds, double seconds)
{
	unsigned sum = make_adder(bench), round;
	volatile unsigned *progress = (volatile unsigned *)(void *)(bench->code + SIZE);
	double end = now() + seconds;
	unsigned (*adder)(void) = (unsigned (*)(void))(uintptr_t)(bench->code + BEGIN);
	int status = -1;
	pid_t child;

	progress[0] = progress[1] = 0;
	child = fork();
	if (child == 0) {
		struct sigaction action = { .sa_sigaction = trap, .sa_flags = SA_SIGINFO | SA_NODEFER };

		running = bench;
		sigaction(SIGTRAP, &action, NULL);
		for (; !progress[1]; progress[0]++)
			if (adder() != sum)
				_exit(1);
		_exit(0);
	}
	for (round = 0; (round < rounds || progress[0] < rounds / 4) && now() < end; round++) {
		write(bench, true);
		write(bench, false);
		if (round % 64 == 0 && waitpid(child, &status, WNOHANG) == child)
			return false;
	}
	write(bench, false);
	progress[1] = 1;
	printf("# %u rounds of taking away and supplying, %u of executing\n", round, progress[0]);
	return waitpid(child, &status, 0) == child && status == 0 && progress[0] > 0;
}

int main(void)
{
	static struct bench the_bench;
	struct bench *bench = &the_bench;

	/* The page behind the code is for what parent and child tell each other. */
	bench->code =
		mmap(NULL, SIZE * 2, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (bench->code == MAP_FAILED)
		return 1;
	blocks(bench);
	following(bench);
	lines(bench);
	bytes(bench);
	ok(survives(bench, by_starts, supply_trap, 300000, 20),
	   "torture: supplied by the trap, taken away meanwhile");
	ok(survives(bench, by_starts, wait_trap, 300000, 20), "torture: supplied and taken away by another");
	ok(!survives(bench, by_bytes, wait_trap, 10000000, 20), "caught: a writer of tails, by who executes");
	return done();
}
