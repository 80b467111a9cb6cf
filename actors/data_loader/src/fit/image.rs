//! Normalization of images: mean and standard deviation of each channel, of train or as the plan gives them.

use frame::derive::Step;
use messages::WireError;
use messages::plan::{DataPlan, Normalize};

use super::Inputs;
use crate::check::Violation;
use crate::load::Values;

/// The step that normalizes a column, where the plan asks for one.
pub fn normalization(
    plan: &DataPlan,
    name: &str,
    values: &Values,
    inputs: Inputs<'_>,
) -> Result<Option<Step>, WireError> {
    let fitting = plan.columns.get(name).map(|column| &column.fitting);
    let Some((how, fitting)) = fitting.and_then(|fitting| Some((fitting.normalize?, fitting))) else { return Ok(None) };
    let (Some(images), Values::Number(numbers)) = (inputs.images.get(name), values) else { return Ok(None) };
    let channels = images.channels as usize;
    let (mean, std) = match how {
        Normalize::None => return Ok(None),
        Normalize::Given => (fitting.mean.clone().unwrap_or_default(), fitting.std.clone().unwrap_or_default()),
        Normalize::Fitted => {
            let plane = images.size() / channels.max(1);
            let (mut sums, mut squares) = (vec![0u64; channels], vec![0u64; channels]);
            for &row in inputs.train {
                let pixels = images.pixels(numbers[row as usize] as usize);
                for (channel, plane) in pixels.chunks(plane.max(1)).enumerate().take(channels) {
                    // Whole numbers: exact, in whatever order.
                    sums[channel] += plane.iter().map(|&byte| u64::from(byte)).sum::<u64>();
                    squares[channel] += plane.iter().map(|&byte| u64::from(byte) * u64::from(byte)).sum::<u64>();
                }
            }
            let count = (inputs.train.len() * plane).max(1) as f64;
            let mean: Vec<f64> = sums.iter().map(|&sum| sum as f64 / count / 255.0).collect();
            let square = squares.iter().map(|&square| square as f64 / count / (255.0 * 255.0));
            let std = square.zip(&mean).map(|(square, mean)| (square - mean * mean).max(0.0).sqrt()).collect();
            (mean, std)
        }
    };
    if mean.len() != channels || std.len() != channels {
        let message = format!(
            "data.columns.{name}: {} means and {} deviations, but its images have {channels} channels",
            mean.len(),
            std.len()
        );
        return Err(Violation::new(message).column(name).into());
    }
    Ok(Some(Step::NormalizeImage { column: name.to_owned(), mean, std }))
}
