// Rows of up to three tables picked by id and added, and the gradient of a table from items sorted by (id, item).


// `blockIdx.y` takes samples in turns; `kinds` has two bits a table: 0 none, 1 ids, 2 position, 3 zero.
extern "C" __global__ void __launch_bounds__(256)
    embedding_forward(const float* __restrict__ first, const float* __restrict__ second, const float* __restrict__ third,
                      const u32* __restrict__ ids, const u64* __restrict__ offsets, float* __restrict__ y, u64 samples, u32 width,
                      u32 id_columns, u32 first_at, u32 third_at, u32 kinds) {
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 sample = blockIdx.y; sample < samples; sample += gridDim.y) {
    const u64 begin = offsets[sample], count = (offsets[sample + 1] - begin) * width;
    for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads) {
      const u64 position = i / width, row = begin + position, c = i % width;
      auto id = [&](u32 table, u32 at) -> u64 {
        const u32 kind = kinds >> (2 * table) & 3u;
        return kind == 1 ? ids[row * id_columns + at] : kind == 2 ? position : 0;
      };
      float sum = first[id(0, first_at) * width + c];
      if (kinds >> 2 & 3u) sum += second[id(1, 0) * width + c];
      if (kinds >> 4 & 3u) sum += third[id(2, third_at) * width + c];
      y[row * width + c] = sum;
    }
  }
}

// out[id] (+)= the sum of the gradients of the items of one id: items[starts[run] .. starts[run + 1]], which rise, from
// `bounds[0]` on. `runs`: how many there are, then their ids. Shards, which end at `bounds`, meet in the order of the tree;
// those without the id are left out, as they add +0, and so is an id that no item has.
extern "C" __global__ void __launch_bounds__(256)
    embedding_backward(const float* __restrict__ grad, const u32* __restrict__ items, const u32* __restrict__ starts,
                       const u32* __restrict__ runs, const u64* __restrict__ bounds, float* __restrict__ out, u32 width,
                       u32 shards, u32 add) {
  const u32 count = runs[0];
  for (u32 run = blockIdx.x; run < count; run += gridDim.x) {
    const u32 end = starts[run + 1];
    u32 begin = starts[run];
    for (u32 past = end; begin < past;) {
      const u32 middle = begin + (past - begin) / 2;
      if (items[middle] < bounds[0]) begin = middle + 1;
      else past = middle;
    }
    if (begin == end || items[begin] >= bounds[shards]) continue;
    for (u32 c = threadIdx.x; c < width; c += blockDim.x) {
      float open[16];
      u32 depth = 0, item = begin;
      for (u32 shard = 0; shard < shards; shard++) {
        float sum = 0.0f;
        for (; item < end && items[item] < bounds[shard + 1]; item++) sum += grad[static_cast<u64>(items[item]) * width + c];
        open[depth++] = sum;
        for (u32 taken = shard + 1; taken % 2 == 0; taken /= 2, depth--) open[depth - 2] += open[depth - 1];
      }
      for (; depth > 1; depth--) open[depth - 2] += open[depth - 1];
      float* to = out + static_cast<u64>(runs[run + 1]) * width + c;
      *to = add ? *to + open[0] : open[0];
    }
  }
}
