//! A small table that can be learned, and a job for it.

use std::fmt::Write;

/// Columns id, size, age, kind, y, class: y follows from the others, class from y.
pub fn table(rows: usize) -> String {
    let mut text = String::from("id,size,age,kind,y,class\n");
    for row in 0..rows {
        // Multiples of irrational numbers spread evenly and look random enough.
        let spread = |by: f64| ((row as f64 + 1.0) * by).fract();
        let (size, age, noise) =
            (spread(std::f64::consts::SQRT_2), spread(std::f64::consts::E), spread(std::f64::consts::PI));
        let kind = ["red", "green", "blue"][(spread(1.7) * 3.0) as usize % 3];
        let bonus = if kind == "red" { 2.0 } else { 0.0 };
        let y = 4.0 * size - 3.0 * age + bonus + 0.2 * noise;
        let class = if y > 1.0 { "good" } else { "bad" };
        writeln!(text, "r{row},{size:.5},{age:.5},{kind},{y:.5},{class}").expect("writes to a text");
    }
    text
}

/// A job that learns `y` of a table; `more` is added at its end.
pub fn spec(file: &str, epochs: u32, more: &str) -> String {
    format!(
        "task: regression\n\
         seed: 7\n\
         data:\n\
         \x20 path: {file}\n\
         \x20 id_column: id\n\
         \x20 target: y\n\
         \x20 exclude: [class]\n\
         model:\n\
         \x20 type: mlp\n\
         \x20 hidden_layers: [16]\n\
         training:\n\
         \x20 epochs: {epochs}\n\
         \x20 batch_size: 32\n\
         \x20 learning_rate: 0.01\n\
         {more}"
    )
}
