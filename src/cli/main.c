/* main.c - linehome: one table of commands, and nothing else. A command's work is in its own file. */
#include <stdio.h>

#include "cli/cli.h"

int main(int argc, char **argv)
{
	static const struct cli_command table[] = {
		{ "run", cli_run, "run a program whose memory lives on a memory node" },
		{ "serve", cli_serve, "be a memory node" },
		{ "pool", cli_pool, "memory that survives a crash: make it, look at it, recover it" },
		{ "atomic", cli_atomic, "make transactions of a program's functions" },
		{ "cover", cli_cover, "watch which code of a program runs" },
		{ "patch", cli_patch, "change functions of a running program, and take that back" },
		{ "trace", cli_trace, "see which code of a program is live when, or count and time calls" },
		{ "count", cli_count, "count a program's loads and stores, by module and thread" },
		{ "migrate", cli_migrate,
		  "move a virtual machine that runs on before its memory has arrived" },
		{ "serve-uffd", cli_serve_uffd, "bring the memory of machines that are restored" },
		{ "incoming", cli_incoming, "run a QEMU that waits for a guest, whose memory comes later" },
		{ .name = NULL },
	};
	static const struct cli_commands commands = {
		.arguments = "COMMAND [OPTION...] [--] [PROGRAM ARG...]",
		.about = "Memory under a home agent in software.",
		.example = "run PROGRAM",
		.at = table,
	};
	int status = cli_dispatch(&commands, argc, argv);

	if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0)
		return cli_fail(NULL, CLI_FAILED,
		                "standard output cannot be written; free space where it leads");
	return status;
}
