/*
 * patch_audit.c - who changed what in which process and when: one line for each apply and revert, also for
 * one that failed.
 *
 *     2026-11-26T21:24:28Z apply raise-the-limit pid=4711 program=nginx uid=0 result=ok places=1 threads=3
 *     attempts=1 stopped_us=240 file=/root/raise.so
 *
 * (on one line). result is ok, kept (reverted, its memory is still mapped) or the error's name. What could
 * be taken for the end of a word or line is written as \xNN. The file is opened before anything is done, and
 * the line is one write at its end, so several may write to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "service/code/patch_inside.h"

int lh__patch_audit_open(const struct lh_patch_options *options, int *file, struct lh_error *error)
{
	*file = -1;
	if (!options->audit)
		return 0;
	*file = open(options->audit, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
	if (*file < 0)
		return lh__fail(error, -errno,
		                "%s: the audit log cannot be written (%s); nothing was changed",
		                options->audit, lh__errno_name(errno));
	return 0;
}

static const char *word(const char *text, char *buffer, size_t size)
{
	size_t used = 0;

	for (const unsigned char *at = (const void *)text; *at && used + 5 < size; at++)
		if (*at > ' ' && *at < 0x7f && *at != '\\')
			buffer[used++] = (char)*at;
		else
			used += (size_t)snprintf(buffer + used, size - used, "\\x%02x", *at);
	buffer[used] = '\0';
	return buffer;
}

static void read_program(pid_t process, char program[32])
{
	char path[64];
	ssize_t n = -1;
	int file;

	snprintf(path, sizeof path, "/proc/%d/comm", process);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file >= 0) {
		n = read(file, program, 31);
		close(file);
	}
	program[n > 0 ? n : 0] = '\0';
	program[strcspn(program, "\n")] = '\0';
}

static int write_line(int file, const char *what, pid_t process, const char *path, const char *how,
                      const struct lh_patch_outcome *outcome)
{
	char line[2048], program[32], escaped[128], name[256], where[1024], when[32];
	time_t now = time(NULL);
	struct tm utc;
	int n;

	read_program(process, program);
	gmtime_r(&now, &utc);
	strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
	n = snprintf(line, sizeof line,
	             "%s %s %s pid=%d program=%s uid=%u result=%s places=%u threads=%u attempts=%u "
	             "stopped_us=%llu file=%s\n",
	             when, what, word(outcome->name[0] ? outcome->name : "-", name, sizeof name), process,
	             word(program, escaped, sizeof escaped), getuid(), how, outcome->places, outcome->threads,
	             outcome->attempts, (unsigned long long)outcome->stopped_ns / 1000,
	             word(path[0] ? path : "-", where, sizeof where));
	return write(file, line, (size_t)n) == n ? 0 : -EIO;
}

int lh__patch_audit_close(int file, const char *what, pid_t process, const char *path, int result,
                          const struct lh_patch_outcome *outcome, struct lh_error *error)
{
	int written;

	if (file < 0)
		return result;
	written = write_line(file, what, process, path,
	                     result < 0      ? lh__errno_name(result)
	                     : outcome->kept ? "kept"
	                                     : "ok",
	                     outcome);
	close(file);
	if (result == 0 && written < 0)
		return lh__fail(error, written, "%s was done, and the audit log could not be written", what);
	return result;
}
