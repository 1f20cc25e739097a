/*
 * cover_calls.c - functions of all kinds, of which a part is called: what is said to have run is compared
 * with gcov. How lines are broken is part of it.
 */
/* clang-format off */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pair {
	int x, y;
};

static int total;

static inline int small(int a)
{
	return a > 3 ? a * 2 : a - 1;
}

static inline __attribute__((always_inline)) int everywhere(int a)
{
	if (a > 3)
		return a;
	return -a;
}

static void empty(void)
{
}

static void one_line(void) { total++; }
static int first(int a) { return a; } static int second(int a) { return a + 1; }

static void early(int a)
{
	if (!a)
		return;
	total += a;
}

static int many_ways(int a)
{
	if (a == 1)
		return 10;
	if (a == 2)
		return 20;
	total++;
	return 0;
}

__attribute__((unused)) static void not_called(int a)
{
	int b = a;

	if (b)
		total++;
}

static struct pair make(int x)
{
	struct pair p = {
		.x = x,
		.y = 2,
	};

	return p;
}

static int
declared_on(int a,
            int b)
{
	while (a < b) a++;
	return a; }

static int sum(int n, ...)
{
	va_list list;
	int s = 0;

	va_start(list, n);
	while (n--)
		s += va_arg(list, int);
	va_end(list); return s;
}

static int factorial(int n)
{
	return n < 2 ? 1 : n * factorial(n - 1);
}

static void lengths(int n)
{
	char *text = __builtin_alloca((size_t)n);

	memset(text, 0, (size_t)n);
	text[n - 1] = 1;
	total += text[n - 1];
}

static int (*const functions[])(int) = { small, many_ways, first };

static void at_end(void)
{
	printf("%d\n", total);
}

__attribute__((noreturn)) static void leave(int code)
{
	exit(code);
}

int main(int argc, char **argv)
{
	struct pair p = make(3);
	int (*f)(int) = second;
	static int kept = 7;
	int unset;

	atexit(at_end);
	for (unsigned i = 0; i < 3; i++)
		total += functions[i](2);
	total += f(1) + everywhere(p.x) + everywhere(9);
	empty();
	one_line();
	early(0);
	early(1);
	unset = declared_on(1, 3);
	total += sum(3,
		     1,
		     2,
		     unset);
	total += factorial(4) + kept;
	lengths(10);
	if (argc > 5)
		not_called(argc);
	if (argc)
		leave(0);
	return 3;
}
