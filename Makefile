# The one Makefile of Linehome, for GNU make. Targets:
#
#   all              the library, the agent and the command, into build/
#   examples         what uses the library as anybody would, into build/examples/
#   test             installs what is missing, builds, and runs every test
#   demo             installs what is missing, builds, and shows the main job on a real program
#   bench            builds and runs the benchmarks, but for bench-migrate, that of moves of virtual machines
#   fuzz             runs each fuzz target for FUZZ_TIME seconds
#   soak             runs the tests again and again for SOAK_TIME seconds, and looks at SOAK_STATES crashes each time
#   lint, format, format-check
#   install, uninstall    with PREFIX and DESTDIR
#
# Words that may be given: CC=gcc|clang, MODE=release|debug, SAN=address|undefined|thread, BUILD=FOLDER,
# EXTRA_CFLAGS, V=1 to show the commands. Flags that change rebuild what they touch.
CC = gcc
MODE ?= release
SAN ?=
BUILD ?= build
FUZZ_TIME ?= 60
SOAK_TIME ?= 300
SOAK_STATES ?= 2000000
DESTDIR ?=
PREFIX ?= /usr/local
bindir ?= $(PREFIX)/bin
libdir ?= $(PREFIX)/lib
includedir ?= $(PREFIX)/include
datadir ?= $(PREFIX)/share
mandir ?= $(datadir)/man
completiondir ?= $(datadir)/bash-completion/completions

VERSION := $(shell sed -n 's/^.define LH_VERSION "\(.*\)"/\1/p' include/linehome.h)
SOVERSION := $(firstword $(subst ., ,$(VERSION)))

# P holds what is never sanitized: the agent, and the programs that run under Linehome. B holds the rest.
P := $(BUILD)$(if $(filter-out release,$(MODE)),/$(MODE))
B := $(P)$(if $(SAN),/$(SAN))
Q := $(if $(V),,@)

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wno-unused-parameter
CPPFLAGS += -Isrc -Iinclude -D_GNU_SOURCE -DLH_BUILD
CFLAGS += -std=gnu11 -g $(if $(filter debug,$(MODE)),-O0,-O2) -fPIC -fvisibility=hidden \
	-fno-omit-frame-pointer -fno-strict-aliasing $(WARN) $(EXTRA_CFLAGS)
SAN_address := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SAN_undefined := -fsanitize=undefined -fno-sanitize-recover=undefined
SAN_thread := -fsanitize=thread
SAN_FLAGS := $(SAN_$(SAN))
ifneq ($(SAN),$(if $(SAN_FLAGS),$(SAN)))
$(error SAN=$(SAN): not a sanitizer; write SAN=address, SAN=undefined or SAN=thread)
endif

# CORE is what the agent is made of. It runs in other people's programs, on threads without libc's thread-local
# storage: no stack protector, and none of the libraries below.
CORE_DIRS := sys line code store net/data home port port/page
LIB_DIRS := $(CORE_DIRS) port/code port/translate port/guest net service/client service/serve service/pool service/code \
	service/atomic
CORE_SRC := $(foreach d,$(CORE_DIRS),$(wildcard src/$(d)/*.c))
LIB_SRC := $(foreach d,$(LIB_DIRS),$(wildcard src/$(d)/*.c)) $(wildcard src/port/translate/*.S) \
	src/service/code/blob.S src/service/atomic/entry.S
# What is put into programs whose code is watched; the library carries it (src/service/code/blob.h).
INSIDE_SRC := $(wildcard src/port/code/inside/*.[cS]) src/port/code/text.c src/sys/format.c
# What sees the program's system calls is the agent's alone.
INTERCEPT_SRC := $(wildcard src/port/page/intercept/*.c)
AGENT_SRC := $(wildcard src/service/run/agent/*.c src/service/run/agent/*.S) $(INTERCEPT_SRC)
AGENT_LIBS := -lZydis
# The agent of count is the translator, and its client.
COUNT_SRC := $(foreach d,sys code port/translate service/count/agent,$(wildcard src/$(d)/*.c)) \
	$(wildcard src/port/translate/*.S) src/service/count/fold.c
MIGRATE_SRC := $(wildcard src/service/migrate/*.c)
# What is loaded into a QEMU that waits for a guest.
UFFD_SRC := $(wildcard src/service/migrate/agent/*.c)
CLI_SRC := $(wildcard src/cli/*.c $(foreach d,launch run count,src/service/$(d)/*.c)) $(MIGRATE_SRC)
LIB_LIBS := -lZydis -ldw -lelf -lssl -lcrypto -lpthread
CLI_LIBS := -ljansson $(LIB_LIBS)

obj = $(patsubst %,$(1)/obj/%.o,$(basename $(2)))
LIB_OBJ := $(call obj,$(B),$(LIB_SRC))
CLI_OBJ := $(call obj,$(B),$(CLI_SRC))
AGENT_OBJ := $(call obj,$(P),$(CORE_SRC) $(AGENT_SRC))
COUNT_OBJ := $(call obj,$(P),$(COUNT_SRC))
UFFD_OBJ := $(call obj,$(P),$(UFFD_SRC))
INSIDE_OBJ := $(call obj,$(P)/inside,$(INSIDE_SRC))
INSIDE := $(P)/linehome-inside
CORE_OBJ := $(sort $(call obj,$(B),$(CORE_SRC)) $(AGENT_OBJ) $(COUNT_OBJ))

bin = $(patsubst $(1)/%.c,$(2)/$(1)/%,$(wildcard $(1)/*.c))
TEST_BIN := $(call bin,tests,$(B))
TEST_SH := $(wildcard tests/*.sh)
PROGRAM_BIN := $(call bin,tests/programs,$(P)) $(patsubst %.cc,$(P)/%,$(wildcard tests/programs/*.cc))
# What shell tests run that needs the library.
TOOL_BIN := $(call bin,tests/tools,$(B))
# The benchmark of pools: one program, with those of its peers (as pkg-config names them) that can be built here.
PEERS := $(foreach peer,libpmemobj lmdb sqlite3 rocksdb,$(shell pkg-config --exists $(peer) 2>&1 && echo $(peer)))
POOL_SRC := $(addprefix bench/pool/,main.c count.c yardstick.c $(PEERS:%=%.c)) \
	$(if $(wildcard src/service/pool/pool.c),bench/pool/lh.c bench/pool/life.c)
BENCH_BIN := $(call bin,bench,$(B))
POOL_BIN := $(B)/bench/pool
# The same for an ordinary library in a pool.
ATOMIC_SRC := bench/atomic/main.c $(if $(filter libpmemobj,$(PEERS)),$(wildcard bench/atomic/pm_*.c))
ATOMIC_BIN := $(B)/bench/atomic
EXAMPLE_BIN := $(call bin,examples,$(B)) $(B)/examples/patch/server $(B)/examples/patch/fix.so $(B)/examples/ordinary/keep
FUZZ_BIN := $(call bin,fuzz,$(BUILD))

.PHONY: all tests programs examples FORCE
# The last one is linked with the library; the others have in them what they need.
AGENTS := liblinehome-run.so liblinehome-count.so liblinehome-uffd.so
ATOMIC := liblinehome-atomic.so
all: $(B)/liblinehome.a $(B)/liblinehome.so $(B)/linehome $(addprefix $(B)/,$(AGENTS) $(ATOMIC))
tests: $(TEST_BIN) $(TOOL_BIN) $(PROGRAM_BIN) $(EXAMPLE_BIN) $(P)/tests/agents/profile.so
programs: $(PROGRAM_BIN)
examples: $(EXAMPLE_BIN)

# ---- objects

$(P)/obj/%.o: %.c $(P)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(P)/obj/%.o: %.S $(P)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -g -MMD -MP -c -o $@ $<
ifneq ($(B),$(P))
$(B)/obj/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(SAN_FLAGS) -MMD -MP -c -o $@ $<
$(B)/obj/%.o: %.S $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -g -MMD -MP -c -o $@ $<
endif
$(CORE_OBJ): CFLAGS += -fno-stack-protector
# Between two instructions of a program, whose vector registers stay as they are; so no calls of memset either.
NO_VECTORS := -mgeneral-regs-only $(if $(findstring clang,$(CC)),-fno-builtin,-fno-tree-loop-distribute-patterns)
BETWEEN_OBJ := $(filter $(B)/obj/src/port/translate/% $(P)/obj/src/port/translate/% \
	$(P)/obj/src/service/count/%,$(sort $(LIB_OBJ) $(COUNT_OBJ)))
$(BETWEEN_OBJ): CFLAGS += -fno-stack-protector $(NO_VECTORS)
$(filter %/src/sys/lock.o %/src/sys/sys.o,$(CORE_OBJ)): CFLAGS += $(NO_VECTORS)
SEEING := $(addprefix obj/src/service/pool/,translated_save.o changes.o)
$(addprefix $(B)/,$(SEEING)) $(addprefix $(B)/mutants/,$(SEEING)): CFLAGS += $(NO_VECTORS)
# Freestanding, and without vector registers: it runs in handlers that leave those alone.
INSIDE_CFLAGS := -ffreestanding -fno-stack-protector -mgeneral-regs-only
$(P)/inside/obj/%.o: %.c $(P)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(INSIDE_CFLAGS) -MMD -MP -c -o $@ $<
$(P)/inside/obj/%.o: %.S $(P)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -g -MMD -MP -c -o $@ $<
BLOB_FLAGS := -DLH_BLOB='"$(INSIDE)"'
$(B)/obj/src/service/code/blob.o: CPPFLAGS += $(BLOB_FLAGS)
$(B)/obj/src/service/code/blob.o: $(INSIDE)
# Where an installed launcher finds the agent; in the build tree it stands beside the launcher.
$(CLI_OBJ): CPPFLAGS += -DLH_AGENT_PATH='"$(libdir)/linehome/liblinehome-run.so"' \
	-DLH_ATOMIC_AGENT_PATH='"$(libdir)/linehome/$(ATOMIC)"' \
	-DLH_COUNT_AGENT_PATH='"$(libdir)/linehome/liblinehome-count.so"' \
	-DLH_UFFD_AGENT_PATH='"$(libdir)/linehome/liblinehome-uffd.so"'
$(CLI_OBJ): $(B)/libdir

# Style and scripts of pages become part of the object.
PAGE_PARTS := $(wildcard src/service/code/page*.css src/service/code/page*.js)
$(call obj,$(B),src/service/code/page.c): $(PAGE_PARTS)

# Files that say with what was built, written only where that has changed.
written = @mkdir -p $(@D) && echo '$(1)' | cmp -s - $@ || echo '$(1)' >$@
FLAGS := $(CC) $(CPPFLAGS) $(CFLAGS)
$(P)/flags: FORCE
	$(call written,$(FLAGS))
ifneq ($(B),$(P))
$(B)/flags: FORCE
	$(call written,$(FLAGS) $(SAN_FLAGS))
endif
$(B)/libdir: FORCE
	$(call written,$(libdir))

# ---- libraries and programs

# Objects first, then the archives that they need, whatever the order of the prerequisites.
link = $(Q)mkdir -p $(@D) && $(CC) $(LDFLAGS) $(SAN_FLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^)

$(B)/liblinehome.a: $(LIB_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

# A sanitizer's functions are found only when a program is linked, hence no -z defs with one. What a signal
# handler calls is found beforehand, hence -z now.
$(B)/liblinehome.so: $(LIB_OBJ) src/linehome.map
	$(link) -shared -Wl,-soname,$(@F).$(SOVERSION) -Wl,-z,now $(if $(SAN),,-Wl,-z,defs) \
		-Wl,-Bsymbolic-functions,--version-script,src/linehome.map $(LIB_LIBS)
	@ln -sf $(@F) $@.$(SOVERSION)

# The agent stays loaded for as long as the program lives, and must not lend its symbols to the program.
$(P)/liblinehome-run.so: $(AGENT_OBJ) src/agent.map
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now,-z,nodelete,-z,defs -Wl,--version-script,src/agent.map \
		-o $@ $(AGENT_OBJ) $(AGENT_LIBS)
# Before all others: what their constructors do is counted.
$(P)/liblinehome-count.so: $(COUNT_OBJ) src/agent.map
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now,-z,nodelete,-z,defs,-z,initfirst -Wl,--version-script,src/agent.map \
		-o $@ $(COUNT_OBJ) $(AGENT_LIBS)
$(P)/liblinehome-uffd.so: $(UFFD_OBJ) src/uffd.map
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now,-z,nodelete,-z,defs -Wl,--version-script,src/uffd.map \
		-o $@ $(UFFD_OBJ) -lpthread
ifneq ($(B),$(P))
$(addprefix $(B)/,$(AGENTS)): $(B)/%.so: $(P)/%.so
	$(Q)cp $< $@
endif

# The library, with what starts it: a program that uses the library has one of it.
$(B)/$(ATOMIC): $(call obj,$(B),src/service/atomic/agent/agent.c) src/agent.map $(B)/liblinehome.so
	$(link) -shared -Wl,-z,now,-z,nodelete $(if $(SAN),,-Wl,-z,defs) -Wl,--version-script,src/agent.map \
		-L$(B) -llinehome -Wl,-rpath,'$$ORIGIN:$$ORIGIN/..'

# Nothing but relative relocations may be left for its loader.
$(INSIDE): $(INSIDE_OBJ) src/inside.map
	$(Q)$(CC) -nostdlib -shared -Wl,-Bsymbolic,-z,defs,-z,noexecstack,-z,norelro,-z,max-page-size=4096 \
		-Wl,--build-id=none,--hash-style=sysv,--version-script,src/inside.map,-S -o $@ $(INSIDE_OBJ)

$(B)/linehome: $(CLI_OBJ) $(B)/liblinehome.a
	$(link) $(CLI_LIBS)

# LIBS_NAME: what one program needs beyond the library.
LIBS_keys := -lhiredis
$(filter $(B)/tests/cli_%,$(TEST_BIN)): $(call obj,$(B),src/cli/cli.c src/cli/words.c)
$(filter $(B)/tests/agent_buffers,$(TEST_BIN)): $(call obj,$(B),$(wildcard src/service/run/agent/buffers*.c))
# What keeps things durable, with faults that can be switched on, for the one test that has to notice them.
MUTANT_SRC := src/store/log.c $(wildcard src/store/journal*.c src/service/pool/*.c)
MUTANT_OBJ := $(call obj,$(B)/mutants,$(MUTANT_SRC) tests/crash_mutants.c)
$(B)/mutants/obj/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -DLH_MUTANTS $(CFLAGS) $(SAN_FLAGS) -MMD -MP -c -o $@ $<
$(B)/tests/crash_mutants: $(MUTANT_OBJ) $(B)/liblinehome.a
	$(link) $(LIB_LIBS)
# The part of the inside agent that is not bound to it.
$(filter $(B)/tests/code_ahead,$(TEST_BIN)): \
	$(call obj,$(B),$(wildcard src/port/code/inside/ahead_*.c))
$(filter $(B)/tests/count_%,$(TEST_BIN)): $(call obj,$(B),$(wildcard src/service/launch/*.c src/service/count/*.c))
# What migrates machines reads and writes JSON.
MIGRATE_BIN := $(filter $(B)/tests/migrate_% $(B)/bench/migrate_%,$(TEST_BIN) $(BENCH_BIN))
$(MIGRATE_BIN): $(call obj,$(B),$(MIGRATE_SRC) $(wildcard src/service/launch/*.c))
$(foreach name,$(notdir $(MIGRATE_BIN)),$(eval LIBS_$(name) := -ljansson))
$(B)/tests/tools/page_tables: $(call obj,$(B),$(wildcard src/service/migrate/tables*.c))
$(filter $(B)/tests/agent_engine,$(TEST_BIN)): $(call obj,$(B),src/service/run/agent/engine.c)

$(B)/tests/%: $(B)/obj/tests/%.o $(B)/liblinehome.a
	$(link) $(LIB_LIBS) $(LIBS_$*)
$(B)/bench/%: $(B)/obj/bench/%.o $(B)/liblinehome.a
	$(link) $(LIB_LIBS) -lm $(LIBS_$*)
$(POOL_BIN): $(call obj,$(B),$(POOL_SRC)) $(B)/liblinehome.a
	$(link) $(if $(PEERS),$$(pkg-config --libs $(PEERS))) $(AGENT_LIBS) $(LIB_LIBS)
# What libpmemobj's macros expand to is warned of: setjmp, and pointers that might be NULL.
$(ATOMIC_BIN): $(ATOMIC_SRC) $(wildcard bench/atomic/*.h) $(B)/examples/ordinary/libordinary.so $(B)/liblinehome.so
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -g -O2 $(WARN) $(if $(findstring clang,$(CC)),,-Wno-clobbered) -Wno-array-bounds -Wno-stringop-overflow $(EXTRA_CFLAGS) $(SAN_FLAGS) -Iinclude $(if $(filter libpmemobj,$(PEERS)),-DHAVE_PMEMOBJ) \
		-o $@ $(filter %.c,$^) -L$(B)/examples/ordinary -lordinary -L$(B) -llinehome \
		-Wl,-rpath,$(abspath $(B)/examples/ordinary):$(abspath $(B)) $(if $(filter libpmemobj,$(PEERS)),-lpmemobj)
# An agent of the tests' own, with nothing in it but what sees system calls.
TEST_AGENT := $(P)/tests/agents/intercept.so
TEST_AGENT_OBJ := $(call obj,$(P),tests/agents/intercept.c $(INTERCEPT_SRC) $(wildcard src/sys/*.c src/code/*.c))
$(TEST_AGENT_OBJ): CFLAGS += -fno-stack-protector
$(TEST_AGENT): $(TEST_AGENT_OBJ)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now,-z,nodelete,-z,defs -o $@ $^ $(AGENT_LIBS)
$(filter $(B)/tests/intercept_% $(B)/bench/intercept,$(TEST_BIN) $(BENCH_BIN)): $(TEST_AGENT)
# One that has a whole program translated, for benchmarks.
TRANSLATE_AGENT := $(P)/tests/agents/translate.so
TRANSLATE_AGENT_OBJ := $(call obj,$(P),tests/agents/translate.c $(wildcard src/port/translate/*.[cS] src/sys/*.c \
	src/code/*.c))
$(filter %/src/code/% %/tests/agents/%,$(TRANSLATE_AGENT_OBJ)): CFLAGS += -fno-stack-protector
$(TRANSLATE_AGENT): $(TRANSLATE_AGENT_OBJ)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now,-z,nodelete,-z,defs,-z,initfirst -o $@ $^ $(AGENT_LIBS)
WHOLE_AGENT := $(P)/tests/agents/whole.so
WHOLE_AGENT_OBJ := $(call obj,$(P),tests/agents/whole.c $(wildcard src/sys/*.c src/code/*.c src/port/translate/*.c)) \
	$(patsubst %.S,$(P)/obj/%.o,$(wildcard src/port/translate/*.S))
$(WHOLE_AGENT_OBJ): CFLAGS += -fno-stack-protector
$(WHOLE_AGENT): $(WHOLE_AGENT_OBJ)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now,-z,nodelete,-z,defs,-z,initfirst -o $@ $^ $(AGENT_LIBS)
# One that counts accesses by instruction, for tests/translate_qemu.sh.
PROFILE_AGENT := $(P)/tests/agents/profile.so
$(P)/obj/tests/agents/profile.o: CFLAGS += -fno-stack-protector
$(PROFILE_AGENT): $(P)/obj/tests/agents/profile.o $(filter-out %/whole.o,$(WHOLE_AGENT_OBJ))
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now,-z,nodelete,-z,defs,-z,initfirst -o $@ $^ $(AGENT_LIBS)
$(filter $(B)/tests/translate_process,$(TEST_BIN)): $(WHOLE_AGENT) $(P)/tests/programs/whole $(P)/tests/programs/exceptions
# Shared objects that tests load.
$(P)/tests/objects/%.so: tests/objects/%.c $(P)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -g -O2 -D_GNU_SOURCE $(WARN) $(EXTRA_CFLAGS) -fPIC -shared -o $@ $<
$(P)/tests/objects/%.so: tests/objects/%.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 -g -O2 -Wall -Wextra $(EXTRA_CFLAGS) -fPIC -shared -o $@ $<
ifneq ($(B),$(P))
$(B)/tests/objects/%.so: $(P)/tests/objects/%.so
	@mkdir -p $(@D)
	$(Q)cp $< $@
endif
$(filter $(B)/tests/code_inside $(B)/bench/code_trap,$(TEST_BIN) $(BENCH_BIN)): $(B)/tests/objects/watched.so
$(filter $(B)/tests/translate_code,$(TEST_BIN)): $(B)/tests/objects/throws.so
$(filter $(B)/tests/atomic_edges,$(TEST_BIN)): $(B)/tests/objects/atomic_throws.so
$(filter $(B)/tests/translate_changed,$(TEST_BIN)): $(addprefix $(B)/tests/objects/,first.so second.so) \
	$(P)/tests/agents/whole.so $(addprefix $(P)/tests/,programs/changing objects/first.so objects/second.so)
$(P)/tests/programs/changing: tests/translate_changed.h tests/tap.h
# Programs that tests, demo and benchmarks run under Linehome: plain ones, never sanitized, without the library.
$(P)/tests/programs/%: tests/programs/%.c tests/programs/program.h tests/programs/ring.h tests/programs/counted.h
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -g -O2 -D_GNU_SOURCE $(WARN) $(EXTRA_CFLAGS) -o $@ $< -lpthread $(LIBS_$*)
$(P)/tests/programs/%: tests/programs/%.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 -g -O2 -Wall -Wextra $(EXTRA_CFLAGS) -o $@ $< -lpthread
# As someone would who has only what is installed: the public header and the shared library.
$(B)/examples/%: examples/%.c $(wildcard examples/*.h) include/linehome.h $(B)/liblinehome.so
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c11 -g -O2 $(WARN) $(EXTRA_CFLAGS) $(SAN_FLAGS) -Iinclude -o $@ $< -L$(B) -llinehome \
		-Wl,-rpath,$(abspath $(B))
# But what an example runs is a program like any other; a compiler that optimises makes one comparison of two.
$(B)/examples/fuzz_target: examples/fuzz_target.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c11 -g $(WARN) $(EXTRA_CFLAGS) -o $@ $<
# A program that knows nothing of Linehome, and what is put into it while it runs.
$(B)/examples/patch/server: examples/patch/server.c examples/patch/rates.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -g -O2 $(WARN) $(EXTRA_CFLAGS) -o $@ $^
$(B)/examples/patch/%.so: examples/patch/%.c include/linehome/patch.h
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -g -O2 $(WARN) $(EXTRA_CFLAGS) -Iinclude -shared -fPIC -o $@ $<
# An ordinary library, compiled without any header of ours; and a program that gives it a pool for its memory.
$(B)/examples/ordinary/libordinary.so: $(addprefix examples/ordinary/,map.c hash.c redblack.c btree.c map.h inside.h)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c11 -g -O2 $(WARN) $(EXTRA_CFLAGS) -shared -fPIC -o $@ $(filter %.c,$^)
$(B)/examples/ordinary/keep: examples/ordinary/keep.c examples/ordinary/map.h include/linehome/atomic.h \
		$(B)/examples/ordinary/libordinary.so $(B)/liblinehome.so
	$(Q)$(CC) -std=c11 -g -O2 $(WARN) $(EXTRA_CFLAGS) $(SAN_FLAGS) -D_GNU_SOURCE -Iinclude -o $@ $< \
		-L$(@D) -lordinary -L$(B) -llinehome -Wl,-rpath,$(abspath $(@D)):$(abspath $(B))
# What is fuzzed is compiled once, for all targets.
FUZZ_FLAGS = $(CPPFLAGS) $(BLOB_FLAGS) $(filter-out -O0 -O2,$(CFLAGS)) -O1 -fno-sanitize-recover=undefined
FUZZ_OBJ := $(call obj,$(BUILD)/fuzz,$(LIB_SRC) $(MIGRATE_SRC))
$(BUILD)/fuzz/obj/%.o: %.c $(P)/flags
	@mkdir -p $(@D)
	$(Q)clang $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined -MMD -MP -c -o $@ $<
$(BUILD)/fuzz/obj/%.o: %.S $(P)/flags $(INSIDE) $(PAGE_PARTS)
	@mkdir -p $(@D)
	$(Q)clang $(CPPFLAGS) $(BLOB_FLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/fuzz/%: fuzz/%.c $(FUZZ_OBJ)
	@mkdir -p $(@D)
	$(Q)clang $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined -o $@ $< $(FUZZ_OBJ) $(CLI_LIBS)

# ---- what is run

# The long ones first. TESTS may name some: make test TESTS='build/tests/store_memory tests/lint.sh'
TESTS ?= $(TEST_SH) $(TEST_BIN)
JOBS ?= 2
export LINEHOME_BUILD := $(abspath $(B))
export CC MODE SAN

.PHONY: deps test bench bench-migrate fuzz soak soak-streams demo lint format format-check install uninstall clean
deps:
	@scripts/deps
# What is built needs what deps installs, hence a second make, which begins when deps has ended.
again = $(Q)$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS))
test: deps
	$(again) all tests
	$(Q)prove -j$(JOBS) --timer --exec scripts/timeout-test $(TESTS)

demo: deps
	$(again) all programs
	$(Q)scripts/demo

bench: all programs $(BENCH_BIN) $(POOL_BIN) $(ATOMIC_BIN)
	$(Q)for program in $(BENCH_BIN) $(filter-out bench/migrate.sh,$(wildcard bench/*.sh)); do \
		echo "== $$(basename $$program)"; $$program || exit 1; done

# Takes 15 minutes or more; RUNS=1 for a look.
bench-migrate: all
	$(Q)bench/migrate.sh

fuzz: $(FUZZ_BIN)
	$(Q)for program in $(FUZZ_BIN); do name=$$(basename $$program); mkdir -p $(BUILD)/fuzz/corpus/$$name; \
		echo "== $$name"; $$program -max_total_time=$(FUZZ_TIME) -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 \
		-artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/corpus/$$name $$(ls -d fuzz/corpus/$$name) \
		|| exit 1; done

soak: all tests
	$(Q)end=$$(($$(date +%s) + $(SOAK_TIME))); while [ $$(date +%s) -lt $$end ]; do \
		LH_TEST_STATES=$(SOAK_STATES) LH_TEST_ROUNDS=100 LH_TEST_LONG=1 prove -j$(JOBS) --timer --exec scripts/timeout-test $(TESTS) || exit 1; \
		$(MAKE) -s soak-streams || exit 1; done
# Random instruction streams from seeds that no run before had: half a million of each kind in some 10 minutes.
STREAMS := translate_stream translate_written
soak-streams: $(addprefix $(B)/tests/,$(STREAMS))
	$(Q)seed=$$(date +%s); for run in $$(seq 50); do for test in $(STREAMS); do \
		echo "$$test from seed $$seed"; LH_TEST_SEED=$$seed LH_TEST_ROUNDS=10000 timeout 600 $(B)/tests/$$test >$(B)/soak.out || \
		{ cat $(B)/soak.out; exit 1; }; seed=$$((seed + 10000)); done; done

CLANG_FORMAT ?= clang-format-14
FORMATTED = $(shell git ls-files '*.c' '*.h')
format:
	$(Q)$(CLANG_FORMAT) -i $(FORMATTED)
format-check:
	$(Q)$(CLANG_FORMAT) --dry-run -Werror $(FORMATTED)
lint: all
	$(Q)bash tests/lint.sh

# ---- installing

MAN := $(wildcard docs/man/*.[0-9])
install: all
	install -d $(addprefix $(DESTDIR),$(bindir) $(includedir)/linehome $(libdir)/pkgconfig $(libdir)/linehome $(completiondir))
	install -m 755 $(B)/linehome $(DESTDIR)$(bindir)/
	install -m 644 include/linehome.h $(DESTDIR)$(includedir)/
	install -m 644 include/linehome/*.h $(DESTDIR)$(includedir)/linehome/
	install -m 644 $(B)/liblinehome.a $(DESTDIR)$(libdir)/
	install -m 755 $(B)/liblinehome.so $(DESTDIR)$(libdir)/liblinehome.so.$(VERSION)
	ln -sf liblinehome.so.$(VERSION) $(DESTDIR)$(libdir)/liblinehome.so.$(SOVERSION)
	ln -sf liblinehome.so.$(SOVERSION) $(DESTDIR)$(libdir)/liblinehome.so
	install -m 755 $(addprefix $(B)/,$(AGENTS) $(ATOMIC)) $(DESTDIR)$(libdir)/linehome/
	sed 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(libdir)|; s|@INCLUDEDIR@|$(includedir)|; s|@VERSION@|$(VERSION)|' \
		scripts/linehome.pc.in >$(DESTDIR)$(libdir)/pkgconfig/linehome.pc
	install -m 644 src/cli/completion.bash $(DESTDIR)$(completiondir)/linehome
	for page in $(MAN); do install -D -m 644 $$page \
		$(DESTDIR)$(mandir)/man$${page##*.}/$$(basename $$page) || exit 1; done
uninstall:
	rm -f $(DESTDIR)$(bindir)/linehome $(DESTDIR)$(includedir)/linehome.h \
		$(patsubst include/%,$(DESTDIR)$(includedir)/%,$(wildcard include/linehome/*.h)) $(DESTDIR)$(completiondir)/linehome \
		$(DESTDIR)$(libdir)/liblinehome.a $(DESTDIR)$(libdir)/pkgconfig/linehome.pc \
		$(addprefix $(DESTDIR)$(libdir)/liblinehome,.so .so.$(SOVERSION) .so.$(VERSION)) \
		$(addprefix $(DESTDIR)$(libdir)/linehome/,$(AGENTS) $(ATOMIC)) \
		$(foreach page,$(MAN),$(DESTDIR)$(mandir)/man$(subst .,,$(suffix $(page)))/$(notdir $(page)))
	-rmdir $(DESTDIR)$(libdir)/linehome $(DESTDIR)$(includedir)/linehome

clean:
	rm -rf $(BUILD)

# Objects of tests are wanted by the next build too.
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
