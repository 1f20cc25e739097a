/* trace.h - the two kinds of linehome trace: calls of functions, and windows of live code. */
#ifndef LH_CLI_TRACE_H
#define LH_CLI_TRACE_H

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "cli/cli.h"

#define TRACE "trace"
enum trace_format { TRACE_TABLE, TRACE_JSON, TRACE_HTML };

struct trace_given {
	pid_t process; /* 0: a program is started */
	char *const *program;
	const char *calls, *output;
	uint64_t interval_ms, duration_ms, wait_ms; /* 0: not given */
	unsigned windows;
	unsigned format; /* enum trace_format */
	bool libraries;
};

/* Each returns the exit status. */
int trace_calls(const struct trace_given *given);
int trace_windows(const struct trace_given *given);

/* Where the report goes, or NULL after a message. Close returns status, or says that it cannot be written. */
FILE *trace_open(const struct trace_given *given);
int trace_close(const struct trace_given *given, FILE *out, int status);
/* Milliseconds of a clock that only goes on. */
uint64_t trace_now(void);
/* What a shell says of a wait status. */
int trace_status(int status);

#endif
