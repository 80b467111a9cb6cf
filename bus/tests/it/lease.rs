//! Leases: one holder, tokens that grow, a TTL that no write loses, and no belief in a lost lease.

use std::time::Duration;

use bus::lease::{LeaseKeeper, LeaseToken};
use bus::{Bus, ErrorKind};
use messages::subject::BUCKET_LEASE;
use tokio::time::Instant;

use crate::server::{TestServer, raw, ready, shared, until};

async fn keepers(ttl_ms: u64) -> (LeaseKeeper, LeaseKeeper) {
    let mut config = shared().await;
    config.timings.lease_ttl_ms = ttl_ms;
    let one = Bus::connect(config.clone()).await.expect("connects");
    one.ensure_topology().await.expect("topology");
    let two = Bus::connect(config).await.expect("connects");
    (one.lease("leader", "one").await.expect("keeper"), two.lease("leader", "two").await.expect("keeper"))
}

async fn acquired(keeper: &mut LeaseKeeper) -> LeaseToken {
    let deadline = Instant::now() + crate::server::LONG;
    loop {
        if let Some(token) = keeper.acquire().await.expect("asks") {
            return token;
        }
        assert!(Instant::now() < deadline, "the lease never expires: its TTL was lost");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn one_holds_it_and_a_release_hands_it_on() {
    let (mut one, mut two) = keepers(60_000).await;
    assert_eq!(one.holder().await.expect("reads"), None);
    let first = one.acquire().await.expect("asks").expect("free");
    assert_eq!(two.acquire().await.expect("asks"), None);
    assert_eq!(two.holder().await.expect("reads").as_deref(), Some("one"));
    assert!(one.renew().await.expect("asks"));
    assert_eq!(one.token(), Some(first), "the token is the acquisition's, also after a renewal");
    assert_eq!(one.acquire().await.expect("asks"), Some(first));
    one.release().await.expect("released");
    assert!(!one.is_held() && one.token().is_none());
    assert_eq!(two.holder().await.expect("reads"), None);
    let second = two.acquire().await.expect("asks").expect("free, although there is a tombstone");
    assert!(second > first);
    assert!(!one.renew().await.expect("asks"));
    one.release().await.expect("nothing to release");
    assert_eq!(one.holder().await.expect("reads").as_deref(), Some("two"));
}

#[tokio::test]
async fn of_many_that_ask_at_once_one_gets_it() {
    let mut config = shared().await;
    config.timings.lease_ttl_ms = 60_000;
    let bus = Bus::connect(config).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    for _ in 0..5 {
        let tries = (0..8).map(|i| {
            let bus = bus.clone();
            async move {
                let mut keeper = bus.lease("contended", &format!("w{i}")).await.expect("keeper");
                keeper.acquire().await.expect("asks").map(|_| keeper)
            }
        });
        let mut winners: Vec<_> = futures::future::join_all(tries).await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        winners[0].release().await.expect("released");
    }
}

#[tokio::test]
async fn the_ttl_survives_a_renewal_and_an_acquisition_over_a_tombstone() {
    let (mut one, mut two) = keepers(4_000).await;
    // Over a tombstone of a release.
    one.acquire().await.expect("asks").expect("free");
    one.release().await.expect("released");
    let first = one.acquire().await.expect("asks").expect("free");
    // Renewed for longer than the TTL: nobody else gets it.
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert!(one.renew().await.expect("asks"), "the machine was too slow to renew within 2.6 s");
        assert_eq!(two.acquire().await.expect("asks"), None);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // No longer renewed: it expires, and the holder has stopped believing in it before.
    let second = acquired(&mut two).await;
    assert!(!one.is_held() && one.token().is_none());
    assert!(second > first);
    assert!(!one.renew().await.expect("asks"));
    // Over the server's marker of the expired entry, too.
    let third = acquired(&mut one).await;
    assert!(third > second);
    assert!(!two.is_held());
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_recognised() {
    let mut config = shared().await;
    config.timings.lease_ttl_ms = 60_000;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let mut keeper = bus.lease("leader", "one").await.expect("keeper");
    let token = keeper.acquire().await.expect("asks").expect("free");
    assert!(keeper.renew().await.expect("asks"));
    // What a renewal of ours writes, behind the keeper's back.
    let key = format!("$KV.{}.leader", bus.subjects().scoped(BUCKET_LEASE));
    let js = raw(&config).await;
    let value = format!("{{\"holder\":\"one\",\"token\":{}}}", token.0);
    js.publish(key.clone(), value.into()).await.expect("sent").await.expect("stored");
    assert!(keeper.renew().await.expect("asks"));
    assert_eq!(keeper.token(), Some(token));
    // Another holder's entry is none of ours.
    js.publish(key, "{\"holder\":\"two\",\"token\":null}".into()).await.expect("sent").await.expect("stored");
    assert!(!keeper.renew().await.expect("asks"));
    assert!(!keeper.is_held());
}

#[tokio::test]
async fn a_holder_without_a_server_fences_itself() {
    let mut server = TestServer::start().await;
    let mut config = server.config("holder");
    config.timings.lease_ttl_ms = 3_000;
    let bus = Bus::connect(config).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let mut keeper = bus.lease("leader", "one").await.expect("keeper");
    let asked = Instant::now();
    let token = keeper.acquire().await.expect("asks").expect("free");
    server.server.kill9();
    let error = keeper.renew().await.expect_err("no server");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(asked.elapsed() < Duration::from_secs(20), "bounded by the lease, not by the request time-out");
    until("the fence", || async { (!keeper.is_held()).then_some(()) }).await;
    assert!(asked.elapsed() >= Duration::from_millis(1_900), "{:?}", asked.elapsed());
    assert!(!keeper.renew().await.expect("lost without asking"));
    server.server.restart().await.expect("starts again");
    let mut other = bus.lease("leader", "two").await.expect("keeper");
    assert!(acquired(&mut other).await > token);
}

#[tokio::test]
async fn a_key_is_a_token() {
    let bus = ready().await;
    assert!(bus.lease("a.b", "one").await.is_err());
    assert!(bus.lease(">", "one").await.is_err());
}
