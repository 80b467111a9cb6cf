//! Rows unlike the others: an isolation forest, grown on train.

use std::collections::BTreeSet;

use kernels::forest::{IsolationConfig, IsolationForest};
use kernels::pool::Pool;

use super::Inputs;
use super::report::{Anomalies, Anomaly, PartCounts};
use super::rows::{Rows, for_isolation};

/// Rows of one tree, as in the paper.
const TREE_ROWS: usize = 256;

/// The anomalies of all parts, and their rows; or why there are none.
pub fn find(inputs: &Inputs<'_>, rows: &Rows<'_>, pool: &Pool) -> Result<(Anomalies, BTreeSet<u32>), String> {
    let plan = &inputs.data.quality;
    let columns = for_isolation(inputs, rows);
    if columns.is_empty() {
        return Err("no feature is a number, a category or a text".to_owned());
    }
    let config = IsolationConfig {
        trees: plan.trees as usize,
        tree_rows: TREE_ROWS,
        contamination: plan.contamination,
        seed: plan.seed,
    };
    let forest = IsolationForest::fit(&columns, rows.train(), &config, pool).map_err(|e| e.to_string())?;
    let all = rows.all();
    let scores = forest.scores(&columns, &all, pool);
    let mut listed: Vec<(f64, u32)> =
        scores.into_iter().zip(all).filter(|(score, _)| *score > forest.offset()).collect();
    let mut found = PartCounts::default();
    for (_, row) in &listed {
        found.count(rows.part(*row));
    }
    let anomalous = listed.iter().map(|(_, row)| *row).collect();
    listed.sort_by(|a, b| b.0.total_cmp(&a.0).then(rows.id(a.1).cmp(&rows.id(b.1))));
    listed.truncate(plan.max_listed as usize);
    let listed =
        listed.into_iter().map(|(score, row)| Anomaly { sample_id: rows.id(row), part: rows.part(row), score });
    Ok((Anomalies { offset: forest.offset(), found, listed: listed.collect() }, anomalous))
}
