//! The cases: an operation at a size, the kernels that it starts, what they have to move or compute at least, and what they
//! are held against.

use super::Scale;
use super::timing::product;
use kernels::Result;
use kernels::cuda::cublaslt::Form;
use kernels::dtype::Precision;
use kernels::ops::conv::Stride;
use kernels::ops::image::Grid;
use kernels::ops::lstm::{Direction, LstmParams};
use kernels::ops::{Activation, Arithmetic, Pooling, Var};
use kernels::params::{ParamId, ParamStore};
use kernels::tape::Tape;
use serde_json::{Value, json};

/// One case.
pub struct Case {
    pub name: &'static str,
    pub shape: String,
    pub rows: usize,
    /// Items of each row; none: the row itself.
    pub items: Option<usize>,
    pub columns: usize,
    /// Ids of items are below this.
    pub ids_below: usize,
    /// The output is compared with classes.
    pub classes: bool,
    pub params: Vec<(&'static str, Vec<usize>)>,
    pub precisions: &'static [Precision],
    pub graph: for<'a> fn(&mut Tape<'a>, Var, &ParamStore, &'a [u32]) -> Result<Var>,
    pub work: Vec<Work>,
    /// What the peer is to do.
    pub peer: Value,
}

/// What is known of some of a case's kernels.
pub struct Work {
    pub what: &'static str,
    /// Beginnings of their names; their seconds are added up.
    pub kernels: &'static [&'static str],
    /// At least moved, and computed; one of them counts.
    pub bytes: f64,
    pub flops: f64,
    pub against: Against,
    pub goal: &'static str,
    /// The peer's figure of the same.
    pub peer: Option<&'static str>,
}

/// What a figure is a share of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Against {
    /// The bandwidth of a copy.
    Copy,
    /// cuBLASLt's rate at this product.
    Product(Form, [usize; 3]),
}

const F32: &[Precision] = &[Precision::F32];
const ALL: &[Precision] = &[Precision::F32, Precision::Bf16, Precision::F16];

/// Kernels that move `bytes`; the peer's figure of the same name as theirs.
fn moving(what: &'static str, kernels: &'static [&'static str], bytes: f64) -> Work {
    Work { what, kernels, bytes, flops: 0.0, against: Against::Copy, goal: "85 %", peer: Some(what) }
}

fn computing(what: &'static str, kernels: &'static [&'static str], flops: f64, against: Against) -> Work {
    let peer = if ["forward", "backward"].contains(&what) { Some(what) } else { None };
    Work { what, kernels, bytes: 0.0, flops, against, goal: "95 %", peer }
}

fn id(params: &ParamStore, name: &str) -> ParamId {
    params.find(name).expect("invariant: declared by the case")
}

/// Every case at this scale.
pub fn all(scale: Scale) -> Vec<Case> {
    let full = scale == Scale::Full;
    let mut cases = element_by_element(full);
    cases.extend(by_rows(full));
    cases.extend(linear(full));
    cases.extend([conv(full), lstm(full), embedding(full)]);
    cases.extend(attention(full));
    cases
}

/// A case over [rows, columns] without parameters.
fn plain(
    name: &'static str,
    [rows, columns]: [usize; 2],
    graph: for<'a> fn(&mut Tape<'a>, Var, &ParamStore, &'a [u32]) -> Result<Var>,
    work: Vec<Work>,
) -> Case {
    Case {
        name,
        shape: format!("{rows} x {columns}"),
        rows,
        items: None,
        columns,
        ids_below: 0,
        classes: false,
        params: Vec::new(),
        precisions: F32,
        graph,
        work,
        peer: json!({ "op": name, "rows": rows, "columns": columns }),
    }
}

fn element_by_element(full: bool) -> Vec<Case> {
    let sizes = if full { [32_768, 1_024] } else { [9, 16] };
    let count = (sizes[0] * sizes[1]) as f64;
    vec![
        plain(
            "gelu",
            sizes,
            |tape, x, _, _| tape.activation(x, Activation::Gelu),
            vec![
                moving("forward", &["activation_forward"], 8.0 * count),
                Work { peer: None, ..moving("slope in place", &["activation_backward"], 12.0 * count) },
            ],
        ),
        plain(
            "multiply",
            sizes,
            |tape, x, _, _| tape.arithmetic(Arithmetic::Multiply, x, x),
            vec![moving("forward", &["arithmetic_forward"], 8.0 * count)],
        ),
        plain(
            "dropout",
            sizes,
            |tape, x, _, _| tape.dropout(x, 0.1, 1),
            vec![Work { peer: None, ..moving("one way", &["dropout"], 16.0 * count) }],
        ),
    ]
}

fn by_rows(full: bool) -> Vec<Case> {
    let sizes = if full { [32_768, 1_024] } else { [9, 33] };
    let count = (sizes[0] * sizes[1]) as f64;
    let norm = Case {
        params: vec![("gain", vec![sizes[1]]), ("bias", vec![sizes[1]])],
        ..plain(
            "layer_norm",
            sizes,
            |tape, x, params, _| tape.layer_norm(x, id(params, "gain"), id(params, "bias")),
            vec![
                moving("forward", &["layer_norm_forward"], 8.0 * count),
                moving("backward", &["layer_norm_backward", "layer_norm_gains"], 20.0 * count),
            ],
        )
    };
    let softmax = plain(
        "softmax",
        sizes,
        |tape, x, _, _| tape.softmax(x),
        vec![
            moving("forward", &["softmax_forward"], 8.0 * count),
            moving("backward", &["softmax_backward"], 12.0 * count),
        ],
    );
    let classes = Case {
        classes: true,
        ..plain(
            "cross_entropy",
            sizes,
            |tape, x, _, _| tape.scale(x, 1.0),
            vec![moving("both ways", &["loss_class"], 8.0 * count)],
        )
    };
    vec![norm, softmax, classes]
}

fn linear(full: bool) -> Vec<Case> {
    let large = if full { vec![[8_192, 4_096, 4_096], [8_192, 512, 128]] } else { vec![[130, 129, 33]] };
    let case = |sizes: [usize; 3]| {
        let [rows, outputs, inputs] = sizes;
        let flops = 2.0 * rows as f64 * outputs as f64 * inputs as f64;
        Case {
            shape: format!("{rows} x {inputs} to {outputs}"),
            params: vec![("weight", vec![outputs, inputs])],
            precisions: ALL,
            peer: json!({ "op": "linear", "rows": rows, "outputs": outputs, "inputs": inputs }),
            ..plain(
                "linear",
                [rows, inputs],
                |tape, x, params, _| tape.linear(x, id(params, "weight"), None, Activation::Identity),
                vec![
                    computing("forward", &["linear_forward"], flops, product(Form::Forward, sizes)),
                    computing("of the input", &["linear_backward"], flops, product(Form::Backward, sizes)),
                    computing("of the weight", &["linear_weight"], flops, product(Form::Weight, sizes)),
                    computing(
                        "backward",
                        &["linear_backward", "linear_weight"],
                        2.0 * flops,
                        product(Form::Backward, sizes),
                    ),
                ],
            )
        }
    };
    large.into_iter().map(case).collect()
}

/// A convolution, against the product that it would be if its windows lay unfolded in memory: what im2col has to reach after
/// the time for unfolding, which is not counted here.
fn conv(full: bool) -> Case {
    const SIDE: usize = 16;
    let (rows, channels, outputs) = if full { (1_024, 64, 128) } else { (2, 3, 4) };
    let (side, terms) = (SIDE, 9 * channels);
    let sizes = [rows * side * side, outputs, terms];
    let flops = 2.0 * (sizes[0] * outputs) as f64 * terms as f64;
    Case {
        shape: format!("{rows} x {side} x {side} x {channels} to {outputs}, 3 x 3"),
        rows,
        items: Some(side * side),
        columns: channels,
        params: vec![("weight", vec![outputs, 3, 3, channels])],
        precisions: ALL,
        peer: json!({ "op": "conv", "rows": rows, "side": side, "channels": channels, "outputs": outputs }),
        ..plain(
            "conv2d",
            [rows, channels],
            |tape, x, params, _| {
                let grid = Grid { height: SIDE, width: SIDE, channels: tape.columns(x) };
                let stride = Stride { stride: 1, padding: 1, groups: 1 };
                let (y, _) = tape.conv2d(x, grid, id(params, "weight"), None, stride, Activation::Identity)?;
                tape.pool(y, Pooling::Sum)
            },
            vec![
                computing("forward", &["conv_forward"], flops, product(Form::Forward, sizes)),
                computing("of the input", &["conv_backward"], flops, product(Form::Backward, sizes)),
                computing("of the weight", &["conv_weight"], flops, product(Form::Weight, sizes)),
                computing("backward", &["conv_backward", "conv_weight"], 2.0 * flops, product(Form::Backward, sizes)),
            ],
        )
    }
}

fn lstm(full: bool) -> Case {
    let (rows, steps, hidden) = if full { (512, 64, 128) } else { (5, 3, 7) };
    let sizes = [rows, 4 * hidden, hidden];
    let flops = 2.0 * (rows * steps) as f64 * (4 * hidden * hidden) as f64;
    let part = |what, kernels| Work { goal: "", ..computing(what, kernels, flops, product(Form::Forward, sizes)) };
    Case {
        shape: format!("{rows} x {steps} x {hidden}"),
        rows,
        items: Some(steps),
        columns: hidden,
        params: vec![("input", vec![4 * hidden, hidden]), ("hidden", vec![4 * hidden, hidden])],
        precisions: ALL,
        peer: json!({ "op": "lstm", "rows": rows, "steps": steps, "hidden": hidden }),
        ..plain(
            "lstm",
            [rows, hidden],
            |tape, x, params, _| {
                let (input_weight, hidden_weight) = (id(params, "input"), id(params, "hidden"));
                let params = LstmParams { input_weight, hidden_weight, input_bias: None, hidden_bias: None };
                let y = tape.lstm(x, params, Direction::Forward)?;
                tape.pool(y, Pooling::Last)
            },
            vec![
                Work { peer: None, ..part("recurrence", &["lstm_forward"]) },
                Work { peer: None, ..part("recurrence back", &["lstm_backward"]) },
                Work { flops: 2.0 * flops, ..part("forward", &["lstm_forward", "linear_forward"]) },
                Work { flops: 4.0 * flops, ..part("backward", &["lstm_backward", "linear_backward", "linear_weight"]) },
            ],
        )
    }
}

fn embedding(full: bool) -> Case {
    let (rows, items, width, words) = if full { (8_192, 32, 256, 30_000) } else { (4, 3, 5, 7) };
    let count = (rows * items * width) as f64;
    Case {
        shape: format!("{rows} x {items} x {width} of {words}"),
        rows,
        items: Some(items),
        columns: width,
        ids_below: words,
        params: vec![("words", vec![words, width])],
        peer: json!({ "op": "embedding", "rows": rows, "items": items, "width": width, "words": words }),
        ..plain(
            "embedding",
            [rows, width],
            |tape, x, params, ids| {
                let ids = tape.ids(tape.space(x), ids, 1)?;
                let words = tape.embedding(ids, 0, id(params, "words"))?;
                tape.pool(words, Pooling::Sum)
            },
            vec![
                moving("forward", &["embedding_forward"], 8.0 * count),
                Work { peer: None, ..moving("of the table", &["embedding_backward"], 4.0 * count) },
            ],
        )
    }
}

/// Self-attention without dropout: multiply-adds of both products, and of the five of the way back.
fn attention(full: bool) -> Vec<Case> {
    let sizes = if full { vec![[16, 1_024, 16, 64], [16, 1_024, 8, 128]] } else { vec![[2, 17, 2, 8]] };
    let case = |[rows, items, heads, width]: [usize; 4]| {
        let flops = 4.0 * (rows * heads) as f64 * (items * items) as f64 * width as f64;
        let sizes = [rows * items, items, heads * width];
        let against = product(Form::Forward, sizes);
        let part = |what, kernels, flops| Work { goal: "0.9 x torch", ..computing(what, kernels, flops, against) };
        Case {
            shape: format!("{rows} x {items}, {heads} heads of {width}"),
            rows,
            items: Some(items),
            columns: 3 * heads * width,
            params: vec![("heads", vec![heads])],
            precisions: ALL,
            peer: json!({ "op": "attention", "rows": rows, "items": items, "heads": heads, "width": width }),
            ..plain(
                "attention",
                [rows, 3 * heads * width],
                |tape, x, params, _| {
                    // The number of heads is the size of a parameter that nobody reads.
                    let heads = params.param(id(params, "heads")).shape[0];
                    let y = tape.attention(x, heads, 0.0, 0)?;
                    tape.pool(y, Pooling::Sum)
                },
                vec![
                    part("forward", &["attention_forward"], flops),
                    part("backward", &["attention_dots", "attention_queries", "attention_keys"], 2.5 * flops),
                ],
            )
        }
    };
    sizes.into_iter().map(case).collect()
}
