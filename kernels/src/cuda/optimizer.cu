// Optimizer steps over all parameters at once, block by block, with their gradients and states: the CPU's expressions in the
// CPU's order, so that the same numbers give the same bits.

// A block of one parameter. What is a statistic takes no step.
struct Block {
  u64 start;
  u32 count, setting, param, statistic;
};

// A summed gradient becomes the mean that is applied: `factor` is 1 / total weight times the clipping coefficient.
__device__ __forceinline__ float scaled(float g, float factor, float most) {
  g *= factor;
  // NaN passes both comparisons.
  g = g > most ? most : g;
  return g < -most ? -most : g;
}

// To the nearest number of 16 bits, ties to even, by integers as on the CPU; a NaN stays one.
__device__ __forceinline__ float nearest_bf16(float value) {
  const u32 bits = __float_as_uint(value);
  const u32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000, quiet = (bits | 0x00400000) & 0xffff0000;
  return __uint_as_float(value != value ? quiet : rounded);
}

__device__ __forceinline__ float nearest_f16(float value) {
  const u32 bits = __float_as_uint(value), sign = bits & 0x80000000, magnitude = bits & 0x7fffffff;
  const u32 rounded = (magnitude + 0xfff + (magnitude >> 13 & 1)) & 0xffffe000;
  // 65,520 is half way between the largest f16 and the next that is not one.
  const u32 normal = magnitude >= 0x477ff000 ? 0x7f800000 : rounded;
  // Below 2^-14: the sum with 0.5, whose unit in the last place is 2^-24, rounds to a multiple of that.
  const u32 tiny = __float_as_uint((__uint_as_float(magnitude) + 0.5f) - 0.5f);
  const u32 finite = magnitude < 0x38800000 ? tiny : normal, quiet = (magnitude | 0x00400000) & 0xffffe000;
  return __uint_as_float(sign | (magnitude > 0x7f800000 ? quiet : finite));
}

// precision: 0 f32, 1 bf16, 2 f16.
__device__ __forceinline__ float nearest(float value, u32 precision) {
  return precision == 0 ? value : precision == 1 ? nearest_bf16(value) : nearest_f16(value);
}

// What follows from a new weight: its average, and where steps are taken from other weights than products, the latter.
struct After {
  float* values;
  float* averages;
  float fresh;
  u32 precision;

  __device__ __forceinline__ void average(u64 i, float w) const {
    if (averages) averages[i] = fmaf(w - averages[i], fresh, averages[i]);
  }
  __device__ __forceinline__ void operator()(u64 i, float w) const {
    average(i, w);
    if (values) values[i] = nearest(w, precision);
  }
  // Running averages of a layer are not rounded, and change elsewhere.
  __device__ __forceinline__ void statistics(const Block& block, const float* weights) const {
    if (!averages) return;
    for (u64 n = threadIdx.x; n < block.count; n += blockDim.x) {
      const u64 i = block.start + n;
      average(i, values ? values[i] : weights[i]);
    }
  }
};

// Adam (Kingma and Ba 2015, algorithm 1) and AdamW (Loshchilov and Hutter 2019, algorithm 2). A rule: rate, which is learning
// rate / (1 - beta1^t); 1 / sqrt(1 - beta2^t); beta1; beta2; 1 - beta1; 1 - beta2; epsilon; the factor on the weight, 1 -
// learning rate * decay or 1; L2. A block of threads for each block of a parameter.
extern "C" __global__ void __launch_bounds__(256)
    adam(const Block* __restrict__ blocks, const float* __restrict__ rules, const float* __restrict__ grad,
         float* __restrict__ weights, float* __restrict__ first, float* __restrict__ second, float* __restrict__ values,
         float* __restrict__ averages, float factor, float most, float fresh, u32 precision) {
  const Block block = blocks[blockIdx.x];
  const After after{values, averages, fresh, precision};
  if (block.statistic) return after.statistics(block, weights);
  const float* rule = rules + block.setting * 9;
  const float rate = rule[0], correction = rule[1], beta1 = rule[2], beta2 = rule[3], fresh1 = rule[4], fresh2 = rule[5];
  const float epsilon = rule[6], shrink = rule[7], l2 = rule[8];
  for (u64 n = threadIdx.x; n < block.count; n += blockDim.x) {
    const u64 i = block.start + n;
    const float w = weights[i], g = fmaf(l2, w, scaled(grad[i], factor, most));
    const float m = fmaf(beta1, first[i], fresh1 * g);
    const float v = fmaf(beta2, second[i], fresh2 * (g * g));
    const float next = w * shrink - rate * m / fmaf(sqrtf(v), correction, epsilon);
    first[i] = m;
    second[i] = v;
    weights[i] = next;
    after(i, next);
  }
}

// Momentum SGD as PyTorch defines it: buffer = momentum * buffer + g; the step is the buffer, with Nesterov
// g + momentum * buffer. A rule: rate, momentum, Nesterov (1 or 0), L2.
extern "C" __global__ void __launch_bounds__(256)
    sgd(const Block* __restrict__ blocks, const float* __restrict__ rules, const float* __restrict__ grad,
        float* __restrict__ weights, float* __restrict__ buffer, float* __restrict__ values, float* __restrict__ averages,
        float factor, float most, float fresh, u32 precision) {
  const Block block = blocks[blockIdx.x];
  const After after{values, averages, fresh, precision};
  if (block.statistic) return after.statistics(block, weights);
  const float* rule = rules + block.setting * 9;
  const float rate = rule[0], momentum = rule[1], nesterov = rule[2], l2 = rule[3];
  for (u64 n = threadIdx.x; n < block.count; n += blockDim.x) {
    const u64 i = block.start + n;
    const float w = weights[i], g = fmaf(l2, w, scaled(grad[i], factor, most));
    const float b = fmaf(momentum, buffer[i], g);
    const float next = w - rate * (nesterov > 0.0f ? fmaf(momentum, b, g) : b);
    buffer[i] = b;
    weights[i] = next;
    after(i, next);
  }
}

// The direction of a LAMB step before it is scaled: r of algorithm 2 (You et al. 2020). A rule: rate; 1 / (1 - beta1^t);
// 1 / sqrt(1 - beta2^t); beta1; beta2; 1 - beta1; 1 - beta2; epsilon; decay.
__device__ __forceinline__ float lamb_direction(float w, float m, float v, const float* rule) {
  return fmaf(rule[8], w, m * rule[1] / fmaf(sqrtf(v), rule[2], rule[7]));
}

// Its first pass: moments, and for each block the sums of squares of weights and direction in f64: thread t takes elements
// t, t + 256, ...; the threads' sums are joined by halves.
extern "C" __global__ void __launch_bounds__(256)
    lamb_moments(const Block* __restrict__ blocks, const float* __restrict__ rules, const float* __restrict__ grad,
                 const float* __restrict__ weights, float* __restrict__ first, float* __restrict__ second,
                 double* __restrict__ squares, float factor, float most) {
  DYNAMIC_SHARED(double, sums);
  const Block block = blocks[blockIdx.x];
  const float* rule = rules + block.setting * 9;
  const float beta1 = rule[3], beta2 = rule[4], fresh1 = rule[5], fresh2 = rule[6];
  double of_weights = 0.0, of_direction = 0.0;
  for (u64 n = threadIdx.x; n < block.count && !block.statistic; n += blockDim.x) {
    const u64 i = block.start + n;
    const float w = weights[i], g = scaled(grad[i], factor, most);
    const float m = fmaf(beta1, first[i], fresh1 * g), v = fmaf(beta2, second[i], fresh2 * (g * g));
    first[i] = m;
    second[i] = v;
    const double wide = w, r = lamb_direction(w, m, v, rule);
    of_weights += wide * wide;
    of_direction += r * r;
  }
  sums[threadIdx.x] = of_weights;
  sums[blockDim.x + threadIdx.x] = of_direction;
  __syncthreads();
  for (u32 width = blockDim.x / 2; width > 0; width /= 2) {
    if (threadIdx.x < width) {
      sums[threadIdx.x] += sums[threadIdx.x + width];
      sums[blockDim.x + threadIdx.x] += sums[blockDim.x + threadIdx.x + width];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    squares[blockIdx.x * 2] = sums[0];
    squares[blockIdx.x * 2 + 1] = sums[blockDim.x];
  }
}

// Its second pass: a step of rate times the parameter's trust ratio along the direction.
extern "C" __global__ void __launch_bounds__(256)
    lamb(const Block* __restrict__ blocks, const float* __restrict__ rules, const float* __restrict__ trust,
         float* __restrict__ weights, const float* __restrict__ first, const float* __restrict__ second,
         float* __restrict__ values, float* __restrict__ averages, float fresh, u32 precision) {
  const Block block = blocks[blockIdx.x];
  const After after{values, averages, fresh, precision};
  if (block.statistic) return after.statistics(block, weights);
  const float* rule = rules + block.setting * 9;
  const float rate = rule[0] * trust[block.param];
  for (u64 n = threadIdx.x; n < block.count; n += blockDim.x) {
    const u64 i = block.start + n;
    const float w = weights[i], next = w - rate * lamb_direction(w, first[i], second[i], rule);
    weights[i] = next;
    after(i, next);
  }
}

// A sum becomes the mean gradient of the training's precision, in place. With f16 it is scaled before it is rounded and then
// scaled back; `overflow` becomes 1 where an element is beyond that precision, and is left alone elsewhere.
extern "C" __global__ void __launch_bounds__(256)
    round_gradient(float* __restrict__ grad, u64 count, float factor, float unscale, u32 precision, u32* __restrict__ overflow) {
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads) {
    const float rounded = nearest(grad[i] * factor, precision);
    if (precision == 2 && (__float_as_uint(rounded) & 0x7f800000) == 0x7f800000) *overflow = 1;
    grad[i] = precision == 2 ? rounded * unscale : rounded;
  }
}

// A running statistic moves towards the mean of what the batch saw, whose sum stands where its gradient would; `rows` is how
// many rows that sum is of. `weights`: those that steps are taken from, if they are others.
extern "C" __global__ void __launch_bounds__(256)
    absorb(float* __restrict__ values, float* __restrict__ weights, float* __restrict__ seen, const float* __restrict__ rows,
           u64 count, float momentum) {
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads) {
    const float v = values[i], n = *rows, next = n > 0.0f ? v + momentum * (seen[i] / n - v) : v;
    values[i] = next;
    if (weights) weights[i] = next;
    seen[i] = 0.0f;
  }
}

// The rows seen so far: one thread.
extern "C" __global__ void __launch_bounds__(32)
    absorb_rows(float* __restrict__ values, float* __restrict__ weights, float* __restrict__ seen) {
  if (threadIdx.x != 0) return;
  const float next = *values + *seen;
  *values = next;
  if (weights) *weights = next;
  *seen = 0.0f;
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
