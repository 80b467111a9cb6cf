//! Texts, images, category indices and sequences: what is prepared of them, and what is refused.

use frame::manifest::Encoding;
use kernels::nn::PixelValues;
use messages::feed::Split;
use messages::plan::{CategoryEncoding, ColumnType, DataPlan, SplitStrategy, Task, TokenizerType};

use crate::plan::{Root, column, data_plan, encoded, manifest};

/// An IDX file of images of 2 x 2; every pixel of image n is n.
fn idx(count: u8) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 3];
    bytes.extend([u32::from(count), 2, 2].iter().flat_map(|side| side.to_be_bytes()));
    bytes.extend((0..count).flat_map(|image| [image; 4]));
    bytes
}

fn ads(change: impl Fn(&mut DataPlan)) -> (String, DataPlan) {
    let words = ["shoes", "hats", "sale", "new"];
    let mut lines = vec!["id,text,city,image,y".to_owned()];
    for row in 0..40usize {
        let text = format!("{} {} {}", words[row % 4], words[row / 4 % 4], if row % 7 == 0 { "rareword" } else { "" });
        let city = ["Oslo", "Rome", ""][row % 3];
        lines.push(format!("r{row},{text},{city},{},{}", row % 5, row % 2));
    }
    let mut plan = data_plan(&["a.csv"], "y");
    plan.id_column = Some("id".into());
    plan.columns.insert("text".into(), column(ColumnType::Text));
    let mut image = column(ColumnType::Image);
    image.images = Some("a.idx".into());
    plan.columns.insert("image".into(), image);
    plan.preprocessing.categories = CategoryEncoding::Embedding;
    plan.text.max_length = 4;
    change(&mut plan);
    (lines.join("\n"), plan)
}

#[test]
fn each_input_is_fitted_on_train_and_reaches_the_rows() {
    let (csv, plan) = ads(|_| {});
    let root = Root::new(&[("a.csv", csv.as_bytes()), ("a.idx", &idx(5))]);
    let prepared = root.prepare(&plan, Task::BinaryClassification).expect("the data are good");
    let manifest = manifest(&prepared);
    let encodings: Vec<_> =
        manifest.features.iter().map(|feature| (feature.column.as_str(), &feature.encoding)).collect();
    let (name, Encoding::Text { max_length: 4, vocab_size, .. }) = encodings[0] else { panic!("{encodings:?}") };
    // Padding, class token and unknown, then the words that train has at least twice.
    assert!(name == "text" && (7..=8).contains(vocab_size), "{vocab_size}");
    assert_eq!(encodings[1], ("city", &Encoding::Index { categories: vec!["Oslo".into(), "Rome".into()] }));
    assert_eq!(encodings[2], ("image", &Encoding::Image { channels: 1, height: 2, width: 2 }));
    assert_eq!(manifest.width(), 0);
    assert!(manifest.sources.iter().any(|source| source.path == "a.idx" && source.size_bytes == 36));
    for split in Split::ALL {
        let rows = encoded(&prepared, split);
        let tokens = rows.inputs.tokens.as_ref().expect("tokens");
        let images = rows.inputs.images.as_ref().expect("images");
        let PixelValues::Bytes(pixels) = &images.pixels else { panic!("bytes") };
        assert_eq!((rows.rows, tokens.rows(), pixels.len()), (prepared.rows(split), rows.rows, 4 * rows.rows));
        for (row, id) in rows.sample_ids.iter().enumerate() {
            let n = (0..40usize).find(|n| *id == within_data_loader::load::id_of(&format!("r{n}"))).expect("a row");
            assert_eq!(pixels[4 * row..4 * row + 4], [(n % 5) as u8; 4]);
            assert_eq!(rows.inputs.categories[row], [1, 2, 0][n % 3]);
            assert_eq!(rows.targets[row], (n % 2) as f32);
            let length = if n.is_multiple_of(7) { 4 } else { 3 };
            assert_eq!(tokens.row(row).len(), length, "row {n}");
        }
    }
}

#[test]
fn a_hashing_tokenizer_fits_nothing() {
    let (csv, plan) = ads(|plan| {
        plan.text.tokenizer = TokenizerType::Hashing;
        plan.text.vocab_size = 1_000;
    });
    let root = Root::new(&[("a.csv", csv.as_bytes()), ("a.idx", &idx(5))]);
    let prepared = root.prepare(&plan, Task::BinaryClassification).expect("the data are good");
    let Encoding::Text { vocab_size, .. } = manifest(&prepared).features[0].encoding else { panic!("a text") };
    assert_eq!(vocab_size, 1_000);
}

#[test]
fn texts_that_are_cut_are_told() {
    let (csv, plan) = ads(|plan| plan.text.max_length = 2);
    let root = Root::new(&[("a.csv", csv.as_bytes()), ("a.idx", &idx(5))]);
    let prepared = root.prepare(&plan, Task::BinaryClassification).expect("the data are good");
    let told = prepared.warnings().iter().any(|warning| warning.contains("raise data.text.max_length"));
    assert!(told, "{:?}", prepared.warnings());
}

#[test]
fn an_image_that_is_not_there_is_named() {
    for (images, says) in [
        (idx(4), "a.csv line 6, column \"image\": 4 names no image of a.idx, expected 0 to 3"),
        (idx(5)[..30].to_vec(), "a.idx: says 5 images, but holds 3"),
        (b"\x89PNG".to_vec(), "expected an IDX file"),
    ] {
        let (csv, plan) = ads(|_| {});
        let root = Root::new(&[("a.csv", csv.as_bytes()), ("a.idx", &images)]);
        let error = root.prepare(&plan, Task::BinaryClassification).expect_err(says);
        assert!(error.message.contains(says) || error.message.contains(&says.replace("line 6", "row 5")), "{error}");
    }
    let (csv, plan) = ads(|_| {});
    let root = Root::new(&[("a.csv", csv.as_bytes())]);
    let error = root.prepare(&plan, Task::BinaryClassification).expect_err("no file");
    assert!(error.message.contains("a.idx: no such file"), "{error}");
}

#[test]
fn a_folder_that_holds_no_encoder_is_refused_by_name() {
    for (path, says) in
        [("nowhere", "nowhere: no such file"), (".", "a file config.json"), ("a.csv", "is a file, expected a folder")]
    {
        let (csv, plan) = ads(|plan| {
            plan.text.tokenizer = TokenizerType::Pretrained;
            plan.text.pretrained = Some(path.into());
        });
        let root = Root::new(&[("a.csv", csv.as_bytes()), ("a.idx", &idx(5))]);
        let error = root.prepare(&plan, Task::BinaryClassification).expect_err(says);
        assert!(error.message.contains(says), "{error}");
        assert!(error.hint.unwrap_or_default().contains("model.safetensors"));
    }
}

/// Accounts of different lengths, their days in no order.
fn series() -> String {
    let mut lines = vec!["account,day,clicks,health".to_owned()];
    for step in (0..6usize).rev() {
        for account in (0..20usize).filter(|account| step < 2 + account % 5) {
            lines.push(format!("a{account},{step},{},{}", 10 * account + step, account % 3 + step));
        }
    }
    lines.join("\n")
}

fn of_accounts(change: impl Fn(&mut DataPlan)) -> DataPlan {
    let mut plan = data_plan(&["a.csv"], "health");
    plan.sequence.group_column = Some("account".into());
    plan.sequence.order_column = Some("day".into());
    change(&mut plan);
    plan
}

#[test]
fn rows_of_an_account_are_one_sample_in_the_order_of_days() {
    let root = Root::new(&[("a.csv", series().as_bytes())]);
    let prepared = root.prepare(&of_accounts(|_| {}), Task::Regression).expect("the data are good");
    let manifest = manifest(&prepared);
    let sequence = manifest.sequence.as_ref().expect("sequences");
    assert_eq!((sequence.max_steps, manifest.width()), (6, 1));
    let mut seen = 0;
    for split in Split::ALL {
        let rows = encoded(&prepared, split);
        assert_eq!((rows.rows as u64, rows.features.len()), (manifest.rows(split), 0));
        let steps = rows.inputs.steps.as_ref().expect("steps");
        for (row, id) in rows.sample_ids.iter().enumerate() {
            let own = &steps.values[steps.offsets[row] as usize..steps.offsets[row + 1] as usize];
            let n =
                (0..20usize).find(|n| *id == within_data_loader::load::id_of(&format!("a{n}"))).expect("an account");
            assert_eq!(own.len(), 2 + n % 5);
            assert!(own.windows(2).all(|pair| pair[0] < pair[1]), "{own:?}");
            // The last day's value.
            assert_eq!(rows.targets[row], (n % 3 + own.len() - 1) as f32);
            seen += 1;
        }
    }
    assert_eq!(seen, 20);
}

#[test]
fn nothing_of_other_parts_moves_what_is_fitted_on_steps() {
    let plan = of_accounts(|plan| plan.split.strategy = SplitStrategy::Random);
    let clean = Root::new(&[("a.csv", series().as_bytes())]);
    let prepared = clean.prepare(&plan, Task::Regression).expect("the data are good");
    let train = encoded(&prepared, Split::Train);
    // Every value of an account that is not of train grows beyond all bounds.
    let poisoned: Vec<String> = series()
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let known =
                fields[0] == "account" || train.sample_ids.contains(&within_data_loader::load::id_of(fields[0]));
            if known { line.to_owned() } else { format!("{},{},1e9,{}", fields[0], fields[1], fields[3]) }
        })
        .collect();
    let dirty = Root::new(&[("a.csv", poisoned.join("\n").as_bytes())]);
    let dirty = dirty.prepare(&plan, Task::Regression).expect("the data are good");
    assert_eq!(manifest(&dirty).features, manifest(&prepared).features);
    assert_eq!(encoded(&dirty, Split::Train), train);
}

#[test]
fn days_that_stand_twice_and_accounts_that_have_none_are_named() {
    let twice = format!("{}\na3,1,7,7", series());
    let root = Root::new(&[("a.csv", twice.as_bytes())]);
    let error = root.prepare(&of_accounts(|_| {}), Task::Regression).expect_err("a day twice");
    assert!(error.message.contains("sample \"a3\" has the same value in two of its rows"), "{error}");
    assert!(error.hint.unwrap_or_default().contains("order_column"));
    // Without an order they are two steps.
    let plan = of_accounts(|plan| plan.sequence.order_column = None);
    assert!(root.prepare(&plan, Task::Regression).is_ok());

    let missing = format!("{}\n,1,7,7", series());
    let root = Root::new(&[("a.csv", missing.as_bytes())]);
    let error = root.prepare(&of_accounts(|_| {}), Task::Regression).expect_err("no account");
    assert!(error.message.contains("it says which sample a row belongs to"), "{error}");

    let root = Root::new(&[("a.csv", series().as_bytes()), ("b.csv", b"account,day,clicks,health\na3,9,1,2\nz,1,1,1")]);
    let plan = of_accounts(|plan| plan.test_path = vec!["b.csv".into()]);
    let error = root.prepare(&plan, Task::Regression).expect_err("in both");
    assert!(error.message.contains("sample \"a3\" has rows in the test files and in the others"), "{error}");
}

#[test]
fn images_are_normalized_by_train_or_as_given() {
    let of = |change: &dyn Fn(&mut messages::plan::ColumnFittingPlan)| {
        let (csv, plan) = ads(|plan| {
            if let Some(image) = plan.columns.get_mut("image") {
                change(&mut image.fitting);
            }
        });
        let root = Root::new(&[("a.csv", csv.as_bytes()), ("a.idx", &idx(5))]);
        root.prepare(&plan, Task::BinaryClassification)
    };
    let floats = |rows: &frame::Encoded| match &rows.inputs.images.as_ref().expect("images").pixels {
        PixelValues::Floats(floats) => floats.clone(),
        PixelValues::Bytes(_) => panic!("floats"),
    };
    let prepared =
        of(&|fitting| fitting.normalize = Some(messages::plan::Normalize::Fitted)).expect("the data are good");
    let train = encoded(&prepared, Split::Train);
    let pixels = floats(&train);
    let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.len() as f64;
    let square = pixels.iter().map(|&p| f64::from(p) * f64::from(p)).sum::<f64>() / pixels.len() as f64;
    assert!(mean.abs() < 1e-6 && (square - 1.0).abs() < 1e-5, "{mean} {square}");
    // A frame carries them, and a row is as large as the manifest says.
    let bound = frame::frame_bytes_bound(train.rows, manifest(&prepared).row_bytes());
    let framed = frame::encode_frame(train.clone()).expect("a frame");
    assert!(framed.len() <= bound, "{} of {bound} bytes", framed.len());
    assert_eq!(frame::decode_frame(&framed).expect("reads"), train);
    let given = of(&|fitting| {
        fitting.normalize = Some(messages::plan::Normalize::Given);
        (fitting.mean, fitting.std) = (Some(vec![2.0 / 255.0]), Some(vec![1.0 / 255.0]));
    });
    let pixels = floats(&encoded(&given.expect("the data are good"), Split::Train));
    assert!(pixels.iter().all(|p| (p - p.round()).abs() < 1e-5 && (-2.0..=2.0).contains(p)), "{pixels:?}");
    let wrong = of(&|fitting| {
        fitting.normalize = Some(messages::plan::Normalize::Given);
        (fitting.mean, fitting.std) = (Some(vec![0.5; 3]), Some(vec![0.5; 3]));
    });
    assert!(
        wrong.expect_err("one channel").message.contains("3 means and 3 deviations, but its images have 1 channels")
    );
}
