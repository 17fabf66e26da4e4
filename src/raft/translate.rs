//! Between etcd's raft messages and the crate's. Entry data stays etcd's bytes; configuration changes are decoded
//! with our own types and handed over in the crate's numbers, which differ (etcd: UpdateNode 2, AddLearnerNode 3; the
//! crate: AddLearnerNode 2, no UpdateNode). The crate's own protobuf runtime never sees bytes from the network.

use prost::Message as _;
use raft::eraftpb;

use crate::proto::raftpb;

pub mod messages;

/// A configuration change as etcd logs it, decoded and checked.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// Changes who votes: handed to the crate.
    Voters(Box<eraftpb::ConfChangeV2>),
    /// UpdateNode: new peer URLs of a member, nothing for the crate.
    Update,
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ChangeError {
    #[error("the configuration change does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("unknown kind of configuration change: {0}")]
    Kind(i32),
}

/// Decodes a ConfChange entry's data (etcd's raftpb.ConfChange).
pub fn conf_change(data: &[u8]) -> Result<(raftpb::ConfChange, Change), ChangeError> {
    let change = raftpb::ConfChange::decode(data)?;
    let kind = change.r#type.unwrap_or_default();
    let single = single(kind, change.node_id.unwrap_or_default())?;
    let change_for_crate = match single {
        Some(single) => {
            let mut v2 = eraftpb::ConfChangeV2::default();
            v2.mut_changes().push(single);
            Change::Voters(Box::new(v2))
        }
        None => Change::Update,
    };
    Ok((change, change_for_crate))
}

/// Decodes a ConfChangeV2 entry's data (etcd's raftpb.ConfChangeV2); an empty one leaves a joint configuration.
pub fn conf_change_v2(data: &[u8]) -> Result<Change, ChangeError> {
    let change = raftpb::ConfChangeV2::decode(data)?;
    let mut v2 = eraftpb::ConfChangeV2::default();
    v2.set_transition(match change.transition() {
        raftpb::ConfChangeTransition::Auto => eraftpb::ConfChangeTransition::Auto,
        raftpb::ConfChangeTransition::JointImplicit => eraftpb::ConfChangeTransition::Implicit,
        raftpb::ConfChangeTransition::JointExplicit => eraftpb::ConfChangeTransition::Explicit,
    });
    for one in &change.changes {
        if let Some(single) = single(one.r#type.unwrap_or_default(), one.node_id.unwrap_or_default())? {
            v2.mut_changes().push(single);
        }
    }
    if v2.get_changes().is_empty() && !change.changes.is_empty() {
        return Ok(Change::Update);
    }
    Ok(Change::Voters(Box::new(v2)))
}

fn single(kind: i32, node: u64) -> Result<Option<eraftpb::ConfChangeSingle>, ChangeError> {
    let kind = match raftpb::ConfChangeType::try_from(kind) {
        Ok(raftpb::ConfChangeType::ConfChangeAddNode) => eraftpb::ConfChangeType::AddNode,
        Ok(raftpb::ConfChangeType::ConfChangeRemoveNode) => eraftpb::ConfChangeType::RemoveNode,
        Ok(raftpb::ConfChangeType::ConfChangeAddLearnerNode) => eraftpb::ConfChangeType::AddLearnerNode,
        Ok(raftpb::ConfChangeType::ConfChangeUpdateNode) => return Ok(None),
        Err(_) => return Err(ChangeError::Kind(kind)),
    };
    let mut single = eraftpb::ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = node;
    Ok(Some(single))
}

/// Whether a message to another member has to wait until what was appended is durable. The crate puts all of a follower's messages behind
/// persistence; only answers that promise something durable need to stay there.
///
/// `unsynced_vote`: the term or the vote has changed and is not on disk yet.
pub fn waits_for_persistence(kind: eraftpb::MessageType, unsynced_vote: bool) -> bool {
    use eraftpb::MessageType::*;
    match kind {
        MsgAppendResponse | MsgRequestVoteResponse | MsgRequestPreVoteResponse => true,
        // A candidate's request for votes tells its new term: it must not forget that it voted for itself.
        _ => unsynced_vote,
    }
}

pub fn conf_state(from: &eraftpb::ConfState) -> raftpb::ConfState {
    raftpb::ConfState {
        voters: from.voters.clone(),
        learners: from.learners.clone(),
        voters_outgoing: from.voters_outgoing.clone(),
        learners_next: from.learners_next.clone(),
        auto_leave: Some(from.auto_leave),
    }
}

pub fn conf_state_for_crate(from: &raftpb::ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: from.voters.clone(),
        learners: from.learners.clone(),
        voters_outgoing: from.voters_outgoing.clone(),
        learners_next: from.learners_next.clone(),
        auto_leave: from.auto_leave.unwrap_or_default(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use raft::{Config, RawNode, storage::MemStorage};

    use super::*;

    fn etcd_change(kind: raftpb::ConfChangeType, node: u64) -> Vec<u8> {
        raftpb::ConfChange {
            id: Some(7),
            r#type: Some(kind as i32),
            node_id: Some(node),
            context: Some(b"{}".as_slice().into()),
        }
        .encode_to_vec()
    }

    fn node_of(voters: Vec<u64>) -> RawNode<MemStorage> {
        let config = Config {
            max_inflight_msgs: 16,
            max_size_per_msg: 1 << 20,
            pre_vote: true,
            check_quorum: true,
            ..Config::new(1)
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        RawNode::new(&config, MemStorage::new_with_conf_state((voters, vec![])), &logger).unwrap()
    }

    /// etcd counts UpdateNode as 2 and AddLearnerNode as 3; the crate counts AddLearnerNode as 2. Taken over as a
    /// number, an update would make a learner of a voter.
    #[test]
    fn numbers_are_translated_not_taken_over() {
        use raftpb::ConfChangeType::*;
        let (_, update) = conf_change(&etcd_change(ConfChangeUpdateNode, 9)).unwrap();
        assert_eq!(update, Change::Update);
        let cases = [
            (ConfChangeAddNode, eraftpb::ConfChangeType::AddNode),
            (ConfChangeRemoveNode, eraftpb::ConfChangeType::RemoveNode),
            (ConfChangeAddLearnerNode, eraftpb::ConfChangeType::AddLearnerNode),
        ];
        for (etcd, crates) in cases {
            let (_, change) = conf_change(&etcd_change(etcd, 9)).unwrap();
            let Change::Voters(v2) = change else { panic!("{etcd:?} does not change the configuration") };
            assert_eq!(v2.get_changes().len(), 1);
            assert_eq!(v2.get_changes()[0].get_change_type(), crates);
            assert_eq!(v2.get_changes()[0].node_id, 9);
        }
    }

    #[test]
    fn a_learner_in_etcds_number_becomes_a_learner_of_the_crate() {
        let mut node = node_of(vec![1]);
        let (_, change) = conf_change(&etcd_change(raftpb::ConfChangeType::ConfChangeAddLearnerNode, 5)).unwrap();
        let Change::Voters(v2) = change else { panic!("no change") };
        let state = node.apply_conf_change(&*v2).unwrap();
        assert_eq!((state.voters, state.learners), (vec![1], vec![5]));
    }

    #[test]
    fn an_unknown_kind_and_torn_bytes_are_errors() {
        let mut data = etcd_change(raftpb::ConfChangeType::ConfChangeAddNode, 1);
        data[3] = 77;
        assert_eq!(conf_change(&data).unwrap_err(), ChangeError::Kind(77));
        data.truncate(data.len() - 1);
        assert!(matches!(conf_change(&data), Err(ChangeError::Decode(_))));
    }

    #[test]
    fn an_empty_change_leaves_a_joint_configuration() {
        let Change::Voters(v2) = conf_change_v2(&[]).unwrap() else { panic!("no change") };
        assert!(v2.get_changes().is_empty());
    }

    /// A follower's heartbeat answer carries ReadIndex acknowledgements: the crate hands it out only as a persisted
    /// message, and it must not wait for the disk. An append answer must.
    #[test]
    fn only_promises_wait_for_the_disk() {
        let mut node = node_of(vec![1, 2]);
        let mut append = eraftpb::Message::default();
        append.set_msg_type(eraftpb::MessageType::MsgAppend);
        (append.from, append.to, append.term) = (2, 1, 1);
        append.set_entries(vec![eraftpb::Entry { term: 1, index: 1, ..Default::default() }].into());
        node.step(append).unwrap();
        let mut heartbeat = eraftpb::Message::default();
        heartbeat.set_msg_type(eraftpb::MessageType::MsgHeartbeat);
        (heartbeat.from, heartbeat.to, heartbeat.term) = (2, 1, 1);
        heartbeat.context = b"read".as_slice().into();
        node.step(heartbeat).unwrap();
        let ready = node.ready();
        assert!(ready.messages().is_empty(), "the crate has learned to send early: the bridge can go");
        let kinds: Vec<_> = ready.persisted_messages().iter().map(|m| m.get_msg_type()).collect();
        assert_eq!(kinds, [eraftpb::MessageType::MsgAppendResponse, eraftpb::MessageType::MsgHeartbeatResponse]);
        let early: Vec<_> = kinds.iter().filter(|kind| !waits_for_persistence(**kind, false)).collect();
        assert_eq!(early, [&eraftpb::MessageType::MsgHeartbeatResponse]);
        assert!(kinds.iter().all(|kind| waits_for_persistence(*kind, true)));
    }
}
