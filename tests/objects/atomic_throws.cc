/* atomic_throws.cc - a function that is left by an exception, and one that catches inside, for atomic_edges. */

extern "C" {
/* Bracketed by the test. */
__attribute__((noinline)) int edge_throws(long *cell, long value, void (*told)(void))
{
	*cell = value;
	try {
		told();
		throw 1;
	} catch (int) { /* inside: the transaction goes on */
		cell[1] = value;
	}
	if (value < 0)
		throw 2L;
	return 7;
}

int edge_catches(long *cell, long value, void (*told)(void))
{
	try {
		return edge_throws(cell, value, told);
	} catch (long) {
		return 8;
	}
}
}
