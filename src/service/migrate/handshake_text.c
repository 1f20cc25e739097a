/* handshake_text.c - the JSON text of a handshake, which may come from anybody who can reach the socket. */
#include <errno.h>
#include <string.h>

#include <jansson.h>

#include "service/migrate/handshake.h"

#define PAGE_MIN 4096u
#define PAGE_MAX (1u << 30)
#define ADDRESS_END (UINT64_C(1) << 56) /* of user space, with five levels of page tables */
#define OFFSET_END (UINT64_C(1) << 56)

static int malformed(struct lh_error *error, size_t region, const char *what)
{
	return lh__fail(error, -EPROTO, "the handshake's region %zu %s", region, what);
}

/* The member's value: 1; 0: there is no such member; -EPROTO: it is no number, or negative. */
static int number(json_t *object, const char *name, uint64_t *out)
{
	json_t *value = json_object_get(object, name);

	if (!value)
		return 0;
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return -EPROTO;
	*out = (uint64_t)json_integer_value(value);
	return 1;
}

/* Of all pages of a region; old Firecrackers tell it by another name, or not at all. */
static int page_size(json_t *object, uint64_t *out)
{
	int result = number(object, "page_size", out);

	*out = result == 1 ? *out : PAGE_MIN;
	if (result == 0)
		result = number(object, "page_size_kib", out);
	if (result < 0 || *out < PAGE_MIN || *out > PAGE_MAX || (*out & (*out - 1)))
		return -EPROTO;
	return 0;
}

static int read_file(json_t *object, size_t i, struct lh_handshake_range *range, struct lh_error *error)
{
	if (number(object, "device", &range->device) < 0 || number(object, "inode", &range->inode) < 0 ||
	    number(object, "file_offset", &range->file_offset) < 0 || range->file_offset >= OFFSET_END)
		return malformed(error, i, "has a file that cannot be");
	return 0;
}

static int read_range(json_t *object, size_t i, struct lh_handshake *out, struct lh_error *error)
{
	struct lh_handshake_range *range = &out->range[i];
	uint64_t page;

	*range = (struct lh_handshake_range){ .address = 0 };
	if (!json_is_object(object))
		return malformed(error, i, "is no object");
	if (page_size(object, &page) < 0)
		return malformed(error, i, "has a page_size that is none");
	if (i == 0)
		out->page_size = page;
	if (page != out->page_size)
		return malformed(error, i, "has another page_size than the first");
	if (number(object, "base_host_virt_addr", &range->address) != 1 || range->address >= ADDRESS_END ||
	    range->address % page)
		return malformed(error, i, "has no base_host_virt_addr that can be a page's");
	if (number(object, "size", &range->size) != 1 || range->size == 0 || range->size % page ||
	    range->size > ADDRESS_END - range->address)
		return malformed(error, i, "has no size that can be");
	if (number(object, "offset", &range->offset) != 1 || range->offset % page ||
	    range->offset >= OFFSET_END || range->size > OFFSET_END - range->offset)
		return malformed(error, i, "has no offset that can be");
	return read_file(object, i, range, error);
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a < b + b_size && b < a + a_size;
}

static int read_ranges(json_t *array, struct lh_handshake *out, struct lh_error *error)
{
	size_t n = json_array_size(array), i, k;
	int result;

	if (!json_is_array(array) || n == 0)
		return lh__fail(error, -EPROTO, "the handshake is no array of regions");
	if (n > LH_GUEST_RANGES_MAX)
		return lh__fail(error, -EPROTO, "the handshake has %zu regions, which are too many", n);
	for (i = 0; i < n; i++) {
		const struct lh_handshake_range *range = &out->range[i];

		result = read_range(json_array_get(array, i), i, out, error);
		if (result < 0)
			return result;
		for (k = 0; k < i; k++) {
			if (overlap(out->range[k].address, out->range[k].size, range->address, range->size))
				return malformed(error, i, "lies where another one does");
			if (overlap(out->range[k].offset, out->range[k].size, range->offset, range->size))
				return malformed(error, i, "has the content of another one");
		}
	}
	out->ranges = n;
	return 0;
}

/* Whether the text may go on: its brackets are not closed yet. What is no array at all does not go on. */
static bool is_beginning(const char *text, size_t size)
{
	size_t i = 0, depth = 0;
	bool quoted = false;

	while (i < size && strchr(" \t\r\n", text[i]) && text[i])
		i++;
	if (i < size && text[i] != '[')
		return false;
	for (; i < size; i++) {
		char c = text[i];

		if (quoted && c == '\\')
			i++;
		else if (c == '"')
			quoted = !quoted;
		else if (!quoted && (c == '[' || c == '{'))
			depth++;
		else if (!quoted && (c == ']' || c == '}') && --depth == 0)
			return false;
	}
	return true;
}

int lh__handshake_parse(const char *text, size_t size, struct lh_handshake *out, struct lh_error *error)
{
	json_error_t why;
	json_t *array;
	int result;

	out->ranges = 0;
	if (size > LH_HANDSHAKE_TEXT_MAX)
		return lh__fail(error, -EPROTO, "the handshake is too long");
	if (is_beginning(text, size))
		return lh__fail(error, -ENODATA, "the handshake's end is missing");
	array = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
	if (!array)
		return lh__fail(error, -EPROTO, "the handshake is not JSON: %s", why.text);
	result = read_ranges(array, out, error);
	json_decref(array);
	return result;
}
