/* pool.h - what the commands of linehome pool share. */
#ifndef LH_CLI_POOL_H
#define LH_CLI_POOL_H

#include <jansson.h>

#include "cli/cli.h"

/* Beside those of cli.h: the pool is damaged, or what is there is none. */
enum { POOL_DAMAGED = 1 };

/* Says what error says; returns the exit status that code means. */
int pool_fail(const char *command, int code, const struct lh_error *error);
/* A text that may come from anywhere, fit for a terminal: what is no character there becomes \xNN. */
const char *pool_text(const char *text, char *buffer, size_t size);
/* The same as JSON, which can say all that is UTF-8. */
json_t *pool_json_text(const char *text);
/* Writes the object to standard output and lets go of it. Where that fails main says so. */
void pool_write(json_t *object);
/* "1 record", "2 records". */
const char *pool_count(uint64_t n, const char *what, char buffer[64]);

int pool_log(int argc, char **argv);

#endif
