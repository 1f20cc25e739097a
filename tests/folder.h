/*
 * folder.h - a folder of the test's own, and keys in it.
 */
#ifndef FOLDER_H
#define FOLDER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* This process' own; removed by nobody but the folder's maker, in the end. */
static const char *test_folder(void)
{
	static char folder[64];

	if (!folder[0]) {
		strcpy(folder, "/tmp/linehome-test-XXXXXX");
		if (!mkdtemp(folder))
			abort();
	}
	return folder;
}

__attribute__((unused)) static void test_folder_remove(void)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf %s", test_folder());
	if (system(command) != 0)
		printf("# %s stays\n", test_folder());
}

/* A key file with every byte value; mode as given. */
__attribute__((unused)) static const char *write_key(const char *name, unsigned value, unsigned mode)
{
	static char path[8][128];
	static unsigned next;
	char *at = path[next++ % 8];
	FILE *file;
	int i;

	snprintf(at, sizeof path[0], "%s/%s", test_folder(), name);
	file = fopen(at, "w");
	if (!file)
		abort();
	for (i = 0; i < 32; i++)
		fprintf(file, "%02x", value & 0xff);
	fputc('\n', file);
	fclose(file);
	chmod(at, mode);
	return at;
}

#endif
