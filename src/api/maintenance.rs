//! Maintenance: what this member says of itself, alarms, hashes. (etcd API, service Maintenance.)

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;

use super::{
    caller::Caller,
    request::Kind,
    service::{Services, decode, header, later, refuse},
    values,
};
use crate::{
    auth::Ask,
    error::{self, Status},
    grpc::{Frame, Unary},
    limits,
    proto::etcdserverpb::{
        AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
        HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse, StatusRequest,
        StatusResponse, alarm_request::AlarmAction,
    },
    runtime,
    shard::view::View,
    store::{apply::Answer, hash},
    version,
};

pub fn status(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    if let Err(status) = decode::<StatusRequest>(message) {
        return refuse(status);
    }
    let shard = &services.shard;
    let (member, view) = (&shard.member, shard.view());
    if let Err(status) = services.authorize(&caller, &view, Ask::Known) {
        return refuse(status);
    }
    let leader = member.standing.leader.load(Relaxed);
    let mut errors = Vec::new();
    if leader == 0 {
        errors.push(error::NO_LEADER.message.into_owned());
    }
    errors.extend(view.state.alarms.iter().map(|(kind, id)| alarm_text(kind, id)));
    let downgrade = view.state.downgrade.as_ref();
    let response = StatusResponse {
        header: Some(header(shard, view.revision())),
        version: version::ETCD.into(),
        db_size: member.db_size.load(Relaxed) as i64,
        leader,
        raft_index: member.standing.commit.load(Relaxed),
        raft_term: member.term(),
        raft_applied_index: member.standing.applied.load(Relaxed),
        errors,
        db_size_in_use: member.db_size_in_use.load(Relaxed) as i64,
        is_learner: view.state.membership.get(member.id).is_some_and(|member| member.is_learner),
        storage_version: view.state.storage_version().unwrap_or(version::STORAGE).into(),
        db_size_quota: member.config.quota_bytes.map_or(-1, |bytes| bytes as i64),
        downgrade_info: Some(DowngradeInfo {
            enabled: downgrade.is_some(),
            target_version: downgrade.map_or(String::new(), |downgrade| downgrade.target.clone()),
        }),
    };
    Unary::Ready(Ok(Frame::of(&response)))
}

/// An AlarmMember in protobuf's text format, on one line.
fn alarm_text(kind: i32, member: u64) -> String {
    let mut fields = Vec::new();
    if member != 0 {
        fields.push(format!("memberID:{member}"));
    }
    match AlarmType::try_from(kind) {
        Ok(AlarmType::None) => {}
        Ok(kind) => fields.push(format!("alarm:{}", kind.as_str_name())),
        Err(_) => fields.push(format!("alarm:{kind}")),
    }
    fields.join(" ")
}

pub fn alarm(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request = match decode::<AlarmRequest>(message.clone()) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let ask = if request.action == AlarmAction::Get as i32 { Ask::Known } else { Ask::Admin };
        services.authorize(&caller, &services.shard.view(), ask)?;
        // Asking for alarms goes through the log too, so that the answer is as new as the question.
        let (answer, _) = services.propose(&caller, Kind::Alarm, &message).await?;
        let Answer::Alarm { alarms } = answer else {
            unreachable!("an alarm is answered by alarms");
        };
        let alarms = alarms.into_iter().map(|(alarm, member_id)| AlarmMember { member_id, alarm }).collect();
        let header = Some(header(&services.shard, 0));
        Ok(Frame::of(&AlarmResponse { header, alarms }))
    })
}

pub fn defragment(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    if let Err(status) = decode::<DefragmentRequest>(message) {
        return refuse(status);
    }
    later(async move {
        services.authorize(&caller, &services.shard.view(), Ask::Admin)?;
        services.shard.defragment().await?;
        // No header at all (etcd: v3rpc/maintenance.go, Defragment).
        Ok(Frame::of(&DefragmentResponse { header: None }))
    })
}

pub fn move_leader(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: MoveLeaderRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let shard = &services.shard;
    let view = shard.view();
    if let Err(status) = services.authorize(&caller, &view, Ask::Admin) {
        return refuse(status);
    }
    if !shard.member.is_leader() {
        return refuse(error::NOT_LEADER);
    }
    match view.state.membership.get(request.target_id) {
        Some(target) if target.is_learner => refuse(error::BAD_LEADER_TRANSFEREE),
        // It leads already. No header at all (etcd: v3rpc/maintenance.go, MoveLeader).
        Some(target) if target.id == shard.member.id => {
            Unary::Ready(Ok(Frame::of(&MoveLeaderResponse { header: None })))
        }
        Some(target) => {
            let (id, shard) = (target.id, shard.clone());
            let patience = Duration::from_millis(shard.member.config.request_timeout_ms());
            later(async move {
                match shard.hand_over(id, patience).await {
                    true => Ok(Frame::of(&MoveLeaderResponse { header: None })),
                    false => Err(error::TIMEOUT_LEADER_TRANSFER),
                }
            })
        }
        None => refuse(error::BAD_LEADER_TRANSFEREE),
    }
}

pub fn hash(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    if let Err(status) = decode::<HashRequest>(message) {
        return refuse(status);
    }
    later(async move {
        let (view, began) = (services.shard.view(), runtime::now());
        services.authorize(&caller, &view, Ask::Admin)?;
        let hash = hashed(&view, |view| hash::hash(&view.state, &view.segments)).await?;
        services.shard.metrics.hash_duration.observe(runtime::now() - began);
        let header = Some(header(&services.shard, view.revision()));
        Ok(Frame::of(&HashResponse { header, hash }))
    })
}

pub fn hash_kv(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: HashKvRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let view = services.shard.view();
        services.authorize(&caller, &view, Ask::Admin)?;
        let hash = hash_at(&services, &view, request.revision).await?;
        let response = HashKvResponse {
            header: Some(header(&services.shard, view.revision())),
            hash: hash.hash,
            compact_revision: hash.compacted,
            hash_revision: hash.revision,
        };
        Ok(Frame::of(&response))
    })
}

/// The hash of what a view holds at a revision, the view's own for 0.
///
/// # Errors
/// COMPACTED, FUTURE_REV, and where the data cannot be read.
pub async fn hash_at(services: &Services, view: &Arc<View>, revision: i64) -> Result<hash::KvHash, Status> {
    let (index, began) = (&view.state.index, runtime::now());
    let hash = match services.shard.member.compaction_hashes.get(revision) {
        Some(hash) => hash,
        None => {
            if revision > 0 {
                // Compacted is found first (etcd: mvcc/kvstore.go, hashByRev).
                index.check_revision(revision)?;
            }
            let at = if revision == 0 { index.current() } else { revision };
            hashed(view, move |view| hash::hash_kv(&view.state.index, at, &view.segments)).await?
        }
    };
    services.shard.metrics.hash_rev_duration.observe(runtime::now() - began);
    Ok(hash)
}

/// Hashes here where there is little, else where it may take its time.
async fn hashed<T: Send + 'static>(
    view: &Arc<View>,
    work: impl FnOnce(&View) -> std::io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let index = &view.state.index;
    let little = index.event_count() <= limits::INLINE_KEYS_MAX && index.usage().live_bytes() == 0;
    let result = match little {
        true => work(view),
        false => {
            let view = view.clone();
            runtime::bulk(move || work(&view)).await
        }
    };
    result.map_err(|cause| values::unreadable(&cause))
}

#[cfg(test)]
mod tests;
