//! Inputs of the element types that users have: token ids of i32, i64 and u8, pixels of bytes and of 16 bits.

use crate::models;
use crate::support::{bits, random};
use kernels::ErrorKind;
use kernels::nn::{Images, Inputs, Model, PixelValues};
use kernels::pool::Pool;
use kernels::tape::Workspace;
use kernels::tensor::{Dtype, Elements, Tensor};
use kernels::text::Packed;

#[test]
fn padded_ids_of_every_element_type_become_the_same_rows() {
    let ids = Tensor::new(&[3, 4], vec![1i64, 7, 9, 0, 1, 0, 0, 0, 1, 200, 3, 4]).expect("twelve");
    let want = Packed { ids: vec![1, 7, 9, 1, 1, 200, 3, 4], offsets: vec![0, 3, 4, 8] };
    for dtype in [Dtype::I64, Dtype::I32, Dtype::U8] {
        let ids = ids.cast(dtype).expect("small numbers");
        assert_eq!(Packed::from_tensor(&ids, &[3, 1, 4]).expect("valid"), want, "{dtype:?}");
    }
    let refused = |tensor: &Tensor, lengths: &[usize], kind: ErrorKind, words: &str| {
        let error = Packed::from_tensor(tensor, lengths).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(&ids, &[3, 5, 4], ErrorKind::Shape, "5 in row 1");
    refused(&ids, &[3, 1], ErrorKind::Shape, "[2, longest]");
    refused(&ids.cast(Dtype::F32).expect("floating point"), &[3, 1, 4], ErrorKind::Dtype, "got f32");
    let negative = Tensor::new(&[2, 2], vec![1i32, 5, -100, 2]).expect("four");
    refused(&negative, &[2, 2], ErrorKind::Value, "-100 at [1, 0]");
}

#[test]
fn a_model_answers_the_same_to_any_of_them() {
    let config = &models::configs()[0];
    let model = models::model(config);
    let batch = models::fit(&model, models::batch(6, 4));
    let answer = |inputs: &Inputs| -> Vec<u32> {
        let feed = kernels::nn::Feed::new(6, &batch.features, inputs);
        bits(&model.predict_feed(&feed, &Pool::new(1), &mut Workspace::default()).expect("valid"))
    };
    let want = answer(&batch.inputs);
    let tokens = batch.inputs.tokens.as_ref().expect("tokens");
    let lengths: Vec<usize> = (0..6).map(|r| tokens.row(r).len()).collect();
    let padded: Vec<i64> = tokens.padded(9, 0).into_iter().map(i64::from).collect();
    let ids = Tensor::new(&[6, 9], padded).expect("six rows");
    let images = batch.inputs.images.as_ref().expect("images");
    let PixelValues::Bytes(bytes) = &images.pixels else { panic!("bytes") };
    let pixels = Tensor::new(&[6, 2, 7, 7], bytes.clone()).expect("six images");
    let given = Inputs {
        tokens: Some(Packed::from_tensor(&ids, &lengths).expect("valid")),
        images: Some(Images::from_tensor(&pixels).expect("valid")),
        ..batch.inputs.clone()
    };
    assert_eq!(answer(&given), want);
    check_sixteen_bits(&model, &batch.inputs, &answer);
}

/// Pixels of 16 bits are the numbers that they round to.
fn check_sixteen_bits(model: &Model, inputs: &Inputs, answer: &dyn Fn(&Inputs) -> Vec<u32>) {
    assert_eq!(model.output_dim(), 1);
    let numbers = Tensor::new(&[6, 2, 7, 7], random(3, 6 * 2 * 49)).expect("six images");
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let rounded = numbers.cast(dtype).expect("floating point");
        let widened = rounded.cast(Dtype::F32).expect("exact");
        assert_ne!(&widened, &numbers);
        let with = |tensor: &Tensor| {
            answer(&Inputs { images: Some(Images::from_tensor(tensor).expect("valid")), ..inputs.clone() })
        };
        assert_eq!(with(&rounded), with(&widened), "{dtype:?}");
    }
    let whole = Tensor::new(&[6, 2, 7, 7], Elements::I64(vec![1; 6 * 2 * 49])).expect("six images");
    let error = Images::from_tensor(&whole).expect_err("no pixels");
    assert_eq!(error.to_string(), "images: expected element type u8, f32, bf16 or f16, got i64");
    let flat = Tensor::new(&[6, 98], vec![0u8; 6 * 98]).expect("six rows");
    assert_eq!(Images::from_tensor(&flat).expect_err("two axes").kind(), ErrorKind::Shape);
}
