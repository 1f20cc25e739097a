/*
 * windows_html.c - a trace as a page of HTML: a heat map of functions over time, and tables.
 *
 * page_trace.js is given one element, "trace": {"title", "data": what lh__windows_json writes}.
 */
#include "service/code/page.h"
#include "service/code/windows.h"

int lh__windows_html(const struct lh_trace_model *model, const char *title, FILE *out)
{
	char summary[96];
	int code;

	lh__format(summary, sizeof(summary), "%u windows in %lu ms; %u functions were live.", model->windows,
	           model->end, model->functions);
	lh__page_begin(out, LH_PAGE_TRACE, title, summary);
	lh__page_data(out, "trace");
	fputs("{\"title\":", out);
	lh__page_string(out, title);
	fputs(",\"data\":", out);
	code = lh__windows_json(model, out);
	if (code < 0)
		return code;
	putc('}', out);
	lh__page_data_end(out);
	return lh__page_end(out, LH_PAGE_TRACE);
}
