//! How a member comes up: from nothing, with the log that a new cluster begins with, or from what a former life left
//! on disk. Blocking; runs before the executors start.

use std::{collections::BTreeSet, fs, io, path::Path, path::PathBuf, sync::Arc};

use raft::eraftpb::{ConfState, EntryType, HardState};
use serde::{Deserialize, Serialize};

use super::{
    bootstrap::{self, Founder},
    core::Parts,
    identity,
    log::RaftLog,
    translate,
};
use crate::{
    config::Config,
    store::state::State,
    wal::{self, disk, recovery, segment, writer::Writer},
};

/// What a data directory says of the member it belongs to, in `identity.json`. Written once, at the first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    #[serde(with = "hex")]
    pub member_id: u64,
    #[serde(with = "hex")]
    pub cluster_id: u64,
    /// How a write of the log becomes durable on this device: `dsync` or `fdatasync`.
    pub durability: String,
    pub segment_bytes: u32,
}

/// Ids in JSON as etcd prints them, so that no reader rounds them.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(id: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{id:x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

const IDENTITY_FORMAT: u32 = 1;
const IDENTITY_FILE: &str = "identity.json";

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the data directory {dir}: {cause}")]
    Dir { dir: PathBuf, cause: disk::OpenError },
    #[error(
        "{path} cannot be read as this member's identity: {cause}; restore the file from a backup of this directory, or \
         remove the whole directory if the member's data is not needed"
    )]
    Identity { path: PathBuf, cause: String },
    #[error("{0}")]
    Recovery(#[from] recovery::RecoveryError),
    #[error("cannot write to the data directory {dir}: {cause}; check its permissions and the free space")]
    Write { dir: PathBuf, cause: io::Error },
}

/// Everything that a member starts from.
pub struct Started {
    pub identity: Identity,
    /// Held for as long as the process lives: no second one may use the directory.
    pub lock: disk::DirLock,
    pub parts: Parts,
    /// Lives of segments whose files are there already.
    pub ready: BTreeSet<u32>,
    pub spares: Vec<PathBuf>,
    pub checkpoint_bytes: u64,
    /// Entries that have to be applied again.
    pub tail: usize,
}

/// Opens the data directory or makes a new one. `probe` measures how the device syncs; asked at the first start only.
pub fn start(
    config: &Config,
    logger: slog::Logger,
    probe: impl FnOnce(&Path) -> io::Result<&'static str>,
) -> Result<Started, StartError> {
    let dir = config.data_dir.clone();
    let lock = disk::open_dir(&dir).map_err(|cause| StartError::Dir { dir: dir.clone(), cause })?;
    let failed = |cause| StartError::Write { dir: dir.clone(), cause };
    let (identity, new) = match read_identity(&dir)? {
        Some(identity) => (identity, false),
        None => {
            // Before the identity is written nothing was ever acknowledged: what is there is a first start cut short.
            disk::clear(&dir).map_err(failed)?;
            let durability = probe(&dir).map_err(failed)?;
            (new_identity(config, durability), true)
        }
    };
    let options = recovery::Options {
        segment_bytes: identity.segment_bytes,
        member_id: identity.member_id,
        cluster_id: identity.cluster_id,
        state: State::new(config.lease_ttl_min()),
    };
    let mut recovered = recovery::recover(&dir, options)?;
    if new {
        let founders = [Founder {
            id: identity.member_id,
            name: config.name.clone(),
            peer_urls: config.initial_advertise_peer_urls.clone(),
        }];
        begin_log(&founders, &mut recovered.writer, &mut recovered.entries);
        let write = recovered.writer.take_write().expect("a new log has something to write");
        for piece in &write.pieces {
            disk::write_first(&dir, piece, identity.segment_bytes).map_err(failed)?;
            recovered.ready.insert(piece.segment.life());
        }
        recovered.hard_state = (1, 0, founders.len() as u64);
        write_identity(&dir, &identity).map_err(failed)?;
    }

    let (mut state, checkpoint_bytes) = match recovered.checkpoint {
        Some(checkpoint) => (checkpoint.state, checkpoint.bytes),
        None => (State::new(config.lease_ttl_min()), 0),
    };
    state.set_lease_ttl_min(config.lease_ttl_min());
    let (applied, applied_term) = state.applied();
    let (term, vote, commit) = recovered.hard_state;
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.vote, hard_state.commit) = (term, vote, commit.max(applied));
    let conf_state: ConfState = translate::conf_state_for_crate(state.conf_state());
    let values = Arc::new(recovered.writer.table().clone());
    let mut log = RaftLog::new(applied, applied_term, hard_state, conf_state, values);
    let mut tail = 0;
    for entry in recovered.entries {
        if entry.index <= applied {
            continue;
        }
        tail += 1;
        let kind = match entry.kind {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            _ => EntryType::EntryConfChangeV2,
        };
        log.append(entry.index, entry.term, kind, entry.data, entry.place);
    }
    let parts = Parts {
        id: identity.member_id,
        log,
        state,
        writer: recovered.writer,
        moves: recovered.moves,
        shards: config.shards,
        election_ticks: (config.election_ms / config.heartbeat_ms) as usize,
        pre_vote: config.pre_vote,
        quota_bytes: config.quota_bytes,
        logger,
    };
    let (ready, spares) = (recovered.ready, recovered.spares);
    Ok(Started { identity, lock, parts, ready, spares, checkpoint_bytes, tail })
}

fn new_identity(config: &Config, durability: &str) -> Identity {
    let members: Vec<u64> = config
        .initial_cluster
        .iter()
        .map(|(_, urls)| identity::member_id(urls, &config.initial_cluster_token))
        .collect();
    Identity {
        format: IDENTITY_FORMAT,
        member_id: identity::member_id(&config.initial_advertise_peer_urls, &config.initial_cluster_token),
        cluster_id: identity::cluster_id(&members),
        durability: durability.to_owned(),
        segment_bytes: segment::bytes_for(config.max_request_bytes),
    }
}

/// Writes the entries that every new cluster's log begins with, as etcd does: term 1, committed.
fn begin_log(founders: &[Founder], writer: &mut Writer, entries: &mut Vec<wal::LogEntry>) {
    writer.append_hard_state(1, 0, founders.len() as u64);
    for first in bootstrap::first_entries(founders) {
        let place = writer.append_entry(first.index, first.term, first.kind as u8, &first.data);
        entries.push(wal::LogEntry {
            index: first.index,
            term: first.term,
            kind: first.kind as u8,
            data: first.data,
            place,
        });
    }
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, StartError> {
    let path = dir.join(IDENTITY_FILE);
    let bad = |cause: String| StartError::Identity { path: path.clone(), cause };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(bad(cause.to_string())),
    };
    let identity: Identity = serde_json::from_str(&text).map_err(|cause| bad(cause.to_string()))?;
    if identity.format != IDENTITY_FORMAT {
        return Err(bad(format!("it has format {}, this version knows {IDENTITY_FORMAT}", identity.format)));
    }
    Ok(Some(identity))
}

fn write_identity(dir: &Path, identity: &Identity) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(identity).expect("an identity has a JSON form");
    text.push('\n');
    disk::write_whole(dir, IDENTITY_FILE, text.as_bytes())
}
