//! Room in the event stream: what was begun must be able to tell its end, so new jobs are refused before
//! the stream is full.

use std::time::Duration;

use tokio::time::Instant;

use crate::Bus;
use crate::error::{Error, ErrorKind, Result};

/// New jobs are taken while the event stream is filled to less than this, in percent.
pub(crate) const OPEN_BELOW_PERCENT: u64 = 90;
/// How long an answer of the server is believed.
const FRESH: Duration = Duration::from_millis(100);

/// What was last seen.
#[derive(Debug, Default)]
pub(crate) struct Room {
    seen: Option<(Instant, Option<String>)>,
}

impl Bus {
    /// [`ErrorKind::Full`] while the event stream has no room for another job. Asks the server ten times a
    /// second at most.
    pub async fn has_room(&self) -> Result<()> {
        let mut room = self.inner.room.lock().await;
        let refusal = match &room.seen {
            Some((at, refusal)) if at.elapsed() < FRESH => refusal.clone(),
            _ => {
                let refusal = match self.event_fill().await {
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    fill => fill?.refusal(self.url()),
                };
                room.seen = Some((Instant::now(), refusal.clone()));
                refusal
            }
        };
        refusal.map_or(Ok(()), |text| Err(Error::new(ErrorKind::Full, text)))
    }
}

/// How full a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) stream: String,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// None: unlimited.
    pub(crate) max_messages: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
}

impl Fill {
    /// Why there is no room for a new job; none if there is.
    fn refusal(&self, url: &str) -> Option<String> {
        let over = |used: u64, max: Option<u64>, unit: &str| {
            let max = max.filter(|max| used.saturating_mul(100) >= max.saturating_mul(OPEN_BELOW_PERCENT))?;
            Some(format!("{used} of {max} {unit}"))
        };
        let used =
            over(self.messages, self.max_messages, "messages").or_else(|| over(self.bytes, self.max_bytes, "bytes"))?;
        let stream = &self.stream;
        Some(format!("{stream} at {url} holds {used}; new jobs are refused from {OPEN_BELOW_PERCENT} %: try later"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_jobs_are_refused_before_the_stream_is_full() {
        let fill = |messages, bytes| Fill {
            stream: "S".into(),
            messages,
            bytes,
            max_messages: Some(100),
            max_bytes: Some(1_000),
        };
        assert_eq!(fill(89, 899).refusal("u"), None);
        assert!(fill(90, 0).refusal("u").is_some_and(|text| text.contains("S at u holds 90 of 100 messages")));
        assert!(fill(0, 900).refusal("u").is_some_and(|text| text.contains("900 of 1000 bytes")));
        let unlimited = Fill { max_messages: None, max_bytes: None, ..fill(u64::MAX, u64::MAX) };
        assert_eq!(unlimited.refusal("u"), None);
    }
}
