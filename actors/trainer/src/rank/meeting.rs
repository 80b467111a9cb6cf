//! The rendezvous on the rank's runtime: joins at the coordinator for the compute thread, again and again until
//! there is an answer or its time is over.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bus::Bus;
use messages::error::Code;
use messages::gang::{Join, Joined, Left};
use messages::plan::JobPlan;
use messages::{Fence, WireError};
use tokio::sync::mpsc;

use super::telling::Teller;
use crate::exchange::Listener;
use crate::link::RankConfig;
use crate::train::gang::{Interrupt, MeetRequest, Rendezvous};
use crate::vitals::Vitals;

/// First and longest pause between two tries to join.
const JOIN_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_JOIN_PAUSE: Duration = Duration::from_secs(1);
/// Port of a NATS server whose URL names none.
const NATS_PORT: u16 = 4222;

/// Where the compute thread meets the other ranks, and what serves it.
pub fn rendezvous(
    config: &RankConfig,
    plan: &JobPlan,
    teller: &Teller,
    interrupt: Interrupt,
) -> Result<(impl Future<Output = ()> + use<>, Rendezvous), WireError> {
    let timings = *teller.bus.timings();
    let listener = match plan.resources.max_world_size.max(config.world_size) {
        0 | 1 => None,
        _ => Some(Listener::bind(SocketAddr::new(own_address(config)?, 0)).map_err(|e| e.to_wire())?),
    };
    let address = match &listener {
        Some(listener) => Some(listener.address().map_err(|e| e.to_wire())?.to_string()),
        None => None,
    };
    let join = Join {
        job: config.work.job.clone(),
        task: config.work.task.clone(),
        attempt: config.work.attempt,
        fence: config.fence,
        generation: config.generation,
        rank: config.rank,
        worker: config.worker.clone(),
        host: config.host.clone(),
        pid: std::process::id(),
        address,
        left: None,
    };
    let (requests, meetings) = mpsc::channel(1);
    let rendezvous = Rendezvous {
        requests,
        listener,
        encrypted: config.collective_tls,
        interrupt,
        connect_timeout: Duration::from_millis(timings.join_timeout_ms / 3),
        step_timeout: Duration::from_millis(timings.step_timeout_ms),
    };
    let (bus, vitals, joining) = (teller.bus.clone(), teller.vitals.clone(), config.joining);
    Ok((async move { serve(&bus, &vitals, join, joining, meetings).await }, rendezvous))
}

async fn serve(bus: &Bus, vitals: &Vitals, join: Join, joining: bool, mut meetings: mpsc::Receiver<MeetRequest>) {
    let timings = bus.timings();
    while let Some(MeetRequest { left, answer }) = meetings.recv().await {
        let fence = vitals.fence().unwrap_or(join.fence);
        // Ranks that come back from a generation, and those that join one, wait for some that still compute.
        let waits_for_step = left.is_some() || joining;
        let patience_ms = timings.join_timeout_ms + if waits_for_step { timings.step_timeout_ms } else { 0 };
        let joined = meet(bus, vitals, &join, fence, left, Duration::from_millis(patience_ms)).await;
        // The compute thread may have been stopped meanwhile.
        let _ = answer.send(joined);
    }
}

/// Meets the other ranks. Asked again while no coordinator leads and while others are missing, until the time is
/// over that a rank may be waited for.
async fn meet(
    bus: &Bus,
    vitals: &Vitals,
    join: &Join,
    fence: Fence,
    left: Option<Left>,
    patience: Duration,
) -> Result<Joined, WireError> {
    let until = Instant::now() + patience;
    let each = Duration::from_millis(bus.timings().request_timeout_ms);
    let subject = bus.subjects().rdzv(&join.job, "join");
    let request = Join { fence, left, ..join.clone() };
    let mut pause = JOIN_PAUSE;
    loop {
        let error = match bus.request_to::<Join, Joined>(&subject, request.clone(), each).await {
            Err(error) if error.retry && error.code != Code::Fenced => error,
            answer => return answer,
        };
        vitals.progress();
        if Instant::now() + pause >= until {
            let message = format!("rank {} could not join: {}", join.rank, error.message);
            return Err(WireError { message, ..error });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_JOIN_PAUSE);
    }
}

/// The address of this host on the configured interface; else the one that the server, and so the other hosts, are
/// reached from.
fn own_address(config: &RankConfig) -> Result<IpAddr, WireError> {
    match &config.collective_interface {
        Some(name) => address_of(name),
        None => Ok(routed_address(config)),
    }
}

/// The first address of an interface, of version 4 if it has one.
fn address_of(name: &str) -> Result<IpAddr, WireError> {
    let wrong = |what: String| WireError::new(Code::AddressUnavailable, format!("collective_interface: {what}"));
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|e| wrong(format!("cannot list interfaces: {e}")))?;
    let (mut found, mut names) = (Vec::new(), Vec::new());
    for interface in interfaces {
        let address = interface.address.as_ref().and_then(|address| {
            let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
            four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
        });
        if interface.interface_name == name {
            found.extend(address);
        }
        names.push(interface.interface_name);
    }
    names.sort();
    names.dedup();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| {
        wrong(format!("{name} is no interface of this host with an address; there are {}", names.join(", ")))
    })
}

/// The address of this host that the server, and so the other hosts, are reached from.
fn routed_address(config: &RankConfig) -> IpAddr {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Some(server) = host_and_port(&config.connection.url) else { return loopback };
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // Nothing is sent: this asks the routing table.
        socket.connect(server)?;
        socket.local_addr()
    });
    routed.map_or(loopback, |address| address.ip())
}

/// Host and port of the first server of a NATS URL.
fn host_and_port(url: &str) -> Option<(&str, u16)> {
    let first = url.split(',').next()?;
    let rest = first.split_once("://").map_or(first, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let rest = rest.split('/').next()?;
    match rest.rsplit_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((rest, NATS_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::{address_of, host_and_port};

    #[test]
    fn an_interface_has_an_address_or_the_others_are_named() {
        assert!(address_of("lo").expect("loopback").is_loopback());
        let error = address_of("eth99").expect_err("not there");
        assert!(error.message.starts_with("collective_interface: eth99 is no interface of this host"), "{error:?}");
        assert!(error.message.contains("lo"), "{error:?}");
    }

    #[test]
    fn a_server_is_found_in_its_url() {
        assert_eq!(host_and_port("nats://u:p@10.1.2.3:4333"), Some(("10.1.2.3", 4333)));
        assert_eq!(host_and_port("tls://bus.example"), Some(("bus.example", 4222)));
        assert_eq!(host_and_port("127.0.0.1:4000,127.0.0.1:4001"), Some(("127.0.0.1", 4000)));
        assert_eq!(host_and_port("nats://h:x"), None);
    }
}
