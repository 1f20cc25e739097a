/*
 * channel_inside.h - what the files of a channel share: channel.c (messages), channel_connect.c,
 * channel_listen.c (both ends' beginnings).
 */
#ifndef LH_MIGRATE_CHANNEL_INSIDE_H
#define LH_MIGRATE_CHANNEL_INSIDE_H

#include "service/migrate/channel.h"

/*
 * Room for the longest message, and for many short ones behind it. Only what is used of it becomes memory.
 */
#define LH_CHANNEL_INBOX (2u * LH_MOVE_MESSAGE_MAX)
/* So much gathers before it is sent without being told to. */
#define LH_CHANNEL_GATHER (128u << 10)
#define LH_CHANNEL_OUTBOX (LH_CHANNEL_GATHER + LH_MOVE_MESSAGE_MAX)

struct lh_channel {
	int fd; /* blocks; calls that must not wait say so one by one */
	enum lh_move_channel_kind kind;
	bool sender; /* we are */
	bool broken; /* atomic: by lh__channel_break */
	int failed;  /* the error that ended it, or 0 */
	const char *why;
	uint64_t sent, received;      /* sequences */
	uint64_t bytes_out, bytes_in; /* atomic: statistics are read by others */
	uint64_t heard_ms, said_ms;   /* control: when something came, and went */
	size_t out_begin, out;        /* gathered in outbox, of which up to out_begin has been sent */
	size_t begin, end;            /* received in inbox */
	uint8_t *inbox, *outbox;
};

/* Takes over fd on success. */
int lh__channel_make(int fd, enum lh_move_channel_kind kind, bool sender, struct lh_channel **out,
                     struct lh_error *error) LH_MUST_CHECK;
/* What kind is said before there is a channel: the options of its socket. */
void lh__channel_tune(int fd, enum lh_move_channel_kind kind);
/*
 * 64 bytes by deadline_ms. -ETIMEDOUT, -ECONNRESET; -EPROTO: they do not begin as a hello does.
 */
int lh__channel_hello_receive(int fd, uint64_t deadline_ms, uint8_t bytes[LH_MOVE_HELLO]) LH_MUST_CHECK;
/* Whoever refuses need not look whether that has arrived. */
int lh__channel_hello_send(int fd, const struct lh_move_hello *hello);

#endif
