//! What must agree between ranks whose bits must agree.

use crate::cpu::isa::isa;
use crate::device::Device;

/// Raised whenever a kernel's results change in any bit.
pub const KERNEL_REVISION: u32 = 1;

/// Build, kernel revision, architecture, instruction set, device and precision (f32 so far), in one line.
/// A bit-exact group of ranks admits one fingerprint only.
pub fn fingerprint(device: &Device) -> String {
    format!(
        "within-kernels {} r{KERNEL_REVISION} {}-{} {} {device} f32",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
        isa().name(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_its_parts() {
        let text = fingerprint(&Device::Cpu);
        assert!(text.contains("within-kernels ") && text.ends_with("cpu f32") && text.contains(std::env::consts::ARCH));
    }
}
