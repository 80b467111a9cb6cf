//! One optimizer step of this rank: its part of each micro-batch, the exchange with the other ranks,
//! and the update. [`Engine::exchange`] is the one place where ranks meet.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frame::Encoded;
use kernels::collective::{Op, Values};
use kernels::cuda::Machine;
use kernels::nn::Model;
use kernels::pool::Pool;
use kernels::shard::shards_of;
use kernels::train::{Batch, Interrupted, Mark, RankBatch, StepOutcome, Targets, Trainer};
use kernels::weights::pretrained::{self, Family};
use messages::WireError;
use messages::error::{Class, Code};
use messages::plan::Task;

use super::gang::{Gang, Said, Samples};
use super::mapping::{Recipe, config_error};
use super::source::SourceBatch;
use crate::error::Error;
use crate::exchange::{Devices, Failed, Group};
use crate::link::Doing;
use crate::vitals::Vitals;

/// Prefix of the text encoder's parameters.
const TEXT_ENCODER: &str = "text.";
/// Numbers of a bucket of gradients, which is summed while those of earlier layers are computed: 1 MiB.
const BUCKET_ELEMENTS: usize = 1 << 18;
/// The same where devices sum them: 16 MiB.
const DEVICE_BUCKET_ELEMENTS: usize = 1 << 22;
/// The operation that carries what the ranks say to each other; gradients count from 0.
const SAID: u32 = u32::MAX;
/// Bytes of what a rank found where a step was not finite.
const FOUND: usize = 512;

/// A rank's model under training.
pub struct Engine {
    trainer: Trainer,
    task: Task,
    shards: usize,
    /// What all ranks said with the last micro-batch, by seat.
    said: Vec<Said>,
    /// Computing time of the last step, without waiting for others.
    computed: Duration,
}

/// A batch as `kernels` takes it; shared, as a device may get it ahead of its step.
#[derive(Debug, Clone)]
pub struct Fed {
    pub epoch: u32,
    pub batch: u64,
    /// Rows of the whole group's batch.
    pub global_rows: usize,
    pub rows: Arc<Batch>,
}

/// Why a step was not taken. Nothing has changed.
#[derive(Debug)]
pub enum StepError {
    Failed(WireError),
    /// The group is over.
    Exchange(Error),
}

impl StepError {
    fn of(error: &kernels::Error, step: u64, at: (u32, u64)) -> Self {
        Self::Failed(step_error(error, step, at))
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stepped {
    pub outcome: StepOutcome,
    /// Of all ranks.
    pub samples: Samples,
}

impl Engine {
    pub fn new(recipe: Recipe, task: Task, threads: u32) -> Result<Self, WireError> {
        let shards = recipe.train.logical_shards;
        let pool = Arc::new(Pool::new(threads.max(1) as usize));
        let mut model = kernels::nn::Model::new(&recipe.model, &recipe.init, recipe.init_seed)
            .map_err(|e| config_error("model", &e))?;
        if let Some((family, weights)) = &recipe.pretrained {
            begin_with(&mut model, *family, weights)?;
        }
        let trainer = Trainer::new(model, recipe.train, pool).map_err(|e| config_error("training", &e))?;
        Ok(Self { trainer, task, shards, said: Vec::new(), computed: Duration::ZERO })
    }

    /// The same with gradients computed on this machine.
    pub fn on(self, machine: Option<Arc<dyn Machine>>) -> Self {
        match machine {
            Some(machine) => Self { trainer: self.trainer.on_machine(machine), ..self },
            None => self,
        }
    }

    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    pub fn trainer_mut(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    /// What all ranks said with the last micro-batch, by seat.
    pub fn said(&self) -> &[Said] {
        &self.said
    }

    /// Computing time of the last step.
    pub fn computed(&self) -> Duration {
        self.computed
    }

    /// The model that is validated and announced: the average of the weights, where one is kept.
    ///
    /// # Errors
    /// Those of the device.
    pub fn announced(&mut self) -> kernels::Result<Cow<'_, Model>> {
        if let Some(average) = self.trainer.averaged_model()? {
            return Ok(Cow::Owned(average));
        }
        self.trainer.settle()?;
        Ok(Cow::Borrowed(self.trainer.model()))
    }

    /// The batch as `kernels` takes it.
    pub fn batch(&self, rows: Encoded) -> Batch {
        Batch {
            rows: rows.rows,
            features: rows.features,
            inputs: rows.inputs,
            targets: match self.task {
                Task::Regression | Task::BinaryClassification => Targets::Real(rows.targets),
                Task::Multiclass => Targets::Class(rows.targets.iter().map(|&class| class as u32).collect()),
            },
            weights: rows.weights,
            sample_ids: rows.sample_ids,
        }
    }

    /// The same of one that has come.
    pub fn fed(&self, batch: SourceBatch) -> Fed {
        let SourceBatch { epoch, batch, global_rows, rows, .. } = batch;
        Fed { epoch, batch, global_rows: global_rows as usize, rows: Arc::new(self.batch(rows)) }
    }

    /// One optimizer step over the micro-batches, `coming` being the batch after them, where it is there; `own` is what
    /// this rank says, but for its samples. After an error nothing is left half-accumulated, and the step can be taken
    /// again.
    pub fn step(
        &mut self,
        micro_batches: &[Fed],
        coming: Option<&Fed>,
        gang: &mut Gang,
        own: Said,
        vitals: &Vitals,
    ) -> Result<Stepped, StepError> {
        let at = micro_batches.first().map_or((0, 0), |b| (b.epoch, b.batch));
        vitals.now(Doing::ComputingGradients);
        let (step, mark) = (self.trainer.global_step(), self.trainer.mark());
        let seat = gang.seat as usize;
        let (mut samples, mut computed) = (Samples::default(), Duration::ZERO);
        let after = |n: usize| micro_batches.get(n + 1).or(coming);
        let outcome = match (&mut gang.group, micro_batches) {
            (None, [only]) => {
                samples.add(Samples::of(&only.rows.sample_ids));
                self.bring(after(0), (0, 1));
                self.trainer.step(&only.rows)
            }
            (None, several) => several
                .iter()
                .enumerate()
                .try_for_each(|(n, micro_batch)| {
                    samples.add(Samples::of(&micro_batch.rows.sample_ids));
                    self.bring(after(n), (0, 1));
                    self.trainer.accumulate(&micro_batch.rows)
                })
                .and_then(|()| self.trainer.apply()),
            (Some(group), micro_batches) => {
                let mut last = None;
                for (n, micro_batch) in micro_batches.iter().enumerate() {
                    let before = self.trainer.mark();
                    let (batch, global_rows) = (&micro_batch.rows, micro_batch.global_rows);
                    let own = Said { samples: Samples::of(&batch.sample_ids), ..own };
                    self.bring(after(n), (seat, group.topology().world));
                    let ways = (&mut *group, gang.devices.as_deref_mut());
                    if let Err(error) = self.exchange(ways, seat, batch, global_rows, own, (&mut computed, vitals)) {
                        self.abandon(mark);
                        return Err(match error {
                            Interrupted::Compute(error) => StepError::of(&error, step, at),
                            Interrupted::Submit(error) => StepError::Exchange(error),
                        });
                    }
                    self.said.iter().for_each(|said| samples.add(said.samples));
                    last = Some((&**batch, global_rows, before));
                }
                match self.trainer.apply() {
                    Err(kernels::Error::Numeric { op, step, samples }) => {
                        let found = last.and_then(|last| self.diagnose(group, seat, last));
                        let (op, samples) = found.unwrap_or((op, samples));
                        Err(kernels::Error::Numeric { op, step, samples })
                    }
                    other => other,
                }
            }
        };
        self.computed = computed;
        match outcome {
            Ok(outcome) => Ok(Stepped { outcome, samples }),
            Err(error) => Err(StepError::of(&error, step, at)),
        }
    }

    /// Has a device get a batch while it computes the one before, for the part of a seat in a world.
    fn bring(&mut self, next: Option<&Fed>, (seat, world): (usize, usize)) {
        if let Some(next) = next {
            let held = self.held(seat, world);
            self.trainer.expect_part(&next.rows, next.global_rows, held);
        }
    }

    /// Forgets a step that was interrupted.
    fn abandon(&mut self, mark: Mark) {
        self.trainer.back_to(mark).unwrap_or_else(|e| unreachable!("invariant: the step was not taken: {e}"));
    }

    /// This rank's part of a micro-batch, summed with the others' along the tree: the same bits for every world,
    /// because the tree is indexed by shard.
    fn exchange(
        &mut self,
        (group, devices): (&mut Group, Option<&mut Devices>),
        seat: usize,
        batch: &Batch,
        global_rows: usize,
        own: Said,
        (computed, vitals): (&mut Duration, &Vitals),
    ) -> Result<(), Interrupted<Error>> {
        let world = group.topology().world;
        let mut said = vec![0; world * Said::BYTES];
        own.write(&mut said[seat * Said::BYTES..][..Said::BYTES]);
        let bounds = (0..=world).map(|at| at * Said::BYTES).collect();
        let part = RankBatch { batch, global_rows, held: self.held(seat, world) };
        let begun = Instant::now();
        let mut exchange = group.begin().map_err(Interrupted::Submit)?;
        exchange
            .submit(SAID, Op::AllGather { values: Values::Bytes(&mut said), bounds })
            .map_err(Interrupted::Submit)?;
        match devices {
            None => {
                self.trainer.exchange(&part, world, BUCKET_ELEMENTS, |bucket, op| exchange.submit(bucket, op))?;
                *computed += begun.elapsed();
            }
            Some(devices) => {
                let shared = RefCell::new(&mut exchange);
                let (submitted, summed) = (&shared, &shared);
                let handed_over = self.trainer.exchange_on_device(
                    &part,
                    world,
                    DEVICE_BUCKET_ELEMENTS,
                    |bucket, op| Ok(submitted.borrow_mut().submit(bucket, op)?),
                    |bucket| devices.begin(bucket, &mut summed.borrow_mut()),
                );
                *computed += begun.elapsed();
                handed_over.map_err(of_devices)?;
                vitals.now(Doing::SummingGradients);
                devices.finish(&mut exchange).map_err(|failed| of_devices(Interrupted::Submit(failed)))?;
            }
        }
        vitals.now(Doing::SummingGradients);
        exchange.finish().map_err(Interrupted::Submit)?;
        vitals.now(Doing::TakingStep);
        self.trainer.accumulate_exchanged().map_err(Interrupted::Compute)?;
        self.said.clear();
        self.said.extend(said.chunks_exact(Said::BYTES).map(Said::read));
        Ok(())
    }

    /// The logical shards of a seat.
    fn held(&self, seat: usize, world: usize) -> Range<usize> {
        shards_of(seat, world, self.shards)
    }

    /// What was not finite, and the samples, of the last micro-batch: each rank looks at its part, and the first
    /// that finds something speaks for all.
    fn diagnose(
        &mut self,
        group: &mut Group,
        seat: usize,
        (batch, global_rows, mark): (&Batch, usize, Mark),
    ) -> Option<(String, Vec<u64>)> {
        let world = group.topology().world;
        let part = RankBatch { batch, global_rows, held: self.held(seat, world) };
        let own = self.trainer.diagnose_part(&part, mark).ok().flatten();
        let mut found = vec![0u8; world * FOUND];
        if let Some((op, samples)) = own {
            let few: Vec<u64> = samples.into_iter().take(16).collect();
            let text = serde_json::to_vec(&(op.chars().take(100).collect::<String>(), few)).unwrap_or_default();
            if text.len() < FOUND {
                found[seat * FOUND..][..text.len()].copy_from_slice(&text);
            }
        }
        // The error stands whether or not the others can still be asked.
        let bounds = (0..=world).map(|at| at * FOUND).collect();
        group.all_gather(Values::Bytes(&mut found), bounds).ok()?;
        found.chunks_exact(FOUND).find_map(|one| {
            let text: Vec<u8> = one.iter().copied().take_while(|&byte| byte != 0).collect();
            serde_json::from_slice(&text).ok()
        })
    }
}

/// What stopped an exchange of devices, as if it had been one over TCP.
fn of_devices(stopped: Interrupted<Failed>) -> Interrupted<Error> {
    match stopped {
        Interrupted::Compute(error) | Interrupted::Submit(Failed::Device(error)) => Interrupted::Compute(error),
        Interrupted::Submit(Failed::Exchange(error)) => Interrupted::Submit(error),
    }
}

/// Puts a pretrained encoder's weights into the model's text encoder.
fn begin_with(model: &mut Model, family: Family, weights: &[u8]) -> Result<(), WireError> {
    let wrong = |e: &kernels::Error| WireError::new(Code::ModelInvalid, format!("data.text.pretrained: {e}"));
    let imported = pretrained::import(model, TEXT_ENCODER, family, weights).map_err(|e| wrong(&e))?;
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    tracing::info!(
        "pretrained encoder: {} tensors taken; without a place in the model: {}; not in the file: {}",
        imported.taken,
        list(&imported.unknown),
        list(&imported.missing)
    );
    Ok(())
}

/// An error of a step as it goes to the coordinator: where it happened, and what can be done.
pub fn step_error(error: &kernels::Error, step: u64, (epoch, batch): (u32, u64)) -> WireError {
    use kernels::ErrorKind;
    let place = format!("step {} (epoch {}, batch {})", step + 1, epoch + 1, batch + 1);
    match error.kind() {
        ErrorKind::Numeric => WireError::new(Code::NumericError, format!("{place}: {error}")).with_hint(
            "lower training.optimizer.learning_rate, set training.clip_grad_norm, or look at the named samples",
        ),
        ErrorKind::OutOfMemory => WireError::new(Code::OutOfMemory, format!("{place}: {error}"))
            .with_hint("lower training.batch_size or the model's size"),
        ErrorKind::Device | ErrorKind::Library | ErrorKind::Compile => {
            WireError::new(Code::DeviceError, format!("{place}: {error}"))
        }
        // A target or weight that the loss does not take is the data's fault.
        ErrorKind::Value => WireError::new(Code::TrainingError, format!("{place}: {error}")).with_class(Class::Data),
        _ => WireError::new(Code::TrainingError, format!("{place}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::collective::Tuning;
    use kernels::nn::{Init, MlpConfig, ModelConfig};
    use kernels::train::{LossConfig, TrainConfig};

    fn engine() -> Engine {
        let model = ModelConfig::Mlp(MlpConfig { input_dim: 3, hidden_layers: vec![5], ..MlpConfig::default() });
        let train = TrainConfig { loss: LossConfig::Mse, ..TrainConfig::default() };
        let recipe = Recipe { model, init: Init::Default, init_seed: 1, train, pretrained: None };
        Engine::new(recipe, Task::Regression, 1).expect("valid")
    }

    fn rows(n: usize) -> Encoded {
        Encoded {
            rows: n,
            width: 3,
            features: (0..3 * n).map(|i| (i as f32 * 0.37).sin()).collect(),
            targets: (0..n).map(|i| i as f32 * 0.1).collect(),
            sample_ids: (0..n as u64).collect(),
            ..Encoded::default()
        }
    }

    fn batch(rows: Encoded, global_rows: u32, first_row: u32) -> SourceBatch {
        SourceBatch { epoch: 0, batch: 0, global_rows, first_row, end_of_epoch: false, rows }
    }

    fn alone(rows: Encoded) -> Result<(Stepped, String), WireError> {
        let mut engine = engine();
        let n = rows.rows as u32;
        let batch = engine.fed(batch(rows, n, 0));
        match engine.step(&[batch], None, &mut Gang::new(None), Said::default(), &Vitals::default()) {
            Ok(stepped) => Ok((stepped, kernels::weights::params_blake3(engine.trainer().model()))),
            Err(StepError::Failed(error)) => Err(error),
            Err(StepError::Exchange(error)) => panic!("{error}"),
        }
    }

    /// What a rank's step came to: what it did, the parameters' hash, and what all said.
    type OfRank = Result<(Stepped, String, Vec<Said>), WireError>;

    /// The same step by so many ranks, each in a thread of its own.
    fn together(rows: &Encoded, world: usize) -> Vec<OfRank> {
        let groups = Group::local(world, 8, Tuning::default(), Duration::from_secs(20)).expect("groups");
        let n = rows.rows;
        std::thread::scope(|scope| {
            let ranks: Vec<_> = groups
                .into_iter()
                .enumerate()
                .map(|(seat, group)| {
                    scope.spawn(move || {
                        let mut engine = engine();
                        let held = shards_of(seat, world, 8);
                        let from = kernels::shard::rows_of(held.start, 8, n).start;
                        let to = kernels::shard::rows_of(held.end - 1, 8, n).end;
                        let indices: Vec<u32> = (from as u32..to as u32).collect();
                        let mut gang = Gang::new(None);
                        (gang.seat, gang.group) = (seat as u32, Some(group));
                        let own = Said { drains: seat == 1, ..Said::default() };
                        let part = engine.fed(batch(rows.select(&indices), n as u32, from as u32));
                        match engine.step(&[part], None, &mut gang, own, &Vitals::default()) {
                            Ok(stepped) => {
                                let hash = kernels::weights::params_blake3(engine.trainer().model());
                                Ok((stepped, hash, engine.said().to_vec()))
                            }
                            Err(StepError::Failed(error)) => Err(error),
                            Err(StepError::Exchange(error)) => panic!("{error}"),
                        }
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn every_world_gives_the_bits_of_one_process() {
        // The second has shards without rows.
        for n in [20, 5] {
            let (expected, hash) = alone(rows(n)).expect("steps");
            assert_eq!(expected.samples, Samples::of(&(0..n as u64).collect::<Vec<_>>()));
            for world in [2, 3, 8] {
                for result in together(&rows(n), world) {
                    let (stepped, own, said) = result.expect("steps");
                    assert_eq!((stepped, &own), (expected, &hash), "{n} rows, world {world}");
                    assert_eq!(said.iter().map(|s| s.drains).collect::<Vec<_>>()[..2], [false, true]);
                }
            }
        }
    }

    #[test]
    fn a_step_that_is_not_finite_names_step_and_samples_on_every_rank() {
        let mut bad = rows(16);
        bad.features[3 * 13] = f32::NAN;
        let error = alone(bad.clone()).expect_err("not finite");
        assert_eq!(error.code, Code::NumericError);
        assert!(error.message.contains("step 1") && error.message.contains("13"), "{}", error.message);
        for result in together(&bad, 3) {
            let error = result.expect_err("not finite");
            assert_eq!(error.code, Code::NumericError);
            assert!(error.message.contains("step 1") && error.message.contains("13"), "{}", error.message);
        }
    }
}
