/*
 * page.h - the page port: page faults by userfaultfd.
 *
 * Engines. With LH_ENGINE_INLINE a touch of an absent page raises SIGBUS in the thread that touched it, whose
 * handler calls the home; a system call that touches one fails with EFAULT, so system calls have to be made
 * safe (service/run/agent). With LH_ENGINE_THREAD the touching thread, in user or kernel mode, sleeps until a
 * pager thread, which waits in lh__page_wait, has answered.
 *
 * The staging range: `frames` pages of address space, one for each frame of the home; memory stands there
 * only while a frame has been taken from the program. Its mapping has the same flags as the program's, as
 * UFFDIO_MOVE demands: memory that can be written to and has other flags is not taken (-EBUSY).
 *
 * Watched is memory that is private and anonymous. The kernel would also watch shared memory and files of
 * tmpfs, whose absent pages are not what this port takes them for: the caller keeps away from those, but for
 * `shared`.
 */
#ifndef LH_PAGE_PORT_H
#define LH_PAGE_PORT_H

#include "port/port.h"

enum lh_engine { LH_ENGINE_THREAD = 0, LH_ENGINE_INLINE = 1 };

struct lh_page_options {
	enum lh_engine engine;
	int device;       /* an open /dev/userfaultfd, or -1: the system call is used */
	bool protects;    /* caps.sees_writes: pages are supplied protected, and `protect` works */
	bool shared;      /* what is watched is memory of tmpfs or a memfd, mapped shared; it is not moved */
	bool writes_only; /* with protects: absent pages stay the kernel's business */
	int descriptor_floor; /* own descriptors get numbers from here on, out of the way of the program's */
};

/*
 * Opens the port. error names what the kernel lacks or forbids. -EPERM: userfaultfd is not allowed; -ENOSYS
 * or -EINVAL: a feature is missing.
 */
int lh__page_open(const struct lh_sys *sys, const struct lh_page_options *options, struct lh_port **out,
                  struct lh_error *error) LH_MUST_CHECK;

/*
 * LH_ENGINE_THREAD: waits up to timeout_ms for requests and writes their addresses, at most max. Returns
 * their number or a negative errno. One thread at a time.
 */
int lh__page_wait(struct lh_port *port, uintptr_t *addresses, size_t max, int timeout_ms) LH_MUST_CHECK;

/*
 * In a child after fork, where the kernel has dropped every registration: a fresh userfaultfd in the same
 * port. The caller watches its ranges again, before anything of the program runs. The parent's descriptors
 * are closed. Where it fails the port can do nothing but be closed, or be renewed once more.
 */
int lh__page_after_fork(struct lh_port *port, struct lh_error *error) LH_MUST_CHECK;

enum lh_engine lh__page_engine(const struct lh_port *port);

/*
 * Changing the engine of a port in use, while its home stands still. begin opens a second userfaultfd; range
 * hands the watch of a range over to it (or back), for which the range is not watched for a moment; end makes
 * the second one the port's, or gives it up.
 *
 * Between being unwatched and watched again, an absent page would read as zero. So those that have a content
 * are *hidden* before, and *shown* after: a guard marker of the kernel (Linux 6.13) stands in their place,
 * and whoever touches one gets SIGSEGV with SEGV_MAPERR, in a system call EFAULT, and through /proc/self/mem
 * EIO. What is present is never out of reach, so a system call that sleeps over present memory takes no
 * notice of it all.
 *
 *     absent, watched | hide | hidden, watched | range | hidden, watched anew | show | absent, watched anew
 *
 * -EPERM: that engine is not allowed to this user. hide returns -EINVAL where the kernel has no guards. A
 * range that failed is watched as before, but with -ENOTRECOVERABLE.
 */
int lh__page_change_begin(struct lh_port *port, enum lh_engine engine, struct lh_error *error) LH_MUST_CHECK;
int lh__page_change_range(struct lh_port *port, uintptr_t start, size_t size, bool back) LH_MUST_CHECK;
void lh__page_change_end(struct lh_port *port, bool changed);
/* All pages of the range are absent. */
int lh__page_hide(struct lh_port *port, uintptr_t start, size_t size) LH_MUST_CHECK;
int lh__page_show(struct lh_port *port, uintptr_t start, size_t size) LH_MUST_CHECK;

#endif
