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

// Sums of grad * xhat and of grad over the rows of a chunk, for each column: partial[chunk][2][columns]. A block has 32
// columns (x) and several rows at a time (y); which rows a thread has, only the numbers of rows and chunks decide.
extern "C" __global__ void __launch_bounds__(256)
    layer_norm_parameters(const float* __restrict__ grad, const float* __restrict__ x, const float2* __restrict__ statistics,
                          float* __restrict__ partial, u64 rows, u32 columns, u32 rows_of_chunk) {
  DYNAMIC_SHARED(float2, sums);
  const u64 column = blockIdx.x * static_cast<u64>(WARP) + threadIdx.x;
  const u64 chunk = blockIdx.y, begin = chunk * rows_of_chunk;
  const u64 end = begin + rows_of_chunk < rows ? begin + rows_of_chunk : rows;
  float gains = 0.0f, biases = 0.0f;
  if (column < columns) {
    for (u64 row = begin + threadIdx.y; row < end; row += blockDim.y) {
      const float g = grad[row * columns + column];
      gains += g * ((x[row * columns + column] - statistics[row].x) * statistics[row].y);
      biases += g;
    }
  }
  sums[threadIdx.y * WARP + threadIdx.x] = make_float2(gains, biases);
  __syncthreads();
  if (threadIdx.y == 0 && column < columns) {
    for (u32 y = 1; y < blockDim.y; y++) {
      gains += sums[y * WARP + threadIdx.x].x;
      biases += sums[y * WARP + threadIdx.x].y;
    }
    partial[(chunk * 2) * columns + column] = gains;
    partial[(chunk * 2 + 1) * columns + column] = biases;
  }
}

// gain and bias (+)= the sums of all chunks, in their order.
extern "C" __global__ void __launch_bounds__(256)
    layer_norm_parameters_sum(const float* __restrict__ partial, float* __restrict__ gain, float* __restrict__ bias,
                              u32 chunks, u32 columns, u32 add) {
  const u64 column = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x;
  if (column >= columns) return;
  float gains = 0.0f, biases = 0.0f;
  for (u64 chunk = 0; chunk < chunks; chunk++) {
    gains += partial[(chunk * 2) * columns + column];
    biases += partial[(chunk * 2 + 1) * columns + column];
  }
  gain[column] = add ? gain[column] + gains : gains;
  bias[column] = add ? bias[column] + biases : biases;
}
