/*
 * plan.c - believes a plan, or does not. A plan lies in a file that others may have written to, and its
 * offsets are used by an agent inside a program, so each is looked at before any is used.
 */
#include "port/code/plan.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "line/line.h"

#define PAGE 4096u

_Static_assert(sizeof(struct lh_plan_text) == 96, "a text as drawn in plan.h");
_Static_assert(offsetof(struct lh_plan_head, texts) == 104, "the head as drawn in plan.h");
_Static_assert(offsetof(struct lh_plan_head, text) == 160, "texts as drawn in plan.h");
_Static_assert(sizeof(struct lh_plan_head) <= PAGE, "the head fits its page");

static uint32_t head_crc(const void *plan)
{
	static const uint8_t zero[4];
	const uint8_t *bytes = plan;
	size_t at = offsetof(struct lh_plan_head, crc);
	uint32_t crc = lh__crc32c(0, bytes, at);

	crc = lh__crc32c(crc, zero, sizeof zero);
	return lh__crc32c(crc, bytes + at + 4, PAGE - at - 4);
}

/* Whether size bytes at an offset, a multiple of align, lie behind the head and in the plan. */
static bool lies_inside(uint64_t plan_size, uint64_t at, uint64_t size, uint64_t align)
{
	return at >= PAGE && at % align == 0 && at <= plan_size && size <= plan_size - at;
}

static bool text_is_good(const struct lh_plan_text *text, uint64_t plan_size)
{
	const uint64_t bitmap[] = { text->starts, text->armed, text->ends, text->heads };

	if (text->size == 0 || text->size % PAGE || text->size >= UINT64_C(1) << 31 || text->address % PAGE ||
	    text->offset % PAGE || text->address > UINT64_MAX - text->size)
		return false;
	for (unsigned i = 0; i < sizeof bitmap / sizeof *bitmap; i++)
		if (!lies_inside(plan_size, bitmap[i], text->size / 8, 8))
			return false;
	return lies_inside(plan_size, text->original, text->size, PAGE) &&
	       lies_inside(plan_size, text->image, text->size, PAGE);
}

static int check_sites(const struct lh_plan_head *head, struct lh_error *error)
{
	const struct lh_plan_site *site = (const void *)((const uint8_t *)head + head->sites_at);

	for (uint32_t i = 0; i < head->sites; i++)
		if (site[i].text >= head->texts || site[i].at >= head->text[site[i].text].size)
			return lh__fail(error, -EBADMSG, "the plan is damaged: site %u lies outside its text",
			                i);
	return 0;
}

int lh__plan_check(const void *plan, uint64_t size, bool body, struct lh_error *error)
{
	const struct lh_plan_head *head = plan;

	if (size < PAGE || memcmp(head->magic, LH_PLAN_MAGIC, sizeof head->magic) != 0)
		return lh__fail(error, -EBADMSG, "it is no plan of code");
	if (head->version != LH_PLAN_VERSION)
		return lh__fail(error, -EPROTONOSUPPORT, "the plan is of version %u, and not %u",
		                head->version, LH_PLAN_VERSION);
	if (head->crc != head_crc(plan))
		return lh__fail(error, -EBADMSG, "the plan's head is damaged");
	if (head->size != size)
		return lh__fail(error, -EBADMSG, "the plan has %lu bytes, and should have %lu", size,
		                head->size);
	if (head->texts == 0 || head->texts > LH_PLAN_TEXTS || head->id_size == 0 ||
	    head->id_size > LH_PLAN_ID || !lies_inside(size, head->sites_at, head->sites * UINT64_C(8), 8))
		return lh__fail(error, -EBADMSG, "the plan's head makes no sense");
	for (uint32_t i = 0; i < head->texts; i++)
		if (!text_is_good(&head->text[i], size))
			return lh__fail(error, -EBADMSG, "text %u of the plan lies outside it", i);
	if (!body)
		return 0;
	if (lh__crc32c(0, (const uint8_t *)plan + PAGE, size - PAGE) != head->body_crc)
		return lh__fail(error, -EBADMSG, "the plan is damaged");
	return check_sites(head, error);
}

void lh__plan_seal_head(void *head)
{
	((struct lh_plan_head *)head)->crc = head_crc(head);
}

void lh__plan_seal(void *plan)
{
	struct lh_plan_head *head = plan;

	head->body_crc = lh__crc32c(0, (const uint8_t *)plan + PAGE, head->size - PAGE);
	lh__plan_seal_head(plan);
}
