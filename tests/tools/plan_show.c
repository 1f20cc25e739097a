/*
 * plan_show.c - prints what a plan of code says, for shell tests.
 *
 *     plan_show FILE                     its numbers, one a line; whether it came from the cache
 *     plan_show FILE starts|armed|ends|heads    addresses, as the file has them
 *     plan_show FILE sites               address and number of each site
 *     plan_show FILE check               whether the image is the original with INT3 at each armed start
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "service/code/plan_make.h"

static const uint64_t *part(const struct lh_plan_head *head, uint64_t at)
{
	return (const uint64_t *)((const uint8_t *)head + at);
}

static bool is_set(const uint64_t *bitmap, uint64_t at)
{
	return bitmap[at / 64] >> at % 64 & 1;
}

static void show_numbers(const struct lh_plan *plan)
{
	const struct lh_plan_head *head = plan->head;

	printf("cached %d\nfunctions %" PRIu64 "\ninstructions %" PRIu64 "\nblocks %" PRIu64 "\n",
	       plan->cached, head->functions, head->instructions, head->blocks);
	printf("undecoded %" PRIu64 "\noutside %" PRIu64 "\ntexts %u\nsites %u\nid_size %u\n",
	       head->undecoded, head->outside, head->texts, head->sites, head->id_size);
}

static void show_sites(const struct lh_plan_head *head)
{
	const struct lh_plan_site *site = (const void *)part(head, head->sites_at);

	for (uint32_t i = 0; i < head->sites; i++)
		printf("%" PRIx64 " %d\n", head->text[site[i].text].address + site[i].at, site[i].nr);
}

static int show_bitmap(const struct lh_plan_head *head, const char *name)
{
	for (uint32_t i = 0; i < head->texts; i++) {
		const struct lh_plan_text *text = &head->text[i];
		uint64_t at = strcmp(name, "starts") == 0  ? text->starts
		              : strcmp(name, "armed") == 0 ? text->armed
		              : strcmp(name, "ends") == 0  ? text->ends
		              : strcmp(name, "heads") == 0 ? text->heads
		                                           : 0;

		if (at == 0)
			return 2;
		for (uint64_t k = 0; k < text->size; k++)
			if (is_set(part(head, at), k))
				printf("%" PRIx64 "\n", text->address + k);
	}
	return 0;
}

static int check(const struct lh_plan_head *head)
{
	for (uint32_t i = 0; i < head->texts; i++) {
		const struct lh_plan_text *text = &head->text[i];
		const uint8_t *original = (const uint8_t *)part(head, text->original);
		const uint8_t *image = (const uint8_t *)part(head, text->image);

		for (uint64_t k = 0; k < text->size; k++) {
			bool armed = is_set(part(head, text->armed), k);

			if (image[k] != (armed ? 0xcc : original[k]) || (armed && original[k] == 0xcc) ||
			    (armed && !is_set(part(head, text->starts), k)) ||
			    (is_set(part(head, text->heads), k) && !is_set(part(head, text->starts), k)) ||
			    (is_set(part(head, text->ends), k) && !is_set(part(head, text->starts), k)))
				return printf("wrong at %" PRIx64 "\n", text->address + k), 1;
		}
	}
	printf("whole\n");
	return 0;
}

int main(int argc, char **argv)
{
	struct lh_error error = { 0 };
	struct lh_plan plan;
	int file, result;

	if (argc < 2 || (file = open(argv[1], O_RDONLY | O_CLOEXEC)) < 0)
		return 2;
	result = lh__plan_open(&lh__sys_default, file, argv[1], &plan, &error);
	if (result < 0) {
		printf("%s %s\n", lh__errno_name(result), error.text);
		return 1;
	}
	if (argc < 3)
		show_numbers(&plan);
	else if (strcmp(argv[2], "sites") == 0)
		show_sites(plan.head);
	else if (strcmp(argv[2], "check") == 0)
		result = check(plan.head);
	else
		result = show_bitmap(plan.head, argv[2]);
	lh__plan_close(&lh__sys_default, &plan);
	close(file);
	return result;
}
