// Counts of a tile by gene: a stable counting sort, so that each gene's cells ascend.
//
// Cells are cut into slices, one warp each, which walks its entries in order and counts in shared
// memory. Lanes that hold the same gene are told by a vote, and the first of them counts for all:
// nothing is atomic.
#include "group.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

constexpr int SCAN_THREADS = 1024;

__device__ __forceinline__ unsigned short* zeroed_counters(int m) {
  auto* counters = reinterpret_cast<unsigned short*>(shared_memory);
  for (int g = threadIdx.x; g < m; g += 32) counters[g] = 0;
  __syncwarp();
  return counters;
}

/// How many lanes before this one, and in all, hold the same gene.
struct Peers {
  int before, all;
  __device__ __forceinline__ Peers(int gene, int lane) {
    const unsigned same = __match_any_sync(ALL_LANES, gene);
    before = __popc(same & ((1u << lane) - 1u));
    all = __popc(same);
  }
};

/// offsets (slices, m): how often each gene occurs in a slice of at most 65,535 cells.
extern "C" __global__ void __launch_bounds__(32)
    count_genes(const long long* rows, const long long* indptr, const Gene* genes, int* offsets,
                int n, int m, int slice_cells) {
  unsigned short* counters = zeroed_counters(m);
  const int first = blockIdx.x * slice_cells;
  for (int i = first; i < first + slice_cells && i < n; ++i) {
    const long long cell = rows[i], stop = indptr[cell + 1];
    for (long long start = indptr[cell]; start < stop; start += 32) {
      const long long e = start + threadIdx.x;
      const int gene = e < stop ? int(genes[e]) : -1;
      const Peers peers(gene, threadIdx.x);
      if (gene >= 0 && peers.before == 0) counters[gene] += peers.all;
      __syncwarp();
    }
  }
  for (int g = threadIdx.x; g < m; g += 32) offsets[(long long)blockIdx.x * m + g] = counters[g];
}

/// Counts become offsets within the gene, in place; totals (m,) written. One thread a gene.
extern "C" __global__ void __launch_bounds__(128)
    offset_slices(int* offsets, int* totals, int n_slices, int m) {
  const int gene = blockIdx.x * blockDim.x + threadIdx.x;
  if (gene >= m) return;
  int total = 0;
  for (int s = 0; s < n_slices; ++s) {
    const int found = offsets[(long long)s * m + gene];
    offsets[(long long)s * m + gene] = total;
    total += found;
  }
  totals[gene] = total;
}

/// starts (m + 1,): where each gene's entries begin. One block of SCAN_THREADS threads.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
    start_genes(const int* totals, int* starts, int m) {
  int* sums = reinterpret_cast<int*>(shared_memory);
  const int share = (m + SCAN_THREADS - 1) / SCAN_THREADS, first = threadIdx.x * share;
  int own = 0;
  for (int g = first; g < first + share && g < m; ++g) own += totals[g];
  sums[threadIdx.x] = own;
  __syncthreads();
  for (int step = 1; step < SCAN_THREADS; step *= 2) {
    const int before = int(threadIdx.x) >= step ? sums[threadIdx.x - step] : 0;
    __syncthreads();
    sums[threadIdx.x] += before;
    __syncthreads();
  }
  int at = sums[threadIdx.x] - own;
  for (int g = first; g < first + share && g < m; ++g) {
    starts[g] = at;
    at += totals[g];
  }
  if (threadIdx.x == SCAN_THREADS - 1) starts[m] = sums[threadIdx.x];
}

/// cells and values (nnz,): position in the tile, and count times the cell's weight.
extern "C" __global__ void __launch_bounds__(32)
    scatter_genes(const long long* rows, const long long* indptr, const Gene* genes,
                  const Count* counts, const float* weights, const int* offsets, const int* starts,
                  int* cells, float* values, int n, int m, int slice_cells) {
  unsigned short* counters = zeroed_counters(m);
  const int first = blockIdx.x * slice_cells;
  for (int i = first; i < first + slice_cells && i < n; ++i) {
    const long long cell = rows[i], stop = indptr[cell + 1];
    for (long long start = indptr[cell]; start < stop; start += 32) {
      const long long e = start + threadIdx.x;
      const int gene = e < stop ? int(genes[e]) : -1;
      const Peers peers(gene, threadIdx.x);
      if (gene >= 0) {
        const long long before = offsets[(long long)blockIdx.x * m + gene] + counters[gene];
        const long long at = starts[gene] + before + peers.before;
        cells[at] = i;
        values[at] = float(counts[e]) * weights[cell];
      }
      __syncwarp();
      if (gene >= 0 && peers.before == 0) counters[gene] += peers.all;
      __syncwarp();
    }
  }
}
