/* pool_show.c - how the commands of linehome pool write what they have found. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/pool.h"

int pool_fail(const char *command, int code, const struct lh_error *error)
{
	return cli_fail(command, code == -EBADMSG ? POOL_DAMAGED : CLI_FAILED, "%s", error->text);
}

static bool is_utf8(const char *text)
{
	json_t *string = json_string(text);
	bool valid = string != NULL;

	json_decref(string);
	return valid;
}

/* What a terminal takes for a command begins with one of these: in UTF-8 also U+0080 to U+009F. */
static bool controls(const unsigned char *at)
{
	return at[0] < 0x20 || at[0] == 0x7f || (at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0);
}

static const char *escape(const char *text, bool utf8, char *buffer, size_t size)
{
	size_t used = 0;

	for (const unsigned char *at = (const void *)text; *at && used + 5 < size; at++) {
		if ((utf8 || *at < 0x80) && !controls(at))
			buffer[used++] = (char)*at;
		else
			used += (size_t)snprintf(buffer + used, size - used, "\\x%02x", *at);
	}
	buffer[used] = '\0';
	return buffer;
}

const char *pool_text(const char *text, char *buffer, size_t size)
{
	return escape(text, is_utf8(text), buffer, size);
}

json_t *pool_json_text(const char *text)
{
	char buffer[4096];

	return json_string(is_utf8(text) ? text : escape(text, false, buffer, sizeof buffer));
}

void pool_write(json_t *object)
{
	json_dumpf(object, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(object);
}

const char *pool_count(uint64_t n, const char *what, char buffer[64])
{
	snprintf(buffer, 64, "%llu %s%s", (unsigned long long)n, what, n == 1 ? "" : "s");
	return buffer;
}
