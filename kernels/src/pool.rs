//! A small thread pool for fork-join loops. Threads are persistent and sleep on a condition variable:
//! nothing spins, so a neighbor on the same cores is not hurt. The caller works too, so a region that
//! is over before a thread wakes costs one system call. A nested or concurrent region runs on its caller.

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

thread_local! {
    /// Set while this thread executes tasks of a region: a nested region then runs inline.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The threads this process may use: its CPU affinity, bounded by the CPU quota of its control group
/// (v1 or v2, as the standard library reads them). At least 1.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

type Task<'a> = dyn Fn(usize, Range<usize>) + Sync + 'a;

/// One region: the task, its index space, and the next chunk nobody has claimed.
struct Region {
    task: *const Task<'static>,
    n: usize,
    grain: usize,
    next: AtomicUsize,
}

impl Region {
    fn work(&self, worker: usize) {
        let chunks = self.n.div_ceil(self.grain);
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                return;
            }
            let start = chunk * self.grain;
            // SAFETY: the region's owner keeps the closure alive until every worker has left the region.
            unsafe { (*self.task)(worker, start..(start + self.grain).min(self.n)) };
        }
    }
}

#[derive(Default)]
struct State {
    region: Option<*const Region>,
    generation: u64,
    running: usize,
    shutdown: bool,
    panic: Option<Box<dyn Any + Send>>,
}

// SAFETY: the pointer is dereferenced only between the region's publication and its owner's return.
unsafe impl Send for State {}

#[derive(Default)]
struct Hub {
    state: Mutex<State>,
    wake: Condvar,
    done: Condvar,
}

impl Hub {
    /// The pool's own sections never panic while they hold the lock, so poison carries no meaning.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fixed set of threads; the thread that calls is one of them.
pub struct Pool {
    hub: Arc<Hub>,
    owner: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's included (0 counts as 1). Where the system refuses a
    /// thread the pool has fewer: results do not depend on their number.
    pub fn new(threads: usize) -> Pool {
        let hub = Arc::new(Hub::default());
        let spawn = |worker: usize| {
            let hub = hub.clone();
            std::thread::Builder::new().name(format!("kernels-{worker}")).spawn(move || serve(&hub, worker)).ok()
        };
        let workers = (1..threads.max(1)).filter_map(spawn).collect();
        Pool { hub, owner: Mutex::new(()), workers }
    }

    /// How many threads work on a region.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(worker, range)` for consecutive ranges of at most `grain` that cover `0..n`, on up to
    /// `threads()` threads, and returns when all are done. `worker < threads()` is distinct among the
    /// calls that run at the same time within one region. Ranges start at multiples of `grain` whatever
    /// the number of threads. A panic of a task is raised again here.
    pub fn parallel_for(&self, n: usize, grain: usize, task: impl Fn(usize, Range<usize>) + Sync) {
        let grain = grain.max(1);
        let owned =
            if self.workers.is_empty() || n <= grain || INSIDE.get() { None } else { self.owner.try_lock().ok() };
        let Some(_owned) = owned else {
            for start in (0..n).step_by(grain) {
                task(0, start..(start + grain).min(n));
            }
            return;
        };
        let task: &Task<'_> = &task;
        // SAFETY: only the lifetime is erased; `Closing` below waits for every worker before `task` ends.
        let task: *const Task<'static> = unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        let region = Region { task, n, grain, next: AtomicUsize::new(0) };
        {
            let mut state = self.hub.lock();
            state.region = Some(&raw const region);
            state.generation += 1;
            state.panic = None;
        }
        for _ in 0..self.workers.len().min(n.div_ceil(grain) - 1) {
            self.hub.wake.notify_one();
        }
        let closing = Closing { hub: &self.hub };
        INSIDE.set(true);
        let mine = catch_unwind(AssertUnwindSafe(|| region.work(0)));
        INSIDE.set(false);
        drop(closing);
        let theirs = self.hub.lock().panic.take();
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        if let Some(panic) = theirs {
            resume_unwind(panic);
        }
    }
}

/// Closes the region to newcomers and waits for those inside.
struct Closing<'a> {
    hub: &'a Hub,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.region = None;
        while state.running > 0 {
            state = self.hub.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The life of a worker thread.
fn serve(hub: &Hub, worker: usize) {
    INSIDE.set(true);
    let mut seen = 0;
    let mut state = hub.lock();
    loop {
        if state.shutdown {
            return;
        }
        match state.region {
            Some(region) if state.generation != seen => {
                seen = state.generation;
                state.running += 1;
                drop(state);
                // SAFETY: the owner waits for `running` to fall to zero before the region ends.
                let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (*region).work(worker) }));
                state = hub.lock();
                state.running -= 1;
                if let Err(panic) = outcome {
                    state.panic = Some(panic);
                }
                if state.running == 0 {
                    hub.done.notify_one();
                }
            }
            _ => state = hub.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.hub.lock().shutdown = true;
        self.hub.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a task, so it ends normally.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(pool: &Pool, n: usize, grain: usize) -> Vec<usize> {
        let seen: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
        pool.parallel_for(n, grain, |worker, range| {
            assert!(worker < pool.threads());
            assert_eq!(range.start % grain.max(1), 0);
            for i in range {
                seen[i].fetch_add(1, Ordering::Relaxed);
            }
        });
        seen.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_index_once() {
        for threads in [0, 1, 2, 5] {
            let pool = Pool::new(threads);
            for (n, grain) in [(0, 1), (1, 1), (7, 3), (1000, 1), (1000, 7), (5, 0), (3, 100)] {
                assert_eq!(visits(&pool, n, grain), vec![1; n], "{threads} threads, n {n}, grain {grain}");
            }
        }
    }

    #[test]
    fn many_regions_after_another() {
        let pool = Pool::new(3);
        for n in 0..2000 {
            assert_eq!(visits(&pool, n % 13, 1).len(), n % 13);
        }
    }

    #[test]
    fn nested_and_concurrent_regions_end() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    pool.parallel_for(10, 1, |_, _| {
                        pool.parallel_for(10, 2, |_, inner| {
                            total.fetch_add(inner.len(), Ordering::Relaxed);
                        });
                    });
                });
            }
        });
        assert_eq!(total.into_inner(), 300);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for bad in [0, 63] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.parallel_for(64, 1, |_, range| assert_ne!(range.start, bad, "planned"));
            }));
            assert!(outcome.is_err());
            assert_eq!(visits(&pool, 100, 1), vec![1; 100]);
        }
    }

    #[test]
    fn at_least_one_thread_is_available() {
        assert!(available_threads() >= 1);
    }
}
