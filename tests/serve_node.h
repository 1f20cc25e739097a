/*
 * serve_node.h - a memory node in this process, for tests: started on a URL, stopped, its log kept.
 */
#ifndef SERVE_NODE_H
#define SERVE_NODE_H

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>

#include "folder.h"
#include "service/client/client.h"
#include "service/serve/server.h"
#include "tap.h"

struct test_node {
	struct lh_server *server;
	pthread_t thread;
	pthread_mutex_t lock;
	char log[8192];
	char last[512]; /* line of the log */
	unsigned lines;
	char url[320];
};

static void node_log(void *context, const char *line)
{
	struct test_node *node = context;
	size_t used;

	pthread_mutex_lock(&node->lock);
	used = strlen(node->log);
	snprintf(node->log + used, sizeof node->log - used, "%s\n", line);
	snprintf(node->last, sizeof node->last, "%s", line);
	__atomic_fetch_add(&node->lines, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&node->lock);
}

static void *node_thread(void *argument)
{
	struct test_node *node = argument;
	struct lh_error error;

	if (lh__server_run(node->server, &error) < 0)
		printf("# %s\n", error.text);
	return NULL;
}

/* options: what is zero gets a default; listen is url. 0, or what lh__server_open said. */
__attribute__((unused)) static int node_start(struct test_node *node, const char *url,
                                              const struct lh_server_options *given, struct lh_error *error)
{
	struct lh_server_options options = *given;
	const char *word = url;
	int result;

	memset(node, 0, sizeof *node);
	pthread_mutex_init(&node->lock, NULL);
	options.listen = &word;
	options.listen_count = 1;
	options.log = node_log;
	options.log_context = node;
	result = lh__server_open(&options, &node->server, error);
	if (result)
		return result;
	snprintf(node->url, sizeof node->url, "%s", lh__server_url(node->server, 0));
	return pthread_create(&node->thread, NULL, node_thread, node);
}

__attribute__((unused)) static void node_stop(struct test_node *node)
{
	lh__server_stop(node->server);
	pthread_join(node->thread, NULL);
	lh__server_close(node->server);
	pthread_mutex_destroy(&node->lock);
}

/* Waits up to two seconds for one more line in the log than there were; whether it contains text. */
__attribute__((unused)) static int node_logged_next(struct test_node *node, unsigned lines, const char *text)
{
	int i, found;

	for (i = 0; i < 200 && __atomic_load_n(&node->lines, __ATOMIC_ACQUIRE) == lines; i++)
		usleep(10000);
	usleep(5000);
	pthread_mutex_lock(&node->lock);
	found = strstr(node->last, text) != NULL;
	pthread_mutex_unlock(&node->lock);
	if (!found)
		printf("# the log says: %s\n", node->last);
	return found;
}

/* Waits up to two seconds until the log has n lines more than it had; how many more it has. */
__attribute__((unused)) static unsigned node_lines_since(struct test_node *node, unsigned lines, unsigned n)
{
	for (int i = 0; i < 200 && __atomic_load_n(&node->lines, __ATOMIC_ACQUIRE) - lines < n; i++)
		usleep(10000);
	return __atomic_load_n(&node->lines, __ATOMIC_ACQUIRE) - lines;
}

/* Waits up to two seconds for a line in the log that contains text. */
__attribute__((unused)) static int node_logged(struct test_node *node, const char *text)
{
	int i, found = 0;

	for (i = 0; i < 200 && !found; i++) {
		pthread_mutex_lock(&node->lock);
		found = strstr(node->log, text) != NULL;
		pthread_mutex_unlock(&node->lock);
		if (!found)
			usleep(10000);
	}
	if (!found)
		printf("# the log has no \"%s\":\n# %s\n", text, node->log);
	return found;
}

#endif
