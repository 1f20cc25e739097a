/*
 * The processor as judge of lh__accesses: instructions of all opcodes that this one has are executed with
 * their operands beside a page that cannot be accessed, or only be read. They must fault if, and only if, one
 * of the bytes that they are said to access lies there: with the last byte before the page, with it on the
 * page's first, with the first byte behind the page, and with it on the page's last. What is said to be
 * written must be what is different afterwards.
 */
/* timeout: 120 */
#include "code_opcodes.h"
#include "code_processor.h"
#include "tap.h"

#include <Zydis/Zydis.h>
#include <errno.h>

static ZydisDecoder decoder;
/* ---- memory: [can be written | GUARD | can be written | can be read | can be written] ---- */

enum { PAGE = 4096, WIDE = 4, PAGES = 3 * WIDE + 2, ARENA = PAGES * PAGE };
#define LOW_AT 0x20000000ul
#define HIGH_AT 0x132000000000ul

static uint8_t *shadow; /* the same memory, always writable */
static uint64_t arena;  /* LOW_AT or HIGH_AT */

static uint64_t guard_start(bool readable)
{
	return arena + (readable ? 2 * WIDE + 1 : WIDE) * (uint64_t)PAGE;
}

static void open_arena(void)
{
	int fd = memfd_create("arena", 0);
	static const uint64_t at[] = { LOW_AT, HIGH_AT };

	if (fd < 0 || ftruncate(fd, ARENA) < 0)
		exit(1);
	shadow = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (int i = 0; i < 2; i++) {
		arena = at[i];
		if (mmap((void *)arena, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd,
		         0) != (void *)arena)
			exit(1);
		mprotect((void *)guard_start(false), PAGE, PROT_NONE);
		mprotect((void *)guard_start(true), PAGE, PROT_READ);
	}
}

/* ---- an instruction and what is known of it ---- */

struct run {
	uint64_t address, size;
	unsigned kind;
};

struct trial {
	uint8_t code[16];
	ZydisDecodedInstruction is;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	struct lh_accesses accesses;
	struct lh_access_state state;
	struct machine_vectors vectors;
	struct run run[512];
	unsigned runs, kind, number; /* kind, number: of the access whose runs are being listed */
	unsigned first_of[LH_ACCESSES + 1];
	uint64_t whole; /* where the first access would begin without a mask */
};

static unsigned planted; /* which lie is told, to show that it is found out */

static bool decode(struct trial *trial)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, trial->code, sizeof trial->code, &trial->is,
	                                           trial->operand));
}

static int listed(void *context, uint64_t address, uint64_t size)
{
	struct trial *trial = context;

	if (trial->runs == sizeof trial->run / sizeof trial->run[0])
		return 1;
	trial->run[trial->runs++] = (struct run){ address, size, trial->kind };
	return 0;
}

static int first_address(void *context, uint64_t address, uint64_t size)
{
	*(uint64_t *)context = address;
	return 1;
}

static bool list_runs(struct trial *trial)
{
	struct lh_access first = trial->accesses.at[0];

	first.mask = ZYDIS_REGISTER_NONE;
	if (trial->accesses.count &&
	    lh__access_bytes(&first, &trial->state, first_address, &trial->whole) < 0)
		return false;
	trial->runs = 0;
	for (unsigned i = 0; i < trial->accesses.count; i++) {
		trial->first_of[i] = trial->runs;
		trial->kind = trial->accesses.at[i].kind;
		if (lh__access_bytes(&trial->accesses.at[i], &trial->state, listed, trial) != 0)
			return false;
	}
	trial->first_of[trial->accesses.count] = trial->runs;
	return true;
}

/*
 * What the right to access is asked for, which may be more than is accessed. A cache line that is flushed is
 * looked up like a byte that is read, by all but cldemote; fxsave and its like ask for 512 bytes; stores of
 * the classes that end in NF for what their masks leave out too.
 */
static struct run asked_for(const struct trial *trial, unsigned number)
{
	struct run run = trial->run[number];
	const ZydisDecodedOperand *first = &trial->operand[0];

	if (trial->is.mnemonic == ZYDIS_MNEMONIC_CLDEMOTE)
		run.size = 0;
	if (run.size == 416 && trial->is.meta.category == ZYDIS_CATEGORY_SSE)
		run.size = 512;
	if (trial->is.meta.exception_class == ZYDIS_EXCEPTION_CLASS_E6NF && run.kind & LH_ACCESS_WRITE &&
	    first->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		run.address = trial->whole;
		run.size = first->size / 8u;
	}
	return run;
}

static bool touches(const struct run *run, uint64_t page)
{
	return run->size && run->address < page + PAGE && run->address + run->size > page;
}

static bool forbidden(const struct run *run)
{
	return touches(run, guard_start(false)) ||
	       (run->kind & LH_ACCESS_WRITE && touches(run, guard_start(true)));
}

static bool inside_arena(const struct trial *trial)
{
	for (unsigned i = 0; i < trial->runs; i++)
		if (trial->run[i].address - arena > ARENA ||
		    trial->run[i].size > ARENA - (trial->run[i].address - arena))
			return false;
	return true;
}

static bool must_fault(const struct trial *trial)
{
	for (unsigned i = 0; i < trial->runs; i++) {
		struct run run = asked_for(trial, i);

		if (forbidden(&run))
			return true;
	}
	return false;
}

/* Bounds of what access number n touches. */
static bool bounds(const struct trial *trial, unsigned n, uint64_t *start, uint64_t *end)
{
	*start = UINT64_MAX;
	*end = 0;
	for (unsigned i = trial->first_of[n]; i < trial->first_of[n + 1]; i++) {
		const struct run *run = &trial->run[i];

		*start = run->address < *start ? run->address : *start;
		*end = run->address + run->size > *end ? run->address + run->size : *end;
	}
	return *end != 0;
}

/* ---- registers ---- */

static bool is_general(ZydisRegister name)
{
	return (name >= ZYDIS_REGISTER_RAX && name <= ZYDIS_REGISTER_R15) ||
	       (name >= ZYDIS_REGISTER_EAX && name <= ZYDIS_REGISTER_R15D);
}

static unsigned number_of(ZydisRegister name)
{
	return name >= ZYDIS_REGISTER_RAX ? name - ZYDIS_REGISTER_RAX : name - ZYDIS_REGISTER_EAX;
}

static uint64_t some_mask(void)
{
	switch (below(6)) {
	case 0: return 0;
	case 1: return ~0ull;
	case 2: return 1ull << below(64);
	case 3: return 1ull << below(8);
	case 4: return draw() & draw() & draw();
	default: return draw();
	}
}

static void draw_vectors(struct trial *trial)
{
	struct machine_vectors *vectors = &trial->vectors;

	for (unsigned i = 0; i < sizeof *vectors / 8; i++)
		((uint64_t *)vectors)[i] = draw();
	for (int i = 0; i < 8; i++)
		vectors->mask[i] = some_mask();
	for (unsigned i = 0; i < trial->accesses.count; i++) {
		const struct lh_access *access = &trial->accesses.at[i];
		unsigned index;

		if (access->index_size == 0)
			continue;
		index = access->index >= ZYDIS_REGISTER_ZMM0   ? access->index - ZYDIS_REGISTER_ZMM0
		        : access->index >= ZYDIS_REGISTER_YMM0 ? access->index - ZYDIS_REGISTER_YMM0
		                                               : access->index - ZYDIS_REGISTER_XMM0;
		for (unsigned at = 0; at < 64; at += access->index_size) {
			int64_t value = (int64_t)below(128) - 64;

			memcpy(&vectors->vector[index][at], &value, access->index_size);
		}
	}
}

static void draw_registers(struct trial *trial)
{
	struct lh_access_state *state = &trial->state;

	for (int i = 0; i < 16; i++)
		state->general[i] = draw();
	draw_vectors(trial);
	state->general[4] = arena + (WIDE - 2) * PAGE; /* what calls and pushes are told first */
	for (int i = 0; i < trial->is.operand_count; i++) {
		const ZydisDecodedOperand *operand = &trial->operand[i];

		if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (is_general(operand->mem.index))
			state->general[number_of(operand->mem.index)] = below(64) - 32;
	}
	for (int i = 0; i < trial->is.operand_count; i++) {
		const ZydisDecodedOperand *operand = &trial->operand[i];

		if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY && is_general(operand->mem.base))
			state->general[number_of(operand->mem.base)] =
				arena + (2 * WIDE - 2) * PAGE + below(64);
	}
	for (unsigned i = 0; i < trial->accesses.count; i++) {
		const struct lh_access *access = &trial->accesses.at[i];

		if (access->repeated)
			state->general[1] =
				(state->general[1] & ~0xffffffffull) * (access->address_size == 4) |
				below(20);
		if (access->bit)
			for (int n = 0; n < 16; n++)
				if (state->general[n] - arena > ARENA)
					state->general[n] = below(1024) - 512;
	}
	state->next = machine_next(trial->is.length);
	state->flags = 0x202 | (draw() & 0x8d5) | (below(2) ? 0x400 : 0);
	state->vector = (const uint8_t(*)[64])trial->vectors.vector;
	state->mask = trial->vectors.mask;
	state->mmx = trial->vectors.mmx;
	state->layout = &machine_layout;
	state->gs = MACHINE_GS;
	syscall(SYS_arch_prctl, ARCH_GET_FS, &state->fs);
}

/* Adds to an address: by its base, by a displacement of 32 bits, or by its index. */
static bool move_access(struct trial *trial, unsigned n, int64_t by)
{
	const struct lh_access *access = &trial->accesses.at[n];
	unsigned at = trial->is.raw.disp.offset;
	int32_t displacement;

	if (is_general(access->base)) {
		trial->state.general[number_of(access->base)] += (uint64_t)by;
	} else if (trial->is.raw.disp.size == 32) {
		memcpy(&displacement, trial->code + at, 4);
		displacement = (int32_t)(displacement + by);
		memcpy(trial->code + at, &displacement, 4);
		if (!decode(trial) || lh__accesses(&trial->is, trial->operand, &trial->accesses) < 0)
			return false;
	} else if (is_general(access->index) && by % access->scale == 0) {
		trial->state.general[number_of(access->index)] += (uint64_t)(by / access->scale);
	} else {
		return false;
	}
	return list_runs(trial);
}

/* ---- execution ---- */

enum outcome { RAN, FAULTED, ABSENT, OTHER };

static bool has_branch(const struct trial *trial)
{
	return trial->is.meta.category == ZYDIS_CATEGORY_CALL ||
	       trial->is.meta.category == ZYDIS_CATEGORY_RET ||
	       trial->is.meta.category == ZYDIS_CATEGORY_UNCOND_BR;
}

/* Bytes of 0x55 or, the second time, of 0xaa; for branches the address to which they are to go. */
static void fill(const struct trial *trial, bool second)
{
	uint64_t leave = (uint64_t)(uintptr_t)processor_leave, at;

	memset(shadow, second ? 0xaa : 0x55, ARENA);
	if (!has_branch(trial))
		return;
	for (unsigned i = 0; i < trial->runs; i++)
		for (at = trial->run[i].address; at + 8 <= trial->run[i].address + trial->run[i].size;
		     at += 8)
			memcpy(shadow + (at - arena), &leave, 8);
}

static enum outcome execute(struct trial *trial, bool second)
{
	fill(trial, second);
	memcpy(machine->in.general, trial->state.general, sizeof machine->in.general);
	machine->in.flags = trial->state.flags;
	machine_set_vectors(&trial->vectors);
	machine_execute(trial->code, trial->is.length);
	switch (machine->signal) {
	case 0:
	case SIGFPE:
	case SIGTRAP: return RAN;
	case SIGSEGV:
		return machine->signal_code == SEGV_MAPERR || machine->signal_code == SEGV_ACCERR ? FAULTED
		                                                                                  : OTHER;
	case SIGILL: return ABSENT;
	default: return OTHER;
	}
}

static char *show(const struct trial *trial)
{
	static char text[1024];
	ZydisFormatter formatter;
	size_t used;

	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	ZydisFormatterFormatInstruction(&formatter, &trial->is, trial->operand,
	                                trial->is.operand_count_visible, text, 200,
	                                trial->state.next - trial->is.length, NULL);
	used = strlen(text);
	used += (size_t)sprintf(text + used, "  [");
	for (unsigned i = 0; i < trial->is.length; i++)
		used += (size_t)sprintf(text + used, "%02x", trial->code[i]);
	used += (size_t)sprintf(text + used, "]");
	for (unsigned i = 0; i < trial->runs && used < 900; i++)
		used += (size_t)sprintf(text + used, " %s%s%lx+%lu", trial->run[i].kind & 1 ? "r" : "",
		                        trial->run[i].kind & 2 ? "w" : "",
		                        (long)(trial->run[i].address - arena), (long)trial->run[i].size);
	return text;
}

struct tally {
	unsigned instructions, executions, faults, exact, absent, wrong;
};

static unsigned complaints;

static void complain(struct tally *tally, const struct trial *trial, const char *what)
{
	tally->wrong++;
	if (planted || complaints++ > 60)
		return;
	printf("# %s: %s; signal %d code %d at %lx error %lx\n", what, show(trial), machine->signal,
	       machine->signal_code, (long)(machine->signal_address - arena), (long)machine->signal_error);
}

/* One placement: whether it was judged. */
static enum outcome judge(struct trial *trial, struct tally *tally)
{
	bool wanted = must_fault(trial), in_guard = false;
	enum outcome outcome = execute(trial, false);

	if (outcome == ABSENT || outcome == OTHER)
		return outcome;
	tally->executions++;
	tally->faults += outcome == FAULTED;
	if (wanted != (outcome == FAULTED)) {
		complain(tally, trial, wanted ? "no fault" : "a fault");
		return outcome;
	}
	for (unsigned i = 0; i < trial->runs; i++) {
		struct run run = asked_for(trial, i);

		in_guard |= forbidden(&run) && machine->signal_address - run.address < run.size;
	}
	if (wanted && !in_guard)
		complain(tally, trial, "a fault elsewhere");
	return outcome;
}

static bool said_to_be_written(const struct trial *trial, uint64_t address)
{
	for (unsigned i = 0; i < trial->runs; i++)
		if (trial->run[i].kind & LH_ACCESS_WRITE &&
		    address - trial->run[i].address < trial->run[i].size)
			return true;
	return false;
}

static bool only_writes(const struct trial *trial)
{
	for (unsigned i = 0; i < trial->accesses.count; i++)
		if (trial->accesses.at[i].kind != LH_ACCESS_WRITE &&
		    trial->accesses.at[i].kind != (LH_ACCESS_WRITE | LH_ACCESS_STREAM))
			return false;
	return true;
}

/* With two fillings: what has not kept either was written; what has become the same in both was stored. */
static void judge_written(struct trial *trial, struct tally *tally)
{
	static uint8_t first[ARENA];
	bool exact = only_writes(trial);

	if (must_fault(trial) || has_branch(trial) || execute(trial, false) != RAN)
		return;
	memcpy(first, shadow, ARENA);
	if (execute(trial, true) != RAN)
		return;
	tally->exact += exact;
	for (uint64_t at = 0; at < ARENA; at++) {
		bool written = said_to_be_written(trial, arena + at);

		if ((!written && (first[at] != 0x55 || shadow[at] != 0xaa)) ||
		    (exact && written && first[at] != shadow[at])) {
			machine->signal_address = arena + at;
			complain(tally, trial, written ? "not written" : "written");
			return;
		}
	}
}

/* ---- placements ---- */

/* Over the end of a page locked: some virtual machines never get done with that. */
static unsigned first_step(const struct lh_access *access)
{
	if (access->line)
		return 6;
	return access->kind & LH_ACCESS_ATOMIC ? (unsigned)__builtin_ctz(access->size) : 0;
}

/* Where the operand must be aligned, only multiples can be told apart. */
static void judge_edges(struct trial *trial, unsigned n, bool readable, struct tally *tally)
{
	static const unsigned steps[] = { 1, 2, 4, 8, 16, 32, 64 };
	uint64_t start, end, guard = guard_start(readable);
	unsigned step = first_step(&trial->accesses.at[n]);

	for (unsigned edge = 0; edge < 4;) {
		uint64_t by = edge % 2 ? steps[step] : 0, wanted;
		struct trial moved = *trial;

		if (!bounds(&moved, n, &start, &end))
			return;
		/* Up to the guard from below, then down to it from above. */
		wanted = edge < 2 ? guard + by - end : guard + PAGE - by - start;
		if (!move_access(&moved, n, (int64_t)wanted) || !bounds(&moved, n, &start, &end) ||
		    (edge < 2 ? end != guard + by : start != guard + PAGE - by) || !inside_arena(&moved)) {
			edge++;
			continue;
		}
		switch (judge(&moved, tally)) {
		case OTHER:
			if (step + 1 < sizeof steps / sizeof steps[0])
				step++;
			else
				edge++;
			break;
		case ABSENT: return;
		default: edge++;
		}
	}
}

/* What is said to access nothing is given the address of a page that nothing can access. */
static void judge_none(struct trial *trial, struct tally *tally)
{
	struct lh_access_state *state = &trial->state;

	for (int i = 0; i < trial->is.operand_count; i++)
		if (trial->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			for (int n = 0; n < 16; n++)
				state->general[n] = guard_start(false);
			judge(trial, tally);
			return;
		}
}

static bool excluded(const struct trial *trial)
{
	if (trial->is.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
		return true;
	switch (trial->is.meta.category) {
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_PKU:
	case ZYDIS_CATEGORY_RDWRFSGS:
	case ZYDIS_CATEGORY_SGX:
	case ZYDIS_CATEGORY_VTX:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP: return true;
	default: break;
	}
	switch (trial->is.mnemonic) {
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_XSAVE: /* and its like: below */
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_STR: return true; /* the kernel may make up for these */
	default: break;
	}
	if (trial->is.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return true;
	for (int i = 0; i < trial->is.operand_count; i++) {
		const ZydisDecodedOperand *operand = &trial->operand[i];

		if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
		    operand->reg.value >= ZYDIS_REGISTER_ES && operand->reg.value <= ZYDIS_REGISTER_GS)
			return true;
		if (operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && operand->imm.is_relative)
			return true;
		if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER && operand->visibility < 3 &&
		    has_branch(trial))
			return true;
	}
	return false;
}

static void lie(struct lh_accesses *accesses)
{
	struct lh_access *access = &accesses->at[0];

	switch (planted) {
	case 1: access->size++; break;
	case 2:
		access->displacement--;
		access->size++;
		break;
	case 3:
		if (access->size > 1)
			access->size--;
		break;
	case 4: access->kind &= ~LH_ACCESS_WRITE; break;
	case 5: access->kind |= LH_ACCESS_WRITE; break;
	case 6: access->packed = false; break;
	case 7: access->mask = ZYDIS_REGISTER_NONE; break;
	case 8: access->bit = ZYDIS_REGISTER_NONE; break;
	case 9: access->repeated = LH_REPEAT_NOT; break;
	default: break;
	}
}

/* enter must be able to write where it leaves rsp, but does not: the room for variables is to be none. */
static void spare_enter(struct trial *trial)
{
	if (trial->is.mnemonic == ZYDIS_MNEMONIC_ENTER)
		memset(trial->code + trial->is.raw.imm[0].offset, 0, 2);
}

static void try_instruction(struct trial *trial, struct tally *tally)
{
	if (!decode(trial))
		return;
	spare_enter(trial);
	if (!decode(trial) || excluded(trial) ||
	    lh__accesses(&trial->is, trial->operand, &trial->accesses) < 0)
		return;
	arena = trial->is.address_width == 32 || trial->is.raw.disp.size == 32 || below(4) == 0 ? LOW_AT
	                                                                                        : HIGH_AT;
	draw_registers(trial);
	if (planted)
		lie(&trial->accesses);
	if (!list_runs(trial))
		return;
	tally->instructions++;
	if (trial->accesses.count == 0) {
		judge_none(trial, tally);
		return;
	}
	for (unsigned n = 0; n < trial->accesses.count; n++) {
		uint64_t start, end;
		struct trial placed = *trial;

		if (!bounds(&placed, n, &start, &end)) {
			if (placed.is.meta.exception_class == ZYDIS_EXCEPTION_CLASS_E6NF)
				return; /* it asks for what its mask leaves out, wherever that may be */
		} else if (!move_access(&placed, n, (int64_t)(arena + (2 * WIDE - 1) * PAGE + 512 - start))) {
			continue;
		}
		if (trial->is.meta.category == ZYDIS_CATEGORY_STRINGOP && inside_arena(&placed) &&
		    execute(&placed, false) == RAN) {
			placed.state.left = machine->out.general[1];
			if (placed.accesses.at[0].address_size == 4)
				placed.state.left = (uint32_t)placed.state.left;
		}
		list_runs(&placed);
		if (!inside_arena(&placed))
			continue;
		if (n == 0) {
			enum outcome outcome = judge(&placed, tally);

			tally->absent += outcome == ABSENT;
			if (outcome == ABSENT)
				return;
			judge_written(&placed, tally);
		}
		judge_edges(&placed, n, false, tally);
		judge_edges(&placed, n, true, tally);
	}
}

/* ---- areas of state ---- */

static bool area_trial(struct trial *trial, unsigned variant, uint64_t components)
{
	/* xsave64, xsaveopt64, xsavec64, xrstor64 (%rbx) */
	static const uint8_t codes[][5] = { "\x48\x0f\xae\x23", "\x48\x0f\xae\x33", "\x48\x0f\xc7\x23",
		                            "\x48\x0f\xae\x2b" };

	memset(trial, 0, sizeof *trial);
	memcpy(trial->code, codes[variant], 4);
	arena = below(2) ? LOW_AT : HIGH_AT;
	if (!decode(trial) || lh__accesses(&trial->is, trial->operand, &trial->accesses) < 0)
		return false;
	draw_registers(trial);
	trial->state.general[0] = components & 0xffffffff;
	trial->state.general[2] = components >> 32;
	trial->state.general[3] = arena + (WIDE + 2) * PAGE;
	if (planted == 10)
		for (unsigned i = 0; i < trial->accesses.count; i++)
			if (trial->accesses.at[i].area)
				trial->accesses.at[i].area =
					LH_AREA_XSAVE + LH_AREA_XSAVEC - trial->accesses.at[i].area;
	return list_runs(trial);
}

/* Nothing but what is said is changed; all of it is, but the header and what xsaveopt finds unchanged. */
static void judge_area(unsigned variant, struct tally *tally)
{
	static uint8_t first[ARENA];
	struct trial trial;
	uint64_t components = draw() & 0x2e7 & machine_layout.enabled, start;

	if (!area_trial(&trial, variant, components) || execute(&trial, false) != RAN)
		return;
	start = trial.state.general[3] - arena;
	memcpy(first, shadow, ARENA);
	execute(&trial, true);
	tally->exact++;
	for (uint64_t at = 0; at < ARENA; at++) {
		bool written = said_to_be_written(&trial, arena + at), header = at - start - 512 < 16;

		if ((!written && (first[at] != 0x55 || shadow[at] != 0xaa)) ||
		    (written && !header && variant != 1 && first[at] != shadow[at])) {
			machine->signal_address = arena + at - start;
			complain(tally, &trial, written ? "not written" : "written");
			return;
		}
	}
}

/*
 * What xrstor is not said to read may be anything. Twice from areas that differ there; what the registers are
 * then must not differ.
 */
static void judge_restored(bool compacted, struct tally *tally)
{
	static uint8_t seen[2][sizeof machine->area_out], image[4096];
	uint64_t components = draw() & 0xe7 & machine_layout.enabled, present = draw() & 0xe7;
	uint64_t header[8] = { 0 }, start;
	struct trial trial;

	present &= machine_layout.enabled;
	if (compacted)
		header[1] = 1ull << 63 | present;
	header[0] = present & draw();
	if (!area_trial(&trial, 3, components))
		return;
	trial.state.header = header;
	if (!list_runs(&trial))
		return;
	start = trial.state.general[3] - arena;
	for (unsigned i = 0; i < sizeof image; i++)
		image[i] = (uint8_t)draw();
	memcpy(image + 24, (uint32_t[]){ 0x1f80, 0xffff }, 8);
	memcpy(image, (uint16_t[]){ 0x37f }, 2);
	memcpy(image + 512, header, 64);
	for (int time = 0; time < 2; time++) {
		memcpy(machine->in.general, trial.state.general, sizeof machine->in.general);
		machine_set_vectors(&trial.vectors);
		for (unsigned i = 0; i < sizeof image; i++) {
			bool read = false;

			for (unsigned n = 0; n < trial.runs; n++)
				read |= arena + start + i - trial.run[n].address < trial.run[n].size;
			shadow[start + i] = read ? image[i] : (uint8_t)draw();
		}
		memset(machine->area_out, 0, sizeof machine->area_out);
		machine_execute(trial.code, trial.is.length);
		memcpy(seen[time], machine->area_out, sizeof seen[0]);
		if (machine->signal) {
			complain(tally, &trial, "a restored area");
			return;
		}
	}
	tally->executions++;
	if (memcmp(seen[0], seen[1], sizeof seen[0]) != 0)
		complain(tally, &trial, "read");
}

static void try_areas(struct tally *tally, unsigned rounds)
{
	while (rounds--) {
		for (unsigned variant = 0; variant < 3; variant++)
			judge_area(variant, tally);
		judge_restored(false, tally);
		judge_restored(true, tally);
	}
}

/* ---- tiles ---- */

#define ARCH_REQ_XCOMP_PERM 0x1023
enum { TILE_DATA = 18 };

/* tileloadd, tileloaddt1, tilestored of tmm1 at [rbx + rcx] */
static void judge_tile(unsigned prefix, const uint8_t configuration[64], struct tally *tally)
{
	struct trial trial = { .code = { 0xc4, 0xe2, (uint8_t)(0x78 | prefix), 0x4b, 0x0c, 0x0b } };

	arena = below(2) ? LOW_AT : HIGH_AT;
	if (!decode(&trial) || lh__accesses(&trial.is, trial.operand, &trial.accesses) < 0)
		return;
	draw_registers(&trial);
	trial.state.tiles = configuration;
	trial.state.general[1] = below(400) - 200;
	trial.state.general[3] = arena + (2 * WIDE - 1) * PAGE;
	if (!list_runs(&trial) || judge(&trial, tally) == ABSENT)
		return;
	judge_written(&trial, tally);
	judge_edges(&trial, 0, false, tally);
	judge_edges(&trial, 0, true, tally);
}

static void try_tiles(struct tally *tally)
{
	if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) < 0) {
		skip("tiles", "this processor or kernel has none");
		return;
	}
	for (int i = 0; i < 50; i++) {
		uint8_t configuration[64] __attribute__((aligned(64))) = { 1 };

		configuration[18] = (uint8_t)(4 * (1 + below(16)));
		configuration[49] = (uint8_t)(1 + below(16));
		__asm__ volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0x07" ::"D"(configuration) : "memory");
		for (unsigned prefix = 1; prefix < 4; prefix++)
			judge_tile(prefix, configuration, tally);
	}
	__asm__ volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0xc0"); /* tilerelease */
	ok(tally->wrong == 0, "tiles are rows of what is configured");
}

/* ---- all ---- */

static bool found(void *context, const uint8_t code[16])
{
	struct tally *tally = context;
	struct trial trial = { 0 };

	memcpy(trial.code, code, sizeof trial.code);
	try_instruction(&trial, tally);
	return !planted || !tally->wrong;
}

static void try_lies(void)
{
	static const char *const what[] = { "",
		                            "a byte too much at the end",
		                            "a byte too much at the start",
		                            "a byte too few",
		                            "stores that are none",
		                            "loads that are stores",
		                            "elements that are not packed",
		                            "masks that are not heeded",
		                            "bit strings that stay in their word",
		                            "repeated strings that are not",
		                            "areas in the other form" };

	for (planted = 1; planted < sizeof what / sizeof what[0]; planted++) {
		struct tally tally = { 0 };

		if (planted == 6 && !(machine->components & 0x20)) {
			skip(what[planted], "no AVX-512 here");
			continue;
		}
		try_areas(&tally, planted == 10 ? 10 : 0);
		for (int i = 0; i < 20 && !tally.wrong; i++)
			opcodes_all(&(struct opcodes){ .found = found, .context = &tally });
		ok(tally.wrong > 0, "found out: %s", what[planted]);
	}
	planted = 0;
}

/* code_access_oracle [ROUNDS [SEED]] */
int main(int count, char **words)
{
	struct tally tally = { 0 };
	unsigned rounds = count > 1 ? (unsigned)atoi(words[1]) : 1;

#ifdef __SANITIZE_THREAD__
	skip("all", "the thread sanitizer leaves no room for the arena");
	return done();
#endif
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	machine_open();
	open_arena();
	if (count > 2)
		opcodes_seed ^= (uint64_t)atoll(words[2]) * 0x9e3779b97f4a7c15ull;
	try_areas(&tally, 200);
	ok(tally.wrong == 0, "areas of state: %u saved, %u restored", tally.exact, tally.executions);
	try_tiles(&tally);
	tally = (struct tally){ 0 };
	while (rounds--)
		opcodes_all(&(struct opcodes){ .found = found, .context = &tally });
	printf("# %u instructions, %u executions, %u faults, %u compared after stores, %u are not on this "
	       "processor\n",
	       tally.instructions, tally.executions, tally.faults, tally.exact, tally.absent);
	ok(tally.instructions > 3000 && tally.wrong == 0, "instructions access what they are said to");
	try_lies();
	return done();
}
