/*
 * shim.h - what `linehome incoming` says to liblinehome-uffd.so, which is loaded into QEMU: by environment.
 *
 * The library (service/migrate/agent) hands QEMU's memory over by Firecracker's handshake (handshake.h), in
 * which it tells three things more, that others pass over: device and inode of the file behind each region,
 * so that it is known which is which, and file_offset, the region's place in it. offset is the region's place
 * in the files one after another, as they stand in LH_SHIM_MEMORY.
 */
#ifndef LH_MIGRATE_SHIM_H
#define LH_MIGRATE_SHIM_H

#define LH_SHIM_FILE "liblinehome-uffd.so"

#define LH_SHIM_SOCKET "LINEHOME_UFFD"        /* where the handler listens; an absolute path */
#define LH_SHIM_MEMORY "LINEHOME_UFFD_MEMORY" /* the files of the guest's memory, colons between them */
/* A descriptor of /dev/userfaultfd that the program inherits; not there: it has to help itself. */
#define LH_SHIM_DEVICE "LINEHOME_UFFD_DEVICE"

#endif
