/* version.c - the version of the library that is loaded. */
#include "linehome.h"

const char *lh_version(void)
{
	return LH_VERSION;
}
