/*
 * migrate_handshake.c - the handshake by which a virtual machine hands its memory over: its text, good,
 * hostile and cut off anywhere; the message with its descriptor, whole, split and wrong; and what is made of
 * it.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

#include "service/migrate/handshake.h"
#include "tap.h"

/* Exactly as Firecracker 1.10 to 1.13 writes it, by serde_json, of a machine with 2 regions. */
#define FIRECRACKER                                                                                          \
	"[{\"base_host_virt_addr\":139942132654080,\"size\":67108864,\"offset\":0,\"page_size\":4096,"       \
	"\"page_size_kib\":4096},{\"base_host_virt_addr\":139942065545216,\"size\":1048576,"                 \
	"\"offset\":67108864,\"page_size\":4096,\"page_size_kib\":4096}]"

static struct lh_handshake handshake;
static struct lh_error error;

static int parse(const char *text)
{
	error.text[0] = 0;
	return lh__handshake_parse(text, strlen(text), &handshake, &error);
}

/* ---- the text */

static void test_text(void)
{
	is(parse(FIRECRACKER), 0, "Firecracker's own text is read");
	ok(handshake.ranges == 2 && handshake.page_size == 4096 &&
	           handshake.range[0].address == 139942132654080 && handshake.range[0].size == 67108864 &&
	           handshake.range[0].offset == 0 && handshake.range[1].address == 139942065545216 &&
	           handshake.range[1].size == 1048576 && handshake.range[1].offset == 67108864 &&
	           handshake.range[1].inode == 0,
	   "it says where the regions are");
	is(parse("[{\"base_host_virt_addr\":1073741824,\"size\":4194304,\"offset\":0,\"page_size\":2097152,"
	         "\"page_size_kib\":2097152}]"),
	   0, "huge pages");
	is(handshake.page_size, 2097152, "they are huge");
	is(parse("[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size_kib\":2097152}]"),
	   -EPROTO, "their size by its old name counts too: this is half a page");
	is(parse(" [ {\"base_host_virt_addr\" : 4096, \"size\":4096,\"offset\":8192} ] \n"), 0,
	   "the oldest, without a page size, and with blanks");
	is(handshake.page_size, 4096, "pages are of 4096 bytes");
	is(parse("[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"later\":[{\"]\":null}]}]"), 0,
	   "members that nobody knows yet");
	is(parse("[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"device\":7,\"inode\":9,"
	         "\"file_offset\":4096}]"),
	   0, "a file behind a region");
	ok(handshake.range[0].device == 7 && handshake.range[0].inode == 9 &&
	           handshake.range[0].file_offset == 4096,
	   "it is told which");
}

#define REGION(address, size, offset)                                                                        \
	"{\"base_host_virt_addr\":" address ",\"size\":" size ",\"offset\":" offset ",\"page_size\":4096}"

static void test_hostile(void)
{
	static const char *const texts[] = {
		"{}",
		"null",
		"7",
		"x",
		"]",
		"[]",
		"[7]",
		"[[]]",
		"[{}]",
		"[null,null]",
		"[{\"base_host_virt_addr\":4096}]",
		"[" REGION("4096", "4096", "0") "] x",
		"[" REGION("4096", "4096", "0") "][]",
		"[" REGION("4096", "4096", "0") ",]",
		"[" REGION("-4096", "4096", "0") "]",
		"[" REGION("4096.0", "4096", "0") "]",
		"[" REGION("\"4096\"", "4096", "0") "]",
		"[" REGION("4097", "4096", "0") "]",
		"[" REGION("4096", "4095", "0") "]",
		"[" REGION("4096", "0", "0") "]",
		"[" REGION("4096", "4096", "1") "]",
		"[" REGION("18446744073709547520", "4096", "0") "]",
		"[" REGION("9223372036854771712", "4096", "0") "]",
		"[" REGION("4096", "9223372036854771712", "0") "]",
		"[" REGION("4096", "4096", "9223372036854771712") "]",
		"[" REGION("4096", "8192", "0") "," REGION("8192", "4096", "8192") "]",
		"[" REGION("8192", "4096", "0") "," REGION("4096", "8192", "4096") "]",
		"[" REGION("4096", "4096", "0") "," REGION("8192", "4096", "0") "]",
		"[" REGION("4096", "4096", "0") ",{\"base_host_virt_addr\":2097152,\"size\":2097152,"
						"\"offset\":2097152,\"page_size\":2097152}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size\":0}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size\":4}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size\":12288}]",
		"[{\"base_host_virt_addr\":0,\"size\":4294967296,\"offset\":0,\"page_size\":4294967296}]",
		"[{\"size\":4096,\"size\":8192,\"base_host_virt_addr\":4096,\"offset\":0}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"inode\":-1}]",
		"[\"\xff\"]",
		"[{\"\xc3\":1}]",
		"[}",
		"\x01[]",
	};
	size_t refused = 0, n = sizeof(texts) / sizeof(texts[0]);

	for (size_t i = 0; i < n; i++) {
		int result = parse(texts[i]);

		if (result == -EPROTO && error.text[0])
			refused++;
		else
			printf("# %d: %s\n", result, texts[i]);
	}
	is(refused, n, "what is no handshake is refused, with a reason");
}

/* Many regions, many brackets, much text. */
static void test_much(void)
{
	static char text[LH_HANDSHAKE_TEXT_MAX + 64];
	size_t used = 0;

	for (unsigned i = 0; i < LH_GUEST_RANGES_MAX + 1; i++) {
		used += (size_t)sprintf(text + used, "%c" REGION("%u", "4096", "%u"), i ? ',' : '[',
		                        (i + 1) * 4096, i * 4096);
		if (i == LH_GUEST_RANGES_MAX - 1) {
			strcpy(text + used, "]");
			is(parse(text), 0, "as many regions as there may be");
		}
	}
	strcpy(text + used, "]");
	is(parse(text), -EPROTO, "one more is too many");
	memset(text, '[', LH_HANDSHAKE_TEXT_MAX);
	text[LH_HANDSHAKE_TEXT_MAX] = 0;
	is(parse(text), -ENODATA, "brackets that nobody closes");
	memset(text + LH_HANDSHAKE_TEXT_MAX / 2, ']', LH_HANDSHAKE_TEXT_MAX / 2);
	is(parse(text), -EPROTO, "and that somebody does");
	text[LH_HANDSHAKE_TEXT_MAX] = '[';
	is(parse(text), -EPROTO, "more text than there may be");
}

static void test_beginnings(void)
{
	static const char whole[] =
		" [{\"a\\\"]}\":\"[\\\\\",\"size\":8192,\"base_host_virt_addr\":4096,\"offset\":0}]";
	size_t good = 0;

	is(parse(whole), 0, "brackets in words are none");
	for (size_t n = 0; n < sizeof(whole) - 1; n++)
		good += lh__handshake_parse(whole, n, &handshake, &error) == -ENODATA;
	is(good, sizeof(whole) - 1, "every beginning of a text may go on");
}

/* ---- the message */

static char folder[] = "/tmp/migrate_handshake.XXXXXX", path[64];
static int listener;

static int userfaultfd(void)
{
	return (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);
}

static unsigned open_descriptors(void)
{
	DIR *all = opendir("/proc/self/fd");
	unsigned n = 0;

	while (all && readdir(all))
		n++;
	closedir(all);
	return n;
}

static int dial(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		printf("# connect: %s\n", strerror(errno));
	return fd;
}

static void say(int socket, const char *text, size_t size, const int *fd, size_t fds)
{
	union {
		char bytes[CMSG_SPACE(40 * sizeof(int))];
		struct cmsghdr align;
	} control = { .bytes = { 0 } };
	struct iovec part = { (char *)text, size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	struct cmsghdr *header = &control.align;

	if (fds) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(fds * sizeof(int));
		memcpy(CMSG_DATA(header), fd, fds * sizeof(int));
	}
	if (sendmsg(socket, &message, MSG_NOSIGNAL) != (ssize_t)size)
		printf("# sendmsg: %s\n", strerror(errno));
}

/* What is sent: parts of the text, with descriptors. */
struct part {
	size_t size, fds;
};

/* Sends FIRECRACKER in parts; whether the socket is closed then; and takes it. */
static int exchange(const struct part *parts, size_t n, int descriptor, bool hang_up)
{
	int fd[40], socket = dial(), result;
	const char *at = FIRECRACKER;

	for (size_t i = 0; i < 40; i++)
		fd[i] = descriptor;
	for (size_t i = 0; i < n; i++) {
		say(socket, at, parts[i].size, fd, parts[i].fds);
		at += parts[i].size;
	}
	if (hang_up)
		close(socket);
	result = lh__handshake_accept(listener, &handshake, &error);
	if (!hang_up)
		close(socket);
	return result;
}

#define WHOLE (sizeof(FIRECRACKER) - 1)

static void test_message(int descriptor)
{
	unsigned before = open_descriptors();

	is(exchange(&(struct part){ WHOLE, 1 }, 1, descriptor, false), 0, "one message, one descriptor");
	ok(handshake.ranges == 2 && handshake.fd >= 0 && handshake.socket >= 0 &&
	           handshake.process == getpid(),
	   "all is known, also who it was");
	ok(fcntl(handshake.fd, F_GETFL) & O_NONBLOCK, "the descriptor does not block, even if it did");
	ok(fcntl(handshake.fd, F_GETFD) & FD_CLOEXEC && fcntl(handshake.socket, F_GETFD) & FD_CLOEXEC,
	   "descriptors are not inherited");
	lh__handshake_close(&handshake);
	is(exchange((struct part[]){ { 1, 1 }, { WHOLE - 1, 0 } }, 2, descriptor, false), 0,
	   "a message in two parts");
	lh__handshake_close(&handshake);
	is(exchange((struct part[]){ { 150, 0 }, { WHOLE - 150, 1 } }, 2, descriptor, false), 0,
	   "the descriptor comes with the second");
	lh__handshake_close(&handshake);
	is(exchange(&(struct part){ WHOLE, 1 }, 1, descriptor, true), 0, "who hangs up has spoken");
	lh__handshake_close(&handshake);
	is(open_descriptors(), before, "no descriptor is left");
}

static void test_wrong_messages(int descriptor)
{
	unsigned before = open_descriptors();
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	is(exchange(&(struct part){ WHOLE, 0 }, 1, descriptor, true), -EPROTO, "without a descriptor");
	ok(strstr(error.text, "without a descriptor"), "it says so");
	is(exchange(&(struct part){ WHOLE, 2 }, 1, descriptor, false), -EPROTO, "with two descriptors");
	ok(strstr(error.text, "more than one"), "it says so");
	is(exchange((struct part[]){ { 10, 1 }, { WHOLE - 10, 1 } }, 2, descriptor, false), -EPROTO,
	   "with one in each part");
	is(exchange(&(struct part){ WHOLE, 40 }, 1, descriptor, false), -EPROTO, "with 40 descriptors");
	is(exchange(&(struct part){ WHOLE - 1, 1 }, 1, descriptor, true), -EPROTO, "half a message");
	ok(strstr(error.text, "end is missing"), "it says so");
	is(exchange(NULL, 0, descriptor, true), -EPROTO, "who hangs up without a word");
	is(exchange(&(struct part){ WHOLE, 1 }, 1, null, false), -EPROTO, "a descriptor of something else");
	ok(strstr(error.text, "no userfaultfd"), "it says so");
	is(lh__handshake_accept(listener, &handshake, &error), -EAGAIN, "nobody is there");
	close(null);
	is(open_descriptors(), before, "no descriptor is left");
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void test_silent(int descriptor)
{
	double began = seconds();

	is(exchange(&(struct part){ 20, 1 }, 1, descriptor, false), -ETIMEDOUT, "who falls silent is left");
	ok(seconds() - began < 2 * LH_HANDSHAKE_MS / 1000.0, "after %u ms", LH_HANDSHAKE_MS);
}

/* ---- what is made of it */

static void test_guest(void)
{
	struct lh_guest guest;

	is(parse(FIRECRACKER), 0, "a machine of 65 MiB");
	handshake.fd = 77;
	is(lh__handshake_guest(&handshake, 16639, &guest, &error), -EINVAL, "is not one of less");
	is(handshake.fd, 77, "the descriptor is left alone then");
	is(lh__handshake_guest(&handshake, 16640, &guest, &error), 0, "it is one of 16640 pages");
	ok(guest.fd == 77 && handshake.fd == -1, "which has the descriptor");
	ok(guest.page_size == 4096 && guest.ranges == 2 && guest.range[1].first == 16384 &&
	           guest.range[1].pages == 256 && guest.range[1].address == 139942065545216,
	   "pages are numbered by offsets");
}

static void make_file(struct lh_state_region *region, const char *name, uint64_t pages, uint64_t first)
{
	int fd;

	snprintf(region->path, sizeof(region->path), "%s/%s", folder, name);
	region->pages = pages;
	region->first = first;
	region->offset = 0;
	fd = open(region->path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 || close(fd) != 0)
		printf("# %s: %s\n", region->path, strerror(errno));
}

/* A handshake of the regions in another order. */
static void hand_over(const struct lh_state_region *region)
{
	struct stat file;

	handshake = (struct lh_handshake){ .socket = -1, .fd = -1, .page_size = 4096, .ranges = 2 };
	for (size_t i = 0; i < 2; i++) {
		const struct lh_state_region *from = &region[1 - i];

		if (stat(from->path, &file) != 0)
			printf("# %s: %s\n", from->path, strerror(errno));
		handshake.range[i] = (struct lh_handshake_range){
			.address = (i + 1) << 30,
			.size = from->pages * 4096,
			.offset = i << 20,
			.device = file.st_dev,
			.inode = file.st_ino,
		};
	}
}

static void test_arrange(void)
{
	static struct lh_state_region region[3];

	make_file(&region[0], "ram0", 16, 0);
	make_file(&region[1], "ram1", 32, 16);
	make_file(&region[2], "ram2", 8, 48);
	hand_over(region);
	is(lh__handshake_arrange(&handshake, region, 2, &error), 0, "files in another order are arranged");
	ok(handshake.range[0].offset == 16 * 4096 && handshake.range[1].offset == 0, "each where it belongs");
	hand_over(region);
	is(lh__handshake_arrange(&handshake, region, 3, &error), -EINVAL, "a file that is not handed over");
	ok(strstr(error.text, "ram2"), "is named");
	is(lh__handshake_arrange(&handshake, region, 1, &error), -EINVAL, "a file that is none of ours");
	hand_over(region);
	handshake.range[0].size -= 4096;
	is(lh__handshake_arrange(&handshake, region, 2, &error), -EINVAL, "less than a file");
	hand_over(region);
	handshake.range[1].inode = handshake.range[0].inode;
	is(lh__handshake_arrange(&handshake, region, 2, &error), -EINVAL, "one file twice");
	is(parse(FIRECRACKER), 0, "where no file is told");
	is(lh__handshake_arrange(&handshake, region, 2, &error), -EINVAL, "nothing is guessed");
	for (size_t i = 0; i < 3; i++)
		unlink(region[i].path);
}

static void test_listen(void)
{
	char other[64];
	struct stat file;
	int second = -1;

	ok(stat(path, &file) == 0 && (file.st_mode & 0777) == 0600, "the socket is its owner's alone");
	is(lh__handshake_listen(path, &second, &error), -EADDRINUSE, "not where somebody listens");
	close(listener);
	is(lh__handshake_listen(path, &listener, &error), 0, "but where nobody does any more");
	snprintf(other, sizeof(other), "%s/file", folder);
	second = open(other, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	close(second);
	is(lh__handshake_listen(other, &second, &error), -EEXIST, "not in a file's place");
	unlink(other);
	is(lh__handshake_listen("", &second, &error), -EINVAL, "not nowhere");
	is(lh__handshake_listen("/tmp/"
	                        "0123456789012345678901234567890123456789012345678901234567890123456789"
	                        "01234567890123456789012345678901234567890123456789",
	                        &second, &error),
	   -EINVAL, "not under a name that is too long");
}

int main(void)
{
	int descriptor = userfaultfd();

	test_text();
	test_hostile();
	test_much();
	test_beginnings();
	test_guest();
	if (!mkdtemp(folder))
		return 1;
	snprintf(path, sizeof(path), "%s/socket", folder);
	is(lh__handshake_listen(path, &listener, &error), 0, "listening");
	if (descriptor >= 0) {
		test_message(descriptor);
		test_wrong_messages(descriptor);
		test_silent(descriptor);
	} else {
		skip("messages", "there is no userfaultfd here");
	}
	test_arrange();
	test_listen();
	close(listener);
	close(descriptor);
	unlink(path);
	rmdir(folder);
	return done();
}
