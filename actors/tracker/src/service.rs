//! Answers to `svc.tracker.runs` and `svc.tracker.run`, given by the tracker that leads.

use bus::role::RoleEnv;
use bus::{Incoming, Requests};
use futures::StreamExt;
use messages::WireError;
use messages::error::Code;
use messages::job::Role;
use messages::rpc::{GetRun, ListRuns, Request, Run, RunList};

use crate::store::Reader;

/// Begins to listen; requests from now on are answered once [`answer_all`] runs.
pub async fn listen(env: &RoleEnv) -> Result<Requests, bus::Error> {
    env.bus.serve(&env.bus.subjects().svc(Role::Tracker, "*"), None).await
}

/// Answers one question after the other, until dropped or the connection is closed.
pub async fn answer_all(mut requests: Requests, reader: Reader) {
    while let Some(incoming) = requests.next().await {
        answer(incoming, &reader).await;
    }
}

async fn answer(incoming: Incoming, reader: &Reader) {
    match incoming.verb() {
        ListRuns::VERB => {
            let answer = list(&incoming, reader).await;
            incoming.reply(answer).await;
        }
        GetRun::VERB => {
            let answer = get(&incoming, reader).await;
            incoming.reply(answer).await;
        }
        verb => {
            let message =
                format!("{verb:?} is no question to a tracker: expected {} or {}", ListRuns::VERB, GetRun::VERB);
            incoming.reply::<()>(Err(WireError::new(Code::BadMessage, message))).await;
        }
    }
}

async fn list(incoming: &Incoming, reader: &Reader) -> Result<RunList, WireError> {
    let question = incoming.decode::<ListRuns>()?.data;
    Ok(RunList { runs: reader.list(&question).await? })
}

async fn get(incoming: &Incoming, reader: &Reader) -> Result<Run, WireError> {
    let question = incoming.decode::<GetRun>()?.data;
    let unknown = || WireError::new(Code::RunNotFound, format!("no run {}", question.run));
    reader.get(&question).await?.ok_or_else(unknown)
}
