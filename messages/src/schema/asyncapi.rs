//! The AsyncAPI 3 document: channels from the subjects' own builder, an operation for each message,
//! streams, consumers and buckets in `x-` fields. Seen from the platform: `receive` is what others send.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::DEFINITIONS_FILE;
use super::catalog::{Channel, Message, messages};
use crate::envelope::{CONTENT_JSON, CONTENT_MSGPACK};
use crate::error::WireError;
use crate::feed::VERB_FEED_CONTROL;
use crate::id::{JobId, TaskId, Tenant, WorkerId};
use crate::job::Role;
use crate::subject::{
    BUCKET_JOB, BUCKET_LEASE, BUCKET_RDZV, CONSUMER_NOTIFIER, CONSUMER_SUBMIT, HEADER_FRAME, STREAM_DLQ, STREAM_EVT,
    STREAM_LOG, STREAM_WORK, Subjects, consumer_work,
};

/// Parameters of subjects: a token that stands for it in the builder, and what it is.
const PARAMETERS: [(&str, &str, &str); 8] = [
    ("tenant", "PtenantP", "The tenant; `default` where none is configured."),
    ("job", "PjobP", "The job's id."),
    ("task", "PtaskP", "The task's id: prepare, train, evaluate, record."),
    ("worker", "PworkerP", "The worker's id; `all` for every worker of `ctl`."),
    ("rank", "4242424242", "The rank."),
    ("source", "PsourceP", "Who wrote the line, such as rank0."),
    ("type", "PtypeP", "The event's name, the last part of its CloudEvents type."),
    ("verb", "PverbP", "The command's name."),
];

/// The document.
pub(super) fn document() -> Value {
    let all = messages();
    let (mut channels, mut operations, mut components) = (Map::new(), Map::new(), Map::new());
    for message in &all {
        let id = channel_id(message.channel);
        let name = message_name(message);
        components.insert(name.clone(), component(message));
        let channel = channels.entry(id.clone()).or_insert_with(|| channel(message.channel));
        channel["messages"][&name] = json!({ "$ref": format!("#/components/messages/{name}") });
        let operation = operations.entry(operation_id(message.channel)).or_insert_with(|| {
            json!({
                "action": action(message.channel),
                "channel": { "$ref": format!("#/channels/{id}") },
                "summary": if is_shared(message.channel) { shared_summary(message.channel) } else { message.summary },
                "messages": [],
            })
        });
        if let Some(list) = operation["messages"].as_array_mut() {
            list.push(json!({ "$ref": format!("#/channels/{id}/messages/{name}") }));
        }
        if message.answer.is_some() {
            let (reply_id, reply_name) = (format!("{id}_reply"), format!("{name}_reply"));
            components.insert(reply_name.clone(), reply_component(message));
            channels.insert(
                reply_id.clone(),
                json!({
                    "address": null,
                    "description": "The reply subject that the request names.",
                    "messages": { reply_name.as_str(): { "$ref": format!("#/components/messages/{reply_name}") } },
                }),
            );
            operation["reply"] = json!({
                "channel": { "$ref": format!("#/channels/{reply_id}") },
                "messages": [{ "$ref": format!("#/channels/{reply_id}/messages/{reply_name}") }],
            });
        }
    }
    add_raw(&mut channels, &mut operations, &mut components);
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "WITHIN",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Train, evaluate, track and announce models: a job event in, a completion event out, over NATS with JetStream. Every message is a CloudEvent 1.0 in structured mode, JSON or MessagePack, told apart by the header Content-Type.",
        },
        "defaultContentType": CONTENT_JSON,
        "servers": { "nats": { "host": "localhost:4222", "protocol": "nats", "description": "nats-server 2.12 or newer with JetStream" } },
        "channels": channels,
        "operations": operations,
        "components": { "messages": components },
        "x-streams": streams(),
        "x-buckets": {
            BUCKET_JOB: "The record of each job (JobRecord); every transition a compare-and-set.",
            BUCKET_LEASE: "Leases of leaders and single writers.",
            BUCKET_RDZV: "State of rendezvous.",
        },
    })
}

fn subjects() -> Subjects {
    Subjects::new(&Tenant::new(token("tenant")).expect("invariant: a token"))
}

fn token(parameter: &str) -> &'static str {
    PARAMETERS.iter().find(|(name, ..)| *name == parameter).map_or("PP", |(_, token, _)| token)
}

fn address(channel: Channel) -> String {
    let s = subjects();
    let job = JobId::new(token("job")).expect("invariant: a token");
    let task = TaskId::new(token("task")).expect("invariant: a token");
    let worker = WorkerId::new(token("worker")).expect("invariant: a token");
    match channel {
        Channel::JobSubmit => s.job_submit(),
        Channel::JobCancel => s.job_cancel(),
        Channel::Service(role, verb) => s.svc(role, verb),
        Channel::Translator => s.translate(),
        Channel::FeedControl => s.svc_of(Role::DataLoader, &worker, VERB_FEED_CONTROL),
        // Every queue role has the same template; the role is part of the address.
        Channel::Work => s.work(Role::DataLoader, &job, &task).replace(Role::DataLoader.as_str(), "{role}"),
        Channel::Offer => s.offer(&worker),
        Channel::Rendezvous(verb) => s.rdzv(&job, verb),
        Channel::Event => s.evt(&job, token("type")),
        Channel::Log => s.log(&job, token("source")),
        Channel::Control => s.ctl(&worker, token("verb")),
        Channel::Heartbeat => s.hb(Role::Trainer, &worker).replace(Role::Trainer.as_str(), "{role}"),
    }
}

/// A subject with `{parameter}`s in place of the tokens, and the parameters that it has.
fn template(subject: &str) -> (String, Map<String, Value>) {
    let mut address = subject.to_owned();
    let mut found = Map::new();
    for (name, token, doc) in PARAMETERS {
        if address.contains(token) {
            address = address.replace(token, &format!("{{{name}}}"));
            found.insert(name.into(), json!({ "description": doc }));
        }
    }
    if address.contains("{role}") {
        let roles: Vec<_> = Role::ALL.iter().map(|role| role.as_str()).collect();
        found.insert("role".into(), json!({ "description": "The role.", "enum": roles }));
    }
    (address, found)
}

fn channel(channel: Channel) -> Value {
    let (address, parameters) = template(&address(channel));
    let mut value = json!({ "address": address, "parameters": parameters, "messages": {} });
    let (delivery, stream, consumers): (&str, Option<&str>, Vec<String>) = match channel {
        Channel::JobSubmit | Channel::JobCancel => ("durable", Some(STREAM_WORK), vec![CONSUMER_SUBMIT.into()]),
        Channel::Work => ("durable", Some(STREAM_WORK), Role::QUEUE.map(consumer_work).into()),
        Channel::Event => ("durable", Some(STREAM_EVT), vec![CONSUMER_NOTIFIER.into()]),
        Channel::Log => ("durable", Some(STREAM_LOG), vec![]),
        Channel::Service(..) | Channel::Translator | Channel::Offer | Channel::Rendezvous(_) => {
            ("request", None, vec![])
        }
        Channel::FeedControl | Channel::Control | Channel::Heartbeat => ("core", None, vec![]),
    };
    value["x-delivery"] = json!(delivery);
    if let Some(stream) = stream {
        value["x-stream"] = json!(stream);
        value["x-consumers"] = json!(consumers);
    }
    value
}

fn channel_id(channel: Channel) -> String {
    match channel {
        Channel::JobSubmit => "job_submit".into(),
        Channel::JobCancel => "job_cancel".into(),
        Channel::Service(role, verb) => format!("svc_{role}_{verb}"),
        Channel::Translator => "svc_translator_translate".into(),
        Channel::FeedControl => "svc_data_loader_feed_control".into(),
        Channel::Work => "work".into(),
        Channel::Offer => "offer".into(),
        Channel::Rendezvous(verb) => format!("rdzv_{verb}"),
        Channel::Event => "evt".into(),
        Channel::Log => "log".into(),
        Channel::Control => "ctl".into(),
        Channel::Heartbeat => "hb".into(),
    }
}

fn operation_id(channel: Channel) -> String {
    let verb = if action(channel) == "receive" { "on" } else { "publish" };
    format!("{verb}_{}", channel_id(channel))
}

/// What passes between the platform's own processes is both; it is listed as received.
fn action(channel: Channel) -> &'static str {
    match channel {
        Channel::Event | Channel::Log | Channel::Heartbeat => "send",
        _ => "receive",
    }
}

fn is_shared(channel: Channel) -> bool {
    matches!(channel, Channel::Work | Channel::Event | Channel::Control)
}

fn shared_summary(channel: Channel) -> &'static str {
    match channel {
        Channel::Work => "Tasks of queue roles.",
        Channel::Event => "What happened to jobs, in order, each stored once.",
        _ => "What workers are told.",
    }
}

/// Unique: the same type on a durable subject and on a service is one message with two ways.
fn message_name(message: &Message) -> String {
    message.type_name.strip_prefix("within.").unwrap_or(&message.type_name).replace('.', "_")
}

/// Reference to a definition, as seen from the document.
fn reference(define: fn(&mut SchemaGenerator) -> schemars::Schema) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let schema = define(&mut generator).to_value();
    match schema.get("$ref").and_then(Value::as_str) {
        Some(local) => json!({ "$ref": format!("./{DEFINITIONS_FILE}{local}") }),
        None => schema,
    }
}

fn envelope_of(type_name: &str, data: Value) -> Value {
    json!({
        "allOf": [
            { "$ref": format!("./{DEFINITIONS_FILE}#/$defs/Envelope") },
            { "properties": { "type": { "const": type_name }, "data": data } },
        ],
    })
}

fn component(message: &Message) -> Value {
    json!({
        "name": message.type_name,
        "summary": message.summary,
        "contentType": CONTENT_JSON,
        "x-content-types": [CONTENT_JSON, CONTENT_MSGPACK],
        "payload": envelope_of(&message.type_name, reference(message.define)),
    })
}

fn reply_component(message: &Message) -> Value {
    let ok = message.answer.map_or(Value::Null, reference);
    let error = reference(SchemaGenerator::subschema_for::<WireError>);
    let one = |name: &str, value: Value| json!({ "type": "object", "properties": { name: value }, "required": [name], "additionalProperties": false });
    let data = json!({ "oneOf": [one("ok", ok), one("error", error)] });
    json!({
        "name": "within.reply",
        "summary": format!("The answer to {}: ok or error, in the encoding of the request.", message.type_name),
        "contentType": CONTENT_JSON,
        "x-content-types": [CONTENT_JSON, CONTENT_MSGPACK],
        "payload": envelope_of("within.reply", data),
    })
}

/// What is no CloudEvent: frames of a feed, and dead letters.
fn add_raw(
    channels: &mut Map<String, Value>,
    operations: &mut Map<String, Value>,
    components: &mut Map<String, Value>,
) {
    let job = JobId::new(token("job")).expect("invariant: a token");
    let rank = token("rank").parse().expect("invariant: the token of a rank is a number");
    let feed = template(&subjects().feed(&job, rank));
    let letter = template(&subjects().dlq(Role::Tracker, token("job")).replace(Role::Tracker.as_str(), "{role}"));
    let frame = json!({
        "name": "feed_frame",
        "summary": "A batch, or a part of one, as an Arrow IPC stream.",
        "contentType": "application/vnd.apache.arrow.stream",
        "headers": {
            "type": "object",
            "properties": { HEADER_FRAME: { "type": "string", "description": "FrameHeader as JSON." } },
            "required": [HEADER_FRAME],
        },
        "x-frame-header": { "$ref": format!("./{DEFINITIONS_FILE}#/$defs/FrameHeader") },
    });
    let dead = json!({
        "name": "dead_letter",
        "summary": "What could not be processed: the original bytes, the reason in a header.",
        "contentType": "application/octet-stream",
    });
    for (id, (address, parameters), delivery, stream, name, message) in [
        ("feed", feed, "core", None, "feed_frame", frame),
        ("dlq", letter, "durable", Some(STREAM_DLQ), "dead_letter", dead),
    ] {
        let mut channel = json!({
            "address": address, "parameters": parameters, "x-delivery": delivery,
            "messages": { name: { "$ref": format!("#/components/messages/{name}") } },
        });
        if let Some(stream) = stream {
            channel["x-stream"] = json!(stream);
        }
        channels.insert(id.into(), channel);
        operations.insert(
            format!("publish_{id}"),
            json!({
                "action": "send",
                "channel": { "$ref": format!("#/channels/{id}") },
                "messages": [{ "$ref": format!("#/channels/{id}/messages/{name}") }],
            }),
        );
        components.insert(name.into(), message);
    }
}

/// Streams with their subjects and their consumers' filters.
fn streams() -> Value {
    let s = subjects();
    let subject = |subject: String| template(&subject).0;
    let mut work = Map::new();
    work.insert(CONSUMER_SUBMIT.into(), json!([subject(s.job_all())]));
    for role in Role::QUEUE {
        work.insert(consumer_work(role), json!([subject(s.work_of(role))]));
    }
    let terminal: Vec<_> =
        ["rejected", "completed", "failed", "cancelled"].iter().map(|name| subject(s.evt_type(name))).collect();
    json!({
        STREAM_WORK: {
            "subjects": [subject(s.job_all()), subject(s.work_all())],
            "retention": "workqueue", "discard": "new", "consumers": work,
        },
        STREAM_EVT: {
            "subjects": [subject(s.evt_all())], "retention": "limits", "discard": "new",
            "consumers": { CONSUMER_NOTIFIER: terminal },
        },
        STREAM_LOG: { "subjects": [subject(s.log_all())], "retention": "limits", "discard": "old", "consumers": {} },
        STREAM_DLQ: { "subjects": [subject(s.dlq_all())], "retention": "limits", "discard": "old", "consumers": {} },
    })
}
