/*
 * agent.h - liblinehome-uffd.so: what is loaded into a QEMU that waits for a guest, and hands its memory
 * over.
 *
 *     agent.c     its orders, from the environment
 *     memory.c    mmap: the guest's memory is recognised, and watched before anybody has its address
 *     handover.c  the handshake, again and again: whenever a handler has gone, the next is told
 *
 * What holds, whatever happens: a guest never runs on memory that nobody watches. Where it cannot be watched,
 * mmap fails, and QEMU does not start. This process keeps a descriptor of its own, so when handlers die the
 * guest stands still until there is another; it never reads zeroes in the place of what has not come.
 *
 * It uses libc, but takes nothing from the heap, and enters nothing that locks, but for the one thread that
 * it starts. A fork without exec, as QEMU makes to become a daemon, takes all of it along, since that comes
 * before any memory is mapped; the memory of a process that forks later is watched in the parent alone.
 */
#ifndef LH_MIGRATE_AGENT_H
#define LH_MIGRATE_AGENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "port/guest/guest.h"
#include "service/migrate/shim.h"

/* A file of the guest's memory, and where it is mapped. */
struct shim_file {
	const char *path;
	uint64_t device, inode, length; /* of the file, when it was mapped */
	uint64_t address, size, offset; /* size 0: it is not mapped yet; offset: in the file */
	size_t page_size;
};

struct shim {
	pthread_mutex_t lock; /* of all that follows, until the files are mapped; then nothing changes */
	const char *socket;   /* NULL: there are no orders */
	int device;           /* of /dev/userfaultfd, or -1 */
	int fd;               /* the userfaultfd, or -1 */
	size_t files, mapped;
	struct shim_file file[LH_GUEST_RANGES_MAX];
	char words[8192]; /* what socket and path point to */
};

/* The agent's one variable: mmap has no other way to find it. */
extern struct shim lh__shim;

/* One line on standard error; what is wrong, of which file (or NULL), and the error number (or 0). */
void lh__shim_say(const char *what, const char *path, int error);
/* Starts the thread that hands over. 0, or an error number. */
int lh__shim_hand_over(struct shim *shim);

#endif
