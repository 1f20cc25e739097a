/*
 * link.h - what a node store is attached to: descriptors that are ready, and what it takes to get new ones.
 *
 * A link is plain data: a launcher may send it to another process (the descriptors beside it). It is one
 * client's way to one region; two processes must not use one link at the same time.
 */
#ifndef LH_NET_DATA_LINK_H
#define LH_NET_DATA_LINK_H

#include <stdint.h>

enum lh_node_kind {
	/* fd[0]: connected stream socket for get_now; fd[1]: another, for everything else */
	LH_NODE_STREAM = 1,
	/*
	 * fd[0]: the Unix socket, which ends when the node ends; fd[1]: the ring's memfd; fd[2]: the region's
	 * view, or -1
	 */
	LH_NODE_RING = 2,
};

#define LH_NODE_LINK_FDS 3

struct lh_node_link {
	uint32_t kind; /* enum lh_node_kind */
	int32_t fd
		[LH_NODE_LINK_FDS]; /* -1: none; blocking, close-on-exec; whoever holds the link owns them */
	uint64_t region;
	uint64_t generation; /* grows with each reconnection: the node ends the connections of earlier ones */
	uint8_t token[16];   /* the secret that allows to attach to the region */
};

#endif
