// Optimizer steps over flat parameters, their gradients and states: the CPU's expressions in the CPU's order, so that the
// same numbers give the same bits.

// A summed gradient becomes the mean that is applied: `factor` is 1 / total weight times the clipping coefficient.
__device__ __forceinline__ float scaled(float g, float factor, float most) {
  g *= factor;
  // NaN passes both comparisons.
  g = g > most ? most : g;
  return g < -most ? -most : g;
}

// Adam (Kingma and Ba 2015, algorithm 1) and AdamW (Loshchilov and Hutter 2019, algorithm 2). rate: learning rate /
// (1 - beta1^t); inverse_correction: 1 / sqrt(1 - beta2^t); fresh: 1 - beta; shrink: 1 - learning rate * decay or 1.
extern "C" __global__ void __launch_bounds__(256)
    adam(float* __restrict__ weights, const float* __restrict__ grad, float* __restrict__ first, float* __restrict__ second,
         u64 count, float factor, float most, float rate, float inverse_correction, float beta1, float beta2, float fresh1,
         float fresh2, float epsilon, float shrink, float l2) {
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads) {
    const float w = weights[i], g = fmaf(l2, w, scaled(grad[i], factor, most));
    const float m = fmaf(beta1, first[i], fresh1 * g);
    const float v = fmaf(beta2, second[i], fresh2 * (g * g));
    first[i] = m;
    second[i] = v;
    weights[i] = w * shrink - rate * m / fmaf(sqrtf(v), inverse_correction, epsilon);
  }
}

// Momentum SGD as PyTorch defines it: buffer = momentum * buffer + g; the step is the buffer, with Nesterov
// g + momentum * buffer.
extern "C" __global__ void __launch_bounds__(256)
    sgd(float* __restrict__ weights, const float* __restrict__ grad, float* __restrict__ buffer, u64 count, float factor,
        float most, float rate, float momentum, float l2, u32 nesterov) {
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads) {
    const float w = weights[i], g = fmaf(l2, w, scaled(grad[i], factor, most));
    const float b = fmaf(momentum, buffer[i], g);
    buffer[i] = b;
    weights[i] = w - rate * (nesterov ? fmaf(momentum, b, g) : b);
  }
}

// The sum of squares of each chunk, in f64: NaN or infinite where an element is. Thread t of a chunk takes elements t,
// t + 256, ...; the threads' sums are joined by halves.
extern "C" __global__ void __launch_bounds__(256)
    squares(const float* __restrict__ x, double* __restrict__ partial, u64 count, u64 of_chunk) {
  DYNAMIC_SHARED(double, sums);
  const u64 begin = blockIdx.x * of_chunk, end = begin + of_chunk < count ? begin + of_chunk : count;
  double sum = 0.0;
  for (u64 i = begin + threadIdx.x; i < end; i += blockDim.x) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (u32 width = blockDim.x / 2; width > 0; width /= 2) {
    if (threadIdx.x < width) sums[threadIdx.x] += sums[threadIdx.x + width];
    __syncthreads();
  }
  if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

// The sum of all chunks in their order, as one number: one block of one thread.
extern "C" __global__ void __launch_bounds__(32)
    squares_sum(const double* __restrict__ partial, double* __restrict__ sum, u32 chunks) {
  double total = 0.0;
  for (u32 chunk = 0; chunk < chunks; chunk++) total += partial[chunk];
  if (threadIdx.x == 0) *sum = total;
}
