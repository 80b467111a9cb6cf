//! Every operation against everything that is claimed of operations: the table of graphs (coverage/table.rs) has one
//! for each file of src/ops, and each graph is held against PyTorch (values, gradients, where a NaN goes:
//! tests/golden/make_op_goldens.py), run over odd shapes, and compared to the last bit over threads and over splits
//! of the batch at the bounds of logical shards. Tolerance 2e-5, relative above 1.

mod device;
mod table;

use crate::support::{RANDOMNESS, bits, close, random, store};
use kernels::buffer::AlignedBuf;
use kernels::ops::loss::{Loss, LossConfig, Targets};
use kernels::params::{ParamId, ParamStore};
use kernels::pool::Pool;
use kernels::shard::{Node, complete, nodes_of, rows_of};
use kernels::tape::{HeldShards, InputGrad, Mode, Rows, Tape, Workspace};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;
use table::{FINITE_DIFFERENCES, Given, Golden, Ids, VARIANTS, Variant};

const TOLERANCE: f64 = 2e-5;

/// A batch of a variant: all of it, whatever part of it is run.
struct Whole<'a> {
    variant: &'a Variant,
    params: &'a ParamStore,
    width: usize,
    x: &'a [f32],
    offsets: &'a [u32],
    /// Per output; repeated if shorter.
    targets: &'a [f32],
    shards: usize,
}

struct Outcome {
    output: Vec<f32>,
    input_grad: Vec<f32>,
    nodes: Vec<(Node, Vec<f32>)>,
    /// The squared norm of each sample's gradient; none where samples are coupled.
    squares: Option<Vec<f64>>,
}

impl Whole<'_> {
    fn samples(&self) -> usize {
        self.offsets.len() - 1
    }

    fn at(&self, shard: usize) -> usize {
        if shard == self.shards { self.samples() } else { rows_of(shard, self.shards, self.samples()).start }
    }

    fn ids(&self, samples: &Range<usize>, items: &Range<usize>) -> Vec<u32> {
        let of = |range: Range<usize>, below: usize| range.map(|i| (i * i % below) as u32).collect();
        match self.variant.ids {
            Ids::None => Vec::new(),
            Ids::PerItem { below } => of(items.clone(), below),
            Ids::PerSample { count, below } => of(samples.start * count..samples.end * count, below),
        }
    }

    /// Runs the samples of some shards.
    fn run(&self, held: Range<usize>, threads: usize) -> Outcome {
        self.run_in(&mut Workspace::default(), held, threads)
    }

    /// The same in this workspace, which may be on a device.
    fn run_in(&self, ws: &mut Workspace, held: Range<usize>, threads: usize) -> Outcome {
        let samples = self.at(held.start)..self.at(held.end);
        let offsets = &self.offsets[samples.start..=samples.end];
        let items = offsets[0] as usize..offsets[samples.len()] as usize;
        let columns = (self.variant.inputs)(self.width);
        let (x, ids) = (&self.x[items.start * columns..items.end * columns], self.ids(&samples, &items));
        let sample_ids: Vec<u64> = samples.clone().map(|s| s as u64 * 7 + 1).collect();
        let bounds: Vec<usize> = (held.start..=held.end).map(|s| self.at(s) - samples.start).collect();
        let (on_device, pool) = (ws.machine().is_some(), Pool::new(threads));
        let mode = self.variant.mode;
        let rows = Rows { count: samples.len(), sample_ids: &sample_ids, mode, randomness: RANDOMNESS };
        let mut tape = Tape::new(ws, self.params, rows).expect("valid");
        tape.set_shards(&bounds);
        let space = match self.variant.items {
            Some(items) => tape.items(items),
            None => tape.ragged(offsets).expect("valid"),
        };
        let input = tape.input_in(space, x, columns, InputGrad::Wanted).expect("valid");
        let given = Given { params: self.params, x, ids: &ids, width: self.width };
        let output = (self.variant.graph)(&mut tape, input, &given).expect("valid");
        let outputs = tape.columns(output);
        let span = samples.start * outputs..samples.end * outputs;
        let targets = Targets::Real(self.targets.iter().copied().cycle().take(span.end).skip(span.start).collect());
        let loss = Loss { config: &LossConfig::Mse, targets: &targets, weights: None };
        tape.forward_backward(&pool, output, &loss).expect("valid");
        let held = HeldShards { nodes: nodes_of(held.clone(), self.shards), bounds, first: held.start };
        let zero = || AlignedBuf::zeroed(self.params.flat_len()).expect("small");
        let mut gradients: Vec<AlignedBuf> = held.nodes.iter().map(|_| zero()).collect();
        tape.param_gradients(&pool, &held, &mut gradients).expect("computes");
        let mut squares = vec![0.0; samples.len()];
        let of_samples = if on_device { None } else { Some(tape.sample_grad_squares(&pool, &mut squares)) };
        let squares = of_samples.and_then(Result::ok).map(|()| squares);
        for var in [input, output] {
            tape.fetch(var).expect("there");
        }
        Outcome {
            squares,
            output: tape.value(output).to_vec(),
            input_grad: tape.grad(input).expect("wanted").to_vec(),
            nodes: held.nodes.iter().copied().zip(gradients.iter().map(|g| g.to_vec())).collect(),
        }
    }

    /// The bits of outputs, of the input's gradient and of the root of the parameters' gradients, of a batch that is
    /// run in parts.
    fn bits(&self, parts: &[Range<usize>], threads: usize) -> [Vec<u32>; 3] {
        self.bits_in(&mut Workspace::default(), parts, threads)
    }

    fn bits_in(&self, ws: &mut Workspace, parts: &[Range<usize>], threads: usize) -> [Vec<u32>; 3] {
        let (mut output, mut input_grad, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            let mut got = self.run_in(ws, part.clone(), threads);
            output.append(&mut got.output);
            input_grad.append(&mut got.input_grad);
            nodes.append(&mut got.nodes);
        }
        [bits(&output), bits(&input_grad), bits(&complete(nodes, self.shards).expect("the parts cover the tree"))]
    }
}

/// The parameters of a variant, each as `values` says for its name and size; running statistics are 0.25 and 2.
fn params(variant: &Variant, width: usize, values: impl Fn(&str, usize) -> Vec<f32>) -> ParamStore {
    let shapes = (variant.params)(width);
    let filled = shapes.iter().map(|(name, shape)| {
        let len = shape.iter().product();
        match *name {
            "n.running_mean" => vec![0.25; len],
            "n.running_variance" => vec![2.0; len],
            "n.rows_seen" => vec![0.0; len],
            name => values(name, len),
        }
    });
    let filled: Vec<Vec<f32>> = filled.collect();
    let list: Vec<(&str, &[usize], &[f32])> =
        shapes.iter().zip(&filled).map(|((name, shape), v)| (*name, shape.as_slice(), v.as_slice())).collect();
    store(&list)
}

fn goldens() -> Value {
    serde_json::from_str(include_str!("../golden/ops.json")).expect("the goldens parse")
}

fn find<'v>(goldens: &'v Value, name: &str) -> &'v Value {
    let cases = goldens["ops"].as_array().expect("cases");
    cases.iter().find(|case| case["name"] == name).unwrap_or_else(|| panic!("no golden is called {name}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn singles(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

fn offsets(lengths: impl IntoIterator<Item = usize>) -> Vec<u32> {
    let ends = lengths.into_iter().scan(0, |sum, n| {
        *sum += n as u32;
        Some(*sum)
    });
    std::iter::once(0).chain(ends).collect()
}

#[test]
fn the_table_has_every_operation() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops");
    let names = std::fs::read_dir(folder).expect("the operations").map(|e| e.expect("an entry").path());
    let files: BTreeSet<String> =
        names.map(|p| p.file_stem().expect("a name").to_string_lossy().into_owned()).filter(|n| n != "mod").collect();
    let graphs: BTreeSet<String> = VARIANTS.iter().map(|v| v.op).chain(["loss"]).map(String::from).collect();
    assert_eq!(files, graphs, "each file of src/ops has a graph in coverage/table.rs");
    let differences: BTreeSet<String> = FINITE_DIFFERENCES.iter().map(|(op, _)| (*op).to_owned()).collect();
    assert_eq!(files, differences, "each file of src/ops has a test by finite differences");
    let sources =
        [include_str!("gradients.rs"), include_str!("gradients_items.rs"), include_str!("input_gradients.rs")];
    for (op, test) in FINITE_DIFFERENCES {
        assert!(sources.iter().any(|s| s.contains(&format!("#[test]\nfn {test}()"))), "{op}: no test is called {test}");
    }
    let goldens = goldens();
    let theirs = goldens["ops"].as_array().expect("cases").iter().map(|case| case["name"].as_str().expect("a name"));
    let ours = VARIANTS.iter().filter(|v| matches!(v.golden, Golden::Whole)).map(|v| v.name);
    assert_eq!(theirs.collect::<BTreeSet<_>>(), ours.collect(), "each graph has a golden, each golden a graph");
}

#[test]
fn values_and_gradients_are_those_of_pytorch() {
    let goldens = goldens();
    for variant in VARIANTS.iter().filter(|v| matches!(v.golden, Golden::Whole)) {
        let (what, case) = (variant.name, find(&goldens, variant.name));
        let width = case["width"].as_u64().expect("a count") as usize;
        let params = params(variant, width, |name, _| singles(&case["params"][name]));
        let whole = Whole {
            variant,
            params: &params,
            width,
            x: &singles(&case["x"]),
            offsets: &offsets(numbers(&case["lengths"]).into_iter().map(|n| n as usize)),
            targets: &singles(&case["t"]),
            shards: 1,
        };
        let got = whole.run(0..1, 1);
        close(&format!("{what} y"), &got.output, &numbers(&case["y"]), TOLERANCE);
        close(&format!("{what} dx"), &got.input_grad, &numbers(&case["dx"]), TOLERANCE);
        for (name, want) in case["grads"].as_object().expect("by name") {
            let part = params.part(params.find(name).expect("declared"), &got.nodes[0].1);
            close(&format!("{what} {name}"), part, &numbers(want), TOLERANCE);
        }
    }
}

/// Indices of NaN as runs, "0-2 5-5".
fn runs(values: &[f32]) -> String {
    let mut found: Vec<[usize; 2]> = Vec::new();
    for i in (0..values.len()).filter(|&i| values[i].is_nan()) {
        match found.last_mut() {
            Some(run) if run[1] + 1 == i => run[1] = i,
            _ => found.push([i, i]),
        }
    }
    found.iter().map(|[from, to]| format!("{from}-{to}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_nan_goes_where_it_goes_in_pytorch() {
    let goldens = goldens();
    for variant in VARIANTS {
        let (what, case) = match variant.golden {
            Golden::Whole => (variant.name, find(&goldens, variant.name)),
            Golden::NanOf(other) => (variant.name, find(&goldens, other)),
        };
        let width = case["width"].as_u64().expect("a count") as usize;
        let mut params = params(variant, width, |name, _| singles(&case["params"][name]));
        let (mut x, targets) = (singles(&case["x"]), singles(&case["t"]));
        let offsets = offsets(numbers(&case["lengths"]).into_iter().map(|n| n as usize));
        let output = |params: &ParamStore, x: &[f32]| {
            let whole = Whole { variant, params, width, x, offsets: &offsets, targets: &targets, shards: 1 };
            runs(&whole.run(0..1, 1).output)
        };
        for (i, want) in case["nan_x"].as_array().expect("per number").iter().enumerate() {
            let held = std::mem::replace(&mut x[i], f32::NAN);
            assert_eq!(output(&params, &x), want.as_str().expect("runs"), "{what} x[{i}]");
            x[i] = held;
        }
        for (name, wanted) in case["nan_params"].as_object().expect("by name") {
            let id: ParamId = params.find(name).expect("declared");
            let held = params.values(id).to_vec();
            for (i, want) in wanted.as_array().expect("per number").iter().enumerate() {
                let mut values = held.clone();
                values[i] = f32::NAN;
                params.set(id, &values).expect("its shape");
                let got = output(&params, &x);
                // States begin at zero, and a product with that is left out: a recurrent weight counts from the
                // second step on.
                let shows = if name == "l.u" { !got.is_empty() } else { got == want.as_str().expect("runs") };
                assert!(shows, "{what} {name}[{i}]: {got}, not {want}");
            }
            params.set(id, &held).expect("its shape");
        }
    }
}

#[test]
fn losses_and_their_nans_are_those_of_pytorch() {
    for case in goldens()["losses"].as_array().expect("cases") {
        let what = case["name"].as_str().expect("a name");
        let config: LossConfig = serde_json::from_value(case["config"].clone()).expect("a known loss");
        let targets = match config {
            LossConfig::CrossEntropy { .. } => Targets::Class(numbers(&case["t"]).iter().map(|t| *t as u32).collect()),
            _ => Targets::Real(singles(&case["t"])),
        };
        let (y, columns) = (singles(&case["y"]), case["outputs"].as_u64().expect("a count") as usize);
        let (params, rows) = (store(&[]), y.len() / columns);
        let run = |y: &[f32]| {
            let (mut ws, ids) = (Workspace::default(), [1, 2, 3, 4]);
            let rows_of = Rows { count: rows, sample_ids: &ids, mode: Mode::Train, randomness: RANDOMNESS };
            let mut tape = Tape::new(&mut ws, &params, rows_of).expect("valid");
            let x = tape.input(y, columns, InputGrad::Wanted).expect("valid");
            let output = tape.scale(x, 1.0).expect("valid");
            let loss = Loss { config: &config, targets: &targets, weights: None };
            tape.forward_backward(&Pool::new(1), output, &loss).expect("valid");
            let sums: Vec<f32> = (0..rows).map(|r| tape.loss_sum(r..r + 1).sum as f32).collect();
            (sums, tape.grad(x).expect("wanted").to_vec())
        };
        close(what, &run(&y).0, &numbers(&case["loss"]), TOLERANCE);
        for (i, want) in case["nan_y"].as_array().expect("per number").iter().enumerate() {
            let mut bad = y.clone();
            bad[i] = f32::NAN;
            let (sums, grad) = run(&bad);
            assert_eq!(runs(&sums), want.as_str().expect("runs"), "{what} y[{i}]");
            assert!(grad[i].is_nan(), "{what}: the gradient of y[{i}]");
        }
    }
}

#[test]
fn odd_shapes_give_the_same_bits_for_any_threads_and_any_split_at_shards() {
    const SHARDS: usize = 4;
    for variant in VARIANTS {
        for (n, width) in [1, 2, 7, 33, 67].into_iter().enumerate() {
            // The wide ones over few samples, so that the whole stays quick.
            for samples in [0, 1, 3, if width < 10 { 13 } else { 5 }] {
                let lengths = (0..samples).map(|s| variant.items.unwrap_or(s * (n + 3) % 6));
                let offsets = offsets(lengths);
                let items = offsets[samples] as usize;
                let params = params(variant, width, |name, len| random(name.len() as u64, len));
                let x: Vec<f32> = random(n as u64, items * (variant.inputs)(width)).iter().map(|v| v + 1.5).collect();
                let targets = random(9, 61);
                let whole = Whole {
                    variant,
                    params: &params,
                    width,
                    x: &x,
                    offsets: &offsets,
                    targets: &targets,
                    shards: SHARDS,
                };
                let what = format!("{} width {width}, {samples} samples", variant.name);
                let one = std::slice::from_ref(&(0..SHARDS));
                let want = whole.bits(one, 1);
                assert!(want.iter().flatten().all(|v| f32::from_bits(*v).is_finite()), "{what}");
                for threads in [2, 3] {
                    assert_eq!(whole.bits(one, threads), want, "{what}, {threads} threads");
                }
                for split in [vec![0..1, 1..4], vec![0..2, 2..4], vec![0..3, 3..4], vec![0..1, 1..2, 2..3, 3..4]] {
                    assert_eq!(whole.bits(&split, 1), want, "{what}, split {split:?}");
                }
            }
        }
    }
}

#[test]
fn norms_of_single_samples_are_those_of_their_gradients() {
    for variant in VARIANTS {
        for width in [3, 33] {
            const SAMPLES: usize = 5;
            // From one item, over pairs of a few, to more than a gradient is worth.
            let offsets = offsets((0..SAMPLES).map(|s| variant.items.unwrap_or([1, 2, 0, 6, 3][s])));
            let params = params(variant, width, |name, len| random(name.len() as u64, len));
            let x = random(3, offsets[SAMPLES] as usize * (variant.inputs)(width));
            let targets = random(9, 61);
            let whole =
                Whole { variant, params: &params, width, x: &x, offsets: &offsets, targets: &targets, shards: SAMPLES };
            let Some(squares) = whole.run(0..SAMPLES, 2).squares else {
                assert_eq!(variant.name, "batch_norm", "only what couples samples has no gradient of one");
                continue;
            };
            for (sample, got) in squares.into_iter().enumerate() {
                let alone = whole.run(sample..sample + 1, 1);
                let want: f64 = alone.nodes[0].1.iter().map(|g| f64::from(*g).powi(2)).sum();
                let what = format!("{} width {width} sample {sample}", variant.name);
                assert!((got - want).abs() <= 1e-5 * want.max(1e-9), "{what}: {got}, not {want}");
            }
        }
    }
}
