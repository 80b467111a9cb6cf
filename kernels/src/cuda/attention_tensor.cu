// Self-attention as in `attention.cu`, with factors of two bytes and sums in f32 on tensor cores: queries, keys, values, the
// gradients of the outputs, probabilities and slopes are rounded where they are factors. Softmax is in f32.
//
// A block has four warps, each with sixteen rows of a head of its own. A lane has of each product's result what `multiply`
// gives it: rows g and g + 8, columns 2 t and 2 t + 1 of each eight. So the four lanes of a g share a row, and an element's
// bits depend on its row only.

constexpr u32 ROWS_OF_WARP = 16;

// Rows of a head in shared memory: two neighbouring columns to a word, padded so that eight rows by four words, and eight
// columns of every second row, meet all 32 banks.
template <u32 WIDTH>
constexpr u32 ROW_WORDS = WIDTH / 2 + 4;

// Copies rows of a head, zeros beyond the items and the width.
template <class Half, u32 WIDTH>
__device__ __forceinline__ void load(u32* to, const float* from, u64 stride, u32 rows, u32 inside, u32 width) {
  for (u32 n = threadIdx.x; n < rows * (WIDTH / 2); n += blockDim.x) {
    const u32 row = n / (WIDTH / 2), c = n % (WIDTH / 2) * 2;
    const float* at = from + row * stride + c;
    to[row * ROW_WORDS<WIDTH> + c / 2] =
        Half::pair(row < inside && c < width ? at[0] : 0.0f, row < inside && c + 1 < width ? at[1] : 0.0f);
  }
}

// sums = A B^T over the width: sixteen rows of A, 8 N rows of B.
template <class Half, u32 WIDTH, u32 N>
__device__ __forceinline__ void across(const u32* a, const u32* b, float (&sums)[N][4], u32 g, u32 t) {
  constexpr u32 ROW = ROW_WORDS<WIDTH>;
#pragma unroll
  for (u32 j = 0; j < N; j++)
#pragma unroll
    for (u32 n = 0; n < 4; n++) sums[j][n] = 0.0f;
#pragma unroll
  for (u32 k = 0; k < WIDTH / 2; k += 8) {
    u32 left[4];
#pragma unroll
    for (u32 n = 0; n < 4; n++) left[n] = a[(n % 2 * 8 + g) * ROW + k + n / 2 * 4 + t];
#pragma unroll
    for (u32 j = 0; j < N; j++) {
      const u32 right[2] = {b[(j * 8 + g) * ROW + k + t], b[(j * 8 + g) * ROW + k + 4 + t]};
      multiply<Half>(sums[j], left, right);
    }
  }
}

// sums += P M: P sixteen rows by 8 N, where `across` leaves it; M 8 N rows of a head.
template <class Half, u32 WIDTH, u32 N>
__device__ __forceinline__ void down(const float (&p)[N][4], const u32* m, float (&sums)[WIDTH / 8][4], u32 g, u32 t) {
  constexpr u32 ROW = ROW_WORDS<WIDTH>;
  const u32 shift = g % 2 * 16;
  // The halves of one column in two neighbouring rows.
  auto both = [&](u32 at) { return (m[at] >> shift & 0xffff) | m[at + ROW] >> shift << 16; };
#pragma unroll
  for (u32 k = 0; k < N; k += 2) {
    const u32 left[4] = {Half::pair(p[k][0], p[k][1]), Half::pair(p[k][2], p[k][3]), Half::pair(p[k + 1][0], p[k + 1][1]),
                         Half::pair(p[k + 1][2], p[k + 1][3])};
#pragma unroll
    for (u32 j = 0; j < WIDTH / 8; j++) {
      const u32 at = (k * 8 + 2 * t) * ROW + j * 4 + g / 2;
      const u32 right[2] = {both(at), both(at + 8 * ROW)};
      multiply<Half>(sums[j], left, right);
    }
  }
}

// Over the four lanes that share a row, the same bits in each.
__device__ __forceinline__ float row_sum(float value) {
  value += __shfl_xor_sync(ALL_LANES, value, 1);
  return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

__device__ __forceinline__ float row_top(float value) {
#pragma unroll
  for (u32 with = 1; with < 4; with *= 2) {
    const float other = __shfl_xor_sync(ALL_LANES, value, with);
    value = other > value ? other : value;
  }
  return value;
}

// blockIdx: (sample, head, tile of queries).
template <class Half, u32 WIDTH, u32 KEYS>
__device__ __forceinline__ void forward(const float* qkv, float* y, float* log_sums, const Shape& s) {
  DYNAMIC_SHARED(u32, shared);
  constexpr u32 ROW = ROW_WORDS<WIDTH>, QUERIES = 4 * ROWS_OF_WARP, N = KEYS / 8;
  const u64 begin = s.offsets[blockIdx.x];
  const u32 items = static_cast<u32>(s.offsets[blockIdx.x + 1] - begin), head = blockIdx.y, first = blockIdx.z * QUERIES;
  if (first >= items) return;
  const u32 width = s.width, model = s.heads * width, padded = (items + 15) / 16 * 16;
  const u64 stride = 3 * static_cast<u64>(model), id = s.below ? s.ids[blockIdx.x] : 0;
  const uint2 key = key_of(s, head);
  const float* from = qkv + begin * stride + head * width;
  u32* queries = shared;
  u32* keys = queries + QUERIES * ROW;
  u32* values = keys + KEYS * ROW;
  const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, own = threadIdx.x / WARP * ROWS_OF_WARP;
  load<Half, WIDTH>(queries, from + first * stride, stride, QUERIES, items - first, width);
  float top[2] = {MINUS_INFINITY, MINUS_INFINITY}, sum[2] = {0.0f, 0.0f}, out[WIDTH / 8][4];
#pragma unroll
  for (u32 j = 0; j < WIDTH / 8; j++)
#pragma unroll
    for (u32 n = 0; n < 4; n++) out[j][n] = 0.0f;
  for (u32 tile = 0; tile < items; tile += KEYS) {
    __syncthreads();
    load<Half, WIDTH>(keys, from + model + tile * stride, stride, KEYS, items - tile, width);
    load<Half, WIDTH>(values, from + 2 * model + tile * stride, stride, KEYS, items - tile, width);
    __syncthreads();
    float p[N][4];
    across<Half, WIDTH, N>(queries + own * ROW, keys, p, g, t);
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
      const u32 query = first + own + g + 8 * r;
      float highest = top[r], part = 0.0f;
#pragma unroll
      for (u32 j = 0; j < N; j++)
#pragma unroll
        for (u32 i = 0; i < 2; i++)
          if (tile + j * 8 + 2 * t + i < items && p[j][2 * r + i] > highest) highest = p[j][2 * r + i];
      highest = row_top(highest);
      // Where nothing is above minus infinity there is nothing to shrink.
      const float shrink = highest == top[r] ? 1.0f : exp_of(s.scale * (top[r] - highest));
#pragma unroll
      for (u32 j = 0; j < N; j++)
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
          const u32 at = tile + j * 8 + 2 * t + i;
          float& weight = p[j][2 * r + i];
          weight = at < items ? exp_of(s.scale * (weight - highest)) : 0.0f;
          part += weight;
          if (at < items) weight *= kept(s, key, id, query, at, padded);
        }
      sum[r] = sum[r] * shrink + row_sum(part);
      top[r] = highest;
#pragma unroll
      for (u32 j = 0; j < WIDTH / 8; j++) {
        out[j][2 * r] *= shrink;
        out[j][2 * r + 1] *= shrink;
      }
    }
    down<Half, WIDTH, N>(p, values, out, g, t);
  }
#pragma unroll
  for (u32 r = 0; r < 2; r++) {
    const u32 query = first + own + g + 8 * r;
    if (query >= items) continue;
    const float inverse = 1.0f / sum[r];
#pragma unroll
    for (u32 j = 0; j < WIDTH / 8; j++)
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        const u32 c = j * 8 + 2 * t + i;
        if (c < width) y[(begin + query) * model + head * width + c] = out[j][2 * r + i] * inverse;
      }
    if (t == 0) log_sums[(begin + query) * s.heads + head] = s.scale * top[r] + static_cast<float>(log_of(static_cast<double>(sum[r])));
  }
}

// The gradients of the queries (`KEYS_TOO` false), or of keys and values: as in `attention.cu`.
template <class Half, u32 WIDTH, u32 OTHER, bool KEYS_TOO>
__device__ __forceinline__ void backward(const float* qkv, const float* grad, const float* log_sums, const float* dots,
                                         float* out, const Shape& s, u32 add) {
  DYNAMIC_SHARED(u32, shared);
  constexpr u32 ROW = ROW_WORDS<WIDTH>, OWN = 4 * ROWS_OF_WARP, N = OTHER / 8;
  const u64 begin = s.offsets[blockIdx.x];
  const u32 items = static_cast<u32>(s.offsets[blockIdx.x + 1] - begin), head = blockIdx.y, first = blockIdx.z * OWN;
  if (first >= items) return;
  const u32 width = s.width, model = s.heads * width, padded = (items + 15) / 16 * 16;
  const u64 stride = 3 * static_cast<u64>(model), id = s.below ? s.ids[blockIdx.x] : 0;
  const uint2 key = key_of(s, head);
  const float* from = qkv + begin * stride + head * width;
  const float* upstream = grad + begin * model + head * width;
  u32* own_a = shared;             // queries, or keys
  u32* own_b = own_a + OWN * ROW;  // gradients of their outputs, or values
  u32* other_a = own_b + OWN * ROW;
  u32* other_b = other_a + OTHER * ROW;
  const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, own = threadIdx.x / WARP * ROWS_OF_WARP;
  load<Half, WIDTH>(own_a, from + (KEYS_TOO ? model : 0) + first * stride, stride, OWN, items - first, width);
  if (KEYS_TOO) load<Half, WIDTH>(own_b, from + 2 * model + first * stride, stride, OWN, items - first, width);
  else load<Half, WIDTH>(own_b, upstream + static_cast<u64>(first) * model, model, OWN, items - first, width);
  float sums[WIDTH / 8][4], second[WIDTH / 8][4];
#pragma unroll
  for (u32 j = 0; j < WIDTH / 8; j++)
#pragma unroll
    for (u32 n = 0; n < 4; n++) sums[j][n] = second[j][n] = 0.0f;
  for (u32 tile = 0; tile < items; tile += OTHER) {
    __syncthreads();
    load<Half, WIDTH>(other_a, from + (KEYS_TOO ? 0 : model) + tile * stride, stride, OTHER, items - tile, width);
    if (KEYS_TOO) load<Half, WIDTH>(other_b, upstream + static_cast<u64>(tile) * model, model, OTHER, items - tile, width);
    else load<Half, WIDTH>(other_b, from + 2 * model + tile * stride, stride, OTHER, items - tile, width);
    __syncthreads();
    float slopes[N][4], weights[N][4];
    across<Half, WIDTH, N>(own_a + own * ROW, other_a, slopes, g, t);
    across<Half, WIDTH, N>(own_b + own * ROW, other_b, weights, g, t);
#pragma unroll
    for (u32 j = 0; j < N; j++)
#pragma unroll
      for (u32 n = 0; n < 4; n++) {
        const u32 mine = first + own + g + n / 2 * 8, theirs = tile + j * 8 + 2 * t + n % 2;
        float slope_of = 0.0f, weight = 0.0f;
        if (mine < items && theirs < items) {
          const u32 query = KEYS_TOO ? theirs : mine, at = KEYS_TOO ? mine : theirs;
          const float p = exp_of(fmaf(s.scale, slopes[j][n], -log_sums[(begin + query) * s.heads + head]));
          const float factor = kept(s, key, id, query, at, padded);
          weight = p * factor;
          slope_of = s.scale * p * (weights[j][n] * factor - dots[(begin + query) * s.heads + head]);
        }
        slopes[j][n] = slope_of;
        weights[j][n] = weight;
      }
    down<Half, WIDTH, N>(slopes, other_a, sums, g, t);
    if (KEYS_TOO) down<Half, WIDTH, N>(weights, other_b, second, g, t);
  }
#pragma unroll
  for (u32 j = 0; j < WIDTH / 8; j++)
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
      const u32 row = first + own + g + n / 2 * 8, c = j * 8 + 2 * t + n % 2;
      if (row >= items || c >= width) continue;
      float* to = out + (begin + row) * stride + head * width + c;
      if (KEYS_TOO) {
        to[model] = add ? to[model] + sums[j][n] : sums[j][n];
        to[2 * model] = add ? to[2 * model] + second[j][n] : second[j][n];
      } else {
        *to = add ? *to + sums[j][n] : sums[j][n];
      }
    }
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_32_bf16(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<Bf16, 32, 32>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_32_bf16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                              const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<Bf16, 32, 32, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_32_bf16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                           const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<Bf16, 32, 32, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_32_f16(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<F16, 32, 32>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_32_f16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                              const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<F16, 32, 32, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_32_f16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                           const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<F16, 32, 32, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_64_bf16(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<Bf16, 64, 32>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_64_bf16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                              const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<Bf16, 64, 32, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_64_bf16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                           const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<Bf16, 64, 32, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_64_f16(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<F16, 64, 32>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_64_f16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                              const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<F16, 64, 32, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_64_f16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                           const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<F16, 64, 32, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_128_bf16(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<Bf16, 128, 32>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_128_bf16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                              const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<Bf16, 128, 16, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_128_bf16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                           const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<Bf16, 128, 16, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_forward_128_f16(const float* __restrict__ qkv, float* __restrict__ y, float* __restrict__ log_sums, SHAPE) {
  forward<F16, 128, 32>(qkv, y, log_sums, OF_HEAD);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_queries_128_f16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                              const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<F16, 128, 16, false>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_keys_128_f16(const float* __restrict__ qkv, const float* __restrict__ grad, const float* __restrict__ log_sums,
                           const float* __restrict__ dots, float* __restrict__ out, SHAPE, u32 add) {
  backward<F16, 128, 16, true>(qkv, grad, log_sums, dots, out, OF_HEAD, add);
}
