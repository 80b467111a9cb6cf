//! A tensor: a shape over contiguous, row-major storage. The first axis is the row (the sample); every
//! row-wise operation sees the rest as `columns()` numbers.

use crate::buffer::AlignedBuf;
use crate::device::Device;
use crate::error::{Error, Result};

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

/// A shape, its device and its elements.
#[derive(Debug)]
pub struct Tensor {
    shape: Shape,
    device: Device,
    data: AlignedBuf,
}

impl Tensor {
    /// A tensor without elements, to be renewed.
    pub(crate) fn empty() -> Result<Tensor> {
        Ok(Tensor { shape: Shape::new(&[0])?, device: Device::Cpu, data: AlignedBuf::zeroed(0)? })
    }

    /// Takes another shape, contents unspecified; returns whether memory had to be asked for.
    pub(crate) fn renew(&mut self, shape: Shape) -> Result<bool> {
        self.shape = shape;
        self.data.renew(shape.elements())
    }

    /// A tensor with these values. `Shape` error where the count differs.
    pub fn from_slice(shape: Shape, values: &[f32]) -> Result<Tensor> {
        if values.len() != shape.elements() {
            return Err(Error::shape(
                "tensor",
                format!("{} values for {shape:?}", shape.elements()),
                values.len().to_string(),
            ));
        }
        Ok(Tensor { shape, device: Device::Cpu, data: AlignedBuf::copy_of(values)? })
    }

    /// Sizes per axis.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Element type: f32 now.
    pub fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Elements, row-major.
    pub fn values(&self) -> &[f32] {
        &self.data
    }

    /// Elements, row-major, for writing.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    pub(crate) fn buffer_mut(&mut self) -> &mut AlignedBuf {
        &mut self.data
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
        assert!(Tensor::from_slice(shape, &[0.0; 3]).is_err());
    }
}
