/* fault.c - see fault.h. A clone has the same plan as its original and counts from where that stands. */
#include "store/fault.h"

#include <errno.h>

struct fault {
	struct lh_store store;
	struct lh_store *below;
	struct lh_fault_plan plan;
	uint64_t seen;
	uint64_t injected;
	struct lh_request *failed; /* completed here, oldest first */
	struct lh_request **failed_end;
};

static struct fault *of(struct lh_store *store)
{
	return (struct fault *)store;
}

/* A well-mixed number that depends on its argument alone (the finish of splitmix64). */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* The error that is due for one thing of this kind, or 0. */
static int strike(struct fault *fault, unsigned what)
{
	const struct lh_fault_plan *plan = &fault->plan;
	uint64_t number;
	bool by_count, by_chance;

	if (!(plan->what & what) || plan->error == 0)
		return 0;
	number = __atomic_add_fetch(&fault->seen, 1, __ATOMIC_RELAXED);
	by_count = plan->nth != 0 && (number == plan->nth || (plan->lasting && number > plan->nth));
	by_chance = mix(plan->seed + number * UINT64_C(0x9e3779b97f4a7c15)) % 1000000 < plan->per_million;
	if (!by_count && !by_chance)
		return 0;
	__atomic_add_fetch(&fault->injected, 1, __ATOMIC_RELAXED);
	return plan->error;
}

static unsigned kind_of(const struct lh_request *request)
{
	switch (request->op) {
	case LH_OP_GET: return LH_FAULT_GET;
	case LH_OP_PUT: return LH_FAULT_PUT;
	case LH_OP_REPLACE: return LH_FAULT_REPLACE;
	case LH_OP_DROP: return LH_FAULT_DROP;
	}
	return 0;
}

static void complete(struct fault *fault, struct lh_request *request, int result)
{
	request->result = result;
	request->next = NULL;
	*fault->failed_end = request;
	fault->failed_end = &request->next;
}

/* Hands the requests down. Once some of a submit were taken the rest can no longer be refused as a whole. */
static int pass_down(struct fault *fault, struct lh_request *const *requests, size_t n, bool may_refuse)
{
	int result = n > 0 ? fault->below->ops->submit(fault->below, requests, n) : 0;
	size_t i;

	if (result == 0 || may_refuse)
		return result;
	for (i = 0; i < n; i++)
		complete(fault, requests[i], result);
	return 0;
}

static int fault_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct fault *fault = of(store);
	int result = strike(fault, LH_FAULT_SUBMIT);
	size_t i, start = 0;

	if (result != 0)
		return result;
	for (i = 0; i < n; i++) {
		int error = strike(fault, kind_of(requests[i]));

		if (error == 0)
			continue;
		result = pass_down(fault, requests + start, i - start, start == 0);
		if (result != 0)
			return result;
		complete(fault, requests[i], error);
		start = i + 1;
	}
	return pass_down(fault, requests + start, n - start, start == 0);
}

static size_t fault_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct fault *fault = of(store);
	size_t n;

	for (n = 0; n < max && fault->failed; n++) {
		done[n] = fault->failed;
		fault->failed = fault->failed->next;
	}
	if (!fault->failed)
		fault->failed_end = &fault->failed;
	return n + fault->below->ops->poll(fault->below, done + n, max - n, n > 0 ? 0 : timeout_ms);
}

static int fault_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct fault *fault = of(store);
	int result = strike(fault, LH_FAULT_GET_NOW);

	return result != 0 ? result : fault->below->ops->get_now(fault->below, page, want, data, held);
}

static int fault_sync(struct lh_store *store)
{
	struct fault *fault = of(store);
	int result = strike(fault, LH_FAULT_SYNC);

	return result != 0 ? result : fault->below->ops->sync(fault->below);
}

static int fault_reserve(struct lh_store *store, uint64_t pages)
{
	struct lh_store *below = of(store)->below;

	return below->ops->reserve(below, pages);
}

static int fault_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	struct fault *fault = of(store);
	struct lh_store *below, *copy;
	int result = strike(fault, LH_FAULT_CLONE);

	if (result != 0)
		return lh__fail(error, result, "fault store: a clone fails as planned (%s)",
		                lh__errno_name(result));
	if (fault->failed)
		return lh__fail(error, -EBUSY,
		                "fault store: a clone was asked for while requests are in flight");
	result = fault->below->ops->clone(fault->below, &below, error);
	if (result != 0)
		return result;
	result = lh__fault_open(below, &copy);
	if (result != 0) {
		below->ops->close(below);
		return lh__fail(error, result, "fault store: there is no memory for a clone");
	}
	of(copy)->plan = fault->plan;
	of(copy)->seen = __atomic_load_n(&fault->seen, __ATOMIC_RELAXED);
	*out = copy;
	return 0;
}

static void fault_close(struct lh_store *store)
{
	struct fault *fault = of(store);

	fault->below->ops->close(fault->below);
	lh__free(store->sys, fault, sizeof *fault);
}

static const struct lh_store_ops fault_ops = {
	.name = "fault",
	.submit = fault_submit,
	.poll = fault_poll,
	.get_now = fault_get_now,
	.sync = fault_sync,
	.clone = fault_clone,
	.reserve = fault_reserve,
	.close = fault_close,
};

int lh__fault_open(struct lh_store *below, struct lh_store **out)
{
	struct fault *fault = lh__alloc(below->sys, sizeof *fault);

	if (!fault)
		return -ENOMEM;
	fault->store = (struct lh_store){ .ops = &fault_ops, .sys = below->sys, .caps = below->caps };
	fault->below = below;
	fault->failed_end = &fault->failed;
	*out = &fault->store;
	return 0;
}

void lh__fault_plan(struct lh_store *store, const struct lh_fault_plan *plan)
{
	struct fault *fault = of(store);

	fault->plan = plan ? *plan : (struct lh_fault_plan){ .error = 0 };
	fault->seen = fault->injected = 0;
}

uint64_t lh__fault_injected(const struct lh_store *store)
{
	return __atomic_load_n(&((const struct fault *)store)->injected, __ATOMIC_RELAXED);
}
