/* timeout: 120 */
/* patch_apply.c - patches do what they say, to a program that runs meanwhile, and revert leaves nothing. */
#include "patch.h"

#define REPLACE_ANSWER(name, more)                                                                           \
	"LH_PATCH_ORIGINAL(old, answer, int (int));\n"                                                       \
	"int new_answer(int value) { return old(value) + " more "; }\n"                                      \
	"LH_PATCH_REPLACE(answer, new_answer);\n"                                                            \
	"LH_PATCH_NAME(\"" name "\");\n"

static void test_replace(void)
{
	const char *file = patch_make("replace", "",
	                              "#include <string.h>\n"
	                              "extern int limit;\n"
	                              "extern int fib(int);\n"
	                              "static int calls[100];\n"
	                              "static const char *const words[] = { \"one\", \"three\" };\n"
	                              "LH_PATCH_ORIGINAL(old, answer, int (int));\n"
	                              "LH_PATCH_ORIGINAL(old_hidden, hidden, int (int));\n"
	                              "int new_answer(int value) {\n"
	                              "	return old(value) + limit * 100 + fib(0) * ++calls[3]; }\n"
	                              "static int new_hidden(int value) {\n"
	                              "	volatile const char *const *w = (void *)words;\n"
	                              "	return old_hidden(value) + (int)strlen((char *)w[1]) * 100; }\n"
	                              "static int new_tiny(int value) { return value + 41; }\n"
	                              "LH_PATCH_REPLACE(answer, new_answer);\n"
	                              "LH_PATCH_REPLACE(hidden, new_hidden);\n"
	                              "LH_PATCH_REPLACE(tiny, new_tiny);\n");
	struct target target = target_start(2, false);
	uint64_t before = patch_checksum(target.pid);
	struct lh_patch_outcome outcome;
	struct answers a = target_ask(&target);

	ok(a.answer == 4 && a.hidden == 11 && a.tiny == 0 && a.fib == 55 && a.entered == 3 && a.holds == 8,
	   "the program answers");
	is(patch_apply(target.pid, file), 0, "three functions are replaced");
	a = target_ask(&target);
	is(a.answer, 1004, "a function: its original and a variable of the program are used");
	is(a.hidden, 511, "a static function; a function of libc that is chosen for the processor");
	is(a.tiny, 42, "a function of 3 bytes with padding behind it");
	is(patch_revert(target.pid, "replace", &outcome), 0, "reverted, by the name of its file");
	is(outcome.places, 3, "three places");
	a = target_ask(&target);
	ok(a.answer == 4 && a.hidden == 11 && a.tiny == 0, "the program answers as before");
	ok(outcome.kept || patch_checksum(target.pid) == before, "its code is what it was");
	is(patch_revert(target.pid, "replace", &outcome), outcome.kept ? 0 : -ENOENT,
	   "it cannot be reverted twice");
	is(a.wrong, 0, "nobody saw a wrong answer");
	target_stop(&target);
}

static void test_recursion(void)
{
	const char *file = patch_make("fib", "",
	                              "LH_PATCH_ORIGINAL(old, fib, int (int));\n"
	                              "static int new_fib(int n) { return n == 10 ? old(n) * 2 : old(n); }\n"
	                              "LH_PATCH_REPLACE(fib, new_fib);\n");
	struct target target = target_start(0, false);

	is(patch_apply(target.pid, file), 0, "a function that calls itself");
	is(target_ask(&target).fib, 110, "its inner calls go through the patch, too");
	is(target_ask(&target).switched, -3, "a switch");
	file = patch_make("switched", "",
	                  "LH_PATCH_ORIGINAL(old, switched, int (int));\n"
	                  "static int new_one(int n) { return old(n) * 2; }\n"
	                  "LH_PATCH_REPLACE(switched, new_one);\n");
	is(patch_apply(target.pid, file), 0, "a function that jumps through a table");
	is(target_ask(&target).switched, -6, "its original does so still");
	target_stop(&target);
}

static void test_handler(void)
{
	const char *file = patch_make("handler", "",
	                              "static double sum;\n"
	                              "static void handler(struct lh_patch_registers *registers) {\n"
	                              "	sum = sum * 0.5 + 1; /* uses vector registers */\n"
	                              "	++*(volatile long *)registers->rbx;\n"
	                              "}\n"
	                              "LH_PATCH_AT(forever, 4, handler);\n");
	const char *leave =
		patch_make("leave", "",
	                   "static void handler(struct lh_patch_registers *registers) {\n"
	                   "	((volatile long *)registers->rbx)[1] = 0;\n"
	                   "	registers->rip = registers->rip ? 0 : (uint64_t)(registers->rbx ? 0 : 1);\n"
	                   "}\n"
	                   "LH_PATCH_AT(forever, 0, handler);\n");
	struct target target = target_start(1, true);
	uint64_t before = patch_checksum(target.pid);
	struct lh_patch_options options = { .wait_ms = 5000, .at = "forever+4" };
	struct lh_patch_outcome outcome;
	struct lh_error error;
	struct answers a;

	is(patch_apply(target.pid, file), 0, "a handler in a loop that is never left");
	target_ask(&target);
	usleep(20000);
	a = target_ask(&target);
	ok(a.loops > 0 && a.wrong == 0, "the loop goes on");
	is(patch_revert(target.pid, "handler", &outcome), 0, "and goes on when it is reverted");
	usleep(20000);
	ok(target_ask(&target).loops > 0 && !outcome.kept, "with all memory back");
	is(patch_checksum(target.pid), before, "its code is what it was");
	is(lh__patch_apply(target.pid, leave, &options, &outcome, &error), 0,
	   "a handler at another place (--at)");
	usleep(20000);
	ok(target_ask(&target).loops > 0, "the loop goes on with it");
	is(patch_revert(target.pid, "leave", &outcome), 0, "reverted");
	is(lh__patch_apply(target.pid, file, &(struct lh_patch_options){ .at = "forever+5" }, &outcome,
	                   &error),
	   -EINVAL, "no instruction starts there: %s", error.text);
	is(lh__patch_apply(target.pid, file, &(struct lh_patch_options){ .at = "forever+500" }, &outcome,
	                   &error),
	   -EINVAL, "behind the end: %s", error.text);
	is(lh__patch_apply(target.pid, file, &(struct lh_patch_options){ .at = "waits+1x" }, &outcome,
	                   &error),
	   -EINVAL, "no offset: %s", error.text);
	target_stop(&target);
}

/* What a handler sees and changes is what the registers are. */
static void test_registers(void)
{
	const char *file = patch_make("registers", "",
	                              "static void handler(struct lh_patch_registers *r) {\n"
	                              "	if ((int)r->rdi == 3) r->rdi = 10; else if ((int)r->rdi == 4)\n"
	                              "		{ r->rax = 77; r->rip = *(uint64_t *)r->rsp; r->rsp += 8; }\n"
	                              "}\n"
	                              "LH_PATCH_AT(answer, 0, handler);\n"
	                              "extern int answer(int);\n"
	                              "static int new_hidden(int v) { return answer(4) + v; }\n"
	                              "LH_PATCH_REPLACE(hidden, new_hidden);\n");
	struct target target = target_start(0, false);
	struct answers a;

	is(patch_apply(target.pid, file), 0, "a handler at the first instruction");
	a = target_ask(&target);
	is(a.answer, 11, "it changes an argument");
	is(a.hidden, 78, "it returns from the function");
	target_stop(&target);
}

static unsigned listed_bad, listed_n;
static void note_listed(void *context, const struct lh_patch_listed *patch)
{
	listed_n++;
	listed_bad += !patch->intact || patch->state != LH_PATCH_APPLIED;
}

static void list(pid_t pid)
{
	struct lh_error error;

	listed_n = listed_bad = 0;
	is(lh__patch_list(pid, note_listed, NULL, &error), 0, "listed");
}

static void test_stacking(void)
{
	const char *first = patch_make("s1", "", REPLACE_ANSWER("one", "1000"));
	const char *second = patch_make("s2", "", REPLACE_ANSWER("two", "2000"));
	struct target target = target_start(2, false);
	uint64_t before = patch_checksum(target.pid);
	struct lh_patch_outcome outcome;
	struct lh_error error;
	struct answers a;

	is(patch_apply(target.pid, first), 0, "one");
	is(patch_apply(target.pid, second), 0, "two, upon one");
	is(target_ask(&target).answer, 3004, "two calls one as its original");
	list(target.pid);
	ok(listed_n == 2 && listed_bad == 0, "both are listed, and intact");
	is(lh__patch_apply(target.pid, first, &patch_plain, &outcome, &error), -EEXIST, "%s", error.text);
	is(lh__patch_revert(target.pid, "one", &patch_plain, &outcome, &error), -EBUSY, "%s", error.text);
	is(patch_revert(target.pid, "two", &outcome), 0, "two reverted");
	is(target_ask(&target).answer, 1004, "one is left");
	if (outcome.kept)
		is(patch_revert(target.pid, "two", &outcome), 0, "two's memory");
	is(patch_revert(target.pid, "one", &outcome), 0, "one reverted");
	a = target_ask(&target);
	ok(a.answer == 4 && a.wrong == 0, "as before");
	ok(outcome.kept || patch_checksum(target.pid) == before, "its code is what it was");
	target_stop(&target);
}

/* 100 times while two threads call it; each time the change is seen. */
static void test_load(void)
{
	const char *file = patch_make("load", "", REPLACE_ANSWER("load", "1000"));
	struct target target = target_start(2, false);
	uint64_t before = patch_checksum(target.pid), longest = 0;
	unsigned seen = 0, kept = 0;
	struct lh_patch_outcome outcome;
	struct lh_error error;
	struct answers a = { 0 };

	for (int i = 0; i < 100; i++) {
		bool new, old;

		if (lh__patch_apply(target.pid, file, &patch_plain, &outcome, &error) < 0) {
			printf("# %s\n", error.text);
			break;
		}
		longest = outcome.stopped_ns > longest ? outcome.stopped_ns : longest;
		new = target_ask(&target).answer == 1004;
		if (patch_revert(target.pid, "load", &outcome) < 0)
			break;
		kept += outcome.kept;
		a = target_ask(&target);
		old = a.answer == 4;
		seen += new &&old;
	}
	is(seen, 100, "applied and reverted 100 times, and seen each time");
	is(a.wrong, 0, "no wrong answer among those of %ld rounds of two threads", a.calls);
	is(kept, 0, "all memory is back");
	is(patch_checksum(target.pid), before, "the code is what it was");
	printf("# stopped for at most %lu us\n", (unsigned long)longest / 1000);
	target_stop(&target);
}

static pid_t child_of(pid_t parent)
{
	char path[64];
	int child = 0;
	FILE *children;

	snprintf(path, sizeof path, "/proc/%d/task/%d/children", parent, parent);
	children = fopen(path, "r");
	if (!children || fscanf(children, "%d", &child) != 1)
		child = 0;
	if (children)
		fclose(children);
	return child;
}

static void test_fork(void)
{
	const char *file = patch_make("forked", "", REPLACE_ANSWER("forked", "1000"));
	struct target target = target_start(0, false), other = target_start(0, false);
	struct lh_patch_outcome outcome;
	pid_t child;

	is(patch_apply(target.pid, file), 0, "one of two processes");
	ok(target_ask(&target).answer == 1004 && target_ask(&other).answer == 4, "the other is as it was");
	is(target_say(&target, "fork").answer, 1004, "its child has the patch, too");
	child = child_of(target.pid);
	list(child);
	ok(listed_n == 1 && listed_bad == 0, "which is listed there");
	is(patch_revert(child, "forked", &outcome), 0, "and reverted");
	is(target_ask(&target).answer, 4, "in the child");
	list(target.pid);
	ok(listed_n == 1 && listed_bad == 0, "and in nobody else");
	target_stop(&target);
	target_stop(&other);
}

static void test_library(void)
{
	const char *file = patch_make("library", "",
	                              "LH_PATCH_ORIGINAL(old, usleep, int (unsigned));\n"
	                              "static int new_usleep(unsigned us) { return old(us / 2); }\n"
	                              "LH_PATCH_REPLACE(usleep, new_usleep);\n");
	struct target target = target_start(2, false);
	uint64_t before = patch_checksum(target.pid);
	struct lh_patch_outcome outcome;
	struct answers a;

	is(patch_apply(target.pid, file), 0, "a function of libc");
	usleep(20000);
	a = target_ask(&target);
	usleep(20000);
	ok(target_ask(&target).calls > a.calls, "the program goes on with it");
	is(patch_revert(target.pid, "library", &outcome), 0, "reverted");
	a = target_ask(&target);
	ok(a.wrong == 0 && (outcome.kept || patch_checksum(target.pid) == before), "as before");
	target_stop(&target);
}

/* Who is in a replacement goes on in it when it is reverted, and its memory stays until then. */
static void test_held(bool on_other_stack)
{
	const char *file = patch_make("held", "",
	                              "LH_PATCH_ORIGINAL(old, held, int (int));\n"
	                              "static int new_held(int v) { return old(v) + 1; }\n"
	                              "LH_PATCH_REPLACE(held, new_held);\n");
	const struct lh_patch_options hurry = { .wait_ms = 50 };
	struct target target = target_start(1, false);
	uint64_t before = patch_checksum(target.pid);
	struct lh_patch_outcome outcome;
	struct lh_error error;

	is(patch_apply(target.pid, file), 0, "a function in which a thread stays");
	target_say(&target, "hold");
	if (on_other_stack)
		target_say(&target, "signal");
	is(lh__patch_revert(target.pid, "held", &hurry, &outcome, &error), 0, "it is reverted");
	ok(outcome.kept && outcome.attempts >= 2, "and its memory stays%s: %s",
	   on_other_stack ? ", though the thread is on its stack for signals" : "", outcome.kept_why);
	list(target.pid);
	ok(listed_n == 1 && listed_bad == 1, "which is listed");
	is(patch_apply(target.pid, file), 0, "its name is free");
	is(patch_revert(target.pid, "held", &outcome), 0, "for one that is reverted first");
	target_say(&target, "release");
	is(patch_revert(target.pid, "held", &outcome), 0, "when the thread has left it");
	ok(!outcome.kept && patch_checksum(target.pid) == before, "its memory goes");
	ok(target_ask(&target).wrong == 0, "and the program goes on");
	target_stop(&target);
}

static void test_static(void)
{
	const char *file = patch_make(
		"static", "",
		"#include <string.h>\n"
		"LH_PATCH_ORIGINAL(old, answer, int (int));\n"
		"static volatile int length = 3;\n"
		"static int new_answer(int v) { char b[9] = \"\"; memset(b, 'x', (size_t)length);\n"
		"	return old(v) + 997 + (int)strlen(b); }\n"
		"LH_PATCH_REPLACE(answer, new_answer);\n");
	struct lh_patch_outcome outcome;
	struct target target;
	char command[512], path[96];

	snprintf(path, sizeof path, "%s/static", patch_folder);
	snprintf(command, sizeof command,
	         "${CC:-cc} -std=gnu11 -O2 -D_GNU_SOURCE -static -o %s tests/programs/patch_target.c "
	         "-lpthread 2>&1",
	         path);
	if (system(command) != 0) {
		skip("a static program", "there is no static libc");
		return;
	}
	target = target_start_at(path, 1, false);
	is(patch_apply(target.pid, file), 0, "a static program");
	is(target_ask(&target).answer, 1004, "is changed");
	is(patch_revert(target.pid, "static", &outcome), 0, "and reverted");
	ok(target_ask(&target).answer == 4, "is as before");
	target_stop(&target);
}

static void test_bytes(void)
{
	/* xor %eax,%eax; ret becomes mov $7,%al; ret */
	const uint8_t expected[] = { 0x31, 0xc0, 0xc3 }, bytes[] = { 0xb0, 0x07, 0xc3 };
	struct target target = target_start(2, true);
	uint64_t before = patch_checksum(target.pid);
	struct lh_patch_options hurry = { .wait_ms = 100 };
	struct lh_patch_outcome outcome;
	struct lh_error error;
	const uint8_t loop[] = { 0x90, 0xf3, 0x90, 0x83, 0x3f, 0x00, 0x74, 0xf9, 0xc3 };

	is(lh__patch_bytes(target.pid, "seven", "close_by", 0, expected, bytes, 3, &patch_plain, &outcome,
	                   &error),
	   0, "three bytes");
	is(target_ask(&target).close_by & 0xff, 7, "are other ones");
	list(target.pid);
	ok(listed_n == 1 && listed_bad == 0, "they are listed");
	is(lh__patch_bytes(target.pid, "again", "close_by", 1, bytes + 1, expected, 2, &patch_plain, &outcome,
	                   &error),
	   -EBUSY, "%s", error.text);
	is(patch_revert(target.pid, "seven", &outcome), 0, "reverted");
	is(patch_checksum(target.pid), before, "the code is what it was");
	is(lh__patch_bytes(target.pid, "x", "close_by", 0, bytes, expected, 3, &patch_plain, &outcome,
	                   &error),
	   -EILSEQ, "%s", error.text);
	is(lh__patch_bytes(target.pid, "x", "close_by", 1, expected, bytes, 3, &patch_plain, &outcome,
	                   &error),
	   -EINVAL, "%s", error.text);
	is(lh__patch_bytes(target.pid, "x", "waits", 0, loop, loop, sizeof loop, &hurry, &outcome, &error),
	   -EBUSY, "a thread is never out of them: %s", error.text);
	ok(outcome.attempts > 1, "it was tried %u times", outcome.attempts);
	is(patch_checksum(target.pid), before, "the code is what it was");
	target_stop(&target);
}

int main(void)
{
	if (!patch_begin())
		return 1;
	test_replace();
	test_recursion();
	test_handler();
	test_registers();
	test_stacking();
	test_load();
	test_fork();
	test_library();
	test_held(false);
	test_held(true);
	test_static();
	test_bytes();
	patch_end();
	return done();
}
