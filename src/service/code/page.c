/*
 * page.c - the frame of a page: head, style, data, script.
 */
#include "service/code/page.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

/* A file of the source tree, as it is, between two labels. */
#define EMBED(name, path)                                                                                    \
	__asm__(".pushsection .rodata\n" #name ":\n.incbin \"" path "\"\n" #name "_end:\n.popsection\n");    \
	extern const char name[] __attribute__((visibility("hidden")));                                      \
	extern const char name##_end[] __attribute__((visibility("hidden")))

EMBED(lh__page_css, "src/service/code/page.css");
EMBED(lh__page_js, "src/service/code/page.js");
EMBED(lh__page_cover_js, "src/service/code/page_cover.js");
EMBED(lh__page_trace_js, "src/service/code/page_trace.js");

static void put(FILE *out, const char *from, const char *to)
{
	fwrite(from, 1, (size_t)(to - from), out);
}

size_t lh__page_character(const char *from, size_t size)
{
	const unsigned char *text = (const unsigned char *)from;
	static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t length = text[0] < 0x80           ? 1
	                : (text[0] >> 5) == 0x06 ? 2
	                : (text[0] >> 4) == 0x0e ? 3
	                : (text[0] >> 3) == 0x1e ? 4
	                                         : 0;
	uint32_t value;

	if (length <= 1 || length > size)
		return length > size ? 0 : length;
	value = text[0] & (0x7fu >> length);
	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		value = value << 6 | (text[i] & 0x3f);
	}
	return value < least[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000) ? 0 : length;
}

/* What of a character stands in JSON as another text; NULL: it stands for itself. */
static const char *escape(unsigned char c, char room[8])
{
	switch (c) {
	case '"': return "\\\"";
	case '\\': return "\\\\";
	case '\n': return "\\n";
	case '\t': return "\\t";
	}
	if (c >= 0x20 && c != '<' && c != 0x7f)
		return NULL;
	lh__format(room, 8, "\\u00%c%c", "0123456789abcdef"[c >> 4], "0123456789abcdef"[c & 15]);
	return room;
}

void lh__page_string_sized(FILE *out, const char *text, size_t size)
{
	const char *from = text, *end = text + size;
	char room[8];

	putc('"', out);
	for (const char *at = text; at < end;) {
		size_t length = lh__page_character(at, (size_t)(end - at));
		const char *other = length == 0   ? "\xef\xbf\xbd"
		                    : length == 1 ? escape((unsigned char)*at, room)
		                                  : NULL;

		if (other) {
			put(out, from, at);
			fputs(other, out);
			from = at + 1;
		}
		at += length ? length : 1;
	}
	put(out, from, end);
	putc('"', out);
}

void lh__page_string(FILE *out, const char *text)
{
	lh__page_string_sized(out, text, strlen(text));
}

/* Text between tags. */
static void put_text(FILE *out, const char *text)
{
	for (const char *end = text + strlen(text); text < end;) {
		size_t length = lh__page_character(text, (size_t)(end - text));

		if (length == 0 || (length == 1 && (unsigned char)*text < 0x20))
			fputs(length ? " " : "\xef\xbf\xbd", out);
		else if (*text == '<' || *text == '&')
			fputs(*text == '<' ? "&lt;" : "&amp;", out);
		else
			put(out, text, text + length);
		text += length ? length : 1;
	}
}

void lh__page_begin(FILE *out, enum lh_page_kind kind, const char *title, const char *summary)
{
	fputs("<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
	      "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; "
	      "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action "
	      "'none'\">\n"
	      "<meta name=viewport content=\"width=device-width, initial-scale=1\">\n"
	      "<meta name=color-scheme content=\"light dark\">\n"
	      "<meta name=generator content=\"linehome " LH_VERSION "\">\n<title>",
	      out);
	put_text(out, title);
	fputs("</title>\n<style>\n", out);
	put(out, lh__page_css, lh__page_css_end);
	fprintf(out, "</style>\n</head>\n<body class=%s>\n<div id=page><noscript><h1>",
	        kind == LH_PAGE_COVER ? "cover" : "trace");
	put_text(out, title);
	fputs("</h1><p>", out);
	put_text(out, summary);
	fputs("</p><p>To show more, this page needs JavaScript, which it brings "
	      "along.</p></noscript></div>\n",
	      out);
}

void lh__page_data(FILE *out, const char *id)
{
	fprintf(out, "<script type=\"application/json\" id=\"%s\">", id);
}

void lh__page_data_end(FILE *out)
{
	fputs("</script>\n", out);
}

int lh__page_end(FILE *out, enum lh_page_kind kind)
{
	fputs("<script>\n'use strict';\n", out);
	put(out, lh__page_js, lh__page_js_end);
	if (kind == LH_PAGE_COVER)
		put(out, lh__page_cover_js, lh__page_cover_js_end);
	else
		put(out, lh__page_trace_js, lh__page_trace_js_end);
	fputs("</script>\n</body>\n</html>\n", out);
	return lh__page_written(out);
}

int lh__page_written(FILE *out)
{
	bool failed = ferror(out);

	errno = 0;
	if (fflush(out) == 0 && !failed)
		return 0;
	return errno ? -errno : -EIO;
}
