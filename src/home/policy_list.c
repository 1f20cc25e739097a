/* policy_list.c - which policies there are. */
#include <string.h>

#include "home/policy_queue.h"

const struct lh_policy_ops *const lh__policies[] = {
	&lh__policy_reuse, &lh__policy_s3fifo, &lh__policy_second, &lh__policy_fifo, NULL,
};

const struct lh_policy_ops *lh__policy_find(const char *name)
{
	size_t i = 0;

	while (name && lh__policies[i] && strcmp(lh__policies[i]->name, name) != 0)
		i++;
	return lh__policies[i];
}
