/* pool_objects.c - objects: sizes and alignment, moving one, offsets, and finding what was forgotten. */
#include <errno.h>
#include <linehome.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct root {
	char *text;
	uint64_t table; /* an offset, for those who would rather not keep pointers */
};

static void check(bool right, const struct lh_error *error)
{
	if (right)
		return;
	fprintf(stderr, "pool_objects: %s\n", error->code < 0 ? error->text : "a result is wrong");
	exit(1);
}

struct reached {
	const void *known[3];
	int objects, leaked;
};

/* Called for each object of the pool, in ascending order. */
static int look(void *context, void *object, size_t usable)
{
	struct reached *reached = context;

	reached->objects++;
	for (int i = 0; i < 3; i++)
		if (object == reached->known[i])
			return 0;
	printf("leaked: an object of %zu bytes\n", usable);
	reached->leaked++;
	return 0;
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "objects.pool";
	struct lh_pool_options options = { .size = 1 << 20 };
	struct lh_error error = { .code = 0 };
	struct lh_pool *pool;
	struct root *root;
	char *line;

	remove(path);
	check(lh_pool_create(path, &options, &pool, &error) == 0, &error);
	check((root = lh_pool_root(pool, sizeof *root, &error)) != NULL, &error);
	check(lh_tx_begin(pool, &error) == 0, &error);
	check((root->text = lh_pool_alloc(pool, 6, &error)) != NULL, &error);
	strcpy(root->text, "short");
	check((root->text = lh_pool_realloc(pool, root->text, 1000, &error)) != NULL, &error);
	strcat(root->text, ", and then long");
	check(lh_pool_usable_size(pool, root->text) >= 1000, &error);
	root->table = lh_ptr_off(pool, lh_pool_alloc_zero(pool, 100 * sizeof(long), &error));
	check(root->table != 0, &error);
	((long *)lh_off_ptr(pool, root->table))[99] = 1;
	line = lh_pool_alloc_aligned(pool, LH_PAGE_SIZE, 10, &error);
	check(line && (uintptr_t)line % LH_PAGE_SIZE == 0, &error);
	check(lh_tx_commit(pool, &error) == 0, &error); /* nothing points to line */

	struct reached reached = { .known = { root, root->text, lh_off_ptr(pool, root->table) } };
	check(lh_pool_objects(pool, look, &reached) == 0, &error);
	check(reached.objects == 4 && reached.leaked == 1, &error);

	check(lh_tx_begin(pool, &error) == 0, &error);
	check(lh_pool_free(pool, line, &error) == 0, &error);
	check(lh_pool_free(pool, line, &error) == -EINVAL, &error); /* freed twice: refused */
	check(lh_tx_commit(pool, &error) == 0, &error);
	printf("%s\n", root->text);
	return lh_pool_close(pool, &error) == 0 ? 0 : 1;
}
