/*
 * code_program.h - a program of tests/programs that a test of the code port starts, talks with by its
 * standard input and output, and watches.
 */
#ifndef CODE_PROGRAM_H
#define CODE_PROGRAM_H

#include <fcntl.h>
#include <limits.h>
#include <signal.h>

#include "tap.h"

struct program {
	pid_t id;
	int in;
	FILE *out;
};

/* The path of a plain program, beside this test or, with a sanitizer, one folder further up. */
__attribute__((unused)) static const char *program_path(char path[PATH_MAX + 64], const char *name)
{
	ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
	static const char *const places[] = { "programs", "../../tests/programs" };
	char folder[PATH_MAX + 1];

	if (length <= 0)
		exit(99);
	path[length] = '\0';
	memcpy(folder, path, (size_t)length + 1);
	*strrchr(folder, '/') = '\0';
	for (int i = 0; i < 2; i++) {
		snprintf(path, PATH_MAX + 64, "%s/%s/%s", folder, places[i], name);
		if (!access(path, X_OK))
			break;
	}
	return path;
}

/* Starts words[0] with the other words, and waits for its first line unless quiet. */
__attribute__((unused)) static struct program program_start(const char *const *words, int quiet)
{
	char path[PATH_MAX + 64], line[256], *argv[16] = { path };
	struct program program = { 0 };
	int in[2], out[2];

	program_path(path, words[0]);
	for (int i = 1; words[i] && i < 15; i++)
		argv[i] = (char *)(uintptr_t)words[i];
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		exit(99);
	program.id = fork();
	if (!program.id) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execv(path, argv);
		_exit(99);
	}
	close(in[0]);
	close(out[1]);
	program.in = in[1];
	program.out = fdopen(out[0], "r");
	if (!program.out || (!quiet && !fgets(line, sizeof(line), program.out)))
		printf("# %s did not start\n", words[0]);
	return program;
}

/* Ends its input, reads what it says last (all of it into said), and returns its wait status. */
__attribute__((unused)) static int program_end(struct program *program, char *said, size_t size)
{
	size_t length = 0;
	int status = -1;

	close(program->in);
	if (size)
		length = fread(said, 1, size - 1, program->out);
	if (size)
		said[length] = '\0';
	fclose(program->out);
	waitpid(program->id, &status, 0);
	return status;
}

__attribute__((unused)) static void program_kill(struct program *program)
{
	kill(program->id, SIGKILL);
	kill(program->id, SIGCONT);
	program_end(program, NULL, 0);
}

#endif
