//! Supervision with roles that panic: started again after pauses that double, given up at the cap, and
//! never more than that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// Pauses of a few milliseconds, otherwise as they are.
const QUICK: Policy = Policy {
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(4),
    max_restarts: POLICY.max_restarts,
    window: POLICY.window,
};
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A role that panics at once, so many times in all, and then runs until it is to drain.
struct Panics;

impl Actor for Panics {
    type Msg = bool;
    type State = ();
    type Arguments = (bool, CancellationToken);

    async fn pre_start(&self, me: ActorRef<bool>, (panics, drain): Self::Arguments) -> Result<(), ActorProcessingErr> {
        if panics {
            me.cast(true)?;
        }
        tokio::spawn(async move {
            drain.cancelled().await;
            let _ = me.cast(false);
        });
        Ok(())
    }

    async fn handle(&self, me: ActorRef<bool>, panics: bool, (): &mut ()) -> Result<(), ActorProcessingErr> {
        assert!(!panics, "provoked");
        me.stop(None);
        Ok(())
    }
}

/// A crew of one role that panics so many times; the number of its starts; what ends it.
async fn crew(panics: u32) -> (Crew, Arc<AtomicU32>, CancellationToken) {
    let (starts, drain) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let counted = Arc::clone(&starts);
    let starter: Starter = Box::new(move |_, drain, supervisor| {
        let count = counted.fetch_add(1, Ordering::SeqCst) + 1;
        Box::pin(async move {
            let spawned = Actor::spawn_linked(None, Panics, (count <= panics, drain), supervisor).await;
            spawned.map(|(actor, _)| actor.get_cell()).map_err(|e| WireError::new(Code::InternalError, e.to_string()))
        })
    });
    let crew = supervise(starter, drain.clone(), QUICK, vec![Role::Evaluator]).await.expect("starts");
    (crew, starts, drain)
}

#[test]
fn pauses_double_up_to_the_cap() {
    let now = Instant::now();
    let mut failures = Failures { since: now, count: 0 };
    let patient = Policy { max_restarts: 9, ..POLICY };
    let pauses: Vec<_> = (0..10).map(|_| patient.pause(&mut failures, now).map(|p| p.as_millis())).collect();
    let expected = [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000];
    assert_eq!(pauses[..9], expected.map(Some));
    assert_eq!(pauses[9], None);
    // What failed long ago is forgotten.
    let later = now + POLICY.window + Duration::from_secs(1);
    assert_eq!(POLICY.pause(&mut failures, later), Some(POLICY.first_pause));
}

#[tokio::test]
async fn a_role_that_panics_is_started_again() {
    let (mut crew, starts, drain) = crew(3).await;
    let up = async {
        while starts.load(Ordering::SeqCst) < 4 || !*crew.ready.borrow() {
            crew.ready.changed().await.expect("the supervisor lives");
        }
    };
    tokio::time::timeout(PATIENCE, up).await.expect("it is up in time");
    assert_eq!(starts.load(Ordering::SeqCst), 4);
    drain.cancel();
    let ended = tokio::time::timeout(PATIENCE, crew.done).await.expect("in time").expect("an outcome");
    assert_eq!(ended, Ok(()));
}

#[tokio::test]
async fn a_role_that_goes_on_panicking_ends_the_process() {
    let (crew, starts, drain) = crew(u32::MAX).await;
    let ended = tokio::time::timeout(PATIENCE, crew.done).await.expect("in time").expect("an outcome");
    let error = ended.expect_err("given up");
    assert_eq!(error.code, Code::InternalError);
    assert!(error.message.contains("evaluator failed 6 times") && error.message.contains("provoked"), "{error}");
    assert_eq!(starts.load(Ordering::SeqCst), 1 + POLICY.max_restarts);
    assert!(drain.is_cancelled(), "the other roles end in order");
}

#[tokio::test]
async fn a_role_that_can_never_run_is_not_tried_again() {
    let (starts, drain) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let counted = Arc::clone(&starts);
    let starter: Starter = Box::new(move |_, _, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(WireError::new(Code::PermissionDenied, "bad credential")) })
    });
    let crew = supervise(starter, drain, QUICK, vec![Role::Tracker]).await.expect("starts");
    let ended = tokio::time::timeout(PATIENCE, crew.done).await.expect("in time").expect("an outcome");
    assert_eq!(ended.expect_err("given up").code, Code::PermissionDenied);
    assert_eq!(starts.load(Ordering::SeqCst), 1);
}
