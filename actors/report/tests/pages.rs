//! Whole pages and files: well-formed, self-contained, and without anything of the data as markup.

use expect_test::expect;
use proptest::prelude::*;
use within_report::{
    Bars, Chart, HeatMap, Histogram, Image, Line, Missingness, Page, Range, Section, Series, Table, png,
};

const HOSTILE: &str = "</title></svg><script>alert('x')</script>\" onload=\"y\u{202e}&";

fn charts(name: &str, values: &[f64]) -> Vec<Chart> {
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    let points: Vec<_> = values.iter().enumerate().map(|(index, value)| (index as f64, *value)).collect();
    vec![
        Bars::new(name, values.iter().map(|value| (name.to_owned(), *value)).collect()).into(),
        Histogram::of(name, values, 12).into(),
        Line::new(
            name,
            name,
            name,
            vec![Series { name: name.to_owned(), points: points.clone() }, Series { name: "b".into(), points }],
        )
        .into(),
        HeatMap::new(
            name,
            vec![name.to_owned(), "r".into()],
            vec![name.to_owned()],
            vec![vec![at(0)], vec![at(1)]],
            Range::Signed,
        )
        .into(),
        HeatMap::new(name, vec![], vec![], vec![], Range::UpTo(at(0))).into(),
        Missingness::new(name, vec![(name.to_owned(), at(0), values.to_vec())]).into(),
    ]
}

/// Every element that is opened is closed in order, and attributes are quoted.
fn well_formed(markup: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    for part in markup.split('<').skip(1) {
        let Some((tag, rest)) = part.split_once('>') else { return Err(format!("no end of {part:?}")) };
        if rest.contains('>') {
            return Err(format!("a stray > in {rest:?}"));
        }
        let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap_or_default();
        if tag.starts_with('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes something else"));
            }
        } else if !tag.ends_with('/') && !tag.starts_with('!') && !matches!(name, "meta" | "img") {
            open.push(name);
        }
        if tag.matches('"').count() % 2 != 0 {
            return Err(format!("an open quote in {tag:?}"));
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("not closed: {open:?}")) }
}

fn page(name: &str, values: &[f64]) -> String {
    let mut section = Section::new(name).text(name).bad(name).list(vec![name.to_owned()]);
    let table = Table::new([name], vec![vec![name.to_owned()]]).caption(name).numbers([0]);
    section = section.table(table.clone()).details(name, table).charts(charts(name, values));
    let picture = png::encode(1, 1, png::Pixels::Gray, &[7]).expect("a picture");
    section = section.images(vec![Image::new(name, name, picture).columns([name])]);
    let other = Section::new("other").good("well").warning("look");
    Page::new(name).lead(name).section(section).section(other.clone()).section(other.clone()).section(other).html()
}

#[test]
fn names_from_data_are_never_markup() {
    let html = page(HOSTILE, &[1.0, 2.0]);
    well_formed(&html).expect("well-formed");
    assert!(!html.contains("<script") && !html.contains("onload=\"") && !html.contains('\u{202e}'));
    for chart in charts(HOSTILE, &[0.5, f64::NAN]) {
        let svg = chart.svg();
        well_formed(&svg).expect("well-formed");
        assert!(!svg.contains("<script") && svg.starts_with("<svg xmlns="), "{svg}");
    }
}

#[test]
fn a_page_asks_nothing_of_anybody() {
    let html = page("plain", &[1.0, 2.0, 3.0]);
    for word in ["<script", "<link", "@import", "url(", "<iframe", "javascript:"] {
        assert!(!html.contains(word), "{word}");
    }
    let addresses: Vec<&str> =
        html.split("http").skip(1).filter(|rest| rest.starts_with("://") || rest.starts_with("s://")).collect();
    assert!(addresses.iter().all(|rest| rest.starts_with("://www.w3.org/2000/svg")), "{addresses:?}");
    assert!(
        html.contains("prefers-color-scheme:dark") && html.contains("lang=\"en\"") && html.contains("role=\"img\"")
    );
}

#[test]
fn a_chart_is_the_same_bytes_each_time() {
    let bars = Bars::new("Two", vec![("a".into(), 2.0), ("b".into(), 1.0)]);
    let svg = Chart::from(bars.clone()).svg();
    assert_eq!(svg, Chart::from(bars).svg());
    let drawn = svg.split_once("</style>").expect("a style").1;
    expect![[r#"<text x="0" y="17" text-anchor="start" class="title">Two</text><text x="200.8" y="48" text-anchor="end" class="">a</text><rect x="208.8" y="37" width="441.2" height="14" class="s0"><title>a: 2</title></rect><text x="656" y="48" text-anchor="start" class="soft">2</text><text x="200.8" y="68" text-anchor="end" class="">b</text><rect x="208.8" y="57" width="220.6" height="14" class="s0"><title>b: 1</title></rect><text x="435.4" y="68" text-anchor="start" class="soft">1</text><line x1="208.8" y1="34" x2="208.8" y2="74" class="base"/></svg>"#]].assert_eq(drawn);
}

proptest! {
    #[test]
    fn whatever_comes_is_drawn(name in any::<String>(), values in prop::collection::vec(any::<f64>(), 0..60)) {
        prop_assert_eq!(well_formed(&page(&name, &values)), Ok(()));
        for chart in charts(&name, &values) {
            let svg = chart.svg();
            prop_assert_eq!(well_formed(&svg), Ok(()));
            prop_assert!(!svg.contains("NaN") || name.contains("NaN"));
        }
    }
}
