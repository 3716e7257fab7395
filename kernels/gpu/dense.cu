// Dense sums and products of small factors, float64 in a fixed order.
#include "group.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

constexpr int SIDE = 16;                           // a block is SIDE x SIDE threads
constexpr int TILE = (FACTORS + SIDE - 1) / SIDE;  // entries of a row that a thread holds
constexpr int STAGE = 8;                           // samples in shared memory at a time
constexpr int PADDED = TILE * SIDE;
constexpr int GENES = 32;                          // genes of a block of a product
constexpr int ROWS = 4;                            // its rows that a thread sums at a time
constexpr int PARTS = 64;                          // blocks that the terms of the loss are cut into

/// slices (n_slices, k, k): sums of y y^T over the samples of each slice; one block a slice.
///
/// Sample s of Y has its factor j at s * sample_stride + j * factor_stride.
extern "C" __global__ void __launch_bounds__(256)
    gram_slices(const float* Y, double* slices, int n, int slice_samples, int sample_stride,
                int factor_stride) {
  double* staged = reinterpret_cast<double*>(shared_memory);
  const int row = threadIdx.x / SIDE, column = threadIdx.x % SIDE;
  const int first = blockIdx.x * slice_samples;
  const int stop = first + slice_samples < n ? first + slice_samples : n;
  double sum[TILE][TILE] = {};
  for (int start = first; start < stop; start += STAGE) {
    for (int e = threadIdx.x; e < STAGE * PADDED; e += blockDim.x) {
      const int s = start + e / PADDED, j = e % PADDED;
      const long long at = (long long)s * sample_stride + (long long)j * factor_stride;
      staged[e] = s < stop && j < FACTORS ? double(Y[at]) : 0.0;
    }
    __syncthreads();
    for (int s = 0; s < STAGE; ++s) {
      double a[TILE], b[TILE];
#pragma unroll
      for (int t = 0; t < TILE; ++t) {
        a[t] = staged[s * PADDED + t * SIDE + row];
        b[t] = staged[s * PADDED + t * SIDE + column];
      }
#pragma unroll
      for (int t = 0; t < TILE; ++t) {
#pragma unroll
        for (int u = 0; u < TILE; ++u) sum[t][u] += a[t] * b[u];
      }
    }
    __syncthreads();
  }
  double* out = slices + (long long)blockIdx.x * FACTORS * FACTORS;
#pragma unroll
  for (int t = 0; t < TILE; ++t) {
#pragma unroll
    for (int u = 0; u < TILE; ++u) {
      const int i = t * SIDE + row, j = u * SIDE + column;
      if (i < FACTORS && j < FACTORS) out[i * FACTORS + j] = sum[t][u];
    }
  }
}

/// out (k, k) = weight * (sum of the slices) + keep * out; 32 entries a block.
///
/// Each warp sums a run of slices; the warps' sums are added in their order.
extern "C" __global__ void __launch_bounds__(256)
    sum_slices(const double* slices, double* out, int n_slices, double weight, double keep) {
  double* sums = reinterpret_cast<double*>(shared_memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
  const int e = blockIdx.x * 32 + lane, share = (n_slices + n_warps - 1) / n_warps;
  const int first = warp * share, stop = first + share < n_slices ? first + share : n_slices;
  double sum = 0.0;
  if (e < FACTORS * FACTORS) {
#pragma unroll 8
    for (int s = first; s < stop; ++s) sum += slices[(long long)s * FACTORS * FACTORS + e];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp > 0 || e >= FACTORS * FACTORS) return;
  double total = 0.0;
  for (int w = 0; w < n_warps; ++w) total += sums[w * 32 + lane];
  // What is kept may not have been written yet.
  out[e] = keep == 0.0 ? weight * total : keep * out[e] + weight * total;
}

/// out (k, m) = base + sign * A (factor - minus); minus counts only if told; 32 genes a block.
extern "C" __global__ void __launch_bounds__(256)
    add_product(double* out, const double* base, const double* A, const float* factor,
                const float* minus, int with_minus, double sign, int m) {
  double* staged = reinterpret_cast<double*>(shared_memory);
  const int own = threadIdx.x % GENES, part = threadIdx.x / GENES, parts = blockDim.x / GENES;
  const int gene = blockIdx.x * GENES + own;
  for (int o = part; o < FACTORS; o += parts) {
    const long long at = (long long)o * m + gene;
    double value = gene < m ? double(factor[at]) : 0.0;
    if (with_minus && gene < m) value -= double(minus[at]);
    staged[o * GENES + own] = value;
  }
  __syncthreads();
  if (gene >= m) return;
  for (int first = part; first < FACTORS; first += ROWS * parts) {
    double sum[ROWS] = {};
    for (int o = 0; o < FACTORS; ++o) {
      const double value = staged[o * GENES + own];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const int i = first + r * parts;
        sum[r] += (i < FACTORS ? A[i * FACTORS + o] : 0.0) * value;
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const int i = first + r * parts;
      const long long at = (long long)i * m + gene;
      if (i < FACTORS) out[at] = base[at] + sign * sum[r];
    }
  }
}

/// Sum over a block by a fixed tree, in its first thread.
__device__ double block_sum(double value) {
  double* sums = reinterpret_cast<double*>(shared_memory);
  __syncthreads();
  sums[threadIdx.x] = value;
  __syncthreads();
  for (int step = blockDim.x / 2; step > 0; step /= 2) {
    if (int(threadIdx.x) < step) sums[threadIdx.x] += sums[threadIdx.x + step];
    __syncthreads();
  }
  return sums[0];
}

/// parts (2, PARTS): shares of tr(H R^T), and of the cells whose residual is above tol.
extern "C" __global__ void __launch_bounds__(256)
    fit_parts(const float* R, const float* H, const float* residual, double* parts, int n,
              double tol) {
  const long long share = (n + PARTS - 1) / PARTS, first = blockIdx.x * share;
  const long long stop = first + share < n ? first + share : n;
  double fit = 0.0, unfinished = 0.0;
  for (long long e = first * FACTORS + threadIdx.x; e < stop * FACTORS; e += blockDim.x) {
    fit += double(R[e]) * double(H[e]);
  }
  for (long long i = first + threadIdx.x; i < stop; i += blockDim.x) {
    unfinished += residual[i] > tol;
  }
  fit = block_sum(fit);
  unfinished = block_sum(unfinished);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = fit;
    parts[PARTS + blockIdx.x] = unfinished;
  }
}

/// figures (3,) += |X|^2, |X|^2 - 2 tr(H R^T) + tr(G A), cells not finished. One block.
extern "C" __global__ void __launch_bounds__(1024)
    add_figures(const double* squared, const double* parts, const double* G, const double* A,
                double* figures, int n) {
  double norm = 0.0, fit = 0.0, unfinished = 0.0, fitted = 0.0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) norm += squared[i];
  for (int p = threadIdx.x; p < PARTS; p += blockDim.x) {
    fit += parts[p];
    unfinished += parts[PARTS + p];
  }
  for (int e = threadIdx.x; e < FACTORS * FACTORS; e += blockDim.x) fitted += G[e] * A[e];
  norm = block_sum(norm);
  fit = block_sum(fit);
  unfinished = block_sum(unfinished);
  fitted = block_sum(fitted);
  if (threadIdx.x == 0) {
    figures[0] += norm;
    figures[1] += norm - 2.0 * fit + fitted;
    figures[2] += unfinished;
  }
}
