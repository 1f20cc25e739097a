/*
 * fix.c - mends rates.c in a server that runs:
 *
 *     cc -shared -fPIC -O2 -o fix.so fix.c
 *     linehome patch -p PID apply fix.so
 *     linehome patch -p PID revert ten-is-many
 */
#include <linehome/patch.h>

extern int many;
LH_PATCH_ORIGINAL(old_price, price, int(int things));

static int new_price(int things)
{
	/* Ten cost as much as eleven do, less one of these. */
	return things == many ? old_price(things + 1) * things / (things + 1) : old_price(things);
}
LH_PATCH_REPLACE(price, new_price);
LH_PATCH_NAME("ten-is-many");
