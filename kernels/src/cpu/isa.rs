//! Which instruction set the loops use, found once at run time.

use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets with their own code paths. The paths agree to the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// Whatever the compiler's baseline for the target is.
    Portable = 1,
    /// x86-64 with AVX2 and FMA.
    Avx2 = 2,
    /// The same with AVX-512 F.
    Avx512 = 3,
}

impl Isa {
    /// The name in fingerprints.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

static CHOSEN: AtomicU8 = AtomicU8::new(0);

fn detect() -> Isa {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        return if is_x86_feature_detected!("avx512f") { Isa::Avx512 } else { Isa::Avx2 };
    }
    Isa::Portable
}

/// The instruction set in use.
#[inline]
pub fn isa() -> Isa {
    match CHOSEN.load(Ordering::Relaxed) {
        1 => Isa::Portable,
        2 => Isa::Avx2,
        3 => Isa::Avx512,
        _ => {
            let found = detect();
            CHOSEN.store(found as u8, Ordering::Relaxed);
            found
        }
    }
}

/// Every instruction set this host can run, for tests that compare them.
pub fn available() -> Vec<Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&one| one <= detect()).collect()
}

/// Lowers the instruction set in use, for comparisons; one the host lacks is capped at what it has.
pub fn limit(to: Isa) {
    CHOSEN.store(to.min(detect()) as u8, Ordering::Relaxed);
}
