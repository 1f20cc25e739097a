/*
 * memory.c - mmap and mmap64 in the place of libc's. All but shared mappings of the guest's files go straight
 * to the kernel.
 *
 * A file is recognised by device and inode when it is mapped, for QEMU may have made it only just before. It
 * is mapped without any right at first, then watched, then given the rights that were asked for; so nothing,
 * neither another thread nor a kernel that was told to lock or to fill all memory, reads a hole of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "service/migrate/agent/agent.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define DEVICE "/dev/userfaultfd"
#define FEATURES                                                                                             \
	(UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |                 \
	 UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_THREAD_ID)

/* What an mmap was called with. */
struct mapping {
	void *address;
	size_t size;
	int protection, flags, fd;
	off_t offset;
};

static void *map(const struct mapping *as, int protection)
{
	return (void *)syscall(SYS_mmap, as->address, as->size, protection, as->flags, as->fd, as->offset);
}

/* ---- the userfaultfd */

static int make_from_device(void)
{
	int device = open(DEVICE, O_RDWR | O_CLOEXEC), fd;

	if (device < 0)
		return -1;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	return fd;
}

static int make_userfaultfd(struct shim *shim)
{
	int fd;

	if (shim->device >= 0)
		return ioctl(shim->device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd >= 0 || errno != EPERM ? fd : make_from_device();
}

static const char *why_not_made(const struct shim *shim, int error)
{
	if (shim->device >= 0)
		return LH_SHIM_DEVICE " is no descriptor of " DEVICE " that can be used";
	if (error == EPERM || error == EACCES)
		return "its memory may not be watched: this user may neither open " DEVICE
		       " nor call userfaultfd, as vm.unprivileged_userfaultfd is 0; start it by linehome "
		       "incoming with the device opened for it, see linehome-incoming(1)";
	return "its memory cannot be watched: there is no userfaultfd";
}

/* 0, or an error number after a message. */
static int open_userfaultfd(struct shim *shim, const char *path)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
	int fd = make_userfaultfd(shim), error;

	if (fd < 0) {
		error = errno;
		lh__shim_say(why_not_made(shim, error), path, error);
		return error;
	}
	if (ioctl(fd, UFFDIO_API, &api) != 0) {
		error = errno;
		lh__shim_say("this kernel cannot watch shared memory for minor faults: Linux 5.14 can", path,
		             error);
		close(fd);
		return error;
	}
	shim->fd = fd;
	if (shim->device >= 0)
		close(shim->device);
	shim->device = -1;
	return 0;
}

/* ---- a file of the guest's */

static struct shim_file *find(struct shim *shim, int fd)
{
	struct stat opened, named;

	if (fstat(fd, &opened) != 0)
		return NULL;
	for (size_t i = 0; i < shim->files; i++) {
		if (stat(shim->file[i].path, &named) == 0 && named.st_dev == opened.st_dev &&
		    named.st_ino == opened.st_ino)
			return &shim->file[i];
	}
	return NULL;
}

static void describe(struct shim_file *file, int fd)
{
	struct statfs system;
	struct stat status;

	file->page_size = 4096;
	if (fstatfs(fd, &system) == 0 && system.f_type == HUGETLBFS_MAGIC)
		file->page_size = (size_t)system.f_bsize;
	if (fstat(fd, &status) == 0) {
		file->device = status.st_dev;
		file->inode = status.st_ino;
		file->length = (uint64_t)status.st_size;
	}
}

/* 0, or an error number after a message. */
static int watch(struct shim *shim, const struct shim_file *file, void *at, size_t size)
{
	struct uffdio_register range = { .range = { (uintptr_t)at, size },
		                         .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR };
	int error;

	if (ioctl(shim->fd, UFFDIO_REGISTER, &range) == 0)
		return 0;
	error = errno;
	lh__shim_say(error == EINVAL ? "its memory cannot be watched: the file must be in a tmpfs, such as "
	                               "/dev/shm, or in a hugetlbfs"
	                             : "its memory cannot be watched",
	             file->path, error);
	return error;
}

/* Where a mapping was, that is as if it had not been made; what it took the place of stays reserved. */
static void take_back(const struct mapping *as, void *at)
{
	if (as->flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))
		syscall(SYS_mmap, at, as->size, PROT_NONE,
		        MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	else
		munmap(at, as->size);
}

/* Maps and watches; 0, or an error number after a message. */
static int map_watched(struct shim *shim, struct shim_file *file, const struct mapping *as, void **at)
{
	size_t size;
	int error;

	describe(file, as->fd);
	size = (as->size + file->page_size - 1) & ~(file->page_size - 1);
	*at = map(as, PROT_NONE);
	if (*at == MAP_FAILED)
		return errno; /* the kernel refuses what it would refuse without us */
	error = watch(shim, file, *at, size);
	if (error == 0 && mprotect(*at, as->size, as->protection) != 0)
		error = errno;
	if (error == 0) {
		file->address = (uintptr_t)*at;
		file->size = size;
		file->offset = (uint64_t)as->offset;
		shim->mapped++;
		if (shim->mapped == shim->files)
			error = lh__shim_hand_over(shim);
		if (error == 0)
			return 0;
		shim->mapped--;
		file->size = 0;
	}
	take_back(as, *at);
	return error;
}

static int map_file(struct shim *shim, struct shim_file *file, const struct mapping *as, void **at)
{
	int error = 0;

	if ((as->flags & MAP_TYPE) == MAP_PRIVATE) {
		lh__shim_say("the guest's memory is mapped for itself alone: add share=on to its "
		             "memory-backend-file",
		             file->path, 0);
		return EINVAL;
	}
	pthread_mutex_lock(&shim->lock);
	if (file->size) {
		lh__shim_say("is mapped already, and can be handed over but once", file->path, 0);
		error = EBUSY;
	}
	if (error == 0 && shim->fd < 0)
		error = open_userfaultfd(shim, file->path);
	if (error == 0)
		error = map_watched(shim, file, as, at);
	pthread_mutex_unlock(&shim->lock);
	return error;
}

/* ---- in libc's place */

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset);

__attribute__((visibility("default"))) void *mmap(void *address, size_t size, int protection, int flags,
                                                  int fd, off_t offset)
{
	const struct mapping as = { address, size, protection, flags, fd, offset };
	struct shim_file *file = NULL;
	int before = errno, error;
	void *at = MAP_FAILED;

	if (lh__shim.socket && fd >= 0 && !(flags & MAP_ANONYMOUS))
		file = find(&lh__shim, fd);
	errno = before;
	if (!file)
		return map(&as, protection);
	error = map_file(&lh__shim, file, &as, &at);
	errno = error ? error : before;
	return error ? MAP_FAILED : at;
}

__attribute__((visibility("default"), alias("mmap"))) void *mmap64(void *address, size_t size, int protection,
                                                                   int flags, int fd, off_t offset);
