//! Files of object stores and web servers, against a small server of our own that answers as S3 does, or badly.

use std::path::Path;
use std::time::{Duration, Instant};

use bus::remote::{Limits, Remote};
use messages::error::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than a part of a transfer.
const BYTES: usize = 300_000;

fn content() -> Vec<u8> {
    (0..BYTES).map(|i| (i * 31 % 251) as u8).collect()
}

/// Serves the bucket `ads` with `data/year=2023/a.csv`, `data/year=2024/b.csv` and files that misbehave; gives its port.
async fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_all(stream));
        }
    });
    port
}

async fn answer_all(mut stream: TcpStream) {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = buffer.split_off(end + 4);
                break String::from_utf8_lossy(&std::mem::replace(&mut buffer, rest)).into_owned();
            }
            let mut part = [0; 4096];
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => return,
                Ok(read) => buffer.extend_from_slice(&part[..read]),
            }
        };
        if answer(&mut stream, &head).await.is_err() {
            return;
        }
    }
}

/// An answer with a store's list of files.
fn listing(xml: &str) -> String {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/xml";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{xml}", xml.len())
}

/// `Err` closes the connection.
async fn answer(stream: &mut TcpStream, head: &str) -> Result<(), std::io::Error> {
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let from = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned))
        .and_then(|range| range.split('-').next()?.parse::<usize>().ok());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // One of the stores spells them so.
    let path = path.replace("%2F", "/").replace("%2E", ".");
    let name = path.rsplit('/').next().unwrap_or_default();
    let status = |code: &str| format!("HTTP/1.1 {code}\r\ncontent-length: 0\r\n\r\n");
    if query.contains("list-type=2") {
        let entry = |key: &str| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag><Size>{BYTES}</Size></Contents>"
            )
        };
        let keys = ["data/year=2024/b.csv", "data/year=2023/a.csv", "data/readme.txt"].map(entry).concat();
        let body = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>");
        return stream.write_all(listing(&body).as_bytes()).await;
    }
    if query.contains("comp=list") {
        let entry = |key: &str| {
            format!(
                "<Blob><Name>{key}</Name><Properties><Last-Modified>Mon, 01 Jan 2024 00:00:00 GMT</Last-Modified>\
                 <Content-Length>{BYTES}</Content-Length><Content-Type>text/csv</Content-Type><Etag>e</Etag></Properties></Blob>"
            )
        };
        let keys = ["data/readme.txt", "data/year=2023/a.csv", "data/year=2024/b.csv"].map(entry).concat();
        let body = format!("<EnumerationResults><Blobs>{keys}</Blobs><NextMarker/></EnumerationResults>");
        return stream.write_all(listing(&body).as_bytes()).await;
    }
    match name {
        "secret.csv" => return stream.write_all(status("403 Forbidden").as_bytes()).await,
        "none.csv" => return stream.write_all(status("404 Not Found").as_bytes()).await,
        "moved.csv" => {
            let head = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/x\r\ncontent-length: 0\r\n\r\n";
            return stream.write_all(head.as_bytes()).await;
        }
        "silent.csv" => std::future::pending::<()>().await,
        _ => {}
    }
    let (content, first) = (content(), from.unwrap_or(0));
    let body = &content[first..];
    let range = from.map(|first| format!("content-range: bytes {first}-{}/{BYTES}\r\n", BYTES - 1)).unwrap_or_default();
    let code = if from.is_some() { "206 Partial Content" } else { "200 OK" };
    let head = format!(
        "HTTP/1.1 {code}\r\ncontent-length: {}\r\n{range}etag: \"e\"\r\nlast-modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method == "HEAD" {
        return Ok(());
    }
    match name {
        // Breaks off once, and again; each time some more has come.
        "broken.csv" if first < BYTES / 2 => {
            stream.write_all(&body[..BYTES / 3]).await?;
            stream.flush().await?;
            Err(std::io::Error::other("broken off"))
        }
        "stuck.csv" => {
            stream.write_all(&body[..1000]).await?;
            std::future::pending::<()>().await;
            Ok(())
        }
        _ => stream.write_all(body).await,
    }
}

/// Stores that the server answers as.
const STORES: [&str; 3] = ["s3", "gs", "az"];

/// This name in each of the stores, and on the web.
fn everywhere(port: u16, name: &str) -> Vec<String> {
    let stores = STORES.iter().map(|store| format!("{store}://ads/{name}"));
    stores.chain([format!("http://127.0.0.1:{port}/{name}")]).collect()
}

fn remote(port: u16) -> Remote {
    let allowed =
        STORES.iter().map(|store| format!("{store}://ads")).chain([format!("http://127.0.0.1:{port}")]).collect();
    let options = [
        ("google_base_url", format!("http://127.0.0.1:{port}")),
        ("google_skip_signature", "true".into()),
        ("google_allow_http", "true".into()),
        ("azure_storage_account_name", "within".into()),
        ("azure_storage_endpoint", format!("http://127.0.0.1:{port}")),
        ("azure_skip_signature", "true".into()),
        ("azure_allow_http", "true".into()),
        ("aws_endpoint", format!("http://127.0.0.1:{port}")),
        ("aws_region", "eu-central-1".into()),
        ("aws_skip_signature", "true".into()),
        ("aws_allow_http", "true".into()),
    ];
    let options = options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let stall = Duration::from_millis(700);
    Remote::new(Limits { allowed, options, stall, max_bytes: 1 << 20, ..Limits::default() }).expect("origins")
}

async fn copied(remote: &Remote, url: &str, folder: &Path) -> Vec<std::path::PathBuf> {
    remote.mirror(url, &|name| name.contains(".csv"), folder).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[tokio::test]
async fn files_are_copied_to_where_their_urls_say() {
    let (port, folder) = (serve().await, tempfile::tempdir().expect("a folder"));
    let (remote, root) = (remote(port), folder.path());
    for store in STORES {
        let files = copied(&remote, &format!("{store}://ads/data/year=*/*.csv"), root).await;
        let names = ["data/year=2023/a.csv", "data/year=2024/b.csv"];
        assert_eq!(files, names.map(|name| root.join(format!("{store}:/ads")).join(name)));
    }
    for url in everywhere(port, "x/one.csv") {
        let files = copied(&remote, &url, root).await;
        assert_eq!(std::fs::read(&files[0]).expect("is there"), content(), "{url}");
        assert!(root.join(&url).exists(), "{url}");
    }
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_where_it_stood() {
    let (port, folder) = (serve().await, tempfile::tempdir().expect("a folder"));
    for url in everywhere(port, "broken.csv") {
        let files = copied(&remote(port), &url, folder.path()).await;
        assert_eq!(std::fs::read(&files[0]).expect("is there"), content(), "{url}");
    }
}

#[tokio::test]
async fn every_failure_is_told_in_bounded_time() {
    let (port, folder) = (serve().await, tempfile::tempdir().expect("a folder"));
    let remote = remote(port);
    for (name, code, says) in [
        ("secret.csv", Code::Forbidden, "403"),
        ("none.csv", Code::DatasetNotFound, "404"),
        ("moved.csv", Code::DatasetNotFound, "cannot be read"),
        ("silent.csv", Code::DeadlineExceeded, "no answer"),
        ("stuck.csv", Code::DeadlineExceeded, "nothing came"),
    ] {
        for url in everywhere(port, name) {
            let begun = Instant::now();
            let error = remote.mirror(&url, &|_| true, folder.path()).await.expect_err(&url).to_wire();
            assert!(begun.elapsed() < Duration::from_secs(20), "{url}: {:?}", begun.elapsed());
            println!("{error}");
            if name == "silent.csv" || name == "stuck.csv" {
                // Whichever wait ends first.
                assert!(matches!(error.code, Code::DeadlineExceeded | Code::DatasetNotFound), "{error}");
            } else {
                assert_eq!(error.code, code, "{error}");
                assert!(error.message.contains(says), "{error}");
            }
            assert!(error.message.contains(&url), "{error}");
        }
    }
    let small =
        Remote::new(Limits { allowed: vec![format!("http://127.0.0.1:{port}")], max_bytes: 1000, ..Limits::default() });
    let url = format!("http://127.0.0.1:{port}/huge.csv");
    let error =
        small.expect("an origin").mirror(&url, &|_| true, folder.path()).await.expect_err("too large").to_wire();
    assert_eq!(error.code, Code::TooLarge, "{error}");
}

/// Against moto, where `WITHIN_MOTO_PYTHON` names a Python that has it: a real listing of several pages, real 404s.
#[tokio::test]
async fn moto_is_read_as_s3() {
    use tokio::io::AsyncBufReadExt;
    let Some(python) = std::env::var_os("WITHIN_MOTO_PYTHON") else {
        println!("skipped: WITHIN_MOTO_PYTHON names no Python with moto");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/s3.py");
    let mut command = tokio::process::Command::new(python);
    command.arg(script).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut server = command.spawn().expect("starts");
    let mut lines = tokio::io::BufReader::new(server.stdout.take().expect("an output")).lines();
    let port: u16 = lines.next_line().await.expect("reads").expect("a port").trim().parse().expect("a number");
    let folder = tempfile::tempdir().expect("a folder");
    let signed = Remote::new(Limits {
        allowed: vec!["s3://ads".into()],
        options: [
            ("aws_endpoint".to_owned(), format!("http://127.0.0.1:{port}")),
            ("aws_access_key_id".to_owned(), "test".to_owned()),
            ("aws_secret_access_key".to_owned(), "test".to_owned()),
            ("aws_allow_http".to_owned(), "true".to_owned()),
        ]
        .into(),
        ..Limits::default()
    })
    .expect("an origin");
    let files = copied(&signed, "s3://ads/data/year=2024/a.csv", folder.path()).await;
    assert_eq!(std::fs::metadata(&files[0]).expect("is there").len(), 4 + 4 * 2024 * 1000);
    let files = copied(&signed, "s3://ads/many/*.csv", folder.path()).await;
    assert_eq!(files.len(), 1200, "more than a page");
    let error = signed.mirror("s3://ads/none/x.csv", &|_| true, folder.path()).await.expect_err("404").to_wire();
    assert_eq!(error.code, Code::DatasetNotFound, "{error}");
    let none = signed.mirror("s3://ads/none/*.csv", &|_| true, folder.path()).await.expect_err("empty").to_wire();
    assert_eq!(none.code, Code::DatasetNotFound, "{none}");
    // Without a signature this bucket says nothing.
    let file = "s3://ads/many/0000.csv";
    let error = remote(port).mirror(file, &|_| true, folder.path()).await.expect_err("403").to_wire();
    assert_eq!(error.code, Code::Forbidden, "{error}");
}
