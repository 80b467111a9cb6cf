//! What feeds are open, which parts of datasets are in memory, and what follows from each message. Pure: time
//! is an argument, what is to be done comes back as effects.

use std::collections::BTreeMap;

use messages::error::Code;
use messages::feed::{FeedControl, FeedOpened, OpenFeed, Split};
use messages::plan::AugmentationPlan;
use messages::{ArtifactRef, UnixMs, WireError, WorkerId};

use crate::feed::order::{Order, Position};

/// Bytes of encoded rows that stay in memory when no feed uses them. A part that a feed uses stays
/// whatever its size.
pub const CACHE_BYTES: usize = 1 << 30;
/// Most feeds open at once.
pub const MAX_FEEDS: usize = 1_024;
/// Feed time-outs without a credit after which a feed ends.
pub const IDLE_TIMEOUTS: u64 = 4;

/// A part of a dataset version as feeds of one kind read it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// BLAKE3 of the manifest.
    pub dataset: String,
    pub split: &'static str,
    pub window_mb: u32,
    /// The plan of its augmentation, as JSON; empty: none.
    pub augmentation: String,
}

impl Key {
    pub fn of(open: &OpenFeed) -> Self {
        let json = |plan| serde_json::to_string(plan).expect("invariant: a plan serializes");
        Self {
            dataset: open.dataset.blake3.clone(),
            split: open.split.as_str(),
            window_mb: open.shuffle_window_mb,
            augmentation: open.augmentation.as_ref().map(json).unwrap_or_default(),
        }
    }
}

/// A request that waits for its answer; the actor's own number for it.
pub type Token = u64;

/// How a part is to be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub split: Split,
    pub window_mb: u32,
    pub augmentation: Option<AugmentationPlan>,
}

/// What an encoded part is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    /// Rows of each shard.
    pub shards: Vec<u64>,
    /// Largest size of one row in a frame.
    pub row_bytes: usize,
    pub bytes: usize,
    pub feature_names: Vec<String>,
}

/// What the actor does.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Read and encode a part; its end comes back as [`State::on_loaded`].
    Load {
        key: Key,
        dataset: ArtifactRef,
        wanted: Box<Wanted>,
    },
    Answer {
        token: Token,
        answer: Result<FeedOpened, WireError>,
    },
    /// Begin to send.
    Start {
        feed: String,
        subject: String,
        key: Key,
        order: Order,
        position: Position,
        granted: u64,
    },
    /// Frames granted since the feed was opened.
    Grant {
        feed: String,
        granted: u64,
    },
    End {
        feed: String,
        reason: &'static str,
    },
    /// Forget a part.
    Evict {
        key: Key,
    },
}

#[derive(Debug)]
struct Feed {
    open: OpenFeed,
    key: Key,
    heard_at: UnixMs,
    granted: u64,
    /// The answer, once it was given.
    opened: Option<FeedOpened>,
    waiting: Vec<Token>,
}

#[derive(Debug)]
enum Held {
    Loading,
    Ready { info: PartInfo, used_at: UnixMs },
}

/// See the module.
#[derive(Debug)]
pub struct State {
    worker: WorkerId,
    /// Where credits go.
    credit_subject: String,
    idle_ms: u64,
    cache_bytes: usize,
    draining: bool,
    feeds: BTreeMap<String, Feed>,
    parts: BTreeMap<Key, Held>,
}

impl State {
    pub fn new(worker: WorkerId, credit_subject: String, feed_timeout_ms: u64, cache_bytes: usize) -> Self {
        Self {
            worker,
            credit_subject,
            idle_ms: feed_timeout_ms.saturating_mul(IDLE_TIMEOUTS),
            cache_bytes,
            draining: false,
            feeds: BTreeMap::new(),
            parts: BTreeMap::new(),
        }
    }

    /// How many feeds are open.
    pub fn open_feeds(&self) -> usize {
        self.feeds.len()
    }

    /// From here on no feed is opened; those that are go on.
    pub fn on_drain(&mut self) {
        self.draining = true;
    }

    /// A rank wants a feed. `expected_subject` is the only subject that its frames may go to.
    pub fn on_open(&mut self, token: Token, open: OpenFeed, expected_subject: &str, now: UnixMs) -> Vec<Effect> {
        let refuse = |error| vec![Effect::Answer { token, answer: Err(error) }];
        if let Some(feed) = self.feeds.get_mut(&open.feed) {
            // The same request again: its first answer was late or lost.
            return match &feed.opened {
                _ if feed.open != open => {
                    refuse(WireError::new(Code::BadMessage, format!("feed {} is open with other settings", open.feed)))
                }
                Some(opened) => vec![Effect::Answer { token, answer: Ok(opened.clone()) }],
                None => {
                    feed.waiting.push(token);
                    Vec::new()
                }
            };
        }
        if self.draining || self.feeds.len() >= MAX_FEEDS {
            let why =
                if self.draining { "this data_loader drains" } else { "this data_loader has too many feeds open" };
            return refuse(WireError::new(Code::NoCapacity, why));
        }
        if open.deliver_subject != expected_subject {
            let message = format!("frames may go to {expected_subject} only, not to {}", open.deliver_subject);
            return refuse(WireError::new(Code::Forbidden, message));
        }
        if open.augmentation.is_some() && open.split != Split::Train {
            let message = format!("augmentation is of the train part only, not of {}", open.split.as_str());
            return refuse(WireError::new(Code::BadMessage, message));
        }
        let key = Key::of(&open);
        let (name, dataset) = (open.feed.clone(), open.dataset.clone());
        let wanted = Box::new(Wanted {
            split: open.split,
            window_mb: open.shuffle_window_mb,
            augmentation: open.augmentation.clone(),
        });
        let feed = Feed {
            granted: u64::from(open.credits),
            open,
            key: key.clone(),
            heard_at: now,
            opened: None,
            waiting: vec![token],
        };
        self.feeds.insert(name.clone(), feed);
        match self.parts.get(&key) {
            Some(Held::Ready { .. }) => self.begin(&name, now),
            Some(Held::Loading) => Vec::new(),
            None => {
                self.parts.insert(key.clone(), Held::Loading);
                vec![Effect::Load { key, dataset, wanted }]
            }
        }
    }

    /// A part is in memory, or cannot be.
    pub fn on_loaded(&mut self, key: &Key, loaded: Result<PartInfo, WireError>, now: UnixMs) -> Vec<Effect> {
        let waiting: Vec<String> = self
            .feeds
            .iter()
            .filter(|(_, feed)| feed.key == *key && feed.opened.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        let mut effects = Vec::new();
        match loaded {
            Ok(info) => {
                self.parts.insert(key.clone(), Held::Ready { info, used_at: now });
                for name in waiting {
                    effects.extend(self.begin(&name, now));
                }
                effects.extend(self.evict());
            }
            Err(error) => {
                self.parts.remove(key);
                for name in waiting {
                    effects.extend(self.refuse(&name, &error));
                }
            }
        }
        effects
    }

    /// Answers a feed whose part is ready, and starts it.
    fn begin(&mut self, name: &str, now: UnixMs) -> Vec<Effect> {
        let Some(feed) = self.feeds.get_mut(name) else { return Vec::new() };
        let Some(Held::Ready { info, used_at }) = self.parts.get_mut(&feed.key) else { return Vec::new() };
        *used_at = now;
        feed.heard_at = now;
        let (order, position) = match Order::new(&feed.open, &info.shards, info.row_bytes) {
            Ok(order) => order,
            Err(error) => return self.refuse(name, &error),
        };
        let opened = FeedOpened {
            worker: self.worker.clone(),
            credit_subject: self.credit_subject.clone(),
            rows: order.rows() as u64,
            batches_per_epoch: order.batches_per_epoch(),
            feature_names: info.feature_names.clone(),
        };
        feed.opened = Some(opened.clone());
        let tokens = std::mem::take(&mut feed.waiting);
        let mut effects: Vec<_> =
            tokens.into_iter().map(|token| Effect::Answer { token, answer: Ok(opened.clone()) }).collect();
        effects.push(Effect::Start {
            feed: name.to_owned(),
            subject: feed.open.deliver_subject.clone(),
            key: feed.key.clone(),
            order,
            position,
            granted: feed.granted,
        });
        effects
    }

    fn refuse(&mut self, name: &str, error: &WireError) -> Vec<Effect> {
        let tokens = self.feeds.remove(name).map(|feed| feed.waiting).unwrap_or_default();
        tokens.into_iter().map(|token| Effect::Answer { token, answer: Err(error.clone()) }).collect()
    }

    /// A rank grants credits or closes its feed. Feeds of others, and ended ones, are not ours to mind.
    pub fn on_control(&mut self, control: &FeedControl, now: UnixMs) -> Vec<Effect> {
        match control {
            FeedControl::Credit { id, frames } => {
                let Some(feed) = self.feeds.get_mut(id) else { return Vec::new() };
                feed.heard_at = now;
                feed.granted = feed.granted.saturating_add(u64::from(*frames));
                vec![Effect::Grant { feed: id.clone(), granted: feed.granted }]
            }
            FeedControl::Close { id } if self.feeds.contains_key(id) => self.end(id, "closed by its rank"),
            FeedControl::Close { .. } => Vec::new(),
        }
    }

    /// A feed has sent its last frame.
    pub fn on_sent_all(&mut self, name: &str) -> Vec<Effect> {
        self.feeds.remove(name);
        self.evict()
    }

    /// Time passes: feeds that nobody grants anything end.
    pub fn on_tick(&mut self, now: UnixMs) -> Vec<Effect> {
        let idle = |feed: &&Feed| feed.opened.is_some() && now.saturating_sub(feed.heard_at) > self.idle_ms;
        let names: Vec<String> = self.feeds.values().filter(idle).map(|feed| feed.open.feed.clone()).collect();
        names.iter().flat_map(|name| self.end(name, "no credit for too long")).collect()
    }

    fn end(&mut self, name: &str, reason: &'static str) -> Vec<Effect> {
        let waiting = self.feeds.remove(name).map(|feed| feed.waiting).unwrap_or_default();
        let closed = || WireError::new(Code::BadMessage, "the feed was closed before it was open");
        let mut effects: Vec<_> =
            waiting.into_iter().map(|token| Effect::Answer { token, answer: Err(closed()) }).collect();
        effects.push(Effect::End { feed: name.to_owned(), reason });
        effects.extend(self.evict());
        effects
    }

    /// Forgets parts that no feed uses, the longest unused first, until the rest fits.
    fn evict(&mut self) -> Vec<Effect> {
        let mut held: usize =
            self.parts.values().map(|part| if let Held::Ready { info, .. } = part { info.bytes } else { 0 }).sum();
        let mut unused: Vec<(UnixMs, Key, usize)> = Vec::new();
        for (key, part) in &self.parts {
            if let Held::Ready { info, used_at } = part
                && !self.feeds.values().any(|feed| feed.key == *key)
            {
                unused.push((*used_at, key.clone(), info.bytes));
            }
        }
        unused.sort();
        let mut effects = Vec::new();
        for (_, key, bytes) in unused {
            if held <= self.cache_bytes {
                break;
            }
            held -= bytes;
            self.parts.remove(&key);
            effects.push(Effect::Evict { key });
        }
        effects
    }
}
