/*
 * qemu_machine.h - real QEMUs for C tests: TCG, SeaBIOS, and for a guest that does something a boot sector.
 *
 * Everything of a machine lies in a folder of its own in /dev/shm, and goes with it; a QEMU dies with the
 * test.
 */
#ifndef QEMU_MACHINE_H
#define QEMU_MACHINE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define QEMU_ARGUMENTS_MAX 64
#define QEMU_MEGABYTES 32

struct qemu_machine {
	pid_t pid;
	char folder[64];
	char monitor[96]; /* socket */
	char memory[96];  /* file of ram0 */
	char serial[96];  /* what the guest has said on its serial port */
	char boot[96];    /* disk with the boot sector, if there is one */
	char said[96];    /* QEMU's own messages */
};

/*
 * A guest: real mode. Counts in memory: 16-bit words, one in each page from 64 KiB to 512 KiB, in turns;
 * after each turn it writes a dot to the serial port.
 */
static const uint8_t qemu_guest_counts[] = {
	0xfa,                   /* cli */
	0x31, 0xc0,             /* xor ax, ax */
	0x8e, 0xd0,             /* mov ss, ax */
	0xbc, 0x00, 0x7c,       /* mov sp, 0x7c00 */
	0xbb, 0x00, 0x10,       /* turn: mov bx, 0x1000 */
	0x8e, 0xdb,             /* page: mov ds, bx */
	0xff, 0x06, 0x00, 0x00, /* inc word [0] */
	0x81, 0xc3, 0x00, 0x01, /* add bx, 0x100 */
	0x81, 0xfb, 0x00, 0x80, /* cmp bx, 0x8000 */
	0x75, 0xf0,             /* jne page */
	0xba, 0xf8, 0x03,       /* mov dx, 0x3f8 */
	0xb0, 0x2e,             /* mov al, '.' */
	0xee,                   /* out dx, al */
	0xeb, 0xe5,             /* jmp turn */
};

__attribute__((unused)) static bool qemu_missing(void)
{
	return access("/usr/bin/qemu-system-x86_64", X_OK) != 0;
}

static void qemu_nap(unsigned ms)
{
	struct timespec nap = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&nap, NULL);
}

/* Names of what a machine has, and its folder. name: unique among the machines of all tests. */
static void qemu_name(struct qemu_machine *machine, const char *name)
{
	memset(machine, 0, sizeof(*machine));
	snprintf(machine->folder, sizeof(machine->folder), "/dev/shm/%.30s-%d", name, (int)getpid());
	snprintf(machine->monitor, sizeof(machine->monitor), "%s/qmp", machine->folder);
	snprintf(machine->memory, sizeof(machine->memory), "%s/ram", machine->folder);
	snprintf(machine->serial, sizeof(machine->serial), "%s/serial", machine->folder);
	snprintf(machine->boot, sizeof(machine->boot), "%s/boot", machine->folder);
	snprintf(machine->said, sizeof(machine->said), "%s/said", machine->folder);
	mkdir(machine->folder, 0700);
}

/* Puts a boot sector onto its disk; before it is started. */
__attribute__((unused)) static void qemu_boots(const struct qemu_machine *machine, const void *code,
                                               size_t size)
{
	uint8_t sector[512] = { 0 };
	int fd = open(machine->boot, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	memcpy(sector, code, size);
	sector[510] = 0x55;
	sector[511] = 0xaa;
	if (fd < 0 || write(fd, sector, sizeof(sector)) != sizeof(sector) || ftruncate(fd, 1 << 20))
		perror(machine->boot);
	close(fd);
}

/* Whether its monitor greets. (Who goes before that can leave QEMU 7.2 deaf to whom comes next.) */
static bool qemu_listens(const struct qemu_machine *machine)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = 20 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char byte = 0;
	bool yes;

	memcpy(address.sun_path, machine->monitor, strlen(machine->monitor) + 1);
	yes = fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof(address)) &&
	      !setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	while (yes && byte != '\n')
		yes = recv(fd, &byte, 1, 0) == 1;
	close(fd);
	return yes;
}

__attribute__((unused)) static void qemu_show_said(const struct qemu_machine *machine)
{
	char line[512];
	FILE *file = fopen(machine->said, "re");

	while (file && fgets(line, sizeof(line), file))
		printf("# qemu: %s", line);
	if (file)
		fclose(file);
}

/*
 * Runs a program as a machine: argv ends with NULL. Returns once its monitor greets; false: it has ended.
 */
static bool qemu_run(struct qemu_machine *machine, char *const argv[])
{
	pid_t parent = getpid();
	int out;

	fflush(stdout);
	machine->pid = fork();
	if (machine->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		out = open(machine->said, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		if (getppid() != parent || out < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
			_exit(126);
		execvp(argv[0], argv);
		_exit(127);
	}
	for (unsigned i = 0; i < 2000; i++) {
		if (qemu_listens(machine))
			return true;
		if (machine->pid < 0 || waitpid(machine->pid, NULL, WNOHANG) == machine->pid)
			break;
		qemu_nap(5);
	}
	machine->pid = machine->pid > 0 && !kill(machine->pid, 0) ? machine->pid : 0;
	qemu_show_said(machine);
	return false;
}

/*
 * Starts a machine that qemu_name has named. before (NULL: nothing): words put in front, "env", "A=b"...;
 * backend: of memory ("memory-backend-file,id=ram0,..."; NULL: as it must be for a migration), extra: more
 * arguments, NULL or ending with NULL.
 */
static bool qemu_start(struct qemu_machine *machine, char *const before[], const char *backend,
                       char *const extra[])
{
	char object[256], monitor[128], serial[128], disk[160], megabytes[16];
	char *argv[QEMU_ARGUMENTS_MAX];
	size_t n = 0;

	snprintf(object, sizeof(object), "memory-backend-file,id=ram0,size=%dM,mem-path=%s,share=on",
	         QEMU_MEGABYTES, machine->memory);
	snprintf(monitor, sizeof(monitor), "unix:%s,server=on,wait=off", machine->monitor);
	snprintf(serial, sizeof(serial), "file:%s", machine->serial);
	snprintf(disk, sizeof(disk), "file=%s,format=raw,if=ide,snapshot=on", machine->boot);
	snprintf(megabytes, sizeof(megabytes), "%d", QEMU_MEGABYTES);
	for (size_t i = 0; before && before[i]; i++)
		argv[n++] = before[i];
	argv[n++] = (char *)"qemu-system-x86_64";
	argv[n++] = (char *)"-machine";
	argv[n++] = (char *)"pc,accel=tcg,memory-backend=ram0";
	argv[n++] = (char *)"-object";
	argv[n++] = backend ? (char *)backend : object;
	argv[n++] = (char *)"-m";
	argv[n++] = megabytes;
	argv[n++] = (char *)"-nodefaults";
	argv[n++] = (char *)"-no-user-config";
	argv[n++] = (char *)"-display";
	argv[n++] = (char *)"none";
	argv[n++] = (char *)"-serial";
	argv[n++] = serial;
	argv[n++] = (char *)"-qmp";
	argv[n++] = monitor;
	if (!access(machine->boot, R_OK)) {
		argv[n++] = (char *)"-drive";
		argv[n++] = disk;
	}
	for (size_t i = 0; extra && extra[i] && n < QEMU_ARGUMENTS_MAX - 1; i++)
		argv[n++] = extra[i];
	argv[n] = NULL;
	return qemu_run(machine, argv);
}

__attribute__((unused)) static long qemu_serial_size(const struct qemu_machine *machine)
{
	struct stat status;

	return stat(machine->serial, &status) ? 0 : (long)status.st_size;
}

/* Whether the guest says something more within 20 seconds. */
__attribute__((unused)) static bool qemu_goes_on(const struct qemu_machine *machine)
{
	long before = qemu_serial_size(machine);

	for (unsigned i = 0; i < 4000; i++) {
		if (qemu_serial_size(machine) > before)
			return true;
		qemu_nap(5);
	}
	return false;
}

/* Whether it says nothing for a time in which a running one says much. */
__attribute__((unused)) static bool qemu_stands_still(const struct qemu_machine *machine)
{
	long before = qemu_serial_size(machine);

	qemu_nap(200);
	return qemu_serial_size(machine) == before;
}

__attribute__((unused)) static void qemu_end(struct qemu_machine *machine)
{
	static const char *const names[] = { "qmp", "ram", "serial", "boot", "said" };
	char path[128];

	if (machine->pid > 0) {
		kill(machine->pid, SIGKILL);
		waitpid(machine->pid, NULL, 0);
	}
	machine->pid = 0;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		snprintf(path, sizeof(path), "%s/%s", machine->folder, names[i]);
		unlink(path);
	}
	rmdir(machine->folder);
}

#endif
