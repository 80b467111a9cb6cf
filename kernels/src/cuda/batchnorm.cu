// Batch normalization over the rows of each logical shard. Statistics of a shard are five runs of columns: mean, inverse
// deviation, unbiased variance, sum of gradients, sum of gradients times normalized inputs. Sums are in f64. A block of
// the sums has 32 columns (x) and 8 rows at a time (y).

constexpr u32 PARTS = 5;
constexpr double EPSILON = 1e-5;

// The sum over the rows of threads of one column, in all of them.
__device__ __forceinline__ double down(double value, double* sums) {
  sums[threadIdx.y * WARP + threadIdx.x] = value;
  __syncthreads();
  double sum = 0.0;
  for (u32 y = 0; y < blockDim.y; y++) sum += sums[y * WARP + threadIdx.x];
  __syncthreads();
  return sum;
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_statistics(const float* __restrict__ x, const u64* __restrict__ bounds, float* __restrict__ statistics, u32 columns) {
  DYNAMIC_SHARED(double, sums);
  const u64 column = blockIdx.x * static_cast<u64>(WARP) + threadIdx.x;
  const u64 begin = bounds[blockIdx.y], end = bounds[blockIdx.y + 1];
  const bool inside = column < columns;
  const double count = static_cast<double>(end - begin);
  double sum = 0.0, squares = 0.0;
  for (u64 row = begin + threadIdx.y; inside && row < end; row += blockDim.y) sum += static_cast<double>(x[row * columns + column]);
  const double mean = begin == end ? 0.0 : down(sum, sums) / count;
  for (u64 row = begin + threadIdx.y; inside && row < end; row += blockDim.y) {
    const double apart = static_cast<double>(x[row * columns + column]) - mean;
    squares += apart * apart;
  }
  squares = down(squares, sums);
  if (threadIdx.y == 0 && inside) {
    float* out = statistics + static_cast<u64>(blockIdx.y) * PARTS * columns + column;
    out[0] = static_cast<float>(mean);
    out[columns] = static_cast<float>(1.0 / sqrt((begin == end ? 0.0 : squares / count) + EPSILON));
    out[2 * static_cast<u64>(columns)] = static_cast<float>(squares / (count > 2.0 ? count - 1.0 : 1.0));
  }
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_sums(const float* __restrict__ x, const float* __restrict__ grad, const u64* __restrict__ bounds,
                    float* __restrict__ statistics, u32 columns) {
  DYNAMIC_SHARED(double, sums);
  const u64 column = blockIdx.x * static_cast<u64>(WARP) + threadIdx.x;
  const u64 begin = bounds[blockIdx.y], end = bounds[blockIdx.y + 1];
  const bool inside = column < columns;
  float* own = statistics + static_cast<u64>(blockIdx.y) * PARTS * columns + column;
  const float mean = inside ? own[0] : 0.0f, inverse = inside ? own[columns] : 0.0f;
  double sum = 0.0, product = 0.0;
  for (u64 row = begin + threadIdx.y; inside && row < end; row += blockDim.y) {
    const float g = grad[row * columns + column];
    sum += static_cast<double>(g);
    product += static_cast<double>(g) * static_cast<double>((x[row * columns + column] - mean) * inverse);
  }
  sum = down(sum, sums);
  product = down(product, sums);
  if (threadIdx.y == 0 && inside) {
    own[3 * static_cast<u64>(columns)] = static_cast<float>(sum);
    own[4 * static_cast<u64>(columns)] = static_cast<float>(product);
  }
}

// `blockIdx.y` is a shard.
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_forward(const float* __restrict__ x, const u64* __restrict__ bounds, const float* __restrict__ statistics,
                       const float* __restrict__ gain, const float* __restrict__ bias, float* __restrict__ y, u32 columns) {
  const float* own = statistics + static_cast<u64>(blockIdx.y) * PARTS * columns;
  const u64 end = bounds[blockIdx.y + 1] * columns, threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = bounds[blockIdx.y] * columns + blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < end; i += threads) {
    const u32 c = static_cast<u32>(i % columns);
    y[i] = fmaf((x[i] - own[c]) * own[columns + c], gain[c], bias[c]);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_backward(const float* __restrict__ x, const float* __restrict__ grad, const u64* __restrict__ bounds,
                        const float* __restrict__ statistics, const float* __restrict__ gain, float* __restrict__ out, u32 columns,
                        u32 add) {
  const float* own = statistics + static_cast<u64>(blockIdx.y) * PARTS * columns;
  const u64 begin = bounds[blockIdx.y], end = bounds[blockIdx.y + 1], threads = static_cast<u64>(gridDim.x) * blockDim.x;
  const float share = 1.0f / static_cast<float>(end - begin);
  for (u64 i = begin * columns + blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < end * columns; i += threads) {
    const u32 c = static_cast<u32>(i % columns);
    const float inverse = own[columns + c], normalized = (x[i] - own[c]) * inverse;
    const float centered = grad[i] - share * own[3 * static_cast<u64>(columns) + c] -
                           normalized * (share * own[4 * static_cast<u64>(columns) + c]);
    const float term = gain[c] * inverse * centered;
    out[i] = add ? out[i] + term : term;
  }
}

// partial[shard] = one of the runs (3, 4), one weighed by the shard's rows (0, 2), or the rows themselves (PARTS): zero
// where a shard has none.
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_leaves(const float* __restrict__ statistics, const u64* __restrict__ bounds, float* __restrict__ partial, u32 columns,
                      u32 part) {
  const float rows = static_cast<float>(bounds[blockIdx.y + 1] - bounds[blockIdx.y]);
  const u32 wide = part == PARTS ? 1 : columns, c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= wide) return;
  float leaf = rows;
  if (rows == 0.0f) leaf = 0.0f;
  else if (part < PARTS) {
    const float seen = statistics[(static_cast<u64>(blockIdx.y) * PARTS + part) * columns + c];
    leaf = part < 3 ? rows * seen : seen;
  }
  partial[static_cast<u64>(blockIdx.y) * wide + c] = leaf;
}

// With running statistics: y, or the gradient of x.
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_running(const float* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ variance,
                       const float* __restrict__ gain, const float* __restrict__ bias, float* __restrict__ y, u64 count, u32 columns) {
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads) {
    const u32 c = static_cast<u32>(i % columns);
    const float inverse = static_cast<float>(1.0 / sqrt(static_cast<double>(variance[c]) + EPSILON));
    y[i] = fmaf((x[i] - mean[c]) * inverse, gain[c], bias[c]);
  }
}
