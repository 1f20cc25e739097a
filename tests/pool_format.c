/*
 * pool_format.c - a pool's file is what docs/pool-format.md says: it is read here by the offsets that stand
 * there and nothing else, without the library's structures, its checksum or its decoder.
 *
 * What a reader of that document makes of a file after a crash has to be, byte for byte, what the program had
 * committed. And the record that the document shows is the one that the code writes.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "service/pool/inside.h"
#include "store/file.h"
#include "tap.h"

#define TMPFS 0x01021994
#define SIZE (1024u * 1024)
#define OBJECTS 100u
#define LOG_SIZE (64u * 1024)

static struct lh_error error;

/* ---- the document's reader ---- */

static uint64_t number(const unsigned char *at, unsigned bytes)
{
	uint64_t value = 0;

	while (bytes-- > 0)
		value = value << 8 | at[bytes];
	return value;
}

static uint32_t crc_byte(uint32_t crc, unsigned char byte)
{
	crc ^= byte;
	for (unsigned i = 0; i < 8; i++)
		crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	return crc;
}

/* CRC-32C of `before` bytes at first, then of size bytes in which the four at `skip` count as zero. */
static uint32_t crc_of(const void *first, size_t before, const unsigned char *in, size_t size, size_t skip)
{
	uint32_t crc = 0xffffffff;

	for (size_t i = 0; i < before; i++)
		crc = crc_byte(crc, ((const unsigned char *)first)[i]);
	for (size_t i = 0; i < size; i++)
		crc = crc_byte(crc, i >= skip && i < skip + 4 ? 0 : in[i]);
	return ~crc;
}

struct reader {
	unsigned char *file;
	size_t size;
	const unsigned char *header; /* the one that counts */
	const unsigned char *ring;
	uint64_t ring_size, sequence, at; /* of the next record */
	unsigned char *memory;            /* as recovery would make it */
	unsigned redone, undone, ended, skipped;
	const unsigned char *prepared, *together; /* the last */
	bool in_doubt;
	unsigned decided;
};

static bool header_valid(const unsigned char *header)
{
	return memcmp(header, "LINEJRNL", 8) == 0 && number(header + 8, 4) >= 1 &&
	       number(header + 8, 4) <= 2 && number(header + 12, 4) == crc_of(NULL, 0, header, 1024, 12);
}

static bool read_file(struct reader *reader, const char *path)
{
	int file = open(path, O_RDONLY);
	struct stat about;

	memset(reader, 0, sizeof *reader);
	if (file < 0 || fstat(file, &about) != 0)
		return false;
	reader->size = (size_t)about.st_size;
	reader->file = malloc(reader->size);
	if (read(file, reader->file, reader->size) != (ssize_t)reader->size)
		return false;
	close(file);
	for (unsigned i = 0; i < 2; i++) {
		const unsigned char *header = reader->file + i * 4096;

		if (header_valid(header) && number(header + 16, 8) % 2 == i &&
		    (!reader->header || number(header + 16, 8) > number(reader->header + 16, 8)))
			reader->header = header;
	}
	if (!reader->header)
		return false;
	reader->ring = reader->file + number(reader->header + 32, 8) * 4096;
	reader->ring_size = number(reader->header + 40, 8) * 4096;
	reader->sequence = number(reader->header + 56, 8);
	reader->at = number(reader->header + 64, 8);
	reader->memory = malloc(number(reader->header + 168, 8));
	memcpy(reader->memory, reader->file + number(reader->header + 48, 8) * 4096,
	       number(reader->header + 168, 8));
	return true;
}

static void end_reading(struct reader *reader)
{
	free(reader->file);
	free(reader->memory);
}

/* The record that has to come next, or NULL where the log ends. */
static const unsigned char *next_record(struct reader *reader)
{
	const unsigned char *record = reader->ring + reader->at;
	uint64_t size = number(record + 32, 4), room = reader->ring_size - reader->at;

	if (memcmp(record, "LHLR", 4) != 0 || size < 40 || size > room)
		return NULL;
	if (number(record + 36, 4) != crc_of(reader->header + 24, 8, record, size, 36) ||
	    number(record + 8, 8) != reader->sequence)
		return NULL;
	reader->sequence++;
	reader->at = record[4] == 4 ? 0 : (reader->at + (size + 63) / 64 * 64) % reader->ring_size;
	return record;
}

static size_t read_set(const unsigned char *set, unsigned char *memory)
{
	uint64_t word = number(set, 8), page = word & ((UINT64_C(1) << 40) - 1), mask;
	unsigned first = word >> 40 & 63, lines = (word >> 46 & 63) + 1;
	size_t at = 8;

	if (word >> 63) {
		mask = number(set + 8, 8);
		at = 16;
	} else {
		mask = (lines == 64 ? 0 : UINT64_C(1) << lines) - 1;
		mask <<= first;
	}
	for (unsigned i = 0; i < 64; i++)
		if (mask >> i & 1) {
			memcpy(memory + page * 4096 + i * 64, set + at, 64);
			at += 64;
		} else if (word >> 62 & 1) {
			memset(memory + page * 4096 + i * 64, 0, 64);
		}
	return at;
}

static void read_sets(const unsigned char *record, unsigned char *memory)
{
	size_t first = 40;

	if (record[4] == 5 || record[4] == 8)
		first += 8 + (number(record + 40, 8) + 7) / 8 * 8;
	for (size_t at = first; at < number(record + 32, 4);)
		at += read_set(record + at, memory);
}

/* What recovery does, in the reader's copy. */
static void recover(struct reader *reader)
{
	const unsigned char *record, *undo[4096];
	unsigned n = 0;

	if (number(reader->header + 80, 4) == 0)
		return;
	while ((record = next_record(reader)) && n < 4096) {
		switch (record[4]) {
		case 1:
			read_sets(record, reader->memory);
			reader->redone++;
			break;
		case 2: undo[n++] = record; break;
		case 3:
			n = 0;
			reader->ended++;
			break;
		case 5:
			reader->prepared = record;
			reader->in_doubt = true;
			break;
		case 6:
			n = 0;
			reader->in_doubt = false;
			read_sets(reader->prepared, reader->memory);
			reader->decided++;
			break;
		case 8:
			n = 0;
			read_sets(record, reader->memory);
			reader->together = record;
			break;
		default: reader->skipped++;
		}
	}
	for (reader->undone = n; n > 0; n--)
		read_sets(undo[n - 1], reader->memory);
}

/* ---- the file ---- */

static void header(const struct reader *reader, const struct lh_pool_info *info, bool open)
{
	const unsigned char *header = reader->header;

	ok(number(header + 32, 8) == 2 && number(header + 40, 8) * 4096 == info->log_size &&
	           number(header + 48, 8) == 2 + number(header + 40, 8),
	   "header: the log is behind it, and home behind the log");
	is(number(header + 80, 4), open, "header: its state");
	ok(memcmp(header + 128, "LINEPOOL", 8) == 0 && number(header + 136, 4) == 1 &&
	           number(header + 160, 8) == (uint64_t)(uintptr_t)info->base &&
	           number(header + 168, 8) == info->size && number(header + 176, 8) == info->reach &&
	           strcmp((const char *)header + 192, info->layout) == 0,
	   "header: address, size, reach and layout of the pool");
	ok(number(header + 184, 8) > 1700000000 && number(header + 144, 8) != 0,
	   "header: when it was made, and its id");
	ok(reader->size >= number(header + 48, 8) * 4096 + info->size, "the file has room for all of it");
}

struct bed {
	struct lh_pool *pool;
	struct lh_pool_info info;
	struct root {
		uint64_t round;
		unsigned char *object[OBJECTS];
	} * root;
	unsigned char *copy; /* of all the memory */
};

static void copy_memory(struct bed *bed)
{
	memcpy(bed->copy, bed->info.base, SIZE);
}

static bool bed_open(struct bed *bed, const char *path, enum lh_log log)
{
	struct lh_pool_options options = {
		.layout = "format", .log = log, .size = SIZE, .reach = 16 * SIZE, .log_size = LOG_SIZE
	};
	struct lh_file_options file = { .way = log == LH_LOG_UNDO ? LH_FILE_MAPPED : LH_FILE_BUFFERED,
		                        .create = true,
		                        .reach = 1 << 20 };
	struct lh_store *below;

	unlink(path);
	bed->copy = malloc(SIZE);
	/* Quiet: when what is committed goes home does not depend on how fast another thread is. */
	if (!ok(lh__file_open(&lh__sys_default, path, &file, &below, &error) == 0 &&
	                lh__pool_on_store(below, &options, true, true, &bed->pool, &error) == 0,
	        "%s: created", path)) {
		printf("# %s\n", error.text);
		return false;
	}
	lh_pool_info(bed->pool, &bed->info);
	bed->root = lh_pool_root(bed->pool, sizeof *bed->root, &error);
	return ok(bed->root != NULL, "%s: a root", path);
}

/* In a transaction: an object goes, another comes, lines of some others change. */
static bool change(struct bed *bed)
{
	uint64_t round = bed->root->round++, size = 1 + round * 131 % 9000;
	unsigned char **object = bed->root->object, *new;

	if (lh_pool_free(bed->pool, object[round * 7 % OBJECTS], &error) < 0)
		return false;
	object[round * 7 % OBJECTS] = new = lh_pool_alloc(bed->pool, size, &error);
	if (!new)
		return false;
	memset(new, (int)round, size);
	for (unsigned j = round % 3; j < OBJECTS; j += 11)
		if (object[j])
			object[j][0]++;
	return true;
}

static unsigned run(struct bed *bed, unsigned rounds)
{
	unsigned bad = 0;

	for (unsigned round = 0; round < rounds; round++) {
		bad += lh_tx_begin(bed->pool, &error) != 0 || !change(bed);
		bad += lh_tx_commit(bed->pool, &error) != 0;
	}
	return bad;
}

static void redo(const char *path)
{
	struct reader reader;
	struct bed bed;
	unsigned bad = 0, redone = 0, skipped = 0;

	if (!bed_open(&bed, path, LH_LOG_REDO))
		return;
	/* Each time one transaction more, so that the log ends in many places. */
	for (unsigned round = 0; round < 60; round++) {
		bad += run(&bed, 1 + round % 7);
		copy_memory(&bed);
		if (!read_file(&reader, path))
			break;
		if (round == 0)
			header(&reader, &bed.info, true);
		recover(&reader);
		bad += memcmp(reader.memory, bed.copy, SIZE) != 0;
		redone += reader.redone;
		skipped += reader.skipped;
		end_reading(&reader);
	}
	is(bad, 0, "redo: home with the log over it is the memory, to the byte");
	ok(redone > 60 && skipped > 0, "redo: of %u records, and %u skipped ends of the ring", redone,
	   skipped);
	ok(lh_pool_close(bed.pool, &error) == 0 && read_file(&reader, path), "redo: closed");
	recover(&reader);
	header(&reader, &bed.info, false);
	ok(memcmp(reader.memory, bed.copy, SIZE) == 0, "redo: closed, home alone is the memory");
	end_reading(&reader);
	free(bed.copy);
}

/* A transaction is committed, and another is open when the file is read. */
static void undo(const char *path)
{
	unsigned bad = 0, undone = 0, ended = 0, skipped = 0;
	struct reader reader;
	struct bed bed;

	if (!bed_open(&bed, path, LH_LOG_UNDO))
		return;
	for (unsigned round = 0; round < 40; round++) {
		bad += run(&bed, 1);
		copy_memory(&bed);
		bad += lh_tx_begin(bed.pool, &error) != 0 || !change(&bed);
		bad += memcmp(bed.copy, bed.info.base, SIZE) == 0;
		if (!read_file(&reader, path))
			break;
		recover(&reader);
		bad += reader.undone == 0 || memcmp(reader.memory, bed.copy, SIZE) != 0;
		undone += reader.undone;
		ended += reader.ended;
		skipped += reader.skipped;
		end_reading(&reader);
		bad += round % 2 ? lh_tx_abort(bed.pool, &error) != 0 : lh_tx_commit(bed.pool, &error) != 0;
	}
	is(bad, 0, "undo: home with the old lines over it is what was committed, to the byte");
	ok(undone > 40 && ended > 0 && skipped > 0, "undo: of %u records, %u ends, and %u skipped ends",
	   undone, ended, skipped);
	lh__pool_abandon(bed.pool);
	free(bed.copy);
}

/* ---- several pools ---- */

static unsigned wrong_together(const struct bed *bed, const char *const path[2], unsigned *decided,
                               unsigned *asked)
{
	struct reader reader[2];
	unsigned wrong = 0;
	unsigned first = 0;

	for (unsigned i = 0; i < 2; i++) {
		if (!read_file(&reader[i], path[i]))
			return 100;
		recover(&reader[i]);
		wrong += number(reader[i].header + 8, 4) != 2;
		*decided += reader[i].decided;
	}
	/* The lower id decides, and both name the transaction alike. */
	if (memcmp(reader[0].header + 144, reader[1].header + 144, 16) > 0)
		first = 1;
	if (!reader[first].together || !reader[1 - first].prepared || reader[first].prepared)
		return wrong + 1000;
	/* What has been decided may not be written yet: then the other one is asked. */
	if (reader[1 - first].in_doubt &&
	    memcmp(reader[1 - first].prepared + 64, reader[first].together + 48, 16) == 0) {
		read_sets(reader[1 - first].prepared, reader[1 - first].memory);
		++*asked;
	}
	for (unsigned i = 0; i < 2; i++)
		wrong += memcmp(reader[i].memory, bed[i].copy, SIZE) != 0;
	wrong += memcmp(reader[1 - first].prepared + 48, reader[first].header + 144, 16) != 0;
	wrong += memcmp(reader[1 - first].prepared + 64, reader[first].together + 48, 16) != 0;
	wrong += memcmp(reader[first].together + 64, reader[1 - first].header + 144, 16) != 0;
	wrong += memcmp(reader[first].together + 48, reader[first].header + 24, 8) != 0;
	wrong += number(reader[first].together + 40, 8) != 32;
	for (unsigned i = 0; i < 2; i++)
		end_reading(&reader[i]);
	return wrong;
}

static void together(const char *disk, const char *shm)
{
	const char *const path[2] = { disk, shm };
	struct lh_pool *ordered[2];
	unsigned bad = 0, wrong = 0, decided = 0, asked = 0;
	struct bed bed[2];

	if (!bed_open(&bed[0], disk, LH_LOG_REDO) || !bed_open(&bed[1], shm, LH_LOG_UNDO))
		return;
	for (unsigned i = 0; i < 2; i++)
		ordered[memcmp(bed[i].pool->header.id, bed[1 - i].pool->header.id, 16) > 0] = bed[i].pool;
	for (unsigned round = 0; round < 30; round++) {
		for (unsigned i = 0; i < 2; i++)
			bad += lh_tx_begin(ordered[i], &error) != 0;
		for (unsigned i = 0; i < 2; i++)
			bad += !change(&bed[i]);
		bad += lh__together_commit(ordered, 2, &error) != 0;
		for (unsigned i = 0; i < 2; i++)
			copy_memory(&bed[i]);
		wrong += wrong_together(bed, path, &decided, &asked);
	}
	is(bad, 0, "together: transactions");
	is(wrong, 0, "together: home with the logs over it is the memory of both, and they name each other");
	ok(decided >= 29 && (asked == 0 || asked == 30),
	   "together: %u were decided, and %u times one had to ask", decided, asked);
	for (unsigned i = 0; i < 2; i++) {
		bad += lh_pool_close(bed[i].pool, &error) != 0;
		free(bed[i].copy);
	}
	is(bad, 0, "together: closed");
}

/* ---- the heap ---- */

/* Objects that the descriptors and bitmaps tell of. */
static unsigned count_objects(const unsigned char *memory)
{
	const unsigned char *table = memory + 4096;
	unsigned count = 0, pages = (unsigned)number(memory + 16, 8);

	for (unsigned page = 1; page < pages; page++) {
		const unsigned char *descriptor = table + 16 * page, *bits = descriptor + 16;

		if (memcmp(descriptor, "LARG", 4) == 0)
			count++;
		if (memcmp(descriptor, "SLAB", 4) != 0)
			continue;
		if (number(descriptor + 4, 2) < 2)
			bits = memory + 4096 * page;
		for (unsigned i = 0; i < (number(descriptor + 4, 2) == 0   ? 19
		                          : number(descriptor + 4, 2) == 1 ? 10
		                                                           : 6);
		     i++)
			count += (unsigned)__builtin_popcountll(number(bits + 8 * i, 8) << 8);
		page += 3;
	}
	return count;
}

static int count_object(void *context, void *object, size_t usable)
{
	++*(unsigned *)context;
	return 0;
}

static void heap(const char *path)
{
	unsigned objects = 0;
	struct reader reader;
	struct bed bed;

	if (!bed_open(&bed, path, LH_LOG_REDO))
		return;
	is(run(&bed, 90), 0, "heap: transactions");
	ok(lh_pool_objects(bed.pool, count_object, &objects) == 0 && lh_pool_close(bed.pool, &error) == 0,
	   "heap: %u objects", objects);
	ok(read_file(&reader, path) && memcmp(reader.memory, "HOMEHEAP", 8) == 0 &&
	           number(reader.memory + 8, 4) == 1 && number(reader.memory + 16, 8) == SIZE / 4096,
	   "heap: its header");
	is(number(reader.memory + 40, 8), (char *)bed.root - (char *)bed.info.base,
	   "heap: the root's offset");
	is(number(reader.memory + 48, 8), sizeof *bed.root, "heap: the root's size");
	is(count_objects(reader.memory), objects, "heap: as many objects as the descriptors tell of");
	end_reading(&reader);
	free(bed.copy);
}

/* ---- the document's own record ---- */

/* What the code writes for what the document tells. */
static size_t make_record(unsigned char out[256])
{
	static const char text[] = "A line has 64 bytes, and this is one of those that were changed.";
	unsigned char page[LH_PAGE_SIZE] = { 0 };
	struct lh_change change = { .page = 5, .mask = 1 << 1, .data = page };
	struct lh_log_record record = {
		.kind = LH_LOG_RECORD_REDO, .sequence = 7, .transaction = 7, .durable = 6
	};

	memcpy(page + LH_LINE_SIZE, text, LH_LINE_SIZE);
	record.size =
		LH_LOG_RECORD_HEADER + (uint32_t)lh__log_set_encode(out + LH_LOG_RECORD_HEADER, &change);
	lh__log_seal(out, &record, 0x0123456789abcdef);
	return lh__log_stride(record.size);
}

/* The bytes of the lines "    OFFSET  XX XX ..." that follow a heading. */
static size_t shown_record(unsigned char out[256])
{
	FILE *document = fopen("docs/pool-format.md", "r");
	char line[200], *at;
	bool on = false;
	size_t n = 0;

	while (document && fgets(line, sizeof line, document)) {
		if (line[0] == '#')
			on = strcmp(line, "### A record, byte by byte\n") == 0;
		if (!on || strncmp(line, "    ", 4) != 0 || strtoul(line, &at, 16) != n)
			continue;
		for (unsigned i = 0; i < 16 && n < 256; i++)
			out[n++] = (unsigned char)strtoul(at, &at, 16);
	}
	if (document)
		fclose(document);
	return n;
}

static void record_shown(void)
{
	unsigned char made[256], shown[256];
	size_t size = make_record(made), n = shown_record(shown);

	if (ok(n == size && memcmp(made, shown, n) == 0,
	       "the record in the document is what the code writes"))
		return;
	for (size_t i = 0; i < size; i++)
		printf("%s%02x", i % 16 ? " " : i ? "\n#     " : "#     ", made[i]);
	printf("\n");
}

/* A reader that sees nothing would pass: it sees a bit that is wrong in the header and in the log. */
static void planted(const char *path)
{
	struct reader reader;
	struct bed bed;
	unsigned redone;

	if (!bed_open(&bed, path, LH_LOG_REDO))
		return;
	is(run(&bed, 3), 0, "planted: transactions");
	lh__pool_abandon(bed.pool);
	ok(read_file(&reader, path) && header_valid(reader.header), "planted: a header");
	reader.file[reader.header - reader.file + 200] ^= 1;
	ok(!header_valid(reader.header), "caught: a header with another bit");
	end_reading(&reader);
	if (!read_file(&reader, path))
		return;
	recover(&reader);
	redone = reader.redone;
	end_reading(&reader);
	if (!read_file(&reader, path))
		return;
	reader.file[reader.ring - reader.file + 45] ^= 1;
	recover(&reader);
	ok(redone > 3 && reader.redone == 0, "caught: a record with another bit");
	end_reading(&reader);
	free(bed.copy);
}

int main(void)
{
	char disk[64], shm[64];
	struct statfs about;

	snprintf(disk, sizeof disk, "/tmp/pool_format.%d", (int)getpid());
	snprintf(shm, sizeof shm, "/dev/shm/pool_format.%d", (int)getpid());
	record_shown();
	redo(disk);
	if (statfs("/dev/shm", &about) == 0 && about.f_type == TMPFS) {
		undo(shm);
		together(disk, shm);
	} else
		skip("undo", "there is no tmpfs at /dev/shm");
	heap(disk);
	planted(disk);
	unlink(disk);
	unlink(shm);
	return done();
}
