/*
 * server.c - a small server that must not be stopped: it tells what a number of things costs.
 *
 *     server          prints its port; then each connection sends a number and gets a price
 *
 * Its rates (rates.c) have a mistake, which fix.c mends while it runs.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int price(int things);

static int listen_somewhere(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof address;
	int server = socket(AF_INET, SOCK_STREAM, 0);

	if (server < 0 || bind(server, (struct sockaddr *)&address, size) != 0 || listen(server, 16) != 0 ||
	    getsockname(server, (struct sockaddr *)&address, &size) != 0)
		return -1;
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	return server;
}

int main(void)
{
	int server = listen_somewhere();

	while (server >= 0) {
		int client = accept(server, NULL, NULL);
		FILE *stream = client >= 0 ? fdopen(client, "r+") : NULL;
		char line[64];

		if (!stream)
			continue;
		if (fgets(line, sizeof line, stream))
			fprintf(stream, "%d\n", price(atoi(line)));
		fclose(stream);
	}
	return 1;
}
