/*
 * migrate_machine.c - machines under real QEMUs: what is found out, saving, going back, loading elsewhere.
 */
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>

#include "qemu_machine.h"
#include "service/migrate/machine_inside.h"
#include "tap.h"

static struct lh_error error;

/* ---- dying at a step, and a device that is full ---- */

static long steps, die_at = -1; /* half a step each: before and after a call */
static bool no_room;

static void step(void)
{
	if (steps++ == die_at)
		kill(getpid(), SIGKILL);
}

/* In place of libc's. */
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	ssize_t n;

	step();
	n = syscall(SYS_sendmsg, fd, message, flags);
	step();
	return n;
}

ssize_t recv(int fd, void *bytes, size_t size, int flags)
{
	ssize_t n = syscall(SYS_recvfrom, fd, bytes, size, flags, NULL, NULL);

	if (n > 0)
		step();
	return n;
}

int memfd_create(const char *name, unsigned flags)
{
	return no_room ? open("/dev/full", O_RDWR | O_CLOEXEC) : (int)syscall(SYS_memfd_create, name, flags);
}

static bool opens(const struct qemu_machine *qemu, struct lh_machine *machine)
{
	int rc = lh__machine_open(qemu->monitor, machine, &error);

	if (rc)
		printf("# %s\n", error.text);
	return rc == 0;
}

static bool has_status(struct lh_machine *machine, const char *wanted)
{
	char status[32];

	if (lh__machine_status(machine, status, &error))
		return false;
	if (strcmp(status, wanted) != 0)
		printf("# state %s\n", status);
	return !strcmp(status, wanted);
}

static bool capability(struct lh_machine *machine, const char *name)
{
	json_t *list, *one;
	bool on = false;
	size_t i;

	if (lh__qmp_command(machine->qmp, "query-migrate-capabilities", NULL, -1, &list, NULL))
		return false;
	json_array_foreach(list, i, one) if (!strcmp(json_string_value(json_object_get(one, "capability")),
	                                             name)) on = json_is_true(json_object_get(one, "state"));
	json_decref(list);
	return on;
}

static bool set_capability(struct lh_machine *machine, const char *name, bool on)
{
	return !lh__qmp_command(machine->qmp, "migrate-set-capabilities",
	                        json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", name, "state",
	                                  on),
	                        -1, NULL, &error);
}

static bool tell(struct lh_machine *machine, const char *command)
{
	return !lh__qmp_command(machine->qmp, command, NULL, -1, NULL, &error);
}

/* ---- texts ---- */

static void texts(void)
{
	static const char registers[] =
		"CPU#0\nRAX=0000000000000000 CR30=1\nCR0=80050033 CR2=00007f8ab1c3e000 CR3=8000000001f3c005 "
		"CR4=000006f0\n"
		"EFER=0000000000000d01\n"
		"CPU#1\nCR0=00000011 CR2=0000000000000000 CR3=0000000000000000 "
		"CR4=00000000\nEFER=0000000000000000\n"
		"CPU#2\nCR0=80050033 CR2=0 CR3=0000000000005000 CR4=000016f0\nEFER=0000000000000d01\n"
		"CPU#3\nCR0=80050033 CR2=0 CR3=0000000000006000 CR4=000006b0\nEFER=0000000000000500\n";
	static const char views[] =
		"FlatView #0\n AS \"I/O\", root: io\n  0000000000000000-0000000000000fff (prio 0, ram): "
		"ram0\n\n"
		"FlatView #1\n AS \"memory\", root: system\n AS \"cpu-memory-0\", root: system\n"
		"  0000000000000000-000000000009ffff (prio 0, ram): ram0\n"
		"  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\n"
		"  00000000000c0000-00000000000cafff (prio 0, rom): ram0 @00000000000c0000\n"
		"  00000000000cb000-00000000000cdfff (prio 0, ram): ram0 @00000000000cb000\n"
		"  00000000000ce000-00000000000ce0ff (prio 0, ram): ram0 @00000000000ce000\n"
		"  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios\n"
		"  0000000100000000-00000001000fffff (prio 0, ram): /objects/m1 @0000000000001000 KVM\n"
		"  0000000200000000-0000000200ffffff (prio 0, ram): m1 @0000000000001000\n"
		"FlatView #2\n AS \"memory\", root: x\n  0000000000000000-0000000000000fff (prio 0, ram): "
		"ram0\n";
	const struct lh_state_region region[] = { { .name = "m1", .pages = 512, .first = 0 },
		                                  { .name = "ram0", .pages = 4096, .first = 512 } };
	struct lh_physical_range range[8];
	uint64_t cr3[4] = { 0 };
	size_t n;

	is(lh__machine_read_cr3(registers, cr3, 4), 2, "of four vCPUs two have four levels");
	ok(cr3[0] == 0x1f3c000 && cr3[1] == 0x6000, "... and these tables");
	is(lh__machine_read_cr3(registers, cr3, 1), 1, "no more than there is room for");
	is(lh__machine_read_cr3("", cr3, 4), 0, "no text, no registers");
	is(lh__machine_read_physical(views, region, 2, range, 8, &n), 0, "a memory map is read");
	is(n, 3, "neighbours are one range; devices, parts of pages and what does not fit are left out");
	ok(range[0].address == 0 && range[0].pages == 0xa0 && range[0].first == 512, "low memory");
	ok(range[1].address == 0xc0000 && range[1].pages == 0xe && range[1].first == 512 + 0xc0,
	   "shadowed memory");
	ok(range[2].address == 0x100000000 && range[2].pages == 256 && range[2].first == 1,
	   "the other backend");
	is(lh__machine_read_physical(views, region, 2, range, 2, &n), -E2BIG,
	   "too many ranges are said to be so");
}

/* ---- what is not as it must be ---- */

static void refused(const char *what, const char *backend, char *const extra[], const char *words)
{
	struct qemu_machine qemu;
	struct lh_machine machine;
	char text[256];

	qemu_name(&qemu, "lh-machine-bad");
	snprintf(text, sizeof(text), backend, qemu.folder);
	if (!ok(qemu_start(&qemu, NULL, text, extra), "a machine with %s", what)) {
		qemu_end(&qemu);
		return;
	}
	memset(&error, 0, sizeof(error));
	is(lh__machine_open(qemu.monitor, &machine, &error), -EINVAL, "... is refused");
	if (!ok(strstr(error.text, words) != NULL, "... and it is said why"))
		printf("# %s\n", error.text);
	qemu_end(&qemu);
}

static void refusals(void)
{
	char path[300];
	struct qemu_machine qemu;
	struct lh_machine machine;
	struct stat status;

	refused("memory that is no file", "memory-backend-ram,id=ram0,size=32M", NULL, "memory-backend-ram");
	refused("a memory file without a name", "memory-backend-memfd,id=ram0,size=32M,share=on", NULL,
	        "-object memory-backend-file,id=ram0");
	refused("a private file", "memory-backend-file,id=ram0,size=32M,mem-path=%s/ram", NULL,
	        "is not shared");
	refused("a folder", "memory-backend-file,id=ram0,size=32M,mem-path=%s,share=on", NULL, "is a folder");
	refused("a file on disk",
	        "memory-backend-file,id=ram0,size=32M,mem-path=/var/tmp/lh-machine-disk,share=on", NULL,
	        "tmpfs");
	unlink("/var/tmp/lh-machine-disk");

	qemu_name(&qemu, "lh-machine-gone");
	if (ok(qemu_start(&qemu, NULL, NULL, NULL), "a machine")) {
		snprintf(path, sizeof(path), "%s/other", qemu.folder);
		rename(qemu.memory, path);
		is(lh__machine_open(qemu.monitor, &machine, &error), -EINVAL,
		   "its memory file has gone: refused");
		ok(strstr(error.text, "deleted") != NULL, "... and it is said why");
		close(open(qemu.memory, O_CREAT | O_RDWR, 0600));
		is(lh__machine_open(qemu.monitor, &machine, &error), -EINVAL,
		   "another file has its name: refused");
		rename(path, qemu.memory);
		ok(!stat(qemu.memory, &status) && opens(&qemu, &machine), "it is back: accepted");
		lh__machine_close(&machine);
	}
	qemu_end(&qemu);
}

/* ---- saving, and going back ---- */

static void what_is_found(struct qemu_machine *qemu, struct lh_machine *machine)
{
	struct lh_physical_range range[16];
	uint64_t cr3[4];
	size_t n = 0;

	is(machine->process, qemu->pid, "the process");
	ok(machine->regions == 1 && !strcmp(machine->region[0].name, "ram0") &&
	           !strcmp(machine->region[0].path, qemu->memory),
	   "its memory");
	is(machine->region[0].pages, QEMU_MEGABYTES * 256, "... and how much");
	ok(machine->cpus == 1 && machine->cpu[0] > 0 && machine->cpu[0] != qemu->pid,
	   "the thread of its vCPU");
	is(lh__machine_physical(machine, range, 16, &n, &error), 0, "where its memory stands");
	ok(n >= 1 && range[0].address == 0 && range[0].first == 0, "... from address 0 on");
	ok(!lh__machine_cr3(machine, cr3, 4, &n, &error) && n == 0,
	   "a guest in real mode has no page tables");
}

static void others_with_it(struct qemu_machine *qemu, struct lh_machine *machine)
{
	int fd = open(qemu->memory, O_RDONLY | O_CLOEXEC), in[2];
	pid_t child;
	char byte;

	is(lh__machine_alone(machine, &error), 0, "nobody else has its memory");
	if (fd < 0 || pipe(in))
		return;
	child = fork();
	if (child == 0) {
		bool mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED;

		byte = (char)mapped;
		(void)!write(in[1], &byte, 1);
		pause();
		_exit(0);
	}
	ok(read(in[0], &byte, 1) == 1 && byte, "another process maps it");
	is(lh__machine_alone(machine, &error), -EBUSY, "... and that is seen");
	ok(strstr(error.text, "migrate_machine") != NULL, "... and who");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(in[0]);
	close(in[1]);
	close(fd);
}

static void save_and_back(struct qemu_machine *qemu, struct lh_machine *machine,
                          struct lh_machine_saved *saved)
{
	uint64_t before, downtime = UINT64_MAX;
	int rc;

	ok(set_capability(machine, "auto-converge", true), "a capability that we need off is on");
	before = lh__machine_now();
	rc = lh__machine_save(machine, saved, &error);
	if (!ok(rc == 0, "the machine is saved"))
		printf("# %s\n", error.text);
	ok(lh__machine_downtime(machine, &downtime, &error) == 0 && downtime < 20000,
	   "QEMU says how long it took");
	printf("# saved in %lu us, stopped for %lu us, %zu bytes, downtime %lu ms\n",
	       (unsigned long)(lh__machine_now() - before) / 1000,
	       (unsigned long)(lh__machine_now() - saved->stopped) / 1000, saved->size,
	       (unsigned long)downtime);
	ok(saved->was_running && saved->size > 10000 && saved->size < (1 << 20), "... which is some 100 KB");
	ok(saved->stopped >= before && saved->stopped <= lh__machine_now(), "... and stopped at a time");
	ok(qemu_stands_still(qemu), "the guest stands still");
	is(lh__machine_resume(machine, true, &error), 0, "it goes on");
	ok(qemu_goes_on(qemu), "... and says so");
	ok(has_status(machine, "running") && capability(machine, "auto-converge") &&
	           !capability(machine, "x-ignore-shared"),
	   "... and its monitor is as it was");
	ok(set_capability(machine, "auto-converge", false), "the capability is off again");
}

/* Prepared, and given up: nothing has happened, and it can be done again. */
static void save_or_not(struct qemu_machine *qemu, struct lh_machine *machine)
{
	struct lh_machine_saved saved;

	is(lh__machine_save_prepare(machine, &saved, &error), 0, "all is ready for a save");
	ok(qemu_goes_on(qemu) && has_status(machine, "running"), "... and the guest runs");
	lh__machine_save_not(machine, &saved);
	ok(saved.fd == -1 &&
	           lh__qmp_command(machine->qmp, "closefd", json_pack("{s:s}", "fdname", "linehome-device"),
	                           -1, NULL, NULL) == -EREMOTEIO,
	   "given up: QEMU has no descriptor left");
	is(lh__machine_save_prepare(machine, &saved, &error), 0, "ready once more");
	is(lh__machine_save_now(machine, &saved, &error), 0, "... and now it is saved");
	ok(qemu_stands_still(qemu) && saved.size > 10000, "... and stands still");
	close(saved.fd);
	is(lh__machine_resume(machine, true, &error), 0, "it goes on");
}

/* Saves and goes without a word, as a sender that is killed does. */
static bool save_and_leave(struct lh_machine *machine)
{
	struct lh_machine_saved saved;

	if (lh__machine_save(machine, &saved, &error))
		return false;
	close(saved.fd);
	json_decref(machine->capabilities);
	machine->capabilities = NULL;
	lh__machine_close(machine);
	return true;
}

static void left_behind(struct qemu_machine *qemu, struct lh_machine *machine)
{
	struct lh_machine_saved saved;

	is(lh__machine_resume(machine, true, &error), 0, "a machine that runs goes on");
	ok(save_and_leave(machine), "saved, and its monitor is left");
	if (!ok(opens(qemu, machine), "another takes over"))
		return;
	is(lh__machine_save(machine, &saved, &error), -EINVAL, "what is saved is not saved again");
	is(lh__machine_resume(machine, true, &error), 0, "it lets it go on");
	ok(qemu_goes_on(qemu), "... and it does");
	ok(set_capability(machine, "x-ignore-shared", false) && set_capability(machine, "events", false),
	   "what the first has left set is put back");
}

static int listener(const char *folder, char path[128])
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(path, 128, "%s/listener", folder);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", path);
	if (fd >= 0 && (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 1))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A migration of QEMU's own that does not end, since nobody reads. */
static void under_way(struct qemu_machine *qemu, struct lh_machine *machine)
{
	struct lh_machine_saved saved;
	char path[128], uri[140];
	int fd = listener(qemu->folder, path);

	snprintf(uri, sizeof(uri), "unix:%s", path);
	ok(fd >= 0 && !lh__qmp_command(machine->qmp, "migrate", json_pack("{s:s}", "uri", uri), -1, NULL,
	                               &error),
	   "a migration is under way");
	is(lh__machine_save(machine, &saved, &error), -EBUSY, "meanwhile nothing is saved");
	is(lh__machine_resume(machine, true, &error), 0, "it is cancelled");
	ok(qemu_goes_on(qemu) && has_status(machine, "running"), "... and the guest goes on");
	close(fd);
	unlink(path);
}

/* Stopped short of the end, by QEMU's own means. */
static void before_switch(struct qemu_machine *qemu, struct lh_machine *machine)
{
	const char *uri = "exec:cat >/dev/null";
	char migration[32] = "";

	ok(set_capability(machine, "pause-before-switchover", true), "a migration that stops before its end");
	ok(!lh__qmp_command(machine->qmp, "migrate", json_pack("{s:s}", "uri", uri), -1, NULL, &error),
	   "... begins");
	for (unsigned i = 0; i < 2000 && strcmp(migration, "pre-switchover") != 0; i++) {
		if (lh__machine_migration(machine, migration, NULL, &error))
			break;
		qemu_nap(2);
	}
	ok(!strcmp(migration, "pre-switchover") && qemu_stands_still(qemu), "... and stands there");
	is(lh__machine_resume(machine, true, &error), 0, "it is brought back");
	ok(qemu_goes_on(qemu) && has_status(machine, "running"), "... and the guest goes on");
	ok(set_capability(machine, "pause-before-switchover", false), "the capability is off again");
}

static void paused(struct qemu_machine *qemu, struct lh_machine *machine)
{
	struct lh_machine_saved saved;

	ok(tell(machine, "stop") && has_status(machine, "paused"), "its user stops it");
	is(lh__machine_save(machine, &saved, &error), 0, "it is saved");
	ok(!saved.was_running && saved.size > 10000, "... as one that does not run");
	is(lh__machine_resume(machine, saved.was_running, &error), 0, "it goes back");
	ok(qemu_stands_still(qemu), "... and stands still as before");
	close(saved.fd);
	ok(tell(machine, "cont") && qemu_goes_on(qemu), "its user lets it go on");
}

/* QEMU finds no room for what it saves, when the guest stands still already. */
static void full(struct qemu_machine *qemu, struct lh_machine *machine)
{
	struct lh_machine_saved saved;
	int rc;

	no_room = true;
	rc = lh__machine_save(machine, &saved, &error);
	no_room = false;
	ok(rc == -EIO && saved.fd == -1, "a save for which there is no room fails: %s", error.text);
	ok(has_status(machine, "running") && qemu_goes_on(qemu), "... and the guest runs on");
	ok(!capability(machine, "x-ignore-shared"), "... with capabilities as they were");
}

/* A sender dies at every step of opening and saving; who comes then brings the guest back. */
static void killed(struct qemu_machine *qemu)
{
	struct lh_machine machine;
	bool well = true, died = true, stood = false;
	int status;
	long at;

	for (at = 0; well && died; at++) {
		pid_t child;

		fflush(stdout);
		child = fork();
		if (child == 0) {
			struct lh_machine_saved saved;

			steps = 0;
			die_at = at;
			if (lh__machine_open(qemu->monitor, &machine, NULL))
				_exit(1);
			_exit(lh__machine_save(&machine, &saved, NULL) ? 2 : 0);
		}
		waitpid(child, &status, 0);
		died = WIFSIGNALED(status);
		well = (died || status == 0) && opens(qemu, &machine);
		if (!well)
			break;
		stood |= !has_status(&machine, "running");
		well = !lh__machine_resume(&machine, true, &error) && has_status(&machine, "running") &&
		       qemu_goes_on(qemu);
		lh__machine_close(&machine);
	}
	if (!ok(well && at > 20,
	        "a sender dies at one of %ld points, and who comes then brings the guest back", at))
		qemu_show_said(qemu), printf("# status %x, %s\n", (unsigned)status, error.text);
	ok(stood, "... which stood still at some");
}

static void source_alone(void)
{
	struct qemu_machine qemu;
	struct lh_machine machine;
	struct lh_machine_saved saved;

	qemu_name(&qemu, "lh-machine-a");
	qemu_boots(&qemu, qemu_guest_counts, sizeof(qemu_guest_counts));
	if (ok(qemu_start(&qemu, NULL, NULL, NULL), "a machine") && ok(opens(&qemu, &machine), "is opened")) {
		ok(qemu_goes_on(&qemu), "its guest runs");
		what_is_found(&qemu, &machine);
		others_with_it(&qemu, &machine);
		save_and_back(&qemu, &machine, &saved);
		save_or_not(&qemu, &machine);
		close(saved.fd);
		left_behind(&qemu, &machine);
		under_way(&qemu, &machine);
		before_switch(&qemu, &machine);
		paused(&qemu, &machine);
		full(&qemu, &machine);
		lh__machine_close(&machine);
		killed(&qemu);
	}
	qemu_end(&qemu);
}

/* A device that cannot be migrated. */
static void blocked(void)
{
	char *const device[] = { "-drive", "if=none,id=d,driver=null-co", "-device", "nvme,serial=x,drive=d",
		                 NULL };
	struct lh_machine_saved saved;
	struct lh_machine machine;
	struct qemu_machine qemu;

	qemu_name(&qemu, "lh-machine-blocked");
	qemu_boots(&qemu, qemu_guest_counts, sizeof(qemu_guest_counts));
	if (ok(qemu_start(&qemu, NULL, NULL, device), "a machine with a device that cannot be migrated") &&
	    ok(opens(&qemu, &machine), "is opened")) {
		ok(qemu_goes_on(&qemu), "its guest runs");
		is(lh__machine_save(&machine, &saved, &error), -EREMOTEIO, "it is not saved");
		if (!ok(strstr(error.text, "nvme") != NULL && saved.fd == -1, "... and QEMU's words say why"))
			printf("# %s\n", error.text);
		ok(qemu_goes_on(&qemu) && has_status(&machine, "running"), "... and the guest runs on");
		ok(!capability(&machine, "x-ignore-shared"), "... with capabilities as they were");
		lh__machine_close(&machine);
	}
	qemu_end(&qemu);
}

/* ---- loading ---- */

static bool copy_file(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CLOEXEC);
	char bytes[65536];
	ssize_t n = -1;

	if (in >= 0 && out >= 0)
		while ((n = read(in, bytes, sizeof(bytes))) > 0 && write(out, bytes, (size_t)n) == n)
			;
	close(in);
	close(out);
	return n == 0;
}

/* Into the file that QEMU has already. */
static int load_early(struct lh_machine *to, const struct lh_machine_saved *saved)
{
	ssize_t size = (ssize_t)saved->size;

	if (sendfile(to->device, saved->fd, &(off_t){ 0 }, saved->size) != size)
		return -EIO;
	return lh__machine_load_now(to, &error);
}

/*
 * What becomes of a machine that `from` is at the destination: as lh__machine_loaded says. early: it is
 * prepared before the machine is saved, twice.
 */
static int moves(bool early, struct lh_machine *from, const struct qemu_machine *source,
                 struct qemu_machine *destination, struct lh_machine *to)
{
	struct lh_machine_saved saved;
	uint64_t at = 0, began;
	int rc;

	if (!opens(destination, to))
		return -ENOENT;
	rc = lh__machine_awaits(to, &error);
	for (unsigned i = 0; early && i < 2 && !rc; i++)
		rc = lh__machine_load_prepare(to, &error);
	if (!rc)
		rc = lh__machine_save(from, &saved, &error);
	if (rc)
		return rc;
	if (!copy_file(source->memory, destination->memory))
		return -EIO;
	began = lh__machine_now();
	rc = early ? load_early(to, &saved) : lh__machine_load(to, saved.fd, &error);
	close(saved.fd);
	if (!rc)
		rc = lh__machine_loaded(to, 20000, &at, &error);
	if (rc == 1) {
		ok(at >= began && at <= lh__machine_now(), "it is known when it began to run");
		printf("# loaded in %lu us\n", (unsigned long)(at - began) / 1000);
	} else {
		printf("# %s\n", error.text);
	}
	return rc;
}

static char *const waits[] = { (char *)"-incoming", (char *)"defer", NULL };
static char *const waits_like[] = { (char *)"-incoming", (char *)"defer", (char *)"-device",
	                            (char *)"virtio-rng-pci", NULL };
static char *const waits_small[] = { (char *)"-incoming", (char *)"defer", (char *)"-m", (char *)"16", NULL };

static void there_and_back(struct qemu_machine *source, struct lh_machine *machine)
{
	struct qemu_machine qemu;
	struct lh_machine other;
	uint64_t at;

	qemu_name(&qemu, "lh-machine-b");
	qemu_boots(&qemu, qemu_guest_counts, sizeof(qemu_guest_counts));
	if (!ok(qemu_start(&qemu, NULL, NULL, waits_like), "a machine that waits"))
		return;
	is(lh__machine_awaits(machine, &error), -EINVAL, "one that runs does not wait");
	ok(opens(&qemu, &other), "the other is opened");
	is(lh__machine_loaded(&other, 100, &at, &error), 0, "it has loaded nothing yet");
	lh__machine_close(&other);
	is(moves(true, machine, source, &qemu, &other), 1, "the machine goes on there");
	ok(qemu_goes_on(&qemu) && has_status(&other, "running"), "... its guest runs");
	ok(qemu_stands_still(source), "... and here it stands still");
	lh__machine_close(&other);
	ok(opens(&qemu, &other) && lh__machine_loaded(&other, 1000, &at, &error) == 1,
	   "who comes later is told the same");
	is(lh__machine_awaits(&other, &error), -EINVAL, "it does not wait any more");
	lh__machine_close(&other);
	qemu_end(&qemu);
	is(lh__machine_resume(machine, true, &error), 0, "the other has gone, and it goes on here again");
	ok(qemu_goes_on(source), "... and its guest runs");
}

static void refused_there(struct qemu_machine *source, struct lh_machine *machine, const char *what,
                          const char *backend, char *const extra[])
{
	struct qemu_machine qemu;
	struct lh_machine other;
	char text[256];
	int rc;

	qemu_name(&qemu, "lh-machine-c");
	qemu_boots(&qemu, qemu_guest_counts, sizeof(qemu_guest_counts));
	snprintf(text, sizeof(text), "%s%s", backend, qemu.memory);
	if (ok(qemu_start(&qemu, NULL, text, extra), "a machine that waits with %s", what)) {
		rc = moves(false, machine, source, &qemu, &other);
		ok(rc == -EREMOTEIO || rc == -ECONNRESET, "... refuses the device state");
		lh__machine_close(&other);
		is(lh__machine_resume(machine, true, &error), 0, "... and it goes on here");
		ok(qemu_goes_on(source), "... and its guest runs");
	}
	qemu_end(&qemu);
}

static void paused_there(struct qemu_machine *source, struct lh_machine *machine)
{
	struct qemu_machine qemu;
	struct lh_machine other;

	qemu_name(&qemu, "lh-machine-d");
	qemu_boots(&qemu, qemu_guest_counts, sizeof(qemu_guest_counts));
	ok(tell(machine, "stop"), "its user stops the machine");
	if (ok(qemu_start(&qemu, NULL, NULL, waits_like), "a machine that waits")) {
		is(moves(false, machine, source, &qemu, &other), 1, "it is moved");
		ok(has_status(&other, "paused") && qemu_stands_still(&qemu), "... and is paused there");
		ok(tell(&other, "cont") && qemu_goes_on(&qemu), "... until its user lets it go on");
		lh__machine_close(&other);
	}
	qemu_end(&qemu);
}

static void moving(void)
{
	struct qemu_machine qemu;
	struct lh_machine machine;

	qemu_name(&qemu, "lh-machine-s");
	qemu_boots(&qemu, qemu_guest_counts, sizeof(qemu_guest_counts));
	if (ok(qemu_start(&qemu, NULL, NULL, waits_like + 2), "a machine") &&
	    ok(opens(&qemu, &machine), "is opened")) {
		ok(qemu_goes_on(&qemu), "its guest runs");
		there_and_back(&qemu, &machine);
		refused_there(&qemu, &machine, "other devices",
		              "memory-backend-file,id=ram0,size=32M,share=on,mem-path=", waits);
		refused_there(&qemu, &machine, "less memory",
		              "memory-backend-file,id=ram0,size=16M,share=on,mem-path=", waits_small);
		paused_there(&qemu, &machine);
		lh__machine_close(&machine);
	}
	qemu_end(&qemu);
}

int main(void)
{
	texts();
	if (qemu_missing()) {
		skip("machines", "qemu-system-x86_64 is not installed");
		return done();
	}
	refusals();
	source_alone();
	blocked();
	moving();
	return done();
}
