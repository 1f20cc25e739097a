/*
 * migrate_handshake.c - fuzzes the text by which a virtual machine hands its memory over. Whatever it is:
 *   - reading it ends, leaks nothing and reads nothing outside (AddressSanitizer sees to that);
 *   - a beginning of it is never refused where the whole is taken;
 *   - of what is taken, ranges are whole pages, do not overlap, and fit into the guest that is made of them.
 */
#include "service/migrate/handshake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

static void check_ranges(const struct lh_handshake *handshake)
{
	MUST(handshake->ranges > 0 && handshake->ranges <= LH_GUEST_RANGES_MAX);
	MUST(handshake->page_size >= 4096 && (handshake->page_size & (handshake->page_size - 1)) == 0);
	for (size_t i = 0; i < handshake->ranges; i++) {
		const struct lh_handshake_range *a = &handshake->range[i];

		MUST(a->size && (a->address | a->size | a->offset) % handshake->page_size == 0);
		MUST(a->address + a->size > a->address && a->offset + a->size > a->offset);
		for (size_t k = 0; k < i; k++) {
			const struct lh_handshake_range *b = &handshake->range[k];

			MUST(a->address >= b->address + b->size || b->address >= a->address + a->size);
			MUST(a->offset >= b->offset + b->size || b->offset >= a->offset + a->size);
		}
	}
}

static void check_guest(struct lh_handshake *handshake, uint64_t pages)
{
	struct lh_guest guest;
	struct lh_error error;

	handshake->fd = -1;
	if (lh__handshake_guest(handshake, pages, &guest, &error) != 0)
		return;
	for (size_t i = 0; i < guest.ranges; i++)
		MUST(guest.range[i].first + guest.range[i].pages <= pages);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lh_handshake handshake, part;
	char *text = malloc(size + 1);
	struct lh_error error;

	if (!text)
		return 0;
	memcpy(text, data, size);
	if (lh__handshake_parse(text, size, &handshake, &error) == 0) {
		check_ranges(&handshake);
		for (size_t n = 0; n < size; n += 1 + n / 16) {
			int result = lh__handshake_parse(text, n, &part, &error);

			MUST(result == 0 || result == -ENODATA);
		}
		check_guest(&handshake, 1024);
		check_guest(&handshake, UINT64_MAX / handshake.page_size);
	}
	free(text);
	return 0;
}
