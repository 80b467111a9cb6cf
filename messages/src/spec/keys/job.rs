//! The keys of a job, but those of its model. A row with status `Plan` is the field of [`crate::plan::JobPlan`] of the same path.

use super::Fallback::{Absent, Derived, Required};
use super::Shape::{Any, Bool, Device, Label, Monitor, Patterns, Records, ServiceUri, Sources, Text, Texts, WebUrl};
use super::{
    ANY_NUMBER, Choice, Key, NOT_NEGATIVE, POSITIVE, SEED, Shape, above, also, below, between, closed, json, key, name,
    no_effect, not_yet, whole,
};

const TASKS: Shape = Shape::Choice(&[
    name("regression"),
    also("binary_classification", &["binary"]),
    also("multiclass", &["multiclass_classification"]),
]);
const BINARY: &[&str] = &["binary_classification"];
const LSTM: &[&str] = &["lstm_sequence"];
const WITH_TEXT: &[&str] = &["transformer_classifier", "ad_score"];

const IMPUTE: Shape = Shape::Choice(&[
    name("mean"),
    name("median"),
    also("mode", &["most_frequent"]),
    name("zero"),
    name("constant"),
    also("refuse", &["error", "fail"]),
]);
const SCALE: Shape = Shape::Choice(&[
    name("none"),
    also("standard", &["zscore", "standardize"]),
    also("min_max", &["minmax"]),
    also("log1p", &["log"]),
    name("robust"),
    also("quantile", &["quantile_uniform"]),
    name("quantile_normal"),
]);
const OPTIMIZERS: Shape = Shape::Choice(&[name("adamw"), name("adam"), name("sgd"), name("lamb")]);
const ADAMS: &[&str] = &["adamw", "adam", "lamb"];
const SCHEDULERS: Shape = Shape::Choice(&[
    also("constant", &["none"]),
    also("cosine_annealing", &["cosine"]),
    name("linear_warmup"),
    name("warmup_cosine"),
    also("reduce_on_plateau", &["plateau"]),
    also("step", &["step_lr"]),
    also("one_cycle", &["onecycle"]),
]);
const MODE: Shape = Shape::Choice(&[also("min", &["minimize"]), also("max", &["maximize"])]);
const ENDINGS: &[Choice] = &[name("completed"), name("failed"), name("cancelled")];

const WEBHOOK: &[Key] = &[
    key("url", WebUrl, Required, "Where the notice is posted to; the notifier's configuration must allow the host."),
    key(
        "events",
        Shape::Choices(ENDINGS),
        json(r#"["completed", "failed", "cancelled"]"#),
        "Terminal events that are posted.",
    ),
];
const TRACKED_ARTIFACT: &[Key] = &[
    key("type", Text, Required, "What to keep, such as learning_curves."),
    key("path", Text, Required, "Where, below the run's artifacts."),
];

const DETERMINISTIC: &str = "every kernel of this platform is deterministic, always";
const NO_WORKERS: &str = "batches are read and encoded ahead by data_loaders, under credits";

const GROUP: &[Key] = &[
    key("pattern", Text, Required, "Names of parameters, such as head.* or *.bias."),
    key("learning_rate_multiplier", NOT_NEGATIVE, json("1.0"), "Times the scheduled learning rate; 0 freezes."),
    key("weight_decay", NOT_NEGATIVE, Absent, "In place of the optimizer's."),
];

/// The keys of a job but those of its model.
pub(super) const KEYS: &[Key] = &[
    key(
        "kind",
        Shape::Choice(&[name("job"), name("sweep"), name("evaluation"), name("gates"), name("experiment")]),
        Derived("by the shape of the spec"),
        "What the spec asks for. Only `job` runs in this version.",
    )
    .steers(),
    key("name", Text, Derived("the file's name"), "Name of the job, for people.").alias(&["job_name", "job.name"]),
    key("description", Label, json(r#""""#), "What it is for.").alias(&["experiment.description"]),
    key("seed", SEED, json("42"), "Every random choice follows from this and the seeds that are given apart.")
        .alias(&["environment.seed", "random_state", "random_seed"]),
    key("task", TASKS, Required, "What is learnt.").alias(&["task_type", "model.task", "training.task"]),
    // data
    key("data.dataset_version", Label, json(r#""""#), "Free label of the data, such as 2023Q1."),
    key("data.path", Sources, Required, "Files of one table, in order, relative to a data root: names, patterns, or URLs of allowed origins.").alias(&[
        "data.paths",
        "data.file",
        "data.train_path",
    ]),
    key(
        "data.test_path",
        Sources,
        json("[]"),
        "The official test part, where the data come with one; else a part of `data.path` is split off.",
    ),
    key(
        "data.format",
        Shape::Choice(&[
            name("auto"),
            name("csv"),
            name("tsv"),
            name("parquet"),
            also("json_lines", &["jsonl", "ndjson", "json"]),
            also("arrow", &["ipc", "feather"]),
        ]),
        json(r#""auto""#),
        "By the file's suffix where it is auto.",
    ),
    key(
        "data.csv.delimiter",
        Shape::Character { may_be_empty: false },
        Derived("a tab for .tsv and .tab, else a comma"),
        "Between two fields.",
    )
        .alias(&["data.csv.separator", "data.csv.sep", "data.delimiter"]),
    key(
        "data.csv.quote",
        Shape::Character { may_be_empty: false },
        json(r#""\"""#),
        "Around a field that holds the delimiter.",
    ),
    key("data.csv.header", Bool, json("true"), "Whether the first line names the columns; else they are c0, c1, …"),
    key(
        "data.csv.comment",
        Shape::Character { may_be_empty: true },
        json(r#""""#),
        "Lines that begin with it are skipped; empty: none are.",
    ),
    key("data.csv.trim", Bool, json("false"), "Whether blanks around fields and column names are cut off."),
    key("data.csv.decimal", Shape::Choice(&[name("."), name(",")]), json(r#"".""#), "The decimal sign."),
    key(
        "data.csv.null_values",
        Texts,
        json(r#"["", "NA", "N/A", "NaN", "nan", "null", "NULL"]"#),
        "Texts that mean missing.",
    )
    .alias(&["data.null_values", "data.csv.na_values"]),
    key("data.target.column", Text, Required, "The column to predict.").alias(&[
        "data.target",
        "data.target_column",
        "target",
        "target.column",
        "data.label",
    ]),
    key(
        "data.target.positive",
        Label,
        json(r#""""#),
        "Text of the positive class; empty: 1, true or yes, or the later of two in sorted order.",
    )
    .when("task", BINARY)
    .alias(&["data.target.positive_class"]),
    key(
        "data.target.strip_suffix",
        Label,
        json(r#""""#),
        "Cut off the end of a class's text, as the `.` of adult.test.",
    )
    .when("task", &["binary_classification", "multiclass"]),
    key(
        "data.target.transform",
        Shape::Choice(&[name("none"), also("log1p", &["log"]), also("standard", &["zscore", "standardize"])]),
        json(r#""none""#),
        "What is learnt in place of the number; undone before metrics.",
    )
    .when("task", &["regression"]),
    key("data.target.threshold", ANY_NUMBER, Absent, "Makes a class of a number: positive above this.")
        .when("task", BINARY),
    key("data.id_column", Text, Absent, "Identifies a sample; without one the row's number does. Not a feature."),
    key("data.weight_column", Text, Absent, "Weights of samples. Not a feature."),
    key(
        "data.include",
        Texts,
        json("[]"),
        "Only these columns are features; empty: all that are not something else or excluded.",
    )
    .alias(&["data.features"]),
    key("data.exclude", Texts, json("[]"), "Columns that are not features: leaks, identifiers.")
        .alias(&["data.drop", "data.drop_columns"]),
    key(
        "data.columns.*.type",
        Shape::Choice(&[
            name("auto"),
            also("number", &["numeric", "float", "int", "integer"]),
            also("category", &["categorical", "string"]),
            name("text"),
            name("image"),
            also("datetime", &["date", "timestamp"]),
        ]),
        json(r#""auto""#),
        "A quantity, one of a set, words, a date or time, or an image: its number in `images`, its path, or its bytes.",
    )
    .alias(&["data.columns.*"]),
    key(
        "data.columns.*.null_values",
        Texts,
        json("[]"),
        "Texts that mean missing in this column, beside `data.csv.null_values`.",
    ),
    key("data.columns.*.impute", IMPUTE, Absent, "In place of `data.preprocessing.impute`."),
    key("data.columns.*.scale", SCALE, Absent, "In place of `data.preprocessing.scale`."),
    key(
        "data.columns.*.images",
        Shape::Path,
        Absent,
        "Of an image column: the IDX file (also .gz) in a data root that its whole numbers, from 0, point into.",
    ),
    key("data.preprocessing.impute", IMPUTE, json(r#""median""#), "What stands for a missing number; fitted on train."),
    key(
        "data.preprocessing.missing_indicator",
        Bool,
        json("true"),
        "A further 0/1 feature for each number column with missing values in train.",
    ),
    key("data.preprocessing.scale", SCALE, json(r#""standard""#), "How numbers are scaled; fitted on train."),
    key("data.preprocessing.clip", NOT_NEGATIVE, json("10.0"), "Scaled numbers are clipped to +- this; 0: not at all."),
    key(
        "data.preprocessing.min_frequency",
        whole(1, 1_000_000_000),
        json("1"),
        "Categories of train with fewer rows fall together into one.",
    ),
    key(
        "data.preprocessing.max_categories",
        whole(1, 100_000),
        json("100"),
        "Most categories of one column; the rarest beyond fall together.",
    ),
    key(
        "data.preprocessing.categories",
        super::features::CATEGORIES,
        Derived("embedding for tabular and ad_score, else one_hot"),
        "A 0/1 feature for each category, an index that the model embeds, or a number of its own: ordinal, hashing, target, frequency.",
    ),
    key(
        "data.text.tokenizer",
        Shape::Choice(&[also("vocabulary", &["vocab"]), also("hashing", &["hash"]), name("pretrained")]),
        Derived("pretrained beside data.text.pretrained, else vocabulary"),
        "How texts become tokens: words fitted on train, words by their hash, or that of the pretrained encoder.",
    )
    .when("model.type", WITH_TEXT),
    key(
        "data.text.max_length",
        whole(2, 65_536),
        json("64"),
        "Tokens of a row, special ones included; longer texts are cut.",
    )
    .when("model.type", WITH_TEXT)
    .alias(&["model.max_length", "model.text_encoder.max_length"]),
    key("data.text.vocab_size", whole(4, 8_388_608), json("30000"), "Token ids are below this.")
        .when("model.type", WITH_TEXT)
        .alias(&["model.vocab_size", "model.text_encoder.vocab_size"]),
    key(
        "data.text.min_frequency",
        whole(1, 1_000_000_000),
        json("2"),
        "Words of train with fewer occurrences are unknown to the vocabulary.",
    )
    .when("model.type", WITH_TEXT),
    key(
        "data.text.pretrained",
        Shape::Path,
        Absent,
        "Folder of a BERT or DistilBERT encoder in a data root (config.json, model.safetensors, tokenizer.json or vocab.txt): its tokenizer, and its weights for the model to begin with.",
    )
    .when("model.type", WITH_TEXT)
    .alias(&["model.backbone", "model.text_encoder.backbone", "model.text_encoder.pretrained"]),
    key(
        "data.sequence.group_column",
        Text,
        Absent,
        "Rows with the same value are one sample; target, weight and split go by its last row.",
    )
    .when("model.type", LSTM),
    key(
        "data.sequence.order_column",
        Text,
        Absent,
        "Steps stand in rising order of this; without it, in the order of the rows.",
    )
    .when("model.type", LSTM),
    key(
        "data.split.strategy",
        Shape::Choice(&[
            name("random"),
            also("stratified", &["stratify"]),
            also("group", &["grouped"]),
            also("stratified_group", &["group_stratified"]),
            also("time", &["temporal", "time_series"]),
        ]),
        json(r#""random""#),
        "How rows are shared out.",
    )
    .alias(&["data.split.type", "data.split"]),
    key(
        "data.split.test_size",
        between(0.0, 1.0),
        json("0.2"),
        "Fraction of all rows; without effect beside `data.test_path`.",
    )
    .alias(&["data.test_size"]),
    key("data.split.val_size", between(0.0, 1.0), json("0.2"), "Fraction of the remaining rows.")
        .alias(&["data.val_size", "data.split.validation_size"]),
    key("data.split.random_state", SEED, json("42"), "Seed of the split.").alias(&[
        "data.train_test_split_seed",
        "data.split.seed",
        "data.random_state",
    ]),
    key(
        "data.split.stratify_column",
        Text,
        Absent,
        "Stratified, stratified_group: by this column, else by the target (a number is binned).",
    ),
    key("data.split.group_column", Text, Absent, "Group, stratified_group: rows of one group stay together."),
    key("data.split.time_column", Text, Absent, "Time: train is before val is before test."),
    key(
        "data.shuffle",
        Bool,
        json("true"),
        "Whether each epoch has an order of its own; it follows from the seed and the epoch only.",
    )
    .alias(&["data.batching.shuffle"]),
    key("data.shuffle_seed", SEED, Derived("seed"), "Seed of the order of rows."),
    key(
        "data.shuffle_window_mb",
        whole(1, 1_000_000),
        json("1000"),
        "Encoded rows of a part that are in memory and shuffled together, in MB. A larger part is shuffled in two \
         levels: its shards, and the rows of as many shards as make so much.",
    ),
    key("data.drop_last", Bool, json("false"), "Whether a last batch that is not full is left out of an epoch.")
        .alias(&["data.batching.drop_last"]),
    no_effect("data.batching.num_workers", whole(0, 4096), NO_WORKERS).alias(&["data.num_workers"]),
    no_effect("data.batching.prefetch_factor", whole(0, 4096), NO_WORKERS).alias(&["data.prefetch_factor"]),
    no_effect("data.batching.worker_init_seed", SEED, "no random choice depends on the process that reads"),
    no_effect("data.batching.pin_memory", Bool, NO_WORKERS).alias(&["data.pin_memory"]),
    // training
    key("training.epochs", whole(1, 1_000_000), json("20"), "Passes over the training part.")
        .alias(&["training.num_epochs", "training.max_epochs"]),
    key("training.batch_size", whole(1, 10_000_000), json("128"), "Rows of a global batch, whatever the world size.")
        .alias(&["data.batch_size", "data.batching.batch_size"]),
    key(
        "training.loss",
        Shape::Choice(&[
            name("mse"),
            name("mae"),
            name("huber"),
            also("bce_with_logits", &["bce", "binary_cross_entropy"]),
            also("cross_entropy", &["ce"]),
        ]),
        Derived("mse, bce_with_logits or cross_entropy, by the task"),
        "What is minimized.",
    )
    .alias(&["training.loss_fn", "training.loss_function"]),
    key("training.positive_weight", POSITIVE, json("1.0"), "Weight of the positive class in the loss.")
        .when("task", BINARY)
        .alias(&["training.pos_weight"]),
    key("training.label_smoothing", below(0.0, 1.0), json("0.0"), "Smoothing of the one-hot targets.")
        .when("task", &["multiclass"]),
    key(
        "training.class_weights",
        Shape::Choice(&[name("none"), name("balanced")]),
        json(r#""none""#),
        "balanced: a class counts as much in the loss as any other, whatever its rows in train.",
    )
    .when("task", &["multiclass"]),
    key("training.huber_delta", POSITIVE, json("1.0"), "Huber: errors up to this count squared."),
    key("training.optimizer.type", OPTIMIZERS, json(r#""adamw""#), "The optimizer.")
        .alias(&["training.optimizer", "training.optimizer.name"]),
    key("training.optimizer.learning_rate", above(0.0, 1000.0), json("0.001"), "Step size, before the schedule.")
        .alias(&["training.learning_rate", "training.optimizer.lr"]),
    key(
        "training.optimizer.weight_decay",
        NOT_NEGATIVE,
        Derived("0.01 for adamw, else 0"),
        "Decoupled for adamw, in the gradient for the others.",
    )
    .alias(&["training.weight_decay"]),
    key("training.optimizer.beta1", below(0.0, 1.0), json("0.9"), "Decay of the first moment.")
        .when("training.optimizer.type", ADAMS),
    key("training.optimizer.beta2", below(0.0, 1.0), json("0.999"), "Decay of the second moment.")
        .when("training.optimizer.type", ADAMS),
    key("training.optimizer.epsilon", POSITIVE, json("1e-8"), "Added to the root of the second moment.")
        .when("training.optimizer.type", ADAMS)
        .alias(&["training.optimizer.eps"]),
    key("training.optimizer.momentum", below(0.0, 1.0), json("0.0"), "Momentum of SGD.")
        .when("training.optimizer.type", &["sgd"]),
    key("training.optimizer.nesterov", Bool, json("false"), "Nesterov's momentum.")
        .when("training.optimizer.type", &["sgd"]),
    key(
        "training.optimizer.groups",
        Records(GROUP),
        json("[]"),
        "Parameters with a learning rate or decay of their own; biases and norms are never decayed otherwise.",
    )
    .alias(&["training.optimizer.parameter_groups"]),
    key(
        "training.scheduler.type",
        SCHEDULERS,
        json(r#""constant""#),
        "Course of the learning rate; lengths in epochs unless the name says steps.",
    )
    .alias(&["training.scheduler", "training.scheduler.name"]),
    key(
        "training.scheduler.T_max",
        whole(1, 1_000_000),
        Derived("training.epochs"),
        "Epochs from the highest to the lowest rate; it rises again after.",
    )
    .when("training.scheduler.type", &["cosine_annealing"])
    .alias(&["training.scheduler.t_max"]),
    key("training.scheduler.eta_min", NOT_NEGATIVE, json("0.0"), "Lowest rate.")
        .when("training.scheduler.type", &["cosine_annealing", "warmup_cosine"]),
    key("training.scheduler.warmup_steps", whole(1, 1_000_000_000), json("100"), "Steps until the full rate.")
        .when("training.scheduler.type", &["linear_warmup", "warmup_cosine"]),
    key("training.scheduler.start_factor", closed(0.0, 1.0), json("0.1"), "Share of the rate at the first step.")
        .when("training.scheduler.type", &["linear_warmup"]),
    key("training.scheduler.factor", between(0.0, 1.0), json("0.1"), "The rate is multiplied by this.")
        .when("training.scheduler.type", &["reduce_on_plateau"]),
    key("training.scheduler.patience", whole(0, 1_000_000), json("10"), "Epochs without a better val_loss before.")
        .when("training.scheduler.type", &["reduce_on_plateau"]),
    key("training.scheduler.threshold", NOT_NEGATIVE, json("0.0001"), "Relative change that counts as better.")
        .when("training.scheduler.type", &["reduce_on_plateau"]),
    key("training.scheduler.cooldown", whole(0, 1_000_000), json("0"), "Epochs after a reduction that do not count.")
        .when("training.scheduler.type", &["reduce_on_plateau"]),
    key("training.scheduler.min_lr", NOT_NEGATIVE, json("0.0"), "Lowest rate.")
        .when("training.scheduler.type", &["reduce_on_plateau"]),
    key("training.scheduler.step_size", whole(1, 1_000_000), json("10"), "Epochs between two reductions.")
        .when("training.scheduler.type", &["step"]),
    key("training.scheduler.gamma", above(0.0, 1.0), json("0.1"), "The rate is multiplied by this.")
        .when("training.scheduler.type", &["step"]),
    key("training.scheduler.max_lr", POSITIVE, Derived("training.optimizer.learning_rate"), "Highest rate.")
        .when("training.scheduler.type", &["one_cycle"]),
    key("training.scheduler.pct_start", between(0.0, 1.0), json("0.3"), "Share of all steps in which the rate rises.")
        .when("training.scheduler.type", &["one_cycle"]),
    key(
        "training.scheduler.div_factor",
        closed(1.0, f64::INFINITY),
        json("25.0"),
        "The first rate is max_lr over this.",
    )
    .when("training.scheduler.type", &["one_cycle"]),
    key(
        "training.scheduler.final_div_factor",
        closed(1.0, f64::INFINITY),
        json("10000.0"),
        "The last rate is the first over this.",
    )
    .when("training.scheduler.type", &["one_cycle"]),
    key("training.clip_grad_norm", NOT_NEGATIVE, json("0.0"), "Largest global norm of the gradient; 0: not clipped.")
        .alias(&["training.gradient_clipping", "training.max_grad_norm"]),
    key(
        "training.clip_grad_value",
        NOT_NEGATIVE,
        json("0.0"),
        "Largest absolute value in the gradient; 0: not clipped.",
    ),
    key(
        "training.accumulation_steps",
        whole(1, 100_000),
        json("1"),
        "Batches whose gradients make one optimizer step.",
    )
    .alias(&["training.gradient_accumulation_steps"]),
    key(
        "training.early_stopping.enabled",
        Bool,
        Derived("whether anything stands under training.early_stopping"),
        "Whether training may end before its last epoch.",
    )
    .steers()
    .alias(&["training.early_stopping"]),
    key("training.early_stopping.monitor", Monitor, json(r#""val_loss""#), "val_loss or val_<metric>.")
        .alias(&["training.early_stopping.metric"]),
    key(
        "training.early_stopping.patience",
        whole(1, 1_000_000),
        json("5"),
        "Epochs without improvement before the end.",
    ),
    key(
        "training.early_stopping.min_delta",
        NOT_NEGATIVE,
        json("0.0"),
        "Least absolute change that counts as improvement.",
    ),
    key(
        "training.early_stopping.mode",
        MODE,
        Derived("the direction of the monitored value"),
        "Whether less or more is better.",
    ),
    key(
        "training.early_stopping.restore_best",
        Bool,
        json("true"),
        "Whether the model that is announced is the best, not the last.",
    )
    .alias(&["training.early_stopping.restore_best_weights"]),
    key(
        "training.logical_shards",
        whole(1, 1024),
        json("8"),
        "Fixed cut of a global batch; never changed by the world size.",
    ),
    key("training.checkpoint.save_freq", whole(1, 1_000_000), json("1"), "Epochs between two checkpoints.")
        .alias(&["training.checkpoints.save_freq"]),
    key(
        "training.checkpoint.save_steps",
        whole(0, 1_000_000_000),
        json("0"),
        "Optimizer steps between two checkpoints within an epoch; 0: none.",
    )
    .alias(&["training.checkpoints.save_steps"]),
    key(
        "training.checkpoint.save_minutes",
        closed(0.0, 1_000_000.0),
        json("0.0"),
        "Minutes since the last checkpoint after which one is written at the next step; 0: never.",
    )
    .alias(&["training.checkpoints.save_minutes"]),
    key(
        "training.checkpoint.keep_best",
        whole(1, 1000),
        json("3"),
        "How many of the best are kept, beside the latest.",
    )
    .alias(&["training.checkpoints.keep_best"]),
    key("training.checkpoint.metric_name", Monitor, json(r#""val_loss""#), "What the best is judged by.")
        .alias(&["training.checkpoint.monitor", "training.checkpoints.metric_name"]),
    key("training.checkpoint.mode", MODE, Derived("the direction of metric_name"), "Whether less or more is better.")
        .alias(&["training.checkpoints.mode"]),
    key("training.log_interval", whole(1, 1_000_000), json("10"), "Steps between two progress events."),
    key(
        "training.precision",
        Shape::Choice(&[
            also("f32", &["fp32", "float32"]),
            also("bf16", &["bfloat16"]),
            also("f16", &["fp16", "float16"]),
        ]),
        json(r#""f32""#),
        "Of weights and gradients; sixteen bits keep f32 master weights, and f16 scales the loss.",
    ),
    key("training.loss_scale.initial_scale", POSITIVE, json("65536.0"), "First loss scale.")
        .when("training.precision", &["f16"]),
    key(
        "training.loss_scale.growth_factor",
        above(1.0, f64::INFINITY),
        json("2.0"),
        "Times the loss scale after growth_interval steps without overflow.",
    )
    .when("training.precision", &["f16"]),
    key("training.loss_scale.backoff_factor", between(0.0, 1.0), json("0.5"), "Times the loss scale at an overflow.")
        .when("training.precision", &["f16"]),
    key("training.loss_scale.growth_interval", whole(1, 1_000_000_000), json("2000"), "Steps until the loss scale grows.")
        .when("training.precision", &["f16"]),
    key(
        "training.ema.decay",
        below(0.0, 1.0),
        json("0.0"),
        "Of an average of the weights, which is then validated and announced; 0: none is kept.",
    )
    .alias(&["training.ema", "training.ema_decay"]),
    key("training.ema.warmup", Bool, json("true"), "Whether the decay begins low: at most (1 + t) / (10 + t)."),
    key(
        "training.batch_order",
        Shape::Choice(&[name("sequential"), also("shuffled", &["random"])]),
        Derived("data.shuffle"),
        "sequential: stored order; beside `shuffle: true` an order fixed by the seed.",
    )
    .steers()
    .alias(&["data.batch_order", "data.batching.batch_order"]),
    not_yet("training.mixed_precision", Bool, "a switch; training.precision says bf16 or f16"),
    not_yet("training.distributed", Any, "distributed training"),
    not_yet("training.privacy", Any, "differentially private training"),
    not_yet("training.resume_from", Text, "training from another job's checkpoint"),
    // environment (deterministic_config.yaml)
    no_effect("environment.deterministic", Bool, DETERMINISTIC),
    no_effect("environment.cudnn_deterministic", Bool, DETERMINISTIC),
    no_effect("environment.use_deterministic_algorithms", Bool, DETERMINISTIC),
    no_effect("environment.benchmark", Bool, "kernels are chosen by shape alone, never by timing"),
    no_effect(
        "environment.python_hash_seed",
        SEED,
        "there is no Python, and nothing depends on the order of a hash table",
    ),
    no_effect("environment.cublas_workspace_config", Label, "cuBLAS is not used where its order of sums could change"),
    // evaluation
    key("evaluation.metrics", Texts, Derived("the task's default metrics"), "What is computed on val and test.")
        .alias(&["metrics"]),
    key("evaluation.metrics.regression", Texts, Absent, "Metrics where the task is regression.")
        .steers()
        .alias(&["metrics.regression"]),
    key("evaluation.metrics.binary_classification", Texts, Absent, "Metrics where the task is binary_classification.")
        .steers()
        .alias(&["metrics.binary_classification"]),
    key("evaluation.metrics.multiclass", Texts, Absent, "Metrics where the task is multiclass.")
        .steers()
        .alias(&["metrics.multiclass"]),
    key(
        "evaluation.primary_metric",
        Text,
        Derived("rmse, f1 or f1_macro by the task, or the first of evaluation.metrics"),
        "The one that a summary leads with.",
    )
    .alias(&["primary_metric"]),
    key("evaluation.threshold", between(0.0, 1.0), json("0.5"), "Positive at or above this probability.")
        .when("task", BINARY),
    not_yet("evaluation.validation_strategy", Any, "cross-validation"),
    not_yet("evaluation.calibration", Any, "calibration"),
    not_yet("evaluation.generate_plots", Bool, "plots"),
    not_yet("evaluation.robustness", Any, "robustness"),
    not_yet("evaluation.fairness", Any, "fairness"),
    not_yet("evaluation.error_analysis", Any, "error analysis"),
    // tracking
    key("tracking.experiment", Text, Derived("name"), "The experiment that the run belongs to.").alias(&[
        "experiment.name",
        "experiment",
        "tracking.experiment_name",
    ]),
    key("tracking.tags.*", Label, Absent, "Tags of the run.").alias(&["experiment.tags.*", "experiment.metadata.*"]),
    key(
        "tracking.parameters",
        Patterns,
        json("[]"),
        "Patterns of plan paths to record, such as training.optimizer.*; empty: all.",
    ),
    no_effect("tracking.metrics", Texts, "every metric of a run is recorded"),
    not_yet("tracking.resources", Texts, "monitoring of resources"),
    not_yet("tracking.artifacts", Records(TRACKED_ARTIFACT), "a choice of the artifacts to keep"),
    not_yet(
        "tracking.tracking_uri",
        ServiceUri,
        "a tracking server of the job's own; runs are recorded by the platform's tracker",
    )
    .alias(&["experiment.tracking_uri", "tracking.uri"]),
    not_yet(
        "tracking.artifact_location",
        ServiceUri,
        "an artifact store of the job's own; artifacts lie in the platform's store",
    )
    .alias(&["experiment.artifact_location"]),
    // notifications, resources, limits
    key("notifications.webhooks", Records(WEBHOOK), json("[]"), "Where terminal events are posted to."),
    not_yet("notifications.email", Any, "notices by e-mail"),
    not_yet("notifications.slack", Any, "notices to Slack"),
    not_yet("notifications.teams", Any, "notices to Teams"),
    key(
        "resources.device",
        Device,
        json(r#""auto""#),
        "auto: a CUDA device where the worker has one, else the CPU. cpu. cuda: any CUDA device. cuda:<number>: that \
         device of each worker.",
    )
    .alias(&["training.device", "device"]),
    key(
        "resources.world_size",
        whole(1, 1024),
        json("1"),
        "Ranks of the training gang at its beginning; the result has the same bits for every number of ranks.",
    )
    .alias(&["training.world_size"]),
    key(
        "resources.min_world_size",
        whole(1, 1024),
        json("1"),
        "The gang begins and goes on with no fewer ranks, when slots are missing or ranks are lost.",
    ),
    key(
        "resources.max_world_size",
        whole(1, 1024),
        Derived("resources.world_size"),
        "The gang grows to so many ranks while slots are free.",
    ),
    key(
        "resources.straggler_factor",
        POSITIVE,
        json("3.0"),
        "A rank whose steps take this many times the median of all ranks is a straggler.",
    ),
    key(
        "resources.straggler_policy",
        Shape::Choice(&[name("warn"), name("evict")]),
        json(r#""warn""#),
        "warn: an event names it; evict: it also leaves the gang at the next step.",
    ),
    key(
        "resources.collective",
        Shape::Choice(&[name("auto"), name("tcp"), name("nccl")]),
        json(r#""auto""#),
        "How ranks on CUDA devices sum their gradients. auto: by NCCL where every rank has a device of its own and the \
         library, else over TCP. nccl: by NCCL, or the job fails.",
    ),
    key(
        "resources.collective_mode",
        Shape::Choice(&[name("deterministic"), name("fast")]),
        json(r#""deterministic""#),
        "deterministic: the same bits for every number of ranks. fast: NCCL sums in its own order; without NCCL it has no \
         effect.",
    ),
    key("resources.threads", whole(0, 1024), json("0"), "Compute threads of a rank; 0: what the machine gives."),
    key("limits.deadline_s", whole(1, 2_592_000), json("3600"), "Seconds from acceptance to the end of the job."),
    key("limits.max_attempts", whole(1, 20), json("3"), "How often a task is tried."),
];
