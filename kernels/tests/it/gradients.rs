//! Gradients against finite differences of an independent forward pass in f64.

use crate::support::{RANDOMNESS, Run, random, run, store};
use kernels::Result;
use kernels::ops::loss::{Loss, LossConfig, Targets};
use kernels::ops::{Activation, Var};
use kernels::params::ParamStore;
use kernels::philox::{Key, Stream};
use kernels::tape::Tape;

/// A value of the reference: [rows, columns].
type Rows = Vec<Vec<f64>>;

fn erf(x: f64) -> f64 {
    // Maclaurin series: exact enough for the arguments of these tests.
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn act(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

fn linear(x: &Rows, w: &[f64], b: &[f64], a: Activation) -> Rows {
    let one = |row: &Vec<f64>, j: usize| row.iter().zip(&w[j * row.len()..]).map(|(x, w)| x * w).sum::<f64>() + b[j];
    x.iter().map(|row| (0..b.len()).map(|j| act(a, one(row, j))).collect()).collect()
}

fn norm(x: &Rows, gain: &[f64], bias: &[f64]) -> Rows {
    let one = |row: &Vec<f64>| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        row.iter().enumerate().map(|(j, v)| (v - mean) / (var + 1e-5).sqrt() * gain[j] + bias[j]).collect()
    };
    x.iter().map(one).collect()
}

fn dropout(x: &Rows, rate: f64, lane: u32) -> Rows {
    let key = Key::new(RANDOMNESS.seed, Stream::Dropout).lane(lane).epoch(RANDOMNESS.epoch);
    let one = |(r, row): (usize, &Vec<f64>)| {
        let mut rng = key.rng(r as u64 * 7 + 1, RANDOMNESS.step);
        let limit = (f64::from(rate as f32) * 2f64.powi(32)) as u32;
        row.iter().map(|v| if rng.next_u32() < limit { 0.0 } else { v / (1.0 - rate) }).collect()
    };
    x.iter().enumerate().map(one).collect()
}

fn loss(config: &LossConfig, y: &Rows, targets: &Targets) -> f64 {
    let columns = y.first().map_or(1, Vec::len) as f64;
    let real = |r: usize, j: usize| match targets {
        Targets::Real(t) => f64::from(t[r * columns as usize + j]),
        Targets::Class(_) => unreachable!("real targets"),
    };
    let mut sum = 0.0;
    for (r, row) in y.iter().enumerate() {
        for (j, &v) in row.iter().enumerate() {
            sum += match config {
                LossConfig::Mse => (v - real(r, j)).powi(2) / columns,
                LossConfig::Mae => (v - real(r, j)).abs() / columns,
                LossConfig::Huber { delta } => {
                    let d = (v - real(r, j)).abs();
                    (if d <= *delta { 0.5 * d * d } else { delta * (d - 0.5 * delta) }) / columns
                }
                LossConfig::BceWithLogits { pos_weight } => {
                    let (p, t) = (1.0 / (1.0 + (-v).exp()), real(r, j));
                    -(pos_weight.unwrap_or(1.0) * t * p.ln() + (1.0 - t) * (1.0 - p).ln()) / columns
                }
                LossConfig::CrossEntropy { label_smoothing, class_weights } => {
                    let Targets::Class(classes) = targets else { unreachable!("class targets") };
                    let total: f64 = row.iter().map(|v| v.exp()).sum();
                    let own = if classes[r] as usize == j { 1.0 - label_smoothing } else { 0.0 };
                    let weight = class_weights.as_ref().map_or(1.0, |w| f64::from(w[j]));
                    -(own + label_smoothing / columns) * weight * (v - total.ln())
                }
            };
        }
    }
    sum
}

/// A graph on the tape and the same in f64 over (input, parameters).
struct Case<'a> {
    params: &'a ParamStore,
    x: &'a [f32],
    columns: usize,
    config: &'a LossConfig,
    targets: &'a Targets,
    reference: &'a dyn Fn(&Rows, &[Vec<f64>]) -> Rows,
}

impl Case<'_> {
    fn value(&self, x: &[f64], params: &[Vec<f64>]) -> f64 {
        let rows: Rows = x.chunks_exact(self.columns).map(<[f64]>::to_vec).collect();
        loss(self.config, &(self.reference)(&rows, params), self.targets)
    }

    /// Compares every element's gradient with a central difference.
    fn check(&self, what: &str, graph: impl Fn(&mut Tape<'_>, Var) -> Result<Var>) {
        const STEP: f64 = 1e-5;
        let given = Loss { config: self.config, targets: self.targets, weights: None };
        let Run { loss: sum, input_grad, gradient, .. } =
            run(self.params, self.x, self.columns, &given, (3, 2), graph).expect("valid");
        let mut x: Vec<f64> = self.x.iter().map(|v| f64::from(*v)).collect();
        let mut params: Vec<Vec<f64>> =
            self.params.iter().map(|(_, v)| v.iter().map(|v| f64::from(*v)).collect()).collect();
        let want = self.value(&x, &params);
        assert!((sum.sum - want).abs() < 1e-4 * want.abs().max(1.0), "{what}: loss {} not {want}", sum.sum);
        let agrees = |name: &str, i: usize, got: f32, slope: f64| {
            assert!(
                (f64::from(got) - slope).abs() < 2e-4 * slope.abs().max(1.0),
                "{what}: {name}[{i}]: {got}, not {slope}"
            );
        };
        for i in 0..x.len() {
            let held = x[i];
            x[i] = held + STEP;
            let up = self.value(&x, &params);
            x[i] = held - STEP;
            let slope = (up - self.value(&x, &params)) / (2.0 * STEP);
            x[i] = held;
            agrees("input", i, input_grad[i], slope);
        }
        let names: Vec<String> = self.params.iter().map(|(p, _)| p.name.clone()).collect();
        for (n, name) in names.iter().enumerate() {
            let part = self.params.part(self.params.find(name).expect("listed"), &gradient);
            for i in 0..params[n].len() {
                let held = params[n][i];
                params[n][i] = held + STEP;
                let up = self.value(&x, &params);
                params[n][i] = held - STEP;
                let slope = (up - self.value(&x, &params)) / (2.0 * STEP);
                params[n][i] = held;
                agrees(name, i, part[i], slope);
            }
        }
    }
}

#[test]
fn linear_layers_of_odd_sizes_with_every_activation() {
    for (n, a) in Activation::ALL.into_iter().enumerate() {
        for (rows, inputs, outputs) in [(1, 1, 1), (7, 5, 3), (11, 17, 2), (2, 3, 19)] {
            let (w, b) = (random(n as u64, outputs * inputs), random(50 + n as u64, outputs));
            let params = store(&[("l.weight", &[outputs, inputs], &w), ("l.bias", &[outputs], &b)]);
            let (weight, bias) = (params.find("l.weight").expect("added"), params.find("l.bias").expect("added"));
            let targets = Targets::Real(random(9, rows * outputs));
            let reference = |x: &Rows, p: &[Vec<f64>]| linear(x, &p[0], &p[1], a);
            let x = random(3, rows * inputs);
            let case = Case {
                params: &params,
                x: &x,
                columns: inputs,
                config: &LossConfig::Mse,
                targets: &targets,
                reference: &reference,
            };
            case.check(&format!("{a:?} {rows}x{inputs}x{outputs}"), |tape, x| tape.linear(x, weight, Some(bias), a));
        }
    }
}

#[test]
fn norm_dropout_activation_and_a_residual_sum() {
    let (rows, width) = (9, 13);
    let (w, b) = (random(1, width * width), random(2, width));
    let (g, s) = (random(3, width), random(4, width));
    let params = store(&[
        ("l.weight", &[width, width], &w),
        ("l.bias", &[width], &b),
        ("n.weight", &[width], &g),
        ("n.bias", &[width], &s),
    ]);
    let id = |name: &str| params.find(name).expect("added");
    let targets = Targets::Real(random(5, rows * width));
    let reference = |x: &Rows, p: &[Vec<f64>]| {
        let h = norm(&dropout(&linear(x, &p[0], &p[1], Activation::Tanh), 0.3, 4), &p[2], &p[3]);
        let residual =
            |(h, x): (&Vec<f64>, &Vec<f64>)| h.iter().zip(x).map(|(h, x)| act(Activation::Silu, *h) + x + x).collect();
        h.iter().zip(x).map(residual).collect()
    };
    let x = random(6, rows * width);
    let config = LossConfig::Huber { delta: 0.5 };
    let case =
        Case { params: &params, x: &x, columns: width, config: &config, targets: &targets, reference: &reference };
    case.check("residual", |tape, x| {
        let h = tape.linear(x, id("l.weight"), Some(id("l.bias")), Activation::Tanh)?;
        let h = tape.dropout(h, 0.3, 4)?;
        let h = tape.layer_norm(h, id("n.weight"), id("n.bias"))?;
        let h = tape.activation(h, Activation::Silu)?;
        let twice = tape.add(x, x)?;
        tape.add(h, twice)
    });
}

#[test]
fn every_loss() {
    let (rows, columns) = (6, 4);
    let x = random(8, rows * columns);
    let real = Targets::Real(random(9, rows * columns));
    let binary = Targets::Real(random(9, rows * columns).iter().map(|v| if *v > 0.0 { 1.0 } else { 0.0 }).collect());
    let classes = Targets::Class(vec![0, 3, 1, 1, 2, 0]);
    let weighted =
        |label_smoothing| LossConfig::CrossEntropy { label_smoothing, class_weights: Some(vec![0.5, 2.0, 1.0, 0.0]) };
    let cases = [
        (LossConfig::Mse, &real),
        (LossConfig::Mae, &real),
        (LossConfig::Huber { delta: 0.4 }, &real),
        (LossConfig::BceWithLogits { pos_weight: None }, &binary),
        (LossConfig::BceWithLogits { pos_weight: Some(3.0) }, &binary),
        (LossConfig::CrossEntropy { label_smoothing: 0.0, class_weights: None }, &classes),
        (LossConfig::CrossEntropy { label_smoothing: 0.2, class_weights: None }, &classes),
        (weighted(0.0), &classes),
        (weighted(0.3), &classes),
    ];
    for (config, targets) in &cases {
        let reference = |x: &Rows, _: &[Vec<f64>]| x.clone();
        let params = store(&[]);
        let case = Case { params: &params, x: &x, columns, config, targets, reference: &reference };
        case.check(&format!("{config:?}"), |tape, x| tape.activation(x, Activation::Identity));
    }
}
