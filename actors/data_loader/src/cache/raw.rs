//! Columns of numbers, and long texts, as bytes in pieces: exact, small, without a call for each value, and beyond the
//! 4 GiB that one value of MessagePack may have. For `#[serde(with = "raw")]` and `#[serde(with = "raw::text")]`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};

/// Values of one piece: at most 32 MiB.
const PIECE: usize = 4 << 20;
/// Values that are made room for before any is read.
const TRUSTED: usize = 1 << 16;

/// A number of a fixed count of bytes.
pub trait Raw: Copy {
    const BYTES: usize;
    fn put(self, out: &mut Vec<u8>);
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! raw {
    ($($type:ty as $stored:ty),*) => {$(
        impl Raw for $type {
            const BYTES: usize = size_of::<$stored>();

            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self as $stored).to_le_bytes());
            }

            fn take(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$stored>()];
                array.copy_from_slice(bytes);
                <$stored>::from_le_bytes(array) as $type
            }
        }
    )*};
}

raw!(u8 as u8, f64 as f64, f32 as f32, u32 as u32, u64 as u64, usize as u64, i64 as i64);

/// Writes the values.
pub fn serialize<T: Raw, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    let pieces = values.chunks(PIECE);
    let mut sequence = serializer.serialize_seq(Some(pieces.len()))?;
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.clear();
        for value in piece {
            value.put(&mut bytes);
        }
        sequence.serialize_element(&Bytes(&bytes))?;
    }
    sequence.end()
}

/// Reads them.
pub fn deserialize<'de, T: Raw, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(Pieces(PhantomData))
}

/// The same for a text.
pub mod text {
    use serde::de::{Deserializer, Error};
    use serde::ser::{SerializeSeq, Serializer};

    use super::{Bytes, PIECE};

    /// Writes the text.
    pub fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        let pieces = text.as_bytes().chunks(8 * PIECE);
        let mut sequence = serializer.serialize_seq(Some(pieces.len()))?;
        for piece in pieces {
            sequence.serialize_element(&Bytes(piece))?;
        }
        sequence.end()
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        String::from_utf8(super::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

struct Bytes<'a>(&'a [u8]);

impl serde::Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

struct Pieces<T>(PhantomData<T>);

impl<'de, T: Raw> Visitor<'de> for Pieces<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "pieces of values of {} bytes", T::BYTES)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pieces: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::with_capacity(TRUSTED.min(pieces.size_hint().unwrap_or(0) * PIECE));
        while let Some(piece) = pieces.next_element::<Piece<T>>()? {
            values.extend(piece.0);
        }
        Ok(values)
    }
}

struct Piece<T>(Vec<T>);

impl<'de, T: Raw> serde::Deserialize<'de> for Piece<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfBytes<T>(PhantomData<T>);
        impl<T: Raw> Visitor<'_> for OfBytes<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<T>, E> {
                if !bytes.len().is_multiple_of(T::BYTES) {
                    return Err(E::invalid_length(bytes.len(), &self));
                }
                Ok(bytes.chunks_exact(T::BYTES).map(T::take).collect())
            }
        }
        deserializer.deserialize_bytes(OfBytes(PhantomData)).map(Piece)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Serialize, Deserialize)]
    struct Columns {
        #[serde(with = "super")]
        numbers: Vec<f64>,
        #[serde(with = "super")]
        ends: Vec<usize>,
        #[serde(with = "super::text")]
        text: String,
    }

    #[test]
    fn values_come_back_with_their_bits() {
        let numbers = vec![0.0, -0.0, f64::NAN, f64::from_bits(0x7ff8_0000_0000_beef), f64::MIN_POSITIVE, 1e300];
        let many: Vec<usize> = (0..super::PIECE + 3).collect();
        let bytes =
            rmp_serde::to_vec_named(&Columns { numbers: numbers.clone(), ends: many.clone(), text: "é€".into() })
                .expect("packs");
        assert!(bytes.len() < 8 * (many.len() + numbers.len()) + 100, "{}", bytes.len());
        let back: Columns = rmp_serde::from_slice(&bytes).expect("unpacks");
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&back.numbers), back.ends, back.text.as_str()), (bits(&numbers), many, "é€"));
        rmp_serde::from_slice::<Columns>(&bytes[..bytes.len() - 1]).expect_err("cut short");
    }
}
