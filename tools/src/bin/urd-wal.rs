//! Looks at a urd data directory: `dump` prints every record of the log, `verify` reads everything there is and says
//! what is wrong with it. Changes nothing, so it may be run beside a server (whose newest write may then look torn).

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use prost::Message as _;
use urd::{
    proto::{etcdserverpb::InternalRaftRequest, raftpb},
    store::types::Place,
    wal::{
        disk::Dir,
        inspect::{self, Seen},
        record::{self, Type},
        replay::Record,
    },
};

#[derive(Parser)]
#[command(version, about = "Looks at a urd data directory, and changes nothing")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints each record of the log on a line, damaged logs included
    Dump { dir: PathBuf },
    /// Reads checkpoint and log whole; exits with 1 if a start would refuse them or anything else does not add up
    Verify { dir: PathBuf },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Dump { dir } => dump(&dir),
        Command::Verify { dir } => verify(&dir),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("urd-wal: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn verify(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let report = inspect::verify(&Dir::look_at(dir))?;
    if report.segments == 0 {
        return Err(format!("{} holds no log", dir.display()).into());
    }
    match report.checkpoint_index {
        Some(index) => println!("checkpoint: sound, at index {index}, {} values in their places", report.values),
        None => println!("checkpoint: none"),
    }
    println!("log: sound, {} segments, {} records, last index {}", report.segments, report.records, report.last_index);
    if let Some(cut) = report.torn {
        let (file, offset, index) = (cut.file.display(), cut.offset, cut.index);
        println!("a torn last write follows in {file} at byte {offset} (index {index}): the next start cuts it");
    }
    Ok(())
}

fn dump(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut result = Ok(());
    inspect::walk(&Dir::look_at(dir), &mut |path, seen| {
        if result.is_ok() {
            result = line(&mut out, path, seen);
        }
    })?;
    match result.and_then(|()| out.flush()) {
        // `urd-wal dump DIR | head` is no failure.
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn line(out: &mut dyn Write, path: &Path, seen: Seen<'_>) -> io::Result<()> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    match seen {
        Seen::Segment(header) => writeln!(
            out,
            "{file} {:>9} segment version={} life={} size={} cluster={:x} member={:x}",
            0, header.version, header.life, header.size, header.cluster_id, header.member_id
        ),
        Seen::NoSegment(bad) => writeln!(out, "{file} {:>9} DAMAGED: {bad}", 0),
        Seen::Gap { from, to: Some(to), .. } => {
            writeln!(out, "{file} {from:>9} GAP: what follows at {to} does not continue what is before")
        }
        Seen::Gap { from, to: None, what } => writeln!(out, "{file} {from:>9} DAMAGED: {what:?}"),
        Seen::Record { record, payload } => {
            let header = &record.header;
            writeln!(
                out,
                "{file} {:>9} write={} {} term={} index={} len={} {}",
                record.offset,
                header.write,
                header.kind.name(),
                header.term,
                header.index,
                header.len,
                summary(record, payload)
            )
        }
    }
}

fn summary(record: &Record, payload: &[u8]) -> String {
    let header = &record.header;
    match header.kind {
        Type::HardState => match payload.try_into() {
            Ok(vote) => format!("vote={:x}", u64::from_le_bytes(vote)),
            Err(_) => "without a vote".into(),
        },
        Type::Moved => {
            let place = Place { segment: header.life, offset: record.payload().start as u32, len: header.len };
            match record::decode_moved(payload, place) {
                Some(moves) => {
                    let list: Vec<String> = moves
                        .iter()
                        .map(|it| {
                            let (revision, from) = (it.revision, it.from);
                            format!("{}.{}<-{:08x}:{}", revision.main, revision.sub, from.segment, from.offset)
                        })
                        .collect();
                    format!("values={} {}", moves.len(), list.join(","))
                }
                None => "undecodable".into(),
            }
        }
        Type::Entry if payload.is_empty() => "empty".into(),
        Type::Entry if header.entry_type == raftpb::EntryType::EntryNormal as u8 => request(payload),
        Type::Entry if header.entry_type == raftpb::EntryType::EntryConfChange as u8 => {
            match raftpb::ConfChange::decode(payload) {
                Ok(change) => format!("{:?} node={:x}", change.r#type(), change.node_id()),
                Err(cause) => format!("undecodable: {cause}"),
            }
        }
        Type::Entry => match raftpb::ConfChangeV2::decode(payload) {
            Ok(change) => format!("ConfChangeV2 changes={}", change.changes.len()),
            Err(cause) => format!("undecodable: {cause}"),
        },
    }
}

/// Which request an entry carries, and the first thing one wants to know of it.
fn request(payload: &[u8]) -> String {
    let request = match InternalRaftRequest::decode(payload) {
        Ok(request) => request,
        Err(cause) => return format!("undecodable: {cause}"),
    };
    let key = |key: &[u8]| format!("\"{}\"", key.escape_ascii());
    let what = if let Some(put) = &request.put {
        format!("put key={} value_len={} lease={}", key(&put.key), put.value.len(), put.lease)
    } else if let Some(delete) = &request.delete_range {
        format!("delete_range key={} end={}", key(&delete.key), key(&delete.range_end))
    } else if let Some(txn) = &request.txn {
        format!("txn compares={} then={} else={}", txn.compare.len(), txn.success.len(), txn.failure.len())
    } else if let Some(range) = &request.range {
        format!("range key={}", key(&range.key))
    } else if let Some(compaction) = &request.compaction {
        format!("compaction revision={}", compaction.revision)
    } else if let Some(grant) = &request.lease_grant {
        format!("lease_grant id={} ttl={}", grant.id, grant.ttl)
    } else if let Some(revoke) = &request.lease_revoke {
        format!("lease_revoke id={}", revoke.id)
    } else if let Some(checkpoint) = &request.lease_checkpoint {
        format!("lease_checkpoint leases={}", checkpoint.checkpoints.len())
    } else if let Some(alarm) = &request.alarm {
        format!("alarm action={:?} member={:x} kind={:?}", alarm.action(), alarm.member_id, alarm.alarm())
    } else if let Some(version) = &request.cluster_version_set {
        format!("cluster_version_set {}", version.ver)
    } else if let Some(set) = &request.cluster_member_attr_set {
        format!("cluster_member_attr_set member={:x}", set.member_id)
    } else if let Some(info) = &request.downgrade_info_set {
        format!("downgrade_info_set enabled={} version={}", info.enabled, info.ver)
    } else {
        auth(&request).to_owned()
    };
    let id = request.header.as_ref().map_or(request.id, |header| header.id);
    format!("{what} id={id:x}")
}

fn auth(request: &InternalRaftRequest) -> &'static str {
    let names = [
        (request.auth_enable.is_some(), "auth_enable"),
        (request.auth_disable.is_some(), "auth_disable"),
        (request.authenticate.is_some(), "authenticate"),
        (request.auth_status.is_some(), "auth_status"),
        (request.auth_user_add.is_some(), "auth_user_add"),
        (request.auth_user_delete.is_some(), "auth_user_delete"),
        (request.auth_user_get.is_some(), "auth_user_get"),
        (request.auth_user_change_password.is_some(), "auth_user_change_password"),
        (request.auth_user_grant_role.is_some(), "auth_user_grant_role"),
        (request.auth_user_revoke_role.is_some(), "auth_user_revoke_role"),
        (request.auth_user_list.is_some(), "auth_user_list"),
        (request.auth_role_list.is_some(), "auth_role_list"),
        (request.auth_role_add.is_some(), "auth_role_add"),
        (request.auth_role_delete.is_some(), "auth_role_delete"),
        (request.auth_role_get.is_some(), "auth_role_get"),
        (request.auth_role_grant_permission.is_some(), "auth_role_grant_permission"),
        (request.auth_role_revoke_permission.is_some(), "auth_role_revoke_permission"),
        (request.downgrade_version_test.is_some(), "downgrade_version_test"),
    ];
    names.into_iter().find(|(is, _)| *is).map_or("a request of no known kind", |(_, name)| name)
}
