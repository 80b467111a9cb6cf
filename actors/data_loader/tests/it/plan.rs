//! Plans and files for the other tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use frame::manifest::{Lineage, Shard};
use frame::{Encoded, Encoder, Manifest, write_shard};
use messages::WireError;
use messages::feed::Split;
use messages::plan::{
    CacheMode, CategoryEncoding, ColumnFittingPlan, ColumnPlan, ColumnSourcePlan, ColumnType, CsvPlan, DataFormat,
    DataPlan, FittingPlan, FoldPlan, Impute, PreprocessingPlan, QualityPlan, Scale, SequencePlan, SplitPlan,
    SplitStrategy, StoragePlan, TargetPlan, TargetTransform, Task, TextEncoding, TextPlan, ValidationPlan,
};
use tokio_util::sync::CancellationToken;
use within_data_loader::prepare::{Prepared, prepare};

/// Defaults as a job without options has them.
pub fn data_plan(path: &[&str], target: &str) -> DataPlan {
    DataPlan {
        dataset_version: "test".into(),
        path: path.iter().map(|&p| p.to_owned()).collect(),
        test_path: vec![],
        format: DataFormat::Auto,
        csv: CsvPlan {
            delimiter: ",".into(),
            quote: "\"".into(),
            header: true,
            comment: String::new(),
            trim: false,
            decimal: ".".into(),
            null_values: vec!["NA".into()],
            encoding: TextEncoding::Utf8,
        },
        target: TargetPlan {
            column: target.into(),
            positive: String::new(),
            strip_suffix: String::new(),
            transform: TargetTransform::None,
            threshold: None,
        },
        id_column: None,
        weight_column: None,
        include: vec![],
        exclude: vec![],
        columns: BTreeMap::new(),
        preprocessing: PreprocessingPlan {
            impute: Impute::Mean,
            missing_indicator: true,
            scale: Scale::Standard,
            clip: 0.0,
            min_frequency: 0,
            max_categories: 100,
            categories: CategoryEncoding::OneHot,
            fitting: FittingPlan::default(),
        },
        derive: vec![],
        storage: StoragePlan::default(),
        text: TextPlan::default(),
        sequence: SequencePlan::default(),
        validation: ValidationPlan::default(),
        joins: vec![],
        split: SplitPlan {
            strategy: SplitStrategy::Random,
            test_size: 0.2,
            val_size: 0.2,
            random_state: 42,
            stratify_column: None,
            group_column: None,
            time_column: None,
            folding: FoldPlan::default(),
        },
        quality: QualityPlan::default(),
        shuffle: true,
        shuffle_seed: 42,
        shuffle_window_mb: messages::plan::DEFAULT_SHUFFLE_WINDOW_MB,
        drop_last: false,
        cache: CacheMode::Use,
        augmentation: None,
    }
}

pub fn column(r#type: ColumnType) -> ColumnPlan {
    ColumnPlan {
        r#type,
        null_values: vec![],
        impute: None,
        scale: None,
        images: None,
        source: ColumnSourcePlan::default(),
        fitting: ColumnFittingPlan::default(),
    }
}

/// A data root with files, removed in the end.
pub struct Root(pub tempfile::TempDir);

impl Root {
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, content).expect("writes");
        }
        Self(folder)
    }

    pub fn roots(&self) -> Vec<PathBuf> {
        vec![self.0.path().to_path_buf()]
    }

    pub fn prepare(&self, plan: &DataPlan, task: Task) -> Result<Prepared, WireError> {
        prepare(plan, task, &self.roots(), &CancellationToken::new())
    }
}

/// The manifest, with shards that are nowhere.
pub fn manifest(prepared: &Prepared) -> Manifest {
    let shards = Split::ALL.map(|split| {
        let ranges = prepared.shards(split).into_iter();
        ranges
            .map(|range| {
                let rows = range.len() as u64;
                let bytes = write_shard(&prepared.table(split, range).expect("a table")).expect("writes");
                let blake3 = bytes.len().to_string();
                Shard {
                    artifact: messages::ArtifactRef { uri: "memory:".into(), blake3, size_bytes: bytes.len() as u64 },
                    rows,
                }
            })
            .collect()
    });
    let manifest = prepared.manifest(Lineage::default(), shards, None, None);
    // What readers get went through JSON.
    Manifest::from_json(&manifest.to_json()).expect("reads back")
}

pub fn encoded(prepared: &Prepared, split: Split) -> Encoded {
    let table = prepared.table(split, 0..prepared.rows(split)).expect("a table");
    Encoder::new(&manifest(prepared)).expect("a tokenizer").encode(table.batch()).expect("encodes")
}
