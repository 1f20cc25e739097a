/*
 * translate.c - an agent that has a whole program translated, for benchmarks: its first thread, from before
 * any other library is initialised until the end. Signals are native, and so are other threads: enough for
 * compilers and interpreters, and no more.
 *
 * LH_TRANSLATE, words: off (load, do nothing), count (a client that counts accesses), far (the cache is where
 * no relative operand reaches), report (counters on stderr at the end).
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "port/translate/emit.h"

static struct lh_translator *translator;
static int report_to; /* stderr, which programs close before they end */

static const char *words = ""; /* the C library does not know the environment yet */

static bool wanted(const char *word)
{
	return strstr(words, word);
}

static void count_accesses(void *context, struct lh_emitter *emitter,
                           const struct lh_translated_instruction *instruction)
{
	(void)context;
	for (unsigned i = 0; i < instruction->accesses->count; i++)
		lh__emit_count_own(emitter, instruction->accesses->at[i].kind & LH_ACCESS_WRITE ? 8 : 0, 1);
	lh__emit_done(emitter);
}

static void put(const char *name, uint64_t value)
{
	char text[128];
	int size = snprintf(text, sizeof(text), "%s %llu\n", name, (unsigned long long)value);

	lh__raw_syscall(SYS_write, report_to, (long)text, size, 0, 0, 0);
}

__attribute__((destructor)) static void report(void)
{
	struct lh_translate_counts counts;
	const uint64_t *own;

	if (!translator || !wanted("report"))
		return;
	lh__translate_counts(translator, &counts);
	put("blocks", counts.blocks);
	put("instructions", counts.instructions);
	put("bytes", counts.bytes);
	put("slow", counts.slow);
	put("dispatches", counts.dispatches);
	put("flushes", counts.flushes);
	put("links", counts.links);
	own = lh__translate_thread_bytes(translator);
	if (wanted("count") && own)
		put("reads", own[0]), put("writes", own[1]);
}

__attribute__((constructor)) static void start(int argc, char **argv, char **environment)
{
	struct lh_translate_options options = { .sys = &lh__sys_default };

	(void)argc;
	(void)argv;
	for (; *environment; environment++)
		if (strncmp(*environment, "LH_TRANSLATE=", 13) == 0)
			words = *environment + 13;
	if (wanted("off"))
		return;
	report_to = fcntl(2, F_DUPFD_CLOEXEC, 100);
	if (wanted("far"))
		options.near = 0x200000000ull;
	if (wanted("count")) {
		options.client.thread_bytes = 16;
		options.client.before = count_accesses;
	}
	if (lh__translate_open(&options, &translator, NULL) == 0 && lh__translate_begin(translator, NULL) < 0)
		translator = NULL;
}
