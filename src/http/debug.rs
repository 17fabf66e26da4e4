//! `/debug/vars`: the variables that etcd publishes, without those of the Go runtime.

use std::fmt::Write as _;

use super::RaftStatus;
use crate::observe::metrics::process::Process;

/// One variable a line, as Go's expvar lays them out.
pub(super) fn variables(raft: &RaftStatus) -> String {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let words = serde_json::to_string(&words).expect("texts have a JSON form");
    let files = Process::read().open_files_max;
    format!(
        "{{\n\"cmdline\": {words},\n\"file_descriptor_limit\": {files},\n\"raft.status\": {}\n}}\n",
        raft_status(raft)
    )
}

fn raft_status(raft: &RaftStatus) -> String {
    let mut text = format!(
        r#"{{"id":"{:x}","term":{},"vote":"{:x}","commit":{},"lead":"{:x}","raftState":"{}","applied":{},"progress":{{"#,
        raft.id, raft.term, raft.vote, raft.commit, raft.leader, raft.state, raft.applied
    );
    for (at, (id, matched, next)) in raft.progress.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(text, r#"{comma}"{id:x}":{{"match":{matched},"next":{next},"state":"StateReplicate"}}"#);
    }
    text.push_str(r#"},"leadtransferee":"0"}"#);
    text
}
