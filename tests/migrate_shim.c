/*
 * migrate_shim.c - liblinehome-uffd.so in a real QEMU, whose guest is its BIOS: memory is watched before
 * anybody touches it and handed over; when a handler dies the guest stands still, and the next one gets the
 * memory again. Also in QEMU's sandbox, as a daemon, and for a user that may not watch memory but has the
 * device open. Where memory cannot be watched QEMU does not start.
 *
 * The memory in these tests comes from nowhere, that is, it is zero.
 */
/* timeout: 120 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#include "service/migrate/handshake.h"
#include "service/migrate/shim.h"
#include "tap.h"

#define QEMU "qemu-system-x86_64"
#define MIB "32M"
#define PAGES 8192u
#define SANDBOX "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
#define BOOTED "No bootable device"
#define NOBODY 65534
#define ARGUMENTS 40

static char folder[] = "/dev/shm/migrate_shim.XXXXXX";
static char memory[2][64], socket_path[64], console[64], errors[64], agent[PATH_MAX];
static struct lh_error error;

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool contains(const char *path, const char *text)
{
	char bytes[8192] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	if (read(fd, bytes, sizeof(bytes) - 1) < 0)
		bytes[0] = 0;
	close(fd);
	return strstr(bytes, text) != NULL;
}

/* How much memory there is in the files, in pages. */
static uint64_t resident(void)
{
	struct stat status;
	uint64_t pages = 0;

	for (size_t i = 0; i < 2; i++)
		if (stat(memory[i], &status) == 0)
			pages += (uint64_t)status.st_blocks / 8;
	return pages;
}

static void await_ms(unsigned ms)
{
	poll(NULL, 0, (int)ms);
}

/* ---- QEMU */

struct machine {
	pid_t pid;
	const char *argument[ARGUMENTS];
	size_t arguments;
	const char *files; /* of LINEHOME_UFFD_MEMORY */
	char device[16];   /* of LINEHOME_UFFD_DEVICE; empty: not set */
	bool unprivileged;
};

static void add(struct machine *machine, const char *word, const char *value)
{
	machine->argument[machine->arguments++] = word;
	if (value)
		machine->argument[machine->arguments++] = value;
}

static char object[2][160], console_option[160];

static void make_object(size_t i, const char *path, const char *share)
{
	snprintf(object[i], sizeof(object[i]),
	         "memory-backend-file,id=ram%zu,size=" MIB ",mem-path=%s,share=%s", i, path, share);
}

static struct machine prepare(void)
{
	struct machine machine = { .files = memory[0] };

	for (size_t i = 0; i < 2; i++)
		unlink(memory[i]);
	unlink(console);
	make_object(0, memory[0], "on");
	snprintf(console_option, sizeof(console_option), "file,id=bios,path=%s", console);
	add(&machine, QEMU, NULL);
	add(&machine, "-nodefaults", "-no-user-config");
	add(&machine, "-display", "none");
	add(&machine, "-chardev", console_option);
	add(&machine, "-device", "isa-debugcon,iobase=0x402,chardev=bios");
	add(&machine, "-object", object[0]);
	return machine;
}

static void add_one_memory(struct machine *machine)
{
	add(machine, "-machine", "pc,accel=tcg,memory-backend=ram0");
	add(machine, "-m", MIB);
}

static void start(struct machine *machine)
{
	add(machine, NULL, NULL);
	machine->arguments--;
	machine->pid = fork();
	if (machine->pid)
		return;
	if (!freopen(errors, "w", stderr))
		_exit(124);
	setenv(LH_SHIM_SOCKET, socket_path, 1);
	setenv(LH_SHIM_MEMORY, machine->files, 1);
	if (machine->device[0])
		setenv(LH_SHIM_DEVICE, machine->device, 1);
	setenv("LD_PRELOAD", agent, 1);
	if (machine->unprivileged && (setgid(NOBODY) != 0 || setuid(NOBODY) != 0))
		_exit(123);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp(QEMU, (char *const *)machine->argument);
	_exit(122);
}

static void stop(struct machine *machine)
{
	if (machine->pid > 0) {
		kill(machine->pid, SIGKILL);
		waitpid(machine->pid, NULL, 0);
	}
	machine->pid = 0;
}

/* Its exit status, or -1 where it still runs after a while, and is ended. */
static int ended(struct machine *machine)
{
	uint64_t until = now_ms() + 10000;
	int status = -1;
	pid_t pid;

	while ((pid = waitpid(machine->pid, &status, WNOHANG)) == 0 && now_ms() < until)
		await_ms(10);
	if (pid != machine->pid) {
		stop(machine);
		return -1;
	}
	machine->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- a handler */

static int listener;
static struct lh_handshake handshake;
static uint64_t supplied;

static void set_up(void)
{
	if (lh__handshake_listen(socket_path, &listener, &error) < 0)
		printf("# %s\n", error.text);
	supplied = 0;
}

/* Takes the next handshake, at most 10 s. */
static bool take(void)
{
	struct pollfd poll_fd = { .fd = listener, .events = POLLIN };

	if (poll(&poll_fd, 1, 10000) != 1)
		return false;
	if (lh__handshake_accept(listener, &handshake, &error) == 0)
		return true;
	printf("# %s\n", error.text);
	return false;
}

/* As if the handler's process were killed. */
static void die(void)
{
	lh__handshake_close(&handshake);
	close(listener);
	listener = -1;
}

static void answer(const struct uffd_msg *message)
{
	uint64_t page = message->arg.pagefault.address & ~UINT64_C(4095);
	struct uffdio_zeropage zero = { .range = { page, 4096 } };
	struct uffdio_continue shown = { .range = { page, 4096 } };

	if (message->event != UFFD_EVENT_PAGEFAULT)
		return;
	if (message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) {
		if (ioctl(handshake.fd, UFFDIO_CONTINUE, &shown) != 0)
			ioctl(handshake.fd, UFFDIO_WAKE, &shown.range);
	} else if (ioctl(handshake.fd, UFFDIO_ZEROPAGE, &zero) == 0) {
		supplied++;
	} else {
		ioctl(handshake.fd, UFFDIO_WAKE, &zero.range);
	}
}

/* Answers faults until so many pages have come, or the BIOS has done its work, at most 20 s. */
static bool serve(uint64_t pages)
{
	struct pollfd poll_fd = { .fd = handshake.fd, .events = POLLIN };
	uint64_t until = now_ms() + 20000;
	struct uffd_msg message;

	while (now_ms() < until) {
		if (pages ? supplied >= pages : contains(console, BOOTED))
			return true;
		if (poll(&poll_fd, 1, 50) == 1 &&
		    read(handshake.fd, &message, sizeof(message)) == (ssize_t)sizeof(message))
			answer(&message);
	}
	return false;
}

/* Who waits for what another handler was asked for asks again. */
static void wake(void)
{
	for (size_t i = 0; i < handshake.ranges; i++)
		ioctl(handshake.fd, UFFDIO_WAKE,
		      &(struct uffdio_range){ handshake.range[i].address, handshake.range[i].size });
}

static void unwatch(void)
{
	for (size_t i = 0; i < handshake.ranges; i++)
		ioctl(handshake.fd, UFFDIO_UNREGISTER,
		      &(struct uffdio_range){ handshake.range[i].address, handshake.range[i].size });
}

/* Whether the guest's memory grows within a time in which it could. */
static bool goes_on(void)
{
	uint64_t before = resident(), until = now_ms() + 5000;

	await_ms(300);
	while (resident() != before && now_ms() < until) {
		if (contains(console, BOOTED))
			return true;
		before = resident();
		await_ms(300);
	}
	return contains(console, BOOTED) || resident() != before;
}

/* ---- the tests */

/* A guest that is handed over, stands still, is handed over again, and goes on. */
static void run_through(struct machine *machine, const char *how)
{
	bool still;

	set_up();
	start(machine);
	ok(take(), "%s: the memory is handed over", how);
	await_ms(100);
	is(resident(), 0, "%s: nobody has seen any of it before", how);
	ok(serve(20), "%s: faults are reported", how);
	is(resident(), supplied, "%s: what there is of it came from the handler", how);
	die();
	still = !goes_on();
	ok(still && resident() == supplied, "%s: without a handler the guest stands still", how);
	set_up();
	ok(take(), "%s: the next handler is told again", how);
	wake();
	ok(serve(0), "%s: and the guest goes on", how);
	die();
	if (machine->pid && kill(machine->pid, 0) != 0)
		ok(false, "%s: QEMU lives", how);
	stop(machine);
}

static void test_plain(void)
{
	struct machine machine = prepare();

	add_one_memory(&machine);
	run_through(&machine, "plain");
}

static void test_sandbox(void)
{
	struct machine machine = prepare();

	add_one_memory(&machine);
	add(&machine, "-sandbox", SANDBOX);
	run_through(&machine, "in the sandbox");
}

/* The planted fault: who no longer watches when it dies, as if nobody had kept the descriptor. */
static void test_planted(void)
{
	struct machine machine = prepare();

	add_one_memory(&machine);
	set_up();
	start(&machine);
	ok(take() && serve(20), "a handler that will let go");
	unwatch();
	die();
	ok(goes_on() && resident() > supplied, "caught: memory that nobody watches reads as zero");
	stop(&machine);
}

static void test_daemon(void)
{
	struct machine machine = prepare();
	char pid_file[80];
	pid_t parent;

	snprintf(pid_file, sizeof(pid_file), "%s/pid", folder);
	add_one_memory(&machine);
	add(&machine, "-daemonize", NULL);
	add(&machine, "-pidfile", pid_file);
	set_up();
	start(&machine);
	parent = machine.pid;
	ok(take() && handshake.process != parent, "a daemon: the child hands its memory over");
	ok(serve(0), "a daemon: its guest runs");
	is(ended(&machine), 0, "a daemon: its parent has ended");
	kill(handshake.process, SIGKILL);
	is(poll(&(struct pollfd){ .fd = handshake.socket, .events = POLLIN }, 1, 5000), 1,
	   "a daemon: that it has gone is seen");
	die();
	unlink(pid_file);
}

static void test_two_files(void)
{
	static struct lh_state_region region[2];
	struct machine machine = prepare();
	char files[130];

	make_object(1, memory[1], "on");
	add(&machine, "-object", object[1]);
	add(&machine, "-machine", "pc,accel=tcg");
	add(&machine, "-m", "64M");
	add(&machine, "-numa", "node,memdev=ram0");
	add(&machine, "-numa", "node,memdev=ram1");
	snprintf(files, sizeof(files), "%s:%s", memory[1], memory[0]);
	machine.files = files;
	set_up();
	start(&machine);
	ok(take(), "two files: they are handed over when both are mapped");
	for (size_t i = 0; i < 2; i++) {
		snprintf(region[i].path, sizeof(region[i].path), "%s", memory[i]);
		region[i].pages = PAGES;
		region[i].first = i * PAGES;
	}
	ok(handshake.ranges == 2 && handshake.range[0].offset == 0 &&
	           handshake.range[1].offset == PAGES * 4096,
	   "two files: in the order in which they are named");
	is(lh__handshake_arrange(&handshake, region, 2, &error), 0, "two files: which is which is known");
	is(handshake.range[0].offset, PAGES * 4096, "two files: the first is the other's");
	ok(serve(0), "two files: the guest runs");
	die();
	stop(&machine);
}

static void test_unprivileged(int device)
{
	struct machine machine = prepare();

	if (geteuid() != 0 || device < 0) {
		skip("a user that may not watch memory", "this user cannot become another, or has no device");
		return;
	}
	add_one_memory(&machine);
	machine.unprivileged = true;
	snprintf(machine.device, sizeof(machine.device), "%d", device);
	fcntl(device, F_SETFD, 0);
	set_up();
	if (chown(folder, NOBODY, NOBODY) != 0 || chown(socket_path, NOBODY, NOBODY) != 0)
		printf("# chown: %s\n", strerror(errno));
	start(&machine);
	ok(take(), "with the device open: the memory is handed over");
	ok(serve(0), "with the device open: the guest runs");
	die();
	stop(&machine);
	fcntl(device, F_SETFD, FD_CLOEXEC);
}

/* QEMU does not start, and says why. */
static void refused(struct machine *machine, const char *text, const char *how)
{
	int status;

	start(machine);
	status = ended(machine);
	ok(status > 0 && status < 120 && contains(errors, text), "%s: QEMU does not start", how);
	if (!contains(errors, text))
		printf("# status %d, and not said: %s\n", status, text);
	is(resident(), 0, "%s: and nothing was touched", how);
}

static int sysctl_allows(void)
{
	return contains("/proc/sys/vm/unprivileged_userfaultfd", "1");
}

static void test_refused(void)
{
	struct machine machine = prepare();
	struct statfs system;
	char elsewhere[] = "/var/tmp/migrate_shim.XXXXXX";
	int fd;

	make_object(0, memory[0], "off");
	add_one_memory(&machine);
	refused(&machine, "share=on", "memory that is not shared");

	machine = prepare();
	add_one_memory(&machine);
	strcpy(machine.device, "0");
	refused(&machine, "no descriptor of /dev/userfaultfd", "another device");

	if (geteuid() == 0 && !sysctl_allows()) {
		machine = prepare();
		add_one_memory(&machine);
		machine.unprivileged = true;
		refused(&machine, "vm.unprivileged_userfaultfd", "a user that may not");
	} else {
		skip("a user that may not", "all users here may watch memory, or it cannot be tried");
	}
	fd = mkstemp(elsewhere);
	if (fd >= 0 && fstatfs(fd, &system) == 0 && system.f_type != 0x01021994) {
		machine = prepare();
		make_object(0, elsewhere, "on");
		add_one_memory(&machine);
		machine.files = elsewhere;
		refused(&machine, "tmpfs", "memory on a disk");
	} else {
		skip("memory on a disk", "/var/tmp is none");
	}
	close(fd);
	unlink(elsewhere);
}

/* What is started by the program has nothing of all this; what else was preloaded stays. */
static void test_environment(void)
{
	char command[2 * PATH_MAX + 512], line[256] = "";
	FILE *out;

	snprintf(command, sizeof(command),
	         "LD_PRELOAD='%s /none.so' " LH_SHIM_SOCKET "=/x " LH_SHIM_MEMORY "=/y env 2>/dev/null | "
	         "grep -E 'LINEHOME_UFFD|PRELOAD'",
	         agent);
	out = popen(command, "r");
	ok(out && fgets(line, sizeof(line), out) && strcmp(line, "LD_PRELOAD=/none.so\n") == 0 &&
	           !fgets(line, sizeof(line), out),
	   "variables are not passed on");
	if (out)
		pclose(out);
}

int main(void)
{
	const char *build = getenv("LINEHOME_BUILD");
	char given[PATH_MAX];
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	size_t i;

	if (system("command -v " QEMU " >/dev/null") != 0) {
		printf("1..0 # SKIP " QEMU " is not here\n");
		return 0;
	}
	snprintf(given, sizeof(given), "%s/" LH_SHIM_FILE, build ? build : "build");
	if (device < 0 && !sysctl_allows()) {
		printf("1..0 # SKIP this user may not watch memory\n");
		return 0;
	}
	if (!realpath(given, agent) || !mkdtemp(folder))
		return 1;
	for (i = 0; i < 2; i++)
		snprintf(memory[i], sizeof(memory[i]), "%s/ram%zu", folder, i);
	snprintf(socket_path, sizeof(socket_path), "%s/socket", folder);
	snprintf(console, sizeof(console), "%s/console", folder);
	snprintf(errors, sizeof(errors), "%s/errors", folder);
	test_plain();
	test_sandbox();
	test_planted();
	test_daemon();
	test_two_files();
	test_unprivileged(device);
	test_refused();
	test_environment();
	for (i = 0; i < 2; i++)
		unlink(memory[i]);
	unlink(socket_path);
	unlink(console);
	unlink(errors);
	rmdir(folder);
	return done();
}
