//! Steps whose gradients meet in buckets through a collective: the bits of one process for every model, world and
//! bucket size, also after a rank was lost in the middle; and the search for what was not finite, by parts.

use crate::models::{batch, configs, fit, model, part};
use kernels::collective::{Accept, Arena, Frame, Op, Plans, Round, Topology, Tuning, Values};
use kernels::nn::{MlpConfig, ModelConfig, Norm};
use kernels::optim::{AdamWConfig, OptimizerConfig};
use kernels::pool::Pool;
use kernels::shard::rows_of;
use kernels::train::{Batch, Interrupted, RankBatch, StepOutcome, TrainConfig, Trainer};
use kernels::weights::params_blake3;
use kernels::{Error, ErrorKind};
use std::collections::VecDeque;
use std::sync::Arc;

const SHARDS: usize = 8;
const ROWS: usize = 19;

fn trainer(config: &ModelConfig, threads: usize) -> Trainer {
    let optimizer = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 3e-3, ..Default::default() });
    let plan = TrainConfig { optimizer, logical_shards: SHARDS, ..TrainConfig::default() };
    Trainer::new(model(config), plan, Arc::new(Pool::new(threads))).expect("valid")
}

/// Every kind of model, and the plain ones.
fn every_model() -> Vec<ModelConfig> {
    let mlp = MlpConfig { input_dim: 3, hidden_layers: vec![9, 5], dropout: 0.3, ..Default::default() };
    let normed = MlpConfig { norm: Norm::LayerNorm, ..mlp.clone() };
    configs().into_iter().chain([ModelConfig::Mlp(mlp), ModelConfig::Mlp(normed)]).collect()
}

/// The rows of each rank's shards.
fn parts(batch: &Batch, world: usize) -> Vec<Batch> {
    let of = |rank: usize| {
        let held = Topology::new(rank, world, SHARDS).expect("valid").held(rank);
        part(batch, rows_of(held.start, SHARDS, ROWS).start..rows_of(held.end - 1, SHARDS, ROWS).end)
    };
    (0..world).map(of).collect()
}

fn held(batch: &Batch, rank: usize, world: usize) -> RankBatch<'_> {
    let held = Topology::new(rank, world, SHARDS).expect("valid").held(rank);
    RankBatch { batch, global_rows: ROWS, held }
}

/// Runs every rank's operations to their end, in one thread.
fn collect(rounds: &mut [Round<'_, '_>]) {
    let world = rounds.len();
    let mut lines: Vec<VecDeque<(Frame, Vec<u8>)>> = (0..world * world).map(|_| VecDeque::new()).collect();
    while !rounds.iter().all(Round::done) {
        for (line, queue) in lines.iter_mut().enumerate().filter(|(line, _)| line / world != line % world) {
            let (from, to) = (line / world, line % world);
            while let Some(outgoing) = rounds[from].next(to) {
                queue.push_back((rounds[from].frame(&outgoing), rounds[from].payload(&outgoing).to_vec()));
                rounds[from].sent(outgoing);
            }
            while let Some((frame, payload)) = queue.front() {
                let Accept::Take(ticket) = rounds[to].accept(from, frame).expect("expected") else { break };
                rounds[to].buffer(&ticket).copy_from_slice(payload);
                rounds[to].arrived(ticket);
                queue.pop_front();
            }
        }
    }
}

/// A micro-batch as the ranks of a world exchange and accumulate it.
fn exchange(ranks: &mut [Trainer], parts: &[Batch], bucket: usize) {
    let world = ranks.len();
    let plans: Vec<Plans> = (0..world)
        .map(|rank| Plans::new(Topology::new(rank, world, SHARDS).expect("valid"), Tuning::default()))
        .collect();
    let mut arenas: Vec<Arena> = (0..world).map(|_| Arena::default()).collect();
    let mut rounds: Vec<Round<'_, '_>> =
        plans.iter().zip(&mut arenas).map(|(plans, arena)| Round::new(plans, arena, 0)).collect();
    for (rank, (trainer, round)) in ranks.iter_mut().zip(&mut rounds).enumerate() {
        let part = held(&parts[rank], rank, world);
        trainer.exchange(&part, world, bucket, |number, op| round.submit(number, op)).expect("computes");
    }
    collect(&mut rounds);
    drop(rounds);
    ranks.iter_mut().for_each(|trainer| trainer.accumulate_exchanged().expect("whole"));
}

/// An exchange that a lost peer interrupts: all of rank 0's operations are submitted and what they lent is spoilt,
/// the others cannot submit their second one.
fn interrupted(ranks: &mut [Trainer], parts: &[Batch]) {
    let world = ranks.len();
    for (rank, trainer) in ranks.iter_mut().enumerate() {
        let mark = trainer.mark();
        let outcome = trainer.exchange(&held(&parts[rank], rank, world), world, 50, |number, op| {
            if rank > 0 && number == 1 {
                return Err("a lost peer");
            }
            match op {
                Op::AllReduce { nodes } => nodes.into_iter().for_each(|(_, values)| values.fill(f32::NAN)),
                Op::AllGather { values: Values::Bytes(bytes), .. } => bytes.fill(0xff),
                other => panic!("{other:?}"),
            }
            Ok(())
        });
        if rank > 0 {
            assert!(matches!(outcome, Err(Interrupted::Submit("a lost peer"))));
            assert_eq!(trainer.accumulate_exchanged().expect_err("not whole").kind(), ErrorKind::Value);
        } else {
            outcome.expect("taken");
        }
        trainer.back_to(mark).expect("no step since");
        assert_eq!(trainer.accumulate_exchanged().expect_err("forgotten").kind(), ErrorKind::Value);
    }
}

#[test]
fn buckets_and_worlds_agree_to_the_last_bit() {
    for config in every_model() {
        let batches: Vec<Batch> = (0..4).map(|seed| fit(&model(&config), batch(ROWS, seed + 1))).collect();
        // Steps of one, one and two micro-batches.
        let steps = [&batches[..1], &batches[1..2], &batches[2..]];
        let mut one = trainer(&config, 2);
        let alone = |step: &&[Batch]| {
            step.iter().for_each(|batch| one.accumulate(batch).expect("finite"));
            one.apply().expect("finite")
        };
        let expected: Vec<StepOutcome> = steps.iter().map(alone).collect();
        for (world, bucket) in [(1, 1), (1, 1 << 20), (2, 1), (2, 300), (2, 1 << 20), (3, 100), (8, 1 << 20)] {
            let mut ranks: Vec<Trainer> = (0..world).map(|rank| trainer(&config, 1 + rank % 2)).collect();
            for (number, step) in steps.iter().enumerate() {
                for batch in *step {
                    let parts = parts(batch, world);
                    if number == 1 {
                        interrupted(&mut ranks, &parts);
                    }
                    exchange(&mut ranks, &parts, bucket);
                }
                for trainer in &mut ranks {
                    assert_eq!(trainer.apply().expect("finite"), expected[number], "{config:?}, world {world}");
                }
            }
            for trainer in &ranks {
                let same = params_blake3(trainer.model()) == params_blake3(one.model());
                assert!(same, "{config:?}, world {world}, bucket {bucket}");
            }
        }
    }
}

#[test]
fn a_step_that_was_taken_is_not_taken_back() {
    let config = &every_model()[6];
    let mut one = trainer(config, 1);
    let (mark, batch) = (one.mark(), batch(ROWS, 1));
    one.step(&batch).expect("finite");
    assert_eq!(one.back_to(mark).expect_err("stepped on").kind(), ErrorKind::Value);
    let odd = RankBatch { batch: &batch, global_rows: ROWS, held: 0..SHARDS };
    let outcome = one.exchange(&odd, 2, 100, |_, _| Ok::<(), ()>(()));
    assert!(matches!(outcome, Err(Interrupted::Compute(Error::Value { .. }))));
}

#[test]
fn each_rank_finds_what_is_not_finite_in_its_own_part() {
    let config = &every_model()[6];
    let mut bad = batch(ROWS, 3);
    bad.features[3 * (ROWS - 2)] = f32::NAN;
    let parts = parts(&bad, 2);
    let mut ranks: Vec<Trainer> = (0..2).map(|_| trainer(config, 1)).collect();
    let marks: Vec<_> = ranks.iter().map(Trainer::mark).collect();
    exchange(&mut ranks, &parts, 100);
    for (rank, trainer) in ranks.iter_mut().enumerate() {
        assert!(matches!(trainer.apply(), Err(Error::Numeric { .. })), "of both ranks");
        let found = trainer.diagnose_part(&held(&parts[rank], rank, 2), marks[rank]).expect("runs");
        let named = found.map(|(_, samples)| samples);
        assert_eq!(named, (rank == 1).then(|| vec![bad.sample_ids[ROWS - 2]]));
    }
    let mut one = trainer(config, 1);
    let Err(Error::Numeric { samples, .. }) = one.step(&bad) else { panic!("not finite") };
    assert_eq!(samples, [bad.sample_ids[ROWS - 2]], "as one process names it");
}
