// Sums over the rows of each logical shard, and of shards in the order of the tree.

// partial[shard][column] = the sum of a shard's rows. A block has 32 columns (x) and 8 rows at a time (y); which rows a
// thread has, only the number of rows decides.
extern "C" __global__ void __launch_bounds__(256)
    column_sums(const float* __restrict__ values, const u64* __restrict__ bounds, float* __restrict__ partial, u32 columns) {
  DYNAMIC_SHARED(float, sums);
  const u64 column = blockIdx.x * static_cast<u64>(WARP) + threadIdx.x;
  const u64 begin = bounds[blockIdx.y], end = bounds[blockIdx.y + 1];
  float sum = 0.0f;
  if (column < columns)
    for (u64 row = begin + threadIdx.y; row < end; row += blockDim.y) sum += values[row * columns + column];
  sums[threadIdx.y * WARP + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < columns) {
    for (u32 y = 1; y < blockDim.y; y++) sum += sums[y * WARP + threadIdx.x];
    partial[static_cast<u64>(blockIdx.y) * columns + column] = sum;
  }
}

// out (+)= the sum of `leaves` partials of `count` numbers in the order of the tree: a binary counter joins them.
extern "C" __global__ void __launch_bounds__(256)
    join_shards(const float* __restrict__ partial, float* __restrict__ out, u64 count, u32 leaves, u32 add) {
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads) {
    // Open sums, the longest first; bit n of the number of leaves taken says whether there is one of 2^n.
    float open[16];
    u32 depth = 0;
    for (u32 leaf = 0; leaf < leaves; leaf++) {
      open[depth++] = partial[leaf * count + i];
      for (u32 taken = leaf + 1; taken % 2 == 0; taken /= 2, depth--) open[depth - 2] += open[depth - 1];
    }
    for (; depth > 1; depth--) open[depth - 2] += open[depth - 1];
    const float sum = leaves ? open[0] : 0.0f;
    out[i] = add ? out[i] + sum : sum;
  }
}

// out = the sum of `nodes` partials of `count` numbers in the order of the tree, where a node is a sum of any number of
// leaves already: with node n, joins[n] open sums are complete; what is open after the last is joined from the right.
extern "C" __global__ void __launch_bounds__(256)
    join_nodes(const float* __restrict__ partial, float* __restrict__ out, u64 count, u32 nodes, const u32* __restrict__ joins) {
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x; i < count; i += threads) {
    // Open sums, the longest first; a tree of 2^15 leaves is the deepest.
    float open[17];
    u32 depth = 0;
    for (u32 node = 0; node < nodes; node++) {
      open[depth++] = partial[node * count + i];
      for (u32 left = joins[node]; left > 0; left--, depth--) open[depth - 2] += open[depth - 1];
    }
    for (; depth > 1; depth--) open[depth - 2] += open[depth - 1];
    out[i] = nodes ? open[0] : 0.0f;
  }
}
