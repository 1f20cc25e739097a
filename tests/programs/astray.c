/*
 * astray.c - a program that goes where no code is, or is none, in the way that its word says; it dies of
 * that, or says in its handler what it was told (with a second word).
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static uint8_t data[4096] __attribute__((aligned(4096))) = { 0xc3 };
static uint8_t *place;

/* Where a thing is, by what is the same on each run. */
static long from_place(uint64_t address)
{
	return address - (uintptr_t)place + 65536 < 131072 ? (long)(address - (uintptr_t)place)
	                                                   : (long)address;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	const ucontext_t *at = context;
	char line[128];
	int size = snprintf(line, sizeof(line), "signal %d code %d at %ld from %ld\n", number, info->si_code,
	                    from_place((uintptr_t)info->si_addr),
	                    from_place((uint64_t)at->uc_mcontext.gregs[REG_RIP]));

	if (write(STDOUT_FILENO, line, (size_t)size) != size)
		_exit(1);
	_exit(9);
}

static void go(const char *bytes, size_t size, int protection)
{
	place = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(place, bytes, size);
	mprotect(place, 4096, protection);
	munmap(place + 4096, 4096);
	((void (*)(void))(uintptr_t)place)();
}
#define GO(bytes) go((bytes), sizeof(bytes) - 1, PROT_READ | PROT_EXEC)

static void across(void) /* an instruction whose second half is not there */
{
	place = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(place, 0x90, 4096);
	memcpy(place + 4093, "\x48\x8d\x05", 3);
	munmap(place + 4096, 4096);
	((void (*)(void))(uintptr_t)(place + 4080))();
}

int main(int count, char **words)
{
	const char *way = count > 1 ? words[1] : "";
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };

	for (int number = 1; count > 2 && number < 32; number++)
		sigaction(number, &action, NULL);
	if (strcmp(way, "ud2") == 0)
		GO("\x90\x90\x0f\x0b");
	else if (strcmp(way, "undecodable") == 0)
		GO("\x90\x90\x06\x90"); /* push %es */
	else if (strcmp(way, "privileged") == 0)
		GO("\x90\xf4"); /* hlt */
	else if (strcmp(way, "port") == 0)
		GO("\x90\xec"); /* in */
	else if (strcmp(way, "int3") == 0)
		GO("\x90\xcc");
	else if (strcmp(way, "int80") == 0)
		GO("\x90\xcd\x81"); /* a gate that is none */
	else if (strcmp(way, "locked") == 0)
		GO("\x90\xf0\x90"); /* lock nop */
	else if (strcmp(way, "foreign") == 0)
		GO("\x90\x8f\xe9\x78\xe1\xc0"); /* AMD's vfrczps */
	else if (strcmp(way, "divide") == 0)
		GO("\x31\xc9\xf7\xf1"); /* xor %ecx, %ecx; div %ecx */
	else if (strcmp(way, "noncanonical") == 0)
		GO("\x48\xb8\0\0\0\0\0\0\0\x80\xff\xe0"); /* jmp to 1 << 63 */
	else if (strcmp(way, "noncanonical-data") == 0)
		GO("\x48\xb8\0\0\0\0\0\0\0\x80\x8b\x00");
	else if (strcmp(way, "unmapped") == 0)
		GO("\x31\xc0\xff\xe0"); /* jmp to 0 */
	else if (strcmp(way, "past") == 0)
		GO("\xe9\xfb\x0f\x00\x00"); /* jmp to the next page, which is not there */
	else if (strcmp(way, "across") == 0)
		across();
	else if (strcmp(way, "data") == 0)
		((void (*)(void))(uintptr_t)(place = data))();
	else if (strcmp(way, "stack") == 0)
		((void (*)(void))(uintptr_t)(place = (uint8_t *)&action))();
	else if (strcmp(way, "unexecutable") == 0)
		go("\xc3", 1, PROT_READ);
	else if (strcmp(way, "none") == 0)
		go("\xc3", 1, PROT_NONE);
	else
		return 2;
	return 3;
}
