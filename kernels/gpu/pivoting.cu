// Exact non-negative least squares by block principal pivoting, one warp a cell, in double.
//
// Variables lie on the warp's lanes, j = 32 t + lane. G is scaled to unit diagonal. The passive
// block is factorised column by column with rows on the lanes; the right-hand side is its last
// row, so that forward substitution comes with it. Rows of a packed triangle start at triangular
// numbers, which modulo a power of two never meet: lanes that read a column of it never contend
// for a bank of shared memory.
#include "group.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

constexpr int TURNS = (FACTORS + 31) / 32;  // variables that a lane owns
constexpr double DEPENDENT = 1e-13;         // a pivot below this, of a diagonal of 1, is rounding
constexpr double CLEAR = 1e-2;              // share of the tolerance that is an infeasibility
constexpr int FULL_EXCHANGES = 3;           // without progress, before single ones
constexpr int PIVOTS_PER_FACTOR = 5;
constexpr int DESCENT_SWEEPS = 4096;
constexpr int SWEEPS_PER_CHECK = 16;

struct Work {
  double* triangle;  // (FACTORS + 1) (FACTORS + 2) / 2: the factor, then the right-hand side
  double* inverse;   // 1 / diagonal of the factor, 0 where dependent
  double* x;         // solution, in the order of `list`
  double* scale;     // 1 / sqrt(G_jj), 0 where not positive
  double* r;         // products times scale, and what is left of them
  double* h;
  int* list;         // passive variables, ascending
};

/// A warp's share of the work on one cell, by turn.
struct Cell {
  double r[TURNS];         // products times scale
  double h[TURNS];         // loadings over scale
  double gradient[TURNS];
  int at[TURNS];           // place in `list`
  unsigned passive;        // bit t: variable 32 t + lane
  double largest;          // max |r_j| before scaling
};

__device__ __forceinline__ Work work_in(unsigned char* memory) {
  Work work;
  work.triangle = reinterpret_cast<double*>(memory);
  work.inverse = work.triangle + (FACTORS + 1) * (FACTORS + 2) / 2;
  work.x = work.inverse + FACTORS;
  work.scale = work.x + FACTORS;
  work.r = work.scale + FACTORS;
  work.h = work.r + FACTORS;
  work.list = reinterpret_cast<int*>(work.h + FACTORS);
  return work;
}

/// The larger one, or what is not a number: that must never pass for a small residual.
__device__ __forceinline__ double larger_or_nan(double a, double b) {
  return a > b || a != a ? a : b;
}

__device__ __forceinline__ double warp_largest(double value) {
  for (int step = 16; step > 0; step /= 2) {
    value = larger_or_nan(value, __shfl_xor_sync(ALL_LANES, value, step));
  }
  return value;
}

__device__ __forceinline__ int row_start(int i) { return i * (i + 1) / 2; }


/// List the passive variables; their number.
__device__ int list_passive(Cell& cell, const Work& work, int lane) {
  int n = 0;
  for (int t = 0; t < TURNS; ++t) {
    const bool held = cell.passive >> t & 1;
    const unsigned votes = __ballot_sync(ALL_LANES, held);
    cell.at[t] = n + __popc(votes & ((1u << lane) - 1u));
    if (held) work.list[cell.at[t]] = t * 32 + lane;
    n += __popc(votes);
  }
  __syncwarp();
  return n;
}

/// One entry of a column before elimination: of the passive block, or the right-hand side.
__device__ __forceinline__ double entry(const double* N, const Work& work, int p, int i, int j) {
  return i == p ? work.r[work.list[j]] : N[work.list[i] * FACTORS + work.list[j]];
}

/// Factorise the passive block of p variables, and substitute forward.
__device__ void factorise(const double* N, const Work& work, int p, int lane) {
  for (int j = 0; j < p; ++j) {
    const double* pivot_row = work.triangle + row_start(j);
    double inverse = 0.0;
    for (int first = j; first <= p; first += 32) {
      const int i = first + lane;
      double* row = work.triangle + row_start(i <= p ? i : p);
      double sum = i <= p ? entry(N, work, p, i, j) : 0.0, other = 0.0;
      int c = 0;
      for (; c + 1 < j; c += 2) {
        sum -= row[c] * pivot_row[c];
        other -= row[c + 1] * pivot_row[c + 1];
      }
      if (c < j) sum -= row[c] * pivot_row[c];
      sum += other;
      if (first == j) {
        const double pivot = __shfl_sync(ALL_LANES, sum, 0);
        inverse = pivot > DEPENDENT ? 1.0 / sqrt(pivot) : 0.0;
        if (lane == 0) work.inverse[j] = inverse;
      }
      if (i <= p) row[j] = sum * inverse;
    }
    __syncwarp();
  }
}

/// Substitute backward from the last row of the triangle into x.
__device__ void substitute(const Work& work, int p, int lane) {
  double* y = work.triangle + row_start(p);
  for (int i = p - 1; i >= 0; --i) {
    const double x = y[i] * work.inverse[i];
    const double* row = work.triangle + row_start(i);
    for (int j = lane; j < i; j += 32) y[j] -= row[j] * x;
    if (lane == 0) work.x[i] = x;
    __syncwarp();
  }
}

/// Take x as the loadings; a variable that depends on others is passive no longer.
__device__ void take_solution(Cell& cell, const Work& work) {
  for (int t = 0; t < TURNS; ++t) {
    const bool held = cell.passive >> t & 1;
    const bool kept = held && work.inverse[cell.at[t]] > 0.0;
    cell.h[t] = kept ? work.x[cell.at[t]] : 0.0;
    if (!kept) cell.passive &= ~(1u << t);
  }
}

/// gradient = G x - r over all variables, with x on the p that are listed.
__device__ void compute_gradient(const double* N, Cell& cell, const Work& work, int p, int lane) {
  for (int t = 0; t < TURNS; ++t) {
    const int j = t * 32 + lane;
    double sum = -cell.r[t];
    if (j < FACTORS) {
      for (int i = 0; i < p; ++i) sum += N[work.list[i] * FACTORS + j] * work.x[i];
    }
    cell.gradient[t] = sum;
  }
}

__device__ void solve_passive(const double* N, Cell& cell, const Work& work, int lane) {
  const int p = list_passive(cell, work, lane);
  factorise(N, work, p, lane);
  substitute(work, p, lane);
  compute_gradient(N, cell, work, p, lane);
  take_solution(cell, work);
  __syncwarp();
}

/// Which of this lane's variables are clearly on the wrong side, as bits.
__device__ unsigned infeasible(const Cell& cell, const Work& work, double limit, int lane) {
  unsigned found = 0;
  for (int t = 0; t < TURNS; ++t) {
    const int j = t * 32 + lane;
    if (j >= FACTORS || work.scale[j] == 0.0) continue;
    const double value = cell.passive >> t & 1 ? cell.h[t] : cell.gradient[t];
    if (value < -limit * work.scale[j]) found |= 1u << t;
  }
  return found;
}

__device__ int count(unsigned bits) {
  int n = 0;
  for (int t = 0; t < TURNS; ++t) n += __popc(__ballot_sync(ALL_LANES, bits >> t & 1));
  return n;
}

/// The last of the variables that are set, alone.
__device__ unsigned last_of(unsigned bits, int lane) {
  int last = -1;
  for (int t = 0; t < TURNS; ++t) {
    const unsigned votes = __ballot_sync(ALL_LANES, bits >> t & 1);
    if (votes) last = t * 32 + 31 - __clz(votes);
  }
  return last % 32 == lane ? 1u << last / 32 : 0u;
}

/// Exchange until nothing is infeasible; the number of pivots taken.
__device__ int pivot(const double* N, Cell& cell, const Work& work, double limit, int lane) {
  int best = FACTORS + 1, tries = FULL_EXCHANGES, pivots = 0;
  while (true) {
    solve_passive(N, cell, work, lane);
    ++pivots;
    const unsigned wrong = infeasible(cell, work, limit, lane);
    const int n_wrong = count(wrong);
    if (n_wrong == 0 || pivots >= PIVOTS_PER_FACTOR * FACTORS + 1) return pivots;
    bool single = false;
    if (n_wrong < best) {
      best = n_wrong;
      tries = FULL_EXCHANGES;
    } else if (tries > 0) {
      --tries;
    } else {
      single = true;
    }
    const unsigned last = last_of(wrong, lane);
    cell.passive ^= single ? last : wrong;
  }
}

/// KKT residual, not divided by max |r|, from the loadings alone and G as given.
__device__ double certify(const double* G, const double* R, const Cell& cell, const Work& work,
                          int lane) {
  __syncwarp();
  for (int t = 0; t < TURNS; ++t) {
    const int j = t * 32 + lane;
    if (j < FACTORS) work.h[j] = larger(cell.h[t], 0.0) * work.scale[j];
  }
  __syncwarp();
  double largest = 0.0;
  for (int j = lane; j < FACTORS; j += 32) {
    double gradient = -R[j];
    for (int i = 0; i < FACTORS; ++i) gradient += G[i * FACTORS + j] * work.h[i];
    if (work.scale[j] == 0.0) continue;
    const double h = work.h[j] * G[j * FACTORS + j];
    // A comparison with what is not a number is false: the gradient is taken, and is none either.
    largest = larger_or_nan(magnitude(h < gradient ? h : gradient), largest);
  }
  __syncwarp();
  return warp_largest(largest);
}

/// Coordinate descent on the loadings in shared memory, where pivoting went in circles.
__device__ void descend(const double* N, Cell& cell, const Work& work, double limit, int lane) {
  for (int sweeps = 0; sweeps < DESCENT_SWEEPS; ++sweeps) {
    if (sweeps % SWEEPS_PER_CHECK == 0) {
      double moved = 0.0;
      for (int t = 0; t < TURNS; ++t) {
        const int j = t * 32 + lane;
        if (j >= FACTORS) continue;
        double left = cell.r[t];
        for (int i = 0; i < FACTORS; ++i) left -= N[i * FACTORS + j] * work.h[i];
        work.r[j] = work.scale[j] > 0.0 ? left : 0.0;
        const double share = work.scale[j] > 0.0 ? 1.0 / work.scale[j] : 0.0;
        moved = larger(moved, magnitude(larger(work.r[j], -work.h[j])) * share);
      }
      __syncwarp();
      if (warp_largest(moved) <= limit) return;
    }
    for (int j = 0; j < FACTORS; ++j) {
      const double move = larger(work.r[j], -work.h[j]);
      __syncwarp();
      for (int i = lane; i < FACTORS; i += 32) work.r[i] -= N[i * FACTORS + j] * move;
      if (lane == 0) work.h[j] += move;
      __syncwarp();
    }
  }
}

/// Descent from the seed: what pivoting ended with may be far from feasible.
__device__ void fall_back(const double* N, const double* seed, Cell& cell, const Work& work,
                          double limit, int lane) {
  __syncwarp();
  for (int j = lane; j < FACTORS; j += 32) {
    work.h[j] = work.scale[j] > 0.0 ? larger(seed[j], 0.0) / work.scale[j] : 0.0;
  }
  __syncwarp();
  descend(N, cell, work, limit, lane);
  __syncwarp();
  cell.passive = 0;
  for (int t = 0; t < TURNS; ++t) {
    const int j = t * 32 + lane;
    cell.h[t] = j < FACTORS ? work.h[j] : 0.0;
    if (cell.h[t] > 0.0) cell.passive |= 1u << t;
    if (j < FACTORS) work.r[j] = cell.r[t];
  }
  __syncwarp();
}

/// Better loadings, if a solve on the variables that are positive gives them; their residual.
__device__ double polish(const double* G, const double* N, const double* R, Cell& cell, const Work& work,
                         double value, int lane) {
  double before[TURNS];
  for (int t = 0; t < TURNS; ++t) before[t] = cell.h[t];
  solve_passive(N, cell, work, lane);
  const double found = certify(G, R, cell, work, lane);
  if (found < value) return found;
  for (int t = 0; t < TURNS; ++t) cell.h[t] = before[t];
  return value;
}

/// One step of iterative refinement: solve again for what the loadings leave.
__device__ double refine(const double* G, const double* N, const double* R, Cell& cell, const Work& work,
                         double value, int lane) {
  double before[TURNS];
  const unsigned passive = cell.passive;
  __syncwarp();
  for (int t = 0; t < TURNS; ++t) {
    const int j = t * 32 + lane;
    before[t] = cell.h[t];
    if (j < FACTORS) work.r[j] = -cell.gradient[t];
  }
  __syncwarp();
  const int p = list_passive(cell, work, lane);
  factorise(N, work, p, lane);
  substitute(work, p, lane);
  take_solution(cell, work);
  __syncwarp();
  for (int t = 0; t < TURNS; ++t) {
    const int j = t * 32 + lane;
    cell.h[t] += passive >> t & 1 ? before[t] : 0.0;
    if (j < FACTORS) work.r[j] = cell.r[t];
  }
  const double found = certify(G, R, cell, work, lane);
  if (found < value) return found;
  for (int t = 0; t < TURNS; ++t) cell.h[t] = before[t];
  return value;
}

__device__ void load(const double* R, const double* H, Cell& cell, const Work& work, int lane) {
  double largest = 0.0;
  cell.passive = 0;
  for (int t = 0; t < TURNS; ++t) {
    const int j = t * 32 + lane;
    const double r = j < FACTORS ? R[j] : 0.0;
    largest = larger(largest, magnitude(r));
    cell.r[t] = j < FACTORS ? r * work.scale[j] : 0.0;
    cell.h[t] = 0.0;
    cell.gradient[t] = 0.0;
    if (j < FACTORS) work.r[j] = cell.r[t];
    if (j < FACTORS && H[j] > 0.0 && work.scale[j] > 0.0) cell.passive |= 1u << t;
  }
  cell.largest = warp_largest(largest);
  __syncwarp();
}

/// N = G scaled to unit diagonal, with zeros where a diagonal entry is not positive.
extern "C" __global__ void __launch_bounds__(128) scale_to_unit(const double* G, double* N) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= FACTORS * FACTORS) return;
  const int i = e / FACTORS, j = e % FACTORS;
  const double a = G[i * FACTORS + i], b = G[j * FACTORS + j];
  const double found = a > 0.0 && b > 0.0 ? G[e] / (sqrt(a) * sqrt(b)) : 0.0;
  N[e] = i == j && a > 0.0 ? 1.0 : found;
}

/// Solve n cells exactly; one warp a block.
///
/// G (k, k), N (G scaled to unit diagonal), R (n, k) and H (n, k) float64: the positive entries
/// of H are the first passive set, and H is written. pivots (n,) and residual (n,), the KKT residual of what was found, written.
extern "C" __global__ void __launch_bounds__(32, 8)
    pivot_cells(const double* G, const double* N, const double* R, double* H, int* pivots,
                double* residual, int n, double tol) {
  const Work work = work_in(shared_memory);
  const int lane = threadIdx.x;
  for (int j = lane; j < FACTORS; j += 32) {
    const double diagonal = G[j * FACTORS + j];
    work.scale[j] = diagonal > 0.0 ? 1.0 / sqrt(diagonal) : 0.0;
  }
  __syncwarp();
  for (int c = blockIdx.x; c < n; c += gridDim.x) {
    const double* r = R + (long long)c * FACTORS;
    double* h = H + (long long)c * FACTORS;
    Cell cell;
    load(r, h, cell, work, lane);
    const double limit = tol * cell.largest;
    const int n_pivots = pivot(N, cell, work, CLEAR * limit, lane);
    double value = certify(G, r, cell, work, lane);
    if (!(value <= limit)) value = refine(G, N, r, cell, work, value, lane);
    if (!(value <= limit)) {
      fall_back(N, h, cell, work, CLEAR * limit, lane);
      value = certify(G, r, cell, work, lane);
      value = polish(G, N, r, cell, work, value, lane);
    }
    for (int t = 0; t < TURNS; ++t) {
      const int j = t * 32 + lane;
      if (j < FACTORS) h[j] = larger(cell.h[t], 0.0) * work.scale[j];
    }
    if (lane == 0) {
      pivots[c] = n_pivots;
      residual[c] = cell.largest > 0.0 ? value / cell.largest : 0.0;
    }
    __syncwarp();
  }
}
