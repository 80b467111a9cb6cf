//! A CSV file of a job, with a column of dates: read, checked, split and fitted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use messages::plan::{ColumnType, Task};
use within_fuzz::hold;
use within_fuzz::plan::{Root, column, data_plan};

fuzz_target!(|bytes: &[u8]| {
    let root = Root::new(&[("a.csv", bytes)]);
    let mut plan = data_plan(&["a.csv"], "y");
    let mut date = column(ColumnType::Datetime);
    date.source.time_zone = Some("America/New_York".into());
    plan.columns.insert("t".into(), date);
    hold(root.prepare(&plan, Task::Regression));
});
