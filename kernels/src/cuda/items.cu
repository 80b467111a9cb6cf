// Items of samples: pooling to one row, rows picked by index, transposition, pixels, windows over pixels. The items of
// sample s are the rows offsets[s] .. offsets[s + 1].

#define EACH(i, count)                                                                                        \
  for (u64 i = blockIdx.x * static_cast<u64>(blockDim.x) + threadIdx.x, threads = static_cast<u64>(gridDim.x) * blockDim.x; \
       i < (count); i += threads)

enum Pooling : u32 { FIRST, LAST, SUM, MEAN, LARGEST };

// A thread for each sample and column.
extern "C" __global__ void __launch_bounds__(256)
    pool_forward(const float* __restrict__ x, const u64* __restrict__ offsets, float* __restrict__ y, u64 samples, u32 columns, u32 kind) {
  EACH(i, samples * columns) {
    const u64 sample = i / columns, c = i % columns, begin = offsets[sample], end = offsets[sample + 1];
    float value = 0.0f;
    if (begin < end) {
      if (kind == FIRST) value = x[begin * columns + c];
      if (kind == LAST) value = x[(end - 1) * columns + c];
      if (kind == SUM || kind == MEAN) {
        for (u64 row = begin; row < end; row++) value += x[row * columns + c];
        if (kind == MEAN) value *= 1.0f / static_cast<float>(end - begin);
      }
      if (kind == LARGEST) {
        value = x[begin * columns + c];
        for (u64 row = begin + 1; row < end; row++) {
          const float other = x[row * columns + c];
          value = other > value || other != other ? other : value;
        }
      }
    }
    y[i] = value;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    pool_backward(const float* __restrict__ grad, const float* __restrict__ x, const float* __restrict__ y,
                  const u64* __restrict__ offsets, float* __restrict__ out, u64 samples, u32 columns, u32 kind, u32 add) {
  EACH(i, samples * columns) {
    const u64 sample = i / columns, c = i % columns, begin = offsets[sample], end = offsets[sample + 1];
    const float g = grad[i], share = kind == MEAN ? 1.0f / static_cast<float>(end > begin ? end - begin : 1) : 1.0f;
    bool taken = false;
    for (u64 row = begin; row < end; row++) {
      bool gets = kind == SUM || kind == MEAN || (kind == FIRST && row == begin) || (kind == LAST && row + 1 == end);
      if (kind == LARGEST && !taken) {
        // The first of equals gets the gradient.
        const float value = x[row * columns + c];
        gets = taken = value == y[i] || value != value;
      }
      float* to = out + row * columns + c;
      const float before = add ? *to : 0.0f;
      *to = gets ? before + share * g : before;
    }
  }
}

// y[row] = x[the row ids[row] of the same sample].
extern "C" __global__ void __launch_bounds__(256)
    gather_forward(const float* __restrict__ x, const u32* __restrict__ ids, const u64* __restrict__ from, const u64* __restrict__ to,
                   float* __restrict__ y, u64 samples, u32 columns) {
  for (u64 sample = blockIdx.y; sample < samples; sample += gridDim.y) {
    const u64 first = to[sample], count = (to[sample + 1] - first) * columns;
    EACH(i, count) {
      const u64 row = first + i / columns;
      y[row * columns + i % columns] = x[(from[sample] + ids[row]) * columns + i % columns];
    }
  }
}

// A thread for each sample and column takes the picked rows in their order.
extern "C" __global__ void __launch_bounds__(256)
    gather_backward(const float* __restrict__ grad, const u32* __restrict__ ids, const u64* __restrict__ from,
                    const u64* __restrict__ to, float* __restrict__ out, u64 samples, u32 columns, u32 add) {
  EACH(i, samples * columns) {
    const u64 sample = i / columns, c = i % columns;
    if (!add)
      for (u64 row = from[sample]; row < from[sample + 1]; row++) out[row * columns + c] = 0.0f;
    for (u64 row = to[sample]; row < to[sample + 1]; row++) out[(from[sample] + ids[row]) * columns + c] += grad[row * columns + c];
  }
}

// Per sample [rows, columns] to [columns, rows]; `back`: the other way, adding where asked.
extern "C" __global__ void __launch_bounds__(256)
    transpose_items(const float* __restrict__ x, float* __restrict__ y, u64 count, u32 rows, u32 columns, u32 back, u32 add) {
  EACH(i, count) {
    const u64 one = static_cast<u64>(rows) * columns, sample = i / one, within = i % one;
    const u64 turned = sample * one + within % columns * rows + within / columns;
    if (back) y[i] = add ? y[i] + x[turned] : x[turned];
    else y[turned] = x[i];
  }
}

// Pixels [samples, channels, pixels] to rows of pixels, each factor * value + shift.
extern "C" __global__ void __launch_bounds__(256)
    image_of_bytes(const unsigned char* __restrict__ x, float* __restrict__ y, u64 count, u32 channels, u32 pixels, float factor, float shift) {
  EACH(i, count) {
    const u64 c = i % channels, pixel = i / channels % pixels, sample = i / channels / pixels;
    y[i] = static_cast<float>(x[(sample * channels + c) * pixels + pixel]) * factor + shift;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    image_of_floats(const float* __restrict__ x, float* __restrict__ y, u64 count, u32 channels, u32 pixels, float factor, float shift) {
  EACH(i, count) {
    const u64 c = i % channels, pixel = i / channels % pixels, sample = i / channels / pixels;
    y[i] = x[(sample * channels + c) * pixels + pixel] * factor + shift;
  }
}

// The largest or mean value of the pixels of a window that lie inside.
extern "C" __global__ void __launch_bounds__(256)
    window_forward(const float* __restrict__ x, float* __restrict__ y, u64 count, Windows w, u32 largest) {
  EACH(i, count) {
    const u32 c = static_cast<u32>(i % w.channels);
    const u64 window = i / w.channels, sample = window / w.count();
    const Place at = w.place(static_cast<u32>(window % w.count()));
    float value = 0.0f;
    u32 seen = 0;
    for (int row = at.row < 0 ? 0 : at.row; row < at.row + static_cast<int>(w.kernel_rows) && row < static_cast<int>(w.height); row++)
      for (int column = at.column < 0 ? 0 : at.column;
           column < at.column + static_cast<int>(w.kernel_columns) && column < static_cast<int>(w.width); column++) {
        const float other = x[w.pixel(sample, row, column) * w.channels + c];
        if (!largest) value += other;
        else if (seen == 0 || other > value || other != other) value = other;
        seen++;
      }
    y[i] = !largest && seen ? value * (1.0f / static_cast<float>(seen)) : value;
  }
}

// A thread for each pixel and channel takes what the windows that hold it say, in their order.
extern "C" __global__ void __launch_bounds__(256)
    window_backward(const float* __restrict__ grad, const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ out,
                    u64 count, Windows w, u32 largest, u32 add) {
  EACH(i, count) {
    const u32 c = static_cast<u32>(i % w.channels);
    const u64 pixel = i / w.channels, sample = pixel / (static_cast<u64>(w.height) * w.width);
    const int row = static_cast<int>(pixel / w.width % w.height), column = static_cast<int>(pixel % w.width);
    float sum = add ? out[i] : 0.0f;
    for (u32 r = w.first(row, w.kernel_rows); r < w.rows && w.begin(r) <= row; r++)
      for (u32 q = w.first(column, w.kernel_columns); q < w.columns && w.begin(q) <= column; q++) {
        const u64 window = sample * w.count() + static_cast<u64>(r) * w.columns + q;
        const int top = w.begin(r), left = w.begin(q);
        const int from_row = top < 0 ? 0 : top, from_column = left < 0 ? 0 : left;
        const int to_row = top + static_cast<int>(w.kernel_rows) < static_cast<int>(w.height) ? top + static_cast<int>(w.kernel_rows) : static_cast<int>(w.height);
        const int to_column = left + static_cast<int>(w.kernel_columns) < static_cast<int>(w.width) ? left + static_cast<int>(w.kernel_columns) : static_cast<int>(w.width);
        const float g = grad[window * w.channels + c];
        if (!largest) {
          sum += 1.0f / static_cast<float>((to_row - from_row) * (to_column - from_column)) * g;
          continue;
        }
        // The first of equals gets the gradient: none before this one.
        const float top_value = y[window * w.channels + c];
        bool first = true;
        for (int a = from_row; a < to_row && first; a++)
          for (int b = from_column; b < to_column && first; b++) {
            const float value = x[w.pixel(sample, a, b) * w.channels + c];
            if (value == top_value || value != value) {
              if (a == row && b == column) sum += g;
              first = false;
            }
          }
      }
    out[i] = sum;
  }
}
