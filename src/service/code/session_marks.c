/*
 * session_marks.c - --exclude, --from and --until.
 *
 * What is never to be armed is not armed in the plan: such a file gets a copy of its plan, in which the
 * instructions of those ranges are not armed and the image has the original bytes. Agents are told nothing
 * of it.
 *
 * A marker, the first instruction of a function at which recording begins or ends, is not armed either, so
 * no miss beside it supplies it. It is INT3 by itself, and a trap there is not a miss but a question to the
 * session. Of the two only one is set at any moment: while nothing is recorded from, else until. When
 * recording begins, all code is taken away again in all processes, since what was supplied before was not
 * recorded.
 */
#include "service/code/session_inside.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/code/symbols.h"

/* A plan that is being changed, and what for. */
struct edit {
	struct lh_session *session;
	struct lh_session_file *file;
	uint8_t *plan; /* NULL until the first change */
	uint64_t bias;
	uint32_t *marker; /* of each text: where a function that is found is noted */
	bool found;
	int result;
};

static struct lh_plan_head *head_of(const struct edit *edit)
{
	return (struct lh_plan_head *)(void *)edit->plan;
}

/* ---- the copy ---- */

static int copy_plan(struct edit *edit)
{
	struct lh_plan *plan = &edit->file->plan;
	uint64_t size = plan->head->size;
	int copy = memfd_create("linehome-plan", MFD_CLOEXEC), result = 0;

	if (copy < 0)
		return -errno;
	if (ftruncate(copy, (off_t)size) < 0)
		result = -errno;
	if (result == 0) {
		edit->plan = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0);
		if (edit->plan == MAP_FAILED)
			result = -errno;
	}
	if (result < 0) {
		edit->plan = NULL;
		close(copy);
		return result;
	}
	memcpy(edit->plan, plan->head, size);
	lh__plan_close(&lh__sys_default, plan);
	*plan = (struct lh_plan){ .head = head_of(edit), .descriptor = copy };
	edit->file->edited = true;
	return 0;
}

static uint64_t *bitmap(const struct edit *edit, uint64_t offset)
{
	return (uint64_t *)(void *)(edit->plan + offset);
}

/* No instruction in [from, to), addresses in the file, is armed. */
static int leave_out(struct edit *edit, uint64_t from, uint64_t to)
{
	int result = edit->plan ? 0 : copy_plan(edit);

	for (unsigned i = 0; result == 0 && i < head_of(edit)->texts; i++) {
		const struct lh_plan_text *text = &head_of(edit)->text[i];
		uint64_t at = from > text->address ? from - text->address : 0;

		for (; at < text->size && text->address + at < to; at++) {
			bitmap(edit, text->armed)[at / 64] &= ~(UINT64_C(1) << at % 64);
			edit->plan[text->image + at] = edit->plan[text->original + at];
		}
	}
	return result;
}

/* The sites of system calls that are left, in their order. */
static void leave_out_sites(struct edit *edit)
{
	struct lh_plan_head *head = head_of(edit);
	struct lh_plan_site *site = (void *)(edit->plan + head->sites_at);
	uint32_t kept = 0;

	for (uint32_t i = 0; i < head->sites; i++) {
		const struct lh_plan_text *text = &head->text[site[i].text];

		if (bitmap(edit, text->armed)[site[i].at / 64] >> (site[i].at % 64) & 1)
			site[kept++] = site[i];
	}
	head->sites = kept;
}

/* ---- names ---- */

static int exclude_symbol(void *context, const struct lh_symbol *symbol)
{
	struct edit *edit = context;

	if (symbol->bias != edit->bias || symbol->size == 0)
		return 0;
	edit->found = true;
	edit->result = leave_out(edit, symbol->address - symbol->bias,
	                         symbol->address - symbol->bias + symbol->size);
	return edit->result;
}

static int mark_address(struct edit *edit, uint64_t address)
{
	int result = leave_out(edit, address, address + 1);

	for (unsigned i = 0; result == 0 && i < head_of(edit)->texts; i++) {
		const struct lh_plan_text *text = &head_of(edit)->text[i];

		if (address < text->address || address >= text->address + text->size)
			continue;
		edit->found = true;
		edit->marker[i] = (uint32_t)(address - text->address);
		return 1;
	}
	return result;
}

static int mark_symbol(void *context, const struct lh_symbol *symbol)
{
	struct edit *edit = context;
	uint64_t address = symbol->address - symbol->bias;

	if (symbol->bias != edit->bias || !symbol->is_function)
		return 0;
	edit->result = mark_address(edit, address);
	return edit->result;
}

static bool read_range(const char *word, uint64_t *from, uint64_t *to)
{
	char *end;

	if (strncmp(word, "0x", 2) != 0)
		return false;
	*from = strtoull(word, &end, 16);
	if (strncmp(end, "-0x", 3) != 0)
		return false;
	*to = strtoull(end + 1, &end, 16);
	return *end == '\0' && *from < *to;
}

static int exclude_all(struct edit *edit, struct lh_symbols *symbols, bool is_program)
{
	const char *const *word = edit->session->options.exclude;
	uint64_t from, to;
	int result = 0;

	for (unsigned i = 0; word && word[i] && result >= 0; i++) {
		edit->found = false;
		if (read_range(word[i], &from, &to)) {
			edit->found = is_program;
			result = is_program ? leave_out(edit, from, to) : 0;
		} else {
			result = lh__symbols_find(symbols, word[i], exclude_symbol, edit);
		}
		if (edit->found)
			edit->session->found_excludes |= UINT64_C(1) << i;
	}
	return result;
}

static int mark(struct edit *edit, struct lh_symbols *symbols, const char *name, uint32_t *marker,
                bool *found)
{
	int result;

	if (!name)
		return 0;
	edit->found = false;
	edit->marker = marker;
	result = lh__symbols_find(symbols, name, mark_symbol, edit);
	*found |= edit->found;
	return result < 0 ? result : 0;
}

/* The address that the kernel leaves in the auxiliary vector. */
static int mark_entry(struct edit *edit, pid_t process)
{
	uint64_t pair[2];
	char path[64];
	FILE *file;
	int result = -ENOENT;

	snprintf(path, sizeof(path), "/proc/%d/auxv", process);
	file = fopen(path, "re");
	if (!file)
		return -errno;
	while (result == -ENOENT && fread(pair, sizeof(pair), 1, file) == 1)
		if (pair[0] == AT_ENTRY)
			result = mark_address(edit, pair[1] - edit->bias);
	fclose(file);
	return result;
}

/* Where recording begins, or ends, at the start of the session. */
static void arm_markers(struct edit *edit)
{
	const uint32_t *marker = edit->session->options.from ? edit->file->from : edit->file->until;

	for (unsigned i = 0; i < head_of(edit)->texts; i++)
		if (marker[i] != LH_NO_MARKER)
			edit->plan[head_of(edit)->text[i].image + marker[i]] = LH_INT3;
}

int lh__session_mark(struct lh_session *session, struct lh_session_file *file, pid_t process, bool is_program,
                     uint64_t bias, struct lh_error *error)
{
	struct edit edit = { .session = session, .file = file, .bias = bias };
	struct lh_symbols *symbols;
	int result = lh__symbols_open(process, &symbols, error);

	if (result < 0)
		return result;
	result = exclude_all(&edit, symbols, is_program);
	if (edit.plan)
		leave_out_sites(&edit);
	if (result >= 0)
		result = mark(&edit, symbols, session->options.from, file->from, &session->found_from);
	if (result >= 0 && session->from_entry && is_program && !session->found_from) {
		edit.marker = file->from;
		result = mark_entry(&edit, process);
		session->found_from = edit.found;
	}
	if (result >= 0)
		result = mark(&edit, symbols, session->options.until, file->until, &session->found_until);
	if (edit.plan) {
		arm_markers(&edit);
		lh__plan_seal(edit.plan);
	}
	lh__symbols_close(symbols);
	return result < 0
	               ? lh__fail(error, result, "its functions cannot be looked up: %s", strerror(-result))
	               : 0;
}

int lh__session_check_marks(struct lh_session *session, struct lh_error *error)
{
	const struct lh_session_options *options = &session->options;
	unsigned n = 0;

	while (options->exclude && options->exclude[n])
		n++;
	if (n > LH_EXCLUDES)
		return lh__fail(error, -E2BIG, "more than %u names and ranges to exclude", LH_EXCLUDES);
	session->from_entry = options->server && !options->from;
	if (session->from_entry)
		session->options.from = "main";
	session->marks = n > 0 || options->from || options->until;
	session->recording = !options->from;
	lh__record_control(options->record)->off = !session->recording;
	return 0;
}

void lh__session_say_unfound(const struct lh_session *session)
{
	const struct lh_session_options *options = &session->options;

	for (unsigned i = 0; options->exclude && options->exclude[i]; i++)
		if (!(session->found_excludes >> i & 1))
			lh__session_say(
				session,
				"%s: no such function or range in what was watched: nothing was excluded",
				options->exclude[i]);
	if (options->from && !session->found_from)
		lh__session_say(session, "%s: no such function in what was watched: recording never began",
		                options->from);
	if (options->until && !session->found_until)
		lh__session_say(session, "%s: no such function in what was watched: recording never ended",
		                options->until);
}

/* ---- while it runs ---- */

struct putting {
	struct lh_session *session;
	int memory;
};

static void put_one(const struct putting *putting, const struct lh_session_place *place, uint32_t at,
                    bool set)
{
	const struct lh_plan_head *head = place->file->plan.head;
	const uint8_t *original = (const uint8_t *)head + head->text[place->text].original;
	uint8_t byte = LH_INT3;

	if (at == LH_NO_MARKER)
		return;
	if (pwrite(putting->memory, set ? &byte : &original[at], 1, (off_t)(place->start + at)) != 1)
		lh__session_say(putting->session, "a marker could not be written: %s", strerror(errno));
}

static int put_in_place(void *context, const struct lh_session_place *place)
{
	const struct putting *putting = context;
	const struct lh_session *session = putting->session;

	put_one(putting, place, place->file->from[place->text], !session->recording);
	put_one(putting, place, place->file->until[place->text], session->recording);
	return 0;
}

static void put_markers(struct lh_session *session, pid_t process, int memory, void *context)
{
	struct putting putting = { session, memory };

	(void)context;
	(void)!lh__session_places(session, process, put_in_place, &putting);
}

void lh__session_put_markers(struct lh_session *session, pid_t process)
{
	char path[64];
	int memory;

	if (!session->options.from && !session->options.until)
		return;
	snprintf(path, sizeof(path), "/proc/%d/mem", process);
	memory = open(path, O_RDWR | O_CLOEXEC);
	if (memory < 0)
		return;
	put_markers(session, process, memory, NULL);
	close(memory);
}

struct looking {
	uint64_t address;
	const struct lh_session_file *file;
	unsigned text;
	uint32_t at;
};

static int find_place(void *context, const struct lh_session_place *place)
{
	struct looking *looking = context;

	if (looking->address < place->start || looking->address >= place->end)
		return 0;
	looking->file = place->file;
	looking->text = place->text;
	looking->at = (uint32_t)(looking->address - place->start);
	return 1;
}

bool lh__session_marker(struct lh_session *session, pid_t process, uint64_t address)
{
	struct lh_record_control *control = lh__record_control(session->options.record);
	struct looking looking = { .address = address };
	bool is_from;

	if (lh__session_places(session, process, find_place, &looking) <= 0)
		return false;
	is_from = looking.file->from[looking.text] == looking.at;
	if (!is_from && looking.file->until[looking.text] != looking.at)
		return false;
	/* Another thread may have come here first; then it is done. */
	if (is_from == session->recording)
		return true;
	session->recording = is_from;
	/* First on, then away: what another thread is supplied between the two is recorded. */
	__atomic_store_n(&control->off, !is_from, __ATOMIC_SEQ_CST);
	if (is_from) {
		lh__session_take_all(session);
		__atomic_fetch_or(&looking.file->view.hits[looking.text][looking.at / 64],
		                  UINT64_C(1) << looking.at % 64, __ATOMIC_SEQ_CST);
	}
	lh__session_each_memory(session, put_markers, NULL);
	return true;
}
