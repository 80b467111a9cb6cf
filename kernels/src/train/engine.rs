//! The engine proper: forward, backward, the sum over shards, clipping, the optimizer's step.

use super::ahead::{Ahead, Next};
use super::batch::{Batch, RankBatch};
use super::partial::{Handed, Partial, total};
use crate::buffer::AlignedBuf;
use crate::cpu::reduce::add_assign;
use crate::cuda::Machine;
use crate::dtype::{LossScaleConfig, LossScaler, Precision};
use crate::error::{Error, Result};
use crate::nn::Model;
use crate::ops::loss::{Loss, LossConfig, LossSum};
use crate::ops::{Randomness, Var};
use crate::optim::clip::norm;
use crate::optim::device::{DeviceStep, Treatment};
use crate::optim::{
    ClipConfig, EmaConfig, Extras, Optimizer, OptimizerConfig, ParamGroup, Schedule, SchedulerConfig, StepGradient,
};
use crate::pool::Pool;
use crate::shard::{MAX_SHARDS, nodes_of, rows_of};
use crate::tape::{HeldShards, InputGrad, Mode, Rows, Tape, Workspace};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    #[serde(default)]
    pub scheduler: SchedulerConfig,
    pub loss: LossConfig,
    #[serde(default)]
    pub clip: ClipConfig,
    /// Parameters with a learning rate or decay of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParamGroup>,
    /// An average of the weights beside them ([`Trainer::averaged_model`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<EmaConfig>,
    /// What weights and gradients are rounded to; [`crate::dtype`] says where.
    #[serde(default)]
    pub precision: Precision,
    /// Used with f16.
    #[serde(default)]
    pub loss_scale: LossScaleConfig,
    /// Into how many shards a global batch is cut, whatever the number of ranks.
    #[serde(default = "eight")]
    pub logical_shards: usize,
    /// Seed of dropout.
    #[serde(default)]
    pub seed: u64,
}

fn eight() -> usize {
    8
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            optimizer: OptimizerConfig::default(),
            scheduler: SchedulerConfig::default(),
            loss: LossConfig::Mse,
            clip: ClipConfig::default(),
            groups: Vec::new(),
            ema: None,
            precision: Precision::F32,
            loss_scale: LossScaleConfig::default(),
            logical_shards: eight(),
            seed: 0,
        }
    }
}

/// What an optimizer step did.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StepOutcome {
    /// Mean loss of the global batch, before the step.
    pub loss: f64,
    /// L2 norm of the mean gradient, before clipping.
    pub grad_norm: f64,
    /// Rows of the global batch.
    pub rows: usize,
    /// The rate that the step used.
    pub learning_rate: f64,
    /// Steps taken so far, this one included.
    pub step: u64,
    /// The gradient overflowed f16: nothing was changed but the loss scale (and running statistics, which are of the
    /// forward pass), and this is no step.
    #[serde(default)]
    pub skipped: bool,
}

/// A model under training.
pub struct Trainer {
    pub(super) model: Model,
    pub(super) config: TrainConfig,
    pub(super) pool: Arc<Pool>,
    pub(super) optimizer: Optimizer,
    pub(super) schedule: Schedule,
    /// With f16 only.
    pub(super) scaler: Option<LossScaler>,
    pub(super) epoch: u64,
    /// Global batches and micro-batches seen: addresses dropout.
    pub(super) micro_step: u64,
    pub(super) pending: Pending,
    ws: Workspace,
    /// Where steps are taken, if it is not the CPU.
    pub(super) device: Option<Box<DeviceStep>>,
    /// The batch that comes next, where there is a device to bring it to.
    ahead: Option<Box<Ahead>>,
    /// The geometry of the last batch, and its gradients per held node.
    geometry: Option<(std::ops::Range<usize>, usize, HeldShards)>,
    gradients: Vec<AlignedBuf>,
    losses: Vec<LossSum>,
    pub(super) handed: Handed,
    pub(super) squares: Vec<AtomicU64>,
}

/// What a rank's part is computed into.
pub(super) struct Workings<'t> {
    pub(super) pool: &'t Pool,
    pub(super) gradients: &'t mut [AlignedBuf],
    losses: &'t mut Vec<LossSum>,
    pub(super) handed: &'t mut Handed,
    ahead: Option<&'t mut Ahead>,
    recipe: Recipe<'t>,
}

impl Workings<'_> {
    /// While a device does what the tape asks of it the next batch goes up; then the part's losses are waited for.
    pub fn bring_next(&mut self, tape: &mut Tape<'_>) -> Result<()> {
        tape.begin_on_device()?;
        if let Some(ahead) = &mut self.ahead {
            ahead.bring(&self.recipe);
        }
        tape.losses_from_device()
    }
}

/// Gradients summed since the last step.
pub(super) struct Pending {
    pub(super) gradient: AlignedBuf,
    pub(super) loss: LossSum,
    pub(super) micro_batches: u64,
}

impl Trainer {
    /// Takes a model. `Value` errors name the setting that is out of range.
    pub fn new(mut model: Model, config: TrainConfig, pool: Arc<Pool>) -> Result<Trainer> {
        config.loss.validate(model.output_dim())?;
        config.clip.validate()?;
        if !(1..=MAX_SHARDS).contains(&config.logical_shards) {
            return Err(Error::value("train", format!("logical_shards in 1..={MAX_SHARDS}"), config.logical_shards));
        }
        let extras = Extras { groups: &config.groups, ema: config.ema.as_ref(), precision: config.precision };
        let optimizer = Optimizer::new(&config.optimizer, &extras, model.params_mut())?;
        let scaler = LossScaler::new(&config.loss_scale)?;
        let scaler = (config.precision == Precision::F16).then_some(scaler);
        let schedule = Schedule::new(&config.scheduler, config.optimizer.learning_rate())?;
        let gradient = AlignedBuf::zeroed(model.params().flat_len())?;
        Ok(Trainer {
            model,
            config,
            pool,
            optimizer,
            schedule,
            scaler,
            epoch: 0,
            micro_step: 0,
            pending: Pending { gradient, loss: LossSum::default(), micro_batches: 0 },
            ws: Workspace::default(),
            device: None,
            ahead: None,
            geometry: None,
            gradients: Vec::new(),
            losses: Vec::new(),
            handed: Handed::default(),
            squares: Vec::new(),
        })
    }

    /// Computes gradients and takes steps on this machine from now on.
    pub fn on_machine(mut self, machine: Arc<dyn Machine>) -> Trainer {
        self.device = Some(Box::new(DeviceStep::new(machine.clone())));
        self.ahead = Some(Box::new(Ahead::new(machine.clone())));
        self.ws = Workspace::on(machine);
        self.round_on_device(1);
        self
    }

    /// Whether it computes on a machine, to which batches may be brought ahead.
    pub fn is_on_machine(&self) -> bool {
        self.ahead.is_some()
    }

    /// Tells the workspace what its device rounds to, and the scale of the losses of a global batch of so many rows: as
    /// losses are summed there, that of their mean by the number of rows, to a power of two.
    fn round_on_device(&mut self, rows: usize) {
        let of_sum = |scale: f32| scale / rows.next_power_of_two() as f32;
        self.ws.round_on_device(self.config.precision, self.loss_scale().map_or(1.0, of_sum));
    }

    /// Brings the state from the device that it is trained on to the host, where there is one: before the parameters
    /// of [`Trainer::model`] are looked at. What gives copies or files does so by itself.
    pub fn settle(&mut self) -> Result<()> {
        let Some(device) = &mut self.device else { return Ok(()) };
        if device.fetch(&mut self.optimizer, self.model.params_mut())? { self.lend() } else { Ok(()) }
    }

    /// Lets the workspace use the device's weights, which become those of the host where those are newer.
    fn lend(&mut self) -> Result<()> {
        if let Some(device) = &mut self.device {
            let address = device.send(&self.optimizer, self.model.params())?;
            self.ws.lend(self.model.params().version(), address);
        }
        Ok(())
    }

    /// The model; its parameters as they stand, after [`Trainer::settle`].
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Ends training.
    ///
    /// # Errors
    /// Those of the device.
    pub fn into_model(mut self) -> Result<Model> {
        self.settle()?;
        Ok(self.model)
    }

    /// How it trains.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Optimizer steps taken.
    pub fn global_step(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Epochs ended.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.schedule.learning_rate()
    }

    /// Buffers ever allocated for steps: constant while batches of one size repeat.
    pub fn allocations(&self) -> u64 {
        self.ws.allocations() + self.device.as_ref().map_or(0, |device| device.allocations())
    }

    /// This batch comes after the one that is stepped on next: it is brought to the device while that computes. One that
    /// does not come after all is forgotten. On the CPU there is nothing to bring.
    pub fn expect(&mut self, next: &Arc<Batch>) {
        self.expect_part(next, next.rows, 0..self.config.logical_shards);
    }

    /// The same of a rank's part, as [`RankBatch`] says it.
    pub fn expect_part(&mut self, next: &Arc<Batch>, global_rows: usize, held: std::ops::Range<usize>) {
        if let Some(ahead) = &mut self.ahead {
            ahead.expect(Next { batch: next.clone(), global_rows, held });
        }
    }

    /// One optimizer step on a global batch that this process holds whole.
    pub fn step(&mut self, batch: &Batch) -> Result<StepOutcome> {
        self.accumulate(batch)?;
        match self.apply() {
            Err(Error::Numeric { op, step, samples }) => {
                // The parameters are untouched, so the batch can be run again to find the culprit.
                self.micro_step -= 1;
                let found = self.diagnose(batch)?;
                self.micro_step += 1;
                let (op, samples) = found.unwrap_or((op, samples));
                Err(Error::Numeric { op, step, samples })
            }
            other => other,
        }
    }

    /// Adds a global batch (or a micro-batch of one) to the gradient of the next step. Sums are weighed by
    /// the samples' weights, so a short last micro-batch counts for what it holds.
    pub fn accumulate(&mut self, batch: &Batch) -> Result<()> {
        let shards = self.config.logical_shards;
        self.compute(&RankBatch { batch, global_rows: batch.rows, held: 0..shards }, true)?;
        let loss = total(&self.losses);
        if !loss.sum.is_finite() {
            self.micro_step -= 1;
            let found = self.diagnose(batch)?;
            self.micro_step += 1;
            self.discard();
            let (op, samples) = found.unwrap_or_else(|| (format!("loss {}", self.config.loss.name()), Vec::new()));
            return Err(Error::Numeric { op, step: self.global_step(), samples });
        }
        self.take_root(loss, true)
    }

    /// Adds the root, which stands in the first gradient, to the next step. `stays`: that of the device, if there is one.
    pub(super) fn take_root(&mut self, loss: LossSum, stays: bool) -> Result<()> {
        let first = self.pending.micro_batches == 0;
        match (&mut self.device, self.ws.first_gradient()) {
            (Some(device), Some(root)) if stays => device.take(root, self.pending.gradient.len(), first)?,
            (Some(device), _) => device.take_host(&self.gradients[0], first)?,
            (None, _) if first => std::mem::swap(&mut self.pending.gradient, &mut self.gradients[0]),
            (None, _) => add_assign(&mut self.pending.gradient, &self.gradients[0]),
        }
        self.pending.loss.merge(loss);
        self.pending.micro_batches += 1;
        Ok(())
    }

    /// A rank's part of a global batch: gradients of whole nodes of the shard tree and the losses of the
    /// held shards.
    pub fn partial(&mut self, batch: &RankBatch<'_>) -> Result<Partial> {
        self.compute(batch, false)?;
        let (_, _, held) = self.geometry.as_ref().expect("invariant: set by `compute`");
        let nodes = held.nodes.iter().zip(&self.gradients).map(|(node, gradient)| (*node, gradient.to_vec())).collect();
        Ok(Partial { nodes, losses: batch.held.clone().zip(self.losses.iter().copied()).collect() })
    }

    /// Adds the completed root of a global batch, and the losses of all its shards in order, to the next step.
    pub fn accumulate_root(&mut self, root: &[f32], losses: &[LossSum]) -> Result<()> {
        if root.len() != self.pending.gradient.len() || losses.len() != self.config.logical_shards {
            let expected =
                format!("a gradient of {} and {} losses", self.pending.gradient.len(), self.config.logical_shards);
            return Err(Error::shape("accumulate root", expected, format!("{} and {}", root.len(), losses.len())));
        }
        let first = self.pending.micro_batches == 0;
        match &mut self.device {
            Some(device) => device.take_host(root, first)?,
            None if first => self.pending.gradient.copy_from_slice(root),
            None => add_assign(&mut self.pending.gradient, root),
        }
        self.pending.loss.merge(total(losses));
        self.pending.micro_batches += 1;
        Ok(())
    }

    /// Drops what was accumulated.
    pub fn discard(&mut self) {
        self.handed.whole = false;
        self.pending.loss = LossSum::default();
        self.pending.micro_batches = 0;
    }

    /// The optimizer's step with the mean gradient of what was accumulated. A loss or gradient that is not
    /// finite changes nothing and is a `Numeric` error; so is, as `Value`, a batch that weighs nothing.
    pub fn apply(&mut self) -> Result<StepOutcome> {
        let sum = self.pending.loss;
        let Some(loss) = sum.mean() else {
            self.discard();
            return Err(Error::value("step", "a batch whose weights sum above 0", sum.weight));
        };
        self.discard();
        self.lend()?;
        self.absorb_statistics(loss)?;
        let mut grad_norm = self.norm()? / sum.weight;
        if loss.is_finite() && !grad_norm.is_finite() && self.overflowed() {
            let (learning_rate, step) = (self.learning_rate(), self.global_step());
            return Ok(StepOutcome { loss, grad_norm, rows: sum.rows, learning_rate, step, skipped: true });
        }
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(Error::Numeric { op: self.broken_gradient()?, step: self.global_step(), samples: Vec::new() });
        }
        let learning_rate = self.learning_rate();
        let mut outcome =
            StepOutcome { loss, grad_norm, rows: sum.rows, learning_rate, step: self.global_step(), skipped: false };
        let mut divisor = sum.weight;
        if self.config.precision != Precision::F32 {
            if !self.round_gradient(divisor)? {
                return Ok(StepOutcome { skipped: true, ..outcome });
            }
            divisor = 1.0;
            grad_norm = self.norm()?;
        }
        self.move_weights(self.config.clip.coefficient(grad_norm) / divisor, learning_rate)?;
        self.schedule.on_step();
        (outcome.grad_norm, outcome.step) = (grad_norm, self.global_step());
        Ok(outcome)
    }

    /// L2 norm of what is accumulated.
    fn norm(&mut self) -> Result<f64> {
        match &mut self.device {
            Some(device) => device.norm(self.pending.gradient.len()),
            None => Ok(norm(&self.pending.gradient, &self.pool, &mut self.squares)),
        }
    }

    /// The optimizer's step with `factor` times what is accumulated, its elements then bounded.
    fn move_weights(&mut self, factor: f64, learning_rate: f64) -> Result<()> {
        let max_value = self.config.clip.max_value;
        let params = self.model.params_mut();
        let Some(device) = &mut self.device else {
            let gradient = StepGradient { sum: &self.pending.gradient, factor, max_value };
            self.optimizer.step(params, gradient, learning_rate, &self.pool);
            return Ok(());
        };
        device.step(&mut self.optimizer, params, Treatment { factor, max_value }, learning_rate)?;
        self.lend()
    }

    /// Averages what the batch saw into running statistics, where the model has them and all is finite.
    fn absorb_statistics(&mut self, loss: f64) -> Result<()> {
        /// How far a running statistic moves towards a batch's.
        const MOMENTUM: f32 = 0.1;
        if !(self.model.params().has_statistics() && loss.is_finite()) {
            return Ok(());
        }
        let params = self.model.params_mut();
        if let Some(device) = &mut self.device {
            // A sum of squares of f32 does not overflow f64.
            if device.norm(self.pending.gradient.len())?.is_finite() {
                device.absorb(&mut self.optimizer, params, MOMENTUM)?;
                self.lend()?;
            }
        } else if self.pending.gradient.iter().all(|g| g.is_finite()) {
            params.absorb_statistics(&mut self.pending.gradient, MOMENTUM);
            self.optimizer.follow_statistics(self.model.params());
        }
        Ok(())
    }

    /// The first parameter whose summed gradient is not finite.
    fn broken_gradient(&mut self) -> Result<String> {
        if let Some(device) = &self.device {
            device.gradient(&mut self.pending.gradient)?;
        }
        let parts =
            self.model.params().entries().iter().map(|param| (param, &self.pending.gradient[param.range.clone()]));
        let broken = parts.into_iter().find(|(_, gradient)| !gradient.iter().all(|g| g.is_finite()));
        Ok(broken.map_or_else(|| "norm of the gradient".into(), |(param, _)| format!("gradient of {}", param.name)))
    }

    /// The loss of a batch, without dropout and gradients.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<LossSum> {
        evaluate(&self.model, &self.config.loss, batch, &self.pool, &mut self.ws)
    }

    /// The same of another model of the same shape, such as [`Trainer::averaged_model`].
    pub fn evaluate_model(&mut self, model: &Model, batch: &Batch) -> Result<LossSum> {
        evaluate(model, &self.config.loss, batch, &self.pool, &mut self.ws)
    }

    /// The loss of a batch and the raw outputs [rows, output_dim] that it is of: of another model of the same
    /// shape, or of the one under training.
    pub fn validate(&mut self, other: Option<&Model>, batch: &Batch) -> Result<(LossSum, Vec<f32>)> {
        let model = other.unwrap_or(&self.model);
        loss_and_outputs(model, &self.config.loss, batch, &self.pool, &mut self.ws)
    }

    /// An epoch ended: schedules that count epochs move on; `metric` is what `reduce_on_plateau` watches.
    pub fn end_epoch(&mut self, metric: Option<f64>) -> Result<()> {
        self.schedule.on_epoch(metric)?;
        self.epoch += 1;
        Ok(())
    }

    fn randomness(&self) -> Randomness {
        Randomness { seed: self.config.seed, epoch: self.epoch, step: self.micro_step as u32 }
    }

    /// Forward, backward, the held nodes' gradients and the losses of the held shards. `stay`: gradients that a device
    /// has computed are not copied to the host.
    fn compute(&mut self, part: &RankBatch<'_>, stay: bool) -> Result<()> {
        let stay = stay && self.device.is_some();
        let (mut tape, held, mut workings) = self.ask_part(part)?;
        if stay {
            tape.param_gradients_stay(held)?;
        }
        workings.bring_next(&mut tape)?;
        if !stay {
            tape.param_gradients(workings.pool, held, workings.gradients)?;
        }
        workings.losses.clear();
        workings.losses.extend(held.bounds.windows(2).map(|w| tape.loss_sum(w[0]..w[1])));
        Ok(())
    }

    /// Forward and backward of a part, for which a device is asked: [`Workings::bring_next`] waits for them. What is left
    /// are its gradients.
    pub(super) fn ask_part<'t: 'a, 'a>(
        &'t mut self,
        part: &'a RankBatch<'_>,
    ) -> Result<(Tape<'a>, &'t HeldShards, Workings<'t>)> {
        part.check(self.config.logical_shards)?;
        self.set_geometry(part)?;
        self.lend()?;
        self.round_on_device(part.global_rows);
        let (batch, randomness) = (part.batch, self.randomness());
        self.handed.whole = false;
        let (_, _, held) = self.geometry.as_ref().expect("invariant: set above");
        let recipe = Recipe { model: &self.model, config: &self.config };
        let (mut tape, output) = recipe.record(&mut self.ws, batch, &held.bounds, randomness)?;
        if let Some(ahead) = &mut self.ahead {
            ahead.hand_to(&mut tape, part);
        }
        tape.ask_forward_backward(&self.pool, output, &recipe.loss(batch))?;
        self.micro_step += 1;
        let (gradients, losses, handed) = (&mut self.gradients[..], &mut self.losses, &mut self.handed);
        let ahead = self.ahead.as_deref_mut();
        Ok((tape, held, Workings { pool: &self.pool, gradients, losses, handed, ahead, recipe }))
    }

    /// Row bounds of the held shards and a gradient per held node, kept while batches have one size.
    fn set_geometry(&mut self, part: &RankBatch<'_>) -> Result<()> {
        if matches!(&self.geometry, Some((held, rows, _)) if *held == part.held && *rows == part.global_rows) {
            return Ok(());
        }
        let held = geometry(part, self.config.logical_shards);
        self.gradients.truncate(held.nodes.len());
        while self.gradients.len() < held.nodes.len() {
            self.gradients.push(AlignedBuf::zeroed(self.model.params().flat_len())?);
        }
        self.geometry = Some((part.held.clone(), part.global_rows, held));
        Ok(())
    }

    /// Runs a batch again, one operation after the other, and names the first whose result is not finite
    /// and the samples concerned; `None` where every value is finite. Changes nothing.
    pub fn diagnose(&mut self, batch: &Batch) -> Result<Option<(String, Vec<u64>)>> {
        self.diagnose_at(&RankBatch { batch, global_rows: batch.rows, held: 0..self.config.logical_shards })
    }

    /// The same of a part, at the step that comes next.
    pub(super) fn diagnose_at(&mut self, part: &RankBatch<'_>) -> Result<Option<(String, Vec<u64>)>> {
        self.settle()?;
        let broken = self.model.params().iter().find(|(_, values)| !values.iter().all(|v| v.is_finite()));
        if let Some((param, _)) = broken {
            return Ok(Some((format!("parameter {}", param.name), Vec::new())));
        }
        part.check(self.config.logical_shards)?;
        let (batch, randomness) = (part.batch, self.randomness());
        self.set_geometry(part)?;
        let (_, _, held) = self.geometry.as_ref().expect("invariant: set above");
        // Values are looked at one by one: on the CPU, whatever this trains on.
        let mut aside = self.ws.machine().map(|_| Workspace::default());
        let ws = aside.as_mut().unwrap_or(&mut self.ws);
        let recipe = Recipe { model: &self.model, config: &self.config };
        let (mut tape, output) = recipe.record(ws, batch, &held.bounds, randomness)?;
        let loss = recipe.loss(batch);
        tape.forward_backward(&self.pool, output, &loss)?;
        Ok(tape.find_not_finite(output, &loss))
    }
}

fn evaluate(model: &Model, config: &LossConfig, batch: &Batch, pool: &Pool, ws: &mut Workspace) -> Result<LossSum> {
    loss_and_outputs(model, config, batch, pool, ws).map(|(sum, _)| sum)
}

fn loss_and_outputs(
    model: &Model,
    config: &LossConfig,
    batch: &Batch,
    pool: &Pool,
    ws: &mut Workspace,
) -> Result<(LossSum, Vec<f32>)> {
    let loss = Loss { config, targets: &batch.targets, weights: batch.weights.as_deref() };
    loss.check(batch.rows, model.output_dim(), &batch.sample_ids)?;
    let columns = model.output_dim();
    let outputs = model.predict_feed(&batch.feed(), pool, ws)?;
    let mut sums = vec![[0.0; 2]; batch.rows];
    loss.rows(0..batch.rows, columns, &outputs, &mut [], &mut sums);
    let [sum, weight] = sums.iter().fold([0.0; 2], |[s, w], [loss, weight]| [s + loss, w + weight]);
    Ok((LossSum { sum, weight, rows: batch.rows }, outputs))
}

/// What is trained, and how.
#[derive(Clone, Copy)]
pub(super) struct Recipe<'r> {
    pub model: &'r Model,
    pub config: &'r TrainConfig,
}

impl<'r> Recipe<'r> {
    /// The forward pass of a batch, recorded for training.
    pub fn record<'a>(
        &self,
        ws: &'a mut Workspace,
        batch: &'a Batch,
        shards: &[usize],
        randomness: Randomness,
    ) -> Result<(Tape<'a>, Var)>
    where
        'r: 'a,
    {
        let rows = Rows { count: batch.rows, sample_ids: &batch.sample_ids, mode: Mode::Train, randomness };
        let mut tape = Tape::new(ws, self.model.params(), rows)?;
        tape.set_shards(shards);
        let output = self.model.forward(&mut tape, &batch.feed(), InputGrad::Skip)?;
        Ok((tape, output))
    }

    pub fn loss<'a>(&self, batch: &'a Batch) -> Loss<'a>
    where
        'r: 'a,
    {
        Loss { config: &self.config.loss, targets: &batch.targets, weights: batch.weights.as_deref() }
    }
}

/// Row bounds of the held shards, and the nodes of the tree that they make up.
pub(super) fn geometry(part: &RankBatch<'_>, shards: usize) -> HeldShards {
    let at =
        |shard: usize| if shard == shards { part.global_rows } else { rows_of(shard, shards, part.global_rows).start };
    let first_row = at(part.held.start);
    let bounds = (part.held.start..=part.held.end).map(|shard| at(shard) - first_row).collect();
    HeldShards { nodes: nodes_of(part.held.clone(), shards), bounds, first: part.held.start }
}
