//! Training steps whose gradients meet in a group, on threads and over connections: the bits of one process, also
//! where a rank was lost in the middle of a step.

use kernels::nn::{Init, Inputs, MlpConfig, Model, ModelConfig};
use kernels::pool::Pool;
use kernels::shard::rows_of;
use kernels::train::{Batch, Interrupted, Mark, RankBatch, StepOutcome, Targets, TrainConfig, Trainer};
use kernels::weights::params_blake3;

use super::group_tests::{PATIENCE, SHARDS, gang, small, tcp};
use super::*;

const FEATURES: usize = 13;
const ROWS: usize = 41;
const STEPS: usize = 4;
/// Several buckets: the model has about 1,500 parameters.
const BUCKET: usize = 400;

fn trainer() -> Trainer {
    let mlp = MlpConfig { input_dim: FEATURES, hidden_layers: vec![40, 20], dropout: 0.4, ..MlpConfig::default() };
    let model = Model::new(&ModelConfig::Mlp(mlp), &Init::Default, 3).expect("valid");
    let config = TrainConfig { logical_shards: SHARDS, seed: 9, ..TrainConfig::default() };
    Trainer::new(model, config, std::sync::Arc::new(Pool::new(1))).expect("valid")
}

/// The rows of some shards of batch `step`.
fn rows(step: usize, shards: std::ops::Range<usize>) -> Batch {
    let rows = rows_of(shards.start, SHARDS, ROWS).start..rows_of(shards.end - 1, SHARDS, ROWS).end;
    let value = |i: usize| ((i * 37 + step * 101) as f32 * 0.61).sin();
    Batch {
        rows: rows.len(),
        features: (rows.start * FEATURES..rows.end * FEATURES).map(value).collect(),
        inputs: Inputs::default(),
        targets: Targets::Real(rows.clone().map(|row| value(row * FEATURES) * 2.0).collect()),
        weights: None,
        sample_ids: rows.map(|row| (step * ROWS + row) as u64).collect(),
    }
}

/// One step of a rank; where the exchange fails nothing has happened.
fn step(trainer: &mut Trainer, group: &mut Group, number: usize) -> Result<StepOutcome, Error> {
    let (mark, topology) = (trainer.mark(), group.topology());
    let held = topology.held(topology.rank);
    let batch = rows(number, held.clone());
    let part = RankBatch { batch: &batch, global_rows: ROWS, held };
    let met = meet(trainer, group, &part, topology.world);
    met.inspect_err(|_| trainer.back_to(mark).expect("no step since"))?;
    trainer.accumulate_exchanged().expect("whole");
    Ok(trainer.apply().expect("finite"))
}

fn meet(trainer: &mut Trainer, group: &mut Group, part: &RankBatch<'_>, world: usize) -> Result<(), Error> {
    let mut exchange = group.begin()?;
    let submitted = trainer.exchange(part, world, BUCKET, |bucket, op| exchange.submit(bucket, op));
    submitted.map_err(|why| match why {
        Interrupted::Submit(error) => error,
        Interrupted::Compute(error) => panic!("{error}"),
    })?;
    exchange.finish()
}

fn alone() -> (Vec<StepOutcome>, String) {
    let mut one = trainer();
    let outcomes = (0..STEPS).map(|number| one.step(&rows(number, 0..SHARDS)).expect("finite")).collect();
    (outcomes, params_blake3(one.model()))
}

#[test]
fn every_world_steps_to_the_bits_of_one_process() {
    let expected = alone();
    for world in [1, 2, 3, 8] {
        for groups in [Group::local(world, SHARDS, small(), PATIENCE).expect("valid"), tcp(world, PATIENCE)] {
            for got in gang(groups, |_, group| {
                let mut own = trainer();
                let outcomes = (0..STEPS).map(|number| step(&mut own, group, number).expect("all come")).collect();
                (outcomes, params_blake3(own.model()))
            }) {
                assert_eq!(got, expected, "world {world}");
            }
        }
    }
}

#[test]
fn a_step_that_lost_a_rank_is_repeated_by_the_others_with_the_same_bits() {
    const LOST: usize = 1;
    let expected = alone();
    for (three, two) in [(Group::local(3, SHARDS, small(), PATIENCE).expect("valid"), tcp(2, PATIENCE)), {
        (tcp(3, PATIENCE), Group::local(2, SHARDS, small(), PATIENCE).expect("valid"))
    }] {
        // Rank 1 leaves in the middle of the third step; ranks 0 and 2 are 0 and 1 of the next generation.
        let survivors = gang(three, |rank, group| {
            let mut own = trainer();
            let mut outcomes: Vec<StepOutcome> =
                (0..2).map(|number| step(&mut own, group, number).expect("all come")).collect();
            if rank == LOST {
                let topology = group.topology();
                let batch = rows(2, topology.held(rank));
                let part = RankBatch { batch: &batch, global_rows: ROWS, held: topology.held(rank) };
                let mut exchange = group.begin().expect("whole");
                let mut left = 3;
                let died = own.exchange(&part, 3, BUCKET, |bucket, op| {
                    left -= 1;
                    if left == 0 { Err(None) } else { exchange.submit(bucket, op).map_err(Some) }
                });
                assert!(died.is_err());
                return None;
            }
            let before: Mark = own.mark();
            let error = step(&mut own, group, 2).expect_err("rank 1 has left");
            assert_eq!(error.culprit().map(|peer| peer.rank), Some(LOST as u32), "{error}");
            assert_eq!(own.mark(), before);
            outcomes.truncate(2);
            Some((own, outcomes))
        });
        let survivors: Vec<_> = survivors.into_iter().flatten().collect();
        let survivors = std::sync::Mutex::new(survivors.into_iter().map(Some).collect::<Vec<_>>());
        for got in gang(two, |rank, group| {
            let (mut own, mut outcomes) = survivors.lock().expect("no panic")[rank].take().expect("once");
            outcomes.extend((2..STEPS).map(|number| step(&mut own, group, number).expect("all come")));
            (outcomes, params_blake3(own.model()))
        }) {
            assert_eq!(got, expected);
        }
    }
}
