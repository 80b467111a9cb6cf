//! Frames from rows: which window a frame's rows lie in, that window in memory with the next one on its way,
//! rows picked, augmented, and encoded for the wire.

use std::sync::Arc;

use bus::artifact::ArtifactStore;
use bytes::Bytes;
use frame::{Encoded, encode_frame};
use kernels::pool::Pool;
use messages::WireError;
use messages::error::Code;
use tokio::task::JoinHandle;

use super::Part;
use super::order::{Order, Piece, Position};
use super::window::{Window, stored};
use crate::augment::{Rows, Texts};
use crate::write::off_runtime;

/// What frames are made of.
pub struct Maker {
    pub part: Arc<Part>,
    pub order: Order,
    pub artifacts: ArtifactStore,
    pub pool: Arc<Pool>,
}

/// A window in memory, as far as this rank needs it.
struct Open {
    window: Window,
    /// The window's row at each of its places.
    order: Vec<u32>,
    starts: Vec<(u32, u64)>,
    encoded: Arc<Encoded>,
    texts: Arc<Texts>,
    /// The window's rows that are held, rising; none: all.
    kept: Option<Vec<u32>>,
}

impl Open {
    /// Where a row of the window is held.
    fn index(&self, row: u32) -> Result<u32, WireError> {
        let Some(kept) = &self.kept else { return Ok(row) };
        let lost = |_| WireError::new(Code::InternalError, "a row of the window that is not held");
        kept.binary_search(&row).map(|index| index as u32).map_err(lost)
    }
}

/// A window that is being read; nobody waits for it any more once this is dropped.
struct Opening(JoinHandle<Result<Arc<Open>, WireError>>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where in an epoch frames are being made.
#[derive(Default)]
pub struct Cursor {
    epoch: Option<u32>,
    windows: Vec<Window>,
    current: Option<Arc<Open>>,
    /// The window behind the current one, on its way.
    next: Option<(usize, Opening)>,
}

/// A frame's content, and where the next frame is.
pub struct Made {
    pub piece: Piece,
    pub payload: Bytes,
    pub next: Position,
    pub cursor: Cursor,
}

/// Makes the frame at a position; none after the last epoch.
pub async fn make(maker: &Arc<Maker>, at: Position, mut cursor: Cursor) -> Result<Option<Made>, WireError> {
    let Some(piece) = maker.order.piece(at) else { return Ok(None) };
    if cursor.epoch != Some(at.epoch) {
        cursor = Cursor { epoch: Some(at.epoch), windows: maker.order.layout().windows(at.epoch), ..Cursor::default() };
    }
    let mut taken: Vec<(Arc<Open>, std::ops::Range<usize>)> = Vec::new();
    let mut place = piece.places.start;
    loop {
        let index = cursor.windows.partition_point(|window| window.first + window.rows <= place);
        let open = cursor.enter(maker, at.epoch, index.min(cursor.windows.len() - 1)).await?;
        let end = (open.window.first + open.window.rows).min(piece.places.end).max(place);
        taken.push((open, place..end));
        place = end;
        if place >= piece.places.end {
            break;
        }
    }
    let (worker, epoch) = (Arc::clone(maker), at.epoch);
    let payload = off_runtime(move || {
        let mut rows = Encoded::default();
        for (open, places) in taken {
            let more = worker.rows(epoch, &open, places)?;
            if rows.rows == 0 { rows = more } else { rows.append(more).map_err(internal)? }
        }
        encode_frame(rows).map_err(internal)
    })
    .await?;
    let next = Order::after(at, &piece);
    Ok(Some(Made { piece, payload, next, cursor }))
}

fn internal(error: frame::Error) -> WireError {
    WireError::new(Code::InternalError, error.to_string())
}

impl Cursor {
    /// The window with this index, once it is in memory; begins to read the one behind it.
    async fn enter(&mut self, maker: &Arc<Maker>, epoch: u32, index: usize) -> Result<Arc<Open>, WireError> {
        if let Some(open) = self.current.as_ref().filter(|open| open.window.index == index) {
            return Ok(Arc::clone(open));
        }
        let open = match self.next.take() {
            Some((next, mut opening)) if next == index => (&mut opening.0).await.unwrap_or_else(|e| {
                Err(WireError::new(Code::InternalError, format!("reading ahead stopped unexpectedly: {e}")))
            })?,
            _ => maker.open(epoch, self.windows[index].clone()).await?,
        };
        self.current = Some(Arc::clone(&open));
        if let Some(window) = self.windows.get(index + 1).cloned() {
            let maker = Arc::clone(maker);
            self.next = Some((index + 1, Opening(tokio::spawn(async move { maker.open(epoch, window).await }))));
        }
        Ok(open)
    }
}

impl Maker {
    /// Reads a window: all of a part that fits, else this rank's rows and those that they may be mixed with.
    async fn open(&self, epoch: u32, window: Window) -> Result<Arc<Open>, WireError> {
        let layout = self.order.layout();
        let starts = layout.starts(&window);
        if let Some(held) = &self.part.whole {
            let order = layout.order(epoch, &window);
            let (encoded, texts) = (Arc::clone(&held.encoded), Arc::clone(&held.texts));
            return Ok(Arc::new(Open { window, order, starts, encoded, texts, kept: None }));
        }
        let order = layout.order(epoch, &window);
        let range = window.first..window.first + window.rows;
        let mut kept: Vec<u32> =
            self.order.my_places(&range).into_iter().map(|place| order[place - window.first]).collect();
        if let Some(augmenter) = self.part.augmenter.as_ref().filter(|augmenter| augmenter.mixes()) {
            let partner = |&row: &u32| augmenter.partner(epoch, stored(&starts, row), window.rows as u32);
            let partners: Vec<u32> = kept.iter().map(partner).collect();
            kept.extend(partners);
        }
        kept.sort_unstable();
        kept.dedup();
        let (mut encoded, mut texts) = (Encoded::default(), Texts::default());
        for (&shard, &(first, _)) in window.shards.iter().zip(&starts) {
            let end = first + self.part.shards[shard].rows as u32;
            let of_shard = kept.partition_point(|&row| row < first)..kept.partition_point(|&row| row < end);
            let rows: Vec<u32> = kept[of_shard].iter().map(|row| row - first).collect();
            if rows.is_empty() && encoded.rows > 0 {
                continue;
            }
            let (more, more_texts) = self.part.read(&self.artifacts, shard, Some(rows), &self.pool).await?;
            encoded.append(more).map_err(internal)?;
            texts.append(&more_texts);
        }
        let (encoded, texts) = (Arc::new(encoded), Arc::new(texts));
        Ok(Arc::new(Open { window, order, starts, encoded, texts, kept: Some(kept) }))
    }

    /// The rows at these places of a window, as this epoch sees them.
    fn rows(&self, epoch: u32, open: &Open, places: std::ops::Range<usize>) -> Result<Encoded, WireError> {
        let first = open.window.first;
        let of_window = if places.is_empty() { &[] } else { &open.order[places.start - first..places.end - first] };
        let picks = of_window.iter().map(|&row| open.index(row)).collect::<Result<Vec<_>, _>>()?;
        let Some(augmenter) = &self.part.augmenter else { return Ok(open.encoded.select(&picks)) };
        let mut partners = Vec::new();
        if augmenter.mixes() {
            for &row in of_window {
                let partner = augmenter.partner(epoch, stored(&open.starts, row), open.window.rows as u32);
                partners.push(open.index(partner)?);
            }
        }
        augmenter.rows(epoch, Rows { encoded: &open.encoded, texts: &open.texts }, &picks, &partners, &self.pool)
    }
}
