// Elementary functions as the CPU computes them (`cpu/math.rs`): fixed sequences of correctly rounded operations, so that
// both give the same bits. Sources are named there.

// exp, within 2 ulp.
__device__ __forceinline__ float exp_of(float x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  x = x > 89.0f ? 89.0f : x;
  x = x < -105.0f ? -105.0f : x;
  const float shifted = fmaf(x, 1.44269504088896340736f, magic);
  const float n = shifted - magic;
  const float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.693359375f, x));
  float p = 1.9875691e-4f;
  p = fmaf(p, r, 1.3981999e-3f);
  p = fmaf(p, r, 8.333452e-3f);
  p = fmaf(p, r, 4.1665796e-2f);
  p = fmaf(p, r, 1.6666665e-1f);
  p = fmaf(p, r, 5.0000001e-1f);
  const float y = fmaf(p, r * r, r) + 1.0f;
  // 2^n in two factors, so that results near both ends of the range come out right.
  const int exponent = static_cast<int>(__float_as_uint(shifted) - __float_as_uint(magic));
  const int half = exponent >> 1, rest = exponent - half;
  return y * __uint_as_float(static_cast<u32>(half + 127) << 23) * __uint_as_float(static_cast<u32>(rest + 127) << 23);
}

__device__ __forceinline__ float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }

// tanh, within 3 ulp.
__device__ __forceinline__ float tanh_of(float x) {
  const float a = fabsf(x), z = x * x;
  float p = -5.7049887e-3f;
  p = fmaf(p, z, 2.0639089e-2f);
  p = fmaf(p, z, -5.3739716e-2f);
  p = fmaf(p, z, 1.3331442e-1f);
  p = fmaf(p, z, -3.333328e-1f);
  const float small = fmaf(p * z, x, x);
  const float large = copysignf(1.0f - 2.0f / (exp_of(a + a) + 1.0f), x);
  return a < 0.625f ? small : large;
}

// erf, absolute error below 5e-7.
__device__ __forceinline__ float erf_of(float x) {
  x = x > 4.0f ? 4.0f : x;
  x = x < -4.0f ? -4.0f : x;
  const float z = x * x;
  float p = -2.7261423e-10f;
  p = fmaf(p, z, 2.7706814e-8f);
  p = fmaf(p, z, -2.101024e-6f);
  p = fmaf(p, z, -5.6925064e-5f);
  p = fmaf(p, z, -7.3499063e-4f);
  p = fmaf(p, z, -2.9545998e-3f);
  p = fmaf(p, z, -1.6096033e-2f);
  float q = -1.4566072e-5f;
  q = fmaf(q, z, -2.1337406e-4f);
  q = fmaf(q, z, -1.682827e-3f);
  q = fmaf(q, z, -7.373329e-3f);
  q = fmaf(q, z, -1.4264739e-2f);
  return x * p / q;
}

// Natural logarithm in f64, within about 2 ulp; minus infinity at 0, NaN below.
__device__ __forceinline__ double log_of(double x) {
  if (!(x > 0.0)) return x == 0.0 ? static_cast<double>(MINUS_INFINITY) : static_cast<double>(__uint_as_float(0x7fffffffu));
  if (x > 1.7976931348623157e308) return x;
  double shift = 0.0;
  if (x < 2.2250738585072014e-308) {
    x *= 18014398509481984.0;  // 2^54
    shift = -54.0;
  }
  const u64 bits = static_cast<u64>(__double_as_longlong(x));
  double exponent = static_cast<double>(static_cast<int>(bits >> 52) - 1023) + shift;
  double m = __longlong_as_double(static_cast<long long>((bits & 0xfffffffffffffull) | 1023ull << 52));
  if (m > 1.41421356237309504880) {
    m *= 0.5;
    exponent += 1.0;
  }
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double tail = 0.0;
  for (int k = 11; k >= 1; k--) tail = (tail + 1.0 / static_cast<double>(2 * k + 1)) * z;
  // ln 2 in two parts: the first has trailing zeros, so that exponent * it is exact.
  return exponent * 6.931471803691238e-1 + (exponent * 1.9082149292705877e-10 + 2.0 * s * tail + 2.0 * s);
}

// As `Activation::code` in `elementwise.rs` numbers them.
enum Activation : u32 { IDENTITY, RELU, GELU, GELU_TANH, SIGMOID, TANH, SILU };

__device__ __forceinline__ float activated(u32 act, float x) {
  switch (act) {
    case RELU: return x < 0.0f ? 0.0f : x;  // NaN passes
    case GELU: return 0.5f * x * (1.0f + erf_of(x * 0.70710678118654752440f));
    case GELU_TANH: return 0.5f * x * (1.0f + tanh_of(0.79788456f * fmaf(0.044715f * x * x, x, x)));
    case SIGMOID: return sigmoid_of(x);
    case TANH: return tanh_of(x);
    case SILU: return x * sigmoid_of(x);
    default: return x;
  }
}

// The slope from the input of GELU, GELU_TANH and SILU, from the output of the others.
__device__ __forceinline__ float slope(u32 act, float v) {
  switch (act) {
    case RELU: return v > 0.0f ? 1.0f : v * 0.0f;
    case GELU: {
      const float density = 0.3989423f * exp_of(-0.5f * v * v);
      return fmaf(v, density, 0.5f * (1.0f + erf_of(v * 0.70710678118654752440f)));
    }
    case GELU_TANH: {
      const float z = v * v;
      const float t = tanh_of(0.79788456f * fmaf(0.044715f * z, v, v));
      return 0.5f * (1.0f + t) + 0.5f * v * (1.0f - t * t) * (0.79788456f * (3.0f * 0.044715f * z + 1.0f));
    }
    case SIGMOID: return v * (1.0f - v);
    case TANH: return 1.0f - v * v;
    case SILU: {
      const float s = sigmoid_of(v);
      return s * (1.0f + v * (1.0f - s));
    }
    default: return 1.0f;
  }
}
