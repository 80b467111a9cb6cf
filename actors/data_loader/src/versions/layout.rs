//! The picture of a lineage: layers from left to right, a thing in the layer behind the last of what it was made of,
//! and within a layer in the order that crosses fewest lines, as far as two sweeps of barycenters find it.

use std::collections::BTreeMap;
use std::fmt::Write;

use report::escape;

use super::lineage::{Graph, Kind, Node};

const WIDTH: f64 = 210.0;
const HEIGHT: f64 = 62.0;
const GAP_X: f64 = 90.0;
const GAP_Y: f64 = 22.0;
const MARGIN: f64 = 20.0;
const TITLE: f64 = 34.0;
/// Longest text in a box, in characters.
const LETTERS: usize = 28;
const DIGITS: usize = 12;
const SWEEPS: usize = 4;

/// Where each node stands.
#[derive(Debug, PartialEq, Eq)]
struct Layers {
    /// Indices of nodes, layer by layer, from above.
    layers: Vec<Vec<usize>>,
}

impl Layers {
    fn of(graph: &Graph) -> Self {
        let index: BTreeMap<&str, usize> =
            graph.nodes.iter().enumerate().map(|(at, node)| (node.id.as_str(), at)).collect();
        let edges: Vec<(usize, usize)> = graph
            .edges
            .iter()
            .filter_map(|edge| Some((*index.get(edge.from.as_str())?, *index.get(edge.to.as_str())?)))
            .collect();
        // The longest way to each node; a graph without circles needs no more rounds than it has nodes.
        let mut layer = vec![0; graph.nodes.len()];
        for _ in 0..graph.nodes.len() {
            let mut moved = false;
            for &(from, to) in &edges {
                if layer[to] <= layer[from] && layer[from] + 1 < graph.nodes.len() {
                    layer[to] = layer[from] + 1;
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        // What comes from nowhere stands just before what is made of it.
        for at in 0..layer.len() {
            let is_made = edges.iter().any(|(_, to)| *to == at);
            let next = edges.iter().filter(|(from, _)| *from == at).map(|(_, to)| layer[*to]).min();
            if let (false, Some(next)) = (is_made, next) {
                layer[at] = next.saturating_sub(1);
            }
        }
        let mut layers = vec![Vec::new(); layer.iter().max().map_or(0, |most| most + 1)];
        for (at, layer) in layer.iter().enumerate() {
            layers[*layer].push(at);
        }
        let mut out = Self { layers };
        for sweep in 0..SWEEPS {
            out.sweep(&edges, sweep % 2 == 0);
        }
        out
    }

    /// Sorts each layer by the mean place of its neighbours before (or behind).
    fn sweep(&mut self, edges: &[(usize, usize)], forward: bool) {
        let places = |layers: &[Vec<usize>]| -> BTreeMap<usize, f64> {
            layers
                .iter()
                .flat_map(|layer| {
                    layer.iter().enumerate().map(|(place, at)| (*at, place as f64 - layer.len() as f64 / 2.0))
                })
                .collect()
        };
        for index in 0..self.layers.len() {
            let index = if forward { index } else { self.layers.len() - 1 - index };
            let place = places(&self.layers);
            let mean = |at: usize| {
                let neighbours: Vec<f64> = edges
                    .iter()
                    .filter(|(from, to)| if forward { *to == at } else { *from == at })
                    .map(|(from, to)| place[if forward { from } else { to }])
                    .collect();
                match neighbours.len() {
                    0 => place[&at],
                    n => neighbours.iter().sum::<f64>() / n as f64,
                }
            };
            self.layers[index].sort_by(|a, b| mean(*a).total_cmp(&mean(*b)));
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LETTERS) {
        // The end of a path tells more than its beginning.
        Some(_) => format!("…{}", text.chars().skip(text.chars().count() - LETTERS + 1).collect::<String>()),
        None => text.to_owned(),
    }
}

/// The graph as a file of SVG, for light and dark screens, with every hash in full as a tooltip.
pub fn svg(graph: &Graph) -> String {
    let Layers { layers } = Layers::of(graph);
    let most = layers.iter().map(Vec::len).max().unwrap_or(0) as f64;
    let width = 2.0 * MARGIN + layers.len() as f64 * (WIDTH + GAP_X) - GAP_X.min(layers.len() as f64 * GAP_X);
    let height = TITLE + 2.0 * MARGIN + most * (HEIGHT + GAP_Y);
    let mut at: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (x, layer) in layers.iter().enumerate() {
        let above = (most - layer.len() as f64) / 2.0;
        for (y, node) in layer.iter().enumerate() {
            let left = MARGIN + x as f64 * (WIDTH + GAP_X);
            let top = TITLE + MARGIN + (above + y as f64) * (HEIGHT + GAP_Y);
            at.insert(&graph.nodes[*node].id, (left, top));
        }
    }
    let title = match &graph.job {
        Some(job) => format!("Lineage of {job}"),
        None => "Lineage".to_owned(),
    };
    let title = escape(&title);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{title}\">{STYLE}<rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>\
         <text class=\"title\" x=\"{MARGIN}\" y=\"{TITLE}\">{title}</text>"
    );
    for edge in &graph.edges {
        let (Some(&(x1, y1)), Some(&(x2, y2))) = (at.get(edge.from.as_str()), at.get(edge.to.as_str())) else {
            continue;
        };
        line(&mut out, (x1 + WIDTH, y1 + HEIGHT / 2.0), (x2, y2 + HEIGHT / 2.0), &edge.by);
    }
    for node in &graph.nodes {
        if let Some(&(x, y)) = at.get(node.id.as_str()) {
            boxed(&mut out, node, x, y);
        }
    }
    out.push_str("</svg>\n");
    out
}

const STYLE: &str = "<style>\
svg{--ink:#1c2128;--soft:#59636e;--paper:#fff;--line:#8c959f;--source:#ddf4ff;--derived:#fff1d6;--dataset:#dafbe1;\
--model:#fbefff;--report:#ffebe9;font:12px system-ui,sans-serif}\
@media (prefers-color-scheme:dark){svg{--ink:#e6edf3;--soft:#9aa4af;--paper:#0d1117;--line:#6e7681;--source:#0c2d4a;\
--derived:#3d2e00;--dataset:#0f3a1d;--model:#3a1d4f;--report:#4a1a1a}}\
text{fill:var(--ink)}.soft{fill:var(--soft);font-size:11px}.title{font-size:15px;font-weight:600}.name{font-weight:600}\
.paper{fill:var(--paper)}.edge{fill:none;stroke:var(--line);stroke-width:1.5}.arrow{fill:var(--line)}\
.box{stroke:var(--line)}.source{fill:var(--source)}.derived{fill:var(--derived)}.dataset{fill:var(--dataset)}\
.model{fill:var(--model)}.report{fill:var(--report)}</style>";

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), by: &str) {
    let middle = f64::midpoint(x1, x2);
    let tip = x2 - 7.0;
    // Over layers in between, a line goes above their boxes.
    let way = if x2 - x1 > GAP_X + 1.0 {
        let top = y1.min(y2) - HEIGHT;
        format!("C{} {top} {} {top} {tip} {y2}", x1 + GAP_X, x2 - GAP_X)
    } else {
        format!("C{middle} {y1} {middle} {y2} {tip} {y2}")
    };
    let _ = write!(
        out,
        "<path class=\"edge\" d=\"M{x1} {y1}{way}\"/>\
         <path class=\"arrow\" d=\"M{x2} {y2}l-8 -4v8z\"/>\
         <text class=\"soft\" text-anchor=\"end\" x=\"{}\" y=\"{}\">{}</text>",
        x2 - 12.0,
        y2 - 5.0,
        escape(by)
    );
}

fn boxed(out: &mut String, node: &Node, x: f64, y: f64) {
    let kind = node.kind.as_str();
    let digits = &node.blake3[..node.blake3.len().min(DIGITS)];
    let detail = match node.kind {
        Kind::Source | Kind::Dataset => node.detail.get("rows").map(|rows| format!("{rows} rows, ")),
        _ => None,
    };
    let all: Vec<String> = node.detail.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let _ = write!(
        out,
        "<g><title>{}</title><rect class=\"box {kind}\" x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\
         <text class=\"soft\" x=\"{tx}\" y=\"{}\">{kind}</text><text class=\"name\" x=\"{tx}\" y=\"{}\">{}</text>\
         <text class=\"soft\" x=\"{tx}\" y=\"{}\">{}{digits}</text></g>",
        escape(&format!("{} {}\nblake3 {}\n{}", kind, node.label, node.blake3, all.join("\n"))),
        y + 17.0,
        y + 35.0,
        escape(&cut(&node.label)),
        y + 52.0,
        escape(&detail.unwrap_or_default()),
        tx = x + 10.0,
    );
}

#[cfg(test)]
mod tests {
    use super::super::lineage::{Edge, Kind};
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for name in edges.iter().flat_map(|(from, to)| [from, to]) {
            if !graph.nodes.iter().any(|node| node.id == *name) {
                let id = (*name).to_owned();
                let (label, blake3) = (format!("<{name}>"), "ab".repeat(32));
                graph.nodes.push(Node { id, kind: Kind::Source, label, blake3, detail: BTreeMap::new() });
            }
        }
        let edge = |(from, to): &(&str, &str)| Edge { from: (*from).into(), to: (*to).into(), by: "x".into() };
        graph.edges = edges.iter().map(edge).collect();
        graph
    }

    fn layers(edges: &[(&str, &str)]) -> Vec<Vec<String>> {
        let graph = graph(edges);
        let names = |layer: &Vec<usize>| layer.iter().map(|at| graph.nodes[*at].id.clone()).collect();
        Layers::of(&graph).layers.iter().map(names).collect()
    }

    #[test]
    fn things_stand_behind_what_they_were_made_of() {
        let found = layers(&[("a", "d"), ("b", "d"), ("d", "m"), ("m", "r"), ("d", "r")]);
        assert_eq!(found, [vec!["a", "b"], vec!["d"], vec!["m"], vec!["r"]]);
        // A source of the second version stands beside the first version, not before it.
        assert_eq!(layers(&[("a", "d"), ("d", "e"), ("q", "e")])[1], ["d", "q"]);
        // Two lines that would cross.
        assert_eq!(layers(&[("a", "y"), ("b", "x"), ("a", "p"), ("b", "q")])[1].len(), 4);
        let crossed = layers(&[("a", "x"), ("b", "y"), ("x", "v"), ("y", "u")]);
        assert_eq!(crossed[2], ["v", "u"]);
        assert!(layers(&[]).is_empty());
        // A circle, which no lineage has, ends too.
        assert_eq!(layers(&[("a", "b"), ("b", "a")]).iter().flatten().count(), 2);
    }

    #[test]
    fn the_picture_has_everything_and_is_safe() {
        let svg = svg(&graph(&[("a", "d"), ("d", "m")]));
        assert!(svg.contains("&lt;a&gt;") && !svg.contains("<a>"), "{svg}");
        assert_eq!(svg.matches("class=\"box source\"").count(), 3);
        assert_eq!(svg.matches("class=\"edge\"").count(), 2);
        let long = cut("data/very/long/path/to/the/file.csv");
        assert!(long.starts_with('…') && long.ends_with("path/to/the/file.csv"), "{long}");
        assert_eq!(long.chars().count(), LETTERS);
    }
}
