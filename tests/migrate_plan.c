/*
 * migrate_plan.c - what the two sides of a migration tell each other in JSON: there and back, and nothing
 * wrong.
 */
#include "service/migrate/plan.h"

#include <errno.h>

#include "tap.h"

static void plan_there_and_back(void)
{
	struct lh_plan plan = { .regions = 2, .lanes = 3, .bandwidth = 125000000, .resume = true }, back;
	struct lh_error error;
	char *text;

	strcpy(plan.region[0].name, "ram0");
	strcpy(plan.region[1].name, "a \"name\" with \\ and \xc3\xa9");
	plan.region[0].pages = 131072;
	plan.region[1].pages = 1;
	text = lh__plan_write(&plan);
	if (!ok(text != NULL, "a plan is written"))
		return;
	is(lh__plan_read(text, strlen(text), &back, &error), 0, "and read");
	ok(back.regions == 2 && back.lanes == 3 && back.bandwidth == 125000000 && !back.postcopy &&
	           back.resume,
	   "as it was");
	ok(strcmp(back.region[1].name, plan.region[1].name) == 0 && back.region[0].pages == 131072 &&
	           back.region[1].first == 131072,
	   "with its regions");
	for (size_t size = 0; size < strlen(text); size++)
		if (lh__plan_read(text, size, &back, &error) != -EPROTO)
			ok(0, "a part of %d bytes is not taken", (int)size);
	free(text);
}

#define REGIONS "\"regions\": [{\"name\": \"a\", \"pages\": 1}]"
#define REST ", \"lanes\": 2, \"bandwidth\": 0, \"postcopy\": false, \"resume\": false}"

static void plans_wrong(void)
{
	static const char *const wrong[] = {
		"",
		"{}",
		"[]",
		"7",
		"{" REGIONS REST "x",
		"{\"regions\": []" REST,
		"{\"regions\": 3" REST,
		"{\"regions\": [3]" REST,
		"{\"regions\": [{\"name\": \"a\"}]" REST,
		"{\"regions\": [{\"pages\": 1}]" REST,
		"{\"regions\": [{\"name\": \"\", \"pages\": 1}]" REST,
		"{\"regions\": [{\"name\": \"\\u001b[2J\", \"pages\": 1}]" REST,
		"{\"regions\": [{\"name\": \"a\\u0000b\", \"pages\": 1}]" REST,
		"{\"regions\": [{\"name\": \"a\", \"pages\": 0}]" REST,
		"{\"regions\": [{\"name\": \"a\", \"pages\": -1}]" REST,
		"{\"regions\": [{\"name\": \"a\", \"pages\": 1.5}]" REST,
		"{\"regions\": [{\"name\": \"a\", \"pages\": 1099511627777}]" REST,
		"{\"regions\": [{\"name\": \"a\", \"pages\": 1}, {\"name\": \"a\", \"pages\": 1}]" REST,
		"{\"regions\": [{\"name\": \"a\", \"pages\": 1}, {\"name\": \"b\", \"pages\": "
		"1099511627776}]" REST,
		"{\"regions\": [{\"name\": "
		"\"0123456789012345678901234567890123456789012345678901234567890123\","
		" \"pages\": 1}]" REST,
		"{" REGIONS ", \"bandwidth\": 0, \"postcopy\": false, \"resume\": false}",
		"{" REGIONS ", \"lanes\": 1, \"bandwidth\": 0, \"postcopy\": false, \"resume\": false}",
		"{" REGIONS ", \"lanes\": 1000, \"bandwidth\": 0, \"postcopy\": false, \"resume\": false}",
		"{" REGIONS ", \"lanes\": 2, \"bandwidth\": -1, \"postcopy\": false, \"resume\": false}",
		"{" REGIONS ", \"lanes\": 2, \"bandwidth\": 0, \"postcopy\": 0, \"resume\": false}",
		"{" REGIONS
		", \"lanes\": 2, \"lanes\": 2, \"bandwidth\": 0, \"postcopy\": true, \"resume\": false}",
	};
	static const char right[] = "{\"more\": [1, {}], " REGIONS REST;
	struct lh_plan plan;
	struct lh_error error;

	is(lh__plan_read(right, strlen(right), &plan, &error), 0, "what is not known is passed over");
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
		is(lh__plan_read(wrong[i], strlen(wrong[i]), &plan, &error), -EPROTO, "refused: %s",
		   wrong[i]);
	ok(strstr(error.text, "the sender's plan"), "it says: %s", error.text);
}

static int read_answer(const char *text, struct lh_error *error)
{
	error->text[0] = '\0';
	return lh__plan_answer_read(text, strlen(text), error);
}

/* What a hostile peer may say in FAILED. */
static void reasons(void)
{
	static const struct {
		const char *body;
		size_t size;
		const char *shown;
	} said[] = {
		{ "no room", 7, "no room" },
		{ "no room for more", 7, "no room" },
		{ "", 0, "it does not say why" },
		{ "gr\xc3\xbc\xc3\x9f", 6, "gr\xc3\xbc\xc3\x9f" },
		{ "\x1b[2J", 4, NULL },
		{ "a\nb", 3, NULL },
		{ "a\0b", 3, NULL },
		{ "\x7f", 1, NULL },
		{ "\xc2\x9b"
		  "2J",
		  4, NULL },
		{ "\xff\xfe", 2, NULL },
		{ "\x9b"
		  "2J",
		  3, NULL },
	};
	char line[LH_PLAN_REASON], longer[3 * LH_PLAN_REASON];

	for (size_t i = 0; i < sizeof(said) / sizeof(*said); i++)
		ok(strcmp(lh__plan_reason(said[i].body, said[i].size, line),
		          said[i].shown ? said[i].shown : "its reason is not fit to be printed") == 0,
		   "reason %zu is shown as: %s", i, line);
	for (size_t i = 0; i < sizeof(longer); i++)
		longer[i] = "\xe2\x82\xac"[i % 3];
	lh__plan_reason(longer, sizeof(longer), line);
	ok(strlen(line) == (LH_PLAN_REASON - 1) / 3 * 3 && memcmp(line, longer, strlen(line)) == 0,
	   "of a long one the beginning, in whole characters");
}

static void answers(void)
{
	struct lh_error error;
	char *text = lh__plan_answer_write(NULL);

	is(read_answer(text, &error), 0, "ready");
	free(text);
	text = lh__plan_answer_write("no room for \"ram0\"");
	is(read_answer(text, &error), -ECANCELED, "a refusal");
	ok(strstr(error.text, "no room for \"ram0\""), "it says: %s", error.text);
	free(text);
	text = lh__plan_answer_write("/tmp/\xff");
	is(read_answer(text, &error), -ECANCELED, "one that is not UTF-8");
	free(text);
	is(read_answer("{\"error\": \"\\u001b[2J\"}", &error), -ECANCELED, "one for the terminal");
	ok(!strchr(error.text, '\x1b'), "does not reach it: %s", error.text);
	is(read_answer("{\"ready\": false}", &error), -EPROTO, "neither");
	is(read_answer("{\"error\": 3}", &error), -EPROTO, "a number");
	is(read_answer("", &error), -EPROTO, "nothing");
}

static void statuses(void)
{
	struct lh_plan_status status = { LH_MOVE_RUNNING, 1000, 999, 5, 6, 7, UINT64_MAX }, back;
	char *text = lh__plan_status_write(&status);

	is(lh__plan_status_read(text, strlen(text), &back), 0, "a status is read");
	ok(back.phase == LH_MOVE_RUNNING && back.pages == 1000 && back.here == 999 && back.faults == 5 &&
	           back.faults_a_second == 6 && back.bytes == 7 && back.bytes_a_second == INT64_MAX,
	   "as it was written");
	free(text);
	status.here = 1001;
	text = lh__plan_status_write(&status);
	is(lh__plan_status_read(text, strlen(text), &back), -EPROTO, "more than all is here");
	free(text);
	status.here = 0;
	status.phase = 6;
	text = lh__plan_status_write(&status);
	is(lh__plan_status_read(text, strlen(text), &back), -EPROTO, "no phase");
	free(text);
	is(lh__plan_status_read("{}", 2, &back), -EPROTO, "nothing");
}

int main(void)
{
	plan_there_and_back();
	plans_wrong();
	reasons();
	answers();
	statuses();
	return done();
}
