// One direction of one LSTM layer as in `lstm.cu`, with the recurrent products' factors in two bytes and sums in f32 on tensor
// cores: states, the gates' gradients and the weight are rounded where they are factors; cells and gates stay f32.
//
// A block takes up to sixteen sequences together, the rows of `multiply`. A warp has eight hidden units at a time with all of
// their gates, so that what a step does with them stays in its lanes; of a result a lane has rows g and g + 8, columns 2 t and
// 2 t + 1. States of a step and of the next lie in two halves of the shared memory: one barrier a step.

// The recurrent weight [4 hidden, hidden] as rows of words, two neighbours in depth to a word and the depth padded to a
// multiple of sixteen: by gates for the way forward; turned, by hidden units with a padded run for each gate, for the way back.
template <class Half>
__device__ __forceinline__ void narrow(const float* weight, u32* out, u32 hidden, u32 turned) {
  const u32 run = (hidden + 15) / 16 * 8, words = turned ? 4 * run : run;
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x, count = static_cast<u64>(turned ? hidden : 4 * hidden) * words;
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads) {
    const u64 row = i / words, word = i % words, k = word % run * 2, gate = word / run;
    // Neighbours in depth are neighbours in a row of the weight, or in a column.
    const float* from = turned ? weight + (gate * hidden + k) * hidden + row : weight + row * hidden + k;
    const u64 next = turned ? hidden : 1;
    out[i] = Half::pair(k < hidden ? from[0] : 0.0f, k + 1 < hidden ? from[next] : 0.0f);
  }
}

// A lane's two sequences, and the longest of the block.
struct Sequences {
  u64 begin[2], length[2], longest;
  __device__ __forceinline__ Sequences(const u64* offsets, u64 samples, u32 together, u32 g) {
    const u64 group = blockIdx.x * static_cast<u64>(together);
    longest = 0;
    for (u32 s = 0; s < together && group + s < samples; s++) {
      const u64 of = offsets[group + s + 1] - offsets[group + s];
      longest = of > longest ? of : longest;
    }
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
      const u32 s = g + 8 * r;
      const bool there = s < together && group + s < samples;
      begin[r] = there ? offsets[group + s] : 0;
      length[r] = there ? offsets[group + s + 1] - begin[r] : 0;
    }
  }
};

// Four words of sixteen rows, zeros beyond those that there are.
__device__ __forceinline__ void rows_of(const u32* from, u32 row_words, u32 together, u32 word, u32 g, u32 t, u32 (&a)[4]) {
#pragma unroll
  for (u32 n = 0; n < 4; n++) {
    const u32 row = n % 2 * 8 + g;
    a[n] = row < together ? from[row * row_words + word + n / 2 * 4 + t] : 0;
  }
}

// `weight`: of `narrow`. The buffers from `gates` on are null where no gradient is wanted.
template <class Half>
__device__ __forceinline__ void forward(const float* input, const u32* weight, const float* bias, const u64* offsets, float* y,
                                        float* gates, float* cells, float* before, u64 samples, u32 hidden, u32 together,
                                        u32 backwards) {
  DYNAMIC_SHARED(u32, shared);
  const u32 words = (hidden + 15) / 16 * 8, row_words = words + 4, half = together * row_words, wide = 4 * hidden;
  float* c = reinterpret_cast<float*>(shared + 2 * half);  // [together, hidden]
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
  const Sequences of(offsets, samples, together, g);
  for (u32 n = threadIdx.x; n < 2 * half; n += blockDim.x) shared[n] = 0;
  for (u32 n = threadIdx.x; n < together * hidden; n += blockDim.x) c[n] = 0.0f;
  __syncthreads();
  for (u64 step = 0; step < of.longest; step++) {
    const u32* now = shared + step % 2 * half;
    u32* next = shared + (step + 1) % 2 * half;
    for (u32 first = warp * 8; first < hidden; first += blockDim.x / WARP * 8) {
      float z[4][4];
#pragma unroll
      for (u32 n = 0; n < 16; n++) z[n / 4][n % 4] = 0.0f;
      for (u32 word = 0; word < words; word += 8) {
        u32 a[4];
        rows_of(now, row_words, together, word, g, t, a);
#pragma unroll
        for (u32 gate = 0; gate < 4; gate++) {
          const u32* from = weight + (static_cast<u64>(gate) * hidden + first + g) * words + word;
          const bool there = first + g < hidden;
          const u32 b[2] = {there ? from[t] : 0, there ? from[4 + t] : 0};
          multiply<Half>(z[gate], a, b);
        }
      }
#pragma unroll
      for (u32 r = 0; r < 2; r++) {
        if (step >= of.length[r]) continue;
        const u64 item = of.begin[r] + (backwards ? of.length[r] - 1 - step : step), last = backwards ? item + 1 : item - 1;
        const u32 row = g + 8 * r;
        float state[2] = {0.0f, 0.0f};
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
          const u32 k = first + 2 * t + i;
          if (k >= hidden) continue;
          float v[4];
#pragma unroll
          for (u32 gate = 0; gate < 4; gate++) {
            const u32 j = gate * hidden + k;
            v[gate] = z[gate][2 * r + i] + input[item * wide + j];
            if (bias) v[gate] += bias[j];
            v[gate] = gate == 2 ? tanh_of(v[gate]) : sigmoid_of(v[gate]);
          }
          if (before) before[item * hidden + k] = step ? y[last * hidden + k] : 0.0f;
          float& cell = c[row * hidden + k];
          cell = fmaf(v[1], cell, v[0] * v[2]);
          state[i] = v[3] * tanh_of(cell);
          y[item * hidden + k] = state[i];
          if (gates) {
            cells[item * hidden + k] = cell;
            for (u32 gate = 0; gate < 4; gate++) gates[item * wide + gate * hidden + k] = v[gate];
          }
        }
        if (first + 2 * t < hidden) next[row * row_words + first / 2 + t] = Half::pair(state[0], state[1]);
      }
    }
    __syncthreads();
  }
}

// `weight`: of `narrow`, turned. The gates' gradients go to `out`, the gradient of `input`.
template <class Half>
__device__ __forceinline__ void backward(const float* grad, const u32* weight, const float* gates, const float* cells,
                                         const u64* offsets, float* out, u64 samples, u32 hidden, u32 together, u32 backwards) {
  DYNAMIC_SHARED(u32, shared);
  const u32 run = (hidden + 15) / 16 * 8, words = 4 * run, row_words = words + 4, half = together * row_words, wide = 4 * hidden;
  float* dc = reinterpret_cast<float*>(shared + 2 * half);  // [together, hidden]
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
  const Sequences of(offsets, samples, together, g);
  for (u32 n = threadIdx.x; n < 2 * half; n += blockDim.x) shared[n] = 0;
  for (u32 n = threadIdx.x; n < together * hidden; n += blockDim.x) dc[n] = 0.0f;
  __syncthreads();
  for (u64 step = of.longest; step-- > 0;) {
    // The slopes of the step behind; zeros where a sequence has none.
    const u32* now = shared + step % 2 * half;
    u32* next = shared + (step + 1) % 2 * half;
    for (u32 first = warp * 8; first < hidden; first += blockDim.x / WARP * 8) {
      float dh[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (u32 word = 0; word < words; word += 8) {
        u32 a[4];
        rows_of(now, row_words, together, word, g, t, a);
        const u32* from = weight + static_cast<u64>(first + g) * words + word;
        const bool there = first + g < hidden;
        const u32 b[2] = {there ? from[t] : 0, there ? from[4 + t] : 0};
        multiply<Half>(dh, a, b);
      }
#pragma unroll
      for (u32 r = 0; r < 2; r++) {
        if (step >= of.length[r]) continue;
        const u64 item = of.begin[r] + (backwards ? of.length[r] - 1 - step : step), last = backwards ? item + 1 : item - 1;
        const u32 row = g + 8 * r;
        float slopes[4][2];
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
          const u32 k = first + 2 * t + i;
#pragma unroll
          for (u32 gate = 0; gate < 4; gate++) slopes[gate][i] = 0.0f;
          if (k >= hidden) continue;
          const float* gate = gates + item * wide + k;
          const float in = gate[0], keep = gate[hidden], fresh = gate[2 * static_cast<u64>(hidden)], show = gate[3 * static_cast<u64>(hidden)];
          const float shown = tanh_of(cells[item * hidden + k]), old = step ? cells[last * hidden + k] : 0.0f;
          const float d = dh[2 * r + i] + grad[item * hidden + k];
          float& later = dc[row * hidden + k];
          const float of_cell = fmaf(d * show, 1.0f - shown * shown, later);
          slopes[0][i] = of_cell * fresh * (in * (1.0f - in));
          slopes[1][i] = of_cell * old * (keep * (1.0f - keep));
          slopes[2][i] = of_cell * in * (1.0f - fresh * fresh);
          slopes[3][i] = d * shown * (show * (1.0f - show));
          later = of_cell * keep;
          for (u32 n = 0; n < 4; n++) out[item * wide + n * hidden + k] = slopes[n][i];
        }
        if (first + 2 * t < hidden)
          for (u32 n = 0; n < 4; n++) next[row * row_words + n * run + first / 2 + t] = Half::pair(slopes[n][0], slopes[n][1]);
      }
    }
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(256)
    lstm_narrow_bf16(const float* __restrict__ weight, u32* __restrict__ out, u32 hidden, u32 turned) {
  narrow<Bf16>(weight, out, hidden, turned);
}

extern "C" __global__ void __launch_bounds__(256)
    lstm_forward_bf16(const float* __restrict__ input, const u32* __restrict__ weight, const float* __restrict__ bias,
                      const u64* __restrict__ offsets, float* __restrict__ y, float* __restrict__ gates, float* __restrict__ cells,
                      float* __restrict__ before, u64 samples, u32 hidden, u32 together, u32 backwards) {
  forward<Bf16>(input, weight, bias, offsets, y, gates, cells, before, samples, hidden, together, backwards);
}

extern "C" __global__ void __launch_bounds__(256)
    lstm_backward_bf16(const float* __restrict__ grad, const u32* __restrict__ weight, const float* __restrict__ gates,
                       const float* __restrict__ cells, const u64* __restrict__ offsets, float* __restrict__ out, u64 samples,
                       u32 hidden, u32 together, u32 backwards) {
  backward<Bf16>(grad, weight, gates, cells, offsets, out, samples, hidden, together, backwards);
}

extern "C" __global__ void __launch_bounds__(256)
    lstm_narrow_f16(const float* __restrict__ weight, u32* __restrict__ out, u32 hidden, u32 turned) {
  narrow<F16>(weight, out, hidden, turned);
}

extern "C" __global__ void __launch_bounds__(256)
    lstm_forward_f16(const float* __restrict__ input, const u32* __restrict__ weight, const float* __restrict__ bias,
                      const u64* __restrict__ offsets, float* __restrict__ y, float* __restrict__ gates, float* __restrict__ cells,
                      float* __restrict__ before, u64 samples, u32 hidden, u32 together, u32 backwards) {
  forward<F16>(input, weight, bias, offsets, y, gates, cells, before, samples, hidden, together, backwards);
}

extern "C" __global__ void __launch_bounds__(256)
    lstm_backward_f16(const float* __restrict__ grad, const u32* __restrict__ weight, const float* __restrict__ gates,
                       const float* __restrict__ cells, const u64* __restrict__ offsets, float* __restrict__ out, u64 samples,
                       u32 hidden, u32 together, u32 backwards) {
  backward<F16>(grad, weight, gates, cells, offsets, out, samples, hidden, together, backwards);
}
