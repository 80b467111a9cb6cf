//! Loops of convolutions and window pooling over pixels with contiguous channels.

use super::simd;
use crate::cuda::Argument;
use crate::cuda::machine::word;
use crate::error::{Error, Result};
use crate::ops::image::Grid;
use std::ops::Range;

/// Windows over a grid: where each begins and what of it lies inside. Parts outside are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    pub input: Grid,
    pub kernel: [usize; 2],
    pub stride: usize,
    pub padding: usize,
    /// Windows per column and per row.
    pub output: [usize; 2],
}

impl Windows {
    /// As kernels of a device take it. Their places are counted in 32 bits with a sign.
    pub(crate) fn argument(&self) -> Result<Argument> {
        let Grid { height, width, channels } = self.input;
        let [rows, columns] = self.kernel;
        let sizes = [height, width, channels, rows, columns, self.stride, self.padding, self.output[0], self.output[1]];
        let reach = [height, width].into_iter().map(|size| size.saturating_add(2 * self.padding)).max().unwrap_or(0);
        if reach > i32::MAX as usize {
            return Err(Error::value("windows", "an image side below 2^31 on a device", reach));
        }
        let mut words = [0; 9];
        for (to, size) in words.iter_mut().zip(sizes) {
            *to = word("windows", size)?;
        }
        Ok(Argument::Words(words))
    }

    /// Windows per image.
    pub(crate) fn count(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Elements of one window.
    pub(crate) fn elements(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.input.channels
    }

    /// The first row or column of a window in the grid, negative in the padding.
    fn begin(&self, window: usize) -> isize {
        (window * self.stride) as isize - self.padding as isize
    }

    /// Offsets within the kernel that lie inside a grid of `size`, for a window that begins at `begin`.
    fn inside(begin: isize, kernel: usize, size: usize) -> Range<usize> {
        let from = (-begin).clamp(0, kernel as isize) as usize;
        let to = (size as isize - begin).clamp(from as isize, kernel as isize) as usize;
        from..to
    }

    /// Calls `visit` with each run of pixels of a window that lies inside: (offset of the run in the window,
    /// first pixel in the image, pixels), both counted in pixels.
    #[inline(always)]
    pub(crate) fn runs(&self, window: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let (top, left) = (self.begin(window / self.output[1]), self.begin(window % self.output[1]));
        let columns = Windows::inside(left, self.kernel[1], self.input.width);
        if columns.is_empty() {
            return;
        }
        for row in Windows::inside(top, self.kernel[0], self.input.height) {
            let pixel = (top + row as isize) as usize * self.input.width + (left + columns.start as isize) as usize;
            visit(row * self.kernel[1] + columns.start, pixel, columns.len());
        }
    }
}

/// Rows `windows` (counted over all images) of the matrix whose row is a window: kernel rows, kernel
/// columns, channels. `x` holds all images.
pub(crate) fn unfold(w: &Windows, x: &[f32], windows: Range<usize>, out: &mut [f32]) {
    let (count, channels, elements) = (w.count(), w.input.channels, w.elements());
    let image_len = w.input.pixels() * channels;
    for (window, row) in windows.zip(out.chunks_exact_mut(elements)) {
        let image = &x[window / count * image_len..][..image_len];
        if w.padding > 0 {
            row.fill(0.0);
        }
        w.runs(window % count, |at, pixel, len| {
            let (from, to) =
                (&image[pixel * channels..][..len * channels], &mut row[at * channels..][..len * channels]);
            to.copy_from_slice(from);
        });
    }
}

/// Adds the windows' gradients to the images' pixels.
pub(crate) fn fold(w: &Windows, windows: Range<usize>, grads: &[f32], dx: &mut [f32]) {
    let (count, channels, elements) = (w.count(), w.input.channels, w.elements());
    let image_len = w.input.pixels() * channels;
    for (window, row) in windows.zip(grads.chunks_exact(elements)) {
        let image = &mut dx[window / count * image_len..][..image_len];
        w.runs(window % count, |at, pixel, len| {
            let (to, from) =
                (&mut image[pixel * channels..][..len * channels], &row[at * channels..][..len * channels]);
            to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
        });
    }
}

/// One channel range of grouped windows: the windows of a single group, [kernel, channels of the group].
pub(crate) fn pick_group(w: &Windows, unfolded: &[f32], group: Range<usize>, out: &mut Vec<f32>) {
    out.clear();
    for pixel in unfolded.chunks_exact(w.input.channels) {
        out.extend_from_slice(&pixel[group.clone()]);
    }
}

simd! {
    /// Where every channel is a group of its own: each window's sums over the kernel, a chain per channel begun at
    /// zero, as the product has it. `weights` are [kernel, channels], as the windows lie.
    pub(crate) fn each_channel(unfolded: &[f32], weights: &[f32], channels: usize, y: &mut [f32]) {
        for (window, y) in unfolded.chunks_exact(weights.len()).zip(y.chunks_exact_mut(channels)) {
            y.fill(0.0);
            for (x, w) in window.chunks_exact(channels).zip(weights.chunks_exact(channels)) {
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = x.mul_add(*w, *y);
                }
            }
        }
    }
}

simd! {
    /// The gradient of the windows from that of their sums.
    pub(crate) fn each_channel_back(grad: &[f32], weights: &[f32], channels: usize, unfolded: &mut [f32]) {
        for (window, g) in unfolded.chunks_exact_mut(weights.len()).zip(grad.chunks_exact(channels)) {
            for (x, w) in window.chunks_exact_mut(channels).zip(weights.chunks_exact(channels)) {
                for ((x, g), w) in x.iter_mut().zip(g).zip(w) {
                    *x = g.mul_add(*w, 0.0);
                }
            }
        }
    }
}

simd! {
    /// Adds to `sums` [kernel, channels] the gradient of the weights: a chain per weight over the windows.
    pub(crate) fn each_channel_weights(grad: &[f32], unfolded: &[f32], channels: usize, sums: &mut [f32]) {
        for (window, g) in unfolded.chunks_exact(sums.len()).zip(grad.chunks_exact(channels)) {
            for (sum, x) in sums.chunks_exact_mut(channels).zip(window.chunks_exact(channels)) {
                for ((sum, g), x) in sum.iter_mut().zip(g).zip(x) {
                    *sum = g.mul_add(*x, *sum);
                }
            }
        }
    }
}
