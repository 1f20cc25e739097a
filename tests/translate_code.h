/* translate_code.h - what tests of the translator have in common. */
#ifndef TRANSLATE_CODE_H
#define TRANSLATE_CODE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port/translate/emit.h"
#include "tap.h"

/* What is not reached by a distance from here: every relative operand needs a register. */
#define FAR_AWAY 0x200000000ull

__attribute__((unused)) static struct lh_translator *translator_with(struct lh_translate_options options)
{
	struct lh_translator *translator = NULL;
	struct lh_error error;

	options.sys = &lh__sys_default;
	if (lh__translate_open(&options, &translator, &error) < 0) {
		printf("Bail out! %s\n", error.text);
		exit(1);
	}
	return translator;
}

__attribute__((unused)) static void begin(struct lh_translator *translator)
{
	struct lh_error error;

	if (lh__translate_begin(translator, &error) < 0) {
		printf("Bail out! %s\n", error.text);
		exit(1);
	}
}

__attribute__((unused)) static struct lh_translate_counts counts_of(struct lh_translator *translator)
{
	struct lh_translate_counts counts;

	lh__translate_counts(translator, &counts);
	return counts;
}

#endif
