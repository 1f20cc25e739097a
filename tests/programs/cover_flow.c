/*
 * cover_flow.c - control flow of all kinds, of which a part runs, and what did is compared with gcov.
 * How lines are broken is part of it.
 */
/* clang-format off */
#include <stdio.h>

static int total;

static int table(int a)
{
	switch (a) {
	case 0: return 1;
	case 1: total++; break;
	case 2:
		total += 2;
		/* fall through */
	case 3:
		total += 3;
		break;
	case 4:
	case 5: {
		int b = a * 2;

		return b;
	}
	case 6: return 60;
	case 7: return 70;
	default:
		return -1;
	}
	return 0;
}

static int sparse(int a)
{
	switch (a) {
	case 10: return 1;
	case 1000: return 2;
	case 100000: return 3;
	}
	return 4;
}

static void loops(int n)
{
	int i, j = n;

	for (i = 0; i < n; i++)
		total += i;
	while (j--)
		total--;
	do {
		j++;
	} while (j < 3);
	for (;;) {
		if (j++ > 6)
			break;
		if (j == 5)
			continue;
		total++;
	}
	for (i = 0; i < 0; i++)
		total += 100;
	for (i = 0, j = n; i < j; i++, j--) {
		for (int k = 0; k < 2; k++) {
			if (k > 5)
				total = 0;
		}
	}
}

static int jumps(int n)
{
	if (n < 0)
		goto bad;
	n++;
again:
	if (n++ < 5)
		goto again;
	total += n;
	return n;
bad:
	total = -1;
	return -1;
}

static int conditions(int a, int b)
{
	int c = a > b ? a : b,
	    d = 7;

	if (a > 100 &&
	    b > 100)
		c = 0;
	else if (a == 3 || b == 4)
		c++;
	else
		c--;
	c = (total++, c + 1);
	d = a
		? b
			? 1
			: 2
		: 3;
	if (!a) {
		c = 9;
	} else if (b) {
		c += d;
	} else {
		c = 10;
		d = 11;
	}
	return c +
	       d;
}

static int endless(int n)
{
	while (1) {
		if (n-- == 0)
			return 5;
	}
}

static void never(int n)
{
	for (;;)
		total += n;
}

int main(int argc, char **argv)
{
	int i;

	for (i = 2; i < 7; i++)
		total += table(i);
	total += sparse(1000) + sparse(7);
	loops(4);
	jumps(argc);
	conditions(3, 2);
	conditions(1, 4);
	endless(2);
	if (argc > 1)
		never(argc);
	printf("%d\n", total);
	return 0;
}
