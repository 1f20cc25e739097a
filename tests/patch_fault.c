/* timeout: 120 */
/* patch_fault.c - whatever step of an apply or a revert fails: the process is as it was, or it was done. */
#include "patch.h"

struct fault {
	unsigned seen, fail_at;
	bool lasting;
	const char *step; /* that failed */
};

static int strike(void *context, const char *step)
{
	struct fault *fault = context;

	fault->seen++;
	if (fault->seen < fault->fail_at || (fault->seen > fault->fail_at && !fault->lasting))
		return 0;
	if (!fault->step)
		fault->step = step;
	return -EIO;
}

static struct target target;

/* All mappings, one line each, but those that the program itself changes. */
static unsigned mappings_crc(void)
{
	char path[64], line[4096];
	unsigned crc = 0;
	FILE *maps;

	snprintf(path, sizeof path, "/proc/%d/maps", target.pid);
	maps = fopen(path, "r");
	while (maps && fgets(line, sizeof line, maps))
		if (!strstr(line, "[stack]"))
			crc = lh__crc32c(crc, line, strlen(line));
	if (maps)
		fclose(maps);
	return crc;
}

static unsigned count, intact;
static void note(void *context, const struct lh_patch_listed *patch)
{
	count++;
	intact += patch->intact && patch->state == LH_PATCH_APPLIED;
}

static void look(void)
{
	struct lh_error error;

	count = intact = 0;
	if (lh__patch_list(target.pid, note, NULL, &error) < 0)
		count = 1000;
}

static int act(bool bytes, const char *file, struct fault *fault, struct lh_patch_outcome *outcome,
               struct lh_error *error)
{
	const uint8_t expected[] = { 0x31, 0xc0 }, new[] = { 0xb0, 0x07 };
	struct lh_patch_options options = { .wait_ms = 2000, .fault = strike, .fault_context = fault };

	if (bytes)
		return lh__patch_bytes(target.pid, "swept", "close_by", 0, expected, new, 2, &options,
		                       outcome, error);
	return lh__patch_apply(target.pid, file, &options, outcome, error);
}

/* Fails the first step, then the second, until nothing is failed. */
static void sweep_apply(bool bytes, const char *file, bool lasting)
{
	uint64_t code = patch_checksum(target.pid);
	unsigned maps = mappings_crc(), rounds = 0, changed = 0, mute = 0, moved = 0;
	const char *last = "";
	struct lh_patch_outcome outcome;
	struct lh_error error;

	for (unsigned at = 1; at < 200; at++) {
		struct fault fault = { .fail_at = at, .lasting = lasting };

		error.text[0] = '\0';
		if (act(bytes, file, &fault, &outcome, &error) == 0)
			break;
		rounds++;
		last = fault.step ? fault.step : "no fault";
		changed += patch_checksum(target.pid) != code || target_ask(&target).answer != 4;
		moved += mappings_crc() != maps;
		mute += !fault.step || error.text[0] == '\0';
	}
	ok(rounds > 8 && changed == 0 && moved == 0 && mute == 0,
	   "%s, %s: %u steps failed, %u changed code, %u changed mappings, %u without a word (last: %s)",
	   bytes ? "bytes" : "object", lasting ? "lasting" : "once", rounds, changed, moved, mute, last);
	look();
	ok(count == 1 && intact == 1, "then it is applied");
	is(patch_revert(target.pid, "swept", &outcome), 0, "and reverted");
	is(patch_checksum(target.pid), code, "and the code is what it was");
}

static void sweep_revert(const char *file, bool lasting)
{
	uint64_t code = patch_checksum(target.pid);
	unsigned refused = 0, half = 0, kept = 0;
	struct lh_patch_outcome outcome;
	struct lh_error error;

	for (unsigned at = 1; at < 100; at++) {
		struct fault fault = { .fail_at = at, .lasting = lasting };
		struct lh_patch_options options = { .wait_ms = 50, .fault = strike, .fault_context = &fault };

		look();
		if (count == 0 && patch_apply(target.pid, file) < 0)
			break;
		if (lh__patch_revert(target.pid, "swept", &options, &outcome, &error) < 0) {
			refused++;
			look();
			half += intact != 1 || target_ask(&target).answer != 1004;
			continue;
		}
		half += target_ask(&target).answer != 4;
		if (!fault.step)
			break;
		kept += outcome.kept;
		if (outcome.kept && patch_revert(target.pid, "swept", &outcome) < 0)
			half++;
	}
	ok(refused > 3 && half == 0, "revert, %s: %u steps refused it, %u left it half done, %u kept memory",
	   lasting ? "lasting" : "once", refused, half, kept);
	look();
	is(count, 0, "nothing is left");
	is(patch_checksum(target.pid), code, "the code is what it was");
}

int main(void)
{
	const char *file;

	if (!patch_begin())
		return 1;
	file = patch_make("swept", "-fno-builtin",
	                  "#include <string.h>\n"
	                  "LH_PATCH_ORIGINAL(old, answer, int (int));\n"
	                  "static int new_answer(int v) { return old(v) + 997 + (int)strlen(\"abc\"); }\n"
	                  "LH_PATCH_REPLACE(answer, new_answer);\n"
	                  "static int new_tiny(int v) { return v; }\n"
	                  "LH_PATCH_REPLACE(tiny, new_tiny);\n");
	target = target_start(2, false);
	for (int bytes = 0; bytes < 2; bytes++)
		for (int lasting = 0; lasting < 2; lasting++)
			sweep_apply(bytes, file, lasting);
	sweep_revert(file, false);
	sweep_revert(file, true);
	is(target_ask(&target).wrong, 0, "nobody saw a wrong answer");
	target_stop(&target);
	patch_end();
	return done();
}
