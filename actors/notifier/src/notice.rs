//! What is posted: the event as a CloudEvent in JSON, with the fields that the specification gives for
//! a notice under `data.notification`.

use messages::UnixMs;
use messages::envelope::{Envelope, rfc3339};
use messages::event::{Event, MetricValue};
use serde_json::{Map, Value, json};

use crate::Config;

/// The body of a post. `experiment_name` is the plan's experiment; `stored_at` stands in for the time of an
/// event that names none.
pub fn notice(envelope: &Envelope<Event>, experiment_name: &str, stored_at: UnixMs, config: &Config) -> Value {
    let run = envelope.jobid.as_ref().map(ToString::to_string).unwrap_or_default();
    let notification = json!({
        "type": notice_type(&envelope.data),
        "project_name": config.project_name,
        "experiment_name": experiment_name,
        "run_id": run,
        "run_name": run_name(&envelope.data),
        "timestamp": envelope.time.clone().unwrap_or_else(|| rfc3339(stored_at)),
        "key_metrics": key_metrics(&envelope.data),
        // There is no page of a run before a tracking server has one.
        "run_url": Value::Null,
        "dashboard_url": config.dashboard_url,
        "additional_info": additional_info(&envelope.data),
    });
    let mut body = serde_json::to_value(envelope).expect("invariant: an envelope serializes");
    body["datacontenttype"] = json!("application/json");
    if let Some(data) = body["data"].as_object_mut() {
        data.insert("notification".into(), notification);
    }
    body
}

/// The specification names `experiment_completed`; the other ends follow its pattern.
fn notice_type(event: &Event) -> &'static str {
    match event {
        Event::Completed(_) => "experiment_completed",
        Event::Cancelled { .. } => "experiment_cancelled",
        _ => "experiment_failed",
    }
}

fn run_name(event: &Event) -> &str {
    match event {
        Event::Completed(completed) => &completed.name,
        Event::Failed { name, .. } => name,
        _ => "Unnamed run",
    }
}

/// Metrics of the test part by their names; an undefined one is null.
fn key_metrics(event: &Event) -> Value {
    let Event::Completed(completed) = event else { return json!({}) };
    let metric = |(name, value): (&String, &MetricValue)| (name.clone(), json!(value.get()));
    Value::Object(completed.metrics.test.iter().map(metric).collect::<Map<_, _>>())
}

fn additional_info(event: &Event) -> Value {
    match event {
        Event::Completed(completed) => json!({
            "duration_s": completed.duration_s,
            "val_metrics": completed.metrics.val,
            "baseline_metrics": completed.metrics.baseline,
            "model": completed.model,
            "report": completed.report,
        }),
        Event::Failed { duration_s, error, .. } => json!({ "duration_s": duration_s, "error": error }),
        Event::Cancelled { reason } => json!({ "reason": reason }),
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use messages::JobId;
    use messages::error::{Code, WireError};
    use messages::event::{Completed, MetricSummary, Metrics};

    use super::*;

    fn check(event: Event, expected: Expect) {
        let envelope = Envelope::new("evt.j1.x.1", "/within/coordinator", 1_700_000_000_000, event)
            .job(&JobId::new("j1").expect("id"));
        let body = notice(&envelope, "ads", 0, &Config::default());
        assert_eq!(body["id"], "evt.j1.x.1");
        assert_eq!(body["data"]["event"], envelope.data.name());
        expected.assert_eq(&serde_json::to_string_pretty(&body["data"]["notification"]).expect("serializes"));
    }

    #[test]
    fn a_completed_job_is_the_specifications_notice() {
        let test = Metrics::from([
            ("rmse".to_owned(), MetricValue::of(0.5)),
            ("r2".to_owned(), MetricValue::undefined("one sample")),
        ]);
        let completed = Completed {
            name: "ad scores".into(),
            run: "j1".into(),
            duration_s: 1.5,
            metrics: MetricSummary { test, ..MetricSummary::default() },
            model: None,
            report: None,
            data_reports: std::collections::BTreeMap::new(),
        };
        check(
            Event::Completed(completed),
            expect![[r#"
            {
              "additional_info": {
                "baseline_metrics": {},
                "duration_s": 1.5,
                "model": null,
                "report": null,
                "val_metrics": {}
              },
              "dashboard_url": null,
              "experiment_name": "ads",
              "key_metrics": {
                "r2": null,
                "rmse": 0.5
              },
              "project_name": "within",
              "run_id": "j1",
              "run_name": "ad scores",
              "run_url": null,
              "timestamp": "2023-11-14T22:13:20.000Z",
              "type": "experiment_completed"
            }"#]],
        );
    }

    #[test]
    fn a_failure_carries_its_error() {
        let error = WireError::new(Code::DatasetNotFound, "no a.csv");
        let failed = Event::Failed { name: "ads".into(), run: "j1".into(), duration_s: 0.5, error };
        check(
            failed,
            expect![[r#"
            {
              "additional_info": {
                "duration_s": 0.5,
                "error": {
                  "class": "data",
                  "code": "dataset_not_found",
                  "message": "no a.csv",
                  "retry": false
                }
              },
              "dashboard_url": null,
              "experiment_name": "ads",
              "key_metrics": {},
              "project_name": "within",
              "run_id": "j1",
              "run_name": "ads",
              "run_url": null,
              "timestamp": "2023-11-14T22:13:20.000Z",
              "type": "experiment_failed"
            }"#]],
        );
    }
}
