// Convolutions over pixels as products whose matrices are never formed: the functors find a window's numbers where the
// pixels lie. Weights are [out, kernel rows, kernel columns, in / groups]. `blockIdx.x` is a tile, `blockIdx.y` a group.

struct Term { u32 row, column, channel; };

__device__ __forceinline__ Term term_of(u64 k, u32 kernel_columns, u32 channels) {
  const u32 at = static_cast<u32>(k);
  return Term{at / channels / kernel_columns, at / channels % kernel_columns, at % channels};
}

// Element (window, k) of the unfolded pixels, zero outside of the grid.
struct Unfolded {
  static constexpr bool DEPTH_RUNS = true;
  const float* x;
  Windows w;
  u32 channels, first_channel;
  __device__ __forceinline__ float operator()(u64 window, u64 k) const {
    const u64 sample = window / w.count();
    const Place at = w.place(static_cast<u32>(window % w.count()));
    const Term term = term_of(k, w.kernel_columns, channels);
    const int row = at.row + static_cast<int>(term.row), column = at.column + static_cast<int>(term.column);
    if (row < 0 || column < 0 || row >= static_cast<int>(w.height) || column >= static_cast<int>(w.width)) return 0.0f;
    return x[w.pixel(sample, row, column) * w.channels + first_channel + term.channel];
  }
};

template <class T>
__device__ __forceinline__ void forward(const float* x, const float* weight, const float* bias, float* y, float* kept, u64 rows,
                                        const Windows& w, u32 outputs, u32 groups, u32 act) {
  const u32 of_group = outputs / groups, channels = w.channels / groups, group = blockIdx.y;
  const u64 depth = static_cast<u64>(w.kernel_rows) * w.kernel_columns * channels;
  const u64 first = static_cast<u64>(group) * of_group;
  T::product(Unfolded{x, w, channels, group * channels}, Rows{weight + first * depth, depth},
             Activated{y + first, outputs, bias ? bias + first : nullptr, kept ? kept + first : nullptr, act}, rows, of_group,
             depth, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(256)
    conv_forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias, float* __restrict__ y,
                 float* __restrict__ kept, u64 rows, Windows w, u32 outputs, u32 groups, u32 act) {
  forward<SmallTile>(x, weight, bias, y, kept, rows, w, outputs, groups, act);
}

extern "C" __global__ void __launch_bounds__(256)
    conv_forward_large(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                       float* __restrict__ y, float* __restrict__ kept, u64 rows, Windows w, u32 outputs, u32 groups, u32 act) {
  forward<LargeTile>(x, weight, bias, y, kept, rows, w, outputs, groups, act);
}

// Element (pixel, k) of the gradients that reach a pixel: k counts kernel rows, kernel columns and outputs of the group;
// zero where no window has the pixel at that place.
struct Reaching {
  static constexpr bool DEPTH_RUNS = true;
  const float* grad;
  Windows w;
  u32 outputs, of_group, first_output;
  __device__ __forceinline__ float operator()(u64 pixel, u64 k) const {
    const u64 sample = pixel / (static_cast<u64>(w.height) * w.width);
    const Term term = term_of(k, w.kernel_columns, of_group);
    const int row = static_cast<int>(pixel / w.width % w.height) + static_cast<int>(w.padding) - static_cast<int>(term.row);
    const int column = static_cast<int>(pixel % w.width) + static_cast<int>(w.padding) - static_cast<int>(term.column);
    if (row < 0 || column < 0 || row % static_cast<int>(w.stride) || column % static_cast<int>(w.stride)) return 0.0f;
    const u32 r = static_cast<u32>(row) / w.stride, c = static_cast<u32>(column) / w.stride;
    if (r >= w.rows || c >= w.columns) return 0.0f;
    return grad[(sample * w.count() + static_cast<u64>(r) * w.columns + c) * outputs + first_output + term.channel];
  }
};

// The weight as the gradient of a pixel's channel reads it: element (channel, k) as in `Reaching`.
struct Turned {
  static constexpr bool DEPTH_RUNS = false;
  const float* weight;
  u64 terms;
  u32 kernel_columns, of_group, channels;
  __device__ __forceinline__ float operator()(u64 channel, u64 k) const {
    const Term term = term_of(k, kernel_columns, of_group);
    return weight[term.channel * terms + (static_cast<u64>(term.row) * kernel_columns + term.column) * channels + channel];
  }
};

extern "C" __global__ void __launch_bounds__(256)
    conv_backward(const float* __restrict__ grad, const float* __restrict__ weight, float* __restrict__ out, u64 pixels, Windows w,
                  u32 outputs, u32 groups, u32 add) {
  const u32 of_group = outputs / groups, channels = w.channels / groups, group = blockIdx.y;
  const u64 terms = static_cast<u64>(w.kernel_rows) * w.kernel_columns * channels;
  SmallTile::product(Reaching{grad, w, outputs, of_group, group * of_group},
                     Turned{weight + static_cast<u64>(group) * of_group * terms, terms, w.kernel_columns, of_group, channels},
                     Stored{out + static_cast<u64>(group) * channels, w.channels, add}, pixels, channels,
                     static_cast<u64>(w.kernel_rows) * w.kernel_columns * of_group, blockIdx.x);
}

// The unfolded pixels with windows as the depth: element (term, window).
struct Windowed {
  static constexpr bool DEPTH_RUNS = false;
  Unfolded of;
  u64 first;
  __device__ __forceinline__ float operator()(u64 term, u64 window) const { return of(first + window, term); }
};

// partial[shard] = the weight's gradient over the windows of a shard: `blockIdx.z`.
extern "C" __global__ void __launch_bounds__(256)
    conv_weight(const float* __restrict__ grad, const float* __restrict__ x, const u64* __restrict__ bounds,
                float* __restrict__ partial, Windows w, u32 outputs, u32 groups) {
  const u32 of_group = outputs / groups, channels = w.channels / groups, group = blockIdx.y;
  const u64 begin = bounds[blockIdx.z], end = bounds[blockIdx.z + 1];
  const u64 terms = static_cast<u64>(w.kernel_rows) * w.kernel_columns * channels;
  float* out = partial + (static_cast<u64>(blockIdx.z) * outputs + static_cast<u64>(group) * of_group) * terms;
  SmallTile::product(Columns{grad + begin * outputs + static_cast<u64>(group) * of_group, outputs},
                     Windowed{Unfolded{x, w, channels, group * channels}, begin}, Stored{out, terms, 0}, of_group, terms,
                     end - begin, blockIdx.x);
}

// The same with factors of two bytes.
extern "C" __global__ void __launch_bounds__(256)
    conv_forward_bf16(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias, float* __restrict__ y,
                 float* __restrict__ kept, u64 rows, Windows w, u32 outputs, u32 groups, u32 act) {
  forward<SmallBf16>(x, weight, bias, y, kept, rows, w, outputs, groups, act);
}

extern "C" __global__ void __launch_bounds__(256)
    conv_forward_f16(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias, float* __restrict__ y,
                 float* __restrict__ kept, u64 rows, Windows w, u32 outputs, u32 groups, u32 act) {
  forward<SmallF16>(x, weight, bias, y, kept, rows, w, outputs, groups, act);
}

extern "C" __global__ void __launch_bounds__(256)
    conv_forward_large_bf16(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                       float* __restrict__ y, float* __restrict__ kept, u64 rows, Windows w, u32 outputs, u32 groups, u32 act) {
  forward<LargeBf16>(x, weight, bias, y, kept, rows, w, outputs, groups, act);
}

extern "C" __global__ void __launch_bounds__(256)
    conv_forward_large_f16(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                       float* __restrict__ y, float* __restrict__ kept, u64 rows, Windows w, u32 outputs, u32 groups, u32 act) {
  forward<LargeF16>(x, weight, bias, y, kept, rows, w, outputs, groups, act);
}

extern "C" __global__ void __launch_bounds__(256)
    conv_backward_bf16(const float* __restrict__ grad, const float* __restrict__ weight, float* __restrict__ out, u64 pixels, Windows w,
                  u32 outputs, u32 groups, u32 add) {
  const u32 of_group = outputs / groups, channels = w.channels / groups, group = blockIdx.y;
  const u64 terms = static_cast<u64>(w.kernel_rows) * w.kernel_columns * channels;
  SmallBf16::product(Reaching{grad, w, outputs, of_group, group * of_group},
                     Turned{weight + static_cast<u64>(group) * of_group * terms, terms, w.kernel_columns, of_group, channels},
                     Stored{out + static_cast<u64>(group) * channels, w.channels, add}, pixels, channels,
                     static_cast<u64>(w.kernel_rows) * w.kernel_columns * of_group, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(256)
    conv_backward_f16(const float* __restrict__ grad, const float* __restrict__ weight, float* __restrict__ out, u64 pixels, Windows w,
                  u32 outputs, u32 groups, u32 add) {
  const u32 of_group = outputs / groups, channels = w.channels / groups, group = blockIdx.y;
  const u64 terms = static_cast<u64>(w.kernel_rows) * w.kernel_columns * channels;
  SmallF16::product(Reaching{grad, w, outputs, of_group, group * of_group},
                     Turned{weight + static_cast<u64>(group) * of_group * terms, terms, w.kernel_columns, of_group, channels},
                     Stored{out + static_cast<u64>(group) * channels, w.channels, add}, pixels, channels,
                     static_cast<u64>(w.kernel_rows) * w.kernel_columns * of_group, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(256)
    conv_weight_bf16(const float* __restrict__ grad, const float* __restrict__ x, const u64* __restrict__ bounds,
                float* __restrict__ partial, Windows w, u32 outputs, u32 groups) {
  const u32 of_group = outputs / groups, channels = w.channels / groups, group = blockIdx.y;
  const u64 begin = bounds[blockIdx.z], end = bounds[blockIdx.z + 1];
  const u64 terms = static_cast<u64>(w.kernel_rows) * w.kernel_columns * channels;
  float* out = partial + (static_cast<u64>(blockIdx.z) * outputs + static_cast<u64>(group) * of_group) * terms;
  SmallBf16::product(Columns{grad + begin * outputs + static_cast<u64>(group) * of_group, outputs},
                     Windowed{Unfolded{x, w, channels, group * channels}, begin}, Stored{out, terms, 0}, of_group, terms,
                     end - begin, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(256)
    conv_weight_f16(const float* __restrict__ grad, const float* __restrict__ x, const u64* __restrict__ bounds,
                float* __restrict__ partial, Windows w, u32 outputs, u32 groups) {
  const u32 of_group = outputs / groups, channels = w.channels / groups, group = blockIdx.y;
  const u64 begin = bounds[blockIdx.z], end = bounds[blockIdx.z + 1];
  const u64 terms = static_cast<u64>(w.kernel_rows) * w.kernel_columns * channels;
  float* out = partial + (static_cast<u64>(blockIdx.z) * outputs + static_cast<u64>(group) * of_group) * terms;
  SmallF16::product(Columns{grad + begin * outputs + static_cast<u64>(group) * of_group, outputs},
                     Windowed{Unfolded{x, w, channels, group * channels}, begin}, Stored{out, terms, 0}, of_group, terms,
                     end - begin, blockIdx.x);
}
