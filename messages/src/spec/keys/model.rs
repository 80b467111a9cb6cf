//! The keys of a job's model. Which of them count is told by `model.type`.

use super::Fallback::{Absent, Derived};
use super::Shape::{Bool, Label, Wholes};
use super::{ANY_NUMBER, Fallback, Key, POSITIVE, SEED, Shape, also, below, json, key, later, name, no_effect, whole};

const LSTM: &[&str] = &["lstm_sequence"];
const TRANSFORMER: &[&str] = &["transformer_classifier"];
const IMAGE: &[&str] = &["image_classifier"];
const AD_SCORE: &[&str] = &["ad_score"];
const WITH_HEAD: &[&str] = &["mlp", "tabular", "transformer_classifier", "image_classifier", "lstm_sequence"];
const MODELS: Shape = Shape::Choice(&[
    name("mlp"),
    name("tabular"),
    name("transformer_classifier"),
    name("image_classifier"),
    also("lstm_sequence", &["lstm"]),
    also("ad_score", &["ad_score_predictor"]),
    later("tabular_ensemble", &[]),
    later("account_health", &["account_health_predictor"]),
]);
const POOLINGS: Shape = Shape::Choice(&[also("cls", &["first"]), name("last"), name("mean"), name("max")]);
const POOL_IMAGES: Shape = Shape::Choice(&[also("mean", &["avg", "average"]), name("max")]);
const NORMALIZATIONS: Shape =
    Shape::Choice(&[name("none"), also("layer_norm", &["layernorm"]), also("batch_norm", &["batchnorm"])]);
const WIDTH: Shape = whole(1, 65_536);
const WIDTHS: Shape = Wholes { min: 1, max: 65_536 };
const RATE: Shape = below(0.0, 1.0);
const INITIALIZERS: Shape = Shape::Choice(&[
    name("normal"),
    also("xavier_uniform", &["glorot_uniform"]),
    also("xavier_normal", &["glorot_normal"]),
    also("kaiming_uniform", &["he_uniform"]),
    also("kaiming_normal", &["he_normal"]),
    also("truncated_normal", &["trunc_normal"]),
    also("standard", &["default", "uniform"]),
]);

const fn of_model(
    path: &'static str,
    shape: Shape,
    default: Fallback,
    model: &'static [&'static str],
    doc: &'static str,
) -> Key {
    key(path, shape, default, doc).when("model.type", model)
}

/// The keys below `model`.
pub(super) const KEYS: &[Key] = &[
    key("model.type", MODELS, json(r#""mlp""#), "The architecture.").alias(&[
        "model.name",
        "model",
        "model.architecture",
    ]),
    key(
        "model.hidden_layers",
        WIDTHS,
        Derived("[64, 32] for mlp, [64, 64] for tabular, else none"),
        "Width of each hidden layer; behind an encoder, those of the head.",
    )
    .when("model.type", WITH_HEAD)
    .alias(&["model.hidden_dims", "model.hidden_sizes", "model.layers"]),
    key(
        "model.activation",
        Shape::Choice(&[
            name("relu"),
            name("gelu"),
            name("gelu_tanh"),
            name("sigmoid"),
            name("tanh"),
            also("silu", &["swish"]),
        ]),
        json(r#""relu""#),
        "After each hidden layer; of an encoder, within it.",
    )
    .when("model.type", &["mlp", "tabular", "transformer_classifier", "image_classifier"]),
    key(
        "model.dropout",
        RATE,
        Derived("0.1 for transformer_classifier, else 0"),
        "Share of hidden activations that a step leaves out.",
    )
    .when("model.type", WITH_HEAD)
    .alias(&["model.dropout_rate", "model.lstm.dropout"]),
    key("model.normalization", NORMALIZATIONS, json(r#""none""#), "Before each activation.")
        .when("model.type", &["mlp", "image_classifier"]),
    key(
        "model.initialization.type",
        INITIALIZERS,
        Derived(
            "kaiming_uniform for an mlp with relu, silu or gelu, xavier_uniform for other activations, else standard",
        ),
        "How weights begin; biases begin at 0 but with standard.",
    )
    .alias(&["model.initialization", "model.layer_initialization"]),
    key("model.initialization.mean", ANY_NUMBER, json("0.0"), "Mean of the initial weights.")
        .when("model.initialization.type", &["normal", "truncated_normal"]),
    key("model.initialization.std", POSITIVE, json("0.02"), "Standard deviation of the initial weights.")
        .when("model.initialization.type", &["normal", "truncated_normal"]),
    key("model.initialization_seed", SEED, Derived("seed"), "Seed of the initial weights."),
    key("model.dropout_seed", SEED, Derived("seed"), "Seed of dropout."),
    no_effect("model.version", Label, "the registry numbers the versions of a model by itself"),
    key("model.num_classes", whole(2, 100_000), Absent, "How many classes the data are expected to have.")
        .when("task", &["binary_classification", "multiclass"]),
    key("model.embedding_dim", WIDTH, Absent, "Width of a category's embedding; else half the categories, at most 50.")
        .when("model.type", &["tabular"]),
    key(
        "model.pooling",
        POOLINGS,
        Derived("mean for images; cls beside data.text.pretrained, else mean for texts; last for sequences"),
        "How tokens, pixels or steps become one row.",
    )
    .when("model.type", &["transformer_classifier", "image_classifier", "lstm_sequence"])
    .alias(&["model.lstm.pooling"]),
    key(
        "model.hidden_size",
        WIDTH,
        Derived("128, or the pretrained encoder's"),
        "Width of a token's vector, or of the LSTM's state.",
    )
    .when("model.type", &["transformer_classifier", "lstm_sequence"])
    .alias(&["model.lstm.hidden_size"]),
    key(
        "model.num_layers",
        whole(0, 256),
        Derived("2, or the pretrained encoder's"),
        "Layers of the encoder; 0 pools the tokens' embeddings as they are.",
    )
    .when("model.type", &["transformer_classifier", "lstm_sequence"])
    .alias(&["model.lstm.num_layers"]),
    of_model(
        "model.num_heads",
        whole(1, 1024),
        Derived("4, or the pretrained encoder's"),
        TRANSFORMER,
        "Heads of attention; they divide model.hidden_size.",
    ),
    of_model(
        "model.intermediate_size",
        WIDTH,
        Derived("4 x model.hidden_size, or the pretrained encoder's"),
        TRANSFORMER,
        "Width of the feed-forward part.",
    ),
    of_model("model.bidirectional", Bool, json("false"), LSTM, "Whether each layer reads backwards as well.")
        .alias(&["model.lstm.bidirectional"]),
    of_model("model.filters", WIDTHS, json("[32, 64]"), IMAGE, "Channels of each convolution."),
    of_model("model.kernel", whole(1, 256), json("3"), IMAGE, "Rows and columns of a convolution's window."),
    of_model("model.stride", whole(1, 256), json("2"), IMAGE, "Step of a convolution's window."),
    of_model("model.padding", whole(0, 256), json("1"), IMAGE, "Pixels of 0 around an image."),
    of_model(
        "model.text_encoder.type",
        Shape::Choice(&[also("transformer", &["bert", "distilbert"]), name("none")]),
        json(r#""transformer""#),
        AD_SCORE,
        "Encoder of the text column; none leaves the branch out.",
    ),
    of_model(
        "model.text_encoder.hidden_size",
        WIDTH,
        Derived("128, or the pretrained encoder's"),
        AD_SCORE,
        "Width of a token's vector.",
    ),
    of_model(
        "model.text_encoder.num_layers",
        whole(0, 256),
        Derived("2, or the pretrained encoder's"),
        AD_SCORE,
        "Layers of the text encoder; 0 pools the tokens' embeddings as they are.",
    ),
    of_model(
        "model.text_encoder.num_heads",
        whole(1, 1024),
        Derived("4, or the pretrained encoder's"),
        AD_SCORE,
        "Heads of attention; they divide hidden_size.",
    ),
    of_model(
        "model.text_encoder.intermediate_size",
        WIDTH,
        Derived("4 x hidden_size, or the pretrained encoder's"),
        AD_SCORE,
        "Width of the feed-forward part.",
    ),
    of_model("model.text_encoder.dropout", RATE, json("0.1"), AD_SCORE, "Dropout of the text encoder."),
    of_model(
        "model.text_encoder.pooling",
        POOLINGS,
        Derived("cls beside data.text.pretrained, else mean"),
        AD_SCORE,
        "How tokens become one row.",
    ),
    of_model("model.text_encoder.output_dim", WIDTH, json("128"), AD_SCORE, "Width of the text's embedding."),
    of_model(
        "model.visual_encoder.type",
        Shape::Choice(&[also("convolutional", &["cnn", "conv"]), name("none")]),
        json(r#""convolutional""#),
        AD_SCORE,
        "Encoder of the image column; none leaves the branch out.",
    ),
    of_model("model.visual_encoder.filters", WIDTHS, json("[32, 64]"), AD_SCORE, "Channels of each convolution."),
    of_model("model.visual_encoder.kernel", whole(1, 256), json("3"), AD_SCORE, "Rows and columns of a window."),
    of_model("model.visual_encoder.stride", whole(1, 256), json("2"), AD_SCORE, "Step of a window."),
    of_model("model.visual_encoder.padding", whole(0, 256), json("1"), AD_SCORE, "Pixels of 0 around an image."),
    of_model(
        "model.visual_encoder.normalization",
        NORMALIZATIONS,
        json(r#""none""#),
        AD_SCORE,
        "Before each activation.",
    ),
    of_model("model.visual_encoder.pooling", POOL_IMAGES, json(r#""mean""#), AD_SCORE, "Over all pixels at the end."),
    of_model("model.visual_encoder.output_dim", WIDTH, json("128"), AD_SCORE, "Width of the image's embedding."),
    of_model(
        "model.tabular_encoder.type",
        Shape::Choice(&[name("mlp"), name("none")]),
        json(r#""mlp""#),
        AD_SCORE,
        "Encoder of the table's columns; none leaves the branch out.",
    ),
    of_model(
        "model.tabular_encoder.hidden_layers",
        WIDTHS,
        json("[64]"),
        AD_SCORE,
        "Width of each hidden layer over the table's features.",
    ),
    of_model("model.tabular_encoder.dropout", RATE, json("0.0"), AD_SCORE, "Dropout of the table's encoder."),
    of_model(
        "model.tabular_encoder.embedding_dim",
        WIDTH,
        Absent,
        AD_SCORE,
        "Width of a category's embedding; else half the categories, at most 50.",
    ),
    of_model("model.tabular_encoder.output_dim", WIDTH, json("64"), AD_SCORE, "Width of the table's embedding."),
    of_model(
        "model.fusion.type",
        Shape::Choice(&[also("concat", &["concatenation", "concatenate"]), later("attention", &["cross_attention"])]),
        json(r#""concat""#),
        AD_SCORE,
        "How the embeddings are joined.",
    ),
    of_model("model.fusion.hidden_dim", WIDTH, json("256"), AD_SCORE, "Width of the joined embedding."),
    of_model(
        "model.head.hidden_layers",
        WIDTHS,
        json("[256, 128]"),
        AD_SCORE,
        "Width of each hidden layer of the head.",
    ),
    of_model("model.head.dropout", RATE, json("0.1"), AD_SCORE, "Dropout of the head."),
];
