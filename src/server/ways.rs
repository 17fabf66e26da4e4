//! Where raft and the ways to other members meet: neither knows the other.

use std::rc::Rc;

use raft::eraftpb::Message;

use super::Letter;
use crate::{
    log,
    peers::{Brought, Peers, Raft},
    raft::driver::{Driver, Ways},
    runtime::mesh::Port,
    store::membership::Membership,
};

impl Ways for Rc<Peers> {
    fn send(&self, messages: Vec<Message>) {
        Peers::send(self, messages);
    }

    fn update(&self, membership: &Membership) {
        let members = membership.members().map(|member| (member.id, &member.peer_urls[..]));
        Peers::update(self, members, membership.removed());
    }
}

impl Raft for Driver {
    fn step(&self, message: Message) {
        Driver::step(self, message);
    }

    fn unreachable(&self, id: u64) {
        self.with_core(|core| core.report_unreachable(id));
    }

    fn removed(&self) {
        let error = "the member has been permanently removed from the cluster";
        log!(Fatal, "server error", "error" = error);
        std::process::exit(1);
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
