//! Puts the house together: what was found on disk, the listeners, one executor a core, and on each its shard; the raft
//! core on one of its own or beside a shard. Nothing is decided here but who runs where.

use std::{
    convert::Infallible,
    fmt::Display,
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prost::Message as _;

use crate::{
    api::service::Services,
    config::Config,
    grpc::{self, Drain, Settings},
    limits, log,
    net::{
        Listener,
        listener::Arrival,
        seats::{Seat, Seats},
        sniff::{Protocol, sniff},
    },
    observe::log::{hex, shown},
    proto::etcdserverpb::{CompactionRequest, InternalRaftRequest, RequestHeader},
    raft::{
        compactor::Compactor,
        core::Core,
        driver::{self, Driver, PostRoom},
        segments::SegmentFiles,
        space::Space,
        start::{self, Started},
    },
    runtime::{
        self,
        executors::{self, Placement},
        file,
        mesh::{Mesh, Port},
        signals::Signals,
        socket::{Socket, Traffic},
    },
    shard::{
        Member, Shard,
        mail::{FromCore, Post},
        view::{Published, View},
    },
};

/// What one executor sends another.
enum Letter {
    Post(Post),
    /// A connection that the receiver is to serve.
    Arrival(Arrival),
    /// The server stops: end what is open.
    Drain,
}

/// Runs a member until a signal ends it; then the process exits with 0.
///
/// # Errors
/// What keeps it from starting: a text for the operator.
pub fn run(config: Config) -> Result<Infallible, String> {
    fn text(cause: impl Display) -> String {
        cause.to_string()
    }
    let signals = Signals::install().map_err(|cause| format!("cannot take over signals: {cause}"))?;
    let cores = executors::allowed_cores().map_err(text)?;
    // A member with cores to spare keeps one for the log.
    let own_core = cores > 2 && config.shards < cores;
    let placement = Placement::new(config.shards + usize::from(own_core)).map_err(text)?;
    let seats = Seats::within_descriptor_limit(config.shards).map_err(text)?;
    let listeners: Vec<Listener> =
        config.listen_client_urls.iter().map(|url| Listener::bind(url).map_err(text)).collect::<Result<_, String>>()?;

    let started = start::start(&config, crate::observe::log::Drain::logger("raft"), |dir| {
        let dir = dir.to_owned();
        executors::run_one(move || file::probe(dir)).map_err(std::io::Error::other)?
    })
    .map_err(text)?;
    if let Some(cut) = &started.cut {
        log!(
            Warn,
            "cut a torn write off the end of the log",
            "file" = shown(cut.file.display()),
            "offset" = u64::from(cut.offset),
            "index" = cut.index
        );
    }
    let member = Arc::new(Member::new(started.member_id, started.cluster_id, config, unix_ms()));
    let view = View { state: started.parts.state.clone(), segments: started.parts.writer.table().clone() };
    log!(
        Info,
        "starting the member",
        "name" = member.config.name,
        "local-member-id" = hex(member.id),
        "cluster-id" = hex(member.cluster_id),
        "data-dir" = shown(member.config.data_dir.display()),
        "shards" = member.config.shards as u64,
        "log-sync" = started.durability.name(),
        "entries-to-apply" = started.tail as u64,
    );
    let house = Arc::new(House {
        mesh: Mesh::new(placement.cores().len()),
        core_peer: if own_core { member.config.shards } else { 0 },
        seats,
        published: Published::new(view),
        member,
        started: Mutex::new(Some(started)),
        entrance: Mutex::new(Some((listeners, signals))),
    });
    executors::run(&placement, move |number| live(house.clone(), number)).map_err(text)?;
    unreachable!("the executor that waits for the signal ends the process")
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What all executors share. What lies in a mutex is taken once, at the start.
struct House {
    mesh: Mesh<Letter>,
    /// The executor that the raft core runs on; a shard's own if it shares one.
    core_peer: usize,
    seats: Arc<Seats>,
    member: Arc<Member>,
    published: Published,
    started: Mutex<Option<Started>>,
    entrance: Mutex<Option<(Vec<Listener>, Signals)>>,
}

fn take<T>(from: &Mutex<Option<T>>) -> T {
    from.lock().expect("nothing panics while it holds this").take().expect("taken once")
}

/// The life of one executor.
async fn live(house: Arc<House>, number: usize) {
    let port = Rc::new(house.mesh.join(number).await);
    let shard = (number < house.member.config.shards)
        .then(|| Rc::new(Shard::new(number, house.member.clone(), house.published.clone())));
    let driver = (number == house.core_peer).then(|| drive_core(&house, &port, shard.clone()));
    let desk = shard.map(|shard| Rc::new(Desk::new(house.clone(), port.clone(), shard)));
    if let Some(desk) = &desk {
        let fanning_out = desk.clone();
        runtime::spawn(async move {
            let shard = &fanning_out.shard;
            shard.watches.drive(|| shard.member.term()).await;
        });
        runtime::spawn(desk.clone().keep_time());
        for neighbour in (0..house.member.config.shards).filter(|neighbour| *neighbour != number) {
            runtime::spawn(desk.clone().write_to_neighbour(neighbour));
        }
        if driver.is_none() {
            runtime::spawn(desk.clone().write_to_core());
        }
    }
    runtime::spawn(sort_letters(port.clone(), desk.clone(), driver.clone()));
    match desk.filter(|_| number == 0) {
        Some(desk) => desk.open_and_wait().await,
        None => std::future::pending().await,
    }
}

fn drive_core(house: &Arc<House>, port: &Rc<Port<Letter>>, local: Option<Rc<Shard>>) -> Rc<Driver> {
    let Started { dir, durability, parts, checkpoint_bytes, covered, tail_bytes, .. } = take(&house.started);
    let model = parts.writer.segment_header(0);
    let header = Box::new(move |life| crate::wal::record::SegmentHeader { life, ..model });
    let files = Rc::new(SegmentFiles::new(dir, durability, header));
    let core = Core::new(parts).expect("the log that recovery has read suits the crate");
    let member = house.member.clone();
    let post = Box::new(ByPort(port.clone()));
    let driver = Driver::new(driver::Parts {
        core,
        files,
        member,
        published: house.published.clone(),
        local,
        post,
        clock: runtime::now_ms,
        checkpoint_bytes,
        tail_bytes,
    });
    runtime::spawn(driver.clone().run());
    runtime::spawn(Space::new(driver.clone(), covered).run());
    runtime::spawn(compact_automatically(house.clone(), driver.clone()));
    driver
}

struct ByPort(Rc<Port<Letter>>);

impl PostRoom for ByPort {
    fn send(&self, shard: usize, mail: FromCore) {
        self.0.send(shard, Letter::Post(Post::FromCore(mail)));
    }
}

async fn compact_automatically(house: Arc<House>, driver: Rc<Driver>) {
    let mut compactor = Compactor::new(house.member.config.auto_compaction, runtime::now_ms());
    let Some(interval_ms) = compactor.interval_ms() else { return };
    loop {
        runtime::sleep(Duration::from_millis(interval_ms)).await;
        let revision = house.published.load().revision();
        let Some(revision) = compactor.due(runtime::now_ms(), revision) else { continue };
        if !house.member.is_leader() {
            continue;
        }
        log!(Info, "starting auto compaction", "revision" = revision);
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id: house.member.next_id(), ..Default::default() }),
            compaction: Some(CompactionRequest { revision, physical: false }),
            ..Default::default()
        };
        driver.propose_own(request.encode_to_vec().into());
    }
}

/// Brings every letter of this executor where it belongs.
async fn sort_letters(port: Rc<Port<Letter>>, desk: Option<Rc<Desk>>, driver: Option<Rc<Driver>>) {
    loop {
        let (from, letter) = port.recv().await;
        match (letter, &desk, &driver) {
            (Letter::Post(Post::ToCore(mail)), _, Some(driver)) => driver.receive(from, mail),
            (Letter::Post(post), Some(desk), _) => desk.receive(from, post),
            (Letter::Arrival(arrival), Some(desk), _) => desk.serve(arrival),
            (Letter::Drain, Some(desk), _) => desk.drain(),
            (Letter::Drain, None, _) => {}
            _ => unreachable!("a letter for somebody who is not here"),
        }
    }
}

/// Where a shard meets its connections, its neighbours and its clock.
struct Desk {
    house: Arc<House>,
    port: Rc<Port<Letter>>,
    shard: Rc<Shard>,
    services: Rc<Services>,
    settings: Rc<Settings>,
    traffic: Rc<Traffic>,
    drain: Drain,
}

impl Desk {
    fn new(house: Arc<House>, port: Rc<Port<Letter>>, shard: Rc<Shard>) -> Self {
        let services = Services::new(shard.clone());
        let config = &house.member.config;
        let settings = Settings {
            max_request_bytes: config.max_request_bytes,
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_min_time: Duration::from_millis(config.grpc_keepalive_min_time_ms),
            keepalive_interval: Duration::from_millis(config.grpc_keepalive_interval_ms),
            keepalive_timeout: Duration::from_millis(config.grpc_keepalive_timeout_ms),
            ..Settings::new(services.methods())
        };
        let settings = Rc::new(settings);
        Desk { house, port, shard, services, settings, traffic: Rc::default(), drain: Drain::new() }
    }

    async fn keep_time(self: Rc<Self>) {
        loop {
            runtime::sleep(Duration::from_millis(limits::SHARD_TICK_MS)).await;
            let now_ms = runtime::now_ms();
            self.shard.tick(now_ms);
            self.shard.expire_due(now_ms);
        }
    }

    async fn write_to_core(self: Rc<Self>) {
        loop {
            let mail = self.shard.outbox.take().await;
            self.port.send(self.house.core_peer, Letter::Post(Post::ToCore(mail)));
        }
    }

    async fn write_to_neighbour(self: Rc<Self>, neighbour: usize) {
        loop {
            for post in self.shard.neighbours[neighbour].take().await {
                self.port.send(neighbour, Letter::Post(post));
            }
        }
    }

    fn receive(&self, from: usize, post: Post) {
        self.shard.advance(runtime::now_ms());
        match post {
            Post::FromCore(mail) => self.shard.deliver(mail),
            Post::LeaseCalls(calls) => self.shard.receive_lease_calls(from, calls),
            Post::LeaseAnswers(answers) => self.shard.receive_lease_answers(answers),
            Post::ToCore(_) => unreachable!("the core is elsewhere"),
        }
    }

    fn serve(self: &Rc<Self>, arrival: Arrival) {
        let Arrival { accepted, seat } = arrival;
        match Socket::new(accepted, self.traffic.clone()) {
            Ok(socket) => runtime::spawn(self.clone().serve_socket(socket, seat)),
            // The peer has gone already.
            Err(cause) => log!(Debug, "lost a connection before it was served", "error" = shown(&cause)),
        }
    }

    async fn serve_socket(self: Rc<Self>, socket: Socket, _seat: Seat) {
        match sniff(socket).await {
            Ok((Protocol::Http2, io)) => {
                grpc::serve(io, self.services.clone(), self.settings.clone(), self.drain.clone()).await;
            }
            Ok((Protocol::Http1, _)) => {}
            // It speaks nothing that is spoken here, or nothing at all.
            Err(_) => {}
        }
    }

    /// Ends what is open: connections are told to go, streams and waiting requests get etcd's word for it.
    fn drain(&self) {
        self.drain.fire();
        self.shard.stop();
    }

    /// Opens the doors once the member leads, and waits for the signal that ends the process.
    async fn open_and_wait(self: Rc<Self>) {
        let (listeners, signals) = take(&self.house.entrance);
        while !self.house.member.is_leader() {
            runtime::sleep(Duration::from_millis(1)).await;
        }
        let mut doors = Vec::new();
        for listener in listeners {
            let address = listener.local().to_string();
            let (seats, desk) = (self.house.seats.clone(), self.clone());
            doors.push(runtime::spawn_with_handle(async move {
                let number = desk.shard.id;
                let hand_over = |arrival: Arrival| match arrival.seat.shard() {
                    shard if shard == number => desk.serve(arrival),
                    shard => desk.port.send(shard, Letter::Arrival(arrival)),
                };
                if let Err(cause) = listener.accept_all(seats, hand_over).await {
                    log!(Fatal, "cannot accept connections", "error" = shown(&cause));
                    std::process::exit(1);
                }
            }));
            log!(
                Info,
                "serving client traffic insecurely; this is strongly discouraged!",
                "traffic" = "grpc+http",
                "address" = address,
            );
        }
        log!(Info, "ready to serve client requests");
        runtime::tell_service_manager();
        match signals.wait().await {
            Ok(signal) => log!(Info, "received signal; shutting down", "signal" = signal.name()),
            Err(cause) => log!(Error, "cannot wait for signals; shutting down", "error" = shown(&cause)),
        }
        drop(doors);
        for shard in 1..self.house.member.config.shards {
            self.port.send(shard, Letter::Drain);
        }
        self.drain();
        let patience = Instant::now() + self.settings.drain_grace + Duration::from_secs(1);
        while self.house.seats.taken() > 0 && Instant::now() < patience {
            runtime::sleep(Duration::from_millis(10)).await;
        }
        log!(Info, "the member has stopped");
        std::process::exit(0);
    }
}
