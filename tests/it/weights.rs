//! `within weights hash`: the hash that a run announces, of the file alone and of a checkpoint.

use crate::harness::{Sandbox, file_of, spec, table, text};

#[test]
fn a_model_file_and_a_checkpoint_hash_to_what_the_run_announced() {
    let sandbox = Sandbox::new();
    sandbox.write("table.csv", table(600));
    sandbox.write("job.yaml", spec("table.csv", 3, "  checkpoint: {save_steps: 4}\n"));
    let ended = sandbox.within(&["run", "job.yaml", "--json", "--id", "hashed"]).expect(0);
    let names: Vec<String> = ended.events("checkpoint").iter().map(|line| text(line, "/name").to_owned()).collect();
    assert!(names.iter().any(|name| name == "checkpoint_step_000004"), "{names:?}");
    assert!(names.iter().any(|name| name == "checkpoint_epoch_003"), "{names:?}");
    let last = ended.last();
    let announced = text(&last, "/model/blake3");
    let model = file_of(&last["model"]["uri"]);
    let model = model.to_str().expect("text");
    assert_eq!(sandbox.within(&["weights", "hash", model]).expect(0).stdout, format!("params {announced}\n"));

    let checkpoint = sandbox.home().join("store/checkpoints/hashed/checkpoint_epoch_003");
    let folder = checkpoint.to_str().expect("text");
    let hashes = sandbox.within(&["weights", "hash", folder, "--json"]).expect(0).last();
    assert_eq!((text(&hashes, "/params").len(), text(&hashes, "/optimizer").len()), (64, 64), "{hashes}");
    let lines = sandbox.within(&["weights", "hash", folder]).expect(0).stdout;
    let expected = format!("params {}\noptimizer {}\n", text(&hashes, "/params"), text(&hashes, "/optimizer"));
    assert_eq!(lines, expected);

    let file = checkpoint.join("optimizer.safetensors");
    let mut bytes = std::fs::read(&file).expect("reads");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&file, bytes).expect("writes");
    let refused = sandbox.within(&["weights", "hash", folder]).expect(3).stderr;
    assert!(refused.contains("optimizer.safetensors") && refused.contains("BLAKE3"), "{refused}");
    assert!(sandbox.within(&["weights", "hash", "nowhere"]).expect(2).stderr.contains("expected a model file"));
}
