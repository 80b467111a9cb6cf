//! Largest or mean value per channel of windows over pixels. Padding takes no part in either: a mean
//! divides by the pixels that lie inside.

use super::conv::windows;
use super::image::Grid;
use super::{DeviceEnv, Env, GradStore, Op, Var};
use crate::cpu::conv::Windows;
use crate::cpu::gemm::Scratch;
use crate::cuda::{Argument, ITEMS, Launch};
use crate::error::{Error, Result};
use crate::tape::Tape;
use std::ops::Range;

/// What a window becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowPooling {
    Max,
    Average,
}

/// One recorded pooling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowPool {
    pub input: Var,
    pub output: Var,
    kind: WindowPooling,
    windows: Windows,
}

impl Tape<'_> {
    /// Pools square windows of the pixels of `grid`; gives the pixels of the returned grid. `padding` is at
    /// most half of `kernel`.
    pub fn pool2d(
        &mut self,
        x: Var,
        grid: Grid,
        kind: WindowPooling,
        (kernel, stride, padding): (usize, usize, usize),
    ) -> Result<(Var, Grid)> {
        let pixels = self.items(grid.pixels());
        if self.columns(x) != grid.channels || self.space(x) != pixels {
            let got = format!("{} columns of {:?}", self.columns(x), self.space(x));
            return Err(Error::shape("pool2d", format!("the pixels of {grid:?}"), got));
        }
        if padding > kernel / 2 {
            return Err(Error::shape("pool2d", format!("padding of at most {}", kernel / 2), padding.to_string()));
        }
        let windows = windows("pool2d", grid, [kernel; 2], stride, padding)?;
        let space = self.items(windows.count());
        let output = self.fresh_in(space, grid.channels)?;
        self.record(Op::Window(WindowPool { input: x, output, kind, windows }))?;
        Ok((output, Grid { height: windows.output[0], width: windows.output[1], channels: grid.channels }))
    }
}

impl WindowPool {
    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        let channels = self.windows.input.channels;
        for sample in samples {
            let one = sample..sample + 1;
            let x = env.rows(self.input, &env.rows_of(self.input, &one));
            let y = env.rows_mut(self.output, &env.rows_of(self.output, &one));
            for (window, y) in y.chunks_exact_mut(channels.max(1)).enumerate() {
                let mut seen = 0;
                y.fill(0.0);
                self.windows.runs(window, |_, pixel, len| {
                    for x in x[pixel * channels..][..len * channels].chunks_exact(channels) {
                        match self.kind {
                            WindowPooling::Average => y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
                            WindowPooling::Max if seen == 0 => y.copy_from_slice(x),
                            WindowPooling::Max => {
                                // NaN stays: it compares with nothing.
                                y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x > *y || x.is_nan() { *x } else { *y });
                            }
                        }
                        seen += 1;
                    }
                });
                if self.kind == WindowPooling::Average && seen > 0 {
                    let share = 1.0 / seen as f32;
                    y.iter_mut().for_each(|y| *y *= share);
                }
            }
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], _: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        let channels = self.windows.input.channels;
        for sample in samples {
            let one = sample..sample + 1;
            let (inputs, outputs) = (env.rows_of(self.input, &one), env.rows_of(self.output, &one));
            let (x, dx) = (env.rows(self.input, &inputs), env.grad_mut(self.input, &inputs));
            let (y, grad) = (env.rows(self.output, &outputs), env.grad(self.output, &outputs));
            if stores[0] == GradStore::Set {
                dx.fill(0.0);
            }
            for window in 0..self.windows.count() {
                let (y, grad) = (&y[window * channels..][..channels], &grad[window * channels..][..channels]);
                let mut inside = 0;
                self.windows.runs(window, |_, _, len| inside += len);
                let share = 1.0 / inside.max(1) as f32;
                for c in 0..channels {
                    let mut taken = false;
                    self.windows.runs(window, |_, pixel, len| {
                        for at in (pixel..pixel + len).map(|p| p * channels + c) {
                            if self.kind == WindowPooling::Average {
                                dx[at] += share * grad[c];
                            } else if !taken && (x[at] == y[c] || x[at].is_nan()) {
                                // The first of equals gets the gradient.
                                dx[at] += grad[c];
                                taken = true;
                            }
                        }
                    });
                }
            }
        }
    }
}

impl WindowPool {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let count = env.count(self.output);
        let arguments = [
            env.data(self.input),
            env.data(self.output),
            Argument::Word64(count),
            self.windows.argument()?,
            Argument::Word(u32::from(self.kind == WindowPooling::Max)),
        ];
        env.start("pool2d", ITEMS, "window_forward", Launch::over("pool2d", count, 256), &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let count = env.count(self.input);
        let arguments = [
            env.grad(self.output),
            env.data(self.input),
            env.data(self.output),
            env.grad(self.input),
            Argument::Word64(count),
            self.windows.argument()?,
            Argument::Word(u32::from(self.kind == WindowPooling::Max)),
            stores[0].argument(),
        ];
        env.start("pool2d", ITEMS, "window_backward", Launch::over("pool2d", count, 256), &arguments)
    }
}
