//! Following a job: its events as they come, live progress on a terminal, and its end.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use bus::{Bus, From, StoredEvent};
use indicatif::{ProgressBar, ProgressStyle};
use messages::error::Code;
use messages::event::{Event, Metric, MetricValue, Metrics, Progress};
use messages::step::{CacheOutcome, StepReport};
use messages::{JobId, WireError};
use serde_json::json;

use crate::exit::Failure;

/// How long one wait for the next event lasts before the connection is looked at.
const WAIT: Duration = Duration::from_secs(5);

/// Shows events to whoever watches.
pub struct Show {
    json: bool,
    bar: Option<ProgressBar>,
}

impl Show {
    pub fn new(json: bool) -> Self {
        let bar = (!json && std::io::stdout().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{msg:>28} [{bar:32}] {pos}/{len} steps, {prefix}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        });
        Self { json, bar }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print_line(text)),
            None => print_line(text),
        }
    }

    /// One event.
    pub fn event(&self, job: &JobId, stored: &StoredEvent) {
        let event = &stored.envelope.data;
        if self.json {
            // The last line of the command is its result; a terminal event is part of it.
            if !event.is_terminal() {
                print_line(&event_json(job, stored).to_string());
            }
            return;
        }
        match event {
            Event::Progress(progress) => self.progress(progress),
            Event::Metric(metric) => self.line(&metric_line(metric)),
            Event::Hook { hook, detail: Some(detail), .. } if hook == "should_stop" => {
                self.line(&format!("stopping early: {detail}"));
            }
            _ => {
                if let Some(text) = event_line(event) {
                    self.line(&text);
                }
            }
        }
        if event.is_terminal()
            && let Some(bar) = &self.bar
        {
            bar.finish_and_clear();
        }
    }

    fn progress(&self, p: &Progress) {
        let loss = p.loss.get().map_or_else(|| "undefined".into(), |v| format!("{v:.5}"));
        if let Some(bar) = &self.bar {
            bar.set_length(p.steps);
            bar.set_position(p.step);
            bar.set_message(format!("epoch {}/{} loss {loss}", p.epoch, p.epochs));
            bar.set_prefix(format!("{:.0} samples/s, ETA {:.0} s", p.samples_per_s, p.eta_s));
        } else {
            print_line(&format!(
                "epoch {}/{} step {}/{} loss {loss} {:.0} samples/s ETA {:.0} s",
                p.epoch, p.epochs, p.step, p.steps, p.samples_per_s, p.eta_s
            ));
        }
    }
}

/// Prints a line; a reader that went away ends the output, not the job.
pub fn print_line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// An event as one JSON object.
pub fn event_json(job: &JobId, stored: &StoredEvent) -> serde_json::Value {
    let mut value = serde_json::to_value(&stored.envelope.data).unwrap_or_else(|_| json!({}));
    if let Some(map) = value.as_object_mut() {
        map.insert("job".into(), json!(job));
        map.insert("sequence".into(), json!(stored.sequence));
        map.insert("time".into(), json!(stored.envelope.time));
    }
    value
}

fn metric_line(metric: &Metric) -> String {
    let values: Vec<String> = metric.metrics.iter().map(|(name, value)| format!("{name} {}", number(value))).collect();
    format!("epoch {} done: {}", metric.epoch, values.join("  "))
}

/// A metric for a person.
pub fn number(value: &MetricValue) -> String {
    match value {
        MetricValue::Defined(v) if *v != 0.0 && (v.abs() < 1e-3 || v.abs() >= 1e6) => format!("{v:.4e}"),
        MetricValue::Defined(v) => format!("{v:.4}"),
        MetricValue::Undefined { reason, .. } => format!("undefined ({reason})"),
    }
}

/// An event in one line for a person; none for what is shown otherwise.
pub fn event_line(event: &Event) -> Option<String> {
    Some(match event {
        Event::Accepted(a) => {
            let warnings: String = a.warnings.iter().map(|w| format!("\nnote: {w}")).collect();
            format!("accepted: {}{warnings}", a.name)
        }
        Event::TaskStarted { task, worker, attempt, .. } if *attempt > 1 => {
            format!("{task}: attempt {attempt} on {worker}")
        }
        Event::TaskStarted { task, worker, .. } => format!("{task}: started on {worker}"),
        Event::Step { task, report, .. } => format!("{task}: {}", step_line(report)),
        Event::TaskDone { task, duration_s, .. } => format!("{task}: done in {duration_s:.2} s"),
        Event::TaskRetried { task, attempt, error } => {
            format!("{task}: attempt {attempt} failed, trying again: {error}")
        }
        Event::WorkerLost { worker, task, error, .. } => format!("{task}: worker {worker} lost: {}", error.message),
        Event::RankLost { task, error, .. } => {
            format!("{task}: rank lost ({}): {}", error.class.as_str(), error.message)
        }
        Event::Regrouped { task, generation, world_size, joined, gone, step, .. } => {
            let list = |what: &str, ranks: &[u32]| match ranks {
                [] => String::new(),
                some => format!(", {what} {}", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
            };
            let changes = format!("{}{}", list("gone", gone), list("joined", joined));
            format!("{task}: goes on from step {step} with {world_size} ranks{changes} (generation {generation})")
        }
        Event::Straggler { rank, host, step_ms, median_ms, evicted, .. } => {
            let end = if *evicted { "; it leaves" } else { "" };
            format!("rank {rank} on {host} is slow: {step_ms:.0} ms a step, the median is {median_ms:.0} ms{end}")
        }
        Event::Waiting { task, reason } => format!("{task}: waiting: {reason}"),
        Event::Checkpoint(c) => format!("checkpoint {} at step {}", c.name, c.step),
        Event::CheckpointRefused { name, reason, used, .. } => match used {
            Some(used) => format!("checkpoint {name} refused, going on from {used}: {reason}"),
            None => format!("checkpoint {name} refused, beginning anew: {reason}"),
        },
        Event::Cancelled { reason } => format!("cancelled: {reason}"),
        Event::Failed { error, .. } => {
            let hint = error.hint.as_ref().map(|h| format!("\nhint: {h}")).unwrap_or_default();
            format!("failed: {} [{}/{}]{hint}", error.message, error.class.as_str(), error.code.as_str())
        }
        Event::Rejected { error, errors } => {
            let lines: String = errors.iter().map(|e| format!("\n  {e}")).collect();
            format!("rejected: {}{lines}", error.message)
        }
        _ => return None,
    })
}

/// What became of a step, in one line.
pub fn step_line(report: &StepReport) -> String {
    let StepReport { step, cache, reason, duration_ms, .. } = report;
    let time =
        if *duration_ms < 1_000.0 { format!("{duration_ms:.1} ms") } else { format!("{:.2} s", duration_ms / 1_000.0) };
    match cache {
        CacheOutcome::Hit => format!("{step} from the cache in {time}"),
        CacheOutcome::SharedHit => format!("{step} from the shared cache in {time}"),
        CacheOutcome::Miss | CacheOutcome::Refresh => format!("{step} computed in {time}: {reason}"),
    }
}

/// Follows a job to its terminal event, for as long as the server is there.
pub async fn follow(bus: &Bus, job: &JobId, show: &Show) -> Result<StoredEvent, Failure> {
    let mut events = bus.events(Some(job), From::First).await?;
    loop {
        if let Some(stored) = events.next(WAIT).await? {
            show.event(job, &stored);
            if stored.envelope.data.is_terminal() {
                return Ok(stored);
            }
        } else {
            still_there(bus, job)?;
        }
    }
}

/// Waiting ends where the server has been out of reach for the claim time-out: what becomes of the job is not
/// seen from here. (The embedded server of a home ends with the process that began it.)
pub fn still_there(bus: &Bus, job: &JobId) -> Result<(), Failure> {
    let limit = Duration::from_millis(bus.timings().claim_timeout_ms);
    let Some(down) = bus.disconnected_for().filter(|down| *down >= limit) else { return Ok(()) };
    let url = bus.server_info().url;
    let message =
        format!("NATS at {url} has been out of reach for {} s; job {job} is no longer watched", down.as_secs());
    let hint = format!(
        "the job is kept: `within jobs events {job} --follow`, or the same `within run` with --id {job}, goes on"
    );
    Err(WireError::new(Code::BusUnavailable, message).with_hint(hint).into())
}

/// The last line of `run --json` and `submit --watch --json`.
pub fn summary_json(job: &JobId, event: &Event) -> serde_json::Value {
    match event {
        Event::Completed(c) => json!({
            "event": "completed", "job": job, "run": c.run, "name": c.name, "duration_s": c.duration_s,
            "metrics": c.metrics,
            "model": c.model,
            "report": c.report.as_ref().map(|r| &r.uri),
            "data_reports": c.data_reports.iter().map(|(name, r)| (name, &r.uri)).collect::<BTreeMap<_, _>>(),
        }),
        Event::Failed { name, run, duration_s, error } => json!({
            "event": "failed", "job": job, "run": run, "name": name, "duration_s": duration_s,
            "class": error.class, "code": error.code, "message": error.message, "hint": error.hint,
            "retry": error.retry,
        }),
        Event::Rejected { error, errors } => json!({
            "event": "failed", "job": job, "run": null, "duration_s": 0.0,
            "class": error.class, "code": error.code, "message": error.message, "hint": error.hint,
            "errors": errors,
        }),
        Event::Cancelled { reason } => json!({
            "event": "cancelled", "job": job, "run": job, "class": "cancelled", "code": "cancelled",
            "message": reason, "hint": null,
        }),
        other => json!({ "event": other.name(), "job": job }),
    }
}

/// A table of metrics against the baseline.
pub fn metric_table(val: &Metrics, test: &Metrics, baseline: &Metrics) -> String {
    let mut names: Vec<&String> = val.keys().chain(test.keys()).chain(baseline.keys()).collect();
    names.sort();
    names.dedup();
    let cell = |metrics: &Metrics, name: &str| match metrics.get(name) {
        Some(MetricValue::Undefined { .. }) => "undefined".to_owned(),
        Some(value) => number(value),
        None => "-".to_owned(),
    };
    let mut out = format!("  {:<22}{:>14}{:>14}{:>14}\n", "metric", "val", "test", "baseline");
    for name in names {
        out += &format!("  {:<22}{:>14}{:>14}{:>14}\n", name, cell(val, name), cell(test, name), cell(baseline, name));
    }
    out
}
