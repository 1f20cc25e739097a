/*
 * cover_jumps.c - macros over several lines, longjmp, signals: what is said to have run is compared with
 * gcov. How lines are broken is part of it.
 */
/* clang-format off */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define TWICE(x)                                                                                             \
	do {                                                                                                 \
		total += (x);                                                                                \
		total += (x);                                                                                \
	} while (0)
#define FUNCTION(name, value)                                                                                \
	static int name(int a)                                                                               \
	{                                                                                                    \
		if (a)                                                                                       \
			return a;                                                                            \
		return value;                                                                                \
	}
#define CHECK(x)                                                                                             \
	if (!(x))                                                                                            \
		return -1

static jmp_buf out;
static volatile int total;

FUNCTION(from_macro, 3)

static void back(int n)
{
	if (n > 0)
		longjmp(out, n);
	total++;
}

static int catches(int n)
{
	volatile int count = 0;
	int got = setjmp(out);

	if (got == 0) {
		count++;
		back(n);
		total += 100;
	} else if (got == 1) {
		count += 10;
	} else {
		total = 5;
		count = 0;
	}
	return count;
}

static void on_signal(int number)
{
	total += number;
}

static void on_other(int number)
{
	total -= number;
}

static int checked(int a)
{
	CHECK(a > 0);
	CHECK(a < 10); total++;
	TWICE(
		a);
	return a;
}

static const char *name_of(int a)
{
	static const char *const names[] = {
		"none",
		"one",
	};

	return a >= 0 && a < 2
		       ? names[a]
		       : "many";
}

static long long numbers(double d, unsigned char c)
{
	long long r = (long long)d;

	r = r << 3 |
	    c;
	if (d != d)
		r = 0;
	asm volatile("" : "+r"(r));
	return r;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };

	total += from_macro(argc);
	total += catches(1);
	total += catches(0);
	sigaction(SIGUSR1, &action, NULL);
	action.sa_handler = on_other;
	sigaction(SIGUSR2, &action, NULL);
	raise(SIGUSR1);
	if (checked(3) == 3 && checked(20) == -1)
		TWICE(total);
	printf("%d %s %s\n", total,
	       name_of(1),
	       name_of(argc + 5));
	numbers(2.5, 3);
	{
		int inner = argc;

		if (inner > 4)
			abort();
	}
	return 0;
}
