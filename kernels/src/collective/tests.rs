//! Rounds of several ranks in one thread, driven by schedules of every kind.

use super::*;
use crate::philox::{Key, Rng, Stream};
use crate::shard::{Node, complete};
use proptest::prelude::*;
use std::collections::VecDeque;

/// How frames travel in a test.
#[derive(Clone, Copy, Debug)]
struct Wire {
    /// Frames between two ranks that may be on their way.
    capacity: usize,
    /// Whether frames between two ranks may overtake each other.
    ordered: bool,
    seed: u64,
}

const CALM: Wire = Wire { capacity: 2, ordered: true, seed: 0 };

fn below(rng: &mut Rng, n: usize) -> usize {
    ((rng.uniform() * n as f64) as usize).min(n - 1)
}

/// Moves frames in random order until all rounds are done. Panics where nothing can move any more.
fn drive(rounds: &mut [Round<'_, '_>], wire: Wire) {
    let world = rounds.len();
    let mut rng = Key::new(wire.seed, Stream::Generate).rng(0, 1);
    let mut links: Vec<VecDeque<(Frame, Vec<u8>)>> = (0..world * world).map(|_| VecDeque::new()).collect();
    while !rounds.iter().all(Round::done) {
        let first = below(&mut rng, world * world);
        let sends_first = below(&mut rng, 2) == 0;
        let pairs = (0..world * world).map(|step| (first + step) % (world * world));
        let mut moved = false;
        for pair in pairs {
            let (from, to) = (pair / world, pair % world);
            let mut send = || {
                let free = links[pair].len() < wire.capacity;
                let outgoing = if free { rounds[from].next(to) } else { None };
                outgoing.is_some_and(|outgoing| {
                    links[pair].push_back((rounds[from].frame(&outgoing), rounds[from].payload(&outgoing).to_vec()));
                    rounds[from].sent(outgoing);
                    true
                })
            };
            moved = sends_first && send();
            moved = moved || receive(&mut links[pair], &mut rounds[to], from, wire, &mut rng);
            if moved {
                break;
            }
        }
        let unsent = |rounds: &[Round<'_, '_>]| {
            (0..world * world).any(|p| rounds[p / world].has_next(p % world) && links[p].len() < wire.capacity)
        };
        assert!(moved || unsent(rounds), "stuck: {:?}", rounds.iter().map(Round::missing).collect::<Vec<_>>());
    }
    assert!(links.iter().all(VecDeque::is_empty), "nothing is sent that nobody needs");
}

fn receive(
    link: &mut VecDeque<(Frame, Vec<u8>)>,
    round: &mut Round<'_, '_>,
    from: usize,
    wire: Wire,
    rng: &mut Rng,
) -> bool {
    let first = if wire.ordered || link.is_empty() { 0 } else { below(rng, link.len()) };
    let choices = if wire.ordered { link.len().min(1) } else { link.len() };
    for step in 0..choices {
        let index = (first + step) % link.len();
        if let Accept::Take(ticket) = round.accept(from, &link[index].0).expect("expected") {
            let (_, payload) = link.remove(index).expect("invariant: below the length");
            round.buffer(&ticket).copy_from_slice(&payload);
            round.arrived(ticket);
            return true;
        }
    }
    false
}

/// Leaves of very different sizes, so that another order of summing shows.
fn leaves(shards: usize, len: usize, seed: u64) -> Vec<Vec<f32>> {
    let leaf = |s: usize| {
        let mut rng = Key::new(seed, Stream::Generate).rng(s as u64, 0);
        (0..len).map(|_| (rng.normal() * 10f64.powf(rng.uniform() * 6.0)) as f32).collect()
    };
    (0..shards).map(leaf).collect()
}

fn value(node: Node, leaves: &[Vec<f32>]) -> Vec<f32> {
    match node.children() {
        None => leaves[node.first].clone(),
        Some((left, right)) => value(left, leaves).iter().zip(&value(right, leaves)).map(|(l, r)| l + r).collect(),
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// All ranks of a world with their plans, arenas and the values of their nodes per bucket.
struct Gang {
    plans: Vec<Plans>,
    arenas: Vec<Arena>,
    buckets: Vec<Vec<Vec<f32>>>,
    roots: Vec<Vec<f32>>,
}

fn gang(world: usize, shards: usize, lens: &[usize], tuning: Tuning) -> Gang {
    let topology = |rank| Topology::new(rank, world, shards).expect("valid");
    let plans: Vec<Plans> = (0..world).map(|rank| Plans::new(topology(rank), tuning)).collect();
    let tables: Vec<Vec<Vec<f32>>> =
        lens.iter().enumerate().map(|(i, len)| leaves(shards, *len, i as u64 + 7)).collect();
    // Per rank: bucket by bucket, node by node.
    let held = |rank: usize| {
        let nodes = topology(rank).nodes();
        tables.iter().flat_map(|t| nodes.iter().map(|node| value(*node, t)).collect::<Vec<_>>()).collect()
    };
    let parts = |t: &Vec<Vec<f32>>| {
        (0..world).flat_map(|r| topology(r).nodes()).map(|node| (node, value(node, t))).collect::<Vec<_>>()
    };
    let roots: Vec<Vec<f32>> = tables.iter().map(|t| complete(parts(t), shards).expect("whole")).collect();
    for (root, table) in roots.iter().zip(&tables) {
        assert_eq!(bits(root), bits(&value(Node::root(shards), table)), "the tree of one process");
    }
    Gang {
        plans,
        arenas: (0..world).map(|_| Arena::default()).collect(),
        buckets: (0..world).map(held).collect(),
        roots,
    }
}

/// Sums every bucket over all ranks and compares bits. `scatter`: each rank's part only.
fn check_sums(world: usize, shards: usize, lens: &[usize], tuning: Tuning, wire: Wire, scatter: bool) {
    let Gang { plans, mut arenas, mut buckets, roots } = gang(world, shards, lens, tuning);
    let mut rounds: Vec<Round<'_, '_>> =
        plans.iter().zip(&mut arenas).map(|(plans, arena)| Round::new(plans, arena, 5)).collect();
    for ((round, plans), held) in rounds.iter_mut().zip(&plans).zip(&mut buckets) {
        let nodes = plans.topology.nodes();
        for (bucket, values) in held.chunks_mut(nodes.len()).enumerate() {
            let nodes = nodes.iter().copied().zip(values.iter_mut().map(Vec::as_mut_slice)).collect();
            let op = if scatter { Op::ReduceScatter { nodes } } else { Op::AllReduce { nodes } };
            round.submit(bucket as u32, op).expect("fits");
        }
        assert_eq!(round.next_sequence(), 5 + lens.len() as u64);
    }
    drive(&mut rounds, wire);
    drop(rounds);
    for (rank, held) in buckets.iter().enumerate() {
        let nodes = plans[rank].topology.nodes().len();
        for ((values, root), len) in held.chunks(nodes).zip(&roots).zip(lens) {
            let part = if scatter { part_of(rank, world, *len) } else { 0..*len };
            let what = || format!("rank {rank} of {world}, {shards} shards, {len} numbers, {tuning:?}");
            assert_eq!(bits(&values[0][part.clone()]), bits(&root[part]), "{}", what());
        }
    }
}

const ROUTES: [Route; 3] = [Route::Exchange, Route::Direct, Route::Halving];

fn small(route: Option<Route>) -> Tuning {
    Tuning { piece_bytes: 256, exchange_bytes: 512, window: 1, route }
}

#[test]
fn the_sum_has_the_bits_of_one_process_in_every_world_by_every_route() {
    for shards in 1..=9 {
        for world in 1..=shards {
            for route in ROUTES {
                check_sums(world, shards, &[0, 1, 97, 331], small(Some(route)), CALM, false);
            }
            check_sums(world, shards, &[0, 1, 97, 331], small(None), CALM, true);
        }
    }
    for (world, shards) in [(16, 16), (5, 16), (11, 16), (3, 64), (7, 19)] {
        for route in ROUTES {
            check_sums(world, shards, &[523, 2], small(Some(route)), CALM, false);
        }
        check_sums(world, shards, &[523, 2], small(None), CALM, true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn the_sum_does_not_depend_on_the_order_of_arrival(
        shards in 1usize..=16, world in 1usize..=16, lens in prop::collection::vec(0usize..600, 1..4),
        route in prop::option::of(prop::sample::select(ROUTES.to_vec())), window in 0usize..4,
        capacity in 1usize..6, ordered: bool, seed: u64, scatter: bool,
    ) {
        let wire = Wire { capacity, ordered, seed };
        // What overtakes may fill the window: it is for streams, which keep their order.
        let tuning = Tuning { window: if ordered { window } else { 1000 }, ..small(route) };
        check_sums(1 + world % shards, shards, &lens, tuning, wire, scatter);
    }

    #[test]
    fn what_is_gathered_and_broadcast_arrives_whole(
        world in 1usize..=9, root in 0usize..9, sizes in prop::collection::vec(0usize..300, 9), seed: u64,
        capacity in 1usize..4,
    ) {
        let plans: Vec<Plans> = (0..world)
            .map(|rank| Plans::new(Topology::new(rank, world, 9).expect("valid"), small(None)))
            .collect();
        let bounds: Vec<usize> =
            (0..=world).map(|r| sizes[..r].iter().sum()).collect();
        let total = bounds[world];
        let content: Vec<u8> = (0..total).map(|i| (i * 31 + seed as usize % 7) as u8).collect();
        let numbers: Vec<f32> = (0..97).map(|i| f32::from_bits(0x7fc0_0001 + i)).collect();
        let root = root % world;
        let mut arenas: Vec<Arena> = (0..world).map(|_| Arena::default()).collect();
        let mut gathered = vec![vec![0u8; total]; world];
        let mut cast = vec![vec![0f32; 97]; world];
        let mut raw = vec![vec![0u8; total]; world];
        cast[root].copy_from_slice(&numbers);
        raw[root].copy_from_slice(&content);
        let mut rounds = Vec::new();
        let buffers = gathered.iter_mut().zip(&mut cast).zip(&mut raw);
        for (rank, ((plans, arena), ((bytes, floats), raw))) in plans.iter().zip(&mut arenas).zip(buffers).enumerate() {
            bytes[bounds[rank]..bounds[rank + 1]].copy_from_slice(&content[bounds[rank]..bounds[rank + 1]]);
            let mut round = Round::new(plans, arena, 0);
            round.submit(0, Op::AllGather { values: Values::Bytes(bytes), bounds: bounds.clone() }).expect("fits");
            round.submit(1, Op::Barrier).expect("fits");
            round.submit(2, Op::Broadcast { values: Values::F32(floats), root }).expect("fits");
            round.submit(3, Op::Broadcast { values: Values::Bytes(raw), root }).expect("fits");
            rounds.push(round);
        }
        drive(&mut rounds, Wire { capacity, ordered: true, seed });
        drop(rounds);
        for rank in 0..world {
            prop_assert_eq!(&gathered[rank], &content);
            prop_assert_eq!(&raw[rank], &content);
            prop_assert_eq!(bits(&cast[rank]), bits(&numbers));
        }
    }
}

#[test]
fn nobody_leaves_a_barrier_before_all_have_come() {
    let plans: Vec<Plans> =
        (0..3).map(|r| Plans::new(Topology::new(r, 3, 8).expect("valid"), Tuning::default())).collect();
    let mut arenas: Vec<Arena> = (0..3).map(|_| Arena::default()).collect();
    let mut rounds: Vec<Round<'_, '_>> =
        plans.iter().zip(&mut arenas).map(|(plans, arena)| Round::new(plans, arena, 0)).collect();
    for round in &mut rounds[..2] {
        round.submit(0, Op::Barrier).expect("fits");
    }
    let exchange = |rounds: &mut Vec<Round<'_, '_>>| {
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                while let Some(outgoing) = rounds[from].next(to) {
                    let frame = rounds[from].frame(&outgoing);
                    rounds[from].sent(outgoing);
                    if let Accept::Take(ticket) = rounds[to].accept(from, &frame).expect("expected") {
                        rounds[to].arrived(ticket);
                    }
                }
            }
        }
    };
    exchange(&mut rounds);
    assert!(!rounds[0].done() && !rounds[1].done());
    for round in &rounds[..2] {
        assert_eq!(round.missing(), [vec![2], vec![]], "the late one is named");
    }
    rounds[2].submit(0, Op::Barrier).expect("fits");
    exchange(&mut rounds);
    assert!(rounds[0].done() && rounds[1].done());
}

#[test]
fn what_does_not_fit_is_refused() {
    let plans = Plans::new(Topology::new(0, 2, 8).expect("valid"), small(Some(Route::Direct)));
    let mut arena = Arena::default();
    let (mut a, mut b) = (vec![0.0; 100], vec![0.0; 100]);
    let mut round = Round::new(&plans, &mut arena, 3);
    let wrong = Op::AllReduce { nodes: vec![(Node::root(8), &mut b)] };
    assert!(round.submit(0, wrong).expect_err("not its node").to_string().contains("the nodes of this rank"));
    let gather = Op::AllGather { values: Values::F32(&mut [0.0; 4]), bounds: vec![0, 4] };
    assert!(round.submit(0, gather).expect_err("bounds").to_string().contains("3 rising bounds"));
    assert!(Topology::new(0, 9, 8).is_err() && Topology::new(2, 2, 8).is_err() && Topology::new(0, 0, 8).is_err());

    let mine = Node { first: 0, end: 4 };
    round.submit(7, Op::AllReduce { nodes: vec![(mine, &mut a)] }).expect("fits");
    let theirs = Node { first: 4, end: 8 };
    let frame = Frame { kind: Kind::Value, sequence: 3, bucket: 7, node: theirs, offset: 0, len: 192 };
    let Ok(Accept::Take(_)) = round.accept(1, &frame) else { panic!("the first piece is expected") };
    let refused = [
        ("twice", frame),
        ("another node", Frame { node: mine, offset: 0, ..frame }),
        ("another length", Frame { len: 188, ..frame }),
        ("another offset", Frame { offset: 64, ..frame }),
        ("another bucket", Frame { bucket: 8, ..frame }),
        ("an operation that is over", Frame { sequence: 2, ..frame }),
        ("a result of its own piece", Frame { kind: Kind::Result, ..frame }),
        ("a result before the value was sent", Frame { kind: Kind::Result, offset: 192, len: 208, ..frame }),
    ];
    for (what, frame) in refused {
        assert!(round.accept(1, &frame).is_err(), "{what}: {frame:?}");
    }
    assert_eq!(round.accept(1, &Frame { sequence: 4, ..frame }), Ok(Accept::Later));
    assert_eq!(round.missing(), [vec![1], vec![1]]);
}

#[test]
fn a_group_keeps_its_scratch() {
    let Gang { plans, mut arenas, mut buckets, .. } = gang(4, 8, &[5000], small(Some(Route::Direct)));
    let mut sizes = Vec::new();
    for step in 0..3 {
        let mut rounds: Vec<Round<'_, '_>> =
            plans.iter().zip(&mut arenas).map(|(plans, arena)| Round::new(plans, arena, step)).collect();
        for ((round, plans), held) in rounds.iter_mut().zip(&plans).zip(&mut buckets) {
            let nodes = plans.topology.nodes().into_iter().zip(held.iter_mut().map(Vec::as_mut_slice)).collect();
            round.submit(0, Op::AllReduce { nodes }).expect("fits");
        }
        drive(&mut rounds, CALM);
        drop(rounds);
        sizes.push(arenas.iter().map(Arena::blocks).max());
    }
    assert_eq!(sizes[0], sizes[2], "no block is lost from round to round");
    assert!(sizes[2] <= Some(12), "a window's worth of blocks, not the 60 of all pieces: {sizes:?}");
}
