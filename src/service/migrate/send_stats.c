/* send_stats.c - what a sender has done, as JSON; linehome-migrate(1) says what each member is. */
#include <errno.h>

#include "service/migrate/send_inside.h"
#include "sys/sys.h"

static json_t *milliseconds(uint64_t ns)
{
	return json_real((double)ns / 1e6);
}

static json_t *integer(uint64_t value)
{
	return json_integer((json_int_t)value);
}

static json_t *rounds_of(const struct lh_send *send)
{
	json_t *rounds = json_array();

	for (unsigned i = 0; i < send->rounds; i++)
		json_array_append_new(rounds, json_pack("{s:o,s:o}", "pages", integer(send->round[i].pages),
		                                        "ms", milliseconds(send->round[i].ns)));
	return rounds;
}

static json_t *stop_of(const struct lh_send_stop *stop)
{
	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "save", milliseconds(stop->save), "device",
	                 milliseconds(stop->device), "scan", milliseconds(stop->scan), "sets",
	                 milliseconds(stop->sets), "answer", milliseconds(stop->answer), "load",
	                 milliseconds(stop->load), "total",
	                 milliseconds(stop->save + stop->device + stop->scan + stop->sets + stop->answer +
	                              stop->load));
}

static void put_given(json_t *object, struct lh_send *send)
{
	struct lh_pages_counts counts = { 0 };
	uint64_t out = send->bytes_out;

	if (send->pages)
		lh__pages_read_counts(send->pages, &counts);
	json_object_set_new(object, "given",
	                    json_pack("{s:o,s:o,s:o,s:o,s:o}", "faults",
	                              integer(counts.given[LH_MOVE_FAULTS]), "background",
	                              integer(counts.given[LH_MOVE_DATA]), "pages_since",
	                              integer(counts.since), "lines_since", integer(counts.lines_since),
	                              "hints", integer(counts.hints)));
	json_object_set_new(object, "bytes",
	                    json_pack("{s:o,s:o,s:o}", "faults", integer(counts.bytes[LH_MOVE_FAULTS]),
	                              "background", integer(counts.bytes[LH_MOVE_DATA]), "control",
	                              integer(out)));
}

static const char *result_word(int result)
{
	switch (result) {
	case 0: return "complete";
	case -ECANCELED: return "cancelled";
	case -EREMOTEIO: return "returned";
	default: return "failed";
	}
}

json_t *lh__send_stats(struct lh_send *send, int result, const struct lh_error *error)
{
	json_t *object = json_object();

	if (send->control) {
		uint64_t out, in;

		lh__channel_bytes(send->control, &out, &in);
		send->bytes_out += out;
		send->bytes_in += in;
	}
	json_object_set_new(object, "result", json_string(result_word(result)));
	if (result < 0)
		json_object_set_new(object, "error", json_string(error->text));
	json_object_set_new(object, "mode",
	                    json_string(send->options->postcopy ? "postcopy" : "precopy-then-postcopy"));
	json_object_set_new(object, "taken_over", json_boolean(send->resumed));
	json_object_set_new(object, "pages", integer(send->stale.pages));
	json_object_set_new(object, "total_ms", milliseconds(lh__clock(NULL) - send->began));
	json_object_set_new(object, "watch_stopped_ms", milliseconds(send->watch_stopped));
	json_object_set_new(object, "rounds", rounds_of(send));
	json_object_set_new(object, "last_pages", integer(send->last_pages));
	json_object_set_new(object, "downtime_ms", integer(send->downtime_ms));
	json_object_set_new(object, "stop_ms", stop_of(&send->stop));
	put_given(object, send);
	json_object_set_new(object, "connections", integer(send->connections));
	if (send->theirs)
		json_object_set(object, "destination", send->theirs);
	return object;
}
