// The three products of a linear layer: forward with bias and activation, the input's gradient, the weight's gradient for
// each shard. `blockIdx.x` is a tile of the result.

template <class T>
__device__ __forceinline__ void forward(const float* x, const float* weight, const float* bias, float* y, float* kept, u64 rows,
                                        u32 outputs, u32 inputs, u32 act) {
  T::product(Rows{x, inputs}, Rows{weight, inputs}, Activated{y, outputs, bias, kept, act}, rows, outputs, inputs, blockIdx.x);
}

// y = act(x W^T + b): x [rows, inputs], W [outputs, inputs].
extern "C" __global__ void __launch_bounds__(256)
    linear_forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                   float* __restrict__ y, float* __restrict__ kept, u64 rows, u32 outputs, u32 inputs, u32 act) {
  forward<SmallTile>(x, weight, bias, y, kept, rows, outputs, inputs, act);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_forward_large(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                         float* __restrict__ y, float* __restrict__ kept, u64 rows, u32 outputs, u32 inputs, u32 act) {
  forward<LargeTile>(x, weight, bias, y, kept, rows, outputs, inputs, act);
}

template <class T>
__device__ __forceinline__ void backward(const float* grad, const float* weight, float* out, u64 rows, u32 outputs, u32 inputs, u32 add) {
  T::product(Rows{grad, outputs}, Columns{weight, inputs}, Stored{out, inputs, add}, rows, inputs, outputs, blockIdx.x);
}

// out (+)= grad W: grad [rows, outputs], out [rows, inputs].
extern "C" __global__ void __launch_bounds__(256)
    linear_backward(const float* __restrict__ grad, const float* __restrict__ weight, float* __restrict__ out, u64 rows,
                    u32 outputs, u32 inputs, u32 add) {
  backward<SmallTile>(grad, weight, out, rows, outputs, inputs, add);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_backward_large(const float* __restrict__ grad, const float* __restrict__ weight, float* __restrict__ out, u64 rows,
                          u32 outputs, u32 inputs, u32 add) {
  backward<LargeTile>(grad, weight, out, rows, outputs, inputs, add);
}

template <class T>
__device__ __forceinline__ void weight(const float* grad, const float* x, const u64* bounds, float* partial, u32 outputs, u32 inputs) {
  const u64 begin = bounds[blockIdx.y], end = bounds[blockIdx.y + 1];
  float* out = partial + static_cast<u64>(blockIdx.y) * outputs * inputs;
  T::product(Columns{grad + begin * outputs, outputs}, Columns{x + begin * inputs, inputs}, Stored{out, inputs, 0}, outputs,
             inputs, end - begin, blockIdx.x);
}

// partial[shard] = grad^T x over the rows of a shard: [outputs, inputs].
extern "C" __global__ void __launch_bounds__(256)
    linear_weight(const float* __restrict__ grad, const float* __restrict__ x, const u64* __restrict__ bounds,
                  float* __restrict__ partial, u32 outputs, u32 inputs) {
  weight<SmallTile>(grad, x, bounds, partial, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_weight_large(const float* __restrict__ grad, const float* __restrict__ x, const u64* __restrict__ bounds,
                        float* __restrict__ partial, u32 outputs, u32 inputs) {
  weight<LargeTile>(grad, x, bounds, partial, outputs, inputs);
}

// The same with factors of two bytes.
extern "C" __global__ void __launch_bounds__(256)
    linear_forward_bf16(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                   float* __restrict__ y, float* __restrict__ kept, u64 rows, u32 outputs, u32 inputs, u32 act) {
  forward<SmallBf16>(x, weight, bias, y, kept, rows, outputs, inputs, act);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_forward_f16(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                   float* __restrict__ y, float* __restrict__ kept, u64 rows, u32 outputs, u32 inputs, u32 act) {
  forward<SmallF16>(x, weight, bias, y, kept, rows, outputs, inputs, act);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_forward_large_bf16(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                         float* __restrict__ y, float* __restrict__ kept, u64 rows, u32 outputs, u32 inputs, u32 act) {
  forward<LargeBf16>(x, weight, bias, y, kept, rows, outputs, inputs, act);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_forward_large_f16(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                         float* __restrict__ y, float* __restrict__ kept, u64 rows, u32 outputs, u32 inputs, u32 act) {
  forward<LargeF16>(x, weight, bias, y, kept, rows, outputs, inputs, act);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_backward_bf16(const float* __restrict__ grad, const float* __restrict__ weight, float* __restrict__ out, u64 rows,
                    u32 outputs, u32 inputs, u32 add) {
  backward<SmallBf16>(grad, weight, out, rows, outputs, inputs, add);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_backward_f16(const float* __restrict__ grad, const float* __restrict__ weight, float* __restrict__ out, u64 rows,
                    u32 outputs, u32 inputs, u32 add) {
  backward<SmallF16>(grad, weight, out, rows, outputs, inputs, add);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_backward_large_bf16(const float* __restrict__ grad, const float* __restrict__ weight, float* __restrict__ out, u64 rows,
                          u32 outputs, u32 inputs, u32 add) {
  backward<LargeBf16>(grad, weight, out, rows, outputs, inputs, add);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_backward_large_f16(const float* __restrict__ grad, const float* __restrict__ weight, float* __restrict__ out, u64 rows,
                          u32 outputs, u32 inputs, u32 add) {
  backward<LargeF16>(grad, weight, out, rows, outputs, inputs, add);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_weight_bf16(const float* __restrict__ grad, const float* __restrict__ x, const u64* __restrict__ bounds,
                  float* __restrict__ partial, u32 outputs, u32 inputs) {
  weight<SmallBf16>(grad, x, bounds, partial, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_weight_f16(const float* __restrict__ grad, const float* __restrict__ x, const u64* __restrict__ bounds,
                  float* __restrict__ partial, u32 outputs, u32 inputs) {
  weight<SmallF16>(grad, x, bounds, partial, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_weight_large_bf16(const float* __restrict__ grad, const float* __restrict__ x, const u64* __restrict__ bounds,
                        float* __restrict__ partial, u32 outputs, u32 inputs) {
  weight<LargeBf16>(grad, x, bounds, partial, outputs, inputs);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_weight_large_f16(const float* __restrict__ grad, const float* __restrict__ x, const u64* __restrict__ bounds,
                        float* __restrict__ partial, u32 outputs, u32 inputs) {
  weight<LargeF16>(grad, x, bounds, partial, outputs, inputs);
}
