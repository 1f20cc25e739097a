/*
 * operands.c - one row a system call of Linux 6.18 on x86-64 that has operands in memory: how it is made
 * safe, and what its operands are. See service/run/agent/buffers.h for the classes.
 *
 *     [SYS_recvfrom] = { LH_CALL_PARTS, { SIZED(1, 2, 1), LENGTH(4, 5, 4) } }
 *
 * says that argument 1 is a buffer of as many bytes as argument 2 says, and that argument 4 is one of as many
 * as the four-byte integer says to which argument 5 points.
 *
 * A call is late only if, with EFAULT from any of its operands, nothing has happened that a second call would
 * not do just the same; and if it never goes on without what it could not read or write. (mount takes what it
 * could read of its options for the whole; timerfd_settime has set the timer when it finds no place for the
 * old value: both are early.) Of late calls, memory around each argument is made present besides, so a
 * structure may be given too small here.
 *
 * Numbers that are not in the headers of all supported systems are written as such.
 */
#include "sys/operands.h"

#include <sys/syscall.h>

#define FIRST_UNKNOWN 470

#define OPERAND(kind, argument, other, size)                                                                 \
	{                                                                                                    \
		LH_OPERAND_##kind, argument, other, size                                                     \
	}
#define FIXED(argument, size) OPERAND(FIXED, argument, 0, size)
#define SIZED(argument, other, size) OPERAND(SIZED, argument, other, size)
#define COUNTED(argument, other, size) OPERAND(COUNTED, argument, other, size)
#define BITS(argument, other) OPERAND(BITS, argument, other, 0)
#define LENGTH(argument, other, size) OPERAND(LENGTH, argument, other, size)
#define PAGES(argument, other) OPERAND(PAGES, argument, other, 0)
#define STRING(argument) OPERAND(STRING, argument, 0, 0)
#define STRINGS(argument) OPERAND(STRINGS, argument, 0, 0)
#define IOVEC(argument, other) OPERAND(IOVEC, argument, other, 0)
#define REMOTE(argument, other) OPERAND(REMOTE, argument, other, 0)
#define MESSAGE(argument) OPERAND(MESSAGE, argument, 0, 0)
#define MESSAGES(argument, other) OPERAND(MESSAGES, argument, other, 0)
#define POINTERS(argument, other, size) OPERAND(POINTERS, argument, other, size)
#define IOCBS(argument, other) OPERAND(IOCBS, argument, other, 0)
#define SIGMASK(argument) OPERAND(SIGMASK, argument, 0, 0)
#define FILTER(argument) OPERAND(FILTER, argument, 0, 0)
#define IOCTL(argument) OPERAND(IOCTL, argument, 0, 0)
#define PLACE(argument, other) OPERAND(PLACE, argument, other, 0)
#define ANY(argument) OPERAND(ANY, argument, 0, 0)

static const struct lh_call table[FIRST_UNKNOWN] = {
	/* data in and out */
	[SYS_read] = { LH_CALL_PARTS, { SIZED(1, 2, 1) } },
	[SYS_write] = { LH_CALL_PARTS, { SIZED(1, 2, 1) } },
	[SYS_pread64] = { LH_CALL_PARTS, { SIZED(1, 2, 1), PLACE(3, 2) } },
	[SYS_pwrite64] = { LH_CALL_PARTS, { SIZED(1, 2, 1), PLACE(3, 2) } },
	[SYS_readv] = { LH_CALL_PARTS, { IOVEC(1, 2) } },
	[SYS_writev] = { LH_CALL_PARTS, { IOVEC(1, 2) } },
	[SYS_preadv] = { LH_CALL_PARTS, { IOVEC(1, 2) } },
	[SYS_pwritev] = { LH_CALL_PARTS, { IOVEC(1, 2) } },
	[SYS_preadv2] = { LH_CALL_PARTS, { IOVEC(1, 2) } },
	[SYS_pwritev2] = { LH_CALL_PARTS, { IOVEC(1, 2) } },
	[SYS_getrandom] = { LH_CALL_PARTS, { SIZED(0, 1, 1) } },
	[SYS_sendfile] = { LH_CALL_EARLY, { FIXED(2, 8) } },
	[SYS_splice] = { LH_CALL_EARLY, { FIXED(1, 8), FIXED(3, 8) } },
	[SYS_vmsplice] = { LH_CALL_VMSPLICE, { IOVEC(1, 2) } },
	[SYS_copy_file_range] = { LH_CALL_EARLY, { FIXED(1, 8), FIXED(3, 8) } },
	[SYS_process_vm_readv] = { LH_CALL_EARLY, { IOVEC(1, 2), REMOTE(3, 4) } },
	[SYS_process_vm_writev] = { LH_CALL_EARLY, { IOVEC(1, 2), REMOTE(3, 4) } },
	[SYS_io_setup] = { LH_CALL_LATE, { FIXED(1, 8) } },
	[SYS_io_submit] = { LH_CALL_EARLY, { IOCBS(2, 1) } },
	[SYS_io_cancel] = { LH_CALL_ONCE, { FIXED(1, 64), FIXED(2, 32) } },
	[SYS_io_getevents] = { LH_CALL_ONCE, { SIZED(3, 2, 32), FIXED(4, 16) } },
	[SYS_io_pgetevents] = { LH_CALL_ONCE, { SIZED(3, 2, 32), FIXED(4, 16), SIGMASK(5) } },
	[SYS_io_uring_setup] = { LH_CALL_RING, { { 0 } } },
	[SYS_io_uring_enter] = { LH_CALL_RING, { { 0 } } },
	[SYS_io_uring_register] = { LH_CALL_RING, { { 0 } } },

	/* sockets */
	[SYS_sendto] = { LH_CALL_PARTS, { SIZED(1, 2, 1), COUNTED(4, 5, 1) } },
	[SYS_recvfrom] = { LH_CALL_PARTS, { SIZED(1, 2, 1), LENGTH(4, 5, 4) } },
	[SYS_sendmsg] = { LH_CALL_PARTS, { MESSAGE(1) } },
	[SYS_recvmsg] = { LH_CALL_PARTS, { MESSAGE(1) } },
	[SYS_sendmmsg] = { LH_CALL_EARLY, { MESSAGES(1, 2) } },
	[SYS_recvmmsg] = { LH_CALL_ONCE, { MESSAGES(1, 2), FIXED(4, 16) } },
	[SYS_accept] = { LH_CALL_ONCE, { LENGTH(1, 2, 4) } },
	[SYS_accept4] = { LH_CALL_ONCE, { LENGTH(1, 2, 4) } },
	[SYS_bind] = { LH_CALL_LATE, { COUNTED(1, 2, 1) } },
	[SYS_connect] = { LH_CALL_LATE, { COUNTED(1, 2, 1) } },
	[SYS_getsockname] = { LH_CALL_LATE, { LENGTH(1, 2, 4) } },
	[SYS_getpeername] = { LH_CALL_LATE, { LENGTH(1, 2, 4) } },
	[SYS_socketpair] = { LH_CALL_LATE, { FIXED(3, 8) } },
	[SYS_setsockopt] = { LH_CALL_LATE, { COUNTED(3, 4, 1), FILTER(3) } },
	[SYS_getsockopt] = { LH_CALL_ONCE, { LENGTH(3, 4, 4) } },

	/* waiting */
	[SYS_poll] = { LH_CALL_EARLY, { COUNTED(0, 1, 8) } },
	[SYS_ppoll] = { LH_CALL_EARLY, { COUNTED(0, 1, 8), FIXED(2, 16), FIXED(3, 8) } },
	[SYS_select] = { LH_CALL_EARLY, { BITS(1, 0), BITS(2, 0), BITS(3, 0), FIXED(4, 16) } },
	[SYS_pselect6] = { LH_CALL_EARLY, { BITS(1, 0), BITS(2, 0), BITS(3, 0), FIXED(4, 16), SIGMASK(5) } },
	[SYS_epoll_ctl] = { LH_CALL_LATE, { FIXED(3, 12) } },
	[SYS_epoll_wait] = { LH_CALL_LOOSE, { COUNTED(1, 2, 12) } },
	[SYS_epoll_pwait] = { LH_CALL_LOOSE, { COUNTED(1, 2, 12), FIXED(4, 8) } },
	[SYS_epoll_pwait2] = { LH_CALL_LOOSE, { COUNTED(1, 2, 12), FIXED(3, 16), FIXED(4, 8) } },
	[SYS_futex] = { LH_CALL_LOOSE, { FIXED(0, 4), FIXED(3, 16), FIXED(4, 4) } },
	[SYS_futex_waitv] = { LH_CALL_LOOSE, { POINTERS(0, 1, 24), FIXED(3, 16) } },
	[454 /* futex_wake */] = { LH_CALL_LOOSE, { FIXED(0, 4) } },
	[455 /* futex_wait */] = { LH_CALL_LOOSE, { FIXED(0, 4), FIXED(4, 16) } },
	[456 /* futex_requeue */] = { LH_CALL_LOOSE, { POINTERS(0, 0, 48) } },
	[SYS_nanosleep] = { LH_CALL_EARLY, { FIXED(0, 16), FIXED(1, 16) } },
	[SYS_clock_nanosleep] = { LH_CALL_EARLY, { FIXED(2, 16), FIXED(3, 16) } },
	[SYS_wait4] = { LH_CALL_ONCE, { FIXED(1, 4), FIXED(3, 144) } },
	[SYS_waitid] = { LH_CALL_ONCE, { FIXED(2, 128), FIXED(4, 144) } },
	[SYS_rt_sigtimedwait] = { LH_CALL_ONCE, { FIXED(0, 8), FIXED(1, 128), FIXED(2, 16) } },
	[SYS_msgsnd] = { LH_CALL_LATE, { SIZED(1, 2, 1) } },
	[SYS_msgrcv] = { LH_CALL_ONCE, { SIZED(1, 2, 1), FIXED(1, 8) } },
	[SYS_semop] = { LH_CALL_LATE, { COUNTED(1, 2, 6) } },
	[SYS_semtimedop] = { LH_CALL_LATE, { COUNTED(1, 2, 6), FIXED(3, 16) } },
	[SYS_mq_timedsend] = { LH_CALL_LATE, { SIZED(1, 2, 1), FIXED(4, 16) } },
	[SYS_mq_timedreceive] = { LH_CALL_ONCE, { SIZED(1, 2, 1), FIXED(3, 4), FIXED(4, 16) } },

	/* names */
	[SYS_open] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_openat] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_openat2] = { LH_CALL_LATE, { STRING(1), SIZED(2, 3, 1) } },
	[SYS_creat] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_stat] = { LH_CALL_LATE, { STRING(0), FIXED(1, 144) } },
	[SYS_lstat] = { LH_CALL_LATE, { STRING(0), FIXED(1, 144) } },
	[SYS_fstat] = { LH_CALL_LATE, { FIXED(1, 144) } },
	[SYS_newfstatat] = { LH_CALL_LATE, { STRING(1), FIXED(2, 144) } },
	[SYS_statx] = { LH_CALL_LATE, { STRING(1), FIXED(4, 256) } },
	[SYS_statfs] = { LH_CALL_LATE, { STRING(0), FIXED(1, 120) } },
	[SYS_fstatfs] = { LH_CALL_LATE, { FIXED(1, 120) } },
	[SYS_ustat] = { LH_CALL_LATE, { FIXED(1, 32) } },
	[SYS_access] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_faccessat] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_faccessat2] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_truncate] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_getdents] = { LH_CALL_EARLY, { COUNTED(1, 2, 1) } },
	[SYS_getdents64] = { LH_CALL_EARLY, { COUNTED(1, 2, 1) } },
	[SYS_getcwd] = { LH_CALL_LATE, { SIZED(0, 1, 1) } },
	[SYS_chdir] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_rename] = { LH_CALL_LATE, { STRING(0), STRING(1) } },
	[SYS_renameat] = { LH_CALL_LATE, { STRING(1), STRING(3) } },
	[SYS_renameat2] = { LH_CALL_LATE, { STRING(1), STRING(3) } },
	[SYS_mkdir] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_mkdirat] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_rmdir] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_link] = { LH_CALL_LATE, { STRING(0), STRING(1) } },
	[SYS_linkat] = { LH_CALL_LATE, { STRING(1), STRING(3) } },
	[SYS_unlink] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_unlinkat] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_symlink] = { LH_CALL_LATE, { STRING(0), STRING(1) } },
	[SYS_symlinkat] = { LH_CALL_LATE, { STRING(0), STRING(2) } },
	[SYS_readlink] = { LH_CALL_LATE, { STRING(0), COUNTED(1, 2, 1) } },
	[SYS_readlinkat] = { LH_CALL_LATE, { STRING(1), COUNTED(2, 3, 1) } },
	[SYS_chmod] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_fchmodat] = { LH_CALL_LATE, { STRING(1) } },
	[452 /* fchmodat2 */] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_chown] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_lchown] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_fchownat] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_mknod] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_mknodat] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_utime] = { LH_CALL_LATE, { STRING(0), FIXED(1, 16) } },
	[SYS_utimes] = { LH_CALL_LATE, { STRING(0), FIXED(1, 32) } },
	[SYS_futimesat] = { LH_CALL_LATE, { STRING(1), FIXED(2, 32) } },
	[SYS_utimensat] = { LH_CALL_LATE, { STRING(1), FIXED(2, 32) } },
	[SYS_setxattr] = { LH_CALL_LATE, { STRING(0), STRING(1), SIZED(2, 3, 1) } },
	[SYS_lsetxattr] = { LH_CALL_LATE, { STRING(0), STRING(1), SIZED(2, 3, 1) } },
	[SYS_fsetxattr] = { LH_CALL_LATE, { STRING(1), SIZED(2, 3, 1) } },
	[SYS_getxattr] = { LH_CALL_LATE, { STRING(0), STRING(1), SIZED(2, 3, 1) } },
	[SYS_lgetxattr] = { LH_CALL_LATE, { STRING(0), STRING(1), SIZED(2, 3, 1) } },
	[SYS_fgetxattr] = { LH_CALL_LATE, { STRING(1), SIZED(2, 3, 1) } },
	[SYS_listxattr] = { LH_CALL_LATE, { STRING(0), SIZED(1, 2, 1) } },
	[SYS_llistxattr] = { LH_CALL_LATE, { STRING(0), SIZED(1, 2, 1) } },
	[SYS_flistxattr] = { LH_CALL_LATE, { SIZED(1, 2, 1) } },
	[SYS_removexattr] = { LH_CALL_LATE, { STRING(0), STRING(1) } },
	[SYS_lremovexattr] = { LH_CALL_LATE, { STRING(0), STRING(1) } },
	[SYS_fremovexattr] = { LH_CALL_LATE, { STRING(1) } },
	[463 /* setxattrat */] = { LH_CALL_LATE, { STRING(1), STRING(3), POINTERS(4, 4, 16) } },
	[464 /* getxattrat */] = { LH_CALL_LATE, { STRING(1), STRING(3), POINTERS(4, 4, 16) } },
	[465 /* listxattrat */] = { LH_CALL_LATE, { STRING(1), SIZED(3, 4, 1) } },
	[466 /* removexattrat */] = { LH_CALL_LATE, { STRING(1), STRING(3) } },
	[468 /* file_getattr */] = { LH_CALL_LATE, { STRING(1), SIZED(2, 3, 1) } },
	[469 /* file_setattr */] = { LH_CALL_LATE, { STRING(1), SIZED(2, 3, 1) } },
	[SYS_name_to_handle_at] = { LH_CALL_LATE, { STRING(1), FIXED(2, 136), FIXED(3, 8) } },
	[SYS_open_by_handle_at] = { LH_CALL_LATE, { FIXED(1, 136) } },
	[SYS_inotify_add_watch] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_fanotify_mark] = { LH_CALL_LATE, { STRING(4) } },
	[SYS_memfd_create] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_mount] = { LH_CALL_EARLY, { STRING(0), STRING(1), STRING(2), FIXED(4, 4096) } },
	[SYS_umount2] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_pivot_root] = { LH_CALL_LATE, { STRING(0), STRING(1) } },
	[SYS_chroot] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_acct] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_swapon] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_swapoff] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_quotactl] = { LH_CALL_EARLY, { STRING(1), FIXED(3, 4096) } },
	[SYS_quotactl_fd] = { LH_CALL_EARLY, { FIXED(3, 4096) } },
	[SYS_uselib] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_open_tree] = { LH_CALL_LATE, { STRING(1) } },
	[467 /* open_tree_attr */] = { LH_CALL_LATE, { STRING(1), SIZED(3, 4, 1) } },
	[SYS_move_mount] = { LH_CALL_LATE, { STRING(1), STRING(3) } },
	[SYS_mount_setattr] = { LH_CALL_LATE, { STRING(1), SIZED(3, 4, 1) } },
	[SYS_fsopen] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_fsconfig] = { LH_CALL_LATE, { STRING(2), ANY(3) } },
	[SYS_fspick] = { LH_CALL_LATE, { STRING(1) } },
	[457 /* statmount */] = { LH_CALL_LATE, { FIXED(0, 32), SIZED(1, 2, 1) } },
	[458 /* listmount */] = { LH_CALL_LATE, { FIXED(0, 32), SIZED(1, 2, 8) } },
	[451 /* cachestat */] = { LH_CALL_LATE, { FIXED(1, 16), FIXED(2, 40) } },
	[SYS_execve] = { LH_CALL_EXECUTE, { STRING(0), STRINGS(1), STRINGS(2) } },
	[SYS_execveat] = { LH_CALL_EXECUTE, { STRING(1), STRINGS(2), STRINGS(3) } },

	/* descriptors */
	[SYS_pipe] = { LH_CALL_LATE, { FIXED(0, 8) } },
	[SYS_pipe2] = { LH_CALL_LATE, { FIXED(0, 8) } },
	[SYS_ioctl] = { LH_CALL_ONCE, { IOCTL(2) } },
	[SYS_fcntl] = { LH_CALL_LATE, { FIXED(2, 32) } },
	[SYS_signalfd] = { LH_CALL_LATE, { FIXED(1, 8) } },
	[SYS_signalfd4] = { LH_CALL_LATE, { FIXED(1, 8) } },
	[SYS_timerfd_settime] = { LH_CALL_EARLY, { FIXED(2, 32), FIXED(3, 32) } },
	[SYS_timerfd_gettime] = { LH_CALL_LATE, { FIXED(1, 32) } },

	/* time */
	[SYS_gettimeofday] = { LH_CALL_LATE, { FIXED(0, 16), FIXED(1, 8) } },
	[SYS_settimeofday] = { LH_CALL_LATE, { FIXED(0, 16), FIXED(1, 8) } },
	[SYS_time] = { LH_CALL_LATE, { FIXED(0, 8) } },
	[SYS_times] = { LH_CALL_LATE, { FIXED(0, 32) } },
	[SYS_getitimer] = { LH_CALL_LATE, { FIXED(1, 32) } },
	[SYS_setitimer] = { LH_CALL_EARLY, { FIXED(1, 32), FIXED(2, 32) } },
	[SYS_adjtimex] = { LH_CALL_EARLY, { FIXED(0, 208) } },
	[SYS_clock_gettime] = { LH_CALL_LATE, { FIXED(1, 16) } },
	[SYS_clock_settime] = { LH_CALL_LATE, { FIXED(1, 16) } },
	[SYS_clock_getres] = { LH_CALL_LATE, { FIXED(1, 16) } },
	[SYS_clock_adjtime] = { LH_CALL_EARLY, { FIXED(1, 208) } },
	[SYS_timer_create] = { LH_CALL_EARLY, { FIXED(1, 64), FIXED(2, 4) } },
	[SYS_timer_settime] = { LH_CALL_EARLY, { FIXED(2, 32), FIXED(3, 32) } },
	[SYS_timer_gettime] = { LH_CALL_LATE, { FIXED(1, 32) } },
	[SYS_sched_rr_get_interval] = { LH_CALL_LATE, { FIXED(1, 16) } },

	/* signals and processes */
	[SYS_rt_sigaction] = { LH_CALL_EARLY, { FIXED(1, 32), FIXED(2, 32) } },
	[SYS_rt_sigprocmask] = { LH_CALL_EARLY, { FIXED(1, 8), FIXED(2, 8) } },
	[SYS_rt_sigpending] = { LH_CALL_LATE, { FIXED(0, 8) } },
	[SYS_rt_sigsuspend] = { LH_CALL_LATE, { FIXED(0, 8) } },
	[SYS_rt_sigqueueinfo] = { LH_CALL_LATE, { FIXED(2, 128) } },
	[SYS_rt_tgsigqueueinfo] = { LH_CALL_LATE, { FIXED(3, 128) } },
	[SYS_pidfd_send_signal] = { LH_CALL_LATE, { FIXED(2, 128) } },
	[SYS_sigaltstack] = { LH_CALL_EARLY, { FIXED(0, 24), FIXED(1, 24) } },
	[SYS_clone] = { LH_CALL_PIN, { FIXED(2, 4), FIXED(3, 4) } },
	[SYS_clone3] = { LH_CALL_PIN, { POINTERS(0, 0, 88) } },
	[SYS_set_tid_address] = { LH_CALL_PIN, { FIXED(0, 4) } },
	[SYS_set_robust_list] = { LH_CALL_PIN, { FIXED(0, 24) } },
	[SYS_rseq] = { LH_CALL_PIN, { FIXED(0, 32) } },
	[SYS_get_robust_list] = { LH_CALL_LATE, { FIXED(1, 8), FIXED(2, 8) } },
	[SYS_getrlimit] = { LH_CALL_LATE, { FIXED(1, 16) } },
	[SYS_setrlimit] = { LH_CALL_LATE, { FIXED(1, 16) } },
	[SYS_prlimit64] = { LH_CALL_EARLY, { FIXED(2, 16), FIXED(3, 16) } },
	[SYS_getrusage] = { LH_CALL_LATE, { FIXED(1, 144) } },
	[SYS_sysinfo] = { LH_CALL_LATE, { FIXED(0, 112) } },
	[SYS_uname] = { LH_CALL_LATE, { FIXED(0, 390) } },
	[SYS_getgroups] = { LH_CALL_LATE, { COUNTED(1, 0, 4) } },
	[SYS_setgroups] = { LH_CALL_LATE, { COUNTED(1, 0, 4) } },
	[SYS_getresuid] = { LH_CALL_LATE, { FIXED(0, 4), FIXED(1, 4), FIXED(2, 4) } },
	[SYS_getresgid] = { LH_CALL_LATE, { FIXED(0, 4), FIXED(1, 4), FIXED(2, 4) } },
	[SYS_capget] = { LH_CALL_LATE, { FIXED(0, 8), FIXED(1, 24) } },
	[SYS_capset] = { LH_CALL_LATE, { FIXED(0, 8), FIXED(1, 24) } },
	[SYS_sched_setparam] = { LH_CALL_LATE, { FIXED(1, 4) } },
	[SYS_sched_getparam] = { LH_CALL_LATE, { FIXED(1, 4) } },
	[SYS_sched_setscheduler] = { LH_CALL_LATE, { FIXED(2, 4) } },
	[SYS_sched_setattr] = { LH_CALL_LATE, { FIXED(1, 64) } },
	[SYS_sched_getattr] = { LH_CALL_LATE, { COUNTED(1, 2, 1) } },
	[SYS_sched_setaffinity] = { LH_CALL_LATE, { COUNTED(2, 1, 1) } },
	[SYS_sched_getaffinity] = { LH_CALL_LATE, { COUNTED(2, 1, 1) } },
	[SYS_getcpu] = { LH_CALL_LATE, { FIXED(0, 4), FIXED(1, 4) } },
	[SYS_prctl] = { LH_CALL_LATE, { ANY(1), ANY(2), ANY(3), ANY(4) } },
	[SYS_arch_prctl] = { LH_CALL_LATE, { FIXED(1, 8) } },
	[SYS_modify_ldt] = { LH_CALL_LATE, { SIZED(1, 2, 1) } },
	[SYS_set_thread_area] = { LH_CALL_LATE, { FIXED(0, 16) } },
	[SYS_get_thread_area] = { LH_CALL_LATE, { FIXED(0, 16) } },
	[SYS_ptrace] = { LH_CALL_ONCE, { ANY(2), POINTERS(3, 3, 16) } },
	[SYS_seccomp] = { LH_CALL_LATE, { FILTER(2), FIXED(2, 16) } },
	[SYS_sethostname] = { LH_CALL_LATE, { COUNTED(0, 1, 1) } },
	[SYS_setdomainname] = { LH_CALL_LATE, { COUNTED(0, 1, 1) } },
	[SYS_syslog] = { LH_CALL_ONCE, { COUNTED(1, 2, 1) } },
	[SYS_reboot] = { LH_CALL_LATE, { STRING(3) } },
	[SYS_init_module] = { LH_CALL_LATE, { SIZED(0, 1, 1), STRING(2) } },
	[SYS_finit_module] = { LH_CALL_LATE, { STRING(1) } },
	[SYS_delete_module] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_kexec_load] = { LH_CALL_LATE, { POINTERS(2, 1, 32) } },
	[SYS_kexec_file_load] = { LH_CALL_LATE, { SIZED(3, 2, 1) } },
	[SYS_sysfs] = { LH_CALL_LATE, { ANY(1), ANY(2) } },
	[SYS__sysctl] = { LH_CALL_LATE, { POINTERS(0, 0, 80) } },
	[SYS_landlock_create_ruleset] = { LH_CALL_LATE, { SIZED(0, 1, 1) } },
	[SYS_landlock_add_rule] = { LH_CALL_LATE, { FIXED(2, 16) } },
	[459 /* lsm_get_self_attr */] = { LH_CALL_LATE, { LENGTH(1, 2, 4) } },
	[460 /* lsm_set_self_attr */] = { LH_CALL_LATE, { COUNTED(1, 2, 1) } },
	[461 /* lsm_list_modules */] = { LH_CALL_LATE, { LENGTH(0, 1, 4) } },

	/* memory policy */
	[SYS_mincore] = { LH_CALL_LATE, { PAGES(2, 1) } },
	[SYS_mbind] = { LH_CALL_LATE, { BITS(3, 4) } },
	[SYS_set_mempolicy] = { LH_CALL_LATE, { BITS(1, 2) } },
	[SYS_get_mempolicy] = { LH_CALL_LATE, { FIXED(0, 4), BITS(1, 2), FIXED(3, 1) } },
	[SYS_migrate_pages] = { LH_CALL_LATE, { BITS(2, 1), BITS(3, 1) } },
	[SYS_move_pages] = { LH_CALL_LATE, { SIZED(2, 1, 8), SIZED(3, 1, 4), SIZED(4, 1, 4) } },

	/* queues and keys */
	[SYS_shmctl] = { LH_CALL_LATE, { FIXED(2, 112) } },
	[SYS_semctl] = { LH_CALL_LATE, { ANY(3) } },
	[SYS_msgctl] = { LH_CALL_LATE, { FIXED(2, 120) } },
	[SYS_mq_open] = { LH_CALL_LATE, { STRING(0), FIXED(3, 64) } },
	[SYS_mq_unlink] = { LH_CALL_LATE, { STRING(0) } },
	[SYS_mq_notify] = { LH_CALL_LATE, { POINTERS(1, 1, 64) } },
	[SYS_mq_getsetattr] = { LH_CALL_EARLY, { FIXED(1, 64), FIXED(2, 64) } },
	[SYS_add_key] = { LH_CALL_LATE, { STRING(0), STRING(1), SIZED(2, 3, 1) } },
	[SYS_request_key] = { LH_CALL_LATE, { STRING(0), STRING(1), STRING(2) } },
	[SYS_keyctl] = { LH_CALL_EARLY, { ANY(1), ANY(2), ANY(3), ANY(4) } },
	[SYS_bpf] = { LH_CALL_EARLY, { POINTERS(1, 1, 256) } },
	[SYS_perf_event_open] = { LH_CALL_LATE, { FIXED(0, 256) } },
	[SYS_lookup_dcookie] = { LH_CALL_LATE, { SIZED(1, 2, 1) } },
};

/* Calls that came after this table. A part of their work may depend on any argument. */
static const struct lh_call unknown = { LH_CALL_ONCE, { ANY(0), ANY(1), ANY(2), ANY(3), ANY(4) } };

const struct lh_call *lh__operands(long nr)
{
	return nr < 0 || nr >= FIRST_UNKNOWN ? &unknown : &table[nr];
}
