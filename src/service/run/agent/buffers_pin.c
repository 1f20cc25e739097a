/*
 * buffers_pin.c - memory that the kernel writes to at times of its own choosing: a thread's tid word when it
 * ends, its rseq area when it is scheduled, its robust list. Absent, the first leaves a join waiting for ever
 * and the second kills the process. With glibc all three of a thread lie in the same page or two, so a thread
 * takes one pin.
 *
 * A pin stays when its thread ends (the kernel writes to it after that) and serves the next thread whose
 * stack is put there; it goes when the program unmaps it. With more threads than pins, the two pins that are
 * nearest to each other become one, which costs memory and never correctness.
 */
#include "service/run/agent/buffers_inside.h"

#include <errno.h>
#include <linux/sched.h>

static void drop(struct lh_buffers *self, unsigned i)
{
	if (self->pin[i].slot >= 0)
		lh__home_unkeep(self->home, self->pin[i].slot);
	self->pin[i] = self->pin[--self->pins];
}

/* Without a slot a pin is only a note, for which one is asked the next time. */
static int keep(struct lh_buffers *self, uintptr_t start, uintptr_t end)
{
	return lh__home_keep(self->home, start, end);
}

/* Makes a pin another range, without a moment in which what both cover is not kept. */
static void move(struct lh_buffers *self, struct lh_pin *pin, uintptr_t start, uintptr_t end)
{
	int old = pin->slot;

	if (pin->start == start && pin->end == end && old >= 0)
		return;
	pin->slot = keep(self, start, end);
	pin->start = start;
	pin->end = end;
	if (old >= 0)
		lh__home_unkeep(self->home, old);
}

static uintptr_t gap(const struct lh_pin *a, const struct lh_pin *b)
{
	if (a->start <= b->end && b->start <= a->end)
		return 0;
	return a->start > b->end ? a->start - b->end : b->start - a->end;
}

static void join(struct lh_buffers *self, unsigned i, unsigned j)
{
	struct lh_pin a = self->pin[i], b = self->pin[j];

	move(self, &self->pin[i], a.start < b.start ? a.start : b.start, a.end > b.end ? a.end : b.end);
	drop(self, j);
}

static void join_nearest(struct lh_buffers *self)
{
	unsigned best_i = 0, best_j = 1;

	for (unsigned i = 0; i < self->pins; i++)
		for (unsigned j = i + 1; j < self->pins; j++)
			if (gap(&self->pin[i], &self->pin[j]) < gap(&self->pin[best_i], &self->pin[best_j])) {
				best_i = i;
				best_j = j;
			}
	join(self, best_i, best_j);
}

static void add(struct lh_buffers *self, uintptr_t start, uintptr_t end)
{
	struct lh_pin wanted = { start, end, -1 };

	for (unsigned i = 0; i < self->pins; i++)
		if (gap(&self->pin[i], &wanted) == 0) {
			struct lh_pin *pin = &self->pin[i];

			move(self, pin, start < pin->start ? start : pin->start,
			     end > pin->end ? end : pin->end);
			return;
		}
	if (self->pins == LH_PINS_MAX)
		join_nearest(self);
	wanted.slot = keep(self, start, end);
	self->pin[self->pins++] = wanted;
}

static void pin(struct lh_buffers *self, uintptr_t start, size_t size)
{
	uintptr_t end = LH_PAGES_OF(start + size + LH_PAGE_SIZE - 1);
	unsigned char byte;

	if (start < LH_LOWEST || start >= LH_HIGHEST)
		return;
	lh__lock(self->sys, &self->pin_lock);
	add(self, LH_PAGES_OF(start), end);
	lh__unlock(self->sys, &self->pin_lock);
	/* What is not there the kernel will find out. */
	for (uintptr_t at = start; at < end; at = LH_PAGES_OF(at) + LH_PAGE_SIZE)
		if (self->copy(&byte, (const void *)at, 1) < 0)
			return;
}

static void pin_clone(struct lh_buffers *self, uint64_t flags, uintptr_t child_tid)
{
	if (flags & (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID))
		pin(self, child_tid, sizeof(int));
}

void lh__buffers_pin(struct lh_buffers *self, const struct lh_trap *trap)
{
	uintptr_t address = (uintptr_t)trap->argument[0];
	struct clone_args args = { 0 };

	if (trap->nr == SYS_set_tid_address)
		pin(self, address, sizeof(int));
	else if (trap->nr == SYS_set_robust_list)
		pin(self, address, 3 * sizeof(uintptr_t));
	else if (trap->nr == SYS_rseq)
		pin(self, address, (uint32_t)trap->argument[1]);
	else if (trap->nr == SYS_clone)
		pin_clone(self, (uint64_t)trap->argument[0], (uintptr_t)trap->argument[3]);
	else if (address >= LH_LOWEST && self->copy(&args, (const void *)address, CLONE_ARGS_SIZE_VER0) == 0)
		pin_clone(self, args.flags, args.child_tid);
}

void lh__buffers_fork_child(struct lh_buffers *self)
{
	self->forks++;
	self->pin_lock.word = 0; /* whoever held it is not in this process */
	for (unsigned i = 0; i < self->pins; i++)
		self->pin[i].slot = keep(self, self->pin[i].start, self->pin[i].end);
}

/* What is left of a pin without [start, end); where that is two pieces, it stays whole. */
static void cut(struct lh_buffers *self, unsigned i, uintptr_t start, uintptr_t end)
{
	struct lh_pin *pin = &self->pin[i];

	if (start <= pin->start && end >= pin->end)
		drop(self, i);
	else if (start <= pin->start)
		move(self, pin, end, pin->end);
	else if (end >= pin->end)
		move(self, pin, pin->start, start);
}

void lh__buffers_forget(struct lh_buffers *self, uintptr_t start, uintptr_t end)
{
	/* Most programs pin a few pages, and unmap others. */
	if (__atomic_load_n(&self->pins, __ATOMIC_RELAXED) == 0)
		return;
	lh__lock(self->sys, &self->pin_lock);
	for (unsigned i = self->pins; i-- > 0;)
		if (start < self->pin[i].end && end > self->pin[i].start)
			cut(self, i, start, end);
	lh__unlock(self->sys, &self->pin_lock);
}
