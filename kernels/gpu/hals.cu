// Hierarchical alternating least squares for a factor matrix: genes are the columns.
//
// The rows' updates for one gene are coordinate descent with the statistics' Gram matrix, in
// double; a fixed number of sweeps, and no test.
#include "descent.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

/// factor (k, m) float32, updated on the n genes listed, towards target (k, m) float64 times
/// `share`; gram (k, k). A row whose diagonal entry is not positive stays as it is.
extern "C" __global__ void __launch_bounds__(128)
    hals(const double* S, const double* target, float* factor, const int* genes, int n, int m,
         double share, int n_sweeps) {
  const Gram gram = gram_in(shared_memory);
  load_gram(S, gram);
  const int lane = threadIdx.x % GROUP;
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) / GROUP;
  const int gene = column < n ? genes[column] : -1;
  Real h[COLUMNS][SLOTS], r[COLUMNS][SLOTS];
  const bool active[COLUMNS] = {gene >= 0};
#pragma unroll
  for (int p = 0; p < SLOTS; ++p) {
    const int j = p * GROUP + lane;
    const bool held = j < FACTORS && gene >= 0;
    const long long at = held ? (long long)j * m + gene : 0;
    h[0][p] = held ? Real(factor[at]) * gram.size[j] : Real(0);
    r[0][p] = held ? target[at] * share * gram.scale[j] : Real(0);
  }
  subtract_fit(gram, lane, h, r);
  for (int s = 0; s < n_sweeps; ++s) sweep(gram, lane, h, r, active);
#pragma unroll
  for (int p = 0; p < SLOTS; ++p) {
    const int j = p * GROUP + lane;
    if (j < FACTORS && gene >= 0 && gram.size[j] > Real(0)) {
      factor[(long long)j * m + gene] = float(h[0][p] * gram.scale[j]);
    }
  }
}
