//! Bias and activation after a product, and the activation's derivative before one.
//!
//! Formulas: GELU by Hendrycks and Gimpel (2016), exact x Phi(x) and with tanh; SiLU x sigmoid(x).

use super::math::{erf, exp, sigmoid, tanh};
use super::simd;

/// Element-wise non-linearities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x
    #[serde(alias = "none", alias = "linear")]
    Identity,
    /// max(x, 0)
    #[default]
    Relu,
    /// x Phi(x), by erf
    Gelu,
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
    GeluTanh,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// tanh
    Tanh,
    /// x / (1 + e^-x)
    #[serde(alias = "swish")]
    Silu,
}

impl Activation {
    /// Every activation, for tests.
    pub const ALL: [Activation; 7] = [
        Activation::Identity,
        Activation::Relu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Silu,
    ];

    /// Its number in `math.cuh`.
    pub(crate) fn code(self) -> u32 {
        self as u32
    }

    /// Whether the derivative needs the input (else the output is enough).
    pub(crate) fn needs_input(self) -> bool {
        matches!(self, Activation::Gelu | Activation::GeluTanh | Activation::Silu)
    }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_56;
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    let density = 0.398_942_3 * exp(-0.5 * x * x);
    let cumulative = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    x.mul_add(density, cumulative)
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    let inner = SQRT_2_OVER_PI * (CUBIC * x * x).mul_add(x, x);
    0.5 * x * (1.0 + tanh(inner))
}

#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    let z = x * x;
    let t = tanh(SQRT_2_OVER_PI * (CUBIC * z).mul_add(x, x));
    let inner = SQRT_2_OVER_PI * (3.0 * CUBIC * z + 1.0);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
}

#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

simd! {
    fn add_bias(z: &mut [f32], bias: &[f32]) {
        for row in z.chunks_exact_mut(bias.len()) {
            for (z, b) in row.iter_mut().zip(bias) {
                *z += *b;
            }
        }
    }
}

simd! {
    fn add_bias_relu(z: &mut [f32], bias: &[f32]) {
        for row in z.chunks_exact_mut(bias.len()) {
            for (z, b) in row.iter_mut().zip(bias) {
                let v = *z + *b;
                // NaN passes: the comparison is false for it.
                *z = if v < 0.0 { 0.0 } else { v };
            }
        }
    }
}

macro_rules! elementwise {
    ($forward:ident, $map:expr, $backward:ident, $slope:expr) => {
        simd! {
            fn $forward(z: &mut [f32]) {
                for v in z {
                    *v = $map(*v);
                }
            }
        }
        simd! {
            fn $backward(grad: &mut [f32], from: &[f32]) {
                for (g, v) in grad.iter_mut().zip(from) {
                    *g *= $slope(*v);
                }
            }
        }
    };
}
elementwise!(relu_map, |v: f32| if v < 0.0 { 0.0 } else { v }, relu_grad, |y: f32| if y > 0.0 { 1.0 } else { y * 0.0 });
elementwise!(gelu_map, gelu, gelu_grad, gelu_slope);
elementwise!(gelu_tanh_map, gelu_tanh, gelu_tanh_grad, gelu_tanh_slope);
elementwise!(sigmoid_map, sigmoid, sigmoid_grad, |y: f32| y * (1.0 - y));
elementwise!(tanh_map, tanh, tanh_grad, |y: f32| 1.0 - y * y);
elementwise!(silu_map, |x: f32| x * sigmoid(x), silu_grad, silu_slope);

/// In place: z + bias (rows of `bias.len()`), keeping that in `input` where given, then the activation.
pub(crate) fn forward(act: Activation, z: &mut [f32], bias: Option<&[f32]>, input: Option<&mut [f32]>) {
    match bias {
        Some([]) => {}
        Some(bias) if act == Activation::Relu && input.is_none() => return add_bias_relu(z, bias),
        Some(bias) => add_bias(z, bias),
        None => {}
    }
    if let Some(input) = input {
        input.copy_from_slice(z);
    }
    match act {
        Activation::Identity => {}
        Activation::Relu => relu_map(z),
        Activation::Gelu => gelu_map(z),
        Activation::GeluTanh => gelu_tanh_map(z),
        Activation::Sigmoid => sigmoid_map(z),
        Activation::Tanh => tanh_map(z),
        Activation::Silu => silu_map(z),
    }
}

/// In place: the gradient of the activation's output becomes that of its input. `from` is the input
/// where [`Activation::needs_input`], else the output.
pub(crate) fn backward(act: Activation, grad: &mut [f32], from: &[f32]) {
    match act {
        Activation::Identity => {}
        Activation::Relu => relu_grad(grad, from),
        Activation::Gelu => gelu_grad(grad, from),
        Activation::GeluTanh => gelu_tanh_grad(grad, from),
        Activation::Sigmoid => sigmoid_grad(grad, from),
        Activation::Tanh => tanh_grad(grad, from),
        Activation::Silu => silu_grad(grad, from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(act: Activation, x: f64) -> f64 {
        match act {
            Activation::Identity => x,
            Activation::Relu => x.max(0.0),
            // Phi by Simpson's rule, independent of our erf.
            Activation::Gelu => {
                let (n, from) = (4000, -12.0);
                let h = (x - from) / f64::from(n);
                let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
                let inner: f64 =
                    (1..n).map(|i| density(from + f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
                x * (density(from) + inner + density(x)) * h / 3.0
            }
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
            Activation::Silu => x / (1.0 + (-x).exp()),
        }
    }

    #[test]
    fn values_and_slopes_match_f64() {
        for act in Activation::ALL {
            for i in -60..=60 {
                let x = f64::from(i) * 0.1 + 0.013;
                let x = f64::from(x as f32);
                let mut y = [x as f32];
                forward(act, &mut y, None, None);
                assert!((f64::from(y[0]) - reference(act, x)).abs() < 3e-6, "{act:?}({x}) = {}", y[0]);
                let mut slope = [1.0f32];
                let from = if act.needs_input() { [x as f32] } else { y };
                backward(act, &mut slope, &from);
                let want = (reference(act, x + 1e-5) - reference(act, x - 1e-5)) / 2e-5;
                assert!((f64::from(slope[0]) - want).abs() < 1e-5, "{act:?}'({x}) = {}, not {want}", slope[0]);
            }
        }
    }

    #[test]
    fn not_a_number_stays_one() {
        for act in Activation::ALL {
            let mut y = [f32::NAN];
            forward(act, &mut y, Some(&[1.0]), None);
            assert!(y[0].is_nan(), "{act:?}");
        }
    }
}
