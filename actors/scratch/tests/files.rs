//! The allocator of a program: what is filled, sorted and grown beyond the share of memory lies in files, and reads the
//! same; what the process has of them in memory stays small.

use std::path::{Path, PathBuf};

use within_scratch::{LARGE_BYTES, Scope, Scratch};

#[global_allocator]
static ALLOCATOR: Scratch = Scratch;

const MIB: usize = 1 << 20;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// `splitmix64`.
fn mixed(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A line of `/proc/self/status` in bytes.
fn status(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a line");
    line.split_whitespace().nth(1).expect("a figure").parse::<usize>().expect("a number") << 10
}

#[test]
fn vectors_beyond_the_share_lie_in_files() {
    let scope = Scope::new(folder(), 8 * MIB);
    assert!(scope.works());
    let _inside = scope.enter();
    let mut numbers: Vec<u64> = (0..(MIB as u64)).map(mixed).collect();
    assert!(scope.memory_bytes() <= 8 * MIB);
    // Grown from memory into a file, one by one.
    numbers.extend((MIB as u64..3 * MIB as u64).map(mixed));
    assert!(scope.file_peak_bytes() >= 3 * 8 * MIB as u64, "{}", scope.file_peak_bytes());
    assert!(numbers.iter().enumerate().all(|(i, number)| *number == mixed(i as u64)));
    let sum = numbers.iter().fold(0u64, |sum, number| sum.wrapping_add(*number));
    numbers.sort_unstable();
    assert!(numbers.is_sorted());
    assert_eq!(sum, numbers.iter().fold(0u64, |sum, number| sum.wrapping_add(*number)));
    numbers.truncate(1000);
    numbers.shrink_to_fit();
    assert_eq!(numbers.len(), 1000);
    drop(numbers);
    assert_eq!(scope.memory_bytes(), 0);
    assert!(scope.failure().is_none());
}

#[test]
fn what_files_have_in_memory_is_a_window() {
    let scope = Scope::new(folder(), 0);
    let _inside = scope.enter();
    let count = 96 * MIB;
    let mut most = 0;
    let mut numbers: Vec<u64> = Vec::with_capacity(count);
    for i in 0..count as u64 {
        numbers.push(i);
        if i % (MIB as u64) == 0 {
            most = most.max(status("RssFile"));
        }
    }
    assert_eq!(scope.file_peak_bytes(), 8 * count as u64);
    assert!(numbers.iter().enumerate().all(|(i, number)| *number == i as u64));
    // The window and what a busy machine lets in until somebody looks, of 768 MiB.
    assert!(most < 500 * MIB, "{most}");
}

#[test]
fn pieces_grow_and_shrink_as_those_of_the_system() {
    let scope = Scope::new(folder(), 20 * MIB);
    let _inside = scope.enter();
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for step in 0..3_000u64 {
        let draw = mixed(step);
        let at = (draw >> 8) as usize % 8;
        if pieces.len() <= at {
            pieces.push(Vec::new());
            continue;
        }
        let piece = &mut pieces[at];
        let size = (draw >> 20) as usize % (5 * MIB);
        match draw % 4 {
            0 => *piece = (0..size).map(|i| (i as u64 ^ draw) as u8).collect(),
            1 => {
                let before = piece.clone();
                piece.resize(size, (size % 251) as u8);
                let kept = size.min(before.len());
                assert!(piece[..kept] == before[..kept] && piece[kept..].iter().all(|b| *b == (size % 251) as u8));
            }
            2 => {
                let before = piece.clone();
                piece.truncate(size);
                piece.shrink_to_fit();
                assert!(piece[..] == before[..piece.len()]);
            }
            _ => {
                let twin = piece.clone();
                assert!(twin == *piece);
                *piece = twin;
            }
        }
        if let Some(last) = piece.last_mut() {
            *last = (step % 251) as u8;
            assert_eq!(piece.last(), Some(&((step % 251) as u8)));
        }
        assert!(scope.memory_bytes() <= 20 * MIB);
    }
    drop(pieces);
    assert_eq!(scope.memory_bytes(), 0);
}

#[test]
fn threads_share_a_scope_and_free_for_each_other() {
    let scope = Scope::new(folder(), 4 * MIB);
    let _inside = scope.enter();
    let current = Scope::current().expect("inside");
    let made: Vec<Vec<u64>> = std::thread::scope(|threads| {
        let handles: Vec<_> = (0..4)
            .map(|thread| {
                let current = current.clone();
                threads.spawn(move || {
                    let _inside = current.enter();
                    (0..MIB as u64 / 2).map(|i| mixed(i ^ thread)).collect::<Vec<_>>()
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("ends")).collect()
    });
    for (thread, numbers) in made.iter().enumerate() {
        assert!(numbers.iter().enumerate().all(|(i, number)| *number == mixed(i as u64 ^ thread as u64)));
    }
    assert!(scope.file_peak_bytes() >= 12 * MIB as u64);
    std::thread::spawn(move || drop(made)).join().expect("ends");
    assert_eq!(scope.memory_bytes(), 0);
}

#[test]
fn without_a_file_memory_is_taken_and_it_is_told() {
    let scope = Scope::new(Path::new("nowhere").join("at-all"), MIB);
    let _inside = scope.enter();
    let mut numbers = vec![7u8; 3 * MIB];
    assert_eq!(scope.failure().expect("told").kind(), std::io::ErrorKind::NotFound);
    numbers.resize(9 * MIB, 8);
    assert!(numbers[..3 * MIB].iter().all(|number| *number == 7) && numbers[3 * MIB..].iter().all(|n| *n == 8));
}

#[test]
fn outside_of_a_scope_nothing_changes() {
    let numbers = vec![1u8; 4 * LARGE_BYTES];
    let scope = Scope::new(folder(), 0);
    drop(numbers);
    assert!(Scope::current().is_none());
    {
        let _inside = scope.enter();
        let other = Scope::new(folder(), MIB);
        {
            let _deeper = other.enter();
            let _piece = vec![1u8; LARGE_BYTES];
            assert_eq!(other.memory_bytes(), LARGE_BYTES);
        }
        let _piece = vec![1u8; LARGE_BYTES];
        assert_eq!((scope.memory_bytes(), scope.file_peak_bytes()), (0, LARGE_BYTES as u64));
    }
    assert!(Scope::current().is_none());
}
