// Runs a CUDA kernel's source on the CPU: each thread of a block is a fiber, so that barriers and warp operations mean
// what they mean on a device. For tests of what kernels compute and of how their threads meet; it says nothing of speed,
// alignment or what a device can hold.
//
// Threads run until they wait. The order in which blocks and threads get their turns is chosen by the caller, and no
// result may depend on it. Dynamic shared memory begins as NaN. A barrier that not all threads of a block reach, threads
// at different barriers, and a warp operation without one of its lanes end the run with an error that says where.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>
#include <sys/mman.h>
#include <ucontext.h>

#define SIMT 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace simt {
enum class State : uint8_t { Ready, Barrier, Warp, Done };
enum class Order : unsigned { Forward, Reverse, Random };

struct Context;
#if defined(__x86_64__)
// Six registers that a callee keeps, and the stack.
extern "C" void simt_switch(void** from, void* to);
asm(R"(.text
.globl simt_switch
.type simt_switch,@function
simt_switch:
 push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
 mov %rsp,(%rdi)
 mov %rsi,%rsp
 pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
 ret
.size simt_switch,.-simt_switch
)");
struct Place { void* stack = nullptr; };
inline void change(Place& from, Place& to) { simt_switch(&from.stack, to.stack); }
inline void begin(Place& place, char* stack, size_t bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + bytes) - 2;
  *top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  place.stack = top;
}
#else
struct Place { ucontext_t context; };
inline void change(Place& from, Place& to) { swapcontext(&from.context, &to.context); }
inline void begin(Place& place, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&place.context);
  place.context.uc_stack.ss_sp = stack;
  place.context.uc_stack.ss_size = bytes;
  place.context.uc_link = nullptr;
  makecontext(&place.context, entry, 0);
}
#endif

constexpr size_t STACK = 64 << 10, GUARD = 4 << 10;

struct Fiber { Place place; uint3 thread; unsigned number, lane, warp, mask; State state; int line; uint64_t gives; uint64_t got[32]; };

struct Block {
  uint3 block{}; dim3 grid{}, threads{};
  unsigned count = 0, live = 0, waiting = 0, voted = 0, vote = 0;
  std::vector<Fiber> fibers;
  unsigned char* shared = nullptr;
  Place scheduler;
  void (*body)(void*) = nullptr; void* argument = nullptr;
  const char* wrong = nullptr; int wrong_at = 0;
};
// A host thread runs one kernel at a time.
inline thread_local Block* here = nullptr;
inline thread_local Fiber* self = nullptr;

inline void wait() { change(self->place, here->scheduler); }
[[noreturn]] inline void fail(const char* what, int line) {
  here->wrong = what; here->wrong_at = line;
  for (;;) wait();
}
inline void release() {
  here->waiting = 0; here->voted = here->vote; here->vote = 0;
  for (auto& f : here->fibers) if (f.state == State::Barrier) f.state = State::Ready;
}
inline unsigned barrier(int line, bool yes = false) {
  // Devices let those who have ended count as there; no kernel of ours relies on it.
  if (here->live < here->count) fail("a thread ended while others wait at a barrier", line);
  if (here->waiting)
    for (auto& f : here->fibers)
      if (f.state == State::Barrier && f.line != line) fail("threads of a block wait at different barriers", line);
  here->vote += yes; self->line = line; self->state = State::Barrier;
  if (++here->waiting == here->live) release();
  wait();
  return here->voted;
}
// Every lane of the mask gives a value, and gets those of all.
inline const uint64_t* meet(unsigned mask, uint64_t value, int line) {
  unsigned in_warp = std::min(32u, here->count - self->warp * 32);
  if (in_warp < 32) mask &= (1u << in_warp) - 1;
  if (!(mask >> self->lane & 1)) fail("a lane calls a warp operation whose mask leaves it out", line);
  self->mask = mask; self->gives = value; self->line = line; self->state = State::Warp;
  Fiber* lanes = &here->fibers[self->warp * 32];
  bool all = true;
  for (unsigned l = 0; l < in_warp; l++)
    if (mask >> l & 1) {
      if (lanes[l].state == State::Done) fail("a warp operation waits for a lane that has ended", line);
      all &= lanes[l].state == State::Warp && lanes[l].mask == mask && lanes[l].line == line;
    }
  if (all)
    for (unsigned l = 0; l < in_warp; l++)
      if (mask >> l & 1) {
        for (unsigned o = 0; o < in_warp; o++) lanes[l].got[o] = lanes[o].gives;
        lanes[l].state = State::Ready;
      }
  wait();
  return self->got;
}
template <class T> uint64_t bits(T value) { static_assert(sizeof(T) <= 8); uint64_t b = 0; memcpy(&b, &value, sizeof value); return b; }
template <class T> T value(uint64_t bits) { T v; memcpy(&v, &bits, sizeof v); return v; }
template <class T> T shuffle(unsigned mask, T mine, int from, int line) {
  return value<T>(meet(mask, bits(mine), line)[from & 31]);
}
template <class T> T* shared() { return reinterpret_cast<T*>(here->shared); }

inline void entry() {
  here->body(here->argument);
  self->state = State::Done;
  if (--here->live && here->waiting) { here->wrong = "a thread ended while others wait at a barrier"; here->wrong_at = 0; }
  for (;;) wait();
}
struct Random { uint64_t state; uint64_t next() { uint64_t z = (state += 0x9E3779B97F4A7C15); z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; z = (z ^ z >> 27) * 0x94D049BB133111EB; return z ^ z >> 31; } };
template <class T> void arrange(std::vector<T>& items, Order order, Random& random) {
  if (order == Order::Reverse) std::reverse(items.begin(), items.end());
  if (order == Order::Random) for (size_t i = items.size(); i > 1; i--) std::swap(items[i - 1], items[random.next() % i]);
}

// Room for the largest block, kept while its thread lives. A process may have only some 65,000 mappings and each closed page
// makes two, so that pages are closed for as many stacks as a block has had.
struct Stacks {
  static constexpr unsigned MOST = 1024;
  char* base = nullptr;
  unsigned closed = 0;
  // Stacks for this many; none where there is no memory or there are too many mappings.
  char* of(unsigned count) {
    if (count > MOST) return nullptr;
    if (!base) {
      void* made = mmap(nullptr, MOST * (STACK + GUARD), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (made == MAP_FAILED) return nullptr;
      base = static_cast<char*>(made);
    }
    for (; closed < count; closed++)
      if (mprotect(base + closed * (STACK + GUARD), GUARD, PROT_NONE)) return nullptr;
    return base;
  }
  ~Stacks() { if (base) munmap(base, MOST * (STACK + GUARD)); }
};
inline char* stacks_of_this_thread(unsigned count) {
  static thread_local Stacks stacks;
  return stacks.of(count);
}

// Runs all blocks; what went wrong goes into `message`. Zero if nothing did.
inline int run(dim3 grid, dim3 threads, size_t shared_bytes, unsigned order_number, uint64_t seed, char* message, size_t length,
               void (*body)(void*), void* argument) {
  Order order = static_cast<Order>(order_number);
  Random random{seed};
  Block b;
  b.grid = grid; b.threads = threads; b.count = threads.x * threads.y * threads.z; b.body = body; b.argument = argument;
  b.fibers.resize(b.count);
  char* stacks = stacks_of_this_thread(b.count);
  if (!stacks) { snprintf(message, length, "no memory for stacks"); return 1; }
  size_t room = (shared_bytes + 127) / 128 * 128 + 128;
  b.shared = static_cast<unsigned char*>(aligned_alloc(128, room));
  std::vector<size_t> blocks(size_t(grid.x) * grid.y * grid.z);
  for (size_t i = 0; i < blocks.size(); i++) blocks[i] = i;
  arrange(blocks, order, random);
  here = &b;
  for (size_t n = 0; n < blocks.size() && !b.wrong; n++) {
    size_t at = blocks[n];
    b.block = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
    b.live = b.count; b.waiting = b.vote = 0;
    memset(b.shared, 0xff, room);
    for (unsigned i = 0; i < b.count; i++) {
      Fiber& f = b.fibers[i];
      f.number = i; f.lane = i & 31; f.warp = i >> 5; f.state = State::Ready; f.line = 0;
      f.thread = {i % threads.x, i / threads.x % threads.y, i / (threads.x * threads.y)};
      begin(f.place, stacks + i * (STACK + GUARD) + GUARD, STACK, entry);
    }
    std::vector<unsigned> turns(b.count);
    for (unsigned i = 0; i < b.count; i++) turns[i] = i;
    if (order == Order::Reverse) std::reverse(turns.begin(), turns.end());
    while (b.live && !b.wrong) {
      if (order == Order::Random) arrange(turns, order, random);
      bool ran = false;
      for (unsigned i : turns)
        if (b.fibers[i].state == State::Ready && !b.wrong) { ran = true; self = &b.fibers[i]; change(b.scheduler, self->place); }
      if (!ran && !b.wrong) {
        b.wrong = "threads wait for others that do not come";
        for (auto& f : b.fibers) if (f.state != State::Done) { b.wrong_at = f.line; break; }
      }
    }
    for (size_t i = shared_bytes; i < room && !b.wrong; i++)
      if (b.shared[i] != 0xff) b.wrong = "shared memory was written beyond its end";
  }
  if (b.wrong) snprintf(message, length, "%s (line %d, block %u,%u,%u)", b.wrong, b.wrong_at, b.block.x, b.block.y, b.block.z);
  free(b.shared);
  here = nullptr;
  return b.wrong != nullptr;
}
template <class... A, size_t... I>
int call(void (*kernel)(A...), dim3 grid, dim3 threads, size_t shared_bytes, unsigned order, uint64_t seed, char* message, size_t length, void** arguments, std::index_sequence<I...>) {
  std::tuple<void (*)(A...), std::tuple<std::decay_t<A>...>> all{kernel, {*static_cast<std::decay_t<A>*>(arguments[I])...}};
  auto body = [](void* p) { auto& [k, args] = *static_cast<decltype(all)*>(p); std::apply(k, args); };
  return run(grid, threads, shared_bytes, order, seed, message, length, body, &all);
}
}  // namespace simt

// As cuLaunchKernel is called: pointers to the arguments. And how many of them there are.
#define SIMT_EXPORT(name) \
  extern "C" unsigned simt_arguments_##name() { return []<class... A>(void (*)(A...)) { return unsigned(sizeof...(A)); }(name); } \
  extern "C" int simt_##name(const unsigned* g, size_t shared_bytes, unsigned order, uint64_t seed, char* message, size_t length, void** arguments) { \
    auto each = []<class... A>(void (*)(A...)) { return std::index_sequence_for<A...>{}; }; \
    return simt::call(name, dim3{g[0], g[1], g[2]}, dim3{g[3], g[4], g[5]}, shared_bytes, order, seed, message, length, arguments, each(name)); \
  }

#define threadIdx (simt::self->thread)
#define blockIdx (simt::here->block)
#define blockDim (simt::here->threads)
#define gridDim (simt::here->grid)
#define __syncthreads() ((void)simt::barrier(__LINE__))
#define __syncthreads_or(p) (simt::barrier(__LINE__, (p) != 0) != 0)
#define __syncwarp(...) ((void)simt::meet(~0u, 0, __LINE__))
#define __shfl_sync(mask, v, from) simt::shuffle(mask, v, from, __LINE__)
#define __shfl_xor_sync(mask, v, with) simt::shuffle(mask, v, int(simt::self->lane ^ (with)), __LINE__)
#define __shfl_down_sync(mask, v, by) simt::shuffle(mask, v, simt::self->lane + (by) < 32 ? int(simt::self->lane + (by)) : int(simt::self->lane), __LINE__)
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
inline float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
inline long long __double_as_longlong(double d) { return std::bit_cast<long long>(d); }
inline double __longlong_as_double(long long l) { return std::bit_cast<double>(l); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
