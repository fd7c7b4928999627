# inferd: one small inference server. `make help` lists the targets.
#
# Objects go to build/<config>/, so that a sanitizer build never mixes with the release build:
#   make                    build/release/inferd
#   make SAN=address        build/address/inferd   (AddressSanitizer + UndefinedBehaviorSanitizer)
#   make SAN=undefined      build/undefined/inferd
#   make SAN=thread         build/thread/inferd

SHELL   := /bin/bash
PREFIX  ?= /usr/local
CC      := gcc
VERSION := 0.1.0
SAN     ?=
CONFIG  := $(if $(SAN),$(SAN),release)
B       := build/$(CONFIG)

WARN    := -Wall -Wextra -Werror -Wvla -Walloca -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wundef -Wno-format-truncation
HARDEN  := -fstack-protector-strong -fstack-clash-protection -fPIE
# No contraction: a*b+c is fused only where the source says fma, so that every CPU level adds up in the same bits.
CFLAGS  := -std=c17 -D_GNU_SOURCE -I. -g -fno-strict-aliasing -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp -pthread $(WARN) $(HARDEN) -DINFERD_VERSION='"$(VERSION)"'
LDFLAGS := -pie -Wl,-z,relro,-z,now -Wl,--as-needed -fopenmp -pthread
LDLIBS  := -lmicrohttpd -lgnutls -lgrpc -lgpr -lcurl-gnutls -ldnnl -lsqlite3 -lnettle -lhogweed -ljpeg -lpng -lwebp -lz -lseccomp -lpcre2-8 -lutf8proc -lm

ifeq ($(SAN),)
CFLAGS  += -O2 -D_FORTIFY_SOURCE=3
else ifeq ($(SAN),address)
CFLAGS  += -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
LDFLAGS += -fsanitize=address,undefined
else ifeq ($(SAN),undefined)
CFLAGS  += -O1 -fno-omit-frame-pointer -fsanitize=undefined -fno-sanitize-recover=undefined
LDFLAGS += -fsanitize=undefined
else ifeq ($(SAN),thread)
CFLAGS  += -O1 -fno-omit-frame-pointer -fsanitize=thread
LDFLAGS += -fsanitize=thread
else
$(error SAN is address, undefined or thread)
endif

# ISA flags by folder; the binary picks at run time by CPUID (kernels/dispatch.c). Never -march=native.
ISA_avx2    := -O3 -mavx2 -mfma -mf16c -mbmi2
ISA_avx512  := $(ISA_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni
ISA_avx512vbmi := $(ISA_avx512vnni) -mavx512vbmi
ISA_avx512bf16 := $(ISA_avx512vnni) -mavx512bf16
ISA_amx     := $(ISA_avx512bf16) -mavx512fp16 -mavx512vbmi -mamx-tile -mamx-int8 -mamx-bf16

FOLDERS := base kernels kernels/cpu/scalar kernels/cpu/avx2 kernels/cpu/avx512 kernels/cpu/avx512vnni kernels/cpu/avx512vbmi kernels/cpu/avx512bf16 kernels/cpu/amx engine engine/formats engine/text engine/graph engine/operators engine/operators/control engine/operators/text engine/operators/quantised engine/operators/nn engine/operators/vision engine/operators/signal engine/operators/ml engine/operators/microsoft engine/onnx engine/calibrate engine/llm engine/diffusion engine/ensemble model_store monitor api server
# The GPU library: `make CUDA=1` builds it beside the binary, which opens it at run time. Its C is held to the same rules; CUDA C++ stands in .cu files only.
CUDA    ?=
CUDA_HOME ?= /usr/local/cuda
NVCC    := $(CUDA_HOME)/bin/nvcc
CUDA_ARCH ?= -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_90,code=compute_90
NVFLAGS := -std=c++17 -O3 -I. $(CUDA_ARCH) --Werror all-warnings -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror
CUDA_OBJ := $(patsubst %,$(B)/cuda/%.o,$(wildcard kernels/cuda/*.c kernels/cuda/*.cu) base/status.c base/memory.c)
# Its libraries are found where it was built and, once installed, in the folder inferd/ beside it (tools/cuda_toolkit.sh --libraries).
CUDA_LIBS := -L$(CUDA_HOME)/lib64 -Wl,-rpath,'$$ORIGIN/inferd:$(abspath $(CUDA_HOME))/lib64' -lcublasLt -lcudnn -lcudart -ldl
SRC     := $(filter-out server/main.c,$(foreach d,$(FOLDERS),$(wildcard $(d)/*.c)))
OBJ     := $(SRC:%.c=$(B)/%.o)
LIB     := $(B)/libinferd.a
TESTS   := $(sort $(wildcard tests/*/*_test.c))
TESTBIN := $(TESTS:%.c=$(B)/%)
FUZZ    := $(sort $(wildcard tests/fuzz/*_fuzz.c))
FUZZBIN := $(FUZZ:%.c=$(B)/%)
# Code that several suites share.
TESTHELP := $(patsubst %.c,$(B)/%.o,$(filter-out %_test.c %_fuzz.c %_check.c tests/test.c tests/fuzz/% tests/bench/% tests/cuda/%,$(wildcard tests/*/*.c)))
# Suites that start threads also run under ThreadSanitizer.
THREADED := $(shell grep -lE '^/\* threaded' $(TESTS) 2>/dev/null)

# V=1 shows the commands.
V       ?=
Q       := $(if $(V),,@)
say      = $(if $(V),,@printf '  %-4s %s\n' $(1) $(2))

.PHONY: all help setup run test bench bench-peers bench-embeddings zoo bench-serving bench-pictures bench-texts bench-stream llama-compat int8-compat fuzz faults compat docker-check gpu-check test-gpu bench-gpu light conformance clean install dist check-includes check-sizes check-map tests-build fuzz-build

all: $(B)/inferd $(if $(CUDA),$(B)/libinferd_cuda.so)  ## build the release binary build/release/inferd

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup:  ## install the Debian packages that are missing
	@tools/setup.sh

$(B)/inferd: $(B)/server/main.o $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(LIB): $(OBJ)
	@rm -f $@
	@ar rcs $@ $^

$(B)/libinferd_cuda.so: $(CUDA_OBJ)
	$(call say,LD,$@)
	$(Q)g++ -shared -Wl,-z,relro,-z,now -Wl,--no-undefined -o $@ $^ $(CUDA_LIBS)
$(B)/cuda/%.c.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(filter-out -fPIE,$(CFLAGS)) -fPIC -fvisibility=hidden -isystem $(CUDA_HOME)/include -MMD -MP -c -o $@ $<
$(B)/cuda/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(call say,NVCC,$<)
	$(Q)$(NVCC) $(NVFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

isa = $(ISA_$(word 3,$(subst /, ,$(patsubst kernels/cpu/%,kernels cpu %,$(1)))))
$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS) $(call isa,$<) -MMD -MP -c -o $@ $<

$(B)/tests/%_test: $(B)/tests/%_test.o $(B)/tests/test.o $(TESTHELP) $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/tests/fuzz/%_fuzz: $(B)/tests/fuzz/%_fuzz.o $(B)/tests/fuzz/driver.o $(B)/tests/api/fake_model.o $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

tests-build: $(TESTBIN) $(B)/inferd
fuzz-build: $(FUZZBIN)

run: setup  ## build, then serve the demo models on 127.0.0.1:8000
	@$(MAKE) --no-print-directory all
	$(B)/inferd serve --store models --http-port 8000

T ?=
test: setup  ## build and pass every test (T=name: one suite)
	@tests/run.sh $(T)

# Small tools that measure or load: one file each.
$(B)/tests/bench/load $(B)/tests/bench/rpc_load: $(B)/tests/bench/%: tests/bench/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) -std=c17 -D_GNU_SOURCE -O2 -g $(WARN) -o $@ $< -lm -pthread

faults: all $(B)/tests/bench/load  ## the fault plan in full: damaged files, hot swap, overload, slow and vanishing clients, storms (about 25 min)
	@$(MAKE) --no-print-directory SAN=address build/address/tests/llm/corrupt_test && FAULTS=full build/address/tests/llm/corrupt_test
	@tools/venv.sh && FAULTS=full build/venv/bin/python tests/e2e/faults_test.py

$(B)/tests/bench/kernels_bench: $(B)/tests/bench/kernels_bench.o $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

bench: $(B)/tests/bench/kernels_bench  ## speed of every kernel at every CPU level, GB/s and GFLOP/s (BENCH="gemm conv chain small")
	$< $(BENCH)

bench-serving: all $(B)/tests/bench/load $(B)/tests/bench/rpc_load  ## figures of the whole server: front end, batching, overhead (SERVING="front grpc batching overhead")
	@tools/venv.sh onnx && build/venv/bin/python tools/bench_serving.py $(SERVING)

bench-peers: all  ## inferd and onnxruntime side by side: ResNet-50, MobileNetV2, AlexNet (PEERS="resnet50 --threads 1")
	@tools/bench_peers.py --least 0.85 --inferd $(B)/inferd $(PEERS)

zoo: all  ## one small network of each family beside the library it comes from and onnxruntime (ZOO="--no-speed resnet18 bert")
	@tools/venv.sh torch torchvision transformers onnx onnxruntime onnxscript scikit-learn skl2onnx && build/venv/bin/python tools/zoo --inferd $(B)/inferd $(ZOO)

bench-embeddings: all  ## sentences a second of all-MiniLM-L6-v2, inferd beside transformers on PyTorch (EMBEDDINGS="--threads 2 --length 100")
	@tools/venv.sh torch transformers && build/venv/bin/python tools/bench_embeddings.py --inferd $(B)/inferd $(EMBEDDINGS)

bench-pictures: all  ## pictures: inferd, stable-diffusion.cpp, PyTorch and OpenVINO on Stable Diffusion 1.5's shape, in turns (PICTURES="--arms inferd,torch --rounds 3")
	@tools/venv.sh torch transformers diffusers openvino && tools/bench_pictures.py --inferd $(B)/inferd $(PICTURES)

bench-texts: all $(B)/tests/bench/kernels_bench  ## language models: inferd and llama.cpp on the same GGUF files, in turns (TEXTS="--types q4_k_m --sequences 1,16")
	@tools/bench_texts.py --inferd $(B)/inferd $(TEXTS)

llama-compat: all  ## our quantised files in llama.cpp, and what either loses in its quick mode (COMPAT="--types Q4_K_M --venv DIR")
	@tools/venv.sh gguf && build/venv/bin/python tools/llama_compat.py --inferd $(B)/inferd $(COMPAT)

int8-compat: all  ## networks rounded by `inferd quantize --calibrate` in onnxruntime, and beside its quantize_static (INT8="--methods minmax build/zoo/resnet18"; folders come from `make zoo`)
	@tools/venv.sh onnx onnxruntime && build/venv/bin/python tools/int8_compat.py --inferd $(B)/inferd $(INT8)

bench-stream: all  ## a language model through the server: 16 streaming clients beside the library (STREAM="build/texts/q4_k_m.gguf --clients 16"; files come from bench-texts)
	@tools/bench_stream.py --inferd $(B)/inferd $(or $(STREAM),build/texts/q4_k_m.gguf)

# The suite's nine whole networks hold one constant as all their weights; filled with seeded random ones they prove numbers.
SUITE := build/onnx-suite/onnx/backend/test/data
light: all  ## the nine light networks of the ONNX suite with random weights, compared with onnxruntime to 1e-4
	@tools/venv.sh onnx onnxruntime && mkdir -p build/onnx-suite && tar --zstd -xf ../shared/data/onnx-backend-v1.22.0.tar.zst -C build/onnx-suite
	@build/venv/bin/python tools/make_networks.py --out build/networks/light --light $(SUITE)/light && $(B)/inferd check --rtol 1e-4 --atol 1e-6 build/networks/light/*

# One process for each: the numeric libraries bind their instruction set once.
conformance: setup  ## the ONNX backend suites against the ledger (tests/conformance/onnx_ledger.txt) at every CPU level, graph passes on and off
	@tools/debs.sh libonnx-testdata
	@$(MAKE) --no-print-directory $(B)/tests/engine/suite_test
	@if tools/venv.sh onnx onnxruntime; then build/venv/bin/python tools/make_onnx_cases.py build/onnx-cases; else echo "without onnxruntime the generated cases are not made"; fi
	@for level in scalar avx2 avx512 amx; do for written in "" 1; do \
	    echo "== $$level$${written:+, as written}"; \
	    env CONFORMANCE_LEVEL=$$level $${written:+CONFORMANCE_AS_WRITTEN=1} $(B)/tests/engine/suite_test || exit 1; done; done
	@echo "== as tasks of a GPU"; CONFORMANCE_GPU=1 $(B)/tests/engine/suite_test

compat: all  ## the same requests to inferd and to a real Triton server, every difference mended or explained
	@tools/venv.sh onnx "tritonclient[grpc]" && build/venv/bin/python tools/compat.py

fuzz: fuzz-build  ## run every fuzz target for 60 s each (FUZZ_SECONDS)
	@for f in $(FUZZBIN); do $$f --seconds $${FUZZ_SECONDS:-60} tests/fuzz/corpus/$$(basename $$f _fuzz) || exit 1; done

check-includes:  ## fail when a folder includes a header of a folder above it in the walk
	@tools/check_includes.sh

check-sizes:  ## fail when a product of sizes goes straight into the allocator, or something below server/ exits or prints
	@tools/check_sizes.sh

check-map:  ## fail when README's map and the tree differ
	@tools/check_map.sh

# Everything that runs on the card, from base/, engine/ and kernels/ alone: a machine with the toolkit and a C compiler is enough.
GPU_CHECK := $(patsubst %,$(B)/%.o,tests/kernels/gpu_check tests/kernels/gpu_llm_check tests/kernels/fake_gpu tests/kernels/fake_gpu_llm kernels/gpu base/status base/clock)
$(B)/gpu-check: $(GPU_CHECK)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lm

# The kernels themselves on the host, block by block: a C++ compiler reads the .cu files with tests/cuda/emulated/cuda.h in front.
EMULATED := $(patsubst %,$(B)/emulated/%.o,$(wildcard kernels/cuda/*.cu) tests/cuda/emulated/emulate.cu)
$(B)/gpu-check-emulated: $(GPU_CHECK) $(EMULATED)
	$(call say,LD,$@)
	$(Q)g++ $(filter-out -pie,$(LDFLAGS)) -no-pie -o $@ $^ -lm
$(B)/emulated/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(call say,CXX,$<)
	$(Q)g++ -std=c++17 -O2 -g -I. -Itests/cuda/emulated -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-missing-field-initializers -Wno-maybe-uninitialized -fno-strict-aliasing -x c++ -DEMULATED -include tests/cuda/emulated/cuda.h -MMD -MP -c -o $@ $<

# The library's host side without a card: tests/cuda/shim.h stands in for the toolkit's libraries, whose headers it needs.
CUDA_HOST := $(patsubst %,$(B)/cuda/%.o,$(wildcard kernels/cuda/*.c) tests/cuda/shim.c tests/kernels/fake_gpu.c tests/kernels/fake_gpu_llm.c base/status.c base/memory.c)
$(B)/cuda-host-check: $(CUDA_HOST) $(B)/cuda/tests/cuda/host_check.c.o
	$(call say,LD,$@)
	$(Q)$(CC) $(filter-out -pie,$(LDFLAGS)) -o $@ $^ -lm -ldl
$(B)/libinferd_cuda_shim.so: $(CUDA_HOST)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,--no-undefined -o $@ $^ -lm -ldl

gpu-check: $(B)/gpu-check $(B)/libinferd_cuda.so  ## every CUDA kernel and library call beside its reference on the host, at odd shapes (needs the toolkit and a card)
	$(B)/gpu-check $(B)/libinferd_cuda.so

# Whole models on a card: the same tests that `make test` runs on a device without one (tests/kernels/fake_gpu.h).
test-gpu: gpu-check tests-build  ## gpu-check, then logits, texts, latents and networks on a real card beside the CPU and the libraries the models come from (needs CUDA=1)
	for t in llm/card_test llm/golden_test llm/quantised_test diffusion/vectors_test; do echo "== $$t"; TEST_GPU=$(abspath $(B))/libinferd_cuda.so $(B)/tests/$$t || exit 1; done
	TEST_GPU=$(abspath $(B))/libinferd_cuda.so $(B)/tests/llm/engine_test texts_on_a_card

bench-gpu: $(B)/inferd $(B)/libinferd_cuda.so  ## networks, a language model and one that draws on GPU 0, beside PyTorch where it finds the card (needs CUDA=1; GPU_BENCH="--only resnet50 --torch off")
	@tools/bench_gpu.py --inferd $(B)/inferd $(GPU_BENCH)

docker-check:  ## take the Dockerfile's steps in a clean Debian root and start what it makes (as root, with debootstrap; minutes; DOCKER_TARGET=cuda)
	@tools/docker_check.py $(or $(DOCKER_TARGET),cpu)

install: all  ## install to PREFIX (/usr/local)
	install -D -m 755 $(B)/inferd $(DESTDIR)$(PREFIX)/bin/inferd
	install -d $(DESTDIR)$(PREFIX)/share/inferd/models
	cp -r models/* $(DESTDIR)$(PREFIX)/share/inferd/models/
	$(if $(CUDA),install -D -m 644 $(B)/libinferd_cuda.so $(DESTDIR)$(PREFIX)/lib/libinferd_cuda.so)

dist:  ## a source archive of HEAD
	git archive --prefix=inferd-$(VERSION)/ -o build/inferd-$(VERSION).tar.gz HEAD

clean:  ## remove build/
	rm -rf build

-include $(OBJ:.o=.d) $(CUDA_OBJ:.o=.d) $(CUDA_HOST:.o=.d) $(EMULATED:.o=.d) $(GPU_CHECK:.o=.d) $(TESTHELP:.o=.d) $(TESTBIN:=.d) $(FUZZBIN:=.d) $(B)/server/main.d $(B)/tests/test.d
.SECONDARY: $(TESTBIN:=.o) $(TESTHELP) $(FUZZBIN:=.o) $(B)/tests/test.o $(B)/tests/fuzz/driver.o $(B)/tests/bench/kernels_bench.o
