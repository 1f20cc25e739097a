/*
 * page.h - a page of HTML that is one file and needs nothing else: no network, no other files.
 *
 * Style and script (page.css, page.js, page_cover.js, page_trace.js) are part of the library. What a page
 * shows stands in it as JSON, in elements that only the script reads; a big page has several, so that what
 * is not looked at is not even parsed. A policy in the page's head forbids the browser to load anything.
 *
 *     lh__page_begin(out, LH_PAGE_COVER, title, "12 of 20 lines ran.");
 *     lh__page_data(out, "index");
 *     fputs("{...}", out);
 *     lh__page_data_end(out);
 *     return lh__page_end(out, LH_PAGE_COVER);
 */
#ifndef LH_SERVICE_CODE_PAGE_H
#define LH_SERVICE_CODE_PAGE_H

#include <stddef.h>
#include <stdio.h>

#include "sys/sys.h"

enum lh_page_kind { LH_PAGE_COVER, LH_PAGE_TRACE };

/* All but the data. Without JavaScript a reader is shown the title and the summary. Any text may be given. */
void lh__page_begin(FILE *out, enum lh_page_kind kind, const char *title, const char *summary);
/* Opens and closes an element of JSON; id is a word that the script of this kind knows. */
void lh__page_data(FILE *out, const char *id);
void lh__page_data_end(FILE *out);
/* The end of the page. 0, or a negative errno if not all of it could be written. */
int lh__page_end(FILE *out, enum lh_page_kind kind) LH_MUST_CHECK;

/*
 * A JSON string, quotes included, that may stand in HTML too: no "<" is left in it. What is not UTF-8
 * becomes U+FFFD, one for each byte.
 */
void lh__page_string(FILE *out, const char *text);
void lh__page_string_sized(FILE *out, const char *text, size_t size);
/* The bytes of the character of UTF-8 that text (size bytes, at least one) begins with, or 0: it is none. */
size_t lh__page_character(const char *text, size_t size);
/* Flushes; 0, or a negative errno if anything that was written to out before has failed. */
int lh__page_written(FILE *out) LH_MUST_CHECK;

#endif
