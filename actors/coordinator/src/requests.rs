//! What comes in over the bus: requests, submissions, heartbeats, and the clock's tick.

use std::time::Duration;

use bus::role::RoleEnv;
use bus::{Incoming, Trouble};
use futures::StreamExt;
use messages::envelope::Payload;
use messages::error::Code;
use messages::gang::Join;
use messages::job::{JobState, Role};
use messages::rpc::{Cancel, Claim, GetJob, ListJobs, Report, Submit, Submitted};
use messages::worker::Heartbeat;
use messages::{Envelope, WireError};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::actor::{Msg, Waiter, answer};
use crate::intake;
use crate::state::{Answer, Input};

/// Jobs listed when the question does not say how many.
const LIST_DEFAULT: usize = 100;

/// What a coordinator hears, leading or not: heartbeats, so that it knows the workers when it begins
/// to lead, and the clock.
pub(crate) async fn spawn_background(env: &RoleEnv, actor: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
    let mut beats = env.bus.subscribe(&env.bus.subjects().hb_all()).await?;
    let to = actor.clone();
    tokio::spawn(async move {
        while let Some(message) = beats.next().await {
            match message.decode::<Heartbeat>() {
                Ok(beat) => {
                    if to.cast(Msg::Input(Input::Heartbeat(Box::new(beat.data)))).is_err() {
                        return;
                    }
                }
                Err(error) => debug!(%error, "a heartbeat could not be read"),
            }
        }
    });
    let (to, tick) = (actor.clone(), Duration::from_millis(env.bus.timings().tick_ms.max(1)));
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(tick);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if to.cast(Msg::Input(Input::Tick)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Serves requests and submissions for as long as this coordinator leads. A standby does not even
/// subscribe: a request to nobody fails at once and is asked again, while a refusal from a standby
/// could overtake the leader's answer.
pub(crate) async fn serve_while_leading(env: &RoleEnv, actor: &ActorRef<Msg>) -> Result<JoinSet<()>, bus::Error> {
    let mut tasks = JoinSet::new();
    let subjects = env.bus.subjects();
    let mut requests = env.bus.serve(&subjects.svc(Role::Coordinator, "*"), None).await?;
    let mut rendezvous = env.bus.serve(&subjects.rdzv_all(), None).await?;
    let submissions = env.bus.submissions().await?;
    let (to, with) = (actor.clone(), env.clone());
    tasks.spawn(async move {
        while let Some(incoming) = requests.next().await {
            dispatch(&with, &to, incoming).await;
        }
    });
    let to = actor.clone();
    tasks.spawn(async move {
        while let Some(incoming) = rendezvous.next().await {
            rendezvous_request(&to, incoming).await;
        }
    });
    let (to, with) = (actor.clone(), env.clone());
    tasks.spawn(take_submissions(with, to, submissions));
    Ok(tasks)
}

/// A request that cannot be read, and why.
type Refused = Result<(), (Incoming, WireError)>;

/// Reads the request and hands it on.
fn read<T: Payload>(incoming: Incoming, then: impl FnOnce(Envelope<T>, Incoming)) -> Refused {
    match incoming.decode::<T>() {
        Ok(envelope) => {
            then(envelope, incoming);
            Ok(())
        }
        Err(error) => Err((incoming, error)),
    }
}

async fn dispatch(env: &RoleEnv, actor: &ActorRef<Msg>, incoming: Incoming) {
    let verb = incoming.verb().to_owned();
    let outcome = match verb.as_str() {
        "submit" => read::<Submit>(incoming, |envelope, incoming| {
            // Validation and storing take their time; requests of others go on meanwhile.
            let (env, actor) = (env.clone(), actor.clone());
            tokio::spawn(async move { submit(&env, &actor, envelope, Waiter::Request(incoming)).await });
        }),
        "cancel" => read::<Cancel>(incoming, |envelope, incoming| {
            send(actor, Msg::Cancel { cancel: envelope.data, waiter: Waiter::Request(incoming) });
        }),
        "claim" => read::<Claim>(incoming, |envelope, incoming| {
            ask(actor, incoming, move |token| Input::Claim { token, claim: envelope.data });
        }),
        "report" => read::<Report>(incoming, |envelope, incoming| {
            ask(actor, incoming, move |token| Input::Report { token, report: Box::new(envelope.data) });
        }),
        "get" => read::<GetJob>(incoming, |envelope, incoming| {
            send(actor, Msg::Get { job: envelope.data.job, incoming });
        }),
        "list" => read::<ListJobs>(incoming, |envelope, incoming| {
            let limit = if envelope.data.limit == 0 { LIST_DEFAULT } else { envelope.data.limit as usize };
            send(actor, Msg::List { limit, incoming });
        }),
        other => {
            let error = WireError::new(Code::BadMessage, format!("svc.coordinator.{other}: no such request"))
                .with_hint("submit, cancel, get, list, claim, report");
            Err((incoming, error))
        }
    };
    refuse(outcome).await;
}

async fn rendezvous_request(actor: &ActorRef<Msg>, incoming: Incoming) {
    let outcome = match incoming.verb() {
        "join" => read::<Join>(incoming, |envelope, incoming| {
            ask(actor, incoming, move |token| Input::Join { token, join: envelope.data });
        }),
        other => {
            let error = WireError::new(Code::BadMessage, format!("rdzv {other}: expected join"));
            Err((incoming, error))
        }
    };
    refuse(outcome).await;
}

async fn refuse(outcome: Refused) {
    if let Err((incoming, error)) = outcome {
        incoming.reply::<()>(Err(error)).await;
    }
}

fn ask(actor: &ActorRef<Msg>, incoming: Incoming, make: impl FnOnce(crate::state::Token) -> Input + Send + 'static) {
    send(actor, Msg::Ask { waiter: Waiter::Request(incoming), make: Box::new(make) });
}

/// A stopped actor means that the process ends; the caller hears nothing and asks the next leader.
fn send(actor: &ActorRef<Msg>, msg: Msg) {
    if actor.cast(msg).is_err() {
        debug!("a request came in after the actor had stopped");
    }
}

/// Validates, stores and hands on a submission, or publishes and answers its rejection.
async fn submit(env: &RoleEnv, actor: &ActorRef<Msg>, envelope: Envelope<Submit>, waiter: Waiter) {
    let job = intake::job_of(&envelope);
    let trace = envelope.traceparent.clone();
    // Whatever else keeps the server from saying so comes up again below.
    if let Err(error) = env.bus.has_room().await
        && error.kind() == bus::ErrorKind::Full
    {
        return answer(waiter, Answer::Error(error.to_wire())).await;
    }
    match intake::accept(env, envelope).await {
        Ok(submission) => {
            info!(%job, name = submission.name, "submitted");
            let submission = Box::new(submission);
            let make = Box::new(move |token| Input::Submit { token: Some(token), submission });
            let _ = actor.cast(Msg::Ask { waiter, make });
        }
        // The store is out of reach: the submitter, or the stream, tries again.
        Err(refusal) if refusal.error.retry => {
            warn!(%job, error = %refusal.error, "a submission could not be stored and is put off");
            answer(waiter, Answer::Error(refusal.error)).await;
        }
        Err(refusal) => {
            info!(%job, error = %refusal.error, "rejected");
            let submitted = Submitted {
                job: job.clone(),
                state: JobState::Rejected,
                duplicate: false,
                warnings: Vec::new(),
                errors: refusal.errors.clone(),
                error: Some(refusal.error.clone()),
            };
            let outgoing = crate::events::rejection(&job, refusal.error, refusal.errors, trace);
            let _ =
                actor.cast(Msg::Publish { outgoing: Box::new(outgoing), then: (waiter, Answer::Submitted(submitted)) });
        }
    }
}

/// Takes the durable submissions one by one; each is acknowledged when its outcome is stored.
async fn take_submissions(env: RoleEnv, actor: ActorRef<Msg>, mut submissions: bus::Submissions) {
    let wait = Duration::from_millis(env.bus.timings().ack_wait_ms);
    let mut trouble = Trouble::default();
    loop {
        let message = match submissions.next(wait).await {
            Ok(Some(message)) => message,
            Ok(None) => continue,
            Err(error) => {
                if trouble.is_new(&error) {
                    warn!(%error, "the submissions cannot be read; trying again");
                }
                if error.kind() == bus::ErrorKind::Permission {
                    env.bus.cannot_run(Role::Coordinator, &error);
                }
                trouble.pause().await;
                continue;
            }
        };
        trouble.over();
        let decoded = if message.subject == env.bus.subjects().job_cancel() {
            message.decode::<Cancel>().map(|envelope| Taken::Cancel(envelope.data))
        } else {
            message.decode::<Submit>().map(|envelope| Taken::Submit(Box::new(envelope)))
        };
        match decoded {
            Ok(Taken::Cancel(cancel)) => {
                let _ = actor.cast(Msg::Cancel { cancel, waiter: Waiter::Stream(message) });
            }
            Ok(Taken::Submit(envelope)) => submit(&env, &actor, *envelope, Waiter::Stream(message)).await,
            Err(error) => bury(&env, message, &error.to_string()).await,
        }
    }
}

enum Taken {
    Submit(Box<Envelope<Submit>>),
    Cancel(Cancel),
}

/// A message that cannot be read goes to the dead letters with the reason, and is never seen again.
async fn bury(env: &RoleEnv, message: bus::Submission, reason: &str) {
    warn!(subject = message.subject, reason, "a submission could not be read; it goes to the dead letters");
    let buried = env.bus.dead_letter(Role::Coordinator, "unknown", reason, &message.subject, &message.payload).await;
    let done = match buried {
        Ok(()) => message.term().await,
        Err(_) => message.nak(Duration::from_secs(1)).await,
    };
    if let Err(error) = done {
        warn!(%error, "a dead letter is still in the queue");
    }
}
