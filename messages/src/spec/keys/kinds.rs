//! The keys of the kinds that are known and do not run yet: every one is checked, and answered
//! "not yet supported" in place of being ignored.

use super::Fallback::{Absent, Required};
use super::Shape::{Any, Bool, Records, Text};
use super::{ANY_NUMBER, Key, NOT_NEGATIVE, SEED, Shape, also, key, name, not_yet, whole};

const DIRECTION: Shape = Shape::Choice(&[also("minimize", &["min"]), also("maximize", &["max"])]);
const METHODS: Shape = Shape::Choice(&[
    also("bayesian", &["gp", "gaussian_process"]),
    name("tpe"),
    name("random"),
    name("grid"),
    name("hyperband"),
    name("asha"),
    name("pbt"),
]);
const PARAMETER_TYPES: Shape = Shape::Choice(&[
    also("categorical", &["choice"]),
    also("float", &["uniform"]),
    also("int", &["integer"]),
    also("log_float", &["log_uniform", "loguniform"]),
    also("log_int", &["log_integer"]),
]);
const COMPARISONS: Shape = Shape::Choice(&[
    also("less_than", &["<"]),
    also("less_or_equal", &["<="]),
    also("greater_than", &[">"]),
    also("greater_or_equal", &[">="]),
]);
const UNITS: Shape = Shape::Choice(&[name("absolute"), name("relative"), name("fraction"), name("percent")]);

/// Keys of a sweep, beside those of the jobs that it runs.
pub(crate) const SWEEP_KEYS: &[Key] = &[
    not_yet("method", METHODS, "how the search proposes trials"),
    not_yet("max_evals", whole(1, 1_000_000), "the number of trials"),
    not_yet("objective_metric", Text, "what trials are judged by"),
    not_yet("direction", DIRECTION, "whether less or more is better"),
    not_yet("n_jobs", whole(1, 10_000), "trials at the same time"),
    not_yet("acq_func", Text, "the acquisition function"),
    not_yet("param_space.*.type", PARAMETER_TYPES, "what a search parameter is"),
    not_yet("param_space.*.values", Any, "the choices of a search parameter"),
    not_yet("param_space.*.min", ANY_NUMBER, "the lowest value of a search parameter"),
    not_yet("param_space.*.max", ANY_NUMBER, "the highest value of a search parameter"),
    not_yet("param_space.*.step", ANY_NUMBER, "the grid of a search parameter"),
];

const STRATEGIES: Shape = Shape::Choice(&[
    name("kfold"),
    name("stratified_kfold"),
    name("group_kfold"),
    name("stratified_group_kfold"),
    also("time_series_split", &["time_series", "time"]),
    name("holdout"),
    name("leave_one_group_out"),
]);

/// Keys of an evaluation.
pub(crate) const EVALUATION_KEYS: &[Key] = &[
    not_yet("validation_strategy.type", STRATEGIES, "how rows are shared out"),
    not_yet("validation_strategy.n_splits", whole(2, 1000), "the number of folds"),
    not_yet("validation_strategy.shuffle", Bool, "whether rows are shuffled before"),
    not_yet("validation_strategy.random_state", SEED, "the seed of the folds"),
    not_yet("validation_strategy.gap", whole(0, 1_000_000_000), "rows left out between train and val"),
    not_yet("validation_strategy.group_column", Text, "the column of groups"),
    not_yet("validation_strategy.time_column", Text, "the column of time"),
    not_yet("primary_metrics.regression", Text, "the metric that leads where the task is regression"),
    not_yet(
        "primary_metrics.binary_classification",
        Text,
        "the metric that leads where the task is binary_classification",
    ),
    not_yet("primary_metrics.multiclass", Text, "the metric that leads where the task is multiclass"),
    not_yet("generate_plots", Bool, "plots"),
    not_yet("calibration.apply", Bool, "calibration"),
    not_yet(
        "calibration.method",
        Shape::Choice(&[name("isotonic"), also("sigmoid", &["platt"]), name("temperature")]),
        "the calibrator",
    ),
    not_yet("calibration.cv_folds", whole(2, 1000), "folds of the calibrator"),
];

const BASELINE_METRIC: &[Key] = &[
    key("name", Text, Required, "The metric."),
    key("min_improvement", ANY_NUMBER, Absent, "How much better the candidate must be."),
    key("max_regression", ANY_NUMBER, Absent, "How much worse the candidate may be."),
    key("unit", UNITS, Absent, "What the number is a measure of."),
    key("critical", Bool, Absent, "Whether failing it refuses the model."),
];
const DRIFT_METRIC: &[Key] = &[
    key(
        "name",
        Shape::Choice(&[
            name("psi"),
            name("kl_divergence"),
            also("ks_test_pvalue", &["ks_pvalue"]),
            name("ks_statistic"),
            name("js_divergence"),
            name("wasserstein"),
        ]),
        Required,
        "The measure of drift.",
    ),
    key("threshold", ANY_NUMBER, Required, "The bound."),
    key("comparison", COMPARISONS, Absent, "Which side of the bound is good."),
    key("critical", Bool, Absent, "Whether failing it refuses the model."),
];
const VALIDATION_DATASET: &[Key] = &[
    key("name", Text, Required, "Name of the data set."),
    key("path", Text, Required, "Where it lies."),
    key("weight", NOT_NEGATIVE, Absent, "Its weight in the score."),
];

/// A threshold of each group of metrics.
macro_rules! thresholds {
    ($($group:literal),+) => {
        &[$(
            not_yet(concat!("metrics.", $group, ".*.threshold"), ANY_NUMBER, "the bound of a gate"),
            not_yet(concat!("metrics.", $group, ".*.comparison"), COMPARISONS, "which side of a gate's bound is good"),
            not_yet(concat!("metrics.", $group, ".*.critical"), Bool, "whether failing a gate refuses the model"),
            not_yet(concat!("metrics.", $group, ".*.unit"), UNITS, "the unit of a gate's bound"),
        )+
        not_yet("baseline_comparisons.enabled", Bool, "comparison with a baseline model"),
        not_yet("baseline_comparisons.baseline_model_version", Text, "the baseline model"),
        not_yet("baseline_comparisons.metrics", Records(BASELINE_METRIC), "what is compared with the baseline model"),
        not_yet("drift_detection.enabled", Bool, "detection of drift"),
        not_yet("drift_detection.reference_data", Text, "the data that drift is measured against"),
        not_yet("drift_detection.drift_metrics", Records(DRIFT_METRIC), "measures of drift"),
        not_yet("validation_datasets", Records(VALIDATION_DATASET), "data sets of the gates"),
        not_yet("validation.parallel_evaluations", whole(1, 10_000), "evaluations at the same time"),
        not_yet("validation.timeout_seconds", whole(1, 2_592_000), "the deadline of the gates"),
        not_yet("validation.report_path", Text, "where the report goes"),
        ]
    };
}

/// Keys of quality gates.
pub(crate) const GATES_KEYS: &[Key] = thresholds!(
    "regression",
    "classification",
    "binary_classification",
    "multiclass",
    "data_quality",
    "performance",
    "fairness"
);
