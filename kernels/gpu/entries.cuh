// Entries of a cell. A gene may stand several times in it, one entry behind the other: its count
// is their sum, so that counts beyond the type's largest fit.
#pragma once

/// The gene's whole count if `e` is its first entry in the cell, else 0.
template <typename Gene_, typename Count_>
__device__ __forceinline__ double whole_count(const Gene_* genes, const Count_* counts, long long e,
                                              long long start, long long stop) {
  const Gene_ gene = genes[e];
  if (e > start && genes[e - 1] == gene) return 0.0;
  double total = counts[e];
  for (++e; e < stop && genes[e] == gene; ++e) total += double(counts[e]);
  return total;
}
