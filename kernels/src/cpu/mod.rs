//! The CPU's loops. Every loop's result is defined element by element (explicit fused multiply-adds,
//! fixed reduction orders), so the instruction set it runs on changes the speed and not one bit.

pub mod activation;
pub(crate) mod attention;
pub(crate) mod conv;
pub mod dropout;
pub mod gemm;
mod gemm_kernel;
pub mod isa;
pub mod layernorm;
pub mod loss;
pub(crate) mod lstm;
pub mod math;
pub mod reduce;
pub mod update;

/// Defines a function whose body is also compiled for AVX2 with FMA, chosen at run time. The loops
/// inside are plain Rust that the compiler vectorizes; `f32::mul_add` makes each rounding explicit.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            if $crate::cpu::isa::isa() != $crate::cpu::isa::Isa::Portable {
                // SAFETY: any other instruction set was detected to have AVX2 and FMA.
                return unsafe { avx2($($arg),*) };
            }
            body($($arg),*)
        }
    };
}
pub(crate) use simd;

/// Lanes of a sum whose order is fixed.
pub(crate) const LANES: usize = 16;

/// The sum of the lanes, joined by halves.
#[inline(always)]
pub(crate) fn join(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            sums[l] += sums[l + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Sums of a term of each element over the lanes.
#[inline(always)]
pub(crate) fn lanes(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in whole {
        for l in 0..LANES {
            sums[l] += term(chunk[l]);
        }
    }
    rest.iter().zip(&mut sums).for_each(|(v, sum)| *sum += term(*v));
    join(sums)
}
