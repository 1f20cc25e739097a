/* patch_object.c - any file as a patch: it is read and laid out, or refused; nothing else happens. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/code/patch_inside.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct lh_patch_item items[LH_PATCH_PLACES_MAX];
	int file = memfd_create("fuzz", MFD_CLOEXEC);
	struct lh_patch_object object;
	struct lh_error error;
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", file);
	if (write(file, data, size) == (ssize_t)size && lh__patch_object_open(path, &object, &error) == 0) {
		uint8_t *to = calloc(1, object.length + 1);
		bool sound = to && lh__patch_object_lay(&object, 0, to, &error) == 0 &&
		             lh__patch_object_items(&object, 0, to, items, &error) == 0;

		if (sound && lh__patch_object_lay(&object, 0x555500000000, to, &error) < 0 && error.code == 0)
			abort();
		free(to);
		lh__patch_object_close(&object);
	}
	close(file);
	return 0;
}
