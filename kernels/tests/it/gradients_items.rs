//! Gradients of operations over items (tokens, pixels, steps) against finite differences of an independent
//! forward pass in f64, and the same bits for one thread and two.

use crate::support::{RANDOMNESS, Run, against, bits, random, run_graph, store};
use kernels::Result;
use kernels::ops::batchnorm::BatchNormParams;
use kernels::ops::conv::Stride;
use kernels::ops::image::Grid;
use kernels::ops::loss::Targets;
use kernels::ops::lstm::{Direction, LstmParams};
use kernels::ops::{Activation, Arithmetic, Pooling, Var, WindowPooling};
use kernels::params::{ParamId, ParamStore};
use kernels::philox::{Key, Stream};
use kernels::tape::{InputGrad, Space, Tape};

/// Per sample, its items, each a row.
type Samples = Vec<Vec<Vec<f64>>>;
type Reference<'a> = dyn Fn(&Samples, &[Vec<f64>]) -> Vec<Vec<f64>> + 'a;

/// A graph whose input is [items, columns], and the same in f64.
struct Case<'a> {
    params: &'a ParamStore,
    offsets: &'a [u32],
    columns: usize,
    outputs: usize,
    shards: usize,
    reference: &'a Reference<'a>,
    /// Parameters (by position) whose gradient is not a derivative.
    skip: &'a [usize],
    /// What the gradient with respect to x is multiplied by on purpose.
    input_factor: f64,
}

impl<'a> Case<'a> {
    fn new(
        params: &'a ParamStore,
        offsets: &'a [u32],
        columns: usize,
        outputs: usize,
        reference: &'a Reference<'a>,
    ) -> Self {
        Case { params, offsets, columns, outputs, shards: 3, reference, skip: &[], input_factor: 1.0 }
    }

    fn value(&self, x: &[f64], params: &[Vec<f64>], targets: &[f32]) -> f64 {
        let row = |i: u32| x[i as usize * self.columns..][..self.columns].to_vec();
        let samples: Samples = self.offsets.windows(2).map(|w| (w[0]..w[1]).map(row).collect()).collect();
        let y = (self.reference)(&samples, params);
        let terms = y.iter().flatten().zip(targets).map(|(y, t)| (y - f64::from(*t)).powi(2));
        terms.sum::<f64>() / self.outputs as f64
    }

    fn run(
        &self,
        x: &[f32],
        targets: &Targets,
        threads: usize,
        graph: &dyn Fn(&mut Tape<'_>, Var) -> Result<Var>,
    ) -> Run {
        let rows = self.offsets.len() - 1;
        run_graph(self.params, rows, &against(targets), (self.shards, threads), |tape| {
            let space = tape.ragged(self.offsets)?;
            let input = tape.input_in(space, x, self.columns, InputGrad::Wanted)?;
            Ok((input, graph(tape, input)?))
        })
        .expect("valid")
    }

    /// Compares every element's gradient with a central difference, and two threads with one.
    fn check(&self, what: &str, graph: impl Fn(&mut Tape<'_>, Var) -> Result<Var>) {
        const STEP: f64 = 1e-5;
        let (rows, items) = (self.offsets.len() - 1, *self.offsets.last().expect("one at least") as usize);
        let given = random(17, items * self.columns);
        let values = random(18, rows * self.outputs);
        let targets = Targets::Real(values.clone());
        let got = self.run(&given, &targets, 1, &graph);
        let again = self.run(&given, &targets, 2, &graph);
        assert_eq!((bits(&got.output), bits(&got.gradient)), (bits(&again.output), bits(&again.gradient)), "{what}");
        assert_eq!(bits(&got.input_grad), bits(&again.input_grad), "{what}");
        let mut x: Vec<f64> = given.iter().map(|v| f64::from(*v)).collect();
        let mut params: Vec<Vec<f64>> =
            self.params.iter().map(|(_, v)| v.iter().map(|v| f64::from(*v)).collect()).collect();
        let want = self.value(&x, &params, &values);
        assert!((got.loss.sum - want).abs() < 2e-4 * want.abs().max(1.0), "{what}: loss {} not {want}", got.loss.sum);
        let agrees = |name: &str, i: usize, got: f32, slope: f64| {
            assert!(
                (f64::from(got) - slope).abs() < 3e-4 * slope.abs().max(1.0),
                "{what}: {name}[{i}]: {got}, not {slope}"
            );
        };
        for i in 0..x.len() {
            let held = x[i];
            x[i] = held + STEP;
            let up = self.value(&x, &params, &values);
            x[i] = held - STEP;
            let slope = (up - self.value(&x, &params, &values)) / (2.0 * STEP);
            x[i] = held;
            agrees("input", i, got.input_grad[i], slope * self.input_factor);
        }
        let names: Vec<String> = self.params.iter().map(|(p, _)| p.name.clone()).collect();
        for (n, name) in names.iter().enumerate().filter(|(n, _)| !self.skip.contains(n)) {
            let part = self.params.part(self.params.find(name).expect("listed"), &got.gradient);
            for i in 0..params[n].len() {
                let held = params[n][i];
                params[n][i] = held + STEP;
                let up = self.value(&x, &params, &values);
                params[n][i] = held - STEP;
                let slope = (up - self.value(&x, &params, &values)) / (2.0 * STEP);
                params[n][i] = held;
                agrees(name, i, part[i], slope);
            }
        }
    }
}

fn id(params: &ParamStore, name: &str) -> ParamId {
    params.find(name).expect("added")
}

fn dense(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    (0..b.len()).map(|j| x.iter().zip(&w[j * x.len()..]).map(|(x, w)| x * w).sum::<f64>() + b[j]).collect()
}

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn mean(items: &[Vec<f64>], columns: usize) -> Vec<f64> {
    let sum = items.iter().fold(vec![0.0; columns], |sum, x| plus(&sum, x));
    sum.iter().map(|v| v / items.len().max(1) as f64).collect()
}

fn layer_norm(x: &[f64], gain: &[f64], bias: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n + 1e-5).sqrt();
    x.iter().zip(gain.iter().zip(bias)).map(|(v, (g, b))| (v - mean) / deviation * g + b).collect()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let total: f64 = x.iter().map(|v| v.exp()).sum();
    x.iter().map(|v| v.exp() / total).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn attention(qkv: &[Vec<f64>], heads: usize, sample: usize, rate: f64, lane: u32) -> Vec<Vec<f64>> {
    let (items, model) = (qkv.len(), qkv.first().map_or(0, |row| row.len() / 3));
    let width = model / heads.max(1);
    let mut out = vec![vec![0.0; model]; items];
    for head in 0..heads {
        let key =
            Key::new(RANDOMNESS.seed, Stream::Dropout).lane(lane | (head as u32 + 1) << 16).epoch(RANDOMNESS.epoch);
        let mut rng = key.rng(sample as u64 * 7 + 1, RANDOMNESS.step);
        let limit = (f64::from(rate as f32) * 2f64.powi(32)) as u32;
        let part = |i: usize, which: usize| &qkv[i][which * model + head * width..][..width];
        for q in 0..items {
            let score =
                |k: usize| part(q, 0).iter().zip(part(k, 1)).map(|(a, b)| a * b).sum::<f64>() / (width as f64).sqrt();
            let p = softmax(&(0..items).map(score).collect::<Vec<_>>());
            let words: Vec<u32> = (0..items.next_multiple_of(16)).map(|_| rng.next_u32()).collect();
            for k in (0..items).filter(|&k| rate == 0.0 || words[k] >= limit) {
                for c in 0..width {
                    out[q][head * width + c] += p[k] / (1.0 - rate) * part(k, 2)[c];
                }
            }
        }
    }
    out
}

#[test]
fn a_transformer_layer_over_ragged_tokens() {
    let (width, offsets) = (6, [0u32, 5, 5, 6, 13, 30]);
    let shapes: [(&str, &[usize]); 9] = [
        ("token.weight", &[7, 6]),
        ("position.weight", &[17, 6]),
        ("type.weight", &[2, 6]),
        ("qkv.weight", &[18, 6]),
        ("qkv.bias", &[18]),
        ("out.weight", &[6, 6]),
        ("out.bias", &[6]),
        ("norm.weight", &[6]),
        ("norm.bias", &[6]),
    ];
    let values: Vec<Vec<f32>> =
        shapes.iter().enumerate().map(|(i, (_, shape))| random(40 + i as u64, shape.iter().product())).collect();
    let list: Vec<(&str, &[usize], &[f32])> =
        shapes.iter().zip(&values).map(|((name, shape), v)| (*name, *shape, v.as_slice())).collect();
    let params = store(&list);
    let tokens: &'static [u32] = Vec::leak((0..30).map(|i| i * i % 7).collect());
    for (heads, rate) in [(1, 0.0), (3, 0.0), (2, 0.25)] {
        let reference = |x: &Samples, p: &[Vec<f64>]| {
            let one = |(s, items): (usize, &Vec<Vec<f64>>)| {
                let row = |table: &[f64], i: usize| table[i * width..][..width].to_vec();
                let x: Vec<Vec<f64>> = items
                    .iter()
                    .enumerate()
                    .map(|(i, x)| {
                        let token = row(&p[0], tokens[offsets[s] as usize + i] as usize);
                        plus(x, &plus(&plus(&token, &row(&p[1], i)), &row(&p[2], 0)))
                    })
                    .collect();
                let qkv: Vec<_> = x.iter().map(|x| dense(x, &p[3], &p[4])).collect();
                let a = attention(&qkv, heads, s, rate, 3);
                let y: Vec<_> = a
                    .iter()
                    .zip(&x)
                    .map(|(a, x)| layer_norm(&plus(&dense(a, &p[5], &p[6]), x), &p[7], &p[8]))
                    .collect();
                mean(&y, width)
            };
            x.iter().enumerate().map(one).collect()
        };
        let case = Case::new(&params, &offsets, width, width, &reference);
        case.check(&format!("{heads} heads, dropout {rate}"), |tape, x| {
            let ids = tape.ids(tape.space(x), tokens, 1)?;
            let of = |name: &str| id(&params, name);
            let e =
                tape.embedding_sum(ids, of("token.weight"), Some(of("position.weight")), Some(of("type.weight")))?;
            let x = tape.add(x, e)?;
            let qkv = tape.linear(x, of("qkv.weight"), Some(of("qkv.bias")), Activation::Identity)?;
            let a = tape.attention(qkv, heads, rate as f32, 3)?;
            let a = tape.linear(a, of("out.weight"), Some(of("out.bias")), Activation::Identity)?;
            let y = tape.layer_norm_of_sum(a, Some(x), of("norm.weight"), of("norm.bias"), 1e-5)?;
            tape.pool(y, Pooling::Mean)
        });
    }
}

#[test]
fn attention_over_more_items_than_a_block() {
    let params = store(&[]);
    let offsets = [0u32, 67, 70, 135];
    let reference = |x: &Samples, _: &[Vec<f64>]| {
        x.iter().enumerate().map(|(s, items)| mean(&attention(items, 1, s, 0.0, 0), 2)).collect()
    };
    Case::new(&params, &offsets, 6, 2, &reference).check("long", |tape, x| {
        let a = tape.attention(x, 1, 0.0, 0)?;
        tape.pool(a, Pooling::Mean)
    });
}

fn lstm(items: &[Vec<f64>], p: &[Vec<f64>], hidden: usize, reverse: bool) -> Vec<Vec<f64>> {
    let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
    let mut out = vec![Vec::new(); items.len()];
    let order: Vec<usize> = if reverse { (0..items.len()).rev().collect() } else { (0..items.len()).collect() };
    for i in order {
        let z = plus(&dense(&items[i], &p[0], &p[2]), &dense(&h, &p[1], &p[3]));
        for k in 0..hidden {
            let gate = |g: usize| z[g * hidden + k];
            c[k] = sigmoid(gate(1)) * c[k] + sigmoid(gate(0)) * gate(2).tanh();
            h[k] = sigmoid(gate(3)) * c[k].tanh();
        }
        out[i] = h.clone();
    }
    out
}

#[test]
fn lstm_layers_of_both_directions_over_sequences_of_different_lengths() {
    let (inputs, hidden, offsets) = (3, 5, [0u32, 4, 5, 5, 12, 15]);
    let shapes: [(&str, &[usize]); 8] = [
        ("a.w", &[20, 3]),
        ("a.u", &[20, 5]),
        ("a.b", &[20]),
        ("a.c", &[20]),
        ("b.w", &[20, 3]),
        ("b.u", &[20, 5]),
        ("b.b", &[20]),
        ("b.c", &[20]),
    ];
    let values: Vec<Vec<f32>> =
        shapes.iter().enumerate().map(|(i, (_, shape))| random(60 + i as u64, shape.iter().product())).collect();
    let list: Vec<(&str, &[usize], &[f32])> =
        shapes.iter().zip(&values).map(|((name, shape), v)| (*name, *shape, v.as_slice())).collect();
    let params = store(&list);
    let reference = |x: &Samples, p: &[Vec<f64>]| {
        let one = |items: &Vec<Vec<f64>>| {
            let (a, b) = (lstm(items, &p[..4], hidden, false), lstm(items, &p[4..], hidden, true));
            let joined: Vec<Vec<f64>> = a.iter().zip(&b).map(|(a, b)| [a.clone(), b.clone()].concat()).collect();
            mean(&joined, 2 * hidden)
        };
        x.iter().map(one).collect()
    };
    Case::new(&params, &offsets, inputs, 2 * hidden, &reference).check("lstm", |tape, x| {
        let of = |layer: &str| LstmParams {
            input_weight: id(&params, &format!("{layer}.w")),
            hidden_weight: id(&params, &format!("{layer}.u")),
            input_bias: Some(id(&params, &format!("{layer}.b"))),
            hidden_bias: Some(id(&params, &format!("{layer}.c"))),
        };
        let (a, b) = (tape.lstm(x, of("a"), Direction::Forward)?, tape.lstm(x, of("b"), Direction::Backward)?);
        let both = tape.concat(&[a, b])?;
        tape.pool(both, Pooling::Mean)
    });
}

/// A convolution in f64; pixels in raster order, channels last.
fn conv(x: &[Vec<f64>], grid: Grid, w: &[f64], b: &[f64], kernel: usize, s: Stride) -> (Vec<Vec<f64>>, Grid) {
    let size = |n: usize| (n + 2 * s.padding - kernel) / s.stride + 1;
    let out = Grid { height: size(grid.height), width: size(grid.width), channels: b.len() };
    let (ins, outs) = (grid.channels / s.groups, b.len() / s.groups);
    let pixel = |r: usize, c: usize| {
        let one = |o: usize| {
            let mut sum = b[o];
            for i in 0..kernel {
                for j in 0..kernel {
                    let (y, x_at) = (r * s.stride + i, c * s.stride + j);
                    let inside = (s.padding..grid.height + s.padding).contains(&y)
                        && (s.padding..grid.width + s.padding).contains(&x_at);
                    if inside {
                        let at = &x[(y - s.padding) * grid.width + x_at - s.padding][o / outs * ins..][..ins];
                        let w = &w[((o * kernel + i) * kernel + j) * ins..][..ins];
                        sum += at.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
                    }
                }
            }
            sum
        };
        (0..b.len()).map(one).collect()
    };
    ((0..out.pixels()).map(|p| pixel(p / out.width, p % out.width)).collect(), out)
}

#[test]
fn convolutions_of_odd_sizes_strides_paddings_and_groups() {
    let cases = [
        (Grid { height: 5, width: 4, channels: 3 }, 3, 3, Stride { stride: 2, padding: 1, groups: 1 }),
        (Grid { height: 4, width: 5, channels: 4 }, 6, 2, Stride { stride: 1, padding: 0, groups: 2 }),
        (Grid { height: 3, width: 3, channels: 3 }, 3, 3, Stride { stride: 1, padding: 2, groups: 3 }),
        (Grid { height: 1, width: 1, channels: 1 }, 1, 1, Stride::default()),
    ];
    for (grid, outputs, kernel, stride) in cases {
        let shape = [outputs, kernel, kernel, grid.channels / stride.groups];
        let (w, b) = (random(1, shape.iter().product()), random(2, outputs));
        let params = store(&[("c.weight", &shape, &w), ("c.bias", &[outputs], &b)]);
        let reference = |x: &Samples, p: &[Vec<f64>]| {
            let one = |x: &Vec<Vec<f64>>| {
                let (y, _) = conv(x, grid, &p[0], &p[1], kernel, stride);
                mean(&y.iter().map(|y| y.iter().map(|v| v.tanh()).collect()).collect::<Vec<_>>(), outputs)
            };
            x.iter().map(one).collect()
        };
        let offsets: Vec<u32> = (0..=4).map(|i| i * grid.pixels() as u32).collect();
        Case::new(&params, &offsets, grid.channels, outputs, &reference).check(
            &format!("{grid:?} {stride:?}"),
            |tape, x| {
                let pixels = tape.items(grid.pixels());
                let x = tape.reshape(x, pixels, grid.channels)?;
                let (weight, bias) = (id(&params, "c.weight"), id(&params, "c.bias"));
                let (y, _) = tape.conv2d(x, grid, weight, Some(bias), stride, Activation::Tanh)?;
                tape.pool(y, Pooling::Mean)
            },
        );
    }
}

#[test]
fn windows_of_pixels() {
    let (grid, params) = (Grid { height: 5, width: 4, channels: 2 }, store(&[]));
    let offsets: Vec<u32> = (0..=3).map(|i| i * 20).collect();
    for kind in [WindowPooling::Max, WindowPooling::Average] {
        for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 0)] {
            let reference = |x: &Samples, _: &[Vec<f64>]| {
                let one = |x: &Vec<Vec<f64>>| {
                    let size = |n: usize| (n + 2 * padding - kernel) / stride + 1;
                    let mut out = Vec::new();
                    for at in 0..size(5) * size(4) {
                        let (top, left) = (at / size(4) * stride, at % size(4) * stride);
                        let inside = |(i, j): &(usize, usize)| {
                            (padding..5 + padding).contains(i) && (padding..4 + padding).contains(j)
                        };
                        let all = (top..top + kernel).flat_map(|i| (left..left + kernel).map(move |j| (i, j)));
                        let seen: Vec<_> =
                            all.filter(inside).map(|(i, j)| &x[(i - padding) * 4 + j - padding]).collect();
                        out.push(
                            (0..2)
                                .map(|c| {
                                    let values = seen.iter().map(|p| p[c]);
                                    match kind {
                                        WindowPooling::Max => values.fold(f64::NEG_INFINITY, f64::max),
                                        WindowPooling::Average => values.sum::<f64>() / seen.len() as f64,
                                    }
                                })
                                .collect::<Vec<f64>>(),
                        );
                    }
                    let top = |c: usize| out.iter().map(|p| p[c]).fold(f64::NEG_INFINITY, f64::max);
                    vec![top(0), top(1)]
                };
                x.iter().map(one).collect()
            };
            Case::new(&params, &offsets, 2, 2, &reference).check(
                &format!("{kind:?} {kernel} {stride} {padding}"),
                |tape, x| {
                    let pixels = tape.items(20);
                    let x = tape.reshape(x, pixels, 2)?;
                    let (y, _) = tape.pool2d(x, grid, kind, (kernel, stride, padding))?;
                    tape.pool(y, Pooling::Max)
                },
            );
        }
    }
}

#[test]
fn batch_norm_over_each_shard() {
    let (g, s) = (random(3, 4), random(4, 4));
    let zeros = [0.0; 4];
    let params = store(&[
        ("n.weight", &[4], &g),
        ("n.bias", &[4], &s),
        ("n.running_mean", &[4], &zeros),
        ("n.running_variance", &[4], &[1.0; 4]),
        ("n.rows_seen", &[1], &[0.0]),
        ("l.weight", &[4, 4], &random(5, 16)),
        ("l.bias", &[4], &random(6, 4)),
    ]);
    let offsets = [0u32, 2, 5, 5, 9, 10, 14, 17];
    for shards in [1, 3] {
        let reference = |x: &Samples, p: &[Vec<f64>]| {
            let mut out = Vec::new();
            for shard in 0..shards {
                let own = &x[shard * 7 / shards..(shard + 1) * 7 / shards];
                let inner = |x: &Vec<f64>| dense(x, &p[5], &p[6]).iter().map(|v| v.tanh()).collect::<Vec<f64>>();
                let items: Vec<Vec<f64>> = own.iter().flatten().map(inner).collect();
                let center = mean(&items, 4);
                let spread = |c: usize| {
                    items.iter().map(|x| (x[c] - center[c]).powi(2)).sum::<f64>() / items.len() as f64 + 1e-5
                };
                let norm = |x: Vec<f64>| {
                    (0..4).map(|c| (x[c] - center[c]) / spread(c).sqrt() * p[0][c] + p[1][c]).collect::<Vec<f64>>()
                };
                out.extend(own.iter().map(|s| mean(&s.iter().map(|x| norm(inner(x))).collect::<Vec<_>>(), 4)));
            }
            out
        };
        let case = Case { shards, skip: &[2, 3, 4], ..Case::new(&params, &offsets, 4, 4, &reference) };
        case.check(&format!("{shards} shards"), |tape, x| {
            let of = |name: &str| id(&params, name);
            let x = tape.linear(x, of("l.weight"), Some(of("l.bias")), Activation::Tanh)?;
            let norm = BatchNormParams {
                gain: of("n.weight"),
                bias: of("n.bias"),
                mean: of("n.running_mean"),
                variance: of("n.running_variance"),
                rows: of("n.rows_seen"),
            };
            let y = tape.batch_norm(x, norm)?;
            tape.pool(y, Pooling::Mean)
        });
    }
}

#[test]
fn arithmetic_slices_sums_and_poolings() {
    let params = store(&[]);
    let offsets = [0u32, 3, 4, 9];
    let reference = |x: &Samples, _: &[Vec<f64>]| {
        let one = |items: &Vec<Vec<f64>>| {
            let item = |x: &Vec<f64>| {
                let (a, b) = (&x[..3], &x[2..5]);
                let p = softmax(a);
                let mut out: Vec<f64> = (0..3).map(|i| (a[i] - b[i]) * p[i] / (3.0 + b[i])).collect();
                out.push(2.5 * x.iter().sum::<f64>());
                out.push(x.iter().sum::<f64>() / 5.0);
                out
            };
            let rows: Vec<Vec<f64>> = items.iter().map(item).collect();
            let sum = rows.iter().fold(vec![0.0; 5], |s, r| plus(&s, r));
            let top = (0..5).map(|c| rows.iter().map(|r| r[c]).fold(f64::NEG_INFINITY, f64::max));
            [sum, rows[0].clone(), rows[rows.len() - 1].clone(), top.collect()].concat()
        };
        x.iter().map(one).collect()
    };
    Case::new(&params, &offsets, 5, 20, &reference).check("arithmetic", |tape, x| {
        let (a, b) = (tape.slice(x, 0..3)?, tape.slice(x, 2..5)?);
        let p = tape.softmax(a)?;
        let difference = tape.arithmetic(Arithmetic::Subtract, a, b)?;
        let product = tape.arithmetic(Arithmetic::Multiply, difference, p)?;
        let threes = tape.input_in(tape.space(x), &[3.0; 27], 3, InputGrad::Skip)?;
        let below = tape.add(threes, b)?;
        let quotient = tape.arithmetic(Arithmetic::Divide, product, below)?;
        let (sum, mean) = (tape.sum_columns(x)?, tape.mean_columns(x)?);
        let sum = tape.scale(sum, 2.5)?;
        let all = tape.concat(&[quotient, sum, mean])?;
        let parts = [Pooling::Sum, Pooling::Cls, Pooling::Last, Pooling::Max].map(|kind| tape.pool(all, kind));
        let [a, b, c, d] = parts;
        tape.concat(&[a?, b?, c?, d?])
    });
}

#[test]
fn reshapes_transposes_and_gathers() {
    let params = store(&[]);
    let offsets = [0u32, 3, 6, 9, 12];
    let indices: &'static [u32] = Vec::leak(vec![2, 2, 0, 1, 1, 1, 0, 2]);
    let reference = |x: &Samples, _: &[Vec<f64>]| {
        let one = |(s, items): (usize, &Vec<Vec<f64>>)| {
            let picked = &indices[s * 2..s * 2 + 2];
            let rows: Vec<&Vec<f64>> = picked.iter().map(|&i| &items[i as usize]).collect();
            (0..2).flat_map(|c| rows.iter().map(move |r| r[c])).collect()
        };
        x.iter().enumerate().map(one).collect()
    };
    Case::new(&params, &offsets, 2, 4, &reference).check("layout", |tape, x| {
        let pairs = tape.items(2);
        let ids = tape.ids(pairs, indices, 1)?;
        let picked = tape.gather(x, ids)?;
        let turned = tape.transpose(picked)?;
        tape.reshape(turned, Space::SAMPLES, 4)
    });
}

#[test]
fn reversed_and_stopped_gradients() {
    let (w, b) = (random(1, 6), random(2, 2));
    let params = store(&[("l.weight", &[2, 3], &w), ("l.bias", &[2], &b)]);
    let offsets = [0u32, 1, 2, 3];
    let reference = |x: &Samples, p: &[Vec<f64>]| x.iter().map(|x| dense(&x[0], &p[0], &p[1])).collect();
    for (factor, name) in [(-0.5, "reversed"), (0.0, "stopped")] {
        let case = Case { input_factor: factor, ..Case::new(&params, &offsets, 3, 2, &reference) };
        case.check(name, |tape, x| {
            let x = tape.reshape(x, Space::SAMPLES, 3)?;
            let cut = if factor == 0.0 { tape.stop_gradient(x)? } else { tape.reverse_gradient(x, 0.5)? };
            let y = tape.linear(cut, id(&params, "l.weight"), Some(id(&params, "l.bias")), Activation::Identity)?;
            // The input is touched, so that its gradient exists.
            let nothing = tape.scale(x, 0.0)?;
            let nothing = tape.slice(nothing, 0..2)?;
            tape.add(y, nothing)
        });
    }
}

#[test]
fn a_parameter_used_twice_gets_the_sum() {
    let (w, b) = (random(1, 9), random(2, 3));
    let params = store(&[("l.weight", &[3, 3], &w), ("l.bias", &[3], &b)]);
    let offsets: Vec<u32> = (0..=7).collect();
    let reference = |x: &Samples, p: &[Vec<f64>]| {
        let layer = |x: &[f64]| dense(x, &p[0], &p[1]).iter().map(|v| v.tanh()).collect::<Vec<f64>>();
        x.iter().map(|x| layer(&layer(&layer(&x[0])))).collect()
    };
    Case::new(&params, &offsets, 3, 3, &reference).check("tied", |tape, x| {
        let mut x = tape.reshape(x, Space::SAMPLES, 3)?;
        for _ in 0..3 {
            x = tape.linear(x, id(&params, "l.weight"), Some(id(&params, "l.bias")), Activation::Tanh)?;
        }
        Ok(x)
    });
}
