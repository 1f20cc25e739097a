/* main.c - linehome: one table of commands, and nothing else. A command's work is in its own file. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct command {
	const char *name;
	int (*function)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "run", cli_run, "run a program whose memory lives on a memory node" },
	{ "serve", cli_serve, "be a memory node" },
};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static int print_help(void)
{
	printf("Usage: linehome COMMAND [OPTION...] [--] [PROGRAM ARG...]\n"
	       "Memory under a home agent in software.\n\n");
	for (unsigned i = 0; i < N_COMMANDS; i++)
		printf("  %-10s %s\n", commands[i].name, commands[i].help);
	printf("\n  %-10s %s\n  %-10s %s\n", "--help", "print this and exit", "--version",
	       "print the version and exit");
	printf("\nlinehome COMMAND --help tells of a command's options. The manual: man linehome\n");
	return 0;
}

static int fail_unknown(const char *word)
{
	const char *names[N_COMMANDS], *nearest;
	const char *what = word[0] == '-' ? "option" : "command";

	for (unsigned i = 0; i < N_COMMANDS; i++)
		names[i] = commands[i].name;
	nearest = cli_nearest(word, names, N_COMMANDS);
	if (nearest != NULL)
		return cli_fail(NULL, CLI_BAD_USAGE, "%s: unknown %s; did you mean %s?", word, what, nearest);
	return cli_fail(NULL, CLI_BAD_USAGE, "%s: unknown %s; see linehome --help", word, what);
}

static int dispatch(int argc, char **argv)
{
	if (argc < 2)
		return cli_fail(
			NULL, CLI_BAD_USAGE,
			"no command; write for instance linehome run PROGRAM, or see linehome --help");
	if (strcmp(argv[1], "--help") == 0)
		return print_help();
	if (strcmp(argv[1], "--version") == 0)
		return printf("linehome %s\n", lh_version()) < 0;
	for (unsigned i = 0; i < N_COMMANDS; i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].function(argc - 1, argv + 1);
	return fail_unknown(argv[1]);
}

int main(int argc, char **argv)
{
	int status = dispatch(argc, argv);

	if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0)
		return cli_fail(NULL, CLI_FAILED,
		                "standard output cannot be written; free space where it leads");
	return status;
}
