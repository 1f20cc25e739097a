/*
 * port_over_page.h - the factory for the conformance suite of a port that stands on the page port, with
 * either engine. wrap takes over the port below and gives the one to be tested; NULL: the page port itself.
 */
#ifndef PORT_OVER_PAGE_H
#define PORT_OVER_PAGE_H

#include <sys/vfs.h>

#include "port/page/page.h"
#include "port_conformance.h"

#ifndef TMPFS_MAGIC
#define TMPFS_MAGIC 0x01021994
#endif

struct over_page {
	struct lh_page_options options;
	const struct lh_sys *sys;
	struct lh_port *(*wrap)(struct lh_port *below);
	bool never_renew; /* a planted fault */
	struct lh_port *below;
	pthread_t pager;
	bool stop;
};

/* Inline: the thread that touched answers by itself. */
static void on_absent(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	(void)number;
	(void)context;
	port_request((uintptr_t)info->si_addr);
	errno = saved;
}

/* Thread: all who touch sleep, and one thread answers. */
static void *page_in(void *argument)
{
	struct over_page *over = argument;
	uintptr_t addresses[8];

	while (!__atomic_load_n(&over->stop, __ATOMIC_ACQUIRE)) {
		int n = lh__page_wait(over->below, addresses, 8, 2);

		for (int i = 0; i < n; i++)
			port_request(addresses[i]);
	}
	return NULL;
}

static void over_page_listen(struct over_page *over)
{
	struct sigaction action = { .sa_sigaction = on_absent, .sa_flags = SA_SIGINFO };
	sigset_t all, old;

	sigfillset(&all);
	action.sa_mask = all;
	if (over->options.engine == LH_ENGINE_INLINE) {
		sigaction(SIGBUS, &action, NULL);
		return;
	}
	over->stop = false;
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&over->pager, NULL, page_in, over) != 0)
		abort();
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static struct lh_port *over_page_open(void *context)
{
	struct over_page *over = context;
	struct lh_error error = { 0 };

	if (lh__page_open(over->sys, &over->options, &over->below, &error) < 0) {
		printf("# %s\n", error.text);
		return NULL;
	}
	over_page_listen(over);
	return over->wrap ? over->wrap(over->below) : over->below;
}

static void over_page_close(void *context, struct lh_port *port)
{
	struct over_page *over = context;

	if (over->options.engine == LH_ENGINE_THREAD) {
		__atomic_store_n(&over->stop, true, __ATOMIC_RELEASE);
		pthread_join(over->pager, NULL);
	}
	port->ops->close(port);
}

static int over_page_renew(void *context, struct lh_port *port)
{
	struct over_page *over = context;
	struct lh_error error = { 0 };
	int result = over->never_renew ? 0 : lh__page_after_fork(over->below, &error);

	(void)port;
	if (result == 0)
		over_page_listen(over);
	return result;
}

static struct lh_port *over_page_rival(void *context)
{
	struct over_page *over = context;
	struct lh_port *rival;

	return lh__page_open(&lh__sys_default, &over->options, &rival, NULL) < 0 ? NULL : rival;
}

/*
 * Of shared memory the mapping is all that is left: a page that is dropped there would still be in the file.
 */
static void *map_shared(size_t size, int protection)
{
	int file = memfd_create("port", MFD_CLOEXEC);
	void *at = MAP_FAILED;

	if (file >= 0 && ftruncate(file, (off_t)size) == 0)
		at = mmap(NULL, size, protection, MAP_SHARED, file, 0);
	if (file >= 0)
		close(file);
	return at;
}

static void *over_page_map(void *context, size_t size, int protection)
{
	struct over_page *over = context;
	void *at;

	if (over && over->options.shared)
		at = map_shared(size, protection);
	else
		at = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

/* A file's pages, unless the file is memory itself. */
static bool over_page_map_other(void *context, void *address, size_t size)
{
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct statfs status;
	bool mapped = file >= 0 && fstatfs(file, &status) == 0 && status.f_type != TMPFS_MAGIC &&
	              mmap(address, size, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0) == address;

	(void)context;
	if (file >= 0)
		close(file);
	return mapped;
}

static struct port_factory over_page(struct over_page *over, const char *name)
{
	return (struct port_factory){
		.name = name,
		.context = over,
		.open = over_page_open,
		.close = over_page_close,
		.renew = over_page_renew,
		.rival = over_page_rival,
		.map = over_page_map,
		.map_other = over_page_map_other,
	};
}

/* Why there is no page port on this system; NULL where there is. */
__attribute__((unused)) static const char *over_page_lacks(const struct lh_page_options *options)
{
	static struct lh_error error;
	struct lh_port *port;

	if (lh__page_open(&lh__sys_default, options, &port, &error) < 0)
		return error.text;
	port->ops->close(port);
	return NULL;
}

#endif
