// One row at a time, a warp each: softmax, sums of columns, losses.

#define EACH_ROW(row, rows)                                                                                   \
  for (u64 row = blockIdx.x * static_cast<u64>(blockDim.x / WARP) + threadIdx.x / WARP,                      \
           warps = static_cast<u64>(gridDim.x) * (blockDim.x / WARP);                                         \
       row < (rows); row += warps)

__device__ __forceinline__ float warp_top(float value) {
  for (u32 with = WARP / 2; with > 0; with /= 2) {
    const float other = __shfl_xor_sync(ALL_LANES, value, with);
    value = other > value ? other : value;
  }
  return value;
}

__device__ __forceinline__ double warp_sum_double(double value) {
  for (u32 with = WARP / 2; with > 0; with /= 2) value += __shfl_xor_sync(ALL_LANES, value, with);
  return value;
}

__device__ __forceinline__ float top_of(const float* x, u32 columns, u32 lane) {
  float top = MINUS_INFINITY;
  for (u32 c = lane; c < columns; c += WARP) top = x[c] > top ? x[c] : top;
  return warp_top(top);
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_forward(const float* __restrict__ x, float* __restrict__ y, u64 rows, u32 columns) {
  const u32 lane = threadIdx.x % WARP;
  EACH_ROW(row, rows) {
    const float* from = x + row * columns;
    const float top = top_of(from, columns, lane);
    float sum = 0.0f;
    for (u32 c = lane; c < columns; c += WARP) sum += exp_of(from[c] - top);
    sum = warp_sum(sum);
    for (u32 c = lane; c < columns; c += WARP) y[row * columns + c] = exp_of(from[c] - top) / sum;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_backward(const float* __restrict__ grad, const float* __restrict__ y, float* __restrict__ out, u64 rows, u32 columns,
                     u32 add) {
  const u32 lane = threadIdx.x % WARP;
  EACH_ROW(row, rows) {
    const u64 first = row * columns;
    float dot = 0.0f;
    for (u32 c = lane; c < columns; c += WARP) dot += grad[first + c] * y[first + c];
    dot = warp_sum(dot);
    for (u32 c = lane; c < columns; c += WARP) {
      const float term = y[first + c] * (grad[first + c] - dot);
      out[first + c] = add ? out[first + c] + term : term;
    }
  }
}

// y[row] = factor * the sum of the row.
extern "C" __global__ void __launch_bounds__(256)
    reduce_forward(const float* __restrict__ x, float* __restrict__ y, u64 rows, u32 columns, float factor) {
  const u32 lane = threadIdx.x % WARP;
  EACH_ROW(row, rows) {
    float sum = 0.0f;
    for (u32 c = lane; c < columns; c += WARP) sum += x[row * columns + c];
    sum = warp_sum(sum);
    if (lane == 0) y[row] = sum * factor;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_backward(const float* __restrict__ grad, float* __restrict__ out, u64 rows, u32 columns, float factor, u32 add) {
  const u32 lane = threadIdx.x % WARP;
  EACH_ROW(row, rows) {
    const float term = grad[row] * factor;
    for (u32 c = lane; c < columns; c += WARP) {
      float* to = out + row * columns + c;
      *to = add ? *to + term : term;
    }
  }
}

enum RealLoss : u32 { SQUARE, ABSOLUTE, HUBER, BINARY };

__device__ __forceinline__ float sign_of(float d) { return d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : d * 0.0f; }

// Losses against numbers, of a row of outputs: sums[row] = (loss * weight, weight), and the gradient of the former.
// `parameter`: Huber's delta, the weight of positives.
extern "C" __global__ void __launch_bounds__(256)
    loss_real(const float* __restrict__ y, const float* __restrict__ targets, const float* __restrict__ weights,
              float* __restrict__ grad, double* __restrict__ sums, u64 rows, u32 columns, u32 kind, float parameter) {
  const u32 lane = threadIdx.x % WARP;
  EACH_ROW(row, rows) {
    const float weight = weights ? weights[row] : 1.0f, share = weight / static_cast<float>(columns > 1 ? columns : 1);
    const double p = parameter;
    double sum = 0.0;
    for (u32 c = lane; c < columns; c += WARP) {
      const u64 at = row * columns + c;
      const float x = y[at], t = targets[at], d = x - t;
      const double apart = static_cast<double>(x) - static_cast<double>(t), wide = apart < 0.0 ? -apart : apart;
      float slope_of;
      if (kind == SQUARE) {
        slope_of = 2.0f * share * d;
        sum += apart * apart;
      } else if (kind == ABSOLUTE) {
        slope_of = share * sign_of(d);
        sum += wide;
      } else if (kind == HUBER) {
        slope_of = share * (fabsf(d) <= parameter ? d : parameter * sign_of(d));
        sum += wide <= p ? 0.5 * apart * apart : p * (wide - 0.5 * p);
      } else {
        slope_of = share * (sigmoid_of(x) * fmaf(parameter - 1.0f, t, 1.0f) - parameter * t);
        const double v = x, soft = log_of(1.0 + static_cast<double>(exp_of(-fabsf(x)))) + (v < 0.0 ? -v : 0.0);
        sum += (1.0 - static_cast<double>(t)) * v + (1.0 + (p - 1.0) * static_cast<double>(t)) * soft;
      }
      if (grad) grad[at] = slope_of;
    }
    sum = warp_sum_double(sum);
    if (lane == 0) {
      sums[row * 2] = sum * static_cast<double>(weight) / static_cast<double>(columns > 1 ? columns : 1);
      sums[row * 2 + 1] = weight;
    }
  }
}

// Cross-entropy of logits with label smoothing and class weights: see `cpu/loss.rs`.
extern "C" __global__ void __launch_bounds__(256)
    loss_class(const float* __restrict__ x, const u32* __restrict__ classes, const float* __restrict__ weights,
               const float* __restrict__ class_weights, float* __restrict__ grad, double* __restrict__ sums, u64 rows,
               u32 columns, float smoothing) {
  const u32 lane = threadIdx.x % WARP;
  const float each = smoothing / static_cast<float>(columns);
  EACH_ROW(row, rows) {
    const float* from = x + row * columns;
    const u32 own = classes[row];
    const float weight = weights ? weights[row] : 1.0f, top = top_of(from, columns, lane);
    float total = 0.0f;
    for (u32 c = lane; c < columns; c += WARP) total += exp_of(from[c] - top);
    total = warp_sum(total);
    const double log_total = static_cast<double>(top) + log_of(static_cast<double>(total));
    float mass = 0.0f;
    double sum = 0.0;
    for (u32 c = lane; c < columns; c += WARP) {
      const float target = (class_weights ? class_weights[c] : 1.0f) * (c == own ? 1.0f - smoothing + each : each);
      mass += target;
      // A class of no weight takes no part, even at minus infinity; a row that is not a number does.
      if (target != 0.0f || log_total != log_total) sum += static_cast<double>(target) * (log_total - static_cast<double>(from[c]));
    }
    mass = warp_sum(mass);
    sum = warp_sum_double(sum);
    if (grad)
      for (u32 c = lane; c < columns; c += WARP) {
        const float target = (class_weights ? class_weights[c] : 1.0f) * (c == own ? 1.0f - smoothing + each : each);
        grad[row * columns + c] = weight * (mass * (exp_of(from[c] - top) / total) - target);
      }
    if (lane == 0) {
      sums[row * 2] = sum * static_cast<double>(weight);
      sums[row * 2 + 1] = static_cast<double>(weight) * static_cast<double>(class_weights ? class_weights[own] : 1.0f);
    }
  }
}
