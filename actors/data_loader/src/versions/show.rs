//! A diff for a person: as text, and as a page that carries everything in itself.

use report::{Bars, Page, Section, Table};

use super::diff::{Change, Diff, RowChanges, Version};
use super::shift::ColumnShift;

/// Digits of an id that a person is shown.
const DIGITS: usize = 12;
/// Columns whose bins a page shows as pictures.
const PICTURES: usize = 24;
const PARTS: [&str; 3] = ["train", "val", "test"];

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn version_line(version: &Version) -> String {
    let Version { id, dataset_version, code_version, rows_train, rows_val, rows_test, .. } = version;
    let label = if dataset_version.is_empty() { String::new() } else { format!("  {dataset_version}") };
    format!("{}{label}  {rows_train}/{rows_val}/{rows_test} rows  prepared by {code_version}", &id[..DIGITS])
}

fn rows_line(rows: &RowChanges) -> String {
    let RowChanges { compared_by, added, removed, changed, unchanged, .. } = rows;
    format!(
        "{added} added, {removed} removed, {changed} changed, {unchanged} unchanged, {} in another part (by {compared_by})",
        rows.moved()
    )
}

/// What the value of a setting is called.
fn setting(value: Option<&serde_json::Value>) -> String {
    let text = value.map_or_else(|| "not set".to_owned(), ToString::to_string);
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Whether anything differs at all.
fn differs(diff: &Diff) -> bool {
    let rows = &diff.rows;
    !(diff.sources.is_empty()
        && diff.schema.is_empty()
        && diff.preprocessing.is_empty()
        && rows.added + rows.removed + rows.changed + rows.moved() == 0)
}

/// The diff as lines.
pub fn text(diff: &Diff) -> String {
    let mut lines = vec![format!("a  {}", version_line(&diff.a)), format!("b  {}", version_line(&diff.b))];
    if diff.same {
        lines.push("the same version: same files, settings and code".into());
        return lines.join("\n");
    }
    if !differs(diff) {
        lines.push("other versions of the same rows, columns and preprocessing".into());
    }
    let mut section = |heading: &str, rows: Vec<String>| {
        if !rows.is_empty() {
            lines.push(heading.to_owned());
            lines.extend(rows.into_iter().map(|row| format!("  {row}")));
        }
    };
    let rows = |rows: Option<u64>| rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
    section(
        "files",
        diff.sources
            .iter()
            .map(|s| format!("{:<8} {}  {} -> {} rows", s.change.as_str(), s.path, rows(s.rows_a), rows(s.rows_b)))
            .collect(),
    );
    section(
        "columns",
        diff.schema.iter().map(|c| format!("{:<8} {}  {}", c.change.as_str(), c.column, c.detail)).collect(),
    );
    let mut settings: Vec<String> = diff
        .preprocessing
        .iter()
        .map(|s| format!("{}: {} -> {}", s.path, setting(s.a.as_ref()), setting(s.b.as_ref())))
        .collect();
    if diff.more_preprocessing > 0 {
        settings.push(format!("and {} more", diff.more_preprocessing));
    }
    section("preprocessing and split", settings);
    section("rows", vec![rows_line(&diff.rows)]);
    if diff.rows.moved() > 0 {
        let mut moves = vec![format!("{:<8}{:>10}{:>10}{:>10}", "a \\ b", PARTS[0], PARTS[1], PARTS[2])];
        for (from, to) in PARTS.iter().zip(&diff.rows.moves) {
            moves.push(format!("{from:<8}{:>10}{:>10}{:>10}", to[0], to[1], to[2]));
        }
        section("moves between parts", moves);
    }
    let mut shifts =
        vec![format!("{:<24}{:<12}{:>9}{:>12}{:>9}  {:<18}", "column", "kind", "PSI", "by chance", "KS", "missing")];
    shifts.extend(diff.shift.iter().map(shift_line));
    section("distributions (*: beyond what chance gives in 19 of 20 cases)", shifts);
    lines.join("\n")
}

fn shift_line(shift: &ColumnShift) -> String {
    let mark = if shift.has_moved() { "*" } else { "" };
    let missing = format!("{} -> {}", percent(shift.missing_a), percent(shift.missing_b));
    let fresh = if shift.new.is_empty() { String::new() } else { format!("  new: {}", shift.new.join(", ")) };
    let name: String = shift.column.chars().take(23).collect();
    format!(
        "{name:<24}{:<12}{:>9}{:>12}{:>9}  {missing}{fresh}",
        shift.kind,
        format!("{}{mark}", number(shift.psi)),
        number(shift.psi_null),
        number(shift.ks)
    )
}

/// The diff as a page.
pub fn html(diff: &Diff) -> String {
    let mut page = Page::new("Two dataset versions").section(versions(diff));
    if !diff.sources.is_empty() || !diff.schema.is_empty() || !diff.preprocessing.is_empty() {
        page = page.section(what_changed(diff));
    }
    page = page.section(rows(&diff.rows));
    if !diff.shift.is_empty() {
        page = page.section(shifts(&diff.shift));
    }
    page.html()
}

fn versions(diff: &Diff) -> Section {
    let row = |name: &str, v: &Version| {
        [name, &v.id, &v.dataset_version, &v.code_version]
            .map(str::to_owned)
            .into_iter()
            .chain([v.rows_train, v.rows_val, v.rows_test].map(|rows| rows.to_string()))
    };
    let table = vec![row("a", &diff.a).collect(), row("b", &diff.b).collect()];
    let columns = ["", "Id", "Label", "Prepared by", "Train", "Val", "Test"];
    let section = Section::new("Versions").table(Table::new(columns, table).numbers([4, 5, 6]));
    match (diff.same, differs(diff)) {
        (true, _) => section.good("The same version: same files, settings and code."),
        (false, false) => section.good("Other versions of the same rows, columns and preprocessing."),
        (false, true) => section,
    }
}

fn what_changed(diff: &Diff) -> Section {
    let word = |change: Change| change.as_str().to_owned();
    let mut section = Section::new("Files, columns, preprocessing");
    let count = |rows: Option<u64>| rows.map(|rows| rows.to_string()).unwrap_or_default();
    if !diff.sources.is_empty() {
        let rows = diff.sources.iter().map(|s| vec![word(s.change), s.path.clone(), count(s.rows_a), count(s.rows_b)]);
        let table = Table::new(["Change", "File", "Rows of a", "Rows of b"], rows.collect()).numbers([2, 3]);
        section = section.table(table.caption("Files"));
    }
    if !diff.schema.is_empty() {
        let rows = diff.schema.iter().map(|c| vec![word(c.change), c.column.clone(), c.detail.clone()]);
        section = section.table(Table::new(["Change", "Column", "What"], rows.collect()).caption("Columns"));
    }
    if !diff.preprocessing.is_empty() {
        let rows = diff.preprocessing.iter();
        let rows = rows.map(|s| vec![s.path.clone(), setting(s.a.as_ref()), setting(s.b.as_ref())]);
        let caption = match diff.more_preprocessing {
            0 => "Preprocessing and split".to_owned(),
            more => format!("Preprocessing and split; {more} more differ"),
        };
        section = section.table(Table::new(["What", "a", "b"], rows.collect()).caption(caption));
    }
    section
}

fn rows(rows: &RowChanges) -> Section {
    let mut section = Section::new("Rows").text(format!("{}.", rows_line(rows)));
    let counts =
        [("added", rows.added), ("removed", rows.removed), ("changed", rows.changed), ("unchanged", rows.unchanged)];
    let bars = counts.map(|(name, count)| (name.to_owned(), count as f64));
    section = section.chart(Bars::new("Rows", bars.to_vec()));
    if rows.moved() > 0 {
        let moves = PARTS.iter().zip(&rows.moves);
        let moves =
            moves.map(|(from, to)| std::iter::once((*from).to_owned()).chain(to.map(|n| n.to_string())).collect());
        let columns = ["In a \\ in b", PARTS[0], PARTS[1], PARTS[2]];
        let table = Table::new(columns, moves.collect()).numbers([1, 2, 3]);
        section = section.warning("Rows have moved between parts: what was learnt from may now be tested on.");
        section = section.table(table.caption("Rows of both versions by their part"));
    }
    let examples =
        [("added", &rows.added_examples), ("removed", &rows.removed_examples), ("changed", &rows.changed_examples)];
    let examples = examples.into_iter().filter(|(_, ids)| !ids.is_empty());
    let lines: Vec<Vec<String>> = examples.map(|(what, ids)| vec![what.to_owned(), ids.join(", ")]).collect();
    if lines.is_empty() {
        return section;
    }
    section.table(Table::new(["Rows", "Sample ids, the first of them"], lines))
}

fn shifts(shifts: &[ColumnShift]) -> Section {
    let moved = shifts.iter().filter(|shift| shift.has_moved()).count();
    let line = |shift: &ColumnShift| {
        vec![
            shift.column.clone(),
            shift.kind.to_owned(),
            number(shift.psi),
            number(shift.psi_null),
            number(shift.ks),
            number(shift.mean_a),
            number(shift.mean_b),
            percent(shift.missing_a),
            percent(shift.missing_b),
            shift.new.join(", "),
            shift.gone.join(", "),
        ]
    };
    let columns =
        ["Column", "Kind", "PSI", "By chance", "KS", "Mean a", "Mean b", "Missing a", "Missing b", "New", "Gone"];
    let table = Table::new(columns, shifts.iter().map(line).collect()).numbers(2..9);
    let text = format!(
        "The population stability index over bins frozen on a, beside what it stays below in 19 of 20 cases where nothing \
         has moved: {moved} of {} columns are beyond that. KS is the largest distance of the two distribution functions.",
        shifts.len()
    );
    let section = Section::new("Distributions").text(text);
    let section = if moved == 0 { section.good("No column has moved beyond chance.") } else { section };
    let section = section.table(table);
    shifts.iter().filter(|shift| shift.has_moved()).take(PICTURES).fold(section, |section, shift| {
        let of = |side: &str, share: fn(&super::shift::Bin) -> f64| {
            let bars = shift.bins.iter().map(|bin| (bin.holds.clone(), share(bin))).collect();
            Bars::new(format!("{}: shares in {side}", shift.column), bars)
        };
        section.chart(of("a", |bin| bin.share_a)).chart(of("b", |bin| bin.share_b))
    })
}
