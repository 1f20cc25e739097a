/*
 * windows.h - which code was live when: windows of a trace, put together and shown.
 *
 * A *window* is the time between two moments at which all code was taken away (lh__session_take); what was
 * fetched in it is *live* in it. A collector takes in windows while the program runs, knowing nothing but
 * addresses; when all is seen, lh__windows_model says by functions what it was, and reports are written from
 * that model. In lines of 64 bytes: a function is live in a line if an instruction of its own there ran, so
 * a line that two functions share is not both's by guess.
 */
#ifndef LH_SERVICE_CODE_WINDOWS_H
#define LH_SERVICE_CODE_WINDOWS_H

#include <stdio.h>

#include "service/code/coverage.h"

struct lh_windows; /* a collector; used by one thread at a time */

int lh__windows_open(struct lh_windows **out) LH_MUST_CHECK;
void lh__windows_close(struct lh_windows *windows);
/*
 * The line of code at address (as the file has it, a multiple of 64) of the module with this id is live in
 * the window that is open: starts has a bit for each byte at which an instruction started that ran. Lines may
 * come in any order and more than once.
 */
int lh__windows_line(struct lh_windows *windows, const uint8_t *id, uint32_t id_size, uint64_t address,
                     uint64_t starts) LH_MUST_CHECK;
/* The open window ends, ms after the first one's beginning, and the next one begins. */
int lh__windows_next(struct lh_windows *windows, uint64_t ms) LH_MUST_CHECK;
/*
 * Both, for all that a record holds. Plans say what a hit stands for; where a module's cannot be had, the
 * first instruction of each span counts alone.
 */
int lh__windows_add(struct lh_windows *windows, struct lh_record *seen, uint64_t ms,
                    struct lh_error *error) LH_MUST_CHECK;

struct lh_trace_window {
	uint64_t start;                   /* ms; it ends where the next begins */
	uint64_t lines, functions, pages; /* that were live; pages of 4096 bytes of code */
};

struct lh_trace_cell {
	uint32_t window, lines; /* lines of the function that were live in it, at least one */
};

struct lh_trace_function {
	const char *name, *module; /* the module's name */
	uint64_t address;          /* as the file has it */
	uint32_t lines;            /* of code that it touches */
	uint32_t cells;            /* windows in which it was live */
	struct lh_trace_cell *cell;
	uint64_t total; /* the sum of its cells' lines: how hot it is */
};

struct lh_trace_model {
	uint32_t windows, functions;
	uint64_t end; /* ms, of the last window */
	struct lh_trace_window *window;
	struct lh_trace_function *function; /* that were live at all, the hottest first */
};

/*
 * The model of all windows that have ended. coverage names the functions; live code of none of them counts
 * as lines and pages only. It may be freed before the model is.
 */
int lh__windows_model(const struct lh_windows *windows, const struct lh_coverage *coverage,
                      struct lh_trace_model **out) LH_MUST_CHECK;
void lh__windows_free(struct lh_trace_model *model);

/* Reports. 0, or a negative errno of what could not be written. */
int lh__windows_html(const struct lh_trace_model *model, const char *title, FILE *out) LH_MUST_CHECK;
/* For a terminal of so many columns (0: 80). */
int lh__windows_table(const struct lh_trace_model *model, unsigned width, FILE *out) LH_MUST_CHECK;
/*
 * {"version": 1, "end_ms", "windows": [{"start_ms", "lines", "functions", "pages"}],
 *  "functions": [{"name", "module", "address": "0x..", "lines", "total", "windows": [[window, lines], ..]}]}
 */
int lh__windows_json(const struct lh_trace_model *model, FILE *out) LH_MUST_CHECK;

#endif
