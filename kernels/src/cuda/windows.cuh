// Windows over a grid of pixels with contiguous channels: as `cpu/conv.rs` has them.
struct Place { int row, column; };

struct Windows {
  u32 height, width, channels, kernel_rows, kernel_columns, stride, padding, rows, columns;
  __device__ __forceinline__ u32 count() const { return rows * columns; }
  // The first row or column of a window in the grid, negative in the padding.
  __device__ __forceinline__ int begin(u32 window) const { return static_cast<int>(window * stride) - static_cast<int>(padding); }
  __device__ __forceinline__ Place place(u32 window) const { return Place{begin(window / columns), begin(window % columns)}; }
  __device__ __forceinline__ u64 pixel(u64 sample, int row, int column) const {
    return (sample * height + static_cast<u32>(row)) * width + static_cast<u32>(column);
  }
  // The first window that holds a row or column of the grid, of a kernel of this size.
  __device__ __forceinline__ u32 first(int at, u32 kernel) const {
    const int reach = at + static_cast<int>(padding) - static_cast<int>(kernel) + 1;
    return reach <= 0 ? 0 : (static_cast<u32>(reach) + stride - 1) / stride;
  }
};
