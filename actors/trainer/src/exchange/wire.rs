//! What travels on a connection between two ranks: a header of 72 bytes and its payload, little-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | magic |
//! | 4..6 | version of the protocol |
//! | 6..8 | seat of the rank that sends |
//! | 8..12 | generation of the group |
//! | 12 | kind: 1 value, 2 result, 3 farewell |
//! | 14..18 | node of the tree: first leaf, end (first: the seat of the rank that a farewell blames) |
//! | 20..24 | bucket |
//! | 24..32 | job: the first bytes of BLAKE3 of its id |
//! | 32..40 | sequence number of the operation |
//! | 40..48 | offset in the buffer, in bytes |
//! | 48..52 | length of the payload, in bytes |
//! | 56..64 | XXH3 of the payload |
//! | 64..72 | XXH3 of bytes 0..64 |

use kernels::collective::{Frame, Kind};
use kernels::shard::Node;
use twox_hash::XxHash3_64;

pub const HEADER_BYTES: usize = 72;
/// Longest payload that is believed, in bytes; far above any piece.
pub const MAX_PAYLOAD_BYTES: u32 = 64 << 20;
pub const MAGIC: u32 = u32::from_le_bytes(*b"WXG1");
pub const VERSION: u16 = 1;
const CHECKED: usize = 64;

/// Who sends, in which group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub job: u64,
    pub generation: u32,
    /// Its seat in this generation.
    pub rank: u16,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    Frame(Frame),
    /// The sender's collective has failed: it blames the rank at this seat, itself where nobody else is to blame.
    Farewell {
        culprit: u16,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub origin: Origin,
    pub message: Message,
    pub payload_bytes: u32,
    pub checksum: u64,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Its checksum does not hold.
    Corrupt,
    Version(u16),
    /// Not this protocol at all, or nonsense with a good checksum.
    Foreign,
}

/// The short name of a job on the wire.
pub fn job_number(id: &str) -> u64 {
    let hash = blake3::hash(id.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}

pub fn checksum(payload: &[u8]) -> u64 {
    XxHash3_64::oneshot(payload)
}

impl Header {
    pub fn of(origin: Origin, frame: Frame, payload: &[u8]) -> Header {
        let checksum = checksum(payload);
        Header { origin, message: Message::Frame(frame), payload_bytes: frame.len, checksum }
    }

    pub fn farewell(origin: Origin, culprit: u16) -> Header {
        Header { origin, message: Message::Farewell { culprit }, payload_bytes: 0, checksum: checksum(&[]) }
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(4, &VERSION.to_le_bytes());
        put(6, &self.origin.rank.to_le_bytes());
        put(8, &self.origin.generation.to_le_bytes());
        put(24, &self.origin.job.to_le_bytes());
        match self.message {
            Message::Frame(frame) => {
                put(12, &[if frame.kind == Kind::Value { 1 } else { 2 }]);
                put(14, &(frame.node.first as u16).to_le_bytes());
                put(16, &(frame.node.end as u16).to_le_bytes());
                put(20, &frame.bucket.to_le_bytes());
                put(32, &frame.sequence.to_le_bytes());
                put(40, &frame.offset.to_le_bytes());
            }
            Message::Farewell { culprit } => {
                put(12, &[3]);
                put(14, &culprit.to_le_bytes());
            }
        }
        put(48, &self.payload_bytes.to_le_bytes());
        put(56, &self.checksum.to_le_bytes());
        let check = checksum(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Unreadable> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if u64_at(CHECKED) != checksum(&bytes[..CHECKED]) {
            return Err(Unreadable::Corrupt);
        }
        if u32_at(0) != MAGIC {
            return Err(Unreadable::Foreign);
        }
        if u16_at(4) != VERSION {
            return Err(Unreadable::Version(u16_at(4)));
        }
        let payload_bytes = u32_at(48);
        let frame = |kind| {
            let node = Node { first: u16_at(14).into(), end: u16_at(16).into() };
            Message::Frame(Frame {
                kind,
                sequence: u64_at(32),
                bucket: u32_at(20),
                node,
                offset: u64_at(40),
                len: payload_bytes,
            })
        };
        let message = match bytes[12] {
            1 => frame(Kind::Value),
            2 => frame(Kind::Result),
            3 => Message::Farewell { culprit: u16_at(14) },
            _ => return Err(Unreadable::Foreign),
        };
        if payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(Unreadable::Foreign);
        }
        let origin = Origin { job: u64_at(24), generation: u32_at(8), rank: u16_at(6) };
        Ok(Header { origin, message, payload_bytes, checksum: u64_at(56) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: Kind, numbers: [u64; 4], payload: &[u8]) -> Header {
        let [generation, sequence, offset, bucket] = numbers;
        let origin = Origin { job: job_number("j1"), generation: generation as u32, rank: 3 };
        let node = Node { first: 5, end: 32_768 };
        let frame = Frame { kind, sequence, bucket: bucket as u32, node, offset, len: payload.len() as u32 };
        Header::of(origin, frame, payload)
    }

    proptest! {
        #[test]
        fn a_header_reads_as_it_was_written(numbers: [u64; 4], payload: Vec<u8>, result: bool) {
            let header = header(if result { Kind::Result } else { Kind::Value }, numbers, &payload);
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
            let farewell = Header::farewell(header.origin, 7);
            prop_assert_eq!(Header::decode(&farewell.encode()), Ok(farewell));
        }

        #[test]
        fn a_flipped_bit_is_seen(numbers: [u64; 4], bit in 0..8 * HEADER_BYTES) {
            let mut bytes = header(Kind::Value, numbers, b"payload").encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&bytes), Err(Unreadable::Corrupt));
        }
    }

    #[test]
    fn another_version_and_another_protocol_are_told_apart() {
        let sealed = |at: usize, value: u8| {
            let mut bytes = header(Kind::Value, [1, 2, 3, 4], b"").encode();
            bytes[at] = value;
            let check = checksum(&bytes[..CHECKED]).to_le_bytes();
            bytes[CHECKED..].copy_from_slice(&check);
            Header::decode(&bytes)
        };
        assert_eq!(sealed(4, 9), Err(Unreadable::Version(9)));
        assert_eq!(sealed(0, 0), Err(Unreadable::Foreign));
        assert_eq!(sealed(12, 9), Err(Unreadable::Foreign));
        assert_eq!(sealed(51, 0xff), Err(Unreadable::Foreign), "a length that nobody sends");
    }
}
