/*
 * phases.c - a workload of which everything is known beforehand, for the statistics of `linehome run`.
 *
 *     phases lines  PAGES BALLAST [TIMES]    write, evict, read back, change, evict; and again, executed anew
 *     phases walk   PAGES BALLAST            the same, reading back upwards, for prefetch
 *     phases both   PAGES BALLAST            the same, read back by two threads, page by page together
 *     phases fork   PAGES BALLAST            the same, and then a child that reads one page
 *
 * Of each page 5 lines get 3 bytes each. BALLAST pages are then read, which evicts all PAGES where they are
 * more than there is room for. They are read back; of each second page 2 lines get 7 other bytes each, and
 * the ballast is read again. Nothing else takes memory: no heap, and no output but where something is wrong.
 * It begins when the agent watches what it has mapped, which must be more than local memory.
 */
#include "program.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>

enum { LINES = 5, BYTES = 3, MORE_LINES = 2, MORE_BYTES = 7 };

static unsigned char *pages, *ballast;
static size_t n, ballast_n;
static unsigned turn; /* atomic: how often a thread has come to where they meet */

/* Each in a mapping by itself, with a hole behind it: what is supplied ahead ends with it. */
static unsigned char *apart(size_t count)
{
	unsigned char *at = anonymous((count + 1) * PAGE);

	if (munmap(at + count * PAGE, PAGE) != 0)
		cannot("unmap a page");
	return at;
}

/* Whether smaps says of the mapping of an address that its absent pages are a userfaultfd's ("um"). */
static bool is_watched(const void *address)
{
	static char text[1 << 18];
	int file = open("/proc/self/smaps", O_RDONLY);
	size_t have = 0;
	ssize_t got;
	bool inside = false;

	while (file >= 0 && (got = read(file, text + have, sizeof text - 1 - have)) > 0)
		have += (size_t)got;
	text[have] = 0;
	close(file);
	for (char *line = text, *next; *line; line = next) {
		char *end;
		uintptr_t start = strtoul(line, &end, 16);

		next = line + strcspn(line, "\n");
		next += *next == '\n';
		if (*end == '-')
			inside = start <= (uintptr_t)address &&
			         strtoul(end + 1, NULL, 16) > (uintptr_t)address;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			return memmem(line, (size_t)(next - line), " um", 3) != NULL;
	}
	return false;
}

/* Watching begins soon after more than local memory was mapped; what is touched before is not counted. */
static void await_watch(void)
{
	uint64_t limit = now_ns() + UINT64_C(10000000000);

	while (!is_watched(pages) || !is_watched(ballast))
		if (now_ns() > limit)
			wrong("nothing watches this program");
}

static void write_lines(unsigned char *page, unsigned lines, unsigned bytes, unsigned char value)
{
	for (unsigned line = 0; line < lines; line++)
		for (unsigned i = 0; i < bytes; i++)
			((volatile unsigned char *)page)[line * 64 + i] = value;
}

static void evict(void)
{
	for (size_t i = 0; i < ballast_n; i++)
		if (((volatile unsigned char *)ballast)[i * PAGE] != 0)
			wrong("ballast page %zu", i);
}

/* In the order of the workload: upwards, so that prefetch sees it, or downwards. */
static unsigned char *page_at(size_t i, bool upwards)
{
	return pages + (upwards ? i : n - 1 - i) * PAGE;
}

static void check(const unsigned char *page)
{
	for (unsigned line = 0; line < LINES; line++)
		for (unsigned i = 0; i < BYTES; i++)
			if (((const volatile unsigned char *)page)[line * 64 + i] != 1)
				wrong("page %zu, line %u", (size_t)(page - pages) / PAGE, line);
}

static void read_back(bool upwards)
{
	for (size_t i = 0; i < n; i++) {
		check(page_at(i, upwards));
		if (i % 2)
			write_lines(page_at(i, upwards), MORE_LINES, MORE_BYTES, 2);
	}
}

/* Two threads go to the next page when both have come to this one. */
static void *read_together(void *unused)
{
	for (size_t i = 0; i < n; i++) {
		__atomic_add_fetch(&turn, 1, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&turn, __ATOMIC_SEQ_CST) < 2 * (i + 1))
			sched_yield();
		check(page_at(i, false));
	}
	return unused;
}

static void read_by_two(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, read_together, NULL) != 0)
		cannot("start a thread");
	read_together(NULL);
	pthread_join(thread, NULL);
}

static void read_in_child(void)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		_exit(((volatile unsigned char *)pages)[0] != 2 && ((volatile unsigned char *)pages)[0] != 1);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		cannot("fork");
	if (status != 0)
		wrong("the child's page");
}

static void again(char **argv, size_t times)
{
	char text[2] = { (char)('0' + times - 1), 0 };
	char *const words[] = { argv[0], argv[1], argv[2], argv[3], text, NULL };

	execv("/proc/self/exe", words);
	cannot("execute %s", argv[0]);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 3 ? argv[1] : "";

	if (argc < 4)
		return 2;
	n = number(argv[2]);
	ballast_n = number(argv[3]);
	pages = apart(n);
	ballast = apart(ballast_n);
	await_watch();
	for (size_t i = 0; i < n; i++)
		write_lines(pages + i * PAGE, LINES, BYTES, 1);
	evict();
	if (!strcmp(mode, "both"))
		read_by_two();
	else
		read_back(!strcmp(mode, "walk"));
	evict();
	if (!strcmp(mode, "fork"))
		read_in_child();
	if (argc > 4 && number(argv[4]) > 1)
		again(argv, number(argv[4]));
	return 0;
}
