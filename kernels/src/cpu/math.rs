//! Elementary functions as fixed sequences of correctly rounded operations: the same bits on every host
//! and in every vector width. The f32 ones are branch-free so that loops over them vectorize (inside
//! `simd!` functions); the f64 ones are scalar and use no fused operation.

/// exp, within 2 ulp; infinity above 88.8, exact zero below -104, NaN stays NaN. Range reduction by
/// ln 2 in two parts and the degree-5 polynomial of Cephes `expf` (Moshier 1989).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -105.0 { -105.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-0.693_359_375, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 5.000_000_1e-1);
    let y = p.mul_add(r * r, r) + 1.0;
    // 2^n in two factors, so that results near both ends of the range come out right.
    let exponent = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = exponent >> 1;
    let rest = exponent.wrapping_sub(half);
    let power = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
    y * power(half) * power(rest)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh, within 3 ulp: the polynomial of Cephes `tanhf` below 0.625, else 1 - 2 / (e^2|x| + 1).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let mut p = -5.704_988_7e-3f32;
    p = p.mul_add(z, 2.063_908_9e-2);
    p = p.mul_add(z, -5.373_971_6e-2);
    p = p.mul_add(z, 1.333_144_2e-1);
    p = p.mul_add(z, -3.333_328e-1);
    let small = (p * z).mul_add(x, x);
    let large = (1.0 - 2.0 / (exp(a + a) + 1.0)).copysign(x);
    if a < 0.625 { small } else { large }
}

/// erf, absolute error below 5e-7: x P(x^2) / Q(x^2) on [-4, 4], the rational approximation that Eigen
/// and XLA use.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = if x > 4.0 { 4.0 } else { x };
    let x = if x < -4.0 { -4.0 } else { x };
    let z = x * x;
    let mut p = -2.726_142_3e-10f32;
    p = p.mul_add(z, 2.770_681_4e-8);
    p = p.mul_add(z, -2.101_024e-6);
    p = p.mul_add(z, -5.692_506_4e-5);
    p = p.mul_add(z, -7.349_906_3e-4);
    p = p.mul_add(z, -2.954_599_8e-3);
    p = p.mul_add(z, -1.609_603_3e-2);
    let mut q = -1.456_607_2e-5f32;
    q = q.mul_add(z, -2.133_740_6e-4);
    q = q.mul_add(z, -1.682_827e-3);
    q = q.mul_add(z, -7.373_329e-3);
    q = q.mul_add(z, -1.426_473_9e-2);
    x * p / q
}

/// Natural logarithm in f64, within about 2 ulp; -inf at 0, NaN below. Mantissa in [1/sqrt 2, sqrt 2),
/// then the series of atanh.
pub fn ln_f64(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_infinite() {
        return x;
    }
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * 2f64.powi(54), -54.0) } else { (x, 0.0) };
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i64 - 1023) as f64 + shift;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1.0;
    }
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut tail = 0.0;
    for k in (1..=11).rev() {
        tail = (tail + 1.0 / f64::from(2 * k + 1)) * z;
    }
    // ln 2 in two parts: the first has trailing zeros, so that exponent * it is exact.
    exponent * 6.931_471_803_691_238e-1 + (exponent * 1.908_214_929_270_587_7e-10 + 2.0 * s * tail + 2.0 * s)
}

/// exp in f64, within about 2 ulp.
pub fn exp_f64(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 709.782_712_893_384 {
        return f64::INFINITY;
    }
    if x < -745.2 {
        return 0.0;
    }
    let n = (x * std::f64::consts::LOG2_E).round();
    let r = (x - n * 6.931_471_803_691_238e-1) - n * 1.908_214_929_270_587_7e-10;
    let mut y = 1.0;
    for k in (1..=14).rev() {
        y = y * r / f64::from(k) + 1.0;
    }
    let half = (n as i64) >> 1;
    let power = |e: i64| f64::from_bits(((e + 1023) as u64) << 52);
    y * power(half) * power(n as i64 - half)
}

/// (cos, sin) of an angle in turns (1 turn = 2 pi), any finite argument: reduced exactly to an eighth of
/// a turn, then Taylor series.
pub fn cos_sin_turns(turns: f64) -> (f64, f64) {
    let turn = turns - turns.floor();
    let quarter = (turn * 4.0).round();
    let x = (turn - quarter * 0.25) * std::f64::consts::TAU;
    let z = x * x;
    let (mut c, mut s) = (1.0, 1.0);
    for k in (1..=9).rev() {
        c = 1.0 - c * z / f64::from((2 * k - 1) * (2 * k));
        s = 1.0 - s * z / f64::from((2 * k) * (2 * k + 1));
    }
    let s = s * x;
    match quarter as i64 % 4 {
        0 => (c, s),
        1 => (-s, c),
        2 => (-c, -s),
        _ => (s, -c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(from: f64, to: f64) -> impl Iterator<Item = f64> {
        (0..=20_000).map(move |i| from + (to - from) * f64::from(i) / 20_000.0)
    }

    fn erf_reference(x: f64) -> f64 {
        // Series for small arguments, continued fraction beyond: accurate to 1e-14.
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let mut fraction = 0.0;
        for k in (1..60).rev() {
            fraction = f64::from(k) / 2.0 / (x.abs() + fraction);
        }
        x.signum() * (1.0 - (-x * x).exp() / std::f64::consts::PI.sqrt() / (x.abs() + fraction))
    }

    #[test]
    fn f32_functions_are_accurate() {
        for x in sweep(-87.0, 88.5) {
            let (got, want) = (f64::from(exp(x as f32)), f64::from(x as f32).exp());
            assert!((got / want - 1.0).abs() < 3e-7, "exp({x}) = {got}, not {want}");
        }
        for x in sweep(-12.0, 12.0) {
            let v = f64::from(x as f32);
            assert!((f64::from(tanh(x as f32)) - v.tanh()).abs() <= 2.5e-7 * v.tanh().abs().max(1e-30), "tanh({x})");
            assert!((f64::from(erf(x as f32)) - erf_reference(v)).abs() < 5e-7, "erf({x})");
            let want = 1.0 / (1.0 + (-v).exp());
            assert!((f64::from(sigmoid(x as f32)) - want).abs() < 2e-7, "sigmoid({x})");
        }
    }

    #[test]
    fn edges_of_f32_functions() {
        assert_eq!(
            (exp(0.0), exp(f32::INFINITY), exp(f32::NEG_INFINITY), exp(200.0)),
            (1.0, f32::INFINITY, 0.0, f32::INFINITY)
        );
        assert!(exp(-100.0) > 0.0, "subnormal");
        assert_eq!((tanh(0.0), tanh(50.0), tanh(-50.0)), (0.0, 1.0, -1.0));
        assert_eq!((sigmoid(200.0), sigmoid(-200.0)), (1.0, 0.0));
        for f in [exp, sigmoid, tanh, erf] {
            assert!(f(f32::NAN).is_nan());
        }
    }

    #[test]
    fn f64_functions_are_accurate() {
        for x in sweep(-30.0, 30.0) {
            let (c, s) = cos_sin_turns(x / std::f64::consts::TAU);
            assert!((c - x.cos()).abs() < 1e-14 && (s - x.sin()).abs() < 1e-14, "angle {x}");
            assert!((exp_f64(x * 20.0) / (x * 20.0).exp() - 1.0).abs() < 1e-14, "exp({x})");
            let y = (x * 20.0).exp();
            assert!((ln_f64(y) - y.ln()).abs() <= 4e-16 * y.ln().abs().max(1e-2), "ln({y})");
        }
        assert_eq!(cos_sin_turns(0.25).0, 0.0);
        assert_eq!(cos_sin_turns(0.5), (-1.0, 0.0));
        assert!(ln_f64(-1.0).is_nan() && exp_f64(f64::NAN).is_nan());
        assert_eq!((ln_f64(0.0), exp_f64(1000.0), exp_f64(-1000.0)), (f64::NEG_INFINITY, f64::INFINITY, 0.0));
    }
}
