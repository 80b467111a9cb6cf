//! The target column as what is learned: numbers, or class indices with the classes' names; or why it is not
//! something that can be learned.

use std::collections::BTreeMap;

use messages::plan::{TargetPlan, TargetTransform, Task};

use super::{MAX_CLASSES, Violation, Violations, shown};
use crate::load::{Loaded, Values};
use crate::nearest::did_you_mean;

/// Most classes that a message lists.
const LISTED: usize = 10;

/// The target, a row each.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetValues {
    /// Class indices, or untransformed numbers.
    pub values: Vec<f32>,
    /// Empty for regression; binary: the negative, then the positive one.
    pub classes: Vec<String>,
}

/// Reads the target of every row.
pub fn read(plan: &TargetPlan, task: Task, loaded: &Loaded, violations: &mut Violations) -> Option<TargetValues> {
    let (_, values) = loaded.column(&plan.column)?;
    let problem = match (task, values, plan.threshold) {
        (Task::Regression, Values::Number(numbers), _) => return Some(regression(plan, loaded, numbers, violations)),
        (Task::BinaryClassification, Values::Number(numbers), Some(threshold)) => {
            return Some(above(threshold, numbers));
        }
        (Task::BinaryClassification | Task::Multiclass, Values::Category { keys, texts }, _) => {
            match classes(plan, task, loaded, keys, texts) {
                Ok(target) => return Some(target),
                Err(violation) => violation,
            }
        }
        (Task::Multiclass, _, Some(_)) => {
            Violation::new("data.target.threshold makes two classes, but the task is multiclass")
        }
        _ => Violation::new(format!("cannot be the target of a {} task", task.as_str())),
    };
    violations.add(problem.column(&plan.column));
    None
}

fn regression(plan: &TargetPlan, loaded: &Loaded, numbers: &[f64], violations: &mut Violations) -> TargetValues {
    if plan.transform == TargetTransform::Log1p {
        for (row, value) in numbers.iter().enumerate().filter(|(_, value)| **value <= -1.0) {
            let (file, at) = loaded.place(row);
            let message =
                format!("{value} has no logarithm of 1 + value, expected values above -1: the transform is log1p");
            violations.add(Violation::new(message).file(file).at(at).column(&plan.column));
        }
    }
    TargetValues { values: numbers.iter().map(|&value| value as f32).collect(), classes: Vec::new() }
}

fn above(threshold: f64, numbers: &[f64]) -> TargetValues {
    TargetValues {
        values: numbers.iter().map(|&value| f32::from(u8::from(value > threshold))).collect(),
        classes: vec![format!("<= {threshold}"), format!("> {threshold}")],
    }
}

/// Classes by their text, in text order, or in the order of their numbers where all are numbers.
fn classes(
    plan: &TargetPlan,
    task: Task,
    loaded: &Loaded,
    keys: &[u32],
    texts: &[String],
) -> Result<TargetValues, Violation> {
    let names: Vec<&str> = texts.iter().map(|text| class_name(text, &plan.strip_suffix)).collect();
    // Rows of each class: in the files that are split, and in the official test part.
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (row, &key) in keys.iter().enumerate() {
        let count = counts.entry(names[key as usize]).or_default();
        if row < loaded.first_test_row { count.0 += 1 } else { count.1 += 1 }
    }
    check_official_test(&counts)?;
    let mut classes: Vec<&str> = counts.keys().copied().collect();
    let as_numbers: Option<Vec<f64>> = classes.iter().map(|c| c.parse().ok().filter(|n: &f64| n.is_finite())).collect();
    if as_numbers.is_some() {
        let number = |class: &str| class.parse::<f64>().unwrap_or(f64::NAN);
        classes.sort_by(|a, b| number(a).total_cmp(&number(b)).then(a.cmp(b)));
    }
    check_count(task, loaded.rows, &counts)?;
    if task == Task::BinaryClassification {
        let positive = positive_class(plan, &classes)?;
        classes.sort_by_key(|&class| class == positive);
    }
    let index: BTreeMap<&str, usize> = classes.iter().enumerate().map(|(i, class)| (*class, i)).collect();
    let by_key: Vec<f32> = names.iter().map(|name| index.get(name).map_or(f32::NAN, |&i| i as f32)).collect();
    Ok(TargetValues {
        values: keys.iter().map(|&key| by_key[key as usize]).collect(),
        classes: classes.into_iter().map(str::to_owned).collect(),
    })
}

fn class_name<'a>(text: &'a str, suffix: &str) -> &'a str {
    let text = text.trim();
    if suffix.is_empty() { text } else { text.strip_suffix(suffix).unwrap_or(text).trim_end() }
}

/// A class that only the official test part has cannot have been learned.
fn check_official_test(counts: &BTreeMap<&str, (u64, u64)>) -> Result<(), Violation> {
    let Some((class, (_, rows))) = counts.iter().find(|(_, (train, test))| *train == 0 && *test > 0) else {
        return Ok(());
    };
    let known = || counts.iter().filter(|(_, (train, _))| *train > 0).map(|(class, _)| *class);
    let message =
        format!("class {} stands in {rows} rows of the test files only{}", shown(class), did_you_mean(class, known()));
    let suffix = known().filter_map(|other| class.strip_prefix(other)).find(|suffix| !suffix.is_empty());
    let violation = Violation::new(message);
    Err(match suffix {
        Some(suffix) => violation.hint(format!("set data.target.strip_suffix: {suffix:?}")),
        None => violation,
    })
}

fn check_count(task: Task, rows: usize, counts: &BTreeMap<&str, (u64, u64)>) -> Result<(), Violation> {
    let found = counts.len();
    if found < 2 {
        let class = counts.keys().next().copied().unwrap_or_default();
        return Err(Violation::new(format!(
            "has one class, {}, in all {rows} rows, expected at least two",
            shown(class)
        )));
    }
    let listed: Vec<_> =
        counts.iter().take(LISTED).map(|(class, (a, b))| format!("{} ({})", shown(class), a + b)).collect();
    let listed = if found > LISTED { format!("{}, …", listed.join(", ")) } else { listed.join(", ") };
    if found > rows / 2 {
        let message = format!("has {found} classes in {rows} rows, expected at least two rows a class: {listed}");
        return Err(Violation::new(message).hint("is the target a number to predict? Then set task: regression"));
    }
    if found > MAX_CLASSES {
        return Err(Violation::new(format!("has {found} classes, expected at most {MAX_CLASSES}")));
    }
    if task == Task::BinaryClassification && found > 2 {
        let hint = "set task: multiclass, or data.target.threshold for a number, or data.target.strip_suffix for spelling variants";
        return Err(Violation::new(format!("has {found} classes, expected two: {listed}")).hint(hint));
    }
    Ok(())
}

fn positive_class<'a>(plan: &TargetPlan, classes: &[&'a str]) -> Result<&'a str, Violation> {
    let last = classes.last().copied().unwrap_or_default();
    if plan.positive.is_empty() {
        let usual = |class: &&str| matches!(class.to_ascii_lowercase().as_str(), "1" | "1.0" | "true" | "yes");
        return Ok(classes.iter().find(|class| usual(class)).copied().unwrap_or(last));
    }
    let wanted = class_name(&plan.positive, &plan.strip_suffix);
    classes.iter().find(|class| **class == wanted).copied().ok_or_else(|| {
        let listed: Vec<_> = classes.iter().map(|class| shown(class)).collect();
        let nearest = did_you_mean(wanted, classes.iter().copied());
        Violation::new(format!(
            "no class {}, named by data.target.positive, expected one of {}{nearest}",
            shown(wanted),
            listed.join(", ")
        ))
    })
}

/// What the split leaves must be learnable: train has both classes, or more than one value.
pub fn check_parts(
    plan: &TargetPlan,
    target: &TargetValues,
    train: &[u32],
    violations: &mut Violations,
    warnings: &mut Vec<String>,
) {
    let first = train.first().map(|&row| target.values[row as usize]);
    let constant = train.iter().all(|&row| Some(target.values[row as usize]) == first);
    if target.classes.is_empty() {
        if constant {
            let value = first.unwrap_or_default();
            let message =
                format!("is {value} in all {} rows of the train part, expected at least two values", train.len());
            violations.add(Violation::new(message).column(&plan.column));
        }
        return;
    }
    if constant {
        let class = first.map_or("", |index| target.classes[index as usize].as_str());
        let message = format!("has one class, {}, in all {} rows of the train part", shown(class), train.len());
        violations.add(Violation::new(message).column(&plan.column).hint("set data.split.strategy: stratified"));
        return;
    }
    let mut counts = vec![0u64; target.classes.len()];
    for &row in train {
        counts[target.values[row as usize] as usize] += 1;
    }
    let absent: Vec<_> =
        target.classes.iter().zip(&counts).filter(|(_, count)| **count == 0).map(|(class, _)| shown(class)).collect();
    if !absent.is_empty() {
        warnings.push(format!(
            "class {} of {:?} has no row in the train part and cannot be learned: set data.split.strategy: stratified",
            absent.join(", "),
            plan.column
        ));
    }
}
