//! The listeners: when each is opened, to which shard a connection goes, and how all of it ends with the process.

use std::{
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};

use super::{Letter, departure::unless_departed, desk::Desk, integrity, take};
use crate::{
    config::{Config, tls::Files},
    http::Surface,
    limits, log,
    net::{
        Listener,
        listener::Arrival,
        tls::{self, Caller, Guard},
    },
    observe::log::{hex, shown},
    peers::client::Client,
    runtime,
};

/// What a listener is for, and who gets in: plain connections, encrypted ones, or both.
#[derive(Clone)]
pub(super) struct Door {
    pub surface: Surface,
    pub plain: bool,
    pub guard: Option<Arc<Guard>>,
    /// A certificate that is shown has to be of the address that it comes from.
    pub of_its_address: bool,
}

/// A listener with its URLs' schemes: whether plain and whether encrypted connections are asked for.
pub(super) struct Bound {
    listener: Listener,
    surface: Surface,
    plain: bool,
    encrypted: bool,
}

/// Takes every address that is to be listened on. A client address that is given both plain and encrypted is taken once,
/// for both.
pub(super) fn bind(config: &Config) -> Result<Vec<Bound>, String> {
    let mut bound: Vec<(&str, Bound)> = Vec::new();
    // Where HTTP has listeners of its own, the client URLs are gRPC's.
    let client = if config.listen_client_http_urls.is_empty() { Surface::Client } else { Surface::Grpc };
    let peers = config.listen_peer_urls.iter().map(|url| (url, Surface::Peer));
    let clients = config.listen_client_urls.iter().map(|url| (url, client));
    let http = config.listen_client_http_urls.iter().map(|url| (url, Surface::Http));
    let metrics = config.listen_metrics_urls.iter().map(|url| (url, Surface::Metrics));
    for (url, surface) in peers.chain(clients).chain(http).chain(metrics) {
        let (scheme, place) = url.split_once("://").expect("URLs have been checked");
        // A socket file for members is plain whatever it is called, as etcd's (transport.newListener).
        let encrypted = scheme == "https" || scheme == "unixs" && surface != Surface::Peer;
        let same = |(known, bound): &&mut (&str, Bound)| {
            *known == place && bound.surface == surface && surface != Surface::Peer
        };
        if let Some((_, bound)) = bound.iter_mut().find(same) {
            bound.plain |= !encrypted;
            bound.encrypted |= encrypted;
            continue;
        }
        let listener = Listener::bind(url, config.socket_reuse_port).map_err(|cause| cause.to_string())?;
        bound.push((place, Bound { listener, surface, plain: !encrypted, encrypted }));
    }
    Ok(bound.into_iter().map(|(_, bound)| bound).collect())
}

/// Gives each listener that is to be encrypted its guard.
pub(super) fn guard(config: &Config, bound: Vec<Bound>) -> Result<Vec<(Listener, Door)>, String> {
    let client = match bound.iter().any(|bound| bound.encrypted && bound.surface != Surface::Peer) {
        true => Some(Arc::new(client_guard(config)?)),
        false => None,
    };
    let peer = peer_guard(config, &bound)?.map(Arc::new);
    let door = |Bound { listener, surface, plain, encrypted }| {
        let (guard, of_its_address) = match surface {
            Surface::Peer => (&peer, !config.tls.peers_from_anywhere),
            _ => (&client, surface == Surface::Metrics),
        };
        (listener, Door { surface, plain, guard: guard.clone().filter(|_| encrypted), of_its_address })
    };
    Ok(bound.into_iter().map(door).collect())
}

fn client_guard(config: &Config) -> Result<Guard, String> {
    let urls = config.listen_client_urls.iter().chain(&config.listen_client_http_urls);
    Guard::new(&config.tls, &with_pair(config, &config.tls.client, "client", urls)?)
}

/// With what this member calls others.
pub(super) fn peer_files(config: &Config) -> Result<Files, String> {
    let is_encrypted = config.listen_peer_urls.iter().any(|url| url.starts_with("https"));
    match is_encrypted {
        true => with_pair(config, &config.tls.peer, "peer", config.listen_peer_urls.iter()),
        false => Ok(config.tls.peer.clone()),
    }
}

/// Connections of one executor to other members.
pub(super) fn client(config: &Config) -> Client {
    let files = peer_files(config).expect("what is needed of them was made at the start");
    Client::new(config.tls.clone(), files, Duration::from_millis(config.peer_dial_timeout_ms()))
}

/// That other members can be called with these files is found out at the start, if there are any.
pub(super) fn check_calling(config: &Config) -> Result<(), String> {
    let files = peer_files(config)?;
    match files.has_pair() || files.demands_certificates() {
        true => Caller::new(&config.tls, &files).map(drop),
        false => Ok(()),
    }
}

/// The files of a certificate are looked at wherever there are any, so that what is wrong with them is told.
fn peer_guard(config: &Config, bound: &[Bound]) -> Result<Option<Guard>, String> {
    let files = &config.tls.peer;
    let encrypted = bound.iter().find(|bound| bound.surface == Surface::Peer && bound.encrypted);
    match encrypted {
        None if !files.has_pair() => Ok(None),
        Some(Bound { listener, .. }) if !files.has_pair() && !files.auto => {
            Err(format!("cannot listen on TLS for {}: KeyFile and CertFile are not presented", listener.local()))
        }
        _ => {
            let files = with_pair(config, files, "peer", config.listen_peer_urls.iter())?;
            Guard::for_peers(&config.tls, &files).map(Some)
        }
    }
}

/// One side's files; if a certificate is to be made, with the one that was made for the hosts of these URLs.
fn with_pair<'a>(
    config: &Config,
    files: &Files,
    side: &str,
    urls: impl Iterator<Item = &'a String>,
) -> Result<Files, String> {
    if files.has_pair() || !files.auto {
        return Ok(files.clone());
    }
    let host = |url: &String| {
        let place = url.split_once("://").map_or(url.as_str(), |(_, place)| place);
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']').to_owned()
    };
    let hosts: Vec<String> = urls.map(host).collect();
    let folder = config.data_dir.join("fixtures").join(side);
    let (cert, key) = tls::make_certificate(&folder, &hosts, config.tls.self_signed_years)?;
    Ok(Files { cert, key, ..files.clone() })
}

/// Opens the doors and waits for the signal that ends the process. Clients are let in once all members know this one; other
/// members, and who asks for its health or metrics, at once.
pub(super) async fn open_and_wait(desk: Rc<Desk>) {
    let (listeners, signals) = take(&desk.house.entrance);
    let gates = &desk.house.member.config.gates;
    // One that has nothing yet has nothing to compare.
    if gates.is_on("InitialCorruptCheck")
        && desk.house.published.load().revision() > 1
        && let Err(error) = integrity::check_at_start(&desk.services).await
    {
        log!(Fatal, "checkInitialHashKV failed", "error" = error);
        std::process::exit(1);
    }
    let (at_once, clients): (Vec<_>, Vec<_>) =
        listeners.into_iter().partition(|(_, door)| matches!(door.surface, Surface::Metrics | Surface::Peer));
    let mut doors: Vec<runtime::Task<()>> = Vec::new();
    for (listener, door) in at_once {
        if door.surface == Surface::Peer {
            log!(Info, "serving peer traffic", "address" = listener.local().to_string());
            doors.push(open(&desk, listener, door));
            continue;
        }
        let scheme = if door.guard.is_some() { "https" } else { "http" };
        log!(Info, "serving metrics", "address" = format!("{scheme}://{}", listener.local()));
        doors.push(open(&desk, listener, door));
    }
    let member = &desk.house.member;
    let signal = {
        let mut signal = pin!(signals.wait());
        match select(signal.as_mut(), pin!(unless_departed(member, ready(&desk)))).await {
            // It may end before it has found the others.
            Either::Left((signal, _)) => Some(signal),
            Either::Right((None, _)) => {
                log!(Fatal, "listener failed", "error" = "server is stopping");
                std::process::exit(1);
            }
            Either::Right((Some(()), _)) => {
                desk.shard.tick(runtime::now_ms());
                for (listener, door) in clients {
                    let (address, traffic) = (listener.local().to_string(), door.surface.traffic());
                    if door.plain {
                        let message = "serving client traffic insecurely; this is strongly discouraged!";
                        log!(Info, message, "traffic" = traffic, "address" = address.clone());
                    }
                    if door.guard.is_some() {
                        log!(Info, "serving client traffic securely", "traffic" = traffic, "address" = address);
                    }
                    doors.push(open(&desk, listener, door));
                }
                log!(Info, "ready to serve client requests");
                runtime::tell_service_manager();
                unless_departed(member, signal).await
            }
        }
    };
    match signal {
        None => {}
        Some(Ok(signal)) => log!(Info, "received signal; shutting down", "signal" = signal.name()),
        Some(Err(cause)) => log!(Error, "cannot wait for signals; shutting down", "error" = shown(&cause)),
    }
    hand_over(&desk).await;
    drop(doors);
    for shard in 1..desk.house.member.config.shards {
        desk.port.send(shard, Letter::Drain);
    }
    desk.drain();
    let patience = Instant::now() + desk.drain_grace() + Duration::from_secs(1);
    while desk.house.seats.taken() > desk.house.peer_connections.load(Relaxed) && Instant::now() < patience {
        runtime::sleep(Duration::from_millis(10)).await;
    }
    if let Some(exporter) = &desk.house.exporter {
        // What is lost by it is counted nowhere any more.
        let patience = Duration::from_millis(limits::TRACE_FLUSH_MS_MAX);
        if runtime::timeout(patience, exporter.stop()).await.is_none() {
            log!(Warn, "the collector does not take the last spans; they are lost");
        }
    }
    log!(Info, "the member has stopped");
    std::process::exit(0);
}

/// Until the cluster knows this member, its version is decided and, where it leads, the leases' deadlines run: who is let in
/// finds a member as it will be. (etcd: EtcdServer.ReadyNotify.)
async fn ready(desk: &Desk) {
    let mut pause = Duration::from_millis(1);
    while !desk.house.member.introduced.load(Relaxed) || desk.house.published.load().state.cluster_version.is_none() {
        runtime::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_millis(16));
    }
}

/// A leader that goes hands its leadership to the voter that has been heard of for the longest, so that nobody has to find out
/// that it has gone. (etcd: server.go, TryTransferLeadershipOnShutdown.)
async fn hand_over(desk: &Desk) {
    let member = &desk.house.member;
    if !member.is_leader() {
        log!(
            Info,
            "skipped leadership transfer; local server is not leader",
            "local-member-id" = hex(member.id),
            "current-leader-member-id" = hex(member.standing.leader.load(Relaxed))
        );
        return;
    }
    let view = desk.house.published.load();
    let others: Vec<u64> =
        view.state.membership.voters().map(|voter| voter.id).filter(|voter| *voter != member.id).collect();
    if others.is_empty() {
        log!(
            Info,
            "skipped leadership transfer for single voting member cluster",
            "local-member-id" = hex(member.id),
            "current-leader-member-id" = hex(member.id)
        );
        return;
    }
    let heard_of = others.into_iter().filter_map(|voter| Some((member.reached.since(voter)?, voter)));
    let failed = match heard_of.min() {
        None => Some("etcdserver: unhealthy cluster"),
        Some((_, voter)) => {
            let patience = Duration::from_millis(member.config.election_ms);
            let done = desk.shard.hand_over(voter, patience).await;
            (!done).then_some("etcdserver: request timed out, leader transfer took too long")
        }
    };
    if let Some(error) = failed {
        log!(Warn, "leadership transfer failed", "local-member-id" = hex(member.id), "error" = error);
    }
}

/// Accepts on a listener until the task is dropped; a connection goes to the shard of its seat.
fn open(desk: &Rc<Desk>, listener: Listener, door: Door) -> runtime::Task<()> {
    let (seats, desk) = (desk.house.seats.clone(), desk.clone());
    runtime::spawn_with_handle(async move {
        let number = desk.shard.id;
        // What members say is for the core: beside it, if there is a shard, nothing of it has to change executors.
        let beside_core = Some(desk.house.core_peer).filter(|core| *core < desk.house.member.config.shards);
        let seat = |arrival: &Arrival| match beside_core.filter(|_| door.surface == Surface::Peer) {
            Some(shard) => shard,
            None => arrival.seat.shard(),
        };
        let hand_over = |arrival: Arrival| match seat(&arrival) {
            shard if shard == number => desk.serve(arrival, door.clone()),
            shard => desk.port.send(shard, Letter::Arrival(arrival, door.clone())),
        };
        if let Err(cause) = listener.accept_all(seats, hand_over).await {
            log!(Fatal, "cannot accept connections", "error" = shown(&cause));
            std::process::exit(1);
        }
    })
}
