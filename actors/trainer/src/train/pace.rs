//! When to tell how far training is: every so many steps, at most ten times a second, and at the first
//! and last step. Looks at a clock, for speed and remaining time.

use std::time::{Duration, Instant};

use kernels::train::StepOutcome;
use messages::TaskId;
use messages::event::{MetricValue, Metrics, Progress};

/// Shortest time between two progress events.
const SHORTEST: Duration = Duration::from_millis(100);

/// Loss, rows and time since the last progress event.
#[derive(Debug)]
pub struct Pace {
    total_steps: u64,
    interval: u64,
    first_step: u64,
    begun: Instant,
    told_at: Option<Instant>,
    rows: u64,
    loss: f64,
    since: Instant,
}

impl Pace {
    /// Begins now, after `done_steps` of `total_steps`.
    pub fn new(total_steps: u64, interval: u64, done_steps: u64) -> Self {
        let now = Instant::now();
        Self {
            total_steps,
            interval,
            first_step: done_steps,
            begun: now,
            told_at: None,
            rows: 0,
            loss: 0.0,
            since: now,
        }
    }

    /// A step was taken; what to tell, if anything.
    pub fn step(&mut self, outcome: &StepOutcome, task: &TaskId, epoch: u32, epochs: u32) -> Option<Progress> {
        self.rows += outcome.rows as u64;
        self.loss += outcome.loss * outcome.rows as f64;
        let last = outcome.step >= self.total_steps;
        let due = match self.told_at {
            None => true,
            Some(told) => last || (outcome.step.is_multiple_of(self.interval) && told.elapsed() >= SHORTEST),
        };
        if !due {
            return None;
        }
        let now = Instant::now();
        let taken = outcome.step.saturating_sub(self.first_step).max(1);
        let per_step_s = now.duration_since(self.begun).as_secs_f64() / taken as f64;
        let elapsed_s = now.duration_since(self.since).as_secs_f64().max(1e-9);
        let progress = Progress {
            task: task.clone(),
            epoch,
            epochs,
            step: outcome.step,
            steps: self.total_steps,
            loss: MetricValue::of(self.loss / self.rows.max(1) as f64),
            samples_per_s: self.rows as f64 / elapsed_s,
            eta_s: per_step_s * self.total_steps.saturating_sub(outcome.step) as f64,
        };
        (self.told_at, self.since, self.rows, self.loss) = (Some(now), now, 0, 0.0);
        Some(progress)
    }
}

/// Progress, for people.
pub(super) fn log_progress(told: &Progress) {
    let loss = told.loss.get().map_or_else(|| "undefined".to_owned(), |loss| format!("{loss:.6}"));
    tracing::info!(
        "epoch {}/{}, step {}/{}: loss {loss}, {:.0} samples/s, {:.0} s left",
        told.epoch,
        told.epochs,
        told.step,
        told.steps,
        told.samples_per_s,
        told.eta_s
    );
}

/// The end, for people.
pub(super) fn log_end(metrics: &Metrics, epochs: u32, stopped: Option<&str>) {
    let figures: Vec<String> =
        metrics.iter().filter_map(|(name, value)| Some(format!("{name} {:.6}", value.get()?))).collect();
    let why = stopped.map(|why| format!(", stopped early: {why}")).unwrap_or_default();
    tracing::info!("trained for {epochs} epochs{why}: {}", figures.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_step_are_told_and_few_between() {
        let task = TaskId::new("train").expect("id");
        let mut pace = Pace::new(1_000, 10, 0);
        let told: Vec<Progress> = (1..=1_000)
            .filter_map(|step| {
                let outcome =
                    StepOutcome { loss: 2.0, grad_norm: 1.0, rows: 4, learning_rate: 0.1, step, skipped: false };
                pace.step(&outcome, &task, 1, 2)
            })
            .collect();
        assert_eq!(told.first().map(|p| p.step), Some(1));
        assert_eq!(told.last().map(|p| (p.step, p.eta_s)), Some((1_000, 0.0)));
        assert!(told.len() < 100, "{} events of 1,000 quick steps", told.len());
        assert_eq!(told[0].loss.get(), Some(2.0));
    }
}
