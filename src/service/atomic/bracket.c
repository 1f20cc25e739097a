/*
 * bracket.c - a bracketed function is entered, and returns (bracket.h).
 *
 * Of a function that both begins and ends transactions only the outermost call counts: inner ones would begin
 * and end what is open anyway. Of other functions each call counts, as each call of tx_begin and tx_end does.
 */
#include "service/atomic/bracket.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "service/atomic/inside.h"
#include "service/pool/frames.h"

#define BRACKETS 256u
#define HAS_AVX 1u
#define HAS_XGETBV1 4u

/* Of the process: their stubs know them by address, and nobody hands a function that is entered anything. */
static struct lh_bracket brackets[BRACKETS];
static unsigned bracket_count;
static void (*say_line)(const char *line);
static void (*tell_undone)(const char *function, int error);
uint8_t lh__bracket_widths;

static void find_widths(void)
{
	unsigned a, b, c = 0, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX))
		return;
	lh__bracket_widths = HAS_AVX;
	if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d) && a & 4)
		lh__bracket_widths = HAS_XGETBV1;
}

void lh__brackets_say(void (*say)(const char *line))
{
	say_line = say;
}

void lh__brackets_tell(void (*undone)(const char *function, int error))
{
	tell_undone = undone;
}

struct lh_bracket *lh__bracket_of(uint64_t address, const char *name)
{
	struct lh_bracket *bracket = &brackets[bracket_count];

	for (unsigned i = 0; i < bracket_count; i++)
		if (brackets[i].address == address)
			return &brackets[i];
	if (bracket_count == BRACKETS)
		return NULL;
	if (bracket_count++ == 0)
		find_widths();
	bracket->address = address;
	strncpy(bracket->name, name, sizeof(bracket->name) - 1);
	bracket->name[strcspn(bracket->name, "@")] = 0; /* of a version */
	return bracket;
}

/* Of one bracket the same thing is said once, unless something was undone. */
static void complain(struct lh_bracket *bracket, int error, const char *what, const char *why)
{
	char line[256];

	if (!say_line || (bracket->complained == error && error != -ENOSPC && error != -ECANCELED))
		return;
	bracket->complained = error;
	lh__format(line, sizeof(line), "%s: %s: %s", bracket->name, what, why);
	say_line(line);
}

static const char *why_not_begun(int error)
{
	switch (error) {
	case -ENODEV: return "no pool is open with LH_SEE_TRANSLATED";
	case -EBUSY: return "the processor's gs register is the program's own";
	case -ENOMEM: return "there is no room for translated code";
	case -ECHILD: return "this is a child of the process that opened the pool";
	default: return lh__errno_name(error);
	}
}

static const char *why_undone(int error)
{
	switch (error) {
	case -ENOSPC: return "there were more changes than the log has room for";
	case -ECANCELED: return "one inside it was aborted, or made a system call that cannot be undone";
	default: return lh__errno_name(error);
	}
}

/* Whether a call of a function that both begins and ends is under way. */
static bool is_inside(const struct lh_frames *frames)
{
	for (unsigned i = frames->marks; i-- > 0;) {
		const struct lh_bracket *bracket = frames->mark[i].who;

		if (bracket->begins && bracket->ends)
			return true;
	}
	return false;
}

void lh__bracket_enter(struct lh_bracket *bracket, uint64_t stack_pointer)
{
	int on = lh__translated_settle(stack_pointer), result;

	if (on < 0)
		return; /* a handler of a signal: as it is */
	if (on && bracket->begins && bracket->ends && is_inside(lh__translated_frames()))
		return;
	if (bracket->begins) {
		result = lh__translated_begin(stack_pointer);
		if (result < 0) {
			complain(bracket, result, "runs without a transaction", why_not_begun(result));
			return;
		}
		on = true;
	}
	if (on && bracket->ends && !lh__frames_mark(lh__translated_frames(), stack_pointer, bracket))
		complain(bracket, -EMLINK, "its return ends no transaction",
		         "too many calls of such functions are under way");
}

int lh__bracket_leave(void)
{
	const struct lh_bracket *bracket = lh__frames_unmark(lh__translated_frames());
	int result = lh__translated_commit();

	if (result < 0 && result != -EPERM && result != -ECHILD && bracket) {
		complain(&brackets[bracket - brackets], result, "its transaction was undone",
		         why_undone(result));
		if (tell_undone)
			tell_undone(bracket->name, result);
	}
	return lh__translated_is_on();
}
