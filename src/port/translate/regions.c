/*
 * regions.c - what a program may do in its memory, as the kernel says it (inside.h).
 *
 * Newer kernels (6.11) answer for one address; older ones have a text for all of memory. The text of the
 * calling thread: that of the process is empty where its first thread has gone.
 */
#include "port/translate/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>

#define MAPS "/proc/thread-self/maps"

/* struct procmap_query of linux/fs.h, which older headers lack. */
struct question {
	uint64_t size, flags, address;
	uint64_t start, end, kind, page_size, offset, inode;
	uint32_t device[2], name_size, build_size;
	uint64_t name, build;
};
#define ASK _IOWR('f', 17, struct question)

static int ask(const struct lh_sys *sys, int fd, uint64_t address, struct region *out)
{
	struct question question = { .size = sizeof(question), .address = address };
	long result = LH_SYS(sys, SYS_ioctl, fd, ASK, &question);

	if (result < 0)
		return result == -ENOENT ? -EFAULT : -ENOSYS;
	*out = (struct region){ question.start, question.end, (uint8_t)(question.kind & 15) };
	out->kind |= question.inode ? REGION_FILE : 0;
	return 0;
}

/* The text is read in pieces, letter by letter. */
struct text {
	const struct lh_sys *sys;
	int fd;
	long size, at;
	char piece[1024];
};

/* -1: it has ended. */
static int letter(struct text *text)
{
	if (text->at == text->size) {
		text->at = 0;
		text->size = LH_SYS(text->sys, SYS_read, text->fd, text->piece, sizeof(text->piece));
		if (text->size <= 0) {
			text->size = 0;
			return -1;
		}
	}
	return (uint8_t)text->piece[text->at++];
}

/* A number in sixteens, and the letter behind it, which is eaten. */
static uint64_t number(struct text *text)
{
	uint64_t value = 0;

	for (;;) {
		int next = letter(text);

		if (next >= '0' && next <= '9')
			value = value * 16 + (uint64_t)(next - '0');
		else if (next >= 'a' && next <= 'f')
			value = value * 16 + (uint64_t)(next - 'a' + 10);
		else
			return value;
	}
}

/* 55d0c000-55d0d000 r-xp 00001000 fe:01 1234 ... */
static bool line(struct text *text, struct region *out)
{
	int next;

	out->start = number(text);
	out->end = number(text);
	out->kind = 0;
	for (unsigned i = 0; i < 4; i++)
		if (letter(text) == "rwxs"[i])
			out->kind |= (uint8_t)(1u << i);
	letter(text);
	for (unsigned i = 0; i < 3; i++)
		number(text);
	out->kind |= number(text) ? REGION_FILE : 0;
	do {
		next = letter(text);
	} while (next >= 0 && next != '\n');
	return out->end != 0;
}

static int find(struct text *text, uint64_t address, struct region *out)
{
	bool any = false;

	while (line(text, out)) {
		any = true;
		if (address < out->end)
			return address >= out->start ? 0 : -EFAULT;
	}
	return any ? -EFAULT : -ENOSYS;
}

int lh__region_at(const struct lh_sys *sys, uint64_t address, struct region *out)
{
	struct text text = { .sys = sys };
	long fd = LH_SYS(sys, SYS_openat, AT_FDCWD, MAPS, O_RDONLY | O_CLOEXEC, 0);
	int result;

	if (fd < 0)
		return -ENOSYS;
	text.fd = (int)fd;
	result = ask(sys, text.fd, address, out);
	if (result == -ENOSYS)
		result = find(&text, address, out);
	LH_SYS(sys, SYS_close, fd);
	return result;
}
