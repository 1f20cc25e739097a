/*
 * marked.c - functions that are called before, between and behind two others, and a look at a function's
 * code; see tests/cover_cli.sh.
 */
#include <stdio.h>
#include <string.h>

#ifdef __clang__
#define ALONE __attribute__((noinline))
#else
#define ALONE __attribute__((noinline, noclone))
#endif

static volatile int value;

ALONE static int early(int x)
{
	return x * 3 + value; /* early */
}

ALONE static int both(int x)
{
	return x * 5 + value; /* both */
}

ALONE static int late(int x)
{
	return x * 7 + value; /* late */
}

int begin_it(int x);
int end_it(int x);

ALONE int begin_it(int x)
{
	value++; /* begin */
	return x;
}

ALONE int end_it(int x)
{
	value--; /* end */
	return x;
}

int summed(int x);

ALONE int summed(int x)
{
	for (int i = 0; i < x; i++)
		value += i & 3;
	return value;
}

/* The bytes of its code; the first is no breakpoint. */
static int is_whole(void)
{
	unsigned char first;

	memcpy(&first, (const void *)summed, 1);
	return first != 0xcc;
}

int main(int argc, char **argv)
{
	int sum = early(1) + both(2), whole = is_whole();

	begin_it(1);
	sum += both(3);
	if (argc > 1)
		sum += late(4);
	end_it(1);
	sum += late(5) + summed(argc);
	printf("%d %s\n", sum > 0, whole ? "whole" : "changed");
	return argc > 2 ? 3 : 0;
}
