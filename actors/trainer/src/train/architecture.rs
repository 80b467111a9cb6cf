//! From a plan's model and the data's columns to the architecture that `kernels` builds.

use frame::Manifest;
use frame::manifest::Encoding;
use kernels::nn::{
    AdScoreConfig, FusionConfig, HeadConfig, ImageClassifierConfig, ImageNorm, LstmSequenceConfig, MlpConfig,
    ModelConfig, Norm, TableConfig, TabularConfig, TextEncoderConfig, TransformerClassifierConfig, VisualEncoderConfig,
};
use kernels::ops;
use kernels::weights::pretrained::PretrainedConfig;
use messages::WireError;
use messages::error::Code;
use messages::plan::{
    Activation, AdScorePlan, Architecture, JobPlan, Normalization, Pooling, TabularEncoderType, Task, TextEncoderType,
    VisualEncoderType,
};

use super::mapping::config_error;

/// The model of a plan over the columns of a dataset.
pub fn model(plan: &JobPlan, manifest: &Manifest) -> Result<ModelConfig, WireError> {
    check_classes(plan, manifest)?;
    let inputs = Inputs::of(manifest);
    let output_dim = manifest.outputs();
    inputs.check(&plan.model.architecture)?;
    Ok(match &plan.model.architecture {
        Architecture::Mlp(mlp) => ModelConfig::Mlp(MlpConfig {
            input_dim: manifest.width(),
            hidden_layers: sizes(&mlp.hidden_layers),
            activation: activation(mlp.activation),
            dropout: mlp.dropout as f32,
            norm: match mlp.normalization {
                Normalization::None => Norm::None,
                Normalization::LayerNorm => Norm::LayerNorm,
                Normalization::BatchNorm => return Err(unfit("model.normalization: batch_norm in an mlp")),
            },
            output_dim,
        }),
        Architecture::Tabular(tabular) => ModelConfig::Tabular(TabularConfig {
            table: TableConfig {
                embedding_dim: tabular.embedding_dim.map(|n| n as usize),
                hidden_layers: sizes(&tabular.hidden_layers),
                activation: activation(tabular.activation),
                dropout: tabular.dropout as f32,
                ..inputs.table(manifest)
            },
            hidden_layers: vec![],
            dropout: 0.0,
            output_dim,
        }),
        Architecture::TransformerClassifier(t) => {
            let sizes_of = TextSizes {
                at: "model",
                hidden_size: t.hidden_size,
                num_layers: t.num_layers,
                num_heads: t.num_heads,
                intermediate_size: t.intermediate_size,
            };
            let encoder = inputs.text_encoder(manifest, &sizes_of, t.dropout, t.pooling)?;
            let activation = if manifest.pretrained.is_some() { encoder.activation } else { activation(t.activation) };
            ModelConfig::TransformerClassifier(TransformerClassifierConfig {
                text_encoder: TextEncoderConfig { activation, ..encoder },
                hidden_layers: sizes(&t.hidden_layers),
                dropout: t.dropout as f32,
                output_dim,
            })
        }
        Architecture::ImageClassifier(image) => ModelConfig::ImageClassifier(ImageClassifierConfig {
            visual_encoder: VisualEncoderConfig {
                filters: sizes(&image.filters),
                kernel: image.kernel as usize,
                stride: image.stride as usize,
                padding: image.padding as usize,
                activation: activation(image.activation),
                norm: image_norm(image.normalization)?,
                pooling: pooling(image.pooling),
                output_dim: None,
                ..inputs.image.clone().unwrap_or_default()
            },
            hidden_layers: sizes(&image.hidden_layers),
            dropout: image.dropout as f32,
            output_dim,
        }),
        Architecture::LstmSequence(lstm) => ModelConfig::LstmSequence(LstmSequenceConfig {
            input_dim: manifest.width(),
            hidden_size: lstm.hidden_size as usize,
            num_layers: lstm.num_layers as usize,
            bidirectional: lstm.bidirectional,
            dropout: lstm.dropout as f32,
            pooling: pooling(lstm.pooling),
            hidden_layers: sizes(&lstm.hidden_layers),
            output_dim,
            ..LstmSequenceConfig::default()
        }),
        Architecture::AdScore(ad_score) => ModelConfig::AdScore(self::ad_score(ad_score, manifest, &inputs)?),
    })
}

fn ad_score(plan: &AdScorePlan, manifest: &Manifest, inputs: &Inputs) -> Result<AdScoreConfig, WireError> {
    let AdScorePlan { text_encoder: text, visual_encoder: visual, tabular_encoder: tabular, fusion, head } = plan;
    let text_encoder = if inputs.text.is_some() && text.r#type != TextEncoderType::None {
        let sizes_of = TextSizes {
            at: "model.text_encoder",
            hidden_size: text.hidden_size,
            num_layers: text.num_layers,
            num_heads: text.num_heads,
            intermediate_size: text.intermediate_size,
        };
        let encoder = inputs.text_encoder(manifest, &sizes_of, text.dropout, text.pooling)?;
        Some(TextEncoderConfig { output_dim: Some(text.output_dim as usize), ..encoder })
    } else {
        None
    };
    let visual_encoder = match &inputs.image {
        Some(image) if visual.r#type != VisualEncoderType::None => Some(VisualEncoderConfig {
            filters: sizes(&visual.filters),
            kernel: visual.kernel as usize,
            stride: visual.stride as usize,
            padding: visual.padding as usize,
            norm: image_norm(visual.normalization)?,
            pooling: pooling(visual.pooling),
            output_dim: Some(visual.output_dim as usize),
            ..image.clone()
        }),
        _ => None,
    };
    let table = if inputs.has_table(manifest) && tabular.r#type != TabularEncoderType::None {
        let mut hidden_layers = sizes(&tabular.hidden_layers);
        hidden_layers.push(tabular.output_dim as usize);
        Some(TableConfig {
            embedding_dim: tabular.embedding_dim.map(|n| n as usize),
            hidden_layers,
            dropout: tabular.dropout as f32,
            ..inputs.table(manifest)
        })
    } else {
        None
    };
    Ok(AdScoreConfig {
        text_encoder,
        visual_encoder,
        table,
        fusion: FusionConfig { hidden_dim: fusion.hidden_dim as usize },
        head: HeadConfig { hidden_layers: sizes(&head.hidden_layers), dropout: head.dropout as f32 },
        output_dim: manifest.outputs(),
        ..AdScoreConfig::default()
    })
}

/// What a dataset offers beside flat features.
struct Inputs {
    /// (ids, longest row) of the tokenizer.
    text: Option<(usize, usize)>,
    /// An encoder of the size of the images.
    image: Option<VisualEncoderConfig>,
    /// Indices of each category column.
    categories: Vec<usize>,
}

/// Sizes of a text encoder as the plan has them.
struct TextSizes {
    /// Path of the keys.
    at: &'static str,
    hidden_size: Option<u32>,
    num_layers: Option<u32>,
    num_heads: Option<u32>,
    intermediate_size: Option<u32>,
}

impl Inputs {
    fn of(manifest: &Manifest) -> Self {
        let mut inputs = Self { text: None, image: None, categories: vec![] };
        for feature in &manifest.features {
            match &feature.encoding {
                Encoding::Text { max_length, vocab_size, .. } => {
                    inputs.text = Some((*vocab_size as usize, *max_length as usize));
                }
                Encoding::Image { channels, height, width } => {
                    inputs.image = Some(VisualEncoderConfig {
                        channels: *channels as usize,
                        height: *height as usize,
                        width: *width as usize,
                        ..VisualEncoderConfig::default()
                    });
                }
                Encoding::Index { categories } => inputs.categories.push(categories.len() + 1),
                Encoding::Number { .. }
                | Encoding::OneHot { .. }
                | Encoding::Ordinal { .. }
                | Encoding::Hashing { .. }
                | Encoding::Target { .. }
                | Encoding::Frequency { .. } => {}
            }
        }
        inputs
    }

    fn has_table(&self, manifest: &Manifest) -> bool {
        manifest.width() + self.categories.len() > 0
    }

    fn table(&self, manifest: &Manifest) -> TableConfig {
        TableConfig { input_dim: manifest.width(), categories: self.categories.clone(), ..TableConfig::default() }
    }

    /// Every input of the data has a place in the model, and the model finds what it reads.
    fn check(&self, architecture: &Architecture) -> Result<(), WireError> {
        let reads = |text: bool, image: bool, categories: bool| {
            let unread = [
                ("a text column", self.text.is_some() && !text),
                ("an image column", self.image.is_some() && !image),
                ("category indices", !self.categories.is_empty() && !categories),
            ];
            unread.iter().find(|(_, unread)| *unread).map(|(what, _)| *what)
        };
        let unread = match architecture {
            Architecture::Mlp(_) | Architecture::LstmSequence(_) => reads(false, false, false),
            Architecture::Tabular(_) => reads(false, false, true),
            Architecture::TransformerClassifier(_) if self.text.is_none() => {
                return Err(unfit("model.type transformer_classifier: the data have no text column"));
            }
            Architecture::TransformerClassifier(_) => reads(true, false, false),
            Architecture::ImageClassifier(_) if self.image.is_none() => {
                return Err(unfit("model.type image_classifier: the data have no image column"));
            }
            Architecture::ImageClassifier(_) => reads(false, true, false),
            Architecture::AdScore(_) => None,
        };
        match unread {
            Some(what) => Err(unfit(&format!("model.type: the data have {what}, which this model does not read"))),
            None => Ok(()),
        }
    }

    fn text_encoder(
        &self,
        manifest: &Manifest,
        sizes: &TextSizes,
        dropout: f64,
        by: Pooling,
    ) -> Result<TextEncoderConfig, WireError> {
        let (vocab_size, max_length) = self.text.unwrap_or_default();
        let known = match &manifest.pretrained {
            Some(pretrained) => {
                let config = PretrainedConfig::from_json(&pretrained.config);
                let config = config.map_err(|e| config_error("data.text.pretrained", &e))?;
                let known = TextEncoderConfig::from_pretrained(&config);
                sizes.agree(&known, &pretrained.path)?;
                // The pooler is of the class token.
                let pooler = if by == Pooling::Cls { known.pooler } else { None };
                TextEncoderConfig { pooler, ..known }
            }
            None => TextEncoderConfig { vocab_size, ..sizes.own() },
        };
        let max_length = max_length.min(if manifest.pretrained.is_some() { known.max_length } else { max_length });
        Ok(TextEncoderConfig { max_length, dropout: dropout as f32, pooling: pooling(by), ..known })
    }
}

impl TextSizes {
    fn own(&self) -> TextEncoderConfig {
        let hidden = self.hidden_size.unwrap_or(128);
        TextEncoderConfig {
            hidden_size: hidden as usize,
            layers: self.num_layers.unwrap_or(2) as usize,
            heads: self.num_heads.unwrap_or(4) as usize,
            intermediate_size: self.intermediate_size.unwrap_or(4 * hidden) as usize,
            ..TextEncoderConfig::default()
        }
    }

    /// What is said beside a pretrained encoder must be so.
    fn agree(&self, known: &TextEncoderConfig, path: &str) -> Result<(), WireError> {
        let said = [
            ("hidden_size", self.hidden_size, known.hidden_size),
            ("num_layers", self.num_layers, known.layers),
            ("num_heads", self.num_heads, known.heads),
            ("intermediate_size", self.intermediate_size, known.intermediate_size),
        ];
        for (name, said, known) in said {
            if said.is_some_and(|said| said as usize != known) {
                let (at, said) = (self.at, said.unwrap_or_default());
                return Err(unfit(&format!("{at}.{name}: {said}, but the pretrained encoder {path} has {known}")));
            }
        }
        Ok(())
    }
}

/// `model.num_classes` is what the data have.
fn check_classes(plan: &JobPlan, manifest: &Manifest) -> Result<(), WireError> {
    let (Some(expected), true) = (plan.model.num_classes, plan.task != Task::Regression) else { return Ok(()) };
    let found = manifest.target.classes.len();
    if expected as usize == found {
        return Ok(());
    }
    Err(unfit(&format!("model.num_classes: {expected}, but column {:?} has {found} classes", manifest.target.column)))
}

fn unfit(message: &str) -> WireError {
    WireError::new(Code::ConfigError, message)
}

fn sizes(layers: &[u32]) -> Vec<usize> {
    layers.iter().map(|&n| n as usize).collect()
}

fn activation(activation: Activation) -> ops::Activation {
    match activation {
        Activation::Relu => ops::Activation::Relu,
        Activation::Gelu => ops::Activation::Gelu,
        Activation::GeluTanh => ops::Activation::GeluTanh,
        Activation::Sigmoid => ops::Activation::Sigmoid,
        Activation::Tanh => ops::Activation::Tanh,
        Activation::Silu => ops::Activation::Silu,
    }
}

fn pooling(pooling: Pooling) -> ops::Pooling {
    match pooling {
        Pooling::Cls => ops::Pooling::Cls,
        Pooling::Last => ops::Pooling::Last,
        Pooling::Mean => ops::Pooling::Mean,
        Pooling::Max => ops::Pooling::Max,
    }
}

fn image_norm(normalization: Normalization) -> Result<ImageNorm, WireError> {
    match normalization {
        Normalization::None => Ok(ImageNorm::None),
        Normalization::BatchNorm => Ok(ImageNorm::BatchNorm),
        Normalization::LayerNorm => Err(unfit("normalization: layer_norm in an image encoder")),
    }
}
