/*
 * alloc.c - takes memory as fast as it can and touches all of it: the program that a limit must slow down.
 * Every page is marked with a function of its place, and all marks are verified at the end.
 *
 *     alloc --pattern mmap|malloc|brk|threads|pieces --size MIB
 */
#include "program.h"

#include <pthread.h>

#define CHUNK ((size_t)1 << 20)
#define THREADS 8

static size_t size = (size_t)256 << 20;

static void mark(char *at, size_t bytes, uint64_t salt)
{
	for (size_t i = 0; i + PAGE <= bytes; i += PAGE)
		for (size_t line = 0; line < PAGE; line += 1024)
			*(uint64_t *)(at + i + line) = mix(salt + i + line);
}

static void verify(const char *at, size_t bytes, uint64_t salt)
{
	for (size_t i = 0; i + PAGE <= bytes; i += PAGE)
		for (size_t line = 0; line < PAGE; line += 1024)
			if (*(const uint64_t *)(at + i + line) != mix(salt + i + line))
				wrong("mark at byte %zu of salt %lu", i + line, salt);
}

static void one_mapping(void)
{
	char *p = anonymous(size);

	mark(p, size, 1);
	verify(p, size, 1);
}

/* Chunks of 1 MiB from malloc (below its mmap threshold once it has adapted) or each from mmap. */
static void chunks(bool mapped)
{
	size_t n = size / CHUNK;
	char **all = calloc(n, sizeof *all);

	for (size_t i = 0; all && i < n; i++) {
		all[i] = mapped ? anonymous(CHUNK) : malloc(CHUNK);
		if (!all[i])
			cannot("allocate");
		mark(all[i], CHUNK, i);
	}
	for (size_t i = 0; all && i < n; i++)
		verify(all[i], CHUNK, i);
	for (size_t i = 0; all && !mapped && i < n; i++)
		free(all[i]);
	free(all);
}

/* No malloc happens between the growth and the shrinking, so libc's own idea of the break stays right. */
static void break_growth(void)
{
	char *start = sbrk(0), *p = start;

	for (size_t i = 0; i < size / CHUNK; i++) {
		char *got = sbrk((intptr_t)CHUNK);

		if (got != p)
			cannot("grow the break");
		mark(got, CHUNK, i);
		p += CHUNK;
	}
	for (size_t i = 0; i < size / CHUNK; i++)
		verify(start + i * CHUNK, CHUNK, i);
	if (brk(start))
		cannot("shrink the break");
}

static void *one_thread(void *argument)
{
	uint64_t salt = (uintptr_t)argument * 1000;
	size_t bytes = size / THREADS;
	char *p = anonymous(bytes);

	mark(p, bytes, salt);
	verify(p, bytes, salt);
	return NULL;
}

static void many_threads(void)
{
	pthread_t threads[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, one_thread, (void *)i))
			cannot("start a thread");
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void run(const char *pattern)
{
	if (!strcmp(pattern, "mmap"))
		one_mapping();
	else if (!strcmp(pattern, "malloc"))
		chunks(false);
	else if (!strcmp(pattern, "pieces"))
		chunks(true);
	else if (!strcmp(pattern, "brk"))
		break_growth();
	else if (!strcmp(pattern, "threads"))
		many_threads();
	else
		exit(2);
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = { { "pattern", 1, NULL, 'p' },
		                                      { "size", 1, NULL, 's' },
		                                      { NULL, 0, NULL, 0 } };
	const char *pattern = "mmap";
	int c;

	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		switch (c) {
		case 'p': pattern = optarg; break;
		case 's': size = number(optarg) << 20; break;
		default: return 2;
		}
	run(pattern);
	printf("alloc %s %zu ok\n", pattern, size >> 20);
	return 0;
}
