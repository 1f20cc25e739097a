/* commands.c - a table of commands: the one that a word names, or which was meant. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

enum { COMMANDS_MAX = 16 };

/* Whose they are, as it stands in a message: "linehome", "linehome pool". */
static const char *whole_name(const struct cli_commands *commands, char buffer[64])
{
	snprintf(buffer, 64, "linehome%s%s", commands->command ? " " : "",
	         commands->command ? commands->command : "");
	return buffer;
}

static int print_help(const struct cli_commands *commands)
{
	char name[64];

	whole_name(commands, name);
	printf("Usage: %s %s\n%s\n\n", name, commands->arguments, commands->about);
	for (const struct cli_command *command = commands->at; command->name != NULL; command++)
		printf("  %-10s %s\n", command->name, command->help);
	printf("\n  %-10s %s\n  %-10s %s\n", "--help", "print this and exit", "--version",
	       "print the version and exit");
	printf("\n%s COMMAND --help tells of a command's options.\nThe manual: man linehome%s%s\n", name,
	       commands->command ? "-" : "", commands->command ? commands->command : "");
	return 0;
}

static int fail_unknown(const struct cli_commands *commands, const char *word)
{
	const char *names[COMMANDS_MAX], *nearest, *what = word[0] == '-' ? "option" : "command";
	size_t n = 0;
	char name[64];

	for (; n < COMMANDS_MAX && commands->at[n].name != NULL; n++)
		names[n] = commands->at[n].name;
	nearest = cli_nearest(word, names, n);
	if (nearest != NULL)
		return cli_fail(commands->command, CLI_BAD_USAGE, "%s: unknown %s; did you mean %s?", word,
		                what, nearest);
	return cli_fail(commands->command, CLI_BAD_USAGE, "%s: unknown %s; see %s --help", word, what,
	                whole_name(commands, name));
}

int cli_dispatch(const struct cli_commands *commands, int argc, char **argv)
{
	char name[64];

	whole_name(commands, name);
	if (argc < 2)
		return cli_fail(commands->command, CLI_BAD_USAGE,
		                "no command; write for instance %s %s, or see %s --help", name,
		                commands->example, name);
	if (strcmp(argv[1], "--help") == 0)
		return print_help(commands);
	if (strcmp(argv[1], "--version") == 0)
		return printf("linehome %s\n", lh_version()) < 0;
	for (const struct cli_command *command = commands->at; command->name != NULL; command++)
		if (strcmp(argv[1], command->name) == 0)
			return command->function(argc - 1, argv + 1);
	return fail_unknown(commands, argv[1]);
}
