//! Scratch: peak memory.
use std::io::Write;
fn main() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let mut f = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    writeln!(f, "a,b,c,d,e,f,g,h,t,u,y").unwrap();
    for i in 0..1_500_000u64 {
        writeln!(
            f,
            "{}.{},{},{}.5,{},{},{},{},{},cat{},x{},{}",
            i,
            i % 97,
            i * 7 % 1000,
            i % 31,
            i,
            i * i % 99991,
            i % 5,
            i % 7,
            i % 11,
            i % 50,
            i % 300,
            i % 1000
        )
        .unwrap();
    }
    f.flush().unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    let plan: messages::plan::JobPlan = serde_json::from_str(include_str!("../tests/it/plan.json")).unwrap();
    let mut data = plan.data;
    data.path = vec!["a.csv".into()];
    data.target.column = "y".into();
    data.exclude.clear();
    let t = std::time::Instant::now();
    let p = within_data_loader::prepare::prepare(
        &data,
        messages::plan::Task::Regression,
        &[dir.path().to_path_buf()],
        &Default::default(),
    )
    .unwrap();
    let hwm = || {
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find(|l| l.starts_with("VmHWM"))
            .unwrap()
            .to_owned()
    };
    println!("file {} MB, prepare {:?}, {}", size / 1_000_000, t.elapsed(), hwm());
    for s in messages::feed::Split::ALL {
        for r in p.shards(s) {
            frame::write_shard(&p.table(s, r).unwrap()).unwrap();
        }
    }
    println!("shards {:?} {}", t.elapsed(), hwm());
}
