// Products whose factors are rounded to two bytes, to nearest and even, and whose sums are f32: on tensor cores. As in
// `product.cuh` an element's bits depend on its own row and column only: a chain over the depth, sixteen terms at a time,
// which the device adds in an order of its own. Without tensor cores (before sm_75) the chain goes term by term, and kinds
// that do not know bf16 (before sm_80) round to f16 instead.
//
// A block's tile lies in shared memory by rows of A and of B, two neighbours in depth to a word. Rows are padded so that
// neither storing nor loading has conflicts: eight rows by four words meet all 32 banks.

#if !defined(SIMT) && __CUDA_ARCH__ < 750
#define WITHOUT_TENSOR_CORES
#endif

struct F16 {
#ifdef SIMT
  static u32 narrow(float value) {
    const u32 all = __float_as_uint(value), sign = all >> 16 & 0x8000, size = all & 0x7fffffff;
    if (size > 0x7f800000) return sign | 0x7e00;
    if (size >= 0x477ff000) return sign | 0x7c00;
    // Below 2^-14 the sum with 0.5 counts in units of 2^-24.
    if (size < 0x38800000) return sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000);
    return sign | (size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13;
  }
  static u32 pair(float first, float second) { return narrow(first) | narrow(second) << 16; }
#else
  static __device__ __forceinline__ u32 pair(float first, float second) {
    u32 both;
    asm("{.reg .f16 a, b; cvt.rn.f16.f32 a, %1; cvt.rn.f16.f32 b, %2; mov.b32 %0, {a, b};}" : "=r"(both) : "f"(first), "f"(second));
    return both;
  }
#endif
  static __device__ __forceinline__ float wide(u32 half) {
    const u32 sign = (half & 0x8000) << 16, size = half & 0x7fff;
    if (size >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (size & 0x3ff) << 13);
    if (size < 0x400) return __uint_as_float(sign | __float_as_uint(static_cast<float>(size) * 5.9604644775390625e-8f));
    return __uint_as_float(sign | ((size << 13) + 0x38000000));
  }
};

#if defined(SIMT)
struct Bf16 {
  static u32 narrow(float value) {
    const u32 all = __float_as_uint(value);
    return (all & 0x7fffffff) > 0x7f800000 ? all >> 16 | 0x40 : (all + 0x7fff + (all >> 16 & 1)) >> 16;
  }
  static u32 pair(float first, float second) { return narrow(first) | narrow(second) << 16; }
  static float wide(u32 half) { return __uint_as_float(half << 16); }
};
#elif __CUDA_ARCH__ >= 800
struct Bf16 {
  static __device__ __forceinline__ u32 pair(float first, float second) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
  }
  static __device__ __forceinline__ float wide(u32 half) { return __uint_as_float(half << 16); }
};
#else
typedef F16 Bf16;
#endif

// sums += A B for 16 rows, 8 columns and 16 terms by one warp. Lane 4 g + t has of A the words (row g, term 2 t),
// (row g + 8, term 2 t), (row g, term 2 t + 8), (row g + 8, term 2 t + 8), of B the words (term 2 t, column g) and
// (term 2 t + 8, column g), of the sums (row g, columns 2 t and 2 t + 1) and the same of row g + 8 (PTX ISA, mma.m16n8k16).
#if defined(WITHOUT_TENSOR_CORES)
// Words come from the lanes that have them.
template <class Half>
__device__ __forceinline__ void multiply(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  const u32 g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
  for (u32 word = 0; word < 8; word++) {
    const u32 at = word % 4, left[2] = {__shfl_sync(ALL_LANES, a[word / 4 * 2], g * 4 + at),
                                        __shfl_sync(ALL_LANES, a[word / 4 * 2 + 1], g * 4 + at)};
    const u32 right[2] = {__shfl_sync(ALL_LANES, b[word / 4], t * 8 + at), __shfl_sync(ALL_LANES, b[word / 4], t * 8 + 4 + at)};
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const u32 l = left[i / 2], r = right[i % 2];
      const float first = fmaf(Half::wide(l & 0xffff), Half::wide(r & 0xffff), sums[i]);
      sums[i] = fmaf(Half::wide(l >> 16), Half::wide(r >> 16), first);
    }
  }
}
#elif defined(SIMT)
template <class Half>
void multiply(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  u32 all_a[32][4], all_b[32][2];
  auto meet = [&](u32 low, u32 high, auto&& take) {
    const uint64_t* got = simt::meet(ALL_LANES, low | static_cast<uint64_t>(high) << 32, __LINE__);
    for (u32 lane = 0; lane < 32; lane++) take(lane, static_cast<u32>(got[lane]), static_cast<u32>(got[lane] >> 32));
  };
  meet(a[0], a[1], [&](u32 lane, u32 low, u32 high) { all_a[lane][0] = low; all_a[lane][1] = high; });
  meet(a[2], a[3], [&](u32 lane, u32 low, u32 high) { all_a[lane][2] = low; all_a[lane][3] = high; });
  meet(b[0], b[1], [&](u32 lane, u32 low, u32 high) { all_b[lane][0] = low; all_b[lane][1] = high; });
  const u32 lane = threadIdx.x % WARP;
  for (u32 i = 0; i < 4; i++) {
    const u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (u32 k = 0; k < 16; k++) {
      const u32 word = k % 8 / 2, shift = k % 2 * 16;
      const u32 left = all_a[row % 8 * 4 + word][row / 8 + k / 8 * 2] >> shift & 0xffff;
      const u32 right = all_b[column * 4 + word][k / 8] >> shift & 0xffff;
      sums[i] = fmaf(Half::wide(left), Half::wide(right), sums[i]);
    }
  }
}
#else
template <class Half>
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]);

template <>
__device__ __forceinline__ void multiply<F16>(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (u32 half = 0; half < 2; half++)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

#if __CUDA_ARCH__ >= 800
template <>
__device__ __forceinline__ void multiply<Bf16>(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
#endif

// As `Tile` of `product.cuh`, by eight warps, two down and four across.
template <class Half, u32 SIDE>
struct TensorTile {
  static constexpr u32 THREADS = 256, DEPTH = 32, WORDS = DEPTH / 2, ROW = WORDS + 4;
  // Words of a tile that a thread brings: eight rows by four words to a warp at a time.
  static constexpr u32 BROUGHT = SIDE * WORDS / THREADS;
  static constexpr u32 DOWN = SIDE / 2 / 16, ACROSS = SIDE / 4 / 8;

  template <class A, class B, class C>
  __device__ static __forceinline__ void product(const A& a, const B& b, const C& c, u64 rows, u64 columns, u64 depth,
                                                 u64 tile) {
    DYNAMIC_SHARED(u32, shared);
    const u64 tiles_across = (columns + SIDE - 1) / SIDE;
    const u64 top = tile / tiles_across * SIDE, left = tile % tiles_across * SIDE;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    float next_a[BROUGHT][2], next_b[BROUGHT][2], sums[DOWN][ACROSS][4];
#pragma unroll
    for (u32 i = 0; i < DOWN; i++)
#pragma unroll
      for (u32 j = 0; j < ACROSS; j++)
#pragma unroll
        for (u32 n = 0; n < 4; n++) sums[i][j][n] = 0.0f;
    // Row and word of a thread's n-th word: neighbours in a warp are neighbours in memory.
    auto row_of = [&](u32 n, bool depth_runs) { return (n * 8 + warp) % (SIDE / 8) * 8 + (depth_runs ? g : lane % 8); };
    auto word_of = [&](u32 n, bool depth_runs) { return (n * 8 + warp) / (SIDE / 8) * 4 + (depth_runs ? t : lane / 8); };
    auto fetch = [&](u64 begin) {
#pragma unroll
      for (u32 n = 0; n < BROUGHT; n++) {
        const u64 row = top + row_of(n, A::DEPTH_RUNS), k = begin + 2 * word_of(n, A::DEPTH_RUNS);
        next_a[n][0] = row < rows && k < depth ? a(row, k) : 0.0f;
        next_a[n][1] = row < rows && k + 1 < depth ? a(row, k + 1) : 0.0f;
      }
#pragma unroll
      for (u32 n = 0; n < BROUGHT; n++) {
        const u64 column = left + row_of(n, B::DEPTH_RUNS), k = begin + 2 * word_of(n, B::DEPTH_RUNS);
        next_b[n][0] = column < columns && k < depth ? b(column, k) : 0.0f;
        next_b[n][1] = column < columns && k + 1 < depth ? b(column, k + 1) : 0.0f;
      }
    };
    const u32 down = warp / 4 * (SIDE / 2), across = warp % 4 * (SIDE / 4);
    fetch(0);
    u32 half = 0;
    for (u64 begin = 0; begin < depth; begin += DEPTH, half ^= 1) {
      u32* as = shared + half * 2 * SIDE * ROW;
      u32* bs = as + SIDE * ROW;
#pragma unroll
      for (u32 n = 0; n < BROUGHT; n++) {
        as[row_of(n, A::DEPTH_RUNS) * ROW + word_of(n, A::DEPTH_RUNS)] = Half::pair(next_a[n][0], next_a[n][1]);
        bs[row_of(n, B::DEPTH_RUNS) * ROW + word_of(n, B::DEPTH_RUNS)] = Half::pair(next_b[n][0], next_b[n][1]);
      }
      __syncthreads();
      if (begin + DEPTH < depth) fetch(begin + DEPTH);
#pragma unroll
      for (u32 k = 0; k < WORDS; k += 8) work(as + down * ROW + k, bs + across * ROW + k, g, t, sums);
    }
#pragma unroll
    for (u32 i = 0; i < DOWN; i++)
#pragma unroll
      for (u32 j = 0; j < ACROSS; j++)
#pragma unroll
        for (u32 n = 0; n < 4; n++) {
          const u64 row = top + down + i * 16 + n / 2 * 8 + g, column = left + across + j * 8 + 2 * t + n % 2;
          if (row < rows && column < columns) c(row, column, sums[i][j][n]);
        }
  }

  // A warp's sums grow by sixteen terms: eight words of each of its rows and columns.
  __device__ static __forceinline__ void work(const u32* as, const u32* bs, u32 g, u32 t, float (&sums)[DOWN][ACROSS][4]) {
#ifdef WITHOUT_TENSOR_CORES
    for (u32 word = 0; word < 8; word++)
      for (u32 i = 0; i < DOWN; i++)
        for (u32 j = 0; j < ACROSS; j++)
          for (u32 n = 0; n < 4; n++) {
            const u32 left = as[(i * 16 + n / 2 * 8 + g) * ROW + word], right = bs[(j * 8 + 2 * t + n % 2) * ROW + word];
            const float first = fmaf(Half::wide(left & 0xffff), Half::wide(right & 0xffff), sums[i][j][n]);
            sums[i][j][n] = fmaf(Half::wide(left >> 16), Half::wide(right >> 16), first);
          }
#else
    u32 a[DOWN][4], b[ACROSS][2];
#pragma unroll
    for (u32 i = 0; i < DOWN; i++)
#pragma unroll
      for (u32 n = 0; n < 4; n++) a[i][n] = as[(i * 16 + n % 2 * 8 + g) * ROW + n / 2 * 4 + t];
#pragma unroll
    for (u32 j = 0; j < ACROSS; j++)
#pragma unroll
      for (u32 n = 0; n < 2; n++) b[j][n] = bs[(j * 8 + g) * ROW + n * 4 + t];
#pragma unroll
    for (u32 i = 0; i < DOWN; i++)
#pragma unroll
      for (u32 j = 0; j < ACROSS; j++) multiply<Half>(sums[i][j], a[i], b[j]);
#endif
  }
};

typedef TensorTile<Bf16, 64> SmallBf16;
typedef TensorTile<Bf16, 128> LargeBf16;
typedef TensorTile<F16, 64> SmallF16;
typedef TensorTile<F16, 128> LargeF16;
