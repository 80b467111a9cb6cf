//! What the connection says of itself: connects, losses, refusals. Each distinct trouble is logged
//! once, and what callers must know (connected again, permission denied, closed) is passed on to them.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_nats::{Event, ServerError};
use messages::WireError;
use messages::job::Role;
use tokio::sync::{broadcast, watch};

/// What was tried on a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Publish,
    Subscribe,
}

/// The server refused this. A denied request would otherwise look like a time-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    pub action: Action,
    pub subject: String,
}

/// How many distinct troubles are remembered as logged.
const MAX_SEEN: usize = 1024;

#[derive(Debug, Default)]
struct Troubles {
    seen: HashSet<String>,
    down_since: Option<Instant>,
}

/// State of the connection, shared by all clones of a bus.
#[derive(Debug)]
pub(crate) struct Link {
    name: String,
    /// Grows with each connect.
    epoch: watch::Sender<u64>,
    closed: watch::Sender<bool>,
    denied: broadcast::Sender<Denied>,
    /// The role that cannot run on this connection.
    given_up: watch::Sender<Option<(Role, WireError)>>,
    troubles: Mutex<Troubles>,
}

impl Link {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            epoch: watch::Sender::new(0),
            closed: watch::Sender::new(false),
            denied: broadcast::Sender::new(256),
            given_up: watch::Sender::new(None),
            troubles: Mutex::default(),
        }
    }

    /// Changes with each connect: what waits for a message asks again then.
    pub(crate) fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Subscribe before publishing, so that no refusal is missed.
    pub(crate) fn denials(&self) -> Denials {
        Denials(self.denied.subscribe())
    }

    pub(crate) fn give_up(&self, role: Role, error: WireError) {
        self.given_up.send_if_modified(|given_up| {
            let first = given_up.is_none();
            given_up.get_or_insert((role, error));
            first
        });
    }

    pub(crate) fn given_up(&self) -> watch::Receiver<Option<(Role, WireError)>> {
        self.given_up.subscribe()
    }

    /// For how long the connection has been down, if it is.
    pub(crate) fn down_for(&self) -> Option<std::time::Duration> {
        self.troubles().down_since.map(|since| since.elapsed())
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this trouble is new; remembers it.
    fn is_new(&self, trouble: &str) -> bool {
        let mut troubles = self.troubles();
        if troubles.seen.len() >= MAX_SEEN {
            troubles.seen.clear();
        }
        troubles.seen.insert(trouble.to_owned())
    }

    /// Called for each event of the connection, in order.
    pub(crate) fn on_event(&self, event: &Event) {
        let name = self.name.as_str();
        match event {
            Event::Connected => self.on_connected(),
            Event::Disconnected => {
                self.troubles().down_since.get_or_insert_with(Instant::now);
                metrics::counter!("within_bus_disconnects_total").increment(1);
                tracing::warn!(name, "connection to NATS lost; reconnecting");
            }
            Event::SlowConsumer(subscription) => {
                metrics::counter!("within_bus_slow_consumer_total").increment(1);
                if self.is_new(&format!("slow {subscription}")) {
                    tracing::warn!(name, subscription, "slow consumer: messages of this subscription are dropped");
                }
            }
            Event::ServerError(ServerError::Other(text)) => self.on_server_error(text),
            Event::ServerError(error) => {
                if self.is_new(&format!("link {error}")) {
                    tracing::error!(name, %error, "NATS refuses this process");
                }
            }
            Event::ClientError(error) => {
                if self.is_new(&format!("link {error}")) {
                    tracing::warn!(name, %error, "NATS cannot be reached; trying on");
                }
            }
            Event::LameDuckMode => {
                if self.is_new("link lame duck") {
                    tracing::warn!(name, "the NATS server is about to shut down");
                }
            }
            Event::Draining => tracing::debug!(name, "connection drains"),
            Event::Closed => {
                self.closed.send_replace(true);
            }
        }
    }

    fn on_connected(&self) {
        let down = {
            let mut troubles = self.troubles();
            troubles.seen.retain(|trouble| !trouble.starts_with("link "));
            troubles.down_since.take()
        };
        self.epoch.send_modify(|epoch| *epoch += 1);
        if let Some(since) = down {
            let outage_ms = since.elapsed().as_millis() as u64;
            tracing::warn!(name = %self.name, outage_ms, "connected to NATS again");
        }
    }

    fn on_server_error(&self, text: &str) {
        let new = self.is_new(text);
        if let Some(denied) = parse_denied(text) {
            metrics::counter!("within_bus_denied_total").increment(1);
            if new {
                tracing::error!(name = %self.name, subject = %denied.subject, action = ?denied.action,
                    "permission denied by NATS: check the credentials' allowed subjects");
            }
            // No receiver: nobody waits on this subject; it is logged.
            self.denied.send(denied).ok();
        } else if new {
            tracing::error!(name = %self.name, error = text, "error from NATS");
        }
    }
}

/// Refusals from now on.
pub(crate) struct Denials(broadcast::Receiver<Denied>);

impl Denials {
    /// Ends when the server refuses `action` on a subject that `matches`.
    pub(crate) async fn wait(&mut self, action: Action, matches: impl Fn(&str) -> bool) -> Denied {
        loop {
            match self.0.recv().await {
                Ok(denied) if denied.action == action && matches(&denied.subject) => return denied,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending::<()>().await,
            }
        }
    }
}

/// Reads `Permissions Violation for Publish to "x"` and `… for Subscription to "x" using queue "q"`.
fn parse_denied(text: &str) -> Option<Denied> {
    let lower = text.to_ascii_lowercase();
    let rest = lower.split("permissions violation for ").nth(1)?;
    let action = if rest.starts_with("publish") {
        Action::Publish
    } else if rest.starts_with("subscription") {
        Action::Subscribe
    } else {
        return None;
    };
    let subject = text.split('"').nth(1)?.to_owned();
    Some(Denied { action, subject })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_subject() {
        assert_eq!(
            parse_denied("Permissions Violation for Publish to \"within.v1.Default.evt.x\""),
            Some(Denied { action: Action::Publish, subject: "within.v1.Default.evt.x".into() })
        );
        assert_eq!(
            parse_denied("Permissions Violation for Subscription to \"a.>\" using queue \"q\""),
            Some(Denied { action: Action::Subscribe, subject: "a.>".into() })
        );
        assert_eq!(parse_denied("Stale Connection"), None);
    }

    #[test]
    fn each_trouble_is_new_once_and_an_outage_again_after_a_connect() {
        let link = Link::new("t");
        assert!(link.is_new("link refused"));
        assert!(!link.is_new("link refused"));
        assert!(link.is_new("slow 1"));
        link.on_event(&Event::Connected);
        assert!(link.is_new("link refused"));
        assert!(!link.is_new("slow 1"));
        assert_eq!(*link.epoch().borrow(), 1);
    }

    #[test]
    fn the_memory_of_troubles_is_bounded() {
        let link = Link::new("t");
        for i in 0..MAX_SEEN * 2 {
            link.is_new(&i.to_string());
        }
        assert!(link.troubles().seen.len() <= MAX_SEEN);
    }
}
