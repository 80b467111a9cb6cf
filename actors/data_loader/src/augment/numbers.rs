//! What happens to numbers: noise in units of each feature's spread, and mixup (Zhang, Cisse, Dauphin,
//! Lopez-Paz, "mixup: Beyond empirical risk minimization", ICLR 2018), which mixes the target as well.

use frame::Encoded;
use kernels::nn::PixelValues;
use messages::plan::{Chance, MixupPlan};

use super::lane::{Draws, Lane};

/// Adds noise to the numbers of a row; `spread` is the standard deviation of each feature of a row or step, 0 where
/// a feature is no quantity.
pub fn perturb(row: &mut [f32], spread: &[f32], plan: Chance, draws: Draws) {
    let mut rng = draws.of(Lane::Perturbation);
    if rng.uniform() >= plan.prob {
        return;
    }
    for step in row.chunks_mut(spread.len().max(1)) {
        for (value, &spread) in step.iter_mut().zip(spread).filter(|(_, spread)| **spread > 0.0) {
            *value += (plan.range * rng.normal()) as f32 * spread;
        }
    }
}

/// The share of the sample itself, at least a half; none where it stays alone.
pub fn share(plan: MixupPlan, draws: Draws) -> Option<f32> {
    let mut rng = draws.of(Lane::MixupShare);
    if rng.uniform() >= plan.prob {
        return None;
    }
    let share = rng.beta(plan.alpha);
    Some(share.max(1.0 - share) as f32)
}

/// Mixes row `row` of `rows` with row `other` of `others`, of which `share` is its own: features, pixels, target
/// and weight. The sample's id stays.
pub fn mix(rows: &mut Encoded, row: usize, others: &Encoded, other: usize, share: f32) {
    let mixed = |own: f32, its: f32| share * own + (1.0 - share) * its;
    let width = rows.width;
    let theirs = &others.features[other * width..(other + 1) * width];
    for (own, its) in rows.features[row * width..(row + 1) * width].iter_mut().zip(theirs) {
        *own = mixed(*own, *its);
    }
    if let (Some(images), Some(their_images)) = (&mut rows.inputs.images, &others.inputs.images) {
        let size = images.channels * images.height * images.width;
        if let (PixelValues::Bytes(own), PixelValues::Bytes(its)) = (&mut images.pixels, &their_images.pixels) {
            let its = &its[other * size..(other + 1) * size];
            for (own, its) in own[row * size..(row + 1) * size].iter_mut().zip(its) {
                *own = (mixed(f32::from(*own), f32::from(*its)) + 0.5).floor() as u8;
            }
        }
    }
    rows.targets[row] = mixed(rows.targets[row], others.targets[other]);
    if let (Some(own), Some(its)) = (&mut rows.weights, &others.weights) {
        own[row] = mixed(own[row], its[other]);
    }
}
