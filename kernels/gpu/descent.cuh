// Coordinate descent for columns that share one Gram matrix, scaled to unit diagonal.
//
// Compiled for one number of factors: FACTORS (k), SLOTS (values that a lane holds), COLUMNS
// (columns that a group of eight lanes works on together) and Real. Factor j lies in slot j / 8
// of lane j % 8. With a unit diagonal and r = -gradient, a coordinate moves by max(r_j, -h_j).
//
// Eight factors at a time: all lanes fetch the eight r and h, take the eight steps one after
// another in registers (the same in every lane, with no exchange in between), then subtract
// G times the eight moves from their own r. A frozen column's moves are zero.
#pragma once
#include "group.cuh"

inline constexpr int RUNS = (FACTORS + GROUP - 1) / GROUP;  // runs of eight factors
inline constexpr int ROWS = RUNS * GROUP;                   // rows of G held: padded factors have zeros
inline constexpr int WIDTH = SLOTS * GROUP;
inline constexpr int VECTOR = SLOTS % 2 == 0 ? 2 : 1;       // slots that one load from shared memory brings
inline constexpr int UNROLLED = RUNS <= 6 ? RUNS : 1;       // longer code falls out of the instruction cache

static_assert(RUNS <= SLOTS, "a lane must have a slot for each run of factors");

template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

/// What a block holds of the Gram matrix, in shared memory.
struct Gram {
  Real* rows;      // ROWS x WIDTH, a lane's slots side by side in twos where VECTOR is 2
  Real* diagonal;  // RUNS x 8 x 8: the blocks on the diagonal
  double* scale;   // WIDTH: 1 / sqrt(G_jj), 0 where G_jj is not positive
  Real* size;      // WIDTH: sqrt(G_jj)
};

__device__ __forceinline__ Gram gram_in(unsigned char* memory) {
  double* scale = reinterpret_cast<double*>(memory);
  Real* rows = reinterpret_cast<Real*>(scale + WIDTH);
  Real* diagonal = rows + ROWS * WIDTH;
  return {rows, diagonal, scale, diagonal + RUNS * GROUP * GROUP};
}

/// Where factor `i` lies in a row of G.
__device__ __forceinline__ int place(int i) {
  const int slot = i / GROUP, lane = i % GROUP;
  return slot / VECTOR * VECTOR * GROUP + lane * VECTOR + slot % VECTOR;
}

__device__ __forceinline__ Real scaled_entry(const double* G, const Gram& gram, int j, int i) {
  if (j >= FACTORS || i >= FACTORS) return Real(0);
  const double scale = gram.scale[j] * gram.scale[i];
  if (i == j) return scale > 0.0 ? Real(1) : Real(0);
  return Real(G[j * FACTORS + i] * scale);
}

/// Fill shared memory from G, (k, k); all threads of the block take part.
__device__ void load_gram(const double* G, const Gram& gram) {
  for (int j = threadIdx.x; j < WIDTH; j += blockDim.x) {
    const double entry = j < FACTORS ? G[j * FACTORS + j] : 0.0;
    gram.size[j] = entry > 0.0 ? Real(sqrt(entry)) : Real(0);
    gram.scale[j] = entry > 0.0 ? 1.0 / sqrt(entry) : 0.0;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < ROWS * WIDTH; e += blockDim.x) {
    const int j = e / WIDTH, i = e % WIDTH;
    gram.rows[j * WIDTH + place(i)] = scaled_entry(G, gram, j, i);
  }
  for (int e = threadIdx.x; e < RUNS * GROUP * GROUP; e += blockDim.x) {
    const int run = e / (GROUP * GROUP), j = e / GROUP % GROUP, i = e % GROUP;
    gram.diagonal[e] = scaled_entry(G, gram, run * GROUP + j, run * GROUP + i);
  }
  __syncthreads();
}


/// values[slot] without an index known at run time, which would put the array in memory.
__device__ __forceinline__ Real pick(const Real (&values)[SLOTS], int slot) {
  Real found = values[0];
#pragma unroll
  for (int p = 1; p < SLOTS; ++p) found = p == slot ? values[p] : found;
  return found;
}

/// values[lane] of eight values, by three selections.
__device__ __forceinline__ Real own(const Real (&values)[GROUP], int lane) {
  const bool odd = lane & 1, second = lane & 2, upper = lane & 4;
  const Real a = odd ? values[1] : values[0], b = odd ? values[3] : values[2];
  const Real c = odd ? values[5] : values[4], d = odd ? values[7] : values[6];
  const Real low = second ? b : a, high = second ? d : c;
  return upper ? high : low;
}

/// r -= move * (row of G), for all columns: one read of the row serves them all.
__device__ __forceinline__ void subtract_row(const Gram& gram, int row, int lane,
                                             const Real (&move)[COLUMNS],
                                             Real (&r)[COLUMNS][SLOTS]) {
  const Real* at = gram.rows + row * WIDTH + lane * VECTOR;
#pragma unroll
  for (int p = 0; p < SLOTS; p += VECTOR) {
    Real g[VECTOR];
    if constexpr (VECTOR == 2) {
      const Pair<Real> both = *reinterpret_cast<const Pair<Real>*>(at + p * GROUP);
      g[0] = both.first;
      g[1] = both.second;
    } else {
      g[0] = at[p * GROUP];
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
      for (int v = 0; v < VECTOR; ++v) r[c][p + v] -= g[v] * move[c];
    }
  }
}

/// Eight steps of one column, from its eight r and h; frozen columns stay.
__device__ __forceinline__ void step_run(const Gram& gram, int run, Real own_r, Real own_h,
                                         Real (&move)[GROUP]) {
  const Real* block = gram.diagonal + run * GROUP * GROUP;
  Real r[GROUP], h[GROUP];
#pragma unroll
  for (int j = 0; j < GROUP; ++j) {
    r[j] = from_lane(own_r, j);
    h[j] = from_lane(own_h, j);
  }
#pragma unroll
  for (int j = 0; j < GROUP; ++j) {
    move[j] = larger(r[j], -h[j]);
#pragma unroll
    for (int i = j + 1; i < GROUP; ++i) r[i] -= block[j * GROUP + i] * move[j];
  }
}

/// One sweep over all factors of the columns that are active.
__device__ __forceinline__ void sweep(const Gram& gram, int lane, Real (&h)[COLUMNS][SLOTS],
                                      Real (&r)[COLUMNS][SLOTS], const bool (&active)[COLUMNS]) {
#pragma unroll UNROLLED
  for (int run = 0; run < RUNS; ++run) {
    Real moves[COLUMNS][GROUP];
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const Real own_r = active[c] ? pick(r[c], run) : Real(0);
      const Real own_h = active[c] ? pick(h[c], run) : Real(0);
      step_run(gram, run, own_r, own_h, moves[c]);
      const Real moved = own(moves[c], lane);
#pragma unroll
      for (int p = 0; p < SLOTS; ++p) h[c][p] += p == run ? moved : Real(0);
    }
#pragma unroll
    for (int j = 0; j < GROUP; ++j) {
      Real move[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) move[c] = moves[c][j];
      subtract_row(gram, run * GROUP + j, lane, move, r);
    }
  }
}

/// r -= G h from the start: free of what a sweep's updates have added up.
__device__ __forceinline__ void subtract_fit(const Gram& gram, int lane,
                                             const Real (&h)[COLUMNS][SLOTS],
                                             Real (&r)[COLUMNS][SLOTS]) {
#pragma unroll UNROLLED
  for (int run = 0; run < RUNS; ++run) {
    Real held[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) held[c] = pick(h[c], run);
#pragma unroll
    for (int j = 0; j < GROUP; ++j) {
      Real loading[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) loading[c] = from_lane(held[c], j);
      subtract_row(gram, run * GROUP + j, lane, loading, r);
    }
  }
}

/// KKT residual of a column, max_j |min(h_j G_jj, gradient_j)|, in all lanes of its group.
__device__ __forceinline__ Real violation(const Gram& gram, int lane, const Real (&h)[SLOTS],
                                          const Real (&r)[SLOTS]) {
  Real largest = 0;
#pragma unroll
  for (int p = 0; p < SLOTS; ++p) {
    const Real found = magnitude(smaller(h[p], -r[p])) * gram.size[p * GROUP + lane];
    largest = larger(largest, found);
  }
  return group_largest(largest);
}
