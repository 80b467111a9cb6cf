//! Trouble that passes: told once until it is over, with pauses that grow between the tries.

use std::time::Duration;

use tokio::time::sleep;

use crate::error::{Error, ErrorKind};
use crate::pubsub::{FIRST_PAUSE, LONGEST_PAUSE};

/// One kind of trouble at a time. What an error says of it changes ("not connected for 3 s"), so that the
/// error's kind decides whether it is the same.
#[derive(Debug, Default)]
pub struct Trouble {
    told: Option<ErrorKind>,
    pause: Duration,
}

impl Trouble {
    /// Whether this is to be told: the first of its kind since the last [`Self::over`].
    pub fn is_new(&mut self, error: &Error) -> bool {
        self.is_new_kind(error.kind())
    }

    /// The same where there is no error, but a kind of one.
    pub(crate) fn is_new_kind(&mut self, kind: ErrorKind) -> bool {
        self.told.replace(kind) != Some(kind)
    }

    /// Waits before the next try: 50 ms, doubled up to a second.
    pub async fn pause(&mut self) {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        sleep(self.pause).await;
    }

    /// It is over. True if there was any.
    pub fn over(&mut self) -> bool {
        std::mem::take(self).told.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_until_it_is_over() {
        let mut trouble = Trouble::default();
        let (slow, full) = (Error::new(ErrorKind::Timeout, "1 s"), Error::new(ErrorKind::Full, "full"));
        assert!(trouble.is_new(&slow));
        assert!(!trouble.is_new(&Error::new(ErrorKind::Timeout, "2 s")));
        assert!(trouble.is_new(&full));
        assert!(trouble.is_new_kind(ErrorKind::NotFound) && !trouble.is_new_kind(ErrorKind::NotFound));
        assert!(trouble.over());
        assert!(!trouble.over());
        assert!(trouble.is_new(&slow));
    }
}
