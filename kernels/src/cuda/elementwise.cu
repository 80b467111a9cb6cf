// Element by element: activations, arithmetic, scaling, runs of columns. A thread takes elements in turns.

#define EACH(i, count)                                                                                        \
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x, threads = static_cast<u64>(gridDim.x) * blockDim.x; \
       i < (count); i += threads)

extern "C" __global__ void __launch_bounds__(256)
    activation_forward(const float* __restrict__ x, float* __restrict__ y, u64 count, u32 act) {
  EACH(i, count) y[i] = activated(act, x[i]);
}

// In place: the gradient of the activation's output becomes that of its input.
extern "C" __global__ void __launch_bounds__(256)
    activation_backward(float* __restrict__ grad, const float* __restrict__ from, u64 count, u32 act) {
  EACH(i, count) grad[i] *= slope(act, from[i]);
}

// out (+)= factor * x; with a factor of 1 a copy. `out` may be `x`.
extern "C" __global__ void __launch_bounds__(256)
    scale(const float* x, float* out, u64 count, float factor, u32 add) {
  EACH(i, count) out[i] = add ? out[i] + factor * x[i] : factor * x[i];
}

// x *= factor, which changes from step to step and so lies in memory.
extern "C" __global__ void __launch_bounds__(256)
    rescale(float* __restrict__ x, u64 count, const float* __restrict__ factor) {
  const float by = *factor;
  EACH(i, count) x[i] *= by;
}

enum Arithmetic : u32 { ADD, SUBTRACT, MULTIPLY, DIVIDE };

extern "C" __global__ void __launch_bounds__(256)
    arithmetic_forward(const float* __restrict__ left, const float* __restrict__ right, float* __restrict__ y, u64 count, u32 kind) {
  EACH(i, count) {
    const float l = left[i], r = right[i];
    y[i] = kind == ADD ? l + r : kind == SUBTRACT ? l - r : kind == MULTIPLY ? l * r : l / r;
  }
}

// The gradient of one side, `out` (+)=; `second`: of the right one.
extern "C" __global__ void __launch_bounds__(256)
    arithmetic_backward(const float* __restrict__ grad, const float* __restrict__ left, const float* __restrict__ right,
                        const float* __restrict__ y, float* __restrict__ out, u64 count, u32 kind, u32 second, u32 add) {
  EACH(i, count) {
    const float g = grad[i];
    float term = g;
    if (kind == SUBTRACT && second) term = -g;
    if (kind == MULTIPLY) term = g * (second ? left[i] : right[i]);
    if (kind == DIVIDE) term = second ? -g * y[i] / right[i] : g / right[i];
    out[i] = add ? out[i] + term : term;
  }
}

// y[row][to + c] (+)= x[row][from + c] for c below `width`; `fill`: the other columns of y become zero.
extern "C" __global__ void __launch_bounds__(256)
    columns_copy(const float* __restrict__ x, float* __restrict__ y, u64 rows, u32 x_columns, u32 y_columns, u32 from, u32 to,
                 u32 width, u32 add, u32 fill) {
  const u32 across = fill ? y_columns : width, first = fill ? 0 : to;
  EACH(i, rows * across) {
    const u64 row = i / across;
    const u32 c = first + static_cast<u32>(i % across);
    float* out = y + row * y_columns + c;
    if (c < to || c >= to + width) {
      *out = 0.0f;
      continue;
    }
    const float value = x[row * x_columns + from + (c - to)];
    *out = add ? *out + value : value;
  }
}
