//! Puts the house together: what was found on disk, the listeners, one executor a core, and on each its shard; the raft
//! core on one of its own or beside a shard. Nothing is decided here but who runs where.

mod departure;
mod desk;
mod doors;
mod founding;
mod integrity;
mod mending;
mod peers;
mod source;
mod versions;
mod ways;

use std::{
    convert::Infallible,
    fmt::Display,
    path::Path,
    rc::{Rc, Weak},
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use prost::Message as _;

use self::{desk::Desk, doors::Door, founding::Found, ways::ToPeers};
use crate::{
    auth::tokens::Tokens,
    config::{Config, discovery::Discovery},
    log,
    net::{Listener, listener::Arrival, seats::Seats},
    observe::{
        log::{hex, shown},
        trace::Exporter,
    },
    peers::{Brought, Peers, Raft},
    proto::etcdserverpb::{CompactionRequest, InternalRaftRequest, RequestHeader},
    raft::{
        compactor::Compactor,
        core::Core,
        driver::{self, Driver, PostRoom},
        scrub::Scrub,
        segments::SegmentFiles,
        space::Space,
        start::{self, Started},
    },
    random,
    runtime::{
        self,
        executors::{self, Placement},
        file,
        mesh::{Mesh, Port},
        signals::Signals,
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
    /// What a member's request has brought.
    Brought(Brought),
    /// A connection that the receiver is to serve, and the door that it came through.
    Arrival(Arrival, Door),
    /// The server stops: end what is open.
    Drain,
}

/// Runs a member until a signal ends it; then the process exits with 0.
///
/// # Errors
/// What keeps it from starting: a text for the operator.
pub fn run(mut config: Config) -> Result<Infallible, String> {
    fn text(cause: impl Display) -> String {
        cause.to_string()
    }
    if config.memory_mlock
        && let Err(cause) = runtime::lock_memory()
    {
        log!(
            Warn,
            "memory cannot be locked, and may be swapped out",
            "error" = shown(&cause),
            "cure" = "give the process an unlimited RLIMIT_MEMLOCK, LimitMEMLOCK=infinity of a service"
        );
    }
    let signals = Signals::install().map_err(|cause| format!("cannot take over signals: {cause}"))?;
    let cores = executors::allowed_cores().map_err(text)?;
    // A member with cores to spare keeps one for the log.
    let own_core = cores > 2 && config.shards < cores;
    let placement = Placement::new(config.shards + usize::from(own_core)).map_err(text)?;
    let seats = Seats::within_descriptor_limit(config.shards).map_err(text)?;
    let tokens = Tokens::from_option(&config.auth_token, config.auth_token_ttl_ms, &|path| std::fs::read(path))
        .map_err(|cause| format!("--auth-token: {cause}"))?;
    if matches!(tokens, Tokens::Simple(_)) {
        log!(Warn, "simple token is not cryptographically signed");
    }
    let bound = doors::bind(&config)?;
    let exporter = match config.tracing.clone() {
        Some(settings) => {
            log!(Info, "distributed tracing setup enabled", "address" = settings.address.as_str());
            Some(Exporter::start(settings).map_err(|cause| format!("cannot begin to trace: {cause}"))?)
        }
        None => None,
    };

    let drawn = random::unforeseen().map_err(|cause| format!("cannot draw a number: /dev/urandom: {cause}"))?;
    let probe = |dir: &Path| {
        let dir = dir.to_owned();
        executors::run_one(move || file::probe(dir)).map_err(std::io::Error::other)?
    };
    let logger = crate::observe::log::Drain::logger("raft");
    let mut found = None;
    let find = |config: &Config| {
        let Found { founding, peer_name } = founding::found(config)?;
        found = Some(peer_name);
        Ok(founding)
    };
    let started = start::start(&config, drawn, logger, probe, find, mending::ask).map_err(text)?;
    match found {
        Some(peer_name) => config.tls.peer_name = peer_name,
        None if matches!(config.discovery, Some(Discovery::Service(_))) => {
            let message = "discovery token is ignored since cluster already initialized; valid logs are found";
            log!(Warn, message, "wal-dir" = shown(config.data_dir.display()));
        }
        None => {}
    }
    if let Some(cut) = &started.cut {
        log!(
            Warn,
            "cut a torn write off the end of the log",
            "file" = shown(cut.file.display()),
            "offset" = u64::from(cut.offset),
            "index" = cut.index
        );
    }
    // In the data directory, which is this process's by now, a certificate may have to be made.
    let listeners = doors::guard(&config, bound)?;
    doors::check_calling(&config)?;
    let member = Arc::new(Member::new(started.member_id, started.cluster_id, config, drawn).with_tokens(tokens));
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
        peer_connections: AtomicUsize::new(0),
        published: Published::new(view),
        member,
        exporter,
        started: Mutex::new(Some(started)),
        entrance: Mutex::new(Some((listeners, signals))),
    });
    executors::run(&placement, move |number| live(house.clone(), number)).map_err(text)?;
    unreachable!("the executor that waits for the signal ends the process")
}

/// Where clients come in, and the signals that end it.
type Entrance = (Vec<(Listener, Door)>, Signals);

/// What all executors share. What lies in a mutex is taken once, at the start.
struct House {
    mesh: Mesh<Letter>,
    /// The executor that the raft core runs on; a shard's own if it shares one.
    core_peer: usize,
    seats: Arc<Seats>,
    /// Of the seats taken, those that other members have.
    peer_connections: AtomicUsize,
    member: Arc<Member>,
    published: Published,
    /// Takes what is traced.
    exporter: Option<Arc<Exporter>>,
    started: Mutex<Option<Started>>,
    entrance: Mutex<Option<Entrance>>,
}

impl House {
    /// Whether the core and all shards are on one thread.
    fn has_one_executor(&self) -> bool {
        self.member.config.shards == 1 && self.core_peer == 0
    }
}

fn take<T>(from: &Mutex<Option<T>>) -> T {
    from.lock().expect("nothing panics while it holds this").take().expect("taken once")
}

/// The life of one executor.
async fn live(house: Arc<House>, number: usize) {
    let port = Rc::new(house.mesh.join(number).await);
    let shard = (number < house.member.config.shards)
        .then(|| Rc::new(Shard::new(number, house.member.clone(), house.published.clone())));
    let (driver, peers) = match number == house.core_peer {
        true => {
            let (driver, peers) = drive_core(&house, &port, shard.clone());
            (Some(driver), Some(peers))
        }
        false => (None, None),
    };
    let way = match &peers {
        Some(peers) => ToPeers::Here(peers.clone()),
        None => ToPeers::There(port.clone(), house.core_peer),
    };
    let desk = shard.map(|shard| Rc::new(Desk::new(house.clone(), port.clone(), shard, way)));
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
        if number == 0 {
            integrity::watch_over(&desk.services);
        }
    }
    runtime::spawn(sort_letters(port.clone(), desk.clone(), driver.clone(), peers));
    match desk.filter(|_| number == 0) {
        Some(desk) => doors::open_and_wait(desk).await,
        None => std::future::pending().await,
    }
}

fn drive_core(house: &Arc<House>, port: &Rc<Port<Letter>>, local: Option<Rc<Shard>>) -> (Rc<Driver>, Rc<Peers>) {
    let Started { dir, durability, parts, checkpoint_bytes, covered, tail_bytes, first_members, .. } =
        take(&house.started);
    let model = parts.writer.segment_header(0);
    let header = Box::new(move |life| crate::wal::record::SegmentHeader { life, ..model });
    let files = Rc::new(SegmentFiles::new(dir, durability, header));
    let mut core = Core::new(parts).expect("the log that recovery has read suits the crate");
    if house.has_one_executor() {
        core.publish_only_here(house.published.clone());
    }
    let member = house.member.clone();
    let post = Box::new(ByPort(port.clone()));
    let peers = Peers::new(house.member.clone(), doors::client(&house.member.config));
    let driver = Driver::new(driver::Parts {
        core,
        files,
        member,
        published: house.published.clone(),
        local: local.map(|shard| shard as Rc<dyn driver::Beside>),
        post,
        ways: Box::new(peers.clone()),
        clock: runtime::now_ms,
        checkpoint_bytes,
        tail_bytes,
    });
    peers.serve(Rc::downgrade(&driver) as Weak<dyn Raft>);
    // Until the log tells of members, those that the flags name are spoken to.
    if driver.core().state().membership.members().next().is_none() {
        first_members.iter().for_each(|member| peers.add(member.id, &member.peer_urls));
    }
    runtime::spawn(driver.clone().run());
    runtime::spawn(versions::watch_over(driver.clone(), peers.clone()));
    runtime::spawn(versions::watch_over_downgrades(driver.clone(), peers.clone()));
    runtime::spawn(Space::new(driver.clone(), covered).run());
    runtime::spawn(Scrub::new(driver.clone()).run());
    runtime::spawn(compact_automatically(house.clone(), driver.clone()));
    (driver, peers)
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
async fn sort_letters(
    port: Rc<Port<Letter>>,
    desk: Option<Rc<Desk>>,
    driver: Option<Rc<Driver>>,
    peers: Option<Rc<Peers>>,
) {
    loop {
        let (from, letter) = port.recv().await;
        match (letter, &desk, &driver) {
            (Letter::Post(Post::ToCore(mail)), _, Some(driver)) => driver.receive(from, mail),
            (Letter::Post(post), Some(desk), _) => desk.receive(from, post),
            (Letter::Brought(brought), _, _) => {
                peers.as_ref().expect("it is sent to the core's executor").receive(brought);
            }
            (Letter::Arrival(arrival, door), Some(desk), _) => desk.serve(arrival, door),
            (Letter::Drain, Some(desk), _) => desk.drain(),
            (Letter::Drain, None, _) => {}
            _ => unreachable!("a letter for somebody who is not here"),
        }
    }
}
