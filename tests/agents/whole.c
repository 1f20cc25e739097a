/*
 * whole.c - the agent of the tests of whole programs: it takes over the process that has loaded it.
 *
 * LH_WHOLE, words: scratch (a client that takes scratch registers and changes flags before each
 * instruction, and counts instructions by blocks), tell (each hook says a line on stderr), spoil (a planted
 * fault: handlers of signals see the code cache's addresses).
 */
#include "port/translate/inside.h"

#include <string.h>

struct own {
	uint64_t instructions, cut, accesses, calls;
};

static struct {
	int scratch, tell;
} agent;

static void say(const char *what, long a, long b)
{
	char text[128];
	size_t size = lh__format(text, sizeof text, "whole: %s %ld %ld\n", what, a, b);

	if (agent.tell)
		lh__raw_syscall(SYS_write, 2, (long)text, (long)size, 0, 0, 0);
}

static void begins(void *context, void *own, int tid)
{
	(void)context;
	(void)own;
	say("begins", tid == lh__raw_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0), 0);
}

static void thread_ends(void *context, void *own)
{
	(void)context;
	say("ends", ((struct own *)own)->instructions > 0, 0);
}

static void process_ends(void *context, void *own, int status)
{
	(void)context;
	(void)own;
	say("exits", status, 0);
}

static void forked(void *context, void *own)
{
	(void)context;
	(void)own;
	say("forked", 0, 0);
}

static void executes(void *context, void *own, struct lh_translate_call *call)
{
	(void)context;
	(void)own;
	say("executes", call->number == SYS_execve, 0);
}

static void block(void *context, struct lh_emitter *emitter, uint64_t address, unsigned instructions,
                  const struct lh_translated_instruction *instruction)
{
	(void)context;
	(void)instruction;
	(void)address;
	lh__emit_count_own(emitter, offsetof(struct own, instructions), instructions);
	lh__emit_done(emitter);
}

static void before(void *context, struct lh_emitter *emitter,
                   const struct lh_translated_instruction *instruction)
{
	int a = lh__emit_scratch(emitter), b = lh__emit_scratch(emitter);

	(void)context;
	lh__emit_constant(emitter, a, instruction->address);
	lh__emit_shift_right(emitter, b, a, 7);
	lh__emit_count_own(emitter, offsetof(struct own, accesses), instruction->accesses->count);
	lh__emit_done(emitter);
}

static void cut(void *context, void *own, uint64_t address, unsigned instructions, unsigned executed,
                const uint64_t *general)
{
	struct own *mine = own;

	(void)context;
	(void)general;
	(void)address;
	mine->instructions -= instructions - executed;
	mine->cut++;
}

static bool call(void *context, void *own, struct lh_translate_call *call)
{
	struct own *mine = own;

	(void)context;
	mine->calls++;
	/* What is asked for in vain is answered; what is asked for wrongly is changed. */
	if (call->number == 100000) {
		call->result = (long)mine->calls;
		return true;
	}
	if (call->number == 100002) {
		call->result = (long)mine->instructions;
		return true;
	}
	if (call->number == 100001) {
		call->number = SYS_getpgid;
		call->argument[0] = 0;
	}
	return false;
}

__attribute__((constructor)) static void enter(int argc, char **argv, char **environment)
{
	static struct lh_process_options options = {
		.translate = { .client = { .thread_bytes = sizeof(struct own),
		                           .block = block,
		                           .cut = cut,
		                           .call = call } },
		.thread_begins = begins,
		.thread_ends = thread_ends,
		.process_ends = process_ends,
		.forked = forked,
		.executes = executes,
	};
	struct lh_translator *translator;
	struct lh_error error = { 0 };
	const char *words = "";

	(void)argc;
	(void)argv;
	for (char **at = environment; *at; at++)
		if (strncmp(*at, "LH_WHOLE=", 9) == 0)
			words = *at + 9;
	agent.tell = strstr(words, "tell") != NULL;
	if (strstr(words, "scratch"))
		options.translate.client.before = before;
	if (strstr(words, "bare"))
		options.translate.client = (struct lh_translate_client){ .thread_bytes = sizeof(struct own) };
	options.translate.sys = &lh__sys_default;
	if (lh__process_open(&options, &translator, &error) < 0)
		say(error.text, 0, 0);
}
