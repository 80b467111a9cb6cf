//! The feed of batches from a data_loader to a rank. The rank opens it at a position and grants
//! credits; the data_loader pushes one frame a credit on `feed.<job>.<rank>`, as an Arrow IPC stream
//! with a [`FrameHeader`] in the message header `Within-Frame`. Any data_loader can serve any
//! position, because the order depends on (seed, epoch) only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactRef;
use crate::envelope::Payload;
use crate::id::{Fence, JobId, WorkerId};
use crate::job::Role;
use crate::plan::{AugmentationPlan, default_shuffle_window_mb};
use crate::rpc::{Request, request};

/// Which rows of a dataset version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    Val,
    Test,
}

impl Split {
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// Opens a feed. Answered by any data_loader; the answer says which one serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OpenFeed {
    /// Unique to this opening; frames and credits carry it.
    pub feed: String,
    pub job: JobId,
    pub fence: Fence,
    /// Whose share of each batch: that of this seat among `world_size`.
    pub rank: u32,
    pub world_size: u32,
    /// The number of the asking rank in its attempt, which its subject has; none: `rank`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_rank: Option<u32>,
    /// The subject that frames go to: `feed.<job>.<subject_rank>`.
    pub deliver_subject: String,
    pub dataset: ArtifactRef,
    pub split: Split,
    /// Rows of the whole group's batch.
    pub global_batch_size: u32,
    /// Logical shards of a global batch; a rank gets whole shards.
    pub logical_shards: u32,
    /// Order of rows within an epoch; none: stored order.
    pub shuffle_seed: Option<u64>,
    /// MB (10^6 bytes) of encoded rows that are shuffled together and kept in memory.
    #[serde(default = "default_shuffle_window_mb")]
    pub shuffle_window_mb: u32,
    /// What happens to the rows of the training part; none: they come as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<AugmentationPlan>,
    /// Whether a last batch that is not full is left out.
    pub drop_last: bool,
    /// Position: the first batch to send.
    pub epoch: u32,
    pub batch: u64,
    /// Up to this epoch, exclusive.
    pub end_epoch: u32,
    /// First credits.
    pub credits: u32,
    /// Largest frame in bytes; a larger batch comes in parts.
    pub max_frame_bytes: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeedOpened {
    pub worker: WorkerId,
    /// Where credits and the closing go.
    pub credit_subject: String,
    pub rows: u64,
    pub batches_per_epoch: u64,
    pub feature_names: Vec<String>,
}
request!(OpenFeed, DataLoader, "open_feed", "within.feed.open" -> FeedOpened);

/// Last token of the subject on which one data_loader takes [`FeedControl`]:
/// `svc.data_loader.<worker>.feed_control`.
pub const VERB_FEED_CONTROL: &str = "feed_control";

/// More credits, or the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "feed", rename_all = "snake_case")]
pub enum FeedControl {
    Credit { id: String, frames: u32 },
    Close { id: String },
}

impl Payload for FeedControl {
    fn type_name(&self) -> String {
        "within.feed.control".into()
    }

    fn accepts(type_name: &str) -> bool {
        type_name == "within.feed.control"
    }
}

/// Header of one frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FrameHeader {
    pub feed: String,
    /// From 0, without gaps.
    pub sequence: u64,
    pub epoch: u32,
    pub batch: u64,
    /// Rows of the whole group's batch, for the mean over it.
    pub global_rows: u32,
    /// Index of the batch's first row that this rank gets, within the global batch.
    pub first_row: u32,
    /// This frame is part `part` of `parts` of the batch.
    pub part: u32,
    pub parts: u32,
    /// The last frame of its epoch.
    pub end_of_epoch: bool,
    /// Nothing follows: an error, or the end of the feed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::WireError>,
}

/// Column of sample ids in a frame (UInt64).
pub const COLUMN_SAMPLE_ID: &str = "sample_id";
/// Column of encoded features in a frame (FixedSizeList of Float32).
pub const COLUMN_FEATURES: &str = "features";
/// Column of targets in a frame (Float32; classes as their index).
pub const COLUMN_TARGET: &str = "target";
/// Column of sample weights in a frame (Float32), if any.
pub const COLUMN_WEIGHT: &str = "weight";
/// Column of token ids in a frame (List of UInt32), if any.
pub const COLUMN_TOKENS: &str = "tokens";
/// Column of pixels in a frame (FixedSizeBinary; the field's metadata have `shape`: `channels,height,width`), if any.
pub const COLUMN_IMAGE: &str = "image";
/// Column of category indices in a frame (FixedSizeList of UInt32), if any.
pub const COLUMN_CATEGORIES: &str = "categories";
/// Column of a sequence's steps in a frame (List of FixedSizeList of Float32), if any; `features` is then empty.
pub const COLUMN_STEPS: &str = "steps";
