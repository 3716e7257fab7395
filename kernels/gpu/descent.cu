// Non-negative least squares for many cells by coordinate descent.
//
// A warp takes four groups of COLUMNS cells, sweeps until each has met its tolerance by the
// gradient that the sweeps keep (a cell that has is frozen there), then proves all of them from
// a gradient computed afresh; what fails goes on. How a cell ends depends on that cell only.
#include "descent.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

struct Cells {
  Real h[COLUMNS][SLOTS];
  Real r[COLUMNS][SLOTS];
  bool active[COLUMNS];
  int sweeps[COLUMNS];
  Real largest[COLUMNS];  // max_j |r_j| of the cell
  Real limit[COLUMNS];
  Real value[COLUMNS];    // KKT residual, not yet divided by `largest`
};

__device__ __forceinline__ void load_products(const Gram& gram, const Real* R, int lane, int first,
                                              int n, Cells& cells) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    const int cell = first + c * GROUPS_PER_WARP;
    Real largest = 0;
#pragma unroll
    for (int p = 0; p < SLOTS; ++p) {
      const int j = p * GROUP + lane;
      const Real found = j < FACTORS && cell < n ? R[(long long)cell * FACTORS + j] : Real(0);
      largest = larger(largest, magnitude(found));
      cells.r[c][p] = Real(found * gram.scale[j]);
    }
    cells.largest[c] = group_largest(largest);
  }
}

__device__ __forceinline__ void load_loadings(const Gram& gram, const Real* H, bool warm, int lane,
                                              int first, int n, Cells& cells) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    const int cell = first + c * GROUPS_PER_WARP;
#pragma unroll
    for (int p = 0; p < SLOTS; ++p) {
      const int j = p * GROUP + lane;
      const bool held = warm && j < FACTORS && cell < n;
      cells.h[c][p] = held ? H[(long long)cell * FACTORS + j] * gram.size[j] : Real(0);
    }
  }
}

__device__ __forceinline__ bool any_active(const Cells& cells) {
  bool found = false;
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) found |= cells.active[c];
  return __any_sync(ALL_LANES, found);
}

/// Residuals by the gradient at hand: which of the cells that are `asked` go on.
__device__ __forceinline__ void judge(const Gram& gram, int lane, int max_sweeps,
                                      const bool (&asked)[COLUMNS], Cells& cells) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    const Real value = violation(gram, lane, cells.h[c], cells.r[c]);
    if (asked[c]) cells.value[c] = value;
    cells.active[c] = asked[c] && value > cells.limit[c] && cells.sweeps[c] < max_sweeps;
  }
}

__device__ __forceinline__ void refresh(const Gram& gram, const Real* R, int lane, int first, int n,
                                        Cells& cells) {
  load_products(gram, R, lane, first, n, cells);
  subtract_fit(gram, lane, cells.h, cells.r);
}

__device__ __forceinline__ void descend(const Gram& gram, const Real* R, int lane, int first, int n,
                                        int max_sweeps, Cells& cells) {
  bool all[COLUMNS];
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) all[c] = true;
  judge(gram, lane, max_sweeps, all, cells);
  while (any_active(cells)) {
    while (any_active(cells)) {
      sweep(gram, lane, cells.h, cells.r, cells.active);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) cells.sweeps[c] += cells.active[c];
      bool asked[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) asked[c] = cells.active[c];
      judge(gram, lane, max_sweeps, asked, cells);
    }
    refresh(gram, R, lane, first, n, cells);
    judge(gram, lane, max_sweeps, all, cells);
  }
}

__device__ __forceinline__ void store(const Gram& gram, Real* H, int* sweeps, Real* residual,
                                      int lane, int first, int n, const Cells& cells) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    const int cell = first + c * GROUPS_PER_WARP;
    if (cell >= n) continue;
#pragma unroll
    for (int p = 0; p < SLOTS; ++p) {
      const int j = p * GROUP + lane;
      if (j < FACTORS) H[(long long)cell * FACTORS + j] = Real(cells.h[c][p] * gram.scale[j]);
    }
    if (lane == 0) {
      sweeps[cell] = cells.sweeps[c];
      residual[cell] = cells.largest[c] > Real(0) ? cells.value[c] / cells.largest[c] : Real(0);
    }
  }
}

/// Solve the loadings of n cells.
///
/// G (k, k) float64; R (n, k); H (n, k), read where `warm` and written; sweeps (n,) and
/// residual (n,), the KKT residual of what was found, written. `tol` is relative to max|r|
/// and is what a cell must meet before `max_sweeps`.
extern "C" __global__ void __launch_bounds__(128)
    nnls(const double* G, const Real* R, Real* H, int* sweeps, Real* residual, int n, int warm,
         double tol, int max_sweeps) {
  const Gram gram = gram_in(shared_memory);
  load_gram(G, gram);
  const int lane = threadIdx.x % GROUP, group = threadIdx.x % 32 / GROUP;
  const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int stride = gridDim.x * blockDim.x / 32 * GROUPS_PER_WARP * COLUMNS;
  for (int start = warp * GROUPS_PER_WARP * COLUMNS; start < n; start += stride) {
    const int first = start + group;
    Cells cells;
    load_loadings(gram, H, warm, lane, first, n, cells);
    load_products(gram, R, lane, first, n, cells);
    if (warm) subtract_fit(gram, lane, cells.h, cells.r);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      cells.sweeps[c] = 0;
      cells.limit[c] = Real(tol) * cells.largest[c];
    }
    descend(gram, R, lane, first, n, max_sweeps, cells);
    store(gram, H, sweeps, residual, lane, first, n, cells);
  }
}
