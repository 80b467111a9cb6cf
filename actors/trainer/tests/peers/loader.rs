//! A data_loader that serves rows from memory, each batch in two frames, and misbehaves once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bus::{Bus, Incoming};
use bytes::Bytes;
use frame::Encoded;
use futures::StreamExt;
use messages::error::Code;
use messages::feed::{FeedControl, FeedOpened, FrameHeader, OpenFeed, Split};
use messages::job::Role;
use messages::subject::HEADER_FRAME;
use messages::{WireError, WorkerId};
use tokio::sync::{Mutex, Semaphore};
use within_trainer::checkpoint::Position;
use within_trainer::train::{BatchSource, FeedPlan, Stop};

use crate::fixtures::{TRAIN_ROWS, VAL_ROWS, rows};

/// What goes wrong, once, in the first feed of the train part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    None,
    LoseFrame,
    FallSilent,
    Fail,
}

/// The frame at which it goes wrong: the second half of a batch within the second epoch.
const WRONG_AT: u64 = 27;

type Credits = Arc<Mutex<HashMap<String, Arc<Semaphore>>>>;

/// Serves feeds for as long as the connection lives.
pub async fn serve(bus: &Bus, sabotage: Sabotage) {
    let worker = WorkerId::new("loader").expect("id");
    let credit_subject = bus.subjects().svc_of(Role::DataLoader, &worker, "feed_control");
    let mut controls = bus.subscribe(&credit_subject).await.expect("subscribes");
    let mut requests =
        bus.serve(&bus.subjects().svc(Role::DataLoader, "open_feed"), Some("data_loader")).await.expect("serves");
    let credits = Credits::default();
    let table = credits.clone();
    tokio::spawn(async move {
        while let Some(message) = controls.next().await {
            let mut feeds = table.lock().await;
            match message.decode::<FeedControl>().expect("a control").data {
                FeedControl::Credit { id, frames } => {
                    if let Some(feed) = feeds.get(&id) {
                        feed.add_permits(frames as usize);
                    }
                }
                FeedControl::Close { id } => {
                    if let Some(feed) = feeds.remove(&id) {
                        feed.close();
                    }
                }
            }
        }
    });
    let (bus, armed) = (bus.clone(), Arc::new(AtomicBool::new(sabotage != Sabotage::None)));
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let open = request.decode::<OpenFeed>().expect("a request").data;
            let first = open.split == Split::Train && armed.swap(open.split != Split::Train, Ordering::SeqCst);
            let granted = Arc::new(Semaphore::new(open.credits as usize));
            credits.lock().await.insert(open.feed.clone(), granted.clone());
            let wrong = if first { sabotage } else { Sabotage::None };
            let opened = FeedOpened {
                worker: worker.clone(),
                credit_subject: credit_subject.clone(),
                rows: rows_of(&open) as u64,
                batches_per_epoch: (rows_of(&open) as u64).div_ceil(u64::from(open.global_batch_size)),
                feature_names: vec![],
            };
            tokio::spawn(feed(bus.clone(), open, opened, granted, request, wrong));
        }
    });
}

fn rows_of(open: &OpenFeed) -> usize {
    if open.split == Split::Train { TRAIN_ROWS } else { VAL_ROWS }
}

fn source(open: &OpenFeed) -> BatchSource {
    let first_id = if open.split == Split::Train { 0 } else { TRAIN_ROWS as u64 };
    let mut source = BatchSource::memory(rows(messages::plan::Task::Regression, rows_of(open), first_id));
    let plan = FeedPlan {
        split: open.split,
        rows: rows_of(open) as u64,
        global_batch_size: open.global_batch_size,
        logical_shards: open.logical_shards,
        shuffle_seed: open.shuffle_seed,
        shuffle_window_mb: open.shuffle_window_mb,
        augmentation: open.augmentation.clone(),
        drop_last: open.drop_last,
        position: Position { epoch: open.epoch, batch: open.batch },
        end_epoch: open.end_epoch,
        rank: open.rank,
        world_size: open.world_size,
        batch_bytes: 0,
    };
    source.open(plan, &Stop::default()).expect("opens");
    source
}

async fn feed(
    bus: Bus,
    open: OpenFeed,
    opened: FeedOpened,
    credits: Arc<Semaphore>,
    request: Incoming,
    wrong: Sabotage,
) {
    let mut source = source(&open);
    request.reply(Ok(opened)).await;
    let mut sequence = 0;
    loop {
        let batch = source.next(&Stop::default()).expect("from memory").expect("no stop");
        if batch.epoch >= open.end_epoch {
            return;
        }
        for (part, rows) in halves(&batch.rows).into_iter().enumerate() {
            // Closed: nobody wants the feed any more.
            let Ok(permit) = credits.acquire().await else { return };
            permit.forget();
            let wrong_now = sequence == WRONG_AT;
            if wrong_now && wrong == Sabotage::FallSilent {
                return;
            }
            let fails = wrong_now && wrong == Sabotage::Fail;
            let header = FrameHeader {
                feed: open.feed.clone(),
                sequence,
                epoch: batch.epoch,
                batch: batch.batch,
                global_rows: batch.global_rows,
                first_row: batch.first_row,
                part: part as u32,
                parts: 2,
                end_of_epoch: batch.end_of_epoch && part == 1,
                error: fails.then(|| WireError::new(Code::ArtifactStoreUnavailable, "sabotage")),
            };
            sequence += 1;
            if !(wrong_now && wrong == Sabotage::LoseFrame) {
                let payload = if fails { Bytes::new() } else { frame::encode_frame(rows).expect("encodes") };
                let header = serde_json::to_string(&header).expect("serializes");
                bus.publish_raw(&open.deliver_subject, &[(HEADER_FRAME, &header)], payload).await.expect("publishes");
            }
            if fails {
                return;
            }
        }
    }
}

fn halves(rows: &Encoded) -> [Encoded; 2] {
    let middle = rows.rows as u32 / 2;
    [rows.select(&(0..middle).collect::<Vec<_>>()), rows.select(&(middle..rows.rows as u32).collect::<Vec<_>>())]
}
