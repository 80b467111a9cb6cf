//! Split by a hash: whether a sample is held out depends on its own id (or group) and the seed only, so a new row
//! never moves an old one. Sizes are about what is wanted.

use kernels::philox::{Key, Stream};

use super::Cut;
use crate::load::{MISSING_KEY, Values, id_of};

/// Apart from the keys of permutations.
const LANE_HASH: u64 = 1 << 62;

/// A number from 0 to below 1.
pub fn place(cut: Cut, id: u64) -> f64 {
    Key::new(cut.seed, Stream::Split).epoch(cut.lane | LANE_HASH).rng(id, 0).uniform()
}

/// What names each row's group, whatever other groups there are.
pub fn group_ids(values: &Values) -> Vec<u64> {
    match values {
        Values::Number(numbers) => numbers.iter().map(|number| id_of(&(number + 0.0).to_string())).collect(),
        Values::Category { keys, texts } => {
            let ids: Vec<u64> = texts.iter().map(|text| id_of(text)).collect();
            keys.iter().map(|&key| if key == MISSING_KEY { id_of("") } else { ids[key as usize] }).collect()
        }
        Values::Id(ids) => ids.clone(),
        Values::Text(texts) => (0..texts.len()).map(|row| id_of(texts.get(row))).collect(),
        Values::Empty => Vec::new(),
    }
}
