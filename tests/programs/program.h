/*
 * program.h - what the helper programs share. They are ordinary programs (no part of Linehome is linked in)
 * that the tests run plainly and under `linehome run`, and that know what every word of their memory must be.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / 8)

/* A wrong content: status 1, so that a test can tell it from a program that could not do its work (3). */
__attribute__((format(printf, 1, 2), noreturn, unused)) static void wrong(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "wrong: ");
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n");
	_exit(1);
}

__attribute__((format(printf, 1, 2), noreturn, unused)) static void cannot(const char *format, ...)
{
	int saved = errno;
	va_list arguments;

	fprintf(stderr, "cannot ");
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, ": %s\n", strerror(saved));
	_exit(3);
}

/* A good mixer of 64 bits (splitmix64's finisher). */
__attribute__((unused)) static inline uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* The next of a stream of random numbers; *state is any seed. */
__attribute__((unused)) static inline uint64_t next_random(uint64_t *state)
{
	return mix((*state)++);
}

__attribute__((unused)) static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

__attribute__((unused)) static void *anonymous(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		cannot("map %zu bytes", bytes);
	return p;
}

__attribute__((unused)) static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	if (end == text || *end) {
		fprintf(stderr, "not a number: %s\n", text);
		exit(2);
	}
	return value;
}

#endif
