//! The artifact store.

use bus::ErrorKind;
use bus::artifact::ArtifactStore;
use bytes::Bytes;
use messages::ArtifactRef;

fn store() -> (ArtifactStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let folder = dir.path().join("art ifacts ü");
    (ArtifactStore::open(folder.to_str().expect("UTF-8")).expect("opens"), dir)
}

#[tokio::test]
async fn bytes_come_back_by_their_hash() {
    let (store, _dir) = store();
    let bytes = Bytes::from_static(b"{\"a\":[1,2]}");
    let artifact = store.put_bytes("plan", "plan.json", bytes.clone()).await.expect("stored");
    assert_eq!(artifact.blake3, blake3::hash(&bytes).to_hex().as_str());
    assert!(artifact.uri.starts_with("file:///") && artifact.uri.contains("art%20ifacts%20%C3%BC"), "{}", artifact.uri);
    assert!(artifact.uri.ends_with(&format!("/plan/{}/{}/plan.json", &artifact.blake3[..2], artifact.blake3)));
    assert_eq!(store.put_bytes("plan", "plan.json", bytes.clone()).await.expect("stored"), artifact);
    assert_eq!(store.get(&artifact).await.expect("reads"), bytes);
    let value: serde_json::Value = store.get_json(&artifact).await.expect("reads");
    assert_eq!(value["a"][1], 2);
    let error = store.get_json::<Vec<String>>(&artifact).await.expect_err("another type");
    assert_eq!(error.kind(), ErrorKind::BadMessage);
    let again = ArtifactStore::open(&format!("file://{}", store.root().to_str().expect("UTF-8").replace(' ', "%20")));
    assert_eq!(again.expect("opens by URL").get(&artifact).await.expect("reads"), bytes);
}

#[tokio::test]
async fn a_file_is_stored_without_a_copy_in_memory() {
    let (store, dir) = store();
    let file = dir.path().join("big");
    let content: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&file, &content).expect("written");
    for _ in 0..2 {
        let artifact = store.put_file("model", "model.safetensors", &file).await.expect("stored");
        assert_eq!(artifact.size_bytes, 5_000_000);
        let path = store.local_path(&artifact).await.expect("there");
        assert_eq!(std::fs::read(path).expect("reads"), content);
    }
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").expect("written");
    let artifact = store.put_file("log", "empty", &empty).await.expect("stored");
    assert!(store.get(&artifact).await.expect("reads").is_empty());
    let error = store.put_file("model", "m", &dir.path().join("none")).await.expect_err("no file");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn damage_is_found() {
    let (store, _dir) = store();
    let artifact = store.put_bytes("model", "m.bin", Bytes::from_static(b"12345678")).await.expect("stored");
    let path = store.local_path(&artifact).await.expect("there");
    for damage in [b"12345679".as_slice(), b"1234", b"123456789"] {
        std::fs::write(&path, damage).expect("written");
        for error in [store.get(&artifact).await.map(|_| ()), store.local_path(&artifact).await.map(|_| ())] {
            let error = error.expect_err("damaged");
            assert_eq!((error.kind(), error.to_wire().code.as_str()), (ErrorKind::Integrity, "artifact_corrupt"));
        }
    }
    std::fs::write(&path, b"1234").expect("written");
    let healed = store.put_bytes("model", "m.bin", Bytes::from_static(b"12345678")).await.expect("stored");
    assert_eq!(store.get(&healed).await.expect("a torn one is replaced").as_ref(), b"12345678");
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(store.get(&artifact).await.expect_err("gone").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn nothing_outside_the_store_is_reached() {
    let (store, dir) = store();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, b"secret").expect("written");
    let hash = blake3::hash(b"secret").to_hex().to_string();
    let root = store.root().to_str().expect("UTF-8").to_owned();
    for uri in [
        format!("file://{}", secret.display()),
        format!("file://{root}/../secret"),
        format!("file://{root}/%2e%2e/secret"),
        format!("file://{root}evil/secret"),
        "file:///etc/passwd".into(),
        "s3://bucket/secret".into(),
        "secret".into(),
        String::new(),
        "file://%zz".into(),
    ] {
        let artifact = ArtifactRef { uri: uri.clone(), blake3: hash.clone(), size_bytes: 6 };
        let error = store.get(&artifact).await.expect_err(&uri);
        assert_eq!(error.kind(), ErrorKind::Permission, "{uri}: {error}");
    }
    for (kind, name) in [("..", "x"), ("a/b", "x"), ("a", "../x"), ("a", ".hidden"), ("a", ""), ("", "x"), ("a", "é")]
    {
        let error = store.put_bytes(kind, name, Bytes::new()).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Permission, "{kind}/{name}");
    }
    for (kind, name) in [("checkpoints", "../../etc"), ("..", ".."), ("", "a/b")] {
        let folder = store.local_dir(kind, name);
        assert!(folder.starts_with(store.root()), "{}", folder.display());
        assert!(folder.components().all(|part| !matches!(part, std::path::Component::ParentDir)));
    }
    assert_eq!(store.local_dir("checkpoints", "job-1"), store.root().join("checkpoints/job-1"));
}

#[tokio::test]
async fn a_store_mounted_elsewhere_gives_the_same_artifact() {
    let (one, _dir) = store();
    let (two, _other) = store();
    let artifact = one.put_bytes("model", "m.bin", Bytes::from_static(b"weights")).await.expect("stored");
    two.put_bytes("model", "m.bin", Bytes::from_static(b"weights")).await.expect("stored");
    assert_eq!(two.get(&artifact).await.expect("found by its address").as_ref(), b"weights");
}

#[tokio::test]
async fn a_store_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let file = dir.path().join("file");
    std::fs::write(&file, b"").expect("written");
    let inside = file.join("store");
    for location in ["", "s3://bucket", inside.to_str().expect("UTF-8")] {
        let error = ArtifactStore::open(location).expect_err(location);
        assert_eq!(error.kind(), ErrorKind::Storage, "{location}: {error}");
    }
}
