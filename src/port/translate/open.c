/* open.c - a translator is made, taken apart, and made anew in a child of fork (translate.h). */
#include "port/translate/inside.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#define CACHE_DEFAULT ((size_t)64 << 20)
#define CACHE_LEAST ((size_t)1 << 20)
#define CACHE_MOST ((size_t)1 << 30)
#define HWCAP2_FSGSBASE 2u
#define ALIVE 1u
#define RENEWING 2u

/* Whether the kernel lets programs use rdfsbase and its like; the processor's word alone does not say. */
static bool has_fsgsbase(const struct lh_sys *sys)
{
	Elf64_auxv_t vector[64];
	long fd = LH_SYS(sys, SYS_openat, AT_FDCWD, "/proc/self/auxv", O_RDONLY | O_CLOEXEC, 0), size;

	if (fd < 0)
		return false;
	size = LH_SYS(sys, SYS_read, fd, vector, sizeof(vector));
	LH_SYS(sys, SYS_close, fd);
	for (size_t i = 0; size > 0 && i < (size_t)size / sizeof(*vector); i++)
		if (vector[i].a_type == AT_HWCAP2)
			return vector[i].a_un.a_val & HWCAP2_FSGSBASE;
	return false;
}

static bool has_xsave(void)
{
	unsigned a, b, c = 0, d;

	return __get_cpuid(1, &a, &b, &c, &d) && c & bit_OSXSAVE;
}

static bool has_in_use(void)
{
	unsigned a = 0, b, c, d;

	return has_xsave() && __get_cpuid_count(0xd, 1, &a, &b, &c, &d) && a & 4;
}

#define ENABLED_UPPER 0xe0u /* of xcr0: masks, upper halves, upper registers */

/* Masks of 64 bits are an extension of AVX-512. */
static void note_vectors(struct lh_translator *translator)
{
	unsigned a, b = 0, c, d;

	__get_cpuid_count(7, 0, &a, &b, &c, &d);
	translator->xsave = has_xsave();
	translator->in_use = has_in_use();
	lh__access_layout(&translator->layout);
	translator->upper = (translator->layout.enabled & ENABLED_UPPER) != 0;
	translator->few = translator->in_use && (!translator->upper || b & bit_AVX512BW);
}

static size_t page_up(size_t size)
{
	return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static void *reserve(const struct lh_sys *sys, size_t size, int protection)
{
	uint64_t at = lh__map(sys, 0, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	return (void *)(uintptr_t)at;
}

static int make(struct lh_translator *translator)
{
	const struct lh_sys *sys = translator->sys;

	translator->slot_bytes =
		PAGE + SIGNAL_BYTES + STACK_BYTES + page_up(LH_T_OWN + translator->client.thread_bytes);
	translator->slots = reserve(sys, translator->slot_bytes * THREADS, PROT_NONE);
	lh__build_rooms(&translator->decoded_bytes, &translator->emitter_bytes);
	translator->decoded = reserve(sys, translator->decoded_bytes, PROT_READ | PROT_WRITE);
	translator->emitter = reserve(sys, translator->emitter_bytes, PROT_READ | PROT_WRITE);
	translator->alive = reserve(sys, PAGE, PROT_READ | PROT_WRITE);
	if (!translator->slots || !translator->decoded || !translator->emitter || !translator->alive)
		return -ENOMEM;
	/* Older kernels than 4.14 have no such advice: there a child of fork must not be translated. */
	LH_SYS(sys, SYS_madvise, translator->alive, PAGE, MADV_WIPEONFORK);
	*translator->alive = ALIVE;
	translator->current = lh__cache_make(translator);
	return translator->current ? 0 : -ENOMEM;
}

static void unmap(const struct lh_sys *sys, void *start, size_t size)
{
	if (start)
		LH_SYS(sys, SYS_munmap, start, size);
}

void lh__translate_close(struct lh_translator *translator)
{
	const struct lh_sys *sys;
	struct lh_translated_thread *thread;
	struct cache *next;

	if (!translator)
		return;
	sys = translator->sys;
	thread = translator->slots ? lh__thread_here(translator) : NULL;
	if (thread)
		lh__thread_leave(translator);
	for (struct cache *cache = translator->retired; cache; cache = next) {
		next = cache->next;
		lh__cache_free(translator, cache);
	}
	if (translator->current)
		lh__cache_free(translator, translator->current);
	unmap(sys, translator->slots, translator->slot_bytes * THREADS);
	unmap(sys, translator->decoded, translator->decoded_bytes);
	unmap(sys, translator->emitter, translator->emitter_bytes);
	unmap(sys, translator->alive, PAGE);
	unmap(sys, translator->guard, GUARDS * sizeof(*translator->guard));
	lh__process_free(translator);
	lh__free(sys, translator, sizeof(*translator));
}

int lh__translate_open(const struct lh_translate_options *options, struct lh_translator **out,
                       struct lh_error *error)
{
	size_t cache = options->cache ? options->cache : CACHE_DEFAULT;
	struct lh_translator *translator;

	if (cache < CACHE_LEAST || cache > CACHE_MOST)
		return lh__fail(error, -EINVAL, "a code cache has 1 MiB to 1 GiB");
	translator = lh__alloc(options->sys, sizeof(*translator));
	if (!translator)
		return lh__fail(error, -ENOMEM, "no memory for a translator");
	translator->sys = options->sys;
	translator->client = options->client;
	translator->cache_size = page_up(cache);
	translator->near = options->near ? options->near : (uint64_t)(uintptr_t)lh__translate_leave;
	translator->fsgsbase = has_fsgsbase(options->sys);
	note_vectors(translator);
	if (make(translator) < 0) {
		lh__translate_close(translator);
		return lh__fail(error, -ENOMEM, "no memory for a code cache");
	}
	*out = translator;
	return 0;
}

/*
 * A child of fork shares the memory behind its parent's cache, and has a copy of what was known of it: it
 * must have a cache of its own before it looks at either. It has one thread, but may have made more since.
 */
void lh__after_fork(struct lh_translator *translator)
{
	uint32_t wiped = 0;
	struct cache *old = translator->current;

	if (__atomic_load_n(translator->alive, __ATOMIC_ACQUIRE) == ALIVE)
		return;
	if (!__atomic_compare_exchange_n(translator->alive, &wiped, RENEWING, false, __ATOMIC_ACQUIRE,
	                                 __ATOMIC_ACQUIRE)) {
		while (__atomic_load_n(translator->alive, __ATOMIC_ACQUIRE) != ALIVE)
			__builtin_ia32_pause();
		return;
	}
	translator->lock.word = 0;
	lh__changed_forked(translator);
	lh__thread_forget_others(translator, lh__thread_here(translator));
	translator->current = lh__cache_make(translator);
	for (struct cache *next; translator->retired; translator->retired = next) {
		next = translator->retired->next;
		lh__cache_free(translator, translator->retired);
	}
	if (old)
		lh__cache_free(translator, old);
	__atomic_store_n(translator->alive, ALIVE, __ATOMIC_RELEASE);
}
