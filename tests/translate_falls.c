/*
 * translate_falls.c - blocks that follow each other directly in the code cache: the way from one into the
 * next is right when the next is changed and forgotten, for each way there is, again and again, for threads
 * that are in the one at that moment, with flags that are live, and in a cache that is full.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "translate_code.h"

#define MADE_BYTES ((size_t)4 << 20)

/*
 * Code is written to one place, and put from there to where it is executed: a file's memory, which cannot be
 * written to but through /proc. Of what can be written to each block looks at its bytes, and none follows.
 */
static ptrdiff_t away;
static int memory = -1;

static uint8_t *made_memory(void)
{
	int file = memfd_create("code", MFD_CLOEXEC);
	uint8_t *made = mmap(NULL, MADE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		*code;

	if (memory < 0)
		memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	if (file < 0 || memory < 0 || ftruncate(file, MADE_BYTES) < 0 || made == MAP_FAILED ||
	    (code = mmap(NULL, MADE_BYTES, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0)) == MAP_FAILED) {
		printf("Bail out! no memory\n");
		exit(1);
	}
	close(file);
	away = code - made;
	return made;
}

static void free_memory(uint8_t *made)
{
	munmap(made + away, MADE_BYTES);
	munmap(made, MADE_BYTES);
}

static void put(const uint8_t *at, size_t size)
{
	if (pwrite(memory, at, size, (off_t)(uintptr_t)(at + away)) != (ssize_t)size) {
		printf("Bail out! code cannot be changed\n");
		exit(1);
	}
}

static uint64_t code_of(const uint8_t *at)
{
	return (uint64_t)(uintptr_t)(at + away);
}

static void forget(struct lh_translator *translator, const uint8_t *at, size_t size)
{
	lh__translate_forget(translator, code_of(at), code_of(at) + size);
}

/* mov $value, %eax; ret */
static void make_constant(uint8_t *at, uint32_t value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

/* ---- the one that falls, 64 bytes before what it falls into, which begins a page */

enum way { CONDITIONAL, JUMP, CALL, LONG, WAYS };
static const char *const way_names[WAYS] = { "a conditional jump", "a jump", "a call", "a block's end" };

/* Waits for a word to be other than 0, and goes on at what stands 64 bytes on. Where it begins. */
static uint8_t *make_waiting(uint8_t *at, enum way way)
{
	static const uint8_t wait[] = { 0xf3, 0x90, 0x83, 0x3f, 0x00 }; /* 1: pause; cmpl $0, (%rdi) */
	uint8_t *end = at + 64;

	memset(at, 0x90, 64);
	switch (way) {
	case CONDITIONAL: /* je 1b */
		memcpy(end - 7, wait, 5);
		memcpy(end - 2, (uint8_t[]){ 0x74, 0xf9 }, 2);
		return end - 7;
	case JUMP: /* je 1b; jmp to what follows */
		memcpy(at, wait, 5);
		memcpy(at + 5, (uint8_t[]){ 0x74, 0xf9, 0xe9, 52, 0, 0, 0 }, 7);
		break;
	case CALL: /* je 1b; call what follows; ret */
		memcpy(at, wait, 5);
		memcpy(at + 5, (uint8_t[]){ 0x74, 0xf9, 0xe8, 52, 0, 0, 0, 0xc3 }, 8);
		break;
	default: /* je 1b; nops up to the end of the page */
		memcpy(at, wait, 5);
		memcpy(at + 5, (uint8_t[]){ 0x74, 0xf9 }, 2);
		break;
	}
	return at;
}

struct waiting {
	struct lh_translator *translator;
	const uint8_t *code;
	uint32_t word, inside, got;
};

static void *wait_thread(void *argument)
{
	struct waiting *waiting = argument;

	begin(waiting->translator);
	__atomic_store_n(&waiting->inside, 1, __ATOMIC_RELEASE);
	waiting->got = ((uint32_t(*)(uint32_t *))(uintptr_t)waiting->code)(&waiting->word);
	lh__translate_end(waiting->translator);
	return NULL;
}

/* A thread waits in the first while the second is changed. False: it saw the old one. */
static bool changed_under(struct waiting *waiting, uint8_t *second, uint32_t value, bool tell)
{
	pthread_t thread;

	waiting->word = waiting->inside = 0;
	pthread_create(&thread, NULL, wait_thread, waiting);
	while (!__atomic_load_n(&waiting->inside, __ATOMIC_ACQUIRE))
		sched_yield();
	for (int i = 0; i < 20; i++)
		sched_yield(); /* mostly it is in the loop by then; if not, nothing is lost but the point */
	make_constant(second, value);
	put(second, 6);
	if (tell)
		forget(waiting->translator, second, 6);
	__atomic_store_n(&waiting->word, 1, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	return waiting->got == value;
}

static void check_way(enum way way)
{
	struct waiting waiting = { .translator = translator_with((struct lh_translate_options){ 0 }) };
	uint8_t *made = made_memory(), *second = made + 4096, *first = make_waiting(second - 64, way);
	unsigned wrong = 0;
	bool planted;

	make_constant(second, 1);
	make_constant(second + 64, 5);
	put(made, 2 * 4096);
	waiting.code = first + away;
	waiting.word = 1;
	for (int i = 0; i < 2; i++) {
		begin(waiting.translator);
		wrong += ((uint32_t(*)(void))(uintptr_t)code_of(second + 64))() != 5; /* the page is known */
		wrong += ((uint32_t(*)(uint32_t *))(uintptr_t)waiting.code)(&waiting.word) != 1;
		lh__translate_end(waiting.translator);
	}
	for (uint32_t i = 2; i < 12; i++)
		wrong += !changed_under(&waiting, second, i, true);
	planted = !changed_under(&waiting, second, 77, false);
	ok(wrong == 0, "%s: who is about to follow it comes to what is there now (%u did not)",
	   way_names[way], wrong);
	ok(planted, "caught: %s, and nobody said that what follows has changed", way_names[way]);
	free_memory(made);
	lh__translate_close(waiting.translator);
}

/* ---- side exits */

/*
 * A chain of links of 64 bytes: add with carry from before, compare, leave if equal, else on to the next. All
 * of them may be changed; flags are live from each into the next, and into where a side exit leads.
 */
#define LINKS 200u
#define LINK 64u

static void make_link(uint8_t *made, unsigned i, uint32_t value, bool short_jump)
{
	uint8_t *at = made + (size_t)i * LINK, *side = made + (size_t)(LINKS + 1 + i) * LINK;
	int32_t distance;
	unsigned used = 0;

	memset(at, 0x90, LINK);
	memset(side, 0x90, LINK);
	at[used++] = 0x15; /* adc $value, %eax */
	memcpy(at + used, &value, 4), used += 4;
	memcpy(at + used, (uint8_t[]){ 0x39, 0xf8 }, 2), used += 2; /* cmp %edi, %eax */
	/* jb over 5 bytes, which leave if it is not below; or jae away */
	if (short_jump)
		memcpy(at + used, (uint8_t[]){ 0x72, 0x05, 0xe9 }, 3), used += 3;
	else
		memcpy(at + used, (uint8_t[]){ 0x0f, 0x83 }, 2), used += 2;
	distance = (int32_t)(side - (at + used + 4));
	memcpy(at + used, &distance, 4);
	/* The side: adc $3, %eax; sbb %edx, %edx; xor %edx, %eax; ret */
	memcpy(side, (uint8_t[]){ 0x83, 0xd0, 0x03, 0x19, 0xd2, 0x31, 0xd0, 0xc3 }, 8);
	side[2] = (uint8_t)(value & 0x7f);
	put(at, LINK);
	put(side, LINK);
}

/* adc $5, %eax; ret */
static void make_end(uint8_t *made)
{
	uint8_t *at = made + (size_t)LINKS * LINK;

	memcpy(at, (uint8_t[]){ 0x83, 0xd0, 0x05, 0xc3 }, 4);
	put(at, 4);
}

static uint32_t run_chain(const uint8_t *made, uint32_t limit)
{
	uint32_t result;

	__asm__ volatile("xor %%eax, %%eax\n\tmov %2, %%edi\n\tcall *%1"
	                 : "=&a"(result)
	                 : "r"(code_of(made)), "r"(limit)
	                 : "rdi", "rdx", "memory", "cc");
	return result;
}

static void check_chain(const char *name, struct lh_translate_options options)
{
	struct lh_translator *translator = translator_with(options);
	uint8_t *made = made_memory();
	uint64_t random = 88172645463325252ull;
	unsigned wrong = 0;

	for (unsigned i = 0; i < LINKS; i++)
		make_link(made, i, i * 7919 % 1000 + 1, i % 3 == 0);
	make_end(made);
	for (unsigned round = 0; round < 3000; round++) {
		unsigned link;
		uint32_t limit, wanted, got;

		random ^= random << 13, random ^= random >> 7, random ^= random << 17;
		link = (unsigned)(random >> 20) % LINKS;
		limit = (uint32_t)(random >> 40) % 110000;
		if (random & 1) {
			make_link(made, link, (uint32_t)(random >> 30) % 1000, random & 2);
			forget(translator, made + (size_t)link * LINK, LINK);
			forget(translator, made + (size_t)(LINKS + 1 + link) * LINK, LINK);
		}
		wanted = run_chain(made, limit);
		begin(translator);
		got = run_chain(made, limit);
		lh__translate_end(translator);
		wrong += got != wanted;
	}
	ok(wrong == 0, "%s: a chain of exits with live flags, changed link by link: %u wrong", name, wrong);
	ok(counts_of(translator).slow == 0, "%s: all of it translated", name);
	free_memory(made);
	lh__translate_close(translator);
}

/* ---- a cache that is full, all of whose falls become jumps */

/* test %edi, %edi; je 1f; mov $a, %eax; ret; 1: mov $b, %eax; ret */
static void make_choice(uint8_t *at, uint32_t value)
{
	memcpy(at, (uint8_t[]){ 0x85, 0xff, 0x74, 0x06 }, 4);
	make_constant(at + 4, value);
	make_constant(at + 10, value + 1000000);
	put(at, 16);
}

static unsigned choices_wrong(struct lh_translator *translator, const uint8_t *made, uint32_t count,
                              uint32_t offset)
{
	unsigned wrong = 0;

	begin(translator);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t (*choose)(int) = (uint32_t(*)(int))(uintptr_t)code_of(made + (size_t)i * 64);

		wrong += choose(1) != i + offset;
		wrong += choose(0) != i + offset + 1000000;
	}
	lh__translate_end(translator);
	return wrong;
}

static void check_full(void)
{
	struct lh_translator *translator = translator_with((struct lh_translate_options){ .cache = 1 << 20 });
	uint8_t *made = made_memory();
	uint32_t count = MADE_BYTES / 64;
	unsigned wrong = 0;

	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < count; i++) {
			make_choice(made + (size_t)i * 64, i + round);
			/* Only what is fallen into, or what is jumped to: the first block stays. */
			if (round > 0)
				forget(translator, made + (size_t)i * 64 + 4, 12);
		}
		wrong += choices_wrong(translator, made, count, round);
	}
	ok(wrong == 0 && counts_of(translator).flushes > 3,
	   "%u functions in a cache that was full %lu times: "
	   "%u wrong",
	   count, (unsigned long)counts_of(translator).flushes, wrong);
	/* As many as fit, so that all of them are there when they are changed. */
	count = 3000;
	wrong = choices_wrong(translator, made, count, 2);
	for (uint32_t round = 3; round < 6; round++) {
		for (uint32_t i = 0; i < count; i++) {
			make_choice(made + (size_t)i * 64, i + round);
			forget(translator, made + (size_t)i * 64 + 4, 12);
		}
		wrong += choices_wrong(translator, made, count, round);
	}
	ok(wrong == 0, "%u functions, all changed in their second half: %u wrong", count, wrong);
	free_memory(made);
	lh__translate_close(translator);
}

static void count_block(void *context, struct lh_emitter *emitter, uint64_t address, unsigned instructions,
                        const struct lh_translated_instruction *instruction)
{
	(void)context;
	(void)instruction;
	(void)address;
	lh__emit_count_own(emitter, 0, instructions);
	lh__emit_done(emitter);
}

__attribute__((noinline)) static uint64_t counted_chain(const struct lh_translator *translator,
                                                        const uint8_t *made, uint32_t limit)
{
	uint64_t before = *(uint64_t *)lh__translate_thread_bytes(translator);

	run_chain(made, limit);
	return *(uint64_t *)lh__translate_thread_bytes(translator) - before;
}

/* A client's blocks are those that are executed, wherever they lie. */
static void check_counted(void)
{
	struct lh_translator *translator = translator_with(
		(struct lh_translate_options){ .client = { .thread_bytes = 16, .block = count_block } });
	uint8_t *made = made_memory();
	uint64_t took[2];

	for (unsigned i = 0; i < LINKS; i++)
		make_link(made, i, 10, false);
	make_end(made);
	begin(translator);
	run_chain(made, 100000);
	took[0] = counted_chain(translator, made, 1501);
	took[1] = counted_chain(translator, made, 501);
	lh__translate_end(translator);
	/* Each link adds 11: its carry is set, but for the first. nops follow the three: 64 - 13. */
	is(took[0] - took[1], (137 - 46) * (3 + 51), "blocks are counted as they are executed");
	free_memory(made);
	lh__translate_close(translator);
}

int main(void)
{
	for (enum way way = 0; way < WAYS; way++)
		check_way(way);
	check_chain("near", (struct lh_translate_options){ 0 });
	check_chain("in a small cache", (struct lh_translate_options){ .cache = 1 << 20 });
	check_chain("counted",
	            (struct lh_translate_options){ .client = { .thread_bytes = 16, .block = count_block } });
	check_full();
	check_counted();
	return done();
}
