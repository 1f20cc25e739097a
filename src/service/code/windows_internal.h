/*
 * windows_internal.h - what a collector of windows holds; for windows.c and windows_add.c.
 */
#ifndef LH_SERVICE_CODE_WINDOWS_INTERNAL_H
#define LH_SERVICE_CODE_WINDOWS_INTERNAL_H

#include "service/code/plan_make.h"
#include "service/code/windows.h"

struct lh_windows_module {
	uint8_t id[LH_PLAN_ID];
	uint32_t id_size;
	bool is_asked; /* for its plan */
	bool has_plan;
	struct lh_plan plan;
};

struct lh_windows_line {
	uint32_t module;
	uint64_t address, starts;
};

struct lh_windows_end {
	size_t end; /* of its lines */
	uint64_t ms;
};

struct lh_windows {
	uint32_t modules, windows;
	size_t lines;
	struct lh_windows_module *module;
	struct lh_windows_line *line; /* of all windows, one behind the other; the open one is last */
	struct lh_windows_end *window;
};

/* The module of this id, made if it is not there. *out holds until the next call. */
int lh__windows_module(struct lh_windows *windows, const uint8_t *id, uint32_t size,
                       struct lh_windows_module **out) LH_MUST_CHECK;
int lh__windows_module_line(struct lh_windows *windows, const struct lh_windows_module *module,
                            uint64_t address, uint64_t starts) LH_MUST_CHECK;

#endif
