//! Rows that belong together become one sample: by the values of one column, in the order of another.

use std::collections::BTreeMap;
use std::ops::Range;

use messages::WireError;
use messages::plan::SequencePlan;

use crate::check::{Violation, Violations};
use crate::load::{Loaded, MISSING_KEY, Values, id_of};
use crate::split::ranks;

/// Most steps of one sample.
const MAX_STEPS: usize = 1 << 20;

/// Which rows make which sample.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    /// Rows, sample by sample, steps in order.
    rows: Vec<u32>,
    offsets: Vec<u32>,
    /// Of each sample: from its group's text.
    pub ids: Vec<u64>,
}

impl Samples {
    /// Groups the rows; samples stand in the order of their first rows. None where the plan groups nothing.
    pub fn of(plan: &SequencePlan, loaded: &Loaded) -> Result<Option<Self>, WireError> {
        let Some(group) = &plan.group_column else { return Ok(None) };
        let Some((_, Values::Category { keys, texts })) = loaded.column(group) else {
            return Err(Violation::new("has no values").column(group).into());
        };
        let order = plan.order_column.as_deref().and_then(|name| loaded.column(name)).map(|(_, values)| ranks(values));
        // Keys stand in the order of their first row.
        let mut steps: Vec<Vec<u32>> = vec![Vec::new(); texts.len()];
        for (row, &key) in keys.iter().enumerate().filter(|(_, key)| **key != MISSING_KEY) {
            steps[key as usize].push(row as u32);
        }
        let mut violations = Violations::default();
        let (mut rows, mut offsets, mut ids) = (Vec::with_capacity(keys.len()), vec![0], Vec::new());
        for (text, mut steps) in texts.iter().zip(steps) {
            check(&steps, text, loaded, &mut violations);
            if let Some(order) = &order {
                steps.sort_by_key(|&row| (order[row as usize], row));
                check_order(&steps, order, text, plan, loaded, &mut violations);
            }
            rows.extend(steps);
            offsets.push(rows.len() as u32);
            ids.push(id_of(text));
        }
        violations.check()?;
        Ok(Some(Self { rows, offsets, ids }))
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Rows of a sample, in the order of its steps.
    pub fn rows(&self, sample: u32) -> &[u32] {
        let range: Range<usize> = self.offsets[sample as usize] as usize..self.offsets[sample as usize + 1] as usize;
        &self.rows[range]
    }

    /// Rows of these samples.
    pub fn rows_of(&self, samples: &[u32]) -> Vec<u32> {
        samples.iter().flat_map(|&sample| self.rows(sample)).copied().collect()
    }

    pub fn max_steps(&self) -> u32 {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// The table with one row a sample: its last step. Features are left out, but for what the split goes by.
    pub fn last_rows(&self, loaded: &Loaded, split_columns: &[&str]) -> Loaded {
        let last: Vec<u32> = (0..self.len() as u32).filter_map(|sample| self.rows(sample).last().copied()).collect();
        let columns = loaded.layout.uses.iter().zip(&loaded.columns).map(|(usage, values)| {
            let wanted = !usage.is_feature() || split_columns.contains(&usage.name.as_str());
            if wanted { pick(values, &last) } else { Values::Empty }
        });
        Loaded {
            layout: loaded.layout.clone(),
            columns: columns.collect(),
            sources: loaded.sources.clone(),
            rows: last.len(),
            first_test_row: last.iter().filter(|row| (**row as usize) < loaded.first_test_row).count(),
            warnings: Vec::new(),
            pictures: BTreeMap::default(),
            inference: Vec::new(),
            row_of: Some(
                last.iter().map(|&row| loaded.row_of.as_ref().map_or(row, |rows| rows[row as usize])).collect(),
            ),
        }
    }
}

/// A sample lies in one part.
fn check(steps: &[u32], text: &str, loaded: &Loaded, violations: &mut Violations) {
    let of_test = |row: &u32| *row as usize >= loaded.first_test_row;
    if steps.len() > MAX_STEPS {
        let message = format!("sample {text:?} has {} steps, expected at most {MAX_STEPS}", steps.len());
        violations.add(Violation::new(message));
    }
    if let (Some(first), Some(last)) = (steps.first(), steps.last())
        && !of_test(first)
        && of_test(last)
    {
        let (file, at) = loaded.place(*last as usize);
        let message = format!("sample {text:?} has rows in the test files and in the others, expected one of both");
        violations.add(Violation::new(message).file(file).at(at));
    }
}

/// Two steps of a sample at the same place have no order.
fn check_order(
    steps: &[u32],
    order: &[u32],
    text: &str,
    plan: &SequencePlan,
    loaded: &Loaded,
    violations: &mut Violations,
) {
    let twice = steps.windows(2).find(|pair| order[pair[0] as usize] == order[pair[1] as usize]);
    if let Some(pair) = twice {
        let (file, at) = loaded.place(pair[1] as usize);
        let message = format!("sample {text:?} has the same value in two of its rows, expected an order of steps");
        let column = plan.order_column.as_deref().unwrap_or_default();
        let hint = "remove doubled rows, or leave data.sequence.order_column out: steps then follow the files";
        violations.add(Violation::new(message).file(file).at(at).column(column).hint(hint));
    }
}

fn pick(values: &Values, rows: &[u32]) -> Values {
    match values {
        Values::Number(numbers) => Values::Number(rows.iter().map(|&row| numbers[row as usize]).collect()),
        Values::Category { keys, texts } => {
            Values::Category { keys: rows.iter().map(|&row| keys[row as usize]).collect(), texts: texts.clone() }
        }
        Values::Id(ids) => Values::Id(rows.iter().map(|&row| ids[row as usize]).collect()),
        Values::Text(_) | Values::Empty => Values::Empty,
    }
}
