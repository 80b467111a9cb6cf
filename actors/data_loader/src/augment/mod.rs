//! Augmentation: rows of the training part as an epoch sees them. What becomes of a sample follows from
//! (seed, epoch, sample id) and from what was gathered when the data were prepared ([`gathered`]), so it is the
//! same for any number of ranks, data_loaders and threads, and wherever a batch is cut.

pub mod gathered;
pub mod image;
pub mod lane;
pub mod numbers;
pub mod sheet;
pub mod smote;
pub mod text;
pub mod translate;
pub mod wordnet;

use std::sync::{Arc, Mutex, PoisonError};

use frame::{Encoded, Encoder, Manifest};
use kernels::nn::PixelValues;
use kernels::pool::Pool;
use kernels::text::Packed;
use messages::WireError;
use messages::error::Code;
use messages::plan::AugmentationPlan;

use gathered::Gathered;
use image::Shape;
use lane::{Draws, Lane};
use text::Words;

/// Rows that one thread changes at once.
const GRAIN: usize = 32;

/// Texts behind each other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Texts {
    text: String,
    ends: Vec<usize>,
}

impl Texts {
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    pub fn get(&self, row: usize) -> &str {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.text[start..self.ends[row]]
    }

    pub fn append(&mut self, more: &Self) {
        let before = self.text.len();
        self.text.push_str(&more.text);
        self.ends.extend(more.ends.iter().map(|end| before + end));
    }

    /// Bytes in memory.
    pub fn size_bytes(&self) -> usize {
        self.text.len() + 8 * self.ends.len()
    }
}

/// Rows to take from: encoded, and with the texts that their tokens were made of.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    pub encoded: &'a Encoded,
    /// Empty where no text is changed.
    pub texts: &'a Texts,
}

/// Changes rows of one dataset version by one plan.
#[derive(Debug)]
pub struct Augmenter {
    plan: AugmentationPlan,
    gathered: Gathered,
    encoder: Arc<Encoder>,
}

impl Augmenter {
    /// Refuses a plan that asks for what was not gathered.
    pub fn new(
        plan: AugmentationPlan,
        gathered: Gathered,
        encoder: Arc<Encoder>,
        manifest: &Manifest,
    ) -> Result<Self, WireError> {
        let lacks = |what: &str| {
            let message =
                format!("this dataset version was prepared without {what}, which the job's augmentation needs");
            WireError::new(Code::DatasetValidationError, message).with_hint("prepare the data again with this plan")
        };
        if plan.perturbs() && gathered.spreads.len() != manifest.width() {
            return Err(lacks("the spreads of its features"));
        }
        if plan.uses_image(messages::plan::ImageMethod::Style) && gathered.styles.is_empty() {
            return Err(lacks("reference images"));
        }
        let mixed = encoder.text_column().is_none() && manifest.sequence.is_none();
        let indexed = manifest.features.iter().any(|f| matches!(f.encoding, frame::manifest::Encoding::Index { .. }));
        if plan.mixes() && (!mixed || indexed || manifest.outputs() > 1) {
            return Err(WireError::new(Code::ConfigError, "mixup mixes numbers and pixels of one target only"));
        }
        Ok(Self { plan, gathered, encoder })
    }

    /// Whether rows of other samples are needed.
    pub fn mixes(&self) -> bool {
        self.plan.mixes()
    }

    /// The row, among `rows` of which one stands at `row` in the dataset version, that this one may be mixed with.
    pub fn partner(&self, epoch: u32, row: u64, rows: u32) -> u32 {
        self.draws(epoch, row).of(Lane::MixupPartner).below(rows.max(1))
    }

    fn draws(&self, epoch: u32, sample: u64) -> Draws {
        Draws { seed: self.plan.seed, epoch: u64::from(epoch), sample }
    }

    /// The rows `picks` as this epoch sees them; `partners` are those that they may be mixed with, a row each.
    pub fn rows(
        &self,
        epoch: u32,
        from: Rows<'_>,
        picks: &[u32],
        partners: &[u32],
        pool: &Pool,
    ) -> Result<Encoded, WireError> {
        let mut rows = self.changed(epoch, from, picks, pool)?;
        if self.plan.mixes() {
            let mixed: Vec<(usize, f32)> = (0..rows.rows)
                .filter_map(|row| {
                    let draws = self.draws(epoch, rows.sample_ids[row]);
                    Some((row, numbers::share(self.plan.features.mixup, draws)?))
                })
                .collect();
            let wanted: Vec<u32> = mixed.iter().map(|&(row, _)| partners[row]).collect();
            let others = self.changed(epoch, from, &wanted, pool)?;
            for (other, &(row, share)) in mixed.iter().enumerate() {
                numbers::mix(&mut rows, row, &others, other, share);
            }
        }
        Ok(rows)
    }

    /// Everything but mixup.
    fn changed(&self, epoch: u32, from: Rows<'_>, picks: &[u32], pool: &Pool) -> Result<Encoded, WireError> {
        let done: Vec<Mutex<Option<Result<Encoded, WireError>>>> =
            picks.chunks(GRAIN).map(|_| Mutex::new(None)).collect();
        pool.parallel_for(picks.len(), GRAIN, |_, range| {
            let part = self.changed_part(epoch, from, &picks[range.clone()]);
            *done[range.start / GRAIN].lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
        });
        let mut rows = from.encoded.select(&[]);
        for part in done {
            let part = part.into_inner().unwrap_or_else(PoisonError::into_inner);
            let part = part.expect("invariant: every part of a parallel loop is done")?;
            rows.append(part).map_err(|e| WireError::new(Code::InternalError, e.to_string()))?;
        }
        Ok(rows)
    }

    fn changed_part(&self, epoch: u32, from: Rows<'_>, picks: &[u32]) -> Result<Encoded, WireError> {
        let mut rows = from.encoded.select(picks);
        if self.plan.changes_texts() {
            self.change_texts(epoch, &mut rows, from.texts, picks)?;
        }
        if self.plan.changes_images()
            && let Some(images) = &mut rows.inputs.images
            && let PixelValues::Bytes(bytes) = &mut images.pixels
        {
            let shape = Shape { channels: images.channels, height: images.height, width: images.width };
            for (pixels, &sample) in bytes.chunks_exact_mut(shape.size().max(1)).zip(&rows.sample_ids) {
                image::augment(pixels, shape, &self.plan.image, &self.gathered.styles, self.draws(epoch, sample));
            }
        }
        if self.plan.perturbs() {
            self.perturb(epoch, &mut rows);
        }
        Ok(rows)
    }

    fn change_texts(&self, epoch: u32, rows: &mut Encoded, texts: &Texts, picks: &[u32]) -> Result<(), WireError> {
        let Some(old) = rows.inputs.tokens.take() else { return Ok(()) };
        let words = Words { synonyms: &self.gathered.synonyms, translations: &self.gathered.translations };
        let mut new = Packed { ids: Vec::with_capacity(old.ids.len()), offsets: vec![0] };
        for (row, (&pick, &sample)) in picks.iter().zip(&rows.sample_ids).enumerate() {
            let draws = self.draws(epoch, sample);
            match text::augment(texts.get(pick as usize), &self.plan.text, words, draws) {
                Some(text) => self
                    .encoder
                    .encode_text(&text, &mut new.ids)
                    .map_err(|e| WireError::new(Code::InternalError, e.to_string()))?,
                None => new.ids.extend_from_slice(old.row(row)),
            }
            new.offsets.push(new.ids.len() as u32);
        }
        rows.inputs.tokens = Some(new);
        Ok(())
    }

    fn perturb(&self, epoch: u32, rows: &mut Encoded) {
        let (width, spreads) = (rows.width, &self.gathered.spreads);
        let of = |sample: u64| self.draws(epoch, sample);
        if let Some(steps) = &mut rows.inputs.steps {
            let mut rest = steps.values.as_mut_slice();
            for (ends, &sample) in steps.offsets.windows(2).zip(&rows.sample_ids) {
                let (own, others) = rest.split_at_mut((ends[1] - ends[0]) as usize * width);
                numbers::perturb(own, spreads, self.plan.features.perturbation, of(sample));
                rest = others;
            }
        } else {
            for (row, &sample) in rows.features.chunks_exact_mut(width.max(1)).zip(&rows.sample_ids) {
                numbers::perturb(row, spreads, self.plan.features.perturbation, of(sample));
            }
        }
    }
}
