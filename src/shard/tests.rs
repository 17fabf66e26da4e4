use std::collections::BTreeMap;

use super::*;
use crate::{
    config::Config,
    store::{
        membership::{Member as InCluster, Membership},
        state::State,
    },
    wal::table::SegmentTable,
};

const OWN: u64 = 1;

/// A shard of one of three members.
fn shard() -> Shard {
    let mut state = State::new(1);
    let members = [OWN, 2, 3].map(|id| InCluster {
        id,
        peer_urls: Vec::new(),
        name: String::new(),
        client_urls: Vec::new(),
        is_learner: false,
    });
    state.membership = Membership::from_parts(members, Vec::new());
    let member = Arc::new(Member::new(OWN, 7, Config::default(), 0));
    Shard::new(0, member, Published::new(View { state, segments: SegmentTable::default() }))
}

/// (etcd: v3_server.go, parseProposeCtxErr; an election takes 1,000 ms.)
#[test]
fn a_late_proposal_is_told_what_etcd_tells() {
    let shard = shard();
    let leads = |id, now_ms| {
        shard.member.standing.leader.store(id, Relaxed);
        shard.tick(now_ms);
    };
    let reached = |of: &[(u64, Option<u64>)]| shard.member.reached.tell(of.iter().copied().collect::<BTreeMap<_, _>>());
    leads(2, 10_000);
    leads(0, 20_000);
    assert_eq!(shard.why_late(0, 20_500), error::TIMEOUT, "there is no leader, and there was none when it came");
    leads(3, 22_000);
    reached(&[(2, Some(5_000)), (3, Some(5_000))]);
    assert_eq!(shard.why_late(3, 19_900), error::TIMEOUT, "long before the last leader was lost");
    for since_ms in [20_001, 21_999] {
        assert_eq!(shard.why_late(3, since_ms), error::TIMEOUT_DUE_TO_LEADER_FAIL);
    }
    assert_eq!(shard.why_late(3, 22_000), error::TIMEOUT);
    // It has been reached again since, or is not.
    for active in [Some(23_500), None] {
        reached(&[(2, Some(5_000)), (3, active)]);
        assert_eq!(shard.why_late(3, 23_000), error::TIMEOUT_DUE_TO_CONNECTION_LOST);
    }
    // Who leads itself needs most of the others.
    leads(OWN, 30_000);
    assert_eq!(shard.why_late(OWN, 31_000), error::TIMEOUT);
    reached(&[(2, Some(31_500)), (3, None)]);
    assert_eq!(shard.why_late(OWN, 31_000), error::TIMEOUT_DUE_TO_CONNECTION_LOST);
}
