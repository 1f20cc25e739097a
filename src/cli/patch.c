/* patch.c - linehome patch: functions of a running program answered by others; listed; taken back. */
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "service/code/patch.h"
#include "sys/sys.h"

#define NAME "patch"

struct given {
	pid_t process;
	uint64_t wait_ms;
	const char *name, *audit, *bytes, *at;
	bool json, keep;
};

static int fail(const struct lh_error *error)
{
	return cli_fail(NAME, CLI_FAILED, "%s", error->text);
}

static struct lh_patch_options options_of(const struct given *given)
{
	return (struct lh_patch_options){ .wait_ms = given->wait_ms > 3600000 ? 3600000
		                                                              : (unsigned)given->wait_ms,
		                          .audit = given->audit,
		                          .name = given->name,
		                          .at = given->at,
		                          .keep = given->keep };
}

static int tell(const char *what, const struct lh_patch_outcome *outcome)
{
	printf("%s %s: %u place%s, %u thread%s, stopped for at most %.2f ms, %u attempt%s\n", what,
	       outcome->name, outcome->places, outcome->places == 1 ? "" : "s", outcome->threads,
	       outcome->threads == 1 ? "" : "s", (double)outcome->stopped_ns / 1e6, outcome->attempts,
	       outcome->attempts == 1 ? "" : "s");
	return 0;
}

/* ---- apply ---- */

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Up to `end`, two digits a byte; their number, or 0. */
static size_t read_hex(const char *word, char end, uint8_t bytes[64])
{
	size_t n = 0;

	for (; n < 64 && digit(word[2 * n]) >= 0 && digit(word[2 * n + 1]) >= 0; n++)
		bytes[n] = (uint8_t)(digit(word[2 * n]) << 4 | digit(word[2 * n + 1]));
	return word[2 * n] == end ? n : 0;
}

struct change {
	char symbol[128];
	uint64_t offset;
	uint8_t expected[64], bytes[64];
	size_t size;
};

/* SYMBOL+OFFSET:EXPECTED:NEW */
static int read_change(const char *word, struct change *change)
{
	const char *first = strchr(word, ':'), *second = first ? strchr(first + 1, ':') : NULL, *plus;
	char *rest;

	if (!second || first == word || (size_t)(first - word) >= sizeof change->symbol)
		return -EINVAL;
	memcpy(change->symbol, word, (size_t)(first - word));
	plus = strchr(change->symbol, '+');
	if (plus) {
		change->offset = strtoull(plus + 1, &rest, 0);
		if (rest == plus + 1 || *rest != '\0' || plus == change->symbol)
			return -EINVAL;
		change->symbol[plus - change->symbol] = '\0';
	}
	change->size = read_hex(first + 1, ':', change->expected);
	if (change->size == 0 || read_hex(second + 1, '\0', change->bytes) != change->size)
		return -EINVAL;
	return 0;
}

static int apply_bytes(const struct given *given)
{
	const struct lh_patch_options options = options_of(given);
	struct lh_patch_outcome outcome;
	struct change change = { .offset = 0 };
	struct lh_error error;

	if (given->at)
		return cli_fail(NAME, CLI_BAD_USAGE,
		                "--at: is for patches from a file; write the place in --bytes");
	if (read_change(given->bytes, &change) < 0)
		return cli_fail(NAME, CLI_BAD_USAGE,
		                "--bytes %s: not a change; write for instance check+0x12:7507:eb07, "
		                "as many new bytes as expected ones, at most 64",
		                given->bytes);
	if (lh__patch_bytes(given->process, given->name ? given->name : change.symbol, change.symbol,
	                    change.offset, change.expected, change.bytes, change.size, &options, &outcome,
	                    &error) < 0)
		return fail(&error);
	return tell("applied", &outcome);
}

static int apply(const struct given *given, const char *file)
{
	const struct lh_patch_options options = options_of(given);
	struct lh_patch_outcome outcome;
	struct lh_error error;

	if (!file == !given->bytes)
		return cli_fail(NAME, CLI_BAD_USAGE,
		                "apply: needs a FILE, or --bytes; write for instance linehome patch -p PID "
		                "apply raise.so");
	if (!file)
		return apply_bytes(given);
	if (lh__patch_apply(given->process, file, &options, &outcome, &error) < 0)
		return fail(&error);
	return tell("applied", &outcome);
}

/* ---- revert ---- */

static int revert(const struct given *given, const char *name)
{
	const struct lh_patch_options options = options_of(given);
	struct lh_patch_outcome outcome;
	struct lh_error error;

	if (!name)
		return cli_fail(NAME, CLI_BAD_USAGE,
		                "revert: needs the NAME of a patch; see linehome patch -p %d list",
		                given->process);
	if (lh__patch_revert(given->process, name, &options, &outcome, &error) < 0)
		return fail(&error);
	tell("reverted", &outcome);
	if (outcome.kept && outcome.kept_why[0])
		printf("its memory stays mapped until it is reverted once more: %s\n", outcome.kept_why);
	return 0;
}

/* ---- list ---- */

struct list {
	json_t *json; /* NULL: text */
	unsigned n;
};

static const char *state_of(const struct lh_patch_listed *patch)
{
	switch (patch->state) {
	case LH_PATCH_APPLIED: return patch->intact ? "applied" : "changed";
	case LH_PATCH_REVERTED: return "reverted";
	case LH_PATCH_DAMAGED: break;
	}
	return "damaged";
}

static char *hex(const uint8_t *bytes, uint64_t size, char text[129])
{
	text[0] = '\0';
	for (uint64_t i = 0; i < size; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	return text;
}

static char *when(uint64_t applied, char text[32])
{
	time_t seconds = (time_t)(applied / 1000000000u);
	struct tm utc;

	gmtime_r(&seconds, &utc);
	strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
	return text;
}

/* Names come from the memory of another process: what a terminal would obey is not written to it. */
static const char *plain(const char *text, char buffer[512])
{
	size_t n = 0;

	for (; *text && n < 511; text++)
		buffer[n++] = *text >= ' ' && *text < 0x7f ? *text : '?';
	buffer[n] = '\0';
	return buffer;
}

static void list_text(const struct lh_patch_listed *patch)
{
	char buffer[512], before[129], after[129], time[32];

	if (patch->state == LH_PATCH_DAMAGED) {
		printf("?  %s  damaged: its head at 0x%llx is not what was written\n",
		       plain(patch->name, buffer), (unsigned long long)patch->memory);
		return;
	}
	printf("%u  %s  %s  %s", patch->order, plain(patch->name, buffer), state_of(patch),
	       when(patch->applied, time));
	printf("%s%s\n", patch->file[0] ? "  " : "", plain(patch->file, buffer));
	for (unsigned i = 0; i < patch->places; i++)
		printf("   %s at 0x%llx: %s, was %s\n", plain(patch->place[i].symbol, buffer),
		       (unsigned long long)patch->place[i].address,
		       hex(patch->place[i].after, patch->place[i].size, after),
		       hex(patch->place[i].before, patch->place[i].size, before));
}

static void list_json(json_t *to, const struct lh_patch_listed *patch)
{
	json_t *object = json_object(), *places = json_array();
	char buffer[512], text[129], time[32];

	json_object_set_new(object, "name", json_string(plain(patch->name, buffer)));
	json_object_set_new(object, "state", json_string(state_of(patch)));
	json_object_set_new(object, "intact", json_boolean(patch->intact));
	json_object_set_new(object, "order", json_integer(patch->order));
	json_object_set_new(object, "applied", json_string(when(patch->applied, time)));
	json_object_set_new(object, "file", json_string(plain(patch->file, buffer)));
	json_object_set_new(object, "memory", json_integer((json_int_t)patch->memory));
	json_object_set_new(object, "memory_size", json_integer((json_int_t)patch->memory_size));
	for (unsigned i = 0; i < patch->places; i++) {
		const struct lh_patch_place *place = &patch->place[i];
		json_t *one = json_object();

		json_object_set_new(one, "symbol", json_string(plain(place->symbol, buffer)));
		json_object_set_new(one, "address", json_integer((json_int_t)place->address));
		json_object_set_new(one, "before", json_string(hex(place->before, place->size, text)));
		json_object_set_new(one, "after", json_string(hex(place->after, place->size, text)));
		json_array_append_new(places, one);
	}
	json_object_set_new(object, "places", places);
	json_array_append_new(to, object);
}

static void list_one(void *context, const struct lh_patch_listed *patch)
{
	struct list *list = context;

	list->n++;
	if (list->json)
		list_json(list->json, patch);
	else
		list_text(patch);
}

static int list(const struct given *given)
{
	struct list found = { .json = given->json ? json_array() : NULL };
	struct lh_error error;
	int result = lh__patch_list(given->process, list_one, &found, &error);

	if (result == 0 && found.json) {
		json_dumpf(found.json, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (result == 0 && found.n == 0) {
		printf("process %d has no patches\n", given->process);
	}
	json_decref(found.json);
	return result < 0 ? fail(&error) : 0;
}

/* ---- which ---- */

static int dispatch(const struct given *given, int argc, char **argv)
{
	static const char *const names[] = { "apply", "list", "revert" };
	const char *word = argv[0], *what = argc > 1 ? argv[1] : NULL, *nearest;

	if (given->process == 0)
		return cli_fail(NAME, CLI_BAD_USAGE,
		                "no process; write for instance linehome patch -p PID list");
	if (argc > 2 || (what && strcmp(word, "list") == 0))
		return cli_fail(NAME, CLI_BAD_USAGE, "%s: one word too many; see linehome patch --help",
		                argv[argc - 1]);
	if (strcmp(word, "apply") == 0)
		return apply(given, what);
	if (strcmp(word, "list") == 0)
		return list(given);
	if (strcmp(word, "revert") == 0)
		return revert(given, what);
	nearest = cli_nearest(word, names, 3);
	return cli_fail(NAME, CLI_BAD_USAGE, "%s: unknown word%s%s; write apply FILE, list, or revert NAME",
	                word, nearest ? "; did you mean " : "", nearest ? nearest : "");
}

int cli_patch(int argc, char **argv)
{
	struct given given = { .wait_ms = 5000 };
	struct cli_option options[] = {
		{ "p|pid", CLI_PROCESS, "PID", "the process", &given.process, false },
		{ "wait", CLI_DURATION, "SECONDS",
		  "try so long to find a moment at which no thread is in the way (5)", &given.wait_ms,
		  false },
		{ "name", CLI_TEXT, "NAME", "apply: what the patch is called, instead of what its file says",
		  &given.name, false },
		{ "bytes", CLI_TEXT, "CHANGE", "apply: SYMBOL+OFFSET:EXPECTED:NEW, bytes in hexadecimal",
		  &given.bytes, false },
		{ "at", CLI_TEXT, "PLACE", "apply: SYMBOL+OFFSET, where the patch's one handler goes instead",
		  &given.at, false },
		{ "keep", CLI_FLAG, NULL, "revert: leave the patch's memory mapped", &given.keep, false },
		{ "audit", CLI_TEXT, "FILE", "apply, revert: append a line to FILE", &given.audit, false },
		{ "json", CLI_FLAG, NULL, "list: as JSON", &given.json, false },
		{ .name = NULL },
	};
	const struct cli_usage usage = {
		.command = NAME,
		.arguments = "apply FILE | apply --bytes CHANGE | list | revert NAME",
		.about = "Changes functions of a running program, and takes that back.",
		.options = options,
		.rest = CLI_WORDS,
	};
	static const int held[] = { SIGINT, SIGQUIT, SIGTERM, SIGHUP, 0 };
	int status = cli_parse(&usage, &argc, &argv);

	if (status == CLI_GO_ON && given.process)
		status = cli_shield(NAME, held, false);
	return status == CLI_GO_ON ? dispatch(&given, argc, argv) : status;
}
