/*
 * patch_inside.h - what the files of patches share.
 *
 * A patch in a process is one mapping, made of a memory file that has no other user. It begins with a head
 * (docs/patch-format.md draws it):
 *
 *     +----------------+-------------+---------------------------------------------+
 *     | head, places   | stubs       | the shared object's segments, as it asks    |
 *     | r--            | r-x         | r--, r-x, rw-                               |
 *     +----------------+-------------+---------------------------------------------+
 *
 * The head tells all that is needed to list and to revert. It is written once; only state changes.
 */
#ifndef LH_SERVICE_CODE_PATCH_INSIDE_H
#define LH_SERVICE_CODE_PATCH_INSIDE_H

#include "service/code/patch.h"
#include "service/code/remote.h"
#include "service/code/safe.h"
#include "service/code/symbols.h"

#define LH_PATCH_MAPPING "/memfd:linehome-patch:"
#define LH_PATCH_MAGIC "LHPATCH\n"
#define LH_PATCH_HEAD_VERSION 1u
#define LH_PATCH_PLACES_MAX 128u
#define LH_PATCH_STUB 1024u /* bytes of a stub; the first is the one that registers */
#define LH_PATCH_JUMPED 5u  /* bytes of a place that is answered by a jump */
#define LH_PATCH_PAGE 4096ull

struct lh_patch_head {
	char magic[8];
	uint32_t version;
	uint32_t crc;  /* CRC-32C of head and places, taken with 0 here */
	uint32_t size; /* of head and places: where the stubs begin, a multiple of a page */
	uint32_t places;
	uint32_t order;
	uint32_t state; /* enum lh_patch_state */
	uint64_t applied;
	uint64_t length; /* of the whole mapping */
	uint32_t build_size;
	uint32_t reserved;
	uint8_t build[64]; /* the build id of what was changed */
	char name[64];
	char file[256];
	uint8_t padding[72];
	struct lh_patch_place place[];
};

/* Memory as it will be in the process. */
struct lh_patch_image {
	uint8_t *bytes;
	uint64_t size, address;
};

/* ---- patch_process.c: the process as it runs ---- */

/* -ESRCH, -EPERM, -ENOEXEC: it is not one that can be patched. *memory: a descriptor of its memory. */
int lh__patch_process(pid_t process, bool write, int *memory, struct lh_error *error) LH_MUST_CHECK;
int lh__patch_read(int memory, uint64_t address, void *to, size_t size) LH_MUST_CHECK;
/* Code as the file has it that is mapped there; false: that file cannot be read. */
bool lh__patch_file_code(pid_t process, uint64_t address, void *to, size_t size);

/* ---- patch_list.c: what is there ---- */

struct lh_patch_found {
	struct lh_patch_listed listed;
	struct lh_patch_head *head; /* NULL: damaged */
};
struct lh_patch_set {
	struct lh_patch_found *at; /* in the order in which they were applied */
	size_t n;
};
int lh__patch_find(pid_t process, int memory, struct lh_patch_set *out, struct lh_error *error) LH_MUST_CHECK;
void lh__patch_forget(struct lh_patch_set *set);
/*
 * The newest patch that changed any byte of [address, address + size) and comes after order, or NULL. One
 * that is reverted counts where its memory does: its code may call what an earlier patch put there.
 */
const struct lh_patch_found *lh__patch_over(const struct lh_patch_set *set, uint64_t address, uint64_t size,
                                            uint32_t order, bool reverted,
                                            const struct lh_patch_place **place);
uint32_t lh__patch_crc(const struct lh_patch_head *head);
size_t lh__patch_head_size(size_t places);

/* ---- patch_object.c, patch_bind.c: the shared object ---- */

struct lh_patch_item {
	uint32_t kind;
	char symbol[128];
	uint64_t offset, code, original; /* addresses in the object (lay with base 0), or in the process */
};

struct lh_patch_import {
	const char *name, *version; /* version: NULL, if it has none */
	uint64_t value; /* in the process; of an indirect one the resolver's, until it has been called */
	bool wanted, weak, indirect;
};

struct lh_patch_segment {
	uint64_t start, end; /* whole pages */
	int rights;          /* PROT_* */
};

struct lh_patch_object {
	uint8_t *file;
	size_t file_size;
	void *elf;
	uint64_t length; /* in memory, whole pages */
	struct lh_patch_segment segment[8];
	size_t segments, imports;
	struct lh_patch_import *import; /* for each symbol of .dynsym */
	uint64_t entry;                 /* of the section linehome_patch */
	size_t entries;
	char name[64], build[132], path[256];
};

int lh__patch_object_open(const char *file, struct lh_patch_object *object,
                          struct lh_error *error) LH_MUST_CHECK;
void lh__patch_object_close(struct lh_patch_object *object);
/* Fills in the imports' versions. */
void lh__patch_versions(struct lh_patch_object *object);
/* Puts the segments into to, as they are when they begin at base, bound to what import says. */
int lh__patch_object_lay(const struct lh_patch_object *object, uint64_t base, uint8_t *to,
                         struct lh_error *error) LH_MUST_CHECK;
/* What the macros wrote: `entries` items, read from what lay has made. */
int lh__patch_object_items(const struct lh_patch_object *object, uint64_t base, const uint8_t *laid,
                           struct lh_patch_item *items, struct lh_error *error) LH_MUST_CHECK;
/* Finds all that the object wants of the process. */
int lh__patch_bind(struct lh_patch_object *object, pid_t process, struct lh_symbols *symbols,
                   struct lh_error *error) LH_MUST_CHECK;
/* The one function of that name. -EEXIST: it is several. */
int lh__patch_function(pid_t process, struct lh_symbols *symbols, const char *name, struct lh_symbol *out,
                       struct lh_error *error) LH_MUST_CHECK;

/* ---- patch_place.c, patch_stub.c: one place ---- */

struct lh_patch_target {
	struct lh_patch_item item;
	struct lh_symbol symbol;
	struct lh_patch_place place;
	uint64_t resume; /* where what stood there goes on: the place of an earlier jump, or 0: moved code */
	uint8_t code[LH_PATCH_STUB / 8]; /* what stands there, as far as it may be moved */
	size_t code_size;
};

struct lh_patch_view {
	pid_t process;
	int memory;
	struct lh_symbols *symbols;
	const struct lh_patch_set *set;
};
/* Whether the function is entered between from and to, or may be: tables of jumps are looked at, too. */
bool lh__patch_entered(const struct lh_patch_view *view, const uint8_t *code, size_t size, uint64_t address,
                       uint64_t from, uint64_t to);
/* Whether a jump can be put there, and what stands there. */
int lh__patch_target(const struct lh_patch_view *view, struct lh_patch_target *target,
                     struct lh_error *error) LH_MUST_CHECK;
/*
 * The jump (place.after) and the stub, which will run at `at`. item.code is the replacement's or handler's
 * address. *original: what does as the function did.
 */
int lh__patch_stub(struct lh_patch_target *target, uint8_t stub[LH_PATCH_STUB], uint64_t at,
                   uint64_t *original, struct lh_error *error) LH_MUST_CHECK;
/* Calls handler with the registers, then goes on at resume. Returns the bytes written. */
size_t lh__patch_stub_at(uint8_t *stub, uint64_t handler, uint64_t resume);
/* A function that starts a thread, which does nothing but register the process for lh__patch_serialize. */
size_t lh__patch_stub_register(uint8_t *stub);

/* ---- patch_change.c: what is done while threads are stopped ---- */

struct lh_patch_job {
	pid_t process;
	int memory;
	const struct lh_patch_options *options;
	struct lh_patch_outcome *outcome;
	struct lh_error *error;
};

/* Asks the test's fault, if there is one. */
int lh__patch_step(const struct lh_patch_job *job, const char *step) LH_MUST_CHECK;
int lh__patch_stop(struct lh_patch_job *job, struct lh_remote **remote) LH_MUST_CHECK;
void lh__patch_release(struct lh_patch_job *job, struct lh_remote *remote);
/* A system call that is a step, with its name in the text where it fails. */
long lh__patch_call(struct lh_patch_job *job, struct lh_remote *remote, const char *step, long nr,
                    const long argument[6]) LH_MUST_CHECK;
/* Makes the mapping. -EEXIST: something is there by now. */
int lh__patch_map(struct lh_patch_job *job, const struct lh_patch_image *image, const char *name,
                  const struct lh_patch_segment *segment, size_t segments) LH_MUST_CHECK;
/* Takes it away again after a failure, whatever comes. */
void lh__patch_unmap(struct lh_patch_job *job, const struct lh_patch_image *image);
/* Replaces all indirect imports by what their resolvers say. */
int lh__patch_resolve(struct lh_patch_job *job, struct lh_patch_object *object) LH_MUST_CHECK;
/*
 * At a safe point: writes `after` (or, back, `before`) over all places, or over none. Then
 * *remote is stopped still.
 */
int lh__patch_change(struct lh_patch_job *job, const struct lh_patch_place *place, size_t places, bool back,
                     struct lh_remote **remote) LH_MUST_CHECK;
/* Writes the head's new state. */
int lh__patch_state(struct lh_patch_job *job, struct lh_remote *remote, uint64_t address,
                    struct lh_patch_head *head, enum lh_patch_state state) LH_MUST_CHECK;

/* ---- patch_make.c: the image ---- */

/* A head with all that is known of it but its places' bytes. */
void lh__patch_head(struct lh_patch_head *head, const char *name, const char *file, uint32_t order,
                    uint64_t length, size_t places);
int lh__patch_name_check(const struct lh_patch_set *set, const char *name,
                         struct lh_error *error) LH_MUST_CHECK;
/* One more than that of the last patch. */
uint32_t lh__patch_order(const struct lh_patch_set *set);
/*
 * Maps the image and writes over its places, which its head tells; what is mapped goes again where that
 * fails. make lays the image out for image->address, which is chosen here, near all places.
 */
int lh__patch_put(struct lh_patch_job *job, struct lh_patch_image *image,
                  const struct lh_patch_segment *segment, size_t segments, uint64_t start, uint64_t end,
                  int (*make)(void *context), void *context) LH_MUST_CHECK;

/* ---- patch_audit.c ---- */

/* *file is -1 where there is none. */
int lh__patch_audit_open(const struct lh_patch_options *options, int *file,
                         struct lh_error *error) LH_MUST_CHECK;
/* Appends the line, closes, and returns result, or what is wrong with the file. */
int lh__patch_audit_close(int file, const char *what, pid_t process, const char *path, int result,
                          const struct lh_patch_outcome *outcome, struct lh_error *error) LH_MUST_CHECK;

#endif
