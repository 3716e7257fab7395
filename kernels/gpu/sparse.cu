// Products of scaled counts X (cells x genes, by cell or by gene) with dense rows of FACTORS
// values: R = X L^T a warp to a cell, B = X^T H a block to a gene.
//
// X[c, g] = weight[c] count[c, g] scale[g]; the scale lies in L already, and is put into B at the
// end. Gene and Count are the types in which the counts are kept. No sum depends on timing.
#include "entries.cuh"
#include "group.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

constexpr int TURNS = (FACTORS + 31) / 32;  // values of a row that a lane holds
constexpr int RUN = 8;                      // rows fetched before the first is used

/// sum += value * row, for `n` rows named by the lanes of the warp: eight at a time, in order.
template <typename Sum>
__device__ __forceinline__ void add_rows(const float* rows, int index, float value, int n, int lane,
                                         Sum (&sum)[TURNS]) {
  for (int first = 0; first < n; first += RUN) {
    float fetched[RUN][TURNS], weight[RUN];
#pragma unroll
    for (int e = 0; e < RUN; ++e) {
      const long long at = __shfl_sync(ALL_LANES, index, first + e);
      weight[e] = __shfl_sync(ALL_LANES, value, first + e);
#pragma unroll
      for (int t = 0; t < TURNS; ++t) {
        const int j = t * 32 + lane;
        fetched[e][t] = j < FACTORS ? rows[at * FACTORS + j] : 0.0f;
      }
    }
#pragma unroll
    for (int t = 0; t < TURNS; ++t) {
      float run = 0.0f;
#pragma unroll
      for (int e = 0; e < RUN; ++e) run += weight[e] * fetched[e][t];
      sum[t] += run;
    }
  }
}

/// R (n, k) = X L^T, from L^T times the scale, `scaled` (m, k); one warp a cell.
extern "C" __global__ void __launch_bounds__(128)
    products(const long long* rows, const long long* indptr, const Gene* genes, const Count* counts,
             const float* weights, const float* scaled, float* R, int n) {
  const int lane = threadIdx.x % 32;
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (i >= n) return;
  const long long cell = rows[i], stop = indptr[cell + 1];
  float sum[TURNS] = {};
  for (long long start = indptr[cell]; start < stop; start += 32) {
    const int left = stop - start < 32 ? int(stop - start) : 32;
    // Lanes beyond the end add nothing times the first row.
    const int gene = lane < left ? int(genes[start + lane]) : 0;
    const float value = lane < left ? float(counts[start + lane]) : 0.0f;
    add_rows(scaled, gene, value, left, lane, sum);
  }
#pragma unroll
  for (int t = 0; t < TURNS; ++t) {
    const int j = t * 32 + lane;
    if (j < FACTORS) R[(long long)i * FACTORS + j] = weights[cell] * sum[t];
  }
}

/// squared (n,): each cell's |x|^2, float64; one warp a cell.
extern "C" __global__ void __launch_bounds__(128)
    squared_norms(const long long* rows, const long long* indptr, const Gene* genes,
                  const Count* counts, const float* weights, const double* scale, double* squared,
                  int n) {
  const int lane = threadIdx.x % 32;
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (i >= n) return;
  const long long cell = rows[i];
  const long long start = indptr[cell], stop = indptr[cell + 1];
  double sum = 0.0;
  for (long long e = start + lane; e < stop; e += 32) {
    const double value = whole_count(genes, counts, e, start, stop) * scale[genes[e]];
    sum += value * value;
  }
  sum = warp_sum(sum);
  const double weight = weights[cell];
  if (lane == 0) squared[i] = sum * weight * weight;
}

/// B (m, k) float64 = X^T H, from counts by gene (values hold the weight); one block a gene.
///
/// Warps take runs of 32 entries in turn; their sums are added in the order of the warps.
extern "C" __global__ void __launch_bounds__(128)
    gene_products(const int* starts, const int* cells, const float* values, const double* scale,
                  const float* H, double* B) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
  const int gene = blockIdx.x, stop = starts[gene + 1];
  double sum[TURNS] = {};
  for (int start = starts[gene] + warp * 32; start < stop; start += n_warps * 32) {
    const int left = stop - start < 32 ? stop - start : 32;
    const int cell = lane < left ? cells[start + lane] : 0;
    const float value = lane < left ? values[start + lane] : 0.0f;
    add_rows(H, cell, value, left, lane, sum);
  }
  double* sums = reinterpret_cast<double*>(shared_memory);
#pragma unroll
  for (int t = 0; t < TURNS; ++t) sums[(warp * TURNS + t) * 32 + lane] = sum[t];
  __syncthreads();
  for (int j = threadIdx.x; j < FACTORS; j += blockDim.x) {
    double total = 0.0;
    for (int w = 0; w < n_warps; ++w) total += sums[w * TURNS * 32 + j];
    B[(long long)gene * FACTORS + j] = total * scale[gene];
  }
}
