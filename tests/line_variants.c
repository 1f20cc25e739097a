/*
 * line_variants.c - each variant of diff, nonzero, changed, hash and CRC-32C against a slow one written here,
 * on random and on adversarial pages, aligned and not, at the edge of what may be read.
 */
#include "inject.h"
#include "line/line.h"
#include "line_random.h"
#include "tap.h"

static uint64_t seed;
static unsigned char *page_a, *page_b;

/* ---- what the variants are held against ---- */

static lh_mask slow_diff(const unsigned char *a, const unsigned char *b)
{
	lh_mask mask = 0;
	unsigned i;

	for (i = 0; i < LH_PAGE_SIZE; i++)
		if (a[i] != b[i])
			mask |= lh__mask_line(i / LH_LINE_SIZE);
	return mask;
}

static uint32_t slow_crc(uint32_t crc, const unsigned char *data, size_t size)
{
	int bit;

	for (crc = ~crc; size > 0; size--) {
		crc ^= *data++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

/* The product in GF(2^64), bit by bit. */
static uint64_t slow_product(uint64_t a, uint64_t b)
{
	uint64_t product = 0;

	for (; b; b >>= 1, a = a << 1 ^ (a >> 63 ? 0x1b : 0))
		if (b & 1)
			product ^= a;
	return product;
}

static uint64_t slow_hash(const struct lh_hash_key *key, const unsigned char *line)
{
	uint64_t word[8], sum = 0;
	unsigned i;

	memcpy(word, line, sizeof word);
	for (i = 0; i < 8; i++)
		sum ^= slow_product(word[i], key->word[i]);
	return sum;
}

/* ---- diff and nonzero ---- */

static unsigned diff_every_bit(const struct lh_line_ops *ops)
{
	unsigned bit, wrong = 0;

	random_bytes(&seed, page_a, LH_PAGE_SIZE);
	memcpy(page_b, page_a, LH_PAGE_SIZE);
	wrong += ops->diff(page_a, page_b) != 0;
	for (bit = 0; bit < LH_PAGE_SIZE * 8; bit++) {
		page_b[bit / 8] ^= (unsigned char)(1u << bit % 8);
		wrong += ops->diff(page_a, page_b) != lh__mask_line(bit / 512);
		wrong += ops->diff(page_b, page_a) != lh__mask_line(bit / 512);
		page_b[bit / 8] = page_a[bit / 8];
	}
	return wrong;
}

static unsigned nonzero_every_bit(const struct lh_line_ops *ops)
{
	unsigned bit, wrong = 0;

	memset(page_a, 0, LH_PAGE_SIZE);
	wrong += ops->nonzero(page_a) != 0;
	for (bit = 0; bit < LH_PAGE_SIZE * 8; bit++) {
		page_a[bit / 8] = (unsigned char)(1u << bit % 8);
		wrong += ops->nonzero(page_a) != lh__mask_line(bit / 512);
		page_a[bit / 8] = 0;
	}
	return wrong;
}

/* Two differences in one line that a sum or an exclusive or of its words would take for none. */
static unsigned diff_that_cancels(const struct lh_line_ops *ops)
{
	unsigned i, j, wrong = 0;

	random_bytes(&seed, page_a, LH_PAGE_SIZE);
	for (i = 0; i < 8; i++)
		for (j = i + 1; j < 8; j++) {
			uint64_t word[8];

			memcpy(page_b, page_a, LH_PAGE_SIZE);
			memcpy(word, page_b + 640, sizeof word);
			word[i] ^= 0x8000000000000001;
			word[j] ^= 0x8000000000000001;
			memcpy(page_b + 640, word, sizeof word);
			wrong += ops->diff(page_a, page_b) != lh__mask_line(10);
		}
	return wrong;
}

static unsigned diff_random(const struct lh_line_ops *ops)
{
	unsigned i, wrong = 0;

	for (i = 0; i < 3000; i++) {
		lh_mask change = random_next(&seed) & random_next(&seed);
		unsigned line;

		if (i % 100 == 0)
			random_bytes(&seed, page_a, LH_PAGE_SIZE);
		memcpy(page_b, page_a, LH_PAGE_SIZE);
		LH_MASK_EACH(change, line)
			page_b[line * 64 + (random_next(&seed) >> 58)] ^=
				(unsigned char)(1 + (random_next(&seed) >> 57) % 255);
		wrong += ops->diff(page_a, page_b) != slow_diff(page_a, page_b);
		wrong += ops->diff(page_a, page_b) != change;
		lh__lines_zero(page_b, change);
		wrong += ops->nonzero(page_b) != lh__lines_nonzero(page_b, LH_MASK_ALL);
	}
	return wrong;
}

static unsigned diff_unaligned(const struct lh_line_ops *ops)
{
	unsigned char *room_a = guarded_pages(2), *room_b = guarded_pages(2);
	unsigned shift, wrong = 0;

	for (shift = 0; shift < 64; shift++) {
		/* One page ends where what may be read ends, the other begins where it begins. */
		unsigned char *a = room_a + LH_PAGE_SIZE - shift, *b = room_b + shift;

		random_bytes(&seed, a, LH_PAGE_SIZE);
		memcpy(b, a, LH_PAGE_SIZE);
		wrong += ops->diff(a, b) != 0 || ops->nonzero(a) != LH_MASK_ALL;
		b[0] ^= 1;
		b[4095] ^= 128;
		wrong += ops->diff(a, b) != 0x8000000000000001;
	}
	return wrong;
}

/* ---- changed bytes ---- */

static uint32_t slow_changed(const unsigned char *before, lh_mask held, const unsigned char *after,
                             lh_mask given)
{
	uint32_t bytes = 0;
	unsigned i;

	for (i = 0; i < LH_PAGE_SIZE; i++)
		bytes += (held >> i / 64 & 1 ? before[i] : 0) != (given >> i / 64 & 1 ? after[i] : 0);
	return bytes;
}

static unsigned changed_every_byte(const struct lh_line_ops *ops)
{
	unsigned i, bit, wrong = 0;

	random_bytes(&seed, page_a, LH_PAGE_SIZE);
	memcpy(page_b, page_a, LH_PAGE_SIZE);
	wrong += ops->changed(page_a, LH_MASK_ALL, page_b, LH_MASK_ALL) != 0;
	for (i = 0; i < LH_PAGE_SIZE; i++)
		for (bit = 0; bit < 8; bit++) {
			page_b[i] ^= (unsigned char)(1u << bit);
			wrong += ops->changed(page_a, LH_MASK_ALL, page_b, LH_MASK_ALL) != 1;
			page_b[i] = page_a[i];
		}
	for (i = 0; i < LH_PAGE_SIZE; i++) {
		page_b[i] = (unsigned char)~page_a[i];
		wrong += ops->changed(page_a, LH_MASK_ALL, page_b, LH_MASK_ALL) != i + 1;
	}
	wrong += ops->changed(NULL, 0, NULL, 0) != 0;
	return wrong;
}

/* Any masks, and buffers without alignment at the end of what may be read. */
static unsigned changed_random(const struct lh_line_ops *ops)
{
	unsigned char *room_a = guarded_pages(2), *room_b = guarded_pages(2);
	unsigned i, at, wrong = 0;

	for (i = 0; i < 3000; i++) {
		unsigned char *a = room_a + LH_PAGE_SIZE - i % 64, *b = room_b + LH_PAGE_SIZE - i / 64 % 64;
		lh_mask held = i % 5 ? random_next(&seed) & random_next(&seed) : LH_MASK_ALL;
		lh_mask given = i % 7 ? random_next(&seed) | random_next(&seed) : LH_MASK_ALL;

		random_bytes(&seed, a, LH_PAGE_SIZE);
		memcpy(b, a, LH_PAGE_SIZE);
		for (at = (unsigned)(random_next(&seed) >> 58); at < LH_PAGE_SIZE; at += 1 + i % 200)
			b[at] = (unsigned char)random_next(&seed);
		wrong += ops->changed(a, held, b, given) != slow_changed(a, held, b, given);
		wrong += ops->changed(NULL, 0, b, given) != slow_changed(a, 0, b, given);
		wrong += ops->changed(a, held, NULL, 0) != slow_changed(a, held, b, 0);
	}
	return wrong;
}

/* ---- the hash ---- */

static void random_key(struct lh_hash_key *key)
{
	uint64_t word[8];

	random_bytes(&seed, word, sizeof word);
	lh__hash_key_set(key, word);
}

static unsigned hash_matches(const struct lh_line_ops *ops)
{
	unsigned char *room = guarded_pages(2), *page;
	uint64_t hash[LH_PAGE_LINES];
	struct lh_hash_key key;
	unsigned shift, i, wrong = 0;

	for (shift = 0; shift < 64; shift++) {
		page = shift & 1 ? room + shift : room + LH_PAGE_SIZE - shift;
		random_key(&key);
		random_bytes(&seed, page, LH_PAGE_SIZE);
		memset(page + 64, shift & 2 ? 0xff : 0, 64);
		ops->hash(&key, page, hash);
		for (i = 0; i < LH_PAGE_LINES; i++)
			wrong += hash[i] != slow_hash(&key, page + i * 64);
		wrong += !(shift & 2) && hash[1] != 0;
	}
	return wrong;
}

static unsigned hash_sees_every_bit(const struct lh_line_ops *ops)
{
	uint64_t hash[LH_PAGE_LINES], now[LH_PAGE_LINES];
	struct lh_hash_key key;
	unsigned bit, i, wrong = 0;

	random_key(&key);
	random_bytes(&seed, page_a, LH_PAGE_SIZE);
	ops->hash(&key, page_a, hash);
	for (bit = 0; bit < LH_PAGE_SIZE * 8; bit++) {
		page_a[bit / 8] ^= (unsigned char)(1u << bit % 8);
		ops->hash(&key, page_a, now);
		for (i = 0; i < LH_PAGE_LINES; i++)
			wrong += (now[i] != hash[i]) != (i == bit / 512);
		page_a[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
	return wrong;
}

static unsigned hash_depends_on_key(const struct lh_line_ops *ops)
{
	uint64_t hash[2][LH_PAGE_LINES];
	struct lh_hash_key key;
	unsigned i, round, same = 0;

	random_bytes(&seed, page_a, LH_PAGE_SIZE);
	for (round = 0; round < 100; round++) {
		random_key(&key);
		ops->hash(&key, page_a, hash[round & 1]);
		for (i = 0; round > 0 && i < LH_PAGE_LINES; i++)
			same += hash[0][i] == hash[1][i];
	}
	return same;
}

static void hash_of_bad_keys(void)
{
	const uint64_t zero[8] = { 0 };
	uint64_t hash[LH_PAGE_LINES];
	struct lh_hash_key key;
	unsigned i, unseen = 0;

	lh__hash_key_set(&key, zero);
	memset(page_a, 0, LH_PAGE_SIZE);
	for (i = 0; i < 64; i++)
		page_a[i * 64 + i] = 1;
	lh__page_hash(&key, page_a, hash);
	for (i = 0; i < 64; i++)
		unseen += hash[i] == 0;
	is(unseen, 0, "a key of zeroes sees every byte all the same");
}

static void hash_diff(void)
{
	uint64_t hash[LH_PAGE_LINES], old[LH_PAGE_LINES];
	struct lh_hash_key key;
	unsigned i, line, wrong = 0;

	random_key(&key);
	random_bytes(&seed, page_a, LH_PAGE_SIZE);
	lh__page_hash(&key, page_a, hash);
	for (i = 0; i < 1000; i++) {
		lh_mask change = i == 0 ? 0 : i == 1 ? LH_MASK_ALL : random_next(&seed) & random_next(&seed);

		memcpy(old, hash, sizeof old);
		LH_MASK_EACH(change, line)
			random_bytes(&seed, page_a + line * 64, 64);
		wrong += lh__page_hash_diff(&key, page_a, hash, NULL) != change ||
		         memcmp(old, hash, sizeof old) != 0;
		wrong += lh__page_hash_diff(&key, page_a, hash, hash) != change;
		wrong += lh__page_hash_diff(&key, page_a, hash, NULL) != 0;
	}
	is(wrong, 0, "hash_diff gives the changed lines, and the new hashes where asked to");
}

/* ---- CRC-32C ---- */

/* The examples of RFC 3720, appendix B.4. */
static unsigned crc_known(const struct lh_line_ops *ops)
{
	static const unsigned char read_command[48] = {
		0x01, 0xc0, [16] = 0x14, [22] = 0x04, [27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02
	};
	unsigned char data[32];
	unsigned i, wrong = 0;

	memset(data, 0, 32);
	wrong += ops->crc32c(0, data, 32) != 0x8a9136aa;
	memset(data, 0xff, 32);
	wrong += ops->crc32c(0, data, 32) != 0x62a8ab43;
	for (i = 0; i < 32; i++)
		data[i] = (unsigned char)i;
	wrong += ops->crc32c(0, data, 32) != 0x46dd794e;
	for (i = 0; i < 32; i++)
		data[i] = (unsigned char)(31 - i);
	wrong += ops->crc32c(0, data, 32) != 0x113fdb5c;
	wrong += ops->crc32c(0, read_command, 48) != 0xd9963a56;
	wrong += ops->crc32c(0, "123456789", 9) != 0xe3069283;
	wrong += ops->crc32c(0, NULL, 0) != 0;
	return wrong;
}

static unsigned crc_every_size(const struct lh_line_ops *ops)
{
	unsigned char *room = guarded_pages(3), *end = room + (size_t)3 * LH_PAGE_SIZE;
	size_t size, cut;
	unsigned wrong = 0;

	random_bytes(&seed, room, (size_t)3 * LH_PAGE_SIZE);
	for (size = 0; size <= (size_t)3 * LH_PAGE_SIZE; size += size < 700 ? 1 : 61) {
		uint32_t start = (uint32_t)random_next(&seed), whole = slow_crc(start, end - size, size);

		wrong += ops->crc32c(start, end - size, size) != whole;
		cut = size ? random_next(&seed) % size : 0;
		wrong += ops->crc32c(ops->crc32c(start, end - size, cut), end - size + cut, size - cut) !=
		         whole;
	}
	return wrong;
}

/* ---- the key's randomness ---- */

static long trickle_call(void *context, long nr, const long argument[6])
{
	long *left = context, want = argument[1] < 3 ? argument[1] : 3;

	if (nr != SYS_getrandom)
		return -ENOSYS;
	if (--*left % 2 == 0)
		return -EINTR;
	if (*left < 0)
		return 0;
	memset((void *)argument[0], 0x5a, (size_t)want);
	return want;
}

static void key_init(void)
{
	struct lh_hash_key one, two;
	struct inject in;
	unsigned wrong = 0;
	long left = 100;
	struct lh_sys trickle = { .context = &left, .call = trickle_call };

	is(lh__hash_key_init(&lh__sys_default, &one), 0, "a key");
	is(lh__hash_key_init(&lh__sys_default, &two), 0, "another key");
	ok(memcmp(one.word, two.word, sizeof one.word) != 0, "they differ");
	is(lh__hash_key_init(&trickle, &one), 0,
	   "getrandom that is interrupted and gives three bytes at a time");
	ok(one.word[0] == 0x5a5a5a5a5a5a5a5a && one.word[7] == one.word[0], "... fills the whole key");
	left = 5;
	is(lh__hash_key_init(&trickle, &one), -EIO, "getrandom that stops giving");
	INJECT_SWEEP(&in, ENOSYS, INJECT_LASTING) {
		memcpy(&one, &two, sizeof one);
		inject_arm(&in);
		wrong += lh__hash_key_init(&in.sys, &one) == -ENOSYS && memcmp(&one, &two, sizeof one) != 0;
	}
	ok(inject_swept(&in) && !wrong, "getrandom that fails leaves the key as it was");
}

/* ---- what the tests themselves can see ---- */

static lh_mask diff_but_one_byte(const void *a, const void *b)
{
	const unsigned char *pa = a, *pb = b;

	return slow_diff(pa, pb) & ~(pa[777] != pb[777] ? lh__mask_line(12) : 0);
}

static uint32_t changed_cut(const void *before, lh_mask held, const void *after, lh_mask given)
{
	uint32_t bytes = slow_changed(before, held, after, given);

	return bytes < LH_PAGE_SIZE ? bytes : 0; /* as twelve bits have it */
}

static uint32_t crc_but_long(uint32_t crc, const void *data, size_t size)
{
	return slow_crc(crc, data, size) ^ (size > 4100);
}

static void sloppy_hash(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES])
{
	unsigned i;

	lh__line_ops_at(0)->hash(key, page, hash);
	for (i = 0; i < LH_PAGE_LINES; i++)
		hash[i] &= ~(uint64_t)1;
}

static void planted(void)
{
	const struct lh_line_ops bad = {
		.diff = diff_but_one_byte, .changed = changed_cut, .hash = sloppy_hash, .crc32c = crc_but_long
	};

	ok(diff_every_bit(&bad) > 0, "the tests see a diff that misses one byte");
	ok(changed_every_byte(&bad) > 0, "the tests see a count that has no room for a whole page");
	ok(hash_matches(&bad) > 0, "the tests see a hash that drops one bit");
	ok(crc_every_size(&bad) > 0, "the tests see a checksum that is wrong beyond one size");
}

int main(void)
{
	const struct lh_line_ops *ops;
	unsigned i;

	seed = random_seed();
	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)seed);
	page_a = guarded_pages(1);
	page_b = guarded_pages(1);
	for (i = 0; (ops = lh__line_ops_at(i)) != NULL; i++) {
		is(diff_every_bit(ops), 0, "%s: diff sees every single bit", ops->name);
		is(diff_that_cancels(ops), 0, "%s: diff sees differences that cancel out", ops->name);
		is(diff_random(ops), 0, "%s: diff and nonzero on random pages", ops->name);
		is(diff_unaligned(ops), 0, "%s: diff and nonzero on pages without alignment", ops->name);
		is(changed_every_byte(ops), 0, "%s: changed bytes are counted one by one", ops->name);
		is(changed_random(ops), 0, "%s: so they are for any masks, without alignment", ops->name);
		is(nonzero_every_bit(ops), 0, "%s: nonzero sees every single bit", ops->name);
		is(hash_matches(ops), 0, "%s: the hash is the one that is defined", ops->name);
		is(hash_sees_every_bit(ops), 0, "%s: the hash sees every single bit, in its line alone",
		   ops->name);
		is(hash_depends_on_key(ops), 0, "%s: the hash depends on the key", ops->name);
		is(crc_known(ops), 0, "%s: CRC-32C of RFC 3720's examples", ops->name);
		is(crc_every_size(ops), 0, "%s: CRC-32C of every size, whole and in two parts", ops->name);
	}
	ok(i >= 1 && lh__line_ops() == lh__line_ops_at(i - 1), "the best of %u variants is in use", i);
	if (i < 4)
		skip("further variants", "this processor cannot run them");
	hash_of_bad_keys();
	hash_diff();
	key_init();
	planted();
	return done();
}
