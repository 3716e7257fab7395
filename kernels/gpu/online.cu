// What a step of online factorisation does to the state, entry by entry; one thread an entry.
//
// Statistics of the previous epoch are handed over linearly: current = now + left * previous.

/// previous = now, now = 0.
extern "C" __global__ void __launch_bounds__(256)
    hand_over(double* now, double* previous, int n) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= n) return;
  previous[e] = now[e];
  now[e] = 0.0;
}

/// now += delta; current and its change are written, and the change is added to total.
extern "C" __global__ void __launch_bounds__(256)
    fold(double* now, const double* previous, const double* delta, double* current, double* change,
         double* total, double left_before, double left_after, int n) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= n) return;
  const double before = now[e] + left_before * previous[e];
  now[e] += delta[e];
  current[e] = now[e] + left_after * previous[e];
  change[e] = current[e] - before;
  total[e] += change[e];
}

/// The same for B (k, m), from delta (m, k); its change goes to T alone.
extern "C" __global__ void __launch_bounds__(256)
    fold_genes(double* now, const double* previous, const double* delta, double* current, double* T,
               double left_before, double left_after, int k, int m) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= k * m) return;
  const int j = e / m, gene = e % m;
  const double before = now[e] + left_before * previous[e];
  now[e] += delta[(long long)gene * k + j];
  current[e] = now[e] + left_after * previous[e];
  T[e] += current[e] - before;
}

/// total += change.
extern "C" __global__ void __launch_bounds__(256)
    accumulate(double* total, const double* change, int n) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e < n) total[e] += change[e];
}

/// to = from.
extern "C" __global__ void __launch_bounds__(256) copy_factor(float* to, const float* from, int n) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e < n) to[e] = from[e];
}

/// L (k, m) = W + V over the measured genes, and scaled (m, k) = its transpose times the scale.
extern "C" __global__ void __launch_bounds__(256)
    metagenes(const float* W, const float* V, const unsigned char* measured, const double* scale,
              float* L, float* scaled, int k, int m) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= k * m) return;
  const int j = e / m, gene = e % m;
  const float value = measured[gene] ? W[e] + V[e] : 0.0f;
  L[e] = value;
  scaled[(long long)gene * k + j] = float(double(value) * scale[gene]);
}
