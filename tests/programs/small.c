/*
 * small.c - a program that fits: four kernels whose speed says what being watched costs when nothing has to
 * leave. chase (dependent loads), stream (bandwidth), heap (malloc and free of all sizes, so mmap and munmap
 * too), calls (system calls with a buffer). Prints a digest; with --time one line of nanoseconds on stderr.
 */
#include "program.h"

#include <fcntl.h>
#include <sched.h>

static size_t size = (size_t)48 << 20;
static unsigned rounds = 4;

/* A random cycle through all slots, one slot a line (Sattolo's shuffle), followed rounds times. */
static uint64_t chase(uint32_t *slots)
{
	size_t n = size / 64;
	uint64_t state = 7;
	uint32_t at = 0;

	for (size_t i = 0; i < n; i++)
		slots[i * 16] = (uint32_t)i;
	for (size_t i = n - 1; i > 0; i--) {
		size_t j = next_random(&state) % i;
		uint32_t other = slots[j * 16];

		slots[j * 16] = slots[i * 16];
		slots[i * 16] = other;
	}
	for (size_t i = 0; i < n * rounds; i++)
		at = slots[(size_t)at * 16];
	return at;
}

static uint64_t stream(uint64_t *words)
{
	size_t n = size / 8;
	uint64_t sum = 0;

	for (unsigned round = 0; round < rounds * 8; round++)
		for (size_t i = 0; i < n; i++)
			sum += words[i] = words[i] * 3 + round;
	return sum;
}

static uint64_t heap(void)
{
	static char *held[1024];
	uint64_t state = 9, sum = 0;

	for (unsigned i = 0; i < rounds * 100000; i++) {
		uint64_t r = next_random(&state);
		size_t slot = r % 1024, bytes = 16u << (r >> 32) % (r >> 40 & 63 ? 8 : 15);

		free(held[slot]);
		held[slot] = malloc(bytes);
		if (!held[slot])
			cannot("allocate");
		memset(held[slot], (int)slot, bytes);
		sum += (unsigned char)held[slot][bytes - 1];
	}
	return sum;
}

static uint64_t calls(char *buffer)
{
	int fd = open("/dev/zero", O_RDONLY);
	uint64_t sum = 0;

	for (unsigned i = 0; i < rounds * 100000; i++) {
		if (read(fd, buffer + (size_t)i * 512 % (size - 512), 64) != 64)
			cannot("read /dev/zero");
		sum++;
	}
	close(fd);
	return sum;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set))
		cannot("pin to CPU %d", cpu);
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "size", 1, NULL, 's' }, { "rounds", 1, NULL, 'r' }, { "time", 0, NULL, 't' },
		{ "cpu", 1, NULL, 'c' },  { NULL, 0, NULL, 0 },
	};
	uint64_t t[5], digest;
	bool timed = false;
	char *region;
	int c;

	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		switch (c) {
		case 's': size = number(optarg) << 20; break;
		case 'r': rounds = (unsigned)number(optarg); break;
		case 't': timed = true; break;
		case 'c': pin((int)number(optarg)); break;
		default: return 2;
		}
	region = anonymous(size);
	t[0] = now_ns();
	digest = mix(chase((uint32_t *)region));
	t[1] = now_ns();
	digest = mix(digest ^ stream((uint64_t *)region));
	t[2] = now_ns();
	digest = mix(digest ^ heap());
	t[3] = now_ns();
	digest = mix(digest ^ calls(region));
	t[4] = now_ns();
	if (timed)
		fprintf(stderr, "chase %lu stream %lu heap %lu calls %lu\n", t[1] - t[0], t[2] - t[1],
		        t[3] - t[2], t[4] - t[3]);
	printf("small %016lx\n", digest);
	return 0;
}
