// Products of matrices in f32. Each element of a result is one chain of fused multiply-adds over the depth, upwards from
// zero: its bits depend on its own row and column only, not on the tile, the number of rows, or the device.
//
// A and B are read through functors `a(row, k)` and `b(column, k)`, called for what lies inside only, which say by
// `DEPTH_RUNS` whether neighbours in k lie beside each other in memory; `c(row, column, sum)` takes each element once.

template <u32 BM, u32 BN, u32 BK, u32 TM, u32 TN>
struct Tile {
  static constexpr u32 ACROSS = BN / TN, DOWN = BM / TM, THREADS = ACROSS * DOWN;
  // Padded, so that threads that store neighbours in k meet different banks; rows stay aligned for float4.
  static constexpr u32 A_ROW = BM + 4, B_ROW = BN + 4;
  static constexpr u32 BYTES = 2 * BK * (A_ROW + B_ROW) * 4;

  template <class A, class B, class C>
  __device__ static __forceinline__ void product(const A& a, const B& b, const C& c, u64 rows, u64 columns, u64 depth,
                                                 u64 tile) {
    DYNAMIC_SHARED(float, shared);
    constexpr u32 LOADS_A = BM * BK / THREADS, LOADS_B = BN * BK / THREADS;
    const u64 tiles_across = (columns + BN - 1) / BN;
    const u64 top = tile / tiles_across * BM, left = tile % tiles_across * BN;
    const u32 x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS;
    float next_a[LOADS_A], next_b[LOADS_B], sums[TM][TN];
#pragma unroll
    for (u32 i = 0; i < TM; i++)
#pragma unroll
      for (u32 j = 0; j < TN; j++) sums[i][j] = 0.0f;
    // Where a thread's n-th number of a tile lies: (place across, depth).
    auto across = [](u32 n, u32 wide, bool depth_runs) { return depth_runs ? n / BK : n % wide; };
    auto down = [](u32 n, u32 wide, bool depth_runs) { return depth_runs ? n % BK : n / wide; };
    auto fetch = [&](u64 begin) {
#pragma unroll
      for (u32 i = 0; i < LOADS_A; i++) {
        const u32 n = i * THREADS + threadIdx.x;
        const u64 row = top + across(n, BM, A::DEPTH_RUNS), k = begin + down(n, BM, A::DEPTH_RUNS);
        next_a[i] = row < rows && k < depth ? a(row, k) : 0.0f;
      }
#pragma unroll
      for (u32 i = 0; i < LOADS_B; i++) {
        const u32 n = i * THREADS + threadIdx.x;
        const u64 column = left + across(n, BN, B::DEPTH_RUNS), k = begin + down(n, BN, B::DEPTH_RUNS);
        next_b[i] = column < columns && k < depth ? b(column, k) : 0.0f;
      }
    };
    auto keep = [&](u32 half) {
      float* as = shared + half * BK * (A_ROW + B_ROW);
      float* bs = as + BK * A_ROW;
#pragma unroll
      for (u32 i = 0; i < LOADS_A; i++) {
        const u32 n = i * THREADS + threadIdx.x;
        as[down(n, BM, A::DEPTH_RUNS) * A_ROW + across(n, BM, A::DEPTH_RUNS)] = next_a[i];
      }
#pragma unroll
      for (u32 i = 0; i < LOADS_B; i++) {
        const u32 n = i * THREADS + threadIdx.x;
        bs[down(n, BN, B::DEPTH_RUNS) * B_ROW + across(n, BN, B::DEPTH_RUNS)] = next_b[i];
      }
    };
    fetch(0);
    u32 half = 0;
    for (u64 begin = 0; begin < depth; begin += BK, half ^= 1) {
      keep(half);
      __syncthreads();
      // The next tile is on its way while this one is worked on; the other half of the shared memory takes it.
      if (begin + BK < depth) fetch(begin + BK);
      const float* as = shared + half * BK * (A_ROW + B_ROW);
      const float* bs = as + BK * A_ROW;
      // Beyond the depth the tile holds zeros, which would turn -0 into 0 and nothing else; they are left out.
      const u32 here = depth - begin < BK ? static_cast<u32>(depth - begin) : BK;
      auto step = [&](u32 k) {
        float left_of[TM], right_of[TN];
#pragma unroll
        for (u32 i = 0; i < TM; i += 4) *reinterpret_cast<float4*>(left_of + i) = *reinterpret_cast<const float4*>(as + k * A_ROW + i * DOWN + y * 4);
#pragma unroll
        for (u32 j = 0; j < TN; j += 4) *reinterpret_cast<float4*>(right_of + j) = *reinterpret_cast<const float4*>(bs + k * B_ROW + j * ACROSS + x * 4);
#pragma unroll
        for (u32 i = 0; i < TM; i++)
#pragma unroll
          for (u32 j = 0; j < TN; j++) sums[i][j] = fmaf(left_of[i], right_of[j], sums[i][j]);
      };
      if (here == BK) {
#pragma unroll
        for (u32 k = 0; k < BK; k++) step(k);
      } else {
        for (u32 k = 0; k < here; k++) step(k);
      }
    }
#pragma unroll
    for (u32 i = 0; i < TM; i++) {
#pragma unroll
      for (u32 j = 0; j < TN; j++) {
        const u64 row = top + (i & ~3u) * DOWN + y * 4 + (i & 3u), column = left + (j & ~3u) * ACROSS + x * 4 + (j & 3u);
        if (row < rows && column < columns) c(row, column, sums[i][j]);
      }
    }
  }
};

// Tiles for large and for small results: 256 threads each.
typedef Tile<128, 128, 8, 8, 8> LargeTile;
typedef Tile<64, 64, 16, 4, 4> SmallTile;

// A matrix by rows: element (row, k), neighbours in k beside each other.
struct Rows {
  static constexpr bool DEPTH_RUNS = true;
  const float* values;
  u64 stride;
  __device__ __forceinline__ float operator()(u64 row, u64 k) const { return values[row * stride + k]; }
};

// The same transposed: element (row, k) lies at row k.
struct Columns {
  static constexpr bool DEPTH_RUNS = false;
  const float* values;
  u64 stride;
  __device__ __forceinline__ float operator()(u64 row, u64 k) const { return values[k * stride + row]; }
};

// act(sum + bias), keeping the activation's input where asked for.
struct Activated {
  float* out;
  u64 stride;
  const float* bias;
  float* kept;
  u32 act;
  __device__ __forceinline__ void operator()(u64 row, u64 column, float sum) const {
    const u64 at = row * stride + column;
    if (bias) sum += bias[column];
    if (kept) kept[at] = sum;
    out[at] = activated(act, sum);
  }
};

// out (+)= sum
struct Stored {
  float* out;
  u64 stride;
  u32 add;
  __device__ __forceinline__ void operator()(u64 row, u64 column, float sum) const {
    float* to = out + row * stride + column;
    *to = add ? *to + sum : sum;
  }
};
