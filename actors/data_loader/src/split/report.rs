//! What a split came to: sizes, classes, groups and times of its parts, for people and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write;

use frame::manifest::SplitInfo;
use messages::feed::Split;
use messages::plan::SplitStrategy;
use serde::Serialize;

use super::Parts;
use crate::load::{MISSING_KEY, Values};

/// The parts of a split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitReport {
    pub split: SplitInfo,
    /// Samples in all.
    pub samples: u64,
    pub parts: Vec<PartReport>,
    /// Groups that stand in more than one part; none where the split knows no groups.
    pub groups_shared: Option<u64>,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartReport {
    pub part: Split,
    pub samples: u64,
    /// Of all samples.
    pub share: f64,
    pub classes: Vec<ClassReport>,
    /// Mean of a number to predict.
    pub target_mean: Option<f64>,
    pub groups: Option<u64>,
    pub first_time: Option<String>,
    pub last_time: Option<String>,
}

/// One class in a part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassReport {
    pub class: String,
    pub samples: u64,
    /// Of the part.
    pub share: f64,
}

/// Targets of samples: class indices or numbers.
pub struct Targets<'a> {
    pub values: &'a [f32],
    pub classes: &'a [String],
}

/// `column` is what the split goes by, a value a sample.
pub fn report(
    info: &SplitInfo,
    parts: &Parts,
    samples: usize,
    targets: &Targets<'_>,
    column: Option<&Values>,
    is_date: bool,
) -> SplitReport {
    let by_group = matches!(info.strategy, SplitStrategy::Group | SplitStrategy::StratifiedGroup);
    let groups = column.filter(|_| by_group).map(super::ranks);
    let of_part = |split: Split| {
        groups.as_ref().map(|groups| parts.rows(split).iter().map(|&row| groups[row as usize]).collect::<BTreeSet<_>>())
    };
    let sets: Vec<_> = Split::ALL.iter().map(|split| of_part(*split)).collect();
    let times = column.filter(|_| info.strategy == SplitStrategy::Time);
    let parts: Vec<PartReport> = Split::ALL
        .iter()
        .zip(&sets)
        .map(|(&part, groups)| {
            let rows = parts.rows(part);
            let (first_time, last_time) = times.map_or((None, None), |times| ends(times, rows, is_date));
            let mean = rows.iter().map(|&row| f64::from(targets.values[row as usize])).sum::<f64>() / rows.len() as f64;
            PartReport {
                part,
                samples: rows.len() as u64,
                share: rows.len() as f64 / samples.max(1) as f64,
                classes: classes(targets, rows),
                target_mean: (targets.classes.is_empty() && !rows.is_empty()).then_some(mean),
                groups: groups.as_ref().map(|groups| groups.len() as u64),
                first_time,
                last_time,
            }
        })
        .collect();
    let groups_shared = groups.is_some().then(|| {
        let sets: Vec<_> = sets.into_iter().flatten().collect();
        let all: BTreeSet<u32> = sets.iter().flatten().copied().collect();
        all.iter().filter(|group| sets.iter().filter(|set| set.contains(group)).count() > 1).count() as u64
    });
    SplitReport { split: info.clone(), samples: samples as u64, parts, groups_shared }
}

fn classes(targets: &Targets<'_>, rows: &[u32]) -> Vec<ClassReport> {
    let mut counts = vec![0u64; targets.classes.len()];
    if !counts.is_empty() {
        for &row in rows {
            counts[targets.values[row as usize] as usize] += 1;
        }
    }
    let share = |count: u64| count as f64 / rows.len().max(1) as f64;
    let each = targets.classes.iter().zip(counts);
    each.map(|(class, samples)| ClassReport { class: class.clone(), samples, share: share(samples) }).collect()
}

/// The first and the last time among these rows.
fn ends(times: &Values, rows: &[u32], is_date: bool) -> (Option<String>, Option<String>) {
    let ranks = super::ranks(times);
    let first = rows.iter().min_by_key(|&&row| ranks[row as usize]);
    let last = rows.iter().max_by_key(|&&row| ranks[row as usize]);
    let text = |row: &u32| {
        let row = *row as usize;
        match times {
            Values::Number(numbers) if is_date => frame::datetime::text(numbers[row]),
            Values::Number(numbers) => numbers[row].to_string(),
            Values::Category { keys, texts } if keys[row] != MISSING_KEY => texts[keys[row] as usize].clone(),
            _ => String::new(),
        }
    };
    (first.map(text), last.map(text))
}

impl SplitReport {
    /// As a table of text.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let name = serde_json::to_value(self.split.strategy).ok().and_then(|name| name.as_str().map(str::to_owned));
        let fold = self.split.fold.map_or(String::new(), |fold| format!(", fold {} of {}", fold.index, fold.count));
        let column = self.split.column.as_ref().map_or(String::new(), |column| format!(" by {column:?}"));
        line(&mut out, &format!("{}{column}{fold}: {} samples", name.unwrap_or_default(), self.samples));
        for part in &self.parts {
            let mut text = format!("  {:<5} {:>9}  {:>5.1} %", part.part.as_str(), part.samples, 100.0 * part.share);
            for class in part.classes.iter().take(MOST_CLASSES) {
                let _ = write!(text, "  {}: {} ({:.1} %)", class.class, class.samples, 100.0 * class.share);
            }
            if part.classes.len() > MOST_CLASSES {
                text.push_str("  …");
            }
            if let Some(mean) = part.target_mean {
                let _ = write!(text, "  mean {mean}");
            }
            if let Some(groups) = part.groups {
                let _ = write!(text, "  {groups} groups");
            }
            if let (Some(first), Some(last)) = (&part.first_time, &part.last_time) {
                let _ = write!(text, "  {first} to {last}");
            }
            line(&mut out, &text);
        }
        if self.split.left_out > 0 {
            line(&mut out, &format!("  in no part: {}", self.split.left_out));
        }
        if let Some(shared) = self.groups_shared.filter(|shared| *shared > 0) {
            line(&mut out, &format!("  groups in more than one part: {shared}"));
        }
        out
    }
}

/// Most classes of a line.
const MOST_CLASSES: usize = 6;

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}
