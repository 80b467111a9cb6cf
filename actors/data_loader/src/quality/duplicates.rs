//! Rows and texts that stand several times, in one part or in several. Exact: BLAKE3 of a row's features. Near: texts
//! whose sets of shingles are similar, found by MinHash and bands.

use kernels::minhash::{PairConfig, shingles, similar_pairs};
use kernels::pool::Pool;
use messages::feed::Split;

use super::Inputs;
use super::report::{DuplicateGroup, Duplicates, MAX_GROUP, NearDuplicate, PartCounts, Totals};
use super::rows::{Rows, features};
use crate::check::names::Use;
use crate::load::{MISSING_KEY, Texts, Values};

/// Minima of a signature.
const PERMUTATIONS: usize = 128;
/// Most pairs of texts that are compared, of one column.
const MAX_COMPARED: usize = 5_000_000;

/// Finds both kinds, and counts them.
pub fn find(inputs: &Inputs<'_>, rows: &Rows<'_>, pool: &Pool, totals: &mut Totals) -> Duplicates {
    let plan = &inputs.data.quality;
    let mut found = Duplicates {
        exact: exact(inputs, rows, totals),
        near_method: format!(
            "pairs of texts in a column; sets of {} characters, lower case, blanks as one; Jaccard similarity of at least {}; candidates by {PERMUTATIONS} MinHash permutations",
            plan.shingle, plan.similarity
        ),
        ..Duplicates::default()
    };
    for (usage, values) in features(inputs) {
        if let Values::Text(texts) = values {
            near(inputs, rows, usage, texts, pool, &mut found);
        }
    }
    totals.near_duplicates = found.near.len() as u64;
    totals.near_leaks = found.near.iter().filter(|pair| pair.leak).count() as u64;
    found.near.sort_by(|a, b| {
        b.leak.cmp(&a.leak).then(b.similarity.total_cmp(&a.similarity)).then(a.sample_ids.cmp(&b.sample_ids))
    });
    found.exact.truncate(plan.max_listed as usize);
    found.near.truncate(plan.max_listed as usize);
    found
}

/// All columns that are features, images by their number.
fn hashed(inputs: &Inputs<'_>) -> Vec<[u8; 32]> {
    let uses = inputs.loaded.layout.uses.iter().zip(&inputs.loaded.columns);
    let columns: Vec<(&Use, &Values)> = uses.filter(|(usage, _)| usage.is_feature()).collect();
    let hash = |row: usize| {
        let mut hasher = blake3::Hasher::new();
        let mut text = |text: Option<&str>| match text {
            Some(text) => {
                hasher.update(&(text.len() as u64 + 1).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            None => drop(hasher.update(&0_u64.to_le_bytes())),
        };
        for (_, values) in &columns {
            match values {
                // Adding 0 makes -0 the same as 0; missing ones are one NaN.
                Values::Number(numbers) if numbers[row].is_nan() => text(None),
                Values::Number(numbers) => text(Some(&format!("{:x}", (numbers[row] + 0.0).to_bits()))),
                Values::Category { keys, .. } if keys[row] == MISSING_KEY => text(None),
                Values::Category { keys, texts } => text(Some(&texts[keys[row] as usize])),
                Values::Text(texts) => text(Some(texts.get(row))),
                Values::Id(_) | Values::Empty => {}
            }
        }
        *hasher.finalize().as_bytes()
    };
    (0..inputs.loaded.rows).map(hash).collect()
}

/// Groups of rows with the same features.
fn exact(inputs: &Inputs<'_>, rows: &Rows<'_>, totals: &mut Totals) -> Vec<DuplicateGroup> {
    let hashes = hashed(inputs);
    // Parts in their order within a group: a row of test is doubled by one of train, not the other way round.
    let mut order = rows.all();
    order.sort_by(|&a, &b| hashes[a as usize].cmp(&hashes[b as usize]));
    let mut groups: Vec<DuplicateGroup> = Vec::new();
    for group in order.chunk_by(|&a, &b| hashes[a as usize] == hashes[b as usize]).filter(|group| group.len() > 1) {
        let mut counts = PartCounts::default();
        for &row in group {
            counts.count(rows.part(row));
        }
        let first = rows.part(group[0]);
        let conflict = group.iter().any(|&row| differs(inputs, row, group[0]));
        totals.exact_duplicates += group.len() as u64 - 1;
        totals.leaked_rows += group.iter().filter(|&&row| rows.part(row) != first).count() as u64;
        totals.conflicts += u64::from(conflict);
        let listed = || group.iter().take(MAX_GROUP);
        groups.push(DuplicateGroup {
            blake3: blake3::Hash::from_bytes(hashes[group[0] as usize]).to_hex().to_string(),
            rows: counts,
            leak: group.iter().any(|&row| rows.part(row) != first),
            conflict,
            sample_ids: listed().map(|&row| rows.id(row)).collect(),
            parts: listed().map(|&row| rows.part(row)).collect(),
        });
    }
    groups.sort_by(|a, b| {
        b.leak.cmp(&a.leak).then(b.rows.all().cmp(&a.rows.all())).then_with(|| a.sample_ids.cmp(&b.sample_ids))
    });
    groups
}

fn differs(inputs: &Inputs<'_>, a: u32, b: u32) -> bool {
    inputs.target.values[a as usize] != inputs.target.values[b as usize]
}

/// Pairs of similar texts of one column. Rows whose texts have the same shingles stand for each other: each is paired
/// with the first of them, and only the first is compared with others.
fn near(inputs: &Inputs<'_>, rows: &Rows<'_>, usage: &Use, texts: &Texts, pool: &Pool, found: &mut Duplicates) {
    let plan = &inputs.data.quality;
    let all = rows.all();
    let mut sets: Vec<Vec<u64>> =
        all.iter().map(|&row| shingles(texts.get(row as usize), plan.shingle as usize)).collect();
    let mut order: Vec<usize> = (0..all.len()).filter(|&place| !sets[place].is_empty()).collect();
    order.sort_by(|&a, &b| sets[a].cmp(&sets[b]).then(a.cmp(&b)));
    let mut firsts = Vec::new();
    let pair = |a: u32, b: u32, similarity: f64| NearDuplicate {
        column: usage.name.clone(),
        similarity,
        sample_ids: [rows.id(a), rows.id(b)],
        parts: [rows.part(a), rows.part(b)],
        leak: rows.part(a) != rows.part(b),
        conflict: differs(inputs, a, b),
    };
    for same in order.chunk_by(|&a, &b| sets[a] == sets[b]) {
        firsts.push(same[0]);
        found.near.extend(same[1..].iter().map(|&other| pair(all[same[0]], all[other], 1.0)));
    }
    firsts.sort_unstable();
    let distinct: Vec<Vec<u64>> = firsts.iter().map(|&place| std::mem::take(&mut sets[place])).collect();
    let config =
        PairConfig { permutations: PERMUTATIONS, similarity: plan.similarity, seed: plan.seed, compared: MAX_COMPARED };
    let pairs = similar_pairs(&distinct, &config, pool);
    found.near_cut_short |= pairs.cut_short;
    let row = |set: u32| all[firsts[set as usize]];
    found.near.extend(pairs.similar.iter().map(|&(a, b, similarity)| pair(row(a), row(b), similarity)));
}

/// What the totals say, for those who read no report.
pub fn warnings(totals: &Totals, warnings: &mut Vec<String>) {
    if totals.leaked_rows > 0 {
        let parts = [Split::Val, Split::Test].map(Split::as_str).join(" and ");
        warnings.push(format!(
            "quality: {} rows of {parts} have the features of a row of an earlier part: what is measured on them was seen in training",
            totals.leaked_rows
        ));
    }
    if totals.conflicts > 0 {
        warnings
            .push(format!("quality: {} groups of rows have the same features and different targets", totals.conflicts));
    }
    if totals.near_leaks > 0 {
        warnings
            .push(format!("quality: {} pairs of nearly the same texts stand in different parts", totals.near_leaks));
    }
}
