//! One open feed: builds frames off the runtime, one ahead, and sends one for each credit.

use std::sync::Arc;

use bus::Bus;
use bytes::Bytes;
use messages::WireError;
use messages::error::Code;
use messages::feed::FrameHeader;
use messages::subject::HEADER_FRAME;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::frames::{Cursor, Made, Maker, make};
use super::order::Position;

/// What a session needs.
pub struct Session {
    pub feed: String,
    pub subject: String,
    pub maker: Arc<Maker>,
    pub position: Position,
    /// Frames granted since the feed was opened; only grows.
    pub granted: watch::Receiver<u64>,
    /// Number of the next frame.
    pub sequence: u64,
    /// The feed was closed, or has been idle for too long.
    pub closed: CancellationToken,
    /// The process drains: the rank is told to go on elsewhere.
    pub drain: CancellationToken,
}

/// A frame, and where the next one is.
struct Built {
    header: FrameHeader,
    payload: Bytes,
    next: Position,
    cursor: Cursor,
}

type Building = JoinHandle<Result<Option<Built>, WireError>>;

/// Sends frames until the last epoch has ended or the feed is closed.
pub async fn run(bus: Bus, mut session: Session) {
    let (closed, drain) = (session.closed.clone(), session.drain.clone());
    let result = tokio::select! {
        biased;
        () = drain.cancelled() => {
            let error = WireError::new(Code::NoCapacity, "this data_loader drains: open the feed again");
            send_error(&bus, &session, error).await
        }
        () = closed.cancelled() => Ok(()),
        result = send_all(&bus, &mut session) => result,
    };
    if let Err(error) = result {
        tracing::warn!(feed = session.feed, %error, "a feed ended early");
    }
}

async fn send_all(bus: &Bus, session: &mut Session) -> Result<(), bus::Error> {
    let mut building = build(session, Cursor::default());
    loop {
        let built = building.await.unwrap_or_else(|e| {
            Err(WireError::new(Code::InternalError, format!("making a frame stopped unexpectedly: {e}")))
        });
        let sequence = session.sequence;
        // The sender is dropped only together with the session.
        if session.granted.wait_for(|granted| *granted > sequence).await.is_err() {
            return Ok(());
        }
        match built {
            Ok(None) => return Ok(()),
            Ok(Some(built)) => {
                (session.position, session.sequence) = (built.next, sequence + 1);
                building = build(session, built.cursor);
                send(bus, session, &built.header, built.payload).await?;
                metrics::counter!("within_feed_frames_total").increment(1);
            }
            Err(error) => return send_error(bus, session, error).await,
        }
    }
}

/// The last frame of a feed that cannot go on: no rows, and why.
async fn send_error(bus: &Bus, session: &Session, error: WireError) -> Result<(), bus::Error> {
    let header = FrameHeader {
        feed: session.feed.clone(),
        sequence: session.sequence,
        epoch: session.position.epoch,
        batch: session.position.batch,
        global_rows: 0,
        first_row: 0,
        part: 0,
        parts: 1,
        end_of_epoch: false,
        error: Some(error),
    };
    send(bus, session, &header, Bytes::new()).await
}

async fn send(bus: &Bus, session: &Session, header: &FrameHeader, payload: Bytes) -> Result<(), bus::Error> {
    let header = serde_json::to_string(header).expect("invariant: a frame header serializes");
    bus.publish_raw(&session.subject, &[(HEADER_FRAME, &header)], payload).await
}

/// Starts making the next frame; its result is none after the last epoch.
fn build(session: &Session, cursor: Cursor) -> Building {
    let (at, sequence) = (session.position, session.sequence);
    let (maker, feed) = (Arc::clone(&session.maker), session.feed.clone());
    tokio::spawn(async move {
        let Some(Made { piece, payload, next, cursor }) = make(&maker, at, cursor).await? else { return Ok(None) };
        let header = FrameHeader {
            feed,
            sequence,
            epoch: at.epoch,
            batch: at.batch,
            global_rows: piece.global_rows,
            first_row: piece.first_row,
            part: at.part,
            parts: piece.parts,
            end_of_epoch: piece.end_of_epoch,
            error: None,
        };
        Ok(Some(Built { header, payload, next, cursor }))
    })
}
