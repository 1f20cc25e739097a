/*
 * port_page.c - the page port passes the conformance suite with both engines, and does what is promised
 * beyond it: what system calls meet, how requests are read, where descriptors stand, larger pages, the device
 * file.
 */
#include <sys/random.h>

#include "port_over_page.h"

#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif

static const struct lh_page_options inline_engine = { .engine = LH_ENGINE_INLINE, .device = -1 };
static const struct lh_page_options thread_engine = { .engine = LH_ENGINE_THREAD, .device = -1 };

static const struct lh_page_options inline_protects = { .engine = LH_ENGINE_INLINE,
	                                                .device = -1,
	                                                .protects = true };
static const struct lh_page_options thread_protects = { .engine = LH_ENGINE_THREAD,
	                                                .device = -1,
	                                                .protects = true };

static const struct lh_page_options inline_shared = {
	.engine = LH_ENGINE_INLINE,
	.device = -1,
	.protects = true,
	.shared = true,
};
static const struct lh_page_options thread_shared = {
	.engine = LH_ENGINE_THREAD,
	.device = -1,
	.protects = true,
	.shared = true,
};

static void conforms(const struct lh_page_options *options, const char *name)
{
	struct over_page over = { .options = *options, .sys = &lh__sys_default };
	struct port_factory factory = over_page(&over, name);
	const char *lacks = over_page_lacks(options);

	factory.stays = options->protects;
	factory.shared = options->shared;
	if (lacks)
		skip(name, lacks);
	else
		port_conformance(&factory);
}

/* A port with a watched range of pages; NULL where there is none on this system, which is then said. */
static struct lh_port *open_one(const struct lh_page_options *options, const char *what,
                                unsigned char **pages)
{
	const char *lacks = over_page_lacks(options);
	struct lh_port *port;

	if (lacks) {
		skip(what, lacks);
		return NULL;
	}
	*pages = over_page_map(NULL, bytes(8), PROT_READ | PROT_WRITE);
	if (!*pages || lh__page_open(&lh__sys_default, options, &port, NULL) < 0 ||
	    port->ops->watch(port, (uintptr_t)*pages, bytes(8)) < 0)
		abort();
	return port;
}

static void close_one(struct lh_port *port, unsigned char *pages)
{
	port->ops->close(port);
	munmap(pages, bytes(8));
}

static void system_calls_inline(void)
{
	const char *what = "inline: a system call that meets an absent page fails with EFAULT";
	unsigned char *pages;
	struct lh_port *port = open_one(&inline_engine, what, &pages);
	ssize_t got;

	if (!port)
		return;
	got = getrandom(pages, 8, 0);
	ok(got < 0 && errno == EFAULT, "%s", what);
	close_one(port, pages);
}

static void *fill_in_kernel(void *pages)
{
	return (void *)(uintptr_t)(getrandom(pages, 8, 0) == 8);
}

static void system_calls_thread(void)
{
	const char *what = "thread: a system call that meets an absent page waits for the answer";
	static const unsigned char content[LH_PAGE_SIZE];
	unsigned char *pages;
	struct lh_port *port = open_one(&thread_engine, what, &pages);
	uintptr_t asked[4];
	pthread_t thread;
	void *filled;
	int n;

	if (!port)
		return;
	is(lh__page_wait(port, asked, 4, 0), 0, "thread: nothing is asked for at first");
	if (pthread_create(&thread, NULL, fill_in_kernel, pages + 100) != 0)
		abort();
	n = lh__page_wait(port, asked, 4, 20000);
	ok(n == 1 && asked[0] == (uintptr_t)pages, "thread: a request names the page");
	is(port->ops->supply(port, (uintptr_t)pages, content, 1), 1, "thread: it is answered");
	pthread_join(thread, &filled);
	ok(filled != NULL, "%s", what);
	close_one(port, pages);
}

static void *read_byte(void *at)
{
	return (void *)(uintptr_t)(*(volatile unsigned char *)at == 0);
}

/* Three wait, and are read one or two at a time. */
static void requests_in_parts(void)
{
	unsigned char *pages;
	struct lh_port *port = open_one(&thread_engine, "thread: requests in parts", &pages);
	uintptr_t asked[4], sum = 0;
	pthread_t thread[3];
	int read = 0, most = 0;

	if (!port)
		return;
	for (size_t i = 0; i < 3; i++)
		if (pthread_create(&thread[i], NULL, read_byte, pages + bytes(i)) != 0)
			abort();
	while (read < 3) {
		int n = lh__page_wait(port, asked, 2, 20000);

		if (n <= 0)
			break;
		most = n > most ? n : most;
		for (int i = 0; i < n; i++, read++) {
			sum += asked[i] - (uintptr_t)pages;
			if (port->ops->supply_zero(port, asked[i], 1) != 1)
				abort();
		}
	}
	ok(read == 3 && most <= 2 && sum == bytes(3), "thread: no more requests than there is room for");
	for (size_t i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	close_one(port, pages);
}

static void descriptors_above(int floor)
{
	struct lh_page_options options = inline_engine;
	unsigned char *pages;
	struct lh_port *port;
	unsigned below = 0, above = 0;
	int lowest = dup(0);

	close(lowest);
	options.descriptor_floor = floor;
	port = open_one(&options, "descriptors keep above their floor", &pages);
	if (!port)
		return;
	for (int fd = 0; fd < 2 * floor; fd++)
		if (fcntl(fd, F_GETFD) == FD_CLOEXEC)
			*(fd < floor ? &below : &above) += 1;
	ok(below == 0 && above > 0, "%u descriptors are above their floor, closed on exec", above);
	ok(dup(0) == lowest, "the numbers below are free again");
	close(lowest);
	close_one(port, pages);
}

static void larger_pages(void)
{
	const char *what = "memory of larger pages gets EINVAL";
	const size_t size = 2u << 20;
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB | MAP_NORESERVE, -1, 0);
	unsigned char *pages;
	struct lh_port *port, *other;

	if (memory == MAP_FAILED) {
		skip(what, "this kernel has no pages of 2 MiB");
		return;
	}
	port = open_one(&inline_engine, what, &pages);
	if (!port)
		return;
	is(port->ops->watch(port, (uintptr_t)memory, size), -EINVAL, "%s", what);
	other = over_page_rival(&(struct over_page){ .options = inline_engine });
	is(other->ops->watch(other, (uintptr_t)memory, size), -EINVAL, "... and is not watched afterwards");
	other->ops->close(other);
	close_one(port, pages);
	munmap(memory, size);
}

static void from_device(void)
{
	struct lh_page_options options = thread_engine;
	unsigned char *pages;
	struct lh_port *port;

	options.device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (options.device < 0) {
		skip("opens from the device", "there is no /dev/userfaultfd for this user");
		return;
	}
	port = open_one(&options, "opens from the device", &pages);
	if (port) {
		is(port->ops->supply_zero(port, (uintptr_t)pages, 1), 1, "opens from the device");
		close_one(port, pages);
	}
	ok(fcntl(options.device, F_GETFD) >= 0, "the device is the caller's, and stays open");
	close(options.device);
}

static void *write_byte(void *at)
{
	*(volatile unsigned char *)at = 9;
	return NULL;
}

/* A write is waited for, named, and goes on when it is let. */
static bool write_is_seen(struct lh_port *port, unsigned char *at)
{
	pthread_t thread;
	uintptr_t asked[4] = { 0 };
	int n;

	if (pthread_create(&thread, NULL, write_byte, at) != 0)
		abort();
	n = lh__page_wait(port, asked, 4, 20000);
	if (n == 1 && *at == 9)
		n = -1; /* it was written before anybody let it */
	if (port->ops->unprotect(port, (uintptr_t)at & ~(uintptr_t)4095, 1) != 0)
		abort();
	pthread_join(thread, NULL);
	return n == 1 && asked[0] == ((uintptr_t)at & ~(uintptr_t)4095) && *at == 9;
}

/* Pages 0 and 1 are in the file and mapped, 2 is in the file, 3 is a hole. */
static void shared_memory(void)
{
	struct lh_page_options options = thread_protects;
	int file = memfd_create("port_page", MFD_CLOEXEC);
	unsigned char *pages;
	struct lh_port *port;
	uintptr_t asked[4];
	const char *lacks;

	options.shared = options.writes_only = true;
	lacks = over_page_lacks(&options);
	if (lacks) {
		skip("shared memory", lacks);
		return;
	}
	if (ftruncate(file, 4 * 4096) != 0 || pwrite(file, "ab", 2, 2 * 4096) != 2 ||
	    lh__page_open(&lh__sys_default, &options, &port, NULL) < 0)
		abort();
	pages = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	pages[0] = pages[4096] = 1;
	is(port->ops->watch(port, (uintptr_t)pages, 4 * 4096), 0,
	   "shared: memory of a file in memory is watched");
	is(port->ops->protect(port, (uintptr_t)pages, 4), 0, "shared: ... and protected");
	ok(pages[0] == 1 && pages[8192] == 'a' && pages[3 * 4096] == 0 &&
	           lh__page_wait(port, asked, 4, 0) == 0,
	   "shared: what is absent is the kernel's business, and reads are not seen");
	for (unsigned i = 0; i < 4; i++)
		ok(write_is_seen(port, pages + i * 4096 + 50), "shared: a write to page %u is seen", i);
	pages[0] = 5;
	is(lh__page_wait(port, asked, 4, 0), 0, "shared: ... once");
	is(port->ops->protect(port, (uintptr_t)pages, 4), 0, "shared: protected again");
	ok(write_is_seen(port, pages + 51), "shared: ... a write is seen again");
	port->ops->close(port);
	munmap(pages, 4 * 4096);
	close(file);
}

int main(void)
{
	conforms(&inline_engine, "inline");
	conforms(&thread_engine, "thread");
	conforms(&inline_protects, "inline, sees writes");
	conforms(&thread_protects, "thread, sees writes");
	conforms(&inline_shared, "inline, sees writes, shared");
	conforms(&thread_shared, "thread, sees writes, shared");
	shared_memory();
	system_calls_inline();
	system_calls_thread();
	requests_in_parts();
	descriptors_above(300);
	larger_pages();
	from_device();
	return done();
}
