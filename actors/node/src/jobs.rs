//! `within jobs` and `within submit`: what a person does with jobs from outside.

use std::time::Duration;

use bus::{Bus, From};
use messages::error::Code;
use messages::event::Event;
use messages::job::{JobRecord, JobState};
use messages::plan::{JobPlan, Origin};
use messages::rpc::Cancel;
use messages::work::TaskOutput;
use messages::{Envelope, JobId, WireError};
use serde_json::json;

use crate::cli::{JobsCommand, SubmitArgs};
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::watch::{self, Show, print_line};
use crate::{environment, server, spec_file};

/// How long the end of a history is waited for.
const CAUGHT_UP: Duration = Duration::from_millis(1_000);

/// The event id: as given, or made of the job's name and the time.
pub fn event_id(given: Option<&str>, name: &str) -> Result<JobId, Failure> {
    if let Some(id) = given {
        return JobId::new(id).map_err(|error| Failure::Usage(format!("--id: {error}")));
    }
    let slug: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(32).collect();
    let slug = slug.trim_matches('-');
    let slug = if slug.is_empty() { "job" } else { slug };
    let (now, pid) = (bus::now_ms(), std::process::id());
    let stamp = messages::envelope::rfc3339(now)[..19].replace([':', '-'], "").replace('T', "-");
    JobId::new(format!("{slug}-{stamp}-{:03}{:04x}", now % 1_000, pid & 0xffff))
        .map_err(|error| Failure::Usage(error.to_string()))
}

/// `within submit`.
pub async fn submit(config: &Config, args: &SubmitArgs) -> Result<u8, Failure> {
    let loaded = spec_file::load(&args.job, &args.set)?;
    let job = event_id(args.id.as_deref(), &loaded.plan.name)?;
    let link = server::open(config, "submit").await?;
    link.bus.bind(Duration::from_millis(config.timings.request_timeout_ms)).await?;
    let source = format!("/within/submit/{}", environment::host_name());
    let envelope = Envelope::new(job.as_str(), source, bus::now_ms(), loaded.submit);
    let stored = link.bus.submit(&envelope).await?;
    if !args.watch {
        if config.json {
            print_line(&json!({ "event": "submitted", "job": job, "duplicate": stored.duplicate }).to_string());
        } else {
            print_line(&format!("submitted: {job}\nwatch it: within jobs events {job} --follow"));
        }
        link.close().await;
        return Ok(exit::DONE);
    }
    let show = Show::new(config.json);
    let stored = watch::follow(&link.bus, &job, &show).await?;
    let event = stored.envelope.data;
    if config.json {
        print_line(&watch::summary_json(&job, &event).to_string());
    } else if let Event::Completed(done) = &event {
        print_line(&watch::metric_table(&done.metrics.val, &done.metrics.test, &done.metrics.baseline));
    }
    link.close().await;
    Ok(match event {
        Event::Completed(_) => exit::DONE,
        Event::Rejected { .. } => exit::USAGE,
        _ => exit::JOB_FAILED,
    })
}

/// Asks the coordinator; where none is up, the cancellation is left in the stream for the next one.
pub async fn cancel(bus: &Bus, job: &JobId, reason: Option<String>) -> Result<String, WireError> {
    let patience = Duration::from_millis(bus.timings().request_timeout_ms.min(2_000));
    let cancel = Cancel { job: job.clone(), reason };
    match bus.request(cancel.clone(), Some(job), patience).await {
        Ok(answer) => Ok(answer.state.as_str().to_owned()),
        Err(error) if error.retry => {
            let envelope = Envelope::new(format!("cancel.{job}"), "/within/jobs", bus::now_ms(), cancel).job(job);
            bus.cancel(&envelope).await.map_err(|error| error.to_wire())?;
            Ok("to be cancelled as soon as a coordinator is up".to_owned())
        }
        Err(error) => Err(error),
    }
}

/// `within jobs …`.
pub async fn command(config: &Config, command: &JobsCommand) -> Result<u8, Failure> {
    let link = server::open(config, "jobs").await?;
    let bus = &link.bus;
    let bound = bus.bind(Duration::from_millis(config.timings.request_timeout_ms.min(2_000))).await;
    if bound.is_err() && link.server.is_some() {
        link.close().await;
        return Err(Failure::Usage(format!("no jobs yet in {}", config.home.display())));
    }
    bound?;
    let code = match command {
        JobsCommand::List { limit } => list(config, bus, *limit as usize).await?,
        JobsCommand::Show { job } => show(config, bus, &id(job)?).await?,
        JobsCommand::Events { job, follow } => events(config, bus, &id(job)?, *follow).await?,
        JobsCommand::Logs { job } => logs(config, bus, &id(job)?).await?,
        JobsCommand::Cancel { job, reason } => {
            let state = cancel(bus, &id(job)?, reason.clone()).await?;
            if config.json {
                print_line(&json!({ "job": job, "state": state }).to_string());
            } else {
                print_line(&format!("{job}: {state}"));
            }
            exit::DONE
        }
    };
    link.close().await;
    Ok(code)
}

fn id(text: &str) -> Result<JobId, Failure> {
    JobId::new(text).map_err(|error| Failure::Usage(error.to_string()))
}

async fn list(config: &Config, bus: &Bus, limit: usize) -> Result<u8, Failure> {
    let mut records = bus.jobs().await?.all().await?;
    records.sort_by(|a, b| b.0.submitted_at.cmp(&a.0.submitted_at).then_with(|| a.0.job.cmp(&b.0.job)));
    records.truncate(limit);
    if !config.json {
        print_line(&format!("{:<44} {:<11} {:<24} NAME", "JOB", "STATE", "SUBMITTED"));
    }
    for (record, _) in &records {
        let submitted = messages::envelope::rfc3339(record.submitted_at);
        if config.json {
            print_line(
                &json!({
                    "job": record.job, "name": record.name, "state": record.state, "submitted_at": submitted,
                    "error": record.error,
                })
                .to_string(),
            );
        } else {
            print_line(&format!("{:<44} {:<11} {:<24} {}", record.job, record.state.as_str(), submitted, record.name));
        }
    }
    Ok(exit::DONE)
}

async fn show(config: &Config, bus: &Bus, job: &JobId) -> Result<u8, Failure> {
    let Some((record, revision)) = bus.jobs().await?.get(job).await? else {
        return Err(unknown(bus, job).await?);
    };
    let store = bus::artifact::ArtifactStore::open(&config.artifacts)?;
    let plan = store.get_json::<JobPlan>(&record.plan).await;
    if config.json {
        print_line(&json!({ "record": record, "revision": revision, "plan": plan.ok() }).to_string());
        return Ok(exit::DONE);
    }
    print_record(&record);
    match plan {
        Ok(plan) => print_plan(&plan),
        Err(error) => print_line(&format!("plan: {} cannot be read here: {error}", record.plan.uri)),
    }
    Ok(exit::DONE)
}

/// A job without a record may have been rejected: then its event says why.
async fn unknown(bus: &Bus, job: &JobId) -> Result<Failure, Failure> {
    let mut events = bus.events(Some(job), From::First).await?;
    while let Some(stored) = events.next(CAUGHT_UP).await? {
        if let Event::Rejected { error, errors } = stored.envelope.data {
            return Ok(if errors.is_empty() { Failure::Infrastructure(error) } else { Failure::Spec(errors) });
        }
        if events.caught_up() {
            break;
        }
    }
    Ok(Failure::Usage(WireError::new(Code::JobNotFound, format!("no job {job}")).message))
}

fn print_record(record: &JobRecord) {
    print_line(&format!("job        {}\nname       {}\nstate      {}", record.job, record.name, record.state.as_str()));
    print_line(&format!("submitted  {}", messages::envelope::rfc3339(record.submitted_at)));
    print_line(&format!("deadline   {}", messages::envelope::rfc3339(record.deadline_at)));
    if let Some(error) = &record.error {
        print_line(&format!("error      {} [{}/{}]", error.message, error.class.as_str(), error.code.as_str()));
    }
    for task in &record.tasks {
        let worker = task.worker.as_ref().map(|w| format!(" on {w}")).unwrap_or_default();
        let waiting = task.waiting.as_ref().map(|why| format!("; waits: {why}")).unwrap_or_default();
        let error = task.error.as_ref().map(|e| format!("; last error: {}", e.message)).unwrap_or_default();
        print_line(&format!(
            "task       {:<10} {:<9} attempt {}{worker}{waiting}{error}",
            task.id.as_str(),
            task.state.as_str(),
            task.attempt
        ));
        if let Some(TaskOutput::Prepared { steps, .. }) = &task.output {
            for step in steps {
                print_line(&format!("step       {}", watch::step_line(step)));
            }
        }
        for loss in task.gang.iter().flat_map(|gang| &gang.losses) {
            let (at, class) = (messages::envelope::rfc3339(loss.at), loss.error.class.as_str());
            print_line(&format!("lost       {at} attempt {}: {} [{class}]", loss.attempt, loss.error.message));
        }
    }
    if record.state == JobState::Succeeded
        && let Some(done) = &record.completed
    {
        print_line(&watch::metric_table(&done.metrics.val, &done.metrics.test, &done.metrics.baseline));
    }
}

fn print_plan(plan: &JobPlan) {
    print_line("plan (value, and where it came from)");
    let value = serde_json::to_value(plan).unwrap_or_default();
    for (path, origin) in &plan.origins {
        let pointer = format!("/{}", path.replace('.', "/"));
        let shown = value.pointer(&pointer).map_or_else(|| "-".into(), ToString::to_string);
        let origin = match origin {
            Origin::Default => "default".to_owned(),
            Origin::BaseConfig { file, line } => format!("base_config {file}:{line}"),
            Origin::File { file, line } => format!("{file}:{line}"),
            Origin::Override { file, line } => format!("override {file}:{line}"),
            Origin::Set => "--set".to_owned(),
            Origin::Trial => "trial".to_owned(),
        };
        print_line(&format!("  {path:<42} {shown:<28} {origin}"));
    }
    for warning in &plan.warnings {
        print_line(&format!("note: {warning}"));
    }
}

async fn events(config: &Config, bus: &Bus, job: &JobId, follow: bool) -> Result<u8, Failure> {
    let mut events = bus.events(Some(job), From::First).await?;
    let mut seen = 0;
    loop {
        let next = events.next(CAUGHT_UP).await?;
        let Some(stored) = next else {
            if follow || !events.caught_up() {
                watch::still_there(bus, job)?;
                continue;
            }
            break;
        };
        seen += 1;
        if config.json {
            print_line(&watch::event_json(job, &stored).to_string());
        } else {
            let time = stored.envelope.time.clone().unwrap_or_default();
            let event = &stored.envelope.data;
            let detail = watch::event_line(event).unwrap_or_else(|| serde_json::to_string(event).unwrap_or_default());
            print_line(&format!("{time} {:<12} {detail}", event.name()));
        }
        if stored.envelope.data.is_terminal() || (!follow && events.caught_up()) {
            break;
        }
    }
    if seen == 0 {
        return Err(Failure::Usage(format!("no events of job {job}")));
    }
    Ok(exit::DONE)
}

async fn logs(config: &Config, bus: &Bus, job: &JobId) -> Result<u8, Failure> {
    let mut logs = bus.logs(job, From::First).await?;
    while let Some(stored) = logs.next(CAUGHT_UP).await? {
        let line = &stored.envelope.data;
        let source = &stored.source;
        if config.json {
            print_line(
                &json!({
                    "job": job, "source": source, "timestamp": line.timestamp, "level": line.level,
                    "module": line.module, "message": line.message,
                })
                .to_string(),
            );
        } else {
            print_line(&format!("{} {:<5} {source} {}: {}", line.timestamp, line.level, line.module, line.message));
        }
        if logs.caught_up() {
            break;
        }
    }
    Ok(exit::DONE)
}
