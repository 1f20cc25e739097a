/*
 * translate_changed.h - code that comes, changes and goes, and whether what runs is what is there: rewritten
 * by its own thread, by itself, by another thread, by the kernel, through another mapping; made executable
 * and writable in turn; unmapped, and other code in its place; and memory that may not be executed.
 *
 * For tests in which a thread is translated between on() and off(), and for a program that does nothing of
 * the kind itself. Whoever includes it has:
 *
 *     on, off          around what is to be translated
 *     CALL             a system call of the program's, between them
 *     gone, allow      munmap, and mprotect of a page, outside
 *     closes           dlclose, outside, of an object with this function
 *     dead_end, dead_address, dead_code    where a SIGSEGV that is the program's own leads, and what it said
 */
#ifndef TRANSLATE_CHANGED_H
#define TRANSLATE_CHANGED_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"

#define RWX (PROT_READ | PROT_WRITE | PROT_EXEC)
#define RX (PROT_READ | PROT_EXEC)
#define PAGE_BYTES 4096u

static void on(void);
static void off(void);
static long call_of(long number, long a, long b, long c, long d, long e, long f);
static void gone(uint8_t *memory, size_t size);
static void allow(uint8_t *memory, long protection);
static void closes(void *object, int (*function)(int));

#define CALL(number, a, b, c, d, e, f)                                                                       \
	call_of(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static sigjmp_buf dead_end;
static volatile uint64_t dead_address, dead_code;

/* ---- code that is made */

/* mov $value, %eax; ret */
static void make_constant(uint8_t *at, uint32_t value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static uint32_t run(const uint8_t *at)
{
	return ((uint32_t(*)(void))(uintptr_t)at)();
}

static uint64_t run_with(const uint8_t *at, uint64_t a, uint64_t b)
{
	return ((uint64_t(*)(uint64_t, uint64_t))(uintptr_t)at)(a, b);
}

static uint8_t *memory_with(size_t size, int protection)
{
	uint8_t *made = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (made == MAP_FAILED)
		abort();
	return made;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

#define ROUNDS 100000u

static unsigned rewrite(uint8_t *made)
{
	unsigned wrong = 0;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		make_constant(made, i);
		wrong += run(made) != i;
	}
	return wrong;
}

static void check_rewritten(const char *how)
{
	uint8_t *made = memory_with(PAGE_BYTES, RWX);
	double native = seconds(), translated;
	unsigned wrong;

	rewrite(made);
	translated = seconds();
	native = translated - native;
	on();
	wrong = rewrite(made);
	off();
	translated = seconds() - translated;
	is(wrong, 0, "%s: code rewritten %u times", how, ROUNDS);
	printf("# %s: a round of store and call: %.0f ns natively, %.0f translated\n", how,
	       native * 1e9 / ROUNDS, translated * 1e9 / ROUNDS);
	gone(made, PAGE_BYTES);
}

/*
 *     mov %edi, 1f+1(%rip)
 * 1:  mov $0, %eax
 *     mov %esi, 2f+1(%rip)       the next one again, and then itself: its displacement stays
 *     add $0, %eax
 * 2:  add $0, %eax
 *     ret
 */
static const uint8_t changes_next[] = { 0x89, 0x3d, 1, 0, 0,    0,    0xb8, 0,    0, 0, 0, 0x89, 0x35,
	                                4,    0,    0, 0, 0x83, 0xc0, 0,    0x05, 0, 0, 0, 0,    0xc3 };

/*
 *     lea 1f(%rip), %rdx
 *     xor %eax, %eax
 *     mov $10, %ecx
 * 0:  incb 2(%rdx)               the instruction that adds is changed in each turn
 * 1:  add $0, %eax
 *     dec %ecx
 *     jnz 0b
 *     ret
 */
static const uint8_t changes_loop[] = { 0x48, 0x8d, 0x15, 10,   0,    0,    0, 0x31, 0xc0, 0xb9, 10,   0,   0,
	                                0,    0xfe, 0x42, 0x02, 0x83, 0xc0, 0, 0xff, 0xc9, 0x75, 0xf6, 0xc3 };

/* Also where the block begins in one page and the changed instruction lies in the next. */
static void check_itself(const char *how)
{
	uint8_t *made = memory_with(2 * PAGE_BYTES, RWX), *across = made + PAGE_BYTES - 8;
	unsigned wrong = 0;

	memcpy(made, changes_next, sizeof(changes_next));
	on();
	for (unsigned i = 0; i < 200; i++)
		wrong += run_with(made, i, 3 * i) != 4 * i;
	off();
	is(wrong, 0, "%s: instructions that change the next ones of their block", how);
	memcpy(made, changes_loop, sizeof(changes_loop));
	memcpy(across, changes_loop, sizeof(changes_loop));
	on();
	for (unsigned i = 0; i < 100; i++) {
		made[19] = across[19] = (uint8_t)i % 50;
		wrong += run(made) != 10 * (i % 50) + 55;
		wrong += run(across) != 10 * (i % 50) + 55;
	}
	off();
	is(wrong, 0, "%s: a loop that changes itself, and one across two pages", how);
	gone(made, 2 * PAGE_BYTES);
}

/* ---- two mappings of the same memory */

static void check_views(const char *how)
{
	int fd = memfd_create("views", 0);
	uint8_t *write, *execute;
	unsigned wrong = 0;

	if (fd < 0 || ftruncate(fd, PAGE_BYTES) < 0)
		abort();
	write = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	execute = mmap(NULL, PAGE_BYTES, RX, MAP_SHARED, fd, 0);
	close(fd);
	on();
	for (uint32_t i = 0; i < 5000; i++) {
		make_constant(write, i);
		wrong += run(execute) != i;
	}
	off();
	is(wrong, 0, "%s: code that is written through another mapping", how);
	gone(write, PAGE_BYTES);
	gone(execute, PAGE_BYTES);
}

/* ---- system calls */

static void check_flips(const char *how)
{
	uint8_t *made = memory_with(PAGE_BYTES, PROT_READ | PROT_WRITE);
	unsigned wrong = 0;

	on();
	for (uint32_t i = 0; i < 2000; i++) {
		make_constant(made, i);
		wrong += CALL(SYS_mprotect, made, PAGE_BYTES, i % 3 ? RX : RWX, 0, 0, 0) != 0;
		wrong += run(made) != i;
		wrong += CALL(SYS_mprotect, made, PAGE_BYTES, PROT_READ | PROT_WRITE, 0, 0, 0) != 0;
	}
	off();
	is(wrong, 0, "%s: memory that is writable and executable in turn", how);
	gone(made, PAGE_BYTES);
}

static void check_replaced(const char *how)
{
	uint8_t *made = memory_with(2 * PAGE_BYTES, RWX);
	unsigned wrong = 0;

	on();
	for (uint32_t i = 0; i < 500; i++) {
		long at = (long)(uintptr_t)made;

		if (i % 3 == 0)
			CALL(SYS_munmap, made, 2 * PAGE_BYTES, 0, 0, 0, 0);
		if (i % 3 < 2)
			at = CALL(SYS_mmap, made, 2 * PAGE_BYTES, RWX,
			          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		else
			CALL(SYS_madvise, made, 2 * PAGE_BYTES, MADV_DONTNEED, 0, 0, 0);
		wrong += at != (long)(uintptr_t)made || made[0] != 0;
		make_constant(made, i);
		if (i % 2)
			CALL(SYS_mprotect, made, 2 * PAGE_BYTES, RX, 0, 0, 0);
		wrong += run(made) != i;
		if (i % 2)
			CALL(SYS_mprotect, made, 2 * PAGE_BYTES, RWX, 0, 0, 0);
	}
	off();
	is(wrong, 0, "%s: other memory at the same address", how);
	gone(made, 2 * PAGE_BYTES);
}

/* Moved there and back: what was at either place is not what is. */
static void check_moved(const char *how)
{
	uint8_t *made = memory_with(PAGE_BYTES, RWX), *other = memory_with(PAGE_BYTES, RWX);
	unsigned wrong = 0;

	on();
	for (uint32_t i = 0; i < 100; i++) {
		make_constant(made, i);
		make_constant(other, i + 1000);
		wrong += run(made) != i || run(other) != i + 1000;
		wrong += CALL(SYS_mremap, made, PAGE_BYTES, PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, other,
		              0) != (long)(uintptr_t)other;
		wrong += run(other) != i;
		wrong += CALL(SYS_mmap, made, PAGE_BYTES, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		              0) != (long)(uintptr_t)made;
	}
	off();
	is(wrong, 0, "%s: memory that is moved", how);
	gone(made, PAGE_BYTES);
	gone(other, PAGE_BYTES);
}

/* A protection that fails half way: what lies before the hole has it, what lies behind can be written. */
static void check_half(const char *how)
{
	uint8_t *made = memory_with(3 * PAGE_BYTES, RWX), *last = made + 2 * PAGE_BYTES;
	unsigned wrong = 0;

	gone(made + PAGE_BYTES, PAGE_BYTES);
	on();
	for (uint32_t i = 0; i < 100; i++) {
		make_constant(made, i);
		make_constant(last, i + 1);
		wrong += run(made) != i || run(last) != i + 1;
		wrong += CALL(SYS_mprotect, made, 3 * PAGE_BYTES, PROT_READ, 0, 0, 0) != -ENOMEM;
		make_constant(last, i + 2);
		wrong += run(last) != i + 2;
		wrong += CALL(SYS_mprotect, made, PAGE_BYTES, RWX, 0, 0, 0) != 0;
		wrong += run(made) != i;
	}
	off();
	is(wrong, 0, "%s: a call that does half of what it was asked for", how);
	gone(made, PAGE_BYTES);
	gone(last, PAGE_BYTES);
}

/* ---- the kernel writes */

enum by { BY_READ, BY_READV, BY_RECVMSG, BY_VM_WRITEV, BY_PWRITE, BY_WRITE, BYS };

static long bring(enum by by, const int *from, const uint8_t *code, uint8_t *to, size_t size)
{
	struct iovec here = { (void *)(uintptr_t)code, size }, there[2] = { { to, 3 }, { to + 3, size - 3 } };
	struct msghdr message = { .msg_iov = there, .msg_iovlen = 2 };

	if (by < BY_VM_WRITEV && write(from[1], code, size) != (ssize_t)size)
		return -EIO;
	switch (by) {
	case BY_READ: return CALL(SYS_read, from[0], to, size, 0, 0, 0);
	case BY_READV: return CALL(SYS_readv, from[0], there, 2, 0, 0, 0);
	case BY_RECVMSG: return CALL(SYS_recvmsg, from[0], &message, 0, 0, 0, 0);
	case BY_PWRITE: return CALL(SYS_pwrite64, from[2], code, size, to, 0, 0);
	case BY_WRITE:
		if (CALL(SYS_lseek, from[2], to, SEEK_SET, 0, 0, 0) < 0)
			return -EIO;
		return CALL(SYS_write, from[2], code, size, 0, 0, 0);
	default: return CALL(SYS_process_vm_writev, getpid(), &here, 1, there, 2, 0);
	}
}

static void check_kernel(const char *how)
{
	uint8_t *made = memory_with(2 * PAGE_BYTES, RWX), *at = made + PAGE_BYTES - 4, code[6];
	unsigned wrong = 0;
	int from[3];

	from[2] = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, from) < 0)
		abort();
	on();
	for (int by = 0; by < BYS; by++) {
		/* A mapping anew: nothing is known of its pages. */
		CALL(SYS_mmap, made, 2 * PAGE_BYTES, by < BY_PWRITE ? RWX : RX,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		for (uint32_t i = 0; i < 100; i++) {
			make_constant(code, i);
			wrong += bring((enum by)by, from, code, at, sizeof(code)) != (long)sizeof(code);
			wrong += run(at) != i;
		}
	}
	off();
	is(wrong, 0, "%s: code that the kernel writes, into two pages", how);
	close(from[0]);
	close(from[1]);
	close(from[2]);
	gone(made, 2 * PAGE_BYTES);
}

/* ---- other threads */

struct pair {
	uint8_t *made;
	uint32_t asked, done, wrong;
};

/* A mov's constant, as 8 bytes at once, and a word that says that it is there. */
static void *writer(void *argument)
{
	struct pair *pair = argument;
	uint64_t word;

	for (uint32_t i = 1; i <= 5000; i++) {
		while (__atomic_load_n(&pair->done, __ATOMIC_ACQUIRE) != i - 1)
			sched_yield();
		memcpy(&word, pair->made, 8);
		word = (word & 0xffffff00000000ffull) | (uint64_t)i << 8;
		__atomic_store_n((uint64_t *)(void *)pair->made, word, __ATOMIC_RELEASE);
		__atomic_store_n(&pair->asked, i, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void *reader(void *argument)
{
	struct pair *pair = argument;

	on();
	for (uint32_t i = 1; i <= 5000; i++) {
		while (__atomic_load_n(&pair->asked, __ATOMIC_ACQUIRE) != i)
			if (run(pair->made) - i + 1 > 1)
				pair->wrong++;
			else
				sched_yield();
		pair->wrong += run(pair->made) != i;
		__atomic_store_n(&pair->done, i, __ATOMIC_RELEASE);
	}
	off();
	return NULL;
}

static void check_other_thread(const char *how)
{
	struct pair pair = { .made = memory_with(PAGE_BYTES, RWX) };
	pthread_t thread[2];

	make_constant(pair.made, 0);
	pthread_create(&thread[0], NULL, reader, &pair);
	pthread_create(&thread[1], NULL, writer, &pair);
	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	is(pair.wrong, 0, "%s: code that another thread changes, by one store", how);
	gone(pair.made, PAGE_BYTES);
}

/* ---- memory that may not be executed */

static void dies(const char *how, const char *what, const uint8_t *at, uint64_t address, uint64_t code)
{
	static volatile bool died;

	dead_address = dead_code = 0;
	died = false;
	if (sigsetjmp(dead_end, 1) == 0) {
		on();
		run(at);
	} else {
		died = true;
	}
	off();
	ok(died && dead_address == address && dead_code == code, "%s: %s: at %lx, by the code at %lx", how,
	   what, (unsigned long)dead_address, (unsigned long)dead_code);
}

static void check_not_executable(const char *how)
{
	uint8_t *made = memory_with(2 * PAGE_BYTES, PROT_READ | PROT_WRITE);
	uint64_t start = (uint64_t)(uintptr_t)made, end = start + PAGE_BYTES;

	make_constant(made, 1);
	dies(how, "data is not executed", made, start, start);
	allow(made, RX);
	make_constant(made + PAGE_BYTES, 1);
	dies(how, "nor code that has been data", made + PAGE_BYTES, end, end);
	allow(made, RWX);
	memset(made + PAGE_BYTES - 8, 0x90, 8);
	made[PAGE_BYTES - 2] = 0xb8;
	allow(made, RX);
	dies(how, "an instruction that reaches into data", made + PAGE_BYTES - 8, end, end - 2);
	gone(made, 2 * PAGE_BYTES);
	dies(how, "memory that is gone", made, start, start);
}

/* ---- libraries */

static void *library(const char *name)
{
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 100);
	char *last;

	if (length < 0)
		return NULL;
	path[length] = 0;
	last = strrchr(path, '/');
	snprintf(last, 100, "/objects/%s", name);
	if (access(path, R_OK) < 0)
		snprintf(last, 100, "/../objects/%s", name);
	return dlopen(path, RTLD_NOW);
}

/* The second is mapped where the first was. */
static void check_libraries(const char *how)
{
	static const char *const name[2] = { "first.so", "second.so" };
	unsigned wrong = 0, same = 0;
	uintptr_t before = 0;

	for (int i = 0; i < 20; i++) {
		void *object = library(name[i % 2]);
		int (*which)(int) = object ? (int (*)(int))dlsym(object, "which") : NULL;

		same += (uintptr_t)which == before;
		before = (uintptr_t)which;
		on();
		wrong += !which || which(i) != (i % 2 ? 3 * i + 7 : i + 1000);
		off();
		if (object)
			closes(object, which);
	}
	ok(wrong == 0 && same > 10, "%s: libraries, %u times at the same address: %u wrong", how, same,
	   wrong);
}

static void check_all(const char *how)
{
	check_rewritten(how);
	check_itself(how);
	check_views(how);
	check_flips(how);
	check_replaced(how);
	check_moved(how);
	check_half(how);
	check_kernel(how);
	check_other_thread(how);
	check_not_executable(how);
	check_libraries(how);
}

#endif
