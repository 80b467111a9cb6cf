//! Groups of threads over both transports: sums, data that is moved, and ends.

use std::time::{Duration, Instant};

use kernels::collective::{Op, Route, Topology, Tuning, Values, part_of};
use kernels::shard::{Node, complete};

use super::*;

pub(super) const SHARDS: usize = 8;
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Pieces so short that a few kilobytes are many.
pub(super) fn small() -> Tuning {
    Tuning { piece_bytes: 1 << 12, exchange_bytes: 1 << 10, ..Tuning::default() }
}

pub(super) fn seat(rank: u32, members: &[Member]) -> Seat {
    Seat {
        job: "j1".into(),
        generation: 3,
        rank,
        shards: SHARDS,
        token: Token::new([7; 32]),
        encrypted: false,
        members: members.to_vec(),
    }
}

pub(super) fn listeners(world: usize) -> (Vec<Listener>, Vec<Member>) {
    let listeners: Vec<Listener> =
        (0..world).map(|_| Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("listens")).collect();
    let member = |(rank, listener): (usize, &Listener)| Member {
        rank: rank as u32,
        host: format!("host-{rank}"),
        address: listener.address().expect("an address"),
    };
    let members = listeners.iter().enumerate().map(member).collect();
    (listeners, members)
}

/// Runs each rank's part on a thread; their results by rank.
pub(super) fn gang<T: Send>(groups: Vec<Group>, part: impl Fn(usize, &mut Group) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let part = &part;
        let threads: Vec<_> = groups
            .into_iter()
            .enumerate()
            .map(|(rank, mut group)| scope.spawn(move || part(rank, &mut group)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

pub(super) fn tcp(world: usize, timeout: Duration) -> Vec<Group> {
    tuned(world, timeout, small())
}

fn tuned(world: usize, timeout: Duration, tuning: Tuning) -> Vec<Group> {
    met(world, timeout, tuning, false)
}

/// Groups that have met over connections.
pub(super) fn met(world: usize, timeout: Duration, tuning: Tuning, encrypted: bool) -> Vec<Group> {
    let (listeners, members) = listeners(world);
    std::thread::scope(|scope| {
        let meet = |(rank, listener): (usize, Listener)| {
            let seat = Seat { encrypted, ..seat(rank as u32, &members) };
            scope.spawn(move || {
                let group = Group::connect(&listener, &seat, tuning, PATIENCE, &Cancel::new()).expect("meets");
                Group { timeout, ..group }
            })
        };
        let threads: Vec<_> = listeners.into_iter().enumerate().map(meet).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn local(world: usize, timeout: Duration) -> Vec<Group> {
    Group::local(world, SHARDS, small(), timeout).expect("valid")
}

/// Numbers of a leaf, of very different sizes, so that another order of summing shows.
fn leaf(shard: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + shard * 13) as f32 * 0.37).sin() * 10f32.powi(((i + shard) % 7) as i32)).collect()
}

pub(super) fn value(node: Node, len: usize) -> Vec<f32> {
    match node.children() {
        None => leaf(node.first, len),
        Some((left, right)) => value(left, len).iter().zip(&value(right, len)).map(|(l, r)| l + r).collect(),
    }
}

pub(super) fn root(world: usize, len: usize) -> Vec<f32> {
    let nodes = (0..world).flat_map(|rank| Topology::new(rank, world, SHARDS).expect("valid").nodes());
    complete(nodes.map(|node| (node, value(node, len))).collect(), SHARDS).expect("whole")
}

pub(super) fn lend<'a>(nodes: &[Node], values: &'a mut [Vec<f32>]) -> Vec<(Node, &'a mut [f32])> {
    nodes.iter().copied().zip(values.iter_mut().map(Vec::as_mut_slice)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Three steps of buckets of all sizes, then each of the other operations.
pub(super) fn check_group(world: usize, groups: Vec<Group>) {
    let lens = [1, 40_000, 0, 257, 9_001];
    let roots: Vec<Vec<f32>> = lens.iter().map(|len| root(world, *len)).collect();
    gang(groups, |rank, group| {
        let nodes = group.topology().nodes();
        for _ in 0..3 {
            let mut buckets: Vec<Vec<Vec<f32>>> =
                lens.iter().map(|len| nodes.iter().map(|node| value(*node, *len)).collect()).collect();
            let mut exchange = group.begin().expect("a whole group");
            for (bucket, values) in buckets.iter_mut().enumerate() {
                exchange.submit(bucket as u32, Op::AllReduce { nodes: lend(&nodes, values) }).expect("fits");
            }
            exchange.finish().expect("sums");
            for (bucket, root) in buckets.iter().zip(&roots) {
                assert_eq!(bits(&bucket[0]), bits(root), "rank {rank} of {world}");
            }
        }
        let mut values: Vec<Vec<f32>> = nodes.iter().map(|node| value(*node, 9_001)).collect();
        group.reduce_scatter(lend(&nodes, &mut values)).expect("sums");
        let part = part_of(rank, world, 9_001);
        assert_eq!(bits(&values[0][part.clone()]), bits(&roots[4][part]));
        group.barrier().expect("all come");
        let content: Vec<u8> = (0..5_003).map(|i| (i % 251) as u8).collect();
        let bounds: Vec<usize> = (0..=world).map(|r| 5_003 * r / world).collect();
        let mut bytes = vec![0; 5_003];
        bytes[bounds[rank]..bounds[rank + 1]].copy_from_slice(&content[bounds[rank]..bounds[rank + 1]]);
        group.all_gather(Values::Bytes(&mut bytes), bounds).expect("gathers");
        assert_eq!(bytes, content);
        let mut bytes = if rank == world - 1 { content.clone() } else { vec![0; 5_003] };
        group.broadcast(Values::Bytes(&mut bytes), world - 1).expect("broadcasts");
        assert_eq!(bytes, content);
        assert_eq!(group.traffic().stale_frames, 0);
    });
}

#[test]
fn threads_sum_to_the_bits_of_one_process() {
    for world in 1..=SHARDS {
        check_group(world, local(world, PATIENCE));
    }
}

#[test]
fn connections_sum_to_the_bits_of_one_process() {
    for world in [1, 2, 3, 4, 8] {
        check_group(world, tcp(world, PATIENCE));
        let tuning = Tuning { route: Some(Route::Halving), ..small() };
        check_group(world, tuned(world, PATIENCE, tuning));
    }
}

#[test]
fn the_rank_that_does_not_come_is_named_to_all() {
    const LATE: usize = 2;
    let timeout = Duration::from_millis(700);
    for groups in [local(4, timeout), tcp(4, timeout)] {
        let (finished, late) = std::sync::mpsc::channel::<()>();
        let late = std::sync::Mutex::new(Some(late));
        let finished =
            std::sync::Mutex::new(vec![Some(finished.clone()), Some(finished.clone()), None, Some(finished)]);
        let errors = gang(groups, |rank, group| {
            if rank == LATE {
                // Leaves when the others have given up.
                let late = late.lock().expect("no panic").take().expect("once");
                assert!(late.recv_timeout(PATIENCE).is_err());
                return None;
            }
            let nodes = group.topology().nodes();
            let mut values: Vec<Vec<f32>> = nodes.iter().map(|node| value(*node, 50_000)).collect();
            let begun = Instant::now();
            let error = group.all_reduce(lend(&nodes, &mut values)).expect_err("rank 2 does not come");
            let took = begun.elapsed();
            finished.lock().expect("no panic")[rank].take();
            assert!(took < timeout + Duration::from_secs(2), "{took:?}");
            assert!(group.barrier().is_err(), "the group is over");
            Some(error)
        });
        for (rank, error) in errors.into_iter().enumerate().filter_map(|(rank, error)| Some((rank, error?))) {
            assert!(matches!(error.kind(), ErrorKind::PeerTimedOut | ErrorKind::Aborted), "{error}");
            assert_eq!(error.culprit().map(|peer| peer.rank), Some(LATE as u32), "rank {rank}: {error}");
            assert!(error.to_string().contains("rank 2"), "{error}");
        }
    }
}

#[test]
fn a_rank_that_leaves_is_named() {
    for groups in [local(3, PATIENCE), tcp(3, PATIENCE)] {
        let mut groups = groups;
        drop(groups.remove(1));
        // The ranks that are left are 0 and 2.
        let errors = gang(groups, |_, group| group.barrier().expect_err("rank 1 has left"));
        for error in errors {
            assert!(matches!(error.kind(), ErrorKind::PeerClosed | ErrorKind::Aborted), "{error}");
            assert_eq!(error.culprit().map(|peer| peer.rank), Some(1), "{error}");
        }
    }
}

#[test]
fn an_abort_ends_what_waits_at_once() {
    for groups in [local(2, PATIENCE), tcp(2, PATIENCE)] {
        let mut groups = groups.into_iter();
        let (mut waiting, idle) = (groups.next().expect("rank 0"), groups.next().expect("rank 1"));
        let abort = waiting.abort_handle();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let mut values = vec![vec![1.0; 3_000_000]];
                let nodes = waiting.topology().nodes();
                let begun = Instant::now();
                let error = waiting.all_reduce(lend(&nodes, &mut values)).expect_err("aborted");
                assert!(waiting.barrier().is_err(), "and stays so");
                (error, begun.elapsed())
            });
            abort.abort();
            let (error, took) = thread.join().expect("no panic");
            assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
            assert!(took < Duration::from_secs(5), "{took:?}");
        });
        drop(idle);
    }
}

#[test]
fn ranks_that_do_not_do_the_same_are_told() {
    for groups in [local(2, PATIENCE), tcp(2, PATIENCE)] {
        let errors = gang(groups, |rank, group| {
            let nodes = group.topology().nodes();
            let mut values = vec![vec![1.0; 20_000 + 5_000 * rank]];
            group.all_reduce(lend(&nodes, &mut values)).expect_err("other lengths")
        });
        assert!(errors.iter().any(|error| error.kind() == ErrorKind::Diverged), "{errors:?}");
        assert!(errors.iter().all(|error| error.culprit().is_some()), "{errors:?}");
    }
}
