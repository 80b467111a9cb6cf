//! A tensor: a shape over contiguous, row-major elements of any type that users hand in. The first axis is the row
//! (the sample); every row-wise operation sees the rest as `columns()` numbers.

use crate::device::Device;
use crate::error::{Error, Result};
use half::{bf16, f16};

/// Element types. Arithmetic is f32; the others are storage and inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dtype {
    /// 32-bit IEEE 754.
    #[default]
    F32,
    /// The upper half of an f32.
    Bf16,
    /// 16-bit IEEE 754.
    F16,
    /// Token ids, class indices.
    I32,
    /// Ids.
    I64,
    /// Pixels, masks.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
            Dtype::U8 => 1,
        }
    }

    /// Its name in a configuration or message.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::I32 => "i32",
            Dtype::I64 => "i64",
            Dtype::U8 => "u8",
        }
    }

    /// By that name, in small letters or in the capitals of safetensors. `Dtype` error for any other.
    pub fn parse(name: &str) -> Result<Dtype> {
        let all = [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::I32, Dtype::I64, Dtype::U8];
        all.into_iter().find(|d| d.name().eq_ignore_ascii_case(name)).ok_or_else(|| Error::Dtype {
            op: "tensor",
            expected: "f32, bf16, f16, i32, i64 or u8",
            got: name.chars().take(40).collect(),
        })
    }
}

/// The longest shape.
pub const MAX_RANK: usize = 4;

/// Sizes per axis, held inline so that recording a step allocates nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    sizes: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// A shape of 1 to [`MAX_RANK`] axes whose product fits a usize.
    pub fn new(sizes: &[usize]) -> Result<Shape> {
        let refuse = || Error::shape("shape", format!("1 to {MAX_RANK} axes that fit in memory"), format!("{sizes:?}"));
        if sizes.is_empty() || sizes.len() > MAX_RANK {
            return Err(refuse());
        }
        sizes.iter().try_fold(4usize, |product, &n| product.checked_mul(n)).ok_or_else(refuse)?;
        let mut held = [1; MAX_RANK];
        held[..sizes.len()].copy_from_slice(sizes);
        Ok(Shape { sizes: held, rank: sizes.len() })
    }

    /// Sizes per axis.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.sizes().iter().product()
    }

    /// The first axis.
    pub fn rows(&self) -> usize {
        self.sizes[0]
    }

    /// Elements of one row.
    pub fn columns(&self) -> usize {
        self.sizes()[1..].iter().product()
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.sizes())
    }
}

/// Elements of one type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Elements {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
}

macro_rules! elements {
    ($($variant:ident: $ty:ty),*) => {
        $(impl From<Vec<$ty>> for Elements {
            fn from(values: Vec<$ty>) -> Elements {
                Elements::$variant(values)
            }
        })*

        impl Elements {
            /// Their type.
            pub fn dtype(&self) -> Dtype {
                match self {
                    $(Elements::$variant(_) => Dtype::$variant,)*
                }
            }

            /// How many.
            pub fn len(&self) -> usize {
                match self {
                    $(Elements::$variant(values) => values.len(),)*
                }
            }

            /// Whether there is none.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// From little-endian bytes, which are whole elements.
            fn decode(dtype: Dtype, bytes: &[u8]) -> Elements {
                match dtype {
                    $(Dtype::$variant => {
                        let chunks = bytes.as_chunks::<{ size_of::<$ty>() }>().0;
                        Elements::$variant(chunks.iter().map(|b| <$ty>::from_le_bytes(*b)).collect())
                    })*
                }
            }
        }
    };
}
elements!(F32: f32, Bf16: bf16, F16: f16, I32: i32, I64: i64, U8: u8);

/// An element on its way from one type to another.
#[derive(Clone, Copy)]
enum Number {
    Real(f32),
    Whole(i64),
}

impl Number {
    fn real(self) -> f32 {
        match self {
            Number::Real(v) => v,
            Number::Whole(n) => n as f32,
        }
    }

    /// The whole number that it is, if it is one.
    fn whole(self) -> Option<i64> {
        match self {
            // 2^63 is the first f32 beyond; a fraction and NaN are none.
            Number::Real(v) => (v.trunc() == v && v.abs() < 9.223_372e18).then_some(v as i64),
            Number::Whole(n) => Some(n),
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Real(v) => write!(f, "{v}"),
            Number::Whole(n) => write!(f, "{n}"),
        }
    }
}

/// A shape and its elements, of any element type: what a user hands in. Arithmetic is on f32 ([`Tensor::cast`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Shape,
    elements: Elements,
}

impl Tensor {
    /// A tensor with these elements, row-major. `Shape` error where the count differs.
    pub fn new(shape: &[usize], elements: impl Into<Elements>) -> Result<Tensor> {
        let (shape, elements) = (Shape::new(shape)?, elements.into());
        if elements.len() != shape.elements() {
            let expected = format!("{} elements for {shape:?}", shape.elements());
            return Err(Error::shape("tensor", expected, elements.len().to_string()));
        }
        Ok(Tensor { shape, elements })
    }

    /// From little-endian bytes, row-major. `Shape` error where the count differs.
    pub fn from_bytes(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
        let size = dtype.size_bytes();
        if !bytes.len().is_multiple_of(size) {
            return Err(Error::shape("tensor", format!("elements of {size} bytes"), format!("{} bytes", bytes.len())));
        }
        Tensor::new(shape, Elements::decode(dtype, bytes))
    }

    /// Sizes per axis.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.elements.dtype()
    }

    /// Where it lives: what is handed in is in main memory.
    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// Elements, row-major.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// The same numbers as another type: to f32, bf16 and f16 the nearest (from whole numbers by way of f32), to whole
    /// numbers only what is one and fits; `Value` error names the first that is not, and where.
    pub fn cast(&self, dtype: Dtype) -> Result<Tensor> {
        let elements = match dtype {
            Dtype::F32 => Elements::F32(self.to_f32()),
            Dtype::Bf16 => Elements::Bf16(self.to_f32().into_iter().map(bf16::from_f32).collect()),
            Dtype::F16 => Elements::F16(self.to_f32().into_iter().map(f16::from_f32).collect()),
            Dtype::I32 => Elements::I32(self.whole("cast", i32::MIN, i32::MAX)?),
            Dtype::I64 => Elements::I64(self.whole("cast", i64::MIN, i64::MAX)?),
            Dtype::U8 => Elements::U8(self.whole("cast", u8::MIN, u8::MAX)?),
        };
        Ok(Tensor { shape: self.shape, elements })
    }

    /// The numbers as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        self.map(Number::real)
    }

    /// The numbers as ids (tokens, categories, classes), row-major. `Dtype` error for element types that are no ids,
    /// `Value` error for the first that is negative or too large, with where it is.
    pub fn to_ids(&self) -> Result<Vec<u32>> {
        match self.dtype() {
            Dtype::I32 | Dtype::I64 | Dtype::U8 => self.whole("ids", u32::MIN, u32::MAX),
            other => Err(Error::Dtype { op: "ids", expected: "i32, i64 or u8", got: other.name().into() }),
        }
    }

    fn map<T>(&self, of: impl Fn(Number) -> T) -> Vec<T> {
        match &self.elements {
            Elements::F32(values) => values.iter().map(|v| of(Number::Real(*v))).collect(),
            Elements::Bf16(values) => values.iter().map(|v| of(Number::Real(v.to_f32()))).collect(),
            Elements::F16(values) => values.iter().map(|v| of(Number::Real(v.to_f32()))).collect(),
            Elements::I32(values) => values.iter().map(|v| of(Number::Whole(i64::from(*v)))).collect(),
            Elements::I64(values) => values.iter().map(|v| of(Number::Whole(*v))).collect(),
            Elements::U8(values) => values.iter().map(|v| of(Number::Whole(i64::from(*v)))).collect(),
        }
    }

    fn whole<T: TryFrom<i64> + std::fmt::Display>(&self, op: &'static str, least: T, most: T) -> Result<Vec<T>> {
        let fitted = self.map(|n| n.whole().and_then(|n| T::try_from(n).ok()).ok_or(n));
        let refuse = |(at, number): (usize, Number)| {
            let got = format!("{number} at {:?}", self.position(at));
            Error::value(op, format!("whole numbers of {least} to {most}"), got)
        };
        fitted.into_iter().enumerate().map(|(at, n)| n.map_err(|n| refuse((at, n)))).collect()
    }

    /// The index per axis of an element.
    fn position(&self, at: usize) -> Vec<usize> {
        let mut rest = at;
        let mut found: Vec<usize> = Vec::with_capacity(MAX_RANK);
        for &size in self.shape.sizes().iter().rev() {
            found.push(rest % size.max(1));
            rest /= size.max(1);
        }
        found.reverse();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_count_and_refuse() {
        let shape = Shape::new(&[3, 4, 5]).expect("valid");
        assert_eq!((shape.rows(), shape.columns(), shape.elements()), (3, 20, 60));
        assert_eq!(Shape::new(&[7]).expect("valid").columns(), 1);
        assert!(Shape::new(&[]).is_err() && Shape::new(&[1; 5]).is_err() && Shape::new(&[usize::MAX, 2]).is_err());
    }

    #[test]
    fn casts_keep_numbers_or_say_which_does_not_fit() {
        let tensor = Tensor::new(&[2, 2], vec![1i64, -7, 300, 0]).expect("four");
        let small = tensor.cast(Dtype::I32).expect("they fit");
        assert_eq!((small.dtype(), small.elements()), (Dtype::I32, &Elements::I32(vec![1, -7, 300, 0])));
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let there = tensor.cast(dtype).expect("floating point takes all");
            assert_eq!((there.dtype(), there.to_f32()), (dtype, vec![1.0, -7.0, 300.0, 0.0]));
            assert_eq!(there.cast(Dtype::I64).expect("whole"), tensor);
        }
        let error = tensor.cast(Dtype::U8).expect_err("negative");
        assert_eq!(error.to_string(), "cast: expected whole numbers of 0 to 255, got -7 at [0, 1]");
        for odd in [0.5, f32::NAN, f32::INFINITY, 1e19, -1.0] {
            let error = Tensor::new(&[3], vec![2.0, odd, 1.0]).expect("three").cast(Dtype::U8).expect_err("no byte");
            assert!(error.to_string().ends_with(&format!("got {odd} at [1]")), "{error}");
        }
        assert_eq!(
            Tensor::new(&[1], vec![1.00390625f32]).expect("one").cast(Dtype::Bf16).expect("near").to_f32(),
            [1.0]
        );
        assert_eq!(
            Tensor::new(&[1], vec![i64::MAX]).expect("one").cast(Dtype::I64).expect("fits").to_f32(),
            [i64::MAX as f32]
        );
    }

    #[test]
    fn ids_are_checked_and_bytes_are_read() {
        let ids = Tensor::new(&[2, 3], vec![5i32, 0, 9, 2, 1, 8]).expect("six");
        assert_eq!(ids.to_ids().expect("valid"), [5, 0, 9, 2, 1, 8]);
        let error = Tensor::new(&[2, 2], vec![1i64, 2, 1 << 40, 3]).expect("four").to_ids().expect_err("too large");
        assert_eq!(error.to_string(), "ids: expected whole numbers of 0 to 4294967295, got 1099511627776 at [1, 0]");
        let error = Tensor::new(&[1], vec![1.0f32]).expect("one").to_ids().expect_err("no ids");
        assert_eq!(error.to_string(), "ids: expected element type i32, i64 or u8, got f32");
        let bytes: Vec<u8> = [1i64, -2].iter().flat_map(|v| v.to_le_bytes()).collect();
        let read = Tensor::from_bytes(Dtype::parse("I64").expect("known"), &[2], &bytes).expect("two");
        assert_eq!(read.elements(), &Elements::I64(vec![1, -2]));
        assert!(Tensor::from_bytes(Dtype::I64, &[2], &bytes[1..]).is_err() && Tensor::new(&[3], vec![1u8]).is_err());
        let error = Dtype::parse("F64").expect_err("not supported");
        assert_eq!(error.to_string(), "tensor: expected element type f32, bf16, f16, i32, i64 or u8, got F64");
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::I32, Dtype::I64, Dtype::U8] {
            assert_eq!(Dtype::parse(dtype.name()).expect("its own name"), dtype);
        }
    }
}
