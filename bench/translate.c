/*
 * translate.c - what it costs that code is translated: kernels natively and translated, with a client that
 * counts accesses and with one that looks whether writes lie in a range; and code that is executed once.
 *
 * Medians of processor time in rounds that take turns, so that what else the machine does meets all alike.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "port/translate/emit.h"

#define ROUNDS 7u
#define WORDS ((size_t)1 << 17) /* 1 MiB of them */

static double now_ms(void)
{
	struct timespec at;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
	return (double)at.tv_sec * 1e3 + (double)at.tv_nsec / 1e6;
}

static int compare_doubles(const void *a, const void *b)
{
	return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static double median(double *value, unsigned count)
{
	qsort(value, count, sizeof(*value), compare_doubles);
	return value[count / 2];
}

/* ---- kernels: each returns how many accesses it made, or 0 where that is not known */

static uint64_t words[WORDS];
static volatile uint64_t sink;

__attribute__((noinline)) static unsigned fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t run_fib(void)
{
	sink = fib(32);
	return 0;
}

#define CALLED(n)                                                                                            \
	__attribute__((noinline)) static uint64_t called_##n(uint64_t x)                                     \
	{                                                                                                    \
		return x * 3 + n;                                                                            \
	}
CALLED(0)
CALLED(1)
CALLED(2)
CALLED(3)

static uint64_t run_indirect(void)
{
	static uint64_t (*volatile const called[4])(uint64_t) = { called_0, called_1, called_2, called_3 };
	uint64_t x = 1, random = 88172645463325252ull;

	for (int i = 0; i < 5000000; i++) {
		random ^= random << 13, random ^= random >> 7, random ^= random << 17;
		x = called[random & 3](x);
	}
	sink = x;
	return 0;
}

static uint64_t run_sequential(void)
{
	uint64_t sum = 0;

	for (int round = 0; round < 200; round++)
		for (size_t i = 0; i < WORDS; i++) {
			__asm__ volatile("add %1, %0" : "+r"(sum) : "m"(words[i]));
		}
	sink = sum;
	return 200 * WORDS;
}

static uint64_t run_random(void)
{
	uint64_t at = 0;

	for (int i = 0; i < 10000000; i++)
		at = (at * 6364136223846793005ull + words[(at >> 40) % WORDS] + 1442695040888963407ull);
	sink = at;
	return 10000000;
}

static int compare_words(const void *a, const void *b)
{
	return (*(const uint64_t *)a > *(const uint64_t *)b) - (*(const uint64_t *)a < *(const uint64_t *)b);
}

static uint64_t run_qsort(void)
{
	static uint64_t value[200000];

	for (size_t i = 0; i < 200000; i++)
		value[i] = i * 0x9e3779b97f4a7c15ull;
	qsort(value, 200000, sizeof(*value), compare_words);
	return 0;
}

/* liblzma where there is one: it says how much of its input becomes how much. */
static int (*lzma_encode)(uint32_t preset, int check, const void *allocator, const uint8_t *in,
                          size_t in_size, uint8_t *out, size_t *out_at, size_t out_size);

static uint64_t run_lzma(void)
{
	static uint8_t in[1 << 19], out[1 << 20];
	uint64_t random = 1;
	size_t size = 0;

	for (size_t i = 0; i < sizeof(in); i++) {
		random = random * 6364136223846793005ull + 1;
		in[i] = i > 5000 && (random >> 60) ? in[i - 1 - (random >> 33) % 5000]
		                                   : (uint8_t)(random >> 40);
	}
	if (lzma_encode)
		lzma_encode(1, 0, NULL, in, sizeof(in), out, &size, sizeof(out));
	sink = size;
	return 0;
}

static const struct kernel {
	const char *name;
	uint64_t (*run)(void);
} kernels[] = {
	{ "fib(32)", run_fib },
	{ "indirect calls, 4 targets", run_indirect },
	{ "sequential loads, 1 MiB", run_sequential },
	{ "random loads, 1 MiB", run_random },
	{ "qsort", run_qsort },
	{ "liblzma -1", run_lzma },
};

/* ---- clients */

static void count_accesses(void *context, struct lh_emitter *emitter,
                           const struct lh_translated_instruction *instruction)
{
	(void)context;
	for (unsigned i = 0; i < instruction->accesses->count; i++)
		lh__emit_count_own(emitter, instruction->accesses->at[i].kind & LH_ACCESS_WRITE ? 8 : 0, 1);
	lh__emit_done(emitter);
}

static void filter_writes(void *context, struct lh_emitter *emitter,
                          const struct lh_translated_instruction *instruction)
{
	(void)context;
	for (unsigned i = 0; i < instruction->accesses->count; i++) {
		const struct lh_access *access = &instruction->accesses->at[i];
		int address, label;

		if (!(access->kind & LH_ACCESS_WRITE) || access->base == ZYDIS_REGISTER_RSP)
			continue;
		address = lh__emit_address(emitter, instruction, access);
		if (address >= 0) {
			label = lh__emit_unless_within_own(emitter, address, 16);
			lh__emit_count_own(emitter, 8, 1);
			lh__emit_here(emitter, label);
		}
		lh__emit_done(emitter);
	}
}

enum { NATIVE, TRANSLATED, FAR, COUNTED, FILTERED, WAYS };

static struct lh_translator *open_way(unsigned way)
{
	struct lh_translate_options options = { .sys = &lh__sys_default };
	struct lh_translator *translator;
	struct lh_error error;

	options.near = way == FAR ? 0x200000000ull : 0;
	options.client.thread_bytes = way >= COUNTED ? 64 : 0;
	options.client.before = way == COUNTED ? count_accesses : way == FILTERED ? filter_writes : NULL;
	if (lh__translate_open(&options, &translator, &error) < 0) {
		fprintf(stderr, "%s\n", error.text);
		exit(1);
	}
	return translator;
}

/* A thread of its own translator: contexts of different ones do not mix. */
static double run_way(const struct kernel *kernel, unsigned way, uint64_t *accesses)
{
	struct lh_translator *translator = way == NATIVE ? NULL : open_way(way);
	double start, took;

	if (translator && lh__translate_begin(translator, NULL) < 0)
		exit(1);
	if (translator)
		kernel->run();
	start = now_ms();
	*accesses = kernel->run();
	took = now_ms() - start;
	if (translator) {
		lh__translate_end(translator);
		lh__translate_close(translator);
	}
	return took;
}

static void bench_kernel(const struct kernel *kernel)
{
	double took[WAYS][ROUNDS], middle[WAYS];
	uint64_t accesses = 0;

	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned way = 0; way < WAYS; way++)
			took[way][round] = run_way(kernel, way, &accesses);
	for (unsigned way = 0; way < WAYS; way++)
		middle[way] = median(took[way], ROUNDS);
	printf("%-26s %8.1f %7.2fx %7.2fx %7.2fx %7.2fx", kernel->name, middle[NATIVE],
	       middle[TRANSLATED] / middle[NATIVE], middle[FAR] / middle[NATIVE],
	       middle[COUNTED] / middle[NATIVE], middle[FILTERED] / middle[NATIVE]);
	if (accesses)
		printf("   counting: %.2f ns an access",
		       (middle[COUNTED] - middle[TRANSLATED]) * 1e6 / (double)accesses);
	printf("\n");
	fflush(stdout);
}

/* ---- code that is executed once */

#define COLD 100000u
#define COLD_BYTES 32u

/*
 * mov (%rdi), %rax; add $1, %rax; mov %rax, (%rdi); test %rax, %rax; jne to the next, over what is not
 * executed: xor %eax, %eax; ret. Each third one is left the other way, by je that is not taken; two nops
 * come first.
 */
static uint8_t *make_cold(void)
{
	static const uint8_t work[] = { 0x48, 0x8b, 0x07, 0x48, 0x83, 0xc0, 0x01,
		                        0x48, 0x89, 0x07, 0x48, 0x85, 0xc0 };
	static const uint8_t taken[] = { 0x75, 17, 0x31, 0xc0, 0xc3 };
	static const uint8_t fallen[] = { 0x0f, 0x84, 0xfa, 0xff, 0xff, 0xff };
	static const uint8_t nops[] = { 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0x0f, 0x1f, 0x44, 0, 0 };
	size_t size = (size_t)(COLD + 1) * COLD_BYTES;
	int file = memfd_create("cold", MFD_CLOEXEC); /* code of a file, as most is */
	uint8_t *code = MAP_FAILED;

	if (file >= 0 && ftruncate(file, (off_t)size) == 0)
		code = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	if (code == MAP_FAILED)
		exit(1);
	close(file);
	for (size_t i = 0; i < COLD; i++) {
		uint8_t *at = code + i * COLD_BYTES;

		if (i % 3 == 2) {
			memcpy(at, nops, sizeof(nops));
			memcpy(at + sizeof(nops), work, sizeof(work));
			memcpy(at + COLD_BYTES - 6, fallen, 6);
		} else {
			memcpy(at, work, sizeof(work));
			memcpy(at + sizeof(work), taken, sizeof(taken));
		}
	}
	code[(size_t)COLD * COLD_BYTES] = 0xc3;
	mprotect(code, size, PROT_READ | PROT_EXEC);
	return code;
}

static void bench_cold(unsigned way, const char *name, uint8_t *code)
{
	double took[ROUNDS];
	uint64_t word = 1;

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct lh_translator *translator = open_way(way);
		double start = now_ms();

		if (lh__translate_begin(translator, NULL) < 0)
			exit(1);
		((void (*)(uint64_t *))(uintptr_t)code)(&word);
		lh__translate_end(translator);
		took[round] = now_ms() - start;
		lh__translate_close(translator);
	}
	printf("%-26s %.0f ns a block of 5 to 7 instructions\n", name, median(took, ROUNDS) * 1e6 / COLD);
}

static void bench_enter(void)
{
	struct lh_translator *translator = open_way(TRANSLATED);
	double took[ROUNDS];

	for (unsigned round = 0; round < ROUNDS; round++) {
		double start = now_ms();

		for (int i = 0; i < 100000; i++) {
			if (lh__translate_begin(translator, NULL) < 0)
				exit(1);
			lh__translate_end(translator);
		}
		took[round] = now_ms() - start;
	}
	printf("%-26s %.1f ns\n", "begin and end, known code", median(took, ROUNDS) * 1e6 / 100000);
	lh__translate_close(translator);
}

int main(void)
{
	void *lzma = dlopen("liblzma.so.5", RTLD_NOW);
	uint8_t *code = make_cold();

	if (lzma)
		*(void **)&lzma_encode = dlsym(lzma, "lzma_easy_buffer_encode");
	for (size_t i = 0; i < WORDS; i++)
		words[i] = i * 0x9e3779b97f4a7c15ull;
	printf("%-26s %8s %8s %8s %8s %8s\n", "", "ms", "trans.", "far", "count", "filter");
	for (unsigned i = 0; i < sizeof(kernels) / sizeof(*kernels); i++)
		if (kernels[i].run != run_lzma || lzma_encode)
			bench_kernel(&kernels[i]);
	bench_cold(TRANSLATED, "cold code", code);
	bench_cold(COUNTED, "cold code, counted", code);
	bench_enter();
	return 0;
}
