/*
 * The hook sees every call, once. What it has counted is compared with what strace counts in a plain run of
 * the same program. Calls on a futex are left out: how often a thread waits is a matter of chance.
 */
/* timeout: 90 */
#include <sys/stat.h>
#include <sys/syscall.h>

#include "intercept.h"

static char folder[] = "/tmp/linehome-count.XXXXXX";

struct counts {
	long of[512];
	long all;
};

/*
 * With -n strace's lines are "12345 [  39] getpid() = 12345". Signals have such lines too. A call that
 * strace's own stop has interrupted, and that the kernel repeats, is written down again.
 */
static int from_strace(const char *path, struct counts *counts)
{
	char line[4096];
	FILE *file = fopen(path, "r");
	int marked = 0;

	memset(counts, 0, sizeof *counts);
	while (file && fgets(line, sizeof line, file)) {
		const char *at = strstr(line, " [");
		int nr = at ? atoi(at + 2) : -1;

		if (strstr(line, "-12345"))
			marked = 1;
		else if (strstr(line, "-12346"))
			marked = 0;
		else if (marked && nr >= 0 && nr < 512 && !strstr(line, "resumed>") &&
		         !strstr(line, "--- SIG") && !strstr(line, "ERESTART") && nr != SYS_futex) {
			counts->of[nr]++;
			counts->all++;
		}
	}
	if (file)
		fclose(file);
	return file != NULL;
}

static int from_agent(const char *path, struct counts *counts)
{
	FILE *file = fopen(path, "r");
	long nr, count;

	memset(counts, 0, sizeof *counts);
	while (file && fscanf(file, "%ld %ld", &nr, &count) == 2)
		if (nr >= 0 && nr < 512 && nr != SYS_futex) {
			counts->of[nr] += count;
			counts->all += count;
		}
	if (file)
		fclose(file);
	return file != NULL;
}

static int equal(const struct counts *a, const struct counts *b, int tell)
{
	int differ = 0;

	for (int nr = 0; nr < 512; nr++)
		if (a->of[nr] != b->of[nr]) {
			differ++;
			if (tell)
				printf("# call %d: strace %ld, hook %ld\n", nr, a->of[nr], b->of[nr]);
		}
	return !differ;
}

static void seen_by_hook(const char *words, struct counts *counts)
{
	static struct result result;
	char path[200], program[PATH_MAX + 100];
	char *argv[] = { plain_path(program, "programs/seen_count"), "mixture", NULL };

	snprintf(path, sizeof path, "%s/counts", folder);
	unlink(path);
	setenv("LH_INTERCEPT_OUT", path, 1);
	run(words, argv, &result);
	ok(result.status == 0, "the program runs (%s)", words);
	from_agent(path, counts);
	unlink(path);
}

static void with_strace(void)
{
	static const char *const ways[] = { "all", "net", "hostile" };
	static struct result result;
	static struct counts wanted, seen;
	char path[200], program[PATH_MAX + 100];
	char *argv[] = { "strace",  "-f", "-n", "-qq", "-o", path, plain_path(program, "programs/seen_count"),
		         "mixture", NULL };

	snprintf(path, sizeof path, "%s/strace", folder);
	run(NULL, argv, &result);
	if (result.status != 0 || !from_strace(path, &wanted)) {
		skip("the hook counts as strace does", "strace does not run here");
		return;
	}
	unlink(path);
	ok(wanted.all > 200, "strace has seen %ld calls", wanted.all);
	for (int i = 0; i < 3; i++) {
		seen_by_hook(ways[i], &seen);
		ok(equal(&wanted, &seen, 1), "the hook has seen as many of each (%s)", ways[i]);
	}
	seen_by_hook("lose", &seen);
	ok(!equal(&wanted, &seen, 0), "a hook that misses calls is noticed");
}

int main(int argc, char **argv)
{
	find_folder(argv[0]);
	if (!mkdtemp(folder))
		return 1;
	with_strace();
	rmdir(folder);
	return done();
}
