/*
 * changed.c - code that comes, changes and goes (inside.h).
 *
 * What may be translated is what the program may execute. It stays true in one of these ways, by page:
 *
 *     not writable             it changes by a system call, which comes here first (lh__changed_call)
 *     writable, private        it is write-protected (a guard); a store faults (lh__changed_fault), its
 *                              fragments are forgotten, it is writable, until code in it is needed again
 *     shared; writable and     checked: each fragment compares the program's bytes with those that it was
 *     stored to again and      made of when it is entered, and ends behind what may store. Such a page stays
 *     again, or by itself, or  as it is: the program's, and the kernel's
 *     by the kernel; stacks
 *
 * Where nobody hands faults on (no guards) all that is writable is checked.
 *
 * A call is made under the translator's lock, after what it concerns has been forgotten: nothing is
 * translated between the two, and a thread that leaves an old fragment waits for the lock. So it does not
 * matter whether the call fails, or does half of what it was asked for: what is there then is read next.
 *
 * A guard is made before code is read from its page, and taken away after that code's fragments.
 */
#include "port/translate/inside.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#define MOST_OPENED 16u           /* stores that a guard meets until its page is checked instead */
#define MORE_OPENED 2u            /* when that was so before */
#define WHILE ((uint64_t)1 << 30) /* ticks: some third of a second */
#define MOST_GUARDS 16384u        /* each splits a mapping: processes may have some 65,000 */
#define PROBES 32u
#define EVERYWHERE (~(uint64_t)0)
#define LOWEST_PLACE ((uint64_t)1 << 32)
#define HIGHEST ((uint64_t)1 << 47)
#define ERROR_WRITE 2 /* in the error code of a page fault */

static bool failed(uint64_t result)
{
	return result > (uint64_t)-PAGE;
}

/* ---- guards */

/* Under the lock, or where it cannot be had: then a guess. NULL: there is none. make: NULL: no room. */
static struct guard *guard_of(const struct lh_translator *translator, uint64_t number, bool make)
{
	uint64_t hash = (number * 0x9e3779b97f4a7c15ull) >> 32;
	struct guard *empty = NULL;

	if (!translator->guard)
		return NULL;
	for (unsigned i = 0; i < PROBES; i++) {
		struct guard *guard = &translator->guard[(hash + i) % GUARDS];

		if (guard->state != GUARD_NONE && guard->number == number)
			return guard;
		if (guard->state == GUARD_NONE && !empty)
			empty = guard;
	}
	if (!make || !empty)
		return NULL;
	empty->number = number;
	empty->opened = 0;
	return empty;
}

/* The program's own protection, or less by the right to write. */
static bool protect(const struct lh_translator *translator, uint64_t number, int write)
{
	return LH_SYS(translator->sys, SYS_mprotect, number * PAGE, PAGE, PROT_READ | PROT_EXEC | write) == 0;
}

/* Where a page cannot be protected (it is gone; it is part of a huge one) it is checked. */
static void set_guard(struct lh_translator *translator, struct guard *guard, uint32_t state)
{
	bool was = guard->state == GUARD_PROTECTED, is = state == GUARD_PROTECTED;

	translator->checked_count +=
		(uint32_t)(state == GUARD_CHECKED) - (uint32_t)(guard->state == GUARD_CHECKED);
	/* First: a handler of a signal that comes in between must know whose fault it is (lh__changed_fault). */
	__atomic_store_n(&guard->state, (uint8_t)state, __ATOMIC_SEQ_CST);
	if (is && !protect(translator, guard->number, 0)) {
		guard->state = GUARD_KERNEL;
		is = false;
	}
	if (was && !is)
		protect(translator, guard->number, PROT_WRITE);
	translator->guard_count += (uint32_t)is - (uint32_t)was;
}

static void forget_page(struct lh_translator *translator, const struct guard *guard)
{
	if (translator->current)
		lh__cache_forget(translator, guard->number * PAGE, (guard->number + 1) * PAGE);
}

/* The page is written to, or will be: it can be, and what was made of it is gone. */
static void open_guard(struct lh_translator *translator, struct guard *guard, uint32_t state)
{
	if (guard->state != GUARD_PROTECTED && guard->state >= state)
		return;
	forget_page(translator, guard);
	if (state == GUARD_OPEN && ++guard->opened > MOST_OPENED)
		state = GUARD_CHECKED;
	guard->busy = true;
	set_guard(translator, guard, state);
}

/* Pages that were checked and have not changed for a while are guarded again: several times faster. */
static void look_again(struct lh_translator *translator)
{
	uint64_t now = __builtin_ia32_rdtsc();

	if (translator->checked_count == 0 || now - translator->looked < WHILE)
		return;
	translator->looked = now;
	for (unsigned i = 0; i < GUARDS; i++) {
		struct guard *guard = &translator->guard[i];

		if (guard->state != GUARD_CHECKED)
			continue;
		if (!guard->busy) {
			forget_page(translator, guard);
			guard->opened = MOST_OPENED - MORE_OPENED;
			set_guard(translator, guard, GUARD_OPEN);
		}
		guard->busy = false;
	}
}

void lh__changed_stale(struct lh_translator *translator, uint64_t address)
{
	struct guard *guard = guard_of(translator, address / PAGE, false);

	lh__cache_forget(translator, address, address + 1);
	if (guard)
		guard->busy = true;
}

/* Guards are taken away: the program's call is to meet what it made itself. */
static void drop_guards(struct lh_translator *translator, uint64_t start, uint64_t end)
{
	uint64_t first = start / PAGE, last = (end - 1) / PAGE;

	if (!translator->guard)
		return;
	if (last - first < 64) {
		for (uint64_t number = first; number <= last; number++) {
			struct guard *guard = guard_of(translator, number, false);

			if (guard)
				set_guard(translator, guard, GUARD_NONE);
		}
		return;
	}
	for (unsigned i = 0; i < GUARDS; i++)
		if (translator->guard[i].state && translator->guard[i].number - first <= last - first)
			set_guard(translator, &translator->guard[i], GUARD_NONE);
}

int lh__changed_guard(struct lh_translator *translator)
{
	uint64_t at = lh__map(translator->sys, 0, GUARDS * sizeof(struct guard), PROT_READ | PROT_WRITE,
	                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	translator->guard = (struct guard *)(uintptr_t)at;
	translator->guards = at != 0;
	return at ? 0 : -ENOMEM;
}

/* ---- what is known of memory */

/*
 * 0: the program may execute what is there; -EFAULT: it may not; -ENOSYS: nobody says. Remembered only where
 * all calls come by here.
 */
static int region_of(struct lh_translator *translator, uint64_t address, struct region *out)
{
	int result;

	for (unsigned i = 0; i < REGIONS; i++) {
		*out = translator->region[i];
		if (address - out->start < out->end - out->start)
			return 0;
	}
	*out = (struct region){ .kind = REGION_READ };
	result = lh__region_at(translator->sys, address, out);
	if (result < 0)
		return result;
	if (!(out->kind & REGION_EXECUTE) || !(out->kind & (REGION_READ | REGION_WRITE)))
		return -EFAULT;
	if (translator->guards)
		translator->region[translator->next_region++ % REGIONS] = *out;
	return 0;
}

/* Whether it has to be checked instead. */
static bool guard_page(struct lh_translator *translator, uint64_t number, const struct region *region)
{
	struct guard *guard = NULL;

	if (translator->guards && translator->guard_count < MOST_GUARDS &&
	    !lh__thread_stack_in(translator, region->start, region->end))
		guard = guard_of(translator, number, true);
	if (!guard)
		return true;
	set_guard(translator, guard, GUARD_PROTECTED);
	return guard->state != GUARD_PROTECTED;
}

/* By the kernel: the end of a file may lie before that of its mapping. */
static bool is_there(const struct lh_translator *translator, uint64_t number)
{
	uint8_t byte;

	return lh__peek(translator->sys, number * PAGE, &byte, 1) == 0;
}

int lh__changed_page(struct lh_translator *translator, struct page *page)
{
	uint64_t number = page->number;
	struct guard *guard = guard_of(translator, number, false);
	struct region region = { .kind = REGION_READ };
	int result = 0;

	if (guard && guard->state < GUARD_CHECKED)
		set_guard(translator, guard, GUARD_PROTECTED);
	if (!guard)
		result = region_of(translator, number * PAGE, &region);
	if (result == -EFAULT || (region.kind & REGION_READ && !is_there(translator, number)))
		return -EFAULT;
	page->made = guard || !(region.kind & REGION_FILE);
	if (guard)
		page->checked = guard->state >= GUARD_CHECKED;
	else
		page->checked = region.kind & REGION_SHARED ||
		                (region.kind & REGION_WRITE && guard_page(translator, number, &region));
	return 0;
}

bool lh__changed_forget(struct lh_translator *translator, uint64_t start, uint64_t end)
{
	bool any = translator->current && lh__cache_forget(translator, start, end);

	for (unsigned i = 0; i < REGIONS; i++)
		if (translator->region[i].start < end && translator->region[i].end > start)
			translator->region[i].start = translator->region[i].end = 0;
	return any;
}

void lh__changed_forked(struct lh_translator *translator)
{
	struct lh_translated_thread *thread = lh__thread_here(translator);

	for (unsigned i = 0; i < REGIONS; i++)
		translator->region[i].start = translator->region[i].end = 0;
	translator->guard_count = translator->checked_count = 0;
	for (unsigned i = 0; translator->guard && i < GUARDS; i++) {
		translator->guard_count += translator->guard[i].state == GUARD_PROTECTED;
		translator->checked_count += translator->guard[i].state == GUARD_CHECKED;
	}
	if (thread)
		thread->holds = 0;
}

bool lh__changed_wait(struct lh_translated_thread *thread, uint64_t start, uint64_t end)
{
	uint32_t number;

	if (!__atomic_load_n(&thread->holds, __ATOMIC_SEQ_CST))
		return false;
	/* Handlers may interrupt each other; the dispatcher goes on when all have returned. */
	number = __atomic_fetch_add(&thread->waiting, 1, __ATOMIC_SEQ_CST);
	if (number < WAITING)
		thread->wait[number] = (struct range){ start, end };
	return true;
}

static void forget_waiting(struct lh_translated_thread *thread)
{
	uint32_t count = __atomic_exchange_n(&thread->waiting, 0, __ATOMIC_SEQ_CST);

	if (count > WAITING)
		lh__changed_forget(thread->translator, 0, EVERYWHERE);
	for (uint32_t i = 0; i < count && count <= WAITING; i++)
		lh__changed_forget(thread->translator, thread->wait[i].start, thread->wait[i].end);
}

void lh__changed_hold(struct lh_translated_thread *thread)
{
	struct lh_translator *translator = thread->translator;

	__atomic_store_n(&thread->holds, 1, __ATOMIC_SEQ_CST);
	lh__lock(translator->sys, &translator->lock);
	forget_waiting(thread);
	if (translator->checked_count)
		look_again(translator);
}

void lh__changed_release(struct lh_translated_thread *thread)
{
	lh__unlock(thread->translator->sys, &thread->translator->lock);
	__atomic_store_n(&thread->holds, 0, __ATOMIC_SEQ_CST);
}

/* ---- system calls that change code */

struct change {
	struct range range[2]; /* what is concerned */
	bool came, went;       /* code of a file; code that has been executed */
};

static uint64_t page_up(uint64_t size)
{
	return (size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

static struct range range_of(uint64_t start, uint64_t size)
{
	uint64_t end = start + page_up(size);

	return (struct range){ start & ~(uint64_t)(PAGE - 1), end < start ? EVERYWHERE : end };
}

static bool maps(const uint64_t *argument, struct change *change)
{
	bool fixed = argument[3] & MAP_FIXED;

	change->came = argument[2] & PROT_EXEC && !(argument[3] & MAP_ANONYMOUS);
	if (fixed)
		change->range[0] = range_of(argument[0], argument[1]);
	return fixed || change->came;
}

static bool protects(const uint64_t *argument, struct change *change)
{
	change->range[0] = range_of(argument[0], argument[1]);
	if (argument[2] & PROT_GROWSDOWN)
		change->range[0].start = 0;
	if (argument[2] & PROT_GROWSUP)
		change->range[0].end = EVERYWHERE;
	return true;
}

static bool moves(const uint64_t *argument, struct change *change)
{
	change->range[0] = range_of(argument[0], argument[1] > argument[2] ? argument[1] : argument[2]);
	if (argument[3] & MREMAP_FIXED)
		change->range[1] = range_of(argument[4], argument[2]);
	return true;
}

static bool shrinks(const struct lh_translator *translator, uint64_t to, struct change *change)
{
	uint64_t now = (uint64_t)LH_SYS(translator->sys, SYS_brk, 0);

	if (to == 0 || to >= now)
		return false;
	change->range[0] = range_of(to, now - to + PAGE);
	return true;
}

static bool advises(const uint64_t *argument, struct change *change)
{
	change->range[0] = range_of(argument[0], argument[1]);
	return argument[2] == MADV_DONTNEED || argument[2] == MADV_REMOVE || argument[2] == MADV_FREE ||
	       argument[2] == MADV_DONTNEED_LOCKED;
}

/* A file's places that are addresses of code as well are rare enough to be taken for such. */
static bool is_code(const struct lh_translator *translator, uint64_t at)
{
	struct region region;

	return at >= LOWEST_PLACE && at < HIGHEST && lh__region_at(translator->sys, at, &region) == 0 &&
	       region.kind & REGION_EXECUTE;
}

/* Writing to /proc/self/mem, which changes what is not writable too. */
static bool pokes(const struct lh_translator *translator, uint64_t at, uint64_t size, struct change *change)
{
	if (!is_code(translator, at) || size > HIGHEST)
		return false;
	change->range[0] = (struct range){ at, at + size };
	return true;
}

static bool writes(const struct lh_translator *translator, const uint64_t *argument, struct change *change)
{
	if (!translator->memory || argument[0] + 1 != (uint64_t)translator->memory)
		return false;
	return pokes(translator, (uint64_t)LH_SYS(translator->sys, SYS_lseek, argument[0], 0, SEEK_CUR),
	             argument[2], change);
}

static bool seeks(struct lh_translator *translator, const uint64_t *argument)
{
	if (argument[2] == SEEK_SET && is_code(translator, argument[1]))
		translator->memory = (int)argument[0] + 1;
	return false;
}

/* Whether the call may change what code there is, and where. */
static bool changes(struct lh_translator *translator, const struct lh_translate_call *call,
                    struct change *change)
{
	uint64_t argument[6];

	for (int i = 0; i < 6; i++)
		argument[i] = (uint64_t)call->argument[i];
	switch (call->number) {
	case SYS_mmap: return maps(argument, change);
	case SYS_mprotect:
	case SYS_pkey_mprotect: return protects(argument, change);
	case SYS_munmap:
	case SYS_remap_file_pages: change->range[0] = range_of(argument[0], argument[1]); return true;
	case SYS_mremap: return moves(argument, change);
	case SYS_brk: return shrinks(translator, argument[0], change);
	case SYS_madvise: return advises(argument, change);
	case SYS_pwrite64: return pokes(translator, argument[3], argument[2], change);
	case SYS_lseek: return seeks(translator, argument);
	case SYS_write: return writes(translator, argument, change);
	/* How much of memory a segment takes is not known here; they are rare. */
	case SYS_shmat: change->range[0].end = EVERYWHERE; return argument[2] & SHM_REMAP;
	case SYS_shmdt: change->range[0].end = EVERYWHERE; return true;
	default: return false;
	}
}

/* Whether there was code. */
static bool forget_before(struct lh_translator *translator, const struct range *range)
{
	bool any;

	if (range->end <= range->start)
		return false;
	any = lh__changed_forget(translator, range->start, range->end);
	drop_guards(translator, range->start, range->end);
	return any;
}

static void tell(const struct lh_translator *translator, const struct lh_translate_call *call,
                 const struct change *change)
{
	uint64_t result = (uint64_t)call->result;
	void (*mapped)(void *, uint64_t, uint64_t) = translator->mapped;

	if (!mapped || failed(result))
		return;
	if (change->came)
		mapped(translator->client.context, result, result + page_up((uint64_t)call->argument[1]));
	else if (change->went && (call->number == SYS_munmap || call->number == SYS_mmap))
		mapped(translator->client.context, change->range[0].start, change->range[0].end);
}

static void release(struct lh_translated_thread *thread)
{
	lh__changed_release(thread);
	while (__atomic_load_n(&thread->waiting, __ATOMIC_SEQ_CST)) {
		lh__changed_hold(thread);
		lh__changed_release(thread);
	}
}

bool lh__changed_call(struct lh_translated_thread *thread, struct lh_translate_call *call)
{
	struct lh_translator *translator = thread->translator;
	struct change change = { 0 };

	if (!changes(translator, call, &change)) {
		if (translator->guard_count)
			lh__changed_buffers(translator, call);
		if (translator->checked_count && __builtin_ia32_rdtsc() - translator->looked >= WHILE) {
			lh__changed_hold(thread);
			release(thread);
		}
		return false;
	}
	lh__changed_hold(thread);
	for (int i = 0; i < 2; i++)
		change.went |= forget_before(translator, &change.range[i]);
	call->result = LH_SYS(translator->sys, call->number, call->argument[0], call->argument[1],
	                      call->argument[2], call->argument[3], call->argument[4], call->argument[5]);
	release(thread);
	tell(translator, call, &change);
	return true;
}

void lh__changed_written(struct lh_translator *translator, uint64_t start, uint64_t size)
{
	uint64_t first = start / PAGE, last = (start + size - 1) / PAGE;

	if (size == 0 || start + size < start)
		return;
	lh__lock(translator->sys, &translator->lock);
	if (last - first < GUARDS) {
		for (uint64_t number = first; number <= last; number++) {
			struct guard *guard = guard_of(translator, number, false);

			if (guard)
				open_guard(translator, guard, GUARD_KERNEL);
		}
	} else {
		for (unsigned i = 0; i < GUARDS; i++)
			if (translator->guard[i].state && translator->guard[i].number - first <= last - first)
				open_guard(translator, &translator->guard[i], GUARD_KERNEL);
	}
	lh__unlock(translator->sys, &translator->lock);
}

/* ---- stores to guarded pages */

/*
 * The thread is in the middle of a fragment that is no longer true: it makes its store in one of that
 * instruction alone, and then comes to the translator. At an instruction's place all registers are the
 * program's, or what the same instruction makes of them in any fragment.
 */
static void leave_old(struct lh_translated_thread *thread, const struct fragment *old, int instruction,
                      ucontext_t *context)
{
	struct lh_translator *translator = thread->translator;
	const struct lh_translate_client *client = &translator->client;
	uint64_t address = old->address + old->places[instruction].program;
	struct fragment *rest = NULL, *held = thread->held_in;
	int result = translator->current ? lh__build_rest(translator, address, &rest) : -ENOMEM;

	if (result == -ENOSPC && lh__cache_flush(translator) == 0)
		result = lh__build_rest(translator, address, &rest);
	if (result < 0)
		return;
	if (client->cut)
		client->cut(client->context, thread->own, old->address, old->instructions,
		            (unsigned)instruction + 1);
	if (held)
		held->held--;
	thread->held_in = NULL;
	/* The old cache may be gone after this. */
	lh__cache_enter(translator, thread);
	if (held)
		lh__held_force(thread, thread->cache, rest);
	context->uc_mcontext.gregs[REG_RIP] =
		(greg_t)(uintptr_t)(thread->cache->execute + rest->code + rest->places[0].code);
}

static bool fault_in(struct lh_translator *translator, struct guard *guard,
                     struct lh_translated_thread *thread, ucontext_t *context)
{
	uint64_t start = guard->number * PAGE, code = (uint64_t)context->uc_mcontext.gregs[REG_RIP];
	struct cache *cache;
	int instruction = -1;
	const struct fragment *fragment =
		thread ? lh__cache_fragment(translator, code, &cache, &instruction) : NULL;
	bool own = fragment && instruction >= 0 && fragment->address < start + PAGE &&
	           fragment->address + fragment->length > start;

	if (guard->state != GUARD_PROTECTED) /* another thread has been here first */
		return protect(translator, guard->number, PROT_WRITE);
	open_guard(translator, guard, own ? GUARD_CHECKED : GUARD_OPEN);
	if (own && instruction + 1 < fragment->instructions)
		leave_old(thread, fragment, instruction, context);
	return true;
}

bool lh__changed_fault(struct lh_translator *translator, const siginfo_t *info, ucontext_t *context)
{
	uint64_t number = (uint64_t)(uintptr_t)info->si_addr / PAGE, mask;
	struct lh_translated_thread *thread;
	struct guard *guard;
	bool ours;

	if (!translator->guard || info->si_signo != SIGSEGV || info->si_code != SEGV_ACCERR ||
	    !(context->uc_mcontext.gregs[REG_ERR] & ERROR_WRITE))
		return false;
	lh__after_fork(translator);
	thread = lh__thread_here(translator);
	if (thread && lh__changed_wait(thread, number * PAGE, number * PAGE + PAGE))
		return guard_of(translator, number, false) && protect(translator, number, PROT_WRITE);
	mask = lh__hold(translator);
	guard = guard_of(translator, number, false);
	ours = guard && fault_in(translator, guard, thread, context);
	lh__release(translator, mask);
	return ours;
}
