/* The fibers behind cuda.h (x86-64), and what gpu-check calls: a task through the kernels. */
#include <sys/mman.h>

#include "kernels/cuda/launch.h"

namespace emulated {

enum { STACK = 128 << 10 };

place now;
unsigned char *shared;

struct fiber { void *sp; char *stack; place at; bool alive; };
struct group { int alive, arrived; uint64_t turn; };

static fiber fibers[THREADS_MAX];
static group block, warps[THREADS_MAX / WARP];
static uint64_t slots[THREADS_MAX];
static int threads, running;
static void *scheduler;
static const std::function<void()> *kernel;

/* Keeps what a callee keeps, stores the stack's top in *from and goes on at `to`. */
extern "C" void emulated_switch(void **from, void *to);
asm(".text\n.globl emulated_switch\n.type emulated_switch, @function\nemulated_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp, (%rdi)\nmov %rsi, %rsp\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static void yield() { emulated_switch(&fibers[running].sp, scheduler); }

static void wait(group *g)
{
    const uint64_t turn = g->turn;
    if (++g->arrived == g->alive) {
        g->arrived = 0;
        g->turn++;
        return;
    }
    while (g->turn == turn) yield();
}

static void leave(group *g)
{
    g->alive--;
    if (g->alive && g->arrived == g->alive) g->arrived = 0, g->turn++;
}

void wait_block() { wait(&block); }
void wait_warp(bool all)
{
    group *g = &warps[now.warp];
    if (all && g->alive != (threads - now.warp * WARP < WARP ? threads - now.warp * WARP : WARP)) fail("a warp waits for lanes that have left");
    wait(g);
}
uint64_t *slot(int lane) { return &slots[now.warp * WARP + lane]; }

extern "C" void emulated_begin()
{
    (*kernel)();
    fibers[running].alive = false;
    leave(&warps[now.warp]);
    leave(&block);
    yield();
    fail("a fiber that was over went on");
}

static void run_block(dim3 at, dim3 grid, dim3 size)
{
    block = { threads, 0, 0 };
    for (int w = 0; w * WARP < threads; w++) warps[w] = { threads - w * WARP < WARP ? threads - w * WARP : WARP, 0, 0 };
    for (int i = 0; i < threads; i++) {
        fiber *f = &fibers[i];
        if (!f->stack) f->stack = (char *)mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        void **top = (void **)(f->stack + STACK - 64);
        *--top = NULL;                                     /* where emulated_begin would return to: the stack is aligned as at a call */
        *--top = (void *)emulated_begin;
        for (int k = 0; k < 6; k++) *--top = NULL;
        f->sp = top;
        f->alive = true;
        f->at = { dim3((unsigned)i % size.x, (unsigned)i / size.x % size.y, (unsigned)i / size.x / size.y), at, size, grid, i % WARP, i / WARP };
    }
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < threads; i++) {
            if (!fibers[i].alive) continue;
            any = true;
            running = i;
            now = fibers[i].at;
            emulated_switch(&scheduler, fibers[i].sp);
        }
    }
}

void launch(dim3 grid, dim3 size, size_t bytes, const std::function<void()> &f)
{
    static unsigned char memory[SHARED_MAX] __attribute__((aligned(128)));
    threads = (int)(size.x * size.y * size.z);
    if (threads < 1 || threads > THREADS_MAX || bytes > SHARED_MAX || grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y || !grid.z) fail("a grid or a block that no card takes");
    kernel = &f;
    shared = memory;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                std::memset(memory, 0xff, bytes);
                run_block(dim3(x, y, z), grid, size);
            }
}

}

/* false: a kernel refused its task. */
extern "C" bool emulated_compute(const struct gpu_task *t)
{
    switch (t->kind) {
    case GPU_REDUCE: case GPU_SOFTMAX: case GPU_NORM_ROWS: case GPU_NORM_CHANNELS: return cuda_launch_rows(t, NULL) == 0;
    case GPU_ATTENTION: return cuda_launch_attention(t, NULL) == 0;
    case GPU_EMBED: case GPU_LINEAR: case GPU_GATE: case GPU_ROPE_TABLE: case GPU_STORE: case GPU_ROUTE: case GPU_COMBINE: return cuda_launch_llm(t, NULL) == 0;
    case GPU_PAGED: return cuda_launch_paged(t, NULL) == 0;
    default: return cuda_launch_elements(t, NULL) == 0;
    }
}
