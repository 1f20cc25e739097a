/* store_memory.c - the memory store passes the conformance suite. */
#include "store_over_memory.h"

int main(void)
{
	struct over_memory over = { .wrap = NULL };
	struct store_factory memory = over_memory(&over, "memory");

	store_conformance(&memory);
	is(over.leftovers, 0, "memory: closed stores leave nothing in use");
	return done();
}
