//! Leases: one holder of a key at a time, without trust in anybody's wall clock. The token is the
//! revision of the acquisition and is kept in the value; the entry lives for its TTL and is renewed
//! by compare-and-set with the TTL again. The holder stops believing in its lease by its own
//! monotonic clock at two thirds of the TTL, before the server lets another one in.

use std::time::Duration;

use bytes::Bytes;
use messages::subject::BUCKET_LEASE;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use crate::Bus;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Bucket, KvEntry, whole_seconds};

/// The fencing token of a lease: grows with each acquisition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken(pub u64);

/// The value of a lease's key.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    holder: String,
    /// None: this revision is the acquisition.
    token: Option<u64>,
}

/// What this holder has.
#[derive(Debug, Clone, Copy)]
struct Hold {
    token: LeaseToken,
    /// The last revision, to renew from.
    revision: u64,
    /// Taken before the server was asked.
    renewed_at: Instant,
}

/// Acquires, renews and releases one lease for one holder.
pub struct LeaseKeeper {
    bus: Bus,
    bucket: Bucket,
    key: String,
    holder: String,
    ttl: Duration,
    hold: Option<Hold>,
}

impl Bus {
    /// A keeper of the lease `key` for `holder` (a worker's id). Holds nothing yet.
    pub async fn lease(&self, key: &str, holder: &str) -> Result<LeaseKeeper> {
        if !messages::id::is_token(key) {
            return Err(Error::new(
                ErrorKind::Other,
                format!("lease {key:?}: expected 1 to 64 characters of A-Z a-z 0-9 _ -"),
            ));
        }
        Ok(LeaseKeeper {
            bus: self.clone(),
            bucket: Bucket::open(self, BUCKET_LEASE).await?,
            key: key.to_owned(),
            holder: holder.to_owned(),
            ttl: Duration::from_secs(whole_seconds(Duration::from_millis(self.timings().lease_ttl_ms))),
            hold: None,
        })
    }
}

impl LeaseKeeper {
    /// Takes the lease if nobody has it. None: another one has it, or was faster.
    pub async fn acquire(&mut self) -> Result<Option<LeaseToken>> {
        if self.is_held() {
            return Ok(self.token());
        }
        self.hold = None;
        let asked_at = Instant::now();
        let revision = match self.within(asked_at, self.bucket.last(&self.key)).await? {
            Some(KvEntry { value: Some(_), .. }) => return Ok(None),
            Some(tombstone) => tombstone.revision,
            None => 0,
        };
        let write = self.bucket.write(&self.key, self.value(None)?, revision, Some(self.ttl));
        match self.within(asked_at, write).await {
            Ok(revision) => {
                let token = LeaseToken(revision);
                self.hold = Some(Hold { token, revision, renewed_at: asked_at });
                Ok(self.token())
            }
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Prolongs the lease; due every third of the TTL. False: it is lost, and must be acquired again.
    /// After an error it is held on until [`Self::is_held`] says no: try again.
    pub async fn renew(&mut self) -> Result<bool> {
        let Some(hold) = self.hold.filter(|hold| self.is_fresh(hold)) else {
            self.hold = None;
            return Ok(false);
        };
        let asked_at = Instant::now();
        match self.within(hold.renewed_at, self.write_from(hold.token, hold.revision)).await {
            Ok(revision) => {
                self.hold = Some(Hold { revision, renewed_at: asked_at, ..hold });
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Conflict => self.renew_over(hold, asked_at).await,
            Err(error) => Err(error),
        }
    }

    /// The revision has passed: by a renewal of ours whose answer was lost, or by another holder.
    async fn renew_over(&mut self, hold: Hold, asked_at: Instant) -> Result<bool> {
        let last = self.within(hold.renewed_at, self.bucket.last(&self.key)).await?;
        let ours = last.as_ref().and_then(|entry| {
            let value: Held = serde_json::from_slice(entry.value.as_ref()?).ok()?;
            (value.holder == self.holder && value.token == Some(hold.token.0)).then_some(entry.revision)
        });
        let Some(revision) = ours else {
            self.hold = None;
            return Ok(false);
        };
        match self.within(hold.renewed_at, self.write_from(hold.token, revision)).await {
            Ok(revision) => {
                self.hold = Some(Hold { revision, renewed_at: asked_at, ..hold });
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.hold = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether this process may act as the holder: by its own clock, less than two thirds of the TTL
    /// have passed since it last asked with success.
    pub fn is_held(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| self.is_fresh(hold))
    }

    pub fn token(&self) -> Option<LeaseToken> {
        self.hold.as_ref().filter(|hold| self.is_fresh(hold)).map(|hold| hold.token)
    }

    /// Gives the lease back, so that another one need not wait for the TTL.
    pub async fn release(&mut self) -> Result<()> {
        let Some(hold) = self.hold.take() else { return Ok(()) };
        match self.within(Instant::now(), self.bucket.delete(&self.key, hold.revision)).await {
            // Lost before: there is nothing to give back.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            released => released.map(|_| ()),
        }
    }

    /// Who has the lease.
    pub async fn holder(&self) -> Result<Option<String>> {
        let Some(KvEntry { value: Some(value), .. }) = self.within(Instant::now(), self.bucket.last(&self.key)).await?
        else {
            return Ok(None);
        };
        let held: Held = serde_json::from_slice(&value).map_err(|error| {
            Error::new(ErrorKind::BadMessage, format!("lease {}: the entry cannot be read", self.key)).because(error)
        })?;
        Ok(Some(held.holder))
    }

    fn is_fresh(&self, hold: &Hold) -> bool {
        hold.renewed_at.elapsed() < self.believed()
    }

    /// Two thirds of the TTL.
    fn believed(&self) -> Duration {
        self.ttl * 2 / 3
    }

    fn value(&self, token: Option<LeaseToken>) -> Result<Bytes> {
        let held = Held { holder: self.holder.clone(), token: token.map(|token| token.0) };
        serde_json::to_vec(&held).map(Bytes::from).map_err(|error| {
            Error::new(ErrorKind::Other, format!("lease {}: the entry cannot be written", self.key)).because(error)
        })
    }

    async fn write_from(&self, token: LeaseToken, revision: u64) -> Result<u64> {
        self.bucket.write(&self.key, self.value(Some(token))?, revision, Some(self.ttl)).await
    }

    /// Nothing is awaited for longer than the lease would be believed.
    async fn within<T>(&self, since: Instant, work: impl Future<Output = Result<T>>) -> Result<T> {
        let left = self.believed().saturating_sub(since.elapsed());
        timeout(left, work).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                format!("lease {} at {}: no answer in time{}", self.key, self.bus.url(), self.bus.link_note()),
            ))
        })
    }
}
