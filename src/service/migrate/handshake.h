/*
 * handshake.h - how a virtual machine hands its memory over: Firecracker's handshake, exactly.
 *
 * The handler listens on a Unix socket and the machine connects. It sends one message: a JSON array of
 * objects with base_host_virt_addr, size, offset, page_size and (older) page_size_kib, which is in bytes too,
 * without length or terminator; with it comes one descriptor (SCM_RIGHTS), the userfaultfd. Then the socket
 * stays open and silent; its closing means that the machine has gone.
 *
 * Source: Firecracker, docs/snapshotting/handling-page-faults-on-snapshot-resume.md, src/vmm/src/persist.rs.
 */
#ifndef LH_MIGRATE_HANDSHAKE_H
#define LH_MIGRATE_HANDSHAKE_H

#include "port/guest/guest.h"

struct lh_handshake {
	int socket;    /* stays open; hang-up: the machine has gone */
	pid_t process; /* at the other end, in our pid namespace; 0: not known */
	size_t page_size;
	size_t ranges;
	struct {
		uint64_t address, size,
			offset; /* offset: in the memory file, or of the regions one after another */
	} range[LH_GUEST_RANGES_MAX];
	int fd; /* the userfaultfd */
};

/* Listens; a path that nobody listens on any more is replaced. The socket is its owner's alone. */
int lh__handshake_listen(const char *path, int *fd, struct lh_error *error) LH_MUST_CHECK;
/*
 * Takes one connection and its message, within a few seconds. -EPROTO: not such a message; error says what is
 * wrong with it. What is not checked here: that offsets lie within the memory that there is.
 */
int lh__handshake_accept(int listener, struct lh_handshake *out, struct lh_error *error) LH_MUST_CHECK;
/* Reads the JSON text; pure. -EPROTO. */
int lh__handshake_parse(const char *text, size_t size, struct lh_handshake *out,
                        struct lh_error *error) LH_MUST_CHECK;
/* The guest that it describes: page numbers are offset / page_size. Takes over handshake->fd on success. */
int lh__handshake_guest(struct lh_handshake *handshake, uint64_t pages, struct lh_guest *guest,
                        struct lh_error *error) LH_MUST_CHECK;
void lh__handshake_close(struct lh_handshake *handshake);

#endif
