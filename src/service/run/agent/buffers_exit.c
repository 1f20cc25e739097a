/*
 * buffers_exit.c - what the kernel does with memory when a thread ends: it walks the list of robust mutexes
 * that the thread owns, marks each and wakes who waits. It does so when the thread takes no signals any more,
 * and answers no userfault for it either: at the first absent page it stops, with both engines, and those who
 * wait for the rest do so for ever.
 *
 * So a thread that ends does it itself, just before, as futex(2) and the kernel's exit_robust_list say:
 *
 *     head:   next -> entry -> entry -> ... -> head     at most 2048
 *             offset                 from an entry to its futex word
 *             pending                an entry that was being locked or unlocked
 *
 *     word == tid [| WAITERS]        becomes   OWNER_DIED [| WAITERS], and one is woken
 *
 * Bit 0 of a pointer to an entry says that the mutex inherits priorities: who waits for such is woken by the
 * kernel, as the thread ends.
 *
 * A program that is executed ends the list in the same way, but only if it can be executed: so then the
 * entries are kept, and the kernel does it. (It is about mutexes shared with other processes, behind such as
 * are absent.) When a process is ended by another thread or a signal nobody can do it for the others.
 *
 * The word that is cleared when a thread ends is pinned (buffers_pin.c).
 */
#include "service/run/agent/buffers_inside.h"

#include <errno.h>
#include <linux/futex.h>

#define WAKE_TRIES 16
#define PRIORITY 1ul

struct list {
	struct lh_buffers *self;
	uintptr_t at;
	struct robust_list_head head;
	uint32_t tid;
};

static bool read_list(struct list *list, struct lh_buffers *self)
{
	size_t size = 0;

	list->self = self;
	list->at = 0;
	if (LH_SYS(self->sys, SYS_get_robust_list, 0, &list->at, &size) < 0 || list->at == 0 ||
	    self->copy(&list->head, (const void *)list->at, sizeof list->head) < 0)
		return false;
	list->tid = (uint32_t)LH_SYS(self->sys, SYS_gettid);
	return true;
}

static uintptr_t word_of(const struct list *list, uintptr_t entry)
{
	return (entry & ~PRIORITY) + (uintptr_t)list->head.futex_offset;
}

/*
 * Calls visit for each entry, the pending one last, until it returns false; each is left before it is
 * visited.
 */
static void each_entry(struct list *list, bool (*visit)(struct list *, uintptr_t entry, void *),
                       void *context)
{
	uintptr_t entry = (uintptr_t)list->head.list.next, pending = (uintptr_t)list->head.list_op_pending,
		  next;
	bool there = true;

	for (int left = ROBUST_LIST_LIMIT; there && left > 0 && (entry & ~PRIORITY) != list->at; left--) {
		there = list->self->copy(&next, (const void *)(entry & ~PRIORITY), sizeof next) == 0;
		if (entry != pending && !visit(list, entry, context))
			return;
		entry = next;
	}
	if (pending & ~PRIORITY)
		visit(list, pending, context);
}

/* Mutexes are shared, to the kernel, wherever they stand. */
static void wake_one(struct lh_buffers *self, uintptr_t word)
{
	uint32_t value;

	for (int i = 0; i < WAKE_TRIES; i++)
		if (self->copy(&value, (const void *)word, sizeof value) < 0 ||
		    LH_SYS(self->sys, SYS_futex, word, FUTEX_WAKE, 1) != -EFAULT)
			return;
}

/* False: the word is no word. */
static bool mark(struct list *list, uintptr_t word, uint32_t *seen)
{
	uint32_t before;

	do {
		before = *seen;
		if (list->self->swap((uint32_t *)word, seen, (before & FUTEX_WAITERS) | FUTEX_OWNER_DIED) < 0)
			return false;
	} while (*seen != before); /* somebody began to wait */
	return true;
}

static bool release(struct list *list, uintptr_t entry, void *unused)
{
	uintptr_t word = word_of(list, entry);
	bool pending = entry == (uintptr_t)list->head.list_op_pending, priority = entry & PRIORITY, ours;
	uint32_t seen;

	(void)unused;
	if ((word & 3) || list->self->copy(&seen, (const void *)word, sizeof seen) < 0)
		return false;
	ours = (seen & FUTEX_TID_MASK) == list->tid;
	if (ours && !mark(list, word, &seen))
		return false;
	/* One that was being unlocked may be free already, and nobody woken yet. */
	if (!priority && ((ours && seen & FUTEX_WAITERS) || (pending && seen == 0)))
		wake_one(list->self, word);
	return true;
}

void lh__buffers_thread_ends(struct lh_buffers *self)
{
	struct list list;

	if (!self->home || !read_list(&list, self))
		return;
	each_entry(&list, release, NULL);
	/* Done: the kernel has nothing left to do. Its answer, should it not think so, changes nothing. */
	LH_SYS(self->sys, SYS_set_robust_list, NULL, sizeof list.head);
}

static bool reach(struct list *list, uintptr_t entry, void *hold)
{
	lh__buffers_reach(hold, entry & ~PRIORITY, sizeof(uintptr_t));
	lh__buffers_reach(hold, word_of(list, entry), sizeof(uint32_t));
	return true;
}

void lh__buffers_reach_robust(struct lh_hold *hold)
{
	struct list list;

	if (read_list(&list, hold->self))
		each_entry(&list, reach, hold);
}
