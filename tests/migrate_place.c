/*
 * migrate_place.c - where a guest's pages go: into files, unseen until they are shown; and into anonymous
 * memory at once.
 */
#include "guest_child.h"
#include "service/migrate/place.h"
#include "tap.h"

#define PAGES 300u
#define FIRST 100u /* pages of the first region */

static const uint64_t features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM;
static const uint64_t both = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
static uint64_t seed;

struct placed {
	struct child child;
	struct lh_guest guest;
	struct lh_state *state;
	struct lh_place *place;
};

/* Two regions that are parts of the child's file, the second one first. */
static struct lh_state *state_of(const struct child *child)
{
	static const uint8_t id[LH_MOVE_ID];
	struct lh_state_region region[2] = {
		{ .name = "a", .pages = FIRST, .offset = (PAGES - FIRST) * (uint64_t)LH_PAGE_SIZE },
		{ .name = "b", .pages = PAGES - FIRST, .first = FIRST },
	};
	struct lh_state *state;

	snprintf(region[0].path, sizeof region[0].path, "/proc/self/fd/%d", child->file);
	snprintf(region[1].path, sizeof region[1].path, "/proc/self/fd/%d", child->file);
	if (lh__state_create(NULL, id, region, 2, &state, NULL) != 0)
		abort();
	return state;
}

/* The page of the file, and of the child, that has this number. */
static uint64_t in_file(uint64_t page)
{
	return page < FIRST ? PAGES - FIRST + page : page - FIRST;
}

static bool started(struct placed *self, bool fresh)
{
	struct lh_error error;

	if (!child_start(&self->child, CHILD_FILE, PAGES, features, both))
		return false;
	self->guest = child_guest(&self->child, &lh__sys_default);
	self->guest.ranges = 2;
	self->guest.range[0].address += (PAGES - FIRST) * (uint64_t)LH_PAGE_SIZE;
	self->guest.range[0].pages = FIRST;
	self->guest.range[1] = (struct lh_guest_range){ self->child.address, PAGES - FIRST, FIRST };
	self->state = state_of(&self->child);
	if (lh__place_files(self->state, fresh, &self->place, &error) != 0) {
		printf("# %s\n", error.text);
		abort();
	}
	self->place->guest = &self->guest;
	return true;
}

static void ended(struct placed *self)
{
	self->place->ops->close(self->place);
	lh__state_close(self->state, true);
	lh__guest_close(&self->guest);
	child_end(&self->child);
}

/* Whether the child, which is to read a page, waits for it. */
static bool missed(struct placed *self, uint64_t page, bool minor)
{
	struct lh_guest_message message;

	child_tell(&self->child, CHILD_READ, in_file(page), 1, 0);
	poll(&(struct pollfd){ .fd = self->guest.fd, .events = POLLIN }, 1, 10000);
	return lh__guest_read(&self->guest, &message, 1) == 1 && message.kind == LH_GUEST_FAULT &&
	       message.page == page && message.minor == minor;
}

static void unseen_until_shown(void)
{
	unsigned char content[LH_PAGE_SIZE];
	struct placed self;

	if (!started(&self, true))
		return skip("files", "no userfaultfd with MINOR_SHMEM here");
	for (unsigned i = 0; i < PAGES; i++) {
		memset(content, (int)(i % 200 + 1), sizeof content);
		if (i != 7 && self.place->ops->write(self.place, i, LH_MASK_ALL, false, content) != 0)
			abort();
	}
	ok(missed(&self, 3, true), "what was written is not seen");
	is(self.place->ops->show(self.place, 3, 1, NULL), 0, "... until it is shown");
	is(child_asked(&self.child), 4, "... as it was written");
	is(self.place->ops->show(self.place, 0, PAGES, NULL), -EFAULT, "a run with a hole");
	ok(missed(&self, 7, false), "... the hole is missed");
	is(self.place->ops->zero(self.place, 7, 1), 0, "... it is made zero");
	is(child_asked(&self.child), 0, "... and read");
	is(self.place->ops->show(self.place, 0, PAGES, NULL), 0, "a run over both regions is shown");
	ok(child_do(&self.child, CHILD_READ, in_file(FIRST - 1), 1, 0) == FIRST &&
	           child_do(&self.child, CHILD_READ, in_file(FIRST), 1, 0) == FIRST + 1,
	   "... each page where it belongs");

	is(self.place->ops->forget(self.place, FIRST - 5, 10), 0, "pages of both regions are forgotten");
	ok(missed(&self, FIRST + 4, false), "... they are out of the guest's sight, and of memory");
	memset(content, 99, sizeof content);
	ok(self.place->ops->write(self.place, FIRST + 4, LH_MASK_ALL, false, content) == 0 &&
	           self.place->ops->show(self.place, FIRST + 4, 1, NULL) == 0,
	   "... and can be written anew");
	is(child_asked(&self.child), 99, "... which is read");
	is(child_do(&self.child, CHILD_READ, in_file(FIRST + 5), 1, 0), (FIRST + 5) % 200 + 1,
	   "... those beside them stay");
	is(self.place->ops->write(self.place, PAGES, LH_MASK_ALL, false, content), -ENOENT, "no such page");
	is(self.place->ops->forget(self.place, PAGES - 1, 2), -ENOENT, "... nor such a run");
	ended(&self);
}

static lh_mask some_mask(unsigned i)
{
	lh_mask mask = random_next(&seed);

	switch (i % 4) {
	case 0: return lh__mask_range((unsigned)(mask % 64), 1 + (unsigned)(mask >> 32) % 64);
	case 1: return mask & random_next(&seed) & random_next(&seed) & random_next(&seed);
	case 2: return i % 8 == 2 ? LH_MASK_ALL : LH_MASK_NONE;
	default: return mask;
	}
}

/* How many of the pages written are not as a model has them. */
static unsigned lines(struct placed *self, bool planted)
{
	static unsigned char model[PAGES][LH_PAGE_SIZE];
	unsigned char content[LH_PAGE_SIZE];
	unsigned wrong = 0;

	memset(model, 0, sizeof model);
	for (unsigned i = 0; i < 3000; i++) {
		unsigned page = (unsigned)(random_next(&seed) % PAGES);
		bool since = i > 600;
		lh_mask mask = since ? some_mask(i) : LH_MASK_ALL;

		random_bytes(&seed, content, 64);
		for (unsigned line = 1; line < 64; line++)
			memcpy(content + line * 64, content, 64);
		if (self->place->ops->write(self->place, page, mask, since, content) != 0)
			wrong++;
		lh__lines_copy(model[page], content, planted && i == 2999 ? mask ^ 1 : mask);
	}
	for (unsigned page = 0; page < PAGES; page++) {
		off_t at = (off_t)(in_file(page) * LH_PAGE_SIZE);

		if (pread(self->child.file, content, sizeof content, at) != sizeof content)
			abort();
		wrong += memcmp(content, model[page], sizeof content) != 0;
	}
	return wrong;
}

static void written_by_lines(void)
{
	struct placed self;

	if (!started(&self, true))
		return skip("lines", "no userfaultfd with MINOR_SHMEM here");
	is(lines(&self, false), 0, "3000 writes, of whole pages and of lines, are as in a model");
	ended(&self);
	if (!started(&self, true))
		abort();
	is(lines(&self, true), 1, "... and one line too many would be noticed");
	self.place->guest = NULL;
	ok(self.place->ops->show(self.place, 0, 5, NULL) == 0 && self.place->ops->zero(self.place, 0, 5) == 0,
	   "without a guest there is nobody to show anything");
	ended(&self);
}

static bool has_data(const struct child *child)
{
	return lseek(child->file, 0, SEEK_DATA) >= 0;
}

static void opening(void)
{
	struct placed self;
	struct lh_error error;
	unsigned char content[LH_PAGE_SIZE] = { 5 };

	if (!started(&self, true))
		return skip("opening", "no userfaultfd with MINOR_SHMEM here");
	if (self.place->ops->write(self.place, 5, LH_MASK_ALL, false, content) != 0)
		abort();
	self.place->ops->close(self.place);
	is(lh__place_files(self.state, false, &self.place, &error), 0, "opened again, as it is");
	ok(has_data(&self.child), "... what was written stays");
	self.place->ops->close(self.place);
	is(lh__place_files(self.state, true, &self.place, &error), 0, "... and anew");
	ok(!has_data(&self.child), "... nothing is kept");
	self.place->ops->close(self.place);

	self.state->region[0].offset += LH_PAGE_SIZE;
	is(lh__place_files(self.state, true, &self.place, &error), -EINVAL, "a file that is too short");
	printf("# %s\n", error.text);
	strcpy(self.state->region[0].path, "/nowhere/at/all");
	is(lh__place_files(self.state, true, &self.place, &error), -ENOENT, "a file that is not there");
	strcpy(self.state->region[0].path, "/dev/null");
	is(lh__place_files(self.state, true, &self.place, &error), -EINVAL, "what is not a file");
	lh__state_close(self.state, true);
	lh__guest_close(&self.guest);
	child_end(&self.child);
}

static void copied(enum child_memory memory, const char *what)
{
	struct child child;
	struct lh_guest guest;
	struct lh_place *place;
	unsigned char *content;

	if (!child_start(&child, memory, 3, 0, UFFDIO_REGISTER_MODE_MISSING))
		return skip(what, "no userfaultfd, or no huge pages are set aside");
	guest = child_guest(&child, &lh__sys_default);
	content = malloc(child.page_size);
	memset(content, 44, child.page_size);
	if (lh__place_copy(&place) != 0)
		abort();
	is(place->ops->show(place, 1, 1, content), -ESRCH, "%s: nothing before there is a guest", what);
	place->guest = &guest;
	child_tell(&child, CHILD_SUM, 0, 3, 0);
	is(place->ops->show(place, 1, 1, content), 0, "a page");
	is(place->ops->show(place, 1, 1, content), -EEXIST, "... once");
	is(place->ops->show(place, 0, 2, NULL), -EINVAL, "pages of which nothing is said");
	is(place->ops->zero(place, 0, 3), 0, "zeroes elsewhere");
	is(child_asked(&child), 44, "... all is read");
	ok(!place->ops->write && !place->ops->forget, "nothing is written before, or taken back");
	place->ops->close(place);
	free(content);
	lh__guest_close(&guest);
	child_end(&child);
}

int main(void)
{
	seed = random_seed();
	printf("# seed %llu\n", (unsigned long long)seed);
	unseen_until_shown();
	written_by_lines();
	opening();
	copied(CHILD_ANONYMOUS, "anonymous memory");
	copied(CHILD_HUGE, "huge pages");
	return done();
}
