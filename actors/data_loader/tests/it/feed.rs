//! The order of a feed and the life of feeds, without a network.

use expect_test::expect;
use frame::row_bytes;
use messages::error::Code;
use messages::feed::{FeedControl, OpenFeed, Split};
use messages::{ArtifactRef, Fence, JobId, WireError, WorkerId};
use proptest::prelude::*;
use within_data_loader::feed::order::Order;
use within_data_loader::state::{Effect, Key, MAX_FEEDS, PartInfo, State};

fn open(feed: &str) -> OpenFeed {
    OpenFeed {
        feed: feed.into(),
        job: JobId::new("j1").expect("id"),
        fence: Fence(1),
        rank: 0,
        world_size: 1,
        subject_rank: None,
        deliver_subject: "frames".into(),
        dataset: ArtifactRef { uri: "memory:".into(), blake3: "d".into(), size_bytes: 1 },
        split: Split::Train,
        global_batch_size: 32,
        logical_shards: 8,
        shuffle_seed: Some(7),
        shuffle_window_mb: messages::plan::DEFAULT_SHUFFLE_WINDOW_MB,
        augmentation: None,
        drop_last: false,
        epoch: 0,
        batch: 0,
        end_epoch: 2,
        credits: 2,
        max_frame_bytes: 1 << 20,
    }
}

/// (batch, row) of each row of one epoch that a rank gets, in the order of its frames.
fn rows_of_epoch(open: &OpenFeed, rows: usize, epoch: u32) -> Vec<(u64, u32)> {
    let shards = [rows as u64];
    let (order, mut at) =
        Order::new(&OpenFeed { epoch, ..open.clone() }, &shards, row_bytes(3, false)).expect("an order");
    let permutation = order.layout().stored_rows(epoch);
    let mut out = Vec::new();
    loop {
        let piece = order.piece(at).expect("a piece");
        out.extend(permutation[piece.places.clone()].iter().map(|&row| (at.batch, row as u32)));
        let next = Order::after(at, &piece);
        assert_eq!(piece.end_of_epoch, next.epoch != at.epoch);
        if piece.end_of_epoch {
            return out;
        }
        at = next;
    }
}

proptest! {
    #[test]
    fn every_world_gets_the_same_batches(rows in 1usize..300, batch in 1u32..70, shards in 8u32..12, frame in 4200u32..6000, seed in any::<u64>(), epoch in 0u32..2) {
        let base = OpenFeed { global_batch_size: batch, logical_shards: shards, shuffle_seed: Some(seed), max_frame_bytes: frame, ..open("f") };
        let alone = rows_of_epoch(&base, rows, epoch);
        let mut seen: Vec<u32> = alone.iter().map(|(_, row)| *row).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..rows as u32).collect::<Vec<_>>());
        for world in [2, 4, 8] {
            let ranks: Vec<Vec<(u64, u32)>> = (0..world).map(|rank| rows_of_epoch(&OpenFeed { rank, world_size: world, ..base.clone() }, rows, epoch)).collect();
            // Side by side, batch by batch, the ranks' rows are those of a single rank.
            let mut joined: Vec<(u64, u32)> = Vec::new();
            for batch in 0..=alone.last().expect("rows").0 {
                for rank in &ranks {
                    joined.extend(rank.iter().filter(|(b, _)| *b == batch));
                }
            }
            prop_assert_eq!(&joined, &alone, "world {}", world);
        }
    }

    #[test]
    fn a_feed_goes_on_anywhere(rows in 1usize..200, batch in 1u32..40, start in 0u64..20) {
        let base = OpenFeed { global_batch_size: batch, ..open("f") };
        let whole = rows_of_epoch(&base, rows, 1);
        let batches = (rows as u64).div_ceil(u64::from(batch));
        let start = start % batches;
        let rest = rows_of_epoch(&OpenFeed { batch: start, ..base }, rows, 1);
        let expected: Vec<_> = whole.into_iter().filter(|(b, _)| *b >= start).collect();
        prop_assert_eq!(rest, expected);
    }
}

#[test]
fn epochs_differ_and_stored_order_is_kept() {
    let of = |epoch, seed| rows_of_epoch(&OpenFeed { shuffle_seed: seed, ..open("f") }, 100, epoch);
    assert_ne!(of(0, Some(7)), of(1, Some(7)));
    assert_ne!(of(0, Some(7)), of(0, Some(8)));
    assert_eq!(of(1, Some(7)), of(1, Some(7)));
    assert_eq!(of(0, None), of(1, None));
    assert!(of(0, None).is_sorted());
}

#[test]
fn places_within_a_batch_are_told() {
    let base = OpenFeed { world_size: 2, rank: 1, global_batch_size: 64, ..open("f") };
    let (order, at) = Order::new(&base, &[100], row_bytes(3, false)).expect("an order");
    let first = order.piece(at).expect("a piece");
    assert_eq!((first.global_rows, first.first_row, first.places.clone()), (64, 32, 32..64));
    let last = order.piece(Order::after(at, &first)).expect("a piece");
    assert_eq!((last.global_rows, last.first_row, last.places.clone(), last.end_of_epoch), (36, 18, 82..100, true));
    // A last batch of one row belongs to the last shard; the other rank gets an empty frame to stay in step.
    let (order, at) = Order::new(&OpenFeed { rank: 0, ..base.clone() }, &[65], row_bytes(3, false)).expect("an order");
    let piece = order.piece(Order::after(at, &order.piece(at).expect("a piece"))).expect("a piece");
    assert_eq!((piece.global_rows, piece.places.is_empty(), piece.end_of_epoch), (1, true, true));
    let (order, at) =
        Order::new(&OpenFeed { drop_last: true, batch: 1, ..base }, &[100], row_bytes(3, false)).expect("an order");
    assert_eq!((order.batches_per_epoch(), at.epoch, at.batch), (1, 1, 0));
}

#[test]
fn openings_that_make_no_sense_are_refused() {
    let message = |change: fn(&mut OpenFeed)| {
        let mut open = open("f");
        change(&mut open);
        Order::new(&open, &[100], row_bytes(3, false)).expect_err("refused").to_string()
    };
    let all = [
        message(|open| open.rank = 1),
        message(|open| open.world_size = 9),
        message(|open| open.global_batch_size = 0),
        message(|open| open.epoch = 2),
        message(|open| open.batch = 5),
        message(|open| open.max_frame_bytes = 2000),
        message(|open| (open.drop_last, open.global_batch_size) = (true, 101)),
    ];
    expect![[r"
        bad_message: feed refused: rank 1 of a world of 1
        config_error: a world of 9 ranks shares 8 logical shards, expected at least one a rank
        bad_message: feed refused: a global batch of 0 rows
        bad_message: feed refused: epoch 2 up to 2
        bad_message: feed refused: batch 5 of an epoch of 4
        too_large: a row takes up to 24 bytes, more than a frame of 2000 may hold
        dataset_validation_error: 100 rows make no batch of 101 with drop_last"]]
    .assert_eq(&all.join("\n"));
}

fn state() -> State {
    State::new(WorkerId::new("w1").expect("id"), "credits".into(), 1_000, 100)
}

fn info(bytes: usize) -> PartInfo {
    PartInfo {
        shards: vec![64],
        row_bytes: row_bytes(3, false),
        bytes,
        feature_names: vec!["a".into(), "b".into(), "c".into()],
    }
}

fn key(hash: &str) -> Key {
    Key { dataset: hash.to_owned(), ..Key::of(&open("f")) }
}

/// What effects do, one word each.
fn words(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Load { key, .. } => format!("load {}", key.dataset),
            Effect::Answer { token, answer: Ok(opened) } => format!("ok {token} {}", opened.rows),
            Effect::Answer { token, answer: Err(error) } => format!("refuse {token} {}", error.code.as_str()),
            Effect::Start { feed, granted, .. } => format!("start {feed} {granted}"),
            Effect::Grant { feed, granted } => format!("grant {feed} {granted}"),
            Effect::End { feed, .. } => format!("end {feed}"),
            Effect::Evict { key } => format!("evict {}", key.dataset),
        })
        .collect()
}

#[test]
fn a_part_is_loaded_once_and_repeated_requests_get_the_same_answer() {
    let mut state = state();
    assert_eq!(words(&state.on_open(1, open("f"), "frames", 0)), ["load d"]);
    assert!(state.on_open(2, open("f"), "frames", 1).is_empty());
    assert!(state.on_open(3, open("g"), "frames", 2).is_empty());
    let effects = state.on_loaded(&key("d"), Ok(info(50)), 3);
    assert_eq!(words(&effects), ["ok 1 64", "ok 2 64", "start f 2", "ok 3 64", "start g 2"]);
    assert_eq!(words(&state.on_open(4, open("f"), "frames", 4)), ["ok 4 64"]);
    assert_eq!(words(&state.on_open(5, OpenFeed { rank: 1, ..open("f") }, "frames", 4)), ["refuse 5 bad_message"]);
    assert_eq!(words(&state.on_control(&FeedControl::Credit { id: "f".into(), frames: 3 }, 5)), ["grant f 5"]);
    assert!(state.on_control(&FeedControl::Credit { id: "unknown".into(), frames: 3 }, 5).is_empty());
    assert_eq!(words(&state.on_control(&FeedControl::Close { id: "f".into() }, 6)), ["end f"]);
    assert!(state.on_control(&FeedControl::Close { id: "f".into() }, 6).is_empty());
}

#[test]
fn a_part_that_cannot_be_read_is_tried_again_next_time() {
    let mut state = state();
    state.on_open(1, open("f"), "frames", 0);
    let error = WireError::new(Code::ArtifactCorrupt, "damaged");
    assert_eq!(words(&state.on_loaded(&key("d"), Err(error), 1)), ["refuse 1 artifact_corrupt"]);
    assert_eq!(words(&state.on_open(2, open("f"), "frames", 2)), ["load d"]);
    let bad = OpenFeed { batch: 99, ..open("h") };
    assert!(state.on_open(3, bad, "frames", 2).is_empty());
    assert_eq!(words(&state.on_loaded(&key("d"), Ok(info(1)), 3)), ["ok 2 64", "start f 2", "refuse 3 bad_message"]);
    assert_eq!(state.open_feeds(), 1);
}

#[test]
fn idle_feeds_end_and_unused_parts_are_forgotten_oldest_first() {
    let mut state = state();
    let of = |name: &str, hash: &str| OpenFeed {
        dataset: ArtifactRef { blake3: hash.into(), ..open("f").dataset },
        ..open(name)
    };
    for (token, (name, hash)) in [("f", "a"), ("g", "b"), ("h", "c")].into_iter().enumerate() {
        state.on_open(token as u64, of(name, hash), "frames", token as u64);
        state.on_loaded(&key(hash), Ok(info(60)), token as u64);
    }
    // All three are in use, so all stay, whatever their size.
    state.on_control(&FeedControl::Credit { id: "g".into(), frames: 1 }, 3_000);
    assert_eq!(words(&state.on_tick(4_003)), ["end f", "evict a", "end h", "evict c"]);
    assert!(state.on_tick(7_000).is_empty());
    assert!(words(&state.on_sent_all("g")).is_empty());
    // A part that no feed uses any more, and fits, serves the next feed at once.
    assert_eq!(words(&state.on_open(9, of("i", "b"), "frames", 8_000)), ["ok 9 64", "start i 2"]);
}

#[test]
fn frames_go_nowhere_else_and_a_full_or_draining_loader_says_so() {
    let mut state = state();
    assert_eq!(words(&state.on_open(1, open("f"), "other", 0)), ["refuse 1 forbidden"]);
    for i in 0..MAX_FEEDS {
        state.on_open(i as u64, open(&format!("f{i}")), "frames", 0);
    }
    assert_eq!(words(&state.on_open(9, open("more"), "frames", 0)), ["refuse 9 no_capacity"]);
    let mut state = self::state();
    state.on_drain();
    assert_eq!(words(&state.on_open(1, open("f"), "frames", 0)), ["refuse 1 no_capacity"]);
}
