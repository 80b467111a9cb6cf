// Dropout: element j of a sample is dropped where word j of (key, sample, step) is below `below`, and scaled otherwise. The
// items of a sample, `offsets[sample] .. offsets[sample + 1]`, are one run of numbers. They are those of the CPU, whatever the
// launch; no mask is kept, the way back asks for them again.

// out (+)= x, dropped: forward of values, backward of gradients. Four elements a thread, which are one block of random
// words; `blockIdx.y` takes samples in turns.
extern "C" __global__ void __launch_bounds__(256)
    dropout(const float* __restrict__ x, float* __restrict__ out, const u64* __restrict__ offsets, const u64* __restrict__ ids,
            u64 samples, u32 columns, const u64* __restrict__ random, u32 stream, u32 lane, u32 below, float scale, u32 add) {
  const uint2 key = random_key(random, stream, lane);
  const u32 step = random_step(random);
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 sample = blockIdx.y; sample < samples; sample += gridDim.y) {
    const u64 begin = offsets[sample] * columns, count = offsets[sample + 1] * columns - begin, id = ids[sample];
    for (u64 block = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; block < (count + 3) / 4; block += threads) {
      const uint4 words = philox(uint4{static_cast<u32>(block), step, static_cast<u32>(id), static_cast<u32>(id >> 32)}, key);
      const u32 word[4] = {words.x, words.y, words.z, words.w};
      for (u32 i = 0; i < 4 && block * 4 + i < count; i++) {
        const u64 at = begin + block * 4 + i;
        const float value = x[at] * (word[i] < below ? 0.0f : scale);
        out[at] = add ? out[at] + value : value;
      }
    }
  }
}
