/* The words of the command line: what is read, what is refused, and that a refusal changes nothing. */
#include <errno.h>

#include "cli/cli.h"
#include "tap.h"

static void size_is(const char *word, uint64_t wanted)
{
	uint64_t got = 0;

	ok(cli_read_size(word, &got, NULL) == 0 && got == wanted, "size %s", word);
}

static void size_fails(const char *word, const char *reason)
{
	struct lh_error error = { 0 };
	uint64_t got = 77;

	ok(cli_read_size(word, &got, &error) == -EINVAL && error.code == -EINVAL && got == 77 &&
	           strstr(error.text, reason),
	   "size \"%s\": %s", word, error.text);
}

static void sizes(void)
{
	char buffer[32];

	size_is("1", 1);
	size_is("4096", 4096);
	size_is("3K", 3072);
	size_is("512M", UINT64_C(512) << 20);
	size_is("2G", UINT64_C(2) << 30);
	size_is("0017M", UINT64_C(17) << 20);
	size_is("18446744073709551615", UINT64_MAX);
	size_is("17179869183G", UINT64_C(17179869183) << 30);
	size_fails("0", "nothing");
	size_fails("0G", "nothing");
	size_fails("18446744073709551616", "larger");
	size_fails("17179869184G", "larger");
	size_fails("99999999999999999999999", "larger");
	for (const char *const *word = (const char *[]){ "", "12Q", "M", "-1", "+1", " 1", "1 ", "0x10",
	                                                 "1.5G", "1KK", "12m", "1MB", NULL };
	     *word; word++)
		size_fails(*word, "not a size; write for instance 512M");
	ok(strcmp(cli_write_size(UINT64_C(512) << 20, buffer), "512M") == 0, "512M is written as it is read");
	ok(strcmp(cli_write_size(UINT64_C(3) << 30, buffer), "3G") == 0, "3G is written as it is read");
	ok(strcmp(cli_write_size(4097, buffer), "4097") == 0, "an odd number of bytes has no letter");
	ok(strcmp(cli_write_size(0, buffer), "0") == 0, "nothing is 0");
}

static void addresses(void)
{
	uint64_t got = 77;

	ok(cli_read_address("0x300000000000", &got, NULL) == 0 && got == UINT64_C(3) << 44,
	   "an address with 0x");
	ok(cli_read_address("aBcdef000", &got, NULL) == 0 && got == UINT64_C(0xabcdef000), "and without");
	ok(cli_read_address("fffffffffffff000", &got, NULL) == 0 && got == ~UINT64_C(4095), "the last page");
	got = 77;
	for (const char *const *word =
	             (const char *[]){ "", "0x", "0", "x1000", "0X1000", "0x1001", " 1000", "1000 ", "-1000",
	                               "10000000000001000", "g000", NULL };
	     *word; word++) {
		struct lh_error error = { 0 };

		ok(cli_read_address(*word, &got, &error) == -EINVAL && got == 77 &&
		           strstr(error.text, "not the address of a page"),
		   "address \"%s\": %s", *word, error.text);
	}
}

static void duration_is(const char *word, uint64_t wanted)
{
	uint64_t got = 77;

	ok(cli_read_duration(word, &got, NULL) == 0 && got == wanted, "duration %s", word);
}

static void durations(void)
{
	uint64_t got = 77;

	duration_is("0", 0);
	duration_is("30", 30000);
	duration_is("0.5", 500);
	duration_is("1.25", 1250);
	duration_is("2.003", 2003);
	for (const char *const *word = (const char *[]){ "", ".5", "1.", "1.0005", "-1", "3s", "1e3",
	                                                 "31622401", "99999999999999999999", NULL };
	     *word; word++) {
		struct lh_error error = { 0 };

		ok(cli_read_duration(*word, &got, &error) == -EINVAL && got == 77 &&
		           strstr(error.text, "write seconds"),
		   "duration \"%s\": %s", *word, error.text);
	}
}

static void url_fails(const char *word, bool listen, const char *reason)
{
	struct lh_error error = { 0 };
	struct cli_url url = { .text = "as it was" };

	ok(cli_read_url(word, listen, &url, &error) == -EINVAL && strcmp(url.text, "as it was") == 0 &&
	           strncmp(error.text, reason, strlen(reason)) == 0,
	   "URL \"%.40s\": %s", word, error.text);
}

static void url_is(const char *word, bool listen, bool mem)
{
	struct cli_url url;

	ok(cli_read_url(word, listen, &url, NULL) == 0 && url.mem == mem && strcmp(url.text, word) == 0,
	   "URL %s", word);
}

static void urls(void)
{
	url_is("mem:", false, true);
	url_is("unix:a,b", false, false);
	url_is("tcp://[::1]:1", false, false);
	url_is("tcp://127.0.0.1:0", true, false);
	url_fails("tcp://127.0.0.1:0", false, "not a port; write");
	url_fails("tcp://a", false, "not a host and a port; write");
	url_fails("unix:", false, "no path; write");
	url_fails("mem:", true, "nothing to listen on");
	url_fails("mem:x", false, "not the URL");
	url_fails("file:/x", false, "stores in files are not part of this version");
	url_fails("http://x", false, "not the URL of a memory node; write");
	url_fails("", true, "not the URL of a memory node; write");
}

static void lists(void)
{
	struct cli_urls list = { 0 };
	struct lh_error error;
	char many[9 * 5 + 1] = "";

	ok(cli_read_urls("unix:a,tcp://b:2", false, &list, NULL) == 0 && list.n == 2 &&
	           strcmp(list.at[0].text, "unix:a") == 0 && strcmp(list.at[1].text, "tcp://b:2") == 0,
	   "a list of two URLs");
	ok(cli_read_urls("unix:c", false, &list, NULL) == 0 && list.n == 3, "another is appended");
	ok(cli_read_urls("unix:d,nonsense", false, &list, &error) == -EINVAL && list.n == 3,
	   "a list with a bad URL changes nothing");
	ok(cli_read_urls("unix:d,", false, &list, &error) == -EINVAL,
	   "a list that ends in a comma is refused");
	for (int i = 0; i < 9; i++)
		strcat(many, i ? ",mem:" : "mem:");
	list.n = 0;
	ok(cli_read_urls(many, false, &list, &error) == -EINVAL && list.n == 0 &&
	           strstr(error.text, "at most 8"),
	   "nine URLs: %s", error.text);
}

static void choices(void)
{
	struct lh_error error;
	unsigned got = 77;

	ok(cli_read_choice("none", "none|next", &got, NULL) == 0 && got == 0, "the first choice");
	ok(cli_read_choice("next", "none|next", &got, NULL) == 0 && got == 1, "the last choice");
	for (const char *const *word = (const char *[]){ "", "nex", "nexts", "none|next", "NONE", NULL };
	     *word; word++)
		ok(cli_read_choice(*word, "none|next", &got, &error) == -EINVAL && got == 1 &&
		           strstr(error.text, "write none|next"),
		   "choice \"%s\": %s", *word, error.text);
}

static void nearest(void)
{
	const char *const names[] = { "store", "stats", "local" };

	ok(cli_nearest("lokal", names, 3) == names[2], "lokal is local");
	ok(cli_nearest("sotre", names, 3) == names[0], "sotre is store");
	ok(cli_nearest("frobnicate", names, 3) == NULL, "frobnicate is nothing");
	ok(cli_nearest("", names, 3) == NULL, "no word is nothing");
	ok(cli_nearest("storestorestorestorestorestorestorestore", names, 3) == NULL,
	   "a very long word is nothing");
}

int main(void)
{
	sizes();
	addresses();
	durations();
	urls();
	lists();
	choices();
	nearest();
	return done();
}
