//! The ways to the other members and back. Each member asks each other one for two streams, one for appends and one for all else,
//! and hears in them what that one has to say; until it has asked, messages to it go one by one. All of it lives on the raft
//! core's executor, but for the connections by which others' requests come in. What is lost on its way is lost: raft asks again.
//! (etcd: server/etcdserver/api/rafthttp.)

pub mod body;
pub mod client;
mod peer;
mod pipeline;
mod probe;
mod reading;
pub mod remote;
mod snapshot;
mod stream;
mod urls;
mod values;

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use raft::eraftpb;

pub use self::stream::{Inlet, Outlet, stream};
use self::{
    client::Client,
    peer::{Peer, Sent},
    stream::Stream,
};
use crate::{
    limits, log,
    observe::log::{hex, shown},
    proto::raftpb::Message,
    raft::{
        member::Member,
        scrub::Wanted,
        sending::{Delivery, SnapshotToSend},
        translate::messages,
    },
    runtime, version,
    wire::peer::Kind,
};

/// Whom messages are for, on this executor.
pub trait Raft {
    fn step(&self, message: eraftpb::Message);
    /// A message to that member has been lost.
    fn unreachable(&self, id: u64);
    /// What has become of a snapshot for that member.
    fn snapshot_sent(&self, id: u64, delivery: Delivery);
    /// Another member says that this one has been removed from the cluster.
    fn removed(&self);
}

/// What a member's request brings, on whatever executor it is answered.
pub enum Brought {
    Message(Box<Message>),
    /// A stream that the member of that id asks for.
    Stream(u64, Kind, Inlet),
    /// A sender that is not known, and where it says it is.
    Stranger(u64, Vec<String>),
}

pub struct Peers {
    member: Arc<Member>,
    client: Client,
    raft: OnceCell<Weak<dyn Raft>>,
    table: RefCell<BTreeMap<u64, Rc<Peer>>>,
    /// What every request says of this member.
    introduction: [(&'static str, String); 4],
    advertised: String,
}

impl Peers {
    pub fn new(member: Arc<Member>, client: Client) -> Rc<Self> {
        let introduction = [
            ("x-server-from", format!("{:x}", member.id)),
            ("x-server-version", version::ETCD.to_owned()),
            ("x-min-cluster-version", version::MIN_CLUSTER.to_owned()),
            ("x-etcd-cluster-id", format!("{:x}", member.cluster_id)),
        ];
        let advertised = member.config.initial_advertise_peer_urls.join(",");
        let table = RefCell::default();
        Rc::new(Peers { member, client, raft: OnceCell::new(), table, introduction, advertised })
    }

    /// Says whom messages are for; to be called once, before any can come.
    pub fn serve(self: &Rc<Self>, raft: Weak<dyn Raft>) {
        assert!(self.raft.set(raft).is_ok(), "messages are for one");
        runtime::spawn(say_alive(Rc::downgrade(self)));
    }

    fn raft(&self) -> Rc<dyn Raft> {
        self.raft.get().and_then(Weak::upgrade).expect("raft lives as long as its executor")
    }

    /// For what is asked of other members besides raft's messages.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// How long it may take until a connection to a member stands.
    fn dial_patience(&self) -> Duration {
        Duration::from_millis(self.member.config.peer_dial_timeout_ms())
    }

    /// How long a member may say nothing in a stream.
    fn silence(&self) -> Duration {
        Duration::from_millis(self.member.config.raft_read_timeout_ms)
    }

    fn headers(&self) -> Vec<(&'static str, &str)> {
        let mut headers: Vec<(&'static str, &str)> =
            self.introduction.iter().map(|(name, text)| (*name, text.as_str())).collect();
        headers.push(("x-peerurls", &self.advertised));
        headers
    }

    /// These are the members there are, and those there were: whoever is new is spoken to, whoever has gone is not any more.
    pub fn update<'a>(
        self: &Rc<Self>,
        members: impl Iterator<Item = (u64, &'a [String])>,
        removed: impl Iterator<Item = u64>,
    ) {
        for (id, urls) in members {
            self.add(id, urls);
        }
        for id in removed {
            let gone = self.table.borrow_mut().remove(&id);
            if let Some(peer) = gone {
                peer.rest();
                self.publish();
                log!(
                    Info,
                    "removed remote peer",
                    "local-member-id" = hex(self.member.id),
                    "removed-remote-peer-id" = hex(id)
                );
            }
        }
    }

    /// Speaks to a member from now on, at these URLs.
    pub fn add(self: &Rc<Self>, id: u64, urls: &[String]) {
        if id == self.member.id {
            return;
        }
        let known = self.table.borrow().get(&id).filter(|peer| peer.is_known).cloned();
        if let Some(peer) = known {
            if peer.urls.borrow().all() != urls {
                *peer.urls.borrow_mut() = urls::Urls::new(urls.to_vec());
                log!(
                    Info,
                    "updated remote peer",
                    "local-member-id" = hex(self.member.id),
                    "updated-remote-peer-id" = hex(id),
                    "updated-remote-peer-urls" = shown(format!("{urls:?}"))
                );
            }
            return;
        }
        log!(Info, "starting remote peer", "remote-peer-id" = hex(id));
        let peer = Rc::new(Peer::new(id, urls.to_vec(), true, self.member.metrics.peers.of(id)));
        for kind in [Kind::Appends, Kind::Messages] {
            let task = runtime::spawn_with_handle(reading::read(self.clone(), peer.clone(), kind));
            peer.tasks.borrow_mut().push(task);
        }
        let task = runtime::spawn_with_handle(probe::probe(self.clone(), peer.clone()));
        peer.tasks.borrow_mut().push(task);
        self.table.borrow_mut().insert(id, peer);
        self.publish();
        log!(
            Info,
            "added remote peer",
            "local-member-id" = hex(self.member.id),
            "remote-peer-id" = hex(id),
            "remote-peer-urls" = shown(format!("{urls:?}"))
        );
    }

    /// A member that this one knows nothing of says where it is: it can be answered. (etcd: Transport.AddRemote.)
    fn meet(self: &Rc<Self>, id: u64, urls: Vec<String>) {
        let mut table = self.table.borrow_mut();
        let unknown = table.values().filter(|peer| !peer.is_known).count();
        if id == self.member.id || table.contains_key(&id) || unknown >= limits::PEERS_UNKNOWN_MAX {
            return;
        }
        log!(
            Info,
            "added new remote peer",
            "local-member-id" = hex(self.member.id),
            "remote-peer-id" = hex(id),
            "remote-peer-urls" = shown(format!("{urls:?}"))
        );
        table.insert(id, Rc::new(Peer::new(id, urls, false, self.member.metrics.peers.of(id))));
    }

    fn attach(&self, id: u64, kind: Kind, inlet: Inlet) {
        let peer = self.table.borrow().get(&id).filter(|peer| peer.is_known).cloned();
        if let Some(peer) = peer {
            peer.attach(kind, Stream::new(kind, inlet));
            self.activate(&peer);
        }
    }

    /// Takes what has come as a request.
    pub fn receive(self: &Rc<Self>, brought: Brought) {
        match brought {
            Brought::Message(message) => reading::step(self, *message),
            Brought::Stream(id, kind, inlet) => self.attach(id, kind, inlet),
            Brought::Stranger(id, urls) => self.meet(id, urls),
        }
    }

    /// Sends raft's messages.
    pub fn send(self: &Rc<Self>, messages: Vec<eraftpb::Message>) {
        for message in messages {
            let Some(peer) = self.table.borrow().get(&message.to).cloned() else { continue };
            let message = messages::message(message);
            let kept = match peer.put(&message) {
                Sent::InStream => true,
                Sent::NoStream => pipeline::put(self, &peer, message),
                Sent::Lost => false,
            };
            if !kept {
                log!(
                    Warn,
                    "dropped internal Raft message since sending buffer is full",
                    "local-member-id" = hex(self.member.id),
                    "remote-peer-id" = hex(peer.id),
                    "remote-peer-active" = peer.active_since.get().is_some()
                );
                self.lost(&peer);
            }
        }
        for peer in self.table.borrow().values() {
            let bytes = peer.flush();
            if bytes > 0 {
                peer.metrics.sent_bytes.add(bytes as u64);
            }
        }
    }

    /// Sends a snapshot, aside from everything else.
    pub fn send_snapshot(self: &Rc<Self>, snapshot: SnapshotToSend) {
        let peer = self.table.borrow().get(&snapshot.to()).cloned();
        match peer {
            Some(peer) => {
                let task = runtime::spawn_with_handle(snapshot::send(self.clone(), peer.clone(), snapshot));
                // Raft sends no second one before it has heard of the first.
                *peer.sending.borrow_mut() = Some(task);
            }
            None => self.raft().snapshot_sent(snapshot.to(), Delivery::Lost),
        }
    }

    /// Asks the other members for values that this one cannot read; None for each that nobody gives.
    pub async fn values(self: Rc<Self>, wanted: Vec<Wanted>) -> Vec<Option<Bytes>> {
        values::ask(&self, &wanted).await
    }

    /// Ends all streams, so that who listens learns of it at once.
    pub fn stop(&self) {
        let table = std::mem::take(&mut *self.table.borrow_mut());
        for peer in table.values() {
            peer.rest();
        }
        self.publish();
    }

    fn activate(&self, peer: &Peer) {
        if peer.activate() {
            self.publish();
        }
    }

    fn deactivate(&self, peer: &Peer, source: &str, action: &str, why: &str) {
        if peer.deactivate(source, action, why) {
            self.publish();
        }
    }

    /// Tells the other executors who is known, and since when each is heard of.
    fn publish(&self) {
        let table = self.table.borrow();
        let known = table.values().filter(|peer| peer.is_known);
        self.member.reached.tell(known.map(|peer| (peer.id, peer.active_since.get())).collect());
    }

    fn removed(&self) {
        self.raft().removed();
    }

    fn lost(&self, peer: &Peer) {
        peer.metrics.sent_failures.increment();
        self.raft().unreachable(peer.id);
    }
}

async fn say_alive(peers: Weak<Peers>) {
    loop {
        let Some(pause) = peers.upgrade().map(|peers| peers.silence() / 3) else { return };
        runtime::sleep(pause).await;
        let Some(peers) = peers.upgrade() else { return };
        for peer in peers.table.borrow().values() {
            peer.say_alive();
        }
    }
}
