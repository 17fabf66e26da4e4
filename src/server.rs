//! Puts the house together: what was found on disk, the listeners, one executor a core, and on each its shard; the raft
//! core on one of its own or beside a shard. Nothing is decided here but who runs where.

use std::{
    cell::Cell,
    fmt::Display,
    io,
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prost::Message as _;

use crate::{
    api::service::Services,
    config::Config,
    error::Status,
    grpc::{self, Drain, Settings},
    http, limits, net,
    observe::log,
    proto::etcdserverpb::{CompactionRequest, InternalRaftRequest, RequestHeader},
    raft::{
        compactor::Compactor,
        core::Core,
        driver::{Driver, PostRoom},
        segments::SegmentFiles,
        space::Space,
        start::{self, Started},
    },
    runtime::{
        self,
        executors::{self, Placement},
        file::{self, Durability},
        mesh::{Mesh, Port},
        signals::Signals,
        socket::{Accepted, Socket, Traffic},
    },
    shard::{
        Member, Shard,
        mail::{FromCore, Post},
        view::{Published, View},
    },
};

/// Runs a member until a signal ends it.
///
/// # Errors
/// What keeps it from starting: a text for the operator.
pub fn run(config: Config) -> Result<(), String> {
    let text = |cause: &dyn Display| cause.to_string();
    let signals = Signals::install().map_err(|cause| format!("cannot take over signals: {cause}"))?;
    let cores = executors::allowed_cores().map_err(|cause| text(&cause))?;
    // A member with cores to spare keeps one for the log.
    let own_core = cores > 2 && config.shards < cores;
    let placement = Placement::new(config.shards + usize::from(own_core)).map_err(|cause| text(&cause))?;

    let listeners = net::bind_all(&config.listen_client_urls).map_err(|cause| text(&cause))?;
    let started = start::start(&config, log::raft_logger(), probe).map_err(|cause| text(&cause))?;
    let member = Arc::new(Member::new(started.identity.member_id, started.identity.cluster_id, config, unix_ms()));
    let view = View { state: started.parts.state.clone(), segments: started.parts.writer.table().clone() };
    let published = Published::new(view);
    log::info(
        "started the member",
        &[
            ("member-id", &format_args!("{:x}", member.id)),
            ("cluster-id", &format_args!("{:x}", member.cluster_id)),
            ("data-dir", &member.config.data_dir.display()),
            ("shards", &member.config.shards),
            ("entries-to-apply", &started.tail),
        ],
    );

    let house = Arc::new(House {
        mesh: Mesh::new(placement.cores().len()),
        core_peer: if own_core { member.config.shards } else { 0 },
        loads: (0..member.config.shards).map(|_| net::Load::default()).collect(),
        member,
        published,
        started: Mutex::new(Some(started)),
        entrance: Mutex::new(Some((listeners, signals))),
        born: Instant::now(),
    });
    executors::run(&placement, move |number| live(house.clone(), number)).map_err(|cause| text(&cause))?;
    Ok(())
}

/// What a device is told by at a member's first start.
fn probe(dir: &Path) -> io::Result<&'static str> {
    let dir = dir.to_owned();
    let durability = executors::run_one(move || file::probe(dir)).map_err(io::Error::other)??;
    Ok(durability.name())
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What all executors share. What is taken from a mutex is taken once, at the start.
struct House {
    mesh: Mesh<Post>,
    /// The executor that the raft core runs on; a shard's own if it shares one.
    core_peer: usize,
    loads: Vec<net::Load>,
    member: Arc<Member>,
    published: Published,
    started: Mutex<Option<Started>>,
    entrance: Mutex<Option<(Vec<net::Listener>, Signals)>>,
    born: Instant,
}

impl House {
    fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
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
    let driver = (number == house.core_peer).then(|| drive_core(&house, &port, shard.clone()));
    let rooms = Rc::new(Rooms::new(house, number, port, shard, driver));
    if let Some(shard) = &rooms.shard {
        runtime::spawn(rooms.clone().keep_time(shard.clone()));
        runtime::spawn(rooms.clone().send_to_neighbours(shard.clone()));
        if rooms.driver.is_none() {
            runtime::spawn(rooms.clone().send_to_core(shard.clone()));
        }
    }
    runtime::spawn(rooms.clone().sort_mail());
    if number == 0 {
        rooms.open_and_wait().await;
    } else {
        std::future::pending::<()>().await;
    }
}

fn drive_core(house: &Arc<House>, port: &Rc<Port<Post>>, local: Option<Rc<Shard>>) -> Rc<Driver> {
    let started = take(&house.started);
    let durability = Durability::named(&started.identity.durability).unwrap_or(Durability::Fdatasync);
    let files = Rc::new(SegmentFiles::new(
        house.member.config.data_dir.clone(),
        durability,
        started.identity.segment_bytes,
        started.ready,
        started.spares,
    ));
    // The directory stays locked for as long as the process lives.
    std::mem::forget(started.lock);
    let core = Core::new(started.parts).expect("the log that recovery has read suits the crate");
    let post = Box::new(ByPort(port.clone()));
    let driver = Driver::new(
        core,
        files,
        house.member.clone(),
        house.published.clone(),
        local,
        post,
        started.checkpoint_bytes,
    );
    runtime::spawn(driver.clone().run());
    runtime::spawn(Space::new(driver.clone()).run());
    runtime::spawn(compact_automatically(house.clone(), driver.clone()));
    driver
}

struct ByPort(Rc<Port<Post>>);

impl PostRoom for ByPort {
    fn send(&self, shard: usize, mail: FromCore) {
        self.0.send(shard, Post::FromCore(mail));
    }
}

async fn compact_automatically(house: Arc<House>, driver: Rc<Driver>) {
    let mut compactor = Compactor::new(house.member.config.auto_compaction, house.now_ms());
    let Some(interval_ms) = compactor.interval_ms() else { return };
    loop {
        runtime::sleep(Duration::from_millis(interval_ms)).await;
        let revision = house.published.load().revision();
        let Some(revision) = compactor.due(house.now_ms(), revision) else { continue };
        if !house.member.is_leader() {
            continue;
        }
        log::info("starting auto compaction", &[("revision", &revision)]);
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id: house.member.next_id(), ..Default::default() }),
            compaction: Some(CompactionRequest { revision, physical: false }),
            ..Default::default()
        };
        driver.propose_own(request.encode_to_vec().into());
    }
}

/// What runs on one executor.
struct Rooms {
    house: Arc<House>,
    number: usize,
    port: Rc<Port<Post>>,
    shard: Option<Rc<Shard>>,
    driver: Option<Rc<Driver>>,
    services: Option<Rc<Services>>,
    settings: Rc<Settings>,
    traffic: Rc<Traffic>,
    drain: Drain,
    connections: Cell<usize>,
}
