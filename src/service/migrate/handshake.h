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
#include "service/migrate/state.h"

/* Of one message. Firecracker's are below 200 bytes a region. */
#define LH_HANDSHAKE_TEXT_MAX 65536u
#define LH_HANDSHAKE_MS 3000u /* a message must be here so long after its connection */

struct lh_handshake_range {
	uint64_t address, size;
	uint64_t offset; /* in the memory file, or of the regions one after another */
	/* Where it is a file's memory, and that is told (shim.h); else inode is 0. */
	uint64_t device, inode, file_offset;
};

struct lh_handshake {
	int socket;    /* stays open; hang-up: the machine has gone */
	pid_t process; /* at the other end, in our pid namespace; 0: not known */
	size_t page_size;
	size_t ranges;
	struct lh_handshake_range range[LH_GUEST_RANGES_MAX];
	int fd; /* the userfaultfd */
};

/* Listens; a path that nobody listens on any more is replaced. The socket is its owner's alone. */
int lh__handshake_listen(const char *path, int *fd, struct lh_error *error) LH_MUST_CHECK;
/*
 * Takes one connection and its message, within LH_HANDSHAKE_MS; -EAGAIN: nobody has connected (the listener
 * is readable when somebody has). -EPROTO: not such a message; error says what is wrong with it; -ETIMEDOUT:
 * it did not come; the next may be better. What is not checked here: that offsets lie within the memory that
 * there is, and that it comes from the process that is expected.
 */
int lh__handshake_accept(int listener, struct lh_handshake *out, struct lh_error *error) LH_MUST_CHECK;
/*
 * Reads the JSON text, which sets page_size and ranges alone; pure. -EPROTO; -ENODATA: as far as it goes it
 * might be the beginning of one. Ranges neither overlap nor share an offset, and are made of whole pages.
 */
int lh__handshake_parse(const char *text, size_t size, struct lh_handshake *out,
                        struct lh_error *error) LH_MUST_CHECK;
/* The guest that it describes: page numbers are offset / page_size. Takes over handshake->fd on success. */
int lh__handshake_guest(struct lh_handshake *handshake, uint64_t pages, struct lh_guest *guest,
                        struct lh_error *error) LH_MUST_CHECK;
/*
 * Offsets become those in the regions, by the files behind them, whichever order they were told in. -EINVAL:
 * it does not hand over all of the regions' memory, or more; error names the file.
 */
int lh__handshake_arrange(struct lh_handshake *handshake, const struct lh_state_region *region,
                          size_t regions, struct lh_error *error) LH_MUST_CHECK;
void lh__handshake_close(struct lh_handshake *handshake);

#endif
