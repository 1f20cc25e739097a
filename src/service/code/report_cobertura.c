/*
 * report_cobertura.c - XML by Cobertura's coverage-04.dtd: a folder is a package, a file a class, a
 * function a method. Branches and complexity are not known and are written as 0.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/code/report_parts.h"

/* As content or attribute. XML cannot say most control characters: they, and what is not UTF-8, are '?'. */
static void put_text(const char *text, size_t size, FILE *out)
{
	const char *end = text + size;

	for (unsigned step; text < end && *text; text += step ? step : 1) {
		step = lh__report_utf8(text);
		if (*text == '&')
			fputs("&amp;", out);
		else if (*text == '<')
			fputs("&lt;", out);
		else if (*text == '>')
			fputs("&gt;", out);
		else if (*text == '"')
			fputs("&quot;", out);
		else if (!step || (uint8_t)*text < ' ' ||
		         (step == 3 && !memcmp(text, "\xef\xbf", 2) && (uint8_t)text[2] >= 0xbe))
			putc('?', out);
		else
			fwrite(text, 1, step, out);
	}
}

/* Four digits, never 1 where something is missing. */
static void put_rate(uint64_t hit, uint64_t all, FILE *out)
{
	uint64_t rate = all ? (uint64_t)((unsigned __int128)hit * 10000 / all) : 10000;

	fprintf(out, " line-rate=\"%lu.%04lu\" branch-rate=\"0\"", rate / 10000, rate % 10000);
}

static size_t folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? (size_t)(slash - path) : 0;
}

/* Folder first, so that files of one stand together. */
static int by_folder(const void *a, const void *b)
{
	const struct lh_cover_file *x = *(const struct lh_cover_file *const *)a;
	const struct lh_cover_file *y = *(const struct lh_cover_file *const *)b;
	const char *one = lh__report_path(x), *other = lh__report_path(y);
	size_t size = folder_of(one), of_other = folder_of(other);
	int order = memcmp(one, other, size < of_other ? size : of_other);

	if (order || size != of_other)
		return order ? order : size < of_other ? -1 : 1;
	return strcmp(one, other);
}

static bool same_folder(const struct lh_cover_file *one, const struct lh_cover_file *other)
{
	size_t size = folder_of(lh__report_path(one));

	return size == folder_of(lh__report_path(other)) &&
	       !memcmp(lh__report_path(one), lh__report_path(other), size);
}

/* Lines of a file from one to another; what ran of them. */
static void put_lines(const struct lh_cover_file *file, uint32_t from, uint32_t to, const char *indent,
                      FILE *out)
{
	fprintf(out, "%s<lines>\n", indent);
	for (uint32_t i = 0; i < file->lines; i++)
		if (file->line[i].number >= from && file->line[i].number <= to)
			fprintf(out, "%s <line number=\"%u\" hits=\"%d\" branch=\"false\"/>\n", indent,
			        file->line[i].number, file->line[i].hit);
	fprintf(out, "%s</lines>\n", indent);
}

static void put_method(const struct lh_cover_file *file, const struct lh_cover_function *function, bool ran,
                       FILE *out)
{
	uint32_t all = 0, hit = 0;

	for (uint32_t i = 0; i < file->lines; i++) {
		if (file->line[i].number < function->line || file->line[i].number > function->last)
			continue;
		all++;
		hit += file->line[i].hit;
	}
	fputs("      <method name=\"", out);
	put_text(function->name, strlen(function->name), out);
	fputs("\" signature=\"\"", out);
	put_rate(all ? hit : ran, all ? all : 1, out);
	fputs(" complexity=\"0\">\n", out);
	put_lines(file, function->line, function->last, "       ", out);
	fputs("      </method>\n", out);
}

/* The functions of a file stand together. */
static uint32_t first_function(const struct lh_coverage *coverage, uint32_t file)
{
	uint32_t low = 0, high = coverage->functions;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (coverage->function[middle].file < file)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void put_class(const struct lh_coverage *coverage, const struct lh_cover_file *file, size_t root,
                      FILE *out)
{
	uint32_t index = (uint32_t)(file - coverage->file);
	const char *path = lh__report_path(file), *name = path + folder_of(path) + (*path == '/');

	fputs("    <class name=\"", out);
	put_text(name, strlen(name), out);
	fputs("\" filename=\"", out);
	put_text(path + root, strlen(path + root), out);
	putc('"', out);
	put_rate(file->hit, file->lines, out);
	fputs(" complexity=\"0\">\n     <methods>\n", out);
	for (uint32_t i = first_function(coverage, index);
	     i < coverage->functions && coverage->function[i].file == index; i++)
		if (!lh__report_same_function(coverage, i))
			put_method(file, &coverage->function[i], lh__report_function_hit(coverage, i), out);
	fputs("     </methods>\n", out);
	put_lines(file, 0, UINT32_MAX, "     ", out);
	fputs("    </class>\n", out);
}

static void put_package(const struct lh_coverage *coverage, const struct lh_cover_file **file, uint32_t n,
                        size_t root, FILE *out)
{
	const char *path = lh__report_path(file[0]);
	size_t size = folder_of(path);
	uint64_t all = 0, hit = 0;

	for (uint32_t i = 0; i < n; i++) {
		all += file[i]->lines;
		hit += file[i]->hit;
	}
	fputs("  <package name=\"", out);
	if (size > root)
		put_text(path + root, size - root, out);
	else
		putc('.', out);
	putc('"', out);
	put_rate(hit, all, out);
	fputs(" complexity=\"0\">\n   <classes>\n", out);
	for (uint32_t i = 0; i < n; i++)
		put_class(coverage, file[i], root, out);
	fputs("   </classes>\n  </package>\n", out);
}

/* The folder that all n files are in, with its slash at the end. */
static size_t common_root(const struct lh_cover_file **file, uint32_t n)
{
	const char *first = n ? lh__report_path(file[0]) : "";
	size_t root = n ? folder_of(first) + (*first == '/') : 0;

	for (uint32_t i = 1; i < n; i++) {
		const char *path = lh__report_path(file[i]);

		while (root && strncmp(first, path, root))
			for (root--; root && first[root - 1] != '/'; root--)
				;
	}
	return root;
}

static void put_coverage(const struct lh_coverage *coverage, const struct lh_cover_file **file, FILE *out)
{
	const struct lh_record_head *head = lh__record_head(coverage->record);
	size_t root = common_root(file, coverage->files);
	struct lh_report_totals totals;

	lh__report_totals(coverage, &totals);
	fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE coverage SYSTEM "
	      "\"http://cobertura.sourceforge.net/xml/coverage-04.dtd\">\n<coverage",
	      out);
	put_rate(totals.lines_hit, totals.lines, out);
	fprintf(out,
	        " lines-covered=\"%lu\" lines-valid=\"%lu\" branches-covered=\"0\" branches-valid=\"0\""
	        " complexity=\"0\" version=\"linehome %s\" timestamp=\"%lu\">\n <sources>\n  <source>",
	        totals.lines_hit, totals.lines, LH_VERSION, head->created / 1000000);
	if (coverage->files)
		put_text(lh__report_path(file[0]), root > 1 ? root - 1 : root, out);
	fputs("</source>\n </sources>\n <packages>\n", out);
	for (uint32_t i = 0, n; i < coverage->files; i += n) {
		for (n = 1; i + n < coverage->files && same_folder(file[i], file[i + n]); n++)
			;
		put_package(coverage, file + i, n, root, out);
	}
	fputs(" </packages>\n</coverage>\n", out);
}

int lh__report_cobertura(const struct lh_coverage *coverage, const struct lh_report_options *options,
                         FILE *out)
{
	const struct lh_cover_file **file = calloc(coverage->files + 1u, sizeof *file);

	if (!file)
		return -ENOMEM;
	for (uint32_t i = 0; i < coverage->files; i++)
		file[i] = &coverage->file[i];
	qsort(file, coverage->files, sizeof *file, by_folder);
	put_coverage(coverage, file, out);
	free(file);
	return lh__report_end(out);
}
