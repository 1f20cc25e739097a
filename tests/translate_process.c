/* timeout: 120 */
/*
 * translate_process.c - whole programs under the translator: threads, children, signals of every kind, with
 * no client, with one that counts, and with one that takes registers and flags. What a program says, and how
 * it ends, is the same.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tap.h"

#define TEXT 16384

static char agent[PATH_MAX], programs[PATH_MAX];

static void find_folders(const char *self)
{
	char path[PATH_MAX + 64];

	for (int up = 0; up < 2; up++) {
		snprintf(path, sizeof(path), "%.*s%s/tests/agents/whole.so", (int)(strrchr(self, '/') - self),
		         self, up ? "/../.." : "/..");
		if (!realpath(path, agent))
			continue;
		snprintf(programs, sizeof(programs), "%.*s/programs",
		         (int)(strstr(agent, "/agents/") - agent), agent);
		return;
	}
	printf("Bail out! the test agent is not built\n");
	exit(1);
}

/* What a shell's command says, and after that its status. words: NULL: natively. */
static void run(const char *words, const char *command, char text[TEXT])
{
	char line[3 * PATH_MAX];
	size_t size;
	FILE *out;

	if (words)
		snprintf(line, sizeof(line),
		         "cd %s; ulimit -c 0; (LD_PRELOAD=%s LH_WHOLE=%s timeout 30 %s) 2>&1; echo status $?",
		         programs, agent, words, command);
	else
		snprintf(line, sizeof(line), "cd %s; ulimit -c 0; (timeout 30 %s) 2>&1; echo status $?",
		         programs, command);
	out = popen(line, "r");
	size = out ? fread(text, 1, TEXT - 1, out) : 0;
	text[size] = 0;
	if (out)
		pclose(out);
}

static void same(const char *words, const char *command)
{
	static char plain[TEXT], whole[TEXT];

	run(NULL, command, plain);
	run(words, command, whole);
	ok(strcmp(plain, whole) == 0 && !strstr(plain, "status 124"), "%s: %s", words, command);
	if (strcmp(plain, whole) != 0)
		printf("# natively: %s\n# here: %s\n", plain, whole);
}

static void says(const char *words, const char *command, const char *wanted)
{
	static char whole[TEXT];

	run(words, command, whole);
	ok(strstr(whole, wanted) != NULL, "%s: %s: %.*s", words, command, (int)strcspn(wanted, "\n"), wanted);
	if (!strstr(whole, wanted))
		printf("# %s\n", whole);
}

int main(int argc, char **argv)
{
	static const char *const mode[] = { "bare", "count", "scratch" };
	static const char *const command[] = {
		"./whole all",
		"./whole nested",
		"./whole restart",
		"./whole stack",
		"./whole traps",
		"./whole wild",
		"./whole cancel",
		"./whole contexts",
		"./whole queued",
		"./whole ends",
		"./whole many",
		"./whole registers 100",
		"./whole die segv",
		"./whole die ill",
		"./whole die abort",
		"./whole die trap",
		"./whole die blocked",
		"./whole die term",
		"./exceptions",
		"./whole die vsyscall",
		"sh -c 'for i in 1 2; do echo $i | cat; done; exit 5'",
	};

	(void)argc;
	find_folders(argv[0]);
	for (unsigned i = 0; i < sizeof(mode) / sizeof(*mode); i++)
		for (unsigned j = 0; j < sizeof(command) / sizeof(*command); j++)
			same(mode[i], command[j]);
	says(mode[2], "./whole registers 30", "astray 0 wrong 0 checked 1\nstatus 0");
	for (int i = 1; i < 3; i++) {
		says(mode[i], "./whole exactly 0", "off by 0, signals 1\n");
		says(mode[i], "./whole exactly 100", "off by 0, signals 1\n");
	}
	says(mode[2], "./whole planted", "noticed\nstatus 0");
	says(mode[2], "./whole hooks", "1 1 1\nstatus 0");
	says("tell", "./whole ends", "last\nwhole: exits 0 0\nstatus 0");
	says("tell", "./whole all", "whole: forked 0 0\n");
	return done();
}
