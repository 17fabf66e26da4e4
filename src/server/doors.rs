//! The listeners: when each is opened, to which shard a connection goes, and how all of it ends with the process.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Letter, desk::Desk, take};
use crate::{
    config::{
        Config,
        tls::{Files, Tls},
    },
    http::Surface,
    limits, log,
    net::{
        Listener,
        listener::Arrival,
        tls::{self, Guard},
    },
    observe::log::shown,
    runtime,
};

/// What a listener is for, and who gets in: plain connections, encrypted ones, or both.
#[derive(Clone)]
pub(super) struct Door {
    pub surface: Surface,
    pub plain: bool,
    pub guard: Option<Arc<Guard>>,
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
    let clients = config.listen_client_urls.iter().map(|url| (url, client));
    let http = config.listen_client_http_urls.iter().map(|url| (url, Surface::Http));
    let metrics = config.listen_metrics_urls.iter().map(|url| (url, Surface::Metrics));
    for (url, surface) in clients.chain(http).chain(metrics) {
        let (scheme, place) = url.split_once("://").expect("URLs have been checked");
        let encrypted = matches!(scheme, "https" | "unixs");
        let same = |(known, bound): &&mut (&str, Bound)| *known == place && bound.surface == surface;
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
    let client = match bound.iter().any(|bound| bound.encrypted) {
        true => Some(Arc::new(client_guard(config)?)),
        false => None,
    };
    if config.tls.peer.has_pair() {
        // Nothing is opened for peers yet; what is wrong with the files is told all the same.
        Guard::new(&config.tls, &config.tls.peer)?;
    }
    let door = |Bound { listener, surface, plain, encrypted }| {
        (listener, Door { surface, plain, guard: client.clone().filter(|_| encrypted) })
    };
    Ok(bound.into_iter().map(door).collect())
}

fn client_guard(config: &Config) -> Result<Guard, String> {
    let Tls { client, self_signed_years, .. } = &config.tls;
    if client.has_pair() || !client.auto {
        return Guard::new(&config.tls, client);
    }
    let host = |url: &String| {
        let place = url.split_once("://").map_or(url.as_str(), |(_, place)| place);
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']').to_owned()
    };
    let urls = config.listen_client_urls.iter().chain(&config.listen_client_http_urls);
    let hosts: Vec<String> = urls.map(host).collect();
    let folder = config.data_dir.join("fixtures").join("client");
    let (cert, key) = tls::make_certificate(&folder, &hosts, *self_signed_years)?;
    Guard::new(&config.tls, &Files { cert, key, ..client.clone() })
}

/// Opens the doors and waits for the signal that ends the process. Clients are let in once the member leads; who asks
/// for its health or metrics, at once.
pub(super) async fn open_and_wait(desk: Rc<Desk>) {
    let (listeners, signals) = take(&desk.house.entrance);
    let (clients, metrics): (Vec<_>, Vec<_>) =
        listeners.into_iter().partition(|(_, door)| door.surface != Surface::Metrics);
    let mut doors: Vec<runtime::Task<()>> = Vec::new();
    for (listener, door) in metrics {
        let scheme = if door.guard.is_some() { "https" } else { "http" };
        log!(Info, "serving metrics", "address" = format!("{scheme}://{}", listener.local()));
        doors.push(open(&desk, listener, door));
    }
    // Nor before the cluster's version is decided and the leases' deadlines run: who is let in finds a member as it
    // will be.
    while !desk.house.member.is_leader() || desk.house.published.load().state.cluster_version.is_none() {
        runtime::sleep(Duration::from_millis(1)).await;
    }
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
    match signals.wait().await {
        Ok(signal) => log!(Info, "received signal; shutting down", "signal" = signal.name()),
        Err(cause) => log!(Error, "cannot wait for signals; shutting down", "error" = shown(&cause)),
    }
    drop(doors);
    for shard in 1..desk.house.member.config.shards {
        desk.port.send(shard, Letter::Drain);
    }
    desk.drain();
    let patience = Instant::now() + desk.drain_grace() + Duration::from_secs(1);
    while desk.house.seats.taken() > 0 && Instant::now() < patience {
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

/// Accepts on a listener until the task is dropped; a connection goes to the shard of its seat.
fn open(desk: &Rc<Desk>, listener: Listener, door: Door) -> runtime::Task<()> {
    let (seats, desk) = (desk.house.seats.clone(), desk.clone());
    runtime::spawn_with_handle(async move {
        let number = desk.shard.id;
        let hand_over = |arrival: Arrival| match arrival.seat.shard() {
            shard if shard == number => desk.serve(arrival, door.clone()),
            shard => desk.port.send(shard, Letter::Arrival(arrival, door.clone())),
        };
        if let Err(cause) = listener.accept_all(seats, hand_over).await {
            log!(Fatal, "cannot accept connections", "error" = shown(&cause));
            std::process::exit(1);
        }
    })
}
