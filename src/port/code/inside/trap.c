/*
 * trap.c - the handler. A trap at an armed start is the miss; one at the site of a system call is that call;
 * all else is the program's own.
 *
 * A miss is counted, recorded, supplied, and recorded again (text.h says why), and the thread goes back to
 * the instruction. One that another thread has supplied meanwhile goes back at once.
 */
#include "port/code/inside/internal.h"

#define MAGIC_EXTENDED 0x46505853u
#define FLAG_NESTED 0x4000
#define BREAKPOINT 3
#define RSEQ_SIGNATURE 0x53053053u /* on x86, by convention of all libraries */
#define NEAR (64u * 1024)

/* Whether enter.S can return by itself: see there. On another stack, or with a shadow stack, it cannot. */
static bool direct(const ucontext_t *context)
{
	const greg_t *registers = context->uc_mcontext.gregs;
	const uint8_t *state = (const uint8_t *)context->uc_mcontext.fpregs;
	uint64_t shadow = 0;
	uint32_t magic;

	if (!state || (uint64_t)registers[REG_RSP] - (uintptr_t)context > NEAR ||
	    registers[REG_EFL] & FLAG_NESTED)
		return false;
	__builtin_memcpy(&magic, state + 464, sizeof magic);
	__asm__ volatile("rdsspq %0" : "+r"(shadow)); /* does nothing where there is none */
	return magic == MAGIC_EXTENDED && shadow == 0;
}

static void count(uint64_t *counter, uint64_t by)
{
	__atomic_fetch_add(counter, by, __ATOMIC_RELAXED);
}

void lh__inside_bring(const struct lh_inside_text *text, struct lh_span span, bool off)
{
	if (!off)
		(void)lh__text_record(&text->text, span.from);
	lh__inside_supply(text, span);
	if (!off)
		(void)lh__text_record(&text->text, span.from);
}

static void miss(const struct lh_inside_text *text, const struct lh_span *spans, unsigned spans_count,
                 const ucontext_t *ahead)
{
	struct lh_record_control *control = lh__inside.control;
	bool off = __atomic_load_n(&control->off, __ATOMIC_ACQUIRE);
	unsigned i;

	count(&control->traps, 1);
	for (i = 0; i < spans_count; i++)
		lh__inside_bring(text, spans[i], off);
	if (ahead)
		spans_count += lh__inside_look_ahead(ahead, off);
	count(&control->spans, spans_count);
}

static int site_at(const struct lh_inside_text *text, uint32_t at)
{
	uint32_t low = 0, high = text->site_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (text->sites[middle].at < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low < text->site_count && text->sites[low].at == at &&
	                       lh__inside_interesting(text->sites[low].nr)
	               ? (int)low
	               : -1;
}

/* Whether the INT3 marks a place that the watcher wants to be told of. It is gone when that was answered. */
static bool marked(uintptr_t pc, greg_t *rip)
{
	struct lh_ask ask = { .kind = LH_ASK_MARKER,
		              .process = (int32_t)LH_CALL0(SYS_getpid),
		              .thread = (int32_t)LH_CALL0(SYS_gettid),
		              .address = pc };
	struct lh_answer answer;
	int descriptor;

	if (!lh__inside.markers || lh__inside_ask(&ask, &answer, &descriptor) < 0 ||
	    answer.action == LH_MARKER_OTHER)
		return false;
	if (answer.action == LH_MARKER_SERVE && descriptor >= 0)
		lh__inside_serve(descriptor);
	*rip = (greg_t)pc;
	return true;
}

/* Whether the INT3 was the agent's; then the context is what the thread goes on with. */
static bool answered(ucontext_t *context, int *way)
{
	greg_t *rip = &context->uc_mcontext.gregs[REG_RIP];
	uintptr_t pc = (uintptr_t)*rip - 1;
	const struct lh_inside_text *text = lh__inside_find(pc);
	struct lh_span spans[LH_SPANS];
	uint32_t at;
	unsigned spans_count;
	int site;

	if (!text)
		return false;
	at = (uint32_t)(pc - text->text.start);
	spans_count = text->watched ? lh__text_miss(&text->text, at, lh__inside.granularity, spans) : 0;
	if (spans_count > 0) {
		bool absent = *(volatile const uint8_t *)pc == LH_INT3;
		bool own = text->text.original[at] == LH_INT3; /* the program's instruction */

		*way = !own && direct(context);
		if (!own)
			*rip = (greg_t)pc;
		if (absent)
			miss(text, spans, spans_count, *way ? context : NULL);
		return !absent || !own;
	}
	site = site_at(text, at);
	if (site < 0)
		return text->watched && marked(pc, rip);
	if (text->watched && !__atomic_load_n(&lh__inside.control->off, __ATOMIC_ACQUIRE))
		(void)lh__text_record(&text->text, at);
	count(&lh__inside.control->system_calls, 1);
	*way = lh__inside_site(text, (uint32_t)site, context) && direct(context);
	return true;
}

/*
 * A trap in a restartable sequence (rseq) is not told: the kernel aborts the sequence first, and the frame
 * shows its abort handler, which its signature stands before. It would trap there again and again. So all of
 * the text is supplied, and what of it is not recorded yet never will be.
 */
static bool aborted(const ucontext_t *context)
{
	uintptr_t rip = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
	const struct lh_inside_text *text = lh__inside_find(rip);
	uint32_t signature;

	if (!text || !text->watched || rip - text->text.start < sizeof signature)
		return false;
	__builtin_memcpy(&signature, (const void *)(rip - sizeof signature), sizeof signature);
	if (signature != RSEQ_SIGNATURE)
		return false;
	count(&lh__inside.control->refused, 1);
	lh__inside_supply(text, (struct lh_span){ 0, (uint32_t)(text->text.end - text->text.start - 1) });
	return true;
}

int lh__inside_trap(int signal, siginfo_t *info, ucontext_t *context)
{
	int way = 0;

	if (info->si_code == SI_KERNEL && context->uc_mcontext.gregs[REG_TRAPNO] == BREAKPOINT &&
	    (answered(context, &way) || aborted(context)))
		return way;
	lh__inside_own(info, context);
	return 0;
}
