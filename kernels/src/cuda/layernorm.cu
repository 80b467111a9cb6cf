// Layer normalization over rows (Ba, Kiros, Hinton 2016): y = (x - mean) / sqrt(var + epsilon) * gain + bias, with the
// biased variance. One block a row at a time; a row's threads sum it in an order that only its length decides.

extern "C" __global__ void __launch_bounds__(1024)
    layer_norm_forward(const float* __restrict__ x, const float* __restrict__ gain, const float* __restrict__ bias,
                       float epsilon, float* __restrict__ y, float2* __restrict__ statistics, u64 rows, u32 columns) {
  DYNAMIC_SHARED(float, scratch);
  for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* from = x + row * columns;
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) sum += from[c];
    const float mean = block_sum(sum, scratch) / static_cast<float>(columns);
    float squares = 0.0f;
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) {
      const float apart = from[c] - mean;
      squares += apart * apart;
    }
    const float variance = block_sum(squares, scratch) / static_cast<float>(columns);
    const float inverse = 1.0f / sqrtf(variance + epsilon);
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x)
      y[row * columns + c] = fmaf((from[c] - mean) * inverse, gain[c], bias[c]);
    if (threadIdx.x == 0) statistics[row] = make_float2(mean, inverse);
  }
}

// out (+)= inverse * (g gain - mean(g gain) - xhat mean(g gain xhat)).
extern "C" __global__ void __launch_bounds__(1024)
    layer_norm_backward(const float* __restrict__ grad, const float* __restrict__ x, const float* __restrict__ gain,
                        const float2* __restrict__ statistics, float* __restrict__ out, u64 rows, u32 columns, u32 add) {
  DYNAMIC_SHARED(float, scratch);
  for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* g = grad + row * columns;
    const float* from = x + row * columns;
    const float mean = statistics[row].x, inverse = statistics[row].y;
    float first = 0.0f, second = 0.0f;
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) {
      const float term = g[c] * gain[c];
      first += term;
      second += term * ((from[c] - mean) * inverse);
    }
    first = block_sum(first, scratch) / static_cast<float>(columns);
    second = block_sum(second, scratch) / static_cast<float>(columns);
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) {
      const float normalized = (from[c] - mean) * inverse;
      const float value = inverse * fmaf(normalized, -second, g[c] * gain[c] - first);
      float* to = out + row * columns + c;
      *to = add ? *to + value : value;
    }
  }
}

// partial[shard][column] = the sum of grad * xhat over the rows of a shard. A block has 32 columns (x) and 8 rows at a time
// (y); which rows a thread has, only the number of rows decides.
extern "C" __global__ void __launch_bounds__(256)
    layer_norm_gains(const float* __restrict__ grad, const float* __restrict__ x, const float2* __restrict__ statistics,
                     const u64* __restrict__ bounds, float* __restrict__ partial, u32 columns) {
  DYNAMIC_SHARED(float, sums);
  const u64 column = blockIdx.x * static_cast<u64>(WARP) + threadIdx.x;
  const u64 begin = bounds[blockIdx.y], end = bounds[blockIdx.y + 1];
  float sum = 0.0f;
  if (column < columns)
    for (u64 row = begin + threadIdx.y; row < end; row += blockDim.y)
      sum += grad[row * columns + column] * ((x[row * columns + column] - statistics[row].x) * statistics[row].y);
  sums[threadIdx.y * WARP + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < columns) {
    for (u32 y = 1; y < blockDim.y; y++) sum += sums[y * WARP + threadIdx.x];
    partial[static_cast<u64>(blockIdx.y) * columns + column] = sum;
  }
}
