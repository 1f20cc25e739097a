/*
 * cli.c - options of a command, described in an array, on top of getopt_long.
 *
 * getopt_long is asked to be silent and its findings are put into words here, so that all commands speak
 * alike. Option i of the array has the value FIRST + i, which getopt hands back for every outcome: the option
 * itself, ':' where its argument is missing, '?' where it takes none but has one.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "sys/sys.h"

enum { FIRST = 256, OPTIONS_MAX = 32 };
enum { HELP = FIRST + OPTIONS_MAX, VERSION };

int cli_fail(const char *command, int status, const char *format, ...)
{
	va_list arguments;
	char text[1024];

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	/* One write for the line, so that it stays whole beside what the program writes. */
	fprintf(stderr, "linehome%s%s: %s\n", command ? " " : "", command ? command : "", text);
	return status;
}

/* The number of letters to insert, delete or replace to make b of a; both are shorter than 32. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[33], columns = (unsigned)strlen(b);

	for (unsigned j = 0; j <= columns; j++)
		row[j] = j;
	for (unsigned i = 1; a[i - 1] != '\0'; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= columns; j++) {
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);

			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			diagonal = row[j];
			row[j] = best;
		}
	}
	return row[columns];
}

const char *cli_nearest(const char *word, const char *const *names, size_t n)
{
	const char *nearest = NULL;
	unsigned least = 3;

	for (size_t i = 0; i < n; i++) {
		unsigned d = strlen(word) < 32 && strlen(names[i]) < 32 ? distance(word, names[i]) : least;

		if (d < least && d < strlen(names[i]) / 2 + 1) {
			least = d;
			nearest = names[i];
		}
	}
	return nearest;
}

/* The long name, which may stand behind a letter: "o|output". */
static const char *long_name(const struct cli_option *option)
{
	return option->name[1] == '|' ? option->name + 2 : option->name;
}

static char letter_of(const struct cli_option *option)
{
	return option->name[1] == '|' ? option->name[0] : '\0';
}

static size_t count_options(const struct cli_usage *usage)
{
	size_t n = 0;

	while (usage->options[n].name != NULL)
		n++;
	return n;
}

static void print_option(const char *name, const char *argument, const char *help, char letter)
{
	char left[64], also[8] = "";

	if (letter)
		snprintf(also, sizeof(also), ", -%c", letter);
	snprintf(left, sizeof(left), "--%s%s%s%s", name, also, argument ? " " : "", argument ? argument : "");
	printf("  %-28s %s\n", left, help);
}

static void print_help(const struct cli_usage *usage)
{
	printf("Usage: linehome %s [OPTION...]%s%s\n%s\n\n", usage->command, usage->arguments ? " " : "",
	       usage->arguments ? usage->arguments : "", usage->about);
	for (const struct cli_option *option = usage->options; option->name != NULL; option++)
		print_option(long_name(option), option->argument, option->help, letter_of(option));
	print_option("help", NULL, "print this and exit", '\0');
	print_option("version", NULL, "print the version and exit", '\0');
	printf("\nThe manual: man linehome-%.*s\n", (int)strcspn(usage->command, " "), usage->command);
}

/* A word that is no option, nor the beginning of exactly one. */
static int fail_unknown(const struct cli_usage *usage, const char *word)
{
	const char *names[OPTIONS_MAX + 2] = { "help", "version" };
	char name[64];
	size_t n = 2;
	const char *nearest;

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(word, "="), word);
	for (size_t i = 0; i < count_options(usage); i++)
		names[n++] = long_name(&usage->options[i]);
	nearest = cli_nearest(name + strspn(name, "-"), names, n);
	if (nearest != NULL)
		return cli_fail(usage->command, CLI_BAD_USAGE, "%s: unknown option; did you mean --%s?", name,
		                nearest);
	return cli_fail(usage->command, CLI_BAD_USAGE, "%s: unknown option; see linehome %s --help", name,
	                usage->command);
}

/* What getopt refused: a missing or a needless argument of a known option, or an unknown one. */
static int fail_option(const struct cli_usage *usage, int outcome, int value, const char *word)
{
	char letter[3] = { '-', (char)value, '\0' };
	const char *name;

	if (value < FIRST)
		return fail_unknown(usage, value > 0 ? letter : word);
	name = value == HELP      ? "help"
	       : value == VERSION ? "version"
	                          : long_name(&usage->options[value - FIRST]);
	if (outcome == ':')
		return cli_fail(usage->command, CLI_BAD_USAGE, "--%s: needs an argument; write --%s %s", name,
		                name, usage->options[value - FIRST].argument);
	return cli_fail(usage->command, CLI_BAD_USAGE, "--%s: takes no argument; write --%s alone", name,
	                name);
}

static uint64_t machine_memory(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

	return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : UINT64_MAX;
}

static int read_extent(const char *word, uint64_t *out, struct lh_error *error)
{
	uint64_t bytes;
	int result = cli_read_size(word, &bytes, error);

	if (result != 0)
		return result;
	if (bytes < LH_PAGE_SIZE)
		return lh__fail(error, -EINVAL, "less than a page; write at least 4K");
	*out = bytes;
	return 0;
}

/* A size that memory of this machine is asked for. */
static int read_memory_size(const char *word, uint64_t *out, struct lh_error *error)
{
	char most[32];
	uint64_t bytes = 0, memory = machine_memory();
	int result = read_extent(word, &bytes, error);

	if (result != 0)
		return result;
	if (bytes > memory)
		return lh__fail(error, -EINVAL, "more than this machine's memory; write at most %s",
		                cli_write_size(memory >> 20 << 20, most));
	*out = bytes;
	return 0;
}

static int read_text(const char *word, const char **out, struct lh_error *error)
{
	if (word[0] == '\0')
		return lh__fail(error, -EINVAL, "is empty; write a name");
	*out = word;
	return 0;
}

/* Reads the word of an option into what its kind says that out is. */
static int read_option(const struct cli_option *option, char *word, struct lh_error *error)
{
	switch (option->kind) {
	case CLI_FLAG: *(bool *)option->out = true; return 0;
	case CLI_TEXT: return read_text(word, option->out, error);
	case CLI_CHOICE: return cli_read_choice(word, option->argument, option->out, error);
	case CLI_SIZE: return read_memory_size(word, option->out, error);
	case CLI_EXTENT: return read_extent(word, option->out, error);
	case CLI_ADDRESS: return cli_read_address(word, option->out, error);
	case CLI_DURATION: return cli_read_duration(word, option->out, error);
	case CLI_STORES: return cli_read_urls(word, false, option->out, error);
	case CLI_LISTEN: return cli_read_urls(word, true, option->out, error);
	case CLI_LIST: return cli_read_list(word, option->out, error);
	case CLI_PERCENT: return cli_read_percent(word, option->out, error);
	case CLI_PROCESS: return cli_read_process(word, option->out, error);
	case CLI_NUMBER: return cli_read_number(word, option->out, error);
	}
	return lh__fail(error, -EINVAL, "an option of no kind");
}

static int take_option(const struct cli_usage *usage, struct cli_option *option, char *word)
{
	struct lh_error error;

	if (option->given && option->kind != CLI_LISTEN && option->kind != CLI_LIST)
		return cli_fail(usage->command, CLI_BAD_USAGE, "--%s: given more than once; write it once",
		                long_name(option));
	option->given = true;
	if (read_option(option, word, &error) == 0)
		return CLI_GO_ON;
	return cli_fail(usage->command, CLI_BAD_USAGE, "--%s %s: %s", long_name(option), word, error.text);
}

/* getopt_long's form of the letters, behind what says how it is to work. */
static void describe_letters(const struct cli_usage *usage, const char *how, char *to)
{
	size_t n = strlen(how);

	memcpy(to, how, n);
	for (const struct cli_option *option = usage->options; option->name != NULL; option++) {
		if (!letter_of(option))
			continue;
		to[n++] = letter_of(option);
		if (option->kind != CLI_FLAG)
			to[n++] = ':';
	}
	to[n] = '\0';
}

/* The value of the option that a letter stands for, or the letter itself. */
static int option_of(const struct cli_usage *usage, int letter)
{
	for (size_t i = 0; letter > 0 && letter < FIRST && i < count_options(usage); i++)
		if (letter_of(&usage->options[i]) == letter)
			return FIRST + (int)i;
	return letter;
}

/* getopt_long's form of the options. */
static void describe(const struct cli_usage *usage, struct option *to)
{
	size_t n = count_options(usage);

	for (size_t i = 0; i < n; i++)
		to[i] = (struct option){ long_name(&usage->options[i]),
			                 usage->options[i].kind == CLI_FLAG ? no_argument : required_argument,
			                 NULL, FIRST + (int)i };
	to[n++] = (struct option){ "help", no_argument, NULL, HELP };
	to[n++] = (struct option){ "version", no_argument, NULL, VERSION };
	to[n] = (struct option){ 0 };
}

static int take_outcome(const struct cli_usage *usage, int outcome, const char *word)
{
	switch (outcome) {
	case HELP: print_help(usage); return 0;
	case VERSION: printf("linehome %s\n", lh_version()); return 0;
	case ':':
	case '?': return fail_option(usage, outcome, option_of(usage, optopt), word);
	default: return take_option(usage, &usage->options[option_of(usage, outcome) - FIRST], optarg);
	}
}

static int check_rest(const struct cli_usage *usage, int argc, char **argv)
{
	int most = usage->rest == CLI_WORD;

	if ((usage->rest == CLI_WORD || usage->rest == CLI_WORDS) && argc == 0)
		return cli_fail(usage->command, CLI_BAD_USAGE,
		                "no %s; write linehome %s %s, or see linehome %s --help", usage->arguments,
		                usage->command, usage->arguments, usage->command);
	if (usage->rest == CLI_PROGRAM || usage->rest == CLI_WORDS || argc <= most)
		return CLI_GO_ON;
	return cli_fail(usage->command, CLI_BAD_USAGE, "%s: not an option; see linehome %s --help",
	                argv[most], usage->command);
}

int cli_parse(const struct cli_usage *usage, int *argc, char ***argv)
{
	char letters[2 * OPTIONS_MAX + 3];
	struct option known[OPTIONS_MAX + 3];
	int outcome, status = CLI_GO_ON;

	if (count_options(usage) > OPTIONS_MAX)
		return cli_fail(usage->command, CLI_FAILED, "has more than %d options", OPTIONS_MAX);
	describe(usage, known);
	/* +: the first word ends the options */
	describe_letters(usage, usage->rest == CLI_PROGRAM || usage->rest == CLI_NOTHING ? "+:" : ":",
	                 letters);
	opterr = 0;
	optind = 0; /* glibc: begin anew */
	while (status == CLI_GO_ON && (outcome = getopt_long(*argc, *argv, letters, known, NULL)) != -1)
		status = take_outcome(usage, outcome, (*argv)[optind - 1]);
	if (status != CLI_GO_ON)
		return status;
	*argc -= optind;
	*argv += optind;
	return check_rest(usage, *argc, *argv);
}
