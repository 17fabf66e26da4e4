//! The listeners: when each is opened, to which shard a connection goes, and how all of it ends with the process.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use super::{Letter, desk::Desk, take};
use crate::{
    http::Surface,
    log,
    net::{Listener, listener::Arrival},
    observe::log::shown,
    runtime,
};

/// Opens the doors and waits for the signal that ends the process. Clients are let in once the member leads; who asks
/// for its health or metrics, at once.
pub(super) async fn open_and_wait(desk: Rc<Desk>) {
    let (listeners, signals) = take(&desk.house.entrance);
    let (clients, metrics): (Vec<_>, Vec<_>) =
        listeners.into_iter().partition(|(_, surface)| *surface != Surface::Metrics);
    let mut doors: Vec<runtime::Task<()>> = Vec::new();
    for (listener, surface) in metrics {
        log!(Info, "serving metrics", "address" = format!("http://{}", listener.local()));
        doors.push(open(&desk, listener, surface));
    }
    // Nor before the cluster's version is decided and the leases' deadlines run: who is let in finds a member as it
    // will be.
    while !desk.house.member.is_leader() || desk.house.published.load().state.cluster_version.is_none() {
        runtime::sleep(Duration::from_millis(1)).await;
    }
    desk.shard.tick(runtime::now_ms());
    for (listener, surface) in clients {
        log!(
            Info,
            "serving client traffic insecurely; this is strongly discouraged!",
            "traffic" = surface.traffic(),
            "address" = listener.local().to_string(),
        );
        doors.push(open(&desk, listener, surface));
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
    log!(Info, "the member has stopped");
    std::process::exit(0);
}

/// Accepts on a listener until the task is dropped; a connection goes to the shard of its seat.
fn open(desk: &Rc<Desk>, listener: Listener, surface: Surface) -> runtime::Task<()> {
    let (seats, desk) = (desk.house.seats.clone(), desk.clone());
    runtime::spawn_with_handle(async move {
        let number = desk.shard.id;
        let hand_over = |arrival: Arrival| match arrival.seat.shard() {
            shard if shard == number => desk.serve(arrival, surface),
            shard => desk.port.send(shard, Letter::Arrival(arrival, surface)),
        };
        if let Err(cause) = listener.accept_all(seats, hand_over).await {
            log!(Fatal, "cannot accept connections", "error" = shown(&cause));
            std::process::exit(1);
        }
    })
}
