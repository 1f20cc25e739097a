/*
 * expect.h - what the cases of a conformance suite are written in. A case has a `suite` with a `text`, and
 * returns NULL or what did not hold, so that the same cases can report a fault or show that they see one.
 */
#ifndef EXPECT_H
#define EXPECT_H

#include <stdio.h>
#include <string.h>

#define EXPECT(condition)                                                                                    \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			if (!suite->text[0])                                                                 \
				snprintf(suite->text, sizeof suite->text, "line %d: %s", __LINE__,           \
				         #condition);                                                        \
			return suite->text;                                                                  \
		}                                                                                            \
	} while (0)
/* Passes on what another function that returns what did not hold has found. */
#define TRY(call)                                                                                            \
	do {                                                                                                 \
		if ((call) != NULL) {                                                                        \
			size_t suite__used = strlen(suite->text);                                            \
			snprintf(suite->text + suite__used, sizeof suite->text - suite__used,                \
			         " (from line %d)", __LINE__);                                               \
			return suite->text;                                                                  \
		}                                                                                            \
	} while (0)

#endif
