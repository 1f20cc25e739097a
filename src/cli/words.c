/*
 * words.c - the words that a person writes on the command line: sizes, durations, URLs, choices.
 *
 * Read by hand rather than by strtoull and strtod, since those take what nobody means as a size ("-1", " 7",
 * "0x10", "1e3") and depend on the locale for what is a decimal point.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "sys/sys.h"

#define YEAR_MS (UINT64_C(366) * 24 * 3600 * 1000)

/* Reads decimal digits from *word on and steps over them. 0, -EINVAL: no digit, -ERANGE: too large. */
static int read_digits(const char **word, uint64_t *out)
{
	uint64_t value = 0;
	const char *at = *word;

	if (*at < '0' || *at > '9')
		return -EINVAL;
	for (; *at >= '0' && *at <= '9'; at++)
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
			return -ERANGE;
	*word = at;
	*out = value;
	return 0;
}

/* How far a size's last letter shifts it, or -1. */
static int size_shift(const char *suffix)
{
	if (suffix[0] == '\0')
		return 0;
	if (suffix[1] != '\0')
		return -1;
	switch (suffix[0]) {
	case 'K': return 10;
	case 'M': return 20;
	case 'G': return 30;
	default: return -1;
	}
}

int cli_read_size(const char *word, uint64_t *out, struct lh_error *error)
{
	uint64_t value;
	const char *suffix = word;
	int result = read_digits(&suffix, &value);
	int shift = result == 0 ? size_shift(suffix) : 0;

	if (result == -EINVAL || shift < 0)
		return lh__fail(error, -EINVAL,
		                "not a size; write for instance 512M (K, M and G are powers of 1024)");
	if (result == -ERANGE || value > UINT64_MAX >> shift)
		return lh__fail(error, -EINVAL, "larger than any memory; write for instance 512M");
	if (value == 0)
		return lh__fail(error, -EINVAL, "a size of nothing; write for instance 512M");
	*out = value << shift;
	return 0;
}

char *cli_write_size(uint64_t bytes, char buffer[32])
{
	static const char letters[] = { 'G', 'M', 'K' };

	for (unsigned i = 0; i < 3; i++) {
		unsigned shift = 30 - 10 * i;

		if (bytes != 0 && bytes % (UINT64_C(1) << shift) == 0) {
			snprintf(buffer, 32, "%llu%c", (unsigned long long)(bytes >> shift), letters[i]);
			return buffer;
		}
	}
	snprintf(buffer, 32, "%llu", (unsigned long long)bytes);
	return buffer;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int cli_read_address(const char *word, uint64_t *out, struct lh_error *error)
{
	const char *at = word + (word[0] == '0' && word[1] == 'x' ? 2 : 0);
	uint64_t value = 0;
	size_t digits = 0;

	for (; hex_digit(at[digits]) >= 0 && digits < 16; digits++)
		value = value << 4 | (uint64_t)hex_digit(at[digits]);
	if (digits == 0 || at[digits] != '\0' || value == 0 || value % LH_PAGE_SIZE != 0)
		return lh__fail(error, -EINVAL,
		                "not the address of a page; write for instance 0x300000000000");
	*out = value;
	return 0;
}

int cli_read_number(const char *word, unsigned *out, struct lh_error *error)
{
	uint64_t value = 0;
	const char *at = word;

	if (read_digits(&at, &value) != 0 || *at != '\0' || value == 0 || value > 1000000000)
		return lh__fail(error, -EINVAL, "not a number; write for instance 10");
	*out = (unsigned)value;
	return 0;
}

/* The decimals after a point, as thousandths; at most three digits are read. */
static int read_thousandths(const char **word, uint64_t *out)
{
	uint64_t scale = 100, value = 0;
	const char *at = *word;

	if (*at < '0' || *at > '9')
		return -EINVAL;
	for (; *at >= '0' && *at <= '9' && scale > 0; at++, scale /= 10)
		value += scale * (uint64_t)(*at - '0');
	*word = at;
	*out = value;
	return 0;
}

int cli_read_duration(const char *word, uint64_t *out, struct lh_error *error)
{
	uint64_t seconds, thousandths = 0;
	const char *at = word;
	int result = read_digits(&at, &seconds);

	if (result == 0 && *at == '.') {
		at++;
		result = read_thousandths(&at, &thousandths);
	}
	if (result == -EINVAL || (result == 0 && *at != '\0'))
		return lh__fail(error, -EINVAL, "not a duration; write seconds, for instance 30 or 0.5");
	if (result == -ERANGE || seconds > YEAR_MS / 1000)
		return lh__fail(error, -EINVAL, "longer than a year; write seconds, for instance 30");
	*out = seconds * 1000 + thousandths;
	return 0;
}

int cli_read_percent(const char *word, unsigned *out, struct lh_error *error)
{
	uint64_t percent, thousandths = 0;
	const char *at = word;
	int result = read_digits(&at, &percent);

	if (result == 0 && *at == '.') {
		at++;
		result = read_thousandths(&at, &thousandths);
	}
	if (result != 0 || *at != '\0' || percent > 100 || thousandths % 100 != 0 ||
	    (percent == 100 && thousandths != 0))
		return lh__fail(error, -EINVAL, "not a percentage; write for instance 80 or 79.5");
	*out = (unsigned)(percent * 10 + thousandths / 100);
	return 0;
}

int cli_read_process(const char *word, pid_t *out, struct lh_error *error)
{
	uint64_t number;
	const char *at = word;

	if (read_digits(&at, &number) != 0 || *at != '\0' || number == 0 || number > INT32_MAX)
		return lh__fail(error, -EINVAL, "not the number of a process; pgrep tells it");
	*out = (pid_t)number;
	return 0;
}

/* The library's text begins with the word; here the caller has said it already. */
static int parse_node(const char *word, bool listen, struct lh_error *error)
{
	struct lh_node_url url;
	size_t length = strlen(word);
	int result = lh__node_url_parse(word, listen, &url, error);

	if (result != 0 && error != NULL && strncmp(error->text, word, length) == 0 &&
	    strncmp(error->text + length, ": ", 2) == 0)
		memmove(error->text, error->text + length + 2, strlen(error->text + length + 2) + 1);
	return result;
}

int cli_read_url(const char *word, bool listen, struct cli_url *out, struct lh_error *error)
{
	bool mem = strcmp(word, "mem:") == 0;
	int result = 0;

	if (strncmp(word, "file:", 5) == 0)
		return lh__fail(error, -EINVAL,
		                "stores in files are not part of this version; write unix:PATH or "
		                "tcp://HOST:PORT");
	if (mem && listen)
		return lh__fail(error, -EINVAL, "nothing to listen on; write unix:PATH or tcp://HOST:PORT");
	if (!mem)
		result = parse_node(word, listen, error);
	if (result != 0)
		return result;
	out->mem = mem;
	memcpy(out->text, word, strlen(word) + 1);
	return 0;
}

/* The next word of a comma separated list, cut out of *list, which steps on; NULL at its end. */
static char *next_word(char **list)
{
	char *word = *list, *comma;

	if (word == NULL)
		return NULL;
	comma = strchr(word, ',');
	if (comma != NULL)
		*comma = '\0';
	*list = comma ? comma + 1 : NULL;
	return word;
}

int cli_read_list(char *word, struct cli_list *out, struct lh_error *error)
{
	struct cli_list list = *out;
	char *rest = word, *one;

	while ((one = next_word(&rest)) != NULL) {
		if (*one == '\0')
			return lh__fail(error, -EINVAL,
			                "has an empty word; write them with one comma in between");
		if (list.n == CLI_LIST_MAX)
			return lh__fail(error, -EINVAL, "too many words; write at most %u", CLI_LIST_MAX);
		list.at[list.n++] = one;
	}
	*out = list;
	return 0;
}

int cli_read_urls(const char *word, bool listen, struct cli_urls *out, struct lh_error *error)
{
	struct cli_urls urls = *out;
	char copy[CLI_URLS_MAX * sizeof(urls.at[0].text)], *list = copy, *one;
	int result = 0;

	if (strlen(word) >= sizeof(copy))
		return lh__fail(error, -EINVAL, "longer than a list of URLs may be; write at most %u",
		                CLI_URLS_MAX);
	memcpy(copy, word, strlen(word) + 1);
	while (result == 0 && (one = next_word(&list)) != NULL) {
		if (urls.n == CLI_URLS_MAX)
			return lh__fail(error, -EINVAL, "too many URLs; write at most %u", CLI_URLS_MAX);
		result = cli_read_url(one, listen, &urls.at[urls.n++], error);
	}
	if (result == 0)
		*out = urls;
	return result;
}

int cli_read_choice(const char *word, const char *choices, unsigned *out, struct lh_error *error)
{
	const char *at = choices;
	size_t length = strlen(word);

	for (unsigned i = 0;; i++) {
		size_t here = strcspn(at, "|");

		if (here == length && memcmp(at, word, length) == 0) {
			*out = i;
			return 0;
		}
		if (at[here] == '\0')
			return lh__fail(error, -EINVAL, "not one of the choices; write %s", choices);
		at += here + 1;
	}
}
