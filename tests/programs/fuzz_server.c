/*
 * fuzz_server.c - the parser of examples/fuzz_target.c for bench/fuzz.c. With the argument "serve" it is the
 * fork server that one writes into a program by hand; it speaks as those of afl do.
 */
int parse_settings(void);
#define main parse_settings
#include "../../examples/fuzz_target.c"
#undef main

#include <string.h>
#include <sys/wait.h>

#define COMMANDS 198
#define ANSWERS 199

static void serve(void)
{
	int word = 0, status;
	pid_t child;

	if (write(ANSWERS, &word, 4) != 4)
		exit(1);
	while (read(COMMANDS, &word, 4) == 4) {
		child = fork();
		if (child == 0) {
			close(COMMANDS);
			close(ANSWERS);
			return;
		}
		if (child < 0 || write(ANSWERS, &child, 4) != 4 || waitpid(child, &status, 0) != child ||
		    write(ANSWERS, &status, 4) != 4)
			exit(1);
	}
	exit(0);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "serve") == 0)
		serve();
	return parse_settings();
}
