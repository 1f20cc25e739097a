/*
 * migrate_snapshot_save.c - a machine is saved into a folder and runs on; what is read back is what was
 * written, and what is damaged is refused.
 */
#include <sys/resource.h>

#include "qemu_machine.h"
#include "service/migrate/snapshot.h"
#include "service/migrate/snapshot_inside.h"
#include "tap.h"

static struct lh_error error;
static char dir[96];
static struct lh_snapshot_left left;

static void remove_folder(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	(void)!system(command);
}

/* ---- machine.json ---- */

static void put(const char *name, const char *text, long size)
{
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (write(fd, text, strlen(text)) < 0 || (size && ftruncate(fd, size)))
		perror(path);
	close(fd);
}

static void is_read(const char *text, int wanted, const char *what)
{
	static struct lh_snapshot snapshot;

	put("machine.json", text, 0);
	memset(&error, 0, sizeof(error));
	is(lh__snapshot_read(dir, &snapshot, &error), wanted, "%s", what);
	if (wanted)
		ok(error.code == wanted && error.text[0], "... %s", error.text);
}

#define HEAD "{\"format\":\"linehome-snapshot\",\"version\":1,\"page_size\":4096,"
#define DEVICE "\"device\":{\"file\":\"device\",\"size\":5}"
#define REGION "\"regions\":[{\"name\":\"m\",\"pages\":2,\"file\":\"memory-m\"}],"

static void texts(void)
{
	static struct lh_snapshot snapshot = { .regions = 2, .cpus = 2, .ranges = 1, .running = true }, got;

	mkdir(dir, 0700);
	is(lh__snapshot_read(dir, &got, &error), -ENOENT, "a folder without machine.json is no snapshot");
	put("memory-m", "", 8192);
	put("device", "12345", 0);
	is_read(HEAD REGION DEVICE "}", 0, "the least that a snapshot has");
	is_read(HEAD REGION DEVICE ",\"x\":[1],\"cr3\":[\"a\",-1],\"physical\":[{\"address\":1}]}", 0,
	        "what is not known or no proper hint is passed over");
	is_read("", -EBADMSG, "empty");
	is_read("[]", -EBADMSG, "something else");
	is_read("{\"format\":\"linehome-snapshot\",\"version\":2}", -EBADMSG, "of another version");
	is_read("{\"format\":\"linehome-snapshot\",\"version\":1,\"page_size\":8192}", -EBADMSG,
	        "other pages");
	is_read(HEAD DEVICE "}", -EBADMSG, "no memory");
	is_read(HEAD REGION "\"x\":0}", -EBADMSG, "no device state");
	is_read(HEAD "\"regions\":[{\"name\":\"m\",\"pages\":2,\"file\":\"../m\"}]," DEVICE "}", -EBADMSG,
	        "a file outside the folder");
	is_read(HEAD "\"regions\":[{\"name\":\"m\",\"pages\":-2,\"file\":\"memory-m\"}]," DEVICE "}",
	        -EBADMSG, "a negative number");
	is_read(HEAD "\"regions\":[{\"name\":\"m\",\"pages\":3,\"file\":\"memory-m\"}]," DEVICE "}", -EBADMSG,
	        "memory that is too short");
	is_read(HEAD "\"regions\":[{\"name\":\"m\",\"pages\":2,\"file\":\"memory-n\"}]," DEVICE "}", -EBADMSG,
	        "memory that is not there");
	is_read(HEAD REGION "\"device\":{\"file\":\"device\",\"size\":6}}", -EBADMSG,
	        "device state that is too short");

	snprintf(snapshot.region[0].name, 64, "a");
	snprintf(snapshot.region[0].path, 64, "/elsewhere/memory-m");
	snapshot.region[0].pages = 2;
	snprintf(snapshot.region[1].name, 64, "b");
	snprintf(snapshot.region[1].path, 64, "memory-n");
	snapshot.region[1].pages = 1;
	snprintf(snapshot.device, 64, "device");
	snapshot.device_size = 5;
	snapshot.cr3[0] = 0x1000;
	snapshot.cr3[1] = 0xffffffffff000;
	snapshot.physical[0] = (struct lh_physical_range){ 0x100000000, 2, 1 };
	put("memory-n", "", 4096);
	is(lh__snapshot_write(dir, &snapshot, &error), 0, "one is written");
	is(lh__snapshot_read(dir, &got, &error), 0, "... and read");
	ok(got.regions == 2 && !strcmp(got.region[1].name, "b") && got.region[1].pages == 1 &&
	           got.region[1].first == 2 && strstr(got.region[0].path, "/memory-m"),
	   "... its memory");
	ok(got.running && got.device_size == 5 && got.cpus == 2 && got.cr3[1] == 0xffffffffff000 &&
	           got.ranges == 1 && got.physical[0].address == 0x100000000 && got.physical[0].pages == 2 &&
	           got.physical[0].first == 1,
	   "... and the rest");
	is(lh__snapshot_write("/nowhere/at/all", &snapshot, &error), -ENOENT, "a folder that is not there");
	remove_folder();
}

/* ---- machines ---- */

static const unsigned char *map(const char *path, size_t size)
{
	static unsigned char *bytes;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	free(bytes);
	bytes = calloc(1, size);
	if (fd < 0 || read(fd, bytes, size) != (ssize_t)size)
		printf("# %s cannot be read\n", path);
	close(fd);
	return bytes;
}

static void saved(struct qemu_machine *qemu)
{
	static struct lh_snapshot snapshot;
	struct stat status;
	const unsigned char *memory;
	unsigned word, last;
	bool in_turn = true;
	int rc = lh__snapshot_save(qemu->monitor, dir, -1, &left, &error);

	if (!ok(rc == 0, "a machine is saved"))
		printf("# %s\n", error.text);
	ok(qemu_goes_on(qemu), "... and runs on");
	is(lh__snapshot_read(dir, &snapshot, &error), 0, "its snapshot can be read");
	ok(snapshot.regions == 1 && snapshot.region[0].pages == QEMU_MEGABYTES * 256 && snapshot.running,
	   "... memory");
	ok(snapshot.device_size > 10000 && snapshot.ranges >= 1 && snapshot.cpus == 0,
	   "... devices and hints");
	ok(!stat(snapshot.region[0].path, &status) && status.st_blocks * 512 < status.st_size / 2,
	   "... what is zero takes no room");
	/* The guest counts up pages in turn: of any two, the earlier has as much or one more. */
	memory = map(snapshot.region[0].path, snapshot.region[0].pages * LH_PAGE_SIZE);
	last = memory[0x10000] | (unsigned)memory[0x10001] << 8;
	for (unsigned page = 0x10; page < 0x80; page++) {
		word = memory[page * 4096] | (unsigned)memory[page * 4096 + 1] << 8;
		in_turn &= word == last || word == ((last - 1) & 0xffff);
		last = word;
	}
	ok(in_turn && last, "... and is of one moment");
	is(lh__snapshot_save(qemu->monitor, dir, -1, &left, &error), -ENOTEMPTY,
	   "a folder with something in it is left alone");
	ok(!lh__snapshot_read(dir, &snapshot, &error), "... and what is in it too");
	remove_folder();
}

static void not_saved(struct qemu_machine *qemu)
{
	struct stat status;
	int cancel[2];

	if (pipe(cancel) || write(cancel[1], "", 1) != 1)
		return;
	is(lh__snapshot_save(qemu->monitor, dir, cancel[0], &left, &error), -ECANCELED,
	   "one that is cancelled");
	ok(stat(dir, &status) < 0, "... leaves nothing behind");
	ok(qemu_goes_on(qemu), "... and the guest runs on");
	is(lh__snapshot_save(qemu->monitor, "/nowhere/at/all", -1, &left, &error), -ENOENT,
	   "a folder that cannot be made");
	mkdir(dir, 0700);
	put("x", "", 0);
	is(lh__snapshot_save(qemu->monitor, dir, -1, &left, &error), -ENOTEMPTY, "a folder of others");
	ok(qemu_goes_on(qemu), "... the guest runs on");
	remove_folder();
	is(lh__snapshot_save("/nowhere", dir, -1, &left, &error), -ENOENT, "no machine");
	ok(stat(dir, &status) < 0, "... no folder");
	close(cancel[0]);
	close(cancel[1]);
}

/* With no more room than a few pages. */
static void no_room(struct qemu_machine *qemu)
{
	struct rlimit before, little = { 65536, 65536 };

	getrlimit(RLIMIT_FSIZE, &before);
	little.rlim_max = before.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &little);
	is(lh__snapshot_save(qemu->monitor, dir, -1, &left, &error), -EFBIG,
	   "one for which there is no room");
	setrlimit(RLIMIT_FSIZE, &before);
	ok(access(dir, F_OK) < 0, "... leaves nothing behind");
	ok(qemu_goes_on(qemu), "... and the guest runs on");
}

int main(void)
{
	struct qemu_machine qemu;

	snprintf(dir, sizeof(dir), "/dev/shm/lh-snapshot-%d", (int)getpid());
	texts();
	if (qemu_missing()) {
		skip("machines", "qemu-system-x86_64 is not installed");
		return done();
	}
	qemu_name(&qemu, "lh-snapshot-a");
	qemu_boots(&qemu, qemu_guest_counts, sizeof(qemu_guest_counts));
	if (ok(qemu_start(&qemu, NULL, NULL, NULL), "a machine") &&
	    ok(qemu_goes_on(&qemu), "... whose guest runs")) {
		saved(&qemu);
		not_saved(&qemu);
		no_room(&qemu);
	}
	qemu_end(&qemu);
	remove_folder();
	return done();
}
