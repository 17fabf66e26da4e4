//! Downgrade: whether the cluster may go back one release, and that it is to. What follows from it (the version that the
//! cluster states) is the leader's to do, in the raft core. (etcd API, Maintenance.Downgrade; etcdserver/version.)

use std::rc::Rc;

use bytes::Bytes;

use super::{
    caller::Caller,
    service::{Services, decode, header, later, refuse},
};
use crate::{
    auth::Ask,
    error::{self, Status},
    grpc::{Frame, Unary},
    log,
    observe::metrics::Operation,
    proto::etcdserverpb::{DowngradeRequest, DowngradeResponse, downgrade_request::DowngradeAction},
    raft::bootstrap,
    runtime,
    shard::view::View,
    version,
};

pub fn downgrade(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: DowngradeRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    if let Err(status) = services.authorize(&caller, &services.shard.view(), Ask::Admin) {
        return refuse(status);
    }
    let action = match DowngradeAction::try_from(request.action) {
        Ok(action) => action,
        Err(_) => return refuse(error::UNKNOWN_METHOD),
    };
    later(async move {
        match action {
            DowngradeAction::Validate => validate(&services, &request.version).await.map(drop)?,
            DowngradeAction::Enable => {
                let target = validate(&services, &request.version).await.inspect_err(|status| {
                    log!(Warn, "reject downgrade request", "error" = status.message.as_ref());
                })?;
                set(&services, Some(&target)).await?;
            }
            // That there was nothing to cancel is for the log alone (etcd: v3_server.go, downgradeCancel).
            DowngradeAction::Cancel => {
                if let Err(status) = cancel(&services).await {
                    log!(Warn, "failed to cancel downgrade", "error" = status.message.as_ref());
                }
            }
        }
        let view = services.shard.view();
        let (major, minor) = stated(&view)?;
        let header = Some(header(&services.shard, view.revision()));
        Ok(Frame::of(&DowngradeResponse { header, version: format!("{major}.{minor}") }))
    })
}

/// The version that the cluster states.
fn stated(view: &View) -> Result<(i64, i64), Status> {
    let version = view.state.cluster_version.as_deref();
    version.and_then(|text| parse(text).ok()).ok_or(error::CLUSTER_VERSION_UNAVAILABLE)
}

/// Whether the cluster may be downgraded to a version; gives it as it is logged. Only the release before is a target.
async fn validate(services: &Services, target: &str) -> Result<String, Status> {
    let target = parse(target)?;
    stated(&services.shard.view())?;
    let view = services.shard.linearizable().await?;
    let (major, minor) = stated(&view)?;
    if target != (major, minor - 1) {
        return Err(error::INVALID_DOWNGRADE_TARGET_VERSION);
    }
    match view.state.downgrade {
        Some(_) => Err(error::DOWNGRADE_IN_PROCESS),
        None => Ok(format!("{}.{}.0", target.0, target.1)),
    }
}

async fn cancel(services: &Services) -> Result<(), Status> {
    let view = services.shard.linearizable().await?;
    match view.state.downgrade {
        Some(_) => set(services, None).await,
        None => Err(error::NO_INFLIGHT_DOWNGRADE),
    }
}

async fn set(services: &Services, target: Option<&str>) -> Result<(), Status> {
    let (shard, since) = (&services.shard, runtime::recent());
    let id = shard.member.next_id();
    let result = shard.propose(id, bootstrap::downgrade_request(id, target)).await;
    services.answered(Operation::DowngradeInfoSet, result.is_ok(), runtime::recent() - since);
    result?.0.map(drop)
}

/// Major and minor of `major.minor` or `major.minor.patch`, the last with what may follow it. (etcd:
/// convertToClusterVersion.)
fn parse(text: &str) -> Result<(i64, i64), Status> {
    version::parse(text).or_else(|| version::parse(&format!("{text}.0"))).ok_or(error::WRONG_DOWNGRADE_VERSION_FORMAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        for (text, wanted) in [
            ("3.6", (3, 6)),
            ("3.6.0", (3, 6)),
            ("3.6.9", (3, 6)),
            ("3.6.1-rc.0", (3, 6)),
            ("3.6.1-rc.0+x", (3, 6)),
            ("13.60.1", (13, 60)),
        ] {
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
        for text in ["", "3", "3.", "x", "3.x", "3.6.x", "3.6.1.2", "3.6.0-ä", "v3.6", " 3.6"] {
            assert_eq!(parse(text), Err(error::WRONG_DOWNGRADE_VERSION_FORMAT), "{text}");
        }
    }
}
