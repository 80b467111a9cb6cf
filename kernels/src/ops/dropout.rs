//! Inverted dropout (Srivastava et al. 2014): during training an element is zero with probability p, else
//! scaled by 1 / (1 - p). Which ones is addressed by (seed, layer, epoch, sample id, step).

use super::{DeviceEnv, Env, GradStore, Op, Var};
use crate::cpu;
use crate::cpu::gemm::Scratch;
use crate::cuda::machine::word;
use crate::cuda::{self, Argument, Launch};
use crate::error::{Error, Result};
use crate::philox::{Key, Stream};
use crate::tape::Tape;
use std::ops::Range;

/// One recorded dropout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub input: Var,
    pub output: Var,
    mask: Var,
    rate: f32,
    lane: u32,
}

impl Tape<'_> {
    /// Drops elements of x with probability `rate` in [0, 1); `lane` tells layers apart. In evaluation, and
    /// at rate 0, this is x itself.
    pub fn dropout(&mut self, x: Var, rate: f32, lane: u32) -> Result<Var> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::value("dropout", "a rate in [0, 1)", rate));
        }
        if rate == 0.0 || !self.is_training() {
            return Ok(x);
        }
        let (output, mask) = (self.fresh_like(x, self.columns(x))?, self.fresh_like(x, self.columns(x))?);
        self.record(Op::Dropout(Dropout { input: x, output, mask, rate, lane }))?;
        Ok(output)
    }
}

impl Dropout {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, scratch: &mut Scratch) {
        let random = env.randomness;
        let key = Key::new(random.seed, Stream::Dropout).lane(self.lane).epoch(random.epoch).words();
        for sample in samples {
            // The items of a sample are one run of numbers.
            let rows = env.rows_of(self.output, &(sample..sample + 1));
            let (mask, y) = (env.rows_mut(self.mask, &rows), env.rows_mut(self.output, &rows));
            let (x, id) = (env.rows(self.input, &rows), env.sample_ids[sample]);
            cpu::dropout::row(x, self.rate, key, id, random.step, mask, y, &mut scratch.words);
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        let rows = env.rows_of(self.output, &samples);
        let (grad, mask) = (env.grad(self.output, &rows), env.rows(self.mask, &rows));
        match stores[0] {
            GradStore::Skip => {}
            GradStore::Set => cpu::dropout::set_masked(grad, mask, env.grad_mut(self.input, &rows)),
            GradStore::Add => cpu::dropout::add_masked(grad, mask, env.grad_mut(self.input, &rows)),
        }
    }
}

impl Dropout {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        self.start(env, env.data(self.input), env.data(self.output), Argument::Word(0))
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        self.start(env, env.grad(self.output), env.grad(self.input), stores[0].argument())
    }

    /// The words are asked for again on the way back; the mask stays unused.
    fn start(&self, env: &mut DeviceEnv<'_>, from: Argument, to: Argument, add: Argument) -> Result<()> {
        let columns = env.columns(self.output);
        let (below, scale) = cuda::dropout::threshold(self.rate);
        let arguments = [
            from,
            to,
            env.offsets(self.output),
            env.sample_ids(),
            Argument::Word64(env.samples as u64),
            Argument::Word(word("dropout", columns)?),
            env.random(),
            Argument::Word(Stream::Dropout as u32),
            Argument::Word(self.lane),
            Argument::Word(below),
            Argument::Float(scale),
            add,
        ];
        let blocks = (env.longest(self.output) * columns).div_ceil(4);
        let launch = Launch::over_samples("dropout", env.samples as u64, blocks as u64);
        env.start("dropout", cuda::DROPOUT, "dropout", launch, &arguments)
    }
}
