//! The role as an actor: it owns the task that evaluates, and ends as that ends.

use bus::role::RoleEnv;
use messages::WireError;
use messages::error::Code;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Config;
use crate::worker::Evaluator;

struct EvaluatorActor;

/// What the actor hears.
enum Message {
    /// The role's task has ended: drained, or with an error.
    Ended(Result<(), WireError>),
}

struct Arguments {
    env: RoleEnv,
    config: Config,
}

/// Dropped with the actor, however that ends: then the role's task stops too.
struct State {
    _stop: DropGuard,
}

pub async fn spawn(env: RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    let arguments = Arguments { env, config };
    let (actor, _) = Actor::spawn_linked(None, EvaluatorActor, arguments, supervisor)
        .await
        .map_err(|error| WireError::new(Code::InternalError, format!("the evaluator did not start: {error}")))?;
    Ok(actor.get_cell())
}

impl Actor for EvaluatorActor {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { env, config } = arguments;
        let stop: CancellationToken = env.drain.child_token();
        let role = tokio::spawn(Evaluator { env, config, stop: stop.clone() }.run());
        tokio::spawn(async move {
            let ended = role.await.unwrap_or_else(|error| {
                Err(WireError::new(Code::InternalError, format!("the evaluator's task ended: {error}")))
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
