//! Where raft and the ways to other members meet: neither knows the other.

use std::rc::Rc;

use raft::eraftpb::Message;

use super::Letter;
use crate::{
    log,
    observe::log::hex,
    peers::{Brought, Peers, Raft},
    raft::{
        core::Core,
        driver::{Asked, Driver, Ways},
        scrub::Wanted,
        sending::{Delivery, SnapshotToSend},
    },
    runtime::mesh::Port,
    store::membership::Membership,
};

impl Ways for Rc<Peers> {
    fn send(&self, messages: Vec<Message>) {
        Peers::send(self, messages);
    }

    fn send_snapshot(&self, snapshot: SnapshotToSend) {
        Peers::send_snapshot(self, snapshot);
    }

    fn update(&self, membership: &Membership) {
        let members = membership.members().map(|member| (member.id, &member.peer_urls[..]));
        Peers::update(self, members, membership.removed());
    }

    fn values(&self, wanted: Vec<Wanted>) -> Asked {
        Box::pin(Peers::values(self.clone(), wanted))
    }
}

impl Raft for Driver {
    fn step(&self, message: Message) {
        Driver::step(self, message);
    }

    fn unreachable(&self, id: u64) {
        self.with_core(|core| core.report_unreachable(id));
    }

    fn snapshot_sent(&self, id: u64, delivery: Delivery) {
        if let Some(heir) = self.with_core(|core| core.report_snapshot(id, delivery)) {
            log!(
                Warn,
                "this member cannot read the state that another one needs; it hands leadership over",
                "remote-peer-id" = hex(id),
                "transferee-member-id" = hex(heir)
            );
        }
    }

    fn removed(&self) {
        self.with_core(Core::leave);
    }
}

/// From the executor that answers a member's request to the one of the raft core.
pub(super) enum ToPeers {
    Here(Rc<Peers>),
    There(Rc<Port<Letter>>, usize),
}

impl ToPeers {
    pub fn bring(&self, brought: Brought) {
        match self {
            ToPeers::Here(peers) => peers.receive(brought),
            ToPeers::There(port, core) => port.send(*core, Letter::Brought(brought)),
        }
    }
}
