//! Gradients of a model's answer with respect to what it reads: what adversarial examples (Goodfellow et al. 2015)
//! and integrated gradients (Sundararajan et al. 2017) are made of.

use super::inputs::Feed;
use super::model::Model;
use crate::error::Result;
use crate::pool::Pool;
use crate::tape::{InputGrad, Mode, Rows, Source, Tape, Workspace};
use std::ops::Range;

/// For each row of a feed the gradient of one of its outputs; empty where the model has no such input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputGradients {
    /// [rows, input_dim]
    pub features: Vec<f32>,
    /// [steps, columns], all rows' steps one after the other.
    pub steps: Vec<f32>,
    /// [rows, channels, height, width], per unit of a pixel as it was given: bytes count from 0 to 255.
    pub pixels: Vec<f32>,
    /// [tokens, hidden_size], all rows' tokens one after the other: with respect to the vector that a token is
    /// embedded as, which is the same for its token, position and type embedding.
    pub tokens: Vec<f32>,
}

/// Rows that are worked on at a time: memory does not grow with the feed.
const ROWS: usize = 128;

impl Model {
    /// Gradients of output `column` of each row, of the model as it answers: dropout off, running statistics used.
    /// They do not depend on the rows beside. `Value` error for a column that the model does not have, `Shape` error
    /// for a feed that does not fit.
    pub fn input_gradients(
        &self,
        feed: &Feed<'_>,
        column: usize,
        pool: &Pool,
        ws: &mut Workspace,
    ) -> Result<InputGradients> {
        let mut found = InputGradients::default();
        // A feed of no rows is checked all the same.
        for from in (0..feed.rows().max(1)).step_by(ROWS) {
            let rows = from..(from + ROWS).min(feed.rows());
            self.gradients_of_rows(feed, rows, column, pool, ws, &mut found)?;
        }
        Ok(found)
    }

    fn gradients_of_rows(
        &self,
        feed: &Feed<'_>,
        rows: Range<usize>,
        column: usize,
        pool: &Pool,
        ws: &mut Workspace,
        found: &mut InputGradients,
    ) -> Result<()> {
        let part = feed.part(rows.clone());
        let ids: Vec<u64> = rows.clone().map(|row| row as u64).collect();
        let of = Rows { count: rows.len(), sample_ids: &ids, mode: Mode::Explain, randomness: Default::default() };
        let mut tape = Tape::new(ws, self.params(), of)?;
        let output = self.forward(&mut tape, &part, InputGrad::Wanted)?;
        tape.forward_backward_of(pool, output, column)?;
        let plain = [
            (Source::Features, &mut found.features),
            (Source::Steps, &mut found.steps),
            (Source::Tokens, &mut found.tokens),
        ];
        for (source, out) in plain {
            if let Some((grad, ..)) = tape.read_grad(source) {
                out.extend_from_slice(grad);
            }
        }
        if let Some((grad, channels, factor)) = tape.read_grad(Source::Pixels) {
            // A row per pixel, a column per channel: back to a plane per channel.
            for image in grad.chunks_exact((grad.len() / rows.len().max(1)).max(1)) {
                for channel in 0..channels {
                    found.pixels.extend(image[channel..].iter().step_by(channels).map(|g| factor * g));
                }
            }
        }
        Ok(())
    }
}
