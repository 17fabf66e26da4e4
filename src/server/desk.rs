//! Where a shard meets its connections, its neighbours and its clock: one on each executor that serves clients. It says
//! what is served on a connection and knows nothing of how.

use std::{
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    House, Letter,
    doors::{self, Door},
    source::ShardSource,
    ways::ToPeers,
};
use crate::{
    api::service::Services,
    grpc::{self, Drain, Origin, Settings, local::Local},
    http::{
        self, Security, Site, Surface,
        gateway::{Gateway, Relayed},
    },
    limits, log,
    net::{
        listener::Arrival,
        seats::Seat,
        sniff::{Protocol, Rewound, sniff},
        tls::Guard,
    },
    observe::{self, log::shown, trace::Tracer},
    runtime::{
        self,
        mesh::Port,
        socket::{Address, Socket, Traffic},
    },
    shard::{Shard, mail::Post},
};

pub(super) struct Desk {
    pub house: Arc<House>,
    pub port: Rc<Port<Letter>>,
    pub shard: Rc<Shard>,
    pub services: Rc<Services>,
    source: Rc<ShardSource>,
    gateway: Option<Rc<Gateway>>,
    settings: Rc<Settings>,
    traffic: Rc<Traffic>,
    drain: Drain,
    /// Ticks of the shard's timer.
    ticks: Cell<u32>,
}

/// One of so many, as long as it is there.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The executor's own statistics are taken over once in so many ticks: they are no part of anybody's answer.
const TICKS_PER_LOOK: u32 = 1000 / limits::SHARD_TICK_MS as u32;

impl Desk {
    pub fn new(house: Arc<House>, port: Rc<Port<Letter>>, shard: Rc<Shard>, way: ToPeers) -> Self {
        let services = Services::new(shard.clone(), doors::client(&house.member.config));
        let settings = Settings::of(&house.member.config, shard.metrics.clone());
        let tracer = house
            .exporter
            .clone()
            .map(|exporter| Rc::new(Tracer::new(exporter).expect("the system gives random numbers")));
        let settings = Rc::new(Settings { tracer, ..settings });
        let source = Rc::new(ShardSource::new(services.clone(), house.exporter.clone(), way));
        let (traffic, drain, ticks) = (Rc::default(), Drain::new(), Cell::new(0));
        let local = Local { handler: services.clone(), settings: settings.clone(), drain: drain.clone() };
        let config = &house.member.config;
        let gateway = config.json_gateway.then(|| {
            // etcd's calls one of these, whichever comes first; plainly unless none is plain.
            let within_tls =
                config.listen_client_urls.iter().all(|url| url.starts_with("https") || url.starts_with("unixs"));
            let any_origin = config.cors.is_empty() || config.cors.iter().any(|allowed| allowed == "*");
            Rc::new(Gateway::new(local, Relayed::new(within_tls, any_origin)))
        });
        Desk { house, port, shard, services, source, gateway, settings, traffic, drain, ticks }
    }

    /// How long after the signal to drain a connection may still be open.
    pub fn drain_grace(&self) -> Duration {
        self.settings.drain_grace.max(Duration::from_secs(limits::HTTP_DRAIN_SECONDS_MAX))
    }

    pub async fn keep_time(self: Rc<Self>) {
        loop {
            runtime::sleep(Duration::from_millis(limits::SHARD_TICK_MS)).await;
            let now_ms = runtime::now_ms();
            self.shard.tick(now_ms);
            self.shard.expire_due(now_ms);
            self.ticks.set(self.ticks.get().wrapping_add(1));
            if self.ticks.get().is_multiple_of(TICKS_PER_LOOK) {
                let (busy, turns) = runtime::worked();
                self.shard.metrics.busy_nanoseconds.add(busy.as_nanos() as u64);
                self.shard.metrics.turns.add(turns);
                if observe::log::take_untidy() {
                    runtime::spawn(runtime::bulk(observe::log::tidy));
                }
            }
        }
    }

    pub async fn write_to_core(self: Rc<Self>) {
        loop {
            let mail = self.shard.outbox.take().await;
            self.shard.metrics.mail_size.observe_value((mail.proposals.len() + mail.reads.len()) as u64);
            self.port.send(self.house.core_peer, Letter::Post(Post::ToCore(mail)));
        }
    }

    pub async fn write_to_neighbour(self: Rc<Self>, neighbour: usize) {
        loop {
            for post in self.shard.neighbours[neighbour].take().await {
                self.port.send(neighbour, Letter::Post(post));
            }
        }
    }

    pub fn receive(&self, from: usize, post: Post) {
        self.shard.advance(runtime::now_ms());
        match post {
            Post::FromCore(mail) => self.shard.deliver(mail),
            Post::LeaseCalls(calls) => self.shard.receive_lease_calls(from, calls),
            Post::LeaseAnswers(answers) => self.shard.receive_lease_answers(answers),
            Post::ToCore(_) => unreachable!("the core is elsewhere"),
        }
    }

    pub fn serve(self: &Rc<Self>, arrival: Arrival, door: Door) {
        let Arrival { accepted, seat } = arrival;
        match Socket::new(accepted, self.traffic.clone()) {
            Ok(socket) => runtime::spawn(self.clone().serve_socket(socket, seat, door)),
            // The peer has gone already.
            Err(cause) => log!(Debug, "lost a connection before it was served", "error" = shown(&cause)),
        }
    }

    async fn serve_socket(self: Rc<Self>, socket: Socket, _seat: Seat, door: Door) {
        // Told with spans and asked for nothing else.
        let local = match self.settings.tracer {
            Some(_) => socket.local().ok().map(Rc::new),
            None => None,
        };
        let Ok((protocol, io)) = sniff(socket).await else { return };
        match (protocol, door.guard) {
            // In a box: a plain connection need not be as large as one of these.
            (Protocol::Tls, Some(guard)) => {
                Box::pin(self.serve_encrypted(io, guard, door.of_its_address, local, door.surface)).await;
            }
            (Protocol::Http1 | Protocol::Http2, _) if door.plain => {
                self.serve_protocol(protocol, io, Security::default(), local, door.surface).await;
            }
            // It speaks nothing that is spoken here.
            _ => {}
        }
    }

    async fn serve_encrypted(
        self: Rc<Self>,
        io: Rewound<Socket>,
        guard: Arc<Guard>,
        of_its_address: bool,
        local: Option<Rc<Address>>,
        surface: Surface,
    ) {
        let peer = io.get_ref().peer().clone();
        let from = match &peer {
            Address::Inet(address) if of_its_address => Some(address.ip()),
            _ => None,
        };
        match guard.admit(io, from).await {
            Ok(io) => {
                let security = Security { encrypted: true, certified: guard.user_of(&io) };
                let Ok((protocol, io)) = sniff(io).await else { return };
                self.serve_protocol(protocol, io, security, local, surface).await;
            }
            Err(cause) => {
                let message = match surface {
                    Surface::Peer => "rejected connection on peer endpoint",
                    _ => "rejected connection on client endpoint",
                };
                log!(Warn, message, "remote-addr" = shown(&peer), "error" = cause);
            }
        }
    }

    async fn serve_protocol<S>(
        self: Rc<Self>,
        protocol: Protocol,
        io: S,
        security: Security,
        local: Option<Rc<Address>>,
        surface: Surface,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        match protocol {
            Protocol::Http1 if surface == Surface::Peer => {
                // To the end of the process: what is acknowledged until then goes by it.
                let _counted = Counted::of(&self.house.peer_connections);
                Box::pin(http::serve_peer(io, self.source.clone(), std::future::pending())).await;
            }
            // Members speak HTTP/1.1 to each other, in plain and within TLS.
            _ if surface == Surface::Peer => {}
            Protocol::Http2 if surface.takes_grpc() || security.encrypted => {
                let within = security.encrypted.then(|| self.within(security.clone(), local.clone(), surface));
                let (services, settings) = (self.services.clone(), self.settings.clone());
                let origin = Origin { certified: security.certified, local };
                grpc::serve(io, origin, within, services, settings, self.drain.clone()).await;
            }
            Protocol::Http1 if surface.takes_http() => {
                let mut waiter = self.drain.waiter();
                let drained = poll_fn(move |context| waiter.poll(context));
                self.shard.metrics.connections.add(1);
                let (source, gateway) = (self.source.clone(), self.gateway.clone());
                let site = Site { source, gateway, surface, security, local };
                // In a box: most connections are of gRPC, and each would be larger by it.
                Box::pin(http::serve(io, site, drained)).await;
                self.shard.metrics.connections.add(-1);
            }
            // It speaks nothing that is spoken here.
            _ => {}
        }
    }

    /// Within TLS HTTP is served over HTTP/2 as well.
    fn within(&self, security: Security, local: Option<Rc<Address>>, surface: Surface) -> grpc::Within {
        let (source, gateway) = (self.source.clone(), self.gateway.clone());
        let site: Option<Rc<dyn grpc::plain::Serve>> =
            surface.takes_http().then(|| Rc::new(Site { source, gateway, surface, security, local }) as _);
        grpc::Within::new(surface.takes_grpc(), site)
    }

    /// Ends what is open: connections are told to go, streams and waiting requests get etcd's word for it.
    pub fn drain(&self) {
        self.drain.fire();
        self.shard.stop();
    }
}
