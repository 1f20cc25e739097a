/*
 * tap.h - the smallest TAP that the tests need. A program plans nothing ahead; it ends with done().
 *
 *     int main(void) { ok(1 + 1 == 2, "sums"); return done(); }
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int tap__count, tap__failed;

/* What was said stands there, whatever ends the program. */
__attribute__((constructor)) static void tap__say_at_once(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
}

__attribute__((format(printf, 2, 3), unused)) static int ok_at(int passed, const char *format, ...)
{
	va_list arguments;

	tap__count++;
	tap__failed += !passed;
	printf("%sok %d - ", passed ? "" : "not ", tap__count);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
	return passed;
}
/* ok(condition, "what is claimed", ...): one test; returns whether it passed. */
#define ok(condition, ...)                                                                                   \
	((condition) ? ok_at(1, __VA_ARGS__)                                                                 \
	             : (printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition), ok_at(0, __VA_ARGS__)))
/* is(got, wanted, "..."): compares two integers and shows both on failure. */
#define is(got, wanted, ...)                                                                                 \
	do {                                                                                                 \
		long long tap__g = (long long)(got), tap__w = (long long)(wanted);                           \
		if (tap__g != tap__w)                                                                        \
			printf("# %s:%d: got %lld, wanted %lld\n", __FILE__, __LINE__, tap__g, tap__w);      \
		ok_at(tap__g == tap__w, __VA_ARGS__);                                                        \
	} while (0)

__attribute__((unused)) static void skip(const char *what, const char *why)
{
	printf("ok %d - %s # SKIP %s\n", ++tap__count, what, why);
}

/* Runs body in a child, so that a crash fails one case and not the program. */
__attribute__((unused)) static void ok_in_child(const char *what, int (*body)(void))
{
	int status = -1;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0)
		_exit(body());
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		status = -1;
	ok_at(status == 0, "%s", what);
	if (status != 0)
		printf("# child's wait status 0x%x\n", (unsigned)status);
}

__attribute__((unused)) static int done(void)
{
	printf("1..%d\n", tap__count);
	return tap__failed != 0;
}

#endif
