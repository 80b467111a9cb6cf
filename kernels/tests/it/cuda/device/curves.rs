//! Models trained with factors of four and of two bytes: their losses fall together. The curves are laid over each other in
//! a picture: `WITHIN_CURVES`, else `curves.png` where temporary files go.

use super::super::machine::machine;
use super::png::Picture;
use crate::models::{batch, configs, fit};
use kernels::cuda::Machine;
use kernels::dtype::Precision;
use kernels::nn::{Init, MlpConfig, Model, ModelConfig};
use kernels::optim::{AdamWConfig, OptimizerConfig};
use kernels::pool::Pool;
use kernels::train::{TrainConfig, Trainer};
use std::path::PathBuf;
use std::sync::Arc;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::F16];

/// The models by name.
fn models() -> [(&'static str, ModelConfig); 3] {
    let mut all = configs();
    let (lstm, ad_score) = (all.swap_remove(5), all.swap_remove(0));
    assert!(matches!((&lstm, &ad_score), (ModelConfig::LstmSequence(_), ModelConfig::AdScore(_))));
    let mlp = MlpConfig { input_dim: 3, hidden_layers: vec![32, 16], ..MlpConfig::default() };
    [("ad_score", ad_score), ("lstm_sequence", lstm), ("mlp", ModelConfig::Mlp(mlp))]
}

/// The losses of one training over a few batches, again and again, and whether a step was left out.
fn losses(
    machine: &Arc<dyn Machine>,
    config: &ModelConfig,
    precision: Precision,
    [steps, rows]: [usize; 2],
) -> Vec<(f64, bool)> {
    let optimizer = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 2e-2, ..Default::default() });
    let plan = TrainConfig { optimizer, precision, logical_shards: 1, ..TrainConfig::default() };
    let model = Model::new(config, &Init::Default, 5).expect("valid");
    let batches = [1, 2].map(|seed| fit(&model, batch(rows, seed)));
    let mut trainer = Trainer::new(model, plan, Arc::new(Pool::new(1))).expect("valid").on_machine(machine.clone());
    let step = |step| trainer.step(&batches[step % 2]).expect("finite");
    (0..steps).map(step).map(|outcome| (outcome.loss, outcome.skipped)).collect()
}

/// Mean of both batches' last losses.
fn end(losses: &[f64]) -> f64 {
    losses[losses.len() - 2..].iter().sum::<f64>() / 2.0
}

fn draw(picture: &mut Picture, left: f64, name: &str, curves: &[Vec<f64>]) {
    const COLORS: [[u8; 3]; 3] = [[190, 190, 190], [30, 90, 200], [220, 110, 20]];
    const BLACK: [u8; 3] = [40, 40, 40];
    let (wide, high, top, foot) = (280.0, 180.0, 34.0, 214.0);
    let most = curves.iter().flatten().fold(0.0f64, |most, loss| most.max(*loss));
    let place =
        |step: usize, loss: f64| [left + wide * step as f64 / (curves[0].len() - 1) as f64, foot - high * loss / most];
    picture.line([left, top], [left, foot], BLACK, 1, 0);
    picture.line([left, foot], [left + wide, foot], BLACK, 1, 0);
    picture.text([left as isize + 4, 8], name, BLACK);
    picture.text([left as isize - 38, top as isize - 4], &format!("{most:.2}"), BLACK);
    picture.text([left as isize - 10, foot as isize - 8], "0", BLACK);
    let steps = format!("{} steps", curves[0].len());
    picture.text([(left + wide) as isize - steps.len() as isize * 8, foot as isize + 6], &steps, BLACK);
    for (n, curve) in curves.iter().enumerate() {
        // The first one lies below and is wide, the last one has gaps: all three show where they are one.
        let (across, dash) = [(5, 0), (2, 0), (2, 4)][n];
        for (step, pair) in curve.windows(2).enumerate() {
            picture.line(place(step, pair[0]), place(step + 1, pair[1]), COLORS[n], across, dash);
        }
        let at = [left as isize + 210, 44 + n as isize * 16];
        picture.line(
            [at[0] as f64 - 26.0, at[1] as f64 + 4.0],
            [at[0] as f64 - 6.0, at[1] as f64 + 4.0],
            COLORS[n],
            across,
            dash,
        );
        picture.text(at, ["f32", "bf16", "f16"][n], BLACK);
    }
}

#[test]
fn losses_fall_together_in_every_precision() {
    let Some(machine) = machine() else { return };
    // A CPU that plays a device takes its time.
    let on_gpu = std::env::var_os("REQUIRE_CUDA").is_some() && std::env::var_os("WITHIN_PLAYED").is_none();
    let sizes = if on_gpu { [200, 256] } else { [16, 8] };
    let mut picture = Picture::new(1_020, 240);
    for (n, (name, config)) in models().into_iter().enumerate() {
        let curves = PRECISIONS.map(|precision| losses(&machine, &config, precision, sizes));
        let left_out = curves.each_ref().map(|curve| curve.iter().filter(|(_, skipped)| *skipped).count());
        println!("{name}: steps left out: {left_out:?}");
        // The scale of f16 comes down from where it begins, by a half with each step that it leaves out.
        assert!(left_out[..2] == [0, 0] && left_out[2] <= 4, "{name}: {left_out:?} steps left out");
        let curves = curves.map(|curve| curve.into_iter().map(|(loss, _)| loss).collect::<Vec<f64>>());
        let first = (curves[0][0] + curves[0][1]) / 2.0;
        for (precision, curve) in PRECISIONS.into_iter().zip(&curves) {
            assert!(
                (curve[0] - curves[0][0]).abs() <= 0.01 * curves[0][0],
                "{name} {precision:?} begins with {}",
                curve[0]
            );
            let (reached, of_f32) = (end(curve), end(&curves[0]));
            println!("{name} {precision:?}: from {first:.4} to {reached:.4}");
            assert!(reached < 0.85 * first, "{name} {precision:?} has not learned: from {first} to {reached}");
            assert!((reached - of_f32).abs() <= 0.1 * first, "{name} {precision:?}: {reached}, in f32 {of_f32}");
        }
        draw(&mut picture, 50.0 + 335.0 * n as f64, name, &curves);
    }
    let path = std::env::var_os("WITHIN_CURVES").map_or_else(|| std::env::temp_dir().join("curves.png"), PathBuf::from);
    std::fs::write(&path, picture.png()).expect("written");
    println!("losses of f32, bf16 and f16: {}", path.display());
}
