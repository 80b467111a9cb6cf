//! An IDX file of images beside a table that names them by number.
#![no_main]

use libfuzzer_sys::fuzz_target;
use messages::plan::{ColumnType, Task};
use within_fuzz::hold;
use within_fuzz::plan::{Root, column, data_plan};

fuzz_target!(|bytes: &[u8]| {
    let table = String::from("image,y\n") + &(0..8).map(|i| format!("{i},{}\n", i % 3)).collect::<String>();
    let root = Root::new(&[("a.csv", table.as_bytes()), ("a.idx", bytes)]);
    let mut plan = data_plan(&["a.csv"], "y");
    let mut image = column(ColumnType::Image);
    image.images = Some("a.idx".into());
    plan.columns.insert("image".into(), image);
    hold(root.prepare(&plan, Task::Regression));
});
