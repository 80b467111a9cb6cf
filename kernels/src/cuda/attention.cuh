// What attention's kernels are told of a head and its dropout.

struct Shape {
  const u64* offsets;
  const u64* ids;
  u32 heads, width;
  float scale;
  // Dropout, as on the CPU: `below` 0 where nothing is dropped.
  const u64* random;
  u32 stream, lane, below;
  float up;
};

// The key of a head's random words.
__device__ __forceinline__ uint2 key_of(const Shape& s, u32 head) { return random_key(s.random, s.stream, s.lane | (head + 1) << 16); }

// What a probability is multiplied by. Rows are padded to a multiple of 16 words, so that each begins a block of words.
__device__ __forceinline__ float kept(const Shape& s, uint2 key, u64 id, u32 query, u32 at, u32 padded) {
  if (s.below == 0) return 1.0f;
  const u32 word = query * padded + at;
  const uint4 words = philox(uint4{word / 4, random_step(s.random), static_cast<u32>(id), static_cast<u32>(id >> 32)}, key);
  const u32 of = word % 4;
  const u32 mine = of == 0 ? words.x : of == 1 ? words.y : of == 2 ? words.z : words.w;
  return mine < s.below ? 0.0f : s.up;
}

#define SHAPE const u64 *__restrict__ offsets, const u64 *__restrict__ ids, u32 heads, u32 width, float scale, const u64 *__restrict__ random, u32 stream, u32 lane, u32 below, float up
#define OF_HEAD Shape{offsets, ids, heads, width, scale, random, stream, lane, below, up}
