// Scaled dot-product self-attention of the items of each sample (Vaswani et al. 2017), tile by tile without a matrix of
// scores in memory (Dao et al. 2022): kept are one number per item and head, the logarithm of its sum of exponentials.
// `qkv` holds queries, keys and values side by side, [items, 3 heads width].
//
// A block has four warps and QUERIES rows of a head, a warp QUERIES / 4 of them. A lane has one key of a tile of KEYS while
// scores are formed, and columns lane, lane + 32, ... of the width while they are used: J of them.

// Copies `count` rows of a head into shared rows of width + 1, zeros beyond the items.
__device__ __forceinline__ void load(float* to, const float* from, u64 stride, u32 rows, u32 inside, u32 width) {
  for (u32 n = threadIdx.x; n < rows * width; n += blockDim.x) {
    const u32 row = n / width, c = n % width;
    to[row * (width + 1) + c] = row < inside ? from[row * stride + c] : 0.0f;
  }
}

__device__ __forceinline__ float dot(const float* a, const float* b, u32 width) {
  float sum = 0.0f;
  for (u32 c = 0; c < width; c++) sum = fmaf(a[c], b[c], sum);
  return sum;
}

__device__ __forceinline__ float warp_top(float value) {
  for (u32 with = WARP / 2; with > 0; with /= 2) {
    const float other = __shfl_xor_sync(ALL_LANES, value, with);
    value = other > value ? other : value;
  }
  return value;
}

// blockIdx: (sample, head, tile of queries).
template <u32 J, u32 QUERIES, u32 KEYS>
__device__ __forceinline__ void forward(const float* qkv, float* y, float* log_sums, const Shape& s) {
  DYNAMIC_SHARED(float, shared);
  constexpr u32 EACH = QUERIES / 4;
  const u64 begin = s.offsets[blockIdx.x];
  const u32 items = static_cast<u32>(s.offsets[blockIdx.x + 1] - begin), head = blockIdx.y, first = blockIdx.z * QUERIES;
  if (first >= items) return;
  const u32 width = s.width, row_of = width + 1, model = s.heads * width, padded = (items + 15) / 16 * 16;
  const u64 stride = 3 * static_cast<u64>(model), id = s.below ? s.ids[blockIdx.x] : 0;
  const uint2 key = key_of(s, head);
  const float* from = qkv + begin * stride + head * width;
  float* queries = shared;
  float* keys = queries + QUERIES * row_of;
  float* values = keys + KEYS * row_of;
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  load(queries, from + first * stride, stride, QUERIES, items - first, width);
  float top[EACH], sum[EACH], out[EACH][J];
#pragma unroll
  for (u32 q = 0; q < EACH; q++) {
    top[q] = MINUS_INFINITY;
    sum[q] = 0.0f;
#pragma unroll
    for (u32 j = 0; j < J; j++) out[q][j] = 0.0f;
  }
  for (u32 tile = 0; tile < items; tile += KEYS) {
    __syncthreads();
    load(keys, from + model + tile * stride, stride, KEYS, items - tile, width);
    load(values, from + 2 * model + tile * stride, stride, KEYS, items - tile, width);
    __syncthreads();
    const bool inside = lane < KEYS && tile + lane < items;
#pragma unroll
    for (u32 q = 0; q < EACH; q++) {
      const u32 query = warp * EACH + q;
      const float score = inside ? dot(queries + query * row_of, keys + lane * row_of, width) : MINUS_INFINITY;
      const float above = warp_top(score), highest = above > top[q] ? above : top[q];
      // Where nothing is above minus infinity there is nothing to shrink.
      const float shrink = highest == top[q] ? 1.0f : exp_of(s.scale * (top[q] - highest));
      const float p = inside ? exp_of(s.scale * (score - highest)) : 0.0f;
      sum[q] = sum[q] * shrink + warp_sum(p);
      top[q] = highest;
      const float weight = inside ? p * kept(s, key, id, first + query, tile + lane, padded) : 0.0f;
#pragma unroll
      for (u32 j = 0; j < J; j++) out[q][j] *= shrink;
      for (u32 k = 0; k < KEYS; k++) {
        const float own = __shfl_sync(ALL_LANES, weight, k);
#pragma unroll
        for (u32 j = 0; j < J; j++) {
          const u32 c = lane + j * WARP;
          if (c < width) out[q][j] = fmaf(own, values[k * row_of + c], out[q][j]);
        }
      }
    }
  }
#pragma unroll
  for (u32 q = 0; q < EACH; q++) {
    const u32 query = first + warp * EACH + q;
    if (query >= items) continue;
    const float inverse = 1.0f / sum[q];
#pragma unroll
    for (u32 j = 0; j < J; j++) {
      const u32 c = lane + j * WARP;
      if (c < width) y[(begin + query) * model + head * width + c] = out[q][j] * inverse;
    }
    if (lane == 0) log_sums[(begin + query) * s.heads + head] = s.scale * top[q] + static_cast<float>(log_of(static_cast<double>(sum[q])));
  }
}

// dots[item][head] = the sum of the output times its gradient. A warp for each.
extern "C" __global__ void __launch_bounds__(128)
    attention_dots(const float* __restrict__ y, const float* __restrict__ grad, float* __restrict__ dots, u64 count, u32 width) {
  const u32 lane = threadIdx.x % WARP;
  const u64 warps = static_cast<u64>(gridDim.x) * (blockDim.x / WARP);
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x / WARP) + threadIdx.x / WARP; i < count; i += warps) {
    float sum = 0.0f;
    for (u32 c = lane; c < width; c += WARP) sum = fmaf(y[i * width + c], grad[i * width + c], sum);
    sum = warp_sum(sum);
    if (lane == 0) dots[i] = sum;
  }
}

// The gradients of the queries (`KEYS_TOO` false), or of keys and values: a lane then has a query of a tile, and a warp its
// keys. What a block owns are the rows `own`, what it goes through the rows `other`.
template <u32 J, u32 OWN, u32 OTHER, bool KEYS_TOO>
__device__ __forceinline__ void backward(const float* qkv, const float* grad, const float* log_sums, const float* dots,
                                         float* out, const Shape& s, u32 add) {
  DYNAMIC_SHARED(float, shared);
  constexpr u32 EACH = OWN / 4;
  const u64 begin = s.offsets[blockIdx.x];
  const u32 items = static_cast<u32>(s.offsets[blockIdx.x + 1] - begin), head = blockIdx.y, first = blockIdx.z * OWN;
  if (first >= items) return;
  const u32 width = s.width, row_of = width + 1, model = s.heads * width, padded = (items + 15) / 16 * 16;
  const u64 stride = 3 * static_cast<u64>(model), id = s.below ? s.ids[blockIdx.x] : 0;
  const uint2 key = key_of(s, head);
  const float* from = qkv + begin * stride + head * width;
  const float* upstream = grad + begin * model + head * width;
  float* own_a = shared;                // queries, or keys
  float* own_b = own_a + OWN * row_of;  // gradients of their outputs, or values
  float* other_a = own_b + OWN * row_of;
  float* other_b = other_a + OTHER * row_of;
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  load(own_a, from + (KEYS_TOO ? model : 0) + first * stride, stride, OWN, items - first, width);
  if (KEYS_TOO) load(own_b, from + 2 * model + first * stride, stride, OWN, items - first, width);
  else load(own_b, upstream + static_cast<u64>(first) * model, model, OWN, items - first, width);
  float sums[EACH][J], second[EACH][J];
#pragma unroll
  for (u32 q = 0; q < EACH; q++)
#pragma unroll
    for (u32 j = 0; j < J; j++) sums[q][j] = second[q][j] = 0.0f;
  for (u32 tile = 0; tile < items; tile += OTHER) {
    __syncthreads();
    load(other_a, from + (KEYS_TOO ? 0 : model) + tile * stride, stride, OTHER, items - tile, width);
    if (KEYS_TOO) load(other_b, upstream + static_cast<u64>(tile) * model, model, OTHER, items - tile, width);
    else load(other_b, from + 2 * model + tile * stride, stride, OTHER, items - tile, width);
    __syncthreads();
#pragma unroll
    for (u32 q = 0; q < EACH; q++) {
      const u32 mine = warp * EACH + q;
      const bool inside = lane < OTHER && tile + lane < items && first + mine < items;
      float slope_of = 0.0f, weight = 0.0f;
      if (inside) {
        const u32 query = KEYS_TOO ? tile + lane : first + mine, at = KEYS_TOO ? first + mine : tile + lane;
        const float score = dot(own_a + mine * row_of, other_a + lane * row_of, width);
        const float p = exp_of(fmaf(s.scale, score, -log_sums[(begin + query) * s.heads + head]));
        const float factor = kept(s, key, id, query, at, padded);
        const float dp = dot(own_b + mine * row_of, other_b + lane * row_of, width) * factor;
        weight = p * factor;
        slope_of = s.scale * p * (dp - dots[(begin + query) * s.heads + head]);
      }
      for (u32 k = 0; k < OTHER; k++) {
        const float by = __shfl_sync(ALL_LANES, slope_of, k), times = KEYS_TOO ? __shfl_sync(ALL_LANES, weight, k) : 0.0f;
#pragma unroll
        for (u32 j = 0; j < J; j++) {
          const u32 c = lane + j * WARP;
          if (c >= width) continue;
          sums[q][j] = fmaf(by, other_a[k * row_of + c], sums[q][j]);
          if (KEYS_TOO) second[q][j] = fmaf(times, other_b[k * row_of + c], second[q][j]);
        }
      }
    }
  }
#pragma unroll
  for (u32 q = 0; q < EACH; q++) {
    const u32 row = first + warp * EACH + q;
    if (row >= items) continue;
#pragma unroll
    for (u32 j = 0; j < J; j++) {
      const u32 c = lane + j * WARP;
      if (c >= width) continue;
      float* to = out + (begin + row) * stride + head * width + c;
      if (KEYS_TOO) {
        to[model] = add ? to[model] + sums[q][j] : sums[q][j];
        to[2 * model] = add ? to[2 * model] + second[q][j] : second[q][j];
      } else {
        *to = add ? *to + sums[q][j] : sums[q][j];
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_32(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<1, 32, 32>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_32(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                         const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<1, 32, 32, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_32(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                      const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<1, 32, 32, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_64(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<2, 32, 32>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_64(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                         const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<2, 16, 32, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_64(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                      const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<2, 16, 32, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_128(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<4, 16, 32>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_128(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                         const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<4, 16, 16, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_128(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                      const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<4, 16, 16, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_256(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<8, 8, 16>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_256(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                         const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<8, 8, 8, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_256(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                      const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<8, 8, 8, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}
