/* ahead_memory.c - memory as it will be: what is there now, beneath stores that come before. See ahead.h. */
#include "port/code/inside/ahead.h"

#define PAGE 4096u

static uint64_t low_bytes(unsigned size)
{
	return size == 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

static bool may(struct lh_ahead *ahead, uint64_t address, unsigned size, bool write)
{
	uint64_t last = address + size - 1;

	return last >= address && lh__ahead_may(ahead, address, write) &&
	       (address / PAGE == last / PAGE || lh__ahead_may(ahead, last, write));
}

static uint64_t filter_of(uint64_t address, unsigned size)
{
	return 1ull << (address / 8 % 64) | 1ull << ((address + size - 1) / 8 % 64);
}

static bool overlap(const struct lh_ahead_store *store, uint64_t address, unsigned size)
{
	return store->address < address + size && address < store->address + store->size;
}

/* Lays a store over what was loaded. */
static void lay(const struct lh_ahead_store *store, uint64_t address, unsigned size,
                struct lh_ahead_value *value)
{
	unsigned i;

	if (!overlap(store, address, size))
		return;
	if (!store->known)
		value->known = false;
	for (i = 0; i < store->size; i++) {
		uint64_t at = store->address + i - address;

		if (at >= size)
			continue;
		value->bits &= ~(0xffull << (at * 8));
		value->bits |= (store->bits >> (i * 8) & 0xff) << (at * 8);
	}
}

static uint64_t fetch(uint64_t address, unsigned size)
{
	const void *from = (const void *)(uintptr_t)address;
	uint64_t bits = 0;

	switch (size) {
	case 1: return *(const volatile uint8_t *)from;
	case 2: return *(const volatile uint16_t *)from;
	case 4: return *(const volatile uint32_t *)from;
	case 8: return *(const volatile uint64_t *)from;
	default: __builtin_memcpy(&bits, from, size); return bits;
	}
}

bool lh__ahead_load(struct lh_ahead *ahead, uint64_t address, unsigned size, struct lh_ahead_value *out)
{
	uint32_t i;

	if (ahead->filter & filter_of(address, size)) {
		/* The newest that has all of it is the answer, if none that is newer has a part. */
		for (i = ahead->stores; i > 0; i--) {
			const struct lh_ahead_store *store = &ahead->store[i - 1];
			uint64_t at = address - store->address;

			if (!overlap(store, address, size))
				continue;
			if (at + size > store->size || address < store->address)
				break;
			out->bits = store->bits >> (at * 8) & low_bytes(size);
			out->known = store->known;
			return true;
		}
	}
	if (!may(ahead, address, size, false))
		return false;
	out->bits = fetch(address, size);
	out->known = true;
	if (ahead->filter & filter_of(address, size))
		for (i = 0; i < ahead->stores; i++)
			lay(&ahead->store[i], address, size, out);
	return true;
}

bool lh__ahead_store(struct lh_ahead *ahead, uint64_t address, unsigned size, struct lh_ahead_value value)
{
	struct lh_ahead_store *store;
	uint32_t i;

	if (!may(ahead, address, size, true))
		return false;
	if (ahead->filter & filter_of(address, size)) {
		for (i = ahead->stores; i > 0; i--) {
			store = &ahead->store[i - 1];
			if (!overlap(store, address, size))
				continue;
			if (store->address != address || store->size != size)
				break;
			store->bits = value.bits & low_bytes(size);
			store->known = value.known;
			return true;
		}
	}
	if (ahead->stores == LH_AHEAD_STORES)
		return false;
	store = &ahead->store[ahead->stores++];
	store->address = address;
	store->size = (uint8_t)size;
	store->bits = value.bits & low_bytes(size);
	store->known = value.known;
	ahead->filter |= filter_of(address, size);
	return true;
}
