#include <linehome.h>
#include <stdio.h>

int main(void)
{
	printf("linehome %s\n", lh_version());
	return 0;
}
