/*
 * format.c - the few conversions that a message needs, without stdio.
 *
 * Messages are made in places where libc must not be entered (a signal handler, a thread that libc does
 * not know), so this formatter touches nothing but its arguments and the buffer. It knows %s %d %u %x %c
 * %% and the lengths l, ll and z before d, u and x. What it does not know it copies out as it stands,
 * and from there on takes no argument any more: reading one of a guessed size would be worse than a plain
 * message.
 *
 *     lh__format(text, sizeof text, "page %lx: %s", 0x2aul, "not held")   ->   "page 2a: not held"
 */
#include "sys/sys.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>

/* Where text goes: never beyond size - 1 characters. */
struct sink {
	char *buffer;
	size_t size;
	size_t length;
};

static void put_char(struct sink *sink, char c)
{
	if (sink->length + 1 < sink->size)
		sink->buffer[sink->length++] = c;
}

static void put_text(struct sink *sink, const char *text)
{
	for (text = text ? text : "(null)"; *text; text++)
		put_char(sink, *text);
}

static void put_number(struct sink *sink, uint64_t value, unsigned base)
{
	char digits[20];
	unsigned n = 0;

	do
		digits[n++] = "0123456789abcdef"[value % base];
	while ((value /= base) != 0);
	while (n > 0)
		put_char(sink, digits[--n]);
}

static void put_signed(struct sink *sink, int64_t value)
{
	if (value < 0)
		put_char(sink, '-');
	put_number(sink, value < 0 ? -(uint64_t)value : (uint64_t)value, 10);
}

/* The arguments stand in a structure, since a va_list itself cannot be handed on by reference. */
struct arguments {
	va_list list;
};

/* The conversion after a % and its length; false where it is not known. */
static bool convert(struct sink *sink, char conversion, bool wide, struct arguments *arguments)
{
	if (wide && conversion != 'd' && conversion != 'u' && conversion != 'x')
		return false;
	switch (conversion) {
	case '%': put_char(sink, '%'); return true;
	case 'c': put_char(sink, (char)va_arg(arguments->list, int)); return true;
	case 's': put_text(sink, va_arg(arguments->list, const char *)); return true;
	case 'd':
		put_signed(sink, wide ? va_arg(arguments->list, long) : va_arg(arguments->list, int));
		return true;
	case 'u':
	case 'x':
		put_number(sink,
		           wide ? va_arg(arguments->list, unsigned long) : va_arg(arguments->list, unsigned),
		           conversion == 'x' ? 16 : 10);
		return true;
	default: return false;
	}
}

static void format_all(struct sink *sink, const char *format, struct arguments *arguments)
{
	while (*format) {
		const char *start = format;
		bool wide;

		if (*format != '%') {
			put_char(sink, *format++);
			continue;
		}
		for (format++; *format == 'l' || *format == 'z'; format++)
			;
		wide = format > start + 1;
		if (!convert(sink, *format, wide, arguments)) {
			put_text(sink, start);
			return;
		}
		format++;
	}
}

static size_t format_into(char *buffer, size_t size, const char *format, struct arguments *arguments)
{
	struct sink sink = { .buffer = buffer, .size = size };

	if (size == 0)
		return 0;
	format_all(&sink, format, arguments);
	buffer[sink.length] = 0;
	return sink.length;
}

size_t lh__format(char *buffer, size_t size, const char *format, ...)
{
	struct arguments arguments;
	size_t length;

	va_start(arguments.list, format);
	length = format_into(buffer, size, format, &arguments);
	va_end(arguments.list);
	return length;
}

int lh__fail(struct lh_error *error, int code, const char *format, ...)
{
	struct arguments arguments;

	if (!error)
		return code;
	error->code = code;
	va_start(arguments.list, format);
	(void)format_into(error->text, sizeof error->text, format, &arguments);
	va_end(arguments.list);
	return code;
}

const char *lh__errno_name(int code)
{
	/* Of two names for one number the more usual one stands here: EAGAIN, EOPNOTSUPP. */
	static const char *const names[] = {
#define NAME(e) [e] = #e
		NAME(EPERM),        NAME(ENOENT),       NAME(ESRCH),        NAME(EINTR),
		NAME(EIO),          NAME(ENXIO),        NAME(E2BIG),        NAME(ENOEXEC),
		NAME(EBADF),        NAME(ECHILD),       NAME(EAGAIN),       NAME(ENOMEM),
		NAME(EACCES),       NAME(EFAULT),       NAME(ENOTBLK),      NAME(EBUSY),
		NAME(EEXIST),       NAME(EXDEV),        NAME(ENODEV),       NAME(ENOTDIR),
		NAME(EISDIR),       NAME(EINVAL),       NAME(ENFILE),       NAME(EMFILE),
		NAME(ENOTTY),       NAME(ETXTBSY),      NAME(EFBIG),        NAME(ENOSPC),
		NAME(ESPIPE),       NAME(EROFS),        NAME(EMLINK),       NAME(EPIPE),
		NAME(EDOM),         NAME(ERANGE),       NAME(EDEADLK),      NAME(ENAMETOOLONG),
		NAME(ENOLCK),       NAME(ENOSYS),       NAME(ENOTEMPTY),    NAME(ELOOP),
		NAME(ENODATA),      NAME(ETIME),        NAME(EPROTO),       NAME(EBADMSG),
		NAME(EOVERFLOW),    NAME(EILSEQ),       NAME(ENOTSOCK),     NAME(EDESTADDRREQ),
		NAME(EMSGSIZE),     NAME(EPROTOTYPE),   NAME(ENOPROTOOPT),  NAME(EPROTONOSUPPORT),
		NAME(EOPNOTSUPP),   NAME(EAFNOSUPPORT), NAME(EADDRINUSE),   NAME(EADDRNOTAVAIL),
		NAME(ENETDOWN),     NAME(ENETUNREACH),  NAME(ENETRESET),    NAME(ECONNABORTED),
		NAME(ECONNRESET),   NAME(ENOBUFS),      NAME(EISCONN),      NAME(ENOTCONN),
		NAME(ESHUTDOWN),    NAME(ETIMEDOUT),    NAME(ECONNREFUSED), NAME(EHOSTDOWN),
		NAME(EHOSTUNREACH), NAME(EALREADY),     NAME(EINPROGRESS),  NAME(ESTALE),
		NAME(EDQUOT),       NAME(ECANCELED),    NAME(EKEYREJECTED),
#undef NAME
	};
	unsigned number = code < 0 ? -(unsigned)code : (unsigned)code;

	if (number < sizeof names / sizeof *names && names[number])
		return names[number];
	return number == 0 ? "no error" : "an unknown error";
}
