/*
 * receive_stats.c - what a guest's new home has done, as JSON; linehome-migrate(1) says what each member is.
 */
#include <errno.h>
#include <string.h>

#include "service/migrate/receive_inside.h"
#include "sys/sys.h"

/* null where it is not known. */
static json_t *milliseconds(uint64_t ns)
{
	return ns == UINT64_MAX ? json_null() : json_real((double)ns / 1e6);
}

static json_t *integer(uint64_t value)
{
	return json_integer((json_int_t)value);
}

static json_t *microseconds(uint64_t ns)
{
	return json_real((double)ns / 1e3);
}

static void put_faults(json_t *object, const struct lh_measured *measured)
{
	static const char *const name[] = {
		[LH_FAULT_FAR] = "far", [LH_FAULT_HERE] = "here", [LH_FAULT_ZERO] = "zero"
	};
	json_t *faults = json_object();
	uint64_t total = 0;

	for (unsigned i = 0; i < LH_FAULT_CAUSES; i++) {
		total += measured->faults[i];
		json_object_set_new(faults, name[i],
		                    json_pack("{s:o,s:o,s:o,s:o,s:o}", "count", integer(measured->faults[i]),
		                              "p50_us", microseconds(measured->p50[i]), "p90_us",
		                              microseconds(measured->p90[i]), "p99_us",
		                              microseconds(measured->p99[i]), "max_us",
		                              microseconds(measured->max[i])));
	}
	json_object_set_new(faults, "total", integer(total));
	json_object_set_new(faults, "a_second", integer(measured->faults_a_second));
	json_object_set_new(object, "faults", faults);
}

static void put_measured(json_t *object, struct lh_measure *measure)
{
	struct lh_measured measured;

	lh__measure_read(measure, lh__clock(NULL), &measured);
	json_object_set_new(object, "silence_ms", milliseconds(measured.silence));
	json_object_set_new(object, "recovery_ms", milliseconds(measured.recovery));
	json_object_set_new(object, "stop_to_run_ms", milliseconds(measured.stop_to_run));
	json_object_set_new(object, "run_to_complete_ms", milliseconds(measured.run_to_complete));
	json_object_set_new(object, "stalled_ms", milliseconds(measured.stalled));
	put_faults(object, &measured);
}

static void put_counts(json_t *object, struct lh_engine *engine)
{
	struct lh_engine_counts counts;

	lh__engine_counts(engine, &counts);
	json_object_set_new(object, "pages",
	                    json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "all", integer(counts.pages),
	                              "here", integer(counts.fresh), "zero", integer(counts.zero),
	                              "discarded", integer(counts.discarded), "hinted",
	                              integer(counts.hinted), "asked_twice", integer(counts.asked_twice),
	                              "since", integer(counts.pages_since), "early", integer(counts.early)));
	json_object_set_new(object, "lines",
	                    json_pack("{s:o,s:o}", "all", integer(counts.lines), "since",
	                              integer(counts.lines_since)));
	json_object_set_new(object, "bytes",
	                    json_pack("{s:o,s:o,s:o}", "faults", integer(counts.bytes_faults), "background",
	                              integer(counts.bytes_background), "copying",
	                              integer(counts.bytes_copying)));
}

static const char *policy_word(enum lh_order_policy policy)
{
	static const char *const word[] = { [LH_ORDER_LINEAR] = "linear",
		                            [LH_ORDER_AROUND] = "around",
		                            [LH_ORDER_RECORDED] = "recorded",
		                            [LH_ORDER_PTLINE] = "ptline",
		                            [LH_ORDER_NONE] = "none" };

	return word[policy];
}

json_t *lh__receive_stats(const struct lh_receive_home *home, int result, const struct lh_error *error)
{
	json_t *object = json_object();

	json_object_set_new(object, "result",
	                    json_string(result == 0            ? "complete"
	                                : result == -ECANCELED ? "cancelled"
	                                : result == -EREMOTEIO ? "returned"
	                                                       : "failed"));
	if (result < 0)
		json_object_set_new(object, "error", json_string(error->text));
	json_object_set_new(object, "policy", json_string(policy_word(home->options->policy)));
	if (home->measure)
		put_measured(object, home->measure);
	if (home->engine)
		put_counts(object, home->engine);
	return object;
}
