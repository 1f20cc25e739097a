/*
 * fuzz_parser.c - a small fuzzer: fuzz_parser [-b] [-s SEED] [-n RUNS] PROGRAM [ARGUMENT...]
 *
 * It gives a program changed copies of inputs that it has given it before, on standard input. What reaches
 * code that nothing has reached so far is kept, to be changed further; that leads it letter by letter to
 * where nobody would come by chance. It ends with the first input of which the program dies, and prints it.
 * The program needs no preparation. -b: blind, nothing is kept but the empty input. The same seed makes the
 * same runs.
 */
#include <linehome.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define INPUTS 512
#define SIZE 256

struct input {
	size_t size;
	unsigned appended; /* bytes that have been tried behind it */
	unsigned char bytes[SIZE];
};

struct fuzzer {
	struct lh_cover *cover;
	struct lh_error error;
	uint64_t random;
	int blind;
	size_t inputs;
	struct input input[INPUTS];
};

static void check(struct fuzzer *fuzzer, int result)
{
	if (result >= 0)
		return;
	fprintf(stderr, "fuzz_parser: %s\n", fuzzer->error.text);
	exit(2);
}

/* xorshift64*: a number below limit. */
static size_t below(struct fuzzer *fuzzer, size_t limit)
{
	fuzzer->random ^= fuzzer->random >> 12;
	fuzzer->random ^= fuzzer->random << 25;
	fuzzer->random ^= fuzzer->random >> 27;
	return (size_t)((fuzzer->random * 2685821657736338717u) >> 33) % limit;
}

/* Most are characters that one can write. */
static unsigned char any_byte(struct fuzzer *fuzzer)
{
	size_t n = below(fuzzer, 100);

	return (unsigned char)(n < 94 ? '!' + n : n < 98 ? '\n' : below(fuzzer, 256));
}

static void insert(struct input *input, size_t at, const unsigned char *bytes, size_t size)
{
	if (size > SIZE - input->size)
		size = SIZE - input->size;
	memmove(input->bytes + at + size, input->bytes + at, input->size - at);
	memcpy(input->bytes + at, bytes, size);
	input->size += size;
}

static void change(struct fuzzer *fuzzer, struct input *input)
{
	size_t at = below(fuzzer, input->size + 1), size = 1 + below(fuzzer, 8);
	const struct input *other = &fuzzer->input[below(fuzzer, fuzzer->inputs)];
	size_t from = below(fuzzer, other->size + 1);
	unsigned char byte = any_byte(fuzzer), piece[SIZE];

	switch (below(fuzzer, 4)) {
	case 0: /* another byte */
		if (at < input->size)
			input->bytes[at] = byte;
		break;
	case 1: /* some less */
		if (size > input->size - at)
			size = input->size - at;
		memmove(input->bytes + at, input->bytes + at + size, input->size - at - size);
		input->size -= size;
		break;
	case 2: /* a piece of another one */
		memcpy(piece, other->bytes + from, other->size - from);
		insert(input, at, piece, other->size - from < size ? other->size - from : size);
		break;
	default: insert(input, at, &byte, 1); break;
	}
}

/* The newest input to which not every byte has been appended yet, and one that has not; else any, changed. */
static void choose(struct fuzzer *fuzzer, struct input *input)
{
	size_t newest = fuzzer->inputs;
	unsigned char byte;

	while (newest > 0 && fuzzer->input[newest - 1].appended == 128)
		newest--;
	if (newest > 0) {
		byte = (unsigned char)fuzzer->input[newest - 1].appended++;
		*input = fuzzer->input[newest - 1];
		insert(input, input->size, &byte, 1);
		return;
	}
	*input = fuzzer->input[below(fuzzer, fuzzer->inputs)];
	for (size_t changes = 1 + below(fuzzer, 4); changes > 0; changes--)
		change(fuzzer, input);
}

static void keep(struct fuzzer *fuzzer, const struct input *input)
{
	/* The oldest are the dullest. */
	size_t at = fuzzer->inputs < INPUTS ? fuzzer->inputs++ : below(fuzzer, INPUTS / 2);

	fuzzer->input[at] = *input;
	fuzzer->input[at].appended = 0;
}

static void show(const struct input *input)
{
	for (size_t i = 0; i < input->size; i++)
		printf(input->bytes[i] < ' ' || input->bytes[i] > '~' ? "\\x%02x" : "%c", input->bytes[i]);
	printf("\n");
}

static int fuzz(struct fuzzer *fuzzer, unsigned long runs)
{
	struct lh_cover_result result = { .blocks = 0 };
	struct input input;
	int news;

	for (unsigned long run = 1; run <= runs; run++) {
		choose(fuzzer, &input);
		check(fuzzer, lh_cover_feed(fuzzer->cover, input.bytes, input.size, &fuzzer->error));
		check(fuzzer, lh_cover_run(fuzzer->cover, &result, &fuzzer->error));
		news = result.news > 0;
		if (result.timed_out) /* perhaps only the machine was busy */
			check(fuzzer, lh_cover_run(fuzzer->cover, &result, &fuzzer->error));
		if (WIFSIGNALED(result.status)) {
			printf("run %lu: ", run);
			if (result.timed_out)
				printf("it hangs, by ");
			else
				printf("it dies of signal %d, by ", WTERMSIG(result.status));
			show(&input);
			return 0;
		}
		if (news && !fuzzer->blind)
			keep(fuzzer, &input);
	}
	printf("%lu runs, %zu blocks, %zu inputs kept: nothing found\n", runs, result.blocks, fuzzer->inputs);
	return 1;
}

int main(int argc, char **argv)
{
	static struct fuzzer fuzzer = { .random = 1, .inputs = 1 };
	struct lh_cover_options options = { .argv = NULL };
	unsigned long runs = 1000000;
	int found;

	for (argv++; argc > 1 && argv[0] && argv[0][0] == '-'; argv++) {
		if (strcmp(argv[0], "-b") == 0)
			fuzzer.blind = 1;
		else if (strcmp(argv[0], "-s") == 0 && argv[1])
			fuzzer.random = strtoull(*++argv, NULL, 10) * 2 + 1;
		else if (strcmp(argv[0], "-n") == 0 && argv[1])
			runs = strtoul(*++argv, NULL, 10);
	}
	options.argv = argv;
	check(&fuzzer, lh_cover_open(&options, &fuzzer.cover, &fuzzer.error));
	found = fuzz(&fuzzer, runs);
	lh_cover_close(fuzzer.cover);
	return found;
}
