//! What holds for every input, tried on seeded random ones full of the values that break formulas.

use super::{Baseline, Metric, MetricError, Metrics, Options, Predictions, Task, ZeroDivision, compute};

/// SplitMix64 (Steele et al. 2014): enough chance for a test, from a seed that it prints.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Often a number that breaks formulas, otherwise one in [0, 1) on a coarse grid or not.
    fn number(&mut self, nasty: bool) -> f64 {
        const NASTY: [f64; 14] = [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            0.0,
            -0.0,
            1.0,
            -1.0,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            f64::EPSILON,
            1e200,
            -1e-200,
        ];
        match self.below(4) {
            0 if nasty => NASTY[self.below(NASTY.len())],
            1 => (self.unit() * 4.0).floor() / 4.0,
            _ => self.unit(),
        }
    }

    fn numbers(&mut self, count: usize, nasty: bool) -> Vec<f64> {
        (0..count).map(|_| self.number(nasty)).collect()
    }

    fn options(&mut self) -> Options {
        let zero_division = [ZeroDivision::Zero, ZeroDivision::One, ZeroDivision::Undefined][self.below(3)];
        Options { threshold: self.unit(), zero_division, calibration_bins: 1 + self.below(20) }
    }
}

fn all_of(predictions: &Predictions<'_>, options: &Options) -> Metrics {
    let metrics: Vec<Metric> = Metric::of(predictions.task()).collect();
    compute(&metrics, predictions, options).expect("metrics of the task, options in range")
}

/// Calls `check` with the metrics of each task on random input, and the same metrics a second time.
fn for_random_input(nasty: bool, check: impl Fn(Task, &Metrics, u64)) {
    for seed in 0..3000 {
        let mut chance = Chance(seed);
        let samples = chance.below(12);
        let options = chance.options();
        let (y, p) = (chance.numbers(samples, nasty), chance.numbers(samples, nasty));
        let positive: Vec<bool> = (0..samples).map(|_| chance.below(3) == 0).collect();
        let classes = 1 + chance.below(5);
        let labels: Vec<u32> = (0..samples).map(|_| chance.below(classes) as u32).collect();
        let mut rows = chance.numbers(samples * classes, nasty);
        if !nasty {
            for row in rows.chunks_exact_mut(classes) {
                row[0] += 0.1;
                let total: f64 = row.iter().sum();
                for probability in row.iter_mut() {
                    *probability /= total;
                }
            }
        }
        for predictions in [
            Predictions::regression(&y, &p),
            Predictions::binary(&positive, &p),
            Predictions::multiclass(&labels, &rows, classes),
        ] {
            let predictions = predictions.expect("shapes agree");
            let metrics = all_of(&predictions, &options);
            assert_eq!(metrics, all_of(&predictions, &options), "seed {seed}: not repeatable");
            check(predictions.task(), &metrics, seed);
        }
    }
}

#[test]
fn any_input_gives_a_finite_number_or_a_reason() {
    for_random_input(true, |task, metrics, seed| {
        let json = serde_json::to_string(metrics).expect("metrics are JSON");
        assert!(!json.contains("NaN") && !json.contains("inf,"), "seed {seed}: {json}");
        let back: Metrics = serde_json::from_str(&json).expect("and back");
        assert_eq!(back.len(), metrics.len(), "seed {seed}");
        for (metric, value) in metrics {
            let finite = value.value().is_some_and(f64::is_finite);
            let explained = value.reason().is_some_and(|reason| !reason.is_empty());
            assert!(finite != explained, "seed {seed}, {task} {metric}: {value}");
        }
    });
}

#[test]
fn metrics_stay_in_their_range() {
    const UNBOUNDED: [Metric; 3] = [Metric::LogLoss, Metric::Mape, Metric::MapeEps];
    for_random_input(false, |task, metrics, seed| {
        for (metric, value) in metrics {
            let Some(value) = value.value() else { continue };
            let (low, high) = match metric {
                Metric::R2 | Metric::ExplainedVariance => (f64::NEG_INFINITY, 1.0),
                Metric::Mcc | Metric::PearsonCorrelation => (-1.0, 1.0),
                metric if UNBOUNDED.contains(metric) => (0.0, f64::INFINITY),
                _ => (0.0, 1.0 + 1e-12),
            };
            assert!((low..=high).contains(&value), "seed {seed}, {task} {metric}: {value}");
        }
    });
}

#[test]
fn one_bad_number_makes_every_metric_undefined() {
    for bad in [f64::NAN, f64::INFINITY] {
        let predicted = [0.5, bad, 0.25];
        let rows = [0.5, 0.5, 0.2, 0.8, bad, 0.0];
        for predictions in [
            Predictions::regression(&[1.0, 2.0, 3.0], &predicted),
            Predictions::binary(&[true, false, true], &predicted),
            Predictions::multiclass(&[0, 1, 0], &rows, 2),
        ] {
            let metrics = all_of(&predictions.unwrap(), &Options::default());
            let named = |reason: &str| reason.contains("position");
            assert!(metrics.values().all(|value| value.reason().is_some_and(named)), "{metrics:?}");
        }
    }
}

#[test]
fn a_metric_belongs_to_its_tasks_only() {
    for predictions in [
        Predictions::regression(&[1.0], &[1.0]),
        Predictions::binary(&[true], &[1.0]),
        Predictions::multiclass(&[0], &[1.0], 1),
    ] {
        let predictions = predictions.unwrap();
        for &metric in Metric::ALL {
            let computed = compute(&[metric], &predictions, &Options::default());
            if metric.tasks().contains(&predictions.task()) {
                assert_eq!(computed.unwrap().len(), 1);
            } else {
                let task = predictions.task();
                assert_eq!(computed.unwrap_err(), MetricError::NotApplicable { metric, task });
            }
        }
    }
    let error = MetricError::NotApplicable { metric: Metric::F1, task: Task::Multiclass };
    assert!(error.to_string().contains("f1_macro"), "{error}");
}

#[test]
fn options_out_of_range_are_refused() {
    let predictions = Predictions::binary(&[true], &[1.0]).unwrap();
    let refused = |options: Options| compute(&[Metric::Ece], &predictions, &options).is_err();
    assert!(refused(Options { threshold: f64::NAN, ..Options::default() }));
    assert!(refused(Options { calibration_bins: 0, ..Options::default() }));
    assert!(refused(Options { calibration_bins: usize::MAX, ..Options::default() }));
    assert!(!refused(Options::default()));
}

#[test]
fn order_of_samples_does_not_move_ranks() {
    for seed in 0..200 {
        let mut chance = Chance(seed);
        let score = chance.numbers(30, false);
        let positive: Vec<bool> = (0..30).map(|index| index % 3 == 0).collect();
        let backwards: (Vec<f64>, Vec<bool>) = score.iter().copied().zip(positive.iter().copied()).rev().unzip();
        let auc = |positive: &[bool], score: &[f64]| {
            let predictions = Predictions::binary(positive, score).unwrap();
            compute(&[Metric::Auc], &predictions, &Options::default()).unwrap()
        };
        assert_eq!(auc(&positive, &score), auc(&backwards.1, &backwards.0), "seed {seed}");
    }
}

#[test]
fn a_baseline_has_no_skill() {
    let labels = [true, false, false, true, false];
    let score = Baseline::binary(&labels).unwrap().predictions(labels.len());
    let metrics = all_of(&Predictions::binary(&labels, &score).unwrap(), &Options::default());
    assert_eq!(metrics[&Metric::Auc].value(), Some(0.5));
    assert_eq!(metrics[&Metric::Accuracy].value(), Some(0.6));
    // A constant share is perfectly calibrated on its own labels.
    assert!(metrics[&Metric::Ece].value().is_some_and(|error| error < 1e-15));
}
