/*
 * words.c - many threads, one region, and every word's content a function of its place and of the round.
 *
 * A round: each thread writes its share of the pages (in odd rounds in a scattered order), then verifies the
 * share of its neighbour, so that no thread checks what it wrote itself. One page in eight is written as
 * zeroes in each round, another eighth next time: a page whose zeroes were "not worth sending" and that came
 * back with its former content is found. Then come single-word touches: a word's low 16 bits count its
 * touches, each word belongs to one thread, and the sum over the region must be the number of touches made.
 *
 *     words --threads 8 --size 128 --rounds 3 --touches 20000
 */
#include "program.h"

#include <pthread.h>

#define COUNT_MASK UINT64_C(0xffff)

static struct {
	unsigned threads, rounds;
	uint64_t pages, touches;
	bool plant;
	uint64_t *region;
	uint64_t stride; /* coprime with pages: index -> page is a permutation */
	uint64_t digest, touched;
	pthread_barrier_t barrier;
} g = { .threads = 4, .rounds = 3, .pages = 64 * 256, .touches = 10000 };

static uint64_t word_of(uint64_t index, unsigned round)
{
	if ((index / WORDS + round) % 8 == 0)
		return 0;
	return mix(index * 64 + round) & ~COUNT_MASK;
}

static uint64_t page_at(uint64_t i, unsigned round)
{
	return round % 2 ? i * g.stride % g.pages : i;
}

static void write_page(uint64_t page, unsigned round)
{
	for (uint64_t i = page * WORDS; i < (page + 1) * WORDS; i++)
		g.region[i] = word_of(i, round);
}

/* Returns the page's share of the digest; adds the touches counted in it to *touched. */
static uint64_t verify_page(uint64_t page, unsigned round, uint64_t *touched)
{
	uint64_t sum = 0;

	for (uint64_t i = page * WORDS; i < (page + 1) * WORDS; i++) {
		uint64_t got = g.region[i], wanted = word_of(i, round);

		if ((got & ~COUNT_MASK) != wanted)
			wrong("round %u page %lu word %lu: 0x%016lx instead of 0x%016lx", round, page,
			      i % WORDS, got, wanted);
		*touched += got & COUNT_MASK;
		sum += mix(got ^ i);
	}
	return sum;
}

static void for_share(unsigned thread, unsigned round, bool verify)
{
	uint64_t first = g.pages * thread / g.threads, last = g.pages * (thread + 1) / g.threads;
	uint64_t digest = 0, touched = 0;

	for (uint64_t i = first; i < last; i++)
		if (verify)
			digest += verify_page(page_at(i, round), round, &touched);
		else
			write_page(page_at(i, round), round);
	__atomic_add_fetch(&g.digest, digest, __ATOMIC_RELAXED);
	__atomic_add_fetch(&g.touched, touched, __ATOMIC_RELAXED);
}

/* Thread t owns the words whose number is t modulo the number of threads: neighbours share lines. */
static void touch(unsigned thread, unsigned round)
{
	uint64_t words = g.pages * WORDS / g.threads, state = mix(thread) + round * UINT64_C(1000000007);

	for (uint64_t i = 0; i < g.touches; i++) {
		uint64_t index = next_random(&state) % words * g.threads + thread;
		uint64_t got = g.region[index];

		if ((got & ~COUNT_MASK) != word_of(index, round))
			wrong("round %u touch of word %lu: 0x%016lx", round, index, got);
		g.region[index] = got + 1;
	}
}

static void *work(void *argument)
{
	unsigned thread = (unsigned)(uintptr_t)argument;

	for (unsigned round = 1; round <= g.rounds; round++) {
		for_share(thread, round, false);
		pthread_barrier_wait(&g.barrier);
		touch(thread, round);
		pthread_barrier_wait(&g.barrier);
		if (g.plant && round == g.rounds && thread == 0)
			g.region[g.pages / 3 * WORDS + 77] ^= UINT64_C(1) << 40;
		pthread_barrier_wait(&g.barrier);
		for_share((thread + 1) % g.threads, round, true);
		pthread_barrier_wait(&g.barrier);
	}
	return NULL;
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
	return b ? greatest_common_divisor(b, a % b) : a;
}

static void options(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "threads", 1, NULL, 't' }, { "size", 1, NULL, 's' },  { "rounds", 1, NULL, 'r' },
		{ "touches", 1, NULL, 'n' }, { "plant", 0, NULL, 'p' }, { NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		switch (c) {
		case 't': g.threads = (unsigned)number(optarg); break;
		case 's': g.pages = number(optarg) * 256; break;
		case 'r': g.rounds = (unsigned)number(optarg); break;
		case 'n': g.touches = number(optarg); break;
		case 'p': g.plant = true; break;
		default: exit(2);
		}
	if (!g.threads || g.threads > 256 || g.pages < g.threads)
		exit(2);
}

int main(int argc, char **argv)
{
	pthread_t threads[256];

	options(argc, argv);
	g.region = anonymous(g.pages * PAGE);
	g.stride = g.pages * 5 / 8 | 1;
	while (greatest_common_divisor(g.stride, g.pages) != 1)
		g.stride += 2;
	pthread_barrier_init(&g.barrier, NULL, g.threads);
	for (unsigned i = 0; i < g.threads; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i))
			cannot("start thread %u", i);
	for (unsigned i = 0; i < g.threads; i++)
		pthread_join(threads[i], NULL);
	if (g.touched != (uint64_t)g.rounds * g.threads * g.touches)
		wrong("%lu touches counted, %lu made", g.touched, (uint64_t)g.rounds * g.threads * g.touches);
	printf("words %016lx\n", g.digest);
	return 0;
}
