//! Examples of what augmentation does, on the first samples of the training part: a page, and the pictures of each
//! method as files. Shown is each method for certain, then what the plan's probabilities make of it.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use frame::manifest::Encoding;
use messages::WireError;
use messages::error::Code;
use messages::feed::Split;
use messages::plan::{AugmentationPlan, Chance, ImageAugmentation, ImageMethod, TextMethod};
use report::png::{self, Pixels};
use report::{Image, Page, Section, Table, number, percent};

use super::image::{self, Shape};
use super::lane::Draws;
use super::text::{self, Words};
use super::{gathered::Gathered, numbers};
use crate::prepare::Prepared;

/// Samples that are shown.
const SAMPLES: usize = 8;
/// Ways in which each is changed.
const EPOCHS: u32 = 5;
/// Pictures are enlarged to at least so many dots a side.
const SIDE: usize = 64;
/// Quantities that are shown of a row.
const QUANTITIES: usize = 8;

/// A page, and the pictures in it by file name.
#[derive(Debug, Clone)]
pub struct Sheet {
    pub html: String,
    pub pictures: Vec<(String, Vec<u8>)>,
}

/// Makes the examples of a prepared job.
pub fn sheet(prepared: &Prepared, plan: &AugmentationPlan, name: &str) -> Result<Sheet, WireError> {
    let samples = prepared.rows(Split::Train).min(SAMPLES);
    let table = prepared.table(Split::Train, 0..samples)?;
    let (batch, gathered) = (table.batch(), prepared.gathered());
    let mut page = Page::new(format!("Augmentation of {name}")).lead(format!(
        "The first {samples} samples of the training part, seed {}. What an epoch makes of a \
         sample is the same in every run.",
        plan.seed
    ));
    let mut pictures = Vec::new();
    for feature in prepared.features() {
        match feature.encoding {
            Encoding::Image { channels, height, width } if plan.changes_images() => {
                let shape = Shape { channels: channels as usize, height: height as usize, width: width as usize };
                let images = images(batch, &feature.column)?;
                page = page.section(image_section(plan, gathered, shape, &images, table.sample_ids(), &mut pictures));
            }
            Encoding::Text { .. } if plan.changes_texts() => {
                page = page.section(text_section(plan, gathered, &texts(batch, &feature.column)?, table.sample_ids()));
            }
            _ => {}
        }
    }
    if plan.perturbs() {
        page = page.section(number_section(prepared, plan, batch)?);
    }
    if plan.mixes() {
        page = page.section(mixup_section(plan, table.sample_ids()));
    }
    if !gathered.synthetic.is_empty() {
        page = page.section(synthetic_section(gathered));
    }
    Ok(Sheet { html: page.html(), pictures })
}

fn lost(column: &str) -> WireError {
    WireError::new(Code::InternalError, format!("column {column:?} was not kept"))
}

fn images(batch: &RecordBatch, column: &str) -> Result<Vec<Vec<u8>>, WireError> {
    let array = batch.column_by_name(column).and_then(|column| column.as_fixed_size_binary_opt());
    let array = array.ok_or_else(|| lost(column))?;
    Ok((0..array.len()).map(|row| array.value(row).to_vec()).collect())
}

fn texts(batch: &RecordBatch, column: &str) -> Result<Vec<String>, WireError> {
    let array = batch.column_by_name(column).and_then(|column| column.as_string_opt::<i32>());
    let array = array.ok_or_else(|| lost(column))?;
    Ok((0..array.len()).map(|row| array.value(row).to_owned()).collect())
}

fn draws(plan: &AugmentationPlan, epoch: u32, sample: u64) -> Draws {
    Draws { seed: plan.seed, epoch: u64::from(epoch), sample }
}

fn image_section(
    plan: &AugmentationPlan,
    gathered: &Gathered,
    shape: Shape,
    images: &[Vec<u8>],
    ids: &[u64],
    pictures: &mut Vec<(String, Vec<u8>)>,
) -> Section {
    let mut sheets = Vec::new();
    let mut show = |name: &str, text: String, certain: &ImageAugmentation| {
        let mut sheet = Grid::new(shape, EPOCHS as usize + 1, images.len());
        for (row, (image, &id)) in images.iter().zip(ids).enumerate() {
            sheet.put(0, row, image);
            for epoch in 0..EPOCHS {
                let mut changed = image.clone();
                image::augment(&mut changed, shape, certain, &gathered.styles, draws(plan, epoch, id));
                sheet.put(epoch as usize + 1, row, &changed);
            }
        }
        if let Some(png) = sheet.png() {
            pictures.push((format!("{name}.png"), png.clone()));
            let columns =
                std::iter::once("as it is".to_owned()).chain((0..EPOCHS).map(|epoch| format!("epoch {epoch}")));
            sheets.push(Image::new(name, text, png).columns(columns));
        }
    };
    show("all", "As training sees them: all methods, each with its probability.".into(), &plan.image);
    for method in ImageMethod::ALL.into_iter().filter(|&method| plan.uses_image(method)) {
        let (prob, text) = described(&plan.image, method);
        let text = format!("{text}. Shown for certain, in training with probability {}.", number(prob));
        show(method.as_str(), text, &certain(&plan.image, method));
    }
    Section::new("Images").text("Each line is a sample: as it is, then as five epochs see it.").images(sheets)
}

/// Probability of a method, and what it does.
fn described(plan: &ImageAugmentation, method: ImageMethod) -> (f64, String) {
    let of = |chance: Chance, text: &dyn Fn(String) -> String| (chance.prob, text(percent(chance.range)));
    let in_units = |chance: Chance, text: &dyn Fn(String) -> String| (chance.prob, text(number(chance.range)));
    match method {
        ImageMethod::Crop => of(plan.crop, &|share| format!("A part of at least {share} of the area, enlarged")),
        ImageMethod::Rotation => in_units(plan.rotation, &|degrees| format!("Turned by up to {degrees} degrees")),
        ImageMethod::Flip => (plan.flip.prob, "Left and right change places".into()),
        ImageMethod::Brightness => of(plan.brightness, &|share| format!("Up to {share} darker or lighter")),
        ImageMethod::Contrast => of(plan.contrast, &|share| format!("Up to {share} less or more contrast")),
        ImageMethod::Saturation => of(plan.saturation, &|share| format!("Colors up to {share} paler or stronger")),
        ImageMethod::Hue => of(plan.hue, &|share| format!("Colors turned by up to {share} of the color circle")),
        ImageMethod::Style => {
            (plan.style.prob, format!("Up to {} of the colors of a reference image", percent(plan.style.range)))
        }
        ImageMethod::Blur => in_units(plan.blur, &|width| format!("Blurred over up to {width} pixels")),
        ImageMethod::Noise => of(plan.noise, &|share| format!("Noise of up to {share} of the whole range")),
        ImageMethod::Cutout => of(plan.cutout, &|share| format!("A square of up to {share} of the side is covered")),
    }
}

/// The plan with one method, which always happens.
fn certain(plan: &ImageAugmentation, method: ImageMethod) -> ImageAugmentation {
    let mut plan = ImageAugmentation { methods: vec![method], ..plan.clone() };
    let all = [
        &mut plan.crop,
        &mut plan.rotation,
        &mut plan.brightness,
        &mut plan.contrast,
        &mut plan.saturation,
        &mut plan.hue,
        &mut plan.blur,
        &mut plan.noise,
        &mut plan.cutout,
    ];
    for chance in all {
        chance.prob = 1.0;
    }
    (plan.flip.prob, plan.style.prob) = (1.0, 1.0);
    plan
}

/// Between pictures: told from white and from black ones, on light and dark pages.
const GAP: u8 = 128;

/// Images beside each other, enlarged dot by dot.
struct Grid {
    shape: Shape,
    scale: usize,
    columns: usize,
    rows: usize,
    dots: usize,
    bytes: Vec<u8>,
}

impl Grid {
    fn new(shape: Shape, columns: usize, rows: usize) -> Self {
        let scale = SIDE.div_ceil(shape.height.max(shape.width)).max(1);
        let dots = if shape.channels == 3 { 3 } else { 1 };
        let (width, height) = (columns * (shape.width * scale + 2), rows * (shape.height * scale + 2));
        Self { shape, scale, columns, rows, dots, bytes: vec![GAP; width * height * dots] }
    }

    fn width(&self) -> usize {
        self.columns * (self.shape.width * self.scale + 2)
    }

    /// Of an image with other than three channels the first is shown.
    fn put(&mut self, column: usize, row: usize, pixels: &[u8]) {
        let Shape { height, width, .. } = self.shape;
        let (left, top) = (column * (width * self.scale + 2) + 1, row * (height * self.scale + 2) + 1);
        let line = self.width();
        for y in 0..height * self.scale {
            for x in 0..width * self.scale {
                for dot in 0..self.dots {
                    let from = dot * height * width + y / self.scale * width + x / self.scale;
                    self.bytes[((top + y) * line + left + x) * self.dots + dot] = pixels[from];
                }
            }
        }
    }

    fn png(&self) -> Option<Vec<u8>> {
        let kind = if self.dots == 3 { Pixels::Rgb } else { Pixels::Gray };
        let height = self.rows * (self.shape.height * self.scale + 2);
        png::encode(u32::try_from(self.width()).ok()?, u32::try_from(height).ok()?, kind, &self.bytes)
    }
}

fn text_section(plan: &AugmentationPlan, gathered: &Gathered, texts: &[String], ids: &[u64]) -> Section {
    let words = Words { synonyms: &gathered.synonyms, translations: &gathered.translations };
    let shown = |changed: Option<String>| changed.unwrap_or_else(|| "(unchanged)".into());
    let mut section = Section::new("Texts").text(format!(
        "A text is changed with probability {}, by one of: {}. {} words of the training part have synonyms. First what \
         training sees, then each method as if it were the one.",
        number(plan.text.prob),
        plan.text.methods.iter().map(|method| method.as_str().replace('_', " ")).collect::<Vec<_>>().join(", "),
        number(gathered.synonyms.len() as f64)
    ));
    let rows = texts.iter().zip(ids).flat_map(|(text, &id)| {
        (0..EPOCHS).filter_map(move |epoch| {
            let changed = text::augment(text, &plan.text, words, draws(plan, epoch, id))?;
            Some(vec![epoch.to_string(), text.clone(), changed])
        })
    });
    let caption = format!("As training sees them, where the first {EPOCHS} epochs change them");
    let table = Table::new(["Epoch", "Text", "Becomes"], rows.collect());
    section = section.table(table.caption(caption).numbers([0]));
    for method in TextMethod::ALL.into_iter().filter(|&method| plan.uses_text(method)) {
        let rows = texts.iter().zip(ids).map(|(text, &id)| {
            vec![text.clone(), shown(text::apply(method, text, &plan.text, words, draws(plan, 0, id)))]
        });
        let becomes = format!("Becomes by {}", method.as_str().replace('_', " "));
        section = section.table(Table::new(["Text".to_owned(), becomes], rows.collect()));
    }
    section
}

fn number_section(prepared: &Prepared, plan: &AugmentationPlan, batch: &RecordBatch) -> Result<Section, WireError> {
    let failed = |e: frame::Error| WireError::new(Code::InternalError, e.to_string());
    let encoder = prepared.encoder(prepared.features())?;
    let rows = encoder.encode(batch).map_err(failed)?;
    let spreads = &prepared.gathered().spreads;
    let certain = Chance { prob: 1.0, ..plan.features.perturbation };
    let mut lines = Vec::new();
    for (row, &id) in rows.features.chunks_exact(rows.width.max(1)).zip(&rows.sample_ids) {
        let mut changed = row.to_vec();
        numbers::perturb(&mut changed, spreads, certain, draws(plan, 0, id));
        let quantities = (0..row.len()).filter(|&at| spreads.get(at).is_some_and(|spread| *spread > 0.0));
        for at in quantities.take(QUANTITIES) {
            lines.push(vec![
                format!("{id:x}"),
                prepared.feature_names()[at].clone(),
                number(f64::from(row[at])),
                number(f64::from(changed[at])),
            ]);
        }
    }
    let text = format!(
        "Noise of {} standard deviations of each quantity, with probability {}. Values are as encoded.",
        number(plan.features.perturbation.range),
        number(plan.features.perturbation.prob)
    );
    let table = Table::new(["sample", "feature", "value", "becomes"], lines).numbers([2, 3]);
    Ok(Section::new("Perturbation").text(text).table(table))
}

fn mixup_section(plan: &AugmentationPlan, ids: &[u64]) -> Section {
    let rows = ids.iter().map(|&id| {
        let share = |epoch| numbers::share(plan.features.mixup, draws(plan, epoch, id));
        let shown = |share: Option<f32>| share.map_or_else(|| "alone".into(), |share| number(f64::from(share)));
        let mut row = vec![format!("{id:x}")];
        row.extend((0..EPOCHS).map(|epoch| shown(share(epoch))));
        row
    });
    let mut columns = vec!["sample".to_owned()];
    columns.extend((0..EPOCHS).map(|epoch| format!("epoch {epoch}")));
    let text = "The share that a sample has of itself in each epoch; the rest is another's, target included.";
    Section::new("Mixup").text(text).table(Table::new(columns, rows.collect()).numbers(1..=EPOCHS as usize))
}

fn synthetic_section(gathered: &Gathered) -> Section {
    let rows = gathered.synthetic.iter().take(SAMPLES).map(|row| {
        vec![
            format!("{:x}", row.sample_id),
            format!("{:x}", row.base),
            format!("{:x}", row.neighbor),
            number(row.share),
        ]
    });
    let table =
        Table::new(["synthetic sample", "of sample", "and sample", "part of the way"], rows.collect()).numbers([3]);
    let text = format!("{} rows were made; these are the first.", gathered.synthetic.len());
    Section::new("Synthetic rows").text(text).table(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_the_size_of_its_images() {
        let shape = Shape { channels: 3, height: 2, width: 3 };
        let mut grid = Grid::new(shape, 2, 1);
        grid.put(1, 0, &[9; 18]);
        let png = grid.png().expect("a picture");
        assert_eq!(&png[16..24], [0, 0, 0, 136, 0, 0, 0, 46]);
        assert_eq!(grid.bytes.iter().filter(|byte| **byte == 9).count(), 3 * 66 * 44);
    }
}
