//! Data larger than the memory that a preparation may use: the same dataset version as with all memory.

use messages::feed::Split;
use messages::plan::{DataPlan, SplitStrategy, Task};
use scratch::Scope;
use tokio_util::sync::CancellationToken;
use within_data_loader::load::load;
use within_data_loader::prepare::prepare;
use within_data_loader::{source, validate};

use crate::plan::{Root, data_plan};

const ROWS: usize = 400_000;
const MIB: usize = 1 << 20;

/// Numbers with gaps, a category, a text and an id: about 20 MB.
fn table() -> String {
    let mut text = String::from("id,a,b,c,place,words,y\n");
    for row in 0..ROWS {
        let draw = (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let gap = if row % 31 == 0 { String::new() } else { format!("{}.5", draw % 1000) };
        let place = ["feed", "story", "search"][row % 3];
        text += &format!("i{row},{},{gap},{},{place},w{} w{},{}\n", draw % 97, draw % 5, draw % 50, row % 7, draw % 11);
    }
    text
}

fn plan(strategy: SplitStrategy) -> DataPlan {
    let mut plan = data_plan(&["a.csv"], "y");
    plan.id_column = Some("id".into());
    plan.split.strategy = strategy;
    plan.columns.insert("words".into(), crate::plan::column(messages::plan::ColumnType::Text));
    plan
}

/// The manifest, and the BLAKE3 of all shards.
fn prepared(root: &Root, strategy: SplitStrategy) -> (String, String) {
    let token = CancellationToken::new();
    let prepared = prepare(&plan(strategy), Task::Regression, &root.roots(), &token).expect("prepares");
    let mut hasher = blake3::Hasher::new();
    for split in Split::ALL {
        for range in prepared.shards(split) {
            let table = prepared.table(split, range).expect("a table");
            hasher.update(&frame::write_shard_as(&table, prepared.stored_types()).expect("writes"));
        }
    }
    let manifest = prepared.manifest(frame::manifest::Lineage::default(), Default::default(), None, None);
    (String::from_utf8(manifest.to_json()).expect("text"), hasher.finalize().to_hex().to_string())
}

#[test]
fn columns_in_files_make_the_same_dataset_version() {
    let root = Root::new(&[("a.csv", table().as_bytes())]);
    for strategy in [SplitStrategy::Random, SplitStrategy::Stratified] {
        let whole = prepared(&root, strategy);
        let scope = Scope::new(root.0.path().to_path_buf(), 2 * MIB);
        let _inside = scope.enter();
        let in_files = prepared(&root, strategy);
        assert!(scope.file_peak_bytes() > 16 * MIB as u64, "{}", scope.file_peak_bytes());
        assert!(scope.failure().is_none());
        assert!(whole == in_files, "another manifest or other shards");
    }
}

#[test]
fn a_scope_without_room_says_so() {
    let root = Root::new(&[("a.csv", table().as_bytes())]);
    let (plan, token) = (plan(SplitStrategy::Random), CancellationToken::new());
    let files = source::files(&plan, &root.roots()).expect("is there");
    let nowhere = root.0.path().join("nowhere");
    let _inside = Scope::new(nowhere.clone(), MIB).enter();
    let error = load(&plan, Task::Regression, &files, &root.roots(), 16 * MIB, &token).expect_err("no room");
    assert_eq!(error.code, messages::error::Code::OutOfMemory);
    let says = format!("and {} cannot take the rest: No such file or directory", nowhere.display());
    assert!(error.message.starts_with("a.csv: ") && error.message.contains(&says), "{error}");
}

#[test]
fn files_that_cannot_be_had_are_told_of_and_no_error_while_memory_is_enough() {
    let root = Root::new(&[("a.csv", table().as_bytes())]);
    let whole = prepared(&root, SplitStrategy::Random);
    let scope = Scope::new(root.0.path().join("nowhere"), MIB);
    let _inside = scope.enter();
    assert!(prepared(&root, SplitStrategy::Random) == whole, "another manifest or other shards");
    let told = within_data_loader::memory::without_files(&scope).expect("told");
    assert!(told.contains("nowhere") && told.ends_with("No such file or directory (os error 2)"), "{told}");
}

#[test]
fn what_a_validation_remembers_lies_in_files_too() {
    let root = Root::new(&[("a.csv", table().as_bytes())]);
    let schema = validate::parse_schema("schema", r#"{"unique": ["id"]}"#).expect("a schema");
    let check = || {
        let plan = plan(SplitStrategy::Random);
        let checked = validate::check(&plan, Some(&schema), &root.roots(), 0, &CancellationToken::new());
        checked.expect("reads").report.to_json()
    };
    let whole = check();
    let scope = Scope::new(root.0.path().to_path_buf(), MIB);
    let _inside = scope.enter();
    assert_eq!(check(), whole);
    // A key of 8 bytes for each row, and what finds it.
    assert!(scope.file_peak_bytes() > 8 * ROWS as u64, "{}", scope.file_peak_bytes());
}

#[test]
fn texts_of_categories_must_fit() {
    let content: String = (0..60_000).map(|row| format!("category number {row},{}\n", row % 3)).collect();
    let root = Root::new(&[("a.csv", format!("name,y\n{content}").as_bytes())]);
    let (plan, token) = (data_plan(&["a.csv"], "y"), CancellationToken::new());
    let files = source::files(&plan, &root.roots()).expect("is there");
    let _inside = Scope::new(root.0.path().to_path_buf(), MIB).enter();
    let error = load(&plan, Task::Regression, &files, &root.roots(), 2 * MIB, &token).expect_err("too many texts");
    assert!(error.message.contains("such as different texts of categories, takes more than"), "{error}");
}
