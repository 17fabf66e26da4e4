//! `--corrupt-check-time`: every now and then the leader reads all its data and hashes them, twice, some time apart. Where
//! a value is not what was written, or two hashes of one revision differ, the data or the memory they went through cannot
//! be trusted: the CORRUPT alarm is raised, and nothing more is written until the operator has lifted it. (etcd:
//! etcdserver/corrupt.go, PeriodicCheck, which compares the members with each other besides.)

use std::{io, rc::Rc, sync::Arc, time::Duration};

use crate::{
    api::service::Services,
    error::Status,
    log,
    observe::log::hex,
    proto::etcdserverpb::AlarmType,
    runtime,
    shard::{Shard, view::View},
    store::hash::{self, KvHash},
};

/// What a check has come to.
enum Finding {
    Sound,
    /// And why.
    Corrupt(String),
}

/// Checks for as long as the member runs.
pub(super) async fn watch_over(services: Rc<Services>) {
    let shard = services.shard.clone();
    let interval = Duration::from_millis(shard.member.config.corrupt_check_ms);
    if interval.is_zero() {
        return;
    }
    log!(Info, "enabled corruption checking", "local-member-id" = hex(shard.member.id), "interval" = interval);
    loop {
        runtime::sleep(interval).await;
        if !shard.member.is_leader() || shard.view().state.alarms.is_raised(AlarmType::Corrupt) {
            continue;
        }
        match check(&shard).await {
            Ok(Finding::Sound) => log!(Debug, "finished hash check"),
            Ok(Finding::Corrupt(why)) => {
                log!(Error, "the data are corrupt; raising the alarm CORRUPT", "error" = why);
                services.raise(AlarmType::Corrupt).await;
            }
            Err(status) => log!(Warn, "failed to check hash KV", "error" = status.message.as_ref()),
        }
    }
}

/// # Errors
/// Where nobody can tell: the data cannot be read now, or this member does not lead any more.
async fn check(shard: &Shard) -> Result<Finding, Status> {
    let view = shard.view();
    let revision = view.revision();
    let first = match hashed(view, revision).await {
        Ok(hash) => hash,
        Err(cause) => return judge(&cause),
    };
    let later = shard.linearizable().await?;
    if later.state.index.compacted() != first.compacted {
        // What is compacted away is not there to be hashed again.
        return Ok(Finding::Sound);
    }
    match hashed(later, revision).await {
        Ok(second) if second == first => Ok(Finding::Sound),
        Ok(second) => {
            Ok(Finding::Corrupt(format!("the hash of revision {revision} was {}, and is {}", first.hash, second.hash)))
        }
        Err(cause) => judge(&cause),
    }
}

async fn hashed(view: Arc<View>, revision: i64) -> io::Result<KvHash> {
    runtime::bulk(move || hash::hash_kv(&view.state.index, revision, &view.segments)).await
}

/// What is read and is not what was written is corrupt; what cannot be read may be read another time.
fn judge(cause: &io::Error) -> Result<Finding, Status> {
    match cause.kind() {
        io::ErrorKind::InvalidData => Ok(Finding::Corrupt(cause.to_string())),
        _ => Err(crate::error::unreadable(cause)),
    }
}
