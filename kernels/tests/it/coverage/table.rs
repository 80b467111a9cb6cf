//! The table: every operation in one graph or more, named as in ops.json. A graph takes items [items, inputs] and
//! gives one row per sample.

use kernels::Result;
use kernels::ops::batchnorm::BatchNormParams;
use kernels::ops::conv::Stride;
use kernels::ops::image::{Grid, Pixels};
use kernels::ops::lstm::{Direction, LstmParams};
use kernels::ops::{Activation, Arithmetic, Pooling, Var, WindowPooling};
use kernels::params::{ParamId, ParamStore};
use kernels::tape::{Mode, Space, Tape};

/// What a graph has beside its input.
pub struct Given<'a> {
    pub params: &'a ParamStore,
    /// The numbers of the input as they lie.
    pub x: &'a [f32],
    pub ids: &'a [u32],
    pub width: usize,
}

impl Given<'_> {
    fn id(&self, name: &str) -> ParamId {
        self.params.find(name).expect("declared by the variant")
    }

    fn lstm(&self) -> LstmParams {
        LstmParams {
            input_weight: self.id("l.w"),
            hidden_weight: self.id("l.u"),
            input_bias: Some(self.id("l.b")),
            hidden_bias: Some(self.id("l.c")),
        }
    }

    fn batch_norm(&self) -> BatchNormParams {
        BatchNormParams {
            gain: self.id("n.weight"),
            bias: self.id("n.bias"),
            mean: self.id("n.running_mean"),
            variance: self.id("n.running_variance"),
            rows: self.id("n.rows_seen"),
        }
    }
}

/// What ids a graph reads: i * i modulo a number, i counted over the whole batch.
#[derive(Clone, Copy)]
pub enum Ids {
    None,
    PerItem { below: usize },
    PerSample { count: usize, below: usize },
}

/// What PyTorch says of a graph.
pub enum Golden {
    /// Values, gradients, and where a NaN goes.
    Whole,
    /// It draws other random numbers; a NaN goes where it goes in this other case.
    NanOf(&'static str),
}

/// Names and shapes of parameters for a width.
pub type Shapes = fn(usize) -> Vec<(&'static str, Vec<usize>)>;

/// One graph and what it asks for.
pub struct Variant {
    pub name: &'static str,
    /// The file in src/ops.
    pub op: &'static str,
    /// Columns of the input for a width.
    pub inputs: fn(usize) -> usize,
    /// Items of every sample, where the graph asks for a number.
    pub items: Option<usize>,
    pub params: Shapes,
    pub ids: Ids,
    pub mode: Mode,
    pub golden: Golden,
    pub graph: for<'a> fn(&mut Tape<'a>, Var, &Given<'a>) -> Result<Var>,
}

const ONE: fn(usize) -> usize = |w| w;
const TWO: fn(usize) -> usize = |w| 2 * w;
const NONE: Shapes = |_| Vec::new();
const NORM: Shapes = |w| vec![("n.weight", vec![w]), ("n.bias", vec![w])];
const BATCH_NORM: Shapes = |w| {
    let mut params = NORM(w);
    params.extend([("n.running_mean", vec![w]), ("n.running_variance", vec![w]), ("n.rows_seen", vec![1])]);
    params
};
const LSTM: Shapes =
    |w| vec![("l.w", vec![4 * w, w]), ("l.u", vec![4 * w, w]), ("l.b", vec![4 * w]), ("l.c", vec![4 * w])];

/// A graph without parameters over ragged items.
const fn plain(
    name: &'static str,
    op: &'static str,
    inputs: fn(usize) -> usize,
    graph: for<'a> fn(&mut Tape<'a>, Var, &Given<'a>) -> Result<Var>,
) -> Variant {
    let (items, ids, mode, golden) = (None, Ids::None, Mode::Train, Golden::Whole);
    Variant { name, op, inputs, items, params: NONE, ids, mode, golden, graph }
}

/// The items of a sample added up.
fn total(tape: &mut Tape<'_>, y: Var) -> Result<Var> {
    tape.pool(y, Pooling::Sum)
}

fn halves(tape: &mut Tape<'_>, x: Var, width: usize, kind: Arithmetic) -> Result<Var> {
    let (a, b) = (tape.slice(x, 0..width)?, tape.slice(x, width..2 * width)?);
    let y = tape.arithmetic(kind, a, b)?;
    total(tape, y)
}

fn act(tape: &mut Tape<'_>, x: Var, act: Activation) -> Result<Var> {
    let y = tape.activation(x, act)?;
    total(tape, y)
}

fn conv(tape: &mut Tape<'_>, x: Var, g: &Given<'_>, grid: (usize, usize), stride: Stride) -> Result<Var> {
    let grid = Grid { height: grid.0, width: grid.1, channels: tape.columns(x) };
    let pixels = tape.items(grid.pixels());
    let x = tape.reshape(x, pixels, grid.channels)?;
    let (y, _) = tape.conv2d(x, grid, g.id("c.weight"), Some(g.id("c.bias")), stride, Activation::Tanh)?;
    total(tape, y)
}

fn window(tape: &mut Tape<'_>, x: Var, kind: WindowPooling) -> Result<Var> {
    let grid = Grid { height: 5, width: 4, channels: tape.columns(x) };
    let pixels = tape.items(20);
    let x = tape.reshape(x, pixels, grid.channels)?;
    let (y, _) = tape.pool2d(x, grid, kind, (3, 2, 1))?;
    total(tape, y)
}

pub const VARIANTS: &[Variant] = &[
    plain("activation_identity", "activation", ONE, |t, x, _| act(t, x, Activation::Identity)),
    plain("activation_relu", "activation", ONE, |t, x, _| act(t, x, Activation::Relu)),
    plain("activation_gelu", "activation", ONE, |t, x, _| act(t, x, Activation::Gelu)),
    plain("activation_gelu_tanh", "activation", ONE, |t, x, _| act(t, x, Activation::GeluTanh)),
    plain("activation_sigmoid", "activation", ONE, |t, x, _| act(t, x, Activation::Sigmoid)),
    plain("activation_tanh", "activation", ONE, |t, x, _| act(t, x, Activation::Tanh)),
    plain("activation_silu", "activation", ONE, |t, x, _| act(t, x, Activation::Silu)),
    Variant {
        params: |w| vec![("l.weight", vec![5, w]), ("l.bias", vec![5])],
        ..plain("linear", "linear", ONE, |t, x, g| {
            let y = t.linear(x, g.id("l.weight"), Some(g.id("l.bias")), Activation::Relu)?;
            total(t, y)
        })
    },
    Variant {
        params: |w| vec![("l.weight", vec![1, w])],
        ..plain("linear_one_output", "linear", ONE, |t, x, g| {
            let y = t.linear(x, g.id("l.weight"), None, Activation::Identity)?;
            total(t, y)
        })
    },
    plain("add", "binary", TWO, |t, x, g| halves(t, x, g.width, Arithmetic::Add)),
    plain("subtract", "binary", TWO, |t, x, g| halves(t, x, g.width, Arithmetic::Subtract)),
    plain("multiply", "binary", TWO, |t, x, g| halves(t, x, g.width, Arithmetic::Multiply)),
    plain("divide", "binary", TWO, |t, x, g| halves(t, x, g.width, Arithmetic::Divide)),
    plain("scale", "scale", ONE, |t, x, _| {
        let y = t.scale(x, 2.5)?;
        total(t, y)
    }),
    plain("stop_gradient", "scale", ONE, |t, x, _| {
        let held = t.stop_gradient(x)?;
        let y = t.arithmetic(Arithmetic::Multiply, held, x)?;
        total(t, y)
    }),
    Variant {
        golden: Golden::NanOf("activation_identity"),
        ..plain("dropout", "dropout", ONE, |t, x, _| {
            let y = t.dropout(x, 0.4, 3)?;
            total(t, y)
        })
    },
    plain("softmax", "softmax", ONE, |t, x, _| {
        let y = t.softmax(x)?;
        let y = t.arithmetic(Arithmetic::Multiply, y, x)?;
        total(t, y)
    }),
    plain("pool_cls", "pool", ONE, |t, x, _| t.pool(x, Pooling::Cls)),
    plain("pool_last", "pool", ONE, |t, x, _| t.pool(x, Pooling::Last)),
    plain("pool_sum", "pool", ONE, |t, x, _| t.pool(x, Pooling::Sum)),
    plain("pool_mean", "pool", ONE, |t, x, _| t.pool(x, Pooling::Mean)),
    plain("pool_max", "pool", ONE, |t, x, _| t.pool(x, Pooling::Max)),
    plain("reduce_sum", "reduce", ONE, |t, x, _| {
        let y = t.sum_columns(x)?;
        total(t, y)
    }),
    plain("reduce_mean", "reduce", ONE, |t, x, _| {
        let y = t.mean_columns(x)?;
        total(t, y)
    }),
    plain("columns", "columns", ONE, |t, x, g| {
        let (a, b) = (t.slice(x, g.width.min(1)..g.width)?, t.slice(x, 0..1)?);
        let y = t.concat(&[a, x, b])?;
        total(t, y)
    }),
    Variant { items: Some(4), ..plain("reshape", "reshape", ONE, |t, x, g| t.reshape(x, Space::SAMPLES, 4 * g.width)) },
    Variant {
        items: Some(4),
        ..plain("transpose", "transpose", ONE, |t, x, g| {
            let y = t.transpose(x)?;
            t.reshape(y, Space::SAMPLES, 4 * g.width)
        })
    },
    Variant {
        items: Some(3),
        ids: Ids::PerSample { count: 2, below: 3 },
        ..plain("gather", "gather", ONE, |t, x, g| {
            let pairs = t.items(2);
            let ids = t.ids(pairs, g.ids, 1)?;
            let y = t.gather(x, ids)?;
            t.reshape(y, Space::SAMPLES, 2 * g.width)
        })
    },
    Variant {
        params: NORM,
        ..plain("layer_norm", "layernorm", ONE, |t, x, g| {
            let y = t.layer_norm(x, g.id("n.weight"), g.id("n.bias"))?;
            total(t, y)
        })
    },
    Variant {
        params: NORM,
        ..plain("layer_norm_of_sum", "layernorm", TWO, |t, x, g| {
            let (a, b) = (t.slice(x, 0..g.width)?, t.slice(x, g.width..2 * g.width)?);
            let y = t.layer_norm_of_sum(a, Some(b), g.id("n.weight"), g.id("n.bias"), 1e-5)?;
            total(t, y)
        })
    },
    Variant {
        params: BATCH_NORM,
        ..plain("batch_norm", "batchnorm", ONE, |t, x, g| {
            let y = t.batch_norm(x, g.batch_norm())?;
            total(t, y)
        })
    },
    Variant {
        params: BATCH_NORM,
        mode: Mode::Explain,
        ..plain("batch_norm_running", "batchnorm", ONE, |t, x, g| {
            let y = t.batch_norm(x, g.batch_norm())?;
            total(t, y)
        })
    },
    Variant {
        params: |w| vec![("e.weight", vec![5, w])],
        ids: Ids::PerItem { below: 5 },
        ..plain("embedding", "embedding", ONE, |t, x, g| {
            let ids = t.ids(t.space(x), g.ids, 1)?;
            let e = t.embedding(ids, 0, g.id("e.weight"))?;
            let y = t.add(x, e)?;
            total(t, y)
        })
    },
    Variant {
        params: |w| vec![("e.weight", vec![5, w]), ("p.weight", vec![6, w]), ("t.weight", vec![2, w])],
        ids: Ids::PerItem { below: 5 },
        ..plain("embedding_sum", "embedding", ONE, |t, x, g| {
            let ids = t.ids(t.space(x), g.ids, 1)?;
            let e = t.embedding_sum(ids, g.id("e.weight"), Some(g.id("p.weight")), Some(g.id("t.weight")))?;
            let y = t.arithmetic(Arithmetic::Multiply, x, e)?;
            total(t, y)
        })
    },
    plain(
        "attention",
        "attention",
        |w| 3 * w,
        |t, x, _| {
            let y = t.attention(x, 1, 0.0, 0)?;
            total(t, y)
        },
    ),
    plain(
        "attention_heads",
        "attention",
        |w| 6 * w,
        |t, x, _| {
            let y = t.attention(x, 2, 0.0, 0)?;
            total(t, y)
        },
    ),
    Variant {
        golden: Golden::NanOf("attention_heads"),
        ..plain(
            "attention_dropout",
            "attention",
            |w| 6 * w,
            |t, x, _| {
                let y = t.attention(x, 2, 0.6, 5)?;
                total(t, y)
            },
        )
    },
    Variant {
        params: LSTM,
        ..plain("lstm_forward", "lstm", ONE, |t, x, g| {
            let y = t.lstm(x, g.lstm(), Direction::Forward)?;
            total(t, y)
        })
    },
    Variant {
        params: LSTM,
        ..plain("lstm_backward", "lstm", ONE, |t, x, g| {
            let y = t.lstm(x, g.lstm(), Direction::Backward)?;
            total(t, y)
        })
    },
    Variant {
        items: Some(6),
        ..plain("image", "image", ONE, |t, x, g| {
            let image = t.image(Pixels::Floats(g.x), Grid { height: 3, width: 2, channels: g.width }, 2.0, 0.5)?;
            let x = t.reshape(x, t.space(image), g.width)?;
            let y = t.arithmetic(Arithmetic::Multiply, image, x)?;
            total(t, y)
        })
    },
    Variant {
        items: Some(20),
        params: |w| vec![("c.weight", vec![4, 3, 3, w]), ("c.bias", vec![4])],
        ..plain("conv", "conv", ONE, |t, x, g| conv(t, x, g, (5, 4), Stride { stride: 2, padding: 1, groups: 1 }))
    },
    Variant {
        items: Some(12),
        params: |w| vec![("c.weight", vec![4, 2, 2, w]), ("c.bias", vec![4])],
        ..plain("conv_groups", "conv", TWO, |t, x, g| {
            conv(t, x, g, (4, 3), Stride { stride: 1, padding: 0, groups: 2 })
        })
    },
    Variant {
        items: Some(12),
        params: |w| vec![("c.weight", vec![w, 3, 3, 1]), ("c.bias", vec![w])],
        ..plain("conv_depthwise", "conv", ONE, |t, x, g| {
            conv(t, x, g, (4, 3), Stride { stride: 1, padding: 1, groups: g.width })
        })
    },
    Variant { items: Some(20), ..plain("window_max", "window", ONE, |t, x, _| window(t, x, WindowPooling::Max)) },
    Variant {
        items: Some(20),
        ..plain("window_average", "window", ONE, |t, x, _| window(t, x, WindowPooling::Average))
    },
];

/// Where each operation's gradients are held against finite differences of a forward pass in f64.
pub const FINITE_DIFFERENCES: &[(&str, &str)] = &[
    ("activation", "norm_dropout_activation_and_a_residual_sum"),
    ("attention", "a_transformer_layer_over_ragged_tokens"),
    ("attention", "attention_over_more_items_than_a_block"),
    ("batchnorm", "batch_norm_over_each_shard"),
    ("binary", "arithmetic_slices_sums_and_poolings"),
    ("columns", "arithmetic_slices_sums_and_poolings"),
    ("conv", "convolutions_of_odd_sizes_strides_paddings_and_groups"),
    ("dropout", "norm_dropout_activation_and_a_residual_sum"),
    ("embedding", "a_transformer_layer_over_ragged_tokens"),
    ("gather", "reshapes_transposes_and_gathers"),
    ("image", "gradients_of_every_input_against_finite_differences"),
    ("layernorm", "norm_dropout_activation_and_a_residual_sum"),
    ("layernorm", "a_transformer_layer_over_ragged_tokens"),
    ("linear", "linear_layers_of_odd_sizes_with_every_activation"),
    ("loss", "every_loss"),
    ("lstm", "lstm_layers_of_both_directions_over_sequences_of_different_lengths"),
    ("pool", "arithmetic_slices_sums_and_poolings"),
    ("reduce", "arithmetic_slices_sums_and_poolings"),
    ("reshape", "reshapes_transposes_and_gathers"),
    ("scale", "reversed_and_stopped_gradients"),
    ("softmax", "arithmetic_slices_sums_and_poolings"),
    ("transpose", "reshapes_transposes_and_gathers"),
    ("window", "windows_of_pixels"),
];
