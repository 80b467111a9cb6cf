// Dropout: element j of a sample is dropped where word j of (key, sample, step) is below `below`, and scaled otherwise.
// The numbers are those of the CPU, whatever the launch; no mask is kept, the way back asks for them again.

__device__ __forceinline__ void dropped(const float* __restrict__ from, float* __restrict__ to, const u64* __restrict__ samples,
                                        u64 rows, u32 columns, u32 key_low, u32 key_high, u32 step, u32 below,
                                        float scale, u32 add) {
  const u64 blocks_of_row = (static_cast<u64>(columns) + 3) / 4, all = rows * blocks_of_row;
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 at = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; at < all; at += threads) {
    const u64 row = at / blocks_of_row, sample = samples[row];
    const u32 block = static_cast<u32>(at % blocks_of_row);
    const uint4 words = philox(uint4{block, step, static_cast<u32>(sample), static_cast<u32>(sample >> 32)},
                               uint2{key_low, key_high});
    const u32 word[4] = {words.x, words.y, words.z, words.w};
    const u32 first = block * 4, count = columns - first < 4 ? columns - first : 4;
    for (u32 i = 0; i < count; i++) {
      const u64 place = row * columns + first + i;
      const float value = from[place] * (word[i] < below ? 0.0f : scale);
      to[place] = add ? to[place] + value : value;
    }
  }
}

extern "C" __global__ void __launch_bounds__(256)
    dropout_forward(const float* __restrict__ x, float* __restrict__ y, const u64* __restrict__ samples, u64 rows,
                    u32 columns, u32 key_low, u32 key_high, u32 step, u32 below, float scale) {
  dropped(x, y, samples, rows, columns, key_low, key_high, step, below, scale, 0);
}

extern "C" __global__ void __launch_bounds__(256)
    dropout_backward(const float* __restrict__ grad, float* __restrict__ out, const u64* __restrict__ samples, u64 rows,
                     u32 columns, u32 key_low, u32 key_high, u32 step, u32 below, float scale, u32 add) {
  dropped(grad, out, samples, rows, columns, key_low, key_high, step, below, scale, add);
}
