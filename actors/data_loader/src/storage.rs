//! Which columns a shard holds, and in which types: features and what derived ones are made of, in smaller types where
//! the plan asks for them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use frame::derive::Step;
use frame::manifest::{StorageReport, StoredColumn};
use frame::shard::Stored;
use messages::plan::{ColumnType, DataPlan, Downcast};

use crate::fit::Fitted;
use crate::load::{Loaded, Texts, Values};

/// A text column is stored as a dictionary where less than this share of its texts is distinct.
const DICTIONARY_BELOW: f64 = 0.5;
/// Bytes of a text's end in a column of texts, and of a key in a dictionary.
const WORD: u64 = 4;

/// What shards hold.
#[derive(Debug, Default)]
pub struct Stores {
    /// In the order of the files; derived ones that are computed from the row are not among them.
    pub columns: Vec<String>,
    /// Types that are not a table's own.
    pub types: BTreeMap<String, Stored>,
    pub report: Option<StorageReport>,
}

impl Stores {
    pub fn of(plan: &DataPlan, loaded: &Loaded, fitted: &Fitted, derived: &[Step]) -> Self {
        let computed: BTreeSet<String> =
            derived.iter().filter(|step| step.is_computed()).flat_map(Step::outputs).collect();
        let history = derived.iter().filter(|step| !step.is_computed()).flat_map(Step::outputs);
        let inputs = derived.iter().flat_map(Step::inputs).map(str::to_owned);
        let features = fitted.features.iter().map(|feature| feature.column.clone());
        let needed: BTreeSet<String> =
            features.chain(inputs).chain(history).filter(|name| !computed.contains(name)).collect();
        let columns: Vec<String> = loaded.layout.names.iter().filter(|name| needed.contains(*name)).cloned().collect();
        let asked = plan.storage.downcast != Downcast::None || plan.storage.dictionary;
        let mut stores = Self { columns, ..Self::default() };
        if asked {
            stores.choose(plan, loaded);
        }
        stores
    }

    fn choose(&mut self, plan: &DataPlan, loaded: &Loaded) {
        let mut report = StorageReport::default();
        for name in &self.columns {
            let Some((_, values)) = loaded.column(name) else { continue };
            let is_image = plan.columns.get(name).is_some_and(|column| column.r#type == ColumnType::Image);
            let (stored, before, after) = match values {
                Values::Number(numbers) if !is_image => {
                    let rows = numbers.len() as u64;
                    let kind = match plan.storage.downcast {
                        Downcast::None => Stored::Float64,
                        Downcast::Lossless => Stored::of_numbers(numbers, false),
                        Downcast::F32 => Stored::of_numbers(numbers, true),
                    };
                    (kind, rows * Stored::Float64.width(), rows * kind.width())
                }
                Values::Text(texts) => text_type(texts, plan.storage.dictionary),
                _ => continue,
            };
            if !matches!(stored, Stored::Float64 | Stored::Text) {
                self.types.insert(name.clone(), stored);
            }
            report.bytes_before += before;
            report.bytes_after += after;
            report.columns.push(StoredColumn { name: name.clone(), stored, bytes_before: before, bytes_after: after });
        }
        report.bytes_saved = report.bytes_before.saturating_sub(report.bytes_after);
        self.report = Some(report);
    }
}

/// Type and bytes of a text column, as if it lay in one shard.
fn text_type(texts: &Texts, dictionary: bool) -> (Stored, u64, u64) {
    let rows = texts.len() as u64;
    let (mut bytes, mut distinct_bytes, mut distinct) = (0u64, 0u64, HashSet::new());
    for row in 0..texts.len() {
        let text = texts.get(row);
        bytes += text.len() as u64;
        if distinct.insert(text) {
            distinct_bytes += text.len() as u64;
        }
    }
    let plain = bytes + WORD * (rows + 1);
    let keyed = WORD * rows + distinct_bytes + WORD * (distinct.len() as u64 + 1);
    let few = (distinct.len() as f64) < DICTIONARY_BELOW * texts.len() as f64;
    if dictionary && few { (Stored::Dictionary, plain, keyed) } else { (Stored::Text, plain, plain) }
}
