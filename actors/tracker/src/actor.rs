//! The role as an actor: it owns the task that leads or stands by, and ends as that ends.

use bus::role::RoleEnv;
use messages::WireError;
use messages::error::Code;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Config;
use crate::lead::Tracker;
use crate::store::{Reader, Writer};

struct TrackerActor;

/// What the actor hears.
enum Message {
    /// The role's task has ended: drained, or with an error.
    Ended(Result<(), WireError>),
}

struct Arguments {
    env: RoleEnv,
    config: Config,
    writer: Writer,
    reader: Reader,
}

/// Dropped with the actor, however that ends: then the role's task stops too.
struct State {
    _stop: DropGuard,
}

pub async fn spawn(
    env: RoleEnv,
    config: Config,
    writer: Writer,
    reader: Reader,
    supervisor: ActorCell,
) -> Result<ActorCell, WireError> {
    let arguments = Arguments { env, config, writer, reader };
    let (actor, _) = Actor::spawn_linked(None, TrackerActor, arguments, supervisor)
        .await
        .map_err(|error| WireError::new(Code::InternalError, format!("the tracker did not start: {error}")))?;
    Ok(actor.get_cell())
}

impl Actor for TrackerActor {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { env, config, writer, reader } = arguments;
        let stop: CancellationToken = env.drain.child_token();
        let role = tokio::spawn(Tracker { env, config, reader, stop: stop.clone() }.run(writer));
        tokio::spawn(async move {
            let ended = role.await.unwrap_or_else(|error| {
                Err(WireError::new(Code::InternalError, format!("the tracker's task ended: {error}")))
            });
            // An actor that is gone needs no word.
            let _ = myself.cast(Message::Ended(ended));
        });
        Ok(State { _stop: stop.drop_guard() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ended(Ok(())) => {
                myself.stop(None);
                Ok(())
            }
            Message::Ended(Err(error)) => Err(error.into()),
        }
    }
}
