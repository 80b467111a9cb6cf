//! What differs between two dataset versions. Rows are compared by their sample id: where that is the row's number, a
//! row that was put in front moves all others, and the diff says so.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type};
use arrow_array::{Array, RecordBatch};
use bus::artifact::ArtifactStore;
use frame::manifest::{Column, SampleIdScheme};
use frame::{Manifest, Table, read_shard};
use messages::WireError;
use messages::error::Code;
use messages::feed::Split;
use serde::Serialize;
use serde_json::Value;

use super::Found;
use super::shift::{ColumnShift, Sampler, Shifts};
use crate::cache::recipe::flatten;
use crate::write::off_runtime;

/// Most examples of rows and of settings.
pub const MOST_EXAMPLES: usize = 20;
/// Most differences of preprocessing that are listed.
const MOST_SETTINGS: usize = 200;

/// Two dataset versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    pub a: Version,
    pub b: Version,
    /// The ids are equal: same files, settings and code.
    pub same: bool,
    pub sources: Vec<SourceChange>,
    pub schema: Vec<ColumnChange>,
    /// What was fitted and how it is split, by path.
    pub preprocessing: Vec<SettingChange>,
    /// Settings beyond those that are listed.
    pub more_preprocessing: usize,
    pub rows: RowChanges,
    pub shift: Vec<ColumnShift>,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version {
    pub id: String,
    pub manifest_blake3: String,
    pub dataset_version: String,
    pub code_version: String,
    pub rows_train: u64,
    pub rows_val: u64,
    pub rows_test: u64,
}

/// What became of a file, a column, a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Added,
    Removed,
    Changed,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceChange {
    pub path: String,
    pub change: Change,
    pub rows_a: Option<u64>,
    pub rows_b: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnChange {
    pub column: String,
    pub change: Change,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SettingChange {
    pub path: String,
    pub a: Option<Value>,
    pub b: Option<Value>,
}

/// Samples of both versions.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RowChanges {
    /// `sample id` or `row number`.
    pub compared_by: String,
    pub added: u64,
    pub removed: u64,
    /// In a value of a column that both have, or in the target.
    pub changed: u64,
    pub unchanged: u64,
    /// Ids, as texts: they may pass 2^53.
    pub added_examples: Vec<String>,
    pub removed_examples: Vec<String>,
    pub changed_examples: Vec<String>,
    /// `moves[from][to]`: samples of both versions by their part in a and in b; train, val, test.
    pub moves: [[u64; 3]; 3],
}

impl RowChanges {
    /// Samples that are in another part.
    pub fn moved(&self) -> u64 {
        let all: u64 = self.moves.iter().flatten().sum();
        all - (0..3).map(|part| self.moves[part][part]).sum::<u64>()
    }
}

/// Compares them; the distributions are those of all rows.
pub async fn diff(artifacts: &ArtifactStore, a: &Found, b: &Found) -> Result<Diff, WireError> {
    let (settings, more_preprocessing) = preprocessing(&a.manifest, &b.manifest);
    let common = common_columns(&a.manifest, &b.manifest);
    let (rows_a, samples_a) = read(artifacts, &a.manifest, &common).await?;
    let (rows_b, samples_b) = read(artifacts, &b.manifest, &common).await?;
    let (version_a, version_b) = (version(a), version(b));
    Ok(Diff {
        same: version_a.id == version_b.id,
        a: version_a,
        b: version_b,
        sources: sources(&a.manifest, &b.manifest),
        schema: schema(&a.manifest, &b.manifest),
        preprocessing: settings,
        more_preprocessing,
        rows: row_changes(&a.manifest, &rows_a, &rows_b),
        shift: Shifts { a: samples_a, b: samples_b }.of_columns(),
    })
}

fn version(found: &Found) -> Version {
    let manifest = &found.manifest;
    Version {
        id: manifest.id(),
        manifest_blake3: found.blake3.clone(),
        dataset_version: manifest.dataset_version.clone(),
        code_version: manifest.lineage.code_version.clone(),
        rows_train: manifest.rows(Split::Train),
        rows_val: manifest.rows(Split::Val),
        rows_test: manifest.rows(Split::Test),
    }
}

/// What of two maps differs, in the order of the keys.
fn changes<V: PartialEq>(a: &BTreeMap<String, V>, b: &BTreeMap<String, V>) -> Vec<(String, Change)> {
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let change = |name: &String| match (a.get(name), b.get(name)) {
        (None, _) => Some(Change::Added),
        (_, None) => Some(Change::Removed),
        (a, b) => (a != b).then_some(Change::Changed),
    };
    names.into_iter().filter_map(|name| Some((name.clone(), change(name)?))).collect()
}

fn sources(a: &Manifest, b: &Manifest) -> Vec<SourceChange> {
    let hashes = |manifest: &Manifest| -> BTreeMap<String, String> {
        manifest.sources.iter().map(|source| (source.path.clone(), source.blake3.clone())).collect()
    };
    let rows = |manifest: &Manifest, path: &str| {
        manifest.sources.iter().find(|source| source.path == path).map(|source| source.rows)
    };
    let of = |(path, change): (String, Change)| SourceChange {
        rows_a: rows(a, &path),
        rows_b: rows(b, &path),
        path,
        change,
    };
    changes(&hashes(a), &hashes(b)).into_iter().map(of).collect()
}

fn schema(a: &Manifest, b: &Manifest) -> Vec<ColumnChange> {
    let told = |column: &Column| {
        let text = |value: &dyn erased::Name| value.name();
        format!("{} {}", text(&column.r#type), text(&column.role))
    };
    let columns = |manifest: &Manifest| -> BTreeMap<String, String> {
        let mut told: BTreeMap<_, _> =
            manifest.columns.iter().map(|column| (column.name.clone(), told(column))).collect();
        if !manifest.target.classes.is_empty()
            && let Some(target) = told.get_mut(&manifest.target.column)
        {
            target.push_str(&format!(", classes {}", manifest.target.classes.join(" | ")));
        }
        told
    };
    let (of_a, of_b) = (columns(a), columns(b));
    let detail = |name: &str, change: Change| {
        let of = |map: &BTreeMap<String, String>| map.get(name).cloned().unwrap_or_default();
        match change {
            Change::Added => of(&of_b),
            Change::Removed => of(&of_a),
            Change::Changed => format!("{} -> {}", of(&of_a), of(&of_b)),
        }
    };
    let all = changes(&of_a, &of_b).into_iter();
    all.map(|(column, change)| ColumnChange { detail: detail(&column, change), column, change }).collect()
}

/// What a serialized name is called.
mod erased {
    use serde::Serialize;

    pub trait Name {
        fn name(&self) -> String;
    }

    impl<T: Serialize> Name for T {
        fn name(&self) -> String {
            let value = serde_json::to_value(self).unwrap_or_default();
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        }
    }
}

/// Differences of the split and of what was fitted, and how many there are beyond those listed.
fn preprocessing(a: &Manifest, b: &Manifest) -> (Vec<SettingChange>, usize) {
    let leaves = |manifest: &Manifest| {
        let mut leaves = BTreeMap::new();
        let json = |value: serde_json::Result<Value>| value.unwrap_or_default();
        flatten("split", &json(serde_json::to_value(&manifest.split)), &mut leaves);
        flatten("target", &json(serde_json::to_value(manifest.target.transform)), &mut leaves);
        for feature in &manifest.features {
            let encoding = json(serde_json::to_value(&feature.encoding));
            let place = format!("features.{}", feature.column);
            flatten(&place, &encoding, &mut leaves);
        }
        leaves
    };
    let (a, b) = (leaves(a), leaves(b));
    let all = changes(&a, &b);
    let more = all.len().saturating_sub(MOST_SETTINGS);
    let listed = all.into_iter().take(MOST_SETTINGS);
    (listed.map(|(path, _)| SettingChange { a: a.get(&path).cloned(), b: b.get(&path).cloned(), path }).collect(), more)
}

fn common_columns(a: &Manifest, b: &Manifest) -> Vec<String> {
    let has = |manifest: &Manifest, name: &str| manifest.features.iter().any(|feature| feature.column == name);
    let names = a.features.iter().map(|feature| feature.column.clone());
    names.filter(|name| has(b, name)).collect()
}

/// A sample: its id, its part, a hash of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    id: u64,
    part: u8,
    values: u64,
}

/// All samples by rising id, and the values of the columns.
async fn read(
    artifacts: &ArtifactStore,
    manifest: &Manifest,
    columns: &[String],
) -> Result<(Vec<Row>, Sampler), WireError> {
    let total = Split::ALL.iter().map(|split| manifest.rows(*split)).sum();
    let mut sampler = Sampler::new(manifest, columns, total);
    let mut rows: Vec<Row> = Vec::new();
    for (part, split) in Split::ALL.into_iter().enumerate() {
        for shard in manifest.part(split).into_iter().flat_map(|part| &part.shards) {
            let bytes = artifacts.get(&shard.artifact).await.map_err(|error| error.to_wire())?;
            let (columns, classes) = (columns.to_vec(), manifest.target.classes.clone());
            (rows, sampler) = off_runtime(move || {
                let table = read_shard(&bytes).map_err(|e| WireError::new(Code::ArtifactCorrupt, e.to_string()))?;
                hash_rows(&table, &columns, &classes, part as u8, &mut rows);
                sampler.observe(&table);
                Ok((rows, sampler))
            })
            .await?;
        }
    }
    // Steps of a sequence have one id: stable, so that their order counts.
    rows.sort_by_key(|row| row.id);
    rows.dedup_by(|next, first| {
        let same = next.id == first.id;
        if same {
            first.values = mixed(first.values, next.values);
        }
        same
    });
    Ok((rows, sampler))
}

fn mixed(a: u64, b: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..].copy_from_slice(&b.to_le_bytes());
    crate::load::id_of_bytes(&bytes)
}

fn hash_rows(table: &Table, columns: &[String], classes: &[String], part: u8, rows: &mut Vec<Row>) {
    let batch = table.batch();
    let mut bytes = Vec::new();
    for (row, (&id, &target)) in table.sample_ids().iter().zip(table.targets()).enumerate() {
        bytes.clear();
        for name in columns {
            put_value(batch, name, row, &mut bytes);
        }
        // A class by its name: its index may be another one.
        match classes.get(target as usize) {
            Some(class) => bytes.extend(class.as_bytes()),
            None => bytes.extend(target.to_bits().to_le_bytes()),
        }
        if let Some(weights) = table.weights() {
            bytes.extend(weights[row].to_bits().to_le_bytes());
        }
        rows.push(Row { id, part, values: crate::load::id_of_bytes(&bytes) });
    }
}

/// A value, so that no two rows of other values have the same bytes.
fn put_value(batch: &RecordBatch, name: &str, row: usize, out: &mut Vec<u8>) {
    let Some(column) = batch.column_by_name(name) else { return out.push(0) };
    let mut put = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        out.extend((bytes.len() as u64).to_le_bytes());
        out.extend(bytes);
    };
    if column.is_null(row) {
        return put(1, &[]);
    }
    if let Some(numbers) = column.as_primitive_opt::<Float64Type>() {
        put(2, &numbers.value(row).to_bits().to_le_bytes());
    } else if let Some(categories) = column.as_dictionary_opt::<Int32Type>() {
        let texts = categories.values().as_string_opt::<i32>();
        put(3, texts.map_or(&[][..], |texts| texts.value(categories.keys().value(row) as usize).as_bytes()));
    } else if let Some(texts) = column.as_string_opt::<i32>() {
        put(3, texts.value(row).as_bytes());
    } else if let Some(pixels) = column.as_fixed_size_binary_opt() {
        put(4, pixels.value(row));
    } else {
        put(5, &[]);
    }
}

fn row_changes(manifest: &Manifest, a: &[Row], b: &[Row]) -> RowChanges {
    let compared_by = match manifest.sample_id {
        SampleIdScheme::RowNumber => "row number",
        SampleIdScheme::Column { .. } => "sample id",
    };
    let mut changes = RowChanges { compared_by: compared_by.into(), ..RowChanges::default() };
    let note = |examples: &mut Vec<String>, id: u64| {
        if examples.len() < MOST_EXAMPLES {
            examples.push(id.to_string());
        }
    };
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let (left, right) = (a.get(i), b.get(j));
        match (left, right) {
            (Some(left), Some(right)) if left.id == right.id => {
                changes.moves[left.part as usize][right.part as usize] += 1;
                if left.values == right.values {
                    changes.unchanged += 1;
                } else {
                    changes.changed += 1;
                    note(&mut changes.changed_examples, left.id);
                }
                (i, j) = (i + 1, j + 1);
            }
            (Some(left), right) if right.is_none_or(|right| left.id < right.id) => {
                changes.removed += 1;
                note(&mut changes.removed_examples, left.id);
                i += 1;
            }
            (_, Some(right)) => {
                changes.added += 1;
                note(&mut changes.added_examples, right.id);
                j += 1;
            }
            (_, None) => break,
        }
    }
    changes
}
