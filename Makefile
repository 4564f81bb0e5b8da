# SPDX-License-Identifier: BSD-2-Clause
#
# make                  build the library, the programs and the tests' helpers under $(O) (build)
# make V=1              show the commands
# make O=dir            build somewhere else
# make SAN=asan,ubsan   with sanitizers (also: tsan, cov)
# make CC=clang         with another compiler
#
# Every .c of lib/ and formats/ belongs to the library, every .c of cmd/ to tapimg,
# every tests/unit/*.c is one Check program.

O ?= build
CC = gcc
CFLAGS ?= -O2 -g
prefix ?= /usr/local
VERSION := $(shell sed -n 's/.*TAPIMG_VERSION "\(.*\)".*/\1/p' include/tapimg.h)

WARN = -Wall -Wextra -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wundef \
       -Wformat=2 -Wvla -Wno-unused-parameter -Werror=implicit-function-declaration
CPPFLAGS += -Iinclude -Ilib -Iformats -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64
ALL_CFLAGS = -std=gnu11 $(WARN) -fPIC -fvisibility=hidden -fno-strict-aliasing -pthread $(CFLAGS) $(SANFLAGS)
LIBS = -laio -lz -lzstd -ldeflate -ljansson -luuid -pthread

comma := ,
SANS := $(subst $(comma), ,$(SAN))
SANFLAGS := $(if $(filter asan,$(SANS)),-fsanitize=address -fno-omit-frame-pointer) \
	    $(if $(filter ubsan,$(SANS)),-fsanitize=undefined -fno-sanitize-recover=undefined) \
	    $(if $(filter tsan,$(SANS)),-fsanitize=thread) \
	    $(if $(filter cov,$(SANS)),--coverage -O0)
SANFLAGS := $(strip $(SANFLAGS))

ifeq ($(V),1)
Q =
else
Q = @
endif
say = $(if $(Q),@printf '  %-6s %s\n' $(1) $(2))

LIB_SRC := $(wildcard lib/*.c formats/*.c)
CMD_SRC := $(wildcard cmd/*.c)
UNIT_SRC := $(wildcard tests/unit/*.c)
LIB_OBJ := $(LIB_SRC:%.c=$(O)/%.o)
CMD_OBJ := $(CMD_SRC:%.c=$(O)/%.o)
UNIT_BIN := $(UNIT_SRC:%.c=$(O)/%)

# the program links once the library has all of its parts
PARTS := $(wildcard lib/loop.c lib/engine.c lib/image.c formats/raw.c)
all: $(O)/libtapimg.a $(CMD_OBJ) $(if $(word 4,$(PARTS)),$(O)/tapimg)

$(O)/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(O)/libtapimg.a: $(LIB_OBJ)
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^

$(O)/tapimg: $(CMD_OBJ) $(O)/libtapimg.a
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(O)/tests/unit/%: $(O)/tests/unit/%.o $(O)/libtapimg.a
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lcheck -lsubunit -lm -lrt $(LIBS)

unit: $(UNIT_BIN)
	@for t in $(UNIT_BIN); do echo "$$t"; $$t || exit 1; done

clean:
	rm -rf $(O)

-include $(LIB_OBJ:.o=.d) $(CMD_OBJ:.o=.d) $(UNIT_BIN:%=%.d)
.PHONY: all unit clean
.SECONDARY:
