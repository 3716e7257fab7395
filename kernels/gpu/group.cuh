// Eight lanes that share a column, four such groups a warp, and double sums of a whole warp.
//
// Every collective names all 32 lanes: groups never run apart from one another, which
// would serialise them. Callers keep their warps whole.
#pragma once

inline constexpr unsigned ALL_LANES = 0xffffffffu;
inline constexpr int GROUP = 8;           // lanes that share a column
inline constexpr int GROUPS_PER_WARP = 4;

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float smaller(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double smaller(double a, double b) { return fmin(a, b); }
__device__ __forceinline__ float magnitude(float a) { return fabsf(a); }
__device__ __forceinline__ double magnitude(double a) { return fabs(a); }

/// The value that lane `source` of each group holds, in all lanes of that group.
template <typename T>
__device__ __forceinline__ T from_lane(T value, int source) {
  return __shfl_sync(ALL_LANES, value, source, GROUP);
}

/// Largest value of each group, in all its lanes.
template <typename T>
__device__ __forceinline__ T group_largest(T value) {
  for (int step = GROUP / 2; step > 0; step /= 2) {
    value = larger(value, __shfl_xor_sync(ALL_LANES, value, step));
  }
  return value;
}

/// Sum over a warp by a fixed tree, in all its lanes.
__device__ __forceinline__ double warp_sum(double value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
  return value;
}
