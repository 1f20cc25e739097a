/* view.c - see view.h. */
#include "store/view.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PLACE_BITS 40
#define PLACE_MASK ((UINT64_C(1) << PLACE_BITS) - 1)
#define COUNT_ONE (UINT64_C(1) << PLACE_BITS)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

struct lh_view {
	const struct lh_sys *sys;
	int fd;
	unsigned char *base;
	struct lh_view_header *header;
	uint64_t *index;
	unsigned char *room;
	uint64_t size;
	uint8_t *index_there; /* for each page of the index: whether there is memory behind it */
	struct lh_lock lock;  /* guards what follows */
	uint32_t chunks, next, free_count;
	uint32_t *free; /* chunks that were given back */
};

static uint64_t round_up(uint64_t size, uint64_t to)
{
	return (size + to - 1) / to * to;
}

/* ---- making ---- */

static struct lh_view_header layout(uint64_t pages)
{
	uint64_t room = round_up(LH_VIEW_HEADER + pages * sizeof(uint64_t), LH_VIEW_CHUNK);

	return (struct lh_view_header){
		.magic = LH_VIEW_MAGIC,
		.version = LH_VIEW_VERSION,
		.pages = pages,
		.room = room,
		.size = room + round_up(pages * LH_PAGE_SIZE, LH_VIEW_CHUNK),
	};
}

static int make_file(struct lh_view *view, uint64_t size)
{
	int result = view->fd =
		(int)LH_SYS(view->sys, SYS_memfd_create, "linehome-view", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (result >= 0)
		result = (int)LH_SYS(view->sys, SYS_ftruncate, view->fd, size);
	if (result >= 0)
		result = (int)LH_SYS(view->sys, SYS_fcntl, view->fd, F_ADD_SEALS, SEALS | F_SEAL_SEAL);
	return result < 0 ? result : 0;
}

static size_t index_pages(const struct lh_view *view)
{
	return (size_t)(view->room - view->base) / LH_PAGE_SIZE;
}

static int map_file(struct lh_view *view, const struct lh_view_header *header)
{
	long base = LH_SYS(view->sys, SYS_mmap, NULL, header->size, PROT_READ | PROT_WRITE,
	                   MAP_SHARED | MAP_NORESERVE, view->fd, 0);

	if (base < 0 && base > -4096)
		return (int)base;
	view->base = (unsigned char *)base;
	view->size = header->size;
	view->header = (struct lh_view_header *)base;
	view->index = (uint64_t *)(view->base + LH_VIEW_HEADER);
	view->room = view->base + header->room;
	view->chunks = (uint32_t)((header->size - header->room) / LH_VIEW_CHUNK);
	view->free = lh__alloc(view->sys, view->chunks * sizeof *view->free);
	view->index_there = lh__alloc(view->sys, index_pages(view));
	return view->free && view->index_there ? 0 : -ENOMEM;
}

int lh__view_make(const struct lh_sys *sys, uint64_t pages, struct lh_view **out)
{
	struct lh_view_header header = layout(pages);
	struct lh_view *view = lh__alloc(sys, sizeof *view);
	int result;

	if (!view)
		return -ENOMEM;
	view->sys = sys;
	view->fd = -1;
	result = make_file(view, header.size);
	if (result == 0)
		result = map_file(view, &header);
	if (result == 0)
		result = (int)LH_SYS(sys, SYS_fallocate, view->fd, 0, 0, LH_VIEW_HEADER);
	if (result < 0) {
		lh__view_unmake(view);
		return result;
	}
	*view->header = header;
	*out = view;
	return 0;
}

void lh__view_unmake(struct lh_view *view)
{
	if (view->base)
		LH_SYS(view->sys, SYS_munmap, view->base, view->size);
	lh__free(view->sys, view->index_there, index_pages(view));
	lh__free(view->sys, view->free, view->chunks * sizeof *view->free);
	if (view->fd >= 0)
		LH_SYS(view->sys, SYS_close, view->fd);
	lh__free(view->sys, view, sizeof *view);
}

uint64_t lh__view_pages(const struct lh_view *view)
{
	return view->header->pages;
}

/* The same file once more, through its name, since a duplicate could be written to like the original. */
int lh__view_fd(const struct lh_view *view)
{
	char path[40];

	lh__format(path, sizeof path, "/proc/self/fd/%d", view->fd);
	return (int)LH_SYS(view->sys, SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
}

/* ---- room ---- */

static uint32_t take_chunk(struct lh_view *view)
{
	uint32_t chunk = UINT32_MAX;

	lh__lock(view->sys, &view->lock);
	if (view->free_count)
		chunk = view->free[--view->free_count];
	else if (view->next < view->chunks)
		chunk = view->next++;
	lh__unlock(view->sys, &view->lock);
	return chunk;
}

static void give_chunk(struct lh_view *view, uint32_t chunk)
{
	lh__lock(view->sys, &view->lock);
	view->free[view->free_count++] = chunk;
	lh__unlock(view->sys, &view->lock);
}

/* With memory behind it: a touch of a file's page for which there is none would end the process. */
void *lh__view_take_room(struct lh_view *view)
{
	uint32_t chunk = take_chunk(view);

	if (chunk == UINT32_MAX)
		return NULL;
	if (LH_SYS(view->sys, SYS_fallocate, view->fd, 0, view->header->room + chunk * LH_VIEW_CHUNK,
	           LH_VIEW_CHUNK) < 0) {
		give_chunk(view, chunk);
		return NULL;
	}
	return view->room + chunk * LH_VIEW_CHUNK;
}

void lh__view_give_room(struct lh_view *view, void *room)
{
	LH_SYS(view->sys, SYS_madvise, room, LH_VIEW_CHUNK, MADV_REMOVE);
	give_chunk(view, (uint32_t)(((unsigned char *)room - view->room) / LH_VIEW_CHUNK));
}

/* ---- the index ---- */

static void set_word(struct lh_view *view, uint64_t page, uint64_t place)
{
	uint64_t old = __atomic_load_n(&view->index[page], __ATOMIC_RELAXED);

	__atomic_store_n(&view->index[page], ((old & ~PLACE_MASK) + COUNT_ONE) | place, __ATOMIC_SEQ_CST);
}

/*
 * Whether there is memory behind the page's word. Two threads that find that there is none both provide it:
 * no harm.
 */
static bool have_index(struct lh_view *view, uint64_t page)
{
	uint64_t at = LH_VIEW_HEADER + page * sizeof(uint64_t);
	uint8_t *there = &view->index_there[at / LH_PAGE_SIZE];

	if (__atomic_load_n(there, __ATOMIC_RELAXED))
		return true;
	if (LH_SYS(view->sys, SYS_fallocate, view->fd, 0, at & ~(uint64_t)(LH_PAGE_SIZE - 1), LH_PAGE_SIZE) <
	    0)
		return false;
	__atomic_store_n(there, 1, __ATOMIC_RELAXED);
	return true;
}

void lh__view_hide(struct lh_view *view, uint64_t page)
{
	if (view && page < view->header->pages &&
	    __atomic_load_n(&view->index_there[(LH_VIEW_HEADER + page * sizeof(uint64_t)) / LH_PAGE_SIZE],
	                    __ATOMIC_RELAXED) &&
	    view->index[page] & PLACE_MASK)
		set_word(view, page, 0);
}

void lh__view_show(struct lh_view *view, uint64_t page, const void *place)
{
	uint64_t number = (uint64_t)((const unsigned char *)place - view->room) / LH_PAGE_SIZE + 1;

	if (page < view->header->pages && have_index(view, page))
		set_word(view, page, number);
}

/* ---- reading ---- */

static bool sealed(const struct lh_sys *sys, int fd)
{
	long seals = LH_SYS(sys, SYS_fcntl, fd, F_GET_SEALS);

	return seals >= 0 && (seals & SEALS) == SEALS;
}

static bool plausible(const struct lh_view_header *header, uint64_t size)
{
	struct lh_view_header right;

	if (header->magic != LH_VIEW_MAGIC || header->version != LH_VIEW_VERSION || header->pages == 0 ||
	    header->pages > LH_PAGE_NUMBER_MAX)
		return false;
	right = layout(header->pages);
	return header->room == right.room && header->size == right.size && size == right.size;
}

int lh__view_open(const struct lh_sys *sys, int fd, struct lh_view_reader *reader)
{
	struct lh_view_header header;
	struct stat file;
	long index, got;

	reader->fd = -1;
	if (!sealed(sys, fd) || LH_SYS(sys, SYS_fstat, fd, &file) < 0)
		return -EPROTO;
	got = LH_SYS(sys, SYS_pread64, fd, &header, sizeof header, 0);
	if (got != (long)sizeof header || !plausible(&header, (uint64_t)file.st_size))
		return -EPROTO;
	index = LH_SYS(sys, SYS_mmap, NULL, header.room, PROT_READ, MAP_SHARED, fd, 0);
	if (index < 0 && index > -4096)
		return (int)index;
	*reader = (struct lh_view_reader){
		.fd = fd,
		.index = (const uint64_t *)(index + LH_VIEW_HEADER),
		.pages = header.pages,
		.places = (header.size - header.room) / LH_PAGE_SIZE,
		.room = header.room,
	};
	return 0;
}

void lh__view_close(const struct lh_sys *sys, struct lh_view_reader *reader)
{
	if (reader->fd >= 0)
		LH_SYS(sys, SYS_munmap, (uintptr_t)reader->index - LH_VIEW_HEADER, reader->room);
	reader->fd = -1;
}

bool lh__view_read(const struct lh_sys *sys, const struct lh_view_reader *reader, uint64_t page, void *data,
                   lh_mask *held)
{
	uint64_t word, place;

	if (reader->fd < 0 || page >= reader->pages)
		return false;
	word = __atomic_load_n(&reader->index[page], __ATOMIC_ACQUIRE);
	place = word & PLACE_MASK;
	if (place == 0 || place > reader->places ||
	    LH_SYS(sys, SYS_pread64, reader->fd, data, LH_PAGE_SIZE,
	           reader->room + (place - 1) * LH_PAGE_SIZE) != LH_PAGE_SIZE)
		return false;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&reader->index[page], __ATOMIC_RELAXED) != word)
		return false;
	*held = lh__page_nonzero(data);
	return true;
}
