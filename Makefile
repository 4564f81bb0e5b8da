# SPDX-License-Identifier: BSD-2-Clause
#
# The manual of this build.  GNU make, one file, no recursion; everything made lies under $(O).
#
#   make                    libraries (static and shared), the programs, the example programs
#   make check              all kinds of tests, bounded to minutes: unit cli power fuzz-regression interop
#                           vhost
#   make unit | cli | power | fuzz-regression | interop | vhost
#                           one kind; the last line of each is "N passed, N failed, N skipped"
#   make check-long         the same kinds without the bounds: 100,000 power cuts, many interop seeds
#   make fuzz               fuzzing with clang's libFuzzer for FUZZ_SECONDS (3600) for each target
#   make bench              measures us beside qemu-img in the same run and prints the ratios;
#                           BENCH="--quick --rows=info,map" goes to tests/bench/bench.py
#   make analyze            gcc -fanalyzer, clang-tidy, cppcheck, shellcheck, groff's and mandoc's lint
#   make valgrind           the unit tests under valgrind
#   make install            DESTDIR=D prefix=/usr libdir=... ; programs, libraries, header, pkg-config
#                           file, man pages, completion.  make uninstall takes them away again.
#   make install-qemu-img-link   a link qemu-img -> tapimg beside the program, for scripts
#   make clean
#
#   V=1                     show the commands
#   O=dir                   build there (default: build, or build-<sanitizers>)
#   SAN=asan,ubsan          with sanitizers; also tsan, cov
#   CC=clang                another compiler; a changed compiler or flag rebuilds what it concerns
#   WERROR=1                warnings are errors
#   J=n                     tests at once (default: number of processors)
#   T=pattern               only tests whose name contains it, e.g. make cli T=convert
#
# What belongs where: every .c of lib/ and formats/ is the library.  A .c of cmd/ named in PROGRAMS
# has the main() of that program; the others are an archive that all programs take what they use from.
# Every .c of tapdisk/ is the server; its objects lie in $(O)/server, for $(O)/tapdisk is the program.
# tests/unit/test-*.c and tests/power/test-*.c are one program each; the other .c files of these
# folders are shared by all test programs.  tests/fuzz/fuzz-*.c are fuzz targets, tests/cli/*.sh
# and tests/interop/*.{sh,py} are scripts (except those beginning with "lib"), tests/interop/*.c and
# tests/bench/*.c programs these use, examples/*.c programs that use only the installed header and
# library.

CC = gcc
CFLAGS ?= -O2 -g
PYTHON ?= python3
V ?= 0
comma := ,
empty :=
space := $(empty) $(empty)
SANS := $(subst $(comma), ,$(SAN))
O ?= build$(if $(SANS),-$(subst $(space),-,$(strip $(SANS))))
J ?= $(shell nproc)
FUZZ_SECONDS ?= 3600
FUZZ_CC ?= clang

prefix ?= /usr/local
bindir ?= $(prefix)/bin
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
datadir ?= $(prefix)/share
mandir ?= $(datadir)/man
compdir ?= $(datadir)/bash-completion/completions
zshcompdir ?= $(datadir)/zsh/site-functions
fishcompdir ?= $(datadir)/fish/vendor_completions.d
unitdir ?= $(prefix)/lib/systemd/system
vhostuserdir ?= $(datadir)/qemu/vhost-user
INSTALL ?= install

VERSION := $(shell sed -n 's/.*TAPIMG_VERSION "\(.*\)".*/\1/p' include/tapimg.h)
SOVERSION := 0
SONAME := libtapimg.so.$(SOVERSION)
SHLIB := libtapimg.so.$(VERSION)

# ---------------------------------------------------------------- flags

WARN = -Wall -Wextra -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wundef \
       -Wformat=2 -Wvla -Wno-unused-parameter -Werror=implicit-function-declaration \
       $(if $(filter 1,$(WERROR)),-Werror)
SANFLAGS := $(strip $(if $(filter asan,$(SANS)),-fsanitize=address -fno-omit-frame-pointer) \
	    $(if $(filter ubsan,$(SANS)),-fsanitize=undefined -fno-sanitize-recover=undefined) \
	    $(if $(filter tsan,$(SANS)),-fsanitize=thread) \
	    $(if $(filter cov,$(SANS)),--coverage -O0))
unknown_sans := $(filter-out asan ubsan tsan cov,$(SANS))
ifneq ($(unknown_sans),)
$(error SAN=$(SAN): unknown: $(unknown_sans); known: asan ubsan tsan cov)
endif

TI_CPPFLAGS = -Iinclude -Ilib -Iformats -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 $(CPPFLAGS)
TI_CFLAGS = -std=gnu11 $(WARN) -fPIC -fvisibility=hidden -fno-strict-aliasing -pthread \
	    $(CFLAGS) $(SANFLAGS)
TI_LDFLAGS = -Wl,-O1 -Wl,--as-needed -Wl,-z,relro $(LDFLAGS)
LIBS = -laio -lz -lzstd -ldeflate -ljansson -luuid -ldl -pthread
CHECK_LIBS = -lcheck -lsubunit -lm -lrt
TEST_CPPFLAGS = -Itests/vhost -Itests/unit -Itests/power -Itests/fuzz -Icmd -Itapdisk

ifeq ($(V),1)
Q =
say =
else
Q = @
say = @printf '  %-6s %s\n' $(1) $(2)
endif

# ---------------------------------------------------------------- what there is

LIB_SRC := $(sort $(wildcard lib/*.c formats/*.c))
CMD_SRC := $(sort $(wildcard cmd/*.c))
SERVER_SRC := $(sort $(wildcard tapdisk/*.c))
PROGRAMS := $(patsubst cmd/%.c,%,$(filter $(patsubst %,cmd/%.c,tapimg vhd-util td-util cbt-util \
	    qcow-create img2qcow qcow2raw tap-ctl),$(CMD_SRC)))
TEST_SRC := $(sort $(wildcard tests/unit/*.c tests/power/*.c tests/vhost/*.c))
PROG_SRC := $(filter tests/unit/test-% tests/power/test-% tests/vhost/test-% tests/vhost/vhost-%,$(TEST_SRC))
PRELOAD_SRC := $(filter tests/vhost/preload-%,$(TEST_SRC))
SHARED_SRC := $(filter-out $(PROG_SRC) $(PRELOAD_SRC),$(TEST_SRC))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz-*.c))
FUZZ_SHARED_SRC := $(filter-out $(FUZZ_SRC),$(sort $(wildcard tests/fuzz/*.c)))
BENCH_SRC := $(sort $(wildcard tests/bench/*.c))
TOOL_SRC := $(sort $(wildcard tests/interop/*.c))
EXAMPLE_SRC := $(sort $(wildcard examples/*.c))

# those whose main() is util.c's: they print their own completion
UTILS := $(filter vhd-util td-util cbt-util,$(PROGRAMS))
# and those that are one command
QTOOLS := $(filter qcow-create img2qcow qcow2raw,$(PROGRAMS))

LIB_OBJ := $(LIB_SRC:%.c=$(O)/%.o)
CMD_OBJ := $(filter-out $(PROGRAMS:%=$(O)/cmd/%.o),$(CMD_SRC:%.c=$(O)/%.o))
SERVER_OBJ := $(filter-out $(O)/server/main.o,$(SERVER_SRC:tapdisk/%.c=$(O)/server/%.o))
SHARED_OBJ := $(SHARED_SRC:%.c=$(O)/%.o)
FUZZ_SHARED_OBJ := $(FUZZ_SHARED_SRC:%.c=$(O)/%.o)
UNIT_BIN := $(patsubst %.c,$(O)/%,$(filter tests/unit/%,$(PROG_SRC)))
POWER_BIN := $(patsubst %.c,$(O)/%,$(filter tests/power/%,$(PROG_SRC)))
VHOST_BIN := $(patsubst %.c,$(O)/%,$(filter tests/vhost/%,$(PROG_SRC)))
PRELOAD := $(PRELOAD_SRC:tests/vhost/preload-%.c=$(O)/tests/vhost/count-%.so)
FUZZ_BIN := $(FUZZ_SRC:%.c=$(O)/%)
BENCH_BIN := $(BENCH_SRC:%.c=$(O)/%)
TOOL_BIN := $(TOOL_SRC:%.c=$(O)/%)
EXAMPLE_BIN := $(EXAMPLE_SRC:%.c=$(O)/%)
CLI_TESTS := $(filter-out tests/cli/lib%,$(sort $(wildcard tests/cli/*.sh tests/cli/*.py)))
VHOST_TESTS := $(sort $(wildcard tests/vhost/test-*.sh tests/vhost/test-*.py tests/guest/test-*.sh tests/guest/test-*.py))
INTEROP_TESTS := $(filter-out tests/interop/lib%,$(sort $(wildcard tests/interop/*.sh tests/interop/*.py)))
MAN := $(sort $(wildcard man/*.[1-8]))

PROGRAM_BIN := $(PROGRAMS:%=$(O)/%) $(if $(wildcard tapdisk/main.c),$(O)/tapdisk)
MAP := lib/libtapimg.map
# With sanitizers only what the tests use: their run-time does not go with -z defs.
SHARED_LIB := $(if $(SANS),,$(O)/$(SHLIB))
PC := $(O)/tapimg.pc

all: $(O)/libtapimg.a $(SHARED_LIB) $(PC) $(PROGRAM_BIN) $(if $(SHARED_LIB),$(EXAMPLE_BIN))

# A changed command line or a changed list of files makes what depends on it again.  Sources are
# listed, not objects: O=dir and O=/path/to/dir are the same build.
same = $(and $(findstring x$(1)x,x$(2)x),$(findstring x$(2)x,x$(1)x))
remember = $(if $(call same,$(strip $(file <$(1))),$(strip $(2))),,$(shell mkdir -p $(dir $(1)))$(file >$(1),$(strip $(2))))
ifeq ($(filter clean uninstall,$(MAKECMDGOALS)),)
_ := $(call remember,$(O)/.flags,flags: $(CC) $(TI_CFLAGS) $(TI_CPPFLAGS))
_ := $(call remember,$(O)/.cflags,$(CFLAGS))
_ := $(call remember,$(O)/.ldflags,flags: $(CC) $(TI_LDFLAGS) $(LIBS) $(SANFLAGS))
_ := $(call remember,$(O)/.lib-list,files: $(LIB_SRC))
_ := $(call remember,$(O)/.cmd-list,files: $(filter-out $(PROGRAMS:%=cmd/%.c),$(CMD_SRC)))
_ := $(call remember,$(O)/.server-list,files: $(SERVER_SRC))
_ := $(call remember,$(O)/.test-list,files: $(SHARED_SRC))
_ := $(call remember,$(O)/.paths,paths: $(VERSION) $(prefix) $(libdir) $(includedir))
endif

# ---------------------------------------------------------------- building

$(O)/tests/%.o: tests/%.c $(O)/.flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(TI_CFLAGS) $(TI_CPPFLAGS) $(TEST_CPPFLAGS) -MMD -MP -c -o $@ $<

$(O)/%.o: %.c $(O)/.flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(TI_CFLAGS) $(TI_CPPFLAGS) -MMD -MP -c -o $@ $<

$(O)/libtapimg.a: $(LIB_OBJ) $(O)/.lib-list
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $(LIB_OBJ)

$(O)/$(SHLIB): $(LIB_OBJ) $(MAP) $(O)/.lib-list $(O)/.ldflags
	$(call say,LD,$@)
	$(Q)$(CC) $(TI_CFLAGS) $(TI_LDFLAGS) -shared -Wl,-soname,$(SONAME) -Wl,-z,defs \
		-Wl,--version-script=$(MAP) -o $@ $(LIB_OBJ) $(LIBS)
	$(Q)ln -sf $(SHLIB) $(O)/$(SONAME) && ln -sf $(SONAME) $(O)/libtapimg.so

$(O)/tapimg.pc: lib/tapimg.pc.in $(O)/.paths
	$(call say,GEN,$@)
	$(Q)sed -e 's|@prefix@|$(prefix)|I' -e 's|@libdir@|$(libdir)|I' \
		-e 's|@includedir@|$(includedir)|I' -e 's|@version@|$(VERSION)|I' $< >$@

$(O)/server/%.o: tapdisk/%.c $(O)/.flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(TI_CFLAGS) $(TI_CPPFLAGS) -MMD -MP -c -o $@ $<

$(O)/libcmd.a: $(CMD_OBJ) $(O)/.cmd-list
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $(CMD_OBJ)

$(O)/libserver.a: $(SERVER_OBJ) $(O)/.server-list
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $(SERVER_OBJ)

# Programs carry the library in themselves: fewer files to load, and no version to go wrong.
# tap-ctl has the protocol and its names from the server.
$(PROGRAMS:%=$(O)/%): $(O)/%: $(O)/cmd/%.o $(O)/libcmd.a $(O)/libserver.a $(O)/libtapimg.a $(O)/.ldflags
	$(call say,LD,$@)
	$(Q)$(CC) $(TI_CFLAGS) $(TI_LDFLAGS) -o $@ $< $(O)/libcmd.a $(O)/libserver.a $(O)/libtapimg.a $(LIBS)

$(O)/tapdisk: $(O)/server/main.o $(O)/libserver.a $(O)/libtapimg.a $(O)/.ldflags
	$(call say,LD,$@)
	$(Q)$(CC) $(TI_CFLAGS) $(TI_LDFLAGS) -o $@ $< $(O)/libserver.a $(O)/libtapimg.a $(LIBS)

$(O)/tests/libtest.a: $(SHARED_OBJ) $(O)/.test-list
	@mkdir -p $(@D)
	$(Q)rm -f $@ && ar rcs $@ $(SHARED_OBJ)

$(UNIT_BIN) $(POWER_BIN) $(VHOST_BIN): $(O)/%: $(O)/%.o $(O)/tests/libtest.a $(O)/libserver.a $(O)/libtapimg.a $(O)/.ldflags
	$(call say,LD,$@)
	$(Q)$(CC) $(TI_CFLAGS) $(TI_LDFLAGS) -o $@ $< $(O)/tests/libtest.a $(O)/libserver.a \
		$(O)/libtapimg.a $(CHECK_LIBS) $(LIBS)

# Loaded into a program under test, to see what it asks of the system.
$(PRELOAD): $(O)/tests/vhost/count-%.so: tests/vhost/preload-%.c $(O)/.flags
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -D_GNU_SOURCE -std=gnu11 $(WARN) -O2 -fPIC -shared -o $@ $< -ldl

# As a regression driver: the shared files bring a main() that runs the files it is given.
$(FUZZ_BIN): $(O)/%: $(O)/%.o $(FUZZ_SHARED_OBJ) $(O)/tests/libtest.a $(O)/libserver.a $(O)/libtapimg.a $(O)/.ldflags
	$(call say,LD,$@)
	$(Q)$(CC) $(TI_CFLAGS) $(TI_LDFLAGS) -o $@ $< $(FUZZ_SHARED_OBJ) $(O)/tests/libtest.a $(O)/libserver.a \
		$(O)/libtapimg.a $(CHECK_LIBS) $(LIBS)

$(BENCH_BIN) $(TOOL_BIN): $(O)/%: $(O)/%.o $(O)/libtapimg.a $(O)/.ldflags
	$(call say,LD,$@)
	$(Q)$(CC) $(TI_CFLAGS) $(TI_LDFLAGS) -o $@ $< $(O)/libtapimg.a $(LIBS)

# Nothing but the public header and the shared library, as a user of the library has them.
$(EXAMPLE_BIN): $(O)/%: %.c include/tapimg.h $(O)/$(SHLIB) $(O)/.flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -Wall -Wextra -Iinclude -o $@ $< -L$(O) -ltapimg \
		-Wl,-rpath,$(abspath $(O)) $(LDFLAGS)

examples: $(EXAMPLE_BIN)

# ---------------------------------------------------------------- tests

RUN = $(PYTHON) tests/run.py --build $(O) --jobs $(J) $(if $(T),--only '$(T)')
kind_unit = --kind unit $(UNIT_BIN)
kind_cli = --kind cli $(CLI_TESTS)
kind_power = --kind power $(POWER_BIN)
kind_fuzz = --kind fuzz $(FUZZ_BIN)
kind_vhost = --kind vhost $(filter $(O)/tests/vhost/test-%,$(VHOST_BIN)) $(VHOST_TESTS)
kind_interop = --kind interop $(INTEROP_TESTS)

unit: $(UNIT_BIN)
	@$(RUN) $(kind_unit)

cli: all
	@$(RUN) $(kind_cli)

power: $(POWER_BIN)
	@$(RUN) $(kind_power)

fuzz-regression: $(FUZZ_BIN)
	@$(RUN) $(kind_fuzz)

vhost: all $(VHOST_BIN) $(PRELOAD)
	@$(RUN) $(kind_vhost)

interop: all $(TOOL_BIN)
	@$(RUN) $(kind_interop)

check: all $(UNIT_BIN) $(POWER_BIN) $(FUZZ_BIN) $(BENCH_BIN) $(TOOL_BIN) $(VHOST_BIN) $(PRELOAD)
	@$(RUN) $(kind_power) $(kind_vhost) $(kind_unit) $(kind_cli) $(kind_fuzz) $(kind_interop)

# Both kinds in one run, so that they share one sum; for builds with sanitizers.
san-check: all $(UNIT_BIN)
	@$(RUN) $(kind_unit) $(kind_cli)

check-long: all $(UNIT_BIN) $(POWER_BIN) $(FUZZ_BIN) $(BENCH_BIN) $(TOOL_BIN) $(VHOST_BIN) $(PRELOAD)
	@$(RUN) --long $(kind_unit) $(kind_cli) $(kind_power) $(kind_fuzz) $(kind_interop) $(kind_vhost)

valgrind: $(UNIT_BIN)
	@$(RUN) --valgrind $(kind_unit)

# libFuzzer wants its own compiler and flags: everything is built again below $(O)-fuzz.
fuzz:
	@$(MAKE) --no-print-directory CC=$(FUZZ_CC) O=$(O)-fuzz fuzz-build \
		CFLAGS='-O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined'
	@$(PYTHON) tests/run.py --build $(O)-fuzz --fuzz $(FUZZ_SECONDS) --jobs $(J) \
		--kind fuzz $(FUZZ_SRC:%.c=$(O)-fuzz/%-live)

FUZZ_LIVE := $(FUZZ_BIN:%=%-live)
fuzz-build: $(FUZZ_LIVE)
FUZZ_MAIN := $(O)/tests/fuzz/main.o
$(FUZZ_LIVE): $(O)/%-live: $(O)/%.o $(filter-out $(FUZZ_MAIN),$(FUZZ_SHARED_OBJ)) $(O)/tests/libtest.a $(O)/libserver.a $(O)/libtapimg.a
	$(call say,LD,$@)
	$(Q)$(CC) $(TI_CFLAGS) -fsanitize=fuzzer $(TI_LDFLAGS) -o $@ $^ $(CHECK_LIBS) $(LIBS)

bench: all $(BENCH_BIN) $(VHOST_BIN)
	@$(PYTHON) tests/bench/bench.py --build $(O) $(BENCH)

# ---------------------------------------------------------------- analysis

# Left out are the checks that do not see what an error code means: that a pointer was checked, or
# an output is set, whenever the function that answers 0 says so.
ANALYZER = -fanalyzer -Wno-analyzer-malloc-leak -Wno-analyzer-too-complex \
	   -Wno-analyzer-null-dereference -Wno-analyzer-possible-null-dereference \
	   -Wno-analyzer-possible-null-argument -Wno-analyzer-use-of-uninitialized-value
ANALYZE_SRC := $(LIB_SRC) $(CMD_SRC) $(SERVER_SRC)
ANALYZE_STAMP := $(ANALYZE_SRC:%.c=$(O)/analyze/%.ok)
$(O)/analyze/%.ok: %.c .clang-tidy $(O)/.flags
	$(call say,CHECK,$<)
	@mkdir -p $(@D)
	$(Q)gcc -std=gnu11 $(WARN) $(TI_CPPFLAGS) -O2 $(ANALYZER) -Werror -c -o /dev/null $<
	$(Q)clang-tidy --quiet --warnings-as-errors='*' $< -- -std=gnu11 $(TI_CPPFLAGS) \
		>$@.log 2>&1 || { cat $@.log; exit 1; }
	@touch $@

analyze: $(ANALYZE_STAMP)
	$(call say,CHECK,cppcheck)
	$(Q)cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr \
		--suppress=missingIncludeSystem --suppress=nullPointerRedundantCheck \
		--suppress=uninitStructMember --error-exitcode=1 -j $(J) \
		-Iinclude -Ilib -Iformats -Icmd -D_GNU_SOURCE lib formats cmd $(if $(SERVER_SRC),tapdisk)
	$(call say,CHECK,scripts)
	$(Q)shellcheck -x -S warning scripts/install-deps scripts/quickstart scripts/test .ci/run \
		$(wildcard tests/cli/*.sh tests/interop/*.sh completion/*)
	$(call say,CHECK,man)
	$(Q)$(if $(MAN),tests/interop/man-pages.py --lint-only)

# ---------------------------------------------------------------- installation

install: all
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(includedir)
	$(INSTALL) -m 755 $(PROGRAM_BIN) $(DESTDIR)$(bindir)
	$(INSTALL) -m 644 include/tapimg.h $(DESTDIR)$(includedir)/tapimg.h
	$(INSTALL) -m 644 $(O)/libtapimg.a $(DESTDIR)$(libdir)/libtapimg.a
	$(INSTALL) -m 755 $(O)/$(SHLIB) $(DESTDIR)$(libdir)/$(SHLIB)
	ln -sf $(SHLIB) $(DESTDIR)$(libdir)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(libdir)/libtapimg.so
	$(INSTALL) -m 644 $(O)/tapimg.pc $(DESTDIR)$(libdir)/pkgconfig/tapimg.pc
	for m in $(MAN); do \
		$(INSTALL) -D -m 644 $$m $(DESTDIR)$(mandir)/man$${m##*.}/$${m#man/} || exit 1; \
	done
	$(INSTALL) -d $(DESTDIR)$(compdir) $(DESTDIR)$(zshcompdir) $(DESTDIR)$(fishcompdir)
	$(O)/tapimg completion bash >$(DESTDIR)$(compdir)/tapimg
	$(O)/tapimg completion zsh >$(DESTDIR)$(zshcompdir)/_tapimg
	$(O)/tapimg completion fish >$(DESTDIR)$(fishcompdir)/tapimg.fish
	$(INSTALL) -m 644 completion/tap-ctl completion/tapdisk $(DESTDIR)$(compdir)
	$(INSTALL) -d $(DESTDIR)$(unitdir) $(DESTDIR)$(vhostuserdir)
	for u in tapdisk@.service tapdisk@.socket; do \
		sed 's|/usr/bin/|$(bindir)/|' systemd/$$u >$(DESTDIR)$(unitdir)/$$u || exit 1; \
	done
	sed 's|@bindir@|$(bindir)|' systemd/50-tapdisk.json.in >$(DESTDIR)$(vhostuserdir)/50-tapdisk.json
	for p in $(UTILS); do \
		$(O)/$$p completion bash >$(DESTDIR)$(compdir)/$$p && \
		$(O)/$$p completion zsh >$(DESTDIR)$(zshcompdir)/_$$p && \
		$(O)/$$p completion fish >$(DESTDIR)$(fishcompdir)/$$p.fish || exit 1; \
	done
	for p in $(QTOOLS); do \
		$(O)/$$p --completion=bash >$(DESTDIR)$(compdir)/$$p && \
		$(O)/$$p --completion=zsh >$(DESTDIR)$(zshcompdir)/_$$p && \
		$(O)/$$p --completion=fish >$(DESTDIR)$(fishcompdir)/$$p.fish || exit 1; \
	done

install-qemu-img-link: install
	ln -sf tapimg $(DESTDIR)$(bindir)/qemu-img

# The link is taken away only if it is ours.
uninstall:
	rm -f $(PROGRAM_BIN:$(O)/%=$(DESTDIR)$(bindir)/%) $(DESTDIR)$(includedir)/tapimg.h \
		$(DESTDIR)$(libdir)/libtapimg.a $(DESTDIR)$(libdir)/libtapimg.so \
		$(DESTDIR)$(libdir)/$(SONAME) $(DESTDIR)$(libdir)/$(SHLIB) \
		$(DESTDIR)$(libdir)/pkgconfig/tapimg.pc $(DESTDIR)$(compdir)/tapimg \
		$(DESTDIR)$(zshcompdir)/_tapimg $(DESTDIR)$(fishcompdir)/tapimg.fish \
		$(DESTDIR)$(compdir)/tap-ctl $(DESTDIR)$(compdir)/tapdisk \
		$(DESTDIR)$(unitdir)/tapdisk@.service $(DESTDIR)$(unitdir)/tapdisk@.socket \
		$(DESTDIR)$(vhostuserdir)/50-tapdisk.json
	for p in $(UTILS) $(QTOOLS); do rm -f $(DESTDIR)$(compdir)/$$p $(DESTDIR)$(zshcompdir)/_$$p \
		$(DESTDIR)$(fishcompdir)/$$p.fish; done
	for m in $(MAN); do rm -f $(DESTDIR)$(mandir)/man$${m##*.}/$${m#man/}; done
	if [ "$$(readlink $(DESTDIR)$(bindir)/qemu-img)" = tapimg ]; then \
		rm -f $(DESTDIR)$(bindir)/qemu-img; fi

clean:
	rm -rf $(O)

-include $(patsubst %.c,$(O)/%.d,$(LIB_SRC) $(CMD_SRC) $(TEST_SRC) $(FUZZ_SRC) $(FUZZ_SHARED_SRC) $(BENCH_SRC) $(TOOL_SRC)) \
	$(SERVER_SRC:tapdisk/%.c=$(O)/server/%.d)

.PHONY: all examples unit cli power fuzz-regression interop vhost check san-check check-long valgrind \
	fuzz fuzz-build bench analyze install install-qemu-img-link uninstall clean
.SECONDARY:
.DELETE_ON_ERROR:
