/*
 * pagetrace.c - a valgrind tool that writes the trace of pages which a program touches.
 *
 * `valgrind --tool=lackey --trace-mem=yes` tells the same, as text at 0.4 million accesses a second; this
 * does 80 million, and knows what lackey does not: whether a page is anonymous (a pager homes no other) and
 * when it is unmapped. make-traces compiles it against the archives that come with valgrind; it is built
 * where it is used and is part of nothing that is installed. (valgrind 3.19; its tool interface number is
 * checked when the tool starts.)
 *
 *     VALGRIND_LIB=... valgrind --tool=pagetrace --trace-file=OUT PROGRAM...
 *
 * The file, little-endian:
 *     byte  0  magic "LHTRACE1"
 *           8  number of records (uint64)
 *          16  number of distinct pages
 *          24  number of loads and stores that were seen
 *          32  the records, each a uint32: the number of the page that is touched, in order of first touch;
 *              with bit 31 set: that page is unmapped (what is mapped there later has a new number)
 *
 * What is left out: an access to one of the RECENT pages touched last. Such an access cannot fault under any
 * policy that keeps more than a handful of pages, and leaving it out shrinks a trace about fifteenfold. For
 * LRU the number of faults stays exactly the same at any size above RECENT pages (stack deletion).
 */
#include "pub_tool_basics.h"
#include "pub_tool_aspacemgr.h"
#include "pub_tool_libcassert.h"
#include "pub_tool_libcbase.h"
#include "pub_tool_libcfile.h"
#include "pub_tool_libcprint.h"
#include "pub_tool_machine.h"
#include "pub_tool_options.h"
#include "pub_tool_tooliface.h"
#include "pub_tool_vki.h"

#define RECENT 16
#define SLOTS (1u << 22)
#define REMOVED (1u << 31)
#define NOT_ANONYMOUS 0xffffffffu

/* Of valgrind's core, not in the headers for tools: moves a file out of the numbers that the program sees. */
extern Int VG_(safe_fd)(Int file);

static struct {
	ULong page[SLOTS]; /* the page's address / 4096; 0: free */
	UInt number[SLOTS];
} table;
static ULong recent[RECENT], header[4], most = 40000000;
static UInt pages, buffer[1 << 14], filled;
static const HChar *file = "trace.out";
static Int out = -1;

static void flush(void)
{
	if (filled)
		tl_assert(VG_(write)(out, buffer, (Int)(filled * 4)) == (Int)(filled * 4));
	filled = 0;
}

static void emit(UInt record)
{
	if (header[1] >= most)
		return;
	header[1]++;
	buffer[filled++] = record;
	if (filled == sizeof buffer / sizeof *buffer)
		flush();
}

static UInt slot_of(ULong page)
{
	UInt i = (UInt)(page * 0x9e3779b97f4a7c15ULL >> 42);

	while (table.page[i] && table.page[i] != page)
		i = (i + 1) & (SLOTS - 1);
	return i;
}

static UInt number_of(ULong page)
{
	UInt i = slot_of(page);

	if (table.page[i] && table.number[i] != REMOVED)
		return table.number[i];
	const NSegment *segment = VG_(am_find_nsegment)(page << 12);
	tl_assert(pages < SLOTS / 2);
	table.page[i] = page;
	table.number[i] = segment && segment->kind != SkAnonC ? NOT_ANONYMOUS : pages++;
	return table.number[i];
}

/* Moves page to the front; whether it was among the recent ones. */
static Bool was_recent(ULong page)
{
	UInt i = 0;
	Bool found;

	while (i < RECENT - 1 && recent[i] != page)
		i++;
	found = recent[i] == page;
	for (; i > 0; i--)
		recent[i] = recent[i - 1];
	recent[0] = page;
	return found;
}

static void touch_page(ULong page)
{
	UInt number;

	if (recent[0] == page || was_recent(page))
		return;
	number = number_of(page);
	if (number != NOT_ANONYMOUS)
		emit(number);
}

static VG_REGPARM(2) void touch(Addr address, SizeT size)
{
	header[3]++;
	touch_page(address >> 12);
	if ((address + size - 1) >> 12 != address >> 12)
		touch_page((address + size - 1) >> 12);
}

static void unmapped(Addr address, SizeT size)
{
	ULong page;

	for (page = address >> 12; page < (address + size + 4095) >> 12; page++) {
		UInt i = slot_of(page), j;
		if (!table.page[i] || table.number[i] == REMOVED)
			continue;
		if (table.number[i] != NOT_ANONYMOUS)
			emit(table.number[i] | REMOVED);
		table.number[i] = REMOVED;
		for (j = 0; j < RECENT; j++)
			if (recent[j] == page)
				recent[j] = 0;
	}
}

static void add_touch(IRSB *block, IRExpr *address, Int size, IRExpr *guard)
{
	IRDirty *call = unsafeIRDirty_0_N(2, "touch", VG_(fnptr_to_fnentry)(touch),
	                                  mkIRExprVec_2(address, mkIRExpr_HWord((HWord)size)));

	if (guard)
		call->guard = guard;
	addStmtToIRSB(block, IRStmt_Dirty(call));
}

static void instrument_statement(IRSB *block, IRStmt *s)
{
	IRTypeEnv *types = block->tyenv;

	switch (s->tag) {
	case Ist_WrTmp:
		if (s->Ist.WrTmp.data->tag == Iex_Load)
			add_touch(block, s->Ist.WrTmp.data->Iex.Load.addr,
			          sizeofIRType(s->Ist.WrTmp.data->Iex.Load.ty), NULL);
		break;
	case Ist_Store:
		add_touch(block, s->Ist.Store.addr, sizeofIRType(typeOfIRExpr(types, s->Ist.Store.data)),
		          NULL);
		break;
	case Ist_StoreG:
		add_touch(block, s->Ist.StoreG.details->addr,
		          sizeofIRType(typeOfIRExpr(types, s->Ist.StoreG.details->data)),
		          s->Ist.StoreG.details->guard);
		break;
	case Ist_LoadG: add_touch(block, s->Ist.LoadG.details->addr, 4, s->Ist.LoadG.details->guard); break;
	case Ist_CAS:
		add_touch(block, s->Ist.CAS.details->addr,
		          sizeofIRType(typeOfIRExpr(types, s->Ist.CAS.details->dataLo)), NULL);
		break;
	case Ist_Dirty:
		if (s->Ist.Dirty.details->mFx != Ifx_None)
			add_touch(block, s->Ist.Dirty.details->mAddr, s->Ist.Dirty.details->mSize, NULL);
		break;
	default: break;
	}
}

static IRSB *instrument(VgCallbackClosure *closure, IRSB *in, const VexGuestLayout *layout,
                        const VexGuestExtents *extents, const VexArchInfo *host, IRType guest_word,
                        IRType host_word)
{
	IRSB *block = deepCopyIRSBExceptStmts(in);
	Int i;

	for (i = 0; i < in->stmts_used; i++) {
		if (!in->stmts[i] || in->stmts[i]->tag == Ist_NoOp)
			continue;
		instrument_statement(block, in->stmts[i]);
		addStmtToIRSB(block, in->stmts[i]);
	}
	return block;
}

/* The kernel's reads and writes of buffers are touches too. */
static void kernel_reads(CorePart part, ThreadId thread, const HChar *what, Addr address, SizeT size)
{
	ULong page;

	if (part == Vg_CoreSysCall && size)
		for (page = address >> 12; page <= (address + size - 1) >> 12; page++)
			touch_page(page);
}

static void kernel_wrote(CorePart part, ThreadId thread, Addr address, SizeT size)
{
	kernel_reads(part, thread, "", address, size);
}

static Bool option(const HChar *argument)
{
	return VG_STR_CLO(argument, "--trace-file", file) ||
	       VG_BINT_CLO(argument, "--most", most, 1, 1000000000);
}

static void usage(void)
{
	VG_(printf)
	("    --trace-file=FILE    where the trace goes [trace.out]\n"
	 "    --most=NUMBER        records, at most [40000000]\n");
}

static void no_debug_usage(void)
{
}

static void started(void)
{
	SysRes opened = VG_(open)(file, VKI_O_CREAT | VKI_O_TRUNC | VKI_O_WRONLY, 0644);

	tl_assert(!sr_isError(opened));
	out = VG_(safe_fd)((Int)sr_Res(opened));
	VG_(memcpy)(header, "LHTRACE1", 8);
	VG_(write)(out, header, sizeof header);
}

static void ended(Int status)
{
	flush();
	header[2] = pages;
	VG_(lseek)(out, 0, VKI_SEEK_SET);
	VG_(write)(out, header, sizeof header);
	VG_(close)(out);
	VG_(umsg)("%s: %llu accesses, %llu records, %llu pages\n", file, header[3], header[1], header[2]);
}

static void describe(void)
{
	VG_(details_name)("pagetrace");
	VG_(details_version)(NULL);
	VG_(details_description)("the pages that a program touches");
	VG_(details_copyright_author)("Linehome");
	VG_(details_bug_reports_to)("the maintainers of Linehome");
	VG_(basic_tool_funcs)(started, instrument, ended);
	VG_(needs_command_line_options)(option, usage, no_debug_usage);
	VG_(track_die_mem_munmap)(unmapped);
	VG_(track_die_mem_brk)(unmapped);
	VG_(track_pre_mem_read)(kernel_reads);
	VG_(track_post_mem_write)(kernel_wrote);
}

VG_DETERMINE_INTERFACE_VERSION(describe)
