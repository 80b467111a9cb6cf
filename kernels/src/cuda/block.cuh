// Sums over a warp and a block, and random words. Nothing here or in the kernels adds with atomics: the same input gives
// the same bits every time.
#ifdef SIMT
#define DYNAMIC_SHARED(T, name) T* name = simt::shared<T>()
#else
#define DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(dynamic_shared)
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

#define MINUS_INFINITY __uint_as_float(0xff800000u)

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// The sum over a warp, the same bits in every lane: each step adds the same two numbers on both sides.
__device__ __forceinline__ float warp_sum(float value) {
  for (u32 with = WARP / 2; with > 0; with /= 2) value += __shfl_xor_sync(ALL_LANES, value, with);
  return value;
}

// The sum over a block of whole warps, in every thread. `scratch`: a float for each warp; free again at the return.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
  value = warp_sum(value);
  const u32 warps = blockDim.x / WARP, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = warp_sum(lane < warps ? scratch[lane] : 0.0f);
  __syncthreads();
  return value;
}

// Philox4x32-10 (Salmon et al. 2011): 128 random bits for a 128-bit counter and a 64-bit key, as on the CPU.
__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
  for (int round = 0; round < 10; round++) {
    const u32 a = __umulhi(0xD2511F53u, counter.x), b = __umulhi(0xCD9E8D57u, counter.z);
    counter = uint4{b ^ counter.y ^ key.x, 0xCD9E8D57u * counter.z, a ^ counter.w ^ key.y, 0xD2511F53u * counter.x};
    key.x += 0x9E3779B9u;
    key.y += 0xBB67AE85u;
  }
  return counter;
}

// What addresses the random numbers of a step: seed, epoch, step. They lie in memory, so that the kernels of each step are
// started alike. The key of a stream's lane: `Key::words` of `philox.rs`.
__device__ __forceinline__ uint2 random_key(const u64* random, u32 stream, u32 lane) {
  const u64 seed = random[0], epoch = random[1];
  const uint4 words = philox(uint4{stream, lane, static_cast<u32>(epoch), static_cast<u32>(epoch >> 32)},
                             uint2{static_cast<u32>(seed), static_cast<u32>(seed >> 32)});
  return uint2{words.x, words.y};
}
__device__ __forceinline__ u32 random_step(const u64* random) { return static_cast<u32>(random[2]); }
