//! Messages between members, to the crate and from it. Numbers of kinds are the same on both sides; the crate has fields of its own
//! that no etcd knows, which are left behind: its hints that a vote tells how far its sender has committed, its priorities, and its
//! asking for a snapshot. (etcd: raft/raftpb/raft.proto.)

use raft::eraftpb::{self, EntryType, MessageType};

use crate::proto::raftpb;

/// The crate's kinds in the order of their numbers.
const KINDS: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

const ENTRY_TYPES: [EntryType; 3] = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];

fn by_number<T: Copy>(table: &[T], number: Option<i32>) -> Option<T> {
    table.get(usize::try_from(number.unwrap_or_default()).ok()?).copied()
}

/// For another member.
pub fn message(from: eraftpb::Message) -> raftpb::Message {
    let votes = matches!(
        from.msg_type,
        MessageType::MsgRequestVote
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse
    );
    raftpb::Message {
        r#type: Some(from.msg_type as i32),
        to: Some(from.to),
        from: Some(from.from),
        term: Some(from.term),
        log_term: Some(from.log_term),
        index: Some(from.index),
        entries: from.entries.into_iter().map(entry).collect(),
        commit: Some(if votes { 0 } else { from.commit }),
        snapshot: from.snapshot.into_option().map(snapshot),
        reject: Some(from.reject),
        reject_hint: Some(from.reject_hint),
        context: (!from.context.is_empty()).then_some(from.context),
        vote: None,
        responses: Vec::new(),
    }
}

fn entry(from: eraftpb::Entry) -> raftpb::Entry {
    raftpb::Entry {
        r#type: Some(from.entry_type as i32),
        term: Some(from.term),
        index: Some(from.index),
        data: (!from.data.is_empty()).then_some(from.data),
    }
}

fn snapshot(mut from: eraftpb::Snapshot) -> raftpb::Snapshot {
    let metadata = from.take_metadata();
    raftpb::Snapshot {
        data: (!from.data.is_empty()).then_some(from.data),
        metadata: Some(raftpb::SnapshotMetadata {
            conf_state: Some(super::conf_state(metadata.get_conf_state())),
            index: Some(metadata.index),
            term: Some(metadata.term),
        }),
    }
}

/// Of another member. None: of a kind that is none, or that only ever goes from a member to itself.
pub fn message_for_crate(from: raftpb::Message) -> Option<eraftpb::Message> {
    let kind = by_number(&KINDS, from.r#type)?;
    if raft::raw_node::is_local_msg(kind) {
        return None;
    }
    let mut to = eraftpb::Message {
        msg_type: kind,
        to: from.to.unwrap_or_default(),
        from: from.from.unwrap_or_default(),
        term: from.term.unwrap_or_default(),
        log_term: from.log_term.unwrap_or_default(),
        index: from.index.unwrap_or_default(),
        commit: from.commit.unwrap_or_default(),
        reject: from.reject.unwrap_or_default(),
        reject_hint: from.reject_hint.unwrap_or_default(),
        context: from.context.unwrap_or_default(),
        ..eraftpb::Message::default()
    };
    let entries: Option<Vec<eraftpb::Entry>> = from.entries.into_iter().map(entry_for_crate).collect();
    to.set_entries(entries?.into());
    if let Some(snapshot) = from.snapshot {
        to.set_snapshot(snapshot_for_crate(snapshot));
    }
    Some(to)
}

fn entry_for_crate(from: raftpb::Entry) -> Option<eraftpb::Entry> {
    Some(eraftpb::Entry {
        entry_type: by_number(&ENTRY_TYPES, from.r#type)?,
        term: from.term.unwrap_or_default(),
        index: from.index.unwrap_or_default(),
        data: from.data.unwrap_or_default(),
        ..eraftpb::Entry::default()
    })
}

fn snapshot_for_crate(from: raftpb::Snapshot) -> eraftpb::Snapshot {
    let metadata = from.metadata.unwrap_or_default();
    let mut to = eraftpb::Snapshot { data: from.data.unwrap_or_default(), ..eraftpb::Snapshot::default() };
    let of_it = to.mut_metadata();
    of_it.index = metadata.index.unwrap_or_default();
    of_it.term = metadata.term.unwrap_or_default();
    of_it.set_conf_state(super::conf_state_for_crate(&metadata.conf_state.unwrap_or_default()));
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind that members send, with every field that etcd's messages have, comes back as it was.
    #[test]
    fn messages_go_there_and_back() {
        for kind in 0..=18 {
            let vote = matches!(kind, 5 | 6 | 17 | 18);
            let message = raftpb::Message {
                r#type: Some(kind),
                to: Some(1),
                from: Some(2),
                term: Some(3),
                log_term: Some(4),
                index: Some(5),
                entries: vec![
                    raftpb::Entry { r#type: Some(1), term: Some(6), index: Some(7), data: Some("eight".into()) },
                    raftpb::Entry { r#type: Some(0), term: Some(6), index: Some(8), data: None },
                ],
                commit: Some(if vote { 0 } else { 9 }),
                snapshot: Some(raftpb::Snapshot {
                    data: Some("ten".into()),
                    metadata: Some(raftpb::SnapshotMetadata {
                        conf_state: Some(raftpb::ConfState {
                            voters: vec![1, 2],
                            learners: vec![3],
                            voters_outgoing: vec![4],
                            learners_next: vec![5],
                            auto_leave: Some(true),
                        }),
                        index: Some(11),
                        term: Some(12),
                    }),
                }),
                reject: Some(true),
                reject_hint: Some(13),
                context: Some("fourteen".into()),
                vote: None,
                responses: Vec::new(),
            };
            let there = message_for_crate(message.clone());
            match kind {
                // From a member to itself.
                0 | 1 | 10 | 11 | 12 => assert!(there.is_none(), "{kind}"),
                _ => assert_eq!(super::message(there.unwrap()), message),
            }
        }
        for kind in [19, 23, 77, -1] {
            let strange = raftpb::Message { r#type: Some(kind), ..Default::default() };
            assert!(message_for_crate(strange).is_none(), "{kind}");
        }
    }

    /// A vote that tells how far its sender has committed is the crate's own idea: no etcd reads it, and none sends it.
    #[test]
    fn what_only_the_crate_knows_stays_here() {
        let vote = eraftpb::Message {
            msg_type: MessageType::MsgRequestVote,
            commit: 5,
            commit_term: 6,
            priority: 7,
            ..Default::default()
        };
        assert_eq!(message(vote).commit, Some(0));
    }
}
