/* counted.c - runs one case of counted.h so many rounds: counted NAME ROUNDS. */
#include <signal.h>
#include <stddef.h>
#include <ucontext.h>

#include "counted.h"
#include "program.h"

#define RUN(name, needs, code, ...)                                                                          \
	".globl run_" #name "\n.hidden run_" #name "\nrun_" #name ":\n"                                      \
	"push %rbx; push %rbp; push %r14; push %r15\n"                                                       \
	"mov %rdi, %r15; mov %rsi, %r14\n"                                                                   \
	"1: " code "\n"                                                                                      \
	"decq %r15; jnz 1b\n"                                                                                \
	"pop %r15; pop %r14; pop %rbp; pop %rbx; ret\n"

__asm__(".text\n.p2align 6\n" COUNTED_CASES(RUN));

/* Steps over three bytes: rip is the 17th of the context's registers. */
__asm__("step_over: addq $3, 168(%rdx)\n"
        "ret\n");
void step_over(int number, siginfo_t *info, void *context);
_Static_assert(offsetof(ucontext_t, uc_mcontext.gregs) + 16 * 8 == 168, "where rip is");

#define DECLARE(name, ...) void run_##name(uint64_t rounds, uint8_t *buffer);
COUNTED_CASES(DECLARE)

#define ENTRY(name, needs, ...) { #name, run_##name },
static const struct {
	const char *name;
	void (*run)(uint64_t rounds, uint8_t *buffer);
} cases[] = { COUNTED_CASES(ENTRY) };

int main(int argc, char **argv)
{
	static const struct sigaction action = { .sa_sigaction = step_over, .sa_flags = SA_SIGINFO };
	uint8_t *buffer = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (argc != 3 || buffer == MAP_FAILED || mprotect(buffer, 3 * PAGE, PROT_READ | PROT_WRITE) < 0)
		cannot("usage: counted NAME ROUNDS");
	memset(buffer, 1, 3 * PAGE);
	sigaction(SIGSEGV, &action, NULL);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (strcmp(cases[i].name, argv[1]) == 0) {
			cases[i].run(strtoull(argv[2], NULL, 10), buffer);
			return 0;
		}
	cannot("%s: no such case", argv[1]);
}
