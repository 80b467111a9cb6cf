//! The feed of batches: encoded rows of a dataset version, in an order that depends on (seed, epoch) only,
//! cut into the frames that one rank gets.

pub mod frames;
pub mod order;
pub mod session;
pub mod window;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{Array, RecordBatch, StringArray};
use bus::artifact::ArtifactStore;
use frame::manifest::Shard;
use frame::{Encoded, Encoder, Manifest, read_shard};
use kernels::pool::Pool;
use messages::error::Code;
use messages::{ArtifactRef, WireError};

use crate::augment::gathered::Gathered;
use crate::augment::{Augmenter, Texts};
use crate::state::Wanted;
use crate::write::off_runtime;
use window::Layout;

/// Rows that one thread encodes at once.
const ENCODE_GRAIN: usize = 2_048;

/// One part of a dataset version, as feeds of one kind read it.
#[derive(Debug)]
pub struct Part {
    /// All of its rows in stored order, where they fit; else each feed reads shards as it comes to them.
    pub whole: Option<Held>,
    pub shards: Vec<Shard>,
    pub feature_names: Vec<String>,
    /// Largest size of one row in a frame.
    pub row_bytes: usize,
    pub encoder: Arc<Encoder>,
    pub augmenter: Option<Augmenter>,
    /// Whether texts are kept beside their tokens, because they are changed.
    pub keeps_texts: bool,
    /// Whether several rows make one sample.
    sequence: bool,
}

/// Encoded rows in memory.
#[derive(Debug, Default)]
pub struct Held {
    pub encoded: Arc<Encoded>,
    pub texts: Arc<Texts>,
}

impl Part {
    /// Bytes that it holds in memory.
    pub fn size_bytes(&self) -> usize {
        self.whole.as_ref().map_or(0, |held| held.encoded.size_bytes() + held.texts.size_bytes())
    }

    /// Reads one shard; of its rows those of `keep`, or all.
    pub async fn read(
        self: &Arc<Self>,
        artifacts: &ArtifactStore,
        shard: usize,
        keep: Option<Vec<u32>>,
        pool: &Arc<Pool>,
    ) -> Result<(Encoded, Texts), WireError> {
        let (shard, encoder) = (&self.shards[shard], Arc::clone(&self.encoder));
        read(artifacts, shard, encoder, self.keeps_texts, self.sequence, keep, pool).await
    }
}

fn corrupt(e: frame::Error) -> WireError {
    WireError::new(Code::ArtifactCorrupt, e.to_string())
}

fn no_texts() -> WireError {
    WireError::new(Code::ArtifactCorrupt, "a shard without its texts")
}

/// Reads what feeds of a part need: all rows, where they fit.
pub async fn load(
    artifacts: &ArtifactStore,
    dataset: &ArtifactRef,
    wanted: Wanted,
    pool: &Arc<Pool>,
) -> Result<Part, WireError> {
    let bytes = artifacts.get(dataset).await.map_err(|e| e.to_wire())?;
    let manifest = Manifest::from_json(&bytes).map_err(corrupt)?;
    let encoder = Arc::new(Encoder::new(&manifest).map_err(corrupt)?);
    let shards = manifest.part(wanted.split).map(|part| part.shards.clone()).unwrap_or_default();
    let mut augmenter = None;
    let mut keeps_texts = false;
    if let Some(plan) = wanted.augmentation {
        let gathered = match &manifest.augmentation {
            Some(artifact) => Gathered::from_json(&artifacts.get(artifact).await.map_err(|e| e.to_wire())?)?,
            None => Gathered::default(),
        };
        keeps_texts = plan.changes_texts();
        augmenter = Some(Augmenter::new(plan, gathered, Arc::clone(&encoder), &manifest)?);
    }
    let rows: Vec<u64> = shards.iter().map(|shard| shard.rows).collect();
    let row_bytes = manifest.row_bytes();
    let sequence = manifest.sequence.is_some();
    let mut whole = None;
    if Layout::new(&rows, row_bytes, wanted.window_mb, None).is_whole() {
        let mut encoded = Encoded { width: manifest.width(), ..Encoded::default() };
        if !sequence {
            encoded.features.reserve_exact(manifest.width() * rows.iter().sum::<u64>() as usize);
        }
        let mut texts = Texts::default();
        for shard in &shards {
            let encoder = Arc::clone(&encoder);
            let (more, more_texts) = read(artifacts, shard, encoder, keeps_texts, sequence, None, pool).await?;
            encoded.append(more).map_err(corrupt)?;
            texts.append(&more_texts);
        }
        whole = Some(Held { encoded: Arc::new(encoded), texts: Arc::new(texts) });
    }
    Ok(Part {
        whole,
        shards,
        feature_names: manifest.feature_names,
        row_bytes,
        encoder,
        augmenter,
        keeps_texts,
        sequence,
    })
}

async fn read(
    artifacts: &ArtifactStore,
    shard: &Shard,
    encoder: Arc<Encoder>,
    keeps_texts: bool,
    sequence: bool,
    keep: Option<Vec<u32>>,
    pool: &Arc<Pool>,
) -> Result<(Encoded, Texts), WireError> {
    let bytes = artifacts.get(&shard.artifact).await.map_err(|e| e.to_wire())?;
    let (expected, pool) = (shard.rows, Arc::clone(pool));
    off_runtime(move || {
        let table = read_shard(&bytes).map_err(corrupt)?;
        let mut rows = encode(&encoder, table.batch(), sequence, &pool)?;
        if rows.rows as u64 != expected {
            let message = format!("shard of {} rows, but the manifest says {expected}", rows.rows);
            return Err(WireError::new(Code::ArtifactCorrupt, message));
        }
        let mut texts = Texts::default();
        if keeps_texts {
            let column = encoder.text_column().and_then(|column| table.batch().column_by_name(column));
            let column = column.and_then(|column| column.as_any().downcast_ref::<StringArray>());
            let Some(column) = column else { return Err(no_texts()) };
            let get = |row: usize| if column.is_null(row) { "" } else { column.value(row) };
            match &keep {
                Some(keep) => keep.iter().for_each(|&row| texts.push(get(row as usize))),
                None => (0..column.len()).for_each(|row| texts.push(get(row))),
            }
        }
        if let Some(keep) = keep {
            rows = rows.select(&keep);
        }
        Ok((rows, texts))
    })
    .await
}

/// Encodes rows on all threads of the pool; each row's bits are its own, so their number changes none.
fn encode(encoder: &Encoder, batch: &RecordBatch, sequence: bool, pool: &Pool) -> Result<Encoded, WireError> {
    let rows = batch.num_rows();
    if sequence || rows <= ENCODE_GRAIN {
        return encoder.encode(batch).map_err(corrupt);
    }
    let done: Vec<Mutex<Option<Result<Encoded, frame::Error>>>> =
        (0..rows.div_ceil(ENCODE_GRAIN)).map(|_| Mutex::new(None)).collect();
    pool.parallel_for(rows, ENCODE_GRAIN, |_, range: Range<usize>| {
        let part = encoder.encode(&batch.slice(range.start, range.len()));
        *done[range.start / ENCODE_GRAIN].lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
    });
    let mut encoded = Encoded::default();
    for part in done {
        let part = part.into_inner().unwrap_or_else(PoisonError::into_inner);
        let part = part.expect("invariant: every part of a parallel loop is done").map_err(corrupt)?;
        encoded.append(part).map_err(corrupt)?;
    }
    Ok(encoded)
}
