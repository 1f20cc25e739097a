/* plan.c - see plan.h. */
#include "service/migrate/plan.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define LANES_MAX 65u

/* ---- what both directions share ---- */

/* As text, which is the caller's; gives up the object. */
static char *dump(json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

	json_decref(object);
	return text;
}

/* JSON has no number above that; a count does not get there. */
static json_int_t number(uint64_t value)
{
	return value > INT64_MAX ? INT64_MAX : (json_int_t)value;
}

static json_t *load(const char *text, size_t size)
{
	json_t *object = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);

	if (json_is_object(object))
		return object;
	json_decref(object);
	return NULL;
}

static bool get_number(const json_t *object, const char *name, uint64_t most, uint64_t *value)
{
	const json_t *member = json_object_get(object, name);
	json_int_t integer = json_integer_value(member);

	if (!json_is_integer(member) || integer < 0 || (uint64_t)integer > most)
		return false;
	*value = (uint64_t)integer;
	return true;
}

static bool get_boolean(const json_t *object, const char *name, bool *value)
{
	const json_t *member = json_object_get(object, name);

	*value = json_is_true(member);
	return json_is_boolean(member);
}

/* Text is UTF-8: of the control characters above ASCII the first byte is 0xc2. */
static bool is_printable(const char *text)
{
	const unsigned char *at = (const unsigned char *)text;

	for (; *at; at++)
		if (*at < ' ' || *at == 0x7f || (*at == 0xc2 && at[1] < 0xa0))
			return false;
	return true;
}

const char *lh__plan_reason(const void *body, size_t size, char line[LH_PLAN_REASON])
{
	size_t most = size < LH_PLAN_REASON ? size : LH_PLAN_REASON - 1;
	json_t *text;

	/* Of a longer one the beginning, up to the end of a character. */
	while (most > 0 && most < size && (((const unsigned char *)body)[most] & 0xc0) == 0x80)
		most--;
	text = json_stringn(body, most);
	if (!text || strlen(json_string_value(text)) != most || !is_printable(json_string_value(text)))
		strcpy(line, "its reason is not fit to be printed");
	else if (most == 0)
		strcpy(line, "it does not say why");
	else
		strcpy(line, json_string_value(text));
	json_decref(text);
	return line;
}

/* ---- plan ---- */

static json_t *regions_json(const struct lh_plan *plan)
{
	json_t *array = json_array();

	for (size_t i = 0; i < plan->regions; i++)
		json_array_append_new(array, json_pack("{s:s, s:I}", "name", plan->region[i].name, "pages",
		                                       number(plan->region[i].pages)));
	if (json_array_size(array) == plan->regions)
		return array;
	json_decref(array);
	return NULL;
}

char *lh__plan_write(const struct lh_plan *plan)
{
	return dump(json_pack("{s:o, s:i, s:I, s:b, s:b}", "regions", regions_json(plan), "lanes",
	                      (int)plan->lanes, "bandwidth", number(plan->bandwidth), "postcopy",
	                      (int)plan->postcopy, "resume", (int)plan->resume));
}

/* What is wrong with it, or NULL. */
static const char *read_region(const json_t *object, struct lh_state_region *region, uint64_t first)
{
	const char *name = json_string_value(json_object_get(object, "name"));

	if (!name || !*name || strlen(name) >= sizeof region->name || !is_printable(name))
		return "a part of memory has no name";
	if (!get_number(object, "pages", LH_PAGE_NUMBER_MAX + 1 - first, &region->pages) ||
	    region->pages == 0)
		return "a part of memory has no size that is possible";
	strcpy(region->name, name);
	region->first = first;
	return NULL;
}

static const char *read_regions(const json_t *array, struct lh_plan *plan)
{
	uint64_t first = 0;

	plan->regions = json_array_size(array);
	if (plan->regions == 0 || plan->regions > LH_STATE_REGIONS_MAX)
		return "there is no memory, or in too many parts";
	for (size_t i = 0; i < plan->regions; i++) {
		const char *wrong = read_region(json_array_get(array, i), &plan->region[i], first);

		if (wrong)
			return wrong;
		for (size_t j = 0; j < i; j++)
			if (strcmp(plan->region[i].name, plan->region[j].name) == 0)
				return "two parts of memory have one name";
		first += plan->region[i].pages;
	}
	return NULL;
}

static const char *read_plan(const json_t *object, struct lh_plan *plan)
{
	uint64_t lanes;

	if (!get_number(object, "lanes", LANES_MAX, &lanes) || lanes < 2)
		return "the number of connections is not possible";
	plan->lanes = (unsigned)lanes;
	if (!get_number(object, "bandwidth", INT64_MAX, &plan->bandwidth))
		return "the bandwidth is not possible";
	if (!get_boolean(object, "postcopy", &plan->postcopy) ||
	    !get_boolean(object, "resume", &plan->resume))
		return "it does not say how";
	return read_regions(json_object_get(object, "regions"), plan);
}

int lh__plan_read(const char *text, size_t size, struct lh_plan *plan, struct lh_error *error)
{
	json_t *object = load(text, size);
	const char *wrong = "it is no JSON object";

	memset(plan, 0, sizeof *plan);
	if (object)
		wrong = read_plan(object, plan);
	json_decref(object);
	return wrong ? lh__fail(error, -EPROTO, "the sender's plan cannot be followed: %s", wrong) : 0;
}

/* ---- answer ---- */

char *lh__plan_answer_write(const char *refusal)
{
	if (!refusal)
		return dump(json_pack("{s:b}", "ready", 1));
	/* A path need not be UTF-8, which JSON is. */
	return dump(
		json_pack("{s:o}", "error", json_string(refusal) ?: json_string("it cannot be said why")));
}

int lh__plan_answer_read(const char *text, size_t size, struct lh_error *error)
{
	json_t *object = load(text, size);
	const char *refusal = json_string_value(json_object_get(object, "error"));
	int result;

	if (refusal)
		result = lh__fail(error, -ECANCELED, "the receiver refuses: %s",
		                  is_printable(refusal) ? refusal : "its reason is not fit to be printed");
	else if (json_is_true(json_object_get(object, "ready")))
		result = 0;
	else
		result = lh__fail(error, -EPROTO, "the receiver's answer to the plan is not understood");
	json_decref(object);
	return result;
}

/* ---- status ---- */

char *lh__plan_status_write(const struct lh_plan_status *status)
{
	return dump(json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I}", "phase", (int)status->phase, "pages",
	                      number(status->pages), "here", number(status->here), "faults",
	                      number(status->faults), "faults_a_second", number(status->faults_a_second),
	                      "bytes", number(status->bytes), "bytes_a_second",
	                      number(status->bytes_a_second)));
}

static bool read_status(const json_t *object, struct lh_plan_status *status)
{
	uint64_t phase;

	if (!get_number(object, "phase", LH_MOVE_RETURNED, &phase) || phase < LH_MOVE_COPYING ||
	    !get_number(object, "pages", LH_PAGE_NUMBER_MAX + 1, &status->pages))
		return false;
	status->phase = phase;
	return get_number(object, "here", status->pages, &status->here) &&
	       get_number(object, "faults", INT64_MAX, &status->faults) &&
	       get_number(object, "faults_a_second", INT64_MAX, &status->faults_a_second) &&
	       get_number(object, "bytes", INT64_MAX, &status->bytes) &&
	       get_number(object, "bytes_a_second", INT64_MAX, &status->bytes_a_second);
}

int lh__plan_status_read(const char *text, size_t size, struct lh_plan_status *status)
{
	json_t *object = load(text, size);
	bool good;

	memset(status, 0, sizeof *status);
	good = object && read_status(object, status);
	json_decref(object);
	return good ? 0 : -EPROTO;
}
