# One non-recursive Makefile. The words: MODE=release|debug, SAN=address|thread|undefined, CC, V=1.
MODE ?= release
SAN ?=
CC = gcc
PREFIX ?= /usr/local
DESTDIR ?=

B := build$(if $(SAN),/$(SAN),$(if $(filter-out release,$(MODE)),/$(MODE)))
Q := $(if $(V),,@)

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wno-unused-parameter
CPPFLAGS += -Isrc -Iinclude -D_GNU_SOURCE -DLH_BUILD
CFLAGS += -std=gnu11 -g $(if $(filter debug,$(MODE)),-O0,-O2) -fPIC -fvisibility=hidden -fno-omit-frame-pointer \
	-fno-strict-aliasing $(WARN) $(EXTRA_CFLAGS)
ifeq ($(SAN),address)
CFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=undefined
LDFLAGS += -fsanitize=address,undefined
else ifneq ($(SAN),)
CFLAGS += -fsanitize=$(SAN)
LDFLAGS += -fsanitize=$(SAN)
endif

# What the agent needs runs in other people's programs, in contexts without libc's thread-local storage:
# no stack protector. It links none of the libraries below.
CORE_DIRS := sys line store net/data home port port/page
LIB_DIRS := $(CORE_DIRS) net service/serve
CORE_SRC := $(foreach d,$(CORE_DIRS),$(wildcard src/$(d)/*.c))
LIB_SRC := $(foreach d,$(LIB_DIRS),$(wildcard src/$(d)/*.c))
AGENT_SRC := $(wildcard src/service/run/agent/*.c)
CLI_SRC := $(wildcard src/cli/*.c) $(wildcard src/service/run/*.c)
LIB_LIBS := -lssl -lcrypto -lpthread
CLI_LIBS := -ljansson $(LIB_LIBS)

obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
LIB_OBJ := $(call obj,$(LIB_SRC))
CORE_OBJ := $(call obj,$(CORE_SRC))
AGENT_OBJ := $(call obj,$(AGENT_SRC))
CLI_OBJ := $(call obj,$(CLI_SRC))

TEST_SRC := $(wildcard tests/*.c)
TEST_BIN := $(patsubst tests/%.c,$(B)/tests/%,$(TEST_SRC))
TEST_SH := $(wildcard tests/*.sh)
BENCH_BIN := $(patsubst bench/%.c,$(B)/bench/%,$(wildcard bench/*.c))
EXAMPLE_BIN := $(patsubst examples/%.c,$(B)/examples/%,$(wildcard examples/*.c))

.PHONY: all clean
all: $(B)/liblinehome.a $(B)/liblinehome.so $(B)/linehome $(B)/liblinehome-run.so

$(B)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(CORE_OBJ) $(AGENT_OBJ): CFLAGS += -fno-stack-protector

$(B)/liblinehome.a: $(LIB_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

$(B)/liblinehome.so: $(LIB_OBJ)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-soname,liblinehome.so.0 -Wl,-z,defs -o $@ $^ $(LIB_LIBS)

$(B)/liblinehome-run.so: $(CORE_OBJ) $(AGENT_OBJ)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now -Wl,-z,nodelete -o $@ $^

$(B)/linehome: $(CLI_OBJ) $(B)/liblinehome.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(CLI_LIBS)

$(B)/tests/%: $(B)/obj/tests/%.o $(B)/liblinehome.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIB_LIBS)

$(B)/bench/%: $(B)/obj/bench/%.o $(B)/liblinehome.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIB_LIBS) -lm

# Programs that tests, demo and benchmarks run under Linehome: plain ones, never sanitized, without the library.
PROGRAM_BIN := $(patsubst tests/programs/%.c,$(B)/tests/programs/%,$(wildcard tests/programs/*.c))
.PHONY: programs
programs: $(PROGRAM_BIN)
$(B)/tests/programs/%: tests/programs/%.c tests/programs/program.h
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -g -O2 -D_GNU_SOURCE $(WARN) -o $@ $< -lpthread $(if $(filter keys,$*),-lhiredis)

.PHONY: tests
tests: $(TEST_BIN)

clean:
	rm -rf build

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
