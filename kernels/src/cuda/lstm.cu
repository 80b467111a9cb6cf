// One direction of one LSTM layer over whole sequences in one kernel (Hochreiter and Schmidhuber 1997; gates in PyTorch's
// order: input, forget, candidate, output). A block has `together` sequences and takes them step by step; states stay in
// shared memory. The input's part of the gates comes as a matrix [items, 4 hidden].

// W [rows, columns] to [columns, rows].
extern "C" __global__ void __launch_bounds__(256) turn(const float* __restrict__ x, float* __restrict__ y, u32 rows, u32 columns) {
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x, count = static_cast<u64>(rows) * columns;
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads)
    y[i % columns * rows + i / columns] = x[i];
}

constexpr u32 MOST_TOGETHER = 4;

// `turned`: the recurrent weight [hidden, 4 hidden]. The buffers from `gates` on are null where no gradient is wanted.
extern "C" __global__ void __launch_bounds__(256)
    lstm_forward(const float* __restrict__ input, const float* __restrict__ turned, const float* __restrict__ bias,
                 const u64* __restrict__ offsets, float* __restrict__ y, float* __restrict__ gates, float* __restrict__ cells,
                 float* __restrict__ before, u64 samples, u32 hidden, u32 together, u32 backwards) {
  DYNAMIC_SHARED(float, shared);
  float* h = shared;                     // [together, hidden]
  float* c = h + together * hidden;      // [together, hidden]
  float* z = c + together * hidden;      // [together, 4 hidden]
  const u32 wide = 4 * hidden;
  const u64 group = blockIdx.x * static_cast<u64>(together);
  u64 begin[MOST_TOGETHER], length[MOST_TOGETHER], longest = 0;
#pragma unroll
  for (u32 s = 0; s < MOST_TOGETHER; s++) {
    const bool there = s < together && group + s < samples;
    begin[s] = there ? offsets[group + s] : 0;
    length[s] = there ? offsets[group + s + 1] - begin[s] : 0;
    longest = length[s] > longest ? length[s] : longest;
  }
  for (u32 n = threadIdx.x; n < together * hidden; n += blockDim.x) h[n] = c[n] = 0.0f;
  __syncthreads();
  for (u64 step = 0; step < longest; step++) {
    for (u32 j = threadIdx.x; j < wide; j += blockDim.x) {
      float sums[MOST_TOGETHER] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (u32 k = 0; k < hidden; k++) {
        const float w = turned[static_cast<u64>(k) * wide + j];
#pragma unroll
        for (u32 s = 0; s < MOST_TOGETHER; s++)
          if (s < together) sums[s] = fmaf(h[s * hidden + k], w, sums[s]);
      }
#pragma unroll
      for (u32 s = 0; s < MOST_TOGETHER; s++)
        if (step < length[s]) {
          const u64 item = begin[s] + (backwards ? length[s] - 1 - step : step);
          float v = sums[s] + input[item * wide + j];
          if (bias) v += bias[j];
          z[s * wide + j] = j >= 2 * hidden && j < 3 * hidden ? tanh_of(v) : sigmoid_of(v);
        }
    }
    __syncthreads();
    for (u32 k = threadIdx.x; k < hidden; k += blockDim.x)
#pragma unroll
      for (u32 s = 0; s < MOST_TOGETHER; s++)
        if (step < length[s]) {
          const u64 item = begin[s] + (backwards ? length[s] - 1 - step : step);
          const float* gate = z + s * wide + k;
          const u32 at = s * hidden + k;
          if (before) before[item * hidden + k] = h[at];
          c[at] = fmaf(gate[hidden], c[at], gate[0] * gate[2 * hidden]);
          h[at] = gate[3 * hidden] * tanh_of(c[at]);
          y[item * hidden + k] = h[at];
          if (gates) {
            cells[item * hidden + k] = c[at];
            for (u32 g = 0; g < 4; g++) gates[item * wide + g * hidden + k] = gate[g * hidden];
          }
        }
    __syncthreads();
  }
}

// `weight`: [4 hidden, hidden]. The gates' gradients go to `out`, the gradient of `input`.
extern "C" __global__ void __launch_bounds__(256)
    lstm_backward(const float* __restrict__ grad, const float* __restrict__ weight, const float* __restrict__ gates,
                  const float* __restrict__ cells, const u64* __restrict__ offsets, float* __restrict__ out, u64 samples, u32 hidden,
                  u32 together, u32 backwards) {
  DYNAMIC_SHARED(float, shared);
  float* dh = shared;                    // [4, together, hidden]: a part for each gate
  float* dc = dh + 4 * together * hidden;
  float* dz = dc + together * hidden;    // [together, 4 hidden]
  const u32 wide = 4 * hidden, all = together * hidden;
  const u64 group = blockIdx.x * static_cast<u64>(together);
  u64 begin[MOST_TOGETHER], length[MOST_TOGETHER], longest = 0;
#pragma unroll
  for (u32 s = 0; s < MOST_TOGETHER; s++) {
    const bool there = s < together && group + s < samples;
    begin[s] = there ? offsets[group + s] : 0;
    length[s] = there ? offsets[group + s + 1] - begin[s] : 0;
    longest = length[s] > longest ? length[s] : longest;
  }
  for (u32 n = threadIdx.x; n < 4 * all; n += blockDim.x) dh[n] = 0.0f;
  for (u32 n = threadIdx.x; n < all; n += blockDim.x) dc[n] = 0.0f;
  for (u32 n = threadIdx.x; n < together * wide; n += blockDim.x) dz[n] = 0.0f;
  __syncthreads();
  for (u64 step = longest; step-- > 0;) {
    for (u32 k = threadIdx.x; k < hidden; k += blockDim.x)
#pragma unroll
      for (u32 s = 0; s < MOST_TOGETHER; s++)
        if (step < length[s]) {
          const u64 item = begin[s] + (backwards ? length[s] - 1 - step : step);
          const u64 last = backwards ? item + 1 : item - 1;
          const u32 at = s * hidden + k;
          const float* gate = gates + item * wide + k;
          const float i = gate[0], f = gate[hidden], g = gate[2 * static_cast<u64>(hidden)], o = gate[3 * static_cast<u64>(hidden)];
          const float t = tanh_of(cells[item * hidden + k]), old = step ? cells[last * hidden + k] : 0.0f;
          const float d = ((dh[at] + dh[all + at]) + (dh[2 * all + at] + dh[3 * all + at])) + grad[item * hidden + k];
          const float of_cell = fmaf(d * o, 1.0f - t * t, dc[at]);
          float* to = dz + s * wide + k;
          to[0] = of_cell * g * (i * (1.0f - i));
          to[hidden] = of_cell * old * (f * (1.0f - f));
          to[2 * hidden] = of_cell * i * (1.0f - g * g);
          to[3 * hidden] = d * t * (o * (1.0f - o));
          dc[at] = of_cell * f;
          for (u32 n = 0; n < 4; n++) out[item * wide + n * hidden + k] = to[n * hidden];
        }
    __syncthreads();
    // A thread has one gate's part of one state.
    for (u32 n = threadIdx.x; n < wide; n += blockDim.x) {
      const u32 gate = n / hidden, k = n % hidden;
      float sums[MOST_TOGETHER] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (u32 j = gate * hidden; j < (gate + 1) * hidden; j++) {
        const float w = weight[static_cast<u64>(j) * hidden + k];
#pragma unroll
        for (u32 s = 0; s < MOST_TOGETHER; s++)
          if (s < together) sums[s] = fmaf(dz[s * wide + j], w, sums[s]);
      }
#pragma unroll
      for (u32 s = 0; s < MOST_TOGETHER; s++)
        if (step < length[s]) dh[gate * all + s * hidden + k] = sums[s];
    }
    __syncthreads();
  }
}
