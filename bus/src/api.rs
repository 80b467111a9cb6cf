//! Requests to JetStream itself, with one way to read its errors.

use async_nats::HeaderMap;
use bytes::Bytes;
use messages::error::Code;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::Bus;
use crate::error::{Error, ErrorKind, Result};
use crate::pubsub::{FIRST_PAUSE, LONGEST_PAUSE};

/// An error as JetStream writes it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

/// What an error code means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The expected sequence is not the last one.
    Conflict,
    Full,
    TooLarge,
    /// No such stream, consumer or message.
    NotFound,
    /// The cluster has no leader yet, or the like: ask again.
    Passing,
    /// JetStream is off.
    Disabled,
    Other,
}

/// Codes of nats-server's `errors.json`.
pub(crate) fn verdict(error: &ApiError) -> Verdict {
    match error.err_code {
        10071 | 10164 => Verdict::Conflict,
        // Account, server and stream limits: storage, memory, messages, bytes.
        10002 | 10023 | 10028 | 10047 | 10077 | 10122 | 10167 => Verdict::Full,
        10054 => Verdict::TooLarge,
        10014 | 10037 | 10059 => Verdict::NotFound,
        // Temporarily unavailable, no quorum, offline, or a compare-and-set still in flight.
        10008 | 10009 | 10118 | 10163 | 10194 => Verdict::Passing,
        10039 | 10076 => Verdict::Disabled,
        _ if error.code == 503 => Verdict::Passing,
        _ => Verdict::Other,
    }
}

#[derive(Deserialize)]
struct Failed {
    error: Option<ApiError>,
}

impl Bus {
    /// A request to `$JS.API.<verb>`. `NotFound` when the stream, consumer or message does not exist.
    /// While nobody answers for JetStream (it starts, or recovers), asks again for one request
    /// time-out.
    pub(crate) async fn api<V: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> Result<V> {
        let subject = format!("$JS.API.{verb}");
        let body = serde_json::to_vec(body).map_err(|error| {
            Error::new(ErrorKind::Other, format!("request {verb} cannot be written")).because(error)
        })?;
        // Some requests are refused unless they are empty.
        let payload = if body == b"null" { Bytes::new() } else { Bytes::from(body) };
        let until = Instant::now() + self.request_timeout();
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.ask(&subject, HeaderMap::new(), payload.clone(), self.request_timeout()).await {
                Ok(answer) => match self.api_answer(verb, &answer.payload) {
                    Err((Verdict::Passing, error)) => error,
                    answer => return answer.map_err(|(_, error)| error),
                },
                Err(error) if error.kind() == ErrorKind::Unreachable => self.disabled(),
                Err(error) => return Err(error),
            };
            if Instant::now() + pause >= until {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn api_answer<V: DeserializeOwned>(&self, verb: &str, payload: &[u8]) -> Result<V, (Verdict, Error)> {
        if let Ok(Failed { error: Some(error) }) = serde_json::from_slice(payload) {
            let verdict = verdict(&error);
            return Err((verdict, self.api_error(&format!("JetStream at {}, {verb}", self.url()), &error)));
        }
        serde_json::from_slice(payload).map_err(|error| {
            let text = format!("JetStream at {}, {verb}: the answer cannot be read: {error}", self.url());
            (Verdict::Other, Error::new(ErrorKind::Other, text).because(error))
        })
    }

    /// An error of JetStream as ours; `what` was tried.
    pub(crate) fn api_error(&self, what: &str, error: &ApiError) -> Error {
        let said = format!("{what}: {} (error {})", error.description, error.err_code);
        match verdict(error) {
            Verdict::Conflict => Error::new(ErrorKind::Conflict, said),
            Verdict::Full => {
                Error::new(ErrorKind::Full, format!("{said}; try later, or raise the limits of stream or server"))
            }
            Verdict::TooLarge => Error::new(ErrorKind::BadMessage, said).coded(Code::TooLarge),
            Verdict::NotFound => Error::new(ErrorKind::NotFound, said).coded(Code::BusUnavailable),
            Verdict::Passing => Error::new(ErrorKind::Timeout, said),
            Verdict::Disabled => self.disabled(),
            Verdict::Other => Error::new(ErrorKind::Other, said),
        }
    }

    fn disabled(&self) -> Error {
        Error::new(
            ErrorKind::Unreachable,
            format!(
                "JetStream does not answer at {}: start the server with -js (or `jetstream {{}}` in its configuration), and allow it for the account",
                self.url()
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_server_are_told_apart() {
        let of = |err_code, code| verdict(&ApiError { err_code, code, description: String::new() });
        for (code, expected) in [
            (10071, Verdict::Conflict),
            (10164, Verdict::Conflict),
            (10077, Verdict::Full),
            (10047, Verdict::Full),
            (10054, Verdict::TooLarge),
            (10008, Verdict::Passing),
            (10059, Verdict::NotFound),
            (10058, Verdict::Other),
        ] {
            assert_eq!(of(code, 400), expected, "{code}");
        }
        assert_eq!(of(0, 503), Verdict::Passing);
    }
}
