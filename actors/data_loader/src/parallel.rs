//! Work that falls into independent pieces, on as many threads as there are cores. What a piece gives does not depend on
//! who computes it, and the results stand in the order of the pieces.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use scratch::Scope;

/// Threads at most: each may hold a copy of what its piece is about.
const MOST_THREADS: usize = 8;

/// Threads that pieces of work are given to.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST_THREADS)
}

/// What `of` makes of each piece, in their order.
pub fn map<T: Sync, R: Send>(pieces: &[T], of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = threads().min(pieces.len());
    if threads <= 1 {
        return pieces.iter().map(of).collect();
    }
    let (next, memory) = (AtomicUsize::new(0), Scope::current());
    let work = || {
        let _inside = memory.as_ref().map(Scope::enter);
        let take = || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            pieces.get(index).map(|piece| (index, of(piece)))
        };
        std::iter::from_fn(take).collect::<Vec<_>>()
    };
    let mut made: Vec<(usize, R)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut made = work();
        for other in others {
            made.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        made
    });
    made.sort_by_key(|(index, _)| *index);
    made.into_iter().map(|(_, result)| result).collect()
}

/// The same of pieces that are given away.
pub fn each<T: Send, R: Send>(pieces: Vec<T>, of: impl Fn(T) -> R + Sync) -> Vec<R> {
    let pieces: Vec<Mutex<Option<T>>> = pieces.into_iter().map(|piece| Mutex::new(Some(piece))).collect();
    let made = map(&pieces, |piece| {
        let piece = piece.lock().unwrap_or_else(PoisonError::into_inner).take();
        piece.map(&of)
    });
    made.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_pieces() {
        let pieces: Vec<usize> = (0..1000).collect();
        assert_eq!(map(&pieces, |piece| piece * 2), (0..1000).map(|piece| piece * 2).collect::<Vec<_>>());
        assert!(map(&Vec::<usize>::new(), |piece| *piece).is_empty());
        let mut sums = vec![0; 100];
        assert_eq!(
            each(sums.iter_mut().zip(0..).collect(), |(sum, i)| {
                *sum += i;
                i
            }),
            (0..100).collect::<Vec<_>>()
        );
        assert_eq!(sums, (0..100).collect::<Vec<_>>());
    }
}
