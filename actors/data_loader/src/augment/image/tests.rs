//! Each method against numpy's formulas (`tests/golden/augment_image.py`), and what all of them hold.

use super::*;
use messages::plan::{Coin, StylePlan};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    channels: usize,
    arguments: Vec<f64>,
    out: Vec<u8>,
}

fn shape(channels: usize) -> Shape {
    Shape { channels, height: 7, width: 9 }
}

/// Within one: sums have another order there.
#[test]
fn methods_give_the_values_of_their_formulas() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../../tests/golden/augment_image.json")).expect("a golden file");
    let find = |name: &str, channels: usize| {
        cases.iter().find(|case| case.name == name && case.channels == channels).expect("a case")
    };
    let mut checked = 0;
    for case in cases.iter().filter(|case| !matches!(case.name.as_str(), "input" | "reference")) {
        let (channels, a) = (case.channels, &case.arguments);
        let mut pixels = find("input", channels).out.clone();
        let at = |i: usize| a[i] as usize;
        match case.name.as_str() {
            "brightness" => color::brightness(&mut pixels, a[0] as f32),
            "contrast" => color::contrast(&mut pixels, shape(channels), a[0] as f32),
            "saturation" => color::saturation(&mut pixels, shape(channels), a[0] as f32),
            "hue" => color::hue(&mut pixels, shape(channels), a[0] as f32),
            "crop" => {
                let crop = geometry::Crop { top: at(0), left: at(1), height: at(2), width: at(3) };
                geometry::crop(&mut pixels, shape(channels), crop);
            }
            "rotate" => geometry::rotate(&mut pixels, shape(channels), a[0]),
            "flip" => geometry::flip(&mut pixels, shape(channels)),
            "blur" => geometry::blur(&mut pixels, shape(channels), a[0]),
            "style" => {
                let reference = find("reference", channels);
                let (height, width) = (reference.arguments[0] as usize, reference.arguments[1] as usize);
                let style = Style::of(&reference.out, Shape { channels, height, width });
                style.transfer(&mut pixels, shape(channels), a[0]);
            }
            "cutout" => geometry::cutout(&mut pixels, shape(channels), (at(0), at(1)), at(2)),
            other => panic!("no method {other}"),
        }
        let far = pixels.iter().zip(&case.out).position(|(own, golden)| own.abs_diff(*golden) > 1);
        assert_eq!(far, None, "{} {:?} with {channels} channels: {pixels:?}, expected {:?}", case.name, a, case.out);
        checked += 1;
    }
    assert!(checked > 30, "{checked} cases");
}

fn plan(prob: f64) -> ImageAugmentation {
    let chance = |range: f64| Chance { prob, range };
    ImageAugmentation {
        methods: ImageMethod::ALL.to_vec(),
        crop: chance(0.5),
        rotation: chance(30.0),
        flip: Coin { prob },
        brightness: chance(0.5),
        contrast: chance(0.5),
        saturation: chance(0.5),
        hue: chance(0.2),
        style: StylePlan { prob, range: 1.0, references: vec![] },
        blur: chance(2.0),
        noise: chance(0.2),
        cutout: chance(0.5),
    }
}

fn ramp(shape: Shape) -> Vec<u8> {
    (0..shape.size()).map(|i| (i * 37 % 256) as u8).collect()
}

#[test]
fn an_image_depends_on_seed_epoch_and_sample_alone() {
    let shape = shape(3);
    let styles = [Style::of(&ramp(shape), shape)];
    let of = |seed, epoch, sample| {
        let mut pixels = ramp(shape);
        augment(&mut pixels, shape, &plan(0.5), &styles, Draws { seed, epoch, sample });
        pixels
    };
    assert_eq!(of(1, 2, 3), of(1, 2, 3));
    for other in [of(2, 2, 3), of(1, 3, 3), of(1, 2, 4)] {
        assert_ne!(of(1, 2, 3), other);
    }
    let mut pixels = ramp(shape);
    augment(&mut pixels, shape, &plan(0.0), &styles, Draws { seed: 1, epoch: 2, sample: 3 });
    assert_eq!(pixels, ramp(shape));
}

#[test]
fn any_image_of_any_size_is_changed_without_a_panic() {
    for (channels, height, width) in [(1, 1, 1), (3, 1, 5), (3, 5, 1), (4, 3, 2), (1, 28, 28)] {
        let shape = Shape { channels, height, width };
        let styles = [Style::of(&ramp(shape), shape)];
        for method in ImageMethod::ALL {
            for sample in 0..30 {
                for mut pixels in [ramp(shape), vec![0; shape.size()], vec![255; shape.size()]] {
                    let mut rng = Draws { seed: 1, epoch: 0, sample }.of(Lane::Flip);
                    apply(method, &mut pixels, shape, &plan(1.0), &styles, &mut rng);
                    assert_eq!(pixels.len(), shape.size());
                }
            }
        }
    }
}

#[test]
fn probabilities_and_ranges_are_kept() {
    let shape = Shape { channels: 1, height: 1, width: 1 };
    let only = |methods: &[ImageMethod], prob| ImageAugmentation { methods: methods.to_vec(), ..plan(prob) };
    let (mut changed, mut least, mut most) = (0, 255u8, 0u8);
    for sample in 0..20_000 {
        let mut pixels = [100];
        let draws = Draws { seed: 5, epoch: 0, sample };
        augment(&mut pixels, shape, &only(&[ImageMethod::Brightness], 0.25), &[], draws);
        changed += usize::from(pixels[0] != 100);
        (least, most) = (least.min(pixels[0]), most.max(pixels[0]));
    }
    // A factor so near 1 that the byte stays is drawn once in a hundred times.
    assert!((4_700..5_150).contains(&changed), "{changed}");
    assert_eq!((least, most), (50, 150));
    let wide = Shape { channels: 1, height: 20, width: 30 };
    let mut shares = 0.0;
    for sample in 0..2_000 {
        let mut rng = Draws { seed: 5, epoch: 0, sample }.of(Lane::Crop);
        let crop = geometry::draw_crop(wide, 0.5, &mut rng);
        assert!(crop.top + crop.height <= 20 && crop.left + crop.width <= 30);
        shares += (crop.height * crop.width) as f64 / 600.0 / 2_000.0;
    }
    // Sides that would be longer than the image's are cut, so the mean is a little below 0.75.
    assert!((0.70..0.76).contains(&shares), "{shares}");
}

#[test]
fn noise_has_the_spread_that_was_drawn() {
    let shape = Shape { channels: 1, height: 100, width: 100 };
    let mut pixels = vec![128; shape.size()];
    let plan = plan(1.0);
    let mut rng = Draws { seed: 1, epoch: 0, sample: 1 }.of(Lane::Noise);
    let std = 255.0 * 0.2 * rng.clone().uniform();
    apply(ImageMethod::Noise, &mut pixels, shape, &plan, &[], &mut rng);
    let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / 1e4;
    let seen = (pixels.iter().map(|&p| (f64::from(p) - mean).powi(2)).sum::<f64>() / 1e4).sqrt();
    assert!((mean - 128.0).abs() < 1.5 && (seen / std - 1.0).abs() < 0.05, "{mean} {seen} {std}");
}
