// Gene by gene sums of products, X^T X, from counts by cell and by gene.
#include "entries.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

/// out (m, m) float64 += X^T X; one block a gene, which walks its cells in order.
///
/// Only a gene's first entry in a cell adds to its sum, so that threads never meet on one.
extern "C" __global__ void __launch_bounds__(128)
    gene_pairs(const int* starts, const int* cells, const float* values, const long long* rows,
               const long long* indptr, const Gene* genes, const Count* counts,
               const float* weights, const double* scale, double* out, int m) {
  double* sums = reinterpret_cast<double*>(shared_memory);
  const int gene = blockIdx.x;
  for (int g = threadIdx.x; g < m; g += blockDim.x) sums[g] = 0.0;
  __syncthreads();
  for (int e = starts[gene]; e < starts[gene + 1]; ++e) {
    const long long cell = rows[cells[e]];
    const long long start = indptr[cell], stop = indptr[cell + 1];
    for (long long o = start + threadIdx.x; o < stop; o += blockDim.x) {
      const double count = whole_count(genes, counts, o, start, stop);
      if (count > 0.0) sums[genes[o]] += double(values[e]) * double(float(count) * weights[cell]);
    }
    __syncthreads();
  }
  for (int g = threadIdx.x; g < m; g += blockDim.x) {
    out[(long long)gene * m + g] += sums[g] * (scale[gene] * scale[g]);
  }
}
