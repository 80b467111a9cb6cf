//! `make gpu-bench` on the played driver: every figure is made and stands in the table, by the same code as on a GPU. The
//! figures themselves mean nothing here.

use super::folder;
use super::gpu::{alone, environment, open};
use kernels::cuda::cublaslt::Form;
use kernels::cuda::{CublasLt, Machine, Nvml};
use kernels::dtype::Precision;
use kernels::philox::{Key, Stream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[allow(dead_code, reason = "the bench's own main reads more settings")]
#[path = "../../../benches/gpu/suite/mod.rs"]
mod suite;

fn settings(python: Option<&Path>) -> Option<suite::Settings> {
    Some(suite::Settings {
        scale: suite::Scale::Quick,
        environment: environment()?,
        cubins: Path::new(env!("CARGO_TARGET_TMPDIR")).join("cubins"),
        python: python.map(Into::into),
    })
}

/// The cells of the rows of a table that begin with this one.
fn rows<'r>(report: &'r str, first: &str) -> Vec<Vec<&'r str>> {
    let cells = |line: &'r str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    report.lines().map(cells).filter(|cells| cells[0] == first).collect()
}

#[test]
fn every_figure_is_made() {
    let Some(settings) = settings(None) else { return alone("cuda::bench::every_figure_is_made", &[]) };
    let report = suite::run(&settings).expect("measures").to_string();
    println!("{report}");
    assert!(report.contains("## Measured: played device (sm_90), driver of CUDA 13.0 (580.0.played), 20"), "{report}");
    assert!(report.contains("PyTorch: not measured"), "{report}");
    let found = rows(&report, "linear");
    assert_eq!(found.len(), 3 * 4, "{report}");
    for row in &found {
        let [.., achieved, share, goal, torch, compiled] = row[..] else { panic!("{row:?}") };
        assert!(achieved.ends_with(" TFLOP/s") && share.ends_with(" %") && goal == "95 %", "{row:?}");
        assert_eq!((torch, compiled), ("-", "-"));
    }
    let operations =
        ["gelu", "multiply", "dropout", "layer_norm", "softmax", "cross_entropy", "embedding", "optimizer"];
    for op in operations {
        for row in rows(&report, op) {
            assert!(row[5].ends_with(" GB/s") && row[6].ends_with(" %"), "{row:?}");
        }
        assert!(!rows(&report, op).is_empty(), "{op}: {report}");
    }
    for (op, count) in [("conv2d", 12), ("lstm", 12), ("attention", 6)] {
        assert_eq!(rows(&report, op).len(), count, "{op}: {report}");
    }
    let steps = rows(&report, "3");
    let ways = [["f32", "on"], ["f32", "off"], ["bf16", "on"], ["bf16", "off"]];
    assert_eq!(steps.iter().map(|row| [row[1], row[2]]).collect::<Vec<_>>(), ways, "{report}");
    // The played counter moves by one joule each time that it is read.
    assert!(steps.iter().all(|row| row[5] == "0.500"), "{steps:?}");
}

#[test]
fn a_peers_figures_stand_beside_ours_and_what_is_missing_is_not_measured() {
    let Some(_) = environment() else {
        return alone(
            "cuda::bench::a_peers_figures_stand_beside_ours_and_what_is_missing_is_not_measured",
            &[("SIMT_NVML", "1")],
        );
    };
    let folder = tempfile::tempdir().expect("a folder");
    let python = folder.path().join("python");
    let say = |what: &str| {
        std::fs::write(&python, format!("#!/bin/sh\n{what}\n")).expect("written");
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("set");
    };
    // What the script prints, for one case that it is asked about; other lines are of other programs.
    say("echo noise; echo '{\"torch\": \"2.9.0\"}'\n\
         case \"$3\" in *'\"name\":\"ad_score 3\"'*) ;; *) exit 3;; esac\n\
         echo '{\"name\": \"softmax 9 x 33\", \"what\": \"forward\", \"precision\": \"f32\", \"eager_s\": 1e9}'\n\
         echo '{\"name\": \"ad_score 3\", \"what\": \"step\", \"precision\": \"bf16\", \"eager_s\": 2e9, \"compiled_s\": 1e9}'");
    let settings = settings(Some(&python)).expect("played");
    let report = suite::run(&settings).expect("measures").to_string();
    assert!(report.contains("PyTorch 2.9.0: a ratio above 1"), "{report}");
    assert!(report.contains("Energy: not measured: nvmlInit_v2 failed with nvmlReturn 999."), "{report}");
    let softmax = &rows(&report, "softmax")[0];
    assert!(softmax[8].parse::<f64>().expect("a ratio") > 1e6 && softmax[9] == "-", "{softmax:?}");
    let steps = rows(&report, "3");
    assert!(steps[0][5] == "not measured" && steps[0][6] == "-", "{steps:?}");
    assert!(steps[2][6].parse::<f64>().is_ok() && steps[3][7].parse::<f64>().is_ok(), "{steps:?}");
    // A Python without torch.
    say("echo 'no module named torch'; exit 1");
    let report = suite::run(&settings).expect("measures").to_string();
    let told = report.lines().find(|line| line.starts_with("PyTorch: not measured: ")).expect("told");
    assert!(told.contains("exit status: 1: no module named torch"), "{told}");
}

#[test]
fn cublaslt_is_given_the_matrices_that_our_products_have() {
    let Some(environment) = environment() else {
        return alone("cuda::bench::cublaslt_is_given_the_matrices_that_our_products_have", &[]);
    };
    let gpu = open(&environment).expect("opens");
    let library = CublasLt::load(gpu.clone(), &environment).expect("played");
    let mut rng = Key::new(3, Stream::Generate).rng(0, 0);
    let mut numbers = |count: usize| (0..count).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
    let [rows, outputs, inputs] = [5, 3, 7];
    let (x, weight, grad) = (numbers(rows * inputs), numbers(outputs * inputs), numbers(rows * outputs));
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        let send = |values: &[f32]| {
            let bytes: Vec<u8> = match precision {
                Precision::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Precision::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
                Precision::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            };
            let at = gpu.allocate(bytes.len()).expect("memory");
            gpu.upload(&bytes, at).expect("queued");
            at
        };
        let rounded = |values: &[f32], at: usize| f64::from(precision.round(values[at]));
        let run = |form, left: &[f32], right: &[f32], count: usize, term: &dyn Fn(usize) -> f64| {
            let product = library.product(form, precision, [rows, outputs, inputs]).expect("an algorithm");
            let out = gpu.allocate(count * 4).expect("memory");
            product.start(send(left), send(right), out).expect("starts");
            let mut bytes = vec![0; count * 4];
            gpu.download(out, &mut bytes).expect("copied");
            for (at, bytes) in bytes.chunks_exact(4).enumerate() {
                let got = f64::from(f32::from_le_bytes(std::array::from_fn(|i| bytes[i])));
                let expected = term(at);
                assert!((got - expected).abs() <= 1e-5, "{form:?} {precision:?} at {at}: {got} for {expected}");
            }
        };
        run(Form::Forward, &x, &weight, rows * outputs, &|at| {
            let (row, column) = (at / outputs, at % outputs);
            let term = |k| rounded(&x, row * inputs + k) * rounded(&weight, column * inputs + k);
            (0..inputs).map(term).sum()
        });
        run(Form::Backward, &grad, &weight, rows * inputs, &|at| {
            let (row, column) = (at / inputs, at % inputs);
            let term = |k| rounded(&grad, row * outputs + k) * rounded(&weight, k * inputs + column);
            (0..outputs).map(term).sum()
        });
        run(Form::Weight, &grad, &x, outputs * inputs, &|at| {
            let (row, column) = (at / inputs, at % inputs);
            let term = |k| rounded(&grad, k * outputs + row) * rounded(&x, k * inputs + column);
            (0..rows).map(term).sum()
        });
    }
}

#[test]
fn what_a_device_is_not_is_told_in_one_line() {
    let nowhere = folder().join("nowhere");
    let environment = kernels::cuda::CudaEnvironment { folder: Some(nowhere), ..Default::default() };
    if let Err(what) = Nvml::open("0000:00:00.0", &environment) {
        assert!(what.starts_with("nvidia-ml: none of libnvidia-ml.so.1") && !what.contains('\n'), "{what}");
    }
}
