// CUDA C++ on a processor: enough of the language to run a kernel's own source, one block at a
// time, with every thread a coroutine that runs alone until it reaches a collective operation.
//
// Which warp and thread goes next is drawn from a seed, so that they drift apart as far as their
// barriers allow: what holds only by luck of lock-step fails for some seed. Not emulated: memory
// that is ordered by __syncwarp alone, not by shuffles and votes. Shared memory
// starts as NaN, and a canary behind it tells of writes past the size that was asked for. A
// collective that the lanes of a warp do not reach together, or with the lanes that its mask
// names, ends the launch with an error.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};

inline Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr size_t STACK_BYTES = 1 << 16;
constexpr size_t CANARY_BYTES = 4096;
constexpr size_t SHARED_BYTES = 232448;  // what a block may have on sm_90
constexpr unsigned char UNWRITTEN = 0xff;  // every float and double of it is NaN

struct Warp {
  uint64_t slot[2][32];
  unsigned alive = 0, arrived = 0, mask = 0, generation = 0;
  int operation = 0;
};

struct Thread {
  ucontext_t start;
  jmp_buf at;
  bool started = false, done = false;
  Index3 index;
  unsigned waits_for_warp = 0, waits_for_block = 0;
  enum { RUNNABLE, IN_WARP, IN_BLOCK } state = RUNNABLE;
};

struct Failure {};

inline std::vector<Thread> threads;
inline std::vector<char> stacks;
inline std::vector<Warp> warps;
inline unsigned current = 0, block_generation = 0, block_arrived = 0, n_alive = 0;
inline jmp_buf scheduler;
inline std::string problem;
inline void (*body)(void*) = nullptr;
inline void* body_argument = nullptr;

inline void leave() {  // back to the scheduler; returns when this thread is drawn again
  if (!_setjmp(threads[current].at)) _longjmp(scheduler, 1);
}

[[noreturn]] inline void fail(const std::string& why) {
  if (problem.empty()) problem = why;
  threads[current].done = true;
  _longjmp(scheduler, 1);
}

inline void wake(Thread& thread) { thread.state = Thread::RUNNABLE; }

inline void wake_warp(unsigned warp) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned t = warp * 32 + lane;
    if (t < threads.size() && threads[t].state == Thread::IN_WARP) wake(threads[t]);
  }
}

enum Operation { SYNC = 1, SHUFFLE, VOTE, MATCH };

/// Meet the other lanes of `mask`; afterwards slot[generation & 1] holds all their values.
inline const uint64_t* meet(unsigned mask, int operation, uint64_t value) {
  const unsigned id = current, lane = id % 32;
  Warp& warp = warps[id / 32];
  if (!(mask >> lane & 1)) fail("a lane calls a collective whose mask leaves it out");
  if ((mask & warp.alive) != mask) fail("a mask names a lane that has ended");
  if (warp.arrived == 0) {
    warp.mask = mask;
    warp.operation = operation;
  } else if (warp.mask != mask || warp.operation != operation) {
    fail("lanes of one warp meet in different collectives");
  }
  const unsigned generation = warp.generation;
  warp.slot[generation & 1][lane] = value;
  warp.arrived |= 1u << lane;
  if (warp.arrived == mask) {
    warp.arrived = 0;
    ++warp.generation;
    wake_warp(id / 32);
  } else {
    threads[id].state = Thread::IN_WARP;
  }
  leave();
  return warps[current / 32].slot[generation & 1];
}

template <typename T>
uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T value_of(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
T shuffle(unsigned mask, T value, unsigned source) {
  if (!(mask >> source & 1)) fail("a shuffle reads a lane that its mask leaves out");
  return value_of<T>(meet(mask, SHUFFLE, bits_of(value))[source]);
}

inline void run_thread() {
  body(body_argument);
  Thread& me = threads[current];
  me.done = true;
  warps[current / 32].alive &= ~(1u << current % 32);
  --n_alive;
  _longjmp(scheduler, 1);
}

inline void resume(unsigned id) {
  current = id;
  Thread& thread = threads[id];
  threadIdx = thread.index;
  if (_setjmp(scheduler)) return;
  if (thread.started) _longjmp(thread.at, 1);
  thread.started = true;
  getcontext(&thread.start);
  thread.start.uc_stack.ss_sp = stacks.data() + size_t(id) * STACK_BYTES;
  thread.start.uc_stack.ss_size = STACK_BYTES;
  thread.start.uc_link = nullptr;
  makecontext(&thread.start, run_thread, 0);
  setcontext(&thread.start);
}

inline void release_block() {
  if (block_arrived == 0 || block_arrived < n_alive) return;
  block_arrived = 0;
  for (Thread& thread : threads) {
    if (thread.state == Thread::IN_BLOCK) wake(thread);
  }
}

/// One warp runs for some 32 collectives before another is drawn, so that warps drift far apart.
inline void keep_one_warp(std::vector<unsigned>& ready, unsigned& warp, std::mt19937& random) {
  const auto elsewhere = [&warp](unsigned id) { return id / 32 != warp; };
  if (random() % 32 == 0 || std::all_of(ready.begin(), ready.end(), elsewhere)) {
    warp = ready[random() % ready.size()] / 32;
  }
  ready.erase(std::remove_if(ready.begin(), ready.end(), elsewhere), ready.end());
}

inline void run_block(std::mt19937& random) {
  const unsigned n = blockDim.x * blockDim.y * blockDim.z;
  threads.assign(n, Thread{});
  warps.assign((n + 31) / 32, Warp{});
  stacks.resize(size_t(n) * STACK_BYTES);
  n_alive = n;
  block_arrived = 0;
  for (unsigned id = 0; id < n; ++id) {
    threads[id].index = {id % blockDim.x, id / blockDim.x % blockDim.y,
                         id / blockDim.x / blockDim.y};
    warps[id / 32].alive |= 1u << id % 32;
  }
  std::vector<unsigned> ready;
  unsigned warp = 0;
  while (problem.empty()) {
    release_block();
    ready.clear();
    for (unsigned id = 0; id < n; ++id) {
      if (!threads[id].done && threads[id].state == Thread::RUNNABLE) ready.push_back(id);
    }
    if (ready.empty()) break;
    // Threads of one warp run to their next collective, in a drawn order.
    keep_one_warp(ready, warp, random);
    std::shuffle(ready.begin(), ready.end(), random);
    for (unsigned id : ready) {
      resume(id);
      if (!problem.empty()) return;
    }
  }
  if (problem.empty() && n_alive > 0) problem = "threads wait for others that never come";
}

template <typename... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<A*>(arguments[I])...);
}

template <typename... A>
struct Call {
  void (*kernel)(A...);
  void** arguments;
  static void invoke(void* self) {
    auto* me = static_cast<Call*>(self);
    call(me->kernel, me->arguments, std::index_sequence_for<A...>{});
  }
};

inline unsigned char* shared_start = nullptr;

/// Run a kernel over its grid. 0, or 1 with `problem` set.
template <typename... A>
int launch(void (*kernel)(A...), void** arguments, const unsigned* dims, unsigned shared_bytes,
           unsigned seed) {
  Call<A...> bound{kernel, arguments};
  body = Call<A...>::invoke;
  body_argument = &bound;
  problem.clear();
  gridDim = {dims[0], dims[1], dims[2]};
  blockDim = {dims[3], dims[4], dims[5]};
  if (shared_bytes > SHARED_BYTES) problem = "more shared memory than a block may have";
  std::mt19937 random(seed);
  std::vector<unsigned> blocks(gridDim.x * gridDim.y * gridDim.z);
  for (unsigned b = 0; b < blocks.size(); ++b) blocks[b] = b;
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (unsigned b : blocks) {
    if (!problem.empty()) break;
    blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y};
    std::memset(shared_start, UNWRITTEN, shared_bytes + CANARY_BYTES);
    run_block(random);
    for (size_t i = 0; i < CANARY_BYTES; ++i) {
      if (shared_start[shared_bytes + i] != UNWRITTEN) problem = "a write past shared memory";
    }
  }
  return problem.empty() ? 0 : 1;
}

}  // namespace emulation

inline void __syncthreads() {
  using namespace emulation;
  threads[current].state = Thread::IN_BLOCK;
  ++block_arrived;
  leave();
}

inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::meet(mask, emulation::SYNC, 0); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = emulation::current % 32, base = lane / width * width;
  return emulation::shuffle(mask, value, base + unsigned(source) % width);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const unsigned lane = emulation::current % 32, source = lane ^ unsigned(bits);
  return emulation::shuffle(mask, value, source / width > lane / width ? lane : source);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned step, int width = 32) {
  const unsigned lane = emulation::current % 32;
  return emulation::shuffle(mask, value, lane % width >= step ? lane - step : lane);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned step, int width = 32) {
  const unsigned lane = emulation::current % 32;
  return emulation::shuffle(mask, value, lane % width + step < unsigned(width) ? lane + step : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* votes = emulation::meet(mask, emulation::VOTE, predicate != 0);
  unsigned found = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) found |= unsigned(votes[lane]) << lane;
  }
  return found;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}

template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t own = emulation::bits_of(value);
  const uint64_t* values = emulation::meet(mask, emulation::MATCH, own);
  unsigned found = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) && values[lane] == own) found |= 1u << lane;
  }
  return found;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(unsigned bits) { return bits ? __builtin_clz(bits) : 32; }
inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }

template <typename T>
T __ldg(const T* at) {
  return *at;
}

using std::fabs;
using std::fmax;
using std::fmin;
using std::sqrt;
