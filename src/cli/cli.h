/*
 * cli.h - what the commands share: options, the words that a person writes in them, and messages.
 *
 * A command is one file with one function, listed in main.c's table. It describes its options in an array
 * and lets cli_parse do the rest:
 *
 *     uint64_t local = 0;
 *     struct cli_option options[] = {
 *             { "local", CLI_SIZE, "SIZE", "keep at most SIZE in this machine's memory", &local },
 *             { 0 },
 *     };
 *     struct cli_usage usage = { "run", "[--] PROGRAM [ARG...]", "Runs PROGRAM ...", options,
 *                                    CLI_PROGRAM };
 *     int status = cli_parse(&usage, &argc, &argv);
 *     if (status != CLI_GO_ON)
 *             return status;
 *
 * Every message is one line on stderr that begins with "linehome COMMAND: " and says what is wrong and how
 * to mend it.
 */
#ifndef LH_CLI_H
#define LH_CLI_H

#include <stdbool.h>
#include <sys/types.h>

#include "net/url.h"

/* Exit statuses, as env and timeout have them. */
enum { CLI_GO_ON = -1, CLI_BAD_USAGE = 2, CLI_FAILED = 125, CLI_NOT_EXECUTABLE = 126, CLI_NOT_FOUND = 127 };

/* Where a store is, or a node listens: a word that has been checked, and is parsed again by who connects. */
struct cli_url {
	bool mem; /* "mem:", a node for this run alone */
	char text[sizeof(((struct lh_node_url *)0)->text)];
};

#define CLI_URLS_MAX 8u
struct cli_urls {
	size_t n;
	struct cli_url at[CLI_URLS_MAX];
};

#define CLI_LIST_MAX 64u
struct cli_list {
	size_t n;
	const char *at[CLI_LIST_MAX + 1]; /* ends with NULL */
};

/* What an option's argument is, and what its out points to. */
enum cli_kind {
	CLI_FLAG,     /* no argument; bool, set to true */
	CLI_TEXT,     /* const char *, the argument itself; never empty */
	CLI_CHOICE,   /* unsigned, the place of the word in the option's argument, "none|next" */
	CLI_SIZE,     /* uint64_t, bytes: at least 4096, at most the machine's memory */
	CLI_EXTENT,   /* uint64_t, bytes of what need not be in memory: at least 4096 */
	CLI_ADDRESS,  /* uint64_t, in hexadecimal: of a page, not 0 */
	CLI_DURATION, /* uint64_t, milliseconds */
	CLI_STORES,   /* struct cli_urls, comma separated, to connect to */
	CLI_LISTEN,   /* struct cli_urls, comma separated, to listen on; may be repeated, as CLI_LIST alone */
	CLI_LIST,     /* struct cli_list, comma separated words, cut where they stand */
	CLI_PERCENT,  /* unsigned, tenths of a percent */
	CLI_PROCESS,  /* pid_t */
	CLI_NUMBER,   /* unsigned, from 1 on */
};

struct cli_option {
	const char *name; /* without the dashes; with a letter as well, "o|output"; NULL ends the array */
	enum cli_kind kind;
	const char *argument; /* how --help shows the argument; NULL for a flag */
	const char *help;     /* one line */
	void *out;            /* left alone where the option is not given */
	bool given;           /* set by cli_parse */
};

/* What stands in the command line beside the options. */
enum cli_rest {
	CLI_NOTHING, /* words are an error */
	CLI_PROGRAM, /* the first word is a program, and all that follows is the program's */
	CLI_WORD,    /* one word, before, between or after the options */
	CLI_WORDS,   /* the same, any number but none */
};

struct cli_usage {
	const char *command; /* "run"; of a command of a command both words, "pool create" */
	const char
		*arguments; /* what stands beside the options, for --help: "[--] PROGRAM [ARG...]", or NULL */
	const char *about;  /* what the command does, for --help */
	struct cli_option *options;
	enum cli_rest rest;
};

/*
 * Reads the options; argv[0] is the command's name. Returns CLI_GO_ON, with argc and argv then standing for
 * what is left beside the options (argc may be 0, with CLI_WORD it is 1, with CLI_WORDS at least that; argv
 * ends with NULL), or the status to exit with: 0 after --help and --version, CLI_BAD_USAGE after a message.
 */
int cli_parse(const struct cli_usage *usage, int *argc, char ***argv) LH_MUST_CHECK;

/* Commands, of which the first word says one. */
struct cli_command {
	const char *name;
	int (*function)(int argc, char **argv); /* argv[0] is its name; returns the exit status */
	const char *help;
};

struct cli_commands {
	const char *command;   /* whose commands these are; NULL: linehome's own */
	const char *arguments; /* for --help, with the word for a command: "COMMAND [OPTION...] WHERE" */
	const char *about;     /* for --help */
	const char *example;   /* for who writes none: "run PROGRAM" */
	const struct cli_command *at; /* ends with a name that is NULL */
};

/* Carries out the command that argv[1] names, or says that there is none such; --help and --version too. */
int cli_dispatch(const struct cli_commands *commands, int argc, char **argv) LH_MUST_CHECK;

/* Prints "linehome COMMAND: TEXT" on stderr, as one line; COMMAND may be NULL. Returns status. */
int cli_fail(const char *command, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * Goes on in a second process, of which the first, in which this returns how it has ended, passes signals on
 * (they end with 0): so that whoever stops another process is not killed meanwhile. If the first is killed
 * the second gets SIGTERM; or, where it does not last, nothing: then the signals are blocked in it, and it
 * ends when it is done. CLI_GO_ON: this is the second.
 */
int cli_shield(const char *command, const int *signals, bool lasts) LH_MUST_CHECK;

/* The name of those given that is nearest to word, if one is near enough to be meant, or NULL. */
const char *cli_nearest(const char *word, const char *const *names, size_t n);

/*
 * The words. Each returns 0, or -EINVAL with a text that says what is wrong with the word and what to write
 * instead ("not a size; write for instance 512M"), and then leaves *out as it was.
 */
/* Bytes: digits, then nothing or one of K, M, G (powers of 1024). Zero is refused. */
int cli_read_size(const char *word, uint64_t *out, struct lh_error *error) LH_MUST_CHECK;
/* A page's address in hexadecimal digits, with or without 0x before them. */
int cli_read_address(const char *word, uint64_t *out, struct lh_error *error) LH_MUST_CHECK;
/* A number, from 1 on. */
int cli_read_number(const char *word, unsigned *out, struct lh_error *error) LH_MUST_CHECK;
/* Seconds with at most three decimals, to milliseconds; at most a year. */
int cli_read_duration(const char *word, uint64_t *out, struct lh_error *error) LH_MUST_CHECK;
/* One of mem:, unix:PATH, tcp://HOST:PORT; file: is known and refused. */
int cli_read_url(const char *word, bool listen, struct cli_url *out, struct lh_error *error) LH_MUST_CHECK;
/* Appends the URLs of a comma separated list. */
int cli_read_urls(const char *word, bool listen, struct cli_urls *out, struct lh_error *error) LH_MUST_CHECK;
/* The place of word in choices, "none|next". */
int cli_read_choice(const char *word, const char *choices, unsigned *out,
                    struct lh_error *error) LH_MUST_CHECK;

/* Percent with at most one decimal, to tenths; at most 100. */
int cli_read_percent(const char *word, unsigned *out, struct lh_error *error) LH_MUST_CHECK;
/* The number of a process. */
int cli_read_process(const char *word, pid_t *out, struct lh_error *error) LH_MUST_CHECK;
/* Appends the words of a comma separated list, which are cut where they stand. */
int cli_read_list(char *word, struct cli_list *out, struct lh_error *error) LH_MUST_CHECK;

/* Bytes as a size that is read back as the same number: "512M", "4097". Returns buffer. */
char *cli_write_size(uint64_t bytes, char buffer[32]);

/* The commands: argv[0] is the command's name. Each returns the exit status. */
int cli_run(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_pool(int argc, char **argv);
int cli_patch(int argc, char **argv);
int cli_atomic(int argc, char **argv);
int cli_cover(int argc, char **argv);
int cli_trace(int argc, char **argv);
int cli_count(int argc, char **argv);
int cli_migrate(int argc, char **argv);
int cli_serve_uffd(int argc, char **argv);
int cli_incoming(int argc, char **argv);

#endif
