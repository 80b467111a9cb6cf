//! How far a rank is, in a few numbers that the compute thread writes and the reporting thread reads.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use messages::Fence;

use crate::link::{Doing, Phase};

/// Step, progress and phase of a rank.
#[derive(Debug, Default)]
pub struct Vitals {
    step: AtomicU64,
    progress: AtomicU64,
    phase: AtomicU8,
    doing: AtomicU8,
    /// Of the generation under way; 0: of the start.
    fence: AtomicU64,
}

impl Vitals {
    /// Something was done: a batch, a file, a request.
    pub fn progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// An optimizer step was completed.
    pub fn step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
        self.progress();
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.now(Doing::Other);
    }

    /// What the compute thread begins to do: it has got that far.
    pub fn now(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::Relaxed);
        self.progress();
    }

    pub fn doing(&self) -> Doing {
        Doing::ALL.get(self.doing.load(Ordering::Relaxed) as usize).copied().unwrap_or_default()
    }

    /// A generation has begun, under its own fence.
    pub fn set_fence(&self, fence: Fence) {
        self.fence.store(fence.0, Ordering::Relaxed);
    }

    /// None before the first generation.
    pub fn fence(&self) -> Option<Fence> {
        Some(Fence(self.fence.load(Ordering::Relaxed))).filter(|fence| fence.0 > 0)
    }

    /// Step, progress, phase.
    pub fn read(&self) -> (u64, u64, Phase) {
        let phase = self.phase.load(Ordering::Relaxed) as usize;
        (
            self.step.load(Ordering::Relaxed),
            self.progress.load(Ordering::Relaxed),
            Phase::ALL.get(phase).copied().unwrap_or(Phase::Starting),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_as_written() {
        let vitals = Vitals::default();
        for phase in Phase::ALL {
            vitals.enter(phase);
            assert_eq!(vitals.read().2, phase);
        }
        for doing in Doing::ALL {
            vitals.now(doing);
            assert_eq!(vitals.doing(), doing);
        }
        vitals.step(7);
        assert_eq!((vitals.read().0, vitals.read().1), (7, (Phase::ALL.len() + Doing::ALL.len()) as u64 + 1));
    }
}
